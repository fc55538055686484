"""The precision of a score beside that of the state."""

from collections.abc import Iterator
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._times import scalar_time
from .._types import Event, Time
from ..score import AbstractComposition, AbstractScore
from ..sde import AbstractSDE


class InItsPrecision(AbstractScore):
    """A score whose own arrays set the precision it is evaluated in, whatever that of the state."""

    score: AbstractScore

    conditions: ClassVar[tuple[str, ...]] = ("score",)

    @property
    def sde(self) -> AbstractSDE:
        return self.score.sde

    @property
    def shape(self) -> tuple[int, ...] | None:
        return self.score.shape

    def __call__(self, t: Time, x: Event) -> Event:
        inner = in_its_precision(self.score, x)
        return self.score(scalar_time(t, inner), inner).astype(x.dtype)


def in_its_precision(score: AbstractScore, x: Event) -> Event:
    """A state in the precision that the score's own arrays have, where it has any."""
    own = [leaf.dtype for leaf in _own_arrays(score)]
    return x.astype(jnp.result_type(*own)) if own else x


def _own_arrays(part: Any) -> Iterator[Array]:
    """The floats of a score but for exponents, which follow the state: a number of Python has no precision to set."""
    composed = lambda node: isinstance(node, AbstractComposition)
    for leaf in jax.tree.leaves(part, is_leaf=composed):
        if composed(leaf):
            yield from _own_arrays(leaf.scores)
        elif eqx.is_inexact_array(leaf):
            yield leaf
