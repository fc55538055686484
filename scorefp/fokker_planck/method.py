"""Ways to take a residual: an estimate of it and an unbiased square; that of a score also has a form."""

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, TypeVar, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array

from .._module import AbstractModule
from .._precision import measures
from .._types import Event, Key, Scalar
from ..calculus import AbstractStencil
from ..score import AbstractPotential, AbstractScore

_S = TypeVar("_S")

Form: TypeAlias = Literal["gradient", "martingale", "mixed"]
"""A form of the residual of the score Fokker–Planck equation [F4], [F5], see `score_fpe_residual`."""

FORMS: tuple[Form, ...] = get_args(Form)


class AbstractMethod(AbstractModule):
    """A way to take one of the residuals."""

    remedy: ClassVar[str] = "It is a residual method, for example scorefp.Ito()."


class AbstractResidualMethod(AbstractMethod):
    """A way to take the residual of the score Fokker–Planck equation, in the form `form`.

    `random` says whether it draws probes, and so needs a key.
    Its methods return the score at `(t, x)` too, from the evaluation that gave the residual: a training step that
    takes the score from there evaluates and differentiates the network once.
    """

    if TYPE_CHECKING:
        form: ClassVar[Form]
        random: ClassVar[bool]
    else:
        form: eqx.AbstractVar[Form]
        random: eqx.AbstractVar[bool]

    @abstractmethod
    def residual(self, score: AbstractScore, t: Scalar, x: Event, key: Key | None) -> tuple[Event, Event]:
        """The score, and the residual or an unbiased estimate of it."""

    @abstractmethod
    def squared_norm(self, score: AbstractScore, t: Scalar, x: Event, key: Key | None) -> tuple[Event, Scalar]:
        r"""The score, and $\|\varepsilon\|^2$ or an unbiased estimate of it, which may be negative [F9]."""


class AbstractTwoProbeMethod(AbstractResidualMethod):
    """A way to take the residual whose square is that of two independent estimates, where it is random."""

    def squared_norm(self, score: AbstractScore, t: Scalar, x: Event, key: Key | None) -> tuple[Event, Scalar]:
        return unbiased_square(lambda k: self.residual(score, t, x, k), self.random, key)


class AbstractStencilMethod(AbstractTwoProbeMethod):
    """A way to take the residual from values of the score at a few points, without a derivative.

    A training step takes the score at the sample from the evaluation that all terms share. All products of
    `residual` are in full precision: differences lose the digits that the values have in common.
    """

    @abstractmethod
    def stencil(self, score: AbstractScore, t: Scalar, x: Event, key: Key | None) -> AbstractStencil:
        """The points, and the residual from the values there; the score itself is not evaluated."""

    @measures
    def residual(self, score: AbstractScore, t: Scalar, x: Event, key: Key | None) -> tuple[Event, Event]:
        s, stencil = score(t, x), self.stencil(score, t, x, key)
        return s, stencil.combined(s, jax.vmap(score)(*stencil.points(s)))


class AbstractLogResidualMethod(AbstractMethod):
    """A way to take the residual of the log-Fokker–Planck equation of a potential.

    `random` says whether it draws probes, and so needs a key.
    """

    if TYPE_CHECKING:
        random: ClassVar[bool]
    else:
        random: eqx.AbstractVar[bool]

    @abstractmethod
    def log_residual(
        self, potential: AbstractPotential, t: Scalar, x: Event, key: Key | None
    ) -> tuple[Event | None, Scalar]:
        """The score at `(t, x)` where the method comes by it, and the residual or an estimate of it."""

    def log_square(
        self, potential: AbstractPotential, t: Scalar, x: Event, key: Key | None
    ) -> tuple[Event | None, Scalar]:
        """The score, and the square of the residual from two independent estimates where it is random [F16]."""
        return unbiased_square(lambda k: self.log_residual(potential, t, x, k), self.random, key)


def unbiased_square(
    estimate: Callable[[Key | None], tuple[_S, Array]], random: bool, key: Key | None
) -> tuple[_S, Scalar]:
    r"""The score, and the squared norm of an estimate: where it is random, the product
    $\langle\hat\varepsilon_1, \hat\varepsilon_2\rangle$ of two independent ones [F9].

    That is unbiased for $\|\varepsilon\|^2$, where $E\|\hat\varepsilon\|^2 = \|\varepsilon\|^2 + \mathrm{Var}$ is not.
    What does not depend on the probe is computed once.
    """
    if key is None or not random:
        s, value = estimate(key)
        return s, jnp.sum(value**2)
    s, (first, second) = jax.vmap(estimate, out_axes=(None, 0))(jr.split(key))
    return s, jnp.sum(first * second)
