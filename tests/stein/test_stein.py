"""The error of a score without the true one: zero where it is exact, the planted size where it is not [N1], [N2]."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats
from helpers.references import mean_is, plane_mixture
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp
from scorefp.diagnostics import Ensemble, ScoreError, SteinTest, log_snr_ends
from scorefp.stein import kernel_stein_discrepancy, score_error_bound
from scorefp.stein._basis import basis_of
from scorefp.stein.bound import driven, lower_bounds
from scorefp.stein.kernel import discrepancy_of, sums_over_pairs

VP = sfp.VP()
SEEDS = 32
N = 400


class Planted(eqx.Module):
    """The exact score with a gradient `a grad psi` and a field `b R grad log q`, without divergence in `q`, added."""

    a: Array
    b: Array
    exact: sfp.densities.MixturePotential

    def __call__(self, t: Array, x: Array) -> Array:
        exact = self.exact(t, x)
        return exact + self.a * gradient(x) + self.b * jnp.stack([-exact[1], exact[0]])


def gradient(x: Array) -> Array:
    """That of `sin(x_1) cos(x_2) + |x|²/4`."""
    s, c = jnp.sin(x), jnp.cos(x)
    return jnp.stack([c[0] * c[1], -s[0] * s[1]]) + 0.5 * x


def planted(a: float, b: float, dtype: Any = None) -> sfp.Score:
    field = Planted(jnp.asarray(a), jnp.asarray(b), plane_mixture().score(VP))
    return sfp.Score(
        jax.tree.map(lambda leaf: leaf.astype(dtype or leaf.dtype) if eqx.is_array(leaf) else leaf, field), VP, (2,)
    )


def planted_in(score: sfp.Score) -> Planted:
    assert isinstance(score.fn, Planted)
    return score.fn


def drawn(score: sfp.Score, key: Array, t: Array, n: int = N) -> tuple[Array, Array]:
    """Samples of `q_t` with their noise."""
    data_key, noise_key = jr.split(key)
    x0 = planted_in(score).exact.mixture.sample(data_key, n)
    noise = jr.normal(noise_key, x0.shape, x0.dtype)
    return VP.diffuse(t, x0, noise), noise


@jax.jit
def bounds(score: sfp.Score, t: Array, with_noise: Array) -> Array:
    """Both bounds and their errors, of many sets of samples: one program for all scores and times."""

    def of(key: Array) -> Array:
        x, noise = drawn(score, key, t)
        s = jax.vmap(lambda x: score(t, x))(x)
        drive, rest = driven(VP, t, s, noise)
        drive, rest = jnp.where(with_noise, drive, s), jnp.where(with_noise, rest, 1)
        found = lower_bounds(
            t, x, drive, rest, jr.key(5), waves=8, features=None, trace=sfp.Exact(), folds=3, batch_size=N
        )
        return jnp.stack([jnp.stack([v.mean(), v.std(ddof=1) / N**0.5]) for v in found])

    return jax.lax.map(of, jr.split(jr.key(3), SEEDS))


@jax.jit
def truth_of(score: sfp.Score, t: Array) -> Array:
    """Mean squares of the gradient and of the whole error, by many samples."""
    x, _ = drawn(score, jr.key(0), t, 20_000)
    e = jax.vmap(lambda x: score(t, x) - planted_in(score).exact(t, x))(x)
    g = planted_in(score).a * jax.vmap(gradient)(x)
    return jnp.stack([jnp.mean(jnp.sum(g**2, axis=1)), jnp.mean(jnp.sum(e**2, axis=1))])


# ----------------------------------------------------------------------------------------------------------- the bound


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("noise", [False, True])
def test_the_bound_of_an_exact_score_is_not_above_zero(noise: bool) -> None:
    found = np.asarray(bounds(planted(0.0, 0.0), jnp.asarray(0.3), jnp.asarray(noise)))
    value, error = found[..., 0], found[..., 1]
    assert (value.mean(axis=0) < 2 * value.std(axis=0, ddof=1) / SEEDS**0.5).all()
    # Near zero, within the errors that it says; and above the interval no more often than it says.
    assert (np.abs(value) < 4 * error).mean() > 0.97
    assert ((value > 1.96 * error).mean(axis=0) <= 0.1).all()
    assert error.mean() < 0.1


def test_more_elements_than_samples() -> None:
    """Where the basis has no entries, nothing of the samples that measure a field is in it."""
    exact = sfp.Score(lambda t, x: -x, VP)

    def of(key: Array) -> Array:
        x = jr.normal(key, (64, 300))
        return score_error_bound(exact, 0.5, x, key=jr.key(5), waves=0).gradient.value

    value = np.asarray(jax.jit(lambda keys: jax.lax.map(of, keys))(jr.split(jr.key(3), 60)))
    assert value.mean() < 2 * value.std(ddof=1) / len(value) ** 0.5
    assert np.median(abs(value)) < 0.1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("a", "b"), [(0.5, 0.0), (0.0, 0.4), (0.5, 0.4)])
def test_the_bound_is_the_planted_error_from_below(a: float, b: float) -> None:
    t = jnp.asarray(0.3)
    score = planted(a, b)
    gradient, whole = np.asarray(truth_of(score, t))
    found = np.asarray(bounds(score, t, jnp.asarray(True)))
    value, error = found[..., 0], found[..., 1]
    of_mean = value.std(axis=0, ddof=1) / SEEDS**0.5
    for i, want in enumerate((gradient, whole)):
        assert value[:, i].mean() < want + 3 * of_mean[i]
        # What the fields cannot do, and what fitting costs.
        assert value[:, i].mean() > 0.5 * want - 0.05 * whole
        # The error is above the lower end of the interval, as often as it says.
        assert (value[:, i] - 1.96 * error[:, i] < want + 1e-12).mean() >= 0.93
        assert 0.5 < error[:, i].mean() / value[:, i].std(ddof=1) < 2
    assert value[:, 1].mean() > 10 * of_mean[1]
    if a == 0:  # a rotation leaves the marginals alone, and the gradient part sees nothing of it
        assert value[:, 0].mean() < 3 * of_mean[0]


@pytest.mark.usefixtures("x64")
def test_the_noise_makes_the_error_small_where_it_dominates() -> None:
    t = jnp.asarray(0.9)
    with_noise, without = (np.asarray(bounds(planted(0.1, 0.0), t, jnp.asarray(flag))) for flag in (True, False))
    want = float(truth_of(planted(0.1, 0.0), t)[0])
    assert with_noise[:, 0, 1].mean() * 10 < without[:, 0, 1].mean()
    assert mean_is(jnp.asarray(with_noise[:, 0, 0]), want, sigmas=6) or abs(with_noise[:, 0, 0].mean() / want - 1) < 0.1
    # Without it an error of a tenth is not seen at all.
    assert np.abs(without[:, 0, 0].mean()) < 3 * without[:, 0, 1].mean()


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_single_precision_sees_the_same() -> None:
    found = list[np.ndarray]()
    x, noise = drawn(planted(0.0, 0.0), jr.key(1), jnp.asarray(0.3))
    for dtype in (jnp.float64, jnp.float32):
        score = planted(0.5, 0.4, dtype)
        options: dict[str, Any] = {"noise": noise.astype(dtype), "waves": 8, "folds": 3, "batch_size": 64}
        bound = score_error_bound(score, 0.3, x.astype(dtype), key=jr.key(2), **options)
        assert bound.whole.value.dtype == dtype
        found.append(np.asarray([bound.gradient.value, bound.whole.value, bound.whole.error]))
    np.testing.assert_allclose(found[0], found[1], rtol=2e-2)


@pytest.mark.usefixtures("x64")
def test_bounds_are_those_of_a_regression_by_numpy() -> None:
    """The same fields by loops over folds and ridges, and normal equations."""
    n, folds = 33, 3
    score = planted(0.5, 0.4)
    x, _ = drawn(score, jr.key(1), jnp.asarray(0.3), n)
    s = jax.jit(jax.vmap(lambda x: score(0.3, x)))(x)
    one = jnp.ones(())
    settings: dict[str, Any] = {"waves": 2, "features": None, "trace": sfp.Exact(), "folds": folds}
    found = lower_bounds(jnp.asarray(0.3), x, s, one, jr.key(5), batch_size=4, **settings)
    key = jax.random.fold_in(jr.key(5), 2**32 - 1)
    basis = basis_of(x, 2, None, key)
    psi, grad, lap = (np.asarray(v) for v in jax.jit(jax.vmap(lambda x: basis(one, x, sfp.Exact(), key)))(x))
    field, eye = np.asarray(s), np.eye(2)
    # Rows of samples and columns of fields: the fields at each sample, and their functionals.
    gradients = grad, (grad @ field[..., None])[..., 0] + lap
    fields = np.einsum("nk,ij->nkij", psi, eye).reshape(n, -1, 2), psi[..., None] * field[:, None] + grad
    for values, (v, c) in zip(found, (gradients, (fields[0], fields[1].reshape(n, -1))), strict=True):
        square = np.einsum("nkd,nkd->k", v, v) / n
        unit = np.where(square > 0, 1 / np.sqrt(np.maximum(square, 1e-300)), 0)
        v, c, fold = v * unit[:, None], c * unit, np.arange(n) % folds

        def fit(rows: np.ndarray, ridge: float, v: np.ndarray = v, c: np.ndarray = c) -> np.ndarray:
            gram = np.einsum("nkd,nld->kl", v[rows], v[rows]) / n
            return np.linalg.solve(gram + ridge * np.eye(len(gram)), c[rows].sum(axis=0) / n)

        def gain(w: np.ndarray, rows: np.ndarray, v: np.ndarray = v, c: np.ndarray = c) -> np.ndarray:
            along = np.tensordot(v[rows], w, (1, 0))
            return 2 * c[rows] @ w - np.sum(along**2, axis=1)

        want = np.zeros(n)
        for held in range(folds):
            others = [f for f in range(folds) if f != held]
            ridges = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e3)
            totals = [
                sum(gain(fit((fold != held) & (fold != f), ridge), fold == f).sum() for f in others) for ridge in ridges
            ]
            want[fold == held] = gain(fit(fold != held, ridges[int(np.argmax(totals))]), fold == held)
        np.testing.assert_allclose(values, want, rtol=1e-6, atol=1e-8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [1, 3])
def test_derivatives_of_the_functions(size: int) -> None:
    """By formulas as by differentiation, which further functions get."""
    x = jr.normal(jr.key(0), (7, size))
    key, one = jr.key(1), jnp.ones(())
    basis = basis_of(x, 3, None, key)
    value = lambda t, x: basis(t, x, sfp.Exact(), key).value
    both = jax.jit(
        lambda x: eqx.tree_at(lambda b: b.further, basis, value, is_leaf=lambda n: n is None)(one, x, sfp.Exact(), key)
    )(x[0])
    for part in both:
        np.testing.assert_allclose(*np.split(np.asarray(part), 2), rtol=1e-10, atol=1e-12)
    assert both.gradient.shape == (2 * (8 + size), size)
    # In the scale of the samples: the entries have unit size.
    entries = (x - basis.centre) / basis.scale
    assert np.mean(np.asarray(entries) ** 2) == pytest.approx(1)
    np.testing.assert_allclose(both.value[8 : 8 + size], basis.scale**0 * entries[0])


def test_features_see_what_waves_do_not() -> None:
    """An error of one sharp wave in ten dimensions, that only a function given by name is made for."""
    size, n = 10, 600
    wave = lambda x: jnp.sin(2 * x[0]) * jnp.cos(3 * x[1])
    score = sfp.Score(lambda t, x: -x + jax.grad(wave)(x), VP)
    x = jr.normal(jr.key(0), (n, size))
    want = float(jnp.mean(jnp.sum(jax.vmap(lambda x: jax.grad(wave)(x))(x) ** 2, axis=1)))
    settings: dict[str, Any] = {"key": jr.key(1), "waves": 1, "folds": 3}
    blind = score_error_bound(score, 0.5, x, **settings).gradient
    named = score_error_bound(score, 0.5, x, features=lambda t, x: wave(x), **settings).gradient
    assert blind.value < 3 * blind.error
    assert abs(named.value - want) < 3 * named.error < 0.6 * want


@pytest.mark.slow
def test_the_features_of_a_network_in_64_dimensions() -> None:
    """A network's own predictions see its error, where waves see little; p-values tell it from the exact score."""
    size, n, t = 64, 1500, jnp.asarray(0.5)
    mlp = sfp.nn.MLP((size,), width=64, depth=1, key=jr.key(0))
    mlp = eqx.tree_at(lambda m: m.leave.weight, mlp, 0.05 * jr.normal(jr.key(1), mlp.leave.weight.shape))
    wrong = lambda t, x: -x + mlp(t, x)
    x = jr.normal(jr.key(2), (n, size))
    want = float(jnp.mean(jnp.sum(jax.vmap(lambda x: mlp(t, x))(x) ** 2, axis=1)))
    settings: dict[str, Any] = {"key": jr.key(3), "waves": 4, "trace": sfp.Hutchinson()}
    found = {
        name: score_error_bound(sfp.Score(fn, VP), t, x, features=mlp, **settings)
        for name, fn in (("wrong", wrong), ("exact", lambda t, x: -x))
    }
    whole = found["wrong"].whole
    assert 0.5 * want < whole.value < want + 3 * whole.error < 1.5 * want
    assert found["wrong"].gradient.value < whole.value
    for bound in (found["exact"].whole, found["exact"].gradient):
        assert bound.value < 3 * bound.error < 0.2 * want
    p = {
        name: kernel_stein_discrepancy(sfp.Score(fn, VP), t, x, key=jr.key(4)).p_value
        for name, fn in (("wrong", wrong), ("exact", lambda t, x: -x))
    }
    assert p["wrong"] < 0.01 < 0.05 < p["exact"]


