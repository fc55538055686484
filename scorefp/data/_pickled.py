"""Pickles of plain values and arrays of bytes, read without unpickling: nothing in the file is ever called."""

import dataclasses
import math
import pickletools
from pathlib import Path
from typing import Any, final

import numpy as np

from .._checks import require

_ARRAYS = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_BUFFERS = ("numpy.core.numeric _frombuffer", "numpy._core.numeric _frombuffer")
_ALLOWED = (*_ARRAYS, *_BUFFERS, "numpy ndarray", "numpy dtype", "_codecs encode")
"""What a pickle of an array names, by the numpy that wrote it and the protocol."""

_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MARK = object()


@final
@dataclasses.dataclass
class _Called:
    """A name in the file, with what the file wants it to be called with and its state, all kept as data."""

    name: str
    args: Any = None
    state: Any = None


def read_pickled(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle: numbers, words, lists, and arrays of unsigned bytes.

    The instructions of the file are followed on a stack here, as `pickle` would, but names are kept as words: there is
    nothing to call, and memory is taken for what the file holds alone.

    Raises:
        ValueError: if the file is damaged, holds anything else, or names what such arrays do not need.
    """
    data = path.read_bytes()
    try:
        found = _followed(path, data)
        require(isinstance(found, dict), f"it holds a {type(found).__name__} and no dictionary")
        return {key if isinstance(key, str) else key.decode(): _value(value) for key, value in found.items()}
    except _NameError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # a damaged file raises many kinds
        raise ValueError(
            f"{path} cannot be read: {str(error).removesuffix('.') or type(error).__name__}. It is damaged, or no "
            "pickle of a dictionary with arrays of bytes."
        ) from error


class _NameError(ValueError):
    pass


def _followed(path: Path, data: bytes) -> Any:
    """What is on the stack at the end of the instructions."""
    stack, memo = list[Any](), dict[int, Any]()
    argument: Any  # of the type that the instruction has
    for opcode, argument, _ in pickletools.genops(data):
        match opcode.name:
            case name if name in _VALUES:
                stack.append(argument)
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                stack.append(_MARK)
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[opcode.name]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE":
                stack.append(tuple(_popped(stack)))
            case "LIST":
                stack.append(_popped(stack))
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items = _popped(stack)
                stack[-1].extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                stack[-1][key] = value
            case "SETITEMS":
                items = _popped(stack)
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_named(path, argument))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_named(path, f"{module} {name}"))
            case "REDUCE":
                args, called = stack.pop(), stack.pop()
                stack.append(_Called(called.name, args))
            case "BUILD":
                state, called = stack.pop(), stack.pop()
                called.state = state  # in place, as the memo may hold it
                stack.append(called)
            case "STOP":
                return stack.pop()
            case name:
                raise ValueError(f"it has the instruction {name}, which arrays and values of protocol 2 do not need")
    raise AssertionError("genops ends with STOP")


def _popped(stack: list[Any]) -> list[Any]:
    """What lies on the stack above the last mark, which goes too."""
    items = list[Any]()
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _named(path: Path, name: str) -> _Called:
    if name not in _ALLOWED:
        raise _NameError(
            f"{path} names {name.replace(' ', '.')}, which an array of bytes does not need; nothing of it was run. Do "
            "not unpickle this file."
        )
    return _Called(name)


def _value(value: Any) -> Any:
    """A plain value, or an array of what the file wants to be called."""
    if not isinstance(value, _Called):
        return value
    if value.name in _ARRAYS:
        _, shape, dtype, fortran, raw = value.state
        order = "F" if fortran else "C"
    elif value.name in _BUFFERS:
        raw, dtype, shape, order = value.args
    else:
        raise ValueError(f"it has a value of {value.name.replace(' ', '.')}")
    require(dtype.name == "numpy dtype", "an array in it has no type")
    code = dtype.args[0] if isinstance(dtype.args[0], str) else dtype.args[0].decode()
    require(code in ("u1", "|u1", "B"), f"an array in it has the type {code!r}, and pixels are unsigned bytes, 'u1'")
    content = _bytes(raw)
    require(
        len(content) == math.prod(shape) and min(shape, default=0) >= 0,
        f"an array in it says the shape {shape}, and has {len(content)} bytes",
    )
    return np.frombuffer(content, np.uint8).reshape(shape, order=order)


def _bytes(raw: Any) -> bytes | bytearray:
    """Bytes, which Python 2 writes as a word, and Python 3 with an old protocol as a word to encode."""
    if isinstance(raw, _Called):
        require(
            raw.name == "_codecs encode" and raw.args[1:] in ((), ("latin1",), ("latin-1",)),
            f"an array in it has the content {raw.name.replace(' ', '.')}, and not bytes",
        )
    held = raw.args[0] if isinstance(raw, _Called) else raw
    return held.encode("latin-1") if isinstance(held, str) else held
