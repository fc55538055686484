"""Integrals along closed loops, and the share of a score that no potential explains, by them [C4]."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.references import mean_is, plane_mixture
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp
from scorefp.calculus import circulation
from scorefp.diagnostics import CirculationCurve, Ensemble

LOOP = tuple(jr.normal(key, (5,)) for key in jr.split(jr.key(0), 3))


@pytest.mark.usefixtures("x64")
def test_a_linear_field_by_its_antisymmetric_part() -> None:
    """By Stokes' theorem, in any dimension and event shape, from three nodes on."""
    matrix = jr.normal(jr.key(1), (6, 6))
    centre, first, second = (jr.normal(key, (2, 3)) for key in jr.split(jr.key(2), 3))
    want = np.pi * float(second.ravel() @ (matrix - matrix.T) @ first.ravel())
    for nodes in (3, 4, 16):
        found = circulation(lambda x: (matrix @ x.ravel() + 1).reshape(x.shape), centre, first, second, nodes=nodes)
        assert float(found) == pytest.approx(want, rel=1e-10)


@pytest.mark.usefixtures("x64")
def test_gradients_have_none_and_others_have() -> None:
    loop = [x.astype(jnp.float64) for x in LOOP]
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(x) * jnp.roll(x, 1)))
    turned = lambda x: jnp.roll(gradient(x), 1)
    assert abs(float(circulation(gradient, *loop, nodes=64))) < 1e-10
    # By another rule: many chords.
    angles = np.linspace(0, 2 * np.pi, 4001)
    points = loop[0] + np.cos(angles)[:, None] * loop[1] + np.sin(angles)[:, None] * loop[2]
    middle = 0.5 * (points[1:] + points[:-1])
    want = float(jnp.sum(jax.vmap(turned)(middle) * jnp.diff(points, axis=0)))
    assert abs(want) > 0.1
    assert float(circulation(turned, *loop, nodes=64)) == pytest.approx(want, rel=1e-5)


@pytest.mark.usefixtures("x64")
def test_the_mean_over_first_angles_is_exact_for_few_nodes() -> None:
    loop = [2 * x.astype(jnp.float64) for x in LOOP]
    field = lambda x: jnp.sin(2 * jnp.roll(x, 1)) + jax.grad(lambda x: jnp.sum(jnp.cos(3 * x)))(x)
    starts = 2 * jnp.pi / 3 * (jnp.arange(40) + 0.3) / 40
    found = jax.jit(jax.vmap(lambda start: circulation(field, *loop, nodes=3, start=start)))(starts)
    want = float(circulation(field, *loop, nodes=200))
    assert float(found.mean()) == pytest.approx(want, rel=1e-9)
    assert float(found.std()) > 0.1 * abs(want)


@pytest.mark.parametrize("size", [2, 6])
def test_the_share_of_a_linear_score_in_noise(size: int) -> None:
    """Where the samples are noise alone it is that of the antisymmetric part, in any dimension."""
    whole = jr.normal(jr.key(size), (size, size))
    odd, even = 0.5 * (whole - whole.T), 0.5 * (whole + whole.T)
    score = sfp.Score(lambda t, x: whole @ x, sfp.VP())
    section = CirculationCurve(ensemble=Ensemble(3, 1500))(score, jnp.zeros((1500, size)), key=jr.key(0))
    want = float(jnp.sum(odd**2) / (jnp.sum(odd**2) + jnp.sum(even**2)))
    share = section.curves["circulation_share"]
    assert (np.abs(share.value - want) < 2 * share.half_width).all()
    assert (share.half_width < 0.3 * want).all()
    number = section.numbers["circulation_share"]
    assert abs(number.value - want) < 2 * (number.half_width or 0)
    # The size: sigma² |A| for each entry.
    sigma2 = np.asarray(sfp.VP().sigma(jnp.asarray(section.curves["circulation"].t))) ** 2
    size_curve = section.curves["circulation"]
    want = sigma2 * float(jnp.sqrt(jnp.sum(odd**2) / size))
    assert (np.abs(size_curve.value - want) < 2 * size_curve.half_width).all()


def test_it_is_zero_for_potentials_and_below_the_distance_to_them() -> None:
    exact = plane_mixture().score(sfp.VP())
    eta = 0.7

    def swirled(t: Array, x: Array) -> Array:
        s = exact(t, x)
        return s + eta * jnp.stack([-s[1], s[0]])

    x = plane_mixture().sample(jr.key(0), 1500)
    measure = CirculationCurve(ensemble=Ensemble(4, 1500))
    none = measure(exact, x, key=jr.key(1))
    assert mean_is(jnp.asarray(none.points["circulation"]), 0.0, sigmas=3)
    half = none.numbers["circulation_share"].half_width or 0
    assert abs(none.numbers["circulation_share"].value) < 2 * half
    some = measure(sfp.Score(swirled, sfp.VP()), x, key=jr.key(1))
    # The field has no divergence in q, so that the score's distance to the gradients is its size.
    most = eta**2 / (1 + eta**2)
    share = some.curves["circulation_share"]
    assert (share.value < most + share.half_width).all()
    assert (share.value > share.half_width).all()
    assert share.value[-1] == pytest.approx(most, abs=2 * share.half_width[-1])
    assert some.numbers["circulation_share"].value > 5 * half


BAD: dict[str, tuple[str, Callable[[], Any], type[Exception]]] = {
    "nodes": ("nodes = 2", lambda: circulation(jnp.sin, *LOOP, nodes=2), ValueError),
    "shape": ("second has shape", lambda: circulation(jnp.sin, LOOP[0], LOOP[1], LOOP[2][:2]), ValueError),
    "field": ("the value of fn has shape", lambda: circulation(lambda x: x[:2], *LOOP), ValueError),
    "measure": ("nodes = 2", lambda: CirculationCurve(nodes=2), ValueError),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", BAD)
def test_bad_inputs(name: str) -> None:
    message, call, error = BAD[name]
    refused(message, call, error=error)
