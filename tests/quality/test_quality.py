"""Distances of features against closed forms and other libraries; their biases and their errors."""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import ot
import pytest
from helpers.refusals import refused
from scipy.linalg import sqrtm
from scipy.stats import ortho_group
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel
from sklearn.neighbors import NearestNeighbors

import scorefp as sfp
from scorefp.diagnostics import SampleQuality
from scorefp.quality import (
    FrechetDistance,
    GaussianKernel,
    Moments,
    PolynomialKernel,
    _pairs,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from scorefp.sampling import AbstractSampler

pytestmark = pytest.mark.usefixtures("x64")


def normals(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def covariance(seed: int, size: int) -> np.ndarray:
    turn = ortho_group.rvs(size, random_state=seed)
    return turn * np.linspace(0.2, 2.0, size) @ turn.T


def about(found: Any, want: float, errors: float = 4.0) -> bool:
    return abs(float(found.value) - want) < errors * float(found.error)


# ---------------------------------------------------------------------------------------------------- Fréchet distance


def test_frechet_of_normal_laws() -> None:
    """Commuting covariances by their deviations, others by POT and by the root of a product."""
    m, n, deviations = normals(0, 4), normals(1, 4), np.array([[0.5, 1.0, 2.0, 3.0], [1.0, 1.0, 1.0, 0.1]])
    turn = ortho_group.rvs(4, random_state=3)
    laws = [Moments(mean, turn * d**2 @ turn.T, 9) for mean, d in zip((m, n), deviations, strict=True)]
    want = np.sum((m - n) ** 2) + np.sum((deviations[0] - deviations[1]) ** 2)
    found = frechet_distance(*laws)
    assert float(found.plug_in.value) == pytest.approx(want, rel=1e-12)
    assert float(found.plug_in.error) == 0
    assert found.bias == 0
    for seed in range(5):
        a, b = covariance(seed, 6), covariance(seed + 10, 6)
        x, y = normals(seed, 6), normals(seed + 1, 6)
        value = float(frechet_distance(Moments(x, a, 9), Moments(y, b, 9)).plug_in.value)
        assert value == pytest.approx(float(ot.gaussian.bures_wasserstein_distance(x, y, a, b)) ** 2, rel=1e-8)
        root = np.asarray(sqrtm(a @ b))
        assert value == pytest.approx(np.sum((x - y) ** 2) + np.trace(a + b - 2 * root.real), rel=1e-10)


def test_frechet_of_samples_is_that_of_their_moments() -> None:
    x, y = normals(0, 300, 5), normals(1, 200, 5) @ covariance(2, 5) + 0.3
    want = frechet_distance(Moments(x.mean(0), np.cov(x.T), 300), Moments(y.mean(0), np.cov(y.T), 200))
    found = frechet_distance(x, y)
    assert float(found.plug_in.value) == pytest.approx(float(want.plug_in.value), rel=1e-12)
    swapped = frechet_distance(y, x)
    for name in ("plug_in", "extrapolated"):
        a, b = getattr(found, name), getattr(swapped, name)
        assert float(a.value) == pytest.approx(float(b.value), rel=1e-10)
        assert float(a.error) == pytest.approx(float(b.error), rel=1e-10)


def test_frechet_of_singular_covariances() -> None:
    """Laws on two lines of the plane: x along one, y along the other, of deviations 2 and 3 and an angle of 60°."""
    lines = np.array([[1.0, 0.0], [0.5, math.sqrt(0.75)]])
    a, b = (Moments(np.zeros(2), s**2 * np.outer(u, u), 9) for s, u in zip((2.0, 3.0), lines, strict=True))
    assert float(frechet_distance(a, b).plug_in.value) == pytest.approx(4 + 9 - 2 * 6 * 0.5, rel=1e-12)
    assert float(frechet_distance(a, a).plug_in.value) == pytest.approx(0, abs=1e-12)
    zero = Moments(np.zeros(2), np.zeros((2, 2)), 9)
    assert float(frechet_distance(zero, b).plug_in.value) == pytest.approx(9, rel=1e-12)
    # Fewer samples than features: the value is that of the covariances, and it is said.
    x, y = normals(0, 12, 30), normals(1, 20, 30)
    with pytest.warns(UserWarning, match="12 samples and 20 data for 30 features: a covariance is singular"):
        found = frechet_distance(x, y)
    root = np.linalg.svd(_root(x).T @ _root(y), compute_uv=False).sum()
    want = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(np.cov(x.T)) + np.trace(np.cov(y.T)) - 2 * root
    assert float(found.plug_in.value) == pytest.approx(want, rel=1e-9)


def _root(x: np.ndarray) -> np.ndarray:
    """A matrix whose product with itself transposed is the covariance."""
    return ((x - x.mean(0)) / math.sqrt(len(x) - 1)).T


@pytest.fixture(scope="module")
def repeated() -> dict[str, tuple[float, list[FrechetDistance]]]:
    """Many pairs of sets, of one law and of two, with the distance of the laws."""
    found = dict[str, tuple[float, list[FrechetDistance]]]()
    for name, scale, shift in (("same", 1.0, 0.0), ("others", 0.8, 0.3)):
        pairs = [
            frechet_distance(scale * normals(2 * i, 150, 6) + shift, normals(2 * i + 1, 250, 6)) for i in range(100)
        ]
        found[name] = 6 * ((1 - scale) ** 2 + shift**2), pairs
    return found


@pytest.mark.parametrize("law", ["same", "others"])
def test_frechet_bias_and_error(law: str, repeated: dict[str, tuple[float, list[FrechetDistance]]]) -> None:
    """The plug-in is too large, the extrapolated value right in the mean, and their spread is what the error says."""
    want, pairs = repeated[law]
    plug_in, extrapolated = (
        np.array([float(getattr(found, name).value) for found in pairs]) for name in ("plug_in", "extrapolated")
    )
    error = math.sqrt(np.mean([float(found.extrapolated.error) ** 2 for found in pairs]))
    spread = np.std(extrapolated, ddof=1)
    assert plug_in.mean() - want > 5 * spread / math.sqrt(len(pairs))
    assert abs(extrapolated.mean() - want) < 3 * spread / math.sqrt(len(pairs))
    assert (0.85 if law == "others" else 1) * spread < error < (1.25 if law == "others" else 2) * spread
    inside = np.mean(abs(extrapolated - want) < 2 * error)
    assert inside > 0.91


def test_frechet_of_one_side() -> None:
    """Moments are those of a law: the bias and the error are those of the other side alone."""
    x, y = normals(0, 400, 4), normals(1, 400, 4) + 0.5
    full, half = frechet_distance(x, y), frechet_distance(x, Moments.of(y))
    assert float(full.plug_in.value) == pytest.approx(float(half.plug_in.value), rel=1e-12)
    assert 0 < half.bias < full.bias
    assert 0 < float(half.plug_in.error) < float(full.plug_in.error)
    assert full.counts == half.counts == (400, 400)
    law = frechet_distance(x, Moments(np.full(4, 0.5), np.eye(4)))
    assert "of 400 samples and a law, 4 features" in str(law)
    assert about(law.extrapolated, 1.0)
    assert law.notes == ()
    assert re.fullmatch(r"plug-in .* ± .* of 400 samples and 400 data, 4 features\nextrapolated .* ± .*", str(full))


def test_bias_is_that_of_first_order() -> None:
    """Of one law it is c (1/n + 1/m): half the samples have twice of it."""
    biases = [
        np.mean([frechet_distance(normals(2 * i, n, 3), normals(2 * i + 1, n, 3)).bias for i in range(40)])
        for n in (100, 200)
    ]
    assert biases[0] / biases[1] == pytest.approx(2, rel=0.1)


# ------------------------------------------------------------------------------------------------------------- moments


def test_moments_add_up() -> None:
    x = 1e6 + normals(0, 1000, 3) * [1.0, 10.0, 0.1]
    parts = [Moments.of(x[:2]), Moments.of(x[2:700]), Moments.of(x[700:])]
    for found in (parts[0] + parts[1] + parts[2], parts[2] + (parts[0] + parts[1]), Moments.of(x, batch_size=7)):
        assert found.count == 1000
        np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-14)
        np.testing.assert_allclose(found.covariance, np.cov(x.T), rtol=1e-9, atol=1e-8)
    # The digits that sums of squares of float32 do not have.
    with jax.enable_x64(False):
        np.testing.assert_allclose(Moments.of(x).covariance, np.cov(x.T), rtol=1e-9, atol=1e-8)


# ----------------------------------------------------------------------------------------------------- kernel distance


def brute(k: Callable[[np.ndarray, np.ndarray], np.ndarray], x: np.ndarray, y: np.ndarray) -> float:
    """Three means, by a kernel of other libraries."""
    n, m = len(x), len(y)
    own = [(k(a, a).sum() - np.trace(k(a, a))) / (len(a) * (len(a) - 1)) for a in (x, y)]
    return own[0] + own[1] - 2 * k(x, y).sum() / (n * m)


KERNELS: dict[str, tuple[Any, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "degree three": (PolynomialKernel(), lambda x, y: polynomial_kernel(x, y, degree=3, coef0=1)),
    "degree one": (PolynomialKernel(1), lambda x, y: polynomial_kernel(x, y, degree=1, coef0=1)),
    "Gaussian": (GaussianKernel(1.5), lambda x, y: rbf_kernel(x, y, gamma=1 / 4.5)),
    "of one's own": (lambda x, y: jnp.exp(-jnp.sum(jnp.abs(x - y))), lambda x, y: _laplace(x, y)),
}


def _laplace(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.exp(-np.abs(x[:, None] - y[None]).sum(-1))


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_distance_is_that_of_all_pairs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, other = KERNELS[name]
    x, y = normals(0, 53, 4), normals(1, 71, 4) + 0.2
    found = kernel_distance(x, y, kernel=kernel)
    assert float(found.value) == pytest.approx(brute(other, x, y), rel=1e-11, abs=1e-14)
    # In small blocks, the last of them not full, and in float32, where the pairs stay in float64.
    monkeypatch.setattr(_pairs, "_ENTRIES", 71 * 9)
    with jax.enable_x64(False):
        blocks = kernel_distance(x, y, kernel=kernel)
    assert float(blocks.value) == pytest.approx(float(found.value), rel=1e-6)
    assert float(blocks.error) == pytest.approx(float(found.error), rel=1e-6)


def test_gaussian_kernel_of_normal_laws() -> None:
    """The closed form: E k(x, y) = det(I + S/w²)^(-1/2) exp(-δᵀ (S + w² I)⁻¹ δ / 2), S the sum of both covariances."""
    width, shift = 1.5, np.array([0.6, -0.3, 0.0])
    a, b = covariance(0, 3), covariance(1, 3)

    def mean(s: np.ndarray, delta: np.ndarray) -> float:
        inner = s + width**2 * np.eye(3)
        return float(np.exp(-delta @ np.linalg.solve(inner, delta) / 2) / np.sqrt(np.linalg.det(inner / width**2)))

    want = mean(2 * a, 0 * shift) + mean(2 * b, 0 * shift) - 2 * mean(a + b, shift)
    x = normals(2, 1500, 3) @ np.linalg.cholesky(a).T
    y = normals(3, 1000, 3) @ np.linalg.cholesky(b).T + shift
    found = kernel_distance(x, y, kernel=GaussianKernel(width))
    assert about(found, want)
    assert float(found.error) < 0.15 * want
    assert not about(kernel_distance(x, y + 0.3, kernel=GaussianKernel(width)), want)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.9, 0.2)])
