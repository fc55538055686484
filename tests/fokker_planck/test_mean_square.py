"""Mean squares of the residuals over a box: closed forms, both rules, and the error that each gives."""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import references
from helpers.gaussian import LogNormalDensity, black_scholes
from helpers.references import assert_mean, mean_is, plane_mixture, standard
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp
from scorefp.fokker_planck import DensityResidual, LogResidual, ScoreResidual, mean_square
from scorefp.integrals import GaussLegendre, UniformDraws

pytestmark = pytest.mark.usefixtures("x64")

COARSE = GaussLegendre(6, 4)
SIDE = 1.5
cube = functools.partial(references.cube, side=SIDE)


class Off(eqx.Module):
    """A potential with a wave of height `eta` on it: one compiled program for the exact one and for wrong ones."""

    exact: sfp.score.AbstractPotential
    eta: Array

    def __call__(self, t: Array, x: Array) -> Array:
        return self.exact.potential(t, x) + self.eta * jnp.cos(3 * t) * jnp.sum(jnp.sin(x + 0.3))


class Density(eqx.Module):
    """The density of a log-density."""

    log_density: Callable[[Array, Array], Array]

    def __call__(self, t: Array, x: Array) -> Array:
        return jnp.exp(self.log_density(t, x))


def three_residuals(energy: Callable[[Array, Array], Array], sde: Any, box: sfp.Box, form: Any) -> list[sfp.Estimate]:
    potential = sfp.Potential(energy, sde)
    return [
        mean_square(DensityResidual(Density(energy), sde), box, rule=COARSE),
        mean_square(LogResidual(potential), box, rule=COARSE),
        mean_square(ScoreResidual(potential, form), box, rule=COARSE),
    ]


def test_exact_mixtures_have_none() -> None:
    """R, R̃ and Rˢ of the diffused mixture are zero, those of a wave on it are not [X1]."""
    sde = sfp.OU(t0=0.1, t1=3.0)
    exact, box = plane_mixture().score(sde), cube(2)
    for right, wrong in zip(
        *(three_residuals(Off(exact, jnp.asarray(eta)), sde, box, "mixed") for eta in (0.0, 0.3)), strict=True
    ):
        assert float(wrong.value) > 1e-4
        assert float(right.value) < 1e-18 * float(wrong.value)


def test_geometric_brownian_motion_has_none() -> None:
    """The general class: nothing for the log-normal density, a known residual for a drift that is off by 0.1 x."""
    sde, faster = black_scholes()
    box = sfp.Box(jnp.full(2, 0.5), jnp.full(2, 2.0))
    rights = three_residuals(LogNormalDensity(sde), sde, box, "gradient")
    wrongs = three_residuals(LogNormalDensity(sde), faster, box, "gradient")
    for right, wrong in zip(rights, wrongs, strict=True):
        assert float(wrong.value) > 1e-3
        assert float(right.value) < 1e-18
    # r = 0.1 (x · ∇φ + D), by midpoints of a fine grid.
    t, x, y = np.meshgrid(np.arange(0.5, 40) / 40, *[0.5 + 1.5 * np.arange(0.5, 60) / 60] * 2, indexing="ij")
    points = jnp.asarray(np.stack([x.ravel(), y.ravel()], axis=1))
    rate = lambda t, x: 0.1 * (x @ jax.grad(LogNormalDensity(sde), argnums=1)(t, x) + 2)
    want = float(jnp.mean(jax.jit(jax.vmap(rate))(jnp.asarray(t.ravel()), points) ** 2))
    fine = mean_square(LogResidual(sfp.Potential(LogNormalDensity(sde), faster)), box, rule=GaussLegendre(8, 8))
    assert float(fine.value) == pytest.approx(want, rel=1e-3)
    assert float(fine.error) == 0 < float(fine.remainder) < 1e-2 * want


# ------------------------------------------------------------------------------------------ closed forms


class Quadratic(eqx.Module):
    r"""$\varphi = -\tfrac12 x^\top A x\,(1 + b t)$."""

    matrix: Array
    slope: Array

    def __call__(self, t: Array, x: Array) -> Array:
        return -0.5 * (1 + self.slope * t) * jnp.sum(x.ravel() * (self.matrix @ x.ravel()))


def quadratic(a: float, b: float, *, size: int = 2, t1: float = 2.0, turn: float = 0.0) -> sfp.Potential:
    matrix = a * jnp.eye(size) + turn * (1 - jnp.eye(size))
    return sfp.Potential(Quadratic(matrix, jnp.asarray(b)), sfp.OU(t0=0.01, t1=t1))


