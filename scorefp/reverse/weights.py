"""Weights along paths of the reverse process: their rates, and where they start [W1], [W2], [W3]."""

from collections.abc import Iterator

import jax.numpy as jnp
import jax.random as jr

from .._checks import checked, is_concrete, kind, optional_key
from .._describe import name_of
from .._module import AbstractModule
from .._precision import measures
from .._types import Event, Key, Scalar, Time
from ..calculus._smoothness import require_smooth
from ..calculus.probes import default_trace
from ..fokker_planck import LogResidualMethod
from ..fokker_planck.method import AbstractLogResidualMethod
from ..fokker_planck.operators import advection_divergence
from ..fokker_planck.residual import resolve_log, with_room
from ..score import AbstractComposition, AbstractPotential, AbstractScore, Potential, Tilted
from ..score.score import measured_at, require_score
from ..sde import AbstractPrior, Normal


@measures
def weight_rate(
    score: AbstractScore,
    t: Time,
    x: Event,
    *,
    residual: LogResidualMethod | None = None,
    key: Key | None = None,
) -> Scalar:
    r"""The rate $r$ of the log-weight $\log w = -\int_t^{t_1} r(\tau, x_\tau)\,d\tau$ along paths of the reverse
    process of a score, for which the weighted law at $t$ is the one that the score names, $p_t \propto e^{\varphi(t,
    \cdot)}$ with $s = \nabla\varphi$ [W1] (Skreta 2025).

    It is the residual $\partial_t\varphi - L[\nabla\varphi]$ of the equation of log-densities [F3], on any SDE, put
    together from the parts of the score, each evaluated once. With $A = f - \tfrac12\nabla\cdot(GG^\top)$:

    - A **potential** by itself has the residual that `log_fpe_residual` takes.
    - A **linear combination** $s = \sum_i\beta_i s_i$ (`Annealed`, `Product`, `Guided`) of parts with rates $r_i$ has

    $$ r = \sum_i\beta_i r_i + \tfrac12\Big(\sum_i\beta_i\|G^\top s_i\|^2 - \|G^\top s\|^2\Big)
       - \Big(\sum_i\beta_i - 1\Big)\,\nabla\cdot A, $$

    which is [W2] with its function of time: then $E[w]$ is the ratio of normalisers, $Z_t/Z_{t_1}$. No derivative of
    a score is taken.

    - A **tilt** $s_0 + \nabla h$ (`Tilted`) of a score with the rate $r_0$ has [W3]

    $$ r = r_0 + \partial_t h + \langle A, \nabla h\rangle - \langle GG^\top s_0, \nabla h\rangle
       - \tfrac12\|G^\top\nabla h\|^2 - \tfrac12\nabla\cdot(GG^\top\nabla h) . $$

    Without `residual` the parts of a composition are taken to be exact, each the score of a solution of its
    Fokker–Planck equation, with the rate zero.

    Args:
        score: A potential, or a composition of scores.
        t: The time, in `[t0, t1]`.
        x: One sample; batch with `jax.vmap`.
        residual: How the residuals of the parts are taken, which need a potential each: any method of
            `log_fpe_residual`. With `None` parts are exact; the residual of a potential by itself, and the derivatives
            of a reward, are taken by `Exact()` for samples of up to 16 elements, else by `Hutchinson()`.
        key: A random key, for a method that draws probes.

    Returns:
        A scalar, in nats per unit of time.

    Raises:
        TypeError: if `score` is no score, or one without a potential and no composition; if `residual` is given and is
            no method for potentials, or a part has no potential; if `x` is not floating or of half precision.
        ValueError: if `t` is outside the horizon, the score has another shape than `x`, a random method gets no key, or
            a potential or reward uses a piecewise-linear activation where it is differentiated twice; where it is
            known, if `x` is not finite.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP(beta_min=2.0, beta_max=2.0))
        >>> x = jnp.array([3.0])
        >>> float(sfp.reverse.weight_rate(sfp.Annealed(standard, 1.0), 0.5, x))
        0.0
        >>> float(sfp.reverse.weight_rate(sfp.Annealed(standard, 2.0), 0.5, x))
        -17.0
    """
    check_weighable(score, residual)
    t, x = measured_at(score, t, x)
    rates = rates_of(score, residual, x.size)
    optional_key("a residual of a potential or a reward", key, needed=rates.random)
    return rates(score, t if residual is None else with_room(rates.tilt, t, score.sde), x, key)[1]


class Rates(AbstractModule):
    """Scores with their rates, as `weight_rate` has them.

    Args:
        leaf: How the residual of a score that is no composition is taken; `None` where it is zero.
        tilt: How the derivatives of a reward are taken.
        random: Whether a key is needed.
    """

    leaf: AbstractLogResidualMethod | None
    tilt: AbstractLogResidualMethod
    random: bool

    def __call__(self, score: AbstractScore, t: Scalar, x: Event, key: Key | None) -> tuple[Event, Scalar]:
        """The score and its rate, from one evaluation of each part."""
        sde = score.sde
        if isinstance(score, AbstractComposition):
            betas = score.exponents.astype(x.dtype)
            keys = [None if key is None else jr.fold_in(key, i) for i in range(len(score.scores))]
            values, rates = zip(
                *(self(part, t, x, key) for part, key in zip(score.scores, keys, strict=True)), strict=True
            )
            s = sum((beta * value for beta, value in zip(betas, values, strict=True)), jnp.zeros_like(x))
            # With the sum of the exponents B: sum b |s_i|^2 - |s|^2 = sum b |s_i - s|^2 + (1 - B) |s|^2, which loses no
            # digits for guidance, where B is one. One sum over the elements: beside a small network each costs time.
            spread = lambda v: v * sde.covariance(t, x, v)
            excess = 1 - jnp.sum(betas)
            spreads = sum((beta * spread(v - s) for beta, v in zip(betas, values, strict=True)), excess * spread(s))
            own = sum((beta * rate for beta, rate in zip(betas, rates, strict=True)), jnp.zeros((), x.dtype))
            return s, own + 0.5 * jnp.sum(spreads) + excess * advection_divergence(sde, t, x)
        if isinstance(score, Tilted):
            keys = (None, None) if key is None else jr.split(key)
            s, rate = self(score.score, t, x, keys[0])
            reward = Potential(score.reward, sde, score.shape)
            slope, growth = _residual(self.tilt, "reward", reward, t, x, keys[1])
            crossed = jnp.sum(slope * sde.covariance(t, x, s))
            return s + slope, rate + growth - advection_divergence(sde, t, x) - crossed
        if self.leaf is None:
            return score(t, x), jnp.zeros((), x.dtype)
        assert isinstance(score, AbstractPotential)
        return _residual(self.leaf, "potential", score, t, x, key)


