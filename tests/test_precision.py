"""Measuring is exact on every back end: products in full precision, networks of bfloat16 in float32.

What a measuring function compiles is lowered here for GPUs and TPUs, and its products read. What runs on the host is
asked by a score that is called inside of it.
"""

import collections
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers.bad_inputs import public
from jax import Array

import scorefp as sfp
from scorefp import diagnostics, fokker_planck as fpe, likelihood, quality, reverse, train
from scorefp._precision import default_precision, measuring
from scorefp.nn import MLP, UNet, _layers
from scorefp.score._rounding import rounding_told
from scorefp.train.loop import TrainStep

SHAPE = (1, 1, 2)
VP, KEY, T = sfp.VP(), jr.key(0), jnp.asarray(0.5)
X, XS = 0.3 * jnp.ones(SHAPE), jr.normal(jr.key(1), (4, *SHAPE))
MIXTURE = sfp.GaussianMixture(jnp.stack([X, -X]), jnp.stack([jnp.eye(2)] * 2), jnp.array([0.5, 0.5]))
TRUTH = MIXTURE.score(VP)
LEVELS = sfp.Quantisation(4, -1.0, 1.0)
BOX = sfp.Box(-3 * jnp.ones(SHAPE), 3 * jnp.ones(SHAPE))


class Network(eqx.Module):
    """Dense layers and a convolution on two pixels."""

    mlp: MLP
    conv: _layers.Conv
    shape: tuple[int, ...] = eqx.field(static=True, default=SHAPE)

    def __call__(self, t: Array, x: Array) -> Array:
        return self.mlp(t, x) + jnp.moveaxis(self.conv(jnp.moveaxis(x, 0, -1)), -1, 0)


@functools.cache
def network(dtype: Any = jnp.bfloat16) -> Network:
    mlp = MLP(SHAPE, width=4, depth=1, dtype=dtype, key=KEY)
    weight = 0.2 * jr.normal(jr.key(1), mlp.leave.weight.shape)
    mlp = eqx.tree_at(lambda n: n.leave.weight, mlp, weight)
    return Network(mlp, _layers.Conv(1, 1, dtype=dtype, key=KEY))


def score(dtype: Any = jnp.bfloat16) -> sfp.score.NetworkScore:
    return sfp.NoiseScore(network(dtype), VP)


def potential() -> sfp.score.NetworkPotential:
    return sfp.InnerPotential(network(), VP)


def lowered(fn: Callable[..., Any], model: Any, platforms: tuple[str, ...] = ("cuda", "tpu")) -> list[tuple[str, str]]:
    """The dtypes of the operands of all products in the program of `fn(model)`, and their precision.

    Those with a scalar are left out: diffrax's continuous adjoint writes that of increment and step as one, and the
    compilers make a multiplication of it.
    """
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    traced = jax.jit(lambda arrays: fn(eqx.combine(arrays, rest))).trace(arrays)
    found = list[tuple[str, str]]()
    for line in traced.lower(lowering_platforms=platforms).as_text().splitlines():
        if re.search(r"stablehlo\.(dot_general|dot|convolution)\b", line) and ", tensor<f32>)" not in line:
            (operands,) = re.findall(r"\(tensor<(?:\d+x)*(\w+)>, tensor<(?:\d+x)*(\w+)>\) -> ", line)
            (named,) = re.findall(r"precision(?:_config)? = \[([^\]]*)\]", line) or ["DEFAULT"]
            found += [("/".join(operands), "/".join(sorted(set(re.findall(r"[A-Z]{3,}", named)))))]
    return found


_lowering = jax.make_user_context(default_value=False)


