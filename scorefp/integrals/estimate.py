"""Estimated integrals, with their errors."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._module import AbstractModule


class Estimate(AbstractModule):
    """An estimated integral, or an array of them.

    Args:
        value: The estimate.
        error: Its standard error, one standard deviation of the estimate; zero where nothing is drawn, NaN from fewer
            than two draws.
        remainder: The estimated remainder of a quadrature rule, which no draws make smaller, or `None`.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp import Estimate
        >>> print(Estimate(jnp.array(1.25), jnp.array(0.02)))
        1.25 ± 0.02
    """

    value: Float[Array, "*shape"]
    error: Float[Array, "*shape"]
    remainder: Float[Array, "*shape"] | None = None

    def __str__(self) -> str:
        if jnp.ndim(self.value) > 0:
            return repr(self)
        remainder = "" if self.remainder is None else f" (remainder {float(self.remainder):.2g})"
        return f"{float(self.value):.6g} ± {float(self.error):.2g}{remainder}"


def mean_of(values: Float[Array, "*shape n"]) -> Estimate:
    """The mean of independent values along the last axis, and its standard error."""
    count = values.shape[-1]
    mean = jnp.mean(values, axis=-1)
    error = jnp.std(values, axis=-1, ddof=1) / math.sqrt(count) if count > 1 else jnp.full_like(mean, jnp.nan)
    return Estimate(mean, error)


def stratified_mean_of(t: Float[Array, " n"], values: Float[Array, " n"]) -> Estimate:
    r"""The mean of values at stratified times, and its standard error by successive differences,

    $$ \mathrm{se}^2 = \frac{1}{2n^2}\Big(\sum_i d_i^2 + d_1^2 + d_{n-1}^2\Big), \qquad d_i = y_{(i+1)} - y_{(i)}, $$

    with $y_{(i)}$ in the order of their times. One draw a stratum has no variance of its own; that of two neighbours
    stands for it, where an end has but one and counts twice. The expectation of $\mathrm{se}^2$ is never below the
    variance $\sum_i\sigma_i^2/n^2$: it exceeds it by the drift of the mean from one stratum to the next, and by half
    the variance of the second stratum and of the last but one.
    """
    count = values.size
    if count < 2:
        return mean_of(values)
    squares = jnp.diff(values[jnp.argsort(t)]) ** 2
    total = jnp.sum(squares) + squares[0] + squares[-1]
    return Estimate(jnp.mean(values), jnp.sqrt(total / 2) / count)
