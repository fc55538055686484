"""Integer levels on an interval, and bits per dimension that know them [K7]."""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Integer

from .._checks import checked, require
from .._module import AbstractModule


class Quantisation(AbstractModule):
    r"""The place of integer levels on an interval [K7]: level $k$ of `levels` covers
    $[\text{low} + k w, \text{low} + (k + 1) w)$ with $w = (\text{high} - \text{low})/\text{levels}$.

    It belongs to the data. Whoever turns a log-likelihood into bits per dimension takes it from there.

    Args:
        levels: The number of levels, 256 for images of bytes.
        low: The lower end of the interval.
        high: The upper end of the interval.

    Raises:
        ValueError: if `levels` is below two, or `low` is not below `high`.

    Example:
        >>> import scorefp as sfp
        >>> sfp.Quantisation(256, -1.0, 1.0).offset_bits, sfp.Quantisation(256, 0.0, 1.0).offset_bits
        (7.0, 8.0)
    """

    levels: int
    low: float = eqx.field(converter=float)
    high: float = eqx.field(converter=float)

    def __check_init__(self) -> None:
        require(self.levels >= 2, f"levels = {self.levels}; quantised data have at least two levels.")
        require(
            self.low < self.high and math.isfinite(self.low) and math.isfinite(self.high),
            f"[low, high] = [{self.low}, {self.high}]; data lie on a finite interval with low < high.",
        )

    @property
    def width(self) -> float:
        """The width `w` of one level."""
        return (self.high - self.low) / self.levels

    @property
    def offset_bits(self) -> float:
        r"""The bits from a density on $[\text{low}, \text{high}]$ to that of a level, $-\log_2 w$ a dimension."""
        return math.log2(self.levels) - math.log2(self.high - self.low)

    def dequantise(self, k: Integer[ArrayLike, "*event"], u: Float[ArrayLike, "*event"]) -> Float[Array, "*event"]:
        r"""The value $\text{low} + (k + u)\,w$ inside level $k$.

        Args:
            k: Integer levels in `0 … levels - 1`.
            u: Positions inside the level, in `[0, 1)`.

        Raises:
            TypeError: if `k` does not hold integers.
            ValueError: if `k` holds a level outside `0 … levels - 1`.

        Example:
            >>> import jax.numpy as jnp, scorefp as sfp
            >>> float(sfp.Quantisation(4, 0.0, 1.0).dequantise(jnp.array(3), jnp.array(0.5)))
            0.875
        """
        return self.place(self.checked_levels(k), jnp.asarray(u))

    def place(self, k: Integer[Array, "*event"], u: Float[Array, "*event"]) -> Float[Array, "*event"]:
        """`dequantise` for levels that were checked before: inside a loop a check would cost a host call a step.

        Args:
            k: Integer levels.
            u: Positions inside the level.
        """
        return self.low + (k.astype(u.dtype) + u) * self.width

    def checked_levels(self, k: Integer[ArrayLike, "*event"]) -> Integer[Array, "*event"]:
        """The levels as an array, refused unless they are integers in `0 … levels - 1`.

        Args:
            k: Levels.

        Raises:
            TypeError: if `k` does not hold integers.
            ValueError: if `k` holds a level outside `0 … levels - 1`.
        """
        k = jnp.asarray(k)
        if not jnp.issubdtype(k.dtype, jnp.integer):
            raise TypeError(
                f"k has dtype {k.dtype}; levels are integers 0 … {self.levels - 1}. Convert floats that hold levels "
                "first, for example k.astype(jnp.int32); data that are already on [low, high] need no dequantisation."
            )
        return checked(
            k,
            # A Python 256 would wrap around to 0 beside bytes.
            jnp.any((k < 0) | (k >= jnp.int32(self.levels))),
            f"k holds levels outside 0 … {self.levels - 1}. Give Quantisation the number of levels that the data have, "
            "counted from zero.",
        )


def bits_per_dim(log_prob: Float[ArrayLike, "*batch"], size: int, quantisation: Quantisation) -> Float[Array, "*batch"]:
    r"""Bits per dimension of dequantised data from their log-likelihood [K7]:

    $$ -\frac{\log p(x)}{D\ln 2} + \log_2\text{levels} - \log_2(\text{high} - \text{low}). $$

    With 256 levels the offset is 7 on $[-1, 1]$ and 8 on $[0, 1]$.

    Args:
        log_prob: Log-likelihoods on `[low, high]`, in nats, of any shape.
        size: The number of elements $D$ of one sample.
        quantisation: The levels and the interval of the data.

    Returns:
        Bits per dimension, of the shape of `log_prob`.

    Raises:
        ValueError: if `size` is below one.

    Example:
        >>> import scorefp as sfp
        >>> float(sfp.bits_per_dim(0.0, 64, sfp.Quantisation(256, -1.0, 1.0)))
        7.0
    """
    require(size >= 1, f"size = {size}; a sample has at least one element.")
    return -jnp.asarray(log_prob) / (size * math.log(2)) + quantisation.offset_bits
