"""The batches of sources of any class, checked."""

from collections.abc import Iterator
from typing import Any, final

from ..dataset.values import check_args, check_array, check_kind, check_values
from .loader import Loader
from .source import AbstractRows, AbstractSource, Alike, Batch, Batches


def checked_batches(source: AbstractSource, batch_size: int, *, seed: int, share: tuple[int, int]) -> Batches:
    """`source.batches`, checked: rows and loaders check what they read, and what others give is checked here.

    Args:
        source: The source.
        batch_size: Samples in a batch, those of all processes together.
        seed: The seed of the order.
        share: The process, and how many there are.
    """
    batches = source.batches(batch_size, seed=seed, share=share)
    return batches if isinstance(source, AbstractRows | Loader) else _Checked(source, batches)


@final
class _Checked:
    """The batches of a class that is not of this library."""

    def __init__(self, source: AbstractSource, batches: Batches) -> None:
        self._source, self._batches, self._alike, self._taken = source, batches, Alike(), 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        source, name = self._source, f"batch {self._taken}"
        batch: Any = next(self._batches)
        self._taken += 1
        if not isinstance(batch, tuple) or len(batch) != 2:
            raise TypeError(f"{name} of {type(source).__name__} is a {type(batch).__name__}; it is (values, args).")
        values, args = batch
        of_sample = lambda row: f"sample {row} of {name}"
        check_kind(check_array(name, values).dtype, source.quantisation, source.interval, f"the values of {name}")
        check_values(values, source.quantisation, source.interval, of_sample)
        check_args(args, len(values), of_sample)
        return self._alike(batch, name)

    def get_state(self) -> dict[str, Any]:
        return self._batches.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._batches.set_state(state)
