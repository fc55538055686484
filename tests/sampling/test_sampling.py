"""Samplers against the laws they should draw, with their orders: those of SDE and ODE [G1], Langevin dynamics [G3]."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest
from helpers.gaussian import gaussian, gaussian_flow, geometric
from helpers.references import (
    LINEAR,
    assert_mean,
    fitted_order,
    line_mixture,
    line_moments,
    mean_is,
    on_line_modes,
    plane_mixture,
    standard,
)
from helpers.refusals import refused
from jaxtyping import Array
from scipy.optimize import brentq
from scipy.stats import norm

import scorefp as sfp
from scorefp.reverse import heun_step
from scorefp.sampling import AbstractSampler, AbstractStepSampler
from scorefp.sde import AbstractLinearSDE, AbstractSDE


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("make", LINEAR.values(), ids=LINEAR.keys())
def test_grids(make: Callable[[], AbstractLinearSDE]) -> None:
    sde = make()
    for grid in (sfp.sampling.uniform_grid, sfp.sampling.log_snr_grid, sfp.sampling.RhoGrid()):
        times = np.asarray(grid(sde, 10))
        assert times.shape == (11,)
        assert (times[0], times[-1]) == (sde.t1, sde.t0)
        assert np.all(np.diff(times) < 0)
    np.testing.assert_allclose(np.diff(sfp.sampling.uniform_grid(sde, 10)), -(sde.t1 - sde.t0) / 10)
    np.testing.assert_array_equal(sfp.sampling.default_grid(sde, 10), sfp.sampling.log_snr_grid(sde, 10))
    general = sfp.sde.CriticallyDampedLangevin()
    np.testing.assert_array_equal(sfp.sampling.default_grid(general, 9), sfp.sampling.uniform_grid(general, 9))
    log_snr = sde.log_snr(sfp.sampling.log_snr_grid(sde, 10))
    np.testing.assert_allclose(np.diff(log_snr), (log_snr[-1] - log_snr[0]) / 10, rtol=1e-6)
    for rho, grid in ((7.0, sfp.sampling.RhoGrid()), (1.0, sfp.sampling.RhoGrid(1.0))):
        root = np.exp(-0.5 * sde.log_snr(grid(sde, 10))) ** (1 / rho)
        np.testing.assert_allclose(np.diff(root), (root[-1] - root[0]) / 10, rtol=1e-6)


MEAN, VARIANCE = 0.7, 0.3


def normal_data(sde: AbstractLinearSDE) -> sfp.score.AbstractScore:
    return sfp.GaussianMixture(jnp.array([MEAN]), jnp.array([VARIANCE]), jnp.ones(1)).score(sde)


def stepped(method: AbstractStepSampler) -> Callable[[sfp.score.AbstractScore, Array, Array, Array, Array], Array]:
    return lambda score, t, earlier, x, key: method.step(score, t, earlier, x, key=key)


STOCHASTIC: dict[str, Callable[..., Array]] = {
    "EulerMaruyama": stepped(sfp.EulerMaruyama()),
    "ancestral": stepped(sfp.ExponentialIntegrator(noise=1.0)),
    "half the noise": stepped(sfp.ExponentialIntegrator(noise=0.5)),
    "PredictorCorrector": stepped(sfp.PredictorCorrector(ratio=0.5)),
    "heun_step": heun_step,
}


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> Callable[..., np.ndarray]:
    """Mean and variance at the end of the steps of each grid for `N(MEAN, VARIANCE)`, without sampling error.

    A step `a x + b + c_1 z_1 + ...` is affine in the state and in its draws. Its coefficients are its values at zeros
    and unit vectors: what stands in for `jax.random.normal` is one at one draw and zero at the others.
    """
    most = 2

    def run(
        step: Callable[..., Array],
        sde: AbstractLinearSDE,
        grids: list[Array],
        start: tuple[float, float],
        score: sfp.score.AbstractScore | None = None,
    ) -> np.ndarray:
        score = normal_data(sde) if score is None else score

        def at(t: Array, earlier: Array) -> Array:
            values: list[Array] = []
            for x, which in [(1.0, -1), (0.0, -1), *((0.0, i) for i in range(most))]:
                draws = itertools.count()
                fake = lambda key, shape, dtype, d=draws, i=which: jnp.full(shape, float(next(d) == i), dtype)
                monkeypatch.setattr(jr, "normal", fake)
                values.append(step(score, t, earlier, jnp.asarray(x), jr.key(0)))
                assert next(draws) <= most
            monkeypatch.undo()
            return jnp.stack(values)

        starts, stops = (jnp.concatenate([grid[part] for grid in grids]) for part in (slice(None, -1), slice(1, None)))
        values = np.asarray(jax.jit(jax.vmap(at))(starts, stops))
        found: list[tuple[float, float]] = []
        for one, zero, *units in (v.T for v in np.split(values, np.cumsum([grid.size - 1 for grid in grids])[:-1])):
            m, v = start
            for gain, shift, noise in zip(one - zero, zero, (np.array(units) - zero).T, strict=True):
                m, v = gain * m + shift, gain**2 * v + np.sum(noise**2)
            found.append((float(m), float(v)))
        return np.array(found)

    return run


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", STOCHASTIC)
def test_weak_order(name: str, moments: Callable[..., np.ndarray]) -> None:
    """Mean, variance and W2 of the laws approach their limit at the order of the method.

    From the marginal of `t1`. The limit is the law of the data at `t0`. Steps that hold the denoiser fixed have its
    mean from the start. The steps of a corrector stay as long as they are: its limit is the stationary law of the last.
    """
    sde = sfp.OU(t0=0.05, t1=5.0)
    ends = [(float(sde.alpha(t)), float(sde.sigma(t)) ** 2) for t in (sde.t0, sde.t1)]
    (mean, variance), start = ((alpha * MEAN, alpha**2 * VARIANCE + noise) for alpha, noise in ends)
    if name == "PredictorCorrector":
        variance /= 1 - 0.5**2 * ends[0][1] / variance
    steps = [200, 400, 800]
    means, variances = moments(STOCHASTIC[name], sde, [sfp.sampling.log_snr_grid(sde, n) for n in steps], start).T
    errors = {
        "mean": np.abs(means - mean),
        "variance": np.abs(variances - variance),
        "W2": np.hypot(means - mean, np.sqrt(variances) - np.sqrt(variance)),
    }
    orders = dict.fromkeys(errors, 2.0 if name == "heun_step" else 1.0)
    if name in ("ancestral", "half the noise"):
        assert errors.pop("mean").max() < 1e-12
    if name == "PredictorCorrector":
        orders["mean"] = 2.0  # It forgets an error of the mean within a few steps.
    for which, error in errors.items():
        assert fitted_order([1 / n for n in steps], list(error)) == pytest.approx(orders[which], abs=0.2)
        assert error[0] > 1e-6
        assert error[-1] < 5e-3


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["EulerMaruyama", "ancestral", "half the noise"])
def test_weak_order_on_a_mixture(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for `line_mixture`, without sampling error: each step is a normal kernel, the law a density on a grid.

    The kernel's mean and width are the step's own, with zeros and ones in place of what `jax.random.normal` draws.
    """
    sde, x = sfp.OU(t0=0.05, t1=5.0), np.linspace(-4.0, 4.0, 401)
    score, steps = line_mixture().score(sde), [64, 128, 256]

    def at(t: Array, earlier: Array) -> tuple[Array, Array]:
        def moved(x: Array, noise: float) -> Array:
            monkeypatch.setattr(jr, "normal", lambda key, shape, dtype: jnp.full(shape, noise, dtype))
            return STOCHASTIC[name](score, t, earlier, x, jr.key(0))

        means = jax.vmap(lambda x: moved(x, 0.0))(jnp.asarray(x))
        return means, moved(jnp.asarray(x)[0], 1.0) - means[0]

    grids = [sfp.sampling.log_snr_grid(sde, n) for n in steps]
    starts, stops = (jnp.concatenate([grid[part] for grid in grids]) for part in (slice(None, -1), slice(1, None)))
    means, widths = (np.asarray(value) for value in jax.jit(jax.vmap(at))(starts, stops))
    monkeypatch.undo()

    def numbers(density: np.ndarray) -> tuple[float, float, np.ndarray]:
        mass = np.cumsum(density) * (x[1] - x[0])
        levels = np.interp((np.arange(500) + 0.5) / 500, mass, x + 0.5 * (x[1] - x[0]))
        return float(np.average(x, weights=density)), float(np.average(x**2, weights=density)), levels

    want = numbers(on_line_modes(norm.pdf, sde, sde.t0, x))
    errors: list[list[float]] = []
    for which in np.split(np.arange(sum(steps)), np.cumsum(steps)[:-1]):
        density = on_line_modes(norm.pdf, sde, sde.t1, x)
        for i in which:
            kernel = norm.pdf((x[:, None] - means[i]) / widths[i]) / widths[i]
            density = kernel @ density * (x[1] - x[0])
        got = numbers(density)
        w2 = np.sqrt(np.mean((got[2] - want[2]) ** 2))
        errors.append([abs(got[0] - want[0]), abs(got[1] - want[1]), float(w2)])
    for error in np.array(errors).T:
        assert fitted_order([1 / n for n in steps], list(error)) == pytest.approx(1.0, abs=0.2)
        assert 1e-5 < error[-1] < 0.03


