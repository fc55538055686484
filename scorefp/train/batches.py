"""The batches of a run: their source, their way from the host to the device, and the one that a step takes."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Shaped

from .._batches import apart
from .._checks import require
from .._devices import everywhere, in_shares, share
from .._types import Key
from ..data import AbstractSource, Dataset
from ..data._checked import checked_batches
from ..data.source import check_batch
from ..dataset import Quantisation
from ._advice import scale_of

_LARGEST_STACK = 2**26
"""Bytes of batches that one loop on the device is handed."""

Samples: TypeAlias = tuple[Shaped[Array, "..."], Any]
"""Samples on the device, floats or levels, and their conditioning."""

Pick: TypeAlias = Callable[[Samples, Int[Array, ""], int, Key], Samples]
"""The batch of a step, called as `pick(samples, i, size, key)` with the number of the step in its loop."""


def drawn(samples: Samples, i: Int[Array, ""], size: int, key: Key) -> Samples:
    """A batch drawn from all samples with replacement.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from scorefp import train
        >>> train.drawn((jnp.arange(8.0), None), jnp.array(0), 3, jax.random.key(0))[0].shape
        (3,)
    """
    rows = jr.randint(key, (size,), 0, len(samples[0]))
    return jax.tree.map(lambda a: a[rows], samples)


def in_order(samples: Samples, i: Int[Array, ""], size: int, key: Key) -> Samples:
    """The next one of stacked batches.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from scorefp import train
        >>> stack = jnp.arange(6.0).reshape(2, 3)  # two batches of three
        >>> train.in_order((stack, None), jnp.array(1), 3, jax.random.key(0))[0].tolist()
        [3.0, 4.0, 5.0]
    """
    return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, i, keepdims=False), samples)


class AbstractBatches(ABC):
    """The batches of a run.

    `size` is the largest number of steps of a loop, `pick` how each takes its batch, `levels` the quantisation of
    samples that are levels, which the step dequantises, `scale` the root mean square of the samples, or of the first
    batch of them, and `args` the shapes and dtypes of the conditioning of one sample, `None` where there is none.
    """

    size: int
    scale: float
    pick: Pick
    levels: Quantisation | None
    args: Any

    @abstractmethod
    def take(self, count: int) -> Samples:
        """The samples from which the loop of the next `count` steps, at least one, picks its batches."""

    @abstractmethod
    def prepare(self, count: int) -> None:
        """Reads what the next `take(count)` will return, while the device computes."""

    @abstractmethod
    def place(self) -> dict[str, Any]:
        """The place of the reading after the last `take`, for JSON."""

    @abstractmethod
    def go_to(self, place: dict[str, Any]) -> None:
        """Goes on from a place."""


class Resident(AbstractBatches):
    """Batches drawn from a data set on the device: there is nothing to read."""

    def __init__(self, data: Dataset, size: int, mesh: Mesh | None) -> None:
        self.size, self.pick, self.levels = size, drawn, data.levels
        self.scale = scale_of(np.asarray(data.values), data.levels)
        self.args = _of_one(data.args)
        self._samples = everywhere((data.values, data.args), mesh)

    def take(self, count: int) -> Samples:
        return self._samples

    def prepare(self, count: int) -> None:
        pass

    def place(self) -> dict[str, Any]:
        return {}

    def go_to(self, place: dict[str, Any]) -> None:
        pass


class Read(AbstractBatches):
    """Batches of a source, read on the host and stacked for one loop; of several processes each reads its rows."""

    def __init__(self, source: AbstractSource, batch_size: int, size: int, mesh: Mesh | None, *, seed: int) -> None:
        self._batches = checked_batches(source, batch_size, seed=seed, share=share())
        self._shape = (batch_size // share()[1], *source.shape)
        self._mesh = mesh
        self._place = self._batches.get_state()
        self._prepared: Samples | Exception | None = None
        self._first: tuple[np.ndarray, Any] | None = None
        self._first = self._next()
        each = sum(leaf.nbytes for leaf in jax.tree.leaves(self._first))
        # A divisor, so that the loops of a report have one length.
        self.size = max(d for d in range(1, size + 1) if size % d == 0 and (d == 1 or d * each <= _LARGEST_STACK))
        self.pick, self.levels = in_order, source.quantisation
        self.scale = scale_of(self._first[0], self.levels)
        self.args = _of_one(self._first[1])

    def take(self, count: int) -> Samples:
        self.prepare(count)
        prepared, self._prepared = self._prepared, None
        if isinstance(prepared, Exception):
            raise prepared
        assert prepared is not None
        self._place = self._batches.get_state()
        return prepared

    def prepare(self, count: int) -> None:
        if self._prepared is None and count > 0:
            try:
                self._prepared = self._stacked(count)
            except Exception as error:
                # Raised where these batches are wanted: the steps before them are reported and saved first.
                self._prepared = error

    def place(self) -> dict[str, Any]:
        return self._place

    def go_to(self, place: dict[str, Any]) -> None:
        self._batches.set_state(place)
        self._place, self._first, self._prepared = place, None, None

    def _stacked(self, count: int) -> Samples:
        stacks: Any = None
        for i in range(count):
            batch = self._next()
            if stacks is None:
                # New buffers every time: the device may still read the last ones.
                stacks = jax.tree.map(lambda a: np.zeros((self.size, *a.shape), a.dtype), batch)
            jax.tree.map(lambda stack, a, i=i: stack.__setitem__(i, a), stacks, batch)
        return in_shares(stacks, self._mesh)

    def _next(self) -> tuple[np.ndarray, Any]:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        try:
            values, args = next(self._batches)
        except StopIteration:
            raise ValueError(
                "the batches of the source ended before the last step; they have no end. Start them anew, or give "
                "fewer steps."
            ) from None
        require(
            values.shape == self._shape,
            f"data gave a batch of shape {values.shape}; by batch_size and the shape of a sample it is {self._shape}.",
        )
        return values, args


def _of_one(args: Any) -> Any:
    """The shapes and dtypes of the conditioning of one sample on the device."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], jax.dtypes.canonicalize_dtype(a.dtype)), args)


def batches_of(
    data: Dataset | AbstractSource, batch_size: int, size: int, mesh: Mesh | None, *, key: Key
) -> AbstractBatches:
    """The batches of a run.

    Args:
        data: A data set, from which they are drawn on the device, or a source, which is read on the host.
        batch_size: Samples a step.
        size: The largest number of steps of a loop.
        mesh: The devices.
        key: The key of the run. The order of a source is drawn from one that is derived from it, and that no step has.
    """
    if isinstance(data, AbstractSource):
        seed = int(jr.bits(apart(key), dtype=jnp.uint32))
        return Read(data, batch_size, size, mesh, seed=seed)
    check_batch(batch_size, len(data))
    return Resident(data, size, mesh)
