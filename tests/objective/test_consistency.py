"""Consistency: the loss and its estimate against expectations over paths by quadrature, gradients, windows [M1]–[M3].

The steps draw their noise inside, so that a mean over paths could only be estimated. Here it is integrated: `given`
puts numbers in the place of the draws of a scalar sample.
"""

import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.interpolate
import scipy.stats
from helpers.references import (
    RARE,
    assert_mean,
    fitted_order,
    inverse_linear,
    line_mixture,
    mean_is,
    multiple,
    on_line_modes,
    standard,
)
from helpers.refusals import refused
from helpers.terms import At
from jaxtyping import Array

import scorefp as sfp
from scorefp import reverse
from scorefp.diagnostics import ConsistencyCurves
from scorefp.objective import AbstractWindow

pytestmark = pytest.mark.usefixtures("x64")


class Sum(eqx.Module):
    """An exact score plus a multiple of a field that no diffusion has; the coefficient is an array [X3]."""

    exact: sfp.score.AbstractScore
    eta: Array

    def __call__(self, t: Array, x: Array) -> Array:
        return self.exact(t, x) + self.eta * jnp.cos(1.5 * x)


def wrong(sde: Any, eta: float) -> sfp.Score:
    return sfp.Score(Sum(line_mixture().score(sde), jnp.asarray(eta)), sde)


def still(eta: Array | float) -> sfp.Score:
    """Standard normal data under VP, which stay so, and a multiple of a field; cheap to compile."""
    return sfp.Score(Sum(standard(), jnp.asarray(eta)), sfp.VP())


