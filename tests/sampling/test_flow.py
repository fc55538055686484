"""Samples of the probability flow with their log-likelihood from one solve, against closed forms and a second solve."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.gaussian import gaussian, gaussian_flow
from helpers.references import assert_mean, perturbed, plane_mixture, standard
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp

pytestmark = pytest.mark.usefixtures("x64")

TIGHT = sfp.Integrator(rtol=1e-10, atol=1e-10)


def test_one_normal_law_in_closed_form() -> None:
    """Latents are the prior's draws, samples their image, and log p is the prior's less the log of the stretch."""
    sde, score, n = sfp.VP(), gaussian().score(sfp.VP()), 6
    push, stretch = gaussian_flow(sde, sde.t1, sde.t0)
    found = sfp.flow_samples(score, n, key=jr.key(0), integrator=TIGHT)
    again = sfp.sample(score, n, key=jr.key(0), method=sfp.ProbabilityFlow(TIGHT))
    np.testing.assert_allclose(found.samples, jax.vmap(push)(found.latent), atol=1e-8)
    np.testing.assert_allclose(found.samples, again, atol=1e-8)
    np.testing.assert_allclose(found.log_prob, jax.vmap(sde.prior.log_prob)(found.latent) - stretch, atol=1e-8)
    assert abs(float(stretch)) > 1
    assert found.evaluations.shape == found.success.shape == (n,)
    assert bool(found.success.all())
    # Those of batches on a mesh too, and of latents that are given.
    in_fours = {"initial": found.latent, "batch_size": 4, "mesh": sfp.data_mesh()}
    shared = sfp.flow_samples(score, n, key=jr.key(0), integrator=TIGHT, **in_fours)
    np.testing.assert_allclose(shared.samples, found.samples, atol=1e-10)
    np.testing.assert_allclose(shared.log_prob, found.log_prob, atol=1e-10)
    assert jax.tree.map(jnp.shape, shared) == jax.tree.map(jnp.shape, found)


def test_a_second_solve_says_the_same() -> None:
    """Of any score; of the exact one it is the density of the data at `t0`, which a wrong one misses."""
    truth = plane_mixture().score(sfp.VP(t0=1e-3))

    @jax.jit
    def again(found: sfp.sampling.FlowSamples, eta: Array) -> tuple[Array, ...]:
        score = perturbed(truth, eta)
        second = jax.vmap(lambda x: sfp.flow_likelihood(score, x))(found.samples)
        down = lambda z: sfp.reverse.flow_map(score, z, start=1.0, stop=1e-3, integrator=sfp.Integrator())
        density = jax.vmap(lambda x: truth.potential(truth.sde.t0, x))(found.samples)
        return second.log_prob, second.latent, density, second.evaluations + jax.vmap(down)(found.latent).evaluations

    for eta in jnp.array([0.0, 0.3]):
        found = sfp.flow_samples(perturbed(truth, eta), 64, key=jr.key(1))
        log_prob, latent, density, evaluations = again(found, eta)
        np.testing.assert_allclose(found.log_prob, log_prob, atol=2e-3)
        np.testing.assert_allclose(found.latent, latent, atol=2e-4)
        error = np.abs(found.log_prob - density)
        assert error.max() < 0.01 if eta == 0 else error.mean() > 0.05
        # One solve in place of two.
        assert int(found.evaluations.sum()) < 0.8 * int(evaluations.sum())


def test_probes_leave_the_log_likelihood_unbiased(getkey: Callable[[], Array]) -> None:
    """Probes are drawn once a solve, one a sample: the means of many at one latent are that of the exact trace."""
    score, n = gaussian().score(sfp.VP()), 2000
    latents = jnp.tile(jnp.array([0.3, -0.8]), (n, 1))
    draw = functools.partial(sfp.flow_samples, score, n, key=getkey(), initial=latents)
    exact = sfp.flow_samples(score, 1, key=getkey(), initial=latents[:1])
    found = draw(trace=sfp.Hutchinson())
    np.testing.assert_allclose(found.samples, jnp.broadcast_to(exact.samples, (n, 2)), atol=1e-3)
    assert float(found.log_prob.std()) > 0.05
    assert_mean(found.log_prob, exact.log_prob[0])


@pytest.mark.slow
def test_gradients_go_through_the_solve() -> None:
    """For a normal law log p at the image of a latent is log π(z) plus a constant, and the image is linear in it."""
    sde = sfp.VP()
    push, _ = gaussian_flow(sde, sde.t1, sde.t0)
    latents = jnp.array([[0.3, -0.8], [-1.0, 0.2]])

    score = gaussian().score(sde)

    def value(latents: Array) -> Array:
        found = sfp.flow_samples(
            score, 2, key=jr.key(0), initial=latents, integrator=sfp.Integrator(rtol=1e-8, atol=1e-8)
        )
        return jnp.sum(found.log_prob + 3 * found.samples[:, 0])

    want = 3 * jax.vmap(jax.grad(lambda z: push(z)[0]))(latents) - latents / sde.sigma(sde.t1) ** 2
    np.testing.assert_allclose(jax.jit(jax.grad(value))(latents), want, atol=1e-6)


def test_conditioning_goes_to_its_sample() -> None:
    """`args` moves the law of each sample, and its density with it; the model is asked at one label."""
    places, sde = jnp.array([-2.0, 0.0, 3.0]), sfp.VP()

    def fn(t: Array, x: Array, *, args: Array) -> Array:
        return -(x - sde.alpha(t) * args) / (0.25 * sde.alpha(t) ** 2 + sde.sigma(t) ** 2)

    found = sfp.flow_samples(sfp.Score(fn, sde, ()), 3, key=jr.key(0), args=places)
    want = jax.scipy.stats.norm.logpdf(found.samples, places, 0.5)
    np.testing.assert_allclose(found.log_prob, want, atol=0.05)  # the prior is off by alpha(t1) = 0.007 of a place
    assert float(jnp.abs(found.samples - places).max()) < 2


@pytest.mark.filterwarnings("always")
def test_failed_solves_are_told_as_samples_are() -> None:
    """By their number, in a warning or an error; NaN for them alone."""
    steep = sfp.Score(lambda t, x: jnp.where(x[0] > 2, -jnp.inf, -x), sfp.VP(), (2,))
    initial = jnp.zeros((5, 2)).at[3, 0].set(2.5)
    draw = functools.partial(sfp.flow_samples, steep, 5, key=jr.key(0), initial=initial)
    lenient = sfp.Integrator(throw=False)
    with pytest.warns(UserWarning, match="1 of 5 samples failed: 1 are not finite"):
        found = draw(integrator=lenient)
    failed = np.arange(5) == 3
    np.testing.assert_array_equal(found.success, ~failed)
    np.testing.assert_array_equal(np.isnan(found.log_prob), failed)
    np.testing.assert_array_equal(np.isnan(found.samples).all(axis=1), failed)
    with pytest.raises(RuntimeError, match="1 of 5 samples failed"):
        draw(integrator=lenient, throw=True)


def test_one_compilation_and_the_precision() -> None:
    traces: list[int] = []

    def fn(t: Array, x: Array) -> Array:
        traces.append(1)
        return -x

    score = sfp.Score(fn, sfp.VP(), (3,))
    first = sfp.flow_samples(score, 4, key=jr.key(0), dtype=jnp.float32)
    count = len(traces)
    second = sfp.flow_samples(score, 4, key=jr.key(1), dtype=jnp.float32)
    assert len(traces) == count
    assert np.all(first.samples != second.samples)
    assert (first.samples.dtype, first.log_prob.dtype) == (jnp.float32, jnp.float32)
    np.testing.assert_allclose(jax.vmap(sfp.VP().prior.log_prob)(first.samples), first.log_prob, atol=1e-4)


@pytest.mark.quick
@pytest.mark.usefixtures("unchecked")
def test_bad_input() -> None:
    draw = functools.partial(sfp.flow_samples, standard(shape=(2,)), 3, key=jr.key(0))
    half = r"initial has dtype bfloat16; a measurement does not round to half precision"
    refused(half, draw, initial=jnp.zeros((3, 2), jnp.bfloat16), error=TypeError)
    refused("dtype = bfloat16; a likelihood does not round to half", draw, dtype=jnp.bfloat16, error=TypeError)
    refused(r"initial has shape \(2, 2\)", draw, initial=jnp.zeros((2, 2)))
    refused(r"trace is a function\. It is Exact\(\)", draw, trace=lambda: None, error=TypeError)
    refused(r"integrator is 'fast'", draw, integrator="fast", error=TypeError)
