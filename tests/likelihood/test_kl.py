"""Entropies and Kullback–Leibler divergences: each against a closed form, and the identities between them."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.gaussian import gaussian
from helpers.linear_case import LinearCase
from helpers.references import LINEAR, assert_mean, line_mixture, mean_is, perturbed, plane_mixture, standard
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp
from scorefp.likelihood.kl import end_cross_entropy
from scorefp.sde import AbstractLinearSDE

pytestmark = pytest.mark.usefixtures("x64")


def close(found: sfp.Estimate, want: float, *, sigmas: float = 4.0, resolution: float = 0.1) -> bool:
    """Whether an estimate is `want` within its standard error; refused where the error is too large to tell."""
    assert float(found.error) <= resolution * abs(want), f"{found} is no use for {want}"
    return abs(float(found.value) - want) <= sigmas * float(found.error)


# ------------------------------------------------------------------------------------------- closed forms [K9]
def test_gaussian_kl() -> None:
    """Against a Monte-Carlo mean of exact logs, and zero between equals."""
    logpdf = jax.scipy.stats.multivariate_normal.logpdf
    mean, covariance = jnp.array([0.3, -0.2]), jnp.array([[0.5, 0.2], [0.2, 0.3]])
    other, wider = jnp.array([0.0, 0.4]), jnp.array([[0.9, -0.1], [-0.1, 0.6]])
    xs = jr.multivariate_normal(jr.key(0), mean, covariance, (40_000,))
    want = sfp.likelihood.gaussian_kl(mean, covariance, other, wider)
    assert_mean(logpdf(xs, mean, covariance) - logpdf(xs, other, wider), float(want), resolution=0.02)
    assert abs(sfp.likelihood.gaussian_kl(mean, covariance, mean, covariance)) < 1e-15


def test_prior_kl_and_its_bound() -> None:
    """A short OU process, whose end is far from its prior."""
    data, sde = gaussian(), sfp.OU(t1=0.8)
    xs = data.sample(jr.key(1), 20_000)
    scale, std = float(sde.alpha(0.8)), float(sde.sigma(0.8))
    covariance = scale**2 * jnp.asarray([[0.5, 0.2], [0.2, 0.3]]) + std**2 * jnp.eye(2)
    prior = sde.prior.scale**2 * jnp.eye(2)
    want = float(sfp.likelihood.gaussian_kl(scale * data.means[0], covariance, jnp.zeros(2), prior))
    found, bound = sfp.likelihood.prior_kl(data.score(sde), xs, key=jr.key(2)), sfp.likelihood.prior_kl_bound(sde, xs)
    assert close(found, want)
    # Each sample by itself against the prior: the closed form of two Gaussians.
    each = [sfp.likelihood.gaussian_kl(scale * x, std**2 * jnp.eye(2), jnp.zeros(2), prior) for x in xs[:4]]
    np.testing.assert_allclose(sfp.likelihood.prior_kl_bound(sde, xs[:4]).value, np.mean(each), rtol=1e-12)
    assert bound.value > found.value + 5 * (bound.error + found.error)


def test_cross_entropy_with_the_prior() -> None:
    sde, x0 = sfp.VP(), jnp.array([0.7, -1.2])
    ends = sde.alpha(1.0) * x0 + sde.sigma(1.0) * jr.normal(jr.key(3), (100_000, 2))
    assert_mean(-jax.vmap(sde.prior.log_prob)(ends), float(end_cross_entropy(sde, x0)), resolution=0.01)


# ------------------------------------------------------------------------------------------- entropy [K5]
GAUSSIAN_ENTROPY = 0.5 * math.log((2 * math.pi * math.e) ** 2 * (0.5 * 0.3 - 0.2**2))


@pytest.mark.parametrize(
    ("name", "form"), [("VP", "divergence"), ("VP", "drift"), ("SubVP", "drift"), ("VE", "divergence")]
)
def test_entropy_of_a_gaussian(name: str, form: Any) -> None:
    sde = LINEAR[name]()
    score, xs = gaussian().score(sde), gaussian().sample(jr.key(4), 4000)
    found = sfp.entropy(score, xs, key=jr.key(5), form=form, draws=16)
    # At t0 the data are noised a little; sub-VP's and VE's kernels are the widest there.
    variances = sde.alpha(sde.t0) ** 2 * score.mixture.variances + sde.sigma(sde.t0) ** 2
    at_t0 = float(0.5 * jnp.sum(jnp.log(2 * jnp.pi * jnp.e * variances)))
    assert at_t0 == pytest.approx(GAUSSIAN_ENTROPY, abs=2e-3)
    assert close(found, at_t0, resolution=0.02)


def test_entropy_of_a_mixture_and_of_a_score_that_is_off() -> None:
    mixture = line_mixture()
    exact, xs = mixture.score(sfp.VP()), mixture.sample(jr.key(6), 4000)
    grid = jnp.linspace(-6, 6, 4001)
    log_prob = jax.vmap(mixture.log_prob)(grid)
    want = float(-jnp.trapezoid(jnp.exp(log_prob) * log_prob, grid))
    assert close(sfp.entropy(exact, xs, key=jr.key(7), draws=16), want, resolution=0.02)
    off = sfp.Score(lambda t, x: 1.2 * exact(t, x), exact.sde)
    by_form = [sfp.entropy(off, xs, key=jr.key(8), form=form, draws=16) for form in ("divergence", "drift")]
    for found in by_form:
        assert abs(found.value - want) > 20 * found.error
    assert abs(by_form[0].value - by_form[1].value) > 10 * (by_form[0].error + by_form[1].error)


def test_entropy_of_a_known_end() -> None:
    """On a horizon that ends before the data are forgotten, the end's entropy has to be told."""
    sde = sfp.OU(t1=0.8)
    score, xs = gaussian().score(sde), gaussian().sample(jr.key(9), 4000)
    variances = sde.alpha(0.8) ** 2 * score.mixture.variances + sde.sigma(0.8) ** 2
    end = float(0.5 * jnp.sum(jnp.log(2 * jnp.pi * jnp.e * variances)))
    at_t0 = float(GAUSSIAN_ENTROPY)
    assert close(sfp.entropy(score, xs, key=jr.key(10), terminal=end), at_t0, resolution=0.02)
    # The cross-entropy with the prior is larger by KL(q_T || prior).
    untold = sfp.entropy(score, xs, key=jr.key(10))
    excess = sfp.likelihood.prior_kl(score, xs, key=jr.key(11)).value
    assert abs(untold.value - at_t0 - excess) < 4 * untold.error < excess


