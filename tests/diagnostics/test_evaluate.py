"""Evaluations: means of the ODE's likelihood and of the SDE's bound over a data set [K1], [K3], [K4], [K7], [K8]."""

import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest
from helpers.references import Perturbed, inside, line_mixture, multiple, perturbed
from helpers.refusals import refused
from jaxtyping import Array
from scipy import special, stats

import scorefp as sfp
from scorefp.data import Dataset
from scorefp.dataset import AbstractDequantiser
from scorefp.diagnostics import Audit, Bound, CodeLength, Number, evaluate
from scorefp.diagnostics._intervals import share_interval
from scorefp.diagnostics.measure import written

pytestmark = pytest.mark.usefixtures("x64")


def changed(eta: float) -> sfp.Score:
    return perturbed(line_mixture().score(sfp.VP()), jnp.asarray(eta))


QUANTISATION = sfp.Quantisation(8, -2.0, 2.0)
programs = 0


class Middle(AbstractDequantiser):
    """Uniform on the middle half of each level, of density 2 an entry; it counts the programs that it is part of."""

    quantisation: sfp.Quantisation = QUANTISATION

    def positions(self, k: Array, *, key: Array) -> tuple[Array, Array]:
        global programs
        programs += 1
        return 0.25 + 0.5 * jr.uniform(key, k.shape), jnp.asarray(k.size * math.log(2))


def levels() -> Dataset:
    return Dataset(jr.randint(jr.key(0), (60, 2), 0, 8), QUANTISATION)


def of_levels(score: sfp.Score, data: Dataset, *, seed: int = 1, **settings: Any) -> Audit:
    """In batches of 30 samples, so that one program serves every number of samples and repeats."""
    settings = {"batch_size": 30, **settings}
    return evaluate(score, data, key=jr.key(seed), dequantiser=Middle(), draws=8, **settings)


def numbers(found: Audit) -> dict[str, Number]:
    return {name: number for section in found.sections.values() for name, number in section.numbers.items()}


def points(found: Audit) -> dict[str, np.ndarray]:
    return {name: values for section in found.sections.values() for name, values in section.points.items()}


def is_within(estimate: Number, want: float) -> None:
    """The value is `want` within twice the half-width, about four standard errors."""
    assert estimate.half_width is not None
    assert abs(estimate.value - want) < 2 * estimate.half_width, f"{estimate}, not {want}"


def score_matching_error() -> float:
    r"""$\tfrac12\int g^2 E\|\eta p\|^2 dt$ of `changed(1.0)` [K2], with $p = \cos 3t\,\sin x$.

    Under a normal law of mean m and variance v, the mean of cos 2x is cos(2m) exp(-2v).
    """
    sde, mixture = sfp.VP(), line_mixture()
    t = jnp.linspace(sde.t0, sde.t1, 2001)
    alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
    variances = alpha**2 * jnp.array([0.1, 0.2]) + sigma**2
    cosines = jnp.cos(2 * alpha * mixture.means) * jnp.exp(-2 * variances)
    square = 0.5 * jnp.cos(3 * t) ** 2 * (1 - cosines @ mixture.weights)
    return float(jnp.trapezoid(0.5 * sde.g2(t) * square, t))


# ----------------------------------------------------------------------------------------------------- what it measures


