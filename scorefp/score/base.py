"""Scores and potentials: a function of time and one sample, with the SDE it belongs to."""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import equinox as eqx
import jax
from jaxtyping import Array, Int

from .._checks import floating, same_shape, scalar_time
from .._module import AbstractModule
from .._types import Event, Key, Scalar, Time
from ..sde import AbstractLinearSDE, AbstractSDE, require_linear

_S = TypeVar("_S", bound="AbstractScore")


class _ScoreFields:
    sde: eqx.AbstractVar[AbstractSDE]
    shape: eqx.AbstractVar[tuple[int, ...] | None]


class AbstractScore(AbstractModule, _ScoreFields):
    r"""A model $s(t, x)$ of the score $\nabla\log q_t(x)$, with the SDE whose marginals $q_t$ it scores.

    `shape` is the event shape where the score knows it, else `None`; `given` names the fields that training leaves
    alone.
    """

    given: ClassVar[tuple[str, ...]] = ("sde", "args")

    @abstractmethod
    def __call__(self, t: Time, x: Event) -> Event:
        """The score at one time and one sample."""

    @abstractmethod
    def bind(self: _S, *, args: Any = None, key: Key | None = None) -> _S:
        """The same score with conditioning and a dropout key closed over.

        Only what is given reaches the function or network, as keyword arguments `args` and `key`; the mathematics
        sees a function of `(t, x)` alone.
        """

    def trained(self: _S) -> _S:
        """The leaves that training changes: this score with a truth value in the place of each.

        They are the floating arrays, but for those of the SDE and of what the score knows of its data: the fields in
        `given`.

        Example:
            >>> import equinox as eqx, jax, scorefp as sfp
            >>> network = sfp.nn.MLP(shape=(2,), width=8, key=jax.random.key(0))
            >>> score = sfp.NoiseScore(network, sfp.VP(), data_std=jax.numpy.ones(2))
            >>> params, rest = eqx.partition(score, score.trained())
            >>> params.data_std is None, rest.data_std.shape
            (True, (2,))
        """
        held = [getattr(self, name, None) for name in self.given]
        ids = {id(leaf) for leaf in jax.tree.leaves(held) if eqx.is_array(leaf)}

        def inner(node: Any) -> bool:
            return isinstance(node, AbstractScore) and node is not self

        def of(node: Any) -> Any:
            return node.trained() if inner(node) else eqx.is_inexact_array(node) and id(node) not in ids

        return jax.tree.map(of, self, is_leaf=inner)

    def noise(self, t: Time, x: Event) -> Event:
        r"""The noise prediction $\epsilon = -\sigma s$ [P1].

        Raises:
            TypeError: if the SDE has no Gaussian kernel.
        """
        return -linear_sde(self).sigma(scalar_time(t, x)) * self(t, x)

    def denoise(self, t: Time, x: Event) -> Event:
        r"""The denoiser $h = E[x_0 \mid x_t] = (x + \sigma^2 s)/\alpha$, Tweedie's formula [P1].

        Raises:
            TypeError: if the SDE has no Gaussian kernel.
        """
        sde, t = linear_sde(self), scalar_time(t, x)
        return (x + sde.sigma(t) ** 2 * self(t, x)) / sde.alpha(t)

    def velocity(self, t: Time, x: Event) -> Event:
        r"""The velocity prediction $\alpha\epsilon - \sigma h$ [P1].

        Not the velocity of the probability flow, which is `probability_flow`.

        Raises:
            TypeError: if the SDE has no Gaussian kernel.
        """
        sde, t = linear_sde(self), scalar_time(t, x)
        return sde.alpha(t) * self.noise(t, x) - sde.sigma(t) * self.denoise(t, x)

    def probability_flow(self, t: Time, x: Event) -> Event:
        r"""The velocity $u = f - \tfrac12\nabla\cdot(GG^\top) - \tfrac12 GG^\top s$ of the probability-flow ODE [F0].

        Its divergence and this score give the Fokker–Planck operator, the likelihood and the ODE's samples.
        """
        return self.sde.probability_flow(t, x, self(t, x))

    def reverse_drift(self, t: Time, x: Event) -> Event:
        r"""The drift $f - \nabla\cdot(GG^\top) - GG^\top s$ of the reverse SDE, in physical time [S6]."""
        return self.sde.reverse_drift(t, x, self(t, x))


