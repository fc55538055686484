"""Data that are read on the host while the device computes, in an order that can be stopped and taken up again."""

import functools
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias, final, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Shaped

from .._checks import count, kind, require
from .._module import AbstractModule
from ..dataset import Dataset, Interval, Quantisation
from ..dataset.dataset import mean_square
from ..dataset.values import BLOCK, check_args, check_array, check_index, check_kind, check_values

Batch: TypeAlias = tuple[Shaped[np.ndarray, "..."], Any]
"""Samples on the host of shape `(batch, *event)`, floats or integer levels, and their conditioning: a pytree of arrays
with as many rows."""


@runtime_checkable
class Batches(Protocol):
    """An endless iterator of batches whose place can be saved."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def get_state(self) -> dict[str, Any]:
        """The place behind the batches taken so far, made of what JSON can hold."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a place: the batches that follow are, to the bit, those that followed it before.

        Raises:
            ValueError: if the place is not one of these batches: other data, another batch size or another seed.
        """
        ...


class _SourceFields:
    shape: eqx.AbstractVar[tuple[int, ...]]
    quantisation: eqx.AbstractVar[Quantisation | None]
    interval: eqx.AbstractVar[Interval | None]


class AbstractSource(AbstractModule, _SourceFields):
    """Data that `train.fit` reads on the host, batch by batch. The levels and the range travel with them.

    Attributes:
        shape: The event shape.
        quantisation: The levels of integer data and the interval they are mapped to; `None` for floats. Levels stay
            integers until they are on the device, where each step dequantises its own.
        interval: The declared range of floats; `None` where they have no bounds, and for levels.
    """

    @abstractmethod
    def batches(self, batch_size: int, *, seed: int, share: tuple[int, int] = (0, 1)) -> Batches:
        """The batches in training order, without end.

        Args:
            batch_size: Samples in a batch, those of all processes together.
            seed: The seed of the order, where the source draws it.
            share: `(i, n)` for process `i` of `n`: it reads rows `[i·B/n, (i+1)·B/n)` of each batch of `B`. The
                batches of all processes together are the same whatever `n` is.

        Raises:
            ValueError: if `batch_size` is below one, exceeds the data, or does not divide by `n`.
        """


class _RowsFields:
    threads: eqx.AbstractVar[int]


class AbstractRows(AbstractSource, _RowsFields):
    """A source whose samples are read by their index, in any order.

    An epoch is a permutation of all samples, drawn from the seed and the number of the epoch. Epochs follow each other
    without a gap, so that each sample comes once an epoch, whatever the batch size; a batch at the border holds the end
    of one and the start of the next. A subclass says how many samples there are and how some of them are read. What it
    reads is checked: the shape, NaN, and the range.

    Attributes:
        threads: How many threads read ahead; zero reads when a batch is asked for, which is best for arrays.
    """

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @abstractmethod
    def rows(self, index: Int[np.ndarray, " batch"]) -> Batch:
        """The samples of these indices and their conditioning. Several threads may call it at once."""

    @abstractmethod
    def name(self, row: int) -> str:
        """The name of a sample in messages: its index, or its file."""

    def read(self, index: Int[np.ndarray, " batch"]) -> Batch:
        """The samples of these indices and their conditioning, checked.

        Args:
            index: The indices of the samples.

        Raises:
            TypeError: if there are integers without a quantisation, floats with one, or numbers of half precision.
            ValueError: if an index is out of range; or a sample has another shape, holds NaN or infinite entries or has
                them in its conditioning, lies outside its range, or holds a number that no device holds.
        """
        check_index(index, len(self), 1)
        found: Any = self.rows(index)
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(f"{type(self).__name__}.rows gave a {type(found).__name__}; it gives (values, args).")
        values, args = found
        check_array(f"the values of {type(self).__name__}.rows", values)
        if values.shape != (len(index), *self.shape):
            raise ValueError(
                f"{type(self).__name__}.rows gave values of shape {values.shape} for {len(index)} samples of shape "
                f"{self.shape}; the two must agree."
            )
        quantisation, interval = self.quantisation, self.interval
        name = lambda position: self.name(int(index[position]))
        check_kind(values.dtype, quantisation, interval)
        check_values(values, quantisation, interval, name)
        check_args(args, len(index), name)
        return values, args

    def batches(self, batch_size: int, *, seed: int, share: tuple[int, int] = (0, 1)) -> Batches:
        check_batch(batch_size, len(self))
        check_threads(self.threads)
        check_seed(seed)
        return _RowBatches(self, batch_size, seed, part_of(batch_size, share))

    @property
    def std(self) -> float:
        """The root mean square of the entries as the model sees them, for `data_std` of a score; see `Dataset.std`.

        It reads all samples once. A part from `split` is enough for a large folder.
        """
        total = 0.0
        for index in self._blocks():
            total += len(index) * mean_square(self.read(index)[0], self.quantisation)
        return float(np.sqrt(total / len(self)))

    def load(self) -> Dataset:
        """All samples, in their order, in the memory of the device: the fastest where they fit."""
        alike = Alike()
        blocks = [alike(self.read(index), f"the block of {self.name(int(index[0]))}") for index in self._blocks()]
        values, args = jax.tree.map(lambda *parts: jnp.asarray(np.concatenate(parts)), *blocks)
        return Dataset(values, self.quantisation, args, self.interval)

    def _blocks(self) -> Iterator[Int[np.ndarray, " block"]]:
        """The indices of all samples in order, some at a time."""
        for start in range(0, len(self), BLOCK):
            yield np.arange(start, min(start + BLOCK, len(self)))


@final
class Alike:
    """Refuses batches of another kind than the first: a step is compiled for that, and another would be cast to it."""

    def __init__(self) -> None:
        self._first: tuple[str, dict[str, Any]] | None = None

    def __call__(self, batch: Batch, name: str) -> Batch:
        """The batch, called `name` in messages."""
        values, args = batch
        leaves, structure = jax.tree.flatten(args)
        facts = {
            "values of dtype": values.dtype,
            "samples of shape": values.shape[1:],
            "args of structure": structure,
            "args of dtypes": [leaf.dtype for leaf in leaves],
            "args of shapes": [leaf.shape[1:] for leaf in leaves],
        }
        first, wanted = self._first = self._first or (name, facts)
        for what, value in facts.items():
            if value != wanted[what]:
                raise ValueError(
                    f"{name} has {what} {value}, {first} has {wanted[what]}; all batches are of the kind of the first. "
                    "Convert them to one."
                )
        return batch


@final
class _Order:
    """The order of the samples: a permutation of all of them for each epoch, cut into batches."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        # Batches at the border of two epochs need both.
        self._epoch = functools.lru_cache(maxsize=2)(self._drawn)

    def _drawn(self, epoch: int) -> Int[np.ndarray, " count"]:
        # A numpy version may change what default_rng draws; RandomState never does (NEP 19), and a run that resumes
        # with another numpy needs the same order.
        order = np.random.RandomState([self.seed, epoch]).permutation(self.count)
        order.flags.writeable = False  # every batch of the epoch is a part of it
        return order

    def batch(self, number: int) -> Int[np.ndarray, " batch"]:
        """The samples of a batch, those of all processes."""
        epoch, begin = divmod(number * self.batch_size, self.count)
        order = self._epoch(epoch)
        if begin + self.batch_size > self.count:
            order = np.concatenate([order, self._epoch(epoch + 1)])
        return order[begin : begin + self.batch_size]


