"""A value with its Monte-Carlo error."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._module import AbstractModule
from ._types import Scalar


class MonteCarlo(AbstractModule):
    """A Monte-Carlo estimate.

    Args:
        value: The estimate.
        error: Its standard error; NaN from fewer than two draws.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp import MonteCarlo
        >>> print(MonteCarlo(jnp.array(1.25), jnp.array(0.02)))
        1.25 ± 0.02
    """

    value: Scalar
    error: Scalar

    def __str__(self) -> str:
        return f"{float(self.value):.6g} ± {float(self.error):.2g}"


def mean_of(values: Float[Array, " n"]) -> MonteCarlo:
    """The mean of independent values, and its standard error."""
    count = values.size
    error = jnp.std(values, ddof=1) / math.sqrt(count) if count > 1 else jnp.full((), jnp.nan, values.dtype)
    return MonteCarlo(jnp.mean(values), error)