@pytest.mark.usefixtures("x64")
def test_churn_keeps_the_order(moments: Callable[..., np.ndarray]) -> None:
    """A fixed amount of churn, for normal data: with more steps the error falls as without, though it is larger."""
    sde = sfp.OU(t0=0.05, t1=5.0)
    ends = [(float(sde.alpha(t)), float(sde.sigma(t)) ** 2) for t in (sde.t0, sde.t1)]
    limit, start = ((alpha * MEAN, alpha**2 * VARIANCE + noise) for alpha, noise in ends)
    steps = [100, 300]
    runs = [
        moments(stepped(sfp.Heun(n, churn=sfp.sampling.Churn(20.0))), sde, [sfp.sampling.RhoGrid()(sde, n)], start)[0]
        for n in steps
    ]
    without = moments(stepped(sfp.Heun(100)), sde, [sfp.sampling.RhoGrid()(sde, 100)], start)[0, 1]
    means, variances = np.abs(np.array(runs) - limit).T
    assert means.max() < 1e-12
    assert fitted_order([1 / n for n in steps], list(variances)) == pytest.approx(2.0, abs=0.2)
    assert variances[0] > 4 * abs(without - limit[1]) > 1e-4


@pytest.mark.usefixtures("x64")
def test_law_of_the_samples(moments: Callable[..., np.ndarray], getkey: Callable[[], Array]) -> None:
    """The loop of a sampler draws what its steps say, from the prior."""
    sde, method = sfp.OU(t0=0.05, t1=5.0), sfp.EulerMaruyama(20)
    got = sfp.sample(normal_data(sde), 40_000, key=getkey(), method=method)
    start = 0.0, float(sde.sigma(sde.t1)) ** 2
    ((mean, variance),) = moments(stepped(method), sde, [sfp.sampling.default_grid(sde, 20)], start)
    assert_mean(got, jnp.asarray(mean))
    assert_mean((got - mean) ** 2, jnp.asarray(variance))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("make", [sfp.VP, sfp.VE, sfp.EDM, sfp.OU, sfp.Cosine, sfp.SubVP])
