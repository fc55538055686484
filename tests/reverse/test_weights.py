"""Rates of weights against the residual of the composed potential [W1], [W2], [W3]."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.references import LINEAR, locals_of_all, plane_mixture
from helpers.refusals import refused
from helpers.tempered import potential_of
from jaxtyping import Array

import scorefp as sfp
from scorefp.reverse import weight_rate


def here() -> Array:
    """A sample in the precision of the test."""
    return jnp.array([0.3, -0.7])


def other_mixture() -> sfp.GaussianMixture:
    """Two modes in the plane."""
    return sfp.GaussianMixture(jnp.array([[0.5, 0.4], [-0.7, -0.6]]), jnp.array([0.3, 0.5]), jnp.array([0.6, 0.4]))


def reward(t: Array, x: Array) -> Array:
    return -t * jnp.sum(jnp.cos(x)) + x[0] * x[1]


def compositions(one: Any, other: Any) -> list[Any]:
    """Of every kind, and compositions of compositions."""
    return [
        sfp.Annealed(one, 1.7),
        sfp.Product((one, other, one), [0.8, 1.2, -0.6]),
        sfp.Guided(one, other, 2.5),
        sfp.Tilted(sfp.Guided(one, other, 0.5), reward),
        sfp.Product((sfp.Tilted(one, reward), sfp.Annealed(other, 0.3))),
    ]


@pytest.mark.usefixtures("x64")
def test_rate_is_the_residual_on_every_linear_sde() -> None:
    """[W2] and [W3] are [F3] of the composed potential outright, the function of time included, by another route."""
    sdes, mixtures = locals_of_all(3), (plane_mixture(), other_mixture())

    @jax.jit
    def both(sdes: Any) -> Array:
        def at(sde: Any) -> Array:
            one, other = (mixture.score(sde) for mixture in mixtures)
            found = [
                (weight_rate(score, sde.centre, here()), sfp.log_fpe_residual(potential_of(score), sde.centre, here()))
                for score in compositions(one, other)
            ]
            return jnp.asarray(found) / sde.g2_there

        return jax.vmap(jax.vmap(at))(sdes)

    found = both(sdes)
    assert found.shape == (len(LINEAR), 3, 5, 2)
    np.testing.assert_allclose(found[..., 0], found[..., 1], rtol=1e-10, atol=1e-10)
    assert np.all(np.abs(found).max(axis=(1, 3)) > 1e-2)


def brownian() -> sfp.sde.GeometricBrownianMotion:
    volatility = jnp.array([[0.5, 0.0], [-0.2, 0.4]])
    return sfp.sde.GeometricBrownianMotion(jnp.array([0.3, -0.1]), volatility, t0=0.1, t1=1.0)


def log_normal(sde: Any, mean: Any, wide: float) -> sfp.Potential:
    """The potential of a log-normal start, which stays log-normal."""
    law = {"log_mean": jnp.asarray(mean), "log_covariance": wide * jnp.eye(2)}
    return sfp.Potential(lambda t, x: sde.log_density(t, x, **law), sde)


@pytest.mark.usefixtures("x64")
def test_rate_is_the_residual_on_a_general_sde() -> None:
    """With a diffusion that depends on the state and is not diagonal."""
    sde = brownian()
    one, other = log_normal(sde, [0.1, -0.3], 0.3), log_normal(sde, [-0.2, 0.4], 0.5)

    @jax.jit
    def both(x: Array) -> Array:
        scores = compositions(one, other)
        return jnp.asarray([(weight_rate(s, 0.4, x), sfp.log_fpe_residual(potential_of(s), 0.4, x)) for s in scores])

    found = both(jnp.array([1.3, 0.6]))
    np.testing.assert_allclose(found[:, 0], found[:, 1], rtol=1e-10)
    assert np.abs(found).min() > 1e-2


@pytest.mark.usefixtures("x64")
def test_residuals_of_the_parts() -> None:
    """A part off its equation counts by its own residual, by every method; without `residual` it is taken for exact. A
    harmonic tilt has the rate zero.
    """
    sde = sfp.VP()
    one, other = plane_mixture().score(sde), other_mixture().score(sde)
    wrong = sfp.Potential(lambda t, x: one.potential(t, x) + 0.3 * t * jnp.sin(x[0] - x[1]), sde)
    harmonic = sfp.Tilted(one, lambda t, x: other.potential(t, x) - one.potential(t, x))
    scores = [sfp.Product((wrong, other)), sfp.Tilted(sfp.Annealed(wrong, 2.0), reward)]
    t = 0.4

    @jax.jit
    def rates() -> list[Array]:
        methods = [None, sfp.Exact(), sfp.Ito(sfp.Exact())]
        return [
            *(weight_rate(harmonic, t, here(), residual=method) for method in methods[:2]),
            weight_rate(sfp.Tilted(one, reward), t, here()),
            weight_rate(wrong, t, here()),
            sfp.log_fpe_residual(wrong, t, here()),
            *(
                jnp.stack(
                    [
                        sfp.log_fpe_residual(potential_of(score), t, here()),
                        *(weight_rate(score, t, here(), residual=method) for method in methods),
                    ]
                )
                for score in scores
            ),
        ]

    zero, again, tilt, alone, want, *composed = map(np.asarray, rates())
    assert abs(zero) < 1e-10
    assert abs(again) < 1e-10
    assert abs(tilt) > 1e-2
    np.testing.assert_allclose(alone, want, rtol=1e-12)
    for exact, taken_for_exact, pointwise, ito in composed:
        np.testing.assert_allclose([pointwise, ito], exact, rtol=1e-10)
        assert abs(taken_for_exact - exact) > 0.3


def test_bound_compositions_are_still_compositions() -> None:
    """Conditioning reaches the parts, and a tilt's reward."""
    family = sfp.Score(lambda t, x, args: args - x, sfp.VP())
    guided = sfp.Guided(family, family.bind(args=0.5), 2.0)
    plain = sfp.Guided(sfp.Score(lambda t, x: 2.0 - x, sfp.VP()), sfp.Score(lambda t, x: 0.5 - x, sfp.VP()), 2.0)
    tilted = sfp.Tilted(guided, lambda t, x, args: args * jnp.sum(x))
    fixed = sfp.Tilted(plain, lambda t, x: 2 * jnp.sum(x))

    @jax.jit
    def rates() -> list[Array]:
        scores = guided.bind(args=2.0), plain, tilted.bind(args=2.0), fixed
        return [weight_rate(score, 0.5, here()) for score in scores]

    found = rates()
    np.testing.assert_allclose(found[::2], found[1::2], rtol=1e-5)
    assert min(map(abs, found)) > 1


def test_what_has_no_rate_is_refused() -> None:
    bare = sfp.Score(lambda t, x: -x, sfp.VP())
    potential = sfp.Potential(lambda t, x: -0.5 * jnp.sum(x**2), sfp.VP())
    nested = sfp.Product((potential, sfp.Tilted(sfp.Annealed(bare, 2.0), reward)))
    kinked, x = sfp.Tilted(bare, lambda t, x: jnp.sum(jax.nn.relu(x))), here()
    refused("score is a Score.*no composition.*Potential", weight_rate, bare, 0.5, x, error=TypeError)
    deep = r"score.scores\[1\].score.scores\[0\] is a Score.*Leave residual out"
    refused(deep, weight_rate, nested, 0.5, x, residual=sfp.Exact(), error=TypeError)
    refused("residual", weight_rate, potential, 0.5, x, residual=sfp.Sliced(), error=TypeError)
    refused("key is None", weight_rate, potential, 0.5, x, residual=sfp.Hutchinson())
    refused("no room", weight_rate, potential, sfp.VP().t0, x, residual=sfp.Antithetic(), key=jr.key(0))
    refused("reward uses relu.*piecewise linear", weight_rate, kinked, 0.5, x)
