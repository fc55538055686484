"""Scores made of scores: tempered, multiplied, guided, tilted [W2], [W3]."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real

from .._checks import finite, floats, function, is_concrete, kind, real, require, same_shape, scalar
from .._describe import described
from .._types import Event, Scalar, Time
from ..sde import AbstractSDE
from ._bound import value_of
from .score import AbstractScore, arguments, require_score


class _Parts:
    scores: eqx.AbstractVar[tuple[AbstractScore, ...]]
    exponents: eqx.AbstractVar[Float[Array, " scores"]]


class AbstractComposition(AbstractScore, _Parts):
    r"""A linear combination $\sum_i \beta_i s_i$ of scores on one SDE, the score of $\prod_i q_i^{\beta_i}$ made at
    each time by itself [W2] (Du 2023).

    `scores` are the $s_i$, and `exponents` the $\beta_i$.

    **Its samples are not samples of $\prod_i q_i^{\beta_i}$ at $t_0$.** That family of densities solves no
    Fokker–Planck equation: with $s_i$ that solve theirs, on a linear SDE, the residual of $\varphi = \sum_i
    \beta_i\varphi_i$ in the equation of log-densities is

    $$ r[\varphi] = \tfrac12 g^2\Big(\sum_i \beta_i\|s_i\|^2 - \Big\|\sum_i \beta_i s_i\Big\|^2\Big) + c(t), $$

    which is zero for one score with the exponent one and for next to nothing else. It is the rate at which samples
    should gain or lose weight on their way (Skreta 2025).
    """

    @property
    def sde(self) -> AbstractSDE:
        """The SDE of all parts."""
        return self.scores[0].sde

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The event shape, where a part knows it."""
        return _shape(self.scores)

    def __call__(self, t: Time, x: Event) -> Event:
        t, x = arguments(self, t, x)
        total = jnp.zeros_like(x)
        for beta, score in zip(self.exponents.astype(x.dtype), self.scores, strict=True):
            total = total + beta * score(t, x)
        return total


class Annealed(AbstractComposition):
    r"""The score $\beta s$ of the tempered densities $q_t^\beta$: sharper for $\beta > 1$, flatter below [W2].

    Its samples do not have the law $q_{t_0}^\beta$: the residual is $-\tfrac12 g^2\beta(\beta - 1)\|s\|^2$ up to a
    function of time, and vanishes only at $\beta = 1$. Annealing a Gaussian of variance $v$, for example, does not
    give samples of variance $v/\beta$.

    Args:
        score: The score.
        beta: The inverse temperature $\beta$, a finite number.

    Raises:
        TypeError: if `score` is no score, or `beta` no number.
        ValueError: if `beta` is not finite.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> score = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> float(sfp.Annealed(score, 2.0)(0.5, jnp.array([3.0]))[0])
        -6.0
    """

    score: AbstractScore
    beta: Scalar

    given: ClassVar[tuple[str, ...]] = ("beta",)
    conditions: ClassVar[tuple[str, ...]] = ("score",)

    def __init__(self, score: AbstractScore, beta: Real[ArrayLike, ""]) -> None:
        self.score = require_score(score)
        self.beta = _number("beta", beta)

    @property
    def scores(self) -> tuple[AbstractScore, ...]:
        """The score."""
        return (self.score,)

    @property
    def exponents(self) -> Float[Array, " scores"]:
        r"""$\beta$."""
        return self.beta[None]