@pytest.fixture
def without_callbacks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `EQX_ON_ERROR=nan` does: calls of the host do not lower for another platform. What other tests traced with
    such calls is not taken from the caches, which know contexts.
    """
    monkeypatch.setattr("equinox._errors.EQX_ON_ERROR", "nan")
    with _lowering(True):
        yield


def log_likelihood(adjoint: diffrax.AbstractAdjoint, score: Any) -> Array:
    return sfp.log_likelihood(score, X, integrator=sfp.Integrator(adjoint=adjoint, max_steps=16))


def end(score: Any) -> Array:
    return jnp.sum(sfp.ProbabilityFlow()(score, X) ** 2)


RESIDUALS = (sfp.Exact(), sfp.Ito(), sfp.Antithetic(), sfp.Sliced(), sfp.FiniteDifference())
CHECKPOINTED, DIRECT = diffrax.RecursiveCheckpointAdjoint(), diffrax.DirectAdjoint()
BACKSOLVE = diffrax.BacksolveAdjoint()
SETTINGS: dict[str, Any] = {"key": KEY, "draws": 2}

MEASURES: dict[str, Callable[[Any], Any]] = {
    "log_likelihood": functools.partial(log_likelihood, CHECKPOINTED),
    "log_likelihood: its gradient": eqx.filter_grad(functools.partial(log_likelihood, CHECKPOINTED)),
    "log_likelihood: its gradient, forward": lambda s: jax.jacfwd(
        lambda x: sfp.log_likelihood(s, x, integrator=sfp.Integrator(adjoint=DIRECT, max_steps=16))
    )(X),
    "log_likelihood: its continuous adjoint": eqx.filter_grad(functools.partial(log_likelihood, BACKSOLVE)),
    "flow_likelihood": lambda s: sfp.flow_likelihood(s, XS, common_steps=True, error=True).log_prob,
    "flow_likelihood: an implicit solver": lambda s: (
        sfp.flow_likelihood(s, X, integrator=sfp.Integrator(diffrax.Kvaerno3())).log_prob
    ),
    "ProbabilityFlow": end,
    "ProbabilityFlow: its gradient": eqx.filter_grad(end),
    "sample": lambda s: sfp.sample(s, 2, key=KEY, method=sfp.ProbabilityFlow(sfp.Integrator(throw=False))),
    "flow_map": lambda s: reverse.flow_map(s, X, start=0.5, stop=0.2, integrator=sfp.Integrator()).state,
    "flow_samples": lambda s: sfp.flow_samples(s, 2, key=KEY, integrator=sfp.Integrator(throw=False)).log_prob,
    "weighted_samples": lambda s: (
        sfp.sampling.weighted_samples(
            sfp.Annealed(s, 1.5), 2, key=KEY, method=sfp.FeynmanKac(steps=2, particles=2)
        ).log_normalisers
    ),
    "weight_rate": lambda s: reverse.weight_rate(sfp.Annealed(s, 1.5), T, X),
    "encode": lambda s: sfp.encode(s, X),
    "decode": lambda s: sfp.decode(s, X),
    "round_trip": lambda s: reverse.round_trip(s, X).returned,
    "likelihood_bound": lambda s: sfp.likelihood_bound(s, X, key=KEY, form="sm"),
    "evaluate_bound": lambda s: sfp.evaluate_bound(s, X, key=KEY).value,
    "code_length": lambda s: likelihood.code_length(s, jnp.ones(SHAPE, int), quantisation=LEVELS, key=KEY).value,
    "entropy": lambda s: sfp.entropy(s, XS, **SETTINGS).value,
    "kl_bound": lambda s: likelihood.kl_bound(s, TRUTH, XS, **SETTINGS).value,
    "kl_decomposition": lambda s: sfp.kl_decomposition(s, TRUTH, XS, **SETTINGS).gap.value,
    "prior_kl": lambda s: likelihood.prior_kl(TRUTH, XS, key=KEY).value,
    "gaussian_kl": lambda s: likelihood.gaussian_kl(jnp.ones(2), jnp.eye(2), jnp.zeros(2), jnp.eye(2)),
    "ode_score": lambda s: likelihood.ode_score(s, T, X),
    "log_normaliser": lambda s: (
        likelihood.log_normaliser(potential(), T, likelihood.BoxQuadrature(BOX)).value
        + likelihood.log_normaliser(potential(), T, likelihood.ImportanceSampling(MIXTURE), key=KEY).value
    ),
    "fpe_operator": lambda s: sfp.fpe_operator(s, T, X),
    **{
        f"score_fpe_residual: {type(method).__name__}": lambda s, m=method: sfp.score_fpe_residual(
            s, T, X, method=m, key=KEY
        )
        for method in RESIDUALS
    },
    "score_fpe_residual: its gradient": eqx.filter_grad(
        lambda s: jnp.sum(sfp.score_fpe_residual(s, T, X, method=sfp.Ito(), key=KEY) ** 2)
    ),
    "log_fpe_residual": lambda s: sum(
        sfp.log_fpe_residual(potential(), T, X, method=method, key=KEY)
        for method in (sfp.Exact(), sfp.Ito(), sfp.Antithetic(), sfp.Smoothed())
    ),
    "fpe_residual": lambda s: sfp.fpe_residual(lambda t, x: jnp.exp(potential().potential(t, x)), T, X, sde=VP),
    "integrated_residual": lambda s: fpe.integrated_residual(s, T, X, start=0.2),
    "AnchoredPotential": lambda s: fpe.AnchoredPotential(s, MIXTURE.log_prob, 0.2).derivatives(T, X),
    "matching_errors": lambda s: fpe.matching_errors(s, TRUTH, T, X).score,
    "high_order_bound": lambda s: fpe.high_order_bound(s, fpe.matching_errors(s, s, T, X), T, X, start=0.2),
    "mean_square": lambda s: (
        fpe.mean_square(fpe.ScoreResidual(s), BOX, key=KEY).value
        + fpe.mean_square(fpe.LogResidual(potential()), BOX, rule=sfp.integrals.GaussLegendre()).value
    ),
    "ScoreResidual": lambda s: fpe.ScoreResidual(s).square(T, X, None),
    "LogResidual": lambda s: fpe.LogResidual(potential()).square(T, X, None),
    "DensityResidual": lambda s: fpe.DensityResidual(lambda t, x: jnp.exp(potential().potential(t, x)), VP).square(
        T, X, None
    ),
    "residual_suprema": lambda s: fpe.residual_suprema(s, XS, key=KEY, times=2, density=TRUTH).M,
    "curl": lambda s: sfp.curl(lambda x: s(T, x), X),
    "circulation": lambda s: sfp.calculus.circulation(lambda x: s(T, x), X, X + 1, X - 1),
    "score_error_bound": lambda s: (
        sfp.stein.score_error_bound(s, T, jnp.repeat(XS, 3, 0), key=KEY, waves=2).whole.value
    ),
    "squared_curl": lambda s: sfp.calculus.squared_curl(lambda x: s(T, x), X),
    "GaussianMixture": lambda s: (MIXTURE.log_prob(X), jax.grad(MIXTURE.log_prob)(X), MIXTURE.sample(KEY, 2)),
    "MixturePotential": lambda s: (TRUTH(T, X), TRUTH.potential(T, X), sfp.divergence(lambda x: TRUTH(T, x), X)),
}
"""Functions of a score in a bfloat16 network. More than one of a name are ways of one function."""


SLOW = {
    *("kl_decomposition", "flow_likelihood: an implicit solver", "log_likelihood: its gradient, forward"),
    "log_likelihood: its continuous adjoint",
}


@pytest.mark.usefixtures("without_callbacks")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in MEASURES]
)
def test_no_product_of_a_measurement_is_rounded(name: str) -> None:
    found = collections.Counter(lowered(MEASURES[name], score()))
    assert found, "no product was seen"
    assert found.keys() == {("f32/f32", "HIGHEST")}, found


@pytest.mark.usefixtures("without_callbacks")
def test_a_unet_is_measured_in_full_precision() -> None:
    unet = UNet((1, 4, 4), channels=4, multipliers=(1, 2), attention=(4,), classes=2, dtype=jnp.bfloat16, key=KEY)
    x = jnp.ones((1, 4, 4))
    model = sfp.NoiseScore(unet, VP).bind(args=1)
    found = collections.Counter(lowered(lambda s: sfp.score_fpe_residual(s, T, x, method=sfp.Ito(), key=KEY), model))
    assert found.keys() == {("f32/f32", "HIGHEST")}, found
    # The other side: what is no measurement rounds.
    value = lambda s: jax.grad(lambda x: jnp.sum(s(T, x)))(x)
    found = collections.Counter(lowered(value, model))
    assert found.keys() == {("bf16/bf16", "DEFAULT")}, found


@pytest.mark.usefixtures("without_callbacks")
@pytest.mark.parametrize(("dtype", "operands"), [(jnp.bfloat16, "bf16/bf16"), (None, "f32/f32")])
def test_training_rounds(dtype: Any, operands: str) -> None:
    params, skeleton = eqx.partition(score(dtype), score(dtype).trained())
    loss = sfp.DSM() + sfp.ScoreFPE(method=sfp.Ito()) + sfp.ZeroCurl() + sfp.TimeDerivativeTaming()
    step = TrainStep(skeleton, loss, optax.sgd(1e-3), sfp.UniformLogSNR(), 2, (), False)
    data = sfp.Dataset(XS)
    state = step.init(params, key=jr.PRNGKey(0))
    arrays, rest = eqx.partition(state, eqx.is_inexact_array)

    def stepped(arrays: Any) -> Any:
        after = step.step(eqx.combine(arrays, rest), (data.values, data.args), jnp.asarray(0))
        return eqx.filter(after, eqx.is_array)

    found = collections.Counter(lowered(stepped, arrays))
    assert found.keys() == {(operands, "DEFAULT")}, found


class Asked(Exception):
    """What a score was told when it was called."""


class Asking(sfp.score.AbstractScore):
    """A score that answers with the precision around it, by an error."""

    sde: sfp.VP = sfp.VP()
    shape: tuple[int, ...] | None = (2,)

    def __call__(self, t: Any, x: Any) -> Array:
        raise Asked(default_precision(), measuring())


class AskingTransport(sfp.transport.AbstractTransport):
    def __call__(self, start: Any, end: Any) -> Any:
        raise Asked(default_precision(), measuring())


class Standing(sfp.sampling.AbstractSampler):
    def __call__(self, score: Any, x1: Any, *, key: Any) -> Any:
        return x1


POINTS = jr.normal(jr.key(2), (8, 2))
PLANE = sfp.Box(-jnp.ones(2), jnp.ones(2))

ON_HOST: dict[str, Callable[[Any], Any]] = {
    "audit": lambda s: sfp.audit(s, POINTS, key=KEY),
    "audit_on": lambda s: train.audit_on(POINTS, key=KEY)(s),
    "evaluate": lambda s: sfp.evaluate(s, POINTS, key=KEY),
    "ode_sde_gap": lambda s: sfp.ode_sde_gap(s, key=KEY, samples=8),
    **{
        measure.__name__: lambda s, m=measure: m()(s, POINTS, key=KEY)
        for measure in (
            *(diagnostics.Bound, diagnostics.ConsistencyCurves, diagnostics.CurlCurve, diagnostics.Gap),
            *(diagnostics.Likelihood, diagnostics.MatchingCurve, diagnostics.ResidualCurve),
            *(diagnostics.CirculationCurve, diagnostics.ScoreError, diagnostics.SteinTest),
        )
    },
    "CodeLength": lambda s: diagnostics.CodeLength()(s, sfp.Dataset(jnp.ones((4, 2), int), LEVELS), key=KEY),
    "ByClass": lambda s: diagnostics.ByClass(diagnostics.MatchingCurve(), jnp.zeros(len(POINTS), int))(
        s, POINTS, key=KEY
    ),
    "Ensemble": lambda s: diagnostics.Ensemble(2, 4).evaluate(
        lambda score, t, x, noise, key: {"s": jnp.sum(score(t, x))}, s, sfp.Dataset(POINTS), key=KEY
    ),
    "Ensemble: slices": lambda s: list(
        diagnostics.Ensemble(2, 4).slices(
            lambda score, t, x, noise, key: {"s": jnp.sum(score(t, x))}, s, sfp.Dataset(POINTS), key=KEY
        )[1]
    ),
    "solve_density": lambda s: fpe.solve_density(s, PLANE, process="ode", cells=4, initial=lambda x: -jnp.log(4.0)),
    **{
        measure.__name__: lambda s, m=measure: m(POINTS, POINTS, features=lambda x: s(0.5, x))
        for measure in (quality.frechet_distance, quality.kernel_distance, quality.precision_recall)
    },
    "SampleQuality": lambda s: diagnostics.SampleQuality(features=lambda x: s(0.5, x), method=Standing())(
        sfp.Score(lambda t, x: -x, VP), POINTS, key=KEY
    ),
    "kernel_stein_discrepancy": lambda s: sfp.stein.kernel_stein_discrepancy(s, 0.5, POINTS, key=KEY),
    "Moments": lambda s: quality.Moments.of(POINTS, features=lambda x: s(0.5, x)),
    "wasserstein2": lambda s: sfp.wasserstein2(POINTS, POINTS, method=AskingTransport()),
}


@pytest.mark.parametrize("name", ON_HOST)
def test_what_runs_on_the_host_asks_for_full_precision(name: str) -> None:
    with pytest.raises(Asked) as asked, rounding_told():
        ON_HOST[name](Asking())
    assert asked.value.args == ("highest", True)
    # The other side: a sampler by steps may round, and so may a score alone.
    with pytest.raises(Asked) as asked:
        sfp.sample(Asking(), 2, key=KEY, method=sfp.Heun(2))
    assert asked.value.args == ("default", False)


def test_sinkhorn_asks_for_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: Any) -> Any:
        raise Asked(default_precision())

    monkeypatch.setattr("scorefp.transport.plans._sinkhorn", asked)
    law = sfp.transport.Atoms(np.ones((2, 1)), None, None)
    with pytest.raises(Asked, match="highest"):
        sfp.transport.Sinkhorn()(law, law)


ROOMS = {
    **dict.fromkeys(("dataset", "data", "plot"), "holds or shows samples"),
    "nn": "networks round as they are told",
    "objective": "training may round",
    "sde": "elementwise, or products with the diffusion in the precision of who asks",
    "train": "training may round",
    "integrals": "points and weights, elementwise",
    "score": "a score answers in the precision of who asks",
}
"""Packages whose other functions measure nothing."""

EXEMPT = {
    **dict.fromkeys(
        ("divergence", "value_and_divergence", "laplacian", "time_derivative", "curve_derivatives"),
        "derivatives, of which training terms are made: in the precision of who asks",
    ),
    **dict.fromkeys(
        ("Exact", "Hutchinson", "FiniteDifference", "Gaussian", "Rademacher"), "ways to take a derivative; its caller's"
    ),
    **dict.fromkeys(
        ("HutchPlusPlus", "XTrace"), "their own algebra in full precision, the products with the matrix in its caller's"
    ),
    **dict.fromkeys(
        ("Antithetic", "Ito", "Pointwise", "Sliced", "Smoothed"), "also a training term's; measured by the residuals"
    ),
    **dict.fromkeys(
        ("Checkerboard", "Circles", "MuellerBrown", "SwissRolls"),
        "elementwise",
    ),
    **dict.fromkeys(("deveney_mixture", "eight_modes", "lai_three_modes", "lai_two_modes"), "a GaussianMixture"),
    **dict.fromkeys(("FrechetDistance", "PrecisionRecall"), "a result"),
    **dict.fromkeys(("GaussianKernel", "PolynomialKernel"), "float64, where it is measured"),
    **dict.fromkeys(("Audit", "Curve", "Number", "OdeSdeGap", "Section", "GridDensity", "MatchingErrors"), "a result"),
    **dict.fromkeys(("ResidualSuprema", "FlowLikelihood", "KLDecomposition", "LikelihoodBound", "Solved"), "a result"),
    **dict.fromkeys(("FlowSamples", "RoundTrip", "ScoreErrorBound", "SteinDiscrepancy", "WeightedSamples"), "a result"),
    "FeynmanKac": "settings; measured by weighted_samples",
    **dict.fromkeys(("TorchCall", "TorchNetwork", "from_torch"), "torch in its own precision, set at each call"),
    **dict.fromkeys(
        ("log_snr_ends", "log_snr_midpoints", "uniform_midpoints", "log_snr_grid", "uniform_grid"), "elementwise"
    ),
    **dict.fromkeys(("RhoGrid", "NodeGrid", "default_grid", "prior_kl_bound", "PriorDivergence"), "elementwise"),
    **dict.fromkeys(("BoundEstimator", "BoxQuadrature", "ImportanceSampling", "Integrator"), "settings"),
    **dict.fromkeys(("Proposal", "ConditionalFlow"), "a protocol"),
    **dict.fromkeys(("VariationalDequantiser", "variational_dequantiser"), "draws noise, in training too"),
    **dict.fromkeys(("reverse_path", "ancestral_step", "euler_maruyama_step"), "steps, in training terms too"),
    **dict.fromkeys(("exponential_step", "heun_step"), "steps, in training terms too"),
    **dict.fromkeys(("Churn", "Denoised", "DPMSolver", "Euler", "EulerMaruyama", "ExponentialIntegrator"), "steps"),
    **dict.fromkeys(("Heun", "Langevin", "PredictorCorrector"), "steps: their error is far above that of rounding"),
    **dict.fromkeys(
        ("Assignment", "Atoms", "ExactTransport", "Histogram", "Quantile", "Transported"), "NumPy, float64"
    ),
    **dict.fromkeys(("gathered", "sharded"), "places arrays"),
    "Sinkhorn": "its test is above",
    **dict.fromkeys(("citation", "data_mesh", "per_device_batch"), "no numbers"),
}
"""Public names that measure nothing, and why."""


@pytest.mark.quick
def test_every_public_name_measures_or_says_why_not() -> None:
    tested = {name.partition(":")[0] for name in (*MEASURES, *ON_HOST)}
    room = lambda member: member.__module__.split(".")[1]
    missing = {name for name, member in public().items() if room(member) not in ROOMS} - tested - EXEMPT.keys()
    assert not missing
    assert not EXEMPT.keys() & tested
    assert EXEMPT.keys() | tested <= public().keys()


def test_a_network_of_bfloat16_is_measured_as_one_of_float32() -> None:
    """Also one in a closure, or compiled by a function that was called elsewhere before."""
    t = jnp.asarray(0.05)
    full, half = score(None), score()
    value = jax.jit(lambda x: half(t, x))
    rounded = lambda: float(jnp.abs(value(X) - full(t, X)).max())
    assert rounded() > 1e-4
    for measure in (
        lambda s: sfp.log_likelihood(s, X),
        lambda s: sfp.score_fpe_residual(s, t, X, method=sfp.Ito(), key=KEY),
        lambda s: sfp.curl(value if s is half else lambda x: s(t, x), X),
    ):
        np.testing.assert_allclose(measure(half), measure(full), rtol=1e-5, atol=1e-6)
    # Outside it rounds as before; and so does the method where a training term calls it.
    assert rounded() > 1e-4
    free = lambda s: sfp.Ito().residual(s, t, X, KEY)[1]
    assert float(jnp.abs(free(half) - free(full)).max()) > 1e-3


@pytest.mark.quick
def test_a_measurement_is_compiled_once() -> None:
    calls = collections.Counter[str]()

    def fn(t: Array, x: Array) -> Array:
        calls["traced"] += 1
        return -x

    counted = sfp.Score(fn, VP, shape=(2,))
    for shift in (0.0, 1.0, 2.0):
        sfp.log_likelihood(counted, jnp.ones(2) + shift)
        calls.update([f"after {shift}"] * calls["traced"])
    assert calls["after 0.0"] == calls["after 2.0"] > 0


@pytest.mark.quick
def test_the_users_precision_comes_back() -> None:
    with jax.default_matmul_precision("tensorfloat32"):
        with pytest.raises(Asked) as asked:
            sfp.log_likelihood(Asking(), jnp.ones(2))
        assert asked.value.args == ("highest", True)
        assert default_precision() == "tensorfloat32"
        assert not measuring()


class Own(eqx.Module):
    """A network of somebody's own, which rounds in measurements too; it counts how often it is traced."""

    mlp: MLP
    dtype: Any = eqx.field(static=True)
    calls: Any = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True, default=(2,))

    def __call__(self, t: Array, x: Array, args: Any = None) -> Array:
        self.calls["traced"] += 1
        return self.mlp(t, x.astype(self.dtype).astype(x.dtype))


