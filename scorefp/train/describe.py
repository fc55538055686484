"""What a run was set up with, as JSON that can be compared: names of classes and functions, numbers, digests.

Its sibling `diagnostics.configuration` says the same for readers, shorter, and leaves out what is large.
"""

import dataclasses
import functools
import math
import re
import types
import zlib
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np

JSON: TypeAlias = Any
"""`None`, booleans, numbers, strings, and lists and string-keyed mappings of them."""


def described(value: Any, *, contents: bool = True) -> JSON:
    """A description of a value, equal for values that do the same.

    Modules are described by their class and fields, functions by their name: what a function closes over is not seen.

    Args:
        value: Anything: a loss, a model, a data set.
        contents: Whether an array is described by its entries too, or by shape and dtype alone.
    """
    inner = functools.partial(described, contents=contents)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such numbers, and NaN differs from itself
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return _array(value, contents)
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        # Without the module, which is another where a script is imported, and moves between versions of a library.
        return value.__qualname__
    if isinstance(value, functools.partial):
        return {"partial": inner(value.func), "args": inner(value.args), "keywords": inner(value.keywords)}
    if dataclasses.is_dataclass(value):
        fields = {f.name: inner(getattr(value, f.name, None)) for f in dataclasses.fields(value)}
        return {"class": type(value).__qualname__} | fields
    if isinstance(value, Mapping):
        return {str(k): inner(v) for k, v in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, list | tuple):
        return [inner(v) for v in cast(list[Any], value)]
    # An address in memory differs from process to process.
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def unequal(before: JSON, after: JSON) -> str:
    """Where two descriptions differ, in words, the first places by name; nothing where they are equal."""
    return first([f"{name or 'the whole'} was {was}, is {now}" for name, was, now in _differences(before, after, "")])


def first(parts: list[str], count: int = 3) -> str:
    """The first of many remarks, and how many more there are."""
    more = [f"and {len(parts) - count} more"] if len(parts) > count else []
    return "; ".join(parts[:count] + more)


def _differences(before: JSON, after: JSON, name: str) -> Iterator[tuple[str, str, str]]:
    """Where two descriptions differ: the place, what stood there and what stands there."""
    if isinstance(before, dict) and isinstance(after, dict):
        if before.get("class") != after.get("class"):
            yield name, str(before.get("class")), str(after.get("class"))
            return
        for key in [*before, *(key for key in after if key not in before)]:
            inner = f"{name}.{key}" if name else key
            yield from _differences(before.get(key, "absent"), after.get(key, "absent"), inner)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _differences(one, other, f"{name}[{index}]")
    elif before != after:
        yield name, _short(before), _short(after)


def _array(value: Any, contents: bool) -> str:
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    form = f"{value.dtype}{list(value.shape)}"
    if not contents:
        return form
    value = np.asarray(value)
    if value.ndim == 0:
        return f"{form} {value}"
    return f"{form} #{zlib.crc32(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data):08x}"


def _short(value: JSON, length: int = 60) -> str:
    if isinstance(value, dict) and "class" in value:
        return str(value["class"])
    text = str(value)
    return text if len(text) <= length else text[: length - 1] + "…"
