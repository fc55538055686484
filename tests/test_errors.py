"""Bad input to the core: each error names the argument, its value, what is allowed and the remedy.

With the type checks of the tests switched off, as for users: the messages are the library's own.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import optax
import pytest
from helpers.refusals import refused

import scorefp as sfp
from scorefp import train
from scorefp.sde import CriticallyDampedLangevin, GeometricBrownianMotion, Normal

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("unchecked")]


X = (3,)
residual = sfp.score_fpe_residual


def x() -> jax.Array:
    return jnp.ones(X)


def score() -> sfp.Score:
    return sfp.Score(lambda t, x: -x, sfp.VP())


def potential() -> sfp.Potential:
    return sfp.Potential(lambda t, x: -0.5 * jnp.sum(x**2), sfp.VP())


def general() -> GeometricBrownianMotion:
    return GeometricBrownianMotion(jnp.zeros(3), jnp.eye(3))


def density(t: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.exp(-0.5 * jnp.sum(x**2))


def mixture(
    means: Any = ((0.0, 0.0), (1.0, 1.0)), covariances: Any = (1.0, 1.0), weights: Any = (0.5, 0.5)
) -> sfp.GaussianMixture:
    return sfp.GaussianMixture(jnp.asarray(means), jnp.asarray(covariances), jnp.asarray(weights))


AT_A_TIME: dict[str, Callable[[Any], Any]] = {
    "score_fpe_residual": lambda t: residual(score(), t, x()),
    "fpe_operator": lambda t: sfp.fpe_operator(score(), t, x()),
    "log_fpe_residual": lambda t: sfp.log_fpe_residual(potential(), t, x()),
    "fpe_residual": lambda t: sfp.fpe_residual(density, t, x(), sde=sfp.VP()),
    "perturb": lambda t: sfp.VP().perturb(t, x(), x()),
}


@pytest.mark.parametrize("name", AT_A_TIME)
def test_time_outside_the_horizon(name: str) -> None:
    call = AT_A_TIME[name]
    for t in (1.5, -0.5, 0.0, float("nan")):
        message = rf"t = {t} lies outside \[t0, t1\] = \[1e-05, 1\.0\], the horizon of the SDE\. Use a time inside it"
        refused(message, call, t)
    refused(r"t has shape \(2,\); one time is a scalar\. Batch over times with jax\.vmap", call, jnp.array([0.5, 0.6]))


@pytest.mark.parametrize("name", ["score_fpe_residual", "perturb"])
def test_time_outside_the_horizon_at_run_time(name: str) -> None:
    call = eqx.filter_jit(AT_A_TIME[name])
    for t in (1e-5, 0.5, 1.0):
        assert jnp.all(jnp.isfinite(call(jnp.asarray(t))))
    with pytest.raises(RuntimeError, match=r"t lies outside \[t0, t1\] = \[1e-05, 1\.0\], the horizon of the SDE"):
        call(jnp.asarray(1.5))
    refused("t lies outside", eqx.filter_jit(jax.vmap(AT_A_TIME[name])), jnp.array([0.5, 1.5]), error=RuntimeError)


TIMES_OF_A_TABLE: dict[str, Callable[[Any], Any]] = AT_A_TIME | {
    "score": lambda t: score()(t, x()),
    "noise": lambda t: score().noise(t, x()),
    "denoise": lambda t: score().denoise(t, x()),
    "velocity": lambda t: score().velocity(t, x()),
    "a network's score": lambda t: sfp.NoiseScore(sfp.nn.MLP(X, key=jr.key(0)), sfp.VP())(t, x()),
    "a potential": lambda t: potential().potential(t, x()),
    "log_likelihood": lambda t: sfp.log_likelihood(score(), x(), start=t),
    "drift": lambda t: general().drift(t, x()),
    "alpha": sfp.VP().alpha,
    "a weighting": lambda t: sfp.objective.unit_weighting(sfp.VP(), t),
}


@pytest.mark.parametrize("name", TIMES_OF_A_TABLE)
def test_traced_integers_are_no_times(name: str) -> None:
    """Their dtype is static; integers that are known are times like any other."""
    call = TIMES_OF_A_TABLE[name]
    message = r"(t|start) has dtype int\d+; a time is a float inside \[t0, t1\].*sde\.time_of_step\(step\)"
    refused(message, jax.vmap(call), jnp.array([500, 3]), error=TypeError)
    refused(message, jax.jit(call), 500, error=TypeError)
    if name != "log_likelihood":  # from t1 to t1
        for t in (1, np.int64(1), jnp.array(1)):
            assert all(map(np.array_equal, jax.tree.leaves(call(t)), jax.tree.leaves(call(1.0))))
        jax.jit(lambda: call(1))()


def test_networks_take_traced_steps() -> None:
    network = sfp.nn.MLP(X, key=jr.key(0))
    assert jax.vmap(network)(jnp.array([500, 3]), jnp.ones((2, *X))).shape == (2, *X)


def test_antithetic_at_t0() -> None:
    call = lambda t: residual(score(), t, x(), method=sfp.Antithetic(), key=jr.key(0))
    compiled = eqx.filter_jit(call)
    message = r"t is t0 = 1e-05, where Antithetic has no room for a step to an earlier time\. Use Ito\(\) or Exact\(\)"
    refused(message, call, 1e-5)
    refused(message, compiled, jnp.asarray(1e-5), error=RuntimeError)
    assert jnp.all(jnp.isfinite(compiled(jnp.asarray(2e-5))))


NEVER = r"the two must be equal and are never broadcast\.(\n|$)"
SHAPES: dict[str, tuple[Callable[[], Any], str]] = {
    "noise that would broadcast": (
        lambda: sfp.VP().perturb(0.5, x(), jnp.ones(1)),
        rf"noise has shape \(1,\), but x0 has shape \(3,\); {NEVER}",
    ),
    "a score that would broadcast": (
        lambda: residual(sfp.Score(lambda t, x: -x[:1], sfp.VP()), 0.5, x()),
        rf"value of fn has shape \(1,\), but a score at x \(a potential .* Potential\) has shape \(3,\); {NEVER}",
    ),
    "a batch for a score": (
        lambda: sfp.Score(lambda t, x: x.sum(axis=0), sfp.VP())(0.5, jnp.ones((5, 3))),
        r"value of fn has shape \(3,\), but a score at x .* has shape \(5, 3\); .* batch them with jax\.vmap\.",
    ),
    "a potential as Score": (
        lambda: sfp.Score(lambda t, x: jnp.sum(x), sfp.VP())(0.5, x()),
        r"shape \(\), but a score at x \(a potential goes into Potential\) has shape \(3,\)",
    ),
    "a score as Potential": (
        lambda: potential_of_score().potential(0.5, x()),
        r"shape \(3,\), but a scalar potential \(a score goes into Score\) has shape \(\)",
    ),
    "a score as Potential, called": (
        lambda: potential_of_score()(0.5, x()),
        r"shape \(3,\), but a scalar potential \(a score goes into Score\) has shape \(\)",
    ),
    "a vector for a scalar sample": (
        lambda: sfp.Score(lambda t, x: jnp.ones(2), sfp.VP())(0.5, jnp.ones(())),
        r"shape \(2,\), but a score at x \(a potential goes into Potential\) has shape \(\)",
    ),
    "a network's value": (
        lambda: sfp.NoiseScore(lambda c, x: x[:1], sfp.VP())(0.5, x()),
        rf"value of network has shape \(1,\), but x has shape \(3,\); {NEVER}",
    ),
    "data_std that would broadcast": (
        lambda: sfp.NoiseScore(lambda c, x: x, sfp.VP(), jnp.ones((2, 1)))(0.5, x()),
        rf"data_std has shape \(2, 1\), but x has shape \(3,\); {NEVER}",
    ),
    "a sample of a mixture": (
        lambda: mixture().log_prob(x()),
        r"x has shape \(3,\), but one sample of the mixture has shape \(2,\)",
    ),
    "a sample of its score": (
        lambda: mixture().score(sfp.VP())(0.5, jnp.ones((4, 2))),
        r"x has shape \(4, 2\), but the score's event shape is \(2,\); a score takes one sample\. Batch with jax\.vmap",
    ),
    "covariances": (
        lambda: mixture(covariances=jnp.ones((2, 3, 3))),
        r"covariances has shape \(2, 3, 3\), but \(K, D, D\) of means has shape \(2, 2, 2\)",
    ),
    "weights": (
        lambda: mixture(weights=(1.0,)),
        r"weights has shape \(1,\), but \(K,\) of means has shape \(2,\)",
    ),
    "volatility": (
        lambda: GeometricBrownianMotion(jnp.zeros(3), jnp.eye(2)),
        r"volatility has shape \(2, 2\), but a square matrix of the size of growth has shape \(3, 3\)",
    ),
    "phase space": (
        lambda: CriticallyDampedLangevin().drift(0.5, x()),
        r"x has shape \(3,\); a sample of critically-damped Langevin diffusion has shape \(2, d\), positions first",
    ),
    "a general drift": (
        lambda: sfp.GeneralSDE(
            lambda t, x: x[:1], lambda t, x: lx.DiagonalLinearOperator(x), Normal(1.0), t0=0.0, t1=1.0
        ).drift(0.5, x()),
        r"the drift has shape \(1,\), but x has shape \(3,\)",
    ),
    "a general diffusion": (
        lambda: sfp.GeneralSDE(
            lambda t, x: x, lambda t, x: lx.DiagonalLinearOperator(x[:1]), Normal(1.0), t0=0.0, t1=1.0
        ).diffusion(0.5, x()),
        r"the value of the diffusion has shape \(1,\), but x has shape \(3,\)",
    ),
}


def potential_of_score() -> sfp.Potential:
    return sfp.Potential(lambda t, x: -x, sfp.VP())


PARAMETERS: dict[str, tuple[Callable[[], Any], str]] = {
    "VE, reversed": (lambda: sfp.VE(50.0, 0.01), r"sigma_min = 50\.0 and sigma_max = 0\.01; VE needs 0 < sigma_min <"),
    "VE, negative": (lambda: sfp.VE(-0.01), r"sigma_min = -0\.01 and sigma_max = 50\.0; VE needs 0 < sigma_min"),
    "VE, no noise": (lambda: sfp.VE(t0=0.0, from_zero=True), "t0 = 0 with from_zero=True has sigma = 0; take t0 > 0"),
    "VP, reversed beta": (
        lambda: sfp.VP(20.0, 0.1),
        r"beta_min = 20\.0 and beta_max = 0\.1; VP needs 0 < beta_min <= beta_max\. Were they swapped\?",
    ),
    "SubVP, reversed beta": (lambda: sfp.SubVP(20.0, 0.1), r"SubVP needs 0 < beta_min <= beta_max\. Were they swapped"),
    "VP, negative beta": (lambda: sfp.VP(-0.1), r"beta_min = -0\.1 and beta_max = 20\.0; VP needs 0 < beta_min"),
    "VP at zero": (lambda: sfp.VP(t0=0.0), r"t0 = 0\.0; sigma vanishes at t = 0, take t0 > 0"),
    "OU": (lambda: sfp.OU(theta=-1.0), r"theta = -1\.0, noise = 1\.0, t0 = 0\.001; OU needs all three positive"),
    "EDM": (lambda: sfp.EDM(t0=0.0), r"t0 = 0\.0; the noise level must be positive"),
    "Cosine": (lambda: sfp.Cosine(t1=1.0), r"\[t0, t1\] = \[0\.001, 1\.0\]; the cosine schedule lives inside \(0, 1\)"),
    "a reversed horizon": (
        lambda: sfp.VP(t0=1.0, t1=0.5),
        r"horizon is \[t0, t1\] = \[1\.0, 0\.5\]; it needs 0\.0 <= t0 < t1\. t0 is the time of the data",
    ),
    "a reversed general horizon": (
        lambda: sfp.GeneralSDE(lambda t, x: x, lambda t, x: lx.DiagonalLinearOperator(x), Normal(1.0), t0=1.0, t1=0.0),
        r"horizon is \[t0, t1\] = \[1\.0, 0\.0\]",
    ),
    "LinearSDE, the wrong way": (
        lambda: sfp.LinearSDE(lambda t: t, lambda t: -t, t0=0.0, t1=1.0),
        r"log_alpha - log_sigma goes from 0\.0 at t0 to 2\.0 at t1; it must be finite and fall",
    ),
    "LinearSDE, not finite": (
        lambda: sfp.LinearSDE(lambda t: 0.0 * t, lambda t: jnp.log(t - 1.0), t0=0.0, t1=1.0),
        r"must be finite and fall\. Check that the functions return logarithms",
    ),
    "CLD": (
        lambda: CriticallyDampedLangevin(mass=-1.0),
        r"beta = 4\.0 and mass = -1\.0; both must be positive",
    ),
    "data_std": (
        lambda: sfp.EDMScore(lambda c, x: x, sfp.EDM(), -0.5),
        r"data_std = -0\.5; a standard deviation is positive and finite\. Give None for a network without",
    ),
    "a covariance that is not positive definite": (
        lambda: mixture(covariances=[[[1.0, 2.0], [2.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]]),
        r"holds a matrix that is not positive definite; its least eigenvalue is -(1\.0|0\.99)",
    ),
    "a covariance that is not symmetric": (
        lambda: mixture(covariances=[[[1.0, 0.2], [0.1, 1.0]], [[1.0, 0.0], [0.0, 1.0]]]),
        "covariances holds a matrix that is not symmetric; a covariance equals its transpose",
    ),
    "weights without sum one": (
        lambda: mixture(weights=(0.5, 0.6)),
        r"weights = \[0\.5 0\.6\] with sum 1\.1.*; they must be positive and sum to one",
    ),
    "a negative weight": (lambda: mixture(weights=(-0.5, 1.5)), r"weights = \[-0\.5  1\.5\].*they must be positive"),
    "means with NaN": (
        lambda: mixture(means=((0.0, jnp.nan), (1.0, 1.0))),
        "means holds NaN or infinite entries; clean the data",
    ),
    "no antithetic pair": (lambda: sfp.Antithetic(samples=0), "samples = 0; at least one antithetic pair is needed"),
    "no step": (lambda: sfp.Antithetic(step=0.0), r"step = 0\.0; it is a positive share of the local time scale"),
    "no width": (lambda: sfp.Smoothed(width=0.0), r"width = 0\.0; it is a positive multiple of the noise's deviation"),
    "no pair of points": (lambda: sfp.Smoothed(samples=0), "samples = 0; at least one pair of points is needed"),
    "data_std of a potential": (
        lambda: sfp.InnerPotential(lambda c, x: x, sfp.VP(), -0.5),
        r"data_std = -0\.5; a standard deviation is positive",
    ),
    "a box without a side": (
        lambda: sfp.Box(jnp.zeros(2), jnp.array([1.0, 0.0])),
        r"lower = \[0\. 0\.\] and upper = \[1\. 0\.\]; every side of a box needs lower < upper",
    ),
    "a box without bounds": (
        lambda: sfp.Box(jnp.zeros(1), jnp.array([jnp.inf])),
        "upper holds NaN or infinite entries",
    ),
    "a box of two shapes": (lambda: sfp.Box(jnp.zeros(2), jnp.ones(3)), r"upper has shape \(3,\), but lower has shape"),
    "a box around nothing": (lambda: sfp.Box.around(jnp.ones((0, 2))), "it needs samples along a leading axis"),
    "a box around one point": (lambda: sfp.Box.around(jnp.ones((3, 2))), "every side of a box needs lower < upper"),
    "a kink in a potential": (
        lambda: sfp.log_fpe_residual(sfp.Potential(lambda t, x: jax.nn.relu(x).sum(), sfp.VP()), 0.5, x()),
        "potential uses relu, which is piecewise linear: its second derivatives",
    ),
    "no direction": (lambda: sfp.Sliced(samples=0), "samples = 0; at least one direction is needed"),
}
METHODS: dict[str, tuple[Callable[[], Any], str]] = {
    "an unknown form": (
        lambda: residual(score(), 0.5, x(), form="divergence"),  # type: ignore
        r"form = 'divergence'.*'gradient'.*'martingale'.*'mixed'",
    ),
    "Ito has one form": (
        lambda: residual(score(), 0.5, x(), form="gradient", method=sfp.Ito(), key=jr.key(0)),
        r"form = 'gradient' with method = Ito\(…\), which takes 'martingale'\. Exact\(\) and Hutchinson\(\) take",
    ),
    "Sliced has one form": (
        lambda: residual(score(), 0.5, x(), form="mixed", method=sfp.Sliced(), key=jr.key(0)),
        r"form = 'mixed' with method = Sliced\(…\), which takes 'gradient'",
    ),
} | {
    f"{type(method).__name__} without a key": (
        lambda method=method: residual(score(), 0.5, x(), method=method),
        rf"key is None, but {type(method).__name__} draws random numbers; pass key=jax\.random\.key\(seed\)",
    )
    for method in (
        sfp.Hutchinson(),
        sfp.Ito(),
        sfp.Antithetic(),
        sfp.Sliced(),
        sfp.FiniteDifference(trace=sfp.Hutchinson()),
    )
}
METHODS |= {
    f"{name} without a key": (call, "key is None, but Hutchinson draws random numbers; pass key=")
    for name, call in {
        "fpe_operator": lambda: sfp.fpe_operator(score(), 0.5, x(), trace=sfp.Hutchinson()),
        "log_fpe_residual": lambda: sfp.log_fpe_residual(potential(), 0.5, x(), method=sfp.Hutchinson()),
        "fpe_residual": lambda: sfp.fpe_residual(density, 0.5, x(), sde=sfp.VP(), trace=sfp.Hutchinson()),
    }.items()
}


@pytest.mark.parametrize("case", SHAPES | PARAMETERS | METHODS)
def test_wrong_values(case: str) -> None:
    call, message = (SHAPES | PARAMETERS | METHODS)[case]
    refused(message, call)


KERNEL = r"has no Gaussian kernel alpha\(t\), sigma\(t\); a linear SDE is needed here .*What works for every SDE"
FLOATS = r"an array of floats\. Convert it first, for example .*\.astype\(jnp\.float32\)"


def moving() -> sfp.Score:
    return sfp.Score(lambda t, x: -x, general())


TYPES: dict[str, tuple[Callable[[], Any], str]] = {
    "the martingale form": (lambda: residual(moving(), 0.5, x(), form="martingale"), KERNEL),
    "the mixed form": (lambda: residual(moving(), 0.5, x(), form="mixed"), KERNEL),
    "Ito": (lambda: residual(moving(), 0.5, x(), method=sfp.Ito(), key=jr.key(0)), KERNEL),
    "Antithetic": (lambda: residual(moving(), 0.5, x(), method=sfp.Antithetic(), key=jr.key(0)), KERNEL),
    "noise": (lambda: moving().noise(0.5, x()), KERNEL),
    "denoise": (lambda: moving().denoise(0.5, x()), KERNEL),
    "velocity": (lambda: moving().velocity(0.5, x()), KERNEL),
    "NoiseScore": (lambda: sfp.NoiseScore(lambda c, x: x, general()), KERNEL),  # type: ignore
    "a mixture": (
        lambda: mixture().score(general()),  # type: ignore
        "sde is a GeometricBrownianMotion.*a mixture stays one under a linear SDE only|" + KERNEL,
    ),
    "a score for the log-density": (
        lambda: sfp.log_fpe_residual(score(), 0.5, x()),  # type: ignore
        r"potential is a Score, a score without a potential.*Wrap a scalar function with Potential\(fn, sde\)",
    ),
    "integers for perturb": (lambda: sfp.VP().perturb(0.5, jnp.array([1, 2]), jnp.ones(2)), f"x0 has dtype.*{FLOATS}"),
    "integer noise": (lambda: sfp.VP().perturb(0.5, jnp.ones(2), jnp.array([1, 2])), f"noise has dtype.*{FLOATS}"),
    "integers for a residual": (lambda: residual(score(), 0.5, jnp.array([1, 2])), f"x has dtype.*{FLOATS}"),
    "integers for an operator": (lambda: sfp.fpe_operator(score(), 0.5, jnp.array([1, 2])), f"x has dtype.*{FLOATS}"),
    "integers for a score": (lambda: score()(0.5, jnp.array([1, 2])), f"x has dtype.*{FLOATS}"),
    "integers for a potential": (lambda: potential().potential(0.5, jnp.array([1, 2])), f"x has dtype.*{FLOATS}"),
    "integers for a network": (
        lambda: sfp.NoiseScore(lambda c, x: x, sfp.VP())(0.5, jnp.array([1, 2])),
        f"x has dtype.*{FLOATS}",
    ),
    "an integer score": (
        lambda: sfp.Score(lambda t, x: jnp.array([1, 2]), sfp.VP())(0.5, jnp.ones(2)),
        f"the value of fn has dtype.*{FLOATS}",
    ),
    "integer means": (lambda: mixture(means=((0, 0), (1, 1))), f"means has dtype.*{FLOATS}"),
    "integers for a mixture": (lambda: mixture().log_prob(jnp.array([1, 2])), f"x has dtype.*{FLOATS}"),
    "integers for a divergence": (lambda: sfp.divergence(lambda x: x, jnp.array([1, 2])), f"x has dtype.*{FLOATS}"),
    "integers for a prior": (lambda: sfp.VP().prior.log_prob(jnp.array([1, 2])), f"x has dtype.*{FLOATS}"),
    "bytes for perturb": (
        lambda: sfp.VP().perturb(0.5, jnp.zeros(2, jnp.uint8), jnp.ones(2)),
        "uint8.*dequantise integer data with UniformDequantiser",
    ),
}
FIRST = r"it is called as {0}\(t, x\)\. First comes the time, then one sample"
WRAP = r"score is a function\. Wrap a function with Score\(fn, sde\)"


def fitted(**options: Any) -> Any:
    arguments = {"model": score(), "loss": sfp.DSM(), "optimizer": optax.sgd(1.0), "steps": 1, "key": jr.key(0)}
    return train.fit(**arguments | {"data": jnp.ones((4, 3))} | options)  # type: ignore


def drawn(**options: Any) -> Any:
    return sfp.sample(**{"score": score(), "n": 2, "key": jr.key(0), "shape": X} | options)  # type: ignore


def audited(**options: Any) -> Any:
    return sfp.audit(**{"score": score(), "data": jnp.ones((4, 3)), "key": jr.key(0)} | options)  # type: ignore


def perceptron() -> eqx.nn.MLP:
    return eqx.nn.MLP(3, 3, 4, 1, key=jr.key(0))


KINDS: dict[str, tuple[Callable[[], Any], str]] = {
    "a network of x alone": (
        lambda: sfp.NoiseScore(perceptron(), sfp.VP()),
        rf"network takes \(x, \*, key=None\); {FIRST.format('network')}.*Module with __call__\(self, t, x\)",
    ),
    "a network of an energy": (lambda: sfp.InnerPotential(perceptron(), sfp.VP()), FIRST.format("network")),
    "a function of x alone": (lambda: sfp.Score(lambda x: -x, sfp.VP()), rf"fn takes \(x\); {FIRST.format('fn')}"),
    "a function of (x, t)": (
        lambda: sfp.Potential(lambda x, t: x.sum(), sfp.VP()),
        rf"fn takes \(x, t\), in another order; {FIRST.format('fn')}",
    ),
    "a number for a network": (lambda: sfp.DenoiserScore(3, sfp.VP()), "network is 3; it is called as"),  # type: ignore
    "the class of a network": (lambda: sfp.VelocityScore(sfp.nn.MLP, sfp.VP()), "network is the class MLP; it is call"),
    "an array for a function": (lambda: sfp.Score(x(), sfp.VP()), r"fn is an array float32\[3\]; it is"),  # type: ignore
    "the class of an SDE": (
        lambda: sfp.Score(lambda t, x: x, sfp.VP),
        r"sde is the class VP\..*example scorefp\.VP\(\)",
    ),  # type: ignore
    "a word for an SDE": (lambda: sfp.NoiseScore(lambda t, x: x, "vp"), "sde is 'vp'. It is the forward"),  # type: ignore
    "a target of t alone": (
        lambda: sfp.score.NetworkScore(lambda t, x: x, sfp.VP(), lambda t: (0.0, 1.0)),  # type: ignore
        r"target takes \(t\); it is called as target\(sde, t\)\. It returns \(p, q\), as scorefp\.score\.noise_target",
    ),
    **{
        f"a word for the weighting of {term.__name__}": (
            lambda term=term: term(weighting="likelihood"),
            r"weighting is 'likelihood'; it is called as weighting\(sde, t\)\. For example scorefp\.likelihood",
        )
        for term in (sfp.DSM, sfp.LogFPE, sfp.ZeroCurl)
    },
    **{
        f"a word for the method of {name}": (
            call,
            r"method is 'ito'\. It is a residual method, for example scorefp\.Ito",
        )
        for name, call in {
            "ScoreFPE": lambda: sfp.ScoreFPE(method="ito"),  # type: ignore
            "LogFPE": lambda: sfp.LogFPE(method="ito"),  # type: ignore
            "score_fpe_residual": lambda: residual(score(), 0.5, x(), method="ito"),  # type: ignore
            "log_fpe_residual": lambda: sfp.log_fpe_residual(potential(), 0.5, x(), method="ito"),  # type: ignore
        }.items()
    },
    "a word for a sampler": (
        lambda: drawn(method="heun"),
        r"method is 'heun'\. It is a sampler, for example",
    ),
    "the class of a sampler": (lambda: drawn(method=sfp.Heun), "method is the class Heun. It is a sampler"),
    "a function to sample from": (
        lambda: drawn(score=lambda t, x: -x),
        WRAP,
    ),
    "a function to audit": (
        lambda: audited(score=lambda t, x: -x),
        WRAP,
    ),
    **{
        f"a function in {name}": (call, WRAP)
        for name, call in {
            "log_likelihood": lambda: sfp.log_likelihood(lambda t, x: -x, x()),  # type: ignore
            "likelihood_bound": lambda: sfp.likelihood_bound(lambda t, x: -x, x(), key=jr.key(0)),  # type: ignore
            "score_fpe_residual": lambda: residual(lambda t, x: -x, 0.5, x()),  # type: ignore
            "ScoreResidual": lambda: sfp.fokker_planck.ScoreResidual(lambda t, x: -x),  # type: ignore
        }.items()
    },
    "a score for a residual": (
        lambda: sfp.fokker_planck.mean_square(score(), sfp.Box(-x(), x()), key=jr.key(0)),  # type: ignore
        r"residual is a Score\. It is scorefp\.fokker_planck\.ScoreResidual\(score\), for example",
    ),
    "a density of x alone": (
        lambda: sfp.fokker_planck.DensityResidual(lambda x: x.sum(), sfp.VP()),  # type: ignore
        r"density takes \(x\); it is called as density\(t, x\)",
    ),
    "a number for an estimator": (
        lambda: sfp.likelihood_bound(score(), x(), key=jr.key(0), estimator=128),  # type: ignore
        r"estimator is 128\. It is scorefp\.BoundEstimator\(draws=128\)",
    ),
    "a word for an integrator": (
        lambda: sfp.log_likelihood(score(), x(), integrator="dopri5"),  # type: ignore
        r"integrator is 'dopri5'\. It is scorefp\.Integrator",
    ),
    "the class of a trace": (
        lambda: sfp.log_likelihood(score(), x(), trace=sfp.Exact),  # type: ignore
        r"trace is the class Exact\. It is Exact\(\), Hutchinson",
    ),
    "a network to fit": (lambda: fitted(model=perceptron()), "model is a MLP.*a network with NoiseScore"),
    "a word for a loss": (lambda: fitted(loss="dsm"), r"loss is 'dsm'\. It is made of terms"),
    "the class of a law of times": (lambda: fitted(time=sfp.UniformTime), "time is the class UniformTime"),
    "the class of a measure": (lambda: audited(measures=(sfp.diagnostics.Bound,)), "a measure is the class Bound"),
    **{
        f"an integer as the key of {name}": (
            call,
            rf"key is 7; {name} takes a random key: pass key=jax\.random\.key\(7\)",
        )
        for name, call in {
            "fit": lambda: fitted(key=7),
            "sample": lambda: drawn(key=7),
            "an audit": lambda: audited(key=7),
            "Hutchinson": lambda: sfp.log_likelihood(score(), x(), trace=sfp.Hutchinson(), key=7),  # type: ignore
            "Ito": lambda: residual(score(), 0.5, x(), method=sfp.Ito(), key=7),  # type: ignore
        }.items()
    },
    "several keys": (
        lambda: drawn(key=jr.split(jr.key(0))),
        r"key is an array key<fry>\[2\]; sample takes a",
    ),
    "floats as a key": (lambda: drawn(key=jnp.ones(2)), r"key is an array float32\[2\]; sample takes a random key"),
    **{
        f"a float for {name}": (call, rf"{name} = 2\.0; it is a count: pass an int")
        for name, call in {
            "n": lambda: drawn(n=2.0),
            "batch_size": lambda: drawn(batch_size=2.0),
            "steps": lambda: sfp.EulerMaruyama(steps=2.0),  # type: ignore
            "samples": lambda: sfp.Hutchinson(samples=2.0),  # type: ignore
            "nodes": lambda: sfp.fokker_planck.AnchoredPotential(score(), lambda x: x.sum(), 0.5, nodes=2.0),  # type: ignore
        }.items()
    },
    "a float for the steps of fit": (lambda: fitted(steps=2.0), r"steps = 2\.0; it is a count: pass an int"),
}
TYPES |= KINDS


@pytest.mark.parametrize("case", TYPES)
def test_wrong_types(case: str) -> None:
    call, message = TYPES[case]
    refused(f"(?s){message}", call, error=TypeError)


def test_integers_of_numpy_are_counts() -> None:
    method = sfp.EulerMaruyama(steps=np.int64(3))  # type: ignore
    assert type(method.steps) is int
    assert type(sfp.Hutchinson(samples=jnp.asarray(2)).samples) is int  # type: ignore
    draw = lambda n: sfp.sample(score(), n, key=jr.key(0), shape=X, method=method)
    assert jnp.all(draw(np.int64(2)) == draw(2))


def test_what_takes_conditioning_is_a_network() -> None:
    """A function may ask for `args` and `key`, and is called with what is bound."""
    family = sfp.Score(lambda t, x, *, args, key=None: -args * x, sfp.VP())
    assert jnp.all(family.bind(args=2.0)(0.5, x()) == -2)
    assert jnp.all(sfp.Score(lambda time, sample: -sample, sfp.VP())(0.5, x()) == -1)


class Variadic:
    def __call__(self, *args: Any) -> Any:
        return -args[1]


@pytest.mark.parametrize("fn", [lambda *args: -args[1], lambda *args, **keywords: -args[1], Variadic(), jnp.multiply])
def test_functions_of_any_number_of_arguments(fn: Callable[..., Any]) -> None:
    """Arguments that are merely called `args` ask for no conditioning."""
    assert sfp.Score(fn, sfp.VP())(0.5, x()).shape == X


def test_a_number_is_no_summand() -> None:
    one: Any = 1
    with pytest.raises(TypeError, match=r"a summand is 1\. It is made of terms"):
        _ = sfp.DSM() + one