class Quiet(diagnostics.AbstractMeasure):
    """A measure that asks nothing of the score."""

    needs_kernel: bool = False
    needs_levels: bool = False

    def section(self, score: Any, data: Any, *, key: Any, mesh: Any) -> diagnostics.Section:
        return diagnostics.Section("quiet", {}, {})


def own(dtype: Any) -> sfp.score.NetworkScore:
    """The score of such a network; for `None`, of one that rounds where the library lets it."""
    half = jnp.bfloat16 if dtype is None else None
    mlp = MLP((2,), width=4, depth=1, dtype=half, key=KEY)
    return sfp.NoiseScore(Own(mlp, dtype or jnp.float32, collections.Counter()), VP)


LOOSE = sfp.Integrator(rtol=0.1, atol=0.1, throw=False)
ROUNDED: dict[str, Callable[[Any], Any]] = {
    "log_likelihood": lambda s: sfp.log_likelihood(s, POINTS[0], integrator=LOOSE),
    "log_likelihood under jit, vmap and grad": jax.jit(
        jax.vmap(jax.grad(lambda x: sfp.log_likelihood(own(jnp.bfloat16), x, integrator=LOOSE)))
    ),
    "flow_likelihood": lambda s: sfp.flow_likelihood(s, POINTS, integrator=LOOSE, error=True, common_steps=True),
    "encode": lambda s: sfp.encode(s, POINTS[0], integrator=LOOSE),
    "sample": lambda s: sfp.sample(s, 2, key=KEY, method=sfp.ProbabilityFlow(LOOSE)),
    "flow_samples": lambda s: sfp.flow_samples(s, 2, key=KEY, integrator=LOOSE),
    "evaluate": lambda s: sfp.evaluate(s, POINTS, key=KEY, integrator=LOOSE, draws=2),
    "audit": lambda s: sfp.audit(
        s,
        sfp.Dataset(POINTS, args=jnp.arange(len(POINTS))),
        key=KEY,
        measures=(diagnostics.MatchingCurve(diagnostics.Ensemble(2, 4)), diagnostics.Likelihood(integrator=LOOSE)),
    ),
    "a measure": lambda s: diagnostics.MatchingCurve(diagnostics.Ensemble(2, 4))(s, POINTS, key=KEY),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_a_network_that_rounds_in_a_measurement_is_told_of_once(name: str) -> None:
    given = POINTS if "vmap" in name else own(jnp.bfloat16)
    with pytest.warns(UserWarning, match="rounds to bfloat16 inside, and is measured as it is") as told:
        ROUNDED[name](given)
    assert len(told) == 1
    # The other side, where a warning is an error: a network that rounds nothing, and one of this package.
    if "vmap" not in name:
        ROUNDED[name](own(jnp.float32))
        ROUNDED[name](own(None))


@pytest.mark.quick
def test_an_audit_traces_the_score_once_to_see_it_round() -> None:
    score = own(jnp.bfloat16)
    with pytest.warns(UserWarning, match="rounds to bfloat16"):
        sfp.audit(score, POINTS, key=KEY, measures=(Quiet(), Quiet()))
    assert score.network.calls["traced"] == 1
