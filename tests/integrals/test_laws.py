"""Laws of times against quadrature and scipy, what is made of them, and the EDM loss [H5], [M4]."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from helpers.references import RARE, assert_mean, inverse_linear, mean_is, standard, standard_error
from helpers.refusals import refused
from helpers.terms import At, Seen
from jaxtyping import Array

import scorefp as sfp
from scorefp.integrals import AbstractTimeLaw, AbstractTimeSampler
from scorefp.objective import AbstractObjective, AbstractTerm, EDMWeighting
from scorefp.sde import AbstractLinearSDE

pytestmark = pytest.mark.usefixtures("x64")

MEMBERS: dict[str, Callable[[], AbstractLinearSDE]] = {
    "VP": sfp.VP,
    "EDM": lambda: sfp.EDM(t0=0.01, t1=20.0),
    "LinearSDE": inverse_linear,
}
LAWS: dict[str, AbstractTimeLaw] = {
    "UniformTime": sfp.UniformTime(),
    "UniformLogSNR": sfp.UniformLogSNR(),
    "LogNormalNoise": sfp.LogNormalNoise(-0.7, 1.1),
}


def karras(sde: AbstractLinearSDE, data_std: float) -> Seen:
    """The loss of Karras 2022 as printed: the expectation of the weighted square, by the denoiser of the paper."""

    def look(perturbed: Any, value: Array) -> Array:
        alpha, sigma = sde.alpha(perturbed.t), sde.sigma(perturbed.t)
        denoised, level = (perturbed.x + sigma**2 * value) / alpha, sigma / alpha
        square = jnp.sum((denoised - perturbed.x0) ** 2)
        weight = (level**2 + data_std**2) / (level * data_std) ** 2
        # An expectation under the law of the draws has no weight of the draw.
        return weight * square / perturbed.weight

    return Seen(look)


@eqx.filter_jit
def estimates(
    loss: AbstractObjective, score: sfp.score.AbstractScore, x0: Array, time: Any, keys: Array
) -> dict[str, Array]:
    return jax.vmap(lambda x0, key: loss.evaluate(score, x0, key=key, time=time)[1])(x0, keys)


@eqx.filter_jit
def draws(sampler: AbstractTimeSampler, sde: AbstractLinearSDE, n: int, keys: Array) -> tuple[Array, Array]:
    return jax.vmap(lambda key: sampler.sample(sde, n, key=key))(keys)


def integral(fn: Callable[[float], float], start: float, stop: float) -> float:
    return scipy.integrate.quad(fn, start, stop, epsabs=1e-12, limit=200)[0]


# ----------------------------------------------------------------------------------------------------------- the laws


@pytest.mark.parametrize("name", MEMBERS)
def test_weight_is_the_slope_of_the_quantile(name: str) -> None:
    """The density of the law that a quantile defines is one over its slope; on the horizon and on a part of it."""
    sde = MEMBERS[name]()
    inner = 0.8 * sde.t0 + 0.2 * sde.t1, 0.4 * sde.t0 + 0.6 * sde.t1
    u = jnp.linspace(0.0, 1.0, 9)

    @jax.jit
    def found(start: Array, stop: Array) -> Any:
        def one(law: AbstractTimeLaw) -> Any:
            quantile = lambda u: law.quantile(sde, u, start, stop)
            t, slope = jax.jvp(quantile, (u,), (jnp.ones_like(u),))
            return t, slope, law.weight(sde, t, start, stop)

        return [one(law) for law in LAWS.values()]

    for start, stop in ((sde.t0, sde.t1), inner):
        for label, (t, slope, weight) in zip(LAWS, found(jnp.asarray(start), jnp.asarray(stop)), strict=True):
            assert np.all(np.diff(t) > 0), label
            np.testing.assert_allclose(t[jnp.array([0, -1])], [start, stop], rtol=1e-9, err_msg=label)
            # At the ends themselves LogNormalNoise is cut off.
            np.testing.assert_allclose(slope[1:-1], weight[1:-1], rtol=1e-7, err_msg=label)


def test_log_normal_noise_is_the_truncated_normal_of_scipy() -> None:
    sde, law = sfp.VP(), sfp.LogNormalNoise(-0.7, 1.1, stratified=False)
    log_noise = lambda t: -0.5 * np.asarray(sde.log_snr(t))
    ends = (log_noise(np.array([sde.t0, sde.t1])) + 0.7) / 1.1
    normal = scipy.stats.truncnorm(*ends, loc=-0.7, scale=1.1)
    (t,), (weight,) = draws(law, sde, 20_000, jr.split(jr.key(0), 1))
    assert scipy.stats.kstest(log_noise(t), normal.cdf).pvalue > RARE
    # The control: another mean is told from it.
    assert scipy.stats.kstest(log_noise(t), scipy.stats.truncnorm(*ends, loc=-0.75, scale=1.1).cdf).pvalue < RARE
    slope = np.asarray(sde.g2(t) / (2 * sde.sigma(t) ** 2))
    np.testing.assert_allclose(1 / weight, normal.pdf(log_noise(t)) * slope, rtol=1e-9)
    assert integral(lambda u: 1 / float(law.weight(sde, np.exp(u), sde.t0, sde.t1)) * np.exp(u), np.log(1e-5), 0) == (
        pytest.approx(1, rel=1e-6)
    )


@pytest.mark.parametrize(("start", "stop"), [(0.002, 0.004), (40.0, 80.0), (0.002, 80.0)])
def test_log_normal_noise_keeps_its_digits_in_float32(start: float, stop: float) -> None:
    """Eleven standard deviations out on either side, and over both, against scipy in float64."""
    with jax.enable_x64(False):
        sde, law = sfp.EDM(), sfp.LogNormalNoise(-0.9, 0.45)
        u = jnp.linspace(0.0, 1.0, 11)
        t = law.quantile(sde, u, start, stop)
        weight = law.weight(sde, t, start, stop)
    assert t.dtype == weight.dtype == np.float32
    log_noise = np.log(np.asarray(t, np.float64))
    normal = scipy.stats.truncnorm(*((np.log([start, stop]) + 0.9) / 0.45), loc=-0.9, scale=0.45)
    np.testing.assert_allclose(log_noise, normal.ppf(np.asarray(u, np.float64)), atol=2e-4)
    with np.errstate(divide="ignore"):
        want = np.exp(log_noise) / normal.pdf(log_noise)
    inner = np.exp(-0.5 * ((log_noise + 0.9) / 0.45) ** 2) > 1e-30
    assert inner.sum() >= 9
    np.testing.assert_allclose(np.asarray(weight)[inner], want[inner], rtol=2e-3)


# --------------------------------------------------------------------------------------------- intervals and truncation


def test_intervals_of_samplers_and_of_terms() -> None:
    """Both estimate the integral over the interval alone, one by drawing there, the other by zeros elsewhere."""
    sde, keys, polynomial = sfp.VP(), jr.split(jr.key(1), 400), Seen(lambda perturbed, value: 1 + perturbed.t**2)
    want = integral(lambda t: 1 + t**2, 0.2, 0.7)
    for label, law in LAWS.items():
        t, weight = draws(sfp.integrals.TimeInterval(law, 0.2, 0.7), sde, 32, keys)
        assert 0.2 <= t.min() < 0.25, label
        assert 0.65 < t.max() <= 0.7, label
        assert_mean((weight * (1 + t**2)).mean(axis=1), want, resolution=0.02)
    below, inside, above = (sfp.Restricted(polynomial, *ends) for ends in ((None, 0.2), (0.2, 0.7), (0.7, None)))
    found = estimates(
        1 * below + inside + above + polynomial, standard(sde), jnp.zeros((400, 32, 1)), LAWS["UniformTime"], keys
    )
    first, second, third = (found[f"Restricted(Seen){n}"] for n in ("", " 2", " 3"))
    assert_mean(second, want, resolution=0.02)
    np.testing.assert_allclose(first + second + third, found["Seen"], rtol=1e-12)


def test_a_restricted_term_is_the_term_inside_and_nothing_outside() -> None:
    """With a fraction of the batch, with terms that differentiate the score, and where the rest is infinite."""

    sde, x0, key = sfp.VP(), jr.normal(jr.key(2), (6, 2)), jr.key(3)
    terms = [sfp.ScoreFPE(fraction=0.5), sfp.DSM(lambda sde, t: 1 / (t - 0.1)), sfp.ScoreFPE(sfp.Ito())]

    @jax.jit
    def found(scale: Array, t: Array) -> Any:
        score = lambda a: sfp.Score(lambda t, x: -a * x + t * jnp.sin(jnp.stack([x[1], x[0] ** 2])), sde)

        def both(some: list[AbstractTerm]) -> Any:
            loss = functools.reduce(lambda a, b: a + b, some, 0.0 * sfp.DSM(sfp.unit_weighting))
            values = lambda a: list(loss.evaluate(score(a), x0, key=key, time=At(t))[1].values())[1:]
            return values(scale), jax.jacrev(values)(scale)

        return both(terms), both([sfp.Restricted(term, start=0.3) for term in terms])

    plain, restricted = found(jnp.asarray(1.3), jnp.asarray(0.5))
    np.testing.assert_allclose(restricted, plain, rtol=1e-10)
    assert np.all(np.abs(plain) > 1e-3)
    plain, nothing = found(jnp.asarray(1.3), jnp.asarray(0.1))
    assert np.all(np.array(nothing) == 0)
    # The control: the weighting is infinite at this time.
    assert np.isinf(plain[0][1])


@pytest.mark.parametrize("power", [0.0, 1.0, 1.7])
def test_soft_truncation_is_a_weighting(power: float) -> None:
    sde = sfp.VP(t0=0.01)
    anti = (lambda t: np.log(t)) if power == 1 else lambda t: t ** (1 - power) / (1 - power)
    below = lambda t: (anti(t) - anti(sde.t0)) / (anti(sde.t1) - anti(sde.t0))
    keys = jr.split(jr.key(4), 4_000)
    t, weight = draws(sfp.integrals.SoftTruncation(power=power), sde, 4, keys)
    # One start for a batch, of the law that is named.
    np.testing.assert_array_equal(weight, weight[:, :1] * np.ones(4))
    start = sde.t1 - np.asarray(weight[:, 0])
    assert np.all(t >= start[:, None])
    assert scipy.stats.kstest(start, below).pvalue > RARE
    # The mean is the weighted integral, for any law, and not the integral.
    fn = lambda t: np.exp(-3 * t)
    want, plain = integral(lambda t: below(t) * fn(t), sde.t0, sde.t1), integral(fn, sde.t0, sde.t1)
    for label, law in LAWS.items():
        t, weight = draws(sfp.integrals.SoftTruncation(law, power), sde, 4, keys)
        values = np.asarray(weight * fn(np.asarray(t))).mean(axis=1)
        assert_mean(values, want, resolution=0.03)
        assert not mean_is(values, plain), label


# -------------------------------------------------------------------------------------------------------- the EDM loss


@pytest.mark.parametrize("name", ["VP", "EDM"])
def test_edm_loss_is_that_of_karras(name: str) -> None:
    """Sample by sample where times follow its law, in the mean with any other; D for the exact score of normal data."""
    sde, std, law = MEMBERS[name](), 0.6, LAWS["LogNormalNoise"]
    exact = sfp.Score(lambda t, x: -x / (sde.alpha(t) ** 2 * std**2 + sde.sigma(t) ** 2), sde)
    keys, x0 = jr.split(jr.key(5), 400), std * jr.normal(jr.key(6), (400, 16, 3))
    loss = sfp.edm_loss(std, law)
    with_paper = estimates(loss + karras(sde, std), exact, x0, law, keys)
    # The terms are reported without the factor 2.
    np.testing.assert_allclose(2 * with_paper["DSM"], with_paper["Seen"], rtol=1e-9)
    assert_mean(with_paper["Seen"], 3.0, resolution=0.02)
    other = 2 * estimates(loss, exact, x0, sfp.UniformLogSNR(), keys)["DSM"]
    assert_mean(other, 3.0, resolution=0.02)
    # Another score has a larger loss, the same with both.
    wrong = sfp.Score(lambda t, x: 0.8 * exact(t, x), sde)
    both = [2 * estimates(loss, wrong, x0, time, keys)["DSM"] for time in (law, sfp.UniformLogSNR())]
    assert both[0].mean() > 3.1
    assert abs(both[0].mean() - both[1].mean()) < 4 * np.hypot(*(standard_error(values) for values in both))


def test_expectation_under_a_law() -> None:
    """The density under the weighting and the weight of the draw cancel."""
    sde = sfp.VP()
    for label, law in LAWS.items():
        (t,), (weight,) = draws(law, sde, 16, jr.split(jr.key(7), 1))
        expected = sfp.objective.ExpectedWeighting(EDMWeighting(0.5), law)
        product = weight * jax.vmap(lambda t, e=expected: e(sde, t))(t)
        np.testing.assert_allclose(product, jax.vmap(lambda t: EDMWeighting(0.5)(sde, t))(t), rtol=1e-12, err_msg=label)


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.quick
def test_bad_input(unchecked: None) -> None:
    sde, key, x = sfp.VP(), jr.key(0), jnp.zeros((4, 2))
    law = sfp.UniformTime()
    for call, message in (
        (lambda: sfp.LogNormalNoise(std=0.0), "std = 0.0; a standard deviation is positive"),
        (lambda: sfp.LogNormalNoise(100.0, 1.0).sample(sde, 4, key=key), "has no mass in float64 under a normal law"),
        (
            lambda: jax.jit(lambda k: sfp.LogNormalNoise(-90.0, 1.0).sample(sde, 4, key=k))(key),
            "mean -90.0 and standard deviation 1.0",
        ),
        (lambda: sfp.integrals.TimeInterval(law, 0.5, 0.5), r"\[start, stop\] = \[0.5, 0.5\]; it needs start < stop"),
        (lambda: sfp.Restricted(sfp.DSM(), 0.7, 0.2), r"\[start, stop\] = \[0.7, 0.2\]; it needs start < stop"),
        (
            lambda: sfp.integrals.TimeInterval(law, start=1e-6).sample(sde, 4, key=key),
            r"\[1e-06, 1.0\] is not inside \[t0, t1\] = \[1e-05, 1.0\], the horizon of the SDE",
        ),
        (
            lambda: sfp.Restricted(sfp.DSM(), start=2.0)(standard(sde), x, key=key),
            r"\[2.0, 1.0\] is not inside \[t0, t1\]",
        ),
        (lambda: sfp.integrals.SoftTruncation(power=-1.0), "power = -1.0; it is finite and at least 0"),
        (lambda: sfp.integrals.SoftTruncation(power=np.inf), "power = inf"),
        (
            lambda: sfp.integrals.SoftTruncation().sample(
                sfp.LinearSDE(lambda t: -t, lambda t: t, t0=-1.0, t1=1.0), 4, key=key
            ),
            "t0 = -1.0; a start of density",
        ),
        (lambda: sfp.edm_loss(data_std=-1.0), "data_std = -1.0"),
        (
            lambda: sfp.likelihood_bound(
                standard(sde), x[0], key=key, estimator=sfp.BoundEstimator(time=sfp.integrals.SoftTruncation())
            ),
            "time is a SoftTruncation, which does not estimate the integral over the whole horizon",
        ),
        (
            lambda: sfp.entropy(standard(sde), x, key=key, time=sfp.integrals.TimeInterval(law)),
            "time is a TimeInterval",
        ),
    ):
        refused(message, call)
