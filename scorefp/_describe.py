"""The settings of an object: as text and JSON for readers, and as JSON that tells two runs apart.

Modules are described by their class and fields, functions by their name: what a function closes over is not seen.
"""

import dataclasses
import functools
import inspect
import math
import re
import types
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import Enum
from typing import Any, TypeAlias, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

JSON: TypeAlias = Any
"""`None`, booleans, numbers, strings, and lists and string-keyed mappings of them."""

_SMALL = 16


def form(array: Any) -> JSON:
    """An array by its dtype and shape."""
    return f"{array.dtype}{list(array.shape)}"


def shown(array: Any) -> JSON:
    """An array for readers: a small one in full, a larger one by its form."""
    return settings(array.tolist()) if array.size <= _SMALL else form(array)


def digest(array: Any) -> JSON:
    """An array for comparison: by its form and a digest of its entries, a number in full."""
    if array.ndim == 0:
        return f"{form(array)} {array}"
    return f"{form(array)} #{zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data):08x}"


def settings(value: Any, array: Callable[[Any], JSON] = shown) -> JSON:
    """A value as JSON, equal for values that do the same.

    Args:
        value: Anything: a loss, a model, a data set.
        array: The description of arrays: `shown`, `digest` or `form`.
    """
    inner = functools.partial(settings, array=array)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such numbers, and NaN differs from itself
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        # The entries stay on the device where they are not looked at.
        return array(value if array is form else np.asarray(value))
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        # Without the module, which is another where a script is imported, and moves between versions of a library.
        return value.__qualname__
    if isinstance(value, functools.partial):
        return {"partial": inner(value.func), "args": inner(value.args), "keywords": inner(value.keywords)}
    if dataclasses.is_dataclass(value):
        fields = {f.name: inner(getattr(value, f.name, None)) for f in dataclasses.fields(value)}
        return {"type": type(value).__qualname__} | fields
    if isinstance(value, Mapping):
        return {str(k): inner(v) for k, v in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, list | tuple):
        return [inner(v) for v in cast(list[Any], value)]
    # An address in memory differs from process to process.
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def described(value: Any) -> str:
    """A value in one line, as the call that makes it: what it computes, never the weights of a network."""
    if (method := getattr(value, "__func__", None)) is not None:
        return method.__qualname__
    if isinstance(value, eqx.Module):
        if type(value).__module__.partition(".")[0] == "equinox" and (inner := getattr(value, "__wrapped__", None)):
            return described(inner)  # of `filter_jit` and its like
        own = type(value).__repr__ is not eqx.Module.__repr__
        return repr(value) if own else outlined(value, static=callable(value))
    if isinstance(value, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        return _array(value)
    if isinstance(value, functools.partial):
        return f"partial({described(cast(Any, value.func))})"
    if isinstance(value, tuple | list):
        parts = [described(item) for item in cast(Any, value)]
        inner = ", ".join(parts) + ("," if isinstance(value, tuple) and len(parts) == 1 else "")
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    if isinstance(value, Mapping):
        items = cast(Mapping[Any, Any], value).items()
        return "{" + ", ".join(f"{key!r}: {described(item)}" for key, item in items) + "}"
    if callable(value):
        # Of a module of another library too: its own text would hold its weights.
        return getattr(value, "__name__", type(value).__name__)
    return str(value) if isinstance(value, Enum) else repr(value)


def outlined(module: eqx.Module, *, static: bool = False) -> str:
    """A module by its class and the fields that differ from their defaults.

    Args:
        module: The module.
        static: Whether to leave out what is not static, as the weights of a network are, and to show sizes that have
            their default.
    """
    parameters = inspect.signature(type(module)).parameters
    given: list[str] = []
    for field in dataclasses.fields(cast(Any, module)):
        if not hasattr(module, field.name) or (static and not field.metadata.get("static", False)):
            continue  # not there yet, in an error of `__init__`; or a weight
        value = getattr(module, field.name)
        size = static and isinstance(value, int | tuple) and not isinstance(value, bool)
        if size or not _is_default(field, parameters, value):
            given.append(f"{field.name}={described(value)}")
    return f"{type(module).__name__}({', '.join(given)})"


def name_of(value: Any) -> str:
    """The name by which a value is made: that of its class, or of the function that a user calls."""
    return described(value).partition("(")[0]


def _array(value: Any) -> str:
    """A small array by its entries, another one, and one whose entries are not known here, by its form."""
    tracer = isinstance(value, Tracer | jax.ShapeDtypeStruct)
    if tracer or jnp.issubdtype(value.dtype, jax.dtypes.prng_key) or math.prod(value.shape) > _SMALL:
        return form(value)
    if isinstance(value, jax.Array) and (value.is_deleted() or not value.is_fully_addressable):
        return form(value)
    entries = np.asarray(value)
    # Without numpy's padding and breaks between the lines.
    return " ".join(np.array2string(entries, separator=", ", formatter={"all": str}).split())


def unequal(before: JSON, after: JSON) -> str:
    """The differences of two descriptions, in words, the first places by name; empty where they are equal."""
    return first([f"{name or 'the whole'} was {was}, is {now}" for name, was, now in _differences(before, after, "")])


def free_name(name: str, taken: Collection[str]) -> str:
    """The name, numbered where it is taken: `DSM`, `DSM 2`, `DSM 3`."""
    numbered = (name if i == 1 else f"{name} {i}" for i in range(1, len(taken) + 2))
    return next(candidate for candidate in numbered if candidate not in taken)


def first(parts: list[str], count: int = 3) -> str:
    """The first of many remarks, and how many more there are."""
    more = [f"and {len(parts) - count} more"] if len(parts) > count else []
    return "; ".join(parts[:count] + more)


def _differences(before: JSON, after: JSON, name: str) -> Iterator[tuple[str, str, str]]:
    """The differences of two descriptions: the place, the old value and the new one."""
    if isinstance(before, dict) and isinstance(after, dict):
        if before.get("type") != after.get("type"):
            yield name, str(before.get("type")), str(after.get("type"))
            return
        for key in [*before, *(key for key in after if key not in before)]:
            inner = f"{name}.{key}" if name else key
            yield from _differences(before.get(key, "absent"), after.get(key, "absent"), inner)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _differences(one, other, f"{name}[{index}]")
    elif before != after:
        yield name, _short(before), _short(after)


def _short(value: JSON, length: int = 60) -> str:
    if isinstance(value, dict) and "type" in value:
        return str(value["type"])
    text = f"[{', '.join(map(_short, cast(list[JSON], value)))}]" if isinstance(value, list) else str(value)
    return text if len(text) <= length else text[: length - 1] + "…"


def _is_default(field: "dataclasses.Field[Any]", parameters: Mapping[str, inspect.Parameter], value: Any) -> bool:
    """Whether a field has the default of its class, or of the class's own `__init__`."""
    default = field.default
    if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    if default is dataclasses.MISSING:
        default = parameters[field.name].default if field.name in parameters else inspect.Parameter.empty
    return default is not inspect.Parameter.empty and eqx.tree_equal(value, default) is True
