"""Tables of the library `datasets` of Hugging Face."""

import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import equinox as eqx
import numpy as np
from jaxtyping import Int, Shaped

from .._checks import kind, require
from ..dataset import Interval, Quantisation
from ..dataset.values import check_range
from ._pictures import BYTES, Layout, UnreadableError, agree, needs_pillow, opened
from .source import AbstractRows, Batch, check_threads

if TYPE_CHECKING:
    from PIL.Image import Image


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

    The table stays where it is, on disk or in memory, and rows are read when their batch comes. Its pictures are opened
    as in `ImageFolder`, in the formats that are read there alone; those of a table with a transform are what it makes
    of them.

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
        ImportError: if the column holds pictures and Pillow is not installed.
        TypeError: if `dataset` is a dictionary of splits or a stream, integers come without a quantisation, or another
            argument is of another kind.
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
        kind("column", column, str, "It is the name of the column with the samples.")
        kind("args", args, (str, tuple, type(None)), "It is the name of a column, or a tuple of names.")
        check_range(quantisation, interval)
        check_threads(threads)
        columns = [column, *((args,) if isinstance(args, str) else args or ())]
        # Other columns are not read: decoding a picture that nobody wants takes as long as any.
        self.dataset = _encoded(_table(dataset, columns).select_columns(list(dict.fromkeys(columns))))
        self.column, self.args, self.layout, self.threads = column, args, Layout(channels, size), threads
        self.interval = interval
        first = _cell(self._found(np.arange(1))[column][0], 0, column)
        if isinstance(first, np.ndarray):
            self.quantisation, self.shape = quantisation, first.shape
        else:
            self.quantisation, self.shape = quantisation or BYTES, self.layout.shape(first, "row 0")
        self.read(np.arange(1))

    def __len__(self) -> int:
        return len(self.dataset)

    def rows(self, index: Int[np.ndarray, " batch"]) -> Batch:
        found = self._found(index)
        values = _stacked(found[self.column], index, self.column, self.layout, self.shape)
        if self.args is None or isinstance(self.args, str):
            return values, None if self.args is None else _conditioning(found[self.args], index, self.args)
        return values, {name: _conditioning(found[name], index, name) for name in self.args}

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
    if not isinstance(dataset, Table) or isinstance(dataset, type):
        raise TypeError(
            f"dataset is a {type(dataset).__name__}, whose rows have no index or no columns; give a datasets.Dataset. "
            "Of a stream, give batches: Loader(…)."
        )
    missing = [name for name in columns if name not in dataset.column_names]
    require(
        not missing, f"column or args name what is not in the table, {missing}; it has {list(dataset.column_names)}."
    )
    require(len(dataset) > 0, "the table has no rows.")
    return dataset


def _encoded(table: Any) -> Table:
    """The table with its pictures as the bytes of their files: `datasets` opens them in any format of Pillow.

    Some of these formats run other programs. A table with a transform needs the pictures themselves.
    """
    datasets = sys.modules.get("datasets")
    if datasets is None or not isinstance(table, datasets.Dataset) or table.format["type"] == "custom":
        return table
    pictures = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
    for name in pictures:
        needs_pillow(f"the column {name!r} of pictures")
        mode = table.features[name].mode
        require(mode is None, f"the column {name!r} makes its pictures {mode}; leave that out, and give channels.")
        table = table.with_format(None).cast_column(name, datasets.Image(decode=False))
    return table


def _cell(cell: Any, row: int, column: str) -> "np.ndarray | Image":
    """What a table holds: a picture, or an array."""
    if isinstance(cell, dict) and set(cell) == {"bytes", "path"}:
        content, path = cell["bytes"], cell["path"]
        try:
            if content is not None:
                return opened(io.BytesIO(content), f"row {row}", "")
            if path is None:
                raise UnreadableError("it is empty")
            return opened(io.BytesIO(Path(path).read_bytes()), f"row {row}", Path(path).suffix)
        except (UnreadableError, OSError) as error:
            raise _unreadable(row, column, error) from error
    pillow: Any = sys.modules.get("PIL.Image")  # without it no picture can have been made
    if pillow is not None and isinstance(cell, pillow.Image):
        picture: Any = cell
        return picture
    try:
        array = np.asarray(cell)
    except ValueError as error:
        raise _unreadable(row, column, error) from error
    if array.dtype == object:
        raise _unreadable(row, column, "it holds what is no number")
    return array


def _unreadable(row: int, column: str, error: Exception | str) -> ValueError:
    return ValueError(
        f"row {row} of the table cannot be read: {error}, in column {column!r}. Leave it out, for example by "
        "dataset.select."
    )


def _stacked(
    cells: Any, index: Int[np.ndarray, " batch"], column: str, layout: Layout, shape: tuple[int, ...] | None
) -> Shaped[np.ndarray, "batch *event"]:
    """The cells of a column as one array; an error names the row that has another shape, by default than the first."""
    arrays: list[np.ndarray] = []
    for row, cell in zip(index.tolist(), cells, strict=True):
        found = _cell(cell, row, column)
        arrays.append(found if isinstance(found, np.ndarray) else layout.pixels(found, f"row {row}"))
    first = ("row 0", shape) if shape is not None else (f"row {index[0]}", arrays[0].shape)
    for row, array in zip(index.tolist(), arrays, strict=True):
        remedy = "Of pictures, give size=(height, width), or channels."
        agree(array.shape, f"row {row}", first[1], first[0], remedy)
    return np.stack(arrays)


def _conditioning(cells: Any, index: Int[np.ndarray, " batch"], column: str) -> Shaped[np.ndarray, "batch ..."]:
    """The cells of a column as one array."""
    try:
        array = np.asarray(cells)
    except ValueError:  # of different lengths
        array = np.asarray(None)
    return _stacked(cells, index, column, Layout(None, None), None) if array.dtype == object else array