class Product(AbstractComposition):
    r"""The score $\sum_i \beta_i s_i$ of the products $\prod_i q_{i,t}^{\beta_i}$ of densities, high where all factors
    are [W2] (Du 2023).

    Its samples do not have the law $\prod_i q_{i,t_0}^{\beta_i}$: for two scores with exponents one the residual is
    $-g^2\langle s_1, s_2\rangle$ up to a function of time.

    `bind` gives the same conditioning to all parts; one of its own is bound to a part before.

    Args:
        scores: The scores, at least one, on one SDE.
        exponents: $\beta_i$, a finite number for each score; ones for `None`.

    Raises:
        TypeError: if `scores` are no sequence of scores, or `exponents` no numbers.
        ValueError: if there is no score, or another number of exponents; if an exponent is not finite; if the scores
            differ in their SDE or their shape.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> sde = sfp.VP()
        >>> left, right = (sfp.Score(lambda t, x, m=m: m - x, sde) for m in (-1.0, 2.0))
        >>> float(sfp.Product((left, right))(0.5, jnp.array([0.0]))[0])
        1.0
    """

    scores: tuple[AbstractScore, ...]
    exponents: Float[Array, " scores"]

    given: ClassVar[tuple[str, ...]] = ("exponents",)
    conditions: ClassVar[tuple[str, ...]] = ("scores",)

    def __init__(
        self,
        scores: Sequence[AbstractScore],
        exponents: Real[ArrayLike, " scores"] | Sequence[Real[ArrayLike, ""]] | None = None,
    ) -> None:
        kind("scores", scores, (tuple, list), "It is a tuple of scores, as in Product((one, other)).")
        require(len(scores) > 0, "scores is empty; a product is of at least one score.")
        _check_alike({f"scores[{i}]": score for i, score in enumerate(scores)})
        self.scores = tuple(scores)
        if exponents is None:
            exponents = np.ones(len(scores), np.float32)
        if isinstance(exponents, Sequence):
            exponents = jnp.asarray([scalar(f"exponents[{i}]", beta) for i, beta in enumerate(exponents)])
        given = real("exponents", exponents)
        require(
            given.shape == (len(scores),),
            f"exponents has shape {given.shape}; there are {len(scores)} scores, and each has one exponent.",
        )
        self.exponents = finite("exponents", floats(given), known=True)


class Guided(AbstractComposition):
    r"""Guidance, $(1 + w)\,s_c - w\,s_u$ with a conditional and an unconditional score: the score of
    $q_t(x)\,q_t(c \mid x)^{1+w}$ at each time by itself [W2] (Ho & Salimans 2022).

    With $w = 0$ it is the conditional score, with $w = -1$ the unconditional one. Between, and beyond, **its samples do
    not have the law** $q_{t_0}(x)\,q_{t_0}(c \mid x)^{1+w}$: the residual is $-\tfrac12 g^2\,w(1 + w)\,\|s_c -
    s_u\|^2$ up to a function of time, and `audit` sees it.

    `bind` reaches the conditional score alone; the unconditional one keeps what it was bound to. One network that was
    trained with `scorefp.train.LabelDropout` is both: `Guided(model, model.bind(args=null), w)`. A call evaluates both.
    Train the model first: `fit` of the composition takes the two for different networks, and says so.

    Args:
        conditional: The score $s_c$ given the condition.
        unconditional: The score $s_u$, or another that is to be avoided.
        strength: $w$, a finite number. Where a paper writes $s_u + \gamma(s_c - s_u)$ it is $\gamma - 1$.

    Raises:
        TypeError: if one is no score, or `strength` no number.
        ValueError: if `strength` is not finite, or the scores differ in their SDE or their shape.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> family = sfp.Score(lambda t, x, args: args - x, sfp.VP())
        >>> guided = sfp.Guided(family, family.bind(args=0.0), 2.0)
        >>> float(guided.bind(args=1.0)(0.5, jnp.array([0.0]))[0])
        3.0
    """

    conditional: AbstractScore
    unconditional: AbstractScore
    strength: Scalar

    given: ClassVar[tuple[str, ...]] = ("strength",)
    conditions: ClassVar[tuple[str, ...]] = ("conditional",)

    def __init__(self, conditional: AbstractScore, unconditional: AbstractScore, strength: Real[ArrayLike, ""]) -> None:
        _check_alike({"conditional": conditional, "unconditional": unconditional})
        self.conditional, self.unconditional = conditional, unconditional
        self.strength = _number("strength", strength)

    @property
    def scores(self) -> tuple[AbstractScore, ...]:
        """The conditional and the unconditional score."""
        return self.conditional, self.unconditional

    @property
    def exponents(self) -> Float[Array, " scores"]:
        """$(1 + w, -w)$."""
        return jnp.stack([1 + self.strength, -self.strength])


