"""Optimal transport of samples [G2] against closed forms, brute force, duality and the spread over repeats."""

import itertools
import math
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.refusals import refused
from scipy.spatial.distance import cdist
from scipy.stats import norm

import scorefp as sfp
from scorefp.transport import (
    AbstractTransport,
    Assignment,
    Atoms,
    ExactTransport,
    Histogram,
    Quantile,
    Sinkhorn,
    wasserstein2,
)

pytestmark = pytest.mark.usefixtures("x64")

METHODS = [Quantile(), Assignment(), ExactTransport()]
EXACT = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)


def normals(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def cost(x: Any, y: Any, method: AbstractTransport | None = None) -> float:
    return float(wasserstein2(x, y, method=method).value)


# --------------------------------------------------------------------------------------------------------- closed forms


@EXACT
def test_translation_costs_its_square(method: AbstractTransport) -> None:
    size = 1 if isinstance(method, Quantile) else 3
    x, shift = normals(0, 40, size), np.array([0.3, -2.0, 0.7])[:size]
    moved = np.random.default_rng(1).permutation(x + shift)
    assert cost(x, moved, method) == pytest.approx(float(shift @ shift), rel=1e-12)


@EXACT
def test_gradient_of_a_convex_function_is_optimal(method: AbstractTransport) -> None:
    """Brenier: x -> A x + b with A symmetric and positive moves every set of points at the least cost."""
    size = 1 if isinstance(method, Quantile) else 2
    matrix, x = np.array([[1.5, 0.4], [0.4, 0.6]])[:size, :size], normals(2, 60, size)
    y = x @ matrix + 0.2
    assert cost(x, y[::-1], method) == pytest.approx(np.mean(np.sum((x - y) ** 2, axis=1)), rel=1e-12)
    # A rotation is no such gradient: the points themselves are not where they go.
    if size == 2:
        turned = x @ np.array([[0.0, 1.0], [-1.0, 0.0]])
        assert cost(x, turned, method) < 0.5 * np.mean(np.sum((x - turned) ** 2, axis=1))


def test_normal_laws_on_the_line() -> None:
    """W2² = (m - m')² + (s - s')², from quantiles, which have no sampling noise."""
    levels = (np.arange(200_000) + 0.5) / 200_000
    x, y = norm.ppf(levels, 0.3, 0.5), norm.ppf(levels[::4], -0.4, 1.1)
    assert cost(x, y) == pytest.approx(0.7**2 + 0.6**2, rel=1e-3)
    assert cost(x[:, None], y[:, None]) == cost(x, y)


def test_normal_laws_in_the_plane() -> None:
    """Gelbrich's formula for commuting covariances, within the error that comes with the number."""
    scales, shift = np.array([0.5, 1.5]), np.array([2.0, -1.0])
    found = wasserstein2(normals(3, 600, 2), scales * normals(4, 600, 2) + shift)
    want = float(shift @ shift + np.sum((1 - scales) ** 2))
    assert float(found.error) < 0.05 * want
    assert abs(float(found.value) - want) < 4 * float(found.error)


# -------------------------------------------------------------------------------------------------- methods and duality


def atoms(seed: int, count: int, size: int, *, weighted: bool = False) -> Atoms:
    generator = np.random.default_rng(seed)
    weights = generator.dirichlet(np.ones(count)) if weighted else None
    return Atoms(generator.normal(size=(count, size)), weights, count)


CASES = {
    "line": (Quantile(), atoms(0, 30, 1), atoms(1, 47, 1)),
    "line, weights": (Quantile(), atoms(2, 30, 1, weighted=True), atoms(3, 17, 1, weighted=True)),
    "line, assignment": (Assignment(), atoms(4, 30, 1), atoms(5, 30, 1)),
    "space": (Assignment(), atoms(6, 50, 3), atoms(7, 50, 3)),
    "space, weights": (ExactTransport(), atoms(8, 30, 3, weighted=True), atoms(9, 40, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_potentials_prove_the_cost_optimal(name: str) -> None:
    """Weak duality: no transport is cheaper than E f + E g where f + g nowhere exceeds the squared distance."""
    method, start, end = CASES[name]
    found = method(start, end)
    slack = cdist(start.points, end.points, "sqeuclidean") - found.start[:, None] - found.end
    assert slack.min() > -1e-12
    dual = start.probabilities @ found.start + end.probabilities @ found.end
    assert dual == pytest.approx(found.cost, rel=1e-12)
    assert ExactTransport()(start, end).cost == pytest.approx(found.cost, rel=1e-10)


def test_assignment_is_the_best_of_all() -> None:
    x, y = normals(0, 6, 2), normals(1, 6, 2)
    best = min(np.mean(np.sum((x - y[list(order)]) ** 2, axis=1)) for order in itertools.permutations(range(6)))
    assert cost(x, y, Assignment()) == pytest.approx(best, rel=1e-12)


def test_symmetric_and_zero_for_equal_sets() -> None:
    for x, y in ((normals(0, 30), normals(1, 47)), (normals(0, 30, 2), normals(1, 30, 2))):
        assert cost(x, y) == pytest.approx(cost(y, x), rel=1e-12)
        same = wasserstein2(x, x[::-1])
        assert float(same.value) == 0
        assert float(same.error) < 1e-8
        assert cost(x, y) > 1e-3


def test_sinkhorn_tends_to_the_exact_cost() -> None:
    x, y = normals(0, 40, 2), normals(1, 40, 2) + np.array([1.0, 0.0])
    exact = wasserstein2(x, y)
    found = [wasserstein2(x, y, method=Sinkhorn(epsilon)) for epsilon in (0.5, 0.1, 0.02)]
    gaps = [abs(float(f.value - exact.value)) for f in found]
    assert gaps[2] < 0.5 * gaps[1] < 0.25 * gaps[0]
    assert gaps[2] < 0.02 * float(exact.value)
    assert float(found[2].error) == pytest.approx(float(exact.error), rel=0.1)
    assert abs(cost(x, x, Sinkhorn(0.02))) < 1e-4
    with pytest.raises(RuntimeError, match="max_iterations = 20 did not bring"):
        wasserstein2(x, y, method=Sinkhorn(0.02, max_iterations=20))


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("shape", [(100,), (60, 2)], ids=str)
def test_error_is_the_spread_over_repeats(shape: tuple[int, ...]) -> None:
    found = [wasserstein2(normals(2 * i, *shape), 1.4 * normals(2 * i + 1, *shape) + 0.7) for i in range(300)]
    spread = np.std([float(f.value) for f in found])
    assert np.sqrt(np.mean([float(f.error) ** 2 for f in found])) == pytest.approx(spread, rel=0.15)


def test_bootstrap_agrees_with_the_potentials() -> None:
    for shape in ((300,), (100, 2)):
        x, y = normals(0, *shape), 1.4 * normals(1, *shape) + 0.7
        first, second = (wasserstein2(x, y, resamples=100, key=jr.key(seed)) for seed in (0, 1))
        assert first.value == second.value == wasserstein2(x, y).value
        assert float(first.error) == pytest.approx(float(wasserstein2(x, y).error), rel=0.25)
        assert first.error != second.error
        assert first.error == wasserstein2(x, y, resamples=100, key=jr.key(0)).error


def test_error_of_equal_laws_is_too_large_and_not_too_small() -> None:
    found = [wasserstein2(normals(2 * i, 60, 2), normals(2 * i + 1, 60, 2)) for i in range(100)]
    spread = np.std([float(f.value) for f in found])
    assert spread < np.mean([float(f.error) for f in found]) < 2 * spread


# ----------------------------------------------------------------------------------------------------------- histograms


def box(size: int, half: float = 3.5) -> sfp.Box:
    return sfp.Box(jnp.full(size, -half), jnp.full(size, half))


def test_histogram_rounds_to_the_nearest_node() -> None:
    """The convention of the paper's code: 64 nodes on a side from -3.5 to 3.5, each sample to the nearest."""
    nodes = np.linspace(-3.5, 3.5, 64)
    x = 2 * normals(0, 500, 2)
    found = Histogram.of(x, box(2, 3.5 + 3.5 / 63))
    np.testing.assert_allclose(found.centres[:, 0, 0], nodes, rtol=1e-6)
    np.testing.assert_allclose(found.centres[0, :, 1], nodes, rtol=1e-6)
    want = np.zeros((64, 64))
    near = np.argmin(np.abs(x[..., None] - nodes), axis=-1)
    np.add.at(want, tuple(near.T), 1 / 500)
    np.testing.assert_allclose(found.weights, want, atol=1e-15)
    assert found.count == 500
    outside = np.any(np.abs(x) > 3.5 + 3.5 / 63, axis=1).mean()
    assert found.outside == pytest.approx(outside)
    assert outside > 0.05


def test_histograms_move_by_whole_cells() -> None:
    fine, x = box(2), 0.3 * normals(0, 2000, 2)
    width = 7 / 64
    still, moved = Histogram.of(x, fine), Histogram.of(x + np.array([2 * width, -width]), fine)
    assert cost(still, moved) == pytest.approx(5 * width**2, rel=1e-9)
    # On the line the method is Quantile. A shift by a tenth of a cell moves a tenth of the mass by one cell.
    line = sfp.Box(jnp.array(-3.5), jnp.array(3.5))
    even = norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    still, moved = Histogram.of(even, line), Histogram.of(even + width / 10, line)
    assert cost(still, moved) == pytest.approx(width**2 / 10, rel=0.05)


def test_error_of_histograms_is_the_spread_over_repeats() -> None:
    """Of a histogram and a law that is known and not counted."""
    generator = np.random.default_rng(0)
    law, other = (generator.dirichlet(np.ones(6)).reshape(2, 3) for _ in range(2))
    known = Histogram(box(2), other)
    found = [
        wasserstein2(Histogram(box(2), generator.multinomial(400, law.ravel()).reshape(2, 3), 400), known)
        for _ in range(300)
    ]
    spread = np.std([float(f.value) for f in found])
    assert np.sqrt(np.mean([float(f.error) ** 2 for f in found])) == pytest.approx(spread, rel=0.15)
    counted = Histogram(box(2), law, 400)
    bootstrap = wasserstein2(counted, known, resamples=200, key=jr.key(0))
    assert float(bootstrap.error) == pytest.approx(spread, rel=0.25)
    assert float(wasserstein2(known, known).error) == 0


# ----------------------------------------------------------------------------------------------------------- bad input

X, Y = np.ones((5, 2)), np.zeros((6, 2))
BAD: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "event shapes": (
        ValueError,
        r"a sample of y has shape \(3,\), but a sample of x has shape \(2,\)",
        lambda: wasserstein2(X, np.ones((5, 3))),
    ),
    "integers": (TypeError, "x has dtype int", lambda: wasserstein2(np.ones((5, 2), int), X)),
    "NaN": (ValueError, "y holds NaN", lambda: wasserstein2(X, X * np.nan)),
    "no samples": (ValueError, r"x has shape \(0, 2\)", lambda: wasserstein2(np.ones((0, 2)), X)),
    "unequal numbers": (ValueError, "x has 5 samples and y has 6", lambda: wasserstein2(X, Y, method=Assignment())),
    "two elements": (ValueError, "a sample has 2 elements", lambda: wasserstein2(X, Y, method=Quantile())),
    "mixed": (TypeError, "one of x and y is a Histogram", lambda: wasserstein2(X, Histogram(box(2), np.eye(4)))),
    "one resample": (ValueError, "resamples = 1", lambda: wasserstein2(X, X, resamples=1)),
    "no key": (ValueError, "key is None, but the bootstrap", lambda: wasserstein2(X, X, resamples=5)),
    "epsilon": (ValueError, "epsilon = 0.0", lambda: Sinkhorn(0.0)),
    "too few pivots": (
        RuntimeError,
        "within max_iterations = 1",
        lambda: wasserstein2(normals(0, 40, 2), normals(1, 40, 2), method=ExactTransport(1)),
    ),
    "axes": (ValueError, "weights has 1 axes and a sample of the box 2", lambda: Histogram(box(2), np.ones(4))),
    "negative": (ValueError, "weights holds negative", lambda: Histogram(box(1), np.array([1.0, -0.1]))),
    "empty": (ValueError, "or only zeros", lambda: Histogram(box(1), np.zeros(3))),
    "bins": (ValueError, "bins = 0", lambda: Histogram.of(X, box(2), bins=0)),
    "box": (ValueError, "but the box has shape", lambda: Histogram.of(X, box(3))),
    "half precision": (TypeError, "y has dtype float16", lambda: wasserstein2(X, X.astype(np.float16))),
    "complex": (TypeError, "y has dtype complex128", lambda: wasserstein2(X, X.astype(complex))),
    "no array": (TypeError, "y is a NoneType; it is an array", lambda: wasserstein2(X, None)),
    "which sample": (ValueError, "in 1 of 5 samples, the first sample 3", lambda: wasserstein2(X, holed(X))),
    "infinite": (ValueError, "y holds NaN or infinite", lambda: wasserstein2(X, np.full((5, 2), np.inf))),
    "traced": (TypeError, "x is traced, .* outside jit", lambda: jax.jit(lambda x: wasserstein2(x, X).value)(X)),
    "mapped": (TypeError, "y is traced", lambda: jax.vmap(lambda y: wasserstein2(X, y).value)(X[None])),
    "method": (TypeError, "method is 'exact'", lambda: wasserstein2(X, X, method="exact")),
    "class": (TypeError, "method is the class Quantile", lambda: wasserstein2(X, X, method=Quantile)),
    "half a resample": (TypeError, r"resamples = 2\.5; it is a count", lambda: wasserstein2(X, X, resamples=2.5)),
    "seed": (TypeError, "key is 0", lambda: wasserstein2(X, X, resamples=2, key=0)),
    "NaN epsilon": (ValueError, "epsilon = nan; it is a finite number", lambda: Sinkhorn(np.nan)),
    "infinite epsilon": (ValueError, "epsilon = inf", lambda: Sinkhorn(np.inf)),
    "word": (TypeError, "threshold is 'low'", lambda: Sinkhorn(0.1, "low")),
    "half an iteration": (TypeError, r"max_iterations = 2\.5", lambda: Sinkhorn(max_iterations=2.5)),
    "no iteration": (ValueError, "max_iterations = 0", lambda: ExactTransport(0)),
    "box of ends": (TypeError, "box is a tuple", lambda: Histogram((0, 1), np.ones(2))),
    "complex weights": (TypeError, "weights has dtype complex128", lambda: Histogram(box(1), np.ones(3, complex))),
    "words as weights": (TypeError, "weights has dtype <U1", lambda: Histogram(box(1), "a")),
    "NaN weights": (ValueError, "weights holds negative, NaN", lambda: Histogram(box(1), np.full(3, np.nan))),
    "count": (ValueError, "count = 0", lambda: Histogram(box(1), np.ones(3), 0)),
    "half a count": (TypeError, r"count = 2\.5", lambda: Histogram(box(1), np.ones(3), 2.5)),
    "outside": (ValueError, "outside = nan; it is a share", lambda: Histogram(box(1), np.ones(3), 3, np.nan)),
    "half a bin": (TypeError, r"bins = 2\.5", lambda: Histogram.of(X, box(2), bins=2.5)),
    "four elements": (
        ValueError,
        "has 4 elements; a histogram takes at",
        lambda: Histogram.of(np.ones((5, 4)), box(4)),
    ),
    "NaN in a histogram": (ValueError, "x holds NaN", lambda: Histogram.of(holed(X), box(2))),
    "flat atoms": (ValueError, r"points is an array float64\[5\]", lambda: Atoms(X[:, 0], None, None)),
    "no atoms": (ValueError, r"points is an array float64\[0, 2\]", lambda: Atoms(X[:0], None, None)),
    "NaN atoms": (ValueError, "points holds NaN", lambda: Atoms(holed(X), None, None)),
    "list of atoms": (TypeError, "points is a list", lambda: Atoms([[1.0]], None, None)),
    "sum": (ValueError, r"weights lie from 1\.0 to 1\.0 and sum to 5\.0", lambda: Atoms(X, np.ones(5), None)),
    "negative weight": (ValueError, r"lie from -0\.5", lambda: Atoms(X, np.array([1.5, -0.5, 0, 0, 0]), None)),
    "too few weights": (ValueError, "one probability for each of 5", lambda: Atoms(X, np.full(4, 0.25), None)),
    "no sample": (ValueError, "count = 0", lambda: Atoms(X, None, 0)),
}


def holed(x: np.ndarray) -> np.ndarray:
    """The same with NaN in the sample 3."""
    y = x.copy()
    y[3, 1] = np.nan
    return y


@pytest.mark.parametrize("method", [*METHODS, Sinkhorn()], ids=lambda m: type(m).__name__)
@pytest.mark.usefixtures("unchecked")
def test_laws_of_other_sizes(method: AbstractTransport) -> None:
    first, second = Atoms(X, None, 5), Atoms(np.ones((5, 3)), None, 5)
    refused("a point of start has 2 elements, one of end 3", method, first, second)
    refused("end is an array", method, first, X, error=TypeError)


def test_samples_keep_their_digits() -> None:
    """Of the host, where the device has 32 bits: a small move far from zero."""
    x = 1e6 + normals(0, 50, 2)
    with jax.enable_x64(False):
        assert float(wasserstein2(x, x + 1e-3).value) == pytest.approx(2e-6, rel=1e-3)


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, unchecked: None) -> None:
    kind, message, call = BAD[name]
    refused(message, call, error=kind)


@pytest.mark.parametrize(("missing", "method"), [("ot", ExactTransport()), ("ott.tools", Sinkhorn())], ids=str)
def test_missing_extra(missing: str, method: AbstractTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "ott.tools.sinkhorn_divergence", raising=False)
    refused(r"pip install 'scorefp\[ot\]'", wasserstein2, X, Y, method=method, error=ImportError)


def test_value_is_a_scalar_of_the_precision_that_is_on() -> None:
    assert wasserstein2(X, X).value.dtype == jnp.float64
    with jax.enable_x64(False):
        found = wasserstein2(X, X + math.pi)
    assert found.value.dtype == jnp.float32
