"""Log-normalisers of potentials: closed forms by both methods, their errors, and the residual they explain."""

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
from helpers.references import assert_mean, line_mixture, plane_mixture
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp

pytestmark = pytest.mark.usefixtures("x64")

SDE = sfp.OU(t0=0.1, t1=3.0)
BOX = sfp.likelihood.BoxQuadrature
cube = functools.partial(references.cube, side=6.0)


class Scaled(eqx.Module):
    """`power` times the log-density of the diffused mixture, and a function of time: normalised no more."""

    exact: sfp.score.AbstractPotential
    power: Array

    def __call__(self, t: Array, x: Array) -> Array:
        return self.power * self.exact.potential(t, x) + jnp.sin(2 * t)


def scaled(mixture: sfp.GaussianMixture, power: float = 1.0) -> sfp.Potential:
    return sfp.Potential(Scaled(mixture.score(SDE), jnp.asarray(power)), SDE)


def test_quadrature_of_a_mixture() -> None:
    """A log-density and c(t) has the log-normaliser c(t), with the residual for its slope [F3]; twice it has not."""
    potential, method = scaled(plane_mixture()), BOX(cube(2, side=5.0))
    for t in (0.1, 0.7, 2.5):
        found = sfp.likelihood.log_normaliser(potential, t, method)
        assert float(found.value) == pytest.approx(math.sin(2 * t), abs=1e-9)
        assert abs(found.value - math.sin(2 * t)) <= found.remainder + 1e-10 < 1e-4
        # The integral of the squared density is below its largest value.
        assert (
            float(sfp.likelihood.log_normaliser(scaled(plane_mixture(), 2.0), t, method).value) < math.sin(2 * t) - 0.5
        )
    slope = jax.grad(lambda t: sfp.likelihood.log_normaliser(potential, t, method).value)(0.7)
    residual = sfp.log_fpe_residual(potential, 0.7, jnp.array([0.3, -0.4]))
    assert float(slope) == pytest.approx(2 * math.cos(1.4), abs=1e-8)
    assert float(residual) == pytest.approx(2 * math.cos(1.4), abs=1e-9)


def test_quadrature_of_scalar_samples() -> None:
    """Against a fine sum, for a potential that is no log-density."""
    potential = scaled(line_mixture(), 0.7)
    grid = jnp.linspace(-6, 6, 20001)
    want = float(jnp.log(jnp.trapezoid(jnp.exp(jax.vmap(lambda x: potential.potential(0.2, x))(grid)), grid)))
    found = sfp.likelihood.log_normaliser(potential, 0.2, BOX(cube(), nodes=96))
    assert float(found.value) == pytest.approx(want, abs=1e-8)
    assert abs(want - math.sin(0.4)) > 0.1


def test_too_few_nodes_are_seen() -> None:
    """The control of the remainder: a mode between the nodes."""
    narrow = sfp.Potential(lambda t, x: -0.5 * jnp.sum((x / 0.02) ** 2), SDE)
    want = math.log(0.02 * math.sqrt(2 * math.pi))
    found = sfp.likelihood.log_normaliser(narrow, 1.0, BOX(cube(1), nodes=32))
    assert float(found.remainder) > 0.5 * abs(float(found.value) - want) > 0.1


def test_importance_sampling() -> None:
    """Unbiased for Z, so for log Z to the order 1/n; the standard error against the spread of repeats."""
    matrix = jnp.array([[2.0, 0.3, 0.0, 0.1], [0.3, 1.0, 0.2, 0.0], [0.0, 0.2, 1.5, 0.1], [0.1, 0.0, 0.1, 1.2]])
    bell = sfp.Potential(lambda t, x: 3.0 - 0.5 * jnp.sum(x * (matrix @ x)), SDE)
    want = 3.0 + 0.5 * (4 * math.log(2 * math.pi) - float(jnp.linalg.slogdet(matrix)[1]))
    proposal = sfp.GaussianMixture(jnp.zeros((1, 4)), jnp.array([1.3]), jnp.ones(1))
    method = sfp.likelihood.ImportanceSampling(proposal, draws=256)
    found = jax.vmap(lambda key: sfp.likelihood.log_normaliser(bell, 1.0, method, key=key))(jr.split(jr.key(0), 2000))
    assert_mean(jnp.exp(found.value - want), 1.0, resolution=0.01)
    # The variance of 2,000 values is known to 3 percent.
    assert float(jnp.mean(found.error**2)) == pytest.approx(float(jnp.var(found.value)), rel=0.12)
    exact = sfp.GaussianMixture(jnp.zeros((1, 4)), jnp.linalg.inv(matrix)[None], jnp.ones(1))
    found = sfp.likelihood.log_normaliser(bell, 1.0, sfp.likelihood.ImportanceSampling(exact, draws=16), key=jr.key(1))
    assert float(found.value) == pytest.approx(want, abs=1e-12)
    assert float(found.error) < 1e-12


def test_large_potentials_do_not_overflow() -> None:
    with jax.enable_x64(False):
        high = sfp.Potential(lambda t, x: 1000.0 - 0.5 * jnp.sum(x**2), sfp.OU())
        proposal = sfp.GaussianMixture(jnp.zeros((1, 1)), jnp.array([1.5]), jnp.ones(1))
        for method in (BOX(cube(1)), sfp.likelihood.ImportanceSampling(proposal)):
            found = sfp.likelihood.log_normaliser(high, 1.0, method, key=jr.key(2))
            np.testing.assert_allclose(found.value, 1000 + 0.5 * math.log(2 * math.pi), atol=0.05)
            assert found.value.dtype == found.error.dtype == jnp.float32
            assert float(found.error) < 0.05


@pytest.mark.quick
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda p: sfp.likelihood.log_normaliser(p, 1.0, BOX(cube(3))), ValueError, "a point of the method"),
        (lambda p: sfp.likelihood.log_normaliser(p, 5.0, BOX(cube(2))), ValueError, "t = 5.0 lies outside"),
        (lambda p: sfp.likelihood.log_normaliser(p, 1.0, BOX(cube(4))), ValueError, "beyond three elements"),
        (lambda p: sfp.likelihood.log_normaliser(p, 1.0, BOX(cube(2)), batch_size=0), ValueError, "batch_size = 0"),
        (
            lambda p: sfp.likelihood.log_normaliser(p, 1.0, sfp.likelihood.ImportanceSampling(plane_mixture())),
            ValueError,
            "key is None",
        ),
        (
            lambda p: sfp.likelihood.log_normaliser(sfp.Score(lambda t, x: -x, SDE), 1.0, BOX(cube(2))),  # pyright: ignore
            TypeError,
            "without a potential",
        ),
        (lambda p: BOX(cube(2), nodes=1), ValueError, "nodes = 1"),
        (lambda p: sfp.likelihood.ImportanceSampling(plane_mixture(), draws=1), ValueError, "draws = 1"),
    ],
)
def test_errors(call: Callable[[Any], Any], error: type[Exception], match: str) -> None:
    refused(match, call, plane_mixture().score(SDE), error=error)
