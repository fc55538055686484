"""Terms and laws that show what an objective does, and what it costs."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array

import scorefp as sfp
from scorefp.integrals import AbstractTimeSampler
from scorefp.objective import AbstractObjective, AbstractTerm


class At(AbstractTimeSampler):
    """One time for all, of weight one."""

    t: Any
    stratified: bool = False

    def sample(self, sde: Any, n: int, *, key: Array) -> tuple[Array, Array]:
        return jnp.full((n,), self.t), jnp.ones((n,))


class Seen(AbstractTerm):
    """What a term is shown, as a term: a user's own one."""

    look: Callable[[Any, Array], Array] = eqx.field(static=True)
    fraction: float = 1.0

    def observe(self, score: sfp.score.AbstractScore, perturbed: Any, *, key: Array) -> tuple[Any, Any]:
        return None, None

    def integrand(self, sde: Any, perturbed: Any, value: Array, observed: Any) -> Array:
        return self.look(perturbed, value)


class Sign(sfp.calculus.AbstractLaw):
    """The probe `(1, sign)`: the two signs are all that Rademacher's law has in the plane."""

    sign: float

    def draw(self, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        return jnp.broadcast_to(jnp.array([1.0, self.sign], dtype), shape)


def evaluations(loss: AbstractObjective, sde: Any) -> int:
    """How often the program of a loss has the network."""

    def network(t: Array, x: Array) -> Array:
        return jnp.arctan(x)

    traced = jax.make_jaxpr(lambda x0: loss(sfp.Score(network, sde), x0, key=jr.key(0)))(jnp.ones((8, 2)))
    return str(traced).count("= atan ")


def cost(loss: AbstractObjective, sde: Any) -> float:
    """The operations of a training step in float32, over those of `DSM` alone."""
    with jax.enable_x64(False):
        x0, network = jnp.ones((32, 16)), sfp.nn.MLP(shape=(16,), width=128, depth=2, key=jr.key(0))

        def flops(loss: AbstractObjective) -> float:
            def value(network: sfp.nn.MLP) -> Array:
                return loss(sfp.NoiseScore(network, sde), x0, key=jr.key(0))

            return jax.jit(jax.grad(value)).lower(network).cost_analysis()["flops"]

        return flops(loss) / flops(sfp.DSM())
