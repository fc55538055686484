"""The solve that likelihood and ODE samples share: where it goes, what it costs, and how it fails."""

import math
from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.gaussian import gaussian, gaussian_flow
from helpers.references import LINEAR, times
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp
from scorefp.calculus import value_and_divergence
from scorefp.reverse.ode import (
    FixedProbes,
    batch_flow_map_with_divergence,
    clock,
    flow_map,
    flow_map_with_divergence,
    time_and_pace,
)
from scorefp.sde import AbstractLinearSDE

pytestmark = pytest.mark.usefixtures("x64")


def steep(t: Array, x: Array) -> Array:
    """A score that pulls harder the farther away: a path from 5 leaves the range of floats in no time."""
    return -100 * x**3


@pytest.mark.parametrize("forward", [True, False], ids=["t0 to t1", "t1 to t0"])
def test_transport_is_the_flow_map(forward: bool) -> None:
    sde = sfp.VP()
    start, stop = (sde.t0, sde.t1) if forward else (sde.t1, sde.t0)
    tight = sfp.Integrator(diffrax.Dopri8(), rtol=1e-10, atol=1e-10)
    x = jnp.array([0.7, -1.1])
    push, _ = gaussian_flow(sde, start, stop)
    end = flow_map(gaussian().score(sde), x, start=start, stop=stop, integrator=tight)
    assert bool(end.success)
    np.testing.assert_allclose(end.state, push(x), atol=1e-8)
    assert jnp.abs(end.state - x).max() > 0.1


@pytest.mark.parametrize("solver", [diffrax.Tsit5(), diffrax.Dopri8(), diffrax.Heun()], ids=lambda s: type(s).__name__)
def test_evaluations_are_counted_and_the_dtype_kept(solver: diffrax.AbstractRungeKutta) -> None:
    calls: list[int] = []

    # In float32: the thread of a callback does not know of this test's float64.
    def count(x: np.ndarray) -> np.ndarray:
        calls.append(1)
        return x

    def fn(t: Array, x: Array) -> Array:
        assert t.dtype == x.dtype == jnp.float32
        return -jax.pure_callback(count, jax.ShapeDtypeStruct(x.shape, x.dtype), x) / (0.3 + t)

    loose = sfp.Integrator(solver, rtol=1e-4, atol=1e-4)
    end = flow_map(sfp.Score(fn, sfp.VP()), jnp.ones(2, jnp.float32), start=1e-5, stop=1.0, integrator=loose)
    jax.block_until_ready(end.state)
    assert int(end.evaluations) == len(calls)
    assert end.state.dtype == jnp.float32


def test_the_first_step_sees_the_start() -> None:
    r"""The noise prediction $\epsilon = c\,x$, that of no data, grows $\log x/\alpha$ by $c\,\mathrm{artanh}\,\sigma$.

    Under VP its velocity goes like $1/\sqrt t$ near `t0`: the log-SNR changes by seven in a first step of a hundredth,
    and the tolerance alone does not see what such a step jumps over.
    """
    sde, c, x = sfp.VP(), 0.5, jnp.array([0.3, -0.1])
    score = sfp.Score(lambda t, x: -c * x / sde.sigma(t), sde)
    ends = jnp.array([sde.t0, sde.t1])
    growth = jnp.diff(sde.log_alpha(ends) + c * jnp.arctanh(sde.sigma(ends)))[0]

    def field(t: Array, state: tuple[Array, Array], score: sfp.Score) -> tuple[Array, Array]:
        return value_and_divergence(lambda y: score.probability_flow(t, y), state[0])

    end = flow_map_with_divergence(score, x, sfp.Exact(), start=sde.t0, stop=sde.t1, integrator=sfp.Integrator())
    np.testing.assert_allclose(end.state[0], x * jnp.exp(growth), atol=1e-4)
    error = jnp.abs(end.state[1] - 2 * growth)
    assert error < 1e-4
    long = sfp.Integrator().solve(field, (x, jnp.zeros(())), score, start=sde.t0, stop=sde.t1, first=0.01)
    assert jnp.abs(long.state[1] - 2 * growth) > 10 * error


def test_the_variable_of_the_steps_is_one_of_time() -> None:
    """There and back on every linear SDE, with the pace of the inverse; far out, where the ratio itself overflows."""

    @jax.jit
    def both() -> Array:
        found: list[Array] = []
        for make in LINEAR.values():
            sde = make()

            def at(t: Array, sde: AbstractLinearSDE = sde) -> Array:
                s, slope = jax.jvp(lambda t: clock(sde, t), (t,), (jnp.ones_like(t),))
                back, pace = time_and_pace(sde, s)
                return jnp.stack([back / t - 1, pace * slope - 1])

            found.append(jax.vmap(at)(times(sde)))
        return jnp.stack(found)

    assert jnp.abs(both()).max() < 1e-8
    # alpha falls to exp(-300): the square of sigma / alpha is beyond float64.
    far = sfp.LinearSDE(lambda t: -100 * t, lambda t: 100 * t, t0=0.01, t1=3.0)
    s = clock(far, jnp.array(3.0))
    assert float(s) == pytest.approx(600 + 2 * math.log(2), rel=1e-12)
    assert float(time_and_pace(far, s)[0]) == pytest.approx(3.0, rel=1e-9)


