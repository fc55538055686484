"""Samples to latents and back, against the closed form of one normal law [X2]."""

import dataclasses
from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.gaussian import gaussian, gaussian_flow
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp
from scorefp.reverse import round_trip

pytestmark = pytest.mark.usefixtures("x64")

SDE = sfp.VP()


def maps() -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """The flow of `gaussian()` up and down, made in the precision of the test."""
    return gaussian_flow(SDE, SDE.t0, SDE.t1)[0], gaussian_flow(SDE, SDE.t1, SDE.t0)[0]


@pytest.mark.parametrize(
    ("solver", "tolerance", "least", "most"),
    [
        (diffrax.Tsit5(), 1e-3, 0.4, 2.5),
        (diffrax.Tsit5(), 1e-8, 0.4, 2.5),
        (diffrax.Heun(), 1e-4, 0.02, 0.5),
    ],
    ids=["loose", "tight", "Heun"],
)
def test_one_normal_law_in_closed_form(
    solver: diffrax.AbstractRungeKutta, tolerance: float, least: float, most: float
) -> None:
    """The error of the round trip is about that of the two ways; Heun's method has even order, and its errors cancel.

    The leading error of a step of length `h` and order `p` goes like `h^(p + 1)`, and back with `-h`.
    """
    score, x = gaussian().score(SDE), gaussian().sample(jr.key(0), 16)
    integrator = sfp.Integrator(solver, rtol=tolerance, atol=tolerance)
    up, down = (jax.vmap(fn) for fn in maps())
    trips = jax.vmap(lambda x: round_trip(score, x, integrator=integrator))(x)
    decoded = jax.vmap(lambda z: sfp.decode(score, z, integrator=integrator))(up(x))
    size = lambda error: float(jnp.sqrt(jnp.mean(error**2)))
    true = float(np.hypot(size(down(trips.latent) - x), size(decoded - x)))
    assert 0.02 * tolerance < true < 20 * tolerance
    assert least < size(trips.solver_error) / true < most
    np.testing.assert_allclose(trips.solver_error, jnp.sqrt(jnp.mean((trips.returned - x) ** 2, axis=1)))
    assert float(jnp.abs(trips.latent - x).max()) > 0.1


def test_gradients_of_the_map_and_in_the_score() -> None:
    z, law = jnp.array([0.3, -0.8]), gaussian()

    def decoded(z: Array, shift: Array) -> Array:
        """Of the law moved by `shift`: its score at x is that of the law at x - α(t) shift."""
        score = law.score(SDE)
        moved = sfp.Score(lambda t, x: score(t, x - SDE.alpha(t) * shift), SDE)
        return sfp.decode(moved, z, integrator=sfp.Integrator(rtol=1e-9, atol=1e-9))[0]

    slopes = jax.jit(jax.grad(decoded, argnums=(0, 1)))(z, jnp.zeros(2))
    row = jax.jacfwd(maps()[1])(z)[0]
    np.testing.assert_allclose(slopes[0], row, atol=1e-7)
    # x = α0 m + A (z - α1 m)
    ends = SDE.alpha(jnp.array([SDE.t0, SDE.t1]))
    np.testing.assert_allclose(slopes[1], ends[0] * jnp.array([1.0, 0.0]) - ends[1] * row, atol=1e-7)


def test_a_failed_solve_fails_the_round_trip() -> None:
    few = sfp.Integrator(max_steps=2)
    lenient = dataclasses.replace(few, throw=False)
    score, x = gaussian().score(SDE), jnp.array([0.7, -1.1])
    trip = round_trip(score, x, integrator=lenient)
    assert not bool(trip.success)
    assert bool(jnp.isnan(trip.returned).all() & jnp.isnan(trip.latent).all() & jnp.isnan(trip.solver_error))
    with pytest.raises(RuntimeError, match=r"max_steps = 2 did not bring it from t = 1\.0 to t = 1e-05"):
        sfp.decode(score, x, integrator=few)


@pytest.mark.quick
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("fn", [sfp.encode, sfp.decode, round_trip])
def test_bad_input(fn: Callable[..., Array]) -> None:
    score, name = gaussian().score(SDE), "latent" if fn is sfp.decode else "x"
    refused(rf"{name} has shape \(2, 2\)", fn, score, jnp.ones((2, 2)))
    refused(f"{name} has dtype bfloat16; a measurement does not", fn, score, jnp.ones(2, jnp.bfloat16), error=TypeError)
    refused(f"{name} holds NaN", fn, score, jnp.full(2, jnp.nan))
    refused("integrator is None", fn, score, jnp.ones(2), integrator=None, error=TypeError)
    refused("score is a function", fn, lambda t, x: -x, jnp.ones(2), error=TypeError)
