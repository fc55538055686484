"""Objectives: estimates against integrals in closed form, changes of measure, and what a sum of terms shares."""

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats
from helpers.gaussian import COVARIANCE, MEAN, gaussian
from helpers.linear_case import alpha, beta, exponent, variance
from helpers.references import (
    LINEAR,
    RARE,
    Perturbed,
    assert_mean,
    integral,
    line_mixture,
    mean_is,
    perturbed,
    plane_mixture,
    standard,
    standard_error,
)
from helpers.refusals import refused
from helpers.terms import At, Seen, Sign, cost, evaluations
from jaxtyping import Array

import scorefp as sfp
from scorefp.integrals import AbstractTimeSampler
from scorefp.objective import (
    AbstractObjective,
    AbstractTerm,
    EDMWeighting,
    JacobianSize,
    ScoreSize,
    Smoothness,
    TimeDerivativeSize,
)
from scorefp.sde import Normal

pytestmark = pytest.mark.usefixtures("x64")


PAPER: dict[str, Any] = {"scale": sfp.unit_weighting, "size_exponent": 1.0}
"""The normalisation of Lai 2023, Eq. 19, with `lambda_FP = 1`; the default of `ScoreFPE` is the time-scale-free one."""

SAMPLERS: dict[str, AbstractTimeSampler] = {
    "UniformTime": sfp.UniformTime(),
    "UniformTime, independent": sfp.UniformTime(stratified=False),
    "UniformLogSNR": sfp.UniformLogSNR(),
    "UniformLogSNR, independent": sfp.UniformLogSNR(stratified=False),
}


class Given(AbstractTimeSampler):
    """Times and weights that were drawn before, so that one compiled estimate serves all laws of times."""

    t: Array
    weight: Array
    stratified: bool = eqx.field(default=False, static=True)

    def sample(self, sde: Any, n: int, *, key: Array) -> tuple[Array, Array]:
        return self.t, self.weight


@eqx.filter_jit
def _drawn_times(sampler: AbstractTimeSampler, sde: Any, keys: Array, n: int) -> tuple[Array, Array]:
    return jax.vmap(lambda key: sampler.sample(sde, n, key=key))(keys)


def drawn_times(sampler: AbstractTimeSampler, sde: Any, keys: Array, n: int) -> Given:
    # Without weak types, of which each compiles anew.
    return Given(*(jnp.asarray(np.asarray(a)) for a in _drawn_times(sampler, sde, keys, n)))


@eqx.filter_jit
def estimates(loss: AbstractObjective, score: sfp.score.AbstractScore, x0: Array, time: Given, keys: Array) -> Any:
    """The objective and its terms in order, each batch with its own samples, times and key."""

    def one(x0: Array, time: Given, key: Array) -> tuple[Array, list[Array]]:
        total, terms = loss.evaluate(score, x0, key=key, time=time)
        return total, list(terms.values())

    return jax.vmap(one)(x0, time, keys)


def samples(mixture: sfp.GaussianMixture, shape: tuple[int, ...], seed: int) -> Array:
    """Samples of a mixture by NumPy, where nothing has to be compiled."""
    rng = np.random.default_rng(seed)
    which = rng.choice(mixture.weights.size, shape, p=np.asarray(mixture.weights))
    axes, variances = np.asarray(mixture.axes), np.asarray(mixture.variances)
    scaled = np.sqrt(variances)[which] * rng.normal(size=(*shape, variances.shape[1]))
    offset = np.einsum("...ij,...j->...i", axes[which], scaled)
    return jnp.asarray(np.asarray(mixture.means)[which] + offset.reshape(*shape, *mixture.shape))


def added(terms: Iterable[AbstractObjective]) -> AbstractObjective:
    return functools.reduce(operator.add, terms)


# ------------------------------------------------------------------------------------------ integrals in closed form


def swirl() -> sfp.Score:
    """`s = -x + t R x` with a quarter turn `R`: neither exact nor conservative, every term has a closed form."""
    return sfp.Score(lambda t, x: -x + t * jnp.stack([-x[1], x[0]]), sfp.VP(t0=0.01))


MOMENT = 0.5 + 0.3 + 0.4**2 + 0.3**2
"""The second moment of `gaussian.gaussian`."""


