"""Samplers against the laws they should draw: grids, Euler–Maruyama, the ODE [G1], Langevin dynamics [G3]."""

from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest
from gaussian import gaussian, gaussian_flow, geometric
from jaxtyping import Array
from references import LINEAR, assert_mean, fitted_order, line_mixture, plane_mixture

import scorefp as sfp
from scorefp.sampling import AbstractSampler, Grid
from scorefp.sde import AbstractLinearSDE


def standard(shape: tuple[int, ...] | None = None) -> sfp.Score:
    """The score of standard normal data under VP, which stay so."""
    return sfp.Score(lambda t, x: -x, sfp.VP(), shape)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("make", LINEAR.values(), ids=LINEAR.keys())
def test_grids(make: Callable[[], AbstractLinearSDE]) -> None:
    sde = make()
    for grid in (sfp.uniform_grid, sfp.log_snr_grid):
        times = np.asarray(grid(sde, 10))
        assert times.shape == (11,)
        assert (times[0], times[-1]) == (sde.t1, sde.t0)
        assert np.all(np.diff(times) < 0)
    np.testing.assert_allclose(np.diff(sfp.uniform_grid(sde, 10)), -(sde.t1 - sde.t0) / 10)
    log_snr = sde.log_snr(sfp.log_snr_grid(sde, 10))
    np.testing.assert_allclose(np.diff(log_snr), (log_snr[-1] - log_snr[0]) / 10, rtol=1e-6)


def moments(sde: AbstractLinearSDE, grid: Grid, steps: int, mean: float, variance: float) -> tuple[float, float]:
    """Mean and variance of Euler–Maruyama for `N(mean, variance)` on the line, where every step is affine in `x`."""
    times = np.asarray(grid(sde, steps))
    alpha, sigma2 = np.asarray(sde.alpha(times)), np.asarray(sde.sigma(times)) ** 2
    rate, g2 = np.asarray(sde.rate(times)), np.asarray(sde.g2(times))
    m, v = 0.0, sigma2[0]
    for i, length in enumerate(-np.diff(times)):
        slope = g2[i] / (alpha[i] ** 2 * variance + sigma2[i])
        gain = 1 - length * (rate[i] + slope)
        m = gain * m + length * slope * alpha[i] * mean
        v = gain**2 * v + length * g2[i]
    return float(m), float(v)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("grid", [sfp.uniform_grid, sfp.log_snr_grid])
def test_euler_maruyama_on_a_gaussian(grid: Grid, getkey: Callable[[], Array]) -> None:
    """The sampler has the moments of the recursion, and the recursion converges to the data at order one."""
    mean, variance, sde = 0.7, 0.3, sfp.OU(t0=0.05, t1=5.0)
    score = sfp.GaussianMixture(jnp.array([mean]), jnp.array([variance]), jnp.ones(1)).score(sde)
    got = sfp.sample(score, 40_000, key=getkey(), method=sfp.EulerMaruyama(20, grid))
    coarse = moments(sde, grid, 20, mean, variance)
    assert_mean(got, jnp.asarray(coarse[0]))
    assert_mean((got - coarse[0]) ** 2, jnp.asarray(coarse[1]))
    # What the exact reverse process draws from the prior: mean and variance at t0 but for the gap of the prior, e^-10.
    truth = np.exp(-sde.t0) * mean, np.exp(-2 * sde.t0) * variance + float(sde.sigma(sde.t0)) ** 2
    steps = [200, 400, 800]
    errors = np.abs([np.subtract(moments(sde, grid, n, mean, variance), truth) for n in steps])
    assert np.all(np.abs(np.subtract(coarse, truth)) > 0.01)
    for error in errors.T:
        assert fitted_order([1 / n for n in steps], list(error)) == pytest.approx(1.0, abs=0.15)