def log_mean_square(a: float, b: float, start: float, t1: float = 2.0, size: int = 2) -> float:
    r"""$\tilde R$ of `quadratic(a, b)` on OU with $\theta = g = 1$, by hand.

    With $k = a(1 + bt)$ it is $r = c_2|x|^2 + c_0$, $c_2 = k - \tfrac12 k^2 - \tfrac12 ab$ and
    $c_0 = D(\tfrac12 k - 1)$, polynomials in $t$.
    """
    k = np.polynomial.Polynomial([a, a * b])
    c2, c0 = k - 0.5 * k**2 - 0.5 * a * b, size * (0.5 * k - 1)
    second = size * SIDE**2 / 3
    fourth = size * SIDE**4 / 5 + size * (size - 1) * (SIDE**2 / 3) ** 2
    whole = (c2**2 * fourth + 2 * c2 * c0 * second + c0**2).integ()
    return float((whole(t1) - whole(start)) / (t1 - start))


@pytest.mark.parametrize(("a", "b", "start"), [(1.0, 0.0, None), (2.0, 0.0, None), (1.3, -0.4, None), (1.3, -0.4, 0.7)])
def test_quadrature_of_a_polynomial(a: float, b: float, start: float | None) -> None:
    """Deveney 2023, Eq. 20; for a = 2, which is the stationary law, nothing is left."""
    potential, rule = quadratic(a, b), GaussLegendre(6, 48)
    want = log_mean_square(a, b, 0.01 if start is None else start)
    found = mean_square(LogResidual(potential), cube(2), start=start, rule=rule)
    assert float(found.value) == pytest.approx(want, rel=1e-9, abs=1e-24)
    # The remainder is that of half the nodes: above the rule's own, and small.
    assert abs(found.value - want) <= found.remainder + 1e-12 <= 1e-2 * want + 1e-11


def test_quadrature_of_the_density_and_of_the_score() -> None:
    r"""Deveney 2023, Eq. 18 and 32, for $\varphi = -\tfrac12 a|x|^2$ on OU: $R[p] = p\,r$, and $\varepsilon = \nabla r
    = 2 c_2 x$.

    On a box far wider than the density the mean of $p^2 r^2$ is one over the real line, of moments of a normal law.
    """
    a, side = 1.3, 7.0
    potential = quadratic(a, 0.0, size=1)
    c2, c0 = a - 0.5 * a**2, 0.5 * a - 1
    moments = c2**2 * 3 / (4 * a**2) + 2 * c2 * c0 / (2 * a) + c0**2
    want = math.sqrt(math.pi / a) * moments / (2 * side)
    residual = DensityResidual(Density(potential.fn), potential.sde)
    found = mean_square(residual, cube(1, side=side), rule=GaussLegendre(64, 2))
    assert float(found.value) == pytest.approx(want, rel=1e-9)
    # The density is not normalised, and R counts the square of the factor.
    score = mean_square(ScoreResidual(potential, "mixed"), cube(1), rule=GaussLegendre(4, 2))
    assert float(score.value) == pytest.approx(4 * c2**2 * SIDE**2 / 3, rel=1e-12)


@functools.cache
def repeated() -> dict[str, sfp.Estimate]:
    """Many estimates of R̃ of a quadratic whose Laplacian a probe misses, by each method, from 64 draws each."""
    potential, box = quadratic(1.3, -0.4, turn=0.5), cube(2)
    rule, keys = UniformDraws(64), jr.split(jr.key(0), 2000)
    methods = {
        "Exact": sfp.Exact(),
        "Hutchinson": sfp.Hutchinson(),
        "Ito": sfp.Ito(),
        "Antithetic": sfp.Antithetic(1e-5),
    }

    @jax.jit
    def all_of_them(keys: Array) -> dict[str, sfp.Estimate]:
        mean = lambda key, method: mean_square(LogResidual(potential, method), box, rule=rule, key=key)
        return {name: jax.vmap(lambda key, m=method: mean(key, m))(keys) for name, method in methods.items()}

    return all_of_them(keys)


@pytest.mark.parametrize("method", ["Exact", "Hutchinson", "Ito", "Antithetic"])
def test_draws_are_unbiased_and_know_their_error(method: str) -> None:
    """Against the quadrature; the standard error, squared, is the variance over repeats."""
    found = repeated()[method]
    exact = mean_square(LogResidual(quadratic(1.3, -0.4, turn=0.5)), cube(2), rule=GaussLegendre(6, 48))
    assert_mean(found.value, float(exact.value), resolution=0.03)
    # The variance of 2,000 values is known to some 4 percent.
    assert float(jnp.mean(found.error**2)) == pytest.approx(float(jnp.var(found.value)), rel=0.15)
    # The square of one probe's estimate would add its variance, (g²/2)² 4 turn² (k/a)² by signs: these means tell.
    slope = (np.polynomial.Polynomial([1.0, -0.4]) ** 2).integ()
    bias = 0.5**2 * float(slope(2.0) - slope(0.01)) / 1.99
    assert not mean_is(found.value, float(exact.value) + bias)