def vp(t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`beta`, `alpha^2`, `sigma^2` and the second moment of `x_t`."""
    alpha2, sigma2 = alpha(t) ** 2, variance(t)
    return beta(t), alpha2, sigma2, alpha2 * MOMENT + 2 * sigma2


def dsm_square(t: np.ndarray) -> np.ndarray:
    r"""$E\|M x + \epsilon/\sigma\|^2$ with $M = -I + tR$ and $x = \alpha x_0 + \sigma\epsilon$."""
    _, alpha2, sigma2, _ = vp(t)
    return (1 + t**2) * alpha2 * MOMENT + 2 * ((1 - sigma2) ** 2 / sigma2 + t**2 * sigma2)


def martingale_square(t: np.ndarray) -> np.ndarray:
    r"""$\varepsilon_M = (1 + \beta t) R x + \beta t^2 x$."""
    beta, _, _, moment = vp(t)
    return ((1 + beta * t) ** 2 + beta**2 * t**4) * moment


def gradient_square(t: np.ndarray) -> np.ndarray:
    r"""$L = \tfrac12\beta t^2\|x\|^2$ and $\varepsilon = R x - \beta t^2 x$."""
    beta, _, _, moment = vp(t)
    return (1 + beta**2 * t**4) * moment


# Each term with its coefficient and its integrand over time.
CLOSED: list[tuple[float, AbstractTerm, Callable[[np.ndarray], np.ndarray]]] = [
    (1.0, sfp.DSM(), lambda t: 0.5 * vp(t)[0] * dsm_square(t)),
    (0.7, sfp.DSM(sfp.noise_weighting, fraction=0.24), lambda t: 0.5 * vp(t)[2] * dsm_square(t)),
    (0.3, sfp.ScoreFPE(sfp.Ito(), **PAPER), lambda t: martingale_square(t) / 4),
    (0.2, sfp.ScoreFPE(sfp.Exact(), "gradient", fraction=0.24, **PAPER), lambda t: gradient_square(t) / 4),
    (0.1, sfp.TimeDerivativeTaming(fraction=0.24), lambda t: 0.5 * vp(t)[0] * t**2 * vp(t)[3]),
    (2.0, sfp.ZeroCurl(sfp.noise_weighting, fraction=0.24), lambda t: vp(t)[2] * 4 * t**2),
]


def test_every_term_is_its_integral() -> None:
    """[H1], [F12], [C3] of a Gaussian and a linear score, whatever the law of times and the share of the batch."""
    loss, score = added(c * term for c, term, _ in CLOSED), swirl()
    shape = (800, 50)
    for seed, (name, sampler) in enumerate(SAMPLERS.items()):
        keys = jr.split(jr.key(seed), shape[0])
        time = drawn_times(sampler, score.sde, keys, shape[1])
        total, terms = estimates(loss, score, samples(gaussian(), shape, seed), time, keys)
        for value, (_, _, integrand) in zip(terms, CLOSED, strict=True):
            assert_mean(value, integral(integrand, 0.01, 1.0), resolution=0.03)
        weighted = sum(c * value for value, (c, _, _) in zip(terms, CLOSED, strict=True))
        np.testing.assert_allclose(total, weighted, rtol=1e-12, err_msg=name)


CURVATURE = 0.6
BOX = 1.5
NORMAL = sfp.Ito(sfp.Hutchinson(4, sfp.calculus.Gaussian()))


def log_residual_square(mean_square: float | np.ndarray, mean_fourth: float | np.ndarray, t: np.ndarray) -> np.ndarray:
    r"""$E[r^2]$ of $\varphi = -\tfrac12 c\|x\|^2$ in the plane: $r = \beta(1 - c)(\tfrac12 c\|x\|^2 - 1)$."""
    c = CURVATURE
    return (vp(t)[0] * (1 - c)) ** 2 * (0.25 * c**2 * mean_fourth - c * mean_square + 1)


def on_the_box(t: np.ndarray) -> np.ndarray:
    return log_residual_square(2 * BOX**2 / 3, BOX**4 * (2 / 5 + 2 / 9), t)


def on_the_data(t: np.ndarray) -> np.ndarray:
    _, alpha2, sigma2, moment = vp(t)
    variances, axes = np.linalg.eigh(np.asarray(COVARIANCE))
    spread, mean2 = alpha2 * variances[:, None] + sigma2, alpha2 * ((axes.T @ np.asarray(MEAN)) ** 2)[:, None]
    return log_residual_square(moment, moment**2 + np.sum(2 * spread**2 + 4 * spread * mean2, axis=0), t)


LOG_CLOSED: list[tuple[AbstractTerm, Callable[[np.ndarray], np.ndarray]]] = [
    (sfp.LogFPE(), on_the_data),
    (sfp.LogFPE(NORMAL, unbiased=True, fraction=0.24), on_the_data),
    # The variance of four probes on top: that of half beta c times a mean of chi-squares of two degrees.
    (sfp.LogFPE(NORMAL, fraction=0.24), lambda t: on_the_data(t) + (vp(t)[0] * CURVATURE) ** 2 / 4),
    (sfp.LogFPE(weighting=sfp.noise_weighting), lambda t: vp(t)[2] * on_the_data(t)),
]


def test_log_fpe_is_its_integral() -> None:
    """[F13] of a Gaussian and a quadratic potential: on the data, on a box, weighted, unbiased and not."""
    box = sfp.Box(jnp.full(2, -BOX), jnp.full(2, BOX))
    closed = [*LOG_CLOSED, (sfp.LogFPE(domain=box, fraction=0.5), on_the_box)]
    model = sfp.Potential(lambda t, x: -0.5 * CURVATURE * jnp.sum(x**2), sfp.VP(t0=0.01))
    loss, shape = added(term for term, _ in closed), (800, 50)
    for seed, sampler in enumerate(SAMPLERS.values()):
        keys = jr.split(jr.key(seed), shape[0])
        time = drawn_times(sampler, model.sde, keys, shape[1])
        _, terms = estimates(loss, model, samples(gaussian(), shape, seed), time, keys)
        for value, (_, integrand) in zip(terms, closed, strict=True):
            assert_mean(value, integral(integrand, 0.01, 1.0), resolution=0.05)


def test_log_fpe_sees_the_normaliser_alone_on_exact_potentials() -> None:
    r"""[F3]: zero on the exact potential, $\int c'(t)^2 dt$ on one that is off by $c(t)$."""
    exact = plane_mixture().score(sfp.VP(t0=0.01))
    term = sfp.LogFPE(sfp.Ito(sfp.Exact()), sfp.Box(jnp.full(2, -2.0), jnp.full(2, 2.0)))
    keys = jr.split(jr.key(0), 10)
    x0, time = samples(plane_mixture(), (10, 40), 0), drawn_times(sfp.UniformTime(), exact.sde, keys, 40)

    @jax.jit
    def value(rate: Array) -> Array:
        off = sfp.Potential(lambda t, x: exact.potential(t, x) + rate * t, exact.sde)
        return estimates(term, off, x0, time, keys)[0]

    np.testing.assert_allclose(value(jnp.asarray(0.0)), 0, atol=1e-18)
    np.testing.assert_allclose(value(jnp.asarray(0.7)), 0.7**2 * 0.99, rtol=1e-9)


def test_dsm_on_another_sde() -> None:
    r"""With the score of $\mathcal N(0, I)$ diffused, on other data; the integral is taken over the log-SNR, where
    $g^2\,dt = -\sigma^2\,d\lambda$."""
    sde = sfp.SubVP()
    keys = jr.split(jr.key(1), 400)

    def model(t: Array, x: Array) -> Array:
        return -x / (sde.alpha(t) ** 2 + sde.sigma(t) ** 2)

    def square(log_snr: np.ndarray) -> np.ndarray:
        t = sde.time_of_log_snr(jnp.asarray(log_snr))
        alpha2, sigma2 = np.asarray(sde.alpha(t)) ** 2, np.asarray(sde.sigma(t)) ** 2
        total = alpha2 + sigma2
        return 0.5 * (alpha2 * sigma2 * MOMENT + 2 * alpha2**2) / total**2

    time = drawn_times(sfp.UniformLogSNR(), sde, keys, 50)
    value, _ = estimates(sfp.DSM(), sfp.Score(model, sde), samples(gaussian(), (400, 50), 1), time, keys)
    assert_mean(value, integral(square, float(sde.log_snr(sde.t1)), float(sde.log_snr(sde.t0))), resolution=0.02)


def test_scale_free_weighting() -> None:
    r"""[F15]: $\int\lambda\|\varepsilon\|^2 dt = \tfrac12\int\|\tilde\varepsilon\|^2 d\lambda$ with
    $\tilde\varepsilon = (\sigma^3/g^2)\varepsilon$, over the log-SNR of VP, $-\log\operatorname{expm1}B$."""

    def time_of(log_snr: np.ndarray) -> np.ndarray:
        total = np.log1p(np.exp(-log_snr))
        return (np.sqrt(0.1**2 + 2 * 19.9 * total) - 0.1) / 19.9

    def weight(t: np.ndarray) -> np.ndarray:
        return np.asarray(jax.vmap(lambda t: sfp.objective.scale_free_weighting(sfp.VP(), t))(jnp.asarray(t)))

    def defect(log_snr: np.ndarray) -> np.ndarray:
        t = time_of(log_snr)
        beta, _, sigma2, _ = vp(t)
        return 0.5 * (sigma2**1.5 / beta) ** 2 * martingale_square(t)

    ends = [float(-np.log(np.expm1(exponent(t)))) for t in (1.0, 0.01)]
    over_time = integral(lambda t: weight(t) * martingale_square(t), 0.01, 1.0)
    np.testing.assert_allclose(over_time, integral(defect, *ends), rtol=1e-8)


def test_denoising_matching_is_matching_and_a_constant() -> None:
    """Value and gradient in parameters, on the same samples; the gradient vanishes at the exact score alone [H1]."""
    data, sde = plane_mixture(), sfp.VP(t0=0.01)
    exact = data.score(sde)
    field = Perturbed(1.0)
    # ½∫g² E‖s - s*‖² dt with the exact score s*.
    explicit = Seen(lambda p, s: 0.5 * sde.g2(p.t) * jnp.sum((s - exact(p.t, p.x)) ** 2))

    def model(theta: Array) -> sfp.Score:
        def fn(t: Array, x: Array) -> Array:
            turned = jnp.stack([-x[1], x[0]])
            return exact(t, x) + theta[0] * field(t, x) + theta[1] * x + theta[2] * t * turned

        return sfp.Score(fn, sde)

    @jax.jit
    def both(theta: Array, x0: Array, keys: Array) -> Any:
        def value(theta: Array, x0: Array, key: Array) -> Any:
            _, terms = (1.0 * sfp.DSM() + explicit).evaluate(model(theta), x0, key=key)
            return terms["DSM"], terms["Seen"]

        def one(x0: Array, key: Array) -> Any:
            values, slopes = value(theta, x0, key), jax.jacfwd(value)(theta, x0, key)
            return tuple(zip(values, slopes, strict=True))

        return jax.vmap(one)(x0, keys)

    x0, keys = samples(data, (800, 64), 3), jr.split(jr.key(3), 800)
    (start, slope), (none, flat) = both(jnp.zeros(3), x0, keys)
    assert mean_is(slope, 0.0)
    assert np.abs(none).max() < 1e-25
    assert np.abs(flat).max() < 1e-12
    (value, wrong_slope), (distance, distance_slope) = both(jnp.array([0.3, -0.2, 0.4]), x0, keys)
    assert not mean_is(wrong_slope[:, 0], 0.0, sigmas=20)
    assert_mean(value - start, distance.mean(), resolution=0.05)
    assert mean_is(value - start - distance, 0.0)
    assert mean_is(wrong_slope - distance_slope, 0.0)
    assert np.all(standard_error(wrong_slope - distance_slope) < 0.1 * np.abs(distance_slope.mean(axis=0)).max())


def test_importance_sampling_lowers_the_variance() -> None:
    r"""Song 2021, Fig. 2: near `t0 = 1e-5` [H2]. One sample of $\mathcal N(0, I)$ and its exact score, $s = -x$, where
    the error is normal of variance $\alpha^2$, so that the second moment of the estimate is known:
    $\tfrac14 D(D+2)$ times $Z\int\alpha^4 d\lambda$ or $\int (g/\sigma)^4\alpha^4 dt$."""
    normal = sfp.GaussianMixture(jnp.zeros((1, 2)), jnp.ones(1), jnp.ones(1))
    sde = sfp.VP()
    z = float(sde.log_snr(sde.t0) - sde.log_snr(sde.t1))

    def by_log_t(fn: Callable[[np.ndarray], np.ndarray]) -> float:
        return integral(lambda u: fn(np.exp(u)) * np.exp(u), np.log(1e-5), 0.0)

    def share(t: np.ndarray, power: int) -> np.ndarray:
        beta, alpha2, sigma2, _ = vp(t)
        return (beta / sigma2) ** power * alpha2**2

    mean = by_log_t(lambda t: vp(t)[0] / vp(t)[2] * vp(t)[1])
    want = {
        "UniformLogSNR": 2 * z * by_log_t(lambda t: share(t, 1)),
        "UniformTime": 2 * by_log_t(lambda t: share(t, 2)),
    }
    drawn, score, keys = {}, standard(sde), jr.split(jr.key(4), 20_000)
    for name in want:
        time = drawn_times(SAMPLERS[f"{name}, independent"], sde, keys, 1)
        drawn[name] = np.asarray(estimates(sfp.DSM(), score, samples(normal, (20_000, 1), 4), time, keys)[0])
    assert_mean(drawn["UniformLogSNR"], mean, resolution=0.02)
    assert_mean(drawn["UniformLogSNR"] ** 2, want["UniformLogSNR"], resolution=0.03)
    # The paper's effect: by orders of magnitude, in closed form and as drawn.
    assert want["UniformTime"] > 100 * want["UniformLogSNR"]
    assert drawn["UniformTime"].var() > 30 * drawn["UniformLogSNR"].var()


# ------------------------------------------------------------------------------------------ times


def tables(samplers: Iterable[str], n: int, key: Array) -> dict[str, dict[str, tuple[np.ndarray, ...]]]:
    """Times and weights for every linear SDE, with the log-SNR there and at both ends, compiled together."""
    members = {name: make() for name, make in LINEAR.items()}

    @jax.jit
    def everything(key: Array) -> Any:
        found: dict[str, dict[str, tuple[Array, ...]]] = {}
        for name, sde in members.items():
            found[name] = {}
            for label in samplers:
                t, weight = SAMPLERS[label].sample(sde, n, key=key)
                ends = sde.log_snr(jnp.asarray(sde.t0)), sde.log_snr(jnp.asarray(sde.t1))
                found[name][label] = (t, weight, sde.log_snr(t), sde.sigma(t) ** 2 / sde.g2(t), *ends)
        return found

    return jax.tree.map(np.asarray, everything(key))


def test_laws_of_times() -> None:
    """Uniform in the variable they are named after; weights are one over the density, and so have the mean
    `t1 - t0`."""
    found = tables(("UniformTime, independent", "UniformLogSNR, independent"), 20_000, jr.key(5))
    for name, make in LINEAR.items():
        sde = make()
        t, weight, log_snr, ratio, first, last = found[name]["UniformLogSNR, independent"]
        uniform = scipy.stats.uniform(last, first - last)
        assert scipy.stats.kstest(log_snr, uniform.cdf).pvalue > RARE, name
        np.testing.assert_allclose(weight, (first - last) * ratio, rtol=1e-12)
        assert_mean(weight, sde.t1 - sde.t0, resolution=0.05)
        assert_mean(weight * t, 0.5 * (sde.t1**2 - sde.t0**2), resolution=0.05)
        # The control: the same times are not uniform in t.
        flat = scipy.stats.uniform(sde.t0, sde.t1 - sde.t0)
        assert scipy.stats.kstest(t, flat.cdf).pvalue < RARE or "VE" in name
        t, weight, *_ = found[name]["UniformTime, independent"]
        assert scipy.stats.kstest(t, flat.cdf).pvalue > RARE, name
        np.testing.assert_allclose(weight, sde.t1 - sde.t0)


def test_times_stay_inside_in_float32() -> None:
    """The strata at both ends come close to them: `t0` is never undercut, as the residuals' checks require."""
    with jax.enable_x64(False):
        found = tables(("UniformTime", "UniformLogSNR"), 4_096, jr.key(6))
    for name, make in LINEAR.items():
        sde = make()
        for label, (t, weight, *_) in found[name].items():
            assert t.dtype == weight.dtype == np.float32
            assert t.min() >= np.float32(sde.t0), (name, label)
            assert t.max() <= np.float32(sde.t1), (name, label)
            assert np.all(np.isfinite(weight) & (weight > 0)), (name, label)


def cells_hit(shares: np.ndarray, count: int) -> int:
    return len(set(np.floor(shares * count).astype(int)))


@pytest.mark.quick
def test_heads_of_strata_are_even() -> None:
    """Of every head of `2^k` times, each of the `2^k` equal cells has one; other heads are nearly as even."""
    sde = sfp.EDM(t0=1.0, t1=2.0)
    for seed in range(3):
        t = np.asarray(sfp.UniformTime().sample(sde, 64, key=jr.key(seed))[0]) - 1
        for count in (1, 2, 4, 8, 16, 32, 64):
            assert cells_hit(t[:count], count) == count
        t = np.asarray(sfp.UniformTime().sample(sde, 50, key=jr.key(seed))[0]) - 1
        assert cells_hit(t, 50) == 50
        for count in range(2, 50):
            gaps = np.diff(np.sort(t[:count]), append=np.sort(t)[0] + 1)
            assert gaps.max() < 2 / count + 2 / 50, count
    # The control: independent draws, and strata in their order.
    t = np.asarray(sfp.UniformTime(stratified=False).sample(sde, 64, key=jr.key(0))[0]) - 1
    assert cells_hit(t, 64) < 60
    assert cells_hit(np.sort(t)[:16], 16) < 8


def test_each_stratified_time_is_uniform() -> None:
    """At every place of the order, so that a head, and a batch in a fixed order, have no bias."""
    sde = sfp.EDM(t0=1.0, t1=2.0)
    draw = jax.jit(jax.vmap(lambda key: sfp.UniformTime().sample(sde, 12, key=key)[0]))
    t = np.asarray(draw(jr.split(jr.key(7), 4_000))) - 1
    for place in range(12):
        assert scipy.stats.kstest(t[:, place], "uniform").pvalue > RARE, place


# ------------------------------------------------------------------------------------------ ScoreFPE

FINE = sfp.FiniteDifference(2e-5, 1e-5)
METHODS: dict[str, sfp.fokker_planck.ResidualMethod] = {
    "Exact": sfp.Exact(),
    "Hutchinson": sfp.Hutchinson(),
    "Ito": sfp.Ito(),
    "Sliced": sfp.Sliced(),
    "FiniteDifference": FINE,
    "Antithetic(0.02)": sfp.Antithetic(0.02),
    "Antithetic(0.005)": sfp.Antithetic(0.005),
}


def test_zero_on_the_exact_score_alone() -> None:
    """On a line a sign is an orthonormal probe, so that no method has a variance: what is left is round-off and the
    error of a difference."""
    data = line_mixture()
    exact = data.score(sfp.VP(t0=0.01))
    loss = added(sfp.ScoreFPE(method) for method in METHODS.values())
    keys = jr.split(jr.key(8), 10)
    x0, time = samples(data, (10, 16), 8), drawn_times(sfp.UniformLogSNR(), exact.sde, keys, 16)
    values = {}

    @jax.jit
    def both(eta: Array) -> list[Array]:
        return estimates(loss, perturbed(exact, eta), x0, time, keys)[1]

    for name, eta in (("exact", 0.0), ("wrong", 0.3)):
        terms = both(jnp.asarray(eta))
        values[name] = dict(zip(METHODS, (float(value.mean()) for value in terms), strict=True))
    want = values["wrong"]["Exact"]
    assert want > 1e-3
    for method in ("Exact", "Hutchinson", "Ito", "Sliced"):
        assert values["exact"][method] < 1e-22 * want, method
        np.testing.assert_allclose(values["wrong"][method], want, rtol=1e-10, err_msg=method)
    assert values["exact"]["FiniteDifference"] < 1e-6 * want
    np.testing.assert_allclose(values["wrong"]["FiniteDifference"], want, rtol=1e-3)
    # The residual is off by O(step), so its square at the exact score falls by 16.
    coarse, fine = (values["exact"][f"Antithetic({step})"] for step in (0.02, 0.005))
    assert 10 < coarse / fine < 20
    assert fine < 0.01 * want
    np.testing.assert_allclose(values["wrong"]["Antithetic(0.005)"], want, rtol=0.1)


def test_bias_of_the_square() -> None:
    """Two probes give the square without bias; one gives the mean of its own square, which has the variance on top
    [F9]. On the same samples, in the plane."""
    field = lambda t, x: jnp.cos(3 * t) * jnp.sin(2 * x[0] * x[1] + jnp.arange(2))
    score = sfp.Score(lambda t, x: -x + field(t, x), sfp.VP(t0=0.01))
    terms: dict[str, AbstractTerm] = {
        "exact": sfp.ScoreFPE(sfp.Exact()),
        "exact martingale": sfp.ScoreFPE(sfp.Exact(), "martingale"),
        "one probe": sfp.ScoreFPE(sfp.Hutchinson()),
        "plus": sfp.ScoreFPE(sfp.Hutchinson(law=Sign(1.0))),
        "minus": sfp.ScoreFPE(sfp.Hutchinson(law=Sign(-1.0))),
        "Hutchinson": sfp.ScoreFPE(sfp.Hutchinson(), unbiased=True),
        "Antithetic": sfp.ScoreFPE(sfp.Antithetic(1e-5), unbiased=True),
    }
    keys = jr.split(jr.key(9), 800)
    time = drawn_times(sfp.UniformLogSNR(), score.sde, keys, 32)
    _, values = estimates(added(terms.values()), score, samples(gaussian(), (800, 32), 9), time, keys)
    found = {name: np.asarray(value) for name, value in zip(terms, values, strict=True)}
    for name, want in (("Hutchinson", "exact"), ("Antithetic", "exact martingale")):
        assert_mean(found[name] - found[want] + found[want].mean(), found[want].mean())
    spread = 0.5 * (found["plus"] + found["minus"])
    assert np.all(spread > found["exact"])
    assert_mean(found["one probe"] - found["exact"], (spread - found["exact"]).mean())
    assert not mean_is(found["one probe"], found["exact"].mean(), sigmas=10)


def test_formula_by_hand() -> None:
    """[F12] with `Exact()`, sample by sample, of the very `(t, x)` that the other terms of the sum see."""
    score = sfp.Score(lambda t, x: -x + Perturbed(1.0)(t, x), sfp.VP(t0=0.01))
    looks = [Seen(lambda p, s: p.t), Seen(lambda p, s: p.x[0]), Seen(lambda p, s: p.x[1]), Seen(lambda p, s: s[1])]
    cases = [
        (sfp.ScoreFPE(sfp.Exact(), **PAPER), lambda eps, t: (np.linalg.norm(eps) / 2) ** 2),
        (sfp.ScoreFPE(sfp.Exact(), power=1.0, **PAPER), lambda eps, t: np.linalg.norm(eps) / 2),
        (
            sfp.ScoreFPE(sfp.Exact(), power=1.0, scale=sfp.likelihood_weighting),
            lambda eps, t: beta(t) * np.linalg.norm(eps),
        ),
        # [F15]: half the square of (sigma^3 / g^2) eps, times -dλ/dt.
        (sfp.ScoreFPE(sfp.Exact()), lambda eps, t: 0.5 * vp(t)[2] ** 2 / vp(t)[0] * np.sum(eps**2)),
        (
            sfp.ScoreFPE(sfp.Exact(), power=3.0, scale=sfp.likelihood_weighting, size_exponent=0.5),
            lambda eps, t: (beta(t) * np.linalg.norm(eps) / np.sqrt(2)) ** 3,
        ),
        # The paper's formula has g^4, its published code g^2.
        (sfp.ScoreFPE(sfp.Exact(), scale=sfp.likelihood_weighting), lambda eps, t: beta(t) ** 2 * np.sum(eps**2)),
        (sfp.ScoreFPE(sfp.Exact(), weighting=sfp.likelihood_weighting), lambda eps, t: beta(t) * np.sum(eps**2)),
        (
            sfp.ScoreFPE(sfp.Exact(), power=1.0, scale=sfp.noise_weighting, weighting=sfp.likelihood_weighting),
            lambda eps, t: beta(t) * vp(t)[2] * np.linalg.norm(eps),
        ),
        (sfp.ScoreFPE(sfp.Exact(), power=1.0), lambda eps, t: np.sqrt(0.5 / beta(t)) * vp(t)[2] * np.linalg.norm(eps)),
    ]
    loss, weight = added([*looks, *(term for term, _ in cases)]), 2.0
    drawn = np.random.default_rng(10).uniform(0.02, 1.0, (8, 1))
    time = Given(jnp.asarray(drawn), jnp.full((8, 1), weight))
    _, found = estimates(loss, score, samples(gaussian(), (8, 1), 10), time, jr.split(jr.key(10), 8))
    t, x0, x1, s1, *values = (np.asarray(value) / weight for value in found)
    np.testing.assert_array_equal(t, drawn[:, 0])
    x = jnp.asarray(np.stack([x0, x1], axis=1))
    residual = jax.jit(jax.vmap(lambda t, x: (score(t, x), sfp.score_fpe_residual(score, t, x))))
    s, eps = residual(jnp.asarray(t), x)
    np.testing.assert_allclose(s1, s[:, 1], rtol=1e-12)
    for value, (_, by_hand) in zip(values, cases, strict=True):
        want = [by_hand(np.asarray(e), u) for e, u in zip(eps, t, strict=True)]
        np.testing.assert_allclose(value, want, rtol=1e-10)


@pytest.mark.quick
@pytest.mark.parametrize("x64_on", [False, True], ids=["float32", "float64"])
def test_gradient_of_the_norm_at_zero(x64_on: bool) -> None:
    """`power=1` has no derivative where the residual vanishes; zero is taken, and not NaN."""
    with jax.enable_x64(x64_on):
        x0 = jnp.ones((4, 2))

        @jax.jit
        def slope(a: Array) -> tuple[Array, Array]:
            def value(a: Array) -> Array:
                score = sfp.Score(lambda t, x: a * t * jnp.ones_like(x), sfp.EDM())
                return sfp.ScoreFPE(sfp.Ito(), power=1.0, **PAPER)(score, x0, key=jr.key(0), time=At(2.0))

            return jax.value_and_grad(value)(a)

        # Without drift the residual of a t is a, in each of two entries.
        for a in (0.0, 0.5, -0.5):
            value, rise = slope(jnp.asarray(a))
            np.testing.assert_allclose(value, abs(a) / 2**0.5, rtol=1e-6)
            np.testing.assert_allclose(rise, np.sign(a) / 2**0.5, rtol=1e-6)


WEIGHTED: dict[str, Callable[..., AbstractTerm]] = {
    cls.__name__: cls
    for cls in (
        sfp.DSM,
        sfp.ScoreFPE,
        sfp.LogFPE,
        sfp.ZeroCurl,
        sfp.Consistency,
        sfp.HighOrderDSM,
        ScoreSize,
        JacobianSize,
        TimeDerivativeSize,
        Smoothness,
    )
} | {"ScoreFPE of another power": functools.partial(sfp.ScoreFPE, sfp.Ito(), power=1.0)}


@pytest.mark.parametrize("name", WEIGHTED)
def test_weighting_multiplies_the_integrand(name: str) -> None:
    """Twice the weighting is twice the value, and `likelihood_weighting` is one factor `g^2`."""
    score = swirl() if name != "LogFPE" else sfp.Potential(lambda t, x: -jnp.sum(x**4) + t * x[0], sfp.VP(t0=0.01))
    x0, t = jnp.asarray(np.linspace(-1, 1, 16).reshape(8, 2)), 0.3

    @jax.jit
    def value(constant: Array, of_g2: Array) -> Array:
        def weighting(sde: Any, t: Array) -> Array:
            return constant + of_g2 * sfp.likelihood_weighting(sde, t)

        return WEIGHTED[name](weighting=weighting)(score, x0, key=jr.key(0), time=At(t))

    one, two, likelihood = (float(value(*map(jnp.asarray, c))) for c in ((1.0, 0.0), (2.0, 0.0), (0.0, 1.0)))
    assert abs(one) > 1e-3
    np.testing.assert_allclose([two, likelihood], [2 * one, beta(t) * one], rtol=1e-10)


def test_edm_weighting() -> None:
    """Karras 2022: `(σ̃² + σ_d²)/(σ̃ σ_d)²` times the squared error of the denoiser, for any linear SDE [H1]."""
    sde, x0, t = sfp.VP(), jnp.array([[0.3, -0.8]]), 0.4
    score = sfp.Score(lambda t, x: jnp.sin(x + t), sde)

    @jax.jit
    def both(key: Array) -> tuple[Array, Array]:
        loss = added([sfp.DSM(EDMWeighting(0.7)), Seen(lambda p, s: p.x[0]), Seen(lambda p, s: p.x[1])])
        _, terms = loss.evaluate(score, x0, key=key, time=At(t))
        x = jnp.stack([terms["Seen"], terms["Seen 2"]])
        return terms["DSM"], jnp.sum((score.denoise(t, x) - x0[0]) ** 2)

    value, square = both(jr.key(1))
    level = np.sqrt(np.expm1(exponent(t)))
    np.testing.assert_allclose(value, 0.5 * (level**2 + 0.7**2) / (level * 0.7) ** 2 * square, rtol=1e-10)


def test_weightings_by_the_signal_to_noise_ratio() -> None:
    """Hang 2023 caps the weight of the denoiser's error at gamma, Crowson 2024 bends it there [H1]."""
    sde, t = sfp.VP(), np.geomspace(1e-4, 1.0, 30)
    snr = alpha(t) ** 2 / variance(t)
    of_denoiser = (variance(t) / alpha(t)) ** 2
    for gamma in (0.7, 5.0):
        capped, soft = (
            np.asarray(jax.vmap(lambda t, w=weighting: w(sde, t))(jnp.asarray(t))) / of_denoiser
            for weighting in (sfp.objective.MinSNRWeighting(gamma), sfp.objective.SoftMinSNRWeighting(gamma))
        )
        np.testing.assert_allclose(capped, np.minimum(snr, gamma), rtol=1e-9)
        np.testing.assert_allclose(1 / soft, 1 / snr + 1 / gamma, rtol=1e-9)


def test_weighting_between_two() -> None:
    sde = sfp.VP()
    for t in map(jnp.asarray, (1e-4, 0.1, 0.9)):
        first, last = sfp.noise_weighting(sde, t), sfp.likelihood_weighting(sde, t)
        np.testing.assert_allclose(sfp.objective.InterpolatedWeighting(0.0)(sde, t), first)
        np.testing.assert_allclose(sfp.objective.InterpolatedWeighting(1.0)(sde, t), last)
        # The logarithm is linear in the share.
        between = jnp.log(sfp.objective.InterpolatedWeighting(0.25)(sde, t))
        np.testing.assert_allclose(between, 0.75 * jnp.log(first) + 0.25 * jnp.log(last), rtol=1e-12)


# ------------------------------------------------------------------------------------------ sums of terms


@pytest.mark.quick
def test_linear_combinations() -> None:
    matching, exact = sfp.DSM(), sfp.ScoreFPE(sfp.Exact())
    sums = {
        "floats": (2.0 * matching + exact * 3.0, 2, 3),
        "integers": (2 * matching + exact * 3, 2, 3),
        "arrays": (jnp.asarray(-1.0) * (matching + exact), -1, -1),
        "nested": (4.0 * (matching + 0.5 * exact), 4, 2),
        "repeated": (matching + exact + 2.0 * matching, 3, 1),
    }

    @jax.jit
    def values(x0: Array) -> Any:
        def of(loss: AbstractObjective) -> Any:
            # Neither term draws anything itself: the same key shows all the same samples.
            return loss.evaluate(swirl(), x0, key=jr.key(11), time=At(0.3))

        return [of(matching)[0], of(exact)[0]], {name: of(loss) for name, (loss, _, _) in sums.items()}

    (first, second), found = values(jnp.asarray(np.linspace(-1, 1, 16).reshape(8, 2)))
    for name, (_, a, b) in sums.items():
        total, terms = found[name]
        np.testing.assert_allclose(total, a * first + b * second, rtol=1e-12, err_msg=name)
        np.testing.assert_allclose([terms["DSM"], terms["ScoreFPE"]], [first, second], rtol=1e-12)
    assert set(found["repeated"][1]) == {"DSM", "ScoreFPE", "DSM 2"}
    np.testing.assert_allclose(found["repeated"][1]["DSM 2"], first, rtol=1e-12)
    assert [float(c) for c, _ in sums["nested"][0].parts()] == [4.0, 2.0]


@pytest.mark.quick
def test_a_sweep_compiles_once() -> None:
    traces = []

    def weighting(sde: Any, t: Array) -> Array:
        traces.append(t)
        return sde.g2(t)

    @eqx.filter_jit
    def value(loss: AbstractObjective) -> Array:
        return loss(swirl(), jnp.ones((4, 2)), key=jr.key(0), time=At(0.3))

    term, values = sfp.DSM(weighting), []
    for c in (0.0, 0.1, 1.0, 10.0, jnp.asarray(7.0)):
        values.append(float(value(sfp.DSM() + c * term)))
    assert len(traces) == 1
    np.testing.assert_allclose(values, values[0] * np.array([1.0, 1.1, 2.0, 11.0, 8.0]), rtol=1e-12)


@pytest.mark.quick
def test_samples_are_reproducible() -> None:
    score, x0 = swirl(), jnp.ones((4, 2))
    value = jax.jit(lambda key: sfp.DSM()(score, x0, key=key))
    assert value(jr.key(0)) == value(jr.key(0))
    assert value(jr.key(0)) != value(jr.key(1))


EVALUATIONS: dict[str, tuple[AbstractObjective, int]] = {
    "DSM": (sfp.DSM(), 1),
    "two of DSM": (sfp.DSM() + sfp.DSM(sfp.noise_weighting), 1),
    "Exact": (sfp.DSM() + sfp.ScoreFPE(sfp.Exact()), 1),
    "martingale": (sfp.DSM() + sfp.ScoreFPE(sfp.Hutchinson(), "martingale"), 1),
    "Ito": (sfp.DSM() + sfp.ScoreFPE(sfp.Ito()), 1),
    "unbiased Ito": (sfp.DSM() + sfp.ScoreFPE(sfp.Ito(), unbiased=True), 1),
    # The two steps are one batched evaluation.
    "Antithetic": (sfp.DSM() + sfp.ScoreFPE(sfp.Antithetic()), 2),
    "TimeDerivativeTaming": (sfp.DSM() + sfp.TimeDerivativeTaming(), 1),
    "ZeroCurl": (sfp.DSM() + sfp.ZeroCurl(), 1),
    # The head with the residual, and the rest of the batch.
    "a part of the batch": (sfp.DSM() + sfp.ScoreFPE(sfp.Ito(), fraction=0.5), 2),
}


@pytest.mark.quick
@pytest.mark.parametrize("name", EVALUATIONS)
def test_terms_share_one_evaluation(name: str) -> None:
    loss, want = EVALUATIONS[name]
    assert evaluations(loss, sfp.VP()) == want


def test_cost_of_a_step() -> None:
    """Operations of a training step: `Antithetic` has three evaluations where DSM has one."""
    assert 2.8 < cost(sfp.DSM() + sfp.ScoreFPE(sfp.Antithetic()), sfp.VP()) < 3.2
    assert 1.4 < cost(sfp.DSM() + sfp.ScoreFPE(sfp.Antithetic(), fraction=0.25), sfp.VP()) < 1.6


# ------------------------------------------------------------------------------------------ conditioning, dropout


@pytest.mark.quick
def test_each_sample_has_its_own_args() -> None:
    """The mean of `args x` over the batch, next to no noise, at several shares of the batch."""
    args = {"c": jnp.arange(8.0)}
    x0 = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2)))
    score = sfp.Score(lambda t, x, *, args: args["c"] * x, sfp.EDM(t0=1e-9, t1=1.0))
    first, half = Seen(lambda p, s: s[0]), Seen(lambda p, s: s[1], fraction=0.5)

    @jax.jit
    def terms_of(args: Any) -> Any:
        return (first + half).evaluate(score, x0, key=jr.key(0), time=At(1e-9), args=args)

    _, terms = terms_of(args)
    np.testing.assert_allclose(terms["Seen"], np.mean(np.arange(8) * x0[:, 0]), atol=1e-7)
    np.testing.assert_allclose(terms["Seen 2"], np.mean((np.arange(8) * x0[:, 1])[:4]), atol=1e-7)
    # One conditioning for all is bound before.
    bound = jax.jit(lambda c: first(score.bind(args={"c": c}), x0, key=jr.key(0), time=At(1e-9)))
    np.testing.assert_allclose(bound(jnp.asarray(2.0)), 2 * np.mean(x0[:, 0]), atol=1e-7)