def test_kernel_distance_has_no_bias_and_its_error(scale: float, shift: float) -> None:
    """Of two laws by their moments, in closed form; of one law, zero."""
    kernel = PolynomialKernel(2)
    pairs = [
        kernel_distance(scale * normals(2 * i, 120, 3) + shift, normals(2 * i + 1, 180, 3), kernel=kernel)
        for i in range(200)
    ]
    values = np.array([float(found.value) for found in pairs])
    spread = np.std(values, ddof=1)
    # |m|² 2/D + |E x xᵀ - E y yᵀ|² / D², as (⟨x, y⟩/D + 1)² has the features 1, √2 x/√D and x xᵀ/D.
    first, second = np.full(3, shift), scale**2 * np.eye(3) + shift**2 - np.eye(3)
    want = 2 / 3 * first @ first + np.sum(second**2) / 9
    assert abs(values.mean() - want) < 3 * spread / math.sqrt(len(pairs))
    error = math.sqrt(np.mean([float(found.error) ** 2 for found in pairs]))
    assert 0.9 * spread < error < (1.2 if shift else 1.5) * spread
    inside = sum(about(found, want, 2) for found in pairs) / len(pairs)
    assert inside > 0.9
    if shift == 0:
        assert 0.3 < np.mean(values < 0) < 0.8


