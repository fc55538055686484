"""Potentials: a scalar function of time and one sample, whose gradient is a score."""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax

from .._checks import kind
from .._describe import name_of
from .._types import Event, Scalar, Time
from ..sde import AbstractSDE
from ._bound import value_of
from .score import AbstractScore, arguments, check_fields


class AbstractPotential(AbstractScore):
    r"""A model $\varphi(t, x)$ of $\log q_t(x)$ up to a function of time; its score is $\nabla\varphi$.

    A potential is a score whose curl vanishes by construction.
    """

    @abstractmethod
    def potential(self, t: Time, x: Event) -> Scalar:
        r"""The potential $\varphi$ at one time and one sample."""

    def __call__(self, t: Time, x: Event) -> Event:
        return jax.grad(self.potential, argnums=1)(*arguments(self, t, x))

    def derivatives(self, t: Time, x: Event) -> tuple[Scalar, Scalar, Event]:
        r"""The potential $\varphi$, its time derivative $\partial_t\varphi$ and its score $\nabla\varphi$, from one
        evaluation and one reverse pass.

        Example:
            >>> import jax.numpy as jnp, scorefp as sfp
            >>> phi = sfp.Potential(lambda t, x: t * (x**2).sum(), sfp.VP())
            >>> value, slope, score = phi.derivatives(0.5, jnp.array([2.0]))
            >>> float(value), float(slope), float(score[0])
            (2.0, 4.0, 2.0)
        """
        value, (slope, score) = jax.value_and_grad(self.potential, argnums=(0, 1))(*arguments(self, t, x))
        return value, slope, score


class Potential(AbstractPotential):
    r"""A potential from any scalar callable `fn(t, x)`; calling it gives $\nabla\varphi$, `.potential(t, x)` gives
    $\varphi$.

    Args:
        fn: The potential, called as `fn(t, x)`; what `bind` closes over follows as keywords.
        sde: The forward process.
        shape: The event shape, where it is known: `sample` then does not ask for it, and an `x` of another one is
            refused.

    Raises:
        TypeError: if `fn` does not take `(t, x)`; on a call, if `x` or the value of `fn` is not floating, or `t` not
            real.
        ValueError: on a call, if `x` has another shape than `shape`, or the value of `fn` is not a scalar (a score goes
            into `Score`); where they are known, if `x` is not finite or `t` outside the horizon.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> phi = sfp.Potential(lambda t, x: -0.5 * (x**2).sum(), sfp.VP())
        >>> float(phi(0.5, jnp.array([2.0]))[0])
        -2.0
    """

    fn: Callable[..., Scalar]
    sde: AbstractSDE
    shape: tuple[int, ...] | None = eqx.field(default=None, static=True)

    conditions: ClassVar[tuple[str, ...]] = ("fn",)

    def __check_init__(self) -> None:
        check_fields(self, "fn")

    def potential(self, t: Time, x: Event) -> Scalar:
        t, x = arguments(self, t, x)
        return value_of("fn", self.fn, t, x, "a scalar potential (a score goes into Score)", ())


def require_potential(score: AbstractScore, name: str = "potential") -> AbstractPotential:
    """The score itself, an argument called `name`, where it is a potential."""
    kind(name, score, AbstractScore, "Wrap a scalar function with Potential(fn, sde).")
    if not isinstance(score, AbstractPotential):
        raise TypeError(
            f"{name} is a {name_of(score)}, a score without a potential: its log-density is not known. "
            "Wrap a scalar function with Potential(fn, sde), or use score_fpe_residual."
        )
    return score
