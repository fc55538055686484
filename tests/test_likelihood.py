"""Log-likelihoods of the probability flow against closed forms [K1], [X1], [X2], and dequantisation [K7]."""

import math
from collections.abc import Callable, Iterator

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import pytest
from gaussian import gaussian, gaussian_flow, geometric, without_gap
from jaxtyping import Array
from references import LINEAR, MIXTURES, assert_mean, line_mixture, plane_mixture

import scorefp as sfp
from scorefp.sde import AbstractLinearSDE

TIGHT = sfp.Integrator(diffrax.Dopri8(), rtol=1e-9, atol=1e-9)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """What a user sees, without the checks of types that come with the tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("make", LINEAR.values(), ids=LINEAR.keys())
def test_gaussian_closed_form(make: Callable[[], AbstractLinearSDE]) -> None:
    sde, x = make(), jnp.array([0.9, 0.5])
    push, log_determinant = gaussian_flow(sde, sde.t0, sde.t1)
    result = sfp.flow_likelihood(gaussian().score(sde), x, integrator=TIGHT)
    assert float(result.log_prob) == pytest.approx(float(sde.prior.log_prob(push(x)) + log_determinant), abs=1e-6)
    np.testing.assert_allclose(result.latent, push(x), rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", MIXTURES.keys())
def test_mixture_of_any_event_shape(shape: str) -> None:
    """Where the prior is the exact law at `t1`, the likelihood is the exact density at `t0`."""
    mixture = MIXTURES[shape]()
    exact = mixture.score(sfp.OU(t1=3.0))
    model = sfp.Score(exact, without_gap(exact))
    x = mixture.sample(jr.key(0), 1)[0]
    got = sfp.log_likelihood(model, x, integrator=TIGHT)
    assert float(got) == pytest.approx(float(exact.potential(exact.sde.t0, x)), abs=1e-6)


@pytest.mark.usefixtures("x64")
def test_general_sde() -> None:
    """Geometric Brownian motion: the diffusion is a full matrix and depends on the sample."""
    score, x = geometric(), jnp.array([1.3, 0.6])
    want = geometric_log_density(score, x)
    assert float(sfp.log_likelihood(score, x, integrator=TIGHT)) == pytest.approx(want, abs=1e-6)
    wrong = sfp.Score(lambda t, x: score(t, x) + 0.5, score.sde)
    assert abs(float(sfp.log_likelihood(wrong, x)) - want) > 1e-2


def geometric_log_density(score: sfp.Score, x: Array) -> float:
    """The log-normal density at `t0 = 0`, from its parameters in `gaussian.py`."""
    mean, covariance = np.array([0.1, -0.2]), np.array([[0.3, 0.1], [0.1, 0.2]])
    away = np.log(np.asarray(x)) - mean
    normal = -0.5 * away @ np.linalg.solve(covariance, away) - 0.5 * math.log(np.linalg.det(2 * math.pi * covariance))
    return normal - float(np.log(np.asarray(x)).sum())


class Scaled(eqx.Module):
    """A score with one parameter on top of an exact one."""

    exact: sfp.AbstractPotential
    scale: Array

    def __call__(self, t: Array, x: Array) -> Array:
        return self.scale * self.exact(t, x)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "adjoint",
    [diffrax.RecursiveCheckpointAdjoint(), diffrax.DirectAdjoint(), diffrax.BacksolveAdjoint()],
    ids=lambda adjoint: type(adjoint).__name__,
)
def test_gradients_of_every_adjoint(adjoint: diffrax.AbstractAdjoint) -> None:
    """In `x` the exact score at `t0`; in the parameters, finite differences."""
    exact = line_mixture().score(sfp.OU(t1=3.0))
    sde, x = without_gap(exact), jnp.array(0.3)
    integrator = sfp.Integrator(rtol=1e-7, atol=1e-7, adjoint=adjoint)

    def value(model: sfp.Score, x: Array) -> Array:
        return sfp.log_likelihood(model, x, integrator=integrator)

    def model(scale: float) -> sfp.Score:
        return sfp.Score(Scaled(exact, jnp.asarray(scale)), sde)

    by_model, by_x = eqx.filter_grad(lambda both: value(*both))((model(1.0), x))
    assert float(by_x) == pytest.approx(float(exact(sde.t0, x)), abs=1e-4)
    h = 1e-3
    by_scale = (value(model(1 + h), x) - value(model(1 - h), x)) / (2 * h)
    assert float(by_model.fn.scale) == pytest.approx(float(by_scale), abs=1e-4)
    assert abs(float(by_x)) > 0.1
    assert abs(float(by_scale)) > 0.1


@pytest.mark.usefixtures("x64")
def test_forward_mode() -> None:
    exact, x = line_mixture().score(sfp.OU(t1=3.0)), jnp.array(0.3)
    integrator = sfp.Integrator(rtol=1e-8, atol=1e-8, adjoint=diffrax.ForwardMode())
    model = sfp.Score(exact, without_gap(exact))
    slope = jax.jacfwd(lambda x: sfp.log_likelihood(model, x, integrator=integrator))(x)
    assert float(slope) == pytest.approx(float(exact(exact.sde.t0, x)), abs=1e-5)


@pytest.mark.usefixtures("x64")
def test_density_of_any_score_integrates_to_one() -> None:
    exact = line_mixture().score(sfp.VP())
    wrong = sfp.Score(lambda t, x: 0.95 * exact(t, x - 0.1) + 0.1 * jnp.sin(3 * x), exact.sde)
    x = jnp.linspace(-5.0, 5.0, 401)
    log_prob = jax.vmap(lambda x: sfp.log_likelihood(wrong, x))(x)
    assert float(jnp.trapezoid(jnp.exp(log_prob), x)) == pytest.approx(1.0, abs=1e-4)
    exact_log_prob = jax.vmap(lambda x: exact.potential(exact.sde.t0, x))(x)
    assert jnp.abs(jnp.exp(log_prob) - jnp.exp(exact_log_prob)).max() > 0.1


def test_float32_near_t0() -> None:
    """The defaults in float32 on data so narrow that the score at `t0` is of order 100, against the closed form."""
    narrow, sde = gaussian(1e-4), sfp.VP()
    xs = narrow.sample(jr.key(0), 16)
    got = jax.vmap(lambda x: sfp.log_likelihood(narrow.score(sde), x))(xs)
    assert got.dtype == jnp.float32
    assert jnp.abs(jax.vmap(lambda x: narrow.score(sde)(sde.t0, x))(xs)).max() > 100
    with jax.enable_x64(True):
        push, log_determinant = gaussian_flow(sde, sde.t0, sde.t1, 1e-4)
        want = jax.vmap(lambda x: sde.prior.log_prob(push(x)) + log_determinant)(jnp.asarray(xs, jnp.float64))
    np.testing.assert_allclose(got, want, atol=2e-3)


def exact_plane() -> sfp.Score:
    """A mixture in the plane whose likelihood is its density at `t0`."""
    exact = plane_mixture().score(sfp.OU(t1=3.0))
    return sfp.Score(exact, without_gap(exact))


@pytest.mark.usefixtures("x64")
def test_hutchinson_is_unbiased_with_probes_fixed_in_a_solve(getkey: Callable[[], Array]) -> None:
    score, x = exact_plane(), jnp.array([0.3, -0.2])
    exact = score.fn.potential(score.sde.t0, x)

    def estimate(key: Array) -> Array:
        return sfp.log_likelihood(score, x, trace=sfp.Hutchinson(), key=key)

    keys = jr.split(getkey(), 256)
    estimates = jax.vmap(estimate)(keys)
    assert_mean(estimates, exact)
    # Two signs in the plane: probes that stay fixed give one of two values. Fresh ones at each step would mix them.
    values = np.unique(np.round(np.asarray(estimates), 3))
    assert values.size == 2
    assert values[1] - values[0] > 0.02
    assert float(estimate(keys[0])) == float(estimate(keys[0]))


@pytest.mark.usefixtures("x64")
def test_batch_is_one_solve_of_the_same_thing(getkey: Callable[[], Array]) -> None:
    score = exact_plane()
    xs = score.fn.mixture.sample(getkey(), 256)
    want = jax.vmap(lambda x: score.fn.potential(score.sde.t0, x))(xs)
    np.testing.assert_allclose(sfp.batch_log_likelihood(score, xs), want, atol=1e-3)
    # Probes are independent between samples: equal samples get different estimates, whose mean is the exact value.
    same = jnp.broadcast_to(xs[0], (256, 2))
    estimates = sfp.batch_log_likelihood(score, same, trace=sfp.Hutchinson(), key=getkey())
    assert_mean(estimates, want[0])


@pytest.mark.usefixtures("x64")
def test_error_estimate_is_the_error() -> None:
    score = exact_plane()
    xs = score.fn.mixture.sample(jr.key(0), 32)
    loose = sfp.Integrator(rtol=1e-3, atol=1e-3)
    found = jax.vmap(lambda x: sfp.flow_likelihood(score, x, integrator=loose, error=True))(xs)
    truth = jax.vmap(lambda x: score.fn.potential(score.sde.t0, x))(xs)
    assert found.error is not None
    error = jnp.abs(found.log_prob - truth)
    assert float(jnp.median(error)) > 1e-4
    assert 0.5 < float(jnp.median(found.error / error)) < 2.0
    plain = jax.vmap(lambda x: sfp.flow_likelihood(score, x, integrator=loose))(xs)
    assert plain.error is None
    np.testing.assert_array_equal(plain.log_prob, found.log_prob)
    assert bool(jnp.all(plain.success))


@pytest.mark.quick
@pytest.mark.usefixtures("unchecked")
def test_bad_samples() -> None:
    score = sfp.Score(lambda t, x: -x, sfp.VP())
    for of_one in (sfp.log_likelihood, sfp.flow_likelihood, sfp.batch_log_likelihood):
        with pytest.raises(TypeError, match=r"has dtype int32; .*UniformDequantiser"):
            of_one(score, jnp.zeros((2, 2), jnp.int32))
        with pytest.raises(ValueError, match="holds NaN or infinite entries"):
            of_one(score, jnp.array([[0.0, jnp.nan]]))
        with pytest.raises(ValueError, match=r"key is None, but Hutchinson draws .*key=jax.random.key"):
            of_one(score, jnp.zeros((2, 2)), trace=sfp.Hutchinson())
    with pytest.raises(RuntimeError, match="x holds NaN"):
        jax.block_until_ready(jax.jit(lambda x: sfp.log_likelihood(score, x))(jnp.array([jnp.inf])))
    with pytest.raises(ValueError, match=r"xs has shape \(\); it needs a leading axis"):
        sfp.batch_log_likelihood(score, jnp.zeros(()))
    with pytest.raises(ValueError, match=r"xs has shape \(0, 2\)"):
        sfp.batch_log_likelihood(score, jnp.zeros((0, 2)))
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
    with pytest.raises(ValueError, match="levels = 1; quantised data have at least two levels"):
        sfp.Quantisation(1, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"\[low, high\] = \[1.0, -1.0\]; .*low < high"):
        sfp.Quantisation(256, 1.0, -1.0)
    with pytest.raises(ValueError, match="finite interval"):
        sfp.Quantisation(256, 0.0, float("inf"))
    dequantise, key = sfp.UniformDequantiser(sfp.Quantisation(17, -1.0, 1.0)), jr.key(0)
    with pytest.raises(TypeError, match=r"k has dtype float32; levels are integers 0 … 16. .*k.astype\(jnp.int32\)"):
        dequantise(jnp.zeros(3), key=key)
    for outside in (17, -1):
        with pytest.raises(ValueError, match=r"outside 0 … 16"):
            dequantise(jnp.array([0, outside]), key=key)
    with pytest.raises(RuntimeError, match=r"outside 0 … 16"):
        jax.block_until_ready(jax.jit(lambda k: dequantise(k, key=key))(jnp.array([17])))
    with pytest.raises(ValueError, match="size = 0"):
        sfp.bits_per_dim(jnp.zeros(()), 0, sfp.Quantisation(17, -1.0, 1.0))
