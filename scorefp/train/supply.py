"""Where a training step takes its batch from."""

from abc import abstractmethod
from typing import Any

import jax
import jax.random as jr
from jaxtyping import Array, Float, Int, Shaped

from .._module import AbstractModule
from .._types import Key
from ..data import Dataset
from ..likelihood import Quantisation


class AbstractSupply(AbstractModule):
    """Batches on the device for the steps of one loop."""

    @abstractmethod
    def batch(
        self, i: Int[Array, ""], size: int, *, index_key: Key, level_key: Key
    ) -> tuple[Float[Array, "batch *event"], Any]:
        """The samples of step `i` of the loop as floats, and their `args`.

        Args:
            i: The number of the step in the loop.
            size: Samples a step.
            index_key: A random key for which samples.
            level_key: A random key for their dequantisation.
        """


class Resident(AbstractSupply):
    """A data set on the device, of which every step draws with replacement.

    Args:
        data: The data.
    """

    data: Dataset

    def batch(
        self, i: Int[Array, ""], size: int, *, index_key: Key, level_key: Key
    ) -> tuple[Float[Array, "batch *event"], Any]:
        return self.data.batch(jr.randint(index_key, (size,), 0, len(self.data)), key=level_key)


class Stacked(AbstractSupply):
    """Batches read on the host, one for each step of the loop.

    Args:
        values: The samples as they were read: floats, or levels with their quantisation.
        args: Their conditioning.
        quantisation: The levels; `None` for floats.
    """

    values: Shaped[Array, "size batch *event"]
    args: Any
    quantisation: Quantisation | None

    def batch(
        self, i: Int[Array, ""], size: int, *, index_key: Key, level_key: Key
    ) -> tuple[Float[Array, "batch *event"], Any]:
        values, args = jax.tree.map(
            lambda a: jax.lax.dynamic_index_in_dim(a, i, keepdims=False), (self.values, self.args)
        )
        if self.quantisation is None:
            return values, args
        return self.quantisation.place(values, jr.uniform(level_key, values.shape)), args
