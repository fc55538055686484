"""Integer levels on an interval, and bits per dimension that know them [K7]."""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Integer

from .._checks import checked, count, floating, kind, measured, require, same_shape, single_or_better
from .._module import AbstractModule

_MOST = 2**24
"""float32 cannot tell more levels apart."""


def check_ends(low: float, high: float) -> None:
    """Refuses an interval that is empty or reversed."""
    require(low < high, f"[low, high] = [{low}, {high}]; an interval is finite with low < high.")


class Quantisation(AbstractModule):
    r"""The place of integer levels on an interval [K7]: level $k$ of `levels` covers
    $[\text{low} + k w, \text{low} + (k + 1) w)$ with $w = (\text{high} - \text{low})/\text{levels}$.

    It belongs to the data. Whoever turns a log-likelihood into bits per dimension takes it from there.

    Args:
        levels: The number of levels, 256 for images of bytes; an integer from 2 to 2²⁴, beyond which float32 does
            not tell them apart.
        low: The lower end of the interval.
        high: The upper end of the interval.

    Raises:
        TypeError: if `levels` is no integer, or an end of the interval is no real number.
        ValueError: if `levels` is out of its range, `low` is not below `high`, or one of them is not finite.

    Example:
        >>> import scorefp as sfp
        >>> sfp.Quantisation(256, -1.0, 1.0).offset_bits, sfp.Quantisation(256, 0.0, 1.0).offset_bits
        (7.0, 8.0)
    """

    remedy: ClassVar[str] = "It is what integer levels mean, for example scorefp.Quantisation(256, -1.0, 1.0)."

    levels: int
    low: float
    high: float

    def __check_init__(self) -> None:
        require(
            2 <= self.levels <= _MOST,
            f"levels = {self.levels}; quantised data have at least two levels, and at most {_MOST}: float32 does not "
            "tell more of them apart.",
        )
        check_ends(self.low, self.high)

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
            u: Positions inside the level, in `[0, 1]`, one for each.

        Raises:
            TypeError: if `k` does not hold integers, or `u` does not hold floats.
            ValueError: if `k` holds a level outside `0 … levels - 1`, `u` has another shape, or a position is outside
                `[0, 1]`.

        Example:
            >>> import jax.numpy as jnp, scorefp as sfp
            >>> float(sfp.Quantisation(4, 0.0, 1.0).dequantise(jnp.array(3), jnp.array(0.5)))
            0.875
        """
        k, u = self.checked_levels(k), single_or_better("u", floating("u", u))
        same_shape("u", u.shape, "k", k.shape)
        u = checked(
            u, ~jnp.all((u >= 0) & (u <= 1)), "u holds positions outside [0, 1], or NaN; they lie inside a level."
        )
        return self.place(k, u)

    def place(self, k: Integer[Array, "*event"], u: Float[Array, "*event"]) -> Float[Array, "*event"]:
        """`dequantise` for levels that were checked before: inside a loop a check would cost a host call a step.

        Args:
            k: Integer levels.
            u: Positions inside the level.
        """
        return self.low + (k.astype(u.dtype) + u) * self.width

    def quantise(self, x: Float[ArrayLike, "*event"]) -> Integer[Array, "*event"]:
        r"""The level that a value lies in, $\lfloor (x - \text{low}) / w \rfloor$; outside of them the first or the
        last one. It is what is stored of a sample.

        Args:
            x: Values, of any shape.

        Raises:
            TypeError: if `x` does not hold floats.
            ValueError: if `x` holds NaN or infinite entries.

        Example:
            >>> import jax.numpy as jnp, scorefp as sfp
            >>> sfp.Quantisation(4, 0.0, 1.0).quantise(jnp.array([-0.1, 0.1, 0.9, 1.0])).tolist()
            [0, 0, 3, 3]
        """
        x = measured("x", x)
        place = (x - self.low) / self.width
        # A value at the lower end of a level belongs to it, however it is rounded.
        edge, rounding = jnp.round(place), 4 * jnp.finfo(x.dtype).eps * max(abs(self.low), abs(self.high)) / self.width
        level = jnp.where(jnp.abs(place - edge) < min(rounding, 1e-2), edge, jnp.floor(place))
        return jnp.clip(level, 0, self.levels - 1).astype(jnp.int32)

    def checked_levels(self, k: Integer[ArrayLike, "*event"]) -> Integer[Array, "*event"]:
        """The levels as an array, refused unless they are integers in `0 … levels - 1`.

        Args:
            k: Levels.

        Raises:
            TypeError: if `k` does not hold integers.
            ValueError: if `k` holds a level outside `0 … levels - 1`.
        """
        # On the host where they are there: the device has 32 bits, in which larger numbers wrap.
        found = k if isinstance(k, jax.Array) else np.asarray(k)
        if not jnp.issubdtype(found.dtype, jnp.integer):
            raise TypeError(
                f"k has dtype {found.dtype}; levels are integers 0 … {self.levels - 1}. Convert floats that hold "
                "levels first, for example k.astype(jnp.int32); data that are already on [low, high] need no "
                "dequantisation."
            )
        last = min(self.levels - 1, jnp.iinfo(found.dtype).max)  # the largest level that the dtype can hold
        return checked(
            jnp.asarray(found),
            (jnp if isinstance(found, jax.Array) else np).any((found < 0) | (found > found.dtype.type(last))),
            f"k holds levels outside 0 … {self.levels - 1}. Give Quantisation the number of levels that the data have, "
            "counted from zero.",
        )


def bits_per_dim(log_prob: Float[ArrayLike, "*batch"], size: int, quantisation: Quantisation) -> Float[Array, "*batch"]:
    r"""Bits per dimension of dequantised data from their log-likelihood [K7]:

    $$ -\frac{\log p(x)}{D\ln 2} + \log_2\text{levels} - \log_2(\text{high} - \text{low}). $$

    With 256 levels the offset is 7 on $[-1, 1]$ and 8 on $[0, 1]$.

    Args:
        log_prob: Log-likelihoods on `[low, high]`, in nats, of any shape; $-\infty$ is one.
        size: The number of elements $D$ of one sample.
        quantisation: The levels and the interval of the data.

    Returns:
        Bits per dimension, of the shape of `log_prob`.

    Raises:
        TypeError: if `log_prob` does not hold floats of 32 bits or more, `size` is no integer, or `quantisation`
            is none.
        ValueError: if `size` is below one, or `log_prob` holds NaN or $+\infty$.

    Example:
        >>> import scorefp as sfp
        >>> float(sfp.bits_per_dim(0.0, 64, sfp.Quantisation(256, -1.0, 1.0)))
        7.0
    """
    size = count("size", size, 1)
    kind("quantisation", quantisation, Quantisation)
    found = single_or_better("log_prob", floating("log_prob", log_prob))
    found = checked(
        found,
        jnp.any(jnp.isnan(found) | (found == jnp.inf)),
        "log_prob holds NaN or +inf; no density gives these: find the sample and the step that made them.",
    )
    return -found / (size * math.log(2)) + quantisation.offset_bits
