"""A network in bfloat16 is measured in float32: where it is found, and what it is worth for a residual."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jaxtyping import Array

import scorefp as sfp
from scorefp.nn import MLP, UNet, full_precision


class Held(eqx.Module):
    """A network of somebody's own, with others in containers."""

    parts: dict[str, Any]
    dtype: Any = eqx.field(static=True, default=jnp.bfloat16)

    def __call__(self, t: Array, x: Array) -> Array:
        return sum(part(t, x) for part in self.parts["all"])


def mlp(dtype: Any) -> MLP:
    network = MLP(shape=(2,), width=8, dtype=dtype, key=jr.key(0))
    return eqx.tree_at(lambda n: n.leave.weight, network, jr.normal(jr.key(1), network.leave.weight.shape))


@pytest.mark.quick
def test_networks_are_found_where_modules_and_containers_hold_them() -> None:
    held = sfp.NoiseScore(Held({"all": [mlp(jnp.bfloat16), mlp(None)], "none": (None, 3)}), sfp.VP())
    full = full_precision(held)
    first, second = full.network.parts["all"]
    assert first.dtype is None
    assert second is held.network.parts["all"][1]
    assert full.network.dtype is jnp.bfloat16  # not a network of this package: its field is its own business
    x = jnp.array([0.3, -0.5])
    want = sfp.NoiseScore(Held({"all": [mlp(None), mlp(None)]}), sfp.VP())(0.5, x)
    np.testing.assert_array_equal(full(0.5, x), want)
    assert bool(jnp.any(held(0.5, x) != want))


@pytest.mark.quick
def test_what_rounds_nothing_is_returned_as_it_is() -> None:
    for whole in (mlp(None), mlp(jnp.float32), sfp.NoiseScore(mlp(None), sfp.VP()), jnp.ones(2), None):
        assert full_precision(whole) is whole
    unet = UNet((1, 8, 8), channels=4, attention=(8,), dtype=jnp.float16, key=jr.key(0))
    operations = lambda network: str(jax.make_jaxpr(network)(0.5, jnp.ones((1, 8, 8))))
    assert "f16[" in operations(unet)
    assert "f16[" not in operations(full_precision(unet))


def test_the_default_of_the_penalty_measures_the_residual_and_not_rounding() -> None:
    """`shared/cases/bfloat16_residual.py`: it was noise of 0.09 on a residual of 0.1."""
    sde = sfp.VP()

    def score(dtype: Any) -> sfp.score.NetworkScore:
        network = UNet((1, 8, 8), channels=8, multipliers=(1, 2), attention=(4,), dtype=dtype, key=jr.key(0))
        weight = 0.05 * jr.normal(jr.key(1), network.leave.weight.shape)
        return sfp.NoiseScore(eqx.tree_at(lambda n: n.leave.weight, network, weight), sde, data_std=0.5)

    t, noise = 0.1, jr.normal(jr.key(3), (8, 1, 8, 8))
    x = sde.alpha(t) * 0.5 * jr.normal(jr.key(2), noise.shape) + sde.sigma(t) * noise
    term = sfp.ScoreFPE()

    @eqx.filter_jit
    def residual(s: sfp.score.AbstractScore) -> Array:
        one = lambda y, k: term.method.residual(s, jnp.asarray(t), y, k)[1]
        return jax.vmap(one)(x, jr.split(jr.key(4), 8))

    full, half = residual(score(None)), residual(score(jnp.bfloat16))
    rms = lambda a: float(jnp.sqrt(jnp.mean(a**2)))
    assert 100 * rms(half - full) < rms(full)
    # The other side: the network itself rounds, and by more than a step of the method changes it.
    values = eqx.filter_jit(lambda s: jax.vmap(lambda y: s(t, y))(x))
    assert rms(values(score(jnp.bfloat16)) - values(score(None))) > 1e-4 * rms(values(score(None)))
