"""All pairs of two sets, a block of rows at a time, in float64 on the device."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import Scalar

_ENTRIES = 2**22
"""The entries of a block: what is held of all pairs at once."""


def rows_of_a_block(n: int, columns: int, multiple: int = 1) -> int:
    """How many of `n` rows are taken at once."""
    most = max(1, _ENTRIES // columns // multiple)
    return multiple * min(most, -(-n // multiple))


def squared_distance(x: Float[Array, " size"], y: Float[Array, " size"]) -> Scalar:
    """The squared distance; over pairs it is one product of matrices, and float64 holds what is cancelled."""
    return jnp.maximum(x @ x + y @ y - 2 * (x @ y), 0)
