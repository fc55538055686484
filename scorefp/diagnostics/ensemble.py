"""The diffused samples at which the curves of an audit are taken."""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from .._batches import in_batches, on_mesh
from .._checks import count, function, require
from .._describe import described
from .._module import AbstractModule
from .._precision import measures
from .._types import Event, Key, Scalar
from ..dataset import Dataset
from ..integrals import log_snr_times
from ..score import AbstractScore
from ..score.score import conditioned, linear_sde
from ..sde import AbstractLinearSDE
from ..sde.linear import require_linear
from ._repeats import check_samples

TimeGrid: TypeAlias = Callable[[AbstractLinearSDE, int], Float[Array, " times"]]
"""Called as `grid(sde, times)`, it returns so many ascending times."""

Integrand: TypeAlias = Callable[[AbstractScore, Scalar, Event, Event, Key], dict[str, Event]]
"""Called as `integrand(score, t, x, noise, key)` at one diffused sample; its values are of any shape, most often
scalars."""


def log_snr_midpoints(sde: AbstractLinearSDE, times: int) -> Float[Array, " times"]:
    r"""The midpoints of cells that are equal in the log-SNR $\lambda$ [S7]: a mean over them is one over
    $\lambda$.

    Args:
        sde: A linear SDE.
        times: The number of cells.

    Raises:
        TypeError: if the SDE has no Gaussian kernel.
        ValueError: if `times` is below one.

    Example:
        >>> import scorefp as sfp
        >>> [round(float(t), 2) for t in sfp.diagnostics.log_snr_midpoints(sfp.EDM(t0=0.01, t1=100.0), 2)]
        [0.1, 10.0]
    """
    sde = require_linear(sde)
    return log_snr_times(sde, sde.t0, sde.t1, _midpoints(times))


def log_snr_ends(sde: AbstractLinearSDE, times: int) -> Float[Array, " times"]:
    r"""Times equally spaced in the log-SNR $\lambda$ [S7], the first of them `t0` and the last `t1`.

    Args:
        sde: A linear SDE.
        times: How many; one is `t0`.

    Raises:
        TypeError: if the SDE has no Gaussian kernel.
        ValueError: if `times` is below one.

    Example:
        >>> import scorefp as sfp
        >>> [round(float(t), 2) for t in sfp.diagnostics.log_snr_ends(sfp.EDM(t0=0.01, t1=100.0), 3)]
        [0.01, 1.0, 100.0]
    """
    sde = require_linear(sde)
    return log_snr_times(sde, sde.t0, sde.t1, jnp.linspace(0, 1, count("times", times, 1)))


def uniform_midpoints(sde: AbstractLinearSDE, times: int) -> Float[Array, " times"]:
    """The midpoints of cells that are equal in time: a mean over them is one over time.

    Args:
        sde: A linear SDE.
        times: The number of cells.

    Raises:
        TypeError: if the SDE has no Gaussian kernel.
        ValueError: if `times` is below one.

    Example:
        >>> import scorefp as sfp
        >>> [float(t) for t in sfp.diagnostics.uniform_midpoints(sfp.EDM(t0=1.0, t1=3.0), 2)]
        [1.5, 2.5]
    """
    sde = require_linear(sde)
    return sde.t0 + (sde.t1 - sde.t0) * _midpoints(times)


