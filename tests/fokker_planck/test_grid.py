"""Densities on a grid: against closed forms, likelihoods and samples, of exact scores and of wrong ones."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats
from helpers.references import fitted_order, plane_mixture
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp
from scorefp.integrals import time_quadrature

PROCESSES = pytest.mark.parametrize("process", ["forward", "sde", "ode"])


def sde() -> sfp.OU:
    return sfp.OU(t0=0.02, t1=2.5)


def log_density(t: Array, x: Array) -> Array:
    """Of two unequal modes of scalar samples, diffused."""
    alpha, sigma = sde().alpha(t), sde().sigma(t)
    log_normal = lambda mean, var: -0.5 * ((x - alpha * mean) ** 2 / var + jnp.log(2 * jnp.pi * var))
    left, right = log_normal(-0.8, 0.1 * alpha**2 + sigma**2), log_normal(0.6, 0.2 * alpha**2 + sigma**2)
    return jnp.logaddexp(jnp.log(0.3) + left, jnp.log(0.7) + right)


def off_by(size: float, t: Array, x: Array) -> Array:
    """A potential that is wrong near the data, and not normalised."""
    return log_density(t, x) + size * jnp.exp(-2 * t) * jnp.sin(2 * x + 1)


def model(size: float = 0.0) -> sfp.Potential:
    return sfp.Potential(jax.tree_util.Partial(off_by, size), sde())


def start_of(process: Any) -> jax.tree_util.Partial:
    forward = process == "forward"
    return jax.tree_util.Partial(log_density, jnp.asarray(sde().t0 if forward else sde().t1))


def box() -> sfp.Box:
    return sfp.Box(jnp.array(-4.0), jnp.array(5.0))


def solved(
    process: Any, size: float = 0.0, cells: int = 128, times: list[float] | None = None
) -> sfp.fokker_planck.GridDensity:
    return sfp.fokker_planck.solve_density(
        model(size), box(), process=process, cells=cells, initial=start_of(process), times=times
    )


def on_the_grid(density: sfp.fokker_planck.GridDensity, values: jax.tree_util.Partial) -> np.ndarray:
    """A function of time and sample, at the times and cells of a density."""
    points = density.centres.reshape(-1, *density.box.shape)
    found = jax.jit(jax.vmap(jax.vmap(values, (None, 0)), (0, None)))(jnp.asarray(density.times), points)
    return np.asarray(found).reshape(density.values.shape)


def distance(density: sfp.fokker_planck.GridDensity, want: np.ndarray) -> np.ndarray:
    """The integral of the absolute difference, at each time."""
    return density.cell_volume * np.abs(density.values - want).reshape(len(want), -1).sum(axis=1)


# ------------------------------------------------------------------------------------------- exact scores


@PROCESSES
@pytest.mark.usefixtures("x64")
def test_exact_score_gives_the_diffused_data(process: Any) -> None:
    """All three laws are the closed form, to second order in the cells; mass is kept, and none is negative."""
    found = [solved(process, cells=cells, times=[0.02, 0.3, 2.5]) for cells in (48, 96, 192)]
    errors = np.array([distance(p, np.exp(on_the_grid(p, log_density))) for p in found])
    forward = process == "forward"
    np.testing.assert_allclose(found[0].times, [0.02, 0.3, 2.5] if forward else [2.5, 0.3, 0.02])
    assert errors[:, 0].max() < 1e-14
    for error in errors.T[1:]:
        assert error[-1] < 2e-3
        assert 1.9 < fitted_order([4.0, 2.0, 1.0], error) < 2.3
    for density in found:
        assert np.ptp(density.mass) < 1e-12
        assert density.mass == pytest.approx(1, abs=1e-7)
        assert density.values.min() > (-1e-3 if process == "ode" else -1e-10)
    assert found[-1].weights.sum() == pytest.approx(1, abs=1e-14)
    # The warning's measure of the cells: of second order, and above five times the error.
    roughness = [density.roughness[-1] for density in found]
    assert 1.8 < fitted_order([4.0, 2.0, 1.0], roughness) < 2.1
    assert np.all(errors.max(axis=1) < 0.2 * np.array(roughness))
    assert forward or np.all(errors.max(axis=1) > 0.02 * np.array(roughness))


@pytest.mark.parametrize("process", ["sde", "ode"])
@pytest.mark.usefixtures("x64")
def test_exact_score_in_the_plane(process: Any) -> None:
    """Unequal sides and cells, full covariances."""
    exact = plane_mixture().score(sfp.OU(t0=0.02, t1=1.0))
    plane = sfp.Box(jnp.array([-4.0, -3.5]), jnp.array([3.5, 3.0]))
    errors = []
    for cells in ((24, 22), (48, 44)):
        density = sfp.fokker_planck.solve_density(
            exact, plane, process=process, cells=cells, initial=lambda x: exact.potential(1.0, x), rtol=1e-4
        )
        assert np.ptp(density.mass) < 1e-12
        errors.append(distance(density, np.exp(on_the_grid(density, exact.potential)))[-1])
    assert errors[1] < 1e-2
    assert 1.8 < fitted_order([2.0, 1.0], errors) < 2.6


# ------------------------------------------------------------------------------------------- wrong scores


@pytest.mark.usefixtures("x64")
def test_wrong_score_makes_two_laws() -> None:
    """The ODE's is that of the likelihood solve, the SDE's that of Euler–Maruyama's samples, and they differ."""
    wrong = model(1.5)
    coarse, by_ode, by_sde = (
        sfp.fokker_planck.solve_density(wrong, box(), process=process, cells=cells)
        for process, cells in (("ode", 80), ("ode", 240), ("sde", 240))
    )
    assert distance(by_sde, by_ode.values)[-1] > 0.2
    np.testing.assert_allclose(by_ode.values[0], on_the_grid(by_ode, lambda t, x: jnp.exp(sde().prior.log_prob(x)))[0])

    # Every centre of the coarse grid is one of the fine grid.
    accurate = sfp.Integrator(rtol=1e-7, atol=1e-7)
    log_prob = jax.jit(jax.vmap(lambda x: sfp.log_likelihood(wrong, x, integrator=accurate)))(coarse.centres)
    finer = by_ode.values[-1, 1::3]
    errors = [coarse.cell_volume * np.abs(np.exp(log_prob) - law).sum() for law in (coarse.values[-1], finer)]
    assert errors[1] < 5e-3
    assert 1.7 < fitted_order([3.0, 1.0], errors) < 2.6

    n, method = 20_000, sfp.EulerMaruyama(200, grid=sfp.sampling.log_snr_grid)
    x = np.asarray(sfp.sample(wrong, n, key=jr.key(0), shape=(), method=method))
    counts = np.histogram(x, bins=240, range=(-4.0, 5.0))[0]
    # Groups of cells that each hold a twentieth of one of the laws.
    edges = np.searchsorted(by_sde.weights.cumsum(), np.linspace(0, 1, 21)[1:-1])
    in_groups = lambda cells: np.add.reduceat(cells, np.concatenate([[0], edges]))
    agreement = {
        name: scipy.stats.chisquare(in_groups(counts) * n / counts.sum(), n * in_groups(law.weights)).pvalue
        for name, law in (("SDE", by_sde), ("ODE", by_ode))
    }
    assert agreement["SDE"] > 1e-3
    assert agreement["ODE"] < 1e-12


