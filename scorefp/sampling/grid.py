"""Grids of times from `t1` down to `t0`."""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import checked, count, floating, function, is_concrete, kind, positive, require, same_shape
from .._describe import described
from .._module import AbstractModule
from .._types import Event
from ..integrals import log_snr_times
from ..sde import AbstractLinearSDE, AbstractSDE, DiscreteSDE
from ..sde.linear import require_linear

Grid: TypeAlias = Callable[[AbstractSDE, int], Float[Array, " times"]]
"""Called as `grid(sde, steps)`, it returns `steps + 1` descending times from `t1` to `t0`."""


def default_grid(sde: AbstractSDE, steps: int) -> Float[Array, " times"]:
    """`log_snr_grid` for a linear SDE, `uniform_grid` for another.

    Steps that are even in time may all lie where the noise is far larger than the data: a thousand of them make the
    samples of narrow data more than 1.7 times too wide on `EDM`. Those even in log-SNR serve every linear SDE.

    Args:
        sde: Any SDE.
        steps: The number of steps.

    Returns:
        `steps + 1` times from `t1` down to `t0`.

    Example:
        >>> import scorefp as sfp
        >>> [round(float(t), 3) for t in sfp.sampling.default_grid(sfp.EDM(t0=0.01, t1=1.0), 2)]
        [1.0, 0.1, 0.01]
    """
    return log_snr_grid(sde, steps) if isinstance(sde, AbstractLinearSDE) else uniform_grid(sde, steps)


def uniform_grid(sde: AbstractSDE, steps: int) -> Float[Array, " times"]:
    """Steps of equal length in time.

    Args:
        sde: Any SDE.
        steps: The number of steps.

    Returns:
        `steps + 1` times from `t1` down to `t0`.

    Example:
        >>> import scorefp as sfp
        >>> sfp.sampling.uniform_grid(sfp.VP(), 2).shape
        (3,)
    """
    sde = kind("sde", sde, AbstractSDE)
    return jnp.linspace(sde.t1, sde.t0, count("steps", steps, 1) + 1)


def log_snr_grid(sde: AbstractSDE, steps: int) -> Float[Array, " times"]:
    r"""Steps of equal length in the log-signal-to-noise ratio $\lambda = \log\alpha^2/\sigma^2$ [S7].

    Each step removes the same share of the noise, so that steps shrink with $\sigma$ towards `t0`.

    Args:
        sde: A linear SDE.
        steps: The number of steps.

    Returns:
        `steps + 1` times from `t1` down to `t0`.

    Raises:
        TypeError: if the SDE has no Gaussian kernel.

    Example:
        >>> import scorefp as sfp
        >>> [round(float(t), 3) for t in sfp.sampling.log_snr_grid(sfp.EDM(t0=0.01, t1=1.0), 2)]
        [1.0, 0.1, 0.01]
    """
    linear = require_linear(sde)
    times = log_snr_times(linear, linear.t1, linear.t0, jnp.linspace(0, 1, count("steps", steps, 1) + 1))
    return _with_ends(linear, times)


