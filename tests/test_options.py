"""Options that no example sets: what each does, against a formula."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.refusals import refused
from jax import Array
from jaxtyping import Float

import scorefp as sfp
from scorefp._types import Key
from scorefp.calculus import AbstractLaw, AbstractTrace, Gaussian, HutchPlusPlus, XTrace
from scorefp.data import Interval, read_arrays
from scorefp.densities import Checkerboard, Circles, SwissRolls
from scorefp.diagnostics import (
    Ensemble,
    PriorDivergence,
    ResidualCurve,
    SampleQuality,
    ScoreError,
    SteinTest,
    log_snr_ends,
)
from scorefp.integrals import UniformTime
from scorefp.objective import AbstractTerm, Smoothness, TimeDerivativeSize
from scorefp.objective.perturbed import Perturbed
from scorefp.quality import PolynomialKernel

pytestmark = pytest.mark.quick

A = ((-1.0, 0.5, 0.2), (-0.7, -2.0, 0.4), (0.1, 0.9, -0.5))
"""The matrix of a score that is no gradient."""
ONE = sfp.EDM(t0=1.0, t1=2.0)
"""Without drift, with g² = 2t and σ = t, over an interval of length one."""


def linear(sde: sfp.sde.AbstractLinearSDE = ONE) -> sfp.Score:
    return sfp.Score(lambda t, x: jnp.array(A) @ x, sde)


class Given(AbstractLaw):
    """The probe (1, -2, 0.5), every time."""

    def draw(self, key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Float[Array, "..."]:
        return jnp.broadcast_to(jnp.array([1.0, -2.0, 0.5], dtype), shape)


V = np.array([1.0, -2.0, 0.5])
X = np.array([0.3, -0.6, 1.1])


def mean(term: AbstractTerm, score: sfp.Score, n: int = 500, batches: int = 40) -> tuple[float, float]:
    """The integral of a term over uniform times, for data at the origin, and its standard error."""
    of = jax.jit(lambda key: term(score, jnp.zeros((n, 3)), key=key, time=UniformTime()))
    values = np.array([of(key) for key in jr.split(jr.key(0), batches)])
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(batches))


@pytest.mark.parametrize(
    "trace",
    [sfp.Exact(), sfp.Hutchinson(), sfp.Hutchinson(2, Gaussian()), HutchPlusPlus(3), XTrace(2)],
    ids=lambda trace: type(trace).__name__,
)
def test_every_trace_of_the_curl_is_unbiased(trace: AbstractTrace) -> None:
    a = np.array(A)
    found, error = mean(sfp.ZeroCurl(trace=trace), linear())
    assert found == pytest.approx(0.5 * np.sum((a - a.T) ** 2), abs=4 * error + 1e-4)
    assert error < 0.1


def test_taming_with_an_exact_trace() -> None:
    """|L[s]| with L[s] = t (tr A + |Ax|²) where there is no drift."""
    t, x = jnp.asarray(1.5), jnp.array(X, jnp.float32)
    at = Perturbed(t, jnp.ones(()), jnp.zeros(3), jnp.zeros(3), x)
    term = sfp.TimeDerivativeTaming(trace=sfp.Exact())
    value, observed = term.observe(linear(), at, key=jr.key(0))
    assert value is not None
    want = 1.5 * abs(np.trace(A) + np.sum((np.array(A) @ X) ** 2))
    assert float(term.integrand(ONE, at, value, observed)) == pytest.approx(want, rel=1e-5)


def test_the_step_and_weighting_of_smoothness() -> None:
    """For s = x² and x = σε: E|(s(x + δσξ) - s(x))/δ|² = σ⁴ (4 + 3δ²) for each entry."""
    term = lambda step: Smoothness(step=step, weighting=lambda sde, t: t**-4)
    score = sfp.Score(lambda t, x: x**2, ONE)
    for step in (0.1, 2.0):
        found, error = mean(term(step), score, 2000)
        assert found == pytest.approx(3 * (4 + 3 * step**2), abs=4 * error)
        assert error < 2


def test_weightings() -> None:
    """They multiply the integrand."""
    score = sfp.Score(lambda t, x: 0.5 * t**2 * jnp.ones_like(x), ONE)  # its time derivative is t
    assert mean(TimeDerivativeSize(weighting=lambda sde, t: t**-2), score)[0] == pytest.approx(3, rel=1e-5)
    for order in (2, 3):
        once = mean(sfp.HighOrderDSM(order), linear(), 8, 2)[0]
        thrice = mean(sfp.HighOrderDSM(order, weighting=lambda sde, t: 3 * sde.g2(t)), linear(), 8, 2)[0]
        assert thrice == pytest.approx(3 * once, rel=1e-5)
    between = sfp.objective.InterpolatedWeighting(0.25, sfp.unit_weighting, lambda sde, t: t**4)
    assert float(between(ONE, 1.5)) == pytest.approx(1.5)


def test_the_law_of_residual_methods() -> None:
    """A law that gives one direction v: ⟨ε, v⟩ v, and the second difference along v."""
    score = sfp.Score(lambda t, x: t * jnp.array(A) @ x, ONE)
    t, x, key, a = 1.5, jnp.array(X, jnp.float32), jr.key(0), np.array(A)
    of = lambda method: np.asarray(sfp.score_fpe_residual(score, t, x, method=method, key=key))
    exact = of(sfp.Exact())
    np.testing.assert_allclose(of(sfp.Sliced(law=Given())), (exact @ V) * V, rtol=1e-4)
    dt = 0.02 * t / 2  # of σ²/g²
    s = t * a @ X
    ends = [X + 2 * t * dt * s + sign * np.sqrt(2 * t * dt) * V for sign in (1, -1)]  # two steps from (t, X)
    bend = sum((t - dt) * a @ end - s for end in ends)
    np.testing.assert_allclose(of(sfp.Antithetic(law=Given())), -bend / (2 * dt), rtol=1e-3)


def test_the_form_of_a_residual_curve() -> None:
    """With s = Nx and no drift the gradient form is -2t NᵀN x, and the martingale form -2t NN x, which is zero."""
    score = sfp.Score(lambda t, x: jnp.stack([x[1], jnp.zeros_like(x[1])]), ONE)
    x = jnp.zeros((400, 2))
    curve = lambda form: ResidualCurve(form=form, ensemble=Ensemble(3, 400))(score, x, key=jr.key(0)).curves["r_FP"]
    gradient = curve("gradient")
    want = 2 * gradient.t * gradient.t * np.sqrt(2 / np.pi) / 2  # E|x_2| = σ √(2/π)
    np.testing.assert_allclose(gradient.value, want, rtol=0.2)
    assert np.all(curve("martingale").value < 1e-5)


def test_the_kernel_and_batch_size_of_sample_quality() -> None:
    """A linear kernel sees the distance of the means, |m|²/D."""
    score = sfp.Score(lambda t, x: -x / (1 + t**2), sfp.EDM())
    x = np.array([1.0, -1.0], np.float32) + np.asarray(jr.normal(jr.key(0), (500, 2)))

    def found(kernel: PolynomialKernel, batch_size: int) -> sfp.diagnostics.Section:
        measure = SampleQuality(method=sfp.Heun(20), kernel=kernel, batch_size=batch_size)
        return measure(score, x, key=jr.key(1))

    number = found(PolynomialKernel(1), 256).numbers["kernel"]
    assert number.half_width is not None
    assert number.value == pytest.approx(1, abs=2 * number.half_width)
    assert number.half_width < 0.25
    small = found(PolynomialKernel(1), 64).numbers
    assert small["kernel"].value == pytest.approx(number.value, rel=1e-4)
    assert found(PolynomialKernel(3), 256).numbers["kernel"].value > 1.5 * number.value


def test_the_width_of_a_stein_test() -> None:
    """A kernel as wide as the world is constant and leaves |E s|²."""
    score = sfp.Score(lambda t, x: -x / (1 + t**2), sfp.EDM())
    x = 0.5 + np.asarray(jr.normal(jr.key(0), (400, 2)))
    measure = SteinTest(width=1e4, draws=50, ensemble=Ensemble(2, 400, log_snr_ends))
    curve = measure(score, x, key=jr.key(1)).curves["discrepancy"]
    s = -np.asarray(x)
    pairs = (np.sum(s.sum(0) ** 2) - np.sum(s**2)) / (400 * 399)
    assert curve.value[0] == pytest.approx(sfp.EDM().t0 ** 2 / 2 * pairs, rel=0.05)


@pytest.mark.parametrize("trace", [None, sfp.Exact(), sfp.Hutchinson(16)])
def test_features_see_an_error_that_waves_do_not(trace: sfp.calculus.AbstractProbes | None) -> None:
    """The error 3 cos(5 y) u, a gradient, along y = ⟨x, u⟩; its mean square is 9/2."""
    sde, x, u = sfp.EDM(), jr.normal(jr.key(0), (2000, 2)), jnp.array([0.6, 0.8])
    score = sfp.Score(lambda t, x: -x / (1 + t**2) + 3 * jnp.cos(5 * x @ u) * u, sde)
    waves = lambda t, x: jnp.stack([jnp.sin(5 * x @ u), jnp.cos(5 * x @ u)])
    want = sde.t0 * np.sqrt(4.5 / 2)

    def found(features: Callable[..., Array] | None) -> dict[str, sfp.diagnostics.Number]:
        measure = ScoreError(4, features, trace, ensemble=Ensemble(1, 2000, log_snr_ends))
        return measure(score, x, key=jr.key(1)).numbers

    seen, blind = found(waves), found(None)
    for name in ("score_error", "score_error_gradient"):
        assert seen[name].value == pytest.approx(want, rel=0.2)
        assert blind[name].value < 0.5 * want


def test_the_samples_of_a_divergence() -> None:
    score, x = sfp.Score(lambda t, x: -x, sfp.VP()), jr.normal(jr.key(0), (50, 2))
    for samples, n in ((20, 20), (100, 50), (None, 50)):
        section = PriorDivergence(samples=samples)(score, x, key=jr.key(1))
        assert section.points["least"].shape == (n,)


def test_circles() -> None:
    circles = Circles(radii=(1.0, 4.0), noise=0.1)
    distance = np.linalg.norm(circles.sample(jr.key(0), 4000), axis=1)
    inner = distance < 2.5
    assert inner.mean() == pytest.approx(0.5, abs=0.03)
    for part, radius in ((inner, 1.0), (~inner, 4.0)):
        assert distance[part].mean() == pytest.approx(radius, abs=0.01)
        assert distance[part].std() == pytest.approx(0.1, abs=0.01)
    r = jnp.linspace(0.01, 5, 2000)
    density = jnp.exp(jax.vmap(circles.log_prob)(jnp.stack([r, 0 * r], axis=1)))
    assert float(jnp.trapezoid(2 * jnp.pi * r * density, r)) == pytest.approx(1, abs=1e-3)


def test_swiss_rolls_and_checkerboard() -> None:
    far, none = (SwissRolls(spacing=spacing).sample(jr.key(0), 500) for spacing in (9.0, 0.0))
    moved = np.round(np.asarray(far - none), 3)
    assert {tuple(row) for row in moved.tolist()} == {(0, 0), (-9, -9), (-9, 9), (9, -9), (9, 9)}
    board = Checkerboard(side=1.0, cells=2)
    x = board.sample(jr.key(0), 500)
    np.testing.assert_allclose(jax.vmap(board.log_prob)(x), -np.log(2.0), rtol=1e-6)
    assert np.abs(x).max() <= 1
    assert set(np.sign(np.asarray(x).prod(axis=1)).tolist()) == {1}


def test_the_interval_of_arrays(tmp_path: Path) -> None:
    path = tmp_path / "floats.npy"
    np.save(path, np.linspace(-1, 1, 6, dtype=np.float32)[:, None])
    assert read_arrays(path, interval=Interval(-1.0, 1.0)).dataset.interval == Interval(-1.0, 1.0)
    refused(r"sample 0 holds -1.0, outside \[-0.5, 1.0\]", read_arrays, path, interval=Interval(-0.5, 1.0))


def test_the_integrator_of_encode() -> None:
    """The latent of normal data with variance v is x √(v_1/v_0)."""
    sde = sfp.VP()
    variance = lambda t: 0.25 * sde.alpha(t) ** 2 + sde.sigma(t) ** 2
    score, x = sfp.Score(lambda t, x: -x / variance(t), sde), jnp.array([0.7, -0.2])
    want = x * jnp.sqrt(variance(1.0) / variance(sde.t0))
    error: Callable[[float], float] = lambda tol: float(
        jnp.abs(sfp.encode(score, x, integrator=sfp.Integrator(rtol=tol, atol=tol)) - want).max()
    )
    assert error(1e-6) < 1e-5
    assert error(0.1) > 1e-4
