"""One row for every public class of the core: how it is made for an event shape, and what it is used for.

`tests/test_properties.py` runs every row through the same properties. A class without a row fails there.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import lineax as lx
from helpers.references import LINEAR, inverse_linear
from jaxtyping import Array

import scorefp as sfp
from scorefp import densities, fokker_planck, sde as sdes
from scorefp.fokker_planck import DensityResidual, LogResidual, ScoreResidual, mean_square
from scorefp.fokker_planck.residual import resolve

Shape = tuple[int, ...]
SHAPES: tuple[Shape, ...] = ((3,), (), (2, 1, 2))


@dataclass(frozen=True)
class Row:
    """How the instances of a class are made and used.

    Attributes:
        cls: The class.
        make: An instance for samples of an event shape and a dtype.
        use: Its public functions at one time and one sample, as a pytree of arrays.
        shapes: The event shapes it takes.
    """

    cls: type
    make: Callable[[Shape, Any], Any]
    use: Callable[[Any, Array, Array, Array], Any]
    shapes: tuple[Shape, ...] = SHAPES


def use_sde(sde: Any, t: Array, x: Array, key: Array) -> Any:
    score = jnp.cos(x)
    return {
        "drift": sde.drift(t, x),
        "diffusion": sde.diffusion(t, x).mv(jnp.ones(sde.diffusion(t, x).in_structure().shape, x.dtype)),
        "covariance": sde.covariance(t, x, score),
        "covariance_divergence": sde.covariance_divergence(t, x),
        "probability_flow": sde.probability_flow(t, x, score),
        "reverse_drift": sde.reverse_drift(t, x, score),
        "prior": sde.prior.log_prob(x),
    }


def use_linear(sde: Any, t: Array, x: Array, key: Array) -> Any:
    log_snr = sde.log_snr(t)
    return use_sde(sde, t, x, key) | {
        "functions of time": [sde.log_alpha(t), sde.log_sigma(t), sde.rate(t), sde.g2(t), sde.alpha(t), sde.sigma(t)],
        "log_snr": log_snr,
        "time_of_log_snr": sde.time_of_log_snr(log_snr),
        "transition": sde.transition(t, 1.1 * t),
        "perturb": sde.perturb(t, x, jnp.cos(x)),
    }


def use_score(score: Any, t: Array, x: Array, key: Array) -> Any:
    return {
        "score": score(t, x),
        "predictions": [score.noise(t, x), score.denoise(t, x), score.velocity(t, x)],
        "flows": [score.probability_flow(t, x), score.reverse_drift(t, x)],
    }


def use_potential(potential: Any, t: Array, x: Array, key: Array) -> Any:
    return use_score(potential, t, x, key) | {"potential": potential.potential(t, x)}


def use_method(method: Any, t: Array, x: Array, key: Array) -> Any:
    score = sfp.Score(lambda t, x: -jnp.sin((1 + t) * x), sfp.VP())
    square = resolve(method).squared_norm(score, t, x, key)
    return sfp.score_fpe_residual(score, t, x, method=method, key=key), square


def use_log_method(method: Any, t: Array, x: Array, key: Array) -> Any:
    potential = sfp.Potential(lambda t, x: jnp.sum(jnp.cos((1 + t) * x)), sfp.VP())
    residual = sfp.log_fpe_residual(potential, t, x, method=method, key=key)
    return residual, method.log_square(potential, t, x, key)[1]


def use_rule(rule: Any, t: Array, x: Array, key: Array) -> Any:
    potential = sfp.Potential(lambda t, x: jnp.sum(jnp.cos((1 + t) * x)), sfp.VP())
    residual = LogResidual(potential, sfp.Ito())
    return mean_square(residual, sfp.Box(x - 1, x + 1), start=t, rule=rule, key=key)


def use_residual(residual: Any, t: Array, x: Array, key: Array) -> Any:
    return residual.square(t, x, key)


def use_times(law: Any, t: Array, x: Array, key: Array) -> Any:
    times, weights = law.sample(sfp.VP(), 4, key=key)
    return x * jnp.mean(times * weights).astype(x.dtype)


def use_estimate(estimate: Any, t: Array, x: Array, key: Array) -> Any:
    return estimate.value + x * estimate.error


def use_trace(trace: Any, t: Array, x: Array, key: Array) -> Any:
    field = lambda x: jnp.sin(x + jnp.roll(x, 1) if x.ndim else x)
    return [
        sfp.divergence(field, x, trace=trace, key=key),
        sfp.laplacian(field, x, trace=trace, key=key),
        sfp.calculus.squared_curl(field, x, trace=trace, key=key),
        use_method(trace, t, x, key),
    ]


def use_sketch(trace: Any, t: Array, x: Array, key: Array) -> Any:
    """A trace that looks at the matrix takes no Laplacian."""
    field = lambda x: jnp.sin(x + jnp.roll(x, 1) if x.ndim else x)
    divergence = sfp.divergence(field, x, trace=trace, key=key)
    return [divergence, sfp.calculus.squared_curl(field, x, trace=trace, key=key), use_method(trace, t, x, key)]


def use_box(box: Any, t: Array, x: Array, key: Array) -> Any:
    return box.contains(x) + x * box.sample(key, 1)[0]


def use_law(law: Any, t: Array, x: Array, key: Array) -> Any:
    return x * law.draw(key, x.shape, x.dtype)


def use_mixture(mixture: Any, t: Array, x: Array, key: Array) -> Any:
    return mixture.log_prob(x), mixture.sample(key, 3)


def use_errors(errors: Any, t: Array, x: Array, key: Array) -> Any:
    truth = sfp.Score(lambda t, x: -jnp.sin((1 + t) * x), sfp.VP())
    return sfp.fokker_planck.high_order_bound(truth, errors, 2 * t, x, start=t, nodes=4)


def use_suprema(suprema: Any, t: Array, x: Array, key: Array) -> Any:
    return x * suprema.M * suprema.m * suprema.M_weighted


def use_log_prob(density: Any, t: Array, x: Array, key: Array) -> Any:
    return density.log_prob(x)


def use_surface(surface: Any, t: Array, x: Array, key: Array) -> Any:
    return surface.energy(x), surface.potential(x)


def use_rolls(rolls: Any, t: Array, x: Array, key: Array) -> Any:
    return x + rolls.sample(key, 1)[0].astype(x.dtype)


def mixture(shape: Shape, dtype: Any) -> sfp.GaussianMixture:
    means = jnp.stack([jnp.full(shape, -0.5, dtype), jnp.full(shape, 0.7, dtype)])
    return sfp.GaussianMixture(means, jnp.array([0.3, 0.4], dtype), jnp.array([0.25, 0.75], dtype))


def network(t: Array, x: Array) -> Array:
    return jnp.sin(x + t)


def other_network(t: Array, x: Array) -> Array:
    return -x * t


WITH_TORCH = importlib.util.find_spec("torch") is not None
WITHOUT_ROW: set[type] = set() if WITH_TORCH else {sfp.score.TorchNetwork}
"""Classes that need what is not installed here."""


def torch_rows() -> dict[str, Row]:
    """A network of torch, where that is installed."""
    call = sfp.score.TorchCall(time=sfp.score.physical_time)
    make = lambda shape, dtype: sfp.score.TorchNetwork(torch_function, sfp.VP(), call)
    use = lambda network, t, x, key: network(t, x)
    return {"TorchNetwork": Row(sfp.score.TorchNetwork, make, use)} if WITH_TORCH else {}


def torch_function(x: Any, t: Any) -> Any:
    return (x + t.reshape(-1, *[1] * (x.ndim - 1))).sin()


def general(shape: Shape, dtype: Any) -> sfp.GeneralSDE:
    diffusion = lambda t, x: lx.DiagonalLinearOperator(1 + 0.1 * jnp.sin(x) + t)
    return sfp.GeneralSDE(lambda t, x: -t * x, diffusion, sdes.Normal(1.0), t0=0.0, t1=1.0)


def brownian(shape: Shape, dtype: Any) -> sdes.GeometricBrownianMotion:
    return sdes.GeometricBrownianMotion(jnp.full(shape, 0.1, dtype), jnp.full((*shape, *shape), 0.2, dtype))


def suprema(ones: Array) -> tuple[Array, sfp.Estimate, Array, sfp.Estimate]:
    return ones, sfp.Estimate(ones, ones), ones, sfp.Estimate(ones, ones)


def plain(cls: Callable[..., Any], *args: Any) -> Callable[[Shape, Any], Any]:
    """An instance that does not depend on the samples."""
    return lambda shape, dtype: cls(*args)


def rows(
    use: Callable[..., Any], *makers: Callable[..., Any], args: tuple[Any, ...] = (), **options: Any
) -> dict[str, Row]:
    """Of classes, or functions that make an instance, which does not depend on the samples, by their names."""
    return {make.__name__: Row(type(make(*args)), plain(make, *args), use, **options) for make in makers}


PLANE: tuple[Shape, ...] = ((2,),)
ROWS: dict[str, Row] = {
    # sde
    **rows(use_linear, sfp.VE, sfp.VP, sfp.SubVP, sfp.OU, sfp.EDM, sfp.Cosine),
    "VE from zero": Row(sfp.VE, lambda shape, dtype: sfp.VE(from_zero=True), use_linear),
    "LinearSDE": Row(sfp.LinearSDE, plain(inverse_linear), use_linear),
    "DiscreteSDE": Row(sdes.DiscreteSDE, plain(LINEAR["DiscreteSDE"]), use_linear),
    "GeneralSDE": Row(sfp.GeneralSDE, general, use_sde),
    "GeometricBrownianMotion": Row(sdes.GeometricBrownianMotion, brownian, use_sde, ((3,),)),
    **rows(use_sde, sdes.CriticallyDampedLangevin, shapes=((2, 3),)),
    **rows(use_log_prob, sdes.Normal, args=(2.0,)),
    "Normal with an array": Row(
        sdes.Normal, lambda shape, dtype: sdes.Normal(jnp.full(shape, 2.0, dtype)), use_log_prob
    ),
    # score
    "Score": Row(sfp.Score, lambda shape, dtype: sfp.Score(network, sfp.VP(), shape), use_score),
    "Potential": Row(
        sfp.Potential, lambda shape, dtype: sfp.Potential(lambda t, x: jnp.sum(network(t, x)), sfp.OU()), use_potential
    ),
    "MixturePotential": Row(
        densities.MixturePotential, lambda shape, dtype: mixture(shape, dtype).score(sfp.SubVP()), use_potential
    ),
    **rows(use_score, sfp.NoiseScore, sfp.DenoiserScore, sfp.VelocityScore, sfp.EDMScore, args=(network, sfp.VP())),
    **{
        f"bare {make.__name__}": Row(sfp.score.NetworkScore, plain(make, network, sfp.Cosine(), None), use_score)
        for make in (sfp.NoiseScore, sfp.DenoiserScore, sfp.VelocityScore)
    },
    "NoiseScore, one deviation an entry": Row(
        sfp.score.NetworkScore,
        lambda shape, dtype: sfp.NoiseScore(network, sfp.EDM(), jnp.full(shape, 0.5, dtype)),
        use_score,
    ),
    "TorchCall": Row(
        sfp.score.TorchCall,
        lambda shape, dtype: sfp.score.TorchCall(time_first=True),
        lambda call, t, x, key: x * call.time_first,
    ),
    **torch_rows(),
    **rows(use_potential, sfp.DistancePotential, sfp.InnerPotential, args=(network, sfp.VP(), 0.5, jnp.sin)),
    **{
        f"bare {make.__name__}": Row(
            sfp.score.NetworkPotential, plain(make, network, sfp.Cosine(), None), use_potential
        )
        for make in (sfp.DistancePotential, sfp.InnerPotential)
    },
    **rows(use_score, sfp.Annealed, args=(sfp.Score(network, sfp.VP()), 1.5)),
    **rows(
        use_score, sfp.Product, args=((sfp.Score(network, sfp.VP()), sfp.Score(other_network, sfp.VP())), [0.5, -2])
    ),
    **rows(use_score, sfp.Guided, args=(sfp.Score(network, sfp.VP()), sfp.Score(other_network, sfp.VP()), 0.5)),
    **rows(use_score, sfp.Tilted, args=(sfp.Score(network, sfp.VP()), lambda t, x: jnp.sum(t * jnp.cos(x)))),
    # calculus
    "Box": Row(sfp.Box, lambda shape, dtype: sfp.Box(-jnp.ones(shape, dtype), jnp.ones(shape, dtype)), use_box),
    **rows(use_trace, sfp.Exact),
    **rows(use_trace, sfp.Hutchinson, args=(2,)),
    **rows(use_sketch, sfp.calculus.HutchPlusPlus, sfp.calculus.XTrace, args=(2,)),
    **rows(use_law, sfp.calculus.Rademacher, sfp.calculus.Gaussian),
    **rows(use_method, sfp.FiniteDifference),
    # fokker_planck
    **rows(use_method, sfp.Ito, sfp.Antithetic, sfp.Sliced, fokker_planck.Pointwise),
    "Sliced, random trace": Row(sfp.Sliced, lambda shape, dtype: sfp.Sliced(trace=sfp.Hutchinson()), use_method),
    **rows(use_log_method, sfp.Smoothed),
    "Ito of a potential": Row(sfp.Ito, plain(sfp.Ito), use_log_method),
    "Antithetic of a potential": Row(sfp.Antithetic, plain(sfp.Antithetic), use_log_method),
    **rows(use_rule, sfp.integrals.UniformDraws, args=(8,)),
    **rows(use_rule, sfp.integrals.GaussLegendre, args=(2, 2), shapes=((3,), ())),
    **rows(use_times, sfp.UniformTime, sfp.UniformLogSNR, sfp.LogNormalNoise, sfp.integrals.SoftTruncation),
    **rows(use_times, sfp.integrals.TimeInterval, args=(sfp.UniformTime(), 0.2)),
    "Estimate": Row(
        sfp.Estimate, lambda shape, dtype: sfp.Estimate(jnp.ones(shape, dtype), jnp.ones(shape, dtype)), use_estimate
    ),
    **rows(use_residual, DensityResidual, args=(lambda t, x: jnp.exp(-t * jnp.sum(x**2)), sfp.VP())),
    **rows(use_residual, LogResidual, args=(sfp.Potential(lambda t, x: jnp.sum(network(t, x)), sfp.VP()),)),
    **rows(use_residual, ScoreResidual, args=(sfp.Score(network, sfp.VP()),)),
    # densities
    "AnchoredPotential": Row(
        sfp.fokker_planck.AnchoredPotential,
        lambda shape, dtype: sfp.fokker_planck.AnchoredPotential(
            sfp.Score(network, sfp.VP()), lambda x: -0.5 * jnp.sum(x**2), 0.5, nodes=4
        ),
        use_potential,
    ),
    "MatchingErrors": Row(
        fokker_planck.MatchingErrors,
        lambda shape, dtype: fokker_planck.MatchingErrors(*jnp.asarray([0.1, 0.2, 0.3], dtype)),
        use_errors,
    ),
    "ResidualSuprema": Row(
        fokker_planck.ResidualSuprema,
        lambda shape, dtype: fokker_planck.ResidualSuprema(*suprema(jnp.ones((4,), dtype))),
        use_suprema,
    ),
    "GaussianMixture": Row(sfp.GaussianMixture, mixture, use_mixture),
    **rows(use_log_prob, densities.Checkerboard, densities.Circles, shapes=PLANE),
    **rows(use_rolls, densities.SwissRolls, shapes=PLANE),
    **rows(use_surface, densities.MuellerBrown, shapes=PLANE),
}

PACKAGES = (sfp.calculus, sfp.sde, sfp.score, sfp.integrals, sfp.fokker_planck, sfp.densities)
"""The packages whose public classes must all have a row."""
