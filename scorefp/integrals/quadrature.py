"""Quadrature in time and over a box."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import count, kind, require
from .._types import Scalar
from ..sde import AbstractLinearSDE, AbstractSDE
from .box import Box
from .log_snr import checked_end, log_snr_times


def time_quadrature(
    sde: AbstractSDE, start: Scalar, stop: Scalar, nodes: int
) -> tuple[Float[Array, " nodes"], Float[Array, " nodes"]]:
    r"""Times $\tau_k$ and weights $w_k$ with $\int_{\text{start}}^{\text{stop}} h(\tau)\,d\tau \approx \sum_k w_k
    h(\tau_k)$: Gauss–Legendre nodes.

    For a linear SDE they are nodes in the log-SNR $\lambda$, with $d\tau = -(\sigma^2/g^2)\,d\lambda$ [S7]. Near `t0`
    a score changes with $\lambda$ and over decades of $\tau$, where nodes in $\tau$ would see nothing of it.

    Args:
        sde: The forward process, whose log-SNR is finite at both ends.
        start: The lower limit, in `[t0, t1]`; it may be traced.
        stop: The upper limit, before or after `start`; before it, the weights are negative.
        nodes: How many nodes.

    Raises:
        ValueError: if `nodes` is below one.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> from scorefp.integrals import time_quadrature
        >>> times, weights = time_quadrature(sfp.VP(), jnp.asarray(1e-4), jnp.asarray(0.9), 16)
        >>> round(float(weights @ times**2), 3), round(0.9**3 / 3, 3)
        (0.243, 0.243)
    """
    kind("sde", sde, AbstractSDE)
    start, stop = checked_end("start", start, sde), checked_end("stop", stop, sde)
    dtype: Any = jnp.result_type(start, stop)
    points, shares = (jnp.asarray(array, dtype) for array in _unit_rule(nodes))
    if not isinstance(sde, AbstractLinearSDE):
        return start + (stop - start) * points, (stop - start) * shares
    # Rounding must not take a node beyond the horizon.
    times = jnp.clip(log_snr_times(sde, start, stop, points), sde.t0, sde.t1).astype(dtype)
    span = sde.log_snr(start) - sde.log_snr(stop)
    return times, (span * shares * sde.sigma(times) ** 2 / sde.g2(times)).astype(dtype)


def box_quadrature(box: Box, nodes: int) -> tuple[Float[Array, "points *event"], Float[Array, " points"]]:
    r"""Points $y_k$ and weights $w_k$ with $\int_\Omega h(y)\,dy \approx \sum_k w_k h(y_k)$: the tensor product of
    Gauss–Legendre rules.

    Args:
        box: $\Omega$, of at most three elements.
        nodes: How many nodes along each side; there are `nodes**D` points.

    Raises:
        ValueError: if `nodes` is below one, or the box has more than three elements.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> from scorefp.integrals import box_quadrature
        >>> points, weights = box_quadrature(sfp.Box(jnp.zeros(2), jnp.array([1.0, 2.0])), 4)
        >>> round(float(weights @ (points[:, 0] * points[:, 1] ** 2)), 4), round(1 / 2 * 8 / 3, 4)
        (1.3333, 1.3333)
    """
    kind("box", box, Box)
    size = math.prod(box.shape)
    require(
        size <= 3,
        f"box has shape {box.shape}, and nodes**{size} points are too many for a tensor rule beyond three elements; "
        "use random draws.",
    )
    points, shares = _unit_rule(nodes)
    grid = np.stack(np.meshgrid(*[points] * size, indexing="ij"), axis=-1).reshape(-1, *box.shape)
    weights = np.stack(np.meshgrid(*[shares] * size, indexing="ij"), axis=-1).reshape(-1, size).prod(axis=1)
    dtype = box.lower.dtype
    sides = box.upper - box.lower
    return box.lower + sides * jnp.asarray(grid, dtype), jnp.prod(sides) * jnp.asarray(weights, dtype)


def _unit_rule(nodes: int) -> tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]:
    """The Gauss–Legendre rule on [0, 1]."""
    points, shares = np.polynomial.legendre.leggauss(count("nodes", nodes, 1))
    return 0.5 * (points + 1), 0.5 * shares
