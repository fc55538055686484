"""What objects print as: the call that makes them."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from jaxtyping import Array

import scorefp as sfp
from scorefp._describe import described, name_of
from scorefp.objective import EDMWeighting
from scorefp.score import NetworkScore

pytestmark = pytest.mark.quick


def field(t: Array, x: Array, **bound: Any) -> Array:
    return -x


def slanted(sde: Any, t: Array) -> tuple[float, float]:
    return 0.5, 1.0


class Theirs(eqx.Module):
    """A network of somebody else."""

    layer: eqx.nn.Linear
    width: int = eqx.field(static=True, default=3)

    def __call__(self, t: Array, x: Array) -> Array:
        return self.layer(x)


def mlp() -> sfp.nn.MLP:
    return sfp.nn.MLP(shape=(64,), key=jr.key(0))


MLP = "MLP(shape=(64,), width=128, depth=3)"
PRINTED = {
    "VP()": sfp.VP,
    "VP(beta_max=10.0)": lambda: sfp.VP(beta_max=10.0),
    "ScoreFPE(fraction=0.25)": lambda: sfp.ScoreFPE(fraction=0.25),
    "Integrator(rtol=0.001)": lambda: sfp.Integrator(rtol=1e-3),
    "Integrator(solver=Dopri5())": lambda: sfp.Integrator(diffrax.Dopri5()),
    "1.0*DSM() + 0.5*ScoreFPE(fraction=0.25)": lambda: sfp.DSM() + 0.5 * sfp.ScoreFPE(fraction=0.25),
    "0.15*DSM(weighting=EDMWeighting())": lambda: 0.15 * sfp.DSM(weighting=EDMWeighting()),
    f"NoiseScore({MLP}, VP(), data_std=0.5)": lambda: sfp.NoiseScore(mlp(), sfp.VP()),
    f"DenoiserScore({MLP}, EDM(), data_std=None)": lambda: sfp.DenoiserScore(mlp(), sfp.EDM(), None),
    "VelocityScore(field, Cosine(), data_std=[1.0, 1.0])": lambda: sfp.VelocityScore(field, sfp.Cosine(), jnp.ones(2)),
    "NoiseScore(field, VP(), data_std=float32[64])": lambda: sfp.NoiseScore(field, sfp.VP(), jnp.ones(64)),
    "NetworkScore(field, VP(), target=slanted, data_std=0.5)": lambda: NetworkScore(field, sfp.VP(), slanted),
    "InnerPotential(field, VP(), data_std=0.5, offset=sin)": lambda: sfp.InnerPotential(
        field, sfp.VP(), offset=jnp.sin
    ),
    "NoiseScore(Bound(fn=field, args=3.0, key=key<fry>[]), VP(), data_std=0.5)": lambda: sfp.NoiseScore(
        field, sfp.VP()
    ).bind(args=3.0, key=jr.key(0)),
    "Score(fn=Theirs(width=3), sde=VP())": lambda: sfp.Score(Theirs(eqx.nn.Linear(2, 2, key=jr.key(0))), sfp.VP()),
    "Score(fn=field, sde=VP())": lambda: sfp.Score(eqx.filter_jit(field), sfp.VP()),
    "Estimate(value=1.25, error=[0.5, 0.25])": lambda: sfp.integrals.Estimate(
        jnp.asarray(1.25), jnp.array([0.5, 0.25])
    ),
    "EulerMaruyama(steps=50)": lambda: sfp.EulerMaruyama(50),
    "{'a': (1, 'b'), 'c': [VP]}": lambda: {"a": (1, "b"), "c": [sfp.VP]},
}


@pytest.mark.parametrize("text", PRINTED)
@pytest.mark.usefixtures("unchecked")
def test_printed(text: str) -> None:
    assert described(PRINTED[text]()) == text


def test_inside_a_compiled_function() -> None:
    """What is not known yet is told by its form."""
    seen: list[str] = []

    @jax.jit
    def look(std: Array, weight: Array) -> Array:
        seen.extend([repr(sfp.NoiseScore(field, sfp.VP(), std)), repr(weight * sfp.DSM())])
        return std

    look(jnp.ones(2), jnp.ones(()))
    assert seen == ["NoiseScore(field, VP(), data_std=float32[2])", "float32[]*DSM()"]


def test_the_name_of_a_score() -> None:
    assert name_of(sfp.EDMScore(field, sfp.VP())) == "DenoiserScore"
    assert name_of(sfp.Score(field, sfp.VP())) == "Score"
