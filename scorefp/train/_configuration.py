"""The settings that a resumed run must have in common with the one that saved, as far as they can be seen.

`settings` describes an object by its fields and a function by its name. An optimizer of optax, a schedule or a
weighting are functions made by functions, and their numbers stand in what they close over: this looks into them.
"""

import contextlib
import dataclasses
import dis
import functools
import hashlib
import json
import types
from collections.abc import Mapping
from enum import Enum
from typing import Any, cast

import jax
import numpy as np
import optax

from .._describe import JSON, digest, form, settings
from .._types import Key
from ..data import AbstractRows, AbstractSource, Dataset
from .loop import TrainStep

_PARTS, _DEPTH = 20_000, 40
"""How many values are looked at, and how deep; an object that holds half of the memory is not worth it."""
_ROWS, _BYTES = 64, 2**20
"""How many of the first samples of a source are compared, and about how many bytes of them."""
_WRAPPERS = ("jax", "equinox", "jaxtyping", "beartype")
"""Makers of wrappers that change no number: checks of types, and compilation."""


def configuration_of(
    step: TrainStep,
    optimizer: optax.GradientTransformation,
    data: Dataset | AbstractSource,
    *,
    key: Key,
    clip: float | None,
) -> tuple[dict[str, JSON], list[str]]:
    """The configuration of a run, and what it has that cannot be compared, by name.

    Args:
        step: The step of the run.
        optimizer: The optimizer, as it was given.
        data: The data of the training.
        key: The key of the run.
        clip: The largest norm of a gradient.
    """
    look = _Look()
    described: dict[str, Any] = {
        "model": step.skeleton,
        "loss": step.objective,
        "time": step.time,
        "batch_size": step.batch_size,
        "decay": step.decays,
        "clip": clip,
        "accumulate": step.accumulate,
        "dropout": step.dropout,
        "key": key,
        "optimizer": optimizer,
    }
    if step.label_dropout is not None:  # Runs without it are older than it is.
        described["label_dropout"] = step.label_dropout
    found: dict[str, JSON] = {name: look(value, name) for name, value in described.items()}
    unseen = list(dict.fromkeys(look.unseen))
    if isinstance(data, AbstractSource) and not isinstance(data, AbstractRows):
        unseen.append(f"what the {type(data).__name__} reads")
    return found | {"data": _of_data(data)}, unseen


def _of_data(data: Dataset | AbstractSource) -> JSON:
    """Data in memory by their entries; a source by its type, its form and its first samples, not by its place."""
    if isinstance(data, Dataset):
        return settings(data, digest)
    found = {
        "type": type(data).__qualname__,
        "shape": list(data.shape),
        "quantisation": settings(data.quantisation),
        "interval": settings(data.interval),
    }
    if isinstance(data, AbstractRows):
        found |= {"samples": len(data), "first_samples": _first_samples(data)}
    return found


