"""What a way to take the score-FPE residual has: its forms, an estimate, and an unbiased square."""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, TypeAlias

import jax
import jax.numpy as jnp
import jax.random as jr

from .._module import AbstractModule
from .._types import Event, Key, Scalar
from ..score import AbstractScore

Form: TypeAlias = Literal["gradient", "martingale", "mixed"]


class AbstractResidualMethod(AbstractModule):
    """A way to take the residual; `forms` lists what it can take, its own first.

    Its methods return the score at `(t, x)` too, from the evaluation that gave the residual: a training step that
    takes the score from there evaluates and differentiates the network once.
    """

    forms: ClassVar[tuple[Form, ...]]

    @property
    @abstractmethod
    def random(self) -> bool:
        """Whether it draws probes, and so needs a key."""

    @abstractmethod
    def residual(self, score: AbstractScore, t: Scalar, x: Event, form: Form, key: Key | None) -> tuple[Event, Event]:
        """The score, and the residual or an unbiased estimate of it."""

    @abstractmethod
    def squared_norm(
        self, score: AbstractScore, t: Scalar, x: Event, form: Form, key: Key | None
    ) -> tuple[Event, Scalar]:
        r"""The score, and $\|\varepsilon\|^2$ or an unbiased estimate of it, which may be negative [F9]."""


def two_probe_square(estimate: Callable[[Key], tuple[Event, Event]], key: Key) -> tuple[Event, Scalar]:
    r"""The score, and the product $\langle\hat\varepsilon_1, \hat\varepsilon_2\rangle$ of two independent
    estimates [F9].

    It is unbiased for $\|\varepsilon\|^2$, where $E\|\hat\varepsilon\|^2 = \|\varepsilon\|^2 + \mathrm{Var}$ is not.
    What does not depend on the probe is computed once.
    """
    s, (first, second) = jax.vmap(estimate, out_axes=(None, 0))(jr.split(key))
    return s, jnp.sum(first * second)
