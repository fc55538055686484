"""The laws of the forward process, of the reverse SDE and of the probability-flow ODE, on a grid."""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, final, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
import scipy.sparse
from jaxtyping import Array, Float

from .._checks import count, function, kind, one_of, positive, real, require, same_shape
from .._precision import measures
from .._times import nearly_within
from .._types import Event, Scalar
from ..integrals import Box
from ..score import AbstractScore
from ..sde import AbstractLinearSDE, AbstractSDE
from ..sde.linear import require_linear

_Sparse: TypeAlias = Any
"""A sparse matrix of SciPy, which has no types."""


Process: TypeAlias = Literal["forward", "sde", "ode"]
r"""The law that `solve_density` computes (Deveney 2023, §2.4 and 2.5).

`"forward"` is $p$, the law of the forward SDE, from an initial density at $t_0$ on [F1]:
$\partial_t p = -\nabla\cdot(f p) + \tfrac12 g^2\Delta p$ (Eq. 14). `"sde"` is $p_{\mathrm{SDE}}$, the law of the
reverse SDE's samples, from the prior at $t_1$ back: $\partial_t p = -\nabla\cdot\big((f - g^2 s)\,p\big) -
\tfrac12 g^2\Delta p$ (Eq. 15). `"ode"` is $p_{\mathrm{ODE}}$, the law of the probability-flow ODE's samples, from the
prior back: $\partial_t p = -\nabla\cdot(u p)$ with $u = f - \tfrac12 g^2 s$ (Eq. 11) [F0]. With the exact score,
and $\pi = p$ at $t_1$, the three are one.
"""


@final
@dataclass(frozen=True, eq=False)
class GridDensity:
    r"""A density on a box of equal cells, at some times.

    Args:
        box: The domain $\Omega$.
        times: The times $t$, in the order in which the process passes them.
        values: The density in each cell, at each time.
    """

    box: Box
    times: Float[np.ndarray, " times"]
    values: Float[np.ndarray, "times *cells"]

    @property
    def cells(self) -> tuple[int, ...]:
        """The number of cells along each axis."""
        return self.values.shape[1:]

    @property
    def centres(self) -> Float[Array, "*cells_and_event"]:
        """The centres of the cells as samples, of shape `(*cells, *event)`."""
        return _points(self.box, [0.5 * (edges[1:] + edges[:-1]) for edges in _edges(self.box, self.cells)])

    @property
    def cell_volume(self) -> float:
        """The volume of one cell."""
        return self.box.volume / math.prod(self.cells)

    @property
    def mass(self) -> Float[np.ndarray, " times"]:
        """The probability of the box at each time. It stays what it is at the start, as nothing leaves the box."""
        return self.cell_volume * _totals(self.values)

    @property
    def edge_mass(self) -> Float[np.ndarray, " times"]:
        """The probability of the cells along the boundary at each time; large where the box is too small."""
        inner = self.values[(slice(None), *(slice(1, -1) for _ in self.cells))]
        return self.mass - self.cell_volume * _totals(inner)

    @property
    def roughness(self) -> Float[np.ndarray, " times"]:
        """The sum of the absolute second differences over that of the values, along the worst axis, at each time.

        It falls with the square of the cell size, as the error does: for smooth laws the integral of the absolute error
        is below a fifth of it. The law of the ODE has negative values where it is near one or above.
        """
        sizes = _totals(np.abs(self.values))
        axes = range(1, self.values.ndim)
        return np.max([_totals(np.abs(np.diff(self.values, 2, axis=axis))) / sizes for axis in axes], axis=0)

    @property
    def weights(self) -> Float[np.ndarray, "*cells"]:
        """The probabilities of the cells at the last time, without negative parts and with sum one."""
        share = np.maximum(self.values[-1], 0.0)
        return share / share.sum()


