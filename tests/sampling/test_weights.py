"""Weighted samples: their laws and normalisers against quadrature, and what is said where weights fail [W1]-[W4]."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest
from helpers.refusals import refused
from helpers.tempered import Law, assert_law, line, line_law, other_line, potential_of
from jaxtyping import Array
from scipy.integrate import solve_ivp

import scorefp as sfp
from scorefp.sampling import WeightedSamples, _particles, feynman_kac, weighted_samples
from scorefp.sampling.weighted import systematic

SDE = sfp.VP(t0=1e-3)
METHOD = sfp.FeynmanKac(steps=200)
RUNS = 32


def parts() -> tuple[Any, Any]:
    return line().score(SDE), other_line().score(SDE)


def law_of(score: Any, **options: Any) -> Law:
    return line_law(functools.partial(potential_of(score).potential, SDE.t0), **options)


def off_without_weights(score: Any, law: Law) -> float:
    x = sfp.sample(score, RUNS * METHOD.particles, key=jr.key(0), method=sfp.EulerMaruyama(200))
    return law.off(x)


# ------------------------------------------------------------------------------------------- laws by quadrature
SLOW = pytest.mark.slow


def assert_corrected(score: Any, law: Law, *, steps: int, noise: float = 1.0) -> None:
    """The weights lead to the law; of the normaliser nothing is left of the order of the steps."""
    coarse, found = (
        weighted_samples(score, RUNS, key=jr.key(1), method=sfp.FeynmanKac(steps=n, noise=noise))
        for n in (steps // 2, steps)
    )
    assert_law(found, law, coarse=coarse)


@SLOW
@pytest.mark.parametrize(("beta", "noise", "steps"), [(0.5, 1.0, 200), (2.0, 1.5, 800), (4.0, 1.5, 3200)])
def test_annealing(beta: float, noise: float, steps: int) -> None:
    """Mode masses, moments and the normaliser of a power of a mixture; without the weights they are far off. The noise
    is one for which the weights have a variance.
    """
    score = sfp.Annealed(parts()[0], beta)
    law = law_of(score)
    assert_corrected(score, law, steps=steps, noise=noise)
    assert off_without_weights(score, law) > 10


COMPOSED: dict[str, Any] = {
    "product of two": lambda one, other: sfp.Product((one, other)),
    "guidance": lambda one, other: sfp.Guided(one, other, 1.0),
    "tilt": lambda one, other: sfp.Tilted(one, lambda t, x: jnp.sum(jnp.sin(x)) * (1 - t)),
    "nested": lambda one, other: sfp.Product((sfp.Annealed(one, 0.5), sfp.Tilted(other, lambda t, x: -jnp.sum(x)))),
}
NOISE = {"product of two": 1.5, "nested": 1.5}
"""Where the exponents have a sum above one."""


@pytest.mark.parametrize(
    "name", [name if name == "product of two" else pytest.param(name, marks=SLOW) for name in COMPOSED]
)
def test_compositions(name: str) -> None:
    score = COMPOSED[name](*parts())
    law = law_of(score)
    assert_corrected(score, law, steps=800, noise=NOISE.get(name, 1.0))
    assert off_without_weights(score, law) > 10


def wrong_potential() -> sfp.Potential:
    """One that is off its equation, and whose law at t0 is another than that of the mixture."""
    one, _ = parts()
    return sfp.Potential(lambda t, x: one.potential(t, x) + (1 - t) * jnp.sum(jnp.sin(2 * x)), SDE, (1,))


def test_a_wrong_potential_is_corrected_to_its_own_law() -> None:
    """Its residual is the rate."""
    wrong = wrong_potential()
    law = law_of(wrong)
    assert_law(weighted_samples(wrong, RUNS, key=jr.key(3), method=METHOD), law, slack=0.25)
    assert off_without_weights(wrong, law) > 10


@SLOW
def test_wrong_parts_are_corrected_where_it_is_asked_for() -> None:
    """By each method; a product that takes them for exact is far off."""
    product = sfp.Product((wrong_potential(), parts()[1]), [0.5, 0.5])
    law = law_of(product)
    for residual in (sfp.Exact(), sfp.Hutchinson(), sfp.Ito(), sfp.Antithetic(0.01)):
        method = sfp.FeynmanKac(steps=400, residual=residual)
        assert_law(weighted_samples(product, RUNS, key=jr.key(4), method=method), law, slack=0.1)
    mean = weighted_samples(product, RUNS, key=jr.key(4), method=METHOD).mean(law.statistics)
    assert np.max(np.abs((np.asarray(mean.value) - law.values) / np.asarray(mean.error))) > 10


@SLOW
def test_every_level_of_noise() -> None:
    """The ODE, the SDE and two processes between lead to one law."""
    score = sfp.Annealed(parts()[0], 0.6)
    law = law_of(score)
    for noise in (0.0, 0.3, 0.7, 1.0):
        method = sfp.FeynmanKac(steps=400, noise=noise, threshold=0.0)
        assert_law(weighted_samples(score, 64, key=jr.key(5), method=method), law)


def log_moment(noise: float, beta: float, horizon: float, power: float) -> float:
    r"""$\log E[w^p]$ of `Annealed` on N(0, 1), VP and the time $\int g^2$, but for the weight of the start and the
    divergence: by the Riccati equation of $E[\exp(c\int x^2)\,|\,x] = \exp(\tfrac12 p\,x^2 + q)$; infinite where it
    explodes.
    """
    kappa, c = beta - 1 + noise**2 * beta, 0.5 * power * beta * (beta - 1)
    gone = lambda _, y: y[0] - beta  # of which N(0, 1 / beta) has no mean
    gone.terminal = True
    slopes = lambda _, y: [noise**2 * y[0] ** 2 - kappa * y[0] + 2 * c, 0.5 * noise**2 * y[0]]
    found = solve_ivp(slopes, (0, horizon), [0.0, 0.0], rtol=1e-9, atol=1e-12, events=gone)
    p, q = found.y[:, -1]
    return math.inf if found.status == 1 else float(q - 0.5 * np.log(1 - p / beta))


def test_noise_for_which_weights_have_a_variance() -> None:
    """The two bounds of the documentation, from either side, for a long time."""
    for beta in (1.5, 2.0, 4.0):
        carried, resampled = ((factor * (1 - 1 / beta)) ** 0.5 for factor in (3 + 8**0.5, 2.0))
        assert np.isfinite(log_moment(1.02 * carried, beta, 200.0, 2.0))
        assert np.isinf(log_moment(0.98 * carried, beta, 200.0, 2.0))
        # The mean weight to come is exp(p x^2 / 2) with p = (beta - 1) / noise^2; its square has a mean for 2 p < beta.
        assert 2 * (beta - 1) / (1.02 * resampled) ** 2 < beta < 2 * (beta - 1) / (0.98 * resampled) ** 2


@SLOW
@pytest.mark.filterwarnings("ignore:the effective sample size collapsed")
def test_more_noise_leaves_more_particles() -> None:
    """Above the bound the effective share does not depend on the number of particles N, and is that of the Riccati
    equation. Below it moments end at 8/7, and of such weights the share falls like the power 1 - 2 / (8/7) = -3/4 of N
    in the limit; here by more than its power -1/4.
    """
    horizon, beta = 5.0, 2.0
    sde = sfp.VP(beta_min=horizon, beta_max=horizon, t0=1e-4)
    score = sfp.Annealed(sfp.Score(lambda t, x: -x, sde, (1,)), beta)
    shares = dict[tuple[float, int], tuple[float, float]]()
    for noise in (0.8, 2.5):
        for particles in (256, 4096):
            method = sfp.FeynmanKac(400, sfp.sampling.uniform_grid, noise, threshold=0.0, particles=particles)
            found = weighted_samples(score, RUNS, key=jr.key(0), method=method)
            share = np.asarray(found.ess[:, -1]) / particles
            shares[noise, particles] = share.mean(), share.std() / np.sqrt(RUNS)
    first, second = (log_moment(2.5, beta, horizon, power) for power in (1.0, 2.0))
    for particles in (256, 4096):
        mean, error = shares[2.5, particles]
        assert abs(mean - np.exp(2 * first - second)) < 3 * error + 0.02
    assert np.isinf(log_moment(0.8, beta, horizon, 8 / 7))
    (few, few_error), (many, error) = (shares[0.8, particles] for particles in (256, 4096))
    assert many + 3 * math.hypot(error, few_error / 2) < few / 2


@SLOW
def test_products_in_the_plane_and_of_three() -> None:
    from helpers.references import plane_mixture
    from helpers.tempered import plane_law

    other = sfp.GaussianMixture(jnp.array([[0.5, 0.4], [-0.7, -0.6]]), jnp.array([0.3, 0.5]), jnp.array([0.6, 0.4]))
    third = sfp.GaussianMixture(jnp.array([[0.0, 0.2]]), jnp.array([0.6]), jnp.array([1.0]))
    a, b, c = (mixture.score(SDE) for mixture in (plane_mixture(), other, third))
    for score in (sfp.Annealed(a, 2.0), sfp.Product((a, b)), sfp.Product((a, b, c), [1.0, 0.7, 0.5])):
        law = plane_law(functools.partial(potential_of(score).potential, SDE.t0))
        assert_corrected(score, law, steps=800, noise=1.5)
        assert off_without_weights(score, law) > 10


@SLOW
def test_order_in_the_steps() -> None:
    """The normaliser's error falls at order one."""
    score = sfp.Guided(*parts(), 1.0)
    law, steps = law_of(score), np.array([32, 64, 128])
    found = [
        weighted_samples(score, 256, key=jr.key(7), method=sfp.FeynmanKac(steps=int(n))).log_normaliser for n in steps
    ]
    errors = [abs(float(z.value) - law.log_normaliser) for z in found]
    assert all(error > 5 * float(z.error) for error, z in zip(errors, found, strict=True))
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert -1.4 < slope < -0.7