# ------------------------------------------------------------------------------------------- Theorems 1, 2 [K2]
def test_bound_of_theorem_1() -> None:
    """Against quadrature: above KL(q || p_SDE) for the score of no diffusion, equal to it for that of another law."""
    for case in (LinearCase(), LinearCase(gain=1.0)):
        truth, xs = case.mixture.score(case.score.sde), case.mixture.sample(jr.key(12), 4000)
        found = sfp.likelihood.kl_bound(case.score, truth, xs, key=jr.key(13))
        assert close(found, case.matching + case.prior_kl, resolution=0.02)
        gap = case.matching + case.prior_kl - case.kl(case.reverse_law())
        assert gap > 0.3 if case.gain != 1 else abs(gap) < 5e-5


# ------------------------------------------------------------------------------------------- Lemma 4.1 [K6]
CASE = LinearCase(gain=1.05, centre=0.9)
"""A score of no diffusion, whose flow stays wide enough for the terms to have a small variance."""

LOOSE = sfp.Integrator(rtol=1e-4, atol=1e-4)


def test_decomposition_of_a_linear_score() -> None:
    """Every term by itself against quadrature, and both sides against each other; nothing for the exact score."""
    truth, xs = CASE.mixture.score(CASE.score.sde), CASE.mixture.sample(jr.key(14), 800)
    found = sfp.kl_decomposition(CASE.score, truth, xs, key=jr.key(15), integrator=LOOSE)
    want = {
        "kl": CASE.kl(CASE.flow_law()),
        "matching": CASE.matching,
        "difference": CASE.difference,
        "fisher": CASE.fisher,
    }
    assert want["kl"] == pytest.approx(CASE.prior_kl + want["matching"] + want["difference"], rel=1e-8)
    for name, value in want.items():
        assert close(getattr(found, name), value, resolution=0.25), name
    assert abs(found.prior.value - CASE.prior_kl) < 4 * found.prior.error
    assert abs(found.gap.value) < 4 * found.gap.error < 0.4 * want["kl"]
    np.testing.assert_allclose(found.total, found.kl.value - found.gap.value, rtol=1e-10)
    # Deveney 2023 prints the first factor of J_Diff with the other sign: the sides are apart then.
    assert abs(found.gap.value + 2 * found.difference.value) > 4 * found.gap.error

    exact = LinearCase(gain=1.0, centre=CASE.mean, spread=CASE.v).score
    found = sfp.kl_decomposition(exact, truth, xs, key=jr.key(15), integrator=LOOSE)
    assert found.matching.value < 1e-20
    for term in (found.kl, found.difference, found.fisher):
        assert abs(term.value) < 2e-3


