"""Arrays on the host, in memory or mapped from a file."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Int, Shaped

from .._checks import require
from ..likelihood import Quantisation
from .source import AbstractRows, Batch
from .values import Interval, check_args, check_kind, check_reshape, check_values


def _on_host(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


class Arrays(AbstractRows):
    """Samples on the host, stacked along the first axis: numpy arrays, or memory maps larger than the memory.

    All values are read and checked once, here; bytes with 256 levels need no check and no reading. What fits into the
    memory of the device trains fastest from there, as a `Dataset`: see `load`.

    Args:
        values: The samples, of shape `(n, *event)`: floats, or levels in `0 … levels - 1`.
        quantisation: The levels and the interval they are mapped to; `None` for floats.
        args: Conditioning of each sample for the model, a pytree of arrays with `n` rows.
        interval: The range that floats are declared to lie on; `None` for floats without bounds.
        threads: How many threads read ahead. Zero is best in memory; a memory map on a slow disk gains from a few.

    Raises:
        TypeError: if levels come without a quantisation, or floats with one.
        ValueError: if a value is NaN, infinite or out of its range, or `args` has another number of rows.

    Example:
        >>> import numpy as np, scorefp as sfp
        >>> from scorefp import data
        >>> levels = np.arange(12, dtype=np.uint8).reshape(6, 2)
        >>> source = data.Arrays(levels, sfp.Quantisation(256, -1.0, 1.0), args={"row": np.arange(6)})
        >>> feed = source.feed(3, seed=0)
        >>> epoch = [next(feed)[1]["row"] for _ in range(2)]
        >>> np.sort(np.concatenate(epoch))
        array([0, 1, 2, 3, 4, 5])
    """

    values: Shaped[np.ndarray, "n *event"] = eqx.field(converter=np.asarray)
    quantisation: Quantisation | None = None
    args: Any = eqx.field(default=None, converter=_on_host)
    interval: Interval | None = None
    threads: int = 0

    def __check_init__(self) -> None:
        require(
            self.values.ndim >= 1 and len(self.values) >= 1,
            f"values has shape {self.values.shape}; samples are stacked along the first axis.",
        )
        check_kind(self.values.dtype, self.quantisation, self.interval)
        check_args(self.args, len(self))
        check_values(self.values, self.quantisation, self.interval, self.name)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape[1:]

    def reshaped(self, shape: tuple[int, ...]) -> "Arrays":
        """The same samples with another event shape; see `Dataset.reshaped`.

        Args:
            shape: The event shape.

        Raises:
            ValueError: if it has another number of entries.
        """
        check_reshape(self.shape, shape)
        return dataclasses.replace(self, values=self.values.reshape(len(self), *shape))

    def rows(self, index: Int[np.ndarray, " batch"]) -> Batch:
        return self.values[index], jax.tree.map(lambda leaf: leaf[index], self.args)

    def name(self, row: int) -> str:
        return f"sample {row}"