# ---------------------------------------------------------------------------------------------------- general G
def growing(sde: Any, t: Array) -> Array:
    """A strength that is nothing at t1 and two at t0."""
    return 2 * (sde.t1 - t) / (sde.t1 - sde.t0)


@SLOW
def test_underdamped_langevin_with_a_tilted_law() -> None:
    """Of its stationary law and a tilt of the position, which is normal in closed form."""
    sde = sfp.sde.CriticallyDampedLangevin(beta=2.0, t0=0.05)
    still = sfp.Score(lambda t, x: -x / jnp.array([[1.0], [sde.mass]]), sde, (2, 1))
    score = sfp.Tilted(still, lambda t, x: -0.5 * growing(sde, t) * jnp.sum((x[0] - 1) ** 2))
    found = weighted_samples(score, RUNS, key=jr.key(0), method=sfp.FeynmanKac(steps=800))
    statistics = lambda x: jnp.stack([x[0, 0], x[0, 0] ** 2, x[1, 0], x[1, 0] ** 2, x[0, 0] * x[1, 0]])
    want = np.array([2 / 3, 1 / 3 + 4 / 9, 0, sde.mass, 0])
    mean, plain = found.mean(statistics), sfp.sample(score, 20_000, key=jr.key(0), method=sfp.EulerMaruyama(200))
    assert np.all(np.abs(np.asarray(mean.value) - want) < 3 * np.asarray(mean.error))
    assert abs(float(found.log_normaliser.value) + 0.5 * np.log(3) + 1 / 3) < 0.02
    unweighted = np.asarray(jax.vmap(statistics)(plain))
    assert np.max(np.abs(unweighted.mean(axis=0) - want) / unweighted.std(axis=0)) * np.sqrt(20_000) > 10