class RhoGrid(AbstractModule):
    r"""The grid of Karras 2022 (Eq. 5) for every linear SDE [G1]: steps of equal length in $\nu^{1/\rho}$, where $\nu =
    \sigma/\alpha$ is the noise level,

    $$ \nu_i = \Big(\nu_{\max}^{1/\rho} + \tfrac{i}{n}\,
       \big(\nu_{\min}^{1/\rho} - \nu_{\max}^{1/\rho}\big)\Big)^\rho, \qquad i = 0, \dots, n . $$

    Equal steps in $\nu$ for $\rho = 1$; those of `log_snr_grid` as $\rho \to \infty$.

    Args:
        rho: $\rho$; the larger, the more steps at little noise.

    Raises:
        TypeError: on a call, if the SDE has no Gaussian kernel.
        ValueError: if `rho` is not positive and finite.

    Example:
        >>> import scorefp as sfp
        >>> [round(float(t), 3) for t in sfp.sampling.RhoGrid(rho=2.0)(sfp.EDM(t0=1.0, t1=9.0), 2)]
        [9.0, 4.0, 1.0]
    """

    rho: float = eqx.field(default=7.0, static=True)

    def __check_init__(self) -> None:
        positive("rho", self.rho)

    def __call__(self, sde: AbstractSDE, steps: int) -> Float[Array, " times"]:
        linear = require_linear(sde)
        power = -0.5 / self.rho
        last, first = jnp.exp(power * linear.log_snr(linear.t1)), jnp.exp(power * linear.log_snr(linear.t0))
        log_snr = jnp.log(jnp.linspace(last, first, count("steps", steps, 1) + 1)) / power
        return _with_ends(linear, linear.time_of_log_snr(log_snr))


class NodeGrid(AbstractModule):
    r"""The times of another grid, rounded to steps of the table of a `DiscreteSDE`, for a network that knows no others.

    Even in the number of the step by default, from the last one, where there is least signal, to the first one (to
    within a step the *trailing* spacing of Lin 2023); `NodeGrid(log_snr_grid)` has the steps nearest to those even in
    log-SNR. Times that fall on one step of the table move up to the next ones that are free.

    Samplers evaluate the score at times of their grid alone. There are two exceptions: `Heun` with churn goes to a
    time of its own first, and `ProbabilityFlow` has no grid, as no likelihood has one.

    Args:
        spacing: The other grid.

    Raises:
        TypeError: if `spacing` does not take `(sde, steps)`; on a call, if the SDE is none of a table.
        ValueError: on a call, if an end of the horizon is no step of the table, there are more steps than between its
            ends, or the other grid is wrong.

    Example:
        >>> import numpy as np, scorefp as sfp
        >>> sde = sfp.sde.DiscreteSDE.from_betas(np.linspace(1e-4, 0.02, 1000))
        >>> times = sfp.sampling.NodeGrid()(sde, 4)
        >>> [round(float(step)) for step in sde.step_of_time(times)]
        [999, 749, 499, 250, 0]
    """

    spacing: Grid | RhoGrid = uniform_grid

    def __check_init__(self) -> None:
        function("spacing", self.spacing, "sde, steps", "It is scorefp.sampling.log_snr_grid, for example.")

    def __call__(self, sde: AbstractSDE, steps: int) -> Float[Array, " times"]:
        table = kind("sde", sde, DiscreteSDE, "It is a process with a table, a scorefp.sde.DiscreteSDE.")
        steps = count("steps", steps, 1)
        first, last = _node("t1", table.t1, table), _node("t0", table.t0, table)
        require(
            steps <= first - last,
            f"steps = {steps}, but from the last step of the table to the first one there are {first - last}; a "
            "network that knows no times between them takes so many at most.",
        )
        times = times_of(self.spacing, table, steps, np.dtype(jnp.result_type(float)))
        place = jnp.arange(steps + 1)
        # One halfway between two goes to the earlier one, however it was rounded.
        nodes = jnp.ceil(table.step_of_time(times) - 0.501).astype(int)
        # They go down by one at least where their sum with their place in the grid does not rise.
        sums = jax.lax.cummax(nodes + place, reverse=True)
        return table.time_of_step(jnp.minimum(sums, first) - place)


def _node(name: str, end: float, table: DiscreteSDE) -> int:
    """The step of a table at an end of the horizon."""
    place = end * table.table.steps - 1
    require(
        abs(place - round(place)) < 1e-6 * table.table.steps,
        f"{name} = {end}, which is step {place:g} of the table; a grid of its steps ends at one. Choose "
        f"{name} = time_of_step(k).",
    )
    return round(place)


