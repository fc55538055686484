"""What a way to take a residual has: an estimate and an unbiased square; for the score also its forms."""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array

from .._module import AbstractModule
from .._types import Event, Key, Scalar
from ..score import AbstractPotential, AbstractScore

_S = TypeVar("_S")

Form: TypeAlias = Literal["gradient", "martingale", "mixed"]
"""A form of the residual of the score Fokker–Planck equation [F4], [F5], see `score_fpe_residual`."""


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


class AbstractLogResidualMethod(AbstractModule):
    """A way to take the residual of the log-Fokker–Planck equation of a potential."""

    @property
    @abstractmethod
    def random(self) -> bool:
        """Whether it draws probes, and so needs a key."""

    @abstractmethod
    def log_residual(
        self, potential: AbstractPotential, t: Scalar, x: Event, key: Key | None
    ) -> tuple[Event | None, Scalar]:
        """The score at `(t, x)` where the method comes by it, and the residual or an estimate of it."""

    def log_square(
        self, potential: AbstractPotential, t: Scalar, x: Event, key: Key | None
    ) -> tuple[Event | None, Scalar]:
        """The score, and the square of the residual from two independent estimates where it is random [F16]."""
        if key is None or not self.random:
            s, residual = self.log_residual(potential, t, x, key)
            return s, residual**2
        return two_probe_square(lambda k: self.log_residual(potential, t, x, k), key)


def two_probe_square(estimate: Callable[[Key], tuple[_S, Array]], key: Key) -> tuple[_S, Scalar]:
    r"""The score, and the product $\langle\hat\varepsilon_1, \hat\varepsilon_2\rangle$ of two independent
    estimates [F9].

    It is unbiased for $\|\varepsilon\|^2$, where $E\|\hat\varepsilon\|^2 = \|\varepsilon\|^2 + \mathrm{Var}$ is not.
    What does not depend on the probe is computed once.
    """
    s, (first, second) = jax.vmap(estimate, out_axes=(None, 0))(jr.split(key))
    return s, jnp.sum(first * second)