class LogNormal(sfp.sde.AbstractPrior):
    """The law of geometric Brownian motion at t1."""

    mean: Array
    covariance: Array

    def log_prob(self, x: Array) -> Array:
        logs = jnp.log(x)
        return jax.scipy.stats.multivariate_normal.logpdf(logs, self.mean, self.covariance) - jnp.sum(logs)

    def sample(self, key: Any, shape: tuple[int, ...]) -> Array:
        return jnp.exp(self.mean + jnp.linalg.cholesky(self.covariance) @ jr.normal(key, shape))


@SLOW
def test_correlated_brownian_motion_with_a_tilted_law() -> None:
    """The logarithms are normal, and so they are with a tilt that is quadratic in them."""
    growth, volatility = jnp.array([0.3, -0.1]), jnp.array([[0.5, 0.0], [-0.2, 0.4]])
    start = {"log_mean": jnp.array([0.4, -0.3]), "log_covariance": 0.3 * jnp.eye(2)}
    rates = volatility @ volatility.T

    def law(t: float) -> tuple[Array, Array]:
        return start["log_mean"] + (growth - 0.5 * jnp.diag(rates)) * t, start["log_covariance"] + rates * t

    sde = sfp.sde.GeometricBrownianMotion(growth, volatility, LogNormal(*law(1.0)), t0=0.1, t1=1.0)
    exact = sfp.Potential(lambda t, x: sde.log_density(t, x, **start), sde, (2,))
    score = sfp.Tilted(exact, lambda t, x: -0.5 * growing(sde, t) * jnp.sum(jnp.log(x) ** 2))
    mean, covariance = map(np.asarray, law(0.1))
    precise = np.linalg.inv(covariance)
    tilted = np.linalg.inv(precise + 2 * np.eye(2))
    centre = tilted @ precise @ mean
    want = np.array([*centre, *(np.diag(tilted) + centre**2), tilted[0, 1] + centre[0] * centre[1]])
    statistics = lambda x: jnp.stack([*jnp.log(x), *(jnp.log(x) ** 2), jnp.prod(jnp.log(x))])
    found = weighted_samples(score, RUNS, key=jr.key(0), method=sfp.FeynmanKac(steps=800)).mean(statistics)
    assert np.all(np.abs(np.asarray(found.value) - want) < 3 * np.asarray(found.error))
    plain = sfp.sample(score, 20_000, key=jr.key(0), method=sfp.EulerMaruyama(400))
    unweighted = np.asarray(jax.vmap(statistics)(plain))
    assert np.max(np.abs(unweighted.mean(axis=0) - want) / unweighted.std(axis=0)) * np.sqrt(20_000) > 10