@pytest.mark.parametrize("std", [0.05, 0.5])
def test_defaults_are_right_for_every_sde(
    make: Callable[[], AbstractLinearSDE], std: float, moments: Callable[..., np.ndarray]
) -> None:
    """Mean and width of the default sampler's law for normal data, to 3 % of the width; steps even in time are not.

    Without sampling error, from the prior.
    """
    sde = make()
    score = sfp.GaussianMixture(jnp.array([MEAN]), jnp.array([std**2]), jnp.ones(1)).score(sde)
    alpha, sigma = float(sde.alpha(sde.t0)), float(sde.sigma(sde.t0))
    width, default, start = (
        float(np.hypot(std * alpha, sigma)),
        sfp.EulerMaruyama(),
        (0.0, float(sde.sigma(sde.t1)) ** 2),
    )
    grids = [default.grid(sde, default.steps), sfp.sampling.uniform_grid(sde, default.steps)]
    (mean, variance), (_, even) = moments(stepped(default), sde, grids, start, score)
    assert abs(mean - alpha * MEAN) < 0.03 * width
    assert np.sqrt(variance) == pytest.approx(width, rel=0.03)
    if std == 0.05 and make in (sfp.EDM, sfp.OU):
        assert np.sqrt(even) > 1.7 * width


@pytest.mark.parametrize("make", [sfp.EDM, sfp.OU])
def test_defaults_of_sample_keep_two_modes(make: Callable[[], AbstractLinearSDE]) -> None:
    n, sde = 2000, make()
    law = sfp.GaussianMixture(jnp.array([-1.0, 1.0]), jnp.array([0.05**2, 0.025**2]), jnp.array([0.3, 0.7]))
    x = np.asarray(sfp.sample(law.score(sde), n, key=jr.key(0)))
    alpha, sigma = float(sde.alpha(sde.t0)), float(sde.sigma(sde.t0))
    for mode, std, place, share in ((x[x < 0], 0.05, -1.0, 0.3), (x[x >= 0], 0.025, 1.0, 0.7)):
        width, rest = np.hypot(std * alpha, sigma), 4 / np.sqrt(mode.size)
        assert abs(mode.size / n - share) < 4 * np.sqrt(share * (1 - share) / n)
        assert abs(mode.mean() - alpha * place) < (0.03 + rest) * width
        assert mode.std() == pytest.approx(width, rel=0.03 + rest / np.sqrt(2))