@pytest.mark.usefixtures("x64")
def test_forward_process_follows_no_score() -> None:
    alone = sfp.fokker_planck.solve_density(sde(), box(), process="forward", cells=48, initial=start_of("forward"))
    np.testing.assert_allclose(alone.values, solved("forward", 1.5, cells=48).values, atol=1e-12)


# ------------------------------------------------------------------------------------------- the gap's identities


@pytest.mark.parametrize("process", ["sde", "ode"])
@pytest.mark.usefixtures("x64")
def test_divergence_from_the_models_own_density_is_its_residual(process: Any) -> None:
    r"""$\mathrm{KL}(p_{\mathrm{SDE}}\Vert p_\theta) + \tfrac12\int g^2 E\|s - \nabla\log p_{\mathrm{SDE}}\|^2 =
    \mathrm{KL}(\pi\Vert p_\theta) + \int E_{p_{\mathrm{SDE}}}[q]$, for the ODE without the second term, to second order
    in the cells; and the bound of the total variation."""
    wrong, ends = model(1.5), jnp.array([sde().t0, sde().t1])
    nodes, weights = (np.asarray(a) for a in time_quadrature(sde(), ends[1], ends[0], 24))
    times = np.sort([*nodes, *ends])

    def pieces(t: Array, x: Array) -> tuple[Array, Array, Array, Array]:
        return wrong.potential(t, x), wrong(t, x), sfp.log_fpe_residual(wrong, t, x), sde().g2(t)

    every = jax.jit(jax.vmap(jax.vmap(pieces, (None, 0)), (0, None)))
    errors: list[float] = []
    for cells in (128, 256):
        law = sfp.fokker_planck.solve_density(wrong, box(), process=process, cells=cells, times=times)
        phi, score, residual, g2 = (np.asarray(a) for a in every(jnp.asarray(law.times), law.centres))
        mean = lambda p, values, h=law.cell_volume: h * (p * values).sum(axis=1)
        integral = lambda values: np.abs(weights) @ values[1:-1]
        p, own = law.values, np.exp(phi) / mean(np.exp(phi), 1.0)[:, None]
        source = residual - mean(own, residual)[:, None]
        log_p = np.log(np.maximum(p, 1e-300))
        divergence = mean(np.maximum(p, 0), log_p - np.log(own))
        lost = integral(0.5 * mean(p, g2 * (score - np.gradient(log_p, law.cell_volume, axis=1)) ** 2))
        made = divergence[0] + integral(mean(p, source))
        assert min(divergence[-1], lost) > 0.02
        errors.append(abs(divergence[-1] + (lost if process == "sde" else 0.0) - made) / made)
        variation = 0.5 * mean(np.abs(p - own), 1.0)
        bound = variation[0] + 0.5 * integral(mean(own, np.abs(source)))
        assert 0.2 * bound < variation[-1] < bound
    assert errors[1] < 1e-2
    assert 1.8 < fitted_order([2.0, 1.0], errors) < 2.2