def _residual(
    method: AbstractLogResidualMethod, name: str, potential: AbstractPotential, t: Scalar, x: Event, key: Key | None
) -> tuple[Event, Scalar]:
    """The score of a potential and its residual."""
    require_smooth(name, potential.potential, t, x)
    s, residual = method.log_residual(potential, t, x, key)
    return potential(t, x) if s is None else s, residual


def rates_of(score: AbstractScore, residual: LogResidualMethod | None, size: int) -> Rates:
    """How the rates of a score are taken, for samples of so many elements."""
    tilt = resolve_log(default_trace(size) if residual is None else residual)
    composed = isinstance(score, AbstractComposition | Tilted)
    leaf = None if residual is None and composed else tilt
    tilted = any(isinstance(part, Tilted) for _, part in _parts("score", score))
    return Rates(leaf, tilt, tilt.random and (leaf is not None or tilted))


def check_weighable(score: AbstractScore, residual: LogResidualMethod | None) -> None:
    """Refuses a score whose paths have no weights, and a part without a potential where one is needed."""
    kind("score", score, AbstractScore)
    if residual is not None:
        resolve_log(residual)
    composed = isinstance(score, AbstractComposition | Tilted)
    for name, part in _parts("score", score):
        require_score(part, name)
        if isinstance(part, AbstractComposition | Tilted | AbstractPotential):
            continue
        if not composed:
            raise TypeError(
                f"score is a {name_of(part)}, a score without a potential and no composition: there is no law that "
                "weights could lead to. Compose it, as in Annealed(score, 2.0), wrap a scalar function with "
                "Potential(fn, sde), or sample without weights, by EulerMaruyama()."
            )
        if residual is not None:
            raise TypeError(
                f"{name} is a {name_of(part)}, a score without a potential, whose residual as a rate of weights is not "
                f"known; residual = {residual} asks for that of every part. Leave residual out, which takes the "
                "parts of a composition for exact, or wrap a scalar function with Potential(fn, sde)."
            )


def _parts(name: str, score: AbstractScore) -> Iterator[tuple[str, AbstractScore]]:
    """A score and all that it is composed of, by name."""
    yield name, score
    if isinstance(score, AbstractComposition):
        for i, part in enumerate(score.scores):
            yield from _parts(f"{name}.scores[{i}]", part)
    elif isinstance(score, Tilted):
        yield from _parts(f"{name}.score", score.score)


def total_exponent(score: AbstractScore) -> Scalar:
    r"""The exponent of the prior in the law that a score names at `t1`, $B = \sum_i\beta_i$ over all levels."""
    if isinstance(score, AbstractComposition):
        shares = [total_exponent(part) for part in score.scores]
        return jnp.sum(score.exponents * jnp.stack(shares))
    return total_exponent(score.score) if isinstance(score, Tilted) else jnp.ones(())


def checked_exponent(score: AbstractScore) -> Scalar:
    """`total_exponent`, refused where the law of the score at `t1` is a power of the prior that is none."""
    total = total_exponent(score)
    value = f" {float(total):g}" if is_concrete(total) else ""
    message = (
        f"the exponents of score have the sum{value}, which must be positive: at t1 the score names the law prior^sum, "
        "which has no normaliser else. Give positive parts more weight."
    )
    return checked(total, ~(total > 0), message)


def tempered(prior: AbstractPrior, exponent: Scalar, draw: Event) -> tuple[Event, Scalar]:
    r"""Rescales a draw of a normal prior to the law $\propto\pi^B$ and returns its log-density there; any other prior's
    draw and density are left as they are.
    """
    if not isinstance(prior, Normal):
        return draw, prior.log_prob(draw)
    # N(0, scale^2 / B), whose density is that of sqrt(B) x under the prior, times the stretch.
    exponent = exponent.astype(draw.dtype)
    return draw / jnp.sqrt(exponent), prior.log_prob(draw) + 0.5 * draw.size * jnp.log(exponent)


def log_end_density(score: AbstractScore, x: Event) -> Scalar:
    r"""The potential $\varphi(t_1, x)$ that a score names at `t1`; a part without a potential has the log-density of
    the prior.
    """
    sde = score.sde
    if isinstance(score, AbstractComposition):
        values = jnp.stack([log_end_density(part, x) for part in score.scores])
        return jnp.sum(score.exponents.astype(x.dtype) * values)
    if isinstance(score, Tilted):
        reward = Potential(score.reward, sde, score.shape)
        return log_end_density(score.score, x) + reward.potential(sde.t1, x)
    return score.potential(sde.t1, x) if isinstance(score, AbstractPotential) else sde.prior.log_prob(x)