# ------------------------------------------------------------------------------------------------ precision and recall


def by_scikit_learn(x: np.ndarray, y: np.ndarray, k: int) -> dict[str, float]:
    """The definitions, with all distances in memory."""
    radii = [NearestNeighbors(n_neighbors=k + 1).fit(rows).kneighbors(rows)[0][:, k] for rows in (x, y)]
    distances = np.linalg.norm(x[:, None] - y[None], axis=-1)
    in_y, in_x = distances <= radii[1], distances <= radii[0][:, None]
    return {
        "precision": in_y.any(axis=1).mean(),
        "recall": in_x.any(axis=0).mean(),
        "density": in_y.sum() / (k * len(x)),
        "coverage": (distances.min(axis=0) <= radii[1]).mean(),
    }


@pytest.mark.parametrize(("n", "m", "k"), [(90, 61, 3), (40, 128, 7)])
def test_precision_and_recall_are_the_definitions(n: int, m: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And their errors those of leaving out every tenth sample by hand; in blocks too."""
    x, y = 0.8 * normals(0, n, 3) + 100.3, normals(1, m, 3) + 100
    found = precision_recall(x, y, neighbours=k)
    want, part = by_scikit_learn(x, y, k), lambda rows, group: rows[np.arange(len(rows)) % 10 != group]
    left = [
        [by_scikit_learn(part(x, group), y, k) for group in range(10)],
        [by_scikit_learn(x, part(y, group), k) for group in range(10)],
    ]
    for name, value in want.items():
        assert float(getattr(found, name).value) == pytest.approx(value, rel=1e-12)
        error = math.sqrt(sum(9 * np.var([one[name] for one in side]) for side in left))
        assert float(getattr(found, name).error) == pytest.approx(error, rel=1e-9)
    monkeypatch.setattr(_pairs, "_ENTRIES", 23 * m)
    assert str(precision_recall(x, y, neighbours=k)) == str(found)


@pytest.mark.parametrize("values", [2, 17])
def test_points_at_one_distance_are_in_a_ball_together(values: int) -> None:
    """Features of few levels, by integers that do not round; and at any scale."""
    draws = np.random.default_rng(values)
    whole = [np.minimum(draws.integers(0, values, (n, 5)), draws.integers(0, values, (n, 5))) for n in (90, 70)]
    squares = lambda a, b: np.sum((a[:, None] - b[None]) ** 2, axis=-1)
    radii = [np.sort(squares(rows, rows) + 10**6 * np.eye(len(rows), dtype=int), axis=1)[:, 3] for rows in whole]
    cross = squares(*whole)
    held, among = cross <= radii[1], cross <= radii[0][:, None]
    for scale in (1 / 3, 1e20, 1e-20):
        x, y = (np.asarray(rows * np.float32(scale), np.float32) for rows in whole)
        found = precision_recall(x, y, neighbours=4)
        assert float(found.precision.value) == pytest.approx(held.any(axis=1).mean())
        assert float(found.recall.value) == pytest.approx(among.any(axis=0).mean())
        assert float(found.density.value) == pytest.approx(held.sum() / (4 * len(x)))
        assert float(found.coverage.value) == pytest.approx((cross.min(axis=0) <= radii[1]).mean())


def test_density_and_coverage_of_equal_laws() -> None:
    """In the mean 1, and 1 - Π (m - i)/(n + m - i), whatever the continuous law; the errors do not fall short."""
    pairs = [precision_recall(normals(2 * i, 80, 2), normals(2 * i + 1, 60, 2), neighbours=4) for i in range(100)]
    equal = 1 - math.prod((60 - i) / (140 - i) for i in range(1, 5))
    assert pairs[0].coverage_of_equals == pytest.approx(equal)
    for name, want in (("density", 1.0), ("coverage", equal)):
        values = np.array([float(getattr(found, name).value) for found in pairs])
        spread = np.std(values, ddof=1)
        assert abs(values.mean() - want) < 3 * spread / math.sqrt(len(pairs)), name
        error = math.sqrt(np.mean([float(getattr(found, name).error) ** 2 for found in pairs]))
        assert spread < error < 2.2 * spread, name


def test_what_each_share_sees() -> None:
    """Samples of one of two modes have no recall; samples that are too wide no precision."""
    modes = np.where(np.arange(300)[:, None] % 2, 5.0, -5.0) + normals(0, 300, 2)
    one, wide = normals(1, 300, 2) + 5, 10 * normals(2, 300, 2)
    half, spread = precision_recall(one, modes), precision_recall(wide, modes)
    assert float(half.precision.value) > 0.9
    assert about(half.recall, 0.5)
    assert about(half.coverage, 0.5)
    assert float(spread.precision.value) < 0.4
    assert float(spread.recall.value) > 0.9
    # An outlier among the data makes a large ball: precision takes what lies in it, and density hardly.
    far = np.concatenate([modes, [[200.0, 200.0]]])
    fooled, was = (precision_recall(one + 40, data) for data in (far, modes))
    assert float(was.precision.value) == 0
    assert float(fooled.precision.value) > 0.9
    assert float(fooled.density.value) < 0.3


# ------------------------------------------------------------------------------------------ samples and their features


class Doubled(eqx.Module):
    """Features of pictures: sums over rows."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return 2 * x.sum(axis=0)


def test_samples_in_any_form(tmp_path: Path) -> None:
    """An array, one of JAX, one mapped from a file, batches of different sizes, features of one's own: one answer."""
    x, y = normals(0, 60, 2, 3), normals(1, 45, 2, 3)
    np.save(tmp_path / "x.npy", x)

    def in_parts(rows: np.ndarray) -> Iterator[np.ndarray]:
        yield from (rows[:1], rows[1:20], rows[20:43], rows[43:])

    flat = lambda rows: 2 * rows.sum(axis=1)
    for measure in (frechet_distance, kernel_distance, precision_recall):
        want = jax.tree.leaves(measure(flat(x), flat(y)))
        for given in (x, jnp.asarray(x), np.load(tmp_path / "x.npy", mmap_mode="r"), in_parts(x), list(in_parts(x))):
            found = jax.tree.leaves(measure(given, y, features=Doubled(), batch_size=16))
            np.testing.assert_allclose(found, want, rtol=1e-9)
        by_hand = jax.tree.leaves(measure((flat(part) for part in in_parts(x)), flat(y)))
        np.testing.assert_allclose(by_hand, want, rtol=1e-9)


def test_levels_are_taken_at_their_centres() -> None:
    """Those of a data set, and any value at the lower end of its level."""
    draws = np.random.default_rng(0)
    for levels, low, high in ((17, -1.0, 1.0), (10, -0.3, 0.7), (256, 0.0, 1.0)):
        images = sfp.Dataset(draws.integers(0, levels, (40, 3)), sfp.Quantisation(levels, low, high))
        centres = low + (np.asarray(images.values) + 0.5) * (high - low) / levels
        found, want = (str(kernel_distance(x, X3)) for x in (images, centres) for X3 in (normals(1, 30, 3),))
        assert found == want
        for dtype in (np.float32, np.float64):
            edges = np.asarray(low + np.arange(levels) * (high - low) / levels, dtype)
            np.testing.assert_array_equal(images.quantisation.quantise(edges), np.arange(levels))
            np.testing.assert_array_equal(
                images.quantisation.quantise(edges + 0.4 / levels * (high - low)), np.arange(levels)
            )


def test_features_are_compiled_once() -> None:
    traced: list[int] = []

    def features(x: jax.Array) -> jax.Array:
        traced.append(1)
        return x[:2]

    kernel_distance(normals(0, 50, 3), normals(1, 33, 3), features=features, batch_size=16)
    assert sum(traced) == 1


def test_fixed_features_of_the_same_law_agree() -> None:
    """Two-sided: zero within the error for one law, and clearly not for a shifted one."""
    x, y, z = normals(0, 600, 4), normals(1, 500, 4), normals(2, 500, 4) + 0.4
    for distance in (lambda a, b: frechet_distance(a, b).extrapolated, kernel_distance):
        assert about(distance(x, y), 0, 3)
        assert not about(distance(x, z), 0, 5)


# --------------------------------------------------------------------------------------------------------- the measure


class Shifted(AbstractSampler):
    """Samples of the prior, moved; not a number beyond a place."""

    shift: float = 0.0
    end: float = 1e30

    def __call__(self, score: sfp.score.AbstractScore, x1: jax.Array, *, key: jax.Array) -> jax.Array:
        return jnp.where(x1[..., :1] > self.end, jnp.nan, x1 + self.shift)


STANDARD = sfp.Score(lambda t, x: -x, sfp.VP())


def test_measure_of_an_audit() -> None:
    x = jr.normal(jr.key(0), (400, 3))
    same, moved = SampleQuality(method=Shifted()), SampleQuality(method=Shifted(0.5))
    report = sfp.audit(STANDARD, x, key=jr.key(1), measures=(same, moved))
    first, second = report["quality"].numbers, report["quality 2"].numbers
    for name, want in (("frechet_extrapolated", 0.75), ("kernel", None)):
        assert abs(first[name].value) < 1.5 * first[name].half_width
        assert second[name].value > 2.5 * second[name].half_width
        assert want is None or abs(second[name].value - want) < 1.5 * second[name].half_width
    assert first["frechet"].value > first["frechet_extrapolated"].value
    assert "400 samples by Shifted" in str(report)
    assert "of equal laws of continuous features the coverage is" in " ".join(str(report).lower().split())
    again = sfp.audit(STANDARD, x, key=jr.key(1), measures=(same,))
    assert again["quality"].numbers["kernel"] == first["kernel"]


def test_measure_brings_samples_to_levels() -> None:
    """Coarse levels: the samples are at their centres too, where the law of floats is clearly another."""
    levels = sfp.Quantisation(3, -1.5, 1.5)
    x = jr.normal(jr.key(0), (500, 2))
    data = sfp.Dataset(levels.quantise(x), levels)
    measure = SampleQuality(method=Shifted(), features=lambda x: x**2)
    found = measure(STANDARD, data, key=jr.key(1)).numbers["kernel"]
    assert abs(found.value) < 1.5 * found.half_width
    floats = measure(STANDARD, x, key=jr.key(1)).numbers["frechet"].value
    assert floats > 0
    stored = kernel_distance(np.asarray(x), np.asarray(levels.dequantise(data.values, jnp.full((500, 2), 0.5))))
    assert not about(stored, 0, 2)
    outside = levels.quantise(jnp.array([-9.0, -1.5, -0.4, 0.51, 1.5, 9.0]))
    assert outside.tolist() == [0, 0, 1, 2, 2, 2]


def test_measure_leaves_out_failed_samples() -> None:
    x = jr.normal(jr.key(0), (300, 2))
    section = SampleQuality(method=Shifted(end=1.0))(STANDARD, x, key=jr.key(1))
    assert section.numbers["failed"].value == pytest.approx(0.16, abs=0.08)
    assert any("without these" in note for note in section.notes)
    assert np.isfinite(section.numbers["kernel"].value)
    none = SampleQuality(method=Shifted(end=-1e30))(STANDARD, x, key=jr.key(1))
    assert list(none.numbers) == ["failed"]
    assert none.numbers["failed"].value == 1
    assert "x has 0 samples" in none.notes[-1]
    few = SampleQuality(samples=12, method=Shifted())(STANDARD, jr.normal(jr.key(2), (50, 20)), key=jr.key(1))
    assert any("covariance is singular" in note for note in few.notes)


# ----------------------------------------------------------------------------------------------------------- bad input

X = normals(0, 20, 2)


def holed(x: np.ndarray) -> np.ndarray:
    y = x.copy()
    y[13, 1] = np.nan
    return y


BAD: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "sizes": (ValueError, "x has 2 features, one of data 3", lambda: frechet_distance(X, normals(0, 20, 3))),
    "sizes of pairs": (ValueError, "x has 2 features, one of data 3", lambda: kernel_distance(X, normals(0, 20, 3))),
    "NaN": (ValueError, "data holds NaN .* the first sample 13", lambda: frechet_distance(X, holed(X), batch_size=4)),
    "one sample": (ValueError, "x has 1 samples; at least 4", lambda: kernel_distance(X[:1], X)),
    "few": (ValueError, "data has 9 samples; at least 10", lambda: frechet_distance(X, X[:9])),
    "none": (ValueError, "x has 0 samples", lambda: kernel_distance(iter(()), X)),
    "neighbours": (
        ValueError,
        "neighbours = 18, and x has 20 samples.*at most 17",
        lambda: precision_recall(X, X, neighbours=18),
    ),
    "no neighbour": (ValueError, "neighbours = 0", lambda: precision_recall(X, X, neighbours=0)),
    "integers": (TypeError, "x has dtype int64", lambda: kernel_distance(np.ones((20, 2), int), X)),
    "a number": (TypeError, "data is 3. It is an array of samples, or an iterable", lambda: kernel_distance(X, 3)),
    "traced": (TypeError, "call it outside of jit", lambda: jax.jit(lambda x: kernel_distance(x, X).value)(X)),
    "traced constants": (
        TypeError,
        "call it outside of jit",
        lambda: jax.jit(lambda z: z + kernel_distance(X, X).value)(1.0),
    ),
    "a loader of torch": (TypeError, "x gives a list in the place of a batch", lambda: kernel_distance([[X]], X)),
    "single samples": (ValueError, "data gives an array of shape", lambda: kernel_distance(X, list(X))),
    "indefinite": (
        ValueError,
        "covariance has the eigenvalue -1",
        lambda: frechet_distance(Moments.of(X), Moments(np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]]), 9)),
    ),
    "batches": (
        ValueError,
        r"a sample of x has shape \(3,\), but the first one has shape \(2,\)",
        lambda: kernel_distance(iter((X, normals(0, 4, 3))), X),
    ),
    "features": (TypeError, "features is 'pixels'", lambda: kernel_distance(X, X, features="pixels")),
    "features not finite": (
        ValueError,
        "features gives NaN or infinite entries for .* samples of x, the first sample",
        lambda: kernel_distance(X, X, features=jnp.log),
    ),
    "integer features": (
        TypeError,
        "the value of features has dtype int",
        lambda: kernel_distance(X, X, features=lambda x: x.astype(int)),
    ),
    "batch": (ValueError, "batch_size = 0", lambda: kernel_distance(X, X, batch_size=0)),
    "kernel": (TypeError, "kernel is 'rbf'", lambda: kernel_distance(X, X, kernel="rbf")),
    "kernel of one": (TypeError, "kernel takes", lambda: kernel_distance(X, X, kernel=lambda x: x[0])),
    "kernel of rows": (
        ValueError,
        r"kernel has shape \(2,\)",
        lambda: kernel_distance(X, X, kernel=lambda x, y: x * y),
    ),
    "kernel not finite": (
        ValueError,
        "kernel gives NaN or infinite values",
        lambda: kernel_distance(X, X, kernel=lambda x, y: jnp.log(x @ y)),
    ),
    "degree": (ValueError, "degree = 0", lambda: PolynomialKernel(0)),
    "width": (ValueError, "width = 0", lambda: GaussianKernel(0.0)),
    "moments": (ValueError, "covariance has shape", lambda: Moments(np.zeros(2), np.eye(3), 3)),
    "asymmetric": (ValueError, "not symmetric", lambda: Moments(np.zeros(2), np.array([[1.0, 1.0], [0.0, 1.0]]), 3)),
    "count": (ValueError, "count = 0", lambda: Moments(np.zeros(2), np.eye(2), 0)),
    "sum": (ValueError, "one has 2 features, the other 3", lambda: Moments.of(X) + Moments.of(normals(0, 4, 3))),
    "sum with a law": (ValueError, "count is None", lambda: Moments.of(X) + Moments(np.zeros(2), np.eye(2))),
    "half a count": (TypeError, "count = 2.5", lambda: Moments(np.zeros(2), np.eye(2), 2.5)),
    "sum with another": (TypeError, "the other term is 3", lambda: Moments.of(X) + 3),
    "measure": (ValueError, "neighbours = 0", lambda: SampleQuality(neighbours=0)),
    "levels": (ValueError, "x holds NaN", lambda: sfp.Quantisation(4, 0.0, 1.0).quantise(jnp.array(jnp.nan))),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, unchecked: None) -> None:
    kind, message, call = BAD[name]
    refused(message, call, error=kind)
