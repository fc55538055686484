"""Dequantisation, and bits per dimension that know the range of the data [K7]."""

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, Integer

from .._checks import checked, require
from .._module import AbstractModule
from .._types import Event, Key, Scalar


class Quantisation(AbstractModule):
    r"""How integer levels lie on an interval [K7]: level $k$ of `levels` covers
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
    low: float
    high: float

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
        r"""What turns a density on $[\text{low}, \text{high}]$ into bits of a level, $-\log_2 w$ a dimension."""
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


class Dequantised(AbstractModule):
    r"""Dequantised levels and what it took to draw them.

    Args:
        x: The sample $\text{low} + (k + u)\,w$.
        log_prob: $\log q(u \mid k)$, the log-density of the noise on the unit cube, in nats; zero for uniform noise.
    """

    x: Event
    log_prob: Scalar


class AbstractDequantiser(AbstractModule):
    r"""Noise $u \in [0, 1)^D$ with a density $q(u \mid k)$ inside the levels $k$ [K7] (Song 2021, Eq. 13).

    For every $q$, with $x = \text{low} + (k + u)\,w$, Jensen's inequality gives

    $$ \log P(k) \ge E_{u \sim q}\big[\log p(x) - \log q(u \mid k)\big] + D\log w, $$

    so `bits_per_dim(log_likelihood - log_prob, …)` bounds the code length of the levels from above.
    """

    if TYPE_CHECKING:
        quantisation: ClassVar[Quantisation]
    else:
        quantisation: eqx.AbstractVar[Quantisation]

    @abstractmethod
    def positions(self, k: Integer[Array, "*event"], *, key: Key) -> tuple[Event, Scalar]:
        r"""Noise $u$ for the levels of one sample, and its log-density $\log q(u \mid k)$ in nats.

        The levels are not checked here: `draw` does it.

        Args:
            k: Integer levels of one sample.
            key: A random key.
        """

    def draw(self, k: Integer[ArrayLike, "*event"], *, key: Key) -> Dequantised:
        """A sample inside the levels, differentiable in what the dequantiser holds, with the density of its noise.

        Args:
            k: Integer levels of one sample; batch with `jax.vmap`.
            key: A random key.

        Raises:
            TypeError: if the levels are not integers.
            ValueError: if a level is out of range, or their shape is not the dequantiser's.
        """
        k = self.quantisation.checked_levels(k)
        u, log_prob = self.positions(k, key=key)
        return Dequantised(self.quantisation.place(k, u), log_prob)

    def __call__(self, k: Integer[ArrayLike, "*event"], *, key: Key) -> Event:
        """The sample of `draw` alone."""
        return self.draw(k, key=key).x


class UniformDequantiser(AbstractDequantiser):
    r"""Uniform dequantisation, $x = \text{low} + (k + u)\,w$ with $u \sim \mathcal U[0, 1)$ [K7].

    By Jensen's inequality $\log P(k) \ge E_u[\log p(x)] + D\log w$: bits per dimension of dequantised data bound those
    of the levels from above. The noise knows no shape, so a whole batch of levels may be given at once.

    Args:
        quantisation: The levels and the interval.

    Raises:
        TypeError: on a call, if the levels are not integers.
        ValueError: on a call, if a level is out of range.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> dequantiser = sfp.UniformDequantiser(sfp.Quantisation(17, -1.0, 1.0))
        >>> x = dequantiser(jnp.array([0, 16]), key=jax.random.key(0))
        >>> bool(x[0] < -1 + 2 / 17), bool(x[1] >= 1 - 2 / 17)
        (True, True)
        >>> float(dequantiser.draw(jnp.array([0, 16]), key=jax.random.key(0)).log_prob)
        0.0
    """

    quantisation: Quantisation

    def positions(self, k: Integer[Array, "*event"], *, key: Key) -> tuple[Event, Scalar]:
        u = jr.uniform(key, k.shape)
        return u, jnp.zeros((), u.dtype)


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