# ------------------------------------------------------------------------------------------------- the kernel and test


def normal(key: int, n: int, size: int = 2) -> np.ndarray:
    return np.random.default_rng(key).standard_normal((n, size))


@pytest.mark.usefixtures("x64")
def test_the_discrepancy_is_that_of_all_pairs() -> None:
    x, s, w = normal(0, 7, 3), normal(1, 7, 3), 1.3
    kernel = lambda a, b: (1 + jnp.sum((a - b) ** 2) / w**2) ** -0.5

    @jax.jit
    def stein(a: Array, b: Array, s: Array, r: Array) -> Array:
        mixed = jax.jacfwd(jax.grad(kernel, 0), 1)(a, b)
        return kernel(a, b) * s @ r + s @ jax.grad(kernel, 1)(a, b) + r @ jax.grad(kernel, 0)(a, b) + jnp.trace(mixed)

    u = np.array([[0 if i == j else float(stein(x[i], x[j], s[i], s[j])) for j in range(7)] for i in range(7)])
    found = discrepancy_of(x, s, jr.key(0), w, 50, 3)
    assert float(found.squared.value) == pytest.approx(u.sum() / 42, abs=1e-12)
    # The draws of the bootstrap: the same signs at both samples of a pair.
    sums, squares, drawn = sums_over_pairs(jnp.asarray(x), jnp.asarray(s), jnp.asarray(w), jr.key(0), 50, 3)
    signs = np.asarray(jr.rademacher(jr.key(0), (7, 50), jnp.float64))
    np.testing.assert_allclose(sums, u.sum(axis=1), atol=1e-12)
    np.testing.assert_allclose(squares, (u**2).sum(axis=1), atol=1e-12)
    np.testing.assert_allclose(drawn, np.einsum("ib,ij,jb->b", signs, u, signs), atol=1e-12)
    assert float(found.p_value) == pytest.approx((1 + np.sum(np.asarray(drawn) >= u.sum())) / 51)


