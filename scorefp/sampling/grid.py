"""Grids of times from `t1` down to `t0`."""

from collections.abc import Callable
from typing import TypeAlias

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import require, same_shape
from .._module import AbstractModule
from ..integrals import log_snr_times
from ..sde import AbstractLinearSDE, AbstractSDE
from ..sde.linear import require_linear

Grid: TypeAlias = Callable[[AbstractSDE, int], Float[Array, " times"]]
"""Called as `grid(sde, steps)`, it returns `steps + 1` descending times from `t1` to `t0`."""


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
    return jnp.linspace(sde.t1, sde.t0, steps + 1)


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
    times = log_snr_times(linear, linear.t1, linear.t0, jnp.linspace(0, 1, steps + 1))
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
        ValueError: if `rho` is not positive.

    Example:
        >>> import scorefp as sfp
        >>> [round(float(t), 3) for t in sfp.sampling.RhoGrid(rho=2.0)(sfp.EDM(t0=1.0, t1=9.0), 2)]
        [9.0, 4.0, 1.0]
    """

    rho: float = eqx.field(default=7.0, static=True)

    def __check_init__(self) -> None:
        require(self.rho > 0, f"rho = {self.rho}; the exponent is positive.")

    def __call__(self, sde: AbstractSDE, steps: int) -> Float[Array, " times"]:
        linear = require_linear(sde)
        power = -0.5 / self.rho
        last, first = jnp.exp(power * linear.log_snr(linear.t1)), jnp.exp(power * linear.log_snr(linear.t0))
        log_snr = jnp.log(jnp.linspace(last, first, steps + 1)) / power
        return _with_ends(linear, linear.time_of_log_snr(log_snr))


def _with_ends(sde: AbstractLinearSDE, times: Float[Array, " times"]) -> Float[Array, " times"]:
    """The times with `t1` and `t0` at their ends, free of rounding."""
    return times.at[0].set(sde.t1).at[-1].set(sde.t0)


def times_of(grid: Grid, sde: AbstractSDE, steps: int, like: Array) -> Float[Array, " times"]:
    """The times of a grid in the dtype of the sample `like`, refused unless there are `steps + 1`."""
    times = grid(sde, steps).astype(like.dtype)
    same_shape("the grid", times.shape, "steps + 1 times", (steps + 1,))
    return times