@measures
def solve_density(
    model: AbstractScore | AbstractSDE,
    box: Box,
    *,
    process: Process,
    cells: int | tuple[int, ...] = 128,
    initial: Callable[[Event], Scalar] | None = None,
    times: Sequence[float] | Float[Array | np.ndarray, " times"] | None = None,
    rtol: float = 1e-6,
) -> GridDensity:
    r"""Solves the Fokker–Planck equation of a process on a box in one or two dimensions [F1] (Deveney 2023, Eq. 14,
    15, and the continuity equation of Eq. 11).

    Finite volumes: a cell gains what flows in through its faces, and nothing passes the faces of the box, so that the
    mass is kept to rounding. The flux $v p - d\nabla p$ through a face is fitted to an exponential where there is
    noise (Scharfetter & Gummel 1969; Chang & Cooper 1970), which keeps the density positive however steep the score;
    where there is none, the density at the face is that of a parabola through two cells upstream and one downstream.
    The error is of second order in the cell size. SciPy's implicit Radau method takes the steps in time. Densities are
    of float64; the score is evaluated in the precision of the box.

    Args:
        model: A score on a linear SDE; for `"forward"` an SDE alone will do.
        box: The domain, of the event shape, large enough for the law at all times.
        process: The law, `"forward"`, `"sde"` or `"ode"`, see `Process`.
        cells: The number of cells along each axis, or one number for all.
        initial: The log-density at the start, in nats, a function of one sample. `"forward"` needs that of its
            law at `t0`; for the other two it is the prior at `t1` by default.
        times: When to keep the density, in any order; at both ends by default.
        rtol: The relative tolerance of a step in time. The absolute one is the same share of the uniform density.

    Returns:
        The density at the times, in the order in which the process passes them.

    Raises:
        TypeError: if the SDE is not linear, or a reverse process gets an SDE without a score.
        ValueError: if `process` is no such word, the box has more than two dimensions or another shape than the score,
            `cells` does not fit it or is below four, a time lies outside the horizon, `initial` is missing, or its mass
            on the cells is off one by more than a hundredth.
        RuntimeError: if the score is not finite in the box, or the solver fails.

    Warns:
        UserWarning: if the cells are too coarse (`roughness` above one half) or the box is too small (`edge_mass` above
            a thousandth).

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> score = sfp.Score(lambda t, x: -2 * x, sfp.OU(t1=1.0))  # of the stationary law N(0, 1/2)
        >>> box = sfp.Box(jnp.array(-4.0), jnp.array(4.0))
        >>> density = sfp.fokker_planck.solve_density(score, box, process="sde", cells=64)
        >>> density.values.shape, round(float(density.mass[-1]), 6)
        ((2, 64), 1.0)
    """
    one_of("process", process, get_args(Process))
    kind("model", model, (AbstractScore, AbstractSDE), "It is a score; for the forward process an SDE will do.")
    kind("box", box, Box)
    sde = require_linear(model if isinstance(model, AbstractSDE) else model.sde)
    if initial is not None:
        function("initial", initial, "x", "It returns a number, the log-density of one sample at the start.")
    counts = _checked_cells(model, box, process, cells)
    positive("rtol", rtol)
    ends = (sde.t0, sde.t1) if process == "forward" else (sde.t1, sde.t0)
    kept = _in_order(ends, times)
    if initial is None:
        require(
            process != "forward",
            "initial is None; the forward process starts from data: give the log-density of its law at t0, such as "
            "lambda x: exact.potential(sde.t0, x).",
        )
        initial = sde.prior.log_prob

    grid = _Grid(box, counts)
    start = grid.start(initial, ends[0])
    # Newton's iterations of one step come back to the same few times.
    rate = functools.lru_cache(maxsize=8)(functools.partial(grid.rate, model, sde, process))
    solved = scipy.integrate.solve_ivp(
        lambda t, p: rate(float(t)) @ p,
        (ends[0], kept[-1]),
        start.ravel(),
        method="Radau",
        t_eval=kept,
        jac=lambda t, p: rate(float(t)),
        rtol=rtol,
        atol=rtol / box.volume,
    )
    if not solved.success:
        raise RuntimeError(
            f"the solver of the density's equation failed: {solved.message} rtol = {rtol} may be loosened."
        )
    density = GridDensity(box, kept, solved.y.T.reshape(len(kept), *counts))
    _warn_of(density)
    return density