def test_exact_and_perturbed_score_of_a_mixture() -> None:
    """With the exact score ODE and SDE have the data's own law, and the bound is tight (Song 2021, Theorem 2)."""
    mixture = line_mixture()
    x = mixture.sample(jr.key(0), 300)
    want = -np.asarray(jax.vmap(mixture.log_prob)(x))
    exact = evaluate(changed(0.0), x, key=jr.key(1))
    nll, bound = numbers(exact)["negative_log_likelihood"], numbers(exact)["bound"]
    assert nll.unit == bound.unit == "nats"
    # Up to the prior: at t1 a share alpha = 7e-3 of the sample is left.
    assert np.allclose(points(exact)["negative_log_likelihood"], want, atol=2e-2)
    assert nll.value == pytest.approx(want.mean(), abs=1e-3)
    low, high = stats.t.interval(0.95, 299, want.mean(), stats.sem(want))
    assert nll.half_width == pytest.approx((high - low) / 2, rel=1e-2)
    assert numbers(exact)["median_negative_log_likelihood"].value == pytest.approx(np.median(want), abs=1e-2)
    assert numbers(exact)["exploded"].value == 0
    assert numbers(exact)["exploded"].half_width == pytest.approx(share_interval(0, 300)[1])
    gap = points(exact)["bound"] - want
    assert stats.sem(gap) < 0.05
    assert abs(gap.mean()) < 4 * stats.sem(gap)
    wrong = evaluate(changed(1.0), x, key=jr.key(1))
    rise = points(wrong)["bound"] - points(exact)["bound"]
    assert rise.mean() > 10 * stats.sem(rise)
    assert abs(rise.mean() - score_matching_error()) < 4 * stats.sem(rise)

    text = str(exact)
    assert text.startswith("Audit of a Score on VP: 300 samples of shape (), float64.")
    assert list(exact.sections) == ["likelihood", "bound"]
    for number in numbers(exact).values():
        assert number.label in text
        assert written(number.value, number.half_width) in text
    plain = json.loads(json.dumps(exact.to_dict(), allow_nan=False))
    assert plain["sections"]["likelihood"]["numbers"]["negative_log_likelihood"] == vars(nll)
    assert plain["configuration"]["samples"]["count"] == 300
    assert plain["configuration"]["measures"][1]["estimator"]["draws"] == 64
    assert plain["configuration"]["measures"][0]["dequantiser"] is None
    assert "bits" not in text


def test_bits_per_dim_of_levels_and_the_dequantisation_term() -> None:
    """Under a standard normal law, with the noise inside a level averaged in closed form for each sample."""
    data = levels()
    once, often = of_levels(multiple(1.0), data), of_levels(multiple(1.0), data, repeats=16)
    middle = -2 + (np.asarray(data.values) + 0.5) / 2
    # Levels are 1/2 wide, the noise 1/4 with a variance of (1/4)² / 12.
    square = np.mean(middle**2, axis=1) + 1 / 192
    bits = 0.5 * (square + math.log(2 * math.pi)) / math.log(2) + math.log2(8 / 4) + 1
    # The code length needs no dequantiser: with the exact score it is that of the law's mass in the levels, and above
    # it in the outer ones, in which the encoder's uniform law is far from the tail.
    inner = np.all((np.asarray(data.values) > 0) & (np.asarray(data.values) < 7), axis=1)
    edges = special.ndtr(np.array([-np.inf, *np.linspace(-1.5, 1.5, 7), np.inf]))
    code = -np.log2(np.diff(edges))[np.asarray(data.values)].mean(axis=1)
    for found in (once, often):
        rest = points(found)["code_length"] - code
        assert stats.sem(rest) < 0.1
        assert -4 * stats.sem(rest[inner]) < rest[inner].mean() < 4 * stats.sem(rest[inner]) + 0.01
        assert rest[~inner].mean() > rest[inner].mean()
        assert numbers(found)["code_length"].unit == "bits/dim"
        assert numbers(found)["code_length"].value < numbers(found)["bound"].value - 0.7
        assert np.allclose(points(found)["dequantisation"], 1)
        assert numbers(found)["dequantisation"].value == pytest.approx(1)
        for name in ("bits_per_dim", "bound"):
            assert numbers(found)[name].unit == "bits/dim"
            rest = points(found)[name] - bits
            assert stats.sem(rest) < 0.2
            assert abs(rest.mean()) < 4 * stats.sem(rest)
    # Repeats are averaged within a sample; the ratio of two variances with 59 degrees of freedom each.
    low, high = stats.f.interval(0.999, 59, 59)
    for name in ("bits_per_dim", "bound"):
        ratio = np.var(points(once)[name] - bits) / np.var(points(often)[name] - bits)
        assert low < ratio / 16 < high
        # The interval is over samples, however many repeats.
        assert numbers(often)[name].half_width == pytest.approx(
            np.std(points(often)[name], ddof=1) / math.sqrt(60) * stats.t.ppf(0.975, 59)
        )
    assert [measure["repeats"] for measure in often.configuration["measures"]] == [16, 16, 16]
    assert often.configuration["samples"]["quantisation"]["levels"] == 8
    assert str(often).count("8 levels on [-2, 2], dequantised by a Middle") == 2