def test_the_tolerance_of_a_batch_holds_for_each_sample() -> None:
    """One sample that needs many steps gets them among many that need few."""
    score = sfp.Score(lambda t, x: -x * (1 + 30 * jnp.cos(3 * x) * (x > 0.5)), sfp.VP())
    alone, easy = jnp.array([1.0]), jnp.full((255, 1), -0.1)
    ends = {"start": score.sde.t0, "stop": score.sde.t1, "integrator": sfp.Integrator()}

    @jax.jit
    def evaluations(xs: Array) -> Array:
        traces = jax.vmap(lambda x: FixedProbes(jnp.ones((1, 1))))(xs)
        return batch_flow_map_with_divergence(score, xs, traces, **ends).evaluations

    of_one = int(flow_map_with_divergence(score, alone, sfp.Exact(), **ends).evaluations)
    of_the_easy, of_all = int(evaluations(easy)), int(evaluations(easy.at[7].set(alone)))
    assert of_the_easy < 0.8 * of_one
    assert of_all >= of_one


def test_out_of_steps_raises() -> None:
    few = sfp.Integrator(rtol=1e-6, atol=1e-7, max_steps=7)
    score, x = sfp.Score(lambda t, x: -3 * x, sfp.VP()), jnp.ones(2)
    remedies = r"max_steps = 7 .*t = 1e-05 to t = 1\.0 .*rtol = 1e-06, atol = 1e-07.*larger max_steps.*looser.*float64"
    refused(remedies, sfp.log_likelihood, score, x, integrator=few, error=RuntimeError)

    @jax.jit
    @jax.vmap
    def push(x: Array) -> Array:
        return flow_map(score, x, start=1e-5, stop=1.0, integrator=few).state

    refused("max_steps = 7", lambda: jax.block_until_ready(push(x[None])), error=RuntimeError)


@pytest.mark.parametrize("fn", [steep, lambda t, x: jnp.nan * x], ids=["explodes", "NaN"])
def test_a_broken_score_raises(fn: Callable[..., Array]) -> None:
    score = sfp.Score(fn, sfp.VP())
    with pytest.raises(RuntimeError, match=r"NaN, or grows without bound.*throw=False"):
        flow_map(score, jnp.full(2, 5.0), start=1e-5, stop=1.0, integrator=sfp.Integrator(max_steps=200))


def test_told_not_to_raise_a_failure_is_nan_and_the_others_stand() -> None:
    integrator = sfp.Integrator(max_steps=200, throw=False)
    score = sfp.Score(lambda t, x: steep(t, x) * (x.sum() > 2) - x, sfp.VP())
    xs = jnp.array([[0.1, -0.2], [5.0, 5.0], [0.0, 0.3]])
    end = jax.jit(jax.vmap(lambda x: sfp.flow_likelihood(score, x, integrator=integrator)))(xs)
    np.testing.assert_array_equal(end.success, [True, False, True])
    np.testing.assert_array_equal(jnp.isnan(end.log_prob), [False, True, False])
    np.testing.assert_array_equal(jnp.isnan(end.latent).all(axis=1), [False, True, False])
    np.testing.assert_allclose(end.latent[0], xs[0], atol=1e-4)
    # What stopped on the way is no answer either, finite as it is.
    few = sfp.Integrator(max_steps=3, throw=False)
    stopped = flow_map_with_divergence(score, xs[0], sfp.Exact(), start=score.sde.t0, stop=score.sde.t1, integrator=few)
    assert not bool(stopped.success)
    assert bool(jnp.isnan(stopped.state[0]).all() & jnp.isnan(stopped.state[1]))


def test_a_backward_solve_that_fails_raises() -> None:
    """The adjoint equations of `BacksolveAdjoint` may run out of steps where the forward solve did not."""
    adjoint = diffrax.BacksolveAdjoint(max_steps=3)
    score = sfp.Score(lambda t, x: -x, sfp.OU())
    grad = jax.grad(lambda x: sfp.log_likelihood(score, x, integrator=sfp.Integrator(adjoint=adjoint)))
    refused("max_steps", lambda: jax.block_until_ready(grad(jnp.ones(2))), error=RuntimeError)


@pytest.mark.quick
@pytest.mark.usefixtures("unchecked")
def test_bad_integrators() -> None:
    refused("rtol = 0", sfp.Integrator, rtol=0.0)
    refused(r"atol = -1e-05; it is positive and finite", sfp.Integrator, atol=-1e-5)
    refused("max_steps = 0", sfp.Integrator, max_steps=0)
    with pytest.raises(TypeError, match=r"solver is a Euler; .*diffrax.Tsit5\(\)"):
        sfp.Integrator(diffrax.Euler())  # pyright: ignore
    refused("solver is a Sil3", sfp.Integrator, diffrax.Sil3(), error=TypeError)


@pytest.mark.quick
def test_tightened_changes_the_tolerances_alone() -> None:
    given = sfp.Integrator(diffrax.Dopri5(), 1e-3, 1e-4, 77, diffrax.DirectAdjoint(), throw=False)
    finer = given.tightened(0.1)
    assert (finer.rtol, finer.atol) == pytest.approx((1e-4, 1e-5))
    assert eqx.tree_equal(eqx.tree_at(lambda i: (i.rtol, i.atol), finer, (1e-3, 1e-4)), given)
