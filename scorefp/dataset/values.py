"""The checks of values and conditioning of samples, with messages that name the sample."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from .._checks import require
from .._module import AbstractModule
from .quantisation import Quantisation

BLOCK = 1024
"""How many samples are looked at a time where all are."""


class Interval(AbstractModule):
    """The range `[low, high]` that floats are declared to lie on. A value outside is refused wherever it is read.

    Integer levels need none: their quantisation says the range.

    Args:
        low: The least value.
        high: The largest value.

    Raises:
        ValueError: if `low` is not below `high`, or one of them is not finite.

    Example:
        >>> from scorefp.data import Interval
        >>> Interval(-1.0, 1.0).high
        1.0
    """

    low: float
    high: float

    def __check_init__(self) -> None:
        require(
            self.low < self.high and math.isfinite(self.low) and math.isfinite(self.high),
            f"[low, high] = [{self.low}, {self.high}]; an interval is finite with low < high. Leave it out where the "
            "data have no bounds.",
        )


def check_kind(dtype: Any, quantisation: Quantisation | None, interval: Interval | None) -> None:
    """Refuses integers without a quantisation, floats with one, and all other dtypes."""
    dtype = np.dtype(dtype)
    if quantisation is not None:
        # Not by require: this runs for every batch, and the message would be written each time.
        if interval is not None:
            raise ValueError(
                f"the data have the quantisation {quantisation} and the interval {interval}; levels lie on the "
                "interval of their quantisation. Leave interval out."
            )
        if not jnp.issubdtype(dtype, jnp.integer):
            raise TypeError(
                f"the values have dtype {dtype} and a quantisation; levels are integers 0 … {quantisation.levels - 1}. "
                "Convert floats that hold levels first, for example np.round(values * 255).astype(np.uint8); floats "
                "that are on their interval already take interval=Interval(low, high) in place of a quantisation."
            )
    elif not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"the values have dtype {dtype} and quantisation is None; integer levels need "
            "Quantisation(levels, low, high), floats have a floating dtype."
        )


def check_values(
    values: Shaped[np.ndarray, "n *event"],
    quantisation: Quantisation | None,
    interval: Interval | None,
    name: Callable[[int], str],
) -> None:
    """Refuses NaN, infinite values, and values outside their range.

    Args:
        values: Samples, whose dtype `check_kind` has seen.
        quantisation: Their levels.
        interval: The range of floats.
        name: The name in messages of the sample at a position.
    """
    if values.size == 0 or _fills(values.dtype, quantisation):
        return
    ends = _ends(values)
    if quantisation is not None:
        if ends[0] < 0 or ends[1] >= quantisation.levels:
            where, value, count = _found(values, lambda x: (x < 0) | (x >= quantisation.levels))
            raise ValueError(
                f"{name(where)} holds the level {value}, outside 0 … {quantisation.levels - 1}; {count} of "
                f"{len(values)} samples have such levels. Give Quantisation the number of levels that the data have, "
                "counted from zero."
            )
    elif not np.all(np.isfinite(ends)):
        where, value, count = _found(values, lambda x: ~np.isfinite(x))
        raise ValueError(
            f"{name(where)} holds {value}; {count} of {len(values)} samples have NaN or infinite entries. Remove or "
            "repair them."
        )
    elif interval is not None and (ends[0] < interval.low or ends[1] > interval.high):
        where, value, count = _found(values, lambda x: (x < interval.low) | (x > interval.high))
        raise ValueError(
            f"{name(where)} holds {value}, outside [{interval.low}, {interval.high}]; {count} of {len(values)} samples "
            "have such values. Declare the interval that the data have, or scale them to this one."
        )


def check_args(args: Any, count: int) -> None:
    """Refuses conditioning without a row for each sample, or that no device can hold."""
    if args is None:
        return
    leaves = [leaf if isinstance(leaf, jax.Array) else np.asarray(leaf) for leaf in jax.tree.leaves(args)]
    rows = [leaf.shape[:1] for leaf in leaves]
    if any(row != (count,) for row in rows):
        raise ValueError(f"args has arrays with {rows} rows, values has {count}; each sample needs its own.")
    strange = [leaf.dtype for leaf in leaves if leaf.dtype.kind not in "biuf"]
    if strange:
        raise TypeError(
            f"args has an array of dtype {strange[0]}; conditioning is made of numbers. Give classes as integers, for "
            "example by np.unique(names, return_inverse=True)."
        )


def check_reshape(shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Refuses an event shape with another number of entries."""
    require(
        math.prod(shape) == math.prod(wanted) and all(size >= 1 for size in wanted),
        f"shape = {wanted} has {math.prod(wanted)} entries, the samples have shape {shape} with {math.prod(shape)}; a "
        "reshaped sample keeps its entries.",
    )


def _fills(dtype: Any, quantisation: Quantisation | None) -> bool:
    """Whether every number of a dtype is a level, as with bytes and 256 levels."""
    if quantisation is None:
        return False
    kind = np.iinfo(dtype)
    return kind.min >= 0 and kind.max < quantisation.levels


def _blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    """Some samples at a time: all of a memory map are more than the memory."""
    return (values[start : start + BLOCK] for start in range(0, len(values), BLOCK))


def _ends(values: np.ndarray) -> np.ndarray:
    """The least and the largest entry; NaN where an entry is."""
    ends = np.asarray([(block.min(), block.max()) for block in _blocks(values)])
    return np.asarray([ends[:, 0].min(), ends[:, 1].max()])


def _found(values: np.ndarray, bad: Callable[[np.ndarray], np.ndarray]) -> tuple[int, Any, int]:
    """The first sample with a bad entry, that entry, and how many samples have one."""
    rows = np.concatenate([bad(block).reshape(len(block), -1).any(axis=1) for block in _blocks(values)])
    where = int(rows.argmax())
    sample = values[where].reshape(-1)
    return where, sample[int(bad(sample).argmax())].item(), int(rows.sum())
