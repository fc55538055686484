"""Parts of data, drawn by a seed."""

from typing import Any, overload

import numpy as np
from jaxtyping import Int

from .._checks import number, require
from ..dataset import Dataset, Interval, Quantisation
from ..dataset.dataset import as_dataset
from ..dataset.values import check_array, check_index
from .source import AbstractRows, AbstractSource, Batch, check_seed


class Part(AbstractRows):
    """Some samples of a source, in a given order. `split` makes two.

    Args:
        source: The source.
        index: The indices of its samples.

    Raises:
        TypeError: if `source` has no rows, or `index` is no array.
        ValueError: if `index` is no row of integers, is empty, or leaves the source.

    Example:
        >>> import numpy as np
        >>> from scorefp import data
        >>> source = data.OnHost(data.Dataset(np.arange(4, dtype=np.float32)))
        >>> data.Part(source, np.array([3, 0])).load().values.tolist()
        [3.0, 0.0]
    """

    source: AbstractRows
    index: Int[np.ndarray, " part"]

    def __check_init__(self) -> None:
        check_index(check_array("index", self.index), len(self.source), 1)

    @property
    def quantisation(self) -> Quantisation | None:
        return self.source.quantisation

    @property
    def interval(self) -> Interval | None:
        return self.source.interval

    @property
    def threads(self) -> int:
        return self.source.threads

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, index: Int[np.ndarray, " batch"]) -> Batch:
        return self.source.rows(self.index[index])

    def name(self, row: int) -> str:
        return self.source.name(int(self.index[row]))


@overload
def split(data: Dataset, share: float, *, seed: int) -> tuple[Dataset, Dataset]: ...
@overload
def split(data: AbstractRows, share: float, *, seed: int) -> tuple[Part, Part]: ...
def split(data: Dataset | AbstractRows, share: float, *, seed: int) -> tuple[Dataset, Dataset] | tuple[Part, Part]:
    """Two disjoint parts that make up the data: most to train on, and a share held out.

    The parts depend on the seed and the number of samples alone. Nothing is read.

    Args:
        data: A data set, or a source whose samples have an index.
        share: The share of the second part, between 0 and 1. It has `round(share * n)` samples.
        seed: The seed of the draw.

    Returns:
        The rest and the share, each in the order of the data.

    Raises:
        TypeError: if `data` are neither a data set nor rows, `share` is no number, or `seed` no integer.
        ValueError: if `share` leaves one part without samples, or `seed` has more than 32 bits.

    Example:
        >>> from scorefp import data
        >>> rest, held_out = data.split(data.digits("train"), 0.1, seed=0)
        >>> len(rest), len(held_out)
        (1293, 144)
    """
    given: Any = data
    if isinstance(given, AbstractSource) and not isinstance(given, AbstractRows):
        raise TypeError(f"data is a {type(given).__name__}, whose samples have no index; split what it reads from.")
    check_seed(seed)
    share = number("share", share)
    data = data if isinstance(data, AbstractRows) else as_dataset(data)
    least = 2 if isinstance(data, Dataset) else 1
    count = round(share * len(data))
    require(
        least <= count <= len(data) - least,
        f"share = {share} puts {count} of {len(data)} samples into the second part; each part needs at least {least}.",
    )
    # The stream of RandomState is the same in every version of numpy, and with it the split.
    order = np.random.RandomState(seed).permutation(len(data))
    rest, part = np.sort(order[count:]), np.sort(order[:count])
    if isinstance(data, Dataset):
        return data.rows(rest), data.rows(part)
    return Part(data, rest), Part(data, part)