# ------------------------------------------------------------------------------------------------ pieces [W4]
@pytest.mark.usefixtures("x64")
def test_systematic_resampling() -> None:
    """A particle is kept as often as its weight says on average, never one more or less than that, and never without a
    weight.
    """
    log_w = jnp.array([-jnp.inf, 0.3, -2.0, 1.5, -jnp.inf, 0.0, -40.0, -jnp.inf])
    n, draws = 12, 20_000
    which = jax.vmap(lambda key: systematic(key, log_w, n))(jr.split(jr.key(0), draws))
    counts = np.asarray(jax.vmap(lambda row: jnp.bincount(row, length=8))(which))
    expected = n * np.asarray(jax.nn.softmax(log_w))
    assert np.all(np.abs(counts - expected) < 1)
    np.testing.assert_allclose(counts.mean(axis=0), expected, atol=4 * 0.5 / np.sqrt(draws))
    assert counts[:, [0, 4, 7]].sum() == 0
    last = systematic(jr.key(0), jnp.array([0.0, -jnp.inf], jnp.float32), 1 << 20)
    assert int(last.max()) == 0


def test_effective_sample_size_and_normaliser_of_known_weights() -> None:
    """A reward that is a function of time alone, on a law that stays: the weights are equal, and log Z is its value at
    t0. One of a potential that is linear at t1 alone has the start's weights.
    """
    stays = sfp.Potential(lambda t, x: -0.5 * jnp.sum(x**2) + 3 * t, sfp.VP(), (2,))
    found = weighted_samples(stays, 3, key=jr.key(0), method=sfp.FeynmanKac(steps=20, particles=50))
    np.testing.assert_allclose(found.ess, 50, rtol=1e-4)
    np.testing.assert_allclose(found.log_normalisers, np.log(2 * np.pi) + 3e-5, atol=1e-3)
    assert found.samples.shape == (3, 50, 2)
    assert found.ess.shape == (3, 21)
    np.testing.assert_allclose(jnp.exp(found.log_weights).sum(), 1, rtol=1e-5)
    none = jnp.zeros(1, int)
    state = _particles.State(jnp.zeros((1, 4, 1)), jnp.zeros((1, 4)), jnp.zeros(1), none, none - 1, none)
    weighed, ess = _particles.weighed(state, jnp.log(jnp.array([[1.0, 2.0, 3.0, 2.0]])), jnp.asarray(0))
    np.testing.assert_allclose(ess, [64 / 18], rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(weighed.log_w), [[0.5, 1, 1.5, 1]], rtol=1e-6)
    np.testing.assert_allclose(weighed.log_z, [np.log(2)], rtol=1e-6)


