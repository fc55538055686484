"""Networks: shapes, the Gaussian start, and derivatives up to the third."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import scorefp as sfp
from scorefp.nn import MLP, fourier_features, silu

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.quick
def test_silu_has_the_derivatives_of_jax_nn() -> None:
    z = jnp.linspace(-6.0, 6.0, 41)
    mine, theirs = silu, jax.nn.silu
    for _ in range(5):
        np.testing.assert_allclose(jax.vmap(mine)(z), jax.vmap(theirs)(z), atol=1e-13)
        mine, theirs = jax.grad(mine), jax.grad(theirs)


@pytest.mark.quick
@pytest.mark.parametrize("shape", [(), (3,), (1, 2, 2)])
def test_a_new_network_is_the_score_of_a_gaussian(shape: tuple[int, ...]) -> None:
    sde = sfp.VP()
    score = sfp.NoiseScore(MLP(shape, width=8, key=jr.key(0)), sde, data_std=0.7)
    x = jr.normal(jr.key(1), shape)
    t = 0.3
    variance = (0.7 * sde.alpha(t)) ** 2 + sde.sigma(t) ** 2
    np.testing.assert_allclose(score(t, x), -x / variance, rtol=1e-12)


def test_second_derivatives_match_differences() -> None:
    network = MLP((2,), width=8, depth=2, key=jr.key(0))
    weight = jr.normal(jr.key(1), network.leave.weight.shape)
    network = jax.tree.map(lambda leaf: weight if leaf is network.leave.weight else leaf, network)
    x, v, h = jnp.array([0.3, -0.8]), jnp.array([1.0, 0.5]), 1e-4
    _, _, bend = sfp.calculus.curve_derivatives(lambda y: network(0.4, y), x, v, jnp.zeros(2))
    difference = (network(0.4, x + h * v) - 2 * network(0.4, x) + network(0.4, x - h * v)) / h**2
    assert jnp.abs(bend).max() > 1e-2
    np.testing.assert_allclose(bend, difference, atol=1e-6)


def test_features_tell_times_apart() -> None:
    t = jnp.linspace(-2.0, 2.0, 30)
    features = jax.vmap(fourier_features)(t)
    distances = jnp.linalg.norm(features[:, None] - features[None], axis=-1) + 10.0 * jnp.eye(30)
    assert distances.min() > 0.1


def test_errors() -> None:
    with pytest.raises(ValueError, match="width = 0 and depth = 3; both must be at least one"):
        MLP((2,), width=0, key=jr.key(0))
    with pytest.raises(ValueError, match=r"x has shape \(3,\), but a sample of this network has shape \(2,\)"):
        MLP((2,), width=4, key=jr.key(0))(0.5, jnp.ones(3))