# ------------------------------------------------------------------------------- expectations over paths, by quadrature


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The draws of the steps of a scalar sample are the 64 bits of their keys."""

    def normal(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        assert shape == ()
        return jax.lax.bitcast_convert_type(key, jnp.float64)

    monkeypatch.setattr(reverse.steps, "jr", SimpleNamespace(normal=normal))


NODES = np.linspace(-9, 9, 300)
"""Where a function of the state is held: as a spline, in which an end of the interval is not felt inside."""

NOISE, MASS = np.polynomial.hermite_e.hermegauss(24)


@eqx.filter_jit
def moved(
    score: sfp.score.AbstractScore, step: Any, t: Array, earlier: Array, noise: Array
) -> tuple[Array, Array, Array]:
    """Where a step goes from every node with every noise, and the denoiser at the nodes at both times."""
    keys, x = jax.lax.bitcast_convert_type(noise, jnp.uint32), jnp.asarray(NODES)
    one = lambda x, key: step(score, t, earlier, x, key)
    there = jax.vmap(lambda x: jax.vmap(lambda key: one(x, key))(keys))(x)
    return there, *(jax.vmap(lambda x, t=t: score.denoise(t, x))(x) for t in (t, earlier))


@eqx.filter_jit
def between(sde: Any, t: float, earlier: float, shares: Array) -> Array:
    """Times between two, even in log-SNR for even shares."""
    first, last = sde.log_snr(t), sde.log_snr(earlier)
    return sde.time_of_log_snr(first + shares * (last - first)).at[0].set(t).at[-1].set(earlier)


def held(values: np.ndarray) -> Callable[[Any], Any]:
    return scipy.interpolate.make_interp_spline(NODES, values, k=7)


def defect(score: sfp.score.AbstractScore, step: Any, t: float, earlier: float, x: float, steps: int) -> float:
    """`E[h(x', t')] - h(x, t)` over paths of so many steps of equal length in log-SNR from `x`."""
    times = between(score.sde, t, earlier, jnp.arange(steps + 1) / steps)
    values, start = np.zeros(0), np.zeros(0)
    for i in reversed(range(steps)):
        there, here, last = (np.asarray(a) for a in moved(score, step, times[i], times[i + 1], jnp.asarray(NOISE)))
        values = last if i == steps - 1 else values
        # Beyond the interval there is no mass to speak of.
        values = held(values)(np.clip(there, NODES[0], NODES[-1])) @ (MASS / MASS.sum())
        start = here
    return float(held(values)(x) - held(start)(x))


STEPS: dict[str, tuple[Any, int]] = {
    "Euler–Maruyama": (reverse.euler_maruyama_step, 1),
    "ancestral": (reverse.ancestral_step, 1),
    "Heun": (reverse.heun_step, 2),
}


@pytest.mark.usefixtures("given")
@pytest.mark.parametrize("name", STEPS)
def test_loss_of_the_exact_score_vanishes_at_the_order_of_the_step(name: str) -> None:
    """The defect has the weak order of the step, the loss is its square; that of another score stays."""
    step, order = STEPS[name]
    sde, counts = sfp.VP(), [12, 24, 48]
    exact, other = ([defect(wrong(sde, eta), step, 0.5, 0.2, 0.4, n) for n in counts] for eta in (0.0, 0.5))
    losses = [0.5 * d**2 for d in exact]
    assert fitted_order([1 / n for n in counts], losses) == pytest.approx(2 * order, rel=0.1)
    # Richardson's limit, of the next order.
    limit = (2**order * exact[2] - exact[1]) / (2**order - 1)
    assert abs(limit) < 0.03 * abs(exact[0])
    assert abs(other[2]) > 10 * abs(exact[2])
    assert other[2] == pytest.approx(other[1], rel=0.1)


@pytest.mark.usefixtures("given")
@pytest.mark.parametrize(("make", "t"), [(sfp.VP, 0.3), (inverse_linear, 0.8)], ids=["VP", "LinearSDE"])
def test_loss_over_a_short_window_is_the_martingale_residual(make: Callable[[], Any], t: float) -> None:
    """[F8]: the ratio of the loss to `δ² (σ⁴ / α²) ‖ε_M‖² / 2` tends to one, at first order in δ."""
    sde, x = make(), 0.4
    score, local = wrong(sde, 0.3), sde.sigma(t) ** 2 / sde.g2(t)
    residual = eqx.filter_jit(sfp.score_fpe_residual)(score, t, jnp.asarray(x), form="martingale")
    ratios, lengths = [], [0.1, 0.05, 0.025]
    for length in lengths:
        window = float(length * local)
        loss = 0.5 * defect(score, reverse.heun_step, t, t - window, x, 2) ** 2
        ratios.append(loss / float(0.5 * window**2 * sde.sigma(t) ** 4 / sde.alpha(t) ** 2 * residual**2))
    errors = [abs(ratio - 1) for ratio in ratios]
    assert fitted_order(lengths, errors) == pytest.approx(1, abs=0.15)
    assert errors[-1] < 0.1
    assert abs(2 * ratios[-1] - ratios[-2] - 1) < 0.1 * errors[-1]


# --------------------------------------------------------------------------------------------------- the estimate of it


@eqx.filter_jit
def _losses(score: sfp.score.AbstractScore, x: Array, keys: Array, paths: int) -> Array:
    return jax.vmap(lambda key: sfp.objective.consistency_loss(score, 0.4, 0.25, x, key=key, steps=3, paths=paths))(
        keys
    )


def test_product_of_two_paths_is_unbiased_and_the_square_of_one_is_not() -> None:
    score, x = still(0.3), jnp.asarray(0.4)
    keys = jr.split(jr.key(0), 6000)
    reference = _losses(score, x, keys[:40], 1000)
    want = float(reference.mean())
    assert np.std(reference) / math.sqrt(40) < 0.02 * want
    assert_mean(_losses(score, x, keys, 2), want)
    ends = eqx.filter_jit(
        jax.vmap(lambda key: score.denoise(0.25, sfp.reverse.reverse_path(score, 0.4, 0.25, x, key=key, steps=3)))
    )(jr.split(jr.key(1), 6000))
    defects = ends - score.denoise(0.4, x)
    assert_mean(defects, -math.sqrt(2 * want))
    squares = 0.5 * defects**2
    assert not mean_is(squares, want)
    assert_mean(squares, want + 0.5 * float(jnp.var(defects)))


def test_path_takes_its_steps_evenly_in_log_snr() -> None:
    """Its key of a step is folded in; one step of the state and its noise is seen by a step that counts."""
    score, x, key, sde = standard(), jnp.zeros(3), jr.key(3), sfp.VP()

    def count(score: Any, t: Array, earlier: Array, x: Array, key: Array) -> Array:
        change = jnp.stack([t - earlier, sde.log_snr(earlier) - sde.log_snr(t), jr.uniform(key)])
        return x + change * jnp.asarray([1.0, 1.0, 1.0])

    path = eqx.filter_jit(lambda steps: sfp.reverse.reverse_path(score, 0.6, 0.2, x, key=key, steps=steps, step=count))
    whole = float(sde.log_snr(0.2) - sde.log_snr(0.6))
    for steps in (1, 3):
        draws = sum(float(jr.uniform(jr.fold_in(key, i))) for i in range(steps))
        np.testing.assert_allclose(path(steps), [0.4, whole, draws], rtol=1e-9)


def test_path_between_times_that_are_nearly_equal() -> None:
    """The inverse of the log-SNR is rounded, and steps of negative length would have no noise that is a number."""
    score, x = standard(), jnp.asarray([0.4, -1.0], jnp.float32)
    t = jnp.asarray(np.float32([1e-5, 1.1e-5, 1e-3, 0.3, 1.0]))
    path = eqx.filter_jit(jax.vmap(lambda t, earlier: sfp.reverse.reverse_path(score, t, earlier, x, key=jr.key(0))))
    same, close = path(t, t), path(t, jnp.maximum(t[0], t * np.float32(1 - 3e-7)))
    assert same.dtype == x.dtype
    np.testing.assert_allclose(same, np.tile(x, (5, 1)), rtol=1e-6)
    np.testing.assert_allclose(close, np.tile(x, (5, 1)), rtol=0.02)


# ------------------------------------------------------------------------------------------------------------- the term


SLOPE = 0.3


def ramp(sde: Any) -> sfp.score.NetworkScore:
    """A denoiser that is a multiple of the log-SNR whatever the sample: it has no noise at all."""
    return sfp.DenoiserScore(lambda t, x: SLOPE * sde.log_snr(t) * jnp.ones_like(x), sde, None)


WINDOWS: dict[str, Callable[..., AbstractWindow]] = {
    "TimeWindow": sfp.objective.TimeWindow,
    "NoiseWindow": sfp.objective.NoiseWindow,
    "LogSNRWindow": sfp.objective.LogSNRWindow,
}


@eqx.filter_jit
def of_ramp(term: sfp.Consistency, sde: Any, t: float) -> Array:
    return term(ramp(sde), jnp.ones((1, 3)), key=jr.key(0), time=At(jnp.asarray(t)))


def test_default_weighting_is_the_unit_of_the_residual() -> None:
    """The term is what `ScoreFPE` is by default [F15]."""
    sde, t = sfp.VP(), 0.3
    # [F8]: the denoiser grows by SLOPE per unit of log-SNR.
    residual = SLOPE * sde.alpha(t) / sde.sigma(t) ** 2 * sde.g2(t) / sde.sigma(t) ** 2
    want = float(3 * sfp.objective.scale_free_weighting(sde, t) * residual**2)
    got = of_ramp(sfp.Consistency(sfp.objective.LogSNRWindow(0.5, random=False)), sde, t)
    assert float(got) == pytest.approx(want, rel=1e-9)


def test_paper_has_no_weighting() -> None:
    """The published setting is the plain loss at a time."""
    sde = sfp.EDM()
    got = of_ramp(
        sfp.Consistency(sfp.objective.NoiseWindow(0.05, random=False), weighting=sfp.unit_weighting), sde, 0.5
    )
    want = 0.5 * 3 * (SLOPE * 2 * math.log(0.5 / 0.45)) ** 2
    assert float(got) == pytest.approx(want, rel=1e-9)


def unaware(score: Any, t: Array, earlier: Array, x: Array, key: Array) -> Array:
    """A step that does not see the score."""
    return 0.9 * x + 0.3 * jr.normal(key, x.shape)


@eqx.filter_jit
def slopes(eta: Array, closed: bool, settings: dict[str, Any]) -> tuple[Array, Array]:
    """The term as a function of a coefficient of the score, and its derivative."""
    x0 = jnp.asarray([0.4, -0.7])
    term = sfp.Consistency(sfp.objective.LogSNRWindow(1.5), steps=2, **settings)

    def loss(eta: Array) -> Array:
        score = still(eta)
        score = sfp.Score(lambda t, x: still(eta)(t, x), sfp.VP()) if closed else score
        return term(score, x0, key=jr.key(1), time=At(jnp.asarray(0.3)))

    return jax.value_and_grad(loss)(eta)


def test_gradients_stopped_and_path_wise() -> None:
    def both(**settings: Any) -> tuple[float, float]:
        """The derivative, and the difference quotient of the same draws."""
        at = lambda eta: slopes(jnp.asarray(eta), False, settings)
        return float(at(0.8)[1]), float(at(0.8 + 1e-5)[0] - at(0.8 - 1e-5)[0]) / 2e-5

    slope, quotient = both(pathwise=True)
    assert slope == pytest.approx(quotient, rel=1e-6)
    stopped, same = both()
    assert same == pytest.approx(quotient, rel=1e-9)
    assert abs(stopped - slope) > 0.05 * abs(slope)
    # Where the path does not depend on the score nothing is left out.
    alone, quotient = both(step=unaware)
    assert alone == pytest.approx(quotient, rel=1e-6)
    # A score that hides its parameters in a closure has the same gradient.
    assert float(slopes(jnp.asarray(0.8), True, {})[1]) == pytest.approx(stopped, rel=1e-12)


def test_stopped_gradient_may_climb() -> None:
    """For an error `e` of the noise prediction, the same at all samples, the term over a short window is, per unit of
    log-SNR, `(k - 1/2)² e² / 2` with the posterior's share `k` of the noise: `alpha²` for normal data under VP. Its
    path-wise derivative is `(k - 1/2)² e`, the stopped one `-(k - 1/2) e / 2`: of the wrong sign for small noise.
    """
    sde, x0 = sfp.VP(), jr.normal(jr.key(5), (8000,))

    @eqx.filter_jit
    def slope(t: Array, pathwise: bool) -> Array:
        def loss(e: Array) -> Array:
            score = sfp.Score(lambda t, x: -x - e / sde.sigma(t), sde)
            term = sfp.Consistency(sfp.objective.LogSNRWindow(0.2, random=False), steps=2, pathwise=pathwise)
            return term(score, x0, key=jr.key(1), time=At(t))

        return jax.grad(loss)(jnp.ones(())) * sde.sigma(t) ** 2 / sde.g2(t)

    for t in (0.03, 0.9):
        share = float(sde.alpha(t)) ** 2 - 0.5
        assert abs(share) > 0.4
        assert float(slope(jnp.asarray(t), True)) == pytest.approx(share**2, rel=0.2)
        assert float(slope(jnp.asarray(t), False)) == pytest.approx(-0.5 * share, rel=0.2)


def test_own_samples() -> None:
    """Their law is that of the diffused data for an exact score; the term looks at them and not at the data."""
    sde, t = sfp.VP(), jnp.asarray(0.25)
    score = line_mixture().score(sde)
    draw = eqx.filter_jit(jax.vmap(lambda key: sfp.objective.OwnSamples(100)(score, t, jnp.zeros(()), key=key)))
    x = np.asarray(draw(jr.split(jr.key(0), 2000)))
    law = lambda x: on_line_modes(scipy.stats.norm.cdf, sde, t, x)
    assert scipy.stats.kstest(x, law).pvalue > RARE
    assert scipy.stats.kstest(x, lambda x: law(x - 0.3)).pvalue < RARE

    broken = still(0.5)

    @eqx.filter_jit
    def values(x0: Array) -> list[Array]:
        terms = (sfp.Consistency(steps=1, points=sfp.objective.OwnSamples(3)), sfp.Consistency(steps=1))
        return [term(broken, x0, key=jr.key(1), time=At(t)) for term in terms]

    (own, diffused), (own_again, other) = values(jnp.zeros(4)), values(jnp.ones(4))
    assert own == own_again != diffused != other


class Dropped(eqx.Module):
    """A constant denoiser whose sign is a coin of the key, and of the time too if it is `fickle`."""

    fickle: Array

    def __call__(self, t: Array, x: Array, key: Array) -> Array:
        key = jr.fold_in(key, self.fickle * jax.lax.bitcast_convert_type(t.astype(jnp.float32), jnp.uint32))
        return jnp.where(jr.bernoulli(key), 1.0, -1.0) * jnp.ones_like(x)


def test_dropout_is_frozen_within_a_term() -> None:
    """All evaluations share the mask of their sample, of which two in a batch have their own."""
    x0 = jnp.zeros((16, 2))

    @eqx.filter_jit
    def value(fickle: Array) -> Array:
        score = sfp.DenoiserScore(Dropped(fickle), sfp.VP(), None)
        return sfp.Consistency(steps=2, points=sfp.objective.OwnSamples(2))(score, x0, key=jr.key(0), dropout=True)

    assert abs(float(value(jnp.uint32(0)))) < 1e-20
    assert float(value(jnp.uint32(1))) > 0.1


# --------------------------------------------------------------------------------------------------- the property tests


def linear_defects(c: float, times: np.ndarray) -> np.ndarray:
    """The defect at every end of a path from the first time, over its start, for the score `-c x` under VP.

    The denoiser is a multiple of the state, and so is the mean of an ancestral step.
    """
    sde = sfp.VP()
    alpha, sigma, log_snr = (np.asarray(f(times)) for f in (sde.alpha, sde.sigma, sde.log_snr))
    h = (1 - c * sigma**2) / alpha
    kept = sigma[1:] * np.exp((log_snr[:-1] - log_snr[1:]) / 2) * c * sigma[:-1]
    return h[1:] * np.cumprod(alpha[1:] * h[:-1] + kept) - h[0]


@pytest.mark.parametrize("c", [1.0, 1.4])
def test_curves_of_a_linear_score(c: float) -> None:
    """Standard normal data under VP stay so; the defects are known, those of the steps themselves included."""
    sde, x = sfp.VP(), jr.normal(jr.key(5), (600, 2))
    measure = ConsistencyCurves(steps=32, times=4, samples=600, batch_size=400)
    section = measure(multiple(c), x, key=jr.key(0))
    grid = np.asarray(between(sde, sde.t1, sde.t0, jnp.arange(33) / 32))
    from_t1 = linear_defects(c, grid)[7::8]
    to_t0 = np.asarray([linear_defects(c, grid[start:])[-1] for start in (0, 8, 16, 24)])
    for name, want, t in (("from_t1", from_t1, grid[8::8]), ("to_t0", to_t0, grid[:-1:8])):
        curve = section.curves[name]
        np.testing.assert_allclose(curve.t, t[::-1], rtol=1e-9)
        assert np.all(np.abs(curve.value - np.abs(want[::-1])) <= 2 * curve.half_width + 1e-9)
    assert section.curves["from_t1"].value[0] == section.curves["to_t0"].value[-1]
    numbers, square = section.numbers, float(np.mean(to_t0**2))
    assert abs(numbers["consistency"].value - square) < 2 * numbers["consistency"].half_width
    if c == 1:  # what is left is the steps'
        assert numbers["consistency_rms"].value < 0.05
    else:
        assert numbers["consistency_rms"].value == pytest.approx(math.sqrt(square), rel=0.1)
        assert numbers["consistency_rms"].value > 1
        # In the limit of many steps: E[x_t'] = x_t exp(-(c - 1/2) (B(t) - B(t'))) with B = -2 log alpha.
        shrunk = np.exp((2 * c - 1) * np.asarray(sde.log_alpha(grid[0]) - sde.log_alpha(grid[-1])))
        h = [(1 - c * float(sde.sigma(t)) ** 2) / float(sde.alpha(t)) for t in (grid[-1], grid[0])]
        assert to_t0[0] == pytest.approx(h[0] * shrunk - h[1], rel=0.05)


# ---------------------------------------------------------------------------------------------------------- the windows


@pytest.mark.parametrize("name", WINDOWS)
def test_law_of_a_window(name: str) -> None:
    """Uniform in its coordinate, down to the floor; nothing below the floor."""
    sde, floor = sfp.VP(), 0.1
    coordinate = {
        "TimeWindow": lambda t: t,
        "NoiseWindow": lambda t: np.exp(-0.5 * np.asarray(sde.log_snr(t))),
        "LogSNRWindow": lambda t: -np.asarray(sde.log_snr(t)),
    }[name]
    low, mid, high = (float(coordinate(t)) for t in (floor, 0.2, 0.5))
    length = 0.8 * (high - mid)
    drawn, fixed = (WINDOWS[name](length, random, floor) for random in (True, False))
    times = jnp.asarray([0.5, 0.2, 0.05])
    draw = jax.vmap(lambda t: jax.vmap(lambda key: drawn(sde, t, key=key))(jr.split(jr.key(0), 1000)))
    found = np.asarray(eqx.filter_jit(draw)(times))
    for t, values in zip(times[:2], found, strict=False):
        top = float(coordinate(t))
        bottom = max(top - length, low)
        uniform = scipy.stats.uniform(bottom, top - bottom)
        assert scipy.stats.kstest(coordinate(values), uniform.cdf).pvalue > RARE
        assert (
            scipy.stats.kstest(coordinate(values), scipy.stats.uniform(bottom, 1.2 * (top - bottom)).cdf).pvalue < RARE
        )
        end = fixed(sde, t, key=jr.key(0))
        assert float(coordinate(end)) == pytest.approx(bottom, rel=1e-9)
    assert np.all(found[2] == times[2])


@pytest.mark.parametrize("name", WINDOWS)
def test_mean_square_of_a_short_window(name: str) -> None:
    sde, t = sfp.VP(), jnp.asarray(0.3)
    for random, keys in ((True, jr.split(jr.key(0), 4000)), (False, jr.split(jr.key(0), 2))):
        window = WINDOWS[name](1e-4, random)
        squares = eqx.filter_jit(
            jax.vmap(lambda key, w=window: (sde.log_snr(w(sde, t, key=key)) - sde.log_snr(t)) ** 2)
        )(keys)
        want = float(window.mean_square(sde, t))
        if random:
            assert_mean(squares, want)
        else:
            np.testing.assert_allclose(squares, want, rtol=1e-3)


@pytest.mark.parametrize("name", WINDOWS)
def test_window_stays_inside_in_float32(name: str) -> None:
    t = np.float32(np.geomspace(1.001e-5, 1.0, 200))
    for sde in (sfp.VP(), inverse_linear()):
        inside = jnp.asarray(t[t >= sde.t0])
        window = WINDOWS[name](1e-5)
        earlier = np.asarray(eqx.filter_jit(jax.vmap(lambda t, w=window, s=sde: w(s, t, key=jr.key(0))))(inside))
        assert earlier.dtype == np.float32
        assert np.all(earlier <= inside)
        assert np.all(earlier >= np.float32(sde.t0))


# ----------------------------------------------------------------------------------------------------------- bad input


def general() -> sfp.Score:
    return standard(sfp.sde.GeometricBrownianMotion(jnp.zeros(2), jnp.eye(2)))


def loss(t: Any, earlier: Any, *, of: Callable[[], Any] = standard, **settings: Any) -> Array:
    return sfp.objective.consistency_loss(of(), t, earlier, jnp.ones(2), key=jr.key(0), **settings)


def earlier(window: AbstractWindow) -> Array:
    return window(sfp.VP(), jnp.asarray(0.5), key=jr.key(0))


BAD: dict[str, Callable[[], None]] = {
    "later": partial(
        refused,
        r"(?s)earlier = 0\.5 lies above t = 0\.3; the reverse SDE runs .*\. Were they swapped\?",
        loss,
        0.3,
        0.5,
    ),
    "below t0": partial(refused, r"earlier = 0\.0 lies outside \[t0, t1\] = \[1e-05, 1\.0\]", loss, 0.3, 0.0),
    "above t1": partial(refused, r"t = 1\.5 lies outside \[t0, t1\]", loss, 1.5, 0.3),
    "one path": partial(
        refused, "(?s)paths = 1; the square .* variance of the path .*paths=2", loss, 0.3, 0.1, paths=1
    ),
    "no step": partial(refused, "steps = 0; it is a count of at least 1", loss, 0.3, 0.1, steps=0),
    "no kernel": partial(
        refused, "GeometricBrownianMotion, which has no Gaussian kernel", loss, 0.3, 0.1, of=general, error=TypeError
    ),
    "term without steps": partial(refused, "steps = 0; it is a count", sfp.Consistency, steps=0),
    "own samples without steps": partial(refused, "steps = 0; it is a count", sfp.objective.OwnSamples, 0),
    "share": partial(refused, r"fraction = 0; a share of the batch lies in \(0, 1\]", sfp.Consistency, fraction=0),
    "steps between times": partial(
        refused, "(?s)steps = 30 with times = 8; .* steps is a multiple of times", ConsistencyCurves, steps=30
    ),
    "measure of one path": partial(refused, "paths = 1; the square without bias", ConsistencyCurves, paths=1),
    "measure of one sample": partial(refused, "samples = 1; a confidence interval", ConsistencyCurves, samples=1),
    "empty window": partial(
        refused, r"length = 0\.0; the length of a window is positive", sfp.objective.NoiseWindow, 0.0
    ),
    "negative window": partial(refused, r"length = -1\.0; the length", sfp.objective.LogSNRWindow, -1.0),
    "window below the floor": partial(
        refused,
        r"(?s)floor = 1e-06 lies outside \[t0, t1\) = \[1e-05, 1\.0\), the horizon of the SDE\. .*leave it out for t0",
        lambda: earlier(sfp.objective.TimeWindow(0.1, floor=1e-6)),
    ),
    "window above the horizon": partial(
        refused, r"floor = 1\.0 lies outside", lambda: earlier(sfp.objective.LogSNRWindow(floor=1.0))
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.usefixtures("unchecked")
def test_bad_input(case: str) -> None:
    BAD[case]()


def test_bad_times_at_run_time() -> None:
    compiled = eqx.filter_jit(lambda t, earlier: loss(t, earlier, steps=1))
    assert jnp.isfinite(compiled(jnp.asarray(0.3), jnp.asarray(0.3)))
    for t, earlier, message in (
        (0.3, 0.4, "earlier lies above t"),
        (0.3, 1e-6, "earlier lies outside"),
        (2.0, 0.3, "t lies"),
    ):
        refused(message, compiled, jnp.asarray(t), jnp.asarray(earlier), error=RuntimeError)