@pytest.mark.usefixtures("x64")
def test_euler_maruyama_takes_any_sde(getkey: Callable[[], Array]) -> None:
    """A linear SDE written as a general one gives the same samples; the noise may have more entries than the sample."""
    exact = plane_mixture().score(sfp.VP())
    linear, method = exact.sde, sfp.EulerMaruyama(10)
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
    mixture = line_mixture()
    got = sfp.sample(mixture.score(sfp.VP()), 20_000, key=getkey(), method=sfp.ProbabilityFlow())
    means, weights, variances = np.array([-0.8, 0.6]), np.array([0.3, 0.7]), np.array([0.1, 0.2])
    assert_mean(got, jnp.asarray(weights @ means))
    assert_mean(got**2, jnp.asarray(weights @ (means**2 + variances)))
    assert_mean(got**3, jnp.asarray(weights @ (means**3 + 3 * means * variances)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("grid", [sfp.uniform_grid, sfp.log_snr_grid])
def test_euler_is_of_order_one(grid: Grid, getkey: Callable[[], Array]) -> None:
    """The end points approach those of the ODE, solved tightly, at order one, for each starting point."""
    score = plane_mixture().score(sfp.OU(t0=0.05, t1=5.0))
    tight = sfp.ProbabilityFlow(sfp.Integrator(diffrax.Dopri8(), rtol=1e-10, atol=1e-10))
    x1 = score.sde.prior.sample(getkey(), (16, 2))

    def ends(method: AbstractSampler) -> Array:
        return sfp.sample(score, 16, key=jr.key(0), method=method, initial=x1)

    steps = [100, 200, 400]
    errors = [float(jnp.abs(ends(sfp.Euler(n, grid)) - ends(tight)).mean()) for n in steps]
    assert errors[0] > 1e-3
    assert fitted_order([1 / n for n in steps], errors) == pytest.approx(1.0, abs=0.15)


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
    means, weights, variances = np.array([-0.8, 0.6]), np.array([0.3, 0.7]), np.array([0.1, 0.2])

    def diffused(t: float) -> tuple[Array, np.ndarray]:
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        x = alpha * mixture.sample(getkey(), n) + sigma * jr.normal(getkey(), (n,))
        m, v = alpha * means, alpha**2 * variances + sigma**2
        return x, np.array([weights @ (m**2 + v), weights @ (m**3 + 3 * m * v)])

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

    def __call__(self, score: sfp.AbstractScore, x1: Array, *, key: Array) -> Array:
        return x1


METHODS = {
    "EulerMaruyama": sfp.EulerMaruyama(20),
    "Euler": sfp.Euler(20),
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
    method = sfp.EulerMaruyama(100, sfp.log_snr_grid)
    got = sfp.sample(score, 3, key=jr.key(0), method=method, args=places)
    np.testing.assert_allclose(got, places, atol=0.02)
    in_twos = sfp.sample(score, 3, key=jr.key(0), method=method, args=places, batch_size=2)
    np.testing.assert_allclose(in_twos, got, rtol=1e-5)
    with pytest.raises(ValueError, match=r"args holds an array of shape \(3,\); its leading axis must be n = 2"):
        sfp.sample(score, 2, key=jr.key(0), method=method, args=places)


def test_float32_stays_float32() -> None:
    with jax.enable_x64(True):
        score = sfp.Score(lambda t, x: -x, sfp.VP())
        x1 = jnp.ones(2, jnp.float32)
        assert sfp.EulerMaruyama(3)(score, x1, key=jr.key(0)).dtype == jnp.float32
        assert sfp.Euler(3)(score, x1).dtype == jnp.float32
        assert sfp.Langevin(3, 0.1)(score, x1, key=jr.key(0)).dtype == jnp.float32
        assert sfp.ProbabilityFlow()(score, x1).dtype == jnp.float32
        starts = jnp.ones((2, 2), jnp.float32)
        assert sfp.sample(score, 2, key=jr.key(0), method=sfp.Euler(3), initial=starts).dtype == jnp.float32


@pytest.mark.quick
@pytest.mark.usefixtures("unchecked")
def test_bad_input() -> None:
    key = jr.key(0)
    unknown = (
        r"event shape is not known: score is a Score with shape = None\. Call sample\(score, n, shape=\(\.\.\.\)\)"
    )
    with pytest.raises(ValueError, match=unknown):
        sfp.sample(standard(), 2, key=key)
    with pytest.raises(ValueError, match=r"a sample has shape \(2,\), but the score's own has shape \(3,\)"):
        sfp.sample(standard((3,)), 2, key=key, shape=(2,))
    with pytest.raises(ValueError, match="n = 0"):
        sfp.sample(standard((3,)), 0, key=key)
    with pytest.raises(ValueError, match="batch_size = 0; at least one sample at once"):
        sfp.sample(standard((3,)), 2, key=key, batch_size=0)
    with pytest.raises(ValueError, match=r"initial has shape \(3, 3\); it must be \(n, \*event\) = \(2, 3\)"):
        sfp.sample(standard((3,)), 2, key=key, initial=jnp.ones((3, 3)))
    with pytest.raises(ValueError, match=r"initial has shape \(2, 4\); it must be \(n, \*event\) = \(2, 3\)"):
        sfp.sample(standard((3,)), 2, key=key, initial=jnp.ones((2, 4)))
    with pytest.raises(ValueError, match=r"initial has shape \(\); it must be"):
        sfp.sample(standard(), 2, key=key, initial=jnp.ones(()))
    with pytest.raises(TypeError, match="initial has dtype int32"):
        sfp.sample(standard(), 2, key=key, initial=jnp.ones((2, 3), int))
    for method in (sfp.EulerMaruyama, sfp.Euler, lambda steps: sfp.Langevin(steps, 0.1)):
        with pytest.raises(ValueError, match="steps = 0; a sampler needs at least one step"):
            method(0)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"step_size = {wrong}; a step is positive"):
            sfp.Langevin(1, wrong)
    with pytest.raises(ValueError, match=r"t = 2\.0 lies outside \[t0, t1\]"):
        sfp.Langevin(1, 0.1, 2.0)(standard(), jnp.ones(2), key=key)
    with pytest.raises(ValueError, match=r"the grid has shape \(3,\), but steps \+ 1 times has shape \(5,\)"):
        sfp.Euler(4, lambda sde, steps: jnp.linspace(1.0, 0.1, 3))(standard(), jnp.ones(2))
    with pytest.raises(ValueError, match=r"the grid has shape \(3,\), but steps \+ 1 times has shape \(5,\)"):
        sfp.EulerMaruyama(4, lambda sde, steps: jnp.linspace(1.0, 0.1, 3))(standard(), jnp.ones(2), key=key)
    with pytest.raises(TypeError, match="has no Gaussian kernel"):
        sfp.log_snr_grid(sfp.sde.CriticallyDampedLangevin(), 10)
    few = sfp.ProbabilityFlow(sfp.Integrator(max_steps=2))
    with pytest.raises(RuntimeError, match=r"max_steps = 2 did not bring it from t = 1\.0 to t = 1e-05"):
        jax.block_until_ready(sfp.sample(standard((2,)), 3, key=key, method=few))
