"""A box in the space of samples: the bounded domain over which a residual, a density or a histogram is taken."""

import math
from typing import ClassVar

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from .._checks import checked, count, finite, floating, number, random_key, require, same_shape, sample
from .._module import AbstractModule
from .._types import Event, Key


class Box(AbstractModule):
    r"""The box $\Omega = \prod_i [a_i, b_i]$, the bounded domain of Deveney 2023.

    Args:
        lower: $a$, of the event shape.
        upper: $b$, likewise.

    Raises:
        TypeError: if an end is not floating.
        ValueError: if the shapes differ, an end is not finite, or a side is empty.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> box = sfp.Box(jnp.array([-1.0, 0.0]), jnp.array([1.0, 3.0]))
        >>> box.volume
        6.0
        >>> box.sample(jax.random.key(0), 5).shape
        (5, 2)
    """

    remedy: ClassVar[str] = "It is scorefp.Box(lower, upper), for example scorefp.Box.around(x) of samples."

    lower: Event
    upper: Event

    def __init__(self, lower: Float[ArrayLike, "*event"], upper: Float[ArrayLike, "*event"]) -> None:
        lower, upper = finite("lower", floating("lower", lower)), finite("upper", floating("upper", upper))
        same_shape("upper", upper.shape, "lower", lower.shape)
        message = f"lower = {lower} and upper = {upper}; every side of a box needs lower < upper."
        self.lower = checked(lower, ~jnp.all(lower < upper), message)
        self.upper = upper

    @staticmethod
    def around(x: Float[Array, "n *event"], *, margin: float = 0.1) -> "Box":
        """The box that samples suggest: their smallest and largest entries, widened on each side.

        Args:
            x: Samples, stacked along the leading axis.
            margin: How far beyond the samples it reaches on each side, as a share of the side.

        Raises:
            TypeError: if `x` is not floating.
            ValueError: if `x` holds no samples, is not finite, all samples agree in an entry, or `margin` is negative.

        Example:
            >>> import jax.numpy as jnp, scorefp as sfp
            >>> sfp.Box.around(jnp.array([[0.0, 0.0], [2.0, 4.0]]), margin=0.25).upper
            Array([2.5, 5. ], dtype=float32)
        """
        x = finite("x", floating("x", x))
        require(x.ndim >= 1 and x.shape[0] >= 1, f"x has shape {x.shape}; it needs samples along a leading axis.")
        number("margin", margin)
        require(margin >= 0, f"margin = {margin}; a share of the side is not negative.")
        lower, upper = jnp.min(x, axis=0), jnp.max(x, axis=0)
        reach = margin * (upper - lower)
        return Box(lower - reach, upper + reach)

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape."""
        return self.lower.shape

    @property
    def volume(self) -> float:
        """The volume, the product of all sides."""
        return math.prod(np.asarray(self.upper - self.lower, np.float64).ravel().tolist())

    def contains(self, x: Event) -> Bool[Array, ""]:
        """Whether one sample lies in the box, its faces included.

        Args:
            x: One sample.
        """
        x = sample("x", x)
        same_shape("x", x.shape, "the box", self.shape)
        return jnp.all((self.lower <= x) & (x <= self.upper))

    def sample(self, key: Key, n: int) -> Float[Array, "n *event"]:
        """`n` independent uniform samples.

        Args:
            key: A random key.
            n: How many.
        """
        share = jr.uniform(random_key("Box", key), (count("n", n, least=1), *self.shape), self.lower.dtype)
        return self.lower + (self.upper - self.lower) * share
