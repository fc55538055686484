"""Audits: every number against a closed form, its interval against the coverage it claims [F10], [F15], [C1], [K8]."""

import json
import math
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest
from helpers.references import MIXTURES, Perturbed, inside, perturbed
from helpers.refusals import refused
from jaxtyping import Array
from scipy import stats

import scorefp as sfp
from scorefp.data import Dataset
from scorefp.diagnostics import (
    CurlCurve,
    Curve,
    Ensemble,
    Likelihood,
    MatchingCurve,
    Number,
    ResidualCurve,
    log_snr_midpoints,
    uniform_midpoints,
)
from scorefp.diagnostics._intervals import mean_interval, median_interval, root_interval, share_interval
from scorefp.diagnostics.ensemble import in_batches
from scorefp.diagnostics.measure import written

pytestmark = pytest.mark.usefixtures("x64")

SMALL = Ensemble(times=6, samples=200)


def is_within(estimate: Number, want: float, *, resolution: float = 0.1) -> None:
    """The value is `want` within twice the half-width, about four standard errors, and the interval is of use."""
    assert estimate.half_width is not None
    assert estimate.half_width < resolution * abs(want), f"{estimate} is no use for {want}"
    assert abs(estimate.value - want) < 2 * estimate.half_width, f"{estimate}, not {want}"


def follows(curve: Curve, want: np.ndarray, *, resolution: float = 0.2) -> None:
    assert np.all(curve.half_width < resolution * np.abs(want))
    assert np.all(np.abs(curve.value - want) <= 2 * curve.half_width + 1e-12)


# ----------------------------------------------------------------------------------- a linear score, all in closed form
#
# Standard normal samples under VP stay standard normal. The score s = M x with M = -(1 + eta) I + zeta R, R a rotation
# by a right angle in each plane, is neither exact nor conservative, and with f = -g² x / 2
#     eps = [-(g²/2)(M + Mᵀ) - g² MᵀM] x = -g² c x,  c = (1 + eta)² + zeta² - (1 + eta).

ETA, ZETA = 0.4, 0.3
DEFECT = (1 + ETA) ** 2 + ZETA**2 - (1 + ETA)


class Linear(eqx.Module):
    """The linear score, broken outside a radius; what varies between tests is an array, to compile once."""

    matrix: Array
    radius: Array

    def __call__(self, t: Array, x: Array) -> Array:
        return jnp.where(jnp.linalg.norm(x) > self.radius, jnp.nan, self.matrix @ x)


