"""The toy sets: their parameters as printed, and their samples against their densities."""

import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats
from helpers.references import RARE, assert_mean
from helpers.refusals import refused

import scorefp as sfp
from scorefp import densities

pytestmark = pytest.mark.usefixtures("x64")

MIXTURES: list[Callable[[], sfp.GaussianMixture]] = [
    densities.lai_three_modes,
    densities.lai_two_modes,
    densities.eight_modes,
    densities.deveney_mixture,
]


draw = eqx.filter_jit(lambda density, key, n: density.sample(key, n))


def sampled(density: Any, seed: int, n: int) -> np.ndarray:
    return np.asarray(draw(density, jr.key(seed), n))


def cell_shares(density: Callable, edges: np.ndarray) -> np.ndarray:
    """The probability of each cell of a square grid, by Gauss–Legendre quadrature of `exp(log_prob)`."""
    nodes, weights = np.polynomial.legendre.leggauss(6)
    half = 0.5 * np.diff(edges)[:, None]
    points = ((edges[:-1, None] + half) + half * nodes).ravel()
    mass = (half * weights).ravel()
    grid = jnp.asarray(np.stack(np.meshgrid(points, points, indexing="ij"), axis=-1))
    p = jnp.exp(jax.jit(jax.vmap(jax.vmap(density)))(grid)) * mass[:, None] * mass[None, :]
    count = edges.size - 1
    return np.asarray(p).reshape(count, 6, count, 6).sum(axis=(1, 3))


