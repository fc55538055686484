"""Bounds of the reverse SDE's likelihood: their value, what they bound, when they are tight, and their error."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.linear_case import T0, LinearCase, normal_nll
from helpers.references import LINEAR, assert_mean, mean_is, plane_mixture, standard
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp
from scorefp.integrals.estimate import stratified_mean_of

pytestmark = pytest.mark.usefixtures("x64")

X = [0.9, -0.2]
DRAWS = 128


def evaluated(
    x: Any, key: Any = 0, score: Any = None, form: Any = "dsm", **settings: Any
) -> sfp.likelihood.LikelihoodBound:
    """The bound of one sample."""
    score, key = LinearCase().score if score is None else score, jr.key(key) if isinstance(key, int) else key
    return sfp.evaluate_bound(score, jnp.asarray(x), key=key, form=form, estimator=sfp.BoundEstimator(**settings))


@eqx.filter_jit
def bounds(score: sfp.score.AbstractScore, xs: Array, keys: Array, **settings: Any) -> sfp.likelihood.LikelihoodBound:
    """One bound for each sample and each of the keys, of shape `(samples, keys)`."""
    one = lambda x, key: evaluated(x, key, score, **settings)
    return jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None))(xs, keys)


# ------------------------------------------------------------------------------------------- value
@pytest.mark.parametrize("form", ["dsm", "sm"])
@pytest.mark.parametrize("truncation", ["denoised", "noised"])
def test_value_is_that_of_the_theorem(form: Any, truncation: str) -> None:
    """Against quadrature, for the score of no diffusion, in both forms [K3], [K4]."""
    case, keys = LinearCase(), jr.split(jr.key(0), 400)
    found = bounds(case.score, jnp.array([X]), keys, form=form, truncation=truncation, draws=DRAWS)
    noised = truncation == "noised"
    want = case.bound(np.asarray(X), noised=noised) + (0.0 if noised else case.denoising(np.asarray(X)))
    assert_mean(found.value[0], want, resolution=0.02)
    parts = found.prior + found.diffusion + found.denoising - found.kernel_entropy
    np.testing.assert_allclose(parts, found.value, rtol=1e-12)


def test_denoising_step() -> None:
    """The offset of Eq. 39 and the kernel's entropy, far enough from zero to see them."""
    keys, x = jr.split(jr.key(1), 100), jnp.array([X])
    case, start = LinearCase(), 0.05
    found = bounds(case.score, x, keys, start=start, draws=64)
    sde = case.score.sde
    a, b2 = float(sde.alpha(start)), float(sde.sigma(start)) ** 2
    np.testing.assert_allclose(found.kernel_entropy, math.log(2 * math.pi * math.e * b2), rtol=1e-12)
    # ½β²E‖s‖² + βE⟨s, z⟩ - D log α with the linear score, by hand.
    gain = case.kappa(start)
    square = gain**2 * (a**2 * float(jnp.sum((x - case.centre) ** 2)) + 2 * b2)
    want = 0.5 * b2 * square - b2 * gain * 2 - 2 * math.log(a)
    assert_mean(found.denoising[0] - found.kernel_entropy[0], want, resolution=0.05)


def test_kernel_entropy_that_is_known_to_be_left_out() -> None:
    bits = evaluated(X, draws=2).kernel_entropy / 2 / math.log(2)
    assert float(bits) == pytest.approx(-7.92, abs=0.005)


# ------------------------------------------------------------------------------------------- what is bounded
def test_bound_is_above_the_reverse_sde_and_tight_for_diffused_scores() -> None:
    """Theorems 2 and 7: equal for the score of another diffused law, strictly above for that of no diffusion."""
    xs = np.random.default_rng(0).normal(size=(20, 2))
    other, none = LinearCase(gain=1.0), LinearCase()
    for x in xs:
        # The prior is not quite what the other law diffuses to.
        tight = other.bound(x, noised=True) - normal_nll(other.reverse_law(), x)
        assert abs(tight) < 5e-5
        assert none.bound(x, noised=True) - normal_nll(none.reverse_law(), x) > 0.1
    assert none.kl(none.reverse_law()) < none.matching + none.prior_kl - 0.1
    assert other.kl(other.reverse_law()) == pytest.approx(other.matching + other.prior_kl, abs=5e-5)