def test_errors_over_runs() -> None:
    """Of a ratio and of the logarithm of a mean, against ten thousand repetitions of known draws."""
    runs, particles, repeats = 20, 5, 4000

    def one(key: Any) -> tuple[Array, ...]:
        keys = jr.split(key)
        x = jr.normal(keys[0], (runs, particles, 1))
        log_w = 0.5 * x[..., 0] + 0.3 * jr.normal(keys[1], (runs, 1))
        z = jax.nn.logsumexp(log_w, axis=1) - np.log(particles)
        found = WeightedSamples(x, log_w - jax.nn.logsumexp(log_w), jnp.zeros(1), jnp.ones((runs, 1)), z)
        mean, total = found.mean(lambda x: x[0]), found.log_normaliser
        return mean.value, mean.error, total.value, total.error

    value, error, total, total_error = map(np.asarray, jax.jit(jax.vmap(one))(jr.split(jr.key(0), repeats)))
    np.testing.assert_allclose(value.mean(), 0.5, atol=0.02)
    np.testing.assert_allclose(error.mean(), value.std(), rtol=0.1)
    np.testing.assert_allclose(total.mean(), 0.125 + 0.045, atol=0.01)
    np.testing.assert_allclose(total_error.mean(), total.std(), rtol=0.1)


# ------------------------------------------------------------------------------------------------ calls
SMALL = sfp.FeynmanKac(steps=10, particles=16)


def test_runs_do_not_depend_on_their_company() -> None:
    """A run is the same in batches, of particles too, on a mesh and beside other runs; one program serves all betas."""
    score = sfp.Annealed(parts()[0], 0.7)
    found = weighted_samples(score, 5, key=jr.key(0), method=SMALL)
    for options in ({"batch_size": 16}, {"batch_size": 7}, {"batch_size": 40, "mesh": sfp.data_mesh()}):
        again = weighted_samples(score, 5, key=jr.key(0), method=SMALL, **options)
        np.testing.assert_allclose(again.samples, found.samples, atol=1e-5)
        np.testing.assert_allclose(again.log_weights, found.log_weights, atol=1e-4)
    np.testing.assert_allclose(
        weighted_samples(score, 2, key=jr.key(0), method=SMALL).log_normalisers, found.log_normalisers[:2], atol=1e-5
    )
    compiled = feynman_kac._blocks._cached._cache_size()
    for beta in (0.9, 0.8):
        weighted_samples(sfp.Annealed(parts()[0], beta), 5, key=jr.key(2), method=SMALL)
    assert feynman_kac._blocks._cached._cache_size() == compiled


def test_conditioning_of_each_run() -> None:
    """Runs with a conditioning of their own have it, and its normaliser."""
    family = sfp.Score(lambda t, x, args: -x, SDE, (1,))
    tilted = sfp.Tilted(family, lambda t, x, args: args * (1 - t))
    found = weighted_samples(tilted, 3, key=jr.key(0), method=SMALL, args=jnp.array([0.0, 1.0, 5.0]))
    np.testing.assert_allclose(found.log_normalisers, [0, 1, 5], atol=0.02)


def test_samples_are_resampled() -> None:
    """Any number of them, in random order, of the weighted law; float64 states of a float32 score too."""
    score = sfp.Annealed(parts()[0], 2.0)
    law = law_of(score)
    # With a noise for which the weights of a sharper law have a variance.
    method = sfp.FeynmanKac(steps=200, noise=1.5)
    x = sfp.sample(score, RUNS * method.particles, key=jr.key(1), method=method)[:5000]
    assert x.shape == (5000, 1)
    np.testing.assert_allclose(np.asarray(jax.vmap(law.statistics)(x)).mean(axis=0), law.values, atol=0.1)
    assert len(jnp.unique(x)) > 1000
    assert abs(np.corrcoef(x[:-1, 0], x[1:, 0])[0, 1]) < 0.06
    flat = sfp.Annealed(parts()[0], 0.7)
    inside = jax.jit(lambda key: sfp.sample(flat, 7, key=key, method=SMALL))(jr.key(3))
    np.testing.assert_allclose(inside, sfp.sample(flat, 7, key=jr.key(3), method=SMALL), atol=1e-5)


