"""Scores: a function of time and one sample, with the SDE it belongs to."""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, cast

import equinox as eqx
import jax
from jaxtyping import Array, Int

from .._checks import finite, floating, function, kind, single_or_better
from .._module import AbstractModule
from .._times import known_time_within, scalar_time, time_within
from .._types import Event, Key, Scalar, Time
from ..sde import AbstractLinearSDE, AbstractSDE
from ..sde.linear import require_linear
from ._bound import AbstractFixed, Bound, bound, value_of

_S = TypeVar("_S", bound="AbstractScore")


class _ScoreFields:
    sde: eqx.AbstractVar[AbstractSDE]
    shape: eqx.AbstractVar[tuple[int, ...] | None]


class AbstractScore(AbstractModule, _ScoreFields):
    r"""A model $s(t, x)$ of the score $\nabla\log q_t(x)$, with the SDE whose marginals $q_t$ it scores.

    `shape` is the event shape where the score knows it, else `None`; `given` names the fields that training leaves
    alone, `conditions` those that take conditioning and a dropout key: functions, networks, scores, or tuples of them.
    """

    remedy: ClassVar[str] = "Wrap a function with Score(fn, sde), a network with NoiseScore."
    given: ClassVar[tuple[str, ...]] = ("sde",)
    conditions: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def __call__(self, t: Time, x: Event) -> Event:
        """The score at one time and one sample."""

    def bind(self: _S, *, args: Any = None, key: Key | None = None) -> _S:
        """The same score with conditioning and a dropout key closed over.

        Only what is given reaches the functions and networks that the score is made of, as keyword arguments `args` and
        `key`; the mathematics sees a function of `(t, x)` alone. To bind again replaces what is given and keeps the
        rest.

        Example:
            >>> import jax.numpy as jnp, scorefp as sfp
            >>> family = sfp.Score(lambda t, x, args: -x / args, sfp.VP())
            >>> float(family.bind(args=4.0)(0.5, jnp.array([2.0]))[0])
            -0.5
        """
        if not self.conditions or (args is None and key is None):
            return self

        def held(value: Any) -> Any:
            if isinstance(value, AbstractScore):
                return value.bind(args=args, key=key)
            return bound(cast(Any, value), args, key) if callable(value) else value

        # Not by `__init__`, which a score of one's own may write itself, and which would check traced fields.
        new = object.__new__(type(self))
        for field in dataclasses.fields(self):
            if hasattr(self, field.name):
                value = getattr(self, field.name)
                change = field.name in self.conditions
                object.__setattr__(new, field.name, jax.tree.map(held, value, is_leaf=callable) if change else value)
        return new

    def trained(self: _S) -> _S:
        """A boolean mask of this score: `True` at the leaves that training changes.

        They are the floating arrays, but for those of the SDE and of what the score knows of its data, the fields in
        `given`, for what `bind` closed over, and for a `TorchNetwork`, whose parameters are torch's.

        Example:
            >>> import equinox as eqx, jax, scorefp as sfp
            >>> network = sfp.nn.MLP(shape=(2,), width=8, key=jax.random.key(0))
            >>> score = sfp.NoiseScore(network, sfp.VP(), data_std=jax.numpy.ones(2))
            >>> params, rest = eqx.partition(score, score.trained())
            >>> params.data_std is None, rest.data_std.shape
            (True, (2,))
        """
        is_bound = lambda node: isinstance(node, Bound)
        bounds = [node for node in jax.tree.leaves(self, is_leaf=is_bound) if is_bound(node)]
        held = [getattr(self, name, None) for name in self.given], [(node.args, node.key) for node in bounds]
        # Also where the same arrays are held elsewhere, as those of an SDE by a network.
        ids = {id(leaf) for leaf in jax.tree.leaves(held) if eqx.is_array(leaf)}

        def inner(node: Any) -> bool:
            return isinstance(node, AbstractScore | AbstractFixed) and node is not self

        def of(path: tuple[Any, ...], node: Any) -> Any:
            # A score in a given field, as in a reward, is left alone; the same score beside it is trained.
            if getattr(path[0], "name", None) in self.given or isinstance(node, AbstractFixed):
                return jax.tree.map(lambda _: False, node)
            return node.trained() if inner(node) else eqx.is_inexact_array(node) and id(node) not in ids

        return jax.tree_util.tree_map_with_path(of, self, is_leaf=inner)

    def noise(self, t: Time, x: Event) -> Event:
        r"""The noise prediction $\epsilon = -\sigma s$ [P1].

        Raises:
            TypeError: if the SDE has no Gaussian kernel.
        """
        t, x = arguments(self, t, x)
        return -linear_sde(self).sigma(t) * self(t, x)

    def denoise(self, t: Time, x: Event) -> Event:
        r"""The denoiser $h = E[x_0 \mid x_t] = (x + \sigma^2 s)/\alpha$, Tweedie's formula [P1].

        Raises:
            TypeError: if the SDE has no Gaussian kernel.
        """
        sde, (t, x) = linear_sde(self), arguments(self, t, x)
        return (x + sde.sigma(t) ** 2 * self(t, x)) / sde.alpha(t)

    def velocity(self, t: Time, x: Event) -> Event:
        r"""The velocity prediction $\alpha\epsilon - \sigma h$ [P1].

        Not the velocity of the probability flow, which is `probability_flow`.

        Raises:
            TypeError: if the SDE has no Gaussian kernel.
        """
        sde, (t, x) = linear_sde(self), arguments(self, t, x)
        return sde.alpha(t) * self.noise(t, x) - sde.sigma(t) * self.denoise(t, x)

    def probability_flow(self, t: Time, x: Event) -> Event:
        r"""The velocity $u = f - \tfrac12\nabla\cdot(GG^\top) - \tfrac12 GG^\top s$ of the probability-flow ODE [F0].

        Its divergence and this score give the Fokker–Planck operator, the likelihood and the ODE's samples.
        """
        t, x = arguments(self, t, x)
        return self.sde.probability_flow(t, x, self(t, x))

    def reverse_drift(self, t: Time, x: Event) -> Event:
        r"""The drift $f - \nabla\cdot(GG^\top) - GG^\top s$ of the reverse SDE, in physical time [S6]."""
        t, x = arguments(self, t, x)
        return self.sde.reverse_drift(t, x, self(t, x))


