"""Abstract-or-final modules.

A class is abstract, is named `Abstract…` and has no instances; or it is final and nobody inherits from it. A concrete
method is never overridden. Reading one class then tells everything about it, and the pattern of equinox's
documentation (*Abstract/final*) is checked when a class is defined.

A field that every subclass has is an `equinox.AbstractVar` of a plain base class, `_…Fields`. Type checkers take an
AbstractVar for a variable of the instance, and in a module for a dataclass field, which would come first in `__init__`
of every subclass (`VP()` would lack an argument); a plain class has no dataclass fields.
"""

from typing import Any

import equinox as eqx

_EXEMPT = frozenset({"__module__", "__doc__", "__qualname__", "__init__", "__check_init__"})


def _is_abstract(cls: type) -> bool:
    return cls.__name__.lstrip("_").startswith("Abstract")


class AbstractModule(eqx.Module):
    """An `equinox.Module` whose subclasses are abstract or final.

    Raises:
        TypeError: when a class inherits from a final class, or overrides a concrete method.

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
