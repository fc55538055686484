"""A function or network with conditioning and a dropout key closed over, and the check of what it returns."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array

from .._checks import floating, same_shape
from .._module import AbstractModule
from .._types import Event, Key, Time


class AbstractFixed(AbstractModule):
    """A network of which `fit` trains nothing."""


class Bound(AbstractModule):
    """A function called as `fn(t, x)` with the keywords `args` and `key`, as far as they are given.

    Args:
        fn: The function or network.
        args: Conditioning.
        key: A dropout key.
    """

    fn: Callable[..., Array]
    args: Any = None
    key: Key | None = None

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The event shape, where the function has a field `shape`."""
        return shape_of(self.fn)

    def __call__(self, t: Time, x: Event) -> Array:
        given = {"args": self.args, "key": self.key}
        return self.fn(t, x, **{name: value for name, value in given.items() if value is not None})


def bound(fn: Callable[..., Array], args: Any, key: Key | None) -> Bound:
    """The function with what is given closed over; what is not stays as it was bound before."""
    if not isinstance(fn, Bound):
        return Bound(fn, args, key)
    return Bound(fn.fn, fn.args if args is None else args, fn.key if key is None else key)


def value_of(name: str, fn: Callable[..., Array], t: Time, x: Event, want: str, shape: tuple[int, ...]) -> Array:
    """`fn(t, x)`, its value checked to have a shape and cast to the dtype of `x`."""
    value = floating(f"the value of {name}", fn(t, x))
    same_shape(f"the value of {name}", value.shape, want, shape)
    return value.astype(x.dtype)


def shape_of(fn: Callable[..., Array]) -> tuple[int, ...] | None:
    """The event shape of a function or network, where it has a field `shape`."""
    return getattr(fn, "shape", None)
