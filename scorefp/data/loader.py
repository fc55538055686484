"""Batches from any Python iterable."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, final, runtime_checkable

import equinox as eqx
import jax
import numpy as np

from .._checks import count, event_shape, kind, require
from ..dataset import Interval, Quantisation
from ..dataset.values import check_args, check_array, check_kind, check_range, check_values
from .source import AbstractSource, Alike, Batch, Batches, part_of


@runtime_checkable
class Stateful(Protocol):
    """An iterator whose place can be saved, such as those of grain."""

    def get_state(self) -> Any: ...

    def set_state(self, state: Any, /) -> Any: ...


class Loader(AbstractSource):
    """Any Python iterable of batches: the loader of another library, a list, a generator.

    A batch is an array of samples, or a pair of such an array and the conditioning, a pytree of arrays with as many
    rows. Batches may have any length; they are cut and joined to those of the training, and all have the dtypes, shapes
    and conditioning of the first. When the iterable ends it is iterated again. Several processes each read all of it
    and take their share.

    How a resumed run finds its place depends on the iterable:

    * One whose iterators have `get_state` and `set_state` is asked.
    * One that can be iterated again, a list or a loader, is, and the batches taken before are skipped. It must give
      the same batches each time.
    * A generator, or another iterator, trains, once; its place cannot be restored.

    Args:
        batches: The iterable.
        shape: The event shape.
        quantisation: The levels and the interval they are mapped to; `None` for floats.
        interval: The range that floats are declared to lie on; `None` for floats without bounds.

    Raises:
        TypeError: if `batches` cannot be iterated, or another argument is of another kind.
        ValueError: if a size of `shape` is below one.

    Example:
        >>> import numpy as np
        >>> from scorefp import data
        >>> source = data.Loader([np.zeros((3, 2)), np.ones((2, 2))], shape=(2,))
        >>> batches = source.batches(4, seed=0)
        >>> next(batches)[0][:, 0], next(batches)[0][:, 0]
        (array([0., 0., 0., 1.]), array([1., 0., 0., 0.]))
    """

    origin: "_Origin"
    shape: tuple[int, ...] = eqx.field(static=True)
    quantisation: Quantisation | None
    interval: Interval | None

    def __init__(
        self,
        batches: Iterable[Any],
        *,
        shape: tuple[int, ...],
        quantisation: Quantisation | None = None,
        interval: Interval | None = None,
    ) -> None:
        if isinstance(batches, str):
            raise TypeError(f"batches is {batches!r}; it is an iterable of arrays. A file is read by read_arrays.")
        kind("batches", batches, Iterable, "It is an iterable of arrays: a list, a loader, a generator.")
        check_range(quantisation, interval)
        self.origin, self.shape = _Origin(batches), event_shape(shape)
        self.quantisation, self.interval = quantisation, interval

    def batches(self, batch_size: int, *, seed: int, share: tuple[int, int] = (0, 1)) -> Batches:
        return _Recut(self, count("batch_size", batch_size, 1), part_of(batch_size, share))

    def read(self, batch: Any, number: int) -> Batch:
        """A batch as arrays, checked.

        Args:
            batch: An item of the iterable.
            number: How many it gave before, for messages.

        Raises:
            TypeError: if it is neither an array nor a pair, has integers without a quantisation, or half precision.
            ValueError: if its samples have another shape, hold NaN or have it in their conditioning, lie outside their
                range, or hold a number that no device holds.
        """
        name = f"batch {number}"
        values, args = batch if isinstance(batch, tuple | list) and len(batch) == 2 else (batch, None)
        if isinstance(values, Mapping):
            raise TypeError(
                f"{name} is a {type(values).__name__}; a batch is an array, or a pair of an array and the "
                "conditioning. Give an iterable that picks these out."
            )
        values, args = _array(name, values), jax.tree.map(lambda leaf: _array(f"args of {name}", leaf), args)
        if values.ndim == 0 or values.shape[1:] != self.shape:
            raise ValueError(
                f"{name} has shape {values.shape}, and shape = {self.shape}; a batch has the shape (n, *shape)."
            )
        require(len(values) >= 1, f"{name} holds no samples; it should hold one at least.")
        of_sample = lambda row: f"sample {row} of {name}"
        check_kind(values.dtype, self.quantisation, self.interval, f"the values of {name}")
        check_values(values, self.quantisation, self.interval, of_sample)
        check_args(args, len(values), of_sample)
        return values, args


@final
class _Origin:
    """An iterable as one leaf of a tree: jax would take a list apart, and refuses a generator."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches

    def started(self) -> Iterator[Any]:
        return iter(self.batches)

    def is_read_once(self, iterator: Iterator[Any]) -> bool:
        return iterator is self.batches


class _Place(NamedTuple):
    """A place between two batches of the iterable."""

    epoch: int
    """How often the iterable has ended."""
    taken: int
    """Batches since then."""
    own: Any
    """The place as the iterator reports it; `None` where it reports none."""