class Tilted(AbstractScore):
    r"""The score $s + \nabla_x h$ of the tilted densities $q_t\,e^{h(t, \cdot)}$ [W3]: guidance by a reward, a
    classifier or a measurement.

    **Its samples do not have the law $q_{t_0}\,e^{h(t_0, \cdot)}$**, but for a reward with

    $$ r = \partial_t h + \langle f, \nabla h\rangle - g^2\langle s, \nabla h\rangle - \tfrac12 g^2\Delta h
       - \tfrac12 g^2\|\nabla h\|^2 = c(t), $$

    which is that of Doob's transform: $e^h$ is then the expectation of $e^{h(t_0, x_{t_0})}$ from $(t, x)$. What is
    used in its place, such as $-\|A\,\mathrm{denoise}(t, x) - y\|^2/(2\tau_t^2)$ for a measurement $y = A x_0$ with
    noise (Chung 2023), is an approximation of it.

    `bind` reaches the score and the reward. One that takes no conditioning is wrapped,
    `Score(lambda t, x, args: score(t, x), sde)`.

    Args:
        score: The score.
        reward: $h$, called as `reward(t, x)`, with a scalar value; what `bind` closes over follows as keywords.
            Training leaves its arrays alone.

    Raises:
        TypeError: if `score` is no score, or `reward` does not take `(t, x)`; on a call, if its value is not floating.
        ValueError: on a call, if the value of `reward` is not a scalar.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> score = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> tilted = sfp.Tilted(score, lambda t, x: 2 * x.sum())
        >>> float(tilted(0.5, jnp.array([3.0]))[0])
        -1.0
    """

    score: AbstractScore
    reward: Callable[..., Scalar]

    given: ClassVar[tuple[str, ...]] = ("reward",)
    conditions: ClassVar[tuple[str, ...]] = ("score", "reward")

    def __check_init__(self) -> None:
        remedy = "It returns a number for a time and one sample, as in lambda t, x: -jnp.sum(x**2)."
        function("reward", self.reward, "t, x", remedy, keywords=("args", "key"))

    @property
    def sde(self) -> AbstractSDE:
        """The SDE of the score."""
        return self.score.sde

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The event shape, where the score knows it."""
        return self.score.shape

    def __call__(self, t: Time, x: Event) -> Event:
        t, x = arguments(self, t, x)

        def reward(x: Event) -> Scalar:
            return value_of("reward", self.reward, t, x, "a scalar", ())

        return self.score(t, x) + jax.grad(reward)(x)


def _number(name: str, value: Real[ArrayLike, ""]) -> Scalar:
    """A finite number as an array, so that another one compiles nothing new."""
    strength = floats(scalar(name, value))
    # A dtype of its own, which numbers of Python have not: another strength is no other program.
    return finite(name, strength.astype(strength.dtype), known=True)


def _shape(scores: tuple[AbstractScore, ...]) -> tuple[int, ...] | None:
    return next((score.shape for score in scores if score.shape is not None), None)


def _check_alike(scores: dict[str, AbstractScore]) -> None:
    """Refuses scores, by the names of the arguments, on different SDEs or of different shapes."""
    for name, score in scores.items():
        require_score(score, name)
    (first, one), *others = scores.items()
    for name, score in others:
        require(
            _same(score.sde, one.sde),
            f"{name} has the SDE {described(score.sde)}, {first} has {described(one.sde)}; what is composed is on one "
            "SDE. Build it once and give it to all of them.",
        )
    known = [(name, score.shape) for name, score in scores.items() if score.shape is not None]
    for name, shape in known[1:]:
        same_shape(f"one sample of {name}", shape, f"one of {known[0][0]}", known[0][1])


def _same(one: AbstractSDE, other: AbstractSDE) -> bool:
    """Whether two SDEs are equal, as far as their numbers are known here."""
    if one is other:
        return True
    (leaves, structure), (others, structured) = jax.tree.flatten(one), jax.tree.flatten(other)
    return structure == structured and all(_equal(a, b) for a, b in zip(leaves, others, strict=True))


def _equal(one: Any, other: Any) -> bool:
    if not (is_concrete(one) and is_concrete(other)):
        return jnp.shape(one) == jnp.shape(other)
    return bool(eqx.tree_equal(one, other))
