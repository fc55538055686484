"""Networks: shapes and precisions, the derivatives that residuals take, and where training starts."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import networks
from helpers.linear_case import alpha, variance
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp
from scorefp.nn import MLP, ScalarMLP, fourier_features, silu, softplus

SHAPES: list[tuple[int, ...]] = [(), (3,), (2, 1, 2)]


def filled(shape: tuple[int, ...], *, width: int, depth: int, dtype: Any = np.float32) -> MLP:
    """A network with random numbers in every array, the last layer among them."""
    make = lambda: MLP(shape, width=width, depth=depth, key=jr.key(0))
    return networks.filled(make, dtype, lambda shape: np.sqrt(shape[-1]))


@pytest.mark.quick
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_batches_and_gradients(shape: tuple[int, ...]) -> None:
    network = filled(shape, width=8, depth=2)
    assert network.shape == shape
    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, *shape)).astype(np.float32))
    t = jnp.asarray(np.linspace(-2, 2, 5, dtype=np.float32))

    @eqx.filter_jit
    def batch(network: MLP) -> tuple[Array, ...]:
        loss = lambda n: jnp.sum(jax.vmap(n)(t, x) ** 2)
        return jax.vmap(network)(t, x), network(t[3], x[3]), network(t[4], x[3]), eqx.filter_grad(loss)(network)

    values, alone, later, slopes = batch(network)
    assert values.shape == x.shape
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values[3], alone, rtol=1e-5, atol=1e-6)
    assert not np.allclose(alone, later)
    networks.every_array_counts(slopes)


@pytest.mark.quick
@pytest.mark.usefixtures("x64")
def test_precision() -> None:
    """Values have the precision of weights and sample; a score has that of the sample, whatever the network's."""
    network = filled((3,), width=8, depth=1, dtype=np.float64)
    x = np.random.default_rng(1).normal(size=3)

    @jax.jit
    def everything() -> dict[Any, tuple[Array, Array]]:
        found = {}
        for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
            cast = jax.tree.map(lambda a, d=dtype: a.astype(d), network)
            value = cast(jnp.asarray(0.3, dtype), jnp.asarray(x, dtype))
            found[jnp.dtype(dtype).name] = value, sfp.NoiseScore(cast, sfp.VP())(0.3, jnp.asarray(x, jnp.float32))
        return found

    found = everything()
    for name, (value, score) in found.items():
        assert value.dtype.name == name
        assert score.dtype == jnp.float32
    for name, precision in (("bfloat16", 0.05), ("float32", 1e-5)):
        for a, b in zip(found[name], found["float64"], strict=True):
            np.testing.assert_allclose(a.astype(float), b, rtol=precision, atol=precision)


@pytest.mark.usefixtures("x64")
def test_second_derivatives() -> None:
    """Along a line in `(t, x)`, against differences of the first derivative, of second order in the step."""
    network = filled((3,), width=16, depth=2, dtype=np.float64)
    t, (x, v) = jnp.asarray(0.4), jnp.asarray(np.random.default_rng(1).normal(size=(2, 3)))

    networks.against_differences(networks.slopes_along(network, t, x, v), least=0.1, within=1e-6)


@pytest.mark.quick
@pytest.mark.usefixtures("x64")
def test_training_starts_at_the_gaussian(getkey: Callable[[], Array]) -> None:
    """The last layer is zero, and a preconditioned score is that of normal data."""
    x, t = jnp.asarray(np.random.default_rng(1).normal(size=3)), 0.4
    want = -x / (alpha(t) ** 2 * 0.7**2 + variance(t))

    @eqx.filter_jit
    def values(network: MLP) -> list[Array]:
        wraps = (sfp.NoiseScore, sfp.DenoiserScore, sfp.VelocityScore)
        return [network(t, x), *(wrap(network, sfp.VP(), data_std=0.7)(t, x) for wrap in wraps)]

    value, *scores = values(MLP(shape=(3,), width=8, depth=2, key=getkey()))
    np.testing.assert_array_equal(value, np.zeros(3))
    for score in scores:
        np.testing.assert_allclose(score, want, rtol=1e-12)
    # The control: with another last layer it is none of them.
    value, *scores = values(filled((3,), width=8, depth=2, dtype=np.float64))
    assert np.abs(value).max() > 0.1
    assert all(np.abs(score - want).max() > 0.01 for score in scores)