def test_a_network_stays_in_its_precision() -> None:
    """Under a state in float64 too, with exponents that are numbers of Python; exact scores in float64 stay so."""
    seen: set[Any] = set()

    class Watched(sfp.score.AbstractScore):
        slope: Array

        @property
        def sde(self) -> sfp.VP:
            return SDE

        @property
        def shape(self) -> tuple[int, ...]:
            return (1,)

        def __call__(self, t: Array, x: Array) -> Array:
            seen.add(x.dtype)
            return self.slope * x

    single = Watched(jnp.array(-1.0, jnp.float32))
    method = sfp.FeynmanKac(steps=2, particles=4)
    with jax.enable_x64(True):
        nested = sfp.Product((sfp.Annealed(single, 1.1), single), [0.5, 0.5])
        assert weighted_samples(nested, 1, key=jr.key(0), method=method).samples.dtype == jnp.float64
        assert seen == {jnp.dtype(jnp.float32)}
        double = Watched(jnp.array(-1.0, jnp.float64))
        weighted_samples(sfp.Annealed(double, 1.1), 1, key=jr.key(0), method=method)
        assert seen == {jnp.dtype(jnp.float32), jnp.dtype(jnp.float64)}


# ------------------------------------------------------------------------------------------------ when it fails
def test_no_particle_left() -> None:
    """It is named with run, step and time, and stops a compiled program."""
    method = sfp.FeynmanKac(steps=10, particles=16, grid=sfp.sampling.uniform_grid)
    hopeless = sfp.Tilted(sfp.Score(lambda t, x: -x, sfp.VP(), (1,)), _nan_below_a_half)
    options: dict[str, Any] = {"key": jr.key(0), "method": method}
    pattern = r"run 0 and of 1 other runs.*from step 6 of 10 on, t = 0.4.*: 16 of its 16 particles"
    refused(pattern, weighted_samples, hopeless, 2, error=RuntimeError, **options)
    refused(pattern, sfp.sample, hopeless, 20, error=RuntimeError, **options)
    with pytest.raises(Exception, match="all weights of a run are zero or not finite"):
        jax.block_until_ready(jax.jit(lambda key: sfp.sample(hopeless, 2, key=key, method=method))(jr.key(0)))


def _nan_below_a_half(t: Array, x: Array) -> Array:
    return jnp.where(t < 0.45, jnp.nan, 1.0) * jnp.sum(x)


def test_some_particles_left() -> None:
    """Those that are not finite have the weight zero and are counted; none is returned."""
    score = sfp.Tilted(
        sfp.Score(lambda t, x: -x, sfp.VP(), (1,)), lambda t, x: jnp.where(x[0] > 1.0, jnp.nan, 1.0) * x[0] * 1e-3
    )
    method = sfp.FeynmanKac(steps=10, particles=200, threshold=0.0)
    with pytest.warns(UserWarning, match=r"a particle of 2 runs of 200 was not finite") as told:
        found = weighted_samples(score, 2, key=jr.key(0), method=method)
    times = next(int(str(one.message).split()[0]) for one in told if "was not finite" in str(one.message))
    assert 0 < times <= 400  # none of them twice
    assert bool(jnp.isfinite(found.samples).all())
    assert bool(jnp.isfinite(found.mean(lambda x: x).value).all())


def test_means_of_any_kind_and_gradients() -> None:
    """Booleans and integers are averaged like floats; log Z has a derivative, that of differences."""
    score = parts()[0]
    found = weighted_samples(sfp.Annealed(score, 0.8), 2, key=jr.key(0), method=SMALL)
    want = found.mean(lambda x: (x[0] < 0).astype(x.dtype))
    for kind in (bool, int):
        again = found.mean(lambda x, kind=kind: (x[0] < 0).astype(kind))
        np.testing.assert_allclose([again.value, again.error], [want.value, want.error], rtol=1e-6)
    assert 0 < want.value < 1
    method = sfp.FeynmanKac(steps=10, particles=16, threshold=0.0)

    @jax.jit
    def log_z(beta: Array) -> Array:
        annealed = sfp.Annealed(score, beta)
        return weighted_samples(annealed, 2, key=jr.key(1), method=method).log_normaliser.value

    step = 0.02
    difference = (log_z(jnp.asarray(0.8 + step)) - log_z(jnp.asarray(0.8 - step))) / (2 * step)
    eager = lambda beta: weighted_samples(sfp.Annealed(score, beta), 2, key=jr.key(1), method=method).log_normaliser
    np.testing.assert_allclose(jax.grad(lambda beta: eager(beta).value)(0.8), difference, rtol=0.02)