def test_p_values_of_an_exact_score_are_uniform() -> None:
    found = [discrepancy_of(x, -x, jr.key(i), None, 200, 64) for i in range(150) for x in (normal(i, 50),)]
    p = np.array([float(one.p_value) for one in found])
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01
    assert 0.005 < (p < 0.05).mean() < 0.12
    values = jnp.asarray([float(one.squared.value) for one in found])
    assert mean_is(values, 0.0, sigmas=3)
    # Of equal laws the error is right or too large.
    assert 0.9 < np.mean([float(one.squared.error) for one in found]) / values.std() < 2


def test_the_test_has_power_and_its_error_is_that_of_seeds() -> None:
    found = [discrepancy_of(x, -1.5 * x + 0.5, jr.key(i), None, 200, 64) for i in range(60) for x in (normal(i, 50),)]
    p = np.array([float(one.p_value) for one in found])
    assert (p < 0.05).mean() > 0.6
    values = np.array([float(one.squared.value) for one in found])
    assert 0.8 < np.mean([float(one.squared.error) for one in found]) / values.std() < 1.25
    # Never above the mean square of the error, which is |x - 1|²/4.
    assert values.mean() < 2 * (1 + 1) / 4


def test_the_width_and_batches() -> None:
    x = normal(0, 41)
    score = sfp.Score(lambda t, x: -x, VP)
    settings: dict[str, Any] = {"key": jr.key(1), "draws": 50}
    first = kernel_stein_discrepancy(score, 0.5, jnp.asarray(x, jnp.float32), **settings)
    distances = np.linalg.norm(x[:, None] - x, axis=-1)[np.triu_indices(41, 1)]
    assert float(first.width) == pytest.approx(np.median(distances), rel=1e-5)
    again = kernel_stein_discrepancy(
        score, 0.5, jnp.asarray(x, jnp.float32), width=float(first.width), batch_size=7, **settings
    )
    assert float(again.squared.value) == pytest.approx(float(first.squared.value), rel=1e-4)
    assert float(again.p_value) == float(first.p_value)


