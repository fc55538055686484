"""Tables of the library `datasets` of Hugging Face."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import numpy as np
from jaxtyping import Int, Shaped

from .._checks import require
from ..dataset import Interval, Quantisation
from ._pictures import BYTES, Layout, agree
from .source import AbstractRows, Batch


@runtime_checkable
class Table(Protocol):
    """The part of a `datasets.Dataset` that is used; another table with these four will do."""

    @property
    def column_names(self) -> list[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any:
        """The row of an index, or of a list of indices the columns as lists, by the name of the column."""
        ...

    def select_columns(self, column_names: list[str]) -> "Table": ...


class HuggingFace(AbstractRows):
    """A column of a `datasets.Dataset`: pictures, as bytes of shape `(c, h, w)`, or numbers, as they are.

    The table stays where it is, on disk or in memory, and rows are read when their batch comes.

    Args:
        dataset: The table, one split of it: `load_dataset(…)["train"]`, or `load_dataset(…, split="train")`.
        column: The column with the samples.
        quantisation: The levels and the interval they are mapped to. `None` for floats, and for pictures, whose 256
            levels then lie on [-1, 1].
        interval: The range that floats are declared to lie on; `None` for floats without bounds.
        args: The column with the conditioning, such as labels; of a tuple of names, `args` is a dictionary by name.
        channels: As in `ImageFolder`, for pictures.
        size: As in `ImageFolder`, for pictures.
        threads: How many threads read ahead, a batch each.

    Raises:
        TypeError: if `dataset` is a dictionary of splits or a stream, or integers come without a quantisation.
        ValueError: if there is no such column, the table is empty, or the first sample is refused.

    Example:
        >>> import numpy as np
        >>> from datasets import Dataset
        >>> from scorefp import data
        >>> table = Dataset.from_dict({"x": [[0.0, 1.0], [2.0, 3.0]], "label": [0, 1]})
        >>> source = data.HuggingFace(table, "x", args="label")
        >>> values, labels = source.rows(np.array([1]))
        >>> source.shape, values.tolist(), labels.tolist()
        ((2,), [[2.0, 3.0]], [1])
    """

    dataset: Any
    column: str = eqx.field(static=True)
    quantisation: Quantisation | None
    interval: Interval | None
    args: str | tuple[str, ...] | None = eqx.field(static=True)
    layout: Layout
    shape: tuple[int, ...] = eqx.field(static=True)
    threads: int

    def __init__(
        self,
        dataset: Any,
        column: str,
        *,
        quantisation: Quantisation | None = None,
        interval: Interval | None = None,
        args: str | tuple[str, ...] | None = None,
        channels: int | None = None,
        size: tuple[int, int] | None = None,
        threads: int = 2,
    ) -> None:
        columns = [column, *((args,) if isinstance(args, str) else args or ())]
        # Other columns are not read: decoding a picture that nobody wants takes as long as any.
        self.dataset = _table(dataset, columns).select_columns(list(dict.fromkeys(columns)))
        self.column, self.args, self.layout, self.threads = column, args, Layout(channels, size), threads
        first = self.dataset[0][column]
        if _is_picture(first):
            self.quantisation, self.interval = quantisation or BYTES, interval
            self.shape = self.layout.shape(first, "row 0")
        else:
            self.quantisation, self.interval = quantisation, interval
            self.shape = tuple(np.shape(first))
        self.read(np.arange(1))

    def __len__(self) -> int:
        return len(self.dataset)

    def rows(self, index: Int[np.ndarray, " batch"]) -> Batch:
        found = self._found(index)
        values = _stacked(found[self.column], index, self.shape, self.layout)
        if self.args is None or isinstance(self.args, str):
            return values, None if self.args is None else np.asarray(found[self.args])
        return values, {name: np.asarray(found[name]) for name in self.args}

    def name(self, row: int) -> str:
        return f"row {row}"

    def _found(self, index: Int[np.ndarray, " batch"]) -> Any:
        """The columns of some rows; an error names the row."""
        try:
            return self.dataset[index.tolist()]
        except Exception:
            for row in index.tolist():
                try:
                    self.dataset[row]
                except Exception as error:
                    raise ValueError(
                        f"row {row} of the table cannot be read: {error}. Leave it out, for example by dataset.select."
                    ) from error
            raise


def _table(dataset: Any, columns: list[str]) -> Table:
    """The table, refused unless it has samples and these columns."""
    if isinstance(dataset, Mapping):
        raise TypeError(f"dataset is a dictionary of the splits {list(dataset)}; give one of them.")
    if not isinstance(dataset, Table):
        raise TypeError(
            f"dataset is a {type(dataset).__name__}, whose rows have no index or no columns; give a datasets.Dataset. "
            "Of a stream, give batches: Loader(…)."
        )
    missing = [name for name in columns if name not in dataset.column_names]
    require(not missing, f"the table has no columns {missing}; it has {list(dataset.column_names)}.")
    require(len(dataset) > 0, "the table has no rows.")
    return dataset


def _is_picture(cell: Any) -> bool:
    try:
        from PIL.Image import Image
    except ImportError:  # no picture can have been made
        return False
    return isinstance(cell, Image)


def _stacked(
    cells: Any, index: Int[np.ndarray, " batch"], shape: tuple[int, ...], layout: Layout
) -> Shaped[np.ndarray, "batch *event"]:
    """The cells of a column as one array; an error names the row that has another shape."""
    arrays = [
        layout.pixels(cell, f"row {row}") if _is_picture(cell) else np.asarray(cell)
        for row, cell in zip(index.tolist(), cells, strict=True)
    ]
    for row, array in zip(index.tolist(), arrays, strict=True):
        agree(array.shape, f"row {row}", shape, "row 0", "Of pictures, give size=(height, width), or channels.")
    return np.stack(arrays)
