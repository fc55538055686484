"""Gaussian mixtures and their exact diffusion, against scipy and quadrature."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.special
import scipy.stats
from helpers.references import LINEAR, MIXTURES, assert_mean, line_mixture, times
from jaxtyping import Array

import scorefp as sfp

pytestmark = pytest.mark.usefixtures("x64")


def scipy_log_prob(mixture: sfp.GaussianMixture, x: np.ndarray, alpha: float, sigma: float) -> float:
    """The log-density of `alpha x0 + sigma noise` from means, covariances and weights."""
    size = x.size
    parts = []
    for mean, axes, variances in zip(mixture.means, mixture.axes, mixture.variances, strict=True):
        covariance = alpha**2 * np.asarray((axes * variances) @ axes.T) + sigma**2 * np.eye(size)
        normal = scipy.stats.multivariate_normal(alpha * np.asarray(mean).ravel(), covariance)
        parts.append(normal.logpdf(x.ravel()))
    return scipy.special.logsumexp(parts, b=np.asarray(mixture.weights))


@pytest.mark.quick
@pytest.mark.parametrize("shape", MIXTURES)
def test_density(shape: str) -> None:
    """Of the data and of what diffuses from it [X1], in the middle and far in the tail."""
    mixture, sde = MIXTURES[shape](), sfp.VP()
    exact = mixture.score(sde)
    x = np.cos(1.0 + np.arange(max(1, int(np.prod(mixture.shape))))).reshape(mixture.shape)
    alpha, sigma = float(sde.alpha(0.3)), float(sde.sigma(0.3))
    log_prob, potential = eqx.filter_jit(mixture.log_prob), jax.jit(lambda x: exact.potential(0.3, x))
    for scale in (1.0, 30.0):
        point = jnp.asarray(scale * x)
        np.testing.assert_allclose(log_prob(point), scipy_log_prob(mixture, scale * x, 1.0, 0.0), rtol=1e-11)
        np.testing.assert_allclose(potential(point), scipy_log_prob(mixture, scale * x, alpha, sigma), rtol=1e-11)
    assert exact.shape == mixture.shape


def test_covariances_are_kept() -> None:
    """The eigendecomposition gives the matrices back; numbers stand for multiples of the identity."""
    matrices = np.array([[[0.3, 0.1], [0.1, 0.2]], [[2.0, -0.5], [-0.5, 1.0]]])
    means, weights = jnp.zeros((2, 2)), jnp.array([0.5, 0.5])
    mixture = sfp.GaussianMixture(means, jnp.asarray(matrices), weights)
    axes, variances = np.asarray(mixture.axes), np.asarray(mixture.variances)
    np.testing.assert_allclose(np.einsum("kia,ka,kja->kij", axes, variances, axes), matrices, rtol=1e-13)
    numbers = sfp.GaussianMixture(means, jnp.array([0.3, 2.0]), weights)
    full = sfp.GaussianMixture(means, jnp.array([0.3, 2.0])[:, None, None] * jnp.eye(2), weights)
    np.testing.assert_array_equal(numbers.variances, full.variances)
    np.testing.assert_array_equal(numbers.axes, full.axes)


@pytest.mark.parametrize("shape", MIXTURES)
def test_samples(shape: str) -> None:
    mixture = MIXTURES[shape]()
    samples = np.asarray(eqx.filter_jit(mixture.sample)(jr.key(0), 20_000))
    assert samples.shape == (20_000, *mixture.shape)
    weights = np.asarray(mixture.weights)
    means = np.asarray(mixture.means).reshape(weights.size, -1)
    within = np.einsum("k,kia,ka,kja->ij", weights, mixture.axes, mixture.variances, mixture.axes)
    flat = samples.reshape(20_000, -1)
    assert_mean(flat[:, :, None] * flat[:, None, :], np.einsum("k,ki,kj->ij", weights, means, means) + within)
    assert_mean(flat, weights @ means, resolution=0.2)


def test_diffusion_by_quadrature() -> None:
    """Density, score, noise and denoiser as integrals over the clean sample, on the line, for every SDE [P1], [X1]."""
    mixture, levels = line_mixture(), jnp.array([4.0, 0.0, -4.0])

    @jax.jit
    def everything() -> list[tuple[Array, ...]]:
        found = []
        for sde in (make() for make in LINEAR.values()):
            exact = mixture.score(sde)

            def at(t: Array, sde: Any = sde, exact: Any = exact) -> tuple[Array, ...]:
                alpha, sigma = sde.alpha(t), sde.sigma(t)
                x = 0.3 * alpha + 0.7 * sigma
                return alpha, sigma, x, exact.potential(t, x), exact(t, x), exact.noise(t, x), exact.denoise(t, x)

            found.append(jax.vmap(at)(sde.time_of_log_snr(levels)))
        return found

    # The trapezium rule converges exponentially for functions that vanish at both ends.
    clean = np.linspace(-4.0, 4.0, 401)
    log_prior = np.array([scipy_log_prob(mixture, c, 1.0, 0.0) for c in clean])
    for found in everything():
        for alpha, sigma, x, *got in np.asarray(found).T:
            weight = np.exp(log_prior + scipy.stats.norm(alpha * clean, sigma).logpdf(x)) * (clean[1] - clean[0])
            total, mean = weight.sum(), (weight * clean).sum() / weight.sum()
            want = (np.log(total), (alpha * mean - x) / sigma**2, (x - alpha * mean) / sigma, mean)
            np.testing.assert_allclose(got, want, rtol=1e-8)


@pytest.mark.quick
def test_one_gaussian() -> None:
    """[X2]: the score of N(m, C) diffused is linear."""
    sde, x = sfp.OU(), jnp.array([0.4, -1.3])
    mean, covariance = np.array([1.0, -0.5]), np.array([[0.5, 0.2], [0.2, 0.8]])
    exact = sfp.GaussianMixture(mean[None], covariance[None], jnp.ones(1)).score(sde)
    ts = jnp.array([1e-3, 0.5, 10.0])
    alphas, sigmas = np.asarray(sde.alpha(ts)), np.asarray(sde.sigma(ts))
    for got, alpha, sigma in zip(jax.jit(jax.vmap(lambda t: exact(t, x)))(ts), alphas, sigmas, strict=True):
        want = -np.linalg.solve(alpha**2 * covariance + sigma**2 * np.eye(2), x - alpha * mean)
        np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.quick
@pytest.mark.parametrize("make", [sfp.VE, sfp.VP, sfp.EDM], ids=lambda make: make.__name__)
def test_far_away_in_float32(make: Callable[[], sfp.VE | sfp.VP | sfp.EDM]) -> None:
    """Where every density underflows, the score is that of the nearest mode."""
    sde = make()
    mixture = sfp.GaussianMixture(
        jnp.array([[-1.0], [1.0]], jnp.float32),
        jnp.array([0.01, 0.01], jnp.float32),
        jnp.array([0.5, 0.5], jnp.float32),
    )
    exact = mixture.score(sde)
    t, x = times(sde, 3)[:2].astype(jnp.float32), jnp.array([300.0], jnp.float32)
    score = jax.jit(jax.vmap(lambda t: exact(t, x)))(t)
    alpha, sigma = np.asarray(sde.alpha(t)), np.asarray(sde.sigma(t))
    assert score.dtype == jnp.float32
    np.testing.assert_allclose(score[:, 0], -(300 - alpha) / (0.01 * alpha**2 + sigma**2), rtol=1e-4)


@pytest.mark.quick
def test_parameters_may_be_trained() -> None:
    """A mixture is a pytree: the likelihood's gradient in its means is that of the mean of a normal law."""
    mixture = sfp.GaussianMixture(jnp.array([[0.3, 0.1]]), jnp.array([0.5]), jnp.ones(1))
    x: Array = jnp.array([1.0, -1.0])
    gradient = eqx.filter_grad(lambda m: m.log_prob(x))(mixture)
    np.testing.assert_allclose(gradient.means, (x - mixture.means) / 0.5, rtol=1e-13)


def test_weights_are_normalised_exactly() -> None:
    """A sum that is off by the tolerance of the check would shift every log-density by it."""
    weights = jnp.array([0.3, 0.7]) * (1 + 8e-6)
    off = sfp.GaussianMixture(jnp.zeros((2, 1)), jnp.ones(2), weights)
    assert abs(float(np.asarray(off.weights, np.float64).sum()) - 1) < 1e-7
    with pytest.raises(ValueError, match="sum to one"):
        sfp.GaussianMixture(jnp.zeros((2, 1)), jnp.ones(2), weights * 1.01)
