"""Times of an SDE, refused by name outside its horizon."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array

from ._checks import checked, is_concrete, real, require
from ._types import Time, Times

SLACK = 4 * 2.0**-23
"""How far beyond an end of the horizon a time may lie, as a share of it: it may have been rounded to float32."""


def time_or_step(t: Time, like: Array, name: str = "t") -> Array:
    """What a network takes for the time, an argument called `name`, as a scalar array of the dtype of `like`."""
    array = real(name, t)
    if array.shape != ():
        raise ValueError(f"{name} has shape {array.shape}; one time is a scalar. Batch over times with jax.vmap.")
    return array.astype(like.dtype)


def scalar_time(t: Time, like: Array, name: str = "t") -> Array:
    """The time `t`, an argument called `name`, as a scalar array of the dtype of the sample `like`."""
    no_steps(name, t)
    return time_or_step(t, like, name)


def no_steps(name: str, t: Times) -> None:
    """Refuses traced integers, which are steps of a table; those that are known are compared with the horizon."""
    leaves = jax.tree.leaves(t)
    if not all(map(is_concrete, leaves)) and jnp.issubdtype(jnp.result_type(*leaves), jnp.integer):
        raise TypeError(
            f"{name} has dtype {jnp.result_type(*leaves)}; a time is a float inside [t0, t1], the horizon of the SDE. "
            "Pass floats; the time of a step of a table is sde.time_of_step(step)."
        )


def time_within(t: Array, t0: float, t1: float, *, name: str = "t") -> Array:
    """`t`, an argument called `name`, refused outside `[t0, t1]`, by more than the rounding of an end to float32."""
    low, high = t0 - SLACK * abs(t0), t1 + SLACK * abs(t1)
    bad = ~((t >= jnp.asarray(low, t.dtype)) & (t <= jnp.asarray(high, t.dtype)))
    value = f"{name} = {float(t)}" if is_concrete(t) else name
    return checked(t, bad, _outside(value, t0, t1))


def known_time_within(t: Time, t0: float, t1: float, like: Array, *, name: str = "t") -> None:
    """Refuses a time outside `[t0, t1]`, by more than its rounding to float32 or `like`, where it is known now.

    One that is traced costs nothing and is not looked at.
    """
    if is_concrete(t):
        value = np.asarray(t, np.float64)
        require(bool(nearly_within(value, t0, t1, like.dtype).all()), _outside(f"{name} = {value}", t0, t1))


def nearly_within(values: np.ndarray, low: float, high: float, dtype: DTypeLike) -> np.ndarray:
    """Which values lie in an interval, but for the rounding of its ends to float32 or a coarser dtype."""
    slack = max(SLACK, 4 * float(jnp.finfo(dtype).eps))
    return np.asarray((low - slack * abs(low) <= values) & (values <= high + slack * abs(high)))


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


def _outside(value: str, t0: float, t1: float) -> str:
    return (
        f"{value} lies outside [t0, t1] = [{t0}, {t1}], the horizon of the SDE. "
        "Use a time inside it, or build the SDE with another horizon."
    )
