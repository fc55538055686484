"""Abstract-or-final modules.

A class is abstract, is named `Abstract…` and has no instances; or it is final and nobody inherits from it. A concrete
method is never overridden. Reading one class then tells everything about it, and the pattern of equinox's
documentation (*Abstract/final*) is checked when a class is defined.

A field that every subclass has is an `equinox.AbstractVar` of a plain base class, `_…Fields`. Type checkers take an
AbstractVar for a variable of the instance, and in a module for a dataclass field, which would come first in `__init__`
of every subclass (`VP()` would lack an argument); a plain class has no dataclass fields.

A field is what its annotation says, and refused by its name where it is something else: an `int` (of NumPy too, no
float), a `float` that is a number, a `bool`, a word of a `Literal`, a module of its class. Every module prints as the
call that makes it.
"""

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from types import MappingProxyType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin

import equinox as eqx

from ._checks import count, flag, kind, number, one_of
from ._describe import outlined

_EXEMPT = frozenset({"__module__", "__doc__", "__qualname__", "__init__", "__check_init__"})


def _is_abstract(cls: type) -> bool:
    return cls.__name__.lstrip("_").startswith("Abstract")


class AbstractModule(eqx.Module):
    """An `equinox.Module` whose subclasses are abstract or final.

    Raises:
        TypeError: when a class inherits from a final class, or overrides a concrete method; when an instance is made
            with a field of another kind than it is annotated with.
        ValueError: when a number is NaN, or a word is none of those that are allowed.

    Example:
        >>> class Circle(AbstractModule):
        ...     radius: float
        >>> class Disc(Circle):
        ...     pass
        Traceback (most recent call last):
            ...
        TypeError: Disc inherits from Circle, which is final. ...
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _convert_plain(cls)
        ancestors = [base for base in cls.__mro__[1:] if issubclass(base, AbstractModule)]
        for base in ancestors:
            if not _is_abstract(base):
                raise TypeError(
                    f"{cls.__name__} inherits from {base.__name__}, which is final. "
                    f"Inherit from an abstract class, or hold a {base.__name__} as a field."
                )
        for name, member in vars(cls).items():
            if name in _EXEMPT or not (callable(member) or isinstance(member, property)):
                continue
            for base in ancestors:
                inherited = vars(base).get(name)
                if inherited is None or base is AbstractModule:
                    continue
                if not getattr(inherited, "__isabstractmethod__", False):
                    raise TypeError(
                        f"{cls.__name__}.{name} overrides the concrete {base.__name__}.{name}. "
                        "Only abstract methods are implemented by subclasses."
                    )

    def __check_init__(self) -> None:
        # Last of all checks: those of the class itself know better remedies.
        for name, allowed in _held_modules(type(self)):
            kind(name, getattr(self, name), allowed, _choice(allowed))

    def __repr__(self) -> str:
        return outlined(self)


_PLAIN: dict[Any, Callable[[str, Any], Any]] = {int: count, float: number, bool: flag}


def _convert_plain(cls: type) -> None:
    """Gives the fields of a class that are numbers or words their checks, before they become a dataclass's."""
    for name, annotation in inspect.get_annotations(cls).items():
        kinds = _alternatives(annotation)
        required = [k for k in kinds if k is not type(None)]
        (only,) = required if len(required) == 1 else (None,)
        words = get_args(only) if get_origin(only) is Literal else ()
        check = functools.partial(_word, words) if words else _PLAIN.get(only) if isinstance(only, type) else None
        if check is None:
            continue
        default = vars(cls).get(name, dataclasses.MISSING)
        field: Any = default if isinstance(default, dataclasses.Field) else dataclasses.field(default=default)
        if "converter" not in field.metadata:
            convert = functools.partial(_unless_none, name, check, len(required) < len(kinds))
            field.metadata = MappingProxyType({**field.metadata, "converter": convert})
        setattr(cls, name, field)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _unless_none(name: str, check: Callable[[str, Any], Any], optional: bool, value: Any) -> Any:
    return None if optional and value is None else check(name, value)


def _word(words: tuple[str, ...], name: str, value: Any) -> Any:
    return one_of(name, value, words)


@functools.cache
def _held_modules(cls: type) -> tuple[tuple[str, tuple[type, ...]], ...]:
    """The fields of a class that are modules, with what their annotations allow."""

    def found() -> Iterator[tuple[str, tuple[type, ...]]]:
        for field in dataclasses.fields(cast(Any, cls)):
            annotation = field.type
            kinds = _alternatives(annotation)
            plain = tuple(k for k in kinds if isinstance(k, type) and get_origin(k) is None)
            if len(plain) == len(kinds) and all(k is type(None) or issubclass(k, AbstractModule) for k in plain):
                yield field.name, plain

    return tuple(found())


def _choice(allowed: tuple[type, ...]) -> str:
    """What a field takes, in words."""

    def final(cls: type) -> Iterator[str]:
        package = sys.modules.get(cls.__module__.rpartition(".")[0])
        if not _is_abstract(cls) and hasattr(package, cls.__name__):  # public
            yield f"{cls.__name__}(…)"
        for below in cls.__subclasses__():
            yield from final(below)

    names = [name for cls in allowed for name in (["None"] if cls is type(None) else sorted(set(final(cls))))]
    return f"It is {' or '.join(names)}." if len(names) < 9 else f"It is {', '.join(names[:8])} or another of its kind."