# ---------------------------------------------------------------------------------------------------------- in an audit


def test_measures_of_an_exact_and_a_wrong_score() -> None:
    x = plane_mixture().sample(jr.key(0), 600)
    ensemble = Ensemble(4, 600)
    measures = (ScoreError(waves=8, folds=3, ensemble=ensemble), SteinTest(draws=100, ensemble=ensemble))
    for a, b in ((0.0, 0.0), (0.8, 0.0), (0.0, 0.8)):
        report = sfp.audit(planted(a, b), x, key=jr.key(1), measures=measures)
        error, stein = report["error"], report["stein"]
        whole, gradient = (error.numbers[name] for name in ("score_error", "score_error_gradient"))
        assert (whole.value > 4 * (whole.half_width or 0)) == (a + b > 0)
        assert (gradient.value > 4 * (gradient.half_width or 0)) == (a > 0)
        p = stein.numbers["p_value"].value
        assert p > 0.05 if a + b == 0 else p < 0.05
        assert error.points["score_error"].shape == (600,)
        # On the scale of the error of score matching, whose square it is a part of.
        t = error.curves["score_error"].t
        times = jnp.asarray(t)
        want = [float(VP.sigma(u) ** 2 / 2 * truth_of(planted(a, b), u)[1]) for u in times]
        curve = error.curves["score_error"]
        assert (curve.value**2 < np.asarray(want) + 4 * curve.half_width * (curve.value + curve.half_width)).all()
        discrepancy = stein.curves["discrepancy"]
        assert (discrepancy.value < np.asarray(want) + 2 * discrepancy.half_width).all()


