"""The inverse of a falling function of time, with its derivative."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int


def bisected(
    fn: Callable[[Array], Float[Array, "*times"]],
    target: Float[Array, "*times"],
    low: float,
    high: float,
    halvings: int,
) -> Float[Array, "*times"]:
    """Where a falling elementwise function between `low` and `high` has the value `target`, without a derivative.

    optimistix's bisection raises on a root at an end of the bracket, which is where `t0` and `t1` are.
    """
    level = jax.lax.stop_gradient(target)

    def halve(_: Int[ArrayLike, ""], ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        later = fn(middle) > level
        return jnp.where(later, middle, low), jnp.where(later, high, middle)

    first, last = jax.lax.fori_loop(0, halvings, halve, (jnp.full_like(target, low), jnp.full_like(target, high)))
    return jax.lax.stop_gradient(0.5 * (first + last))


def with_slope(
    t: Float[Array, "*times"], residual: Float[Array, "*times"], slope: Float[Array, "*times"], t0: float, t1: float
) -> Float[Array, "*times"]:
    """A root `t` in `[t0, t1]` after a step of Newton's method, which has the derivative of the inverse function."""
    t = t + residual / slope
    return t + jax.lax.stop_gradient(jnp.clip(t, t0, t1) - t)