@pytest.mark.quick
def test_dropout_keys() -> None:
    """One key a sample: other samples have another, all evaluations of one sample the same."""

    def network(t: Array, x: Array, *, key: Array) -> Array:
        return jr.normal(key, x.shape)

    score = sfp.Score(network, sfp.EDM())
    # The residual of a constant field vanishes where the rate of the SDE does; with other noise it would be huge.
    loss = added([sfp.ScoreFPE(sfp.Antithetic()), Seen(lambda p, s: s[0]), Seen(lambda p, s: s[0] ** 2)])
    evaluate = jax.jit(lambda x0: loss.evaluate(score, x0, key=jr.key(0), time=At(1.0), dropout=True))
    _, terms = evaluate(jnp.zeros((1000, 2)))
    assert terms["ScoreFPE"] < 1e-20
    assert abs(terms["Seen"]) < 4 / 1000**0.5
    assert abs(terms["Seen 2"] - 1) < 4 * (2 / 1000) ** 0.5
    # Without `dropout` the network gets no key.
    refused("key", sfp.DSM(), score, jnp.zeros((10, 2)), key=jr.key(0), time=At(1.0), error=TypeError)


# ------------------------------------------------------------------------------------------ bad input


@pytest.mark.quick
@pytest.mark.usefixtures("unchecked")
def test_bad_input() -> None:
    score, loss, key, x0 = swirl(), sfp.DSM() + sfp.ScoreFPE(), jr.key(0), jnp.ones((4, 2))
    with pytest.raises(TypeError, match=r"x0 has dtype int64; .* for example x0.astype\(jnp.float32\)"):
        loss(score, x0.astype(int), key=key)
    refused(r"x0 has shape \(0, 2\); it is a batch of samples, at least one", loss, score, jnp.ones((0, 2)), key=key)
    with pytest.raises(
        ValueError, match=r"args has arrays with leading axes \[\(5,\)\], x0 has 4; each sample has its own"
    ):
        loss(score, x0, key=key, args=jnp.ones(5))
    general = sfp.GeneralSDE(lambda t, x: -x, lambda t, x: sfp.VP().diffusion(t, x), Normal(1.0), t0=0.0, t1=1.0)
    message = "sde is a GeneralSDE, which has no Gaussian kernel"
    for term in (sfp.DSM(), sfp.ScoreFPE(sfp.Exact()), loss):
        refused(message, term, standard(general), x0, key=key, error=TypeError)
    with pytest.raises(TypeError, match=r"potential is a Score, a score without a potential: .*Potential\(fn, sde\)"):
        sfp.LogFPE()(score, x0, key=key)
    kinked = sfp.Potential(lambda t, x: jnp.sum(jax.nn.relu(x)), sfp.VP())
    refused("potential uses relu, which is piecewise linear", sfp.LogFPE(), kinked, x0, key=key)
    smooth = sfp.Potential(lambda t, x: jnp.sum(jnp.sin(x)), sfp.VP())
    term = sfp.LogFPE(domain=sfp.Box(-jnp.ones(3), jnp.ones(3)))
    refused(r"domain has shape \(3,\), but a sample has shape \(2,\)", term, smooth, x0, key=key)
    with pytest.raises(TypeError, match=r"method = Sliced\(…\), which takes the residual of a score\. That of a pot"):
        sfp.LogFPE(sfp.Sliced())  # type: ignore