def _first_samples(rows: AbstractRows) -> str:
    """A digest of the first samples with their conditioning."""
    one = sum(leaf.nbytes for leaf in map(np.asarray, jax.tree.leaves(rows.read(np.arange(1)))))
    count = max(1, min(len(rows), _ROWS, _BYTES // max(1, one)))
    hashed = hashlib.sha256()
    for leaf in map(np.asarray, jax.tree.leaves(rows.read(np.arange(count)))):
        hashed.update(form(leaf).encode())
        hashed.update(np.ascontiguousarray(leaf).tobytes())
    return f"{count} samples, sha256 {hashed.hexdigest()}"


class _Look:
    """A look into values of all kinds: functions by their name, defaults, numbers and what they close over.

    Nothing that differs from process to process is taken: no address, no order of a hash.
    """

    def __init__(self) -> None:
        self.unseen = list[str]()
        self._path = set[int]()
        self._left = _PARTS

    def __call__(self, value: Any, place: str) -> JSON:
        self._left -= 1
        if isinstance(value, bool | int | float | str | bytes | Enum | None):
            return settings(value)
        if isinstance(value, jax.Array | np.ndarray | np.generic):
            return settings(value, digest)
        if isinstance(value, type | types.BuiltinFunctionType | types.ModuleType | np.ufunc | np.dtype):
            return settings(value) if isinstance(value, type | types.BuiltinFunctionType) else _name(value)
        if id(value) in self._path:
            return "itself"
        if self._left < 0 or len(self._path) > _DEPTH:
            self.unseen.append(f"a part of {place}")
            return type(value).__qualname__
        self._path.add(id(value))
        try:
            return self._inside(value, place)
        finally:
            self._path.discard(id(value))

    def _inside(self, value: Any, place: str) -> JSON:
        if isinstance(value, list | tuple):
            if isinstance(value, optax.GradientTransformation):
                return self._of_optimizer(value, place)
            return [self(item, f"{place}[{i}]") for i, item in enumerate(cast(list[Any], value))]
        if isinstance(value, Mapping):
            return {str(name): self(item, f"{place}.{name}") for name, item in cast(Mapping[Any, Any], value).items()}
        if isinstance(value, set | frozenset):
            return sorted((self(item, place) for item in cast(set[Any], value)), key=json.dumps)
        if isinstance(value, functools.partial):
            parts = {"partial": value.func, "args": value.args, "keywords": value.keywords}
            return {name: self(part, place) for name, part in cast(dict[str, Any], parts).items()}
        if isinstance(value, types.MethodType):
            return {"type": value.__func__.__qualname__, "self": self(value.__self__, place)}
        if isinstance(value, types.FunctionType):
            return self._of_function(value, place)
        if callable(value) and (inner := getattr(value, "__wrapped__", None)) is not None:
            return self(inner, place)  # of `jit` and its like
        if dataclasses.is_dataclass(value):
            names = [field.name for field in dataclasses.fields(value)]
            return self._of_parts(value, {name: getattr(value, name, None) for name in names}, place)
        parts = _attributes(value)
        if parts is None and callable(value) and hasattr(value, "__qualname__"):
            return value.__qualname__  # a function of C
        if parts is None:
            self.unseen.append(f"{place}, a {type(value).__name__}")
            return type(value).__qualname__
        return self._of_parts(value, parts, place)

    def _of_optimizer(self, optimizer: optax.GradientTransformation, place: str) -> JSON:
        """An optimizer by the parts of its two functions."""
        update, begin = self(optimizer.update, place), self(optimizer.init, f"{place}.init")
        name = update["type"] if isinstance(update, dict) else str(update)
        parts = cast(dict[str, JSON], update) if isinstance(update, dict) else {}
        return parts | {"type": name.removesuffix(".update_fn")} | ({} if isinstance(begin, str) else {"init": begin})

    def _of_parts(self, value: Any, parts: Mapping[str, Any], place: str) -> JSON:
        return {"type": type(value).__qualname__} | {
            name: self(part, f"{place}.{name}") for name, part in parts.items()
        }

    def _of_function(self, fn: types.FunctionType, place: str) -> JSON:
        """A function by its name and its numbers; by its name alone where it has none."""
        maker = str(fn.__globals__.get("__name__")).partition(".")[0]
        if hasattr(fn, "__wrapped__") and (maker in _WRAPPERS or "beartype" in fn.__code__.co_filename):
            return self(cast(Any, fn).__wrapped__, place)
        code, name = fn.__code__, fn.__qualname__.replace(".<locals>", "")
        parts = _closed_over(fn)
        if list(parts) == ["tx"] and isinstance(parts["tx"], optax.GradientTransformation):
            return self(parts["tx"], place)  # wrapped by optax to take more arguments
        # What a function sets itself, such as a count of its calls, is no setting. Schedules of optax set theirs to the
        # same numbers as floats.
        own = {i.argval for i in dis.get_instructions(code) if i.opname in ("STORE_DEREF", "STORE_GLOBAL")}
        if maker != "optax":
            parts = {variable: part for variable, part in parts.items() if variable not in own}
        # Not co_names, in which the names of attributes stand as well.
        for variable in sorted({i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}):
            number = fn.__globals__.get(variable)
            if variable not in own and type(number) in (int, float):
                parts[variable] = number
        defaults = [*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values()]
        if any(default is not None for default in defaults):
            parts["defaults"] = defaults
        if numbers := sorted(_constants(code)):
            parts["constants"] = numbers
        return {"type": name} | {key: self(part, f"{place}.{key}") for key, part in parts.items()} if parts else name


def _closed_over(fn: types.FunctionType) -> dict[str, Any]:
    """The variables that a function closes over."""
    found: dict[str, Any] = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # it is not set yet
            found[name] = cell.cell_contents
    return found


def _constants(code: types.CodeType) -> list[int | float]:
    """The numbers in the text of a function and of those inside it."""
    inner = [
        number for constant in code.co_consts if isinstance(constant, types.CodeType) for number in _constants(constant)
    ]
    # Not co_consts, in which small integers do not stand in every version of Python.
    read = [i.argval for i in dis.get_instructions(code) if i.opname.endswith(("CONST", "SMALL_INT"))]
    return [number for number in read if type(number) in (int, float)] + inner


def _name(value: Any) -> str:
    return str(getattr(value, "__name__", None) or value)


def _attributes(value: Any) -> dict[str, Any] | None:
    """The attributes of an object, without those that are computed when they are asked for; `None` if it hides them."""
    slots = [slot for cls in type(value).__mro__ for slot in cast(Any, getattr(cls, "__slots__", ()))]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name) and not name.startswith("__")}
    if not hasattr(value, "__dict__") and not slots and type(value) is not object:
        return None
    found |= getattr(value, "__dict__", {})
    computed = [name for name in found if isinstance(getattr(type(value), name, None), functools.cached_property)]
    return {name: part for name, part in found.items() if name not in computed and not name.startswith("__")}