class Ensemble(AbstractModule):
    r"""Diffused samples $x_t = \alpha x_0 + \sigma\epsilon$ on a grid of times.

    The same clean samples serve all times, each with its own noise at each. An average over the grid is taken
    for each clean sample first, so that a confidence interval is one over independent points [K8].

    Args:
        times: The number of times.
        samples: How many clean samples at each time, drawn without replacement; all where there are fewer.
        grid: `log_snr_midpoints`, `uniform_midpoints` or any function `(sde, times) -> times`.
        batch_size: The number of diffused samples taken at once, over all devices, which bounds the memory.

    Raises:
        TypeError: if `grid` does not take `(sde, times)`.
        ValueError: if a number is too small; on use, if the grid returns another number of times, or they do not ascend
            inside the horizon.

    Example:
        >>> import jax, scorefp as sfp
        >>> from scorefp.diagnostics import Ensemble, MatchingCurve
        >>> exact, x = sfp.Score(lambda t, x: -x, sfp.VP()), jax.random.normal(jax.random.key(0), (8, 2))
        >>> section = MatchingCurve(Ensemble(times=4, samples=8))(exact, x, key=jax.random.key(1))
        >>> section.curves["r_DSM"].t.shape
        (4,)
    """

    times: int = 32
    samples: int = 256
    grid: TimeGrid = log_snr_midpoints
    batch_size: int = 256

    def __check_init__(self) -> None:
        require(self.times >= 1, f"times = {self.times}; a curve has at least one time.")
        check_samples(self.samples, self.batch_size)
        function("grid", self.grid, "sde, times", "It is scorefp.diagnostics.log_snr_midpoints, for example.")

    @measures
    def evaluate(
        self,
        integrand: Integrand,
        score: AbstractScore,
        data: Dataset,
        *,
        key: Key,
        mesh: Mesh | None = None,
    ) -> tuple[Float[np.ndarray, " times"], dict[str, Float[np.ndarray, "times n ..."]]]:
        """The times, and the values of an integrand at all times and samples.

        Args:
            integrand: A function of one diffused sample. A method of a measure: it is then compiled once.
            score: A score on a linear SDE.
            data: Clean samples as floats.
            key: A random key.
            mesh: The devices that share the diffused samples, as `data_mesh` returns them; `None` is one device.

        Raises:
            TypeError: if the SDE has no Gaussian kernel.
        """
        t, slices = self.slices(integrand, score, data, key=key, mesh=mesh, together=self.times)
        (values,) = slices
        return t, {name: value.astype(np.float64) for name, value in values.items()}

    def slices(
        self,
        integrand: Integrand,
        score: AbstractScore,
        data: Dataset,
        *,
        key: Key,
        mesh: Mesh | None = None,
        together: int = 1,
    ) -> tuple[Float[np.ndarray, " times"], Iterator[dict[str, Float[np.ndarray, "times n ..."]]]]:
        """The times, and the values of `evaluate` for so many of them together, in order: whole samples need the memory
        of these alone.

        Args:
            integrand: As for `evaluate`.
            score: Likewise.
            data: Likewise.
            key: Likewise.
            mesh: Likewise.
            together: How many times, a divisor of their number.

        Raises:
            TypeError: if the SDE has no Gaussian kernel.
            ValueError: if `together` does not divide the number of times.
        """
        sde = linear_sde(score)
        require(
            together >= 1 and self.times % together == 0, f"together = {together}; it divides times = {self.times}."
        )
        sample_key, key = jr.split(key)
        chosen, _ = data.drawn(self.samples, key=sample_key)
        t = _times(self.grid, sde, self.times)
        require(t.shape == (self.times,), f"the grid has shape {t.shape}; it returns times = {self.times} times.")
        known = np.asarray(t, np.float64)
        slack = 1e-5 * (sde.t1 - sde.t0)
        require(
            bool(np.all((known >= sde.t0 - slack) & (known <= sde.t1 + slack)) and np.all(np.diff(known) > 0)),
            f"the grid {described(self.grid)} goes from {known[0]:g} to {known[-1]:g}; its times are finite and ascend "
            f"inside [t0, t1] = [{sde.t0:g}, {sde.t1:g}].",
        )
        t = jnp.clip(t, sde.t0, sde.t1).astype(chosen.values.dtype)
        count = together * len(chosen)

        @measures
        def values(first: int) -> dict[str, Float[np.ndarray, "times n ..."]]:
            at = (jnp.asarray(first * len(chosen)), count)
            found = on_mesh(
                _evaluate, mesh, count, integrand, score, chosen.values, chosen.args, t, key, at, self.batch_size
            )
            return {
                name: np.asarray(value).reshape(together, len(chosen), *value.shape[1:])
                for name, value in found.items()
            }

        return np.asarray(t, np.float64), (values(first) for first in range(0, t.size, together))


@eqx.filter_jit
def _times(grid: TimeGrid, sde: AbstractLinearSDE, times: int) -> Float[Array, "..."]:
    return grid(sde, times)


@eqx.filter_jit
def _evaluate(
    integrand: Integrand,
    score: AbstractScore,
    x: Float[Array | np.ndarray, "n *event"],
    args: Any,
    times: Float[Array, " times"],
    key: Key,
    at: tuple[Int[Array, ""], int],
    batch_size: int,
    mesh: Mesh | None,
) -> dict[str, Float[Array, "index ..."]]:
    """The values at so many indices from the first on."""
    sde, (first, count) = linear_sde(score), at
    noise_key, own_key = jr.split(key)

    def one(place: Int[Array, ""]) -> dict[str, Event]:
        index = first + place
        row, t = index % len(x), times[index // len(x)]
        clean = x[row]
        noise = jr.normal(jr.fold_in(noise_key, index), clean.shape, clean.dtype)
        diffused = sde.diffuse(t, clean, noise)
        return integrand(conditioned(score, args, row), t, diffused, noise, jr.fold_in(own_key, index))

    return in_batches(one, count, batch_size, mesh)


def _midpoints(times: int) -> Float[Array, " times"]:
    return (jnp.arange(count("times", times, 1)) + 0.5) / times