@pytest.mark.quick
def test_bad_options() -> None:
    for term in (*WEIGHTED.values(), sfp.TimeDerivativeTaming):
        for fraction in (0.0, -0.5, 1.5):
            refused(rf"fraction = {fraction}; a share of the batch lies in \(0, 1\]", term, fraction=fraction)
        assert term(fraction=1.0).fraction == 1.0
    refused("step = 0", Smoothness, step=0.0)
    refused(r"power = 0\.0; the exponent of the norm is positive", sfp.ScoreFPE, power=0.0)
    with pytest.raises(ValueError, match=r"unbiased = True with power = 1\.0; only the square .* Use power=2"):
        sfp.ScoreFPE(power=1.0, unbiased=True)
    refused(r"form = 'gradient' with method = Ito\(…\), which takes 'martingale'", sfp.ScoreFPE, sfp.Ito(), "gradient")
    with pytest.raises(ValueError, match=r"form = 'martingale' with method = Sliced\(…\), which takes 'gradient'"):
        sfp.ScoreFPE(sfp.Sliced(), "martingale")
    refused(r"data_std = 0\.0; a standard deviation is positive", EDMWeighting, 0.0)
    refused(r"gamma = -1\.0; a signal-to-noise ratio is positive", sfp.objective.MinSNRWeighting, -1.0)
    refused(r"gamma = 0\.0; a signal-to-noise ratio is positive", sfp.objective.SoftMinSNRWeighting, 0.0)
    refused(r"share = 1\.5; a share lies in \[0, 1\]", sfp.objective.InterpolatedWeighting, 1.5)
