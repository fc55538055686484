"""The rule that calls a trajectory exploded, of likelihoods and samples alike."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import ArrayLike, Float

from .._types import Event, Key, Scalar
from ..sde import AbstractPrior, Normal

EXPLODED = 5.0
"""How many scales are too far."""


def end_scale(prior: AbstractPrior, event: jax.ShapeDtypeStruct, key: Key, data: Float[ArrayLike, ""] = 0.0) -> Event:
    r"""The scale of each entry at `t1`, of the prior and of where the process takes the data: $(s^2 + m^2)^{1/2}$.

    That of a normal law is its own, that of another the root mean square of draws.

    Args:
        prior: The law at `t1`, whose scale is $s$.
        event: The shape and the dtype of a sample.
        key: A random key.
        data: $m$, the size of an entry of the data where the process takes it.
    """
    if isinstance(prior, Normal):
        scale = jnp.broadcast_to(jnp.asarray(prior.scale, event.dtype), event.shape)
    else:
        draws = jax.vmap(lambda k: prior.sample(k, event.shape))(jr.split(key, 1024))
        scale = jnp.sqrt(jnp.mean(draws.astype(event.dtype) ** 2, axis=0))
    return jnp.hypot(scale, jnp.asarray(data, event.dtype))


def distance(x: Event, scale: Event | Scalar) -> Scalar:
    """The root mean square of the entries of a sample in their scales. Exploded is what is not within `EXPLODED`."""
    return jnp.sqrt(jnp.mean((x / scale) ** 2))
