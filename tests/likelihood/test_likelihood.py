"""Log-likelihoods of the probability flow against closed forms [K1], [X1], [X2], and dequantisation [K7]."""

import math
from collections.abc import Callable
from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.gaussian import MEAN, gaussian, gaussian_flow, geometric
from helpers.references import LINEAR, MIXTURES, assert_mean, line_mixture, plane_mixture
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp
from scorefp.densities import MixturePotential
from scorefp.sde import AbstractLinearSDE

TIGHT = sfp.Integrator(diffrax.Dopri8(), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("make", LINEAR.values(), ids=LINEAR.keys())
def test_gaussian_closed_form(make: Callable[[], AbstractLinearSDE]) -> None:
    sde, x = make(), jnp.array([0.9, 0.5])
    push, log_determinant = gaussian_flow(sde, sde.t0, sde.t1)
    result = sfp.flow_likelihood(gaussian().score(sde), x, integrator=TIGHT)
    assert float(result.log_prob) == pytest.approx(float(sde.prior.log_prob(push(x)) + log_determinant), abs=1e-6)
    np.testing.assert_allclose(result.latent, push(x), rtol=1e-6)
    assert result.solver_error is None


def long(mixture: sfp.GaussianMixture) -> MixturePotential:
    """The exact score over a horizon at whose end the law is the prior: the likelihood is the density at `t0`."""
    return mixture.score(sfp.OU(t1=20.0))


def points(*shape: int) -> Array:
    """Points of about unit size."""
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.result_type(float))


@jax.jit
def density(exact: MixturePotential, xs: Array) -> Array:
    """The exact log-densities at `t0`."""
    return jax.vmap(lambda x: exact.potential(exact.sde.t0, x))(xs)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", ["()", "(2, 1, 2)"])
def test_mixture_of_any_event_shape(shape: str) -> None:
    mixture = MIXTURES[shape]()
    exact, xs = long(mixture), points(3, *mixture.shape)
    got = jax.jit(jax.vmap(lambda x: sfp.log_likelihood(exact, x, integrator=TIGHT)))(xs)
    np.testing.assert_allclose(got, density(exact, xs), atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_general_sde() -> None:
    """Geometric Brownian motion: the diffusion is a full matrix and depends on the sample."""
    score, x = geometric(), jnp.array([1.3, 0.6])
    want = geometric_log_density(np.asarray(x))
    assert float(sfp.log_likelihood(score, x, integrator=TIGHT)) == pytest.approx(want, abs=1e-6)
    wrong = sfp.Score(lambda t, x: score(t, x) + 0.5, score.sde)
    assert abs(float(sfp.log_likelihood(wrong, x)) - want) > 1e-2


def geometric_log_density(x: np.ndarray) -> float:
    """The log-normal density at `t0 = 0`, from the parameters in `gaussian.py`."""
    mean, covariance = np.array([0.1, -0.2]), np.array([[0.3, 0.1], [0.1, 0.2]])
    away = np.log(x) - mean
    normal = -0.5 * away @ np.linalg.solve(covariance, away) - 0.5 * math.log(np.linalg.det(2 * math.pi * covariance))
    return normal - float(np.log(x).sum())


class Linear(eqx.Module):
    """The exact score of `N(mean, variance)` on the line under `OU()`."""

    mean: Array
    variance: Array

    def __call__(self, t: Array, x: Array) -> Array:
        alpha = jnp.exp(-t)
        return -(x - alpha * self.mean) / (alpha**2 * self.variance + 0.5 * (1 - alpha**2))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "adjoint",
    [diffrax.RecursiveCheckpointAdjoint(), diffrax.DirectAdjoint(), diffrax.BacksolveAdjoint()],
    ids=lambda adjoint: type(adjoint).__name__,
)
def test_gradients_of_every_adjoint(adjoint: diffrax.AbstractAdjoint) -> None:
    """The likelihood is the density at `t0` whatever the parameters, and so are its gradients: the exact score in `x`,
    the slopes of the closed form in mean and variance, which finite differences confirm."""
    sde, fn, x = sfp.OU(t1=20.0), Linear(jnp.array(0.2), jnp.array(0.4)), jnp.array(0.9)
    integrator = sfp.Integrator(rtol=1e-8, atol=1e-8, adjoint=adjoint)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def likelihood(both: tuple[Linear, Array]) -> Array:
        return sfp.log_likelihood(sfp.Score(both[0], sde), both[1], integrator=integrator)

    alpha, sigma = math.exp(-sde.t0), math.sqrt(0.5 * (1 - math.exp(-2 * sde.t0)))
    variance, away = alpha**2 * 0.4 + sigma**2, 0.9 - alpha * 0.2
    _, (by_fn, by_x) = likelihood((fn, x))
    assert float(by_x) == pytest.approx(-away / variance, abs=1e-5)
    assert float(by_fn.mean) == pytest.approx(alpha * away / variance, abs=1e-5)
    assert float(by_fn.variance) == pytest.approx(0.5 * alpha**2 * (away**2 / variance - 1) / variance, abs=1e-5)
    h = 1e-3
    up, down = (likelihood((Linear(fn.mean + step, fn.variance), x))[0] for step in (h, -h))
    assert float(by_fn.mean) == pytest.approx(float(up - down) / (2 * h), abs=1e-4)