@pytest.mark.usefixtures("x64")
def test_ratio_to_the_models_own_density_is_the_residual_along_paths() -> None:
    r"""$\log p_{\mathrm{ODE}} = \varphi + \int r + \log\pi - \varphi$ along the ODE's path, and
    $p_{\mathrm{SDE}} = E[e^{\varphi + \int r + \log\pi - \varphi}]$ along the forward SDE's paths."""
    wrong, process = model(1.5), sde()
    grid = sfp.sampling.log_snr_grid(process, 200)[::-1]

    def along(path: Array) -> Array:
        residual = jax.vmap(lambda t, x: sfp.log_fpe_residual(wrong, t, x))(grid, path)
        ends = (
            wrong.potential(grid[0], path[0]) - wrong.potential(grid[-1], path[-1]) + process.prior.log_prob(path[-1])
        )
        return ends + jnp.trapezoid(residual, grid)

    def forward(x: Array, key: Array) -> Array:
        def step(x: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            s, t, noise = now
            scale, std = process.transition(s, t)
            return scale * x + std * noise, scale * x + std * noise

        noises = jr.normal(key, (grid.size - 1,))
        return jnp.concatenate([x[None], jax.lax.scan(step, x, (grid[:-1], grid[1:], noises))[1]])

    points = jnp.array([-0.75, 0.0, 0.6])
    exponents = jax.jit(jax.vmap(lambda x: jax.vmap(lambda key: along(forward(x, key)))(jr.split(jr.key(0), 2000))))
    estimates = np.exp(exponents(points))
    means, errors = estimates.mean(axis=1), estimates.std(axis=1) / np.sqrt(estimates.shape[1])
    by_sde, by_ode = (
        np.interp(points, law.centres, law.values[-1])
        for law in (sfp.fokker_planck.solve_density(wrong, box(), process=p, cells=192) for p in ("sde", "ode"))
    )
    own = np.exp(np.asarray(jax.vmap(lambda x: wrong.potential(process.t0, x))(points)))
    assert errors.max() < 0.03
    assert np.all(np.abs(means - by_sde) < 4 * errors + 5e-3)
    assert np.all(np.abs(np.exp(by_ode) - means) > 0.05)
    assert np.abs(own - by_sde).max() > 0.1


# ------------------------------------------------------------------------------------------- use


def test_shapes_of_one_dimension_agree() -> None:
    """`()` and `(1,)`, in float32: the densities are float64, the samples those of the box."""
    score = sfp.Score(lambda t, x: -2 * x, sfp.OU(t1=1.0))
    scalar, vector = (
        sfp.fokker_planck.solve_density(
            score, sfp.Box(jnp.full(shape, -4.0), jnp.full(shape, 4.0)), process="sde", cells=32, times=[1.0, 0.5]
        )
        for shape in ((), (1,))
    )
    np.testing.assert_allclose(scalar.values, vector.values, atol=1e-6)
    assert (scalar.centres.shape, vector.centres.shape) == ((32,), (32, 1))
    assert scalar.values.dtype == np.float64
    assert scalar.centres.dtype == jnp.float32
    np.testing.assert_array_equal(scalar.times, [1.0, 0.5])


def narrow() -> sfp.GaussianMixture:
    return sfp.GaussianMixture(jnp.array([0.0]), jnp.array([1e-3]), jnp.ones(1))


def test_grid_that_does_not_hold_the_law_is_told() -> None:
    exact = narrow().score(sfp.OU())
    line = sfp.Box(jnp.array(-4.0), jnp.array(4.0))
    with pytest.warns(UserWarning, match=r"roughness = .* is above 0.5. Take more cells"):
        sfp.fokker_planck.solve_density(exact, line, process="sde", cells=32)
    away = sfp.Score(lambda t, x: x, sfp.OU(t1=1.0))
    with pytest.warns(
        UserWarning, match=r"lies in the cells along the boundary, which nothing passes. Take a larger box"
    ):
        sfp.fokker_planck.solve_density(away, sfp.Box(jnp.array(-3.0), jnp.array(3.0)), process="sde", cells=32)


@pytest.mark.usefixtures("unchecked")
def test_errors() -> None:
    score, line = sfp.Score(lambda t, x: -2 * x, sfp.OU(t1=1.0)), sfp.Box(jnp.array(-4.0), jnp.array(4.0))
    solve = lambda model=score, box=line, process="sde", **rest: sfp.fokker_planck.solve_density(
        model, box, process=process, **rest
    )
    cube = sfp.Box(-jnp.ones(3), jnp.ones(3))
    refused("box has 3 dimensions; a grid has one or two", solve, box=cube)
    refused(r"cells = \(8, 8\); a box of 1 dimensions takes 1 numbers of at least 4", solve, cells=(8, 8))
    refused("cells = 3", solve, cells=3)
    refused(r"box has shape \(\), but a sample of the score has shape \(2,\)", solve, plane_mixture().score(sfp.OU()))
    refused(r"times = \[0.5 2. \] leaves \[t0, t1\] = \[0.001, 1.0\]", solve, times=[2.0, 0.5])
    refused("times is empty", solve, times=[])
    refused("rtol = 0", solve, rtol=0)
    refused("process = 'SDE'.*'forward'.*'sde'.*'ode'", solve, process="SDE")
    refused("initial is None; the forward process starts from data", solve, process="forward")
    with pytest.raises(ValueError, match=r"where the process starts, has mass 0\.87.*Take a larger box"):
        solve(box=sfp.Box(jnp.array(-1.0), jnp.array(1.0)))
    refused(r"model is a OU, but process = 'ode' follows a score", solve, sfp.OU(), process="ode", error=TypeError)
    with pytest.raises(TypeError, match="GeometricBrownianMotion"):
        solve(sfp.Score(lambda t, x: -x, sfp.sde.GeometricBrownianMotion(jnp.zeros(2), jnp.eye(2))))
    with pytest.raises(RuntimeError, match=r"the score is not finite in the box at t = 1\.0"):
        solve(sfp.Score(lambda t, x: jnp.sqrt(x), sfp.OU(t1=1.0)))