TIGHT: dict[str, tuple[str, dict[str, Any]]] = {
    "SubVP, sample at t0": ("SubVP", {"form": "dsm", "truncation": "noised"}),
    "VE, implicit": ("VE", {"form": "sm"}),
    "EDM, later truncation": ("EDM", {"form": "dsm", "truncation": "noised", "start": 0.3}),
}


@pytest.mark.parametrize("name", TIGHT)
def test_exact_score_gives_the_likelihood(name: str) -> None:
    """For the exact score of a mixture the bound of every sample is its own negative log-likelihood."""
    member, settings = TIGHT[name]
    exact = plane_mixture().score(LINEAR[member]())
    xs = jnp.array([[-0.9, 0.3], [0.2, -0.4], [1.5, 1.0]])
    found = bounds(exact, xs, jr.split(jr.key(2), 64), draws=256, **settings)
    start = jnp.asarray(settings.get("start", exact.sde.t0))
    for value, x in zip(found.value, xs, strict=True):
        want = -exact.potential(start, x)
        # What the prior is off shifts every sample a little.
        prior = {"VE": 3e-4, "EDM": 2e-4}.get(member, 1e-4)
        assert mean_is(value + prior, want, sigmas=4.5) or mean_is(value - prior, want, sigmas=4.5), (
            value.mean(),
            want,
        )
        assert not mean_is(value, want + 0.3)


# ------------------------------------------------------------------------------------------- its error
SAMPLERS = {
    "uniform, independent": sfp.UniformTime(False),
    "uniform": sfp.UniformTime(),
    "log-SNR, independent": sfp.UniformLogSNR(False),
    "log-SNR": sfp.UniformLogSNR(),
}


def test_every_law_of_times_has_one_mean_and_knows_its_error() -> None:
    case, keys, spread = LinearCase(), jr.split(jr.key(3), 400), {}
    want = case.bound(np.asarray(X), noised=False) + case.denoising(np.asarray(X))
    for name, time in SAMPLERS.items():
        found = bounds(case.score, jnp.array([X]), keys, draws=DRAWS, time=time)
        assert mean_is(found.value[0], want, sigmas=4.5)
        spread[name], claimed = float(found.value.std(ddof=1)), float(jnp.sqrt(jnp.mean(found.error**2)))
        # 400 repeats know the spread to 3.5 %. Successive differences are on the safe side.
        assert 0.88 * spread[name] < claimed < (1.4 if time.stratified else 1.12) * spread[name]
    for name in ("uniform", "log-SNR"):
        assert spread[name] < 0.5 * spread[f"{name}, independent"]


@pytest.mark.parametrize("where", [0, 1, 5, -1], ids=["first", "second", "inner", "last"])
def test_the_error_sees_a_variance_in_one_stratum(where: int) -> None:
    """Also in the first or last one, which has one neighbour: the expectation is the variance or a little more."""
    n, rounds = 16, 40_000
    draws = jnp.zeros((rounds, n)).at[:, where].set(jr.normal(jr.key(0), (rounds,)))
    squares = jax.vmap(lambda y: stratified_mean_of(jnp.arange(1.0 * n), y).error ** 2)(draws)
    excess = {1: 1.5}.get(where, 1.0)  # the variance of the second stratum counts one and a half times
    assert mean_is(squares * n**2, excess)


def test_the_error_of_uniform_times_on_edm_is_not_below_the_spread() -> None:
    """Nearly all variance lies in the first strata there."""
    score = sfp.Score(lambda t, x: -1.3 * x / (0.3 + t**2), sfp.EDM())
    found = bounds(score, jnp.array([[0.4, -0.2]]), jr.split(jr.key(0), 2000), draws=64, time=sfp.UniformTime())
    # 2,000 repeats know the spread to 1.6 % for normal values.
    assert 0.95 < float(jnp.sqrt(jnp.mean(found.error**2)) / found.value.std(ddof=1)) < 1.4


def test_many_draws_do_not_overflow() -> None:
    times = jr.uniform(jr.key(0), (40_000,))
    found = stratified_mean_of(times, 2 * times)
    # Successive differences of 2 t at n stratified times are about 2/n, and those of independent ones no more.
    assert 0 < found.error < 1e-4
    with jax.enable_x64(False):
        assert 0 < stratified_mean_of(times.astype(jnp.float32), 2 * times.astype(jnp.float32)).error < 1e-4