class Score(AbstractScore):
    r"""A score from any callable `fn(t, x)`, of any framework that JAX can differentiate.

    Args:
        fn: The score, called as `fn(t, x)` with a scalar `t` and one sample; what `bind` closes over follows as
            keywords.
        sde: The forward process.
        shape: The event shape, where it is known: `sample` then does not ask for it, and an `x` of another one is
            refused.

    Raises:
        TypeError: if `fn` does not take `(t, x)`; on a call, if `x` or the value of `fn` is not floating, or `t` not
            real.
        ValueError: on a call, if `x` has another shape than `shape`, or `fn(t, x)` than `x`; where they are known, if
            `x` is not finite or `t` outside the horizon.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> score = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> float(score(0.5, jnp.array([2.0]))[0])
        -2.0
    """

    fn: Callable[..., Event]
    sde: AbstractSDE
    shape: tuple[int, ...] | None = eqx.field(default=None, static=True)

    conditions: ClassVar[tuple[str, ...]] = ("fn",)

    def __check_init__(self) -> None:
        check_fields(self, "fn")

    def __call__(self, t: Time, x: Event) -> Event:
        t, x = arguments(self, t, x)
        return value_of("fn", self.fn, t, x, "a score at x (a potential goes into Potential)", x.shape)


def check_fields(score: AbstractScore, name: str) -> None:
    """Refuses a function or network, the field `name`, of another signature."""
    remedy = (
        "First comes the time, then one sample. Wrap a function in a lambda, and a network in an equinox.Module with "
        "__call__(self, t, x), so that its weights are trained."
    )
    function(name, getattr(score, name), "t, x", remedy, keywords=("args", "key"))


def sample_of(score: AbstractScore, x: Event, name: str = "x") -> Array:
    """`x`, one sample for a score, refused unless it is floating, of the score's shape, and finite if it is known."""
    x = floating(name, x)
    if score.shape is not None and x.shape != score.shape:
        raise ValueError(
            f"{name} has shape {x.shape}, but the score's event shape is {score.shape}; a score takes one sample. "
            "Batch with jax.vmap."
        )
    return finite(name, x, known=True)


def arguments(score: AbstractScore, t: Time, x: Event) -> tuple[Scalar, Array]:
    """The time and sample that a score is called with, refused unless they are its own.

    What is static is checked under any transformation. A time outside the horizon and NaN are refused where they are
    known now, and cost nothing in a compiled program.
    """
    x = sample_of(score, x)
    time = scalar_time(t, x)
    known_time_within(t, score.sde.t0, score.sde.t1, x)
    return time, x


def measured_at(score: AbstractScore, t: Time, x: Event, name: str = "t") -> tuple[Scalar, Array]:
    """The time, an argument called `name`, and sample at which a score is measured: in full precision, and inside the
    horizon in a compiled program too.
    """
    require_score(score)
    x = single_or_better("x", sample_of(score, x))
    return time_within(scalar_time(t, x, name), score.sde.t0, score.sde.t1, name=name), x


def require_score(score: Any, name: str = "score") -> AbstractScore:
    """The score itself, an argument called `name`, where it is one."""
    return kind(name, score, AbstractScore)


def conditioned(score: _S, args: Any, row: int | Int[Array, ""]) -> _S:
    """The score with the conditioning of one sample of a data set closed over, where there is any."""
    return score if args is None else score.bind(args=jax.tree.map(lambda a: a[row], args))


def linear_sde(score: AbstractScore) -> AbstractLinearSDE:
    """The linear SDE of a score, where a Gaussian kernel is needed."""
    return require_linear(require_score(score).sde)
