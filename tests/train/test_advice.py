"""The warnings before the first step: another scale of the data, idle dropout, labels for none, networks twice."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import scorefp as sfp
from scorefp import data, train
from scorefp.train._advice import scale_of

X = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
VP = sfp.VP()
FAR = "the root mean square of the data is {}, and data_std of the model is {}"


def network() -> sfp.nn.MLP:
    return sfp.nn.MLP((2,), width=8, depth=1, key=jr.key(1))


def told(model: Any, values: Any, **options: Any) -> list[str]:
    """What a run of two steps is warned of."""
    settings: dict[str, Any] = {"optimizer": optax.sgd(1e-6), "steps": 2, "key": jr.key(2), "batch_size": 16}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        train.fit(model, sfp.DSM(), values, **(settings | options), progress=False, report_every=2)
    assert all(warning.category is UserWarning for warning in seen)
    return [str(warning.message) for warning in seen]


SOURCES = {"on the device": lambda x: jnp.asarray(x), "on the host": lambda x: data.OnHost(data.Dataset(x))}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("scale", "std", "warned"), [(3.2, 1.0, True), (2.8, 1.0, False), (1.0, 3.2, True), (1.0, 2.8, False)]
)
def test_data_far_from_data_std(source: str, scale: float, std: float, warned: bool) -> None:
    x = X / np.sqrt(np.mean(X**2)) * scale
    seen = told(sfp.NoiseScore(network(), sfp.VP(), data_std=std), SOURCES[source](x), batch_size=64)
    assert len(seen) == warned
    if warned:
        assert FAR.format(f"{scale:.3g}", f"{std:.3g}") in seen[0]
        assert f"Give data_std={scale:.3g}, which is data.std, or scale the data" in seen[0]


def test_the_mean_is_not_taken_off() -> None:
    """The preconditioning takes the data as centred, so that data around 300 are large."""
    assert FAR.format("300", "1") in told(sfp.NoiseScore(network(), sfp.VP(), data_std=1.0), X + 300)[0]


def test_levels_are_those_after_dequantisation() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (64, 2))
    bytes_of = lambda low, high: data.Dataset(levels, sfp.Quantisation(256, low, high))
    model = sfp.NoiseScore(network(), sfp.VP(), data_std=0.5)
    assert told(model, bytes_of(-1.0, 1.0)) == []
    assert FAR.format(f"{bytes_of(0.0, 12.0).std:.3g}", "0.5") in told(model, bytes_of(0.0, 12.0))[0]


def test_an_array_of_data_std_and_an_energy() -> None:
    wide = jnp.array([4.0, 0.1])
    assert told(sfp.NoiseScore(network(), sfp.VP(), data_std=wide), X) == []
    energy = sfp.InnerPotential(network(), sfp.VP(), data_std=10.0)
    assert FAR.format(f"{np.sqrt(np.mean(X**2)):.3g}", "10") in told(energy, X)[0]


def test_models_without_data_std_are_silent() -> None:
    class Bare(eqx.Module):
        scale: jax.Array

        def __call__(self, t: jax.Array, x: jax.Array) -> jax.Array:
            return self.scale * x

    assert told(sfp.NoiseScore(Bare(jnp.ones(())), sfp.VP(), data_std=None), 10 * X) == []
    assert told(sfp.Score(Bare(jnp.ones(())), sfp.VP()), 10 * X) == []


@pytest.mark.parametrize(
    ("sde", "scale", "warned"),
    [
        (sfp.VE(), 10.0, False),
        (sfp.VE(), 20.0, True),
        (sfp.VE(sigma_max=100.0), 20.0, False),
        (sfp.EDM(), 20.0, False),
        (sfp.EDM(), 30.0, True),
        (sfp.VP(), 20.0, False),
        (sfp.VP(), 100.0, True),
        (sfp.OU(t1=0.5), 1.0, True),
        (sfp.OU(), 1.0, False),
    ],
)
def test_data_that_the_process_does_not_drown(sde: Any, scale: float, warned: bool) -> None:
    seen = told(sfp.NoiseScore(network(), sde, data_std=scale), X / np.sqrt(np.mean(X**2)) * scale)
    assert len(seen) == warned
    if warned:
        left, noise = float(sde.alpha(sde.t1)) * scale, float(sde.sigma(sde.t1))
        assert f"leaves data of root mean square {left:.3g} in noise of standard deviation {noise:.3g}" in seen[0]


def test_dropout_without_a_key() -> None:
    images = jnp.asarray(np.random.default_rng(0).normal(size=(16, 1, 4, 4)).astype(np.float32))
    unet = lambda rate: sfp.NoiseScore(
        sfp.nn.UNet((1, 4, 4), channels=4, multipliers=(1,), dropout=rate, key=jr.key(0)), sfp.VP(), data_std=1.0
    )
    idle = "the network has dropout = 0.1, and fit was called with dropout=False"
    assert [idle in message for message in told(unet(0.1), images)] == [True]
    assert told(unet(0.1), images, dropout=True) == []
    assert told(unet(0.0), images) == []
    vain = "the network has dropout = 0, and fit was called with dropout=True"
    assert [vain in message for message in told(unet(0.0), images, dropout=True)] == [True]


def test_dropout_of_equinox() -> None:
    class Dropping(eqx.Module):
        inner: sfp.nn.MLP
        dropout: eqx.nn.Dropout

        def __call__(self, t: jax.Array, x: jax.Array, *, key: Any = None) -> jax.Array:
            return self.dropout(self.inner(t, x), key=key, inference=True if key is None else None)

    model = lambda **options: sfp.NoiseScore(
        Dropping(network(), eqx.nn.Dropout(0.25, **options)), sfp.VP(), data_std=1.0
    )
    assert ["dropout = 0.25" in message for message in told(model(), X)] == [True]
    assert told(model(inference=True), X) == []
    # What it does with a key is its own affair, also around a network that drops nothing.
    assert told(model(inference=True), X, dropout=True) == []
    assert told(model(), X, dropout=True) == []


def test_the_scale_of_a_large_set_is_that_of_some_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.repeat(np.arange(10.0), 100)[:, None] * np.ones(5)
    whole = scale_of(x, None)
    assert whole == pytest.approx(np.sqrt(np.mean(x**2)))
    monkeypatch.setattr("scorefp.train._advice._ENTRIES", 500)
    assert scale_of(x, None) == pytest.approx(whole, rel=0.1)


def test_one_network_in_two_parts_of_a_composition() -> None:
    """Training makes two of it; the same two are trained apart without a word."""
    pair = lambda one, other: sfp.Product(
        tuple(sfp.NoiseScore(part, VP, data_std=1.0) for part in (one, other)), (0.5, 0.5)
    )
    same, arrays = network(), len(jax.tree.leaves(eqx.filter(network(), eqx.is_inexact_array)))
    assert [f"{arrays} of {2 * arrays} trained arrays" in message for message in told(pair(same, same), X)] == [True]
    assert told(pair(same, network()), X) == []


def test_a_null_that_is_a_label() -> None:
    class Shifted(eqx.Module):
        inner: sfp.nn.MLP
        table: jax.Array

        def __call__(self, t: jax.Array, x: jax.Array, *, args: jax.Array) -> jax.Array:
            return self.inner(t, x) + self.table[args]

    model = sfp.NoiseScore(Shifted(network(), jnp.zeros((5, 2))), VP, data_std=1.0)
    values = data.Dataset(jnp.asarray(X), args=jnp.arange(64) % 4)
    for given in (values, data.OnHost(data.Dataset(X, args=np.arange(64) % 4))):
        seen = [told(model, given, label_dropout=train.LabelDropout(0.1, null)) for null in (3, 4)]
        assert ["is the conditioning of 16 of 64 samples" in message for message in seen[0]] == [True]
        assert seen[1] == []