def counted(samples: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.histogram2d(samples[:, 0], samples[:, 1], bins=[edges, edges])[0]


def is_drawn_from(counts: np.ndarray, shares: np.ndarray, total: int) -> bool:
    """Pearson's test at the level of four standard deviations, rare cells and the outside taken together."""
    expected = np.append(shares.ravel(), 1 - shares.sum()) * total
    found = np.append(counts.ravel(), total - counts.sum())
    often = expected >= 10
    if expected[~often].sum() < 10:
        # Too rare to be tested but in this way.
        if found[~often].sum() > 40:
            return False
        expected, found = expected[often], found[often]
    else:
        expected = np.append(expected[often], expected[~often].sum())
        found = np.append(found[often], found[~often].sum())
    statistic = ((found - expected) ** 2 / expected).sum()
    return bool(scipy.stats.chi2.sf(statistic, expected.size - 1) > RARE)


@pytest.mark.parametrize("make", MIXTURES, ids=lambda make: make.__name__)
def test_mixture_moments(make: Callable[[], sfp.GaussianMixture]) -> None:
    mixture = make()
    samples = sampled(mixture, 0, 20_000)
    means, weights = np.asarray(mixture.means), np.asarray(mixture.weights)
    second = np.einsum("k,ki,kj->ij", weights, means, means)
    within = np.einsum("k,kia,ka,kja->ij", weights, mixture.axes, mixture.variances, mixture.axes)
    assert_mean(samples[:, :, None] * samples[:, None, :], second + within, resolution=0.03)
    # The mean by its own scale: it may be zero.
    assert_mean(1 + samples, 1 + weights @ means, resolution=0.06)


def test_parameters_of_the_papers() -> None:
    three = densities.lai_three_modes()
    np.testing.assert_allclose(three.means[:, 0], [-6 / 7, -2 / 7, 4 / 7])
    np.testing.assert_allclose(three.variances[:, 0], [1 / 4900, 1 / 4900, 1 / 49])
    np.testing.assert_allclose(three.weights, [0.3, 0.3, 0.4])
    two = densities.lai_two_modes()
    x = np.array([-4.0, -5.5])
    normal = scipy.stats.multivariate_normal
    want = np.log(0.2 * normal([-5.0, -5.0]).pdf(x) + 0.8 * normal([5.0, 5.0]).pdf(x))
    np.testing.assert_allclose(two.log_prob(jnp.asarray(x)), want, rtol=1e-12)
    eight = densities.eight_modes()
    means = np.asarray(eight.means)
    np.testing.assert_allclose(np.linalg.norm(means, axis=1), 1.0)
    gaps = sorted(np.linalg.norm(a - b) for a, b in itertools.combinations(means, 2))
    np.testing.assert_allclose(gaps[:8], 2 * np.sin(np.pi / 8))
    np.testing.assert_allclose(eight.variances, 0.01)


def test_eight_modes_are_drawn_as_often() -> None:
    eight = densities.eight_modes()
    samples, means = sampled(eight, 1, 8_000), np.asarray(eight.means)
    nearest = np.argmin(np.linalg.norm(samples[:, None] - means, axis=2), axis=1)
    counts = np.bincount(nearest, minlength=8)
    assert scipy.stats.chisquare(counts).pvalue > RARE
    # Half the distance between neighbours is 3.8 standard deviations.
    assert np.linalg.norm(samples - means[nearest], axis=1).max() < 0.6


@pytest.mark.parametrize(
    ("make", "reach"),
    [
        (densities.eight_modes, 1.6),
        (densities.Checkerboard, 5.0),
        (lambda: densities.Checkerboard(side=1.5), 3.75),
        (densities.Circles, 4.0),
    ],
    ids=["eight modes", "checkerboard", "Deveney's checkerboard", "circles"],
)
def test_samples_follow_the_density(make: Callable, reach: float) -> None:
    density, total = make(), 40_000
    edges = np.linspace(-reach, reach, 21)
    shares = cell_shares(density.log_prob, edges)
    np.testing.assert_allclose(shares.sum(), 1.0, atol=1e-3)
    counts = counted(sampled(density, 2, total), edges)
    assert is_drawn_from(counts, shares, total)
    # The control: a law that is a little wider is told apart.
    wider = counted(1.05 * sampled(density, 2, total), edges)
    assert not is_drawn_from(wider, shares, total)


@pytest.mark.quick
def test_checkerboard_support() -> None:
    board = densities.Checkerboard()
    samples = sampled(board, 3, 2_000)
    assert np.abs(samples).max() <= 4
    # Lai's listing: x1 = 2 u, x2 = 2 (v - {0, 2} + floor(u) % 2).
    column, row = np.floor(samples / 2).T
    assert np.all((column + row) % 2 == 0)
    assert len(set(zip(column, row, strict=True))) == 8
    log_prob = jax.jit(jax.vmap(board.log_prob))
    np.testing.assert_allclose(log_prob(jnp.asarray(samples)), -np.log(32))
    outside = jnp.array([[1.0, -1.0], [5.0, 5.0], [-3.0, 3.0]])
    assert np.all(np.isneginf(log_prob(outside)))


@pytest.mark.quick
def test_circles_distances() -> None:
    samples = sampled(densities.Circles(), 4, 10_000)
    distance = np.linalg.norm(samples, axis=1)
    inner = distance < 2.05
    assert_mean(inner.astype(float), 0.5, resolution=0.02)
    assert_mean(distance[inner], 1.3, resolution=0.01)
    assert_mean(distance[~inner], 2.8, resolution=0.01)
    assert_mean((distance[~inner] - 2.8) ** 2, 0.04, resolution=0.05)


def test_swiss_rolls_follow_their_spiral() -> None:
    """Without noise a sample lies on one of five spirals, at an angle that is uniform."""
    samples = sampled(densities.SwissRolls(noise=0.0), 5, 5_000)
    centres = 4.5 * np.array([[0.0, 0.0], [-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    offset = samples[:, None] - centres
    radius, angle = np.linalg.norm(offset, axis=2), np.arctan2(offset[..., 1], offset[..., 0])
    theta = 4 * radius
    on = (np.abs(np.angle(np.exp(1j * (theta - angle)))) < 1e-9) & (theta >= 1.5 * np.pi) & (theta <= 4.5 * np.pi)
    # Two spirals cross in single points, so that almost every sample lies on one alone.
    assert np.all(on.sum(axis=1) == 1)
    assert scipy.stats.chisquare(on.sum(axis=0)).pvalue > RARE
    uniform = scipy.stats.uniform(1.5 * np.pi, 3 * np.pi)
    assert scipy.stats.kstest(theta[on], uniform.cdf).pvalue > RARE


def test_swiss_rolls_noise() -> None:
    rolls = densities.SwissRolls()
    quiet = sampled(densities.SwissRolls(noise=0.0), 6, 5_000)
    # The same key draws the same points of the spirals, so that the difference is the noise.
    noise = sampled(rolls, 6, 5_000) - quiet
    assert_mean(noise**2, jnp.full(2, 0.25**2), resolution=0.03)
    assert scipy.stats.kstest(np.asarray(noise).ravel() / 0.25, "norm").pvalue > RARE


@pytest.mark.parametrize(
    ("place", "energy", "downhill"),
    [
        ((-0.558, 1.442), -146.70, 0),
        ((0.623, 0.028), -108.17, 0),
        ((-0.050, 0.467), -80.77, 0),
        ((-0.822, 0.624), -40.66, 1),
        ((0.212, 0.293), -72.25, 1),
    ],
)
def test_mueller_brown_stationary_points(place: tuple[float, float], energy: float, downhill: int) -> None:
    """The minima and saddles of the literature, to the digits it prints; in between there is a force."""
    surface = densities.MuellerBrown(temperature=15.0)
    slope, bend = jax.jit(jax.grad(surface.energy)), jax.jit(jax.hessian(surface.energy))
    x = jnp.asarray(place)
    for _ in range(4):
        x = x - jnp.linalg.solve(bend(x), slope(x))
    np.testing.assert_allclose(slope(x), 0.0, atol=1e-9)
    np.testing.assert_allclose(x, place, atol=6e-4)
    np.testing.assert_allclose(surface.energy(x), energy, atol=6e-3)
    assert np.sum(np.linalg.eigvalsh(bend(x)) < 0) == downhill
    np.testing.assert_allclose(surface.potential(x), -surface.energy(x) / 15, rtol=1e-12)
    assert np.linalg.norm(slope(x + 0.1)) > 10


def test_bad_parameters() -> None:
    refused(r"temperature = 0\.0; it must be positive", densities.MuellerBrown, temperature=0.0)
    refused(r"side = -1\.0; the side of a square is positive", densities.Checkerboard, side=-1.0)
    refused("cells = 3; a board centred at the origin has a positive even number", densities.Checkerboard, cells=3)
    refused(r"noise = 0\.0; all must be positive", densities.Circles, noise=0.0)
    refused(r"noise = -1\.0; a standard deviation is not negative", densities.SwissRolls, noise=-1.0)
    with pytest.raises(ValueError, match=r"x has shape \(5, 2\), but a point of the plane has shape \(2,\)"):
        densities.Circles().log_prob(jnp.ones((5, 2)))
