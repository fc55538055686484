"""Terms at every so many steps: their values and gradients, what the mean over steps is, and what is refused."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp
from scorefp.objective import AbstractObjective, AbstractTerm, Smoothness

pytestmark = pytest.mark.usefixtures("x64")

X0 = np.random.default_rng(0).normal(size=(16, 3))


class Network(eqx.Module):
    """With conditioning and dropout, and a last layer that is not zero."""

    mlp: sfp.nn.MLP

    def __init__(self) -> None:
        mlp = sfp.nn.MLP((3,), width=16, depth=1, key=jr.key(0))
        weight = 0.3 * jr.normal(jr.key(1), mlp.leave.weight.shape)
        self.mlp = eqx.tree_at(lambda n: n.leave.weight, mlp, weight)

    def __call__(self, t: Array, x: Array, *, args: Array, key: Array) -> Array:
        return self.mlp(t, x * jr.bernoulli(key, 0.8, x.shape) + args)


@eqx.filter_jit
def evaluated(loss: AbstractObjective, network: Network, step: Array | None, coefficient: Array) -> Any:
    """The values of the terms, and the gradient of the whole in the network, the samples and a coefficient."""

    def value(at: tuple[Network, Array, Array]) -> tuple[Array, list[Array]]:
        network, x0, coefficient = at
        score = sfp.NoiseScore(network, sfp.VP(), data_std=1.0)
        options: Any = {"args": 0.1 * X0, "dropout": True, "step": step}
        total, terms = (coefficient * loss).evaluate(score, x0, key=jr.key(3), **options)
        return total, list(terms.values())

    (total, terms), slopes = eqx.filter_value_and_grad(value, has_aux=True)((network, jnp.asarray(X0), coefficient))
    return total, terms, slopes


def of(loss: AbstractObjective, step: int | None = None) -> Any:
    network = jax.tree.map(lambda a: a.astype(float) if eqx.is_inexact_array(a) else a, Network())
    return evaluated(loss, network, None if step is None else jnp.asarray(step), jnp.asarray(0.7))


TERMS: dict[str, AbstractTerm] = {
    "Antithetic": sfp.ScoreFPE(fraction=0.25),
    "more rows than the others": sfp.ScoreFPE(),
    "Ito": sfp.ScoreFPE(sfp.Ito(), fraction=0.5),
    "Smoothness": Smoothness(),
    "restricted": sfp.Restricted(sfp.ScoreFPE(), start=0.2),
}


@pytest.mark.parametrize("name", TERMS)
def test_every_third_step_has_three_times_the_term(name: str) -> None:
    """Value and gradient, in the network and in what else is differentiated; and none of it in between."""
    term, rest = TERMS[name], sfp.DSM(fraction=0.5)
    _, (matching, value), slopes = of(rest + 3.0 * term)
    total, (alone,), plain = of(1.0 * rest)
    for step in (0, 1, 2, 3):
        found, terms, gradient = of(rest + sfp.Lazy(term, every=3), step)
        on = step % 3 == 0
        np.testing.assert_allclose(terms[0], matching, rtol=1e-10)
        np.testing.assert_allclose(terms[1], 3 * value if on else 0, rtol=1e-10)
        np.testing.assert_allclose(found, 0.7 * (matching + 3 * value) if on else total, rtol=1e-10)
        for one, other in zip(*map(jax.tree.leaves, (gradient, slopes if on else plain)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10 * float(jnp.abs(other).max()))
    assert value > 1e-3
    assert alone == matching


def test_without_lazy_steps_it_is_the_term_to_the_bit() -> None:
    bare = of(sfp.DSM() + 0.5 * TERMS["Antithetic"])
    for found in (
        of(sfp.DSM() + 0.5 * sfp.Lazy(TERMS["Antithetic"], every=1), 7),
        of(sfp.DSM() + 0.5 * sfp.Lazy(TERMS["Antithetic"], every=4)),
    ):
        for one, other in zip(*map(jax.tree.leaves, (found, bare)), strict=True):
            np.testing.assert_array_equal(one, other)


def test_lazy_alone_and_several() -> None:
    """Nothing is there that the base is shared with; two terms have steps of their own."""
    term = TERMS["Antithetic"]
    _, (value,), _ = of(1.0 * term)
    for step in (0, 1, 2, 3, 4, 6):
        _, (second, third), slopes = of(sfp.Lazy(term, every=2) + sfp.Lazy(sfp.DSM(), every=3), step)
        np.testing.assert_allclose(second, 0 if step % 2 else 2 * value, rtol=1e-10)
        assert (third != 0) == (step % 3 == 0)
        assert any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(slopes[0])) == (step in (0, 2, 3, 4, 6))


@pytest.mark.quick
def test_how_it_prints_and_what_it_is_called() -> None:
    loss = sfp.DSM() + 0.3 * sfp.Lazy(sfp.ScoreFPE(fraction=0.25), every=4)
    assert repr(loss).endswith("*Lazy(term=ScoreFPE(fraction=0.25), every=4)")
    score = sfp.Score(lambda t, x: -x, sfp.VP())
    assert list(loss.evaluate(score, jnp.asarray(X0), key=jr.key(0))[1]) == ["DSM", "Lazy(ScoreFPE)"]


@pytest.mark.quick
@pytest.mark.usefixtures("unchecked")
def test_bad_input() -> None:
    refused(r"every = 0; it is a count of steps of at least 1", sfp.Lazy, sfp.DSM(), every=0)
    refused(r"term is a Objective", sfp.Lazy, sfp.DSM() + sfp.DSM(), every=2, error=TypeError)
    lazy = sfp.Lazy(sfp.DSM(), every=2)
    refused(r"term = Lazy\(.*\) inside Lazy; .* outermost one\. Give the term itself", sfp.Lazy, lazy, every=3)
    refused(r"inside Restricted; a lazy term is the outermost one\. Make it Lazy\(Restricted", sfp.Restricted, lazy)
    score = sfp.Score(lambda t, x: -x, sfp.VP())
    for step, error in ((1.5, TypeError), ("1", TypeError), (jnp.arange(2), ValueError)):
        refused("step ", lazy, score, jnp.asarray(X0), key=jr.key(0), step=step, error=error)


def test_what_a_score_closes_over_has_its_derivative() -> None:
    """Parameters of a loop of one's own, held by a function, at steps with and without the term."""
    x, both = jnp.asarray(X0), sfp.DSM() + 0.5 * sfp.Lazy(sfp.ScoreFPE(fraction=0.25), every=4)

    def value(parameters: dict[str, Array], loss: AbstractObjective, step: Array | None) -> Array:
        score = sfp.Score(lambda t, x: parameters["a"] * jnp.tanh(x * parameters["b"]), sfp.VP())
        return loss(score, x, key=jr.key(3), step=step)

    slope = eqx.filter_jit(jax.grad(value))
    at = {"a": jnp.asarray(-1.2), "b": jnp.linspace(0.5, 1.0, 3)}
    for step, plain in ((4, sfp.DSM() + 2.0 * sfp.ScoreFPE(fraction=0.25)), (5, sfp.DSM())):
        wanted = slope(at, plain, None)
        for name, found in slope(at, both, jnp.asarray(step)).items():
            np.testing.assert_allclose(found, wanted[name], rtol=1e-8)