@pytest.mark.usefixtures("x64")
def test_gradient_of_a_mixture_in_forward_mode() -> None:
    exact, x = long(line_mixture()), jnp.array(0.3)
    integrator = sfp.Integrator(rtol=1e-8, atol=1e-8, adjoint=diffrax.ForwardMode())
    slope = jax.jacfwd(lambda x: sfp.log_likelihood(exact, x, integrator=integrator))(x)
    assert float(slope) == pytest.approx(float(exact(exact.sde.t0, x)), abs=1e-5)
    assert abs(float(slope)) > 0.1


@pytest.mark.usefixtures("x64")
def test_density_of_any_score_integrates_to_one() -> None:
    exact = line_mixture().score(sfp.VP())
    wrong = sfp.Score(lambda t, x: 0.95 * exact(t, x - 0.1) + 0.1 * jnp.sin(3 * x), exact.sde)
    x = jnp.linspace(-5.0, 5.0, 401)
    log_prob = jax.jit(jax.vmap(lambda x: sfp.log_likelihood(wrong, x)))(x)
    assert float(jnp.trapezoid(jnp.exp(log_prob), x)) == pytest.approx(1.0, abs=1e-4)
    assert jnp.abs(jnp.exp(log_prob) - jnp.exp(density(exact, x))).max() > 0.1


def test_float32_near_t0() -> None:
    """The defaults in float32 on data so narrow that the score at `t0` is of order 100, against the closed form."""
    narrow, sde = gaussian(1e-5), sfp.VP()
    score, xs = narrow.score(sde), jnp.asarray(MEAN) + 1.5e-3 * points(16, 2)
    got = jax.jit(jax.vmap(lambda x: sfp.log_likelihood(score, x)))(xs)
    assert got.dtype == jnp.float32
    farthest = np.abs(np.asarray(xs) - MEAN).sum(axis=1).argmax()
    assert jnp.abs(score(sde.t0, xs[farthest])).max() > 100
    with jax.enable_x64(True):
        push, log_determinant = gaussian_flow(sde, sde.t0, sde.t1, 1e-5)
        closed_form = jax.jit(jax.vmap(lambda x: sde.prior.log_prob(push(x)) + log_determinant))
        want = np.asarray(closed_form(jnp.asarray(xs, jnp.float64)))
    np.testing.assert_allclose(got, want, atol=5e-4)


