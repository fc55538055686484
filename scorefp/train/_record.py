"""The record of a checkpoint, `facts.json`: sealed with a digest of itself, and looked at in every part when read."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from .._describe import JSON

FACTS = "facts.json"
_FORMAT = {"format": "scorefp checkpoint", "version": 4}
_LARGEST = 2**27
"""Bytes of a record. One of ten thousand arrays has about two million."""
_DEEPEST = 100
"""Levels of a record. A configuration has at most half of them."""
_AXES = 64
"""Axes of an array, as numpy has them."""


class UnfitError(ValueError):
    """The reason why a folder is no good checkpoint, as the end of a sentence about it."""


def sealed(content: Mapping[str, JSON]) -> str:
    """The text of a record with this content."""
    # To JSON and back, so that the digest is that of what a reader finds.
    content = json.loads(json.dumps(content))
    return json.dumps(_FORMAT | {"digest": digest_of(content), "content": content}, indent=1)


def opened(folder: Path, step: int) -> dict[str, Any]:
    """The content of the record of a step, found whole and of the kinds that it was written with.

    Raises:
        UnfitError: if it is not.
    """
    file = folder / FACTS
    if not file.is_file():
        raise UnfitError(f"is not a checkpoint of scorefp, or a damaged one: it has no {FACTS}.")
    try:
        if file.stat().st_size > _LARGEST:
            raise UnfitError(f"is damaged: {FACTS} has more than {_LARGEST} bytes.")
        record = json.loads(file.read_bytes())
    except OSError as error:
        raise UnfitError(f"cannot be read: {FACTS}: {reason(error)}.") from None
    except RecursionError:
        raise UnfitError(f"is damaged: {FACTS} is nested too deeply.") from None
    except ValueError as error:
        if isinstance(error, UnfitError):
            raise
        raise UnfitError(f"is damaged: {FACTS} is not JSON.") from None
    if not isinstance(record, dict) or cast(Any, record).get("format") != _FORMAT["format"]:
        raise UnfitError("is not a checkpoint of scorefp.")
    record = cast(dict[str, Any], record)
    if record.get("version") != _FORMAT["version"]:
        raise UnfitError(
            f"is written in version {record.get('version')} of the format; this scorefp reads version "
            f"{_FORMAT['version']}. Use the release that wrote it."
        )
    content = record.get("content")
    if _is_deeper(content, _DEEPEST):
        raise UnfitError(f"is damaged: {FACTS} is nested too deeply.")
    if record.get("digest") != digest_of(content):
        raise UnfitError(f"is damaged: {FACTS} was altered.")
    if fault := _fault(content):
        raise UnfitError(f"is damaged: {FACTS} was altered: {fault}.")
    content = cast(dict[str, Any], content)
    if content["step"] != step:
        raise UnfitError(f"is damaged: it was saved as step {content['step']}.")
    return content


def digest_of(content: JSON) -> str:
    """The digest of a content, by the one way of writing JSON that has one."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def reason(error: BaseException) -> str:
    """An error in one line: the words of the operating system, where it is one of those."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    # Tensorstore puts the system's words last, and their number behind them.
    text = text.partition(" [os_error_code")[0].rpartition(": ")[2] if "[os_error_code" in text else text
    return text[:200] or type(error).__name__


def _fault(content: Any) -> str:
    """The first part of a content that is of another kind than it was written with; empty where there is none."""
    kinds = {"step": int, "metrics": dict, "versions": dict, "leaves": dict, "files": dict, "facts": dict}
    if not isinstance(content, dict):
        return f"its content is {_told(content)}"
    content = cast(dict[str, Any], content)
    for name, kind in kinds.items():
        if type(content.get(name)) is not kind:
            return f"{name} is {_told(content.get(name))}"
    if content["step"] < 0:
        return f"step is {content['step']}"
    inner = {"metrics": (int, float), "versions": (str,), "files": (str,)}
    for part, kinds_within in inner.items():
        for name, value in content[part].items():
            if type(value) not in kinds_within:
                return f"{part}.{name} is {_told(value)}"
    for name, form in content["leaves"].items():
        if not _is_form(form):
            return f"leaves.{name} is no shape, dtype and kind of key"
    return ""


def _is_form(form: Any) -> bool:
    """Whether this describes an array."""
    if not isinstance(form, dict) or cast(Any, form).keys() != {"shape", "dtype", "key"}:
        return False
    shape, dtype, key = (cast(Any, form)[name] for name in ("shape", "dtype", "key"))
    sizes = (
        isinstance(shape, list)
        and len(cast(Any, shape)) <= _AXES
        and all(type(size) is int and size >= 0 for size in cast(Any, shape))
    )
    return sizes and isinstance(dtype, str) and isinstance(key, str | None)


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether a value is nested beyond so many levels."""
    layer = [value]
    for _ in range(levels):
        inner = [
            cast(Any, part.values() if isinstance(part, dict) else part)
            for part in layer
            if isinstance(part, dict | list)
        ]
        layer = [part for parts in inner for part in parts]
    return any(isinstance(part, dict | list) for part in layer)


def _told(value: Any) -> str:
    names = {
        dict: "a mapping",
        list: "a list",
        str: "a word",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return "absent" if value is None else names.get(type(value), "of another kind")