def test_a_collapsed_population() -> None:
    """Without resampling it is told of with the number; not where there are enough."""
    score = sfp.Annealed(parts()[0], 3.0)
    method = sfp.FeynmanKac(steps=100, particles=256, threshold=0.0)
    with pytest.warns(
        UserWarning, match=r"collapsed in \d of 2 runs, to [\d.]+ of 256 particles.*threshold = 0.*resample"
    ):
        found = weighted_samples(score, 2, key=jr.key(0), method=method)
    assert float(found.ess.min()) < 10


def test_bad_input() -> None:
    one, other = parts()
    options: dict[str, Any] = {"key": jr.key(0), "method": SMALL}
    bare = sfp.Score(lambda t, x: -x, SDE, (1,))
    refused("score is a Score.*no composition", weighted_samples, bare, 2, error=TypeError, **options)
    refused("score is a Score.*no composition", sfp.sample, bare, 2, error=TypeError, **options)
    nothing = sfp.Product((one, other), [1.0, -1.0])
    refused("have the sum 0, which must be positive", weighted_samples, nothing, 2, **options)
    annealed = sfp.Annealed(one, 2.0)
    refused("args is given.*FeynmanKac.*weighted_samples", sfp.sample, annealed, 2, args=jnp.zeros(2), **options)
    refused("initial is given.*FeynmanKac", sfp.sample, annealed, 2, initial=jnp.zeros((2, 1)), **options)
    refused("runs = 3", weighted_samples, annealed, 3, args=jnp.zeros(2), **options)
    refused("half precision", weighted_samples, annealed, 2, dtype=jnp.float16, error=TypeError, **options)
    refused("method", weighted_samples, annealed, 2, key=jr.key(0), method=sfp.Heun(), error=TypeError)
    refused("SDE", sfp.Product, (one, line().score(sfp.EDM())))
    residual = sfp.FeynmanKac(residual=sfp.Exact())
    refused(
        "score.scores.0. is a Score",
        sfp.sample,
        sfp.Annealed(bare, 2.0),
        2,
        key=jr.key(0),
        method=residual,
        error=TypeError,
    )
    for wrong in ({"noise": -0.5}, {"threshold": -0.1}, {"particles": 0}, {"steps": 0}):
        refused(next(iter(wrong)), sfp.FeynmanKac, **wrong)
    late = sfp.FeynmanKac(steps=2, grid=lambda sde, steps: jnp.linspace(0.5, sde.t0, steps + 1))
    refused("does not start at t1", weighted_samples, annealed, 2, key=jr.key(0), method=late)


@pytest.mark.usefixtures("unchecked")
def test_where_samples_are_drawn_one_by_one() -> None:
    score = sfp.Annealed(parts()[0], 2.0)
    alone = "is a FeynmanKac, whose samples are drawn together"
    refused(alone, sfp.ode_sde_gap, score, key=jr.key(0), sde=SMALL, error=TypeError)
    refused("method is a FeynmanKac", sfp.diagnostics.SampleQuality, method=SMALL, error=TypeError)
    refused(alone, sfp.data.sample_to, "x.npy", score, 2, key=jr.key(0), method=SMALL, error=TypeError)


def test_more_noises_than_elements() -> None:
    """A tilt by a linear function of a law that noise spreads: its mean is the tilt times the variance."""
    mixing = jnp.array([[0.6, 0.0, 0.8], [0.6, 0.8, 0.0]])
    still = sfp.sde.Normal(1.0)
    wide = sfp.GeneralSDE(
        lambda t, x: jnp.zeros_like(x), lambda t, x: lx.MatrixLinearOperator(mixing), still, t0=0.5, t1=1.0
    )

    def covariance(t: Array) -> Array:
        return jnp.eye(2) + (t - 1.0) * mixing @ mixing.T  # that of the prior at t1

    exact = sfp.Potential(
        lambda t, x: -0.5 * x @ jnp.linalg.solve(covariance(t), x) - 0.5 * jnp.linalg.slogdet(covariance(t))[1], wide
    )
    slope = jnp.array([0.5, -0.3])
    tilted = sfp.Tilted(exact, lambda t, x: slope @ x)
    found = weighted_samples(tilted, 16, key=jr.key(0), method=sfp.FeynmanKac(steps=50, particles=512), shape=(2,))
    mean, want = found.mean(lambda x: x), covariance(jnp.asarray(wide.t0)) @ slope
    assert np.all(abs(mean.value - want) < 4 * mean.error)
    assert np.all(abs(want) > 10 * mean.error)