@pytest.mark.usefixtures("x64")
def test_hutchinson_is_unbiased_with_probes_fixed_in_a_solve(getkey: Callable[[], Array]) -> None:
    exact, x = long(plane_mixture()), jnp.array([0.3, -0.2])
    keys = jr.split(getkey(), 256)

    @jax.jit
    @jax.vmap
    def estimate(key: Array) -> Array:
        return sfp.log_likelihood(exact, x, trace=sfp.Hutchinson(), key=key)

    estimates = np.asarray(estimate(keys))
    assert_mean(estimates, density(exact, x[None])[0])
    # Two signs in the plane: probes that stay fixed give one of two values. Fresh ones at each step would mix them.
    values = np.unique(np.round(estimates, 3))
    assert values.size == 2
    assert values[1] - values[0] > 0.02
    np.testing.assert_array_equal(estimate(keys), estimates)


@pytest.mark.usefixtures("x64")
def test_batch_is_one_solve_of_the_same_thing(getkey: Callable[[], Array]) -> None:
    exact, xs = long(plane_mixture()), 0.7 * points(256, 2)
    want = density(exact, xs)
    np.testing.assert_allclose(sfp.flow_likelihood(exact, xs, common_steps=True).log_prob, want, atol=1e-3)
    # Probes are independent between samples: equal samples get different estimates, whose mean is the exact value.
    same = jnp.broadcast_to(xs[0], (256, 2))
    estimates = sfp.flow_likelihood(exact, same, trace=sfp.Hutchinson(), key=getkey(), common_steps=True)
    assert_mean(estimates.log_prob, want[0])
    assert estimates.latent.shape == same.shape
    assert estimates.success.shape == estimates.evaluations.shape == (256,)
    assert estimates.success.all()


@pytest.mark.usefixtures("x64")
def test_error_estimate_is_the_error() -> None:
    exact, xs = long(plane_mixture()), 0.7 * points(32, 2)
    loose = sfp.Integrator(rtol=1e-3, atol=1e-3)
    found = jax.jit(jax.vmap(lambda x: sfp.flow_likelihood(exact, x, integrator=loose, error=True)))(xs)
    error = jnp.abs(found.log_prob - density(exact, xs))
    assert bool(jnp.all(found.success))
    assert float(jnp.median(error)) > 1e-4
    assert 0.5 < float(jnp.median(found.solver_error / error)) < 2.0


@pytest.mark.quick
@pytest.mark.usefixtures("unchecked")
def test_bad_samples() -> None:
    score = sfp.Score(lambda t, x: -x, sfp.VP())
    batch = partial(sfp.flow_likelihood, common_steps=True)
    for of_one in (sfp.log_likelihood, sfp.flow_likelihood, batch):
        refused(r"has dtype int32; .*UniformDequantiser", of_one, score, jnp.zeros((2, 2), jnp.int32), error=TypeError)
        refused("holds NaN or infinite entries", of_one, score, jnp.array([[0.0, jnp.nan]]))
        with pytest.raises(ValueError, match=r"key is None, but Hutchinson draws .*key=jax.random.key"):
            of_one(score, jnp.zeros((2, 2)), trace=sfp.Hutchinson())
    with pytest.raises(RuntimeError, match="x holds NaN"):
        jax.block_until_ready(jax.jit(lambda x: sfp.log_likelihood(score, x))(jnp.array([jnp.inf])))
    refused(r"x has shape \(\); with common_steps it is a batch", batch, score, jnp.zeros(()))
    refused(r"x has shape \(0, 2\)", batch, score, jnp.zeros((0, 2)))
    with pytest.raises(ValueError, match=r"the value of fn has shape \(1,\), but a score at x"):
        sfp.log_likelihood(sfp.Score(lambda t, x: x[:1], sfp.VP()), jnp.zeros(2))


