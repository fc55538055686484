"""Grids of times from `t1` down to `t0`."""

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import same_shape
from ..sde import AbstractSDE, require_linear

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
        >>> sfp.uniform_grid(sfp.VP(), 2).shape
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
        >>> [round(float(t), 3) for t in sfp.log_snr_grid(sfp.EDM(t0=0.01, t1=1.0), 2)]
        [1.0, 0.1, 0.01]
    """
    linear = require_linear(sde)
    last, first = linear.log_snr(linear.t1), linear.log_snr(linear.t0)
    times = linear.time_of_log_snr(jnp.linspace(last, first, steps + 1))
    return times.at[0].set(linear.t1).at[-1].set(linear.t0)


def times_of(grid: Grid, sde: AbstractSDE, steps: int, like: Array) -> Float[Array, " times"]:
    """The times of a grid in the dtype of the sample `like`, refused unless there are `steps + 1`."""
    times = grid(sde, steps).astype(like.dtype)
    same_shape("the grid", times.shape, "steps + 1 times", (steps + 1,))
    return times
