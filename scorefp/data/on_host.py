"""A data set that stays on the host."""

import dataclasses

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Int

from .._checks import kind, require
from ..dataset import Dataset, Interval, Quantisation
from .source import AbstractRows, Batch, check_threads


def _held(data: Dataset | np.ndarray) -> Dataset:
    kind("dataset", data, (Dataset, np.ndarray, jax.Array), "It is a Dataset, or an array of floats.")
    return data if isinstance(data, Dataset) else Dataset(data)


class OnHost(AbstractRows):
    """A data set that is read where it is, in the memory of the host or mapped from a file, batch by batch.

    Its arrays may be larger than the memory. What fits into the memory of the device trains fastest from there: give
    `fit` the data set itself.

    Args:
        dataset: The samples, as arrays of numpy; or an array of floats.
        threads: How many threads read ahead. Zero is best in memory; a memory map on a slow disk gains from a few.

    Raises:
        TypeError: if `dataset` is neither a data set nor an array, or `threads` is no integer.
        ValueError: if the data set was dequantised, its values are refused by `Dataset`, or `threads` is negative.

    Example:
        >>> import numpy as np, scorefp as sfp
        >>> from scorefp import data
        >>> levels = np.arange(12, dtype=np.uint8).reshape(6, 2)
        >>> rows = {"row": np.arange(6)}
        >>> source = data.OnHost(data.Dataset(levels, sfp.Quantisation(256, -1.0, 1.0), args=rows))
        >>> batches = source.batches(3, seed=0)
        >>> epoch = [next(batches)[1]["row"] for _ in range(2)]
        >>> np.sort(np.concatenate(epoch))
        array([0, 1, 2, 3, 4, 5])
    """

    dataset: Dataset = eqx.field(converter=_held)
    threads: int = 0

    def __check_init__(self) -> None:
        check_threads(self.threads)
        require(
            self.dataset.quantisation is None or self.dataset.levels is not None,
            "dataset was dequantised once and for all; give its levels, which every step dequantises anew.",
        )

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.dataset.shape

    @property
    def quantisation(self) -> Quantisation | None:
        return self.dataset.levels

    @property
    def interval(self) -> Interval | None:
        return self.dataset.interval

    def reshaped(self, shape: tuple[int, ...]) -> "OnHost":
        """The same samples with another event shape; see `Dataset.reshaped`.

        Args:
            shape: The event shape.

        Raises:
            ValueError: if it has another number of entries.
        """
        return dataclasses.replace(self, dataset=self.dataset.reshaped(shape))

    def rows(self, index: Int[np.ndarray, " batch"]) -> Batch:
        return jax.tree.map(lambda leaf: np.asarray(leaf[index]), (self.dataset.values, self.dataset.args))

    def name(self, row: int) -> str:
        return f"sample {row}"
