"""Samples that failed, and what is said of them."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from .._checks import all_finite
from .._types import Scalar
from ..reverse._explosion import EXPLODED, distance
from ..sde import AbstractLinearSDE, AbstractSDE


def failures(
    x: Float[Array, "rows *event"],
    count: int,
    sde: AbstractSDE,
    initial: Float[Array, "n *event"] | None = None,
) -> tuple[int, int]:
    """How many of the first `count` samples are not finite, and how many of them exploded."""
    broken, far = _failures(x, jnp.asarray(count), sde, initial)
    return int(broken), int(far)


def tell_of_failures(
    broken: int,
    far: int,
    n: int,
    sde: AbstractSDE,
    initial: Float[Array, "n *event"] | None = None,
    *,
    mesh: Mesh | None,
    throw: bool,
) -> None:
    """One error or warning, where samples failed; of the processes that share them the first one warns."""
    if broken + far == 0:
        return
    scale = float(_scale(sde, initial, jnp.result_type(float)))
    told = (
        f"{broken + far} of {n} samples failed: {broken} are not finite, {far} lie beyond {EXPLODED:g} "
        f"times {scale:.3g}, the scale of data that {type(sde).__name__} takes to its prior. Take more steps or "
        "another grid, look at the score along the way, or take a process with more noise where data are that large."
    )
    if throw:
        raise RuntimeError(told)
    if mesh is None or jax.process_index() == 0:
        warnings.warn(f"{told} With throw=True this is an error.", stacklevel=3)


@eqx.filter_jit
def _failures(
    x: Float[Array, "rows *event"],
    count: Int[Array, ""],
    sde: AbstractSDE,
    initial: Float[Array, "n *event"] | None,
) -> tuple[Int[Array, ""], Int[Array, ""]]:
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    scale = _scale(sde, initial, x.dtype)
    counted = jnp.arange(len(x)) < count
    whole = all_finite(x)
    far = whole & ~(jax.vmap(lambda one: distance(one, scale))(x) <= EXPLODED)
    return jnp.sum(counted & ~whole), jnp.sum(counted & far)


def _scale(sde: AbstractSDE, initial: Float[Array, "n *event"] | None, dtype: DTypeLike) -> Scalar:
    """The scale of data that an SDE takes to its prior; the process backwards may take a prior anywhere where it is not
    linear.
    """
    if not isinstance(sde, AbstractLinearSDE):
        return jnp.asarray(jnp.inf, dtype)
    scale = jnp.asarray(sde.sigma(sde.t1) * jnp.exp(sde.log_alpha(sde.t0) - sde.log_alpha(sde.t1)), dtype)
    if initial is None:
        return scale
    return jnp.hypot(scale, jnp.sqrt(jnp.mean(initial.astype(dtype) ** 2)))
