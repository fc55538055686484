"""The host's side of the data: what the loop on the device is handed next, and where the reading stands."""

from abc import ABC, abstractmethod
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh

from .._checks import require
from .._types import Key
from ..data import AbstractSource, Dataset
from ..data.source import check_batch
from .devices import everywhere, in_shares, share
from .supply import AbstractSupply, Resident, Stacked

_LARGEST_STACK = 2**26
"""Bytes of batches that one loop on the device is handed."""


def reader_of(
    data: Dataset | AbstractSource,
    batch_size: int,
    size: int,
    mesh: Mesh | None,
    *,
    key: Key,
) -> "AbstractReader":
    """What reads the data for loops of up to `size` steps."""
    if isinstance(data, AbstractSource):
        return StackReader(data, batch_size, size, mesh, seed=int(jr.bits(key, dtype=jnp.uint32)))
    check_batch(batch_size, len(data))
    return ResidentReader(data, size, mesh)


class AbstractReader(ABC):
    """What hands batches to one loop on the device after another.

    `size` is the largest number of steps of a loop.
    """

    size: int

    @abstractmethod
    def take(self, count: int) -> AbstractSupply:
        """Batches for the next `count` steps, at least one."""

    @abstractmethod
    def prepare(self, count: int) -> None:
        """Reads what the next `take(count)` will return, while the device computes."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Where the reading stands after the last `take`, for JSON."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a state."""


class ResidentReader(AbstractReader):
    """A data set on the device: there is nothing to read."""

    def __init__(self, data: Dataset, size: int, mesh: Mesh | None) -> None:
        self.size = size
        self._supply = Resident(everywhere(data, mesh))

    def take(self, count: int) -> AbstractSupply:
        return self._supply

    def prepare(self, count: int) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


class StackReader(AbstractReader):
    """Batches of a source, stacked for one loop; of several processes each reads its rows."""

    def __init__(self, source: AbstractSource, batch_size: int, size: int, mesh: Mesh | None, *, seed: int) -> None:
        self._feed = source.feed(batch_size, seed=seed, share=share())
        self._shape = (batch_size // share()[1], *source.shape)
        self._quantisation = source.quantisation
        self._mesh = mesh
        self._state = self._feed.get_state()
        self._prepared: Stacked | Exception | None = None
        self._first: tuple[np.ndarray, Any] | None = None
        self._first = self._next()
        each = sum(leaf.nbytes for leaf in jax.tree.leaves(self._first))
        # A divisor, so that the loops of a report have one length.
        self.size = max(d for d in range(1, size + 1) if size % d == 0 and (d == 1 or d * each <= _LARGEST_STACK))

    def take(self, count: int) -> AbstractSupply:
        self.prepare(count)
        prepared, self._prepared = self._prepared, None
        if isinstance(prepared, Exception):
            raise prepared
        assert prepared is not None
        self._state = self._feed.get_state()
        return prepared

    def prepare(self, count: int) -> None:
        if self._prepared is None and count > 0:
            try:
                self._prepared = self._stacked(count)
            except Exception as error:
                # Raised where these batches are wanted: the steps before them are reported and saved first.
                self._prepared = error

    def _stacked(self, count: int) -> Stacked:
        stacks: Any = None
        for i in range(count):
            batch = self._next()
            if stacks is None:
                # New buffers every time: the device may still read the last ones.
                stacks = jax.tree.map(lambda a: np.zeros((self.size, *a.shape), a.dtype), batch)
            jax.tree.map(lambda stack, a, i=i: stack.__setitem__(i, a), stacks, batch)
        values, args = in_shares(stacks, self._mesh)
        return Stacked(values, args, self._quantisation)

    def state(self) -> dict[str, Any]:
        return self._state

    def restore(self, state: dict[str, Any]) -> None:
        self._feed.set_state(state)
        self._state, self._first, self._prepared = state, None, None

    def _next(self) -> tuple[np.ndarray, Any]:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        try:
            values, args = next(self._feed)
        except StopIteration:
            raise ValueError(
                "the feed of data ended before the last step; a feed has no end. Start it anew, or give fewer steps."
            ) from None
        require(
            values.shape == self._shape,
            f"data gave a batch of shape {values.shape}, batch_size and the shape of a sample want {self._shape}.",
        )
        return values, args