@pytest.mark.quick
@pytest.mark.usefixtures("x64")
def test_fourier_features() -> None:
    """Time, and sines and cosines of eight frequencies from a half to eight."""
    t = 0.7
    omega = 0.5 * 16 ** (np.arange(8) / 7)
    want = np.concatenate([[t], np.sin(omega * t), np.cos(omega * t)])
    np.testing.assert_allclose(fourier_features(jnp.asarray(t)), want, rtol=1e-12)


@pytest.mark.quick
def test_bad_input(getkey: Callable[[], Array], unchecked: None) -> None:
    refused("width = 0; it is a count of at least 1", MLP, shape=(2,), width=0, key=getkey())
    refused("depth = 0; it is a count of at least 1", MLP, shape=(2,), width=8, depth=0, key=getkey())
    refused("dropout = 1.0; the share of entries that are dropped", MLP, shape=(2,), dropout=1.0, key=getkey())
    assert isinstance(MLP((2,), dropout=jnp.array(0.1), key=getkey()).dropout, float)
    network = filled((2, 3), width=8, depth=1)
    for shape in ((6,), (5, 2, 3), (3, 2)):
        message = rf"x has shape \({', '.join(map(str, shape))},?\), but a sample of this network has shape \(2, 3\)"
        refused(message, network, 0.5, jnp.ones(shape))
    message = r"t has shape \(4,\); one time is a scalar. Batch over times with jax.vmap"
    refused(message, sfp.NoiseScore(network, sfp.VP()), jnp.ones(4), jnp.ones((2, 3)))


@pytest.mark.quick
@pytest.mark.usefixtures("x64")
def test_derivatives_of_the_activations() -> None:
    """The closed forms, and what is derived from the last, against those of jax by the chain rule."""
    z = jnp.linspace(-30.0, 30.0, 25)

    @jax.jit
    def derivatives() -> list[tuple[Array, Array]]:
        pairs = []
        for own, reference in ((silu, jax.nn.silu), (softplus, jax.nn.softplus)):
            for _ in range(5):
                pairs.append((jax.vmap(own)(z), jax.vmap(reference)(z)))
                own, reference = jax.grad(own), jax.grad(reference)
        return pairs

    for own, reference in derivatives():
        np.testing.assert_allclose(own, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.quick
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scalar_network(shape: tuple[int, ...]) -> None:
    """By NumPy, from the formula."""
    network = ScalarMLP(shape, width=5, depth=2, key=jr.key(0))
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    h = np.concatenate([[np.float32(0.3)], x.ravel()])
    for layer in network.layers:
        h = np.logaddexp(0, np.asarray(layer.weight) @ h + np.asarray(layer.bias))
    value = network(0.3, jnp.asarray(x))
    assert value.shape == ()
    np.testing.assert_allclose(value, np.asarray(network.leave.weight)[0] @ h + network.leave.bias[0], rtol=1e-5)
    refused(r"x has shape .* are never broadcast", network, 0.3, jnp.ones((7,)))


@pytest.mark.quick
@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.leaky_relu, lambda z: jnp.clip(z, -1, 1)])
def test_networks_are_smooth(activation: Callable[[Array], Array]) -> None:
    for make in (MLP, ScalarMLP):
        with pytest.raises(ValueError, match=r"which is piecewise linear: its second derivatives.*Use a smooth one"):
            make((2,), activation=activation, key=jr.key(0))
