"""A network that knows the steps of a table alone: grids of them, and the samplers of Ho 2020 and Song 2020 there."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.references import assert_mean, line_mixture, line_moments
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp
from scorefp.sampling import AbstractSampler, Denoised, NodeGrid, RhoGrid, log_snr_grid, uniform_grid
from scorefp.sde import DiscreteSDE

N = 1000
BETAS = np.linspace(1e-4, 0.02, N)


def table() -> DiscreteSDE:
    return DiscreteSDE.from_betas(BETAS)


def predicted(step: Any, x: Any) -> Any:
    """A noise prediction of a step of the table that is no exact one, and not linear."""
    return jnp.tanh(x) + 0.1 * jnp.sin(3 * x + 0.01 * step)


def network(t: Array, x: Array) -> Array:
    sde = table()
    return -predicted(sde.step_of_time(t), x) / sde.sigma(t)


@pytest.mark.parametrize("spacing", [uniform_grid, log_snr_grid, RhoGrid()])
@pytest.mark.parametrize("steps", [10, N - 1])
def test_a_grid_of_nodes(spacing: Any, steps: int) -> None:
    """Whole numbers from the last to the first, none twice, near those of the other grid where there is room."""
    sde = table()
    nodes = np.asarray(sde.step_of_time(NodeGrid(spacing)(sde, steps)))
    np.testing.assert_array_equal(nodes, np.round(nodes))
    assert (nodes[0], nodes[-1]) == (N - 1, 0)
    assert nodes.size == steps + 1
    assert np.diff(nodes).max() <= -1
    if steps == 10:
        assert np.abs(nodes - sde.step_of_time(spacing(sde, steps))).max() < 0.51
    if steps == N - 1:
        np.testing.assert_array_equal(nodes, np.arange(N)[::-1])


@pytest.mark.quick
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_grid_of_nodes_is_refused() -> None:
    sde, score = table(), sfp.Score(lambda t, x: -x, table(), (2,))
    later = dataclasses.replace(sde, t0=0.3)
    np.testing.assert_array_equal(later.step_of_time(NodeGrid()(later, 7)), np.arange(999, 298, -100))
    draw = lambda steps, sde: sfp.sample(
        sfp.Score(score, sde, (2,)), 3, key=jr.key(0), method=sfp.DPMSolver(steps, NodeGrid())
    )
    refused("steps = 1000, but from the last step of the table to the first one there are 999", draw, N, sde)
    refused("t0 = 0.3003, which is step 299.3 of the table", draw, 4, dataclasses.replace(sde, t0=0.3003))
    refused("sde is a VP. It is a process with a table", draw, 4, sfp.VP(), error=TypeError)
    rising = NodeGrid(lambda sde, steps: jnp.linspace(sde.t0, sde.t1, steps + 1))
    refused("does not go down at every step", rising, sde, 4)
    refused("spacing takes", NodeGrid, lambda sde: None, error=TypeError)


SAMPLERS: dict[str, Callable[[Any], AbstractSampler]] = {
    "Euler": lambda grid: sfp.sampling.Euler(4, grid),
    "EulerMaruyama": lambda grid: sfp.EulerMaruyama(4, grid),
    "ExponentialIntegrator": lambda grid: sfp.ExponentialIntegrator(4, grid),
    "ancestral": lambda grid: Denoised(sfp.ExponentialIntegrator(4, grid, noise=1.0)),
    "DPMSolver": lambda grid: sfp.DPMSolver(4, grid),
    "Heun": lambda grid: sfp.Heun(4, grid),
    "PredictorCorrector": lambda grid: sfp.PredictorCorrector(sfp.Heun(4, grid), corrections=2),
    "churn": lambda grid: sfp.Heun(4, grid, churn=sfp.sampling.Churn(1.0)),
    "ProbabilityFlow": lambda grid: sfp.ProbabilityFlow(sfp.Integrator(rtol=1e-2, atol=1e-2)),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_who_stays_on_the_nodes(name: str) -> None:
    seen: list[float] = []

    def fn(t: Array, x: Array) -> Array:
        jax.debug.callback(lambda step: seen.append(float(step)), table().step_of_time(t))
        return -x

    SAMPLERS[name](NodeGrid())(sfp.Score(fn, table()), jnp.asarray(0.3), key=jr.key(0))
    jax.effects_barrier()
    steps = np.array(seen)
    assert steps.size >= 4
    assert bool((steps == np.round(steps)).all()) == (name not in ("churn", "ProbabilityFlow"))


@pytest.mark.parametrize("spacing", [uniform_grid, log_snr_grid, RhoGrid()])
def test_grids_of_nodes_in_compiled_programs(spacing: Any) -> None:
    """Where the table is an argument of the program."""
    score, method = sfp.Score(lambda t, x: -x, table(), (2,)), sfp.DPMSolver(7, NodeGrid(spacing))
    x = sfp.sample(score, 3, key=jr.key(0), method=method)
    one = method(score, score.sde.prior.sample(jr.split(jr.split(jr.key(0), 3)[1])[0], (2,)), key=jr.key(0))
    np.testing.assert_allclose(x[1], one, rtol=1e-5)


def published_ddpm(x: Any, draws: Any) -> Any:
    """Ho 2020, Algorithm 2 with Eq. 7 for the variance, in its own symbols, all steps."""
    beta, bar = BETAS, np.cumprod(1 - BETAS)
    for t in range(N - 1, -1, -1):
        mean = (x - beta[t] / np.sqrt(1 - bar[t]) * predicted(t, x)) / np.sqrt(1 - beta[t])
        x = mean
        if t > 0:
            x = mean + np.sqrt((1 - bar[t - 1]) / (1 - bar[t]) * beta[t]) * draws[N - 1 - t]
    return x


def published_ddim(x: Any, draws: Any, nodes: Any, eta: float) -> Any:
    """Song 2020, Eq. 12 with Eq. 16, whose alpha is the cumulative product."""
    alpha = np.cumprod(1 - BETAS)
    for i, (now, earlier) in enumerate(itertools.pairwise(nodes)):
        a, b = alpha[now], alpha[earlier]
        sigma = eta * np.sqrt((1 - b) / (1 - a)) * np.sqrt(1 - a / b)
        epsilon = predicted(now, x)
        x = np.sqrt(b) * (x - np.sqrt(1 - a) * epsilon) / np.sqrt(a) + np.sqrt(1 - b - sigma**2) * epsilon
        x = x + sigma * draws[i]
    return x


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("eta", [None, 0.0, 0.4, 1.0])
def test_the_published_samplers(eta: float | None) -> None:
    """By the same draws; without `eta` it is DDPM through all steps, which ends with a mean."""
    x1, key = jnp.linspace(-2.0, 2.0, 5), jr.key(1)
    steps = N - 1 if eta is None else 40
    draws = [np.asarray(jr.normal(jr.fold_in(key, i), x1.shape)) for i in range(steps)]
    if eta is None:
        method: AbstractSampler = Denoised(sfp.ExponentialIntegrator(steps, NodeGrid(), noise=1.0))
        want = published_ddpm(np.asarray(x1), draws)
    else:
        method = sfp.ExponentialIntegrator(steps, NodeGrid(), noise=eta)
        nodes = np.ceil(np.linspace(N - 1, 0, steps + 1) - 0.501).astype(int)
        want = published_ddim(np.asarray(x1), draws, nodes, eta)
    got = jax.jit(lambda x: method(sfp.Score(network, table()), x, key=key))(x1)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
    assert float(jnp.abs(got - x1).min()) > 0.01


@pytest.mark.usefixtures("x64")
def test_a_step_beside_the_posterior_of_normal_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """`x_s` given `x_t` by the joint normal law of both: the mean is exact, the variance lacks that of `x_0`."""
    sde, mean, variance = table(), 0.7, 0.3
    score = sfp.GaussianMixture(jnp.array([mean]), jnp.array([variance]), jnp.ones(1)).score(sde)
    step = sfp.ExponentialIntegrator(noise=1.0).step
    s, t, x = (*sde.time_of_step(jnp.array([300, 500])), jnp.asarray(0.9))
    (a_s, a_t), (o_s, o_t) = (np.asarray(f(jnp.stack([s, t]))) for f in (sde.alpha, sde.sigma))
    # Both are of `x_0` and of `x_s` through the transition: Cov(x_s, x_t) = (a_t / a_s) Var(x_s).
    v_s, v_t = a_s**2 * variance + o_s**2, a_t**2 * variance + o_t**2
    gain = a_t / a_s * v_s / v_t
    want_mean, want_variance = a_s * mean + gain * (float(x) - a_t * mean), v_s - gain * a_t / a_s * v_s
    moved: list[float] = []
    for draw in (0.0, 1.0):
        monkeypatch.setattr(jr, "normal", lambda key, shape, dtype, draw=draw: jnp.full(shape, draw, dtype))
        moved.append(float(step(score, t, s, x, key=jr.key(0))))
    assert moved[0] == pytest.approx(want_mean, rel=1e-12)
    of_clean = variance * o_t**2 / v_t
    share = a_s * (1 - (a_t / a_s * o_s / o_t) ** 2)
    assert (moved[1] - moved[0]) ** 2 == pytest.approx(want_variance - share**2 * of_clean, rel=1e-10)
    assert share**2 * of_clean > 0.1 * want_variance


def test_ancestral_sampling_of_a_mixture_through_the_table() -> None:
    sde, n = table(), 10_000
    method = sfp.ExponentialIntegrator(N - 1, NodeGrid(), noise=1.0)
    x = sfp.sample(line_mixture().score(sde), n, key=jr.key(4), method=method)
    for power, want in enumerate(line_moments(float(sde.alpha(sde.t0)), float(sde.sigma(sde.t0))), 1):
        assert_mean(x**power, jnp.asarray(want))
