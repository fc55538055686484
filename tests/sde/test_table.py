"""An SDE from a table of steps: exact at the steps, smooth between them, the process it stands for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.references import plane_mixture

import scorefp as sfp
from scorefp.sde import DiscreteSDE

pytestmark = pytest.mark.usefixtures("x64")

N = 1000


def cosine() -> np.ndarray:
    """The betas of Nichol 2021, with the last ones clipped."""
    level = lambda u: np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    t = np.arange(N) / N
    return np.minimum(1 - level(t + 1 / N) / level(t), 0.999)


BETAS = {
    "linear": np.linspace(1e-4, 0.02, N),
    "scaled linear": np.linspace(0.00085**0.5, 0.012**0.5, N) ** 2,
    "cosine": cosine(),
}


@pytest.mark.quick
@pytest.mark.parametrize("name", BETAS)
def test_the_curve_holds_the_table_and_is_twice_differentiable(name: str) -> None:
    betas = BETAS[name]
    sde, steps = DiscreteSDE.from_betas(betas), np.arange(N)
    times = sde.time_of_step(steps)
    np.testing.assert_allclose(sde.log_alpha(times), 0.5 * np.cumsum(np.log1p(-betas)), rtol=1e-10)
    np.testing.assert_allclose(sde.sigma(times) ** 2, -np.expm1(np.cumsum(np.log1p(-betas))), rtol=1e-10)
    np.testing.assert_allclose(sde.step_of_time(times), steps, atol=1e-9)
    np.testing.assert_allclose(times[jnp.array([0, -1])], [sde.t0, sde.t1])
    # The second derivative just before and just behind each step, beside the jump of a broken line's first one.
    curvature = jax.vmap(jax.grad(sde.g2))
    inner = times[1:-1]
    gap = curvature(inner + 1e-9) - curvature(inner - 1e-9)
    assert float(jnp.abs(gap).max()) < 1e-4 * float(jnp.abs(curvature(inner)).max())
    fine = jnp.linspace(sde.t0, sde.t1, 20 * N)
    assert bool((sde.g2(fine) > 0).all())
    np.testing.assert_allclose(sde.time_of_log_snr(sde.log_snr(fine)), fine, rtol=1e-9)


@pytest.mark.slow
def test_a_likelihood_costs_what_the_smooth_process_does() -> None:
    """`shared/cases/ddpm_table.py`: a broken line through the table took 781 evaluations, and 6.6e-3 nats."""
    point = jnp.array([0.7, 0.3])

    def found(sde: sfp.sde.AbstractSDE, tolerance: float) -> sfp.likelihood.FlowLikelihood:
        integrator = sfp.Integrator(rtol=tolerance, atol=tolerance)
        return sfp.flow_likelihood(plane_mixture().score(sde), point, integrator=integrator)

    smooth = {"linear": sfp.VP(t0=1e-3), "scaled linear": sfp.VP(t0=1e-3), "cosine": sfp.Cosine(t0=1e-3)}
    for name, betas in BETAS.items():
        sde = DiscreteSDE(np.cumprod(1 - betas))
        coarse = found(sde, 1e-5)
        assert abs(float(coarse.log_prob - found(sde, 1e-7).log_prob)) < 2e-5
        assert int(coarse.evaluations) < 1.3 * int(found(smooth[name], 1e-5).evaluations)
        # The score is exact, so that the answer is known: the density at t0, off by the prior alone. What is left of
        # the data at t1 is least for "cosine" and most for "scaled linear", whose schedule ends with a signal of 0.07.
        exact = plane_mixture().score(sde).potential(sde.t0, point)
        assert abs(float(coarse.log_prob - exact)) < (3e-2 if name == "scaled linear" else 1e-3)


def test_steps_are_whole_numbers_in_float32() -> None:
    """Also where the time of a step is rounded, so that the integer part is not that of the step before."""
    with jax.enable_x64(False):
        sde, steps = DiscreteSDE.from_betas(BETAS["linear"]), np.arange(N)
        times = (steps.astype(np.float32) + 1) / np.float32(N)
        assert np.any(times * np.float32(N) != steps + 1)
        for fn in (sde.step_of_time, jax.jit(lambda t: sde.step_of_time(t))):
            np.testing.assert_array_equal(fn(times), steps)
            np.testing.assert_allclose(fn(times + 0.3 / N), steps + 0.3, atol=1e-3)
        assert float(jax.grad(sde.step_of_time)(0.5)) == N


@pytest.mark.quick
def test_a_part_of_the_horizon_is_replaced_like_a_field() -> None:
    sde = DiscreteSDE.from_betas(BETAS["linear"])
    later = dataclasses.replace(sde, t0=0.5)
    assert (later.t0, later.t1) == (0.5, 1.0)
    np.testing.assert_array_equal(later.sigma(0.7), sde.sigma(0.7))
    with pytest.raises(ValueError, match="the table has the times from 1/1000 to 1"):
        dataclasses.replace(sde, t1=1.5)


@pytest.mark.quick
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("table", "named"),
    [
        (np.cumprod(1 - BETAS["linear"])[::-1], "fall from step to step"),
        (np.append(np.cumprod(1 - BETAS["linear"]), 0.0), "zero terminal"),
        (np.array([0.9, 0.8, np.nan, 0.5]), "inside"),
        (np.array([0.9, 0.8, 0.5]), "at least four"),
        (np.full((4, 4), 0.5), "vector"),
        (1 - BETAS["linear"], "more signal than noise"),
        (np.array([0.99, 0.5, 0.4999, 0.4998, 0.1]), "too rough"),
        (np.array([1, 0, 0, 0]), "inside"),
    ],
)
def test_a_table_of_something_else_is_refused(table: np.ndarray, named: str) -> None:
    with pytest.raises((ValueError, TypeError), match=named):
        DiscreteSDE(np.asarray(table, float))


@pytest.mark.quick
def test_betas_of_something_else_are_refused() -> None:
    for wrong in (np.append(BETAS["linear"], 1.0), -BETAS["linear"], np.full(5, np.nan)):
        with pytest.raises(ValueError, match="betas"):
            DiscreteSDE.from_betas(wrong)
