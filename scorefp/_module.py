"""Abstract-or-final modules.

A class is abstract, is named `Abstract…` and has no instances; or it is final and nobody inherits from it. A concrete
method is never overridden. Reading one class then tells everything about it, and the pattern of equinox's
documentation (*Abstract/final*) is checked when a class is defined.

A field that every subclass has is an `equinox.AbstractVar` of a plain base class, `_…Fields`. Type checkers take an
AbstractVar for a variable of the instance, and in a module for a dataclass field, which would come first in `__init__`
of every subclass (`VP()` would lack an argument); a plain class has no dataclass fields.

A field of a class of this library is what its annotation says, and refused by its name where it is something else: an
`int` (of NumPy too, no float), a `float` that is a finite number, a `bool`, a word of a `Literal`, an event shape, a
module of its class, a function of so many arguments. Of classes of others only an `int` is: what else an annotation
means is theirs to say. Every module prints as the call that makes it.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from types import MappingProxyType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin

import equinox as eqx

from ._checks import callable_with, count, event_shape, flag, is_abstract, kind, number, one_of
from ._describe import outlined

_EXEMPT = frozenset({"__module__", "__doc__", "__qualname__", "__init__", "__check_init__"})


def _is_own(cls: type) -> bool:
    """Whether a class is one of this library."""
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


class AbstractModule(eqx.Module):
    """An `equinox.Module` whose subclasses are abstract or final.

    A class may say in a class variable `remedy` what to do where something else is given in its place; else the classes
    that there are get named.

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
        _convert(cls)
        ancestors = [base for base in cls.__mro__[1:] if issubclass(base, AbstractModule)]
        for base in ancestors:
            if not is_abstract(base):
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
        if not _is_own(type(self)):
            return
        # Last of all checks: those of the class itself know better remedies.
        modules, functions = _held(type(self))
        for name, allowed in modules.items():
            kind(name, getattr(self, name), allowed)
        for name, (optional, arguments) in functions.items():
            if not (optional and getattr(self, name) is None):
                callable_with(name, getattr(self, name), arguments)

    def __repr__(self) -> str:
        return outlined(self)


_PLAIN: dict[Any, Callable[[str, Any], Any]] = {int: count, float: number, bool: flag}


def _convert(cls: type) -> None:
    """Gives the fields of a class the checks of their annotations, before they become a dataclass's."""
    for name, annotation in inspect.get_annotations(cls).items():
        check = _check_of(annotation) if _is_own(cls) or annotation in (int, int | None) else None
        if check is None:
            continue
        default = vars(cls).get(name, dataclasses.MISSING)
        field: Any = default if isinstance(default, dataclasses.Field) else dataclasses.field(default=default)
        if "converter" not in field.metadata:
            convert = functools.partial(_unless_none, name, check, type(None) in _alternatives(annotation))
            field.metadata = MappingProxyType({**field.metadata, "converter": convert})
        setattr(cls, name, field)


def _check_of(annotation: Any) -> Callable[[str, Any], Any] | None:
    """The check that an annotation asks for, if any."""
    required = [k for k in _alternatives(annotation) if k is not type(None)]
    if modules := _modules(annotation):
        return functools.partial(_module, modules)
    (only,) = required if len(required) == 1 else (None,)
    if get_origin(only) is Literal:
        return functools.partial(_word, get_args(only))
    if get_origin(only) is tuple and set(get_args(only)) <= {int, Ellipsis}:
        return lambda name, shape: event_shape(shape, name)
    return _PLAIN.get(only) if isinstance(only, type) else None


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _unless_none(name: str, check: Callable[[str, Any], Any], optional: bool, value: Any) -> Any:
    return None if optional and value is None else check(name, value)


def _word(words: tuple[str, ...], name: str, value: Any) -> Any:
    return one_of(name, value, words)


def _module(allowed: tuple[type, ...], name: str, value: Any) -> Any:
    """A module, refused unless it is of the kind; what comes close is left to the class, where it has a remedy."""
    close = (next((base for base in cls.__mro__ if "remedy" in vars(base)), cls) for cls in allowed if is_abstract(cls))
    return kind(name, value, tuple(dict.fromkeys((*allowed, *close))))


def _modules(annotation: Any) -> tuple[type, ...]:
    """The modules that an annotation allows, `None` among them where it does; empty where it allows anything else."""
    allowed = _alternatives(annotation)
    plain = all(isinstance(k, type) and get_origin(k) is None for k in allowed)
    return allowed if plain and all(k is type(None) or issubclass(k, AbstractModule) for k in allowed) else ()


@functools.cache
def _held(cls: type) -> tuple[dict[str, tuple[type, ...]], dict[str, tuple[bool, int | None]]]:
    """The fields of a class that are modules, with what their annotations allow, and those that are functions, with
    whether they may be left out and how many arguments they take.
    """
    modules, functions = dict[str, tuple[type, ...]](), dict[str, tuple[bool, int | None]]()
    for field in dataclasses.fields(cast(Any, cls)):
        if allowed := _modules(field.type):
            modules[field.name] = allowed
        kinds = _alternatives(field.type)
        signatures = [get_args(k)[0] for k in kinds if get_origin(k) is Callable]
        rest = [k for k in kinds if get_origin(k) is not Callable and k is not type(None)]
        # A module beside a function, such as a grid of its own class, is called in the same way.
        if len(signatures) == 1 and all(isinstance(k, type) and issubclass(k, AbstractModule) for k in rest):
            (arguments,) = signatures
            functions[field.name] = type(None) in kinds, None if arguments is Ellipsis else len(arguments)
    return modules, functions