def test_a_residual_that_grows_towards_t0() -> None:
    r"""$\varphi = \log t$ on OU: $r = 1/t - D$, whose mean square uniform times hardly ever see.

    Its variance under them is $3\cdot10^3$ squared means; half of the times are uniform in log-SNR.
    """
    sde, size = sfp.OU(t0=1e-3, t1=10.0), 2
    grow = sfp.Potential(lambda t, x: jnp.log(t), sde)
    want = (1 / sde.t0 - 1 / sde.t1 - 2 * size * math.log(sde.t1 / sde.t0)) / (sde.t1 - sde.t0) + size**2
    found = mean_square(LogResidual(grow), cube(size), key=jr.key(1))
    assert abs(found.value - want) < 4 * found.error < 0.02 * want


class Normal(eqx.Module):
    """The score of a normal law diffused by VP, with a wave of height `eta` on it."""

    sde: sfp.VP
    eta: Array

    def __call__(self, t: Array, x: Array) -> Array:
        variance = 0.3 * self.sde.alpha(t) ** 2 + self.sde.sigma(t) ** 2
        return -x / variance + self.eta * jnp.sin(x + t)


def test_images_by_draws() -> None:
    """Any event shape; the score's residual by a random method, zero for the exact score and not for a wrong one."""
    sde, box, rule = sfp.VP(t0=0.05), cube(2, 1, 2), UniformDraws(64)
    right, wrong = (
        mean_square(
            ScoreResidual(sfp.Score(Normal(sde, jnp.asarray(eta)), sde), method=sfp.Ito()),
            box,
            rule=rule,
            key=jr.key(2),
        )
        for eta in (0.0, 0.3)
    )
    assert float(wrong.value) > 3 * float(wrong.error) > 0
    assert float(right.value) < 1e-18 * float(wrong.value)


def test_batches_change_nothing() -> None:
    potential, box = quadratic(1.3, -0.4, size=1), cube(1)
    all_at_once, few = (
        mean_square(LogResidual(potential), box, rule=UniformDraws(50), key=jr.key(3), batch_size=size)
        for size in (1000, 7)
    )
    assert float(all_at_once.value) == pytest.approx(float(few.value), rel=1e-13)
    assert float(all_at_once.error) == pytest.approx(float(few.error), rel=1e-12)


# ------------------------------------------------------------------------------------------ errors


def plain() -> sfp.Potential:
    return sfp.Potential(lambda t, x: -jnp.sum(x**2), sfp.OU())


def log_mean(
    potential: Any = None, box: sfp.Box | None = None, method: Any = sfp.Exact(), **settings: Any
) -> sfp.Estimate:
    residual = LogResidual(plain() if potential is None else potential, method)
    return mean_square(residual, cube(2) if box is None else box, **{"rule": COARSE, **settings})


@pytest.mark.quick
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: mean_square(LogResidual(plain()), cube(2)), ValueError, "UniformDraws draws random points"),
        (lambda: log_mean(method=sfp.Hutchinson()), ValueError, "key is None"),
        (lambda: log_mean(box=cube(4)), ValueError, "beyond three elements"),
        (lambda: log_mean(start=10.0), ValueError, "start is t1"),
        (lambda: log_mean(start=11.0), ValueError, "start = 11"),
        (lambda: log_mean(batch_size=0), ValueError, "batch_size = 0"),
        (lambda: log_mean(plane_mixture().score(sfp.OU()), cube(3)), ValueError, "box has shape"),
        (lambda: log_mean(standard(sfp.OU())), TypeError, "without a potential"),
        (lambda: log_mean(method=sfp.Sliced()), TypeError, "residual of a score"),
        (
            lambda: ScoreResidual(plain(), "mixed", sfp.Ito()),
            ValueError,
            "takes 'martingale'",
        ),
        (lambda: UniformDraws(0), ValueError, "draws = 0"),
        (lambda: GaussLegendre(1, 4), ValueError, "nodes = 1"),
    ],
)
def test_errors(call: Callable[[], Any], error: type[Exception], match: str) -> None:
    refused(match, call, error=error)
