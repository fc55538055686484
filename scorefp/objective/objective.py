"""Objectives: linear combinations of integrals over time, estimated on a batch."""

import dataclasses
from abc import abstractmethod
from functools import partial
from typing import Any, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, Real

from .._checks import finite, flag, floating, function, kind, random_key, require, same_shape, scalar
from .._describe import described, free_name
from .._module import AbstractModule
from .._types import Event, Key, Scalar
from ..integrals import AbstractTimeSampler, UniformLogSNR
from ..score import AbstractScore
from ..score.score import linear_sde
from ..sde import AbstractLinearSDE
from .weighting import WEIGHTING, Weighting


class Perturbed(AbstractModule):
    r"""One clean sample diffused to time `t`. Every term of an objective reads the same one.

    Args:
        t: The time.
        weight: $1/p(t)$ of the draw of `t`, by which every integrand is multiplied. A term that is no integral over
            time, such as an initial condition, divides by it.
        x0: The clean sample.
        noise: The standard normal $\epsilon$.
        x: $x_t = \alpha x_0 + \sigma\epsilon$.
    """

    t: Scalar
    weight: Scalar
    x0: Event
    noise: Event
    x: Event


class AbstractObjective(AbstractModule):
    r"""A linear combination $\sum_i c_i \int_{t_0}^{t_1} E[\ell_i(t)]\,dt$ of terms, to be minimised.

    Objectives add, and multiply by numbers: `DSM() + 0.5 * ScoreFPE()`. The time sampler is a change of measure,
    $\int \ell\,dt = E_{t\sim p}[\ell(t)/p(t)]$, so that another one changes the variance of the estimate, never
    its mean.
    """

    @abstractmethod
    def parts(self) -> "tuple[tuple[Scalar, AbstractTerm], ...]":
        """The terms, each with its coefficient."""

    def __call__(
        self,
        score: AbstractScore,
        x0: Float[Array, "batch *event"],
        *,
        key: Key,
        time: AbstractTimeSampler = UniformLogSNR(),
        args: Any = None,
        dropout: bool = False,
    ) -> Scalar:
        """An unbiased estimate of the objective on a batch of clean samples.

        Args:
            score: The model, on a linear SDE.
            x0: A batch of clean samples.
            key: A random key for times, noise, probes and dropout.
            time: How times are drawn.
            args: Conditioning, a pytree with the batch as leading axis, given to the model.
            dropout: Whether the model takes a key.

        Raises:
            TypeError: if `x0` is not floating, or the SDE has no Gaussian kernel.
            ValueError: if `args` has another number of rows than `x0`.
        """
        return self.evaluate(score, x0, key=key, time=time, args=args, dropout=dropout)[0]

    def evaluate(
        self,
        score: AbstractScore,
        x0: Float[Array, "batch *event"],
        *,
        key: Key,
        time: AbstractTimeSampler = UniformLogSNR(),
        args: Any = None,
        dropout: bool = False,
    ) -> tuple[Scalar, dict[str, Scalar]]:
        """The estimate of `__call__`, and beside it the value of each term without its coefficient.

        Example:
            >>> import jax, jax.numpy as jnp, scorefp as sfp
            >>> score = sfp.Score(lambda t, x: -x, sfp.VP())
            >>> loss = sfp.DSM() + 0.5 * sfp.ScoreFPE()
            >>> total, terms = loss.evaluate(score, jnp.zeros((8, 2)), key=jax.random.key(0))
            >>> sorted(terms)
            ['DSM', 'ScoreFPE']
        """
        x0 = floating("x0", x0)
        sde = linear_sde(score)
        require(x0.ndim >= 1 and len(x0) >= 1, f"x0 has shape {x0.shape}; it is a batch of samples, at least one.")
        if score.shape is not None:
            same_shape("a row of x0", x0.shape[1:], "one sample of the score", score.shape)
        kind("time", time, AbstractTimeSampler, "It is a law of times, for example scorefp.UniformLogSNR().")
        flag("dropout", dropout)
        count = x0.shape[0]
        rows = [jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(args)]
        require(
            all(row == (count,) for row in rows),
            f"args has arrays with {rows} rows, x0 has {count}; each sample needs its own.",
        )
        time_key, noise_key, model_key, term_key = jr.split(random_key("a loss", key), 4)
        t, weight = time.sample(sde, count, key=time_key)
        draws = _Draws(
            t.astype(x0.dtype),
            weight.astype(x0.dtype),
            x0,
            jr.normal(noise_key, x0.shape, x0.dtype),
            jr.split(term_key, count),
            args,
            jr.split(model_key, count) if dropout else None,
        )
        parts = self.parts()
        total, named = jnp.zeros((), x0.dtype), dict[str, Scalar]()
        for (coefficient, term), value in zip(parts, _means(score, [term for _, term in parts], draws), strict=True):
            total = total + coefficient.astype(x0.dtype) * value
            named[free_name(_name(term), named)] = value
        return total, named

    def __add__(self, other: "AbstractObjective") -> "Objective":
        kind("a summand", other, AbstractObjective, "Losses add, for example scorefp.DSM() + 0.1 * scorefp.ScoreFPE().")
        return Objective(self.parts() + other.parts())

    def __mul__(self, factor: Real[ArrayLike, ""]) -> "Objective":
        factor = finite("factor", scalar("factor", factor), known=True)
        return Objective(tuple((factor * coefficient, term) for coefficient, term in self.parts()))

    def __rmul__(self, factor: Real[ArrayLike, ""]) -> "Objective":
        return self * factor