def _checked_cells(
    model: AbstractScore | AbstractSDE, box: Box, process: Process, cells: int | tuple[int, ...]
) -> tuple[int, ...]:
    """The number of cells along each axis, once model, box and process fit each other."""
    if isinstance(model, AbstractScore):
        if model.shape is not None:
            same_shape("box", box.shape, "a sample of the score", model.shape)
    elif process != "forward":
        raise TypeError(
            f"model is a {type(model).__name__}, but process = {process!r} follows a score: pass a score on that SDE."
        )
    size = math.prod(box.shape)
    require(
        1 <= size <= 2,
        f"box has {size} dimensions; a grid has one or two. In more, compare samples, for example by wasserstein2.",
    )
    each = cells if isinstance(cells, tuple) else (cells,) * size
    counts = tuple(count("cells", n) for n in each)
    require(
        len(counts) == size and min(counts) >= 4,
        f"cells = {cells}; a box of {size} dimensions takes {size} numbers of at least 4, or one for all axes.",
    )
    return counts


def _in_order(ends: tuple[float, float], times: Any) -> Float[np.ndarray, " times"]:
    """The times to keep, in the order from one end of the horizon to the other."""
    if times is not None:
        found = real("times", np.asarray(times))
        require(found.ndim == 1, f"times has shape {found.shape}; they are a list of times.")
    kept = np.unique(np.asarray(ends if times is None else times, np.float64))
    require(kept.size >= 1, "times is empty; name at least one time.")
    require(
        bool(nearly_within(kept, min(ends), max(ends), np.float32).all()),
        f"times = {kept} leaves [t0, t1] = [{min(ends)}, {max(ends)}], the horizon of the SDE.",
    )
    inside = np.clip(kept, min(ends), max(ends))
    return inside if ends[0] < ends[1] else inside[::-1]


class _Axis:
    """Sparse matrices that take the cells to the inner faces of one axis, and where those faces are."""

    def __init__(self, box: Box, counts: tuple[int, ...], axis: int) -> None:
        edges, count = _edges(box, counts), counts[axis]
        self.width = float(edges[axis][1] - edges[axis][0])
        before, after = (scipy.sparse.eye_array(count - 1, count, k=k) for k in (0, 1))
        # Second differences, but zero in the cells at the boundary: at their faces the parabola is a line.
        shifted = functools.partial(scipy.sparse.eye_array, count)
        bend = (shifted(k=-1) - 2 * shifted() + shifted(k=1)).tolil()
        bend[[0, -1]] = 0.0

        def along(matrix: _Sparse) -> _Sparse:
            parts = [scipy.sparse.eye_array(n) for n in counts]
            parts[axis] = matrix
            return functools.reduce(scipy.sparse.kron, parts).tocsr()

        self.gradient = along((after - before) / self.width)
        self.mean = along(0.5 * (before + after))
        self.from_before = self.mean - along(before @ bend) / 6
        self.from_after = self.mean - along(after @ bend) / 6
        centres = [0.5 * (e[1:] + e[:-1]) for e in edges]
        centres[axis] = edges[axis][1:-1]
        self.faces = _points(box, centres).reshape(-1, *box.shape)

    def fitted(self, v: Float[np.ndarray, " faces"], noise: float) -> _Sparse:
        r"""The flux $v p - d\,\partial p$ that is exact where it is constant.

        It is the centred one with $d\,z\coth z$ in the place of $d$, where $z = v h / 2d$.
        """
        z = 0.5 * v * self.width / noise
        small = np.abs(z) < 1e-3
        spread = np.where(small, 1 + z**2 / 3, z / np.tanh(np.where(small, 1.0, z)))
        return _scaled(v, self.mean) - _scaled(noise * spread, self.gradient)

    def upwind(self, v: Float[np.ndarray, " faces"]) -> _Sparse:
        """The flux `v p` by the parabola that leans upstream."""
        return _scaled(np.maximum(v, 0.0), self.from_before) + _scaled(np.minimum(v, 0.0), self.from_after)