@pytest.mark.quick
def test_bits_per_dim_of_known_ranges() -> None:
    """The uniform density on the range of the data costs `log2(levels)` bits, whatever the range."""
    for levels, low, high in [(256, -1.0, 1.0), (256, 0.0, 1.0), (17, -1.0, 1.0), (2, 0.0, 256.0)]:
        quantisation = sfp.Quantisation(levels, low, high)
        uniform = -64 * jnp.log(jnp.asarray(high - low))
        assert float(sfp.bits_per_dim(uniform, 64, quantisation)) == pytest.approx(math.log2(levels), abs=1e-5)
        assert quantisation.offset_bits == pytest.approx(-math.log2(quantisation.width))
    assert sfp.Quantisation(256, -1.0, 1.0).offset_bits == 7.0
    assert sfp.Quantisation(256, 0.0, 1.0).offset_bits == 8.0
    log_prob = jnp.array([0.0, -64 * math.log(2)])
    np.testing.assert_allclose(sfp.bits_per_dim(log_prob, 64, sfp.Quantisation(256, 0.0, 1.0)), [8.0, 9.0], rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_dequantised_data_fill_their_levels_evenly(getkey: Callable[[], Array]) -> None:
    quantisation = sfp.Quantisation(5, -1.0, 1.0)
    k = np.tile(np.arange(5, dtype=np.uint8), (2000, 1))
    x = sfp.UniformDequantiser(quantisation)(k, key=getkey())
    assert x.shape == k.shape
    position = (np.asarray(x) - quantisation.low) / quantisation.width
    np.testing.assert_array_equal(np.floor(position), k)
    u = position - k
    assert_mean(u, np.full(5, 0.5))
    assert_mean((u - 0.5) ** 2, np.full(5, 1 / 12))
    # Neither two entries nor two samples share their noise.
    assert np.abs(np.corrcoef(u.T) - np.eye(5)).max() < 0.1
    assert np.unique(u).size == u.size


def test_dequantisation_bounds_the_bits_of_the_levels(getkey: Callable[[], Array]) -> None:
    """Jensen [K7]: the mean over the noise is above the bits of the levels; for a density flat on each, they agree."""
    quantisation = sfp.Quantisation(4, 0.0, 1.0)
    mass = np.array([0.1, 0.2, 0.3, 0.4])
    levels = np.repeat(np.arange(4), 5000)
    x = np.asarray(sfp.UniformDequantiser(quantisation)(levels, key=getkey()))
    bits = sfp.bits_per_dim(np.log(mass[levels] / quantisation.width), 1, quantisation)
    np.testing.assert_allclose(bits, -np.log2(mass)[levels], rtol=1e-5)
    triangle = sfp.bits_per_dim(np.log(2 * x), 1, quantisation)
    of_levels = -np.log2((2 * levels + 1) / 16)
    gap = np.asarray(triangle - of_levels).reshape(4, -1).mean(axis=1)
    assert gap[0] > 0.1
    assert np.all(gap > 0)


@pytest.mark.quick
@pytest.mark.usefixtures("unchecked")
def test_bad_quantisations() -> None:
    refused("levels = 1; quantised data have at least two levels", sfp.Quantisation, 1, 0.0, 1.0)
    refused(r"\[low, high\] = \[1.0, -1.0\]; .*low < high", sfp.Quantisation, 256, 1.0, -1.0)
    refused("high = inf; it is a finite number", sfp.Quantisation, 256, 0.0, float("inf"))
    dequantise, key = sfp.UniformDequantiser(sfp.Quantisation(17, -1.0, 1.0)), jr.key(0)
    with pytest.raises(TypeError, match=r"k has dtype float32; levels are integers 0 … 16. .*k.astype\(jnp.int32\)"):
        dequantise(jnp.zeros(3), key=key)
    for outside in (17, -1):
        refused(r"outside 0 … 16", dequantise, jnp.array([0, outside]), key=key)
    with pytest.raises(RuntimeError, match=r"outside 0 … 16"):
        jax.block_until_ready(jax.jit(lambda k: dequantise(k, key=key))(jnp.array([17])))
    refused("size = 0", sfp.bits_per_dim, jnp.zeros(()), 0, sfp.Quantisation(17, -1.0, 1.0))
