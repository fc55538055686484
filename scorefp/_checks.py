"""Early, clear errors. Each names the argument, its value, what is allowed and the remedy."""

from typing import Any, TypeVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool

from ._types import Key, Time

_T = TypeVar("_T")


def is_concrete(value: Any) -> bool:
    """Whether `value` is known now, outside any `jit`, `vmap` or `grad`."""
    return not isinstance(value, Tracer)


def require(condition: bool, message: str) -> None:
    """Raises `ValueError(message)` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def floating(name: str, x: ArrayLike) -> Array:
    """`x` as an array, refused with `TypeError` unless its dtype is floating."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{name} has dtype {x.dtype}; a sample is an array of floats. Convert it first, "
            f"for example {name}.astype(jnp.float32), or dequantise integer data with UniformDequantiser."
        )
    return x


def same_shape(name: str, got: tuple[int, ...], reference: str, want: tuple[int, ...]) -> None:
    """Refuses two different shapes, broadcastable or not."""
    if got != want:
        raise ValueError(
            f"{name} has shape {got}, but {reference} has shape {want}; the two must be equal and are never "
            f"broadcast. These functions take one sample: batch them with jax.vmap."
        )


def scalar_time(t: Time, like: Array) -> Array:
    """The time `t` as a scalar array of the dtype of the sample `like`."""
    t = jnp.asarray(t, dtype=like.dtype)
    if t.shape != ():
        raise ValueError(f"t has shape {t.shape}; one time is a scalar. Batch over times with jax.vmap.")
    return t


def checked(value: _T, bad: Bool[ArrayLike, ""], message: str) -> _T:
    """`value`, with `message` raised when `bad` is true.

    A known `bad` raises `ValueError` here and costs nothing inside `jit`; one known only at run time goes
    through `equinox.error_if`.
    """
    if is_concrete(bad):
        if bool(np.any(np.asarray(bad))):
            raise ValueError(message)
        return value
    return eqx.error_if(value, bad, message)


def finite(name: str, x: Array) -> Array:
    """`x`, refused when it holds NaN or infinite entries."""
    message = f"{name} holds NaN or infinite entries; clean the data or find the step that made them."
    return checked(x, ~jnp.all(jnp.isfinite(x)), message)


def time_within(t: Array, t0: float, t1: float, *, name: str = "t") -> Array:
    """`t`, an argument called `name`, refused outside `[t0, t1]` (compared in the dtype of `t`)."""
    bad = ~((t >= jnp.asarray(t0, t.dtype)) & (t <= jnp.asarray(t1, t.dtype)))
    value = f"{name} = {float(t)}" if is_concrete(t) else name
    message = (
        f"{value} lies outside [t0, t1] = [{t0}, {t1}], the horizon of the SDE. "
        "Use a time inside it, or build the SDE with another horizon."
    )
    return checked(t, bad, message)


def check_interval(start: float | None, stop: float | None) -> None:
    """Refuses an empty or reversed interval of times; `None` is an end of the horizon."""
    require(
        start is None or stop is None or start < stop,
        f"the interval of times is [start, stop] = [{start}, {stop}]; it needs start < stop.",
    )


def interval_within(start: float | None, stop: float | None, t0: float, t1: float) -> tuple[float, float]:
    """An interval of times with its ends filled in, refused where it leaves the horizon `[t0, t1]`."""
    first, last = t0 if start is None else start, t1 if stop is None else stop
    require(
        t0 <= first < last <= t1,
        f"the interval of times [start, stop] = [{first}, {last}] is not inside [t0, t1] = [{t0}, {t1}], the horizon "
        "of the SDE. Choose another, or leave an end out.",
    )
    return first, last


def one_of(name: str, value: _T, allowed: tuple[_T, ...]) -> _T:
    """`value`, an argument called `name`, refused unless it is one of the words that are allowed."""
    require(value in allowed, f"{name} = {value!r}; it is {' or '.join(map(repr, allowed))}.")
    return value


def random_key(what: str, key: Key | None) -> Key:
    """The random key of `what`, refused where there is none."""
    if key is None:
        raise ValueError(f"key is None, but {what} draws random numbers; pass key=jax.random.key(seed).")
    return key


def needs_key(what: str, key: Any) -> None:
    """Refuses a stochastic method without a random key."""
    if key is None:
        raise ValueError(f"key is None, but {what} draws random probes; pass key=jax.random.key(seed).")