def test_the_first_time_of_the_test_is_t0() -> None:
    x = jr.normal(jr.key(0), (64, 2))
    score = sfp.Score(lambda t, x: jnp.where(t > 1.01e-3, -x, -10 * x), sfp.VP(t0=1e-3))
    section = SteinTest(draws=50, ensemble=Ensemble(3, 64, log_snr_ends))(score, x, key=jr.key(1))
    assert section.curves["p_value"].t[0] == pytest.approx(1e-3)
    assert section.numbers["p_value_first"].value == pytest.approx(1 / 51)
    assert section.numbers["p_value"].value == pytest.approx(3 / 51)


def test_few_samples_have_no_bound() -> None:
    section = ScoreError()(sfp.Score(lambda t, x: -x, VP), jnp.zeros((7, 2)), key=jr.key(0))
    assert not section.numbers
    assert "7 samples for 4 folds" in section.notes[0]


# ----------------------------------------------------------------------------------------------------------- refusals

SCORE = sfp.Score(lambda t, x: -x, VP, (2,))
WRONG: Any = {"features": jnp.sin, "trace": sfp.calculus.XTrace(2)}
X = jr.normal(jr.key(0), (16, 2))
BAD: dict[str, tuple[str, Callable[[], Any], type[Exception]]] = {
    "few": ("x holds 7 samples", lambda: score_error_bound(SCORE, 0.5, X[:7], key=jr.key(0)), ValueError),
    "folds": ("folds = 2", lambda: score_error_bound(SCORE, 0.5, X, key=jr.key(0), folds=2), ValueError),
    "shape": ("x", lambda: score_error_bound(SCORE, 0.5, X[:, :1], key=jr.key(0)), ValueError),
    "noise": ("noise has shape", lambda: score_error_bound(SCORE, 0.5, X, key=jr.key(0), noise=X[:3]), ValueError),
    "features": (
        "features",
        lambda: score_error_bound(SCORE, 0.5, X, key=jr.key(0), features=WRONG["features"]),
        TypeError,
    ),
    "trace": (
        "trace",
        lambda: score_error_bound(SCORE, 0.5, X, key=jr.key(0), trace=WRONG["trace"]),
        TypeError,
    ),
    "width": ("width = -1", lambda: kernel_stein_discrepancy(SCORE, 0.5, X, key=jr.key(0), width=-1.0), ValueError),
    "equal": ("median distance", lambda: kernel_stein_discrepancy(SCORE, 0.5, 0 * X, key=jr.key(0)), ValueError),
    "pairs": ("x holds 3 samples", lambda: kernel_stein_discrepancy(SCORE, 0.5, X[:3], key=jr.key(0)), ValueError),
    "measure": ("folds = 2", lambda: ScoreError(folds=2), ValueError),
    "test": ("draws = 0", lambda: SteinTest(draws=0), ValueError),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", BAD)
def test_bad_inputs(name: str) -> None:
    message, call, error = BAD[name]
    refused(message, call, error=error)