def linear_score(size: int, eta: float = ETA, zeta: float = ZETA, radius: float = math.inf) -> sfp.Score:
    turn = np.kron(np.eye(size // 2), np.array([[0.0, -1.0], [1.0, 0.0]]))
    matrix = -(1 + eta) * np.eye(size) + zeta * turn
    return sfp.Score(Linear(jnp.asarray(matrix), jnp.asarray(radius)), sfp.VP(), shape=(size,))


def normal_samples(count: int, size: int) -> Dataset:
    return Dataset(jr.normal(jr.key(5), (count, size), jnp.float64))


def mean_norm(size: int) -> float:
    return math.sqrt(2) * math.gamma((size + 1) / 2) / math.gamma(size / 2)


@pytest.mark.parametrize("size", [2, 18])
def test_residual_of_a_linear_score(size: int) -> None:
    score = linear_score(size)
    section = ResidualCurve(ensemble=Ensemble(6, 600))(score, normal_samples(600, size), key=jr.key(0))
    sde = sfp.VP()
    t = section.curves["r_FP"].t
    assert np.allclose(t, log_snr_midpoints(sde, 6))
    g2, sigma = np.asarray(sde.g2(t)), np.asarray(sde.sigma(t))
    # Above 16 elements the default draws probes, and r_FP is a root mean square: sqrt(D) for E‖x‖.
    exact = size <= 16
    norm = mean_norm(size) if exact else math.sqrt(size)
    assert any("upper bound" in note for note in section.notes) is not exact
    want = DEFECT * g2 * norm / size
    follows(section.curves["r_FP"], want)
    is_within(section.numbers["r_FP"], want.mean() if exact else math.sqrt(np.mean(want**2)))
    free = DEFECT * sigma**3
    follows(section.curves["r_FP_scale_free"], free)
    is_within(section.numbers["r_FP_scale_free"], math.sqrt(np.mean(free**2)))


def test_matching_error_of_a_linear_score() -> None:
    section = MatchingCurve(ensemble=Ensemble(6, 600))(linear_score(2), normal_samples(600, 2), key=jr.key(0))
    sde = sfp.VP()
    t = section.curves["r_DSM"].t
    alpha, sigma = np.asarray(sde.alpha(t)), np.asarray(sde.sigma(t))
    # sigma s + noise = sigma alpha M x0 + (sigma² M + I) noise, and M and sigma² M + I are multiples of rotations.
    square = (sigma * alpha) ** 2 * ((1 + ETA) ** 2 + ZETA**2) + (1 - sigma**2 * (1 + ETA)) ** 2 + sigma**4 * ZETA**2
    follows(section.curves["r_DSM_scale_free"], np.sqrt(square))
    is_within(section.numbers["r_DSM_scale_free"], math.sqrt(square.mean()))
    want = np.sqrt(square) / sigma * mean_norm(2) / 2
    follows(section.curves["r_DSM"], want)
    is_within(section.numbers["r_DSM"], want.mean())


@pytest.mark.parametrize("trace", [None, sfp.Hutchinson(2, sfp.calculus.Gaussian())])
def test_curl_of_a_linear_score(trace: sfp.Hutchinson | None) -> None:
    section = CurlCurve(trace, SMALL)(linear_score(4), normal_samples(300, 4), key=jr.key(0))
    t = section.curves["curl"].t
    sigma = np.asarray(sfp.VP().sigma(t))
    # J - Jᵀ = 2 zeta R, of squared norm 4 zeta² D.
    want = np.full(6, 2 * ZETA**2 * 4)
    free = np.sqrt(2) * ZETA * sigma**2
    if isinstance(trace, sfp.Hutchinson):
        follows(section.curves["curl"], want, resolution=0.4)
        is_within(section.numbers["curl"], want[0])
        is_within(section.numbers["curl_scale_free"], math.sqrt(np.mean(free**2)))
    else:
        assert np.allclose(section.curves["curl"].value, want, rtol=1e-12)
        assert np.allclose(section.curves["curl_scale_free"].value, free, rtol=1e-12)
        assert abs(section.numbers["curl"].value - want[0]) < 1e-12


# ----------------------------------------------------------------------------------------- exact and perturbed mixtures


@pytest.mark.parametrize("name", ["()", "(2, 1, 2)"])
def test_exact_score_has_neither_residual_nor_curl(name: str) -> None:
    mixture = MIXTURES[name]()
    x = Dataset(mixture.sample(jr.key(0), 60))
    exact, wrong = (perturbed(mixture.score(sfp.VP()), jnp.asarray(eta)) for eta in (0.0, 0.3))
    ensemble = Ensemble(4, 60)
    for measure, number in ((ResidualCurve(ensemble=ensemble), "r_FP"), (CurlCurve(ensemble=ensemble), "curl")):
        zero = measure(exact, x, key=jr.key(1)).numbers
        large = measure(wrong, x, key=jr.key(1)).numbers
        assert zero[f"{number}_scale_free"].value < 1e-9
        if not (number == "curl" and x.size == 1):
            assert large[f"{number}_scale_free"].value > 1e-2
            assert zero[number].value < 1e-6 * large[number].value


def test_methods_and_forms() -> None:
    """The same key gives the same diffused samples, so that only the probes and the forms differ."""
    ensemble, x = Ensemble(4, 400), normal_samples(400, 2)
    gradient, swirl = (
        perturbed(linear_score(2, more, 0.0), jnp.asarray(eta)) for more, eta in ((1.0, 0.0), (0.0, 0.6))
    )
    measures = {
        "exact": ResidualCurve(ensemble=ensemble),
        "probed": ResidualCurve(sfp.Hutchinson(), ensemble=ensemble),
        "martingale": ResidualCurve(sfp.Ito(sfp.Exact()), ensemble=ensemble),
    }
    found = {name: measure(swirl, x, key=jr.key(1)) for name, measure in measures.items()}
    free = {name: section.numbers["r_FP_scale_free"] for name, section in found.items()}
    error = free["probed"].half_width
    assert error is not None
    assert 0 < abs(free["probed"].value - free["exact"].value) < 2 * error < 0.3 * free["exact"].value
    # Jensen: what stands for r_FP with probes is not below the mean norm.
    bound = found["probed"].curves["r_FP"]
    assert np.all(bound.value + 2 * bound.half_width > found["exact"].curves["r_FP"].value)
    assert found["probed"].numbers["r_FP"].value > found["exact"].numbers["r_FP"].value
    # The forms differ by the curl: they agree on a gradient, wrong as it is, and on nothing else.
    assert abs(free["martingale"].value - free["exact"].value) > 1e-3
    same = [measures[name](gradient, x, key=jr.key(1)).numbers["r_FP"].value for name in ("exact", "martingale")]
    assert same[0] > 0.1
    assert same[0] == pytest.approx(same[1], rel=1e-10)
    refused("form = 'gradient' with method = Ito", ResidualCurve, sfp.Ito(), "gradient")


# ------------------------------------------------------------------------------------------------------- the likelihood


def flow_of_linear_score(x: np.ndarray, eta: float) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood and end, in scales of the prior, under u = g² (eta I - zeta R) x / 2."""
    sde = sfp.VP()
    growth = float(sde.log_alpha(sde.t0) - sde.log_alpha(sde.t1))
    scale, size = float(sde.sigma(sde.t1)), x.shape[1]
    latent = np.exp(eta * growth) * np.linalg.norm(x, axis=1) / scale
    log_prob = -0.5 * latent**2 - size * math.log(scale * math.sqrt(2 * math.pi)) + eta * size * growth
    return log_prob, latent / math.sqrt(size)


@pytest.mark.parametrize("quantisation", [None, sfp.Quantisation(17, -4.0, 4.0)])
def test_likelihood_of_a_linear_score(quantisation: sfp.Quantisation | None) -> None:
    x = inside(normal_samples(101, 4).values, quantisation)
    section = Likelihood(batch_size=30)(linear_score(4, 0.3), x, key=jr.key(0))
    log_prob, end = flow_of_linear_score(np.asarray(x.values), 0.3)
    if quantisation is None:
        name, unit, values = "negative_log_likelihood", "nats", -log_prob
    else:
        name, unit = "bits_per_dim", "bits/dim"
        values = -log_prob / (4 * math.log(2)) + math.log2(17 / 8)
    mean, median = section.numbers[name], section.numbers[f"median_{name}"]
    low, high = stats.t.interval(0.95, 100, values.mean(), stats.sem(values))
    assert mean.unit == median.unit == unit
    assert mean.value == pytest.approx(values.mean(), abs=1e-3)
    assert mean.half_width == pytest.approx((high - low) / 2, rel=1e-3)
    assert median.value == pytest.approx(np.median(values), abs=1e-3)
    share = section.numbers["exploded"]
    assert share.value == np.mean(end > 5)
    assert section.numbers["evaluations"].value > 6


def test_exploded_trajectories_are_counted_and_named() -> None:
    x = normal_samples(40, 2)
    _, end = flow_of_linear_score(np.asarray(x.values), 0.3)
    far = np.flatnonzero(end > 5)
    assert 5 < far.size < 35
    section = Likelihood()(linear_score(2, 0.3), x, key=jr.key(0))
    assert section.numbers["exploded"].value == far.size / 40
    (note,) = (note for note in section.notes if "have an exploded" in note)
    listed = ", ".join(map(str, far[:20]))
    assert note.startswith(f"{far.size} of 40 samples have an exploded trajectory (rows {listed}")
    beyond = Likelihood(threshold=1e9)(linear_score(2, 0.3), x, key=jr.key(0))
    assert beyond.numbers["exploded"].value == 0
    assert not any("have an exploded" in note for note in beyond.notes)


def test_failed_trajectories_are_named_and_leave_the_mean() -> None:
    x = normal_samples(40, 2)
    radius = np.linalg.norm(np.asarray(x.values), axis=1)
    broken = linear_score(2, 0.0, 0.0, radius=2.0)
    failed = np.flatnonzero(radius > 2)
    assert 1 < failed.size < 10
    section = Likelihood()(broken, x, key=jr.key(0))
    log_prob, _ = flow_of_linear_score(np.asarray(x.values), 0.0)
    whole = np.delete(log_prob, failed)
    assert section.numbers["negative_log_likelihood"].value == pytest.approx(-whole.mean(), abs=1e-6)
    # The largest radii fail, so that counting them as infinite moves no order statistic below them.
    assert section.numbers["median_negative_log_likelihood"].value == pytest.approx(np.median(-log_prob), abs=1e-6)
    assert section.numbers["exploded"].value == failed.size / 40
    listed = ", ".join(map(str, failed))
    note = f"{failed.size} of 40 samples have a failed trajectory (rows {listed}); the mean is without"
    assert any(note in line for line in section.notes)
    with pytest.raises(RuntimeError, match="ended in values that are not finite"):
        Likelihood(integrator=sfp.Integrator(max_steps=32))(broken, x, key=jr.key(0))


def test_failed_trajectories_of_levels_leave_the_mean() -> None:
    """Half of the samples fail; the others are of one level, under the standard normal law."""
    levels = jnp.repeat(jnp.asarray([[1, 1], [7, 7]], jnp.uint8), 10, axis=0)
    data = Dataset(levels, sfp.Quantisation(8, -4.0, 4.0))
    section = Likelihood(samples=None)(linear_score(2, 0.0, 0.0, radius=4.25), data, key=jr.key(0))
    number = section.numbers["bits_per_dim"]
    law = stats.norm.cdf(-2) - stats.norm.cdf(-3)
    assert section.numbers["exploded"].value == 0.5
    # By Jensen's inequality above the bits of the level, by less than a bit over a cell of this width.
    assert 0 < number.value + math.log2(law) < 0.5


def test_all_failed_is_not_a_number() -> None:
    nowhere = linear_score(2, radius=-1.0)
    report = sfp.audit(nowhere, normal_samples(40, 2).values, key=jr.key(0), measures=(Likelihood(),))
    numbers = report["likelihood"].numbers
    assert math.isnan(numbers["negative_log_likelihood"].value)
    assert math.isinf(numbers["median_negative_log_likelihood"].value)
    assert numbers["exploded"].value == 1
    assert "nan" in str(report)
    written_numbers = report.to_dict()["sections"]["likelihood"]["numbers"]
    assert written_numbers["negative_log_likelihood"]["value"] is None


def test_likelihood_with_probes_of_a_part_of_the_samples() -> None:
    """One probe has no variance on a multiple of the identity plus an antisymmetric matrix."""
    x = normal_samples(60, 18)
    section = Likelihood(samples=20)(linear_score(18, 0.01), x, key=jr.key(0))
    log_prob, _ = flow_of_linear_score(np.asarray(x.values), 0.01)
    assert "20 samples by Hutchinson()" in section.notes[0]
    number = section.numbers["negative_log_likelihood"]
    assert number.half_width is not None
    assert abs(number.value + log_prob.mean()) < 2 * number.half_width
    assert number.value != pytest.approx(-log_prob.mean(), abs=1e-6)


# ----------------------------------------------------------------------------------------------------------- statistics


def test_intervals_are_those_of_scipy() -> None:
    values = np.random.default_rng(0).exponential(size=(3, 25))
    mean, half = mean_interval(values)
    low, high = stats.t.interval(0.95, 24, values.mean(axis=1), stats.sem(values, axis=1))
    assert np.allclose([mean - half, mean + half], [low, high])
    for hits in (0, 3, 25):
        interval = stats.binomtest(hits, 25).proportion_ci(0.95, method="wilson")
        share, error = share_interval(hits, 25)
        assert share == hits / 25
        assert error == pytest.approx(max(interval.high - share, share - interval.low))
    root, error = root_interval(np.array([4.0, 1.0, -1.0]), np.array([0.0, 3.0, 5.0]))
    assert np.allclose(root, [2, 1, 0])
    assert np.allclose(error, [0, 1, 2])


def test_median_interval_covers() -> None:
    draws = np.random.default_rng(1).exponential(size=(2000, 41))
    found = [median_interval(row) for row in draws]
    covered = np.mean([abs(median - math.log(2)) <= error for median, error in found])
    # An interval by order statistics covers at least its level; the longer side covers more.
    assert 0.95 <= covered <= 0.995
    assert median_interval(np.array([1.0, 2.0, np.inf]))[0] == 2


def test_interval_over_points_covers_the_truth() -> None:
    """For s = -x the scale-free error is alpha(t) at each time; a point is shared by all times of the grid."""
    score = sfp.Score(lambda t, x: -x, sfp.VP())
    measure = MatchingCurve(ensemble=Ensemble(8, 40))
    hits = 0
    for key in jr.split(jr.key(3), 120):
        data_key, key = jr.split(key)
        number = measure(score, Dataset(jr.normal(data_key, (40, 2))), key=key).numbers["r_DSM_scale_free"]
        assert number.half_width is not None
        want = math.sqrt(float(jnp.mean(sfp.VP().alpha(log_snr_midpoints(sfp.VP(), 8)) ** 2)))
        hits += abs(number.value - want) <= number.half_width
    assert 0.89 <= hits / 120 < 1


def test_grids_are_midpoints() -> None:
    sde = sfp.VP()
    assert np.allclose(uniform_midpoints(sde, 4), sde.t0 + (sde.t1 - sde.t0) * (np.arange(4) + 0.5) / 4)
    assert np.allclose(np.diff(sde.log_snr(log_snr_midpoints(sde, 5)), n=2), 0, atol=1e-9)
    uniform = MatchingCurve(Ensemble(4, 10, uniform_midpoints))(linear_score(2), normal_samples(10, 2), key=jr.key(0))
    assert np.allclose(uniform.curves["r_DSM"].t, uniform_midpoints(sde, 4))


@pytest.mark.parametrize(("count", "batch_size"), [(10, 3), (10, 5), (3, 8), (1, 1)])
def test_batches_hold_every_index_once(count: int, batch_size: int) -> None:
    seen: list[int] = []

    def doubled(index: Array) -> Array:
        return 2 * index

    @eqx.filter_jit
    def run() -> Array:
        jaxpr = jax.make_jaxpr(lambda: in_batches(doubled, count, batch_size))()
        seen.extend(
            v.aval.shape[-1] for e in jaxpr.eqns if e.primitive.name == "scan" for v in e.outvars if v.aval.shape
        )
        return in_batches(doubled, count, batch_size)

    assert np.array_equal(run(), 2 * np.arange(count))
    assert all(size <= batch_size for size in seen)


def test_estimates_are_written_to_the_digits_they_have() -> None:
    assert written(2.53412, 0.0312) == "2.534 ± 0.031"
    assert written(0.0, 0.0107) == "0.000 ± 0.011"
    assert written(1234.6, 21.0) == "1235 ± 21"
    assert written(1.2237e-07, 6.6e-10) == "(1.2237 ± 0.0066)e-07"
    assert written(2.5, None) == "2.5"
    assert written(math.inf, math.inf) == "inf ± inf"
    assert str(Number(1.0, 0.25, "1", "share")) == "1.00 ± 0.25"


# ----------------------------------------------------------------------------------------------------------- the audit


def test_default_audit_of_an_exact_and_a_wrong_score(tmp_path: Path) -> None:
    x = normal_samples(40, 2).values
    report = sfp.audit(linear_score(2, 0.0, 0.0), x, key=jr.key(1))
    assert list(report.sections) == [
        "likelihood",
        "bound",
        "residual",
        "matching",
        "curl",
        "gap",
        "consistency",
        "prior",
        "error",
        "circulation",
    ]
    assert report["residual"].numbers["r_FP_scale_free"].value < 1e-9
    assert report["curl"].numbers["curl_scale_free"].value < 1e-12
    assert report["residual"].curves["r_FP"].t.shape == (32,)
    # Up to the prior, of variance sigma(t1)² = 1 - 4e-5.
    nats = report["likelihood"].numbers["negative_log_likelihood"].value
    assert nats == pytest.approx(float(jnp.mean(jnp.sum(x**2, axis=1))) / 2 + math.log(2 * math.pi), abs=1e-3)
    # The stationary score is the data's own: its bound is the likelihood, up to the noise of the draws.
    bound, of_a_point = (report["bound"].numbers[name].value for name in ("bound", "point_error"))
    assert abs(bound - nats) < 4 * of_a_point / math.sqrt(40) < 0.5
    wrong = sfp.audit(linear_score(2), x, key=jr.key(1))
    assert wrong["bound"].numbers["bound"].value > bound + 1
    assert wrong["likelihood"].numbers["negative_log_likelihood"].value > nats + 1
    assert wrong["residual"].numbers["r_FP_scale_free"].value > 0.1
    assert wrong["curl"].numbers["curl_scale_free"].value > 0.1
    assert wrong["matching"].numbers["r_DSM_scale_free"].value > report["matching"].numbers["r_DSM_scale_free"].value
    assert wrong["consistency"].numbers["consistency_rms"].value > 0.1
    assert report["consistency"].numbers["consistency_rms"].value < 0.1
    # Its ODE shrinks the prior far more than its SDE does.
    for audited, apart in ((report, False), (wrong, True)):
        gap, floor = (audited["gap"].numbers[name] for name in ("ode_sde", "floor"))
        assert gap.half_width is not None
        assert (gap.value - gap.half_width > floor.value) is apart

    text = str(report)
    assert text.startswith("Audit of a Score on VP: 40 samples of shape (2,), float64.")
    for section in report.sections.values():
        assert section.title in text
        for number in section.numbers.values():
            assert number.label in text
            assert written(number.value, number.half_width) in text
    report.to_json(tmp_path / "audit.json")
    read = json.loads((tmp_path / "audit.json").read_text())
    assert read == json.loads(json.dumps(report.to_dict()))
    assert read["configuration"]["jax"] == jax.__version__
    assert read["configuration"]["measures"][2]["ensemble"]["grid"] == "log_snr_midpoints"
    assert read["configuration"]["samples"]["shape"] == [2]
    for title, section in report.sections.items():
        for name, number in section.numbers.items():
            assert read["sections"][title]["numbers"][name]["value"] == number.value
        for name, curve in section.curves.items():
            assert read["sections"][title]["curves"][name]["value"] == curve.value.tolist()


def test_same_key_same_report_and_no_second_compilation() -> None:
    traced = 0

    class Network(eqx.Module):
        weight: Array

        def __call__(self, t: Array, x: Array) -> Array:
            nonlocal traced
            traced += 1
            return self.weight * (Perturbed(0.1)(t, x) - x)

    x = normal_samples(30, 2).values
    measures = (Likelihood(), ResidualCurve(ensemble=Ensemble(3, 10)))

    def report(weight: float, seed: int) -> dict[str, Any]:
        score = sfp.Score(Network(jnp.asarray(weight)), sfp.VP())
        return sfp.audit(score, x, key=jr.key(seed), measures=measures).to_dict()

    first = report(1.0, 0)
    count = traced
    assert count > 0
    assert report(1.0, 0) == first
    other_key, other_weight = report(1.0, 1)["sections"], report(1.5, 0)["sections"]
    assert traced == count
    for title, section in first["sections"].items():
        assert other_weight[title]["numbers"] != section["numbers"]
        # The likelihood of all samples with an exact trace draws nothing.
        assert (other_key[title]["numbers"] != section["numbers"]) is (title != "likelihood")


def test_dataset_brings_its_quantisation() -> None:
    levels = jr.randint(jr.key(0), (40, 2), 0, 17)
    quantisation = sfp.Quantisation(17, -1.0, 1.0)
    measures = (Likelihood(),)
    score = linear_score(2, 0.0, 0.0)
    report = sfp.audit(score, Dataset(levels, quantisation), key=jr.key(1), measures=measures)
    bits = report["likelihood"].numbers["bits_per_dim"]
    # Standard normal density of values uniform on [-1, 1]: the mean of x² is a third.
    assert bits.half_width is not None
    want = (0.5 / 3 + 0.5 * math.log(2 * math.pi)) / math.log(2) + math.log2(17) - 1
    assert abs(bits.value - want) < 2 * bits.half_width < 0.2 * want
    assert report.configuration["samples"]["quantisation"]["levels"] == 17
    floats = Dataset(levels, quantisation).dequantised(jr.key(2))
    again = sfp.audit(score, floats, key=jr.key(1), measures=measures)
    assert again["likelihood"].numbers["bits_per_dim"].unit == "bits/dim"
    x = floats.values
    as_data = sfp.audit(score, Dataset(x), key=jr.key(1), measures=measures)
    as_array = sfp.audit(score, np.asarray(x), key=jr.key(1), measures=measures)
    assert as_data.to_dict()["sections"] == as_array.to_dict()["sections"]
    assert "negative_log_likelihood" in as_array["likelihood"].numbers


def test_conditioning_follows_its_sample() -> None:
    """Of data that sit on their conditioning the score is known, and it is the score of the kernel."""
    place = jnp.linspace(-1.0, 1.0, 40)[:, None]
    sde = sfp.VP()

    def towards(t: Array, x: Array, *, args: Array) -> Array:
        return (sde.alpha(t) * args - x) / sde.sigma(t) ** 2

    score = sfp.Score(towards, sde)
    measures = (MatchingCurve(ensemble=Ensemble(3, 10)),)

    def error(args: Array) -> float:
        report = sfp.audit(score, Dataset(place, args=args), key=jr.key(0), measures=measures)
        return report["matching"].numbers["r_DSM_scale_free"].value

    assert error(place) < 1e-9
    assert error(place[::-1]) > 0.1
    refused("args has arrays with", error, place[:20])


def test_a_measure_twice_has_two_titles() -> None:
    x = normal_samples(20, 2).values
    measures = (MatchingCurve(Ensemble(3, 10)), MatchingCurve(Ensemble(3, 10)))
    report = sfp.audit(linear_score(2), x, key=jr.key(0), measures=measures)
    assert list(report.sections) == ["matching", "matching 2"]
    first, second = (section.numbers["r_DSM"].value for section in report.sections.values())
    assert first != second
    with pytest.raises(KeyError, match="no section 'likelihood'; it has 'matching', 'matching 2'"):
        report["likelihood"]


def brownian() -> sfp.GeneralSDE:
    one = jnp.ones(2)
    return sfp.GeneralSDE(
        lambda t, x: -x, lambda t, x: lx.DiagonalLinearOperator(one), sfp.sde.Normal(1.0), t0=0.0, t1=1.0
    )


def test_general_sde_gets_what_needs_no_kernel() -> None:
    score = sfp.Score(lambda t, x: -2 * x, brownian())
    x = normal_samples(10, 2).values
    report = sfp.audit(score, x, key=jr.key(0))
    assert list(report.sections) == ["likelihood", "gap"]
    assert "EulerMaruyama(steps=128)" in report["gap"].notes[0]
    left_out = "Bound, ResidualCurve, MatchingCurve, CurlCurve, ConsistencyCurves, PriorDivergence, ScoreError"
    assert f"Left out: {left_out}, CirculationCurve" in report.notes[0]
    refused("no Gaussian kernel", sfp.audit, score, x, key=jr.key(0), measures=(CurlCurve(),), error=TypeError)
    refused("none of the audits has a curve", report.plot)


def test_prior_without_a_scale_is_judged_by_its_draws() -> None:
    class Wide(sfp.sde.AbstractPrior):
        def log_prob(self, x: Array) -> Array:
            return sfp.sde.Normal(100.0).log_prob(x)

        def sample(self, key: Array, shape: tuple[int, ...]) -> Array:
            return 100 * jr.normal(key, shape)

    still = brownian()
    score = sfp.Score(lambda t, x: -2 * x, sfp.GeneralSDE(still.drift_fn, still.diffusion_fn, Wide(), t0=0.0, t1=1.0))
    x = normal_samples(10, 2).values
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    # The velocity is -x + x: each sample stays where it is, at this distance over 100 sqrt(2) scales.
    for distance, share in ((600.0, 0.0), (800.0, 1.0)):
        report = sfp.audit(score, distance * x, key=jr.key(0), measures=(Likelihood(),))
        assert report["likelihood"].numbers["exploded"].value == share


@pytest.mark.quick
def test_bad_samples_are_refused(unchecked: None) -> None:
    score = linear_score(2)
    x = np.random.default_rng(0).normal(size=(10, 2))
    with pytest.raises(TypeError, match="the values have dtype int32 and quantisation is None"):
        sfp.audit(score, np.ones((10, 2), np.int32), key=jr.key(0))
    x[3, 1] = np.nan
    refused("sample 3 holds nan", sfp.audit, score, x, key=jr.key(0))
    for few in (np.ones((1, 2)), np.ones(())):
        refused("needs at least two samples", sfp.audit, sfp.Score(score.fn, score.sde), few, key=jr.key(0))
    with pytest.raises(
        ValueError, match=r"data holds samples of shape \(3,\), but one sample of the score has shape \(2,\)"
    ):
        sfp.audit(score, np.ones((10, 3)), key=jr.key(0))


@pytest.mark.quick
def test_bad_settings_are_refused() -> None:
    refused("times = 0", Ensemble, times=0)
    refused("samples = 1", Ensemble, samples=1)
    refused("batch_size = 0", Ensemble, batch_size=0)
    refused("samples = 1", Likelihood, samples=1)
    refused("threshold", Likelihood, threshold=0.0)
    refused("batch_size = 0", Likelihood, batch_size=0)
    for together in (0, 3):
        refused(
            f"together = {together}; it divides times = 4",
            lambda together: Ensemble(4, 5).slices(
                lambda score, t, x, noise, key: {"t": t},
                linear_score(2),
                normal_samples(10, 2),
                key=jr.key(0),
                together=together,
            ),
            together,
        )
    short = Ensemble(3, 5, lambda sde, times: jnp.linspace(0.1, 0.9, times + 1))
    with pytest.raises(ValueError, match=r"the grid has shape \(4,\)"):
        CurlCurve(ensemble=short)(linear_score(2), normal_samples(10, 2), key=jr.key(0))