@final
class _RowBatches:
    """The batches of rows, read by grain."""

    def __init__(self, rows: AbstractRows, batch_size: int, seed: int, part: slice) -> None:
        import grain

        order = _Order(len(rows), batch_size, seed)

        def read(number: int) -> tuple[int, Batch]:
            return number, rows.read(order.batch(number)[part])

        # An element is a batch, not a sample: each costs grain some microseconds of Python.
        numbers = grain.MapDataset.range(2**62 // batch_size)
        ahead = grain.ReadOptions(num_threads=rows.threads, prefetch_buffer_size=rows.threads)
        self._batches = iter(numbers.map(read).to_iter_dataset(ahead))
        self._facts = {"samples": order.count, "batch_size": batch_size, "seed": seed}
        self._alike = Alike()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        number, batch = next(self._batches)
        return self._alike(batch, f"batch {number}")

    def get_state(self) -> dict[str, Any]:
        # The facts but not the share: another number of processes resumes from the same place.
        return {**self._facts, "grain": self._batches.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        kind("state", state, dict, "It is what get_state gave.")
        facts = {name: value for name, value in state.items() if name != "grain"}
        require(
            facts == self._facts and "grain" in state,
            f"the saved place is one of batches with {facts}, these have {self._facts}; the batches that follow "
            "would be others. Give the data, the batch size and the seed of the saved run.",
        )
        here = self._batches.get_state()
        try:
            self._batches.set_state(state["grain"])
        except (TypeError, KeyError, IndexError) as error:
            self._batches.set_state(here)
            raise ValueError(
                f"the saved place {state['grain']} is none that these batches were at: {error}. It is damaged, or of "
                "another version of grain."
            ) from error


def check_batch(batch_size: int, samples: int) -> None:
    """Refuses a batch that is empty or larger than the data."""
    require(
        1 <= count("batch_size", batch_size) <= samples,
        f"batch_size = {batch_size}; the data have {samples} samples. Choose a batch between 1 and that.",
    )


def check_threads(threads: int) -> None:
    """Refuses what is no number of threads."""
    require(count("threads", threads) >= 0, f"threads = {threads}; give zero to read without threads, or more.")


def check_seed(seed: int) -> None:
    """Refuses what is no seed of numpy."""
    require(0 <= count("seed", seed) < 2**32, f"seed = {seed}; a seed is a number of 32 bits.")


def part_of(batch_size: int, share: tuple[int, int]) -> slice:
    """The rows of a batch that belong to a process, refused unless all processes have equally many."""
    told = f"share = {share}; it is (i, n) for process i of n, with 0 <= i < n."
    require(len(kind("share", share, tuple, "It is (i, n) for process i of n.")) == 2, told)
    index, processes = (count("share", number) for number in share)
    require(0 <= index < processes, told)
    require(
        batch_size % processes == 0,
        f"batch_size = {batch_size} does not divide by {processes} processes; choose a multiple of {processes}.",
    )
    size = batch_size // processes
    return slice(index * size, (index + 1) * size)