class _Piece(NamedTuple):
    """A batch of the iterable of which rows are still to be handed out."""

    batch: Batch
    place: _Place
    """Before the batch."""
    used: int
    """Rows that were handed out."""

    def taken(self, count: int) -> tuple[Batch, "_Piece | None"]:
        """Up to `count` rows, and what remains."""
        end, size = self.used + count, len(self.batch[0])
        return _rows(self.batch, slice(self.used, end)), self._replace(used=end) if end < size else None


@final
class _Recut:
    """The batches of an iterable, cut and joined to one length."""

    def __init__(self, source: Loader, batch_size: int, part: slice) -> None:
        self._source, self._batch_size, self._part = source, batch_size, part
        self._iterator = source.origin.started()
        self._epoch, self._taken = 0, 0
        self._rest: _Piece | None = None
        self._alike = Alike()
        _check_plain(self._place().own)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        pieces: list[Batch] = []
        wanted = self._batch_size
        while wanted:
            piece, self._rest = (self._rest or self._pulled()).taken(wanted)
            pieces.append(piece)
            wanted -= len(piece[0])
        whole = pieces[0] if len(pieces) == 1 else jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)
        return _rows(whole, self._part)

    def get_state(self) -> dict[str, Any]:
        place, used = (self._place(), 0) if self._rest is None else (self._rest.place, self._rest.used)
        return {"batch_size": self._batch_size, **place._asdict(), "used": used}

    def set_state(self, state: dict[str, Any]) -> None:
        kind("state", state, dict, "It is what get_state gave.")
        here = self.get_state()
        places = [state[name] for name in ("epoch", "taken", "used") if name in state]
        require(
            state.keys() == here.keys()
            and state["batch_size"] == self._batch_size
            and all(isinstance(place, int) and place >= 0 for place in places),
            f"the saved place is {state}, these batches are at {here}; they differ in the data or in the batch size. "
            "Give those of the saved run.",
        )
        self._iterator, self._rest = self._source.origin.started(), None
        self._epoch, self._taken = state["epoch"], state["taken"]
        if isinstance(self._iterator, Stateful):
            self._iterator.set_state(state["own"])
        else:
            self._skip(state["taken"])
        if state["used"]:
            piece = self._pulled()
            require(
                state["used"] < len(piece.batch[0]),
                f"the saved place is behind {state['used']} samples of a batch that has {len(piece.batch[0])} now. "
                "Give the data of the saved run.",
            )
            _, self._rest = piece.taken(state["used"])

    def _skip(self, count: int) -> None:
        """Goes behind the first batches of an epoch."""
        if self._source.origin.is_read_once(self._iterator):
            raise ValueError(
                f"the batches come from a {type(self._iterator).__name__}, which is read once; the place behind its "
                f"batch {count} cannot be restored. Give what can be iterated again, such as a list or a loader, or an "
                "iterator with get_state and set_state."
            )
        skipped = sum(1 for _ in itertools.islice(self._iterator, count))
        require(
            skipped == count,
            f"the batches end after {skipped}, the saved place is behind {count}. Give the data of the saved run.",
        )

    def _place(self) -> _Place:
        own = self._iterator.get_state() if isinstance(self._iterator, Stateful) else None
        return _Place(self._epoch, self._taken, own)

    def _pulled(self) -> _Piece:
        """The next batch of the iterable, which starts anew at its end."""
        while True:
            place = self._place()
            try:
                batch = next(self._iterator)
            except StopIteration:
                self._start_anew()
                continue
            self._taken += 1
            found = self._source.read(batch, place.taken)
            name = f"batch {place.taken}" + (f" of pass {place.epoch}" if place.epoch else "")
            return _Piece(self._alike(found, name), place, 0)

    def _start_anew(self) -> None:
        require(self._taken > 0, "batches gives no batches; it should give one at least.")
        if self._source.origin.is_read_once(self._iterator):
            raise ValueError(
                f"the batches ended after {self._taken}: they come from a {type(self._iterator).__name__}, which is "
                "read once. Give what can be iterated again, such as a list or a loader, or train fewer steps."
            )
        self._iterator = self._source.origin.started()
        self._epoch, self._taken = self._epoch + 1, 0


def _array(name: str, value: Any) -> np.ndarray:
    """What can be one as an array, called `name` in messages."""
    if isinstance(value, np.ndarray):
        return check_array(name, value)
    try:
        return np.asarray(value)
    except Exception as error:  # whatever another library raises
        raise TypeError(f"{name} is a {type(value).__name__}, of which there is no array: {error}") from error


def _rows(batch: Batch, part: slice) -> Batch:
    return jax.tree.map(lambda leaf: leaf[part], batch)


def _check_plain(own: Any) -> None:
    """Refuses a place that JSON, and with it a checkpoint, cannot hold."""
    try:
        json.dumps(own)
    except TypeError as error:
        raise TypeError(
            f"get_state of the batches gives {type(own).__name__}, which a checkpoint cannot hold ({error}); wrap the "
            "iterator so that it gives numbers, strings, lists and dictionaries."
        ) from error