class AbstractPotential(AbstractScore):
    r"""A model $\varphi(t, x)$ of $\log q_t(x)$ up to a function of time; its score is $\nabla\varphi$.

    A potential is a score whose curl vanishes by construction.
    """

    @abstractmethod
    def potential(self, t: Time, x: Event) -> Scalar:
        r"""The potential $\varphi$ at one time and one sample."""

    def __call__(self, t: Time, x: Event) -> Event:
        return jax.grad(self.potential, argnums=1)(scalar_time(t, x), x)

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
        value, (slope, score) = jax.value_and_grad(self.potential, argnums=(0, 1))(scalar_time(t, x), x)
        return value, slope, score


class Score(AbstractScore):
    r"""A score from any callable `fn(t, x)`, of any framework that JAX can differentiate.

    Args:
        fn: The score, called as `fn(t, x)` with a scalar `t` and one sample; what `bind` closes over follows as
            keywords.
        sde: The forward process.
        shape: The event shape, where `sample` should know it.
        args: Conditioning, set by `bind`.
        key: A dropout key, set by `bind`.

    Raises:
        TypeError: on a call, if `x` or the value of `fn` is not floating.
        ValueError: on a call, if the value of `fn` has another shape than `x`.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> score = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> float(score(0.5, jnp.array([2.0]))[0])
        -2.0
    """

    fn: Callable[..., Event]
    sde: AbstractSDE
    shape: tuple[int, ...] | None = eqx.field(default=None, static=True)
    args: Any = None
    key: Key | None = None

    def __call__(self, t: Time, x: Event) -> Event:
        t, want = scalar_time(t, floating("x", x)), "a score at x (a potential goes into Potential)"
        return call_bound("fn", self.fn, t, x, self.args, self.key, want, x.shape)

    def bind(self: _S, *, args: Any = None, key: Key | None = None) -> _S:
        return dataclasses.replace(self, args=args, key=key)


class Potential(AbstractPotential):
    r"""A potential from any scalar callable `fn(t, x)`; calling it gives $\nabla\varphi$, `.potential(t, x)` gives
    $\varphi$.

    Args:
        fn: The potential, called as `fn(t, x)`; what `bind` closes over follows as keywords.
        sde: The forward process.
        shape: The event shape, where `sample` should know it.
        args: Conditioning, set by `bind`.
        key: A dropout key, set by `bind`.

    Raises:
        TypeError: on a call, if `x` or the value of `fn` is not floating.
        ValueError: on a call, if the value of `fn` is not a scalar. A score goes into `Score`.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> phi = sfp.Potential(lambda t, x: -0.5 * (x**2).sum(), sfp.VP())
        >>> float(phi(0.5, jnp.array([2.0]))[0])
        -2.0
    """

    fn: Callable[..., Scalar]
    sde: AbstractSDE
    shape: tuple[int, ...] | None = eqx.field(default=None, static=True)
    args: Any = None
    key: Key | None = None

    def potential(self, t: Time, x: Event) -> Scalar:
        t, want = scalar_time(t, floating("x", x)), "a scalar potential (a score goes into Score)"
        return call_bound("fn", self.fn, t, x, self.args, self.key, want, ())

    def bind(self: _S, *, args: Any = None, key: Key | None = None) -> _S:
        return dataclasses.replace(self, args=args, key=key)


def call_bound(
    name: str,
    fn: Callable[..., Array],
    t: Time,
    x: Event,
    args: Any,
    key: Key | None,
    want: str,
    shape: tuple[int, ...],
) -> Array:
    """`fn(t, x)` with the bound keywords, its value checked to have a shape and cast to the dtype of `x`."""
    keywords: dict[str, Any] = {} if args is None else {"args": args}
    if key is not None:
        keywords["key"] = key
    value = floating(f"the value of {name}", fn(t, x, **keywords))
    same_shape(f"the value of {name}", value.shape, want, shape)
    return value.astype(x.dtype)


def conditioned(score: _S, args: Any, row: Int[Array, ""]) -> _S:
    """The score with the conditioning of one sample of a data set closed over, where there is any."""
    return score if args is None else score.bind(args=jax.tree.map(lambda a: a[row], args))


def linear_sde(score: AbstractScore) -> AbstractLinearSDE:
    """The linear SDE of a score, where a Gaussian kernel is needed."""
    return require_linear(score.sde)


def require_potential(score: AbstractScore) -> AbstractPotential:
    """The score itself, where it is a potential."""
    if not isinstance(score, AbstractPotential):
        raise TypeError(
            f"potential is a {type(score).__name__}, a score without a potential: its log-density is not known. "
            "Wrap a scalar function with Potential(fn, sde), or use score_fpe_residual."
        )
    return score