def test_decomposition_of_a_mixture_closes() -> None:
    """With a score that is not even a gradient; Cauchy-Schwarz of Theorem 4.2."""
    truth, xs = plane_mixture().score(sfp.VP()), plane_mixture().sample(jr.key(16), 400)
    found = sfp.kl_decomposition(perturbed(truth, 0.6), truth, xs, key=jr.key(17), integrator=LOOSE)
    assert abs(found.gap.value) < 4 * found.gap.error < 0.5 * found.kl.value
    assert found.kl.value > 5 * found.kl.error
    assert found.difference.value**2 <= found.matching.value * found.fisher.value


def test_ode_score() -> None:
    """Of a linear score against the closed form of its flow, at several times."""
    x = jnp.array([0.7, -0.1])
    at = jax.jit(lambda t: sfp.likelihood.ode_score(CASE.score, t, x))
    for t in (1e-5, 0.1, 0.5, 1.0):
        mean, variance = CASE.flow_law(t)
        np.testing.assert_allclose(at(t), -(x - mean) / variance, rtol=2e-3)
        assert t == 1.0 or np.abs(np.asarray(at(t) - CASE.score(t, x))).max() > 1e-2


# ------------------------------------------------------------------------------------------- bad input
def samples() -> Array:
    return jnp.zeros((4, 2))


def truth(sde: AbstractLinearSDE | None = None) -> Any:
    return CASE.mixture.score(sfp.VP() if sde is None else sde)


def entropy(xs: Array, score: Any = None, **settings: Any) -> sfp.Estimate:
    return sfp.entropy(truth() if score is None else score, xs, key=jr.key(0), **settings)


BAD: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "a score for the truth": (
        TypeError,
        "a score without a potential",
        lambda: sfp.kl_decomposition(CASE.score, CASE.score, samples(), key=jr.key(0)),  # pyright: ignore
    ),
    "two SDEs": (
        ValueError,
        "both must be on the same SDE",
        lambda: sfp.likelihood.kl_bound(CASE.score, truth(sfp.OU()), samples(), key=jr.key(0)),
    ),
    "no kernel": (
        TypeError,
        "no Gaussian kernel",
        lambda: entropy(jnp.zeros((4, 2, 2)), standard(sfp.sde.CriticallyDampedLangevin())),
    ),
    "one sample": (ValueError, "needs at least two samples", lambda: entropy(samples()[:1])),
    "NaN": (
        ValueError,
        "sample 0 holds nan",
        lambda: sfp.likelihood.prior_kl(truth(), samples() * jnp.nan, key=jr.key(0)),
    ),
    "no draws": (ValueError, "draws = 0", lambda: entropy(samples(), draws=0)),
    "form": (ValueError, "form = 'dsm'; it is 'divergence' or 'drift'", lambda: entropy(samples(), form="dsm")),
    "shapes": (
        ValueError,
        "other_mean has shape",
        lambda: sfp.likelihood.gaussian_kl(jnp.zeros(2), jnp.eye(2), jnp.zeros(3), jnp.eye(3)),
    ),
    "time": (ValueError, "t = 2.0 lies outside", lambda: sfp.likelihood.ode_score(CASE.score, 2.0, jnp.zeros(2))),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, unchecked: None) -> None:
    kind, message, call = BAD[name]
    refused(message, call, error=kind)


def test_an_estimate_prints_with_its_error() -> None:
    assert str(sfp.Estimate(jnp.array(2.0), jnp.array(0.25))) == "2 ± 0.25"
    assert mean_is(np.array([1.0, 1.0]), 1.0)