def test_conditioning_explosions_and_failures_without_a_kernel() -> None:
    """An Ornstein–Uhlenbeck process as a general SDE: nothing moves with its exact score, that of variance 1/2.

    Conditioning scales the score: with half of it, samples spread by exp(1/2).
    """
    one = jnp.ones(2)
    sde = sfp.GeneralSDE(
        lambda t, x: -x, lambda t, x: lx.DiagonalLinearOperator(one), sfp.sde.Normal(math.sqrt(0.5)), t0=0.0, t1=1.0
    )

    def score(t: Array, x: Array, *, args: Array) -> Array:
        return jnp.where(jnp.linalg.norm(x) > 100, jnp.nan, -2 * args * x)

    x = 0.5 * jr.normal(jr.key(0), (40, 2))
    x = x.at[7].set(200.0).at[11].set(20.0)
    share = jnp.where(jnp.arange(40) < 20, 1.0, 0.5)
    found = evaluate(sfp.Score(score, sde), Dataset(x, args=share), key=jr.key(1), repeats=2, batch_size=30)
    rate = np.asarray(1 - share)
    log_prob = -np.sum((np.asarray(x) * np.exp(-rate)[:, None]) ** 2, 1) - math.log(math.pi) - 2 * rate
    assert np.allclose(np.delete(points(found)["negative_log_likelihood"] + log_prob, 7), 0, atol=1e-3)
    assert np.flatnonzero(np.isnan(points(found)["negative_log_likelihood"])).tolist() == [7]
    assert numbers(found)["negative_log_likelihood"].value == pytest.approx(-np.delete(log_prob, 7).mean(), abs=1e-3)
    log_prob[7] = -np.inf
    assert numbers(found)["median_negative_log_likelihood"].value == pytest.approx(np.median(-log_prob), abs=1e-3)
    assert numbers(found)["exploded"].value == 2 / 40
    text = " ".join(str(found).split())
    assert "1 of 40 samples have a failed trajectory (rows 7); the mean is without them" in text
    assert "2 of 40 samples have an exploded trajectory (rows 7, 11)" in text
    assert "Left out: Bound; they need a Gaussian kernel, which GeneralSDE does not have." in text
    assert "bound" not in found.sections


# ------------------------------------------------------------------------------------------------------- how it runs


def test_one_program_for_all_keys_and_weights() -> None:
    data = levels()
    first = of_levels(multiple(1.0), data)
    count = programs
    assert of_levels(multiple(1.0), data).to_dict() == first.to_dict()
    others = [of_levels(multiple(1.1), data), of_levels(multiple(1.0), data, seed=2)]
    assert programs == count > 0
    repeats = of_levels(multiple(1.0), data, repeats=2)
    for other in (*others, repeats):
        for name in ("bits_per_dim", "bound"):
            assert np.all(points(other)[name] != points(first)[name])
    # Of 60 samples in batches of at most 50, or of 120 in batches of 50, the last one is filled up.
    uneven = of_levels(multiple(1.0), data, batch_size=47, repeats=2)
    for name in ("bits_per_dim", "bound", "dequantisation"):
        assert np.allclose(points(uneven)[name], points(repeats)[name], rtol=1e-9)


# ------------------------------------------------------------------------------------------------ the measure of audits


