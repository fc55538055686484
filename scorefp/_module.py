"""Abstract-or-final modules.

A class is abstract, is named `Abstract…` and has no instances; or it is final and nobody inherits from it. A concrete
method is never overridden. Reading one class then tells everything about it, and the pattern of equinox's
documentation (*Abstract/final*) is checked when a class is defined.

A field that every subclass has is an `equinox.AbstractVar` of a plain base class, `_…Fields`. Type checkers take an
AbstractVar for a variable of the instance, and in a module for a dataclass field, which would come first in `__init__`
of every subclass (`VP()` would lack an argument); a plain class has no dataclass fields.

A field that is an `int` takes the integers of NumPy as well and refuses floats. Every module prints as the call that
makes it.
"""

import dataclasses
import functools
import inspect
from types import MappingProxyType
from typing import Any

import equinox as eqx

from ._checks import count
from ._describe import outlined

_EXEMPT = frozenset({"__module__", "__doc__", "__qualname__", "__init__", "__check_init__"})


def _is_abstract(cls: type) -> bool:
    return cls.__name__.lstrip("_").startswith("Abstract")


class AbstractModule(eqx.Module):
    """An `equinox.Module` whose subclasses are abstract or final.

    Raises:
        TypeError: when a class inherits from a final class, or overrides a concrete method; when an instance is made
            with a float for a field that is an `int`.

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
        _convert_counts(cls)
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

    def __repr__(self) -> str:
        return outlined(self)


def _convert_counts(cls: type) -> None:
    """Gives the fields of a class that are an `int` the conversion of `count`, before they become a dataclass's."""
    for name, annotation in inspect.get_annotations(cls).items():
        if annotation not in (int, int | None):
            continue
        default = vars(cls).get(name, dataclasses.MISSING)
        field: Any = default if isinstance(default, dataclasses.Field) else dataclasses.field(default=default)
        if "converter" not in field.metadata:
            convert = functools.partial(_count, name)
            field.metadata = MappingProxyType({**field.metadata, "converter": convert})
        setattr(cls, name, field)


def _count(name: str, n: int | None) -> int | None:
    return None if n is None else count(name, n)
