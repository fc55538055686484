"""Many evaluations in bounded memory, and the keys of their draws."""

import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int

from ._types import Key

_T = TypeVar("_T")


def apart(key: Key) -> Key:
    """A key beside those of samples, steps and measures, which fold their numbers into `key`: none has this one."""
    return jr.fold_in(key, 2**32 - 1)


def in_batches(fn: Callable[[Int[Array, ""]], _T], count: int, batch_size: int) -> _T:
    """`fn` of the indices below `count`, at most so many at once; the memory is that of one batch.

    The batches are of one size, so that `fn` is compiled once: `jax.lax.map` compiles the last one apart. The indices
    that fill it up repeat the last one.
    """
    batches = math.ceil(count / batch_size)
    size = math.ceil(count / batches)
    indices = jnp.minimum(jnp.arange(batches * size), count - 1)
    values = jax.lax.map(jax.vmap(fn), indices.reshape(batches, size))
    return jax.tree.map(lambda value: value.reshape(batches * size, *value.shape[2:])[:count], values)
