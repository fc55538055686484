"""Objectives: linear combinations of integrals over time, estimated on a batch."""

import dataclasses
from abc import abstractmethod
from typing import Any, ClassVar, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, Int, Real

from .._checks import (
    finite,
    fitting_samples,
    flag,
    floating,
    function,
    kind,
    random_key,
    require,
    scalar,
    step_number,
)
from .._describe import described, free_name
from .._module import AbstractModule
from .._types import Event, Key, Scalar
from ..dataset.values import check_args
from ..integrals import AbstractTimeSampler, UniformLogSNR
from ..score import AbstractScore
from ..score.score import linear_sde
from ..sde import AbstractLinearSDE
from ._estimate import Rows, means
from .perturbed import Perturbed
from .weighting import WEIGHTING, Weighting


class AbstractObjective(AbstractModule):
    r"""A linear combination $\sum_i c_i \int_{t_0}^{t_1} E[\ell_i(t)]\,dt$ of terms, to be minimised.

    Objectives add, and multiply by numbers: `DSM() + 0.5 * ScoreFPE()`. The time sampler is a change of measure,
    $\int \ell\,dt = E_{t\sim p}[\ell(t)/p(t)]$, so that another one changes the variance of the estimate, never
    its mean.
    """

    remedy: ClassVar[str] = "It is made of terms, for example scorefp.DSM() + 0.1 * scorefp.ScoreFPE()."

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
        step: Int[ArrayLike, ""] | None = None,
    ) -> Scalar:
        """An unbiased estimate of the objective on a batch of clean samples.

        Args:
            score: The model, on a linear SDE.
            x0: A batch of clean samples.
            key: A random key for times, noise, probes and dropout.
            time: How times are drawn.
            args: Conditioning, a pytree with the batch as leading axis, given to the model.
            dropout: Whether the model takes a key.
            step: The number of the step in a training, for `Lazy` terms; `None` evaluates all of them.

        Raises:
            TypeError: if `x0` is not floating, `step` is no integer, or the SDE has no Gaussian kernel.
            ValueError: if `args` has another number of rows than `x0`, or `step` is negative.
        """
        return self.evaluate(score, x0, key=key, time=time, args=args, dropout=dropout, step=step)[0]

    def evaluate(
        self,
        score: AbstractScore,
        x0: Float[Array, "batch *event"],
        *,
        key: Key,
        time: AbstractTimeSampler = UniformLogSNR(),
        args: Any = None,
        dropout: bool = False,
        step: Int[ArrayLike, ""] | None = None,
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
        fitting_samples("x0", x0.shape[1:], score.shape)
        kind("time", time, AbstractTimeSampler)
        flag("dropout", dropout)
        count = x0.shape[0]
        check_args(args, count, "sample {}".format, "x0 has {}")
        number = None if step is None else step_number("step", step)
        time_key, noise_key, model_key, term_key = jr.split(random_key("a loss", key), 4)
        t, weight = time.sample(sde, count, key=time_key)
        draws = t.astype(x0.dtype), weight.astype(x0.dtype), x0, jr.normal(noise_key, x0.shape, x0.dtype)
        parts = self.parts()
        terms = [term for _, term in parts]
        rows = Rows(
            jax.vmap(lambda t, weight, x0, noise: Perturbed(t, weight, x0, noise, sde.diffuse(t, x0, noise)))(*draws),
            jax.vmap(lambda key: jr.split(key, len(terms)))(jr.split(term_key, count)),
            jax.tree.map(jnp.asarray, args),
            jr.split(model_key, count) if dropout else None,
        )
        every = [term.every if number is not None and isinstance(term, Lazy) else 1 for term in terms]
        total, named = jnp.zeros((), x0.dtype), dict[str, Scalar]()
        for (coefficient, term), value in zip(parts, means(score, terms, every, rows, number), strict=True):
            total = total + coefficient.astype(x0.dtype) * value
            named[free_name(_name(term), named)] = value
        return total, named

    def __add__(self, other: "AbstractObjective") -> "Objective":
        kind("a summand", other, AbstractObjective)
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

    `fraction` is the share of the batch it is evaluated on: its first rows. The batches of `fit` are in random order;
    the head of a batch of one's own that is sorted would be one end of the data. Stratified times are spread over every
    head.
    """

    remedy: ClassVar[str] = "It is one term, for example scorefp.DSM()."

    def __check_init__(self) -> None:
        require(0 < self.fraction <= 1, f"fraction = {self.fraction}; a share of the batch lies in (0, 1].")
        for field in dataclasses.fields(self):
            fn = getattr(self, field.name)
            if Weighting in (field.type, *get_args(field.type)) and fn is not None:
                function(field.name, fn, "sde, t", WEIGHTING)
            remedy = (
                "Give the term itself." if isinstance(self, Lazy) else f"Make it Lazy({type(self).__name__}(…), …)."
            )
            require(
                not isinstance(fn, Lazy),
                f"{field.name} = {fn!r} inside {type(self).__name__}; a lazy term is the outermost one. {remedy}",
            )

    @abstractmethod
    def observe(self, score: AbstractScore, perturbed: Perturbed, *, key: Key) -> tuple[Event | None, Any]:
        """The quantities of the term beyond the score's value, and that value if it comes with them.

        A network that is differentiated in `x` or `t` gives its value on the way; the objective takes the score of all
        terms from there, so that it is evaluated and differentiated in the parameters once.

        A term that needs values of the score at further points, and no derivative, returns a `calculus.AbstractStencil`
        and evaluates nothing: the score at all samples is one evaluation for all terms, at all further points
        another, and `integrand` gets what the stencil makes of them.

        Args:
            score: The model, with conditioning and dropout bound.
            perturbed: The sample.
            key: A random key.

        Returns:
            The score at `(perturbed.t, perturbed.x)`, or `None`, and a pytree for `integrand` or a stencil.
        """

    @abstractmethod
    def integrand(self, sde: AbstractLinearSDE, perturbed: Perturbed, value: Event, observed: Any) -> Scalar:
        r"""The integrand $\ell(t)$ at one perturbed sample.

        Args:
            sde: The forward process.
            perturbed: The sample.
            value: The score there, evaluated once for all terms.
            observed: The result of `observe`, or of its stencil.
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


class Lazy(AbstractTerm):
    r"""A term at every $k$-th step of a training, times $k$: over the steps its mean is that of the term, and between
    them it costs nothing.

    `DSM() + 0.5 * Lazy(ScoreFPE(fraction=1 / 16), every=4)`. The steps are those whose number is a multiple of `every`,
    which the trainer gives to the objective: a run that is resumed takes the same ones. Between them the value of the
    term in the history is zero, at them `every` times the term's, so that means over the history are right. Without
    a number, as in a loss that is called directly, the term is evaluated with the weight one.

    The factor $k$ makes the gradient unbiased. A clip of its norm comes after it, as that of `fit`, at 1 by default: of
    the long steps with the term it takes more. The published falls have it in them.

    It is the outermost term: `Lazy(Restricted(term))`. Its value has a derivative in reverse mode alone, where
    `every` is above one and the step is given.

    Args:
        term: The term.
        every: $k$.

    Raises:
        TypeError: if `term` is no term, as a sum is none.
        ValueError: if `every` is below one, or the term is lazy already.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> score, x, key = sfp.Score(lambda t, x: -2 * x, sfp.VP()), jnp.ones((8, 2)), jax.random.key(0)
        >>> term = sfp.ScoreFPE(fraction=0.25)
        >>> at = [float(sfp.Lazy(term, every=4)(score, x, key=key, step=jnp.asarray(i))) for i in range(5)]
        >>> [round(value / float(term(score, x, key=key)), 4) for value in at]
        [4.0, 0.0, 0.0, 0.0, 4.0]
    """

    term: AbstractTerm
    every: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        require(self.every >= 1, f"every = {self.every}; it is a count of steps of at least 1.")

    @property
    def fraction(self) -> float:
        """The share of the batch, that of the term."""
        return self.term.fraction

    def observe(self, score: AbstractScore, perturbed: Perturbed, *, key: Key) -> tuple[Event | None, Any]:
        return self.term.observe(score, perturbed, key=key)

    def integrand(self, sde: AbstractLinearSDE, perturbed: Perturbed, value: Event, observed: Any) -> Scalar:
        return self.term.integrand(sde, perturbed, value, observed)


def _name(term: AbstractTerm) -> str:
    """The name of a term's class, with that of a term it holds in brackets."""
    held = [_name(value) for value in vars(term).values() if isinstance(value, AbstractTerm)]
    return type(term).__name__ + (f"({', '.join(held)})" if held else "")
