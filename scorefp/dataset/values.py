"""The checks of values and conditioning of samples, with messages that name the sample."""

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from .._checks import is_concrete, kind, require
from .._module import AbstractModule
from .quantisation import Quantisation, check_ends

BLOCK = 1024
"""How many samples are looked at a time where all are."""


class Interval(AbstractModule):
    """The range `[low, high]` that floats are declared to lie on. A value outside is refused wherever it is read.

    Integer levels need none: their quantisation says the range.

    Args:
        low: The least value.
        high: The largest value.

    Raises:
        TypeError: if an end is no real number.
        ValueError: if `low` is not below `high`, or one of them is not finite.

    Example:
        >>> from scorefp.data import Interval
        >>> Interval(-1.0, 1.0).high
        1.0
    """

    remedy: ClassVar[str] = "It is the range of floats, for example scorefp.data.Interval(-1.0, 1.0)."

    low: float
    high: float

    def __check_init__(self) -> None:
        check_ends(self.low, self.high)


def check_array(name: str, values: Any) -> Any:
    """`values`, an argument called `name`, refused unless it is an array without masked entries."""
    kind(name, values, (np.ndarray, jax.Array), "It is an array: give np.asarray of what can be one.")
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be lost; give an array of what is to be used.")
    return values


def check_range(quantisation: Any, interval: Any) -> None:
    """Refuses what is in the place of a quantisation or an interval."""
    kind("quantisation", quantisation, (Quantisation, type(None)))
    kind("interval", interval, (Interval, type(None)))


def check_kind(
    dtype: Any, quantisation: Quantisation | None, interval: Interval | None, what: str = "the values"
) -> None:
    """Refuses integers without a quantisation, floats with one, and all other dtypes.

    Args:
        dtype: The dtype.
        quantisation: The levels.
        interval: The range of floats.
        what: What has the dtype, in messages.
    """
    dtype = np.dtype(dtype)
    check_range(quantisation, interval)
    _check_held(f"{what} have", dtype)
    if quantisation is not None:
        # Not by require: this runs for every batch, and the message would be written each time.
        if interval is not None:
            raise ValueError(
                f"the data have the quantisation {quantisation} and the interval {interval}; levels lie on the "
                "interval of their quantisation. Leave interval out."
            )
        if not jnp.issubdtype(dtype, jnp.integer):
            raise TypeError(
                f"{what} have dtype {dtype} and a quantisation; levels are integers 0 … {quantisation.levels - 1}. "
                "Convert floats that hold levels first, for example np.round(values * 255).astype(np.uint8); floats "
                "that are on their interval already take interval=Interval(low, high) in place of a quantisation."
            )
    elif not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{what} have dtype {dtype} and quantisation is None; integer levels need "
            "Quantisation(levels, low, high), floats have a floating dtype."
        )
    elif jnp.finfo(dtype).bits < 32:
        raise TypeError(
            f"{what} have dtype {dtype}, in which levels of noise and likelihoods are rounded away; give "
            "values.astype(np.float32). A network may still compute in half precision inside."
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
        return
    _check_numbers(values, ends, name)
    if interval is not None and (ends[0] < interval.low or ends[1] > interval.high):
        where, value, count = _found(values, lambda x: (x < interval.low) | (x > interval.high))
        raise ValueError(
            f"{name(where)} holds {value}, outside [{interval.low}, {interval.high}]; {count} of {len(values)} samples "
            "have such values. Declare the interval that the data have, or scale them to this one."
        )


def check_args(args: Any, count: int, name: Callable[[int], str], rows_are: str = "values has {}") -> None:
    """Refuses conditioning without a row for each sample, with NaN or infinite entries, or that no device can hold.

    Args:
        args: A pytree of arrays.
        count: The number of samples.
        name: The name in messages of the sample at a position.
        rows_are: How messages say what `count` is.
    """
    if args is None:
        return
    leaves = [leaf if isinstance(leaf, jax.Array | np.ndarray) else np.asarray(leaf) for leaf in jax.tree.leaves(args)]
    rows = [leaf.shape[:1] for leaf in leaves]
    if any(row != (count,) for row in rows):
        raise ValueError(
            f"args has arrays with leading axes {rows}, {rows_are.format(count)}; each sample has its own row. A "
            "constant is bound to the score: score.bind(args=...)."
        )
    for leaf in leaves:
        if not any(jnp.issubdtype(leaf.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
            raise TypeError(
                f"args has an array of dtype {leaf.dtype}; conditioning is made of numbers. Give classes as integers, "
                "for example by np.unique(names, return_inverse=True)."
            )
        _check_held("args has an array of", check_array("args", leaf).dtype)
        if is_concrete(leaf) and leaf.size and leaf.dtype.kind != "b":
            entries = np.asarray(leaf)
            _check_numbers(entries, _ends(entries), lambda row: f"args of {name(row)}")


def check_index(index: Any, count: int, least: int) -> None:
    """Refuses what is no row of at least so many indices of samples."""
    known = np.asarray(index)
    require(
        known.ndim == 1 and (known.dtype.kind in "iu" or known.size == 0),
        f"index has shape {known.shape} and dtype {known.dtype}; it is a row of integers. Of a mask, give "
        "np.flatnonzero(mask).",
    )
    outside = (known < 0) | (known >= count)
    require(
        known.size >= least and not outside.any(),
        f"index holds {known.size} numbers, {outside.sum()} of them outside 0 … {count - 1}; it needs at least "
        f"{('none', 'one', 'two')[least]}, and all of them in that range.",
    )


def check_reshape(shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Refuses an event shape with another number of entries."""
    require(
        math.prod(shape) == math.prod(wanted),
        f"shape = {wanted} has {math.prod(wanted)} entries, the samples have shape {shape} with {math.prod(shape)}; a "
        "reshaped sample keeps its entries.",
    )


def _check_held(what: str, dtype: Any) -> None:
    """Refuses numbers that no device holds."""
    if np.dtype(dtype).kind == "f" and np.dtype(dtype).itemsize > 8:
        raise TypeError(f"{what} dtype {dtype}, which no device holds; give it .astype(np.float64) or fewer bits.")
    if not np.dtype(dtype).isnative:
        raise TypeError(f"{what} dtype {dtype}, in the other order of bytes; give it .astype({str(dtype)[1:]!r}).")


def _check_numbers(values: np.ndarray, ends: np.ndarray, name: Callable[[int], str]) -> None:
    """Refuses NaN, infinite entries, and numbers that are others on the device.

    The dtypes of the device have 32 bits unless `jax_enable_x64` is on.
    """
    if not np.all(np.isfinite(ends)):
        where, value, count = _found(values, lambda x: ~np.isfinite(x))
        raise ValueError(
            f"{name(where)} holds {value}; {count} of {len(values)} samples have NaN or infinite entries. Remove or "
            "repair them."
        )
    device = jax.dtypes.canonicalize_dtype(values.dtype)
    if device == values.dtype:
        return
    least, most = _limits(device)
    if ends[0] < least or ends[1] > most:
        where, value, count = _found(values, lambda x: (x < least) | (x > most))
        raise ValueError(
            f"{name(where)} holds {value}, beyond the {device} that the device holds, {least} … {most}; {count} of "
            f"{len(values)} samples have such numbers. Scale or renumber them, or switch jax_enable_x64 on."
        )


def _limits(dtype: Any) -> tuple[Any, Any]:
    """The least and the largest number of a dtype."""
    if np.dtype(dtype).kind == "f":
        return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    return np.iinfo(dtype).min, np.iinfo(dtype).max


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