class Objective(AbstractObjective):
    """A linear combination of terms, made by `+` and `*`.

    The coefficients are arrays, so that a sweep over them compiles once.

    Args:
        combination: The terms, each with its coefficient in front.
    """

    combination: "tuple[tuple[Scalar, AbstractTerm], ...]"

    def parts(self) -> "tuple[tuple[Scalar, AbstractTerm], ...]":
        return self.combination

    def __repr__(self) -> str:
        return " + ".join(f"{described(coefficient)}*{term!r}" for coefficient, term in self.combination)


class _TermFields:
    fraction: eqx.AbstractVar[float]


class AbstractTerm(AbstractObjective, _TermFields):
    r"""One term: an integrand over time, $\ell(t)$ of one perturbed sample.

    `fraction` is the share of the batch it is evaluated on.
    """

    def __check_init__(self) -> None:
        require(0 < self.fraction <= 1, f"fraction = {self.fraction}; a share of the batch lies in (0, 1].")
        for field in dataclasses.fields(self):
            fn = getattr(self, field.name)
            if Weighting in (field.type, *get_args(field.type)) and fn is not None:
                function(field.name, fn, "sde, t", WEIGHTING)

    @abstractmethod
    def observe(self, score: AbstractScore, perturbed: Perturbed, *, key: Key) -> tuple[Event | None, Any]:
        """The quantities of the term beyond the score's value, and that value if it comes with them.

        A network that is differentiated in `x` or `t` gives its value on the way; the objective takes the score of all
        terms from there, so that it is evaluated and differentiated in the parameters once.

        Args:
            score: The model, with conditioning and dropout bound.
            perturbed: The sample.
            key: A random key.

        Returns:
            The score at `(perturbed.t, perturbed.x)`, or `None`, and a pytree for `integrand`.
        """

    @abstractmethod
    def integrand(self, sde: AbstractLinearSDE, perturbed: Perturbed, value: Event, observed: Any) -> Scalar:
        r"""The integrand $\ell(t)$ at one perturbed sample.

        Args:
            sde: The forward process.
            perturbed: The sample.
            value: The score there, evaluated once for all terms.
            observed: The result of `observe`.
        """

    def parts(self) -> "tuple[tuple[Scalar, AbstractTerm], ...]":
        return ((jnp.ones(()), self),)


def norm_power(square: Scalar, power: float) -> Scalar:
    """A power of a norm from the norm's square.

    It has no derivative at zero, where an exact score sits, if the power is below two: zero is its subgradient.
    """
    if power == 2:
        return square
    return jnp.where(square > 0, jnp.where(square > 0, square, 1.0) ** (power / 2), 0.0)


class _Draws(NamedTuple):
    """The draws of one sample; for a batch, each with a leading axis."""

    t: Array
    weight: Array
    x0: Array
    noise: Array
    key: Array
    args: Any
    model_key: Array | None


def _means(score: AbstractScore, terms: "list[AbstractTerm]", draws: _Draws) -> list[Scalar]:
    """The mean of the weighted integrand of each term over its share of the batch, which is the batch's head."""
    shares = [max(1, round(term.fraction * len(draws.t))) for term in terms]
    sums, start = [jnp.zeros((), draws.x0.dtype) for _ in terms], 0
    # The batch is cut where a term stops looking.
    for end in sorted(set(shares)):
        here = [i for i, share in enumerate(shares) if share >= end]
        cut = jax.tree.map(lambda leaf, piece=slice(start, end): leaf[piece], draws)
        values = jax.vmap(partial(_integrands, score, [terms[i] for i in here]))(cut)
        for i, value in zip(here, values, strict=True):
            sums[i] = sums[i] + jnp.sum(value)
        start = end
    return [value / share for value, share in zip(sums, shares, strict=True)]


def _integrands(score: AbstractScore, terms: "list[AbstractTerm]", draw: _Draws) -> list[Scalar]:
    """The weighted integrands of the terms at one sample."""
    sde, t = linear_sde(score), draw.t
    score = score.bind(args=draw.args, key=draw.model_key)
    perturbed = Perturbed(t, draw.weight, draw.x0, draw.noise, sde.diffuse(t, draw.x0, draw.noise))
    keys = jr.split(draw.key, len(terms))
    seen = [term.observe(score, perturbed, key=key) for term, key in zip(terms, keys, strict=True)]
    value = next((s for s, _ in seen if s is not None), None)
    value = score(t, perturbed.x) if value is None else value
    return [
        draw.weight * scalar(f"the integrand of {type(term).__name__}", term.integrand(sde, perturbed, value, more))
        for term, (_, more) in zip(terms, seen, strict=True)
    ]


def _name(term: AbstractTerm) -> str:
    """The name of a term's class, with that of a term it holds in brackets."""
    held = [_name(value) for value in vars(term).values() if isinstance(value, AbstractTerm)]
    return type(term).__name__ + (f"({', '.join(held)})" if held else "")