class _Grid:
    """The finite volumes of a box."""

    def __init__(self, box: Box, counts: tuple[int, ...]) -> None:
        self.box, self.counts = box, counts
        self.axes = [_Axis(box, counts, axis) for axis in range(len(counts))]
        self.faces = jnp.concatenate([axis.faces for axis in self.axes])

    def start(self, log_density: Callable[[Event], Scalar], t: float) -> Float[np.ndarray, "*cells"]:
        """A density on the cells, by its values at their centres."""
        centres = GridDensity(self.box, np.array([t]), np.zeros((1, *self.counts))).centres
        log_values = _log_values(log_density, centres.reshape(-1, *self.box.shape))
        values = np.exp(np.asarray(log_values, np.float64)).reshape(self.counts)
        mass = float(values.mean()) * self.box.volume
        require(
            abs(mass - 1) < 1e-2,
            f"on the cells of the box the density at t = {t}, where the process starts, has mass {mass:.6g}, not one. "
            "Take a larger box if it does not hold the law, more cells if they do not resolve it; normalise initial.",
        )
        return values

    def rate(self, model: AbstractScore | AbstractSDE, sde: AbstractLinearSDE, process: Process, t: float) -> _Sparse:
        """The matrix `A` of `dp/dt = A p` at one time.

        The gradient takes cells to faces, and its transpose takes a flux through faces to what the cells gain.
        """
        now = jnp.asarray(t, self.faces.dtype)
        velocity = np.asarray(_velocities(model, process, now, self.faces), np.float64)
        if not np.isfinite(velocity).all():
            raise RuntimeError(
                f"the score is not finite in the box at t = {t}. Take a smaller box, or an SDE of later t0."
            )
        # In the direction in which the process runs: there noise spreads, and upstream is where the law comes from.
        direction = 1.0 if process == "forward" else -1.0
        noise = 0.0 if process == "ode" else 0.5 * float(sde.g2(now))
        rates, first = [], 0
        for index, axis in enumerate(self.axes):
            last = first + len(axis.faces)
            v = direction * velocity[first:last].reshape(len(axis.faces), -1)[:, index]
            flux = axis.upwind(v) if process == "ode" else axis.fitted(v, noise)
            rates.append(direction * axis.gradient.T @ flux)
            first = last
        return sum(rates[1:], rates[0])


@eqx.filter_jit
def _log_values(log_density: Callable[[Event], Scalar], points: Float[Array, "n *event"]) -> Float[Array, " n"]:
    return jax.vmap(log_density)(points)


@eqx.filter_jit
def _velocities(
    model: AbstractScore | AbstractSDE, process: Process, t: Scalar, points: Float[Array, "n *event"]
) -> Float[Array, "n *event"]:
    """The drift of a process in physical time."""

    def at(x: Event) -> Event:
        if isinstance(model, AbstractSDE):
            return model.drift(t, x)
        if process == "forward":
            return model.sde.drift(t, x)
        return model.reverse_drift(t, x) if process == "sde" else model.probability_flow(t, x)

    return jax.vmap(at)(points)


def _edges(box: Box, counts: tuple[int, ...]) -> list[Float[np.ndarray, " _"]]:
    lower, upper = (np.asarray(side, np.float64).ravel() for side in (box.lower, box.upper))
    return [np.linspace(a, b, n + 1) for a, b, n in zip(lower, upper, counts, strict=True)]


def _points(box: Box, axes: Sequence[Float[np.ndarray, " _"]]) -> Float[Array, "*points_and_event"]:
    """The product of axes, as samples in the precision of the box."""
    mesh = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    return jnp.asarray(mesh.reshape(*mesh.shape[:-1], *box.shape), box.lower.dtype)


def _totals(values: Float[np.ndarray, "times *cells"]) -> Float[np.ndarray, " times"]:
    return values.reshape(len(values), -1).sum(axis=1)


def _scaled(factors: Float[np.ndarray, " rows"], matrix: _Sparse) -> _Sparse:
    return scipy.sparse.diags_array(factors) @ matrix


def _warn_of(density: GridDensity) -> None:
    """Warns when the grid does not hold the law."""
    roughness, edge = float(density.roughness.max()), float(density.edge_mass.max())
    if roughness > 0.5:
        warnings.warn(
            f"the cells do not resolve the density: roughness = {roughness:.2g} is above 0.5. Take more cells.",
            stacklevel=4,
        )
    if edge > 1e-3:
        warnings.warn(
            f"mass of {edge:.2g} lies in the cells along the boundary, which nothing passes. Take a larger box.",
            stacklevel=4,
        )