def test_bound_over_samples() -> None:
    mixture, sde = line_mixture(), sfp.VP()
    x = mixture.sample(jr.key(0), 300)
    want = -np.asarray(jax.vmap(mixture.log_prob)(x))
    measure = Bound(batch_size=100)
    exact, wrong, absurd = (measure(changed(eta), x, key=jr.key(1)).numbers for eta in (0.0, 1.0, 1000.0))
    is_within(exact["bound"], want.mean())
    assert wrong["bound"].value > exact["bound"].value + 0.1
    # The interval is that of the exact values, widened by the noise of the draws.
    error, of_data = exact["bound"].half_width, stats.sem(want) * stats.t.ppf(0.975, 299)
    assert error is not None
    assert of_data < error < math.hypot(of_data, 3 * exact["point_error"].value / math.sqrt(300))
    # The denoising step gives half the square of sigma s + noise, less that of the noise: nothing for a score that is
    # bounded, since sigma = 1e-3 at t0.
    assert abs(exact["denoising"].value) < 1e-4
    t0 = jnp.asarray(sde.t0)
    off = 1000 * sde.sigma(t0) * jax.vmap(lambda x: Perturbed(1.0)(t0, sde.alpha(t0) * x))(x)
    is_within(absurd["denoising"], 0.5 * float(jnp.mean(off**2)))
    assert absurd["denoising"].value > 0.1
    quantised = measure(changed(1000.0), inside(x, sfp.Quantisation(16, -4.0, 4.0)), key=jr.key(1)).numbers
    for name, offset in (("bound", 1.0), ("denoising", 0.0), ("point_error", 0.0)):
        assert quantised[name].unit == "bits/dim"
        assert quantised[name].value == pytest.approx(absurd[name].value / math.log(2) + offset, rel=1e-9)


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.quick
def test_bad_input_is_refused(unchecked: None) -> None:
    quantisation = sfp.Quantisation(8, -1.0, 1.0)
    levels = np.zeros((4, 2), np.uint8)
    data, floats = Dataset(jnp.asarray(levels), quantisation), np.zeros((4, 2))
    for arguments, message in (
        ({"repeats": 0}, "repeats = 0; each sample is taken at least once"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"draws": 0}, "draws = 0"),
        (
            {"dequantiser": sfp.UniformDequantiser(sfp.Quantisation(8, 0.0, 1.0))},
            r"the dequantiser has the quantisation Quantisation\(levels=8, low=0.0, high=1.0\), the data have "
            r"Quantisation\(levels=8, low=-1.0, high=1.0\)",
        ),
    ):
        refused(message, evaluate, multiple(1.0), data, key=jr.key(0), **arguments)
    with pytest.raises(ValueError, match="the data have no levels to dequantise"):
        evaluate(multiple(1.0), floats, key=jr.key(0), dequantiser=sfp.UniformDequantiser(quantisation))
    for few in (floats[:1], floats[0, 0]):
        refused("needs at least two samples", evaluate, multiple(1.0), few, key=jr.key(0))
    with pytest.raises(TypeError, match="the values have dtype uint8 and quantisation is None"):
        evaluate(multiple(1.0), levels, key=jr.key(0))
    refused("sample 0 holds nan", evaluate, multiple(1.0), floats * np.nan, key=jr.key(0))
    with pytest.raises(
        ValueError, match=r"data holds samples of shape \(3,\), but one sample of the score has shape \(\)"
    ):
        evaluate(changed(0.0), np.zeros((4, 3)), key=jr.key(0))
    refused("samples = 1", Bound, samples=1)
    refused("draws = 1", Bound, estimator=sfp.BoundEstimator(1))
    refused("draws = 1", CodeLength, estimator=sfp.BoundEstimator(1))
    refused('a code length needs "denoised"', CodeLength, estimator=sfp.BoundEstimator(truncation="ignored"))
    refused("the data are floats, which have no code length", CodeLength(), multiple(1.0), floats, key=jr.key(0))
    refused("batch_size = 0", Bound, batch_size=0)