def _with_ends(sde: AbstractLinearSDE, times: Float[Array, " times"]) -> Float[Array, " times"]:
    """The times with `t1` and `t0` at their ends, free of rounding."""
    return times.at[0].set(sde.t1).at[-1].set(sde.t0)


def times_of(grid: Grid | RhoGrid, sde: AbstractSDE, steps: int, dtype: np.dtype[Any]) -> Float[Array, " times"]:
    """The times of a grid in a dtype, refused unless they are `steps + 1` and go down inside the horizon to `t0`.

    Inside `jit` the grid is evaluated while it is traced, so that a wrong one raises before anything compiles, and the
    times are constants; those of an SDE with traced parameters are checked when it runs.
    """
    found = _evaluated(grid, sde, steps)
    with jax.ensure_compile_time_eval():
        given = floating("the grid", found)
        same_shape("the grid", given.shape, "steps + 1 times", (steps + 1,))
        # By NumPy where they are known: nothing more has to be compiled.
        xp: Any = np if is_concrete(given) else jnp
        times = xp.asarray(given).astype(dtype)
        (t0, below), (t1, above) = (_rounded(sde, end, dtype) for end in (sde.t0, sde.t1))
        inside = xp.clip(times, t0, t1)
        faults = {
            "holds a time that is not finite": ~xp.all(xp.isfinite(times)),
            "leaves the horizon": xp.any((times < t0 - below) | (times > t1 + above)),
            f"does not go down at every step in {np.dtype(dtype)}": ~xp.all(xp.diff(inside) < 0),
            "does not end at t0": abs(times[-1] - t0) > below,
        }
        inside = jnp.asarray(inside)
    for fault, wrong in faults.items():
        inside = checked(inside, wrong, _fault(grid, sde, given, fault))
    return inside


def _evaluated(grid: Grid | RhoGrid, sde: AbstractSDE, steps: int) -> Any:
    """The times of a grid: known ones where the SDE is known, inside `jit` too."""
    if not all(map(is_concrete, jax.tree.leaves(sde))):  # a table is, that is an argument of a compiled function
        return grid(sde, steps)
    try:
        # In one program, lowered by hand: a call would become part of the function that is traced.
        program: Any = jax.jit(lambda: grid(sde, steps)).lower().compile()
        return program()
    except Exception:  # `jax.disable_jit`, a grid that looks at numbers, or its own error
        with jax.ensure_compile_time_eval():
            return grid(sde, steps)


def from_t1(grid: Grid | RhoGrid, sde: AbstractSDE, times: Float[Array, " times"], start: Event) -> Event:
    """`start`, a draw of the prior, refused unless the times of the grid start at `t1`."""
    with jax.ensure_compile_time_eval():
        t1, above = _rounded(sde, sde.t1, times.dtype)
        wrong = abs((np.asarray(times) if is_concrete(times) else times)[0] - t1) > above
    return checked(start, wrong, _fault(grid, sde, times, "does not start at t1"))


def _rounded(sde: AbstractSDE, end: float, dtype: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray]:
    """An end of the horizon in a dtype, and how far from it rounding may take a time."""
    eps, size = float(jnp.finfo(dtype).eps), max(abs(sde.t0), abs(sde.t1))
    return np.asarray(end, dtype), np.asarray(2 * eps * size + 64 * eps * abs(end), dtype)


def _fault(grid: Grid | RhoGrid, sde: AbstractSDE, times: Float[Array, " times"], fault: str) -> str:
    ends = ", from {:.6g} to {:.6g},".format(*np.asarray(times)[[0, -1]]) if is_concrete(times) else ""
    return (
        f"the grid {described(grid)} of {times.size - 1} steps{ends} {fault}: it has to go down at every step from "
        f"t1 = {sde.t1:g} to t0 = {sde.t0:g}, the horizon of {type(sde).__name__}. It may start later only where "
        "sample is given the states there as initial; to end earlier, take the score on an SDE with another t0, "
        "Score(score, sde)."
    )
