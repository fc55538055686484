"""Networks: shapes and precisions, the derivatives that residuals take, and where training starts."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import pytest
from jaxtyping import Array

import scorefp as sfp
from scorefp.nn import MLP, fourier_features

SHAPES: list[tuple[int, ...]] = [(), (3,), (2, 1, 2)]


def awake(network: MLP, key: Array) -> MLP:
    """The network with an output layer that is no longer zero."""
    weight = 0.5 * jr.normal(key, network.leave.weight.shape)
    return eqx.tree_at(lambda n: n.leave.weight, network, weight.astype(network.leave.weight.dtype))


@pytest.mark.quick
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_batches_and_gradients(shape: tuple[int, ...], getkey: Callable[[], Array]) -> None:
    network = awake(MLP(shape=shape, width=8, depth=2, key=getkey()), getkey())
    assert network.shape == shape
    x, t = jr.normal(getkey(), (5, *shape)), jnp.linspace(-2.0, 2.0, 5)

    @eqx.filter_jit
    def batch(network: MLP, t: Array, x: Array) -> tuple[Array, Any]:
        loss = lambda n: jnp.sum(jax.vmap(n)(t, x) ** 2)
        return jax.vmap(network)(t, x), eqx.filter_grad(loss)(network)

    values, slopes = batch(network, t, x)
    assert values.shape == x.shape
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values[3], network(t[3], x[3]), rtol=1e-5, atol=1e-6)
    # Every array has a part in the value.
    for slope in jax.tree.leaves(slopes):
        assert np.all(np.isfinite(slope))
        assert np.abs(slope).max() > 0
    assert not np.allclose(network(0.5, x[0]), network(0.6, x[0]))


@pytest.mark.quick
def test_precision(getkey: Callable[[], Array]) -> None:
    """Values have the precision of weights and sample; a score has that of the sample, whatever the network's."""
    network = awake(MLP(shape=(3,), width=8, depth=1, key=getkey()), getkey())
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), network)
    x = jr.normal(getkey(), (3,))
    assert half(0.3, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    score, exact = (sfp.NoiseScore(n, sfp.VP())(0.3, x) for n in (half, network))
    assert score.dtype == jnp.float32
    np.testing.assert_allclose(score, exact, rtol=0.05, atol=0.05)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda a: a.astype(jnp.float64), network)
        assert double(0.3, x.astype(jnp.float64)).dtype == jnp.float64
        np.testing.assert_allclose(double(0.3, x.astype(jnp.float64)), network(0.3, x), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_second_derivatives(getkey: Callable[[], Array]) -> None:
    """Along a line in `(t, x)`, against differences of the first derivative, of second order in the step."""
    network = awake(MLP(shape=(3,), width=16, depth=2, key=getkey()), getkey())
    t, x, v = jnp.asarray(0.4), jr.normal(getkey(), (3,)), jr.normal(getkey(), (3,))

    @jax.jit
    def slopes(e: Array) -> tuple[Array, Array]:
        along = lambda e: network(t + 0.7 * e, x + e * v)
        slope = lambda e: jax.jvp(along, (e,), (jnp.ones_like(e),))[1]
        return jax.jvp(slope, (e,), (jnp.ones_like(e),))

    bend, errors = slopes(jnp.asarray(0.0))[1], []
    for h in (1e-2, 1e-3):
        ahead, behind = slopes(jnp.asarray(h))[0], slopes(jnp.asarray(-h))[0]
        errors.append(np.abs((ahead - behind) / (2 * h) - bend).max())
    assert np.abs(bend).max() > 0.1
    assert errors[1] < 1e-5 * np.abs(bend).max()
    assert 90 < errors[0] / errors[1] < 110


@pytest.mark.quick
@pytest.mark.usefixtures("x64")
def test_training_starts_at_the_gaussian(getkey: Callable[[], Array]) -> None:
    """The last layer is zero, and a preconditioned score is that of normal data."""
    network = MLP(shape=(3,), width=8, key=getkey())
    x, t = jr.normal(getkey(), (3,)), 0.4
    np.testing.assert_array_equal(network(t, x), np.zeros(3))
    total = 0.1 * t + 9.95 * t**2
    want = -x / (np.exp(-total) * 0.7**2 - np.expm1(-total))
    for wrap in (sfp.NoiseScore, sfp.DenoiserScore, sfp.VelocityScore):
        np.testing.assert_allclose(wrap(network, sfp.VP(), data_std=0.7)(t, x), want, rtol=1e-12)
    woken = sfp.NoiseScore(awake(network, getkey()), sfp.VP(), data_std=0.7)
    assert np.abs(woken(t, x) - want).max() > 0.01


@pytest.mark.quick
@pytest.mark.usefixtures("x64")
def test_fourier_features() -> None:
    """Time, and sines and cosines of eight frequencies from a half to eight."""
    t = 0.7
    omega = 0.5 * 16 ** (np.arange(8) / 7)
    want = np.concatenate([[t], np.sin(omega * t), np.cos(omega * t)])
    np.testing.assert_allclose(fourier_features(jnp.asarray(t)), want, rtol=1e-12)


@pytest.mark.quick
def test_bad_input(getkey: Callable[[], Array]) -> None:
    with pytest.raises(ValueError, match="width = 0 and depth = 3; both must be at least one"):
        MLP(shape=(2,), width=0, key=getkey())
    with pytest.raises(ValueError, match="width = 8 and depth = 0; both must be at least one"):
        MLP(shape=(2,), width=8, depth=0, key=getkey())
    network = MLP(shape=(2, 3), width=8, depth=1, key=getkey())
    for shape in ((6,), (5, 2, 3), (3, 2)):
        message = rf"x has shape \({', '.join(map(str, shape))},?\), but a sample of this network has shape \(2, 3\)"
        with pytest.raises(ValueError, match=message):
            network(0.5, jnp.ones(shape))
    # What a user sees, without the checks of types that come with the tests.
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(
            ValueError, match=r"t has shape \(4,\); one time is a scalar. Batch over times with jax.vmap"
        ):
            sfp.NoiseScore(network, sfp.VP())(jnp.ones(4), jnp.ones((2, 3)))
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