def test_one_draw_has_a_value_and_no_error() -> None:
    found = evaluated(X, draws=1)
    assert jnp.isfinite(found.value)
    assert jnp.isnan(found.error)


def test_probes_leave_it_unbiased() -> None:
    case, keys = LinearCase(), jr.split(jr.key(5), 400)
    settings = {"form": "sm", "truncation": "noised", "draws": DRAWS}
    found = bounds(case.score, jnp.array([X]), keys, trace=sfp.Hutchinson(), **settings)
    assert_mean(found.value[0], case.bound(np.asarray(X), noised=True), resolution=0.02)


def test_float32_near_t0() -> None:
    """A sample at `t0`, where the kernel of Theorem 7 starts with no width at all."""
    case = LinearCase()
    single = lambda leaf: leaf.astype(jnp.float32)
    score = eqx.tree_at(lambda s: s.fn, case.score, replace_fn=lambda fn: jax.tree.map(single, fn))
    x = jnp.array([X], jnp.float32)
    found = bounds(score, x, jr.split(jr.key(6), 200), truncation="noised", draws=256)
    assert found.value.dtype == jnp.float32
    assert_mean(found.value[0], case.bound(np.asarray(x[0], np.float64), noised=True), resolution=0.02)


# ------------------------------------------------------------------------------------------- composition
def test_gradients_reach_the_sample_and_the_score() -> None:
    score, x, step = LinearCase().score, jnp.array(X), 1e-6

    @jax.jit
    def bound(gain: Array, first: Array) -> Array:
        model = eqx.tree_at(lambda s: s.fn.gain, score, gain)
        estimator = sfp.BoundEstimator(16)
        return sfp.likelihood_bound(model, x.at[0].set(first), key=jr.key(0), estimator=estimator)

    at = jnp.array(1.3), jnp.array(0.9)
    slopes = jax.grad(bound, argnums=(0, 1))(*at)
    by_gain = (bound(at[0] + step, at[1]) - bound(at[0] - step, at[1])) / (2 * step)
    by_x = (bound(at[0], at[1] + step) - bound(at[0], at[1] - step)) / (2 * step)
    np.testing.assert_allclose(slopes, [by_gain, by_x], rtol=1e-6)


@pytest.mark.parametrize("shape", [(), (2, 1, 2)], ids=str)
def test_any_event_shape(shape: tuple[int, ...]) -> None:
    x = jnp.full(shape, 0.5)
    size = math.prod(shape)
    found = bounds(standard(), x[None], jr.split(jr.key(7), 50), draws=64)
    want = size * (0.125 + 0.5 * math.log(2 * math.pi))
    assert_mean(found.value[0], want, resolution=0.02)


def test_same_key_same_bits() -> None:
    first, second, other = (evaluated(X, key, draws=16).value for key in (8, 8, 9))
    assert first == second
    assert first != other


def without_kernel() -> sfp.likelihood.LikelihoodBound:
    return evaluated(jnp.zeros((2, 2)), score=standard(sfp.sde.CriticallyDampedLangevin()))


BAD: dict[str, Callable[[], None]] = {
    "no kernel": partial(refused, "no Gaussian kernel", without_kernel, error=TypeError),
    "zero draws": partial(refused, "draws = 0; the bound needs at least one draw", evaluated, X, draws=0),
    "truncation before t0": partial(
        refused, r"start = 0.0 lies outside \[t0, t1\) = \[1e-05, 1.0\)", evaluated, X, start=0.0
    ),
    "truncation at t1": partial(refused, r"start = 1.0 lies outside", evaluated, X, start=1.0),
    "NaN": partial(refused, "x holds NaN", evaluated, (0.0, math.nan)),
    "integers": partial(refused, "x has dtype int", evaluated, (0, 0), error=TypeError),
    "form": partial(refused, "form = 'elbo'; it is 'dsm' or 'sm'", evaluated, X, form="elbo"),
    "truncation": partial(
        refused, "truncation = 'clean'; it is 'denoised' or 'noised'", evaluated, X, truncation="clean"
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, unchecked: None) -> None:
    BAD[name]()


def test_horizon_of_the_reference_is_that_of_the_sde() -> None:
    assert sfp.VP().t0 == T0
