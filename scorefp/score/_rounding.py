"""A score that rounds to half precision is measured as it is, and a warning tells so."""

import contextlib
import warnings
from collections.abc import Generator
from contextvars import ContextVar

import jax.numpy as jnp

from .._precision import measures
from .._types import Event
from ..calculus._rounding import coarsest_dtype
from ..nn._layers import is_half
from .score import AbstractScore

_told = ContextVar("told", default=False)


@measures
def tell_of_rounding(score: AbstractScore, x: Event) -> None:
    """Warns of a score that rounds to half precision in a measurement too, as no network of `scorefp.nn` does.

    The score is traced once. Call it where a program is compiled, which is told of once.

    Args:
        score: The score, with its conditioning closed over.
        x: One sample; only its shape and dtype count.
    """
    if _told.get():
        return
    try:
        dtype = coarsest_dtype(score, jnp.asarray(0.5 * (score.sde.t0 + score.sde.t1), x.dtype), x)
    except Exception:  # a score that fails does so where it is measured, by name
        return
    if is_half(dtype):
        warnings.warn(
            f"the score rounds to {dtype} inside, and is measured as it is: its derivatives and differences are noise "
            "where rounding is, and an adaptive solver takes many more steps. Give its network a field for the "
            "precision, and measure it with float32 there.",
            stacklevel=1,  # one place, whoever calls: by default Python shows it once
        )


@contextlib.contextmanager
def rounding_told() -> Generator[None, None, None]:
    """What is traced inside is not told of again."""
    token = _told.set(True)
    try:
        yield
    finally:
        _told.reset(token)
