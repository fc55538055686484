"""The examples of weights: their exact references against independent ones, and their tables against their cells."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.remade import remade
from scipy import stats

import scorefp as sfp


def test_the_laws_that_compositions_name(example: Callable[[str], ModuleType]) -> None:
    """The normaliser of a product of mixtures is a sum over pairs; guidance of strength zero is the mode."""
    compose = example("compose")
    pairs = 0.0
    for m, v, w in zip(*(np.ravel(part) for part in (compose.ONE.means, [0.04, 0.25], [0.3, 0.7])), strict=True):
        for n, u, z in zip(*(np.ravel(part) for part in (compose.OTHER.means, [0.04, 0.36], [0.4, 0.6])), strict=True):
            pairs += w * z * stats.norm.pdf(m, n, np.sqrt(u + v))
    x, density, log_z = compose.named("product")
    assert log_z == pytest.approx(np.log(pairs), abs=1e-5)
    assert density.sum() * (x[1] - x[0]) == pytest.approx(1.0)
    # A tilt by exp(-x) of a normal law moves its mean by its variance.
    x, density, log_z = compose.named("tilted")
    tilts = np.array([0.3 * np.exp(1 + 0.02), 0.7 * np.exp(-1 + 0.125)])
    assert log_z == pytest.approx(np.log(tilts.sum()), abs=1e-5)
    mean = tilts @ [-1.04, 0.75] / tilts.sum()
    assert density @ x * (x[1] - x[0]) == pytest.approx(mean, abs=1e-5)


def test_numbers_of_particles(example: Callable[[str], ModuleType]) -> None:
    """The spread does not depend on how few particles are effective, and runs are equal."""
    compose = example("compose")
    x = 0.5 * np.random.default_rng(0).normal(size=(40, 100, 64))
    weights = np.zeros((40, 100))
    weights[:, :4] = 0.25
    reads = np.full((40, 100), 3)
    reads[:, 0] = 8
    found = compose.numbers(x, weights, reads)
    np.testing.assert_allclose(found["spread"][0], 0.5, rtol=0.02)
    np.testing.assert_allclose([found["three"], found["eight"]], [[0.75, 0.0], [0.25, 0.0]])


def test_the_exact_posterior(example: Callable[[str], ModuleType]) -> None:
    """Its density is prior times likelihood, up to one factor, and its samples have its mean."""
    posterior = example("posterior")
    law, a, y = posterior.prior(2), posterior.operator(2), jnp.array([0.4])
    means, covariances, weights = (np.asarray(part) for part in posterior.posterior(law, a, y))
    points = np.array([[0.0, 0.5], [1.0, -0.4], [-1.0, 1.4], [0.3, 0.3]])
    density = sum(
        w * stats.multivariate_normal(m, c).pdf(points) for m, c, w in zip(means, covariances, weights, strict=True)
    )
    wanted = np.exp(jax.vmap(law.log_prob)(jnp.asarray(points, jnp.float32)))
    wanted = wanted * stats.norm.pdf(points.sum(axis=1) / np.sqrt(2), float(y[0]), posterior.NOISE)
    np.testing.assert_allclose(density / wanted, (density / wanted)[0], rtol=1e-3)
    x = np.asarray(posterior.exact_samples(law, a, y, jr.key(0), 40_000))
    error = x.std(axis=0) / 200
    assert np.all(abs(x.mean(axis=0) - weights @ means) < 4 * error)


def test_the_rewards_are_the_measurements_at_t0(example: Callable[[str], ModuleType]) -> None:
    posterior = example("posterior")
    law, x, y = posterior.prior(2), jnp.array([0.3, 0.5]), jnp.array([0.2])
    of = [posterior.tilted(law, reward).bind(args=y).reward for reward in posterior.REWARDS]
    early, late = ([float(reward(jnp.asarray(t), x)) for reward in of] for t in (0.5, posterior.SDE.t0))
    likelihood = -0.5 * float((0.8 / np.sqrt(2) - 0.2) ** 2) / posterior.NOISE**2
    np.testing.assert_allclose(late, likelihood, rtol=0.02)
    assert abs(early[0] / early[1]) < 0.5


def test_the_deviation_of_a_residual(example: Callable[[str], ModuleType]) -> None:
    """None for the exact potential; of a planted one, that of a closed form."""
    weights = example("weights")
    law = sfp.GaussianMixture(jnp.zeros((1, 2)), jnp.ones(1), jnp.ones(1))
    x = law.sample(jr.key(0), 512)
    exact = law.score(weights.SDE)
    # VP keeps the standard normal law, and c x₁ adds the residual c x₁ (∂_t + x/2 ⋅ ∇ ...) of size c β(t) / 2.
    planted = sfp.Potential(lambda t, x: exact.potential(t, x) + 0.1 * x[0], weights.SDE, (2,))
    assert weights.spread(exact, x, 16) < 1e-4
    t = np.linspace(weights.SDE.t0, weights.SDE.t1, 2001)
    g2 = np.asarray(jax.vmap(weights.SDE.g2)(jnp.asarray(t)))
    assert weights.spread(planted, x, 64) == pytest.approx(0.05 * np.trapezoid(g2, t), rel=0.1)


@pytest.mark.parametrize("name", ["compose", "inpainting", "posterior", "weighted_laws", "weights"])
def test_the_table_says_what_the_cells_say(
    example: Callable[[str], ModuleType], root: Path, tmp_path: Path, name: str
) -> None:
    assert remade(example(name), root, tmp_path)