GRIDS: dict[str, tuple[Callable[[AbstractSDE, int], Array], str]] = {
    "ascending": (lambda sde, n: jnp.linspace(sde.t0, sde.t1, n + 1), "from 0.002 to 80, does not go down at every"),
    "beyond t1": (lambda sde, n: jnp.linspace(2 * sde.t1, sde.t0, n + 1), "from 160 to 0.002, leaves the horizon"),
    "beyond t0": (lambda sde, n: jnp.linspace(sde.t1, 0, n + 1), "from 80 to 0, leaves the horizon"),
    "that stops early": (lambda sde, n: jnp.linspace(sde.t1, 0.01, n + 1), "from 80 to 0.01, does not end at t0"),
    "that pauses": (
        lambda sde, n: jnp.linspace(sde.t1, sde.t0, n + 1).at[3].set(80.0),
        "does not go down at every step",
    ),
    "with NaN": (
        lambda sde, n: jnp.linspace(sde.t1, sde.t0, n + 1).at[3].set(jnp.nan),
        "holds a time that is not finite",
    ),
    "of integers": (lambda sde, n: jnp.arange(n, -1, -1), "the grid has dtype int32"),
    "that is short": (lambda sde, n: jnp.linspace(sde.t1, sde.t0, n), r"the grid has shape \(4,\)"),
}
GRIDDED: dict[str, Callable[[Any], AbstractSampler]] = {
    "EulerMaruyama": lambda grid: sfp.EulerMaruyama(4, grid),
    "DPMSolver": lambda grid: sfp.DPMSolver(4, grid),
    "PredictorCorrector": lambda grid: sfp.PredictorCorrector(sfp.Heun(4, grid)),
    "Denoised": lambda grid: sfp.sampling.Denoised(sfp.sampling.Euler(4, grid)),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", GRIDDED)
def test_wrong_grids(name: str) -> None:
    """Refused by `sample`, and by a direct call, before anything compiles."""
    score, make = standard(sfp.EDM(), (2,)), GRIDDED[name]
    for grid, message in GRIDS.values():
        error = TypeError if "dtype" in message else ValueError
        refused(message, sfp.sample, score, 3, key=jr.key(0), method=make(grid), error=error)
        refused(message, make(grid), score, jnp.ones(2), key=jr.key(0), error=error)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", GRIDDED)
def test_grids_that_start_later(name: str) -> None:
    """Taken with the states there, and for one state; draws of the prior belong to `t1`."""
    score, method = standard(sfp.EDM(), (2,)), GRIDDED[name](lambda sde, n: jnp.geomspace(2.0, sde.t0, n + 1))
    draw = functools.partial(sfp.sample, score, 3, key=jr.key(0), method=method)
    refused(r"from 2 to 0\.002, does not start at t1.*where sample is given the states there as initial", draw)
    assert jnp.isfinite(draw(initial=jnp.ones((3, 2)))).all()
    assert jnp.isfinite(method(score, jnp.ones(2), key=jr.key(0))).all()


def test_grids_of_traced_parameters() -> None:
    """They are checked when they run."""

    def ends(theta: Array, grid: Any, from_prior: bool) -> Array:
        score = sfp.Score(lambda t, x: -x, sfp.LinearSDE(lambda t: -theta * t, jnp.log, t0=0.01, t1=1.0), (2,))
        start = None if from_prior else jnp.ones((3, 2))
        return sfp.sample(score, 3, key=jr.key(0), method=sfp.Heun(4, grid), initial=start)

    late = lambda sde, n: sde.time_of_log_snr(jnp.linspace(sde.log_snr(0.5), sde.log_snr(sde.t0), n + 1))
    compiled = eqx.filter_jit(ends)
    one = jnp.asarray(1.0)
    assert jnp.isfinite(compiled(one, sfp.sampling.log_snr_grid, True)).all()
    assert jnp.isfinite(compiled(one, late, False)).all()
    refused("does not start at t1", compiled, one, late, True, error=RuntimeError)
    early = lambda sde, n: sfp.sampling.log_snr_grid(sde, n + 3)[: n + 1]
    refused("does not end at t0", compiled, one, early, False, error=RuntimeError)


def test_grids_in_half_precision() -> None:
    """A thousand times below one are not a thousand in bfloat16."""
    score, x1 = standard(), jnp.ones(2, jnp.bfloat16)
    refused("does not go down at every step in bfloat16", sfp.sampling.Euler(1000), score, x1)
    assert sfp.sampling.Euler(5)(score, x1).dtype == jnp.bfloat16


def wild(x: Array) -> Array:
    """The score of a standard normal law; of samples above 2 it is NaN, and those below -2 it drives away."""
    return jnp.where(x > 2, jnp.nan, jnp.where(x < -2, 10 * x, -x))


def test_failed_samples_are_told() -> None:
    """The numbers of a warning are those of the samples; `throw` makes it an error; right ones say nothing."""
    score, n = sfp.Score(lambda t, x: wild(x), sfp.VP(), ()), 400
    with pytest.warns(UserWarning, match="samples failed") as seen:
        x = np.asarray(sfp.sample(score, n, key=jr.key(0), method=sfp.sampling.Euler(20)))
    broken, far = int(np.sum(~np.isfinite(x))), int(np.sum(np.abs(x) > 5 * 152))
    assert broken > 0
    assert far > 0
    assert len(seen) == 1
    assert f"{broken + far} of 400 samples failed: {broken} are not finite, {far} lie beyond 5 times 15" in str(
        seen[0].message
    )
    refused(
        "samples failed",
        sfp.sample,
        score,
        n,
        key=jr.key(0),
        method=sfp.sampling.Euler(20),
        throw=True,
        error=RuntimeError,
    )
    fine = sfp.sample(standard(shape=()), n, key=jr.key(0), method=sfp.sampling.Euler(20), throw=True)
    assert np.isfinite(fine).all()


def test_failures_are_relative_to_the_start() -> None:
    """Samples that start far out may stay there; inside `jit` nothing is said."""
    still, starts = sfp.Score(lambda t, x: 0 * x, sfp.EDM(), (2,)), jnp.full((4, 2), 1e4)
    draw = functools.partial(sfp.sample, still, 4, key=jr.key(0), method=sfp.DPMSolver(2))
    assert jnp.all(draw(initial=starts, throw=True) > 9e3)
    blown = sfp.Score(lambda t, x: 1e9 * x, sfp.EDM(), (2,))
    wide = functools.partial(sfp.sample, blown, 4, key=jr.key(0), method=sfp.DPMSolver(2))
    with pytest.warns(UserWarning, match="4 of 4 samples failed"):
        wide()
    jax.jit(lambda key: sfp.sample(blown, 4, key=key, method=sfp.DPMSolver(2)))(jr.key(0))


@pytest.mark.quick
@pytest.mark.usefixtures("unchecked")
def test_bad_kinds() -> None:
    draw = functools.partial(sfp.sample, standard(shape=(3,)), 2, key=jr.key(0))
    for options, message in (
        ({"throw": 1}, "throw is 1; it is True or False"),
        ({"shape": 3}, "shape is 3; it is a tuple of sizes"),
        ({"dtype": "real"}, "dtype = 'real'; it is a dtype of floats"),
        ({"batch_size": True}, "batch_size = True; it is a count"),
    ):
        refused(message, draw, error=TypeError, **options)
    refused(r"args has arrays with leading axes \[\(\)\], n = 2; .* score\.bind", draw, args=1.0)
    refused("args of sample 1 holds nan; 1 of 2 samples", draw, args=jnp.array([1.0, jnp.nan]))
    refused("initial holds NaN", draw, initial=jnp.full((2, 3), jnp.nan))
    for method in (sfp.EulerMaruyama(4), sfp.Heun(4), sfp.DPMSolver(4), sfp.ProbabilityFlow(), sfp.Langevin(4, 0.1)):
        call = functools.partial(method, standard(shape=(3,)))
        refused(r"key is 7; \w+ takes a random key", call, jnp.ones(3), key=7, error=TypeError)
        refused(r"x1 has shape \(2, 3\)", call, jnp.ones((2, 3)), key=jr.key(0))
        refused("x1 has dtype int32", call, jnp.ones(3, int), key=jr.key(0), error=TypeError)
        refused("x1 holds NaN", call, jnp.full(3, jnp.nan), key=jr.key(0))
        refused("score is a function", method, lambda t, x: -x, jnp.ones(3), key=jr.key(0), error=TypeError)
        assert jnp.isfinite(call(jnp.ones(3), key=jr.key(0))).all()


@pytest.mark.usefixtures("x64")
def test_euler_maruyama_takes_any_sde(getkey: Callable[[], Array]) -> None:
    """A linear SDE written as a general one gives the same samples; the noise may have more entries than the sample."""
    exact = plane_mixture().score(sfp.VP())
    linear, method = exact.sde, sfp.EulerMaruyama(10, sfp.sampling.uniform_grid)
    general = sfp.GeneralSDE(linear.drift, linear.diffusion, linear.prior, t0=linear.t0, t1=linear.t1)
    want = sfp.sample(exact, 100, key=jr.key(0), method=method)
    got = sfp.sample(sfp.Score(exact, general, (2,)), 100, key=jr.key(0), method=method)
    np.testing.assert_allclose(got, want, atol=1e-10)

    mixing = jnp.array([[0.6, 0.0, 0.8], [0.6, 0.8, 0.0]])
    wide = sfp.GeneralSDE(
        lambda t, x: jnp.zeros_like(x), lambda t, x: lx.MatrixLinearOperator(mixing), linear.prior, t0=0.5, t1=1.0
    )
    score, one_step = sfp.Score(lambda t, x: jnp.zeros_like(x), wide), sfp.EulerMaruyama(1)
    x0 = jax.jit(jax.vmap(lambda key: one_step(score, jnp.zeros(2), key=key)))(jr.split(getkey(), 10_000))
    assert_mean(x0[:, :, None] * x0[:, None, :], 0.5 * mixing @ mixing.T)


@pytest.mark.usefixtures("x64")
def test_euler_maruyama_with_state_dependent_noise(getkey: Callable[[], Array]) -> None:
    """Geometric Brownian motion with exact score and prior: the samples at `t0` are log-normal as the data.

    Without the divergence of `GG^T`, which is at least 0.2 a unit of time here, the means would be off by about that.
    """
    score = geometric()
    rates = np.asarray(score.sde.volatility @ score.sde.volatility.T)
    assert (rates.sum(axis=1) + np.diag(rates)).min() > 0.2
    log_x = np.log(sfp.sample(score, 10_000, key=getkey(), method=sfp.EulerMaruyama(100)))
    np.testing.assert_allclose(log_x.mean(axis=0), [0.1, -0.2], atol=0.03)
    np.testing.assert_allclose(np.cov(log_x.T), [[0.3, 0.1], [0.1, 0.2]], atol=0.03)


@pytest.mark.usefixtures("x64")
def test_probability_flow_is_the_flow_map_and_comes_back() -> None:
    sde, score = sfp.SubVP(), gaussian().score(sfp.SubVP())
    tight = sfp.Integrator(diffrax.Dopri8(), rtol=1e-10, atol=1e-10)
    x1 = jnp.array([0.8, -0.4])
    x0 = sfp.ProbabilityFlow(tight)(score, x1)
    np.testing.assert_allclose(x0, gaussian_flow(sde, sde.t1, sde.t0)[0](x1), atol=1e-7)
    np.testing.assert_allclose(sfp.flow_likelihood(score, x0, integrator=tight).latent, x1, atol=1e-7)


def test_probability_flow_draws_the_data(getkey: Callable[[], Array]) -> None:
    got = sfp.sample(line_mixture().score(sfp.VP()), 20_000, key=getkey(), method=sfp.ProbabilityFlow())
    for power, want in enumerate(line_moments(), 1):
        assert_mean(got**power, want)


def ode_ends(sde: AbstractLinearSDE, x1: np.ndarray) -> np.ndarray:
    """Where the ODE of `line_mixture` takes points at `t1`: on a line it keeps the quantiles of the marginals."""
    levels = on_line_modes(norm.cdf, sde, sde.t1, x1)
    below = lambda x, u: float(on_line_modes(norm.cdf, sde, sde.t0, x)) - u
    return np.array([brentq(below, -9, 9, (u,), xtol=1e-13) for u in levels])


DETERMINISTIC: dict[str, tuple[Callable[[int], AbstractSampler], float]] = {
    "Euler": (lambda n: sfp.sampling.Euler(n), 1.0),
    "Euler, uniform in t": (lambda n: sfp.sampling.Euler(n, sfp.sampling.uniform_grid), 1.0),
    "ExponentialIntegrator": (sfp.ExponentialIntegrator, 1.0),
    "Heun": (sfp.Heun, 2.0),
    "DPMSolver": (sfp.DPMSolver, 2.0),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_of_the_odes_samplers(name: str) -> None:
    """The samples, their mean, second moment and W2 approach those of the exact ODE at the order of the method.

    From quantiles of the prior, without sampling error. Samples and exact ends are in the same order along the line,
    so that the root mean square of their differences is W2.
    """
    make, order = DETERMINISTIC[name]
    score = line_mixture().score(sfp.OU(t0=0.05, t1=5.0))
    x1 = float(score.sde.sigma(score.sde.t1)) * norm.ppf((np.arange(32) + 0.5) / 32)
    want, steps = ode_ends(score.sde, x1), [64, 128, 256]

    @jax.jit
    def ends(x1: Array) -> list[Array]:
        return [jax.vmap(lambda x, n=n: make(n)(score, x, key=jr.key(0)))(x1) for n in steps]

    got = np.asarray(ends(jnp.asarray(x1)))
    assert np.all(np.diff(got) > 0)
    errors = (
        np.abs(got.mean(axis=1) - want.mean()),
        np.abs((got**2).mean(axis=1) - (want**2).mean()),
        np.sqrt(((got - want) ** 2).mean(axis=1)),
    )
    for error in errors:
        assert fitted_order([1 / n for n in steps], list(error)) == pytest.approx(order, abs=0.2)
    assert 1e-5 < errors[-1][-1] < (1e-2 if order == 1 else 2e-4)


@pytest.mark.usefixtures("x64")
def test_noise_keeps_the_law(getkey: Callable[[], Array]) -> None:
    """Churn moves each sample and keeps the law, as do corrections; inflated noise does not keep it."""
    n, sde, heun = 5_000, sfp.OU(t0=0.01, t1=5.0), sfp.Heun(80)
    methods: dict[str, AbstractSampler] = {
        "plain": heun,
        "churned": sfp.Heun(80, churn=sfp.sampling.Churn(20.0, 0.05, 50.0)),
        "inflated": sfp.Heun(80, churn=sfp.sampling.Churn(20.0, inflation=1.1)),
        "corrected": sfp.PredictorCorrector(heun, corrections=2),
    }
    score, keys, x1 = line_mixture().score(sde), jr.split(getkey(), n), sde.prior.sample(getkey(), (n,))

    @jax.jit
    def ends(x1: Array, keys: Array) -> dict[str, Array]:
        return {
            name: jax.vmap(lambda x, key, method=method: method(score, x, key=key))(x1, keys)
            for name, method in methods.items()
        }

    moments, got = line_moments(float(sde.alpha(sde.t0)), float(sde.sigma(sde.t0))), ends(x1, keys)
    for name in ("plain", "churned", "corrected"):
        for power, want in enumerate(moments, 1):
            assert_mean(got[name] ** power, want)
        assert name == "plain" or float(jnp.abs(got[name] - got["plain"]).mean()) > 0.1
    assert not mean_is(got["inflated"] ** 2, moments[1])


@pytest.mark.usefixtures("x64")
def test_langevin_on_a_gaussian(getkey: Callable[[], Array]) -> None:
    """A step is `x -> (1 - h/v) x + sqrt(2h) noise`, so that mean and variance after any number of them are known.

    The stationary variance is `v / (1 - h / 2v)`: clearly not `v` for large steps.
    """
    variance, n = 0.3, 20_000
    score = sfp.Score(lambda t, x: -x / t, sfp.OU(t0=0.1, t1=1.0))

    def after(steps: int, share: float, start: float) -> Array:
        method = sfp.Langevin(steps, jnp.asarray(share * variance), jnp.asarray(variance))
        return sfp.sample(score, n, key=getkey(), method=method, initial=jnp.full(n, start))

    for steps, share, start in [(40, 1.0, 2.0), (40, 0.5, 0.0), (3, 0.5, 2.0), (3, 0.1, 2.0)]:
        got, gain = after(steps, share, start), 1 - share
        mean = gain**steps * start
        stationary = variance / (1 - share / 2)
        assert_mean(1 + got, jnp.asarray(1 + mean))
        assert_mean((got - mean) ** 2, jnp.asarray(stationary * (1 - gain ** (2 * steps))))
    assert abs(float(jnp.var(after(40, 1.0, 0.0))) - 2 * variance) < 0.1 * variance


def test_langevin_keeps_the_law_at_its_time(getkey: Callable[[], Array]) -> None:
    """The exact score at a time leaves that time's marginal as it is, `t0` if no other is given; of a wrong one not."""
    mixture, sde, n = line_mixture(), sfp.OU(t0=0.1, t1=2.0), 20_000

    def diffused(t: float) -> tuple[Array, tuple[float, ...]]:
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        x = alpha * mixture.sample(getkey(), n) + sigma * jr.normal(getkey(), (n,))
        return x, line_moments(alpha, sigma)[1:]

    def moved(method: sfp.Langevin, x: Array) -> Array:
        return sfp.sample(mixture.score(sde), n, key=getkey(), method=method, initial=x)

    early, want = diffused(sde.t0)
    got = moved(sfp.Langevin(100, 2e-3), early)
    assert float(jnp.abs(got - early).mean()) > 0.2
    assert_mean(got**2, jnp.asarray(want[0]))
    assert_mean(got**3, jnp.asarray(want[1]))
    late, want = diffused(0.8)
    assert_mean(moved(sfp.Langevin(100, 2e-3, 0.8), late) ** 2, jnp.asarray(want[0]))
    drifted = moved(sfp.Langevin(100, 2e-3), late) ** 2
    assert abs(float(drifted.mean()) - want[0]) > 5 * float(drifted.std()) / np.sqrt(n)


class Start(AbstractSampler):
    """Gives back the point it starts at."""

    def __call__(self, score: sfp.score.AbstractScore, x1: Array, *, key: Array) -> Array:
        return x1


METHODS = {
    "EulerMaruyama": sfp.EulerMaruyama(20),
    "Euler": sfp.sampling.Euler(20),
    "ProbabilityFlow": sfp.ProbabilityFlow(),
    "Langevin": sfp.Langevin(20, 1e-3, 0.5),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_prior_draws_and_batches(method: AbstractSampler) -> None:
    """One key draws the same points of the prior for every method, which `initial` can give; batches change nothing."""
    score, n = sfp.Score(lambda t, x: -jnp.sin(x) / (0.1 + t), sfp.VP(), (2,)), 11
    starts = sfp.sample(score, n, key=jr.key(3), method=Start())
    got = sfp.sample(score, n, key=jr.key(3), method=method)
    assert np.abs(got - starts).min() > 1e-4
    in_fours = sfp.sample(score, n, key=jr.key(3), method=method, initial=starts, batch_size=4)
    np.testing.assert_allclose(in_fours, got, rtol=1e-9)


@pytest.mark.quick
def test_one_compilation_and_one_key() -> None:
    traces: list[int] = []

    def fn(t: Array, x: Array) -> Array:
        traces.append(1)
        return -x

    score, method = sfp.Score(fn, sfp.VP(), (3,)), sfp.EulerMaruyama(5)
    first = sfp.sample(score, 4, key=jr.key(0), method=method)
    count = len(traces)
    again = sfp.sample(score, 4, key=jr.key(0), method=sfp.EulerMaruyama(5))
    other = sfp.sample(score, 4, key=jr.key(1), method=method)
    assert len(traces) == count
    assert first.shape == (4, 3)
    np.testing.assert_array_equal(first, again)
    assert not np.any(np.asarray(first) == np.asarray(other))
    assert np.unique(np.asarray(first)).size == first.size
    sfp.sample(score, 4, key=jr.key(0), method=sfp.EulerMaruyama(6))
    assert len(traces) > count


def test_conditioning_reaches_its_sample() -> None:
    """One entry of `args` a sample: the score of `N(args, tiny)` puts each sample at its own place."""

    def fn(t: Array, x: Array, *, args: Array) -> Array:
        sde = sfp.VP()
        return -(x - sde.alpha(t) * args) / sde.sigma(t) ** 2

    score, places = sfp.Score(fn, sfp.VP(), ()), jnp.array([-2.0, 0.0, 5.0])
    method = sfp.EulerMaruyama(100, sfp.sampling.log_snr_grid)
    got = sfp.sample(score, 3, key=jr.key(0), method=method, args=places)
    np.testing.assert_allclose(got, places, atol=0.02)
    in_twos = sfp.sample(score, 3, key=jr.key(0), method=method, args=places, batch_size=2)
    np.testing.assert_allclose(in_twos, got, rtol=1e-5)
    with pytest.raises(
        ValueError, match=r"args has arrays with leading axes \[\(3,\)\], n = 2; each sample has its own"
    ):
        sfp.sample(score, 2, key=jr.key(0), method=method, args=places)


def test_float32_stays_float32() -> None:
    with jax.enable_x64(True):
        score = standard()
        x1 = jnp.ones(2, jnp.float32)
        assert sfp.EulerMaruyama(3)(score, x1, key=jr.key(0)).dtype == jnp.float32
        assert sfp.sampling.Euler(3)(score, x1).dtype == jnp.float32
        assert sfp.Langevin(3, 0.1)(score, x1, key=jr.key(0)).dtype == jnp.float32
        assert sfp.ProbabilityFlow()(score, x1).dtype == jnp.float32
        image = jax.ShapeDtypeStruct((2, 1, 2), jnp.float32)
        for method in (
            sfp.Heun(3, churn=sfp.sampling.Churn(1.0)),
            sfp.DPMSolver(3),
            sfp.ExponentialIntegrator(3),
            sfp.ExponentialIntegrator(3, noise=0.5),
            sfp.sampling.Denoised(sfp.PredictorCorrector(sfp.EulerMaruyama(3))),
        ):
            assert jax.eval_shape(lambda x, method=method: method(score, x, key=jr.key(0)), image) == image
        starts = jnp.ones((2, 2), jnp.float32)
        assert sfp.sample(score, 2, key=jr.key(0), method=sfp.sampling.Euler(3), initial=starts).dtype == jnp.float32


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("amount", [0.0, 3.0])
def test_algorithms_of_karras(amount: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Denoised(Heun(N - 1))` is the published algorithm of N steps, written plainly here: 2 N - 1 evaluations.

    Every draw of noise is one. The first step would leave the horizon, and has no churn.
    """
    calls: list[float] = []
    lowest, highest, n = 0.01, 2.0, 7

    def denoiser(x: Any, sigma: Any) -> Any:
        return x / (1 + sigma**2) + 0.1 * jnp.sin(3 * x)

    def fn(t: Array, x: Array) -> Array:
        calls.append(1)
        return (denoiser(x, t) - x) / t**2

    def published(x: float) -> float:
        levels = (3.0 ** (1 / 7) + np.arange(n) / (n - 1) * (0.02 ** (1 / 7) - 3.0 ** (1 / 7))) ** 7
        for i, level in enumerate(levels):
            gamma = min(amount / (n - 1), np.sqrt(2) - 1) if lowest <= level <= highest and i < n - 1 else 0.0
            raised, following = level * (1 + gamma), levels[i + 1] if i < n - 1 else 0.0
            x = x + np.sqrt(raised**2 - level**2) * 1.01
            slope = (x - denoiser(x, raised)) / raised
            end = x + (following - raised) * slope
            if following > 0:
                end = x + (following - raised) * 0.5 * (slope + (end - denoiser(end, following)) / following)
            x = float(end)
        return x

    monkeypatch.setattr(jr, "normal", lambda key, shape, dtype: jnp.ones(shape, dtype))
    churn = None if amount == 0 else sfp.sampling.Churn(amount, lowest, highest, 1.01)
    score, method = sfp.Score(fn, sfp.EDM(t0=0.02, t1=3.0)), sfp.sampling.Denoised(sfp.Heun(n - 1, churn=churn))
    with jax.disable_jit():
        got = method(score, jnp.asarray(2.5), key=jr.key(0))
    np.testing.assert_allclose(got, published(2.5), rtol=1e-10)
    assert len(calls) == 2 * n - 1


def test_state_in_float64() -> None:
    """A float64 state takes many steps without piling up their rounding; the score stays in its own precision."""
    seen: set[Any] = set()

    class Watched(sfp.score.AbstractScore):
        inner: sfp.score.AbstractScore

        @property
        def sde(self) -> AbstractLinearSDE:
            return sfp.VP()

        @property
        def shape(self) -> tuple[int, ...]:
            return ()

        def __call__(self, t: Array, x: Array) -> Array:
            seen.add((t.dtype, x.dtype))
            return self.inner(t, x)

    single = Watched(line_mixture().score(sfp.VP()))
    with jax.enable_x64(True):
        double = Watched(line_mixture().score(sfp.VP()))
        draw = lambda score, dtype: sfp.sample(
            score, 64, key=jr.key(0), method=sfp.ExponentialIntegrator(2000), dtype=dtype
        )
        coarse, fine, exact = draw(single, jnp.float32), draw(single, jnp.float64), draw(double, None)
        assert (coarse.dtype, fine.dtype, exact.dtype) == (jnp.float32, jnp.float64, jnp.float64)
        assert seen == {(jnp.dtype(d), jnp.dtype(d)) for d in (jnp.float32, jnp.float64)}
        error = lambda x: float(jnp.sqrt(jnp.mean((x - exact) ** 2)))
        assert 100 * error(fine) < error(coarse)
        starts = [sfp.sample(single, 3, key=jr.key(0), method=Start(), dtype=d) for d in (None, jnp.float32)]
        np.testing.assert_array_equal(starts[0].astype(jnp.float32), starts[1])


@pytest.mark.quick
@pytest.mark.usefixtures("unchecked")
def test_bad_input() -> None:
    key = jr.key(0)
    draw = functools.partial(sfp.sample, standard(shape=(3,)), 2, key=key)
    unknown = (
        r"event shape is not known: score is a Score with shape = None\. Call sample\(score, n, shape=\(\.\.\.\)\)"
    )
    refused(unknown, sfp.sample, standard(), 2, key=key)
    refused(r"a sample has shape \(2,\), but the score's own has shape \(3,\)", draw, shape=(2,))
    refused("n = 0", sfp.sample, standard(shape=(3,)), 0, key=key)
    refused("batch_size = 0; it is a count of at least 1", draw, batch_size=0)
    refused(r"initial has shape \(3, 3\); it must be \(n, \*event\) = \(2, 3\)", draw, initial=jnp.ones((3, 3)))
    refused(r"initial has shape \(2, 4\); it must be \(n, \*event\) = \(2, 3\)", draw, initial=jnp.ones((2, 4)))
    refused(r"initial has shape \(\); it must be", sfp.sample, standard(), 2, key=key, initial=jnp.ones(()))
    whole = jnp.ones((2, 3), int)
    refused("initial has dtype int32", sfp.sample, standard(), 2, key=key, initial=whole, error=TypeError)
    for wrong in (jnp.int32, "int8"):
        refused(r"dtype = int[0-9]*; a sample is an array of floats", draw, dtype=wrong, error=TypeError)
    refused(r"float64 turned off here\. Call sample inside `with jax\.enable_x64\(True\)", draw, dtype=jnp.float64)
    steppers = (sfp.EulerMaruyama, sfp.sampling.Euler, sfp.Heun, sfp.ExponentialIntegrator, sfp.DPMSolver)
    for method in (*steppers, lambda steps: sfp.Langevin(steps, 0.1)):
        refused("steps = 0; it is a count of at least 1", method, 0)
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        refused(f"step_size = {wrong}", sfp.Langevin, 1, wrong)
    refused(r"t is a complex; it is real", sfp.Langevin, 1, 0.1, 1j, error=TypeError)
    refused(r"t = 2\.0 lies outside \[t0, t1\]", sfp.Langevin(1, 0.1, 2.0), standard(), jnp.ones(2), key=key)
    refused(r"t = 2\.0 lies outside \[t0, t1\]", draw, method=sfp.Langevin(1, 0.1, 2.0))
    for method in (sfp.sampling.Euler, sfp.EulerMaruyama):
        short = method(4, lambda sde, steps: jnp.linspace(1.0, 0.1, 3))
        message = r"the grid has shape \(3,\), but steps \+ 1 times has shape \(5,\)"
        refused(message, short, standard(), jnp.ones(2), key=key)
    for grid in (sfp.sampling.log_snr_grid, sfp.sampling.RhoGrid()):
        refused("has no Gaussian kernel", grid, sfp.sde.CriticallyDampedLangevin(), 10, error=TypeError)
    general = standard(sfp.sde.CriticallyDampedLangevin())
    for method in (
        sfp.Heun(4, sfp.sampling.uniform_grid),
        sfp.DPMSolver(4, sfp.sampling.uniform_grid),
        sfp.ExponentialIntegrator(4, sfp.sampling.uniform_grid),
        sfp.PredictorCorrector(sfp.EulerMaruyama(4)),
        sfp.sampling.Denoised(Start()),
    ):
        refused("has no Gaussian kernel", method, general, jnp.ones((2, 2)), key=key, error=TypeError)
    for method in (
        sfp.EulerMaruyama(4),
        sfp.Heun(4, churn=sfp.sampling.Churn(1.0)),
        sfp.ExponentialIntegrator(4, noise=0.5),
        sfp.PredictorCorrector(sfp.sampling.Euler(4)),
    ):
        refused(f"key is None, but {type(method).__name__} draws random numbers", method, standard(), jnp.ones(2))
    for make, message in (
        (lambda: sfp.sampling.RhoGrid(0.0), r"rho = 0\.0; it is positive and finite"),
        (lambda: sfp.sampling.Churn(-1.0), r"amount = -1\.0; the noise to add is not negative, and finite"),
        (lambda: sfp.sampling.Churn(1.0, 2.0, 1.0), r"lowest = 2\.0 and highest = 1\.0; the range of noise levels"),
        (
            lambda: sfp.sampling.Churn(1.0, inflation=0.0),
            r"inflation = 0\.0; a standard deviation is positive and finite",
        ),
        (lambda: sfp.ExponentialIntegrator(noise=1.5), r"noise = 1\.5; the share of the noise lies in \[0, 1\]"),
        (lambda: sfp.PredictorCorrector(corrections=0), "corrections = 0; without any, use the predictor alone"),
        (lambda: sfp.PredictorCorrector(ratio=0.0), r"ratio = 0\.0; it is positive and finite"),
    ):
        refused(message, make)
    with pytest.raises(TypeError, match=r"predictor is a DPMSolver\. It goes by independent steps"):
        sfp.PredictorCorrector(sfp.DPMSolver(4))
    few = sfp.ProbabilityFlow(sfp.Integrator(max_steps=2))
    with pytest.raises(RuntimeError, match=r"max_steps = 2 did not bring it from t = 1\.0 to t = 1e-05"):
        jax.block_until_ready(sfp.sample(standard(shape=(2,)), 3, key=key, method=few))
