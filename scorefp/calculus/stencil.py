"""Estimates from values of a function at a few points, without a derivative."""

from abc import abstractmethod
from typing import Any

from jaxtyping import Array, Float

from .._module import AbstractModule
from .._types import Event


class AbstractStencil(AbstractModule):
    """A few points around a sample, and what is made of the values there, such as a difference.

    The function is evaluated in between, by whoever holds the stencil: an objective evaluates the score once at the
    samples of a batch, for all terms, and once at the points of all stencils on one share of it. The points may depend
    on the value at the sample; all values are of one precision, so that a difference is not one of roundings.

    A stencil belongs to one sample, and its arrays are batched as a sample is.
    """

    @abstractmethod
    def points(self, value: Event) -> tuple[Float[Array, " points"], Float[Array, "points *event"]]:
        """The times and places of the further points.

        Args:
            value: The value of the function at the sample, which may be rounded.
        """

    @abstractmethod
    def combined(self, value: Event, values: Float[Array, "points *event"]) -> Any:
        """What is made of the values, an array or a pytree of them.

        Args:
            value: The value at the sample.
            values: The values at the further points.
        """
