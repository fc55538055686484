"""The cheap smoothers: integrals in closed form for a linear score, and what they are not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from helpers.references import assert_mean
from jaxtyping import Array

import scorefp as sfp
from scorefp.objective import JacobianSize, ScoreSize, Smoothness, TimeDerivativeSize

MATRIX = np.array([[1.0, -2.0], [0.5, 1.5]])


class Linear(eqx.Module):
    """The score `t M x`, which is no gradient."""

    matrix: Array

    def __call__(self, t: Array, x: Array) -> Array:
        return t * self.matrix @ x


def test_integrals_in_closed_form() -> None:
    sde = sfp.EDM(t0=0.5, t1=2.0)
    score = sfp.Score(Linear(jnp.asarray(MATRIX)), sde)
    loss = ScoreSize() + JacobianSize() + JacobianSize(sfp.Exact()) + TimeDerivativeSize() + Smoothness()

    @jax.jit
    def estimates(keys: Array) -> dict[str, Array]:
        clean = jnp.zeros((512, 2))
        return jax.vmap(lambda key: loss.evaluate(score, clean, key=key, time=sfp.UniformTime())[1])(keys)

    found = estimates(jr.split(jr.key(0), 100))
    # With x0 = 0 and sigma = t, every one is a multiple of |M|^2 times the integral of t^5.
    size = np.sum(MATRIX**2) * (2.0**6 - 0.5**6) / 6
    for name, factor in {"ScoreSize": 1, "JacobianSize": 1, "TimeDerivativeSize": 0.25, "Smoothness": 1}.items():
        assert_mean(found[name], factor * size)
    # The exact Jacobian leaves only the draw of the time.
    assert_mean(found["JacobianSize 2"], size, resolution=0.002)
