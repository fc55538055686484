"""One row for every public callable: a good call, and what is bad for each of its arguments.

`tests/test_bad_inputs.py` makes the good call, and then one call for each bad value of each argument, which has to be
refused by an error that names the argument. What is bad follows from the role of an argument, which follows from its
name, as a word means one thing in the library. A callable without a row, or an argument without a role, fails there.
"""

import collections
import dataclasses
import functools
import importlib.util
import inspect
import re
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import optax

import scorefp as sfp
from scorefp import data, plot, train

PACKAGES = (
    *(sfp, sfp.calculus, sfp.dataset, sfp.densities, sfp.diagnostics, sfp.fokker_planck, sfp.integrals),
    *(sfp.likelihood, sfp.nn, sfp.objective, sfp.quality, sfp.reverse, sfp.sampling, sfp.score, sfp.sde),
    *(sfp.stein, sfp.transport, data, plot, train),
)

Bad = Callable[[Any], Any]
"""Makes a bad value of a good one."""

KEY, VP = jr.key(0), sfp.VP()
TABLE = sfp.sde.DiscreteSDE.from_betas(np.linspace(1e-3, 0.2, 50))
X, XS = jnp.array([0.3, -0.2]), jr.normal(jr.key(1), (8, 2))
T = 0.5
SCORE = sfp.Score(lambda t, x: -x, VP, shape=(2,))
PHI = sfp.Potential(lambda t, x: -0.5 * jnp.sum(x**2), VP, shape=(2,))
MIXTURE = sfp.GaussianMixture(jnp.array([[-1.0, 0.0], [1.0, 0.0]]), jnp.ones(2), jnp.array([0.5, 0.5]))
TRUTH = MIXTURE.score(VP)
BOX = sfp.Box(-jnp.ones(2), jnp.ones(2))
TABLE = sfp.sde.DiscreteSDE.from_betas(np.linspace(1e-4, 0.02, 1000))
BYTES = sfp.Quantisation(256, -1.0, 1.0)
LEVELS = np.arange(16, dtype=np.uint8).reshape(8, 2)


def network(t: Any, x: Any) -> Any:
    return -x


def scalar_network(t: Any, x: Any) -> Any:
    return -jnp.sum(x**2)


def like(good: Any, dtype: Any) -> Any:
    return jnp.asarray(good).astype(dtype)


def with_entry(good: Any, entry: float) -> Any:
    """An array with another number for its first entry."""
    array = jnp.asarray(good)
    return array.at[(0,) * array.ndim].set(entry)


def always(value: Any) -> Bad:
    return lambda good: value


def perceptron(good: Any) -> Any:
    return eqx.nn.MLP(2, 2, 4, 1, key=KEY)


WORD, NOTHING, FUNCTION = {"word": always("word")}, {"None": always(None)}, {"function": always(lambda *_: 0.0)}
CLASS = {"class": lambda good: type(good)}
THREE = {"number": always(3)}
COMPLEX = {"complex": lambda good: like(good, jnp.complex64)}
HALF = {"half precision": lambda good: like(good, jnp.bfloat16)}
NOT_FINITE = {"NaN": lambda good: with_entry(good, jnp.nan), "infinite": lambda good: with_entry(good, jnp.inf)}
INTEGER = {"integer": lambda good: like(jnp.round(jnp.asarray(good)), jnp.int32)}
THING = WORD | NOTHING | FUNCTION | CLASS | THREE
NUMBER = (
    {"NaN": always(float("nan")), "infinite": always(float("inf")), "complex": always(0.5 + 0.5j)}
    | {"wrong rank": always(jnp.array([0.4, 0.5])), "bool": always(True)}
    | (WORD | NOTHING | FUNCTION)
)
SAMPLE = {
    "wrong rank": lambda good: jnp.stack([jnp.asarray(good)] * 4),
    "broadcastable": lambda good: jnp.asarray(good)[:1],
} | (INTEGER | COMPLEX | HALF | NOT_FINITE | WORD | NOTHING | FUNCTION)

ROLES: dict[str, dict[str, Bad]] = {
    "sample": SAMPLE,
    "samples": {
        "wrong rank": lambda good: jnp.asarray(good)[0, 0],
        "broadcastable": lambda good: jnp.asarray(good)[:, :1],
        "too few": lambda good: jnp.asarray(good)[:0],
    }
    | (INTEGER | COMPLEX | HALF | NOT_FINITE | WORD | NOTHING | FUNCTION),
    "array": {"wrong rank": lambda good: jnp.asarray(good)[None]} | (COMPLEX | NOT_FINITE | WORD | NOTHING | FUNCTION),
    "time": NUMBER | {"before t0": always(-0.5), "beyond t1": always(1e3)},
    "key": NOTHING
    | WORD
    | {"integer": always(0), "float": always(1.5), "wrong rank": lambda good: jr.split(good, 3)}
    | {"wrong dtype": always(jnp.ones(2))},
    "count": WORD
    | NOTHING
    | FUNCTION
    | {"float": always(2.0), "bool": always(True), "zero": always(0), "negative": always(-1)}
    | {"NaN": always(float("nan")), "infinite": always(float("inf")), "wrong rank": always(jnp.array([2, 2]))},
    "number": NUMBER,
    "positive": NUMBER | {"zero": always(0.0), "negative": always(-1.0)},
    "share": NUMBER | {"negative": always(-0.5), "above one": always(1.5)},
    "flag": WORD | NOTHING | FUNCTION | {"number": always(2), "NaN": always(float("nan"))},
    "word": {"another word": always("word"), "number": always(3), "class": always(str)} | NOTHING | FUNCTION,
    "shape": WORD
    | NOTHING
    | FUNCTION
    | {"float": always((2.0,)), "negative": always((-1,)), "zero": always((0,)), "number": always(2)},
    "function": WORD | NOTHING | THREE | {"class": always(dict), "no arguments": always(lambda: 0.0)},
    "callable": WORD | NOTHING | THREE | {"class": always(dict)},
    "score": THING | {"network": perceptron},
    "potential": THING | {"network": perceptron, "score": always(SCORE)},
    "thing": THING,
    "path": {"number": always(3), "class": always(dict)} | NOTHING | FUNCTION,
}

NAMES: dict[str, str] = {
    **dict.fromkeys(("x", "point", "velocity", "acceleration", "latent"), "sample"),
    **dict.fromkeys(("xs", "data", "x0"), "samples"),
    **dict.fromkeys(("t", "earlier"), "time"),
    **dict.fromkeys(("steps", "draws", "nodes", "samples", "times", "paths", "n", "batch_size"), "count"),
    **dict.fromkeys(("layers", "width", "depth", "channels", "blocks", "count"), "count"),
    **dict.fromkeys(("report_every", "evaluate_every", "accumulate", "every", "keep", "max_steps"), "count"),
    **dict.fromkeys(("cells", "columns", "corrections", "max_iterations", "levels", "order", "size"), "count"),
    **dict.fromkeys(("repeats", "bins"), "count"),
    **dict.fromkeys(("score", "model", "conditional", "unconditional"), "score"),
    **dict.fromkeys(("potential", "truth"), "potential"),
    **dict.fromkeys(
        ("fn", "network", "density", "weighting", "first", "last", "scale", "target", "offset"), "function"
    ),
    **dict.fromkeys(("initial", "energy", "log_density", "step", "grid", "activation", "drift_fn"), "function"),
    "reward": "function",
    "strength": "number",
    "exponents": "array",
    **dict.fromkeys(("diffusion_fn", "log_alpha_fn", "log_sigma_fn"), "function"),
    **dict.fromkeys(("fraction", "share"), "share"),
    **dict.fromkeys(("power", "std", "gamma", "length", "temperature", "rtol", "atol", "rho", "ratio"), "positive"),
    **dict.fromkeys(("step_size", "epsilon", "threshold", "backward", "forward", "side", "inflation"), "positive"),
    **dict.fromkeys(("theta", "mass", "beta", "data_std"), "positive"),
    **dict.fromkeys(("stratified", "random", "unbiased", "pathwise", "error", "common_steps", "dropout"), "flag"),
    **dict.fromkeys(("time_first", "channels_last", "learned_variance"), "flag"),
    **dict.fromkeys(("module", "output"), "callable"),
    **dict.fromkeys(("progress", "throw", "from_zero", "labels", "skip_corrupt"), "flag"),
    **dict.fromkeys(("form", "truncation", "process", "split", "shard", "encoder"), "word"),
    **dict.fromkeys(("sde", "trace", "probes", "law", "method", "integrator", "time", "estimator", "rule"), "thing"),
    **dict.fromkeys(("residual", "box", "window", "points", "domain", "term", "mixture", "proposal", "flow"), "thing"),
    "call": "thing",
    **dict.fromkeys(("quantisation", "interval", "ode", "langevin", "transport", "dequantiser", "ensemble"), "thing"),
    **dict.fromkeys(("sampler", "predictor", "churn", "prior", "loss", "optimizer", "errors", "solver"), "thing"),
    **dict.fromkeys(("adjoint", "checkpoints", "source", "mesh", "label_dropout", "scores"), "thing"),
    "shape": "shape",
    "key": "key",
    "path": "path",
}
"""The role of an argument by its name. A row says where it is another one."""


WORDS = {"samples": ("values", "sample", "data")}
"""What the arguments of a role are called besides by their own names."""

_EXAMPLES = {"key": KEY, "sample": X, "samples": XS, "array": X}
"""What an argument that may be left out would be."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A public callable, and how it is called.

    Attributes:
        call: The callable.
        good: The arguments of a good call; the others have their defaults.
        roles: The roles of arguments that are not those of their names; `None` for one that may be anything.
        legal: Why an input that is bad elsewhere is right here, by argument and kind; of all kinds by the argument.
        called: What an argument is called in messages, where it is not its own name.
        elsewhere: Whether other tests make the good call, which takes long to compile or to read.
    """

    call: Callable[..., Any]
    good: dict[str, Any]
    roles: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    legal: Mapping[str, str] = dataclasses.field(default_factory=dict)
    called: Mapping[str, str] = dataclasses.field(default_factory=dict)
    elsewhere: bool = False

    @functools.cached_property
    def defaults(self) -> dict[str, Any]:
        """The arguments with their defaults, `inspect.Parameter.empty` where there is none."""
        parameters = inspect.signature(self.call).parameters.values()
        return {p.name: p.default for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}

    def bad(self) -> list[tuple[str, str, Any]]:
        """All bad inputs: the argument, the kind, and the value."""
        found = list[tuple[str, str, Any]]()
        for name, default in self.defaults.items():
            role = self.roles[name] if name in self.roles else NAMES[name]
            good = self.good.get(name, default)
            if good is None:
                good = _EXAMPLES.get(role or "")
            for kind, make in ROLES[role].items() if role else ():
                # Nothing is legal where it is the default.
                if (kind == "None" and default is None) or {name, f"{name}: {kind}"} & self.legal.keys():
                    continue
                found.append((name, kind, make(good)))
        return found


DEVIATION = {"data_std: wrong rank": "one deviation an entry", "data_std: None": "a bare network"}
ROUNDS = "networks and scores compute in half precision; what measures refuses it"
LATER = "no horizon is known yet"
SCALAR_T = "an elementwise function of times of any shape"
AT_RUN_TIME = "one of three times that only a compiled loop knows"
ANYTHING = "handed on as it is"
NO_THREADS = {"threads: zero": "a batch is read when it is asked for"}


def half(*names: str) -> dict[str, str]:
    """Arguments that may be of half precision."""
    return {f"{name}: half precision": ROUNDS for name in names}


def whole(name: str) -> dict[str, str]:
    """An array of integers."""
    return {f"{name}: {kind}": "integers hold none" for kind in ("NaN", "infinite")}


def any_shape(*names: str) -> dict[str, str]:
    """Samples of which any shape is right, as nothing says what it should be."""
    return {f"{name}: {kind}": "any event shape" for name in names for kind in ("wrong rank", "broadcastable")}


def later(*names: str) -> dict[str, str]:
    """Times of what learns its horizon on a call."""
    return {f"{name}: {kind}": LATER for name in names for kind in ("before t0", "beyond t1")}


def row(
    call: Callable[..., Any],
    /,
    *,
    roles: Any = None,
    legal: Any = None,
    called: Any = None,
    elsewhere: bool = False,
    **good: Any,
) -> Row:
    return Row(call, good, roles or {}, legal or {}, called or {}, elsewhere)


calculus, densities, d, fpe, integrals = sfp.calculus, sfp.densities, sfp.diagnostics, sfp.fokker_planck, sfp.integrals
likelihood, nn, o, r, sp, s, tr = (
    *(sfp.likelihood, sfp.nn, sfp.objective, sfp.reverse, sfp.sampling, sfp.sde, sfp.transport),
)
FIELD = {"fn": lambda x: -x, "x": X, "legal": half("x") | any_shape("x")}
DIFFUSED = {"score": SCORE, "xs": XS, "key": KEY, "draws": 2}
OF_TWO = {"score": SCORE, "truth": TRUTH, "xs": XS, "key": KEY, "draws": 2}
AT = {"t": T, "x": X}
STEIN = {"waves": "count", "folds": "count", "features": "function"}
STEP = {"score": SCORE, "t": jnp.asarray(0.5), "earlier": jnp.asarray(0.4), "x": X, "key": KEY}


def of_calculus() -> dict[str, Row]:
    """Derivatives."""
    return {
        "divergence": row(sfp.divergence, **FIELD),
        "value_and_divergence": row(calculus.value_and_divergence, **FIELD),
        "laplacian": row(sfp.laplacian, **FIELD),
        "curl": row(sfp.curl, **FIELD),
        "squared_curl": row(calculus.squared_curl, **FIELD),
        "circulation": row(
            calculus.circulation,
            fn=lambda x: -x,
            centre=X,
            first=X + 1,
            second=X - 1,
            roles={"centre": "sample", "first": "sample", "second": "sample", "start": "number"},
            legal=half("centre", "first", "second") | any_shape("centre", "first", "second"),
        ),
        "time_derivative": row(
            sfp.time_derivative,
            fn=lambda t, x: t * x,
            **AT,
            roles={"horizon": None},
            legal=half("x") | any_shape("x") | later("t"),
        ),
        "curve_derivatives": row(
            calculus.curve_derivatives,
            fn=lambda x: x**3,
            point=X,
            velocity=X,
            acceleration=X,
            legal=half("point", "velocity", "acceleration") | any_shape("point"),
        ),
        "Exact": row(sfp.Exact),
        "Hutchinson": row(sfp.Hutchinson),
        "HutchPlusPlus": row(calculus.HutchPlusPlus, samples=2),
        "XTrace": row(calculus.XTrace, samples=2),
        "FiniteDifference": row(sfp.FiniteDifference),
        "Gaussian": row(calculus.Gaussian),
        "Rademacher": row(calculus.Rademacher),
    }


def of_score() -> dict[str, Row]:
    """Scores and potentials."""
    return {
        "Score": row(sfp.Score, fn=network, sde=VP, shape=(2,)),
        "Score, called": row(SCORE.__call__, **AT, legal=half("x")),
        "Score.noise": row(SCORE.noise, **AT, legal=half("x")),
        "Score.denoise": row(SCORE.denoise, **AT, legal=half("x")),
        "Score.velocity": row(SCORE.velocity, **AT, legal=half("x")),
        "Score.probability_flow": row(SCORE.probability_flow, **AT, legal=half("x")),
        "Score.reverse_drift": row(SCORE.reverse_drift, **AT, legal=half("x")),
        "Potential": row(sfp.Potential, fn=scalar_network, sde=VP, shape=(2,)),
        "Potential, called": row(PHI.__call__, **AT, legal=half("x")),
        "Potential.potential": row(PHI.potential, **AT, legal=half("x")),
        "Potential.derivatives": row(PHI.derivatives, **AT, legal=half("x")),
        **{
            make.__name__: row(make, network=network, sde=VP, legal=DEVIATION)
            for make in (
                *(sfp.NoiseScore, sfp.DenoiserScore, sfp.VelocityScore, sfp.EDMScore),
                *(sfp.DistancePotential, sfp.InnerPotential),
            )
        },
        "NoiseScore, called": row(
            sfp.NoiseScore(sfp.nn.MLP(shape=(2,), width=4, key=KEY), VP).__call__, **AT, legal=half("x")
        ),
        "InnerPotential.potential": row(
            sfp.InnerPotential(sfp.nn.MLP(shape=(2,), width=4, key=KEY), VP).potential, **AT, legal=half("x")
        ),
        "TorchCall": row(sfp.score.TorchCall, roles={"time": "function"}),
        **{
            make.__name__: row(
                make,
                module=lambda x, t: -x,
                sde=TABLE,
                elsewhere=importlib.util.find_spec("torch") is None,
            )
            for make in (sfp.score.TorchNetwork, sfp.score.from_torch)
        },
        "NetworkScore": row(
            sfp.score.NetworkScore,
            network=network,
            sde=VP,
            target=sfp.score.noise_target,
            legal=DEVIATION,
        ),
        "Annealed": row(sfp.Annealed, score=SCORE, beta=0.5, roles={"beta": "number"}),
        "Product": row(sfp.Product, scores=(SCORE, SCORE), exponents=jnp.ones(2)),
        "Guided": row(sfp.Guided, conditional=SCORE, unconditional=SCORE, strength=0.5),
        "Tilted": row(sfp.Tilted, score=SCORE, reward=scalar_network),
        "Annealed, called": row(sfp.Annealed(SCORE, 0.5).__call__, **AT, legal=half("x")),
        "Product, called": row(sfp.Product((SCORE, SCORE)).__call__, **AT, legal=half("x")),
        "Guided, called": row(sfp.Guided(SCORE, SCORE, 0.5).__call__, **AT, legal=half("x")),
        "Tilted, called": row(sfp.Tilted(SCORE, scalar_network).__call__, **AT, legal=half("x")),
        "NetworkPotential": row(
            sfp.score.NetworkPotential,
            network=network,
            sde=VP,
            energy=sfp.score.inner_energy,
            legal=DEVIATION,
        ),
    }


def of_integrals() -> dict[str, Row]:
    """Boxes, laws of times, quadrature."""
    return {
        "Box": row(
            sfp.Box,
            lower=-X - 1,
            upper=X + 1,
            roles={"lower": "sample", "upper": "sample"},
            legal=half("lower", "upper"),
        ),
        "Box.around": row(
            sfp.Box.around,
            x=XS,
            roles={"x": "samples", "margin": "positive"},
            legal=half("x") | {"x: broadcastable": "any event shape", "margin: zero": "no margin"},
        ),
        "Box.contains": row(BOX.contains, x=X, legal=half("x")),
        "Box.sample": row(BOX.sample, key=KEY, n=2),
        "LogNormalNoise": row(sfp.LogNormalNoise, roles={"mean": "number"}),
        "UniformLogSNR": row(sfp.UniformLogSNR),
        "UniformTime": row(sfp.UniformTime),
        "UniformLogSNR.sample": row(sfp.UniformLogSNR().sample, sde=VP, n=2, key=KEY),
        "LogNormalNoise.sample": row(sfp.LogNormalNoise().sample, sde=VP, n=2, key=KEY),
        "SoftTruncation": row(integrals.SoftTruncation, legal={"power: zero": "a uniform start"}),
        "SoftTruncation.sample": row(integrals.SoftTruncation().sample, sde=VP, n=2, key=KEY),
        "TimeInterval": row(
            integrals.TimeInterval,
            law=sfp.UniformTime(),
            start=0.2,
            stop=0.8,
            legal=later("start", "stop"),
            roles={"start": "time", "stop": "time"},
        ),
        "TimeInterval.sample": row(integrals.TimeInterval(sfp.UniformTime(), 0.2).sample, sde=VP, n=2, key=KEY),
        "GaussLegendre": row(integrals.GaussLegendre),
        "UniformDraws": row(integrals.UniformDraws),
        "log_snr_times": row(
            integrals.log_snr_times,
            sde=VP,
            start=1.0,
            stop=0.1,
            shares=jnp.linspace(0, 1, 3),
            roles={"start": "time", "stop": "time", "shares": "array"},
            legal={"shares: wrong rank": "of any shape"},
        ),
        "box_quadrature": row(integrals.box_quadrature, box=BOX, nodes=2),
        "time_quadrature": row(
            integrals.time_quadrature,
            sde=VP,
            start=jnp.asarray(0.1),
            stop=jnp.asarray(0.9),
            nodes=2,
            roles={"start": "time", "stop": "time"},
        ),
    }


def of_fokker_planck() -> dict[str, Row]:
    """Residuals."""
    errors = fpe.matching_errors(SCORE, TRUTH, T, X)
    return {
        "DensityResidual": row(fpe.DensityResidual, density=lambda t, x: jnp.exp(-jnp.sum(x**2)), sde=VP),
        "LogResidual": row(fpe.LogResidual, potential=PHI),
        "ScoreResidual": row(fpe.ScoreResidual, score=SCORE),
        "Antithetic": row(sfp.Antithetic, roles={"step": "positive"}),
        "Ito": row(sfp.Ito),
        "Sliced": row(sfp.Sliced),
        "Smoothed": row(sfp.Smoothed, roles={"width": "positive"}),
        "Pointwise": row(fpe.Pointwise),
        "fpe_operator": row(sfp.fpe_operator, score=SCORE, **AT),
        "score_fpe_residual": row(sfp.score_fpe_residual, score=SCORE, **AT),
        "score_fpe_residual by Ito": row(sfp.score_fpe_residual, score=SCORE, **AT, method=sfp.Ito(), key=KEY),
        "log_fpe_residual": row(sfp.log_fpe_residual, potential=PHI, **AT),
        "fpe_residual": row(
            sfp.fpe_residual, density=lambda t, x: jnp.exp(-jnp.sum(x**2)), **AT, sde=VP, legal=any_shape("x")
        ),
        "integrated_residual": row(
            fpe.integrated_residual, score=SCORE, **AT, start=0.1, nodes=2, roles={"start": "time"}
        ),
        "matching_errors": row(fpe.matching_errors, score=SCORE, truth=TRUTH, **AT, roles={"truth": "score"}),
        "high_order_bound": row(
            fpe.high_order_bound,
            truth=TRUTH,
            errors=errors,
            **AT,
            start=0.1,
            nodes=2,
            roles={"start": "time", "truth": "score"},
            elsewhere=True,
        ),
        "mean_square": row(
            fpe.mean_square,
            residual=fpe.ScoreResidual(SCORE),
            box=BOX,
            rule=integrals.GaussLegendre(2, 2),
            roles={"start": "time"},
        ),
        "residual_suprema": row(
            fpe.residual_suprema, score=SCORE, xs=XS, key=KEY, times=2, nodes=2, roles={"density": "potential"}
        ),
        "AnchoredPotential": row(
            fpe.AnchoredPotential,
            score=SCORE,
            log_density=lambda x: -0.5 * jnp.sum(x**2),
            anchor=0.5,
            nodes=2,
            roles={"anchor": "time"},
        ),
        "AnchoredPotential.potential": row(
            fpe.AnchoredPotential(SCORE, lambda x: -0.5 * jnp.sum(x**2), 0.5, nodes=2).potential, **AT
        ),
        "solve_density": row(
            fpe.solve_density,
            model=sfp.Score(lambda t, x: -2 * x, sfp.OU(t1=1.0)),
            box=sfp.Box(jnp.array(-4.0), jnp.array(4.0)),
            process="sde",
            cells=16,
            times=[0.5],
            roles={"times": "array"},
        ),
    }


def of_densities() -> dict[str, Row]:
    """Mixtures and toy sets."""
    return {
        "GaussianMixture": row(
            sfp.GaussianMixture,
            means=MIXTURE.means,
            covariances=jnp.ones(2),
            weights=MIXTURE.weights,
            roles=dict.fromkeys(("means", "covariances", "weights"), "array"),
        ),
        "GaussianMixture.log_prob": row(MIXTURE.log_prob, x=X, legal=half("x")),
        "GaussianMixture.sample": row(MIXTURE.sample, key=KEY, n=2),
        "GaussianMixture.score": row(MIXTURE.score, sde=VP),
        "MixturePotential": row(sfp.densities.MixturePotential, mixture=MIXTURE, sde=VP),
        "MixturePotential.potential": row(TRUTH.potential, **AT, legal=half("x")),
        "MixturePotential, called": row(TRUTH.__call__, **AT, legal=half("x")),
        "Checkerboard": row(sfp.densities.Checkerboard),
        "Circles": row(
            sfp.densities.Circles,
            roles={"radii": "shape", "noise": "positive"},
            legal={"radii: float": "radii are floats"},
        ),
        "SwissRolls": row(
            sfp.densities.SwissRolls,
            roles={"noise": "positive", "spacing": "number"},
            legal={"noise: zero": "no noise"},
        ),
        "MuellerBrown": row(sfp.densities.MuellerBrown),
        **{
            f"{type(law).__name__}.sample": row(law.sample, key=KEY, n=2)
            for law in (sfp.densities.Checkerboard(), sfp.densities.Circles(), sfp.densities.SwissRolls())
        },
        "Checkerboard.log_prob": row(sfp.densities.Checkerboard().log_prob, x=jnp.ones(2), legal=half("x")),
        "Circles.log_prob": row(sfp.densities.Circles().log_prob, x=X, legal=half("x")),
        "MuellerBrown.energy": row(sfp.densities.MuellerBrown().energy, x=X, legal=half("x")),
        **{
            f.__name__: row(f)
            for f in (
                *(sfp.densities.deveney_mixture, sfp.densities.eight_modes),
                *(sfp.densities.lai_three_modes, sfp.densities.lai_two_modes),
            )
        },
    }


def of_likelihood() -> dict[str, Row]:
    """Likelihoods, bounds, entropies."""
    box = likelihood.BoxQuadrature(sfp.Box(-8 * jnp.ones(2), 8 * jnp.ones(2)), 8)
    return {
        "log_likelihood": row(sfp.log_likelihood, score=SCORE, x=X, roles={"start": "time"}, elsewhere=True),
        "flow_likelihood": row(sfp.flow_likelihood, score=SCORE, x=X, roles={"start": "time"}),
        "flow_likelihood of a batch": row(
            sfp.flow_likelihood,
            score=SCORE,
            x=XS,
            common_steps=True,
            roles={"start": "time", "x": "samples"},
            elsewhere=True,
        ),
        "likelihood_bound": row(sfp.likelihood_bound, score=SCORE, x=X, key=KEY, estimator=sfp.BoundEstimator(2)),
        "evaluate_bound": row(sfp.evaluate_bound, score=SCORE, x=X, key=KEY, estimator=sfp.BoundEstimator(2)),
        "code_length": row(
            likelihood.code_length,
            score=SCORE,
            k=jnp.asarray(LEVELS[0]),
            quantisation=BYTES,
            key=KEY,
            estimator=sfp.BoundEstimator(2),
            roles={"k": "array"},
            legal=whole("k"),
        ),
        "BoundEstimator": row(
            sfp.BoundEstimator,
            roles={"start": "time"},
            legal=later("start"),
        ),
        "entropy": row(sfp.entropy, **DIFFUSED, roles={"terminal": "number"}),
        "kl_bound": row(likelihood.kl_bound, **OF_TWO),
        "kl_decomposition": row(sfp.kl_decomposition, **OF_TWO, elsewhere=True),
        "prior_kl": row(likelihood.prior_kl, truth=TRUTH, xs=XS, key=KEY),
        "prior_kl_bound": row(
            likelihood.prior_kl_bound, sde=VP, xs=XS, legal={"xs: broadcastable": "any event shape"}, elsewhere=True
        ),
        "gaussian_kl": row(
            likelihood.gaussian_kl,
            mean=jnp.zeros(2),
            covariance=jnp.eye(2),
            other_mean=jnp.ones(2),
            other_covariance=2 * jnp.eye(2),
            roles=dict.fromkeys(("mean", "covariance", "other_mean", "other_covariance"), "array"),
        ),
        "ode_score": row(likelihood.ode_score, score=SCORE, **AT, elsewhere=True),
        "BoxQuadrature": row(likelihood.BoxQuadrature, box=BOX),
        "ImportanceSampling": row(likelihood.ImportanceSampling, proposal=MIXTURE),
        "log_normaliser": row(likelihood.log_normaliser, potential=PHI, t=T, method=box),
        "VariationalDequantiser": row(
            sfp.VariationalDequantiser,
            flow=likelihood.variational_dequantiser((2,), BYTES, layers=1, width=4, key=KEY).flow,
            quantisation=BYTES,
        ),
        "variational_dequantiser": row(
            likelihood.variational_dequantiser, shape=(2,), quantisation=BYTES, layers=1, width=4, key=KEY
        ),
    }


def of_objective() -> dict[str, Row]:
    """Terms, weightings, windows."""
    of_time = {"sde": VP, "t": 0.5}
    weightings = (
        *(sfp.likelihood_weighting, sfp.noise_weighting, sfp.unit_weighting, o.scale_free_jacobian_weighting),
        *(o.scale_free_score_weighting, o.scale_free_weighting),
    )
    return {
        **{
            term.__name__: row(term)
            for term in (
                *(sfp.DSM, sfp.LogFPE, sfp.ZeroCurl, sfp.TimeDerivativeTaming, o.JacobianSize, o.ScoreSize),
                *(o.TimeDerivativeSize,),
            )
        },
        "Smoothness": row(o.Smoothness, roles={"step": "positive"}),
        "ScoreFPE": row(sfp.ScoreFPE, roles={"size_exponent": "number"}),
        "CauchyInitial": row(sfp.CauchyInitial, initial=lambda x: -x),
        "Consistency": row(sfp.Consistency),
        "OwnSamples": row(o.OwnSamples),
        "HighOrderDSM": row(sfp.HighOrderDSM),
        "Restricted": row(
            sfp.Restricted,
            term=sfp.DSM(),
            start=0.2,
            stop=0.8,
            roles={"start": "time", "stop": "time"},
            legal=later("start", "stop"),
        ),
        "Lazy": row(sfp.Lazy, term=sfp.DSM(), every=4),
        "edm_loss": row(sfp.edm_loss),
        "a loss, called": row(
            (sfp.DSM() + 0.5 * sfp.ScoreFPE()).__call__,
            score=SCORE,
            x0=XS,
            key=KEY,
            roles={"args": None, "step": "count"},
            legal=half("x0")
            | {"step: zero": "it is the first step"}
            | {f"x0: {k}": "training reads its data unchecked by this; fit checks them" for k in ("NaN", "infinite")},
            elsewhere=True,
        ),
        "a loss.evaluate": row(
            sfp.DSM().evaluate,
            score=SCORE,
            x0=XS,
            key=KEY,
            roles={"args": None, "step": "count"},
            legal=half("x0")
            | {"step: zero": "it is the first step"}
            | {f"x0: {k}": "training reads its data unchecked by this; fit checks them" for k in ("NaN", "infinite")},
        ),
        "a loss times": row(sfp.DSM().__mul__, factor=0.5, roles={"factor": "number"}),
        "a loss plus": row(sfp.DSM().__add__, other=sfp.DSM(), roles={"other": "thing"}, called={"other": "a summand"}),
        "consistency_loss": row(
            o.consistency_loss,
            score=SCORE,
            t=0.5,
            earlier=0.4,
            x=X,
            key=KEY,
            legal=half("x"),
            roles={"step": "callable"},
            elsewhere=True,
        ),
        **{f.__name__: row(f, **of_time, legal={"t: wrong rank": SCALAR_T}) for f in weightings},
        "EDMWeighting": row(o.EDMWeighting),
        "EDMWeighting, called": row(o.EDMWeighting().__call__, **of_time, legal={"t: wrong rank": SCALAR_T}),
        "MinSNRWeighting": row(o.MinSNRWeighting),
        "SoftMinSNRWeighting": row(o.SoftMinSNRWeighting),
        "ExpectedWeighting": row(o.ExpectedWeighting, weighting=sfp.unit_weighting, law=sfp.UniformTime()),
        "InterpolatedWeighting": row(o.InterpolatedWeighting, share=0.5),
        "LogSNRWindow": row(o.LogSNRWindow, roles={"floor": "time"}, legal=later("floor")),
        "NoiseWindow": row(o.NoiseWindow, roles={"floor": "time"}, legal=later("floor")),
        "TimeWindow": row(o.TimeWindow, length=0.1, roles={"floor": "time"}, legal=later("floor")),
    }


def of_nn() -> dict[str, Row]:
    """Networks."""
    return {
        "convolution": row(
            nn.convolution,
            x=jnp.ones((1, 4, 4, 1)),
            kernel=jnp.ones((3, 3, 1, 2)),
            roles={"x": "array", "kernel": "array"},
            legal={f"{a}: {k}": "an operation of arrays" for a in ("x", "kernel") for k in ("NaN", "infinite")},
        ),
        "fourier_features": row(nn.fourier_features, t=jnp.asarray(0.5), legal=later("t")),
        "MLP": row(nn.MLP, shape=(2,), width=4, key=KEY, roles={"dtype": None, "activation": "callable"}),
        "MLP, called": row(nn.MLP(shape=(2,), width=4, key=KEY).__call__, **AT, legal=half("x") | later("t")),
        "ScalarMLP": row(nn.ScalarMLP, shape=(2,), width=4, key=KEY, roles={"activation": "callable"}),
        "ScalarMLP, called": row(
            nn.ScalarMLP(shape=(2,), width=4, key=KEY).__call__, **AT, legal=half("x") | later("t")
        ),
        "UNet": row(
            nn.UNet,
            shape=(1, 4, 4),
            channels=4,
            multipliers=(1,),
            key=KEY,
            roles={
                "multipliers": "shape",
                "attention": "shape",
                "dropout": "share",
                "octaves": "count",
                "classes": "count",
                "dtype": None,
                "activation": "callable",
            },
            legal={"octaves: zero": "none"},
        ),
    }


def of_sde() -> dict[str, Row]:
    """Processes."""
    ends = dict.fromkeys(("t0", "t1"), "time")
    late = {"t1: beyond t1": "a longer horizon", "t0: before t0": "another horizon"}
    of_time = {"t": 0.5, "legal": {"t: wrong rank": SCALAR_T}}
    return {
        "VE": row(sfp.VE, roles=ends | {"sigma_min": "positive", "sigma_max": "positive"}, legal=late),
        "VP": row(sfp.VP, roles=ends | {"beta_min": "positive", "beta_max": "positive"}, legal=late),
        "SubVP": row(sfp.SubVP, roles=ends | {"beta_min": "positive", "beta_max": "positive"}, legal=late),
        "OU": row(sfp.OU, roles=ends | {"noise": "positive"}, legal=late),
        "EDM": row(sfp.EDM, roles=ends, legal=late),
        "Cosine": row(sfp.Cosine, roles=ends, legal=late),
        "LinearSDE": row(
            sfp.LinearSDE, log_alpha_fn=lambda t: -t, log_sigma_fn=jnp.log, t0=0.1, t1=1.0, roles=ends, legal=late
        ),
        "DiscreteSDE": row(s.DiscreteSDE, table=np.geomspace(0.99, 0.01, 8), roles=ends | {"table": "array"}),
        "DiscreteSDE.from_betas": row(
            s.DiscreteSDE.from_betas, betas=np.linspace(0.1, 0.9, 8), roles={"betas": "array"}
        ),
        "GeneralSDE": row(
            sfp.GeneralSDE,
            drift_fn=lambda t, x: -x,
            diffusion_fn=lambda t, x: lx.DiagonalLinearOperator(jnp.ones_like(x)),
            prior=s.Normal(1.0),
            t0=0.0,
            t1=1.0,
            roles=ends,
            legal=late,
        ),
        "CriticallyDampedLangevin": row(s.CriticallyDampedLangevin, roles=ends, legal=late),
        "GeometricBrownianMotion": row(
            s.GeometricBrownianMotion,
            growth=jnp.zeros(2),
            volatility=jnp.eye(2),
            roles=ends | {"growth": "array", "volatility": "array"},
            legal=late,
        ),
        "Normal": row(s.Normal, scale=1.0, roles={"scale": "positive"}, legal={"scale: wrong rank": "one an entry"}),
        "Normal.log_prob": row(s.Normal(1.0).log_prob, x=X, legal=half("x") | any_shape("x")),
        "Normal.sample": row(s.Normal(1.0).sample, key=KEY, shape=(2,)),
        **{f"VP.{name}": row(getattr(VP, name), **of_time) for name in ("alpha", "sigma", "g2", "log_snr", "rate")},
        "VP.drift": row(VP.drift, **AT, legal=half("x") | any_shape("x")),
        "VP.perturb": row(
            VP.perturb, t=0.5, x0=X, noise=X, roles={"x0": "sample", "noise": "sample"}, legal=half("x0", "noise")
        ),
        "clean_target": row(sfp.score.clean_target, sde=VP, t=jnp.asarray(0.5), legal={"sde": ANYTHING, "t": ANYTHING}),
        "noise_target": row(sfp.score.noise_target, sde=VP, t=jnp.asarray(0.5), legal={"sde": ANYTHING, "t": ANYTHING}),
        "score_target": row(sfp.score.score_target, sde=VP, t=jnp.asarray(0.5), legal={"t: wrong rank": SCALAR_T}),
        "physical_time": row(
            sfp.score.physical_time, sde=VP, t=jnp.asarray(0.5), legal={"sde": ANYTHING, "t": ANYTHING}
        ),
        **{
            time.__name__: row(time, sde=sde, t=jnp.asarray(0.5), legal={"t": SCALAR_T})
            for time, sde in (
                *((sfp.score.step_time, TABLE), (sfp.score.whole_step_time, TABLE)),
                *((sfp.score.sigma_time, VP), (sfp.score.log_snr_time, VP)),
            )
        },
        "velocity_target": row(
            sfp.score.velocity_target, sde=VP, t=jnp.asarray(0.5), legal={"t: wrong rank": SCALAR_T}
        ),
    }


def of_reverse() -> dict[str, Row]:
    """Steps and paths."""
    return {
        "Integrator": row(sfp.Integrator),
        "flow_map": row(
            r.flow_map,
            score=SCORE,
            x=X,
            start=0.5,
            stop=0.6,
            integrator=sfp.Integrator(),
            roles={"start": "time", "stop": "time"},
        ),
        "encode": row(sfp.encode, score=SCORE, x=X),
        "decode": row(sfp.decode, score=SCORE, latent=X),
        "round_trip": row(r.round_trip, score=SCORE, x=X),
        "reverse_path": row(
            r.reverse_path, score=SCORE, t=0.5, earlier=0.4, x=X, key=KEY, roles={"step": "callable"}, legal=half("x")
        ),
        "weight_rate": row(r.weight_rate, score=TRUTH, t=0.5, x=X),
        "ancestral_step": row(r.ancestral_step, **STEP, legal=half("x")),
        "euler_maruyama_step": row(r.euler_maruyama_step, **STEP, legal=half("x")),
        "heun_step": row(r.heun_step, **STEP, legal=half("x")),
        "exponential_step": row(
            r.exponential_step, **STEP, noise=jnp.asarray(0.5), roles={"noise": "share"}, legal=half("x")
        ),
    }


def of_sampling() -> dict[str, Row]:
    """Samplers and grids."""
    return {
        "sample": row(
            sfp.sample,
            score=SCORE,
            n=2,
            key=KEY,
            method=sfp.EulerMaruyama(4),
            roles={"args": None, "initial": "samples", "dtype": None},
            legal=half("initial"),
        ),
        "flow_samples": row(
            sfp.flow_samples,
            score=SCORE,
            n=2,
            key=KEY,
            roles={"args": None, "initial": "samples", "dtype": None},
        ),
        "weighted_samples": row(
            sp.weighted_samples,
            score=TRUTH,
            runs=2,
            key=KEY,
            method=sfp.FeynmanKac(steps=4, particles=8, threshold=0.0),
            roles={"args": None, "dtype": None, "runs": "count"},
        ),
        "FeynmanKac": row(sfp.FeynmanKac, roles={"noise": "number", "threshold": "share", "particles": "count"}),
        "EulerMaruyama": row(sfp.EulerMaruyama),
        "Euler": row(sp.Euler),
        "Heun": row(sfp.Heun),
        "DPMSolver": row(sfp.DPMSolver),
        "ExponentialIntegrator": row(sfp.ExponentialIntegrator, roles={"noise": "share"}),
        "ProbabilityFlow": row(sfp.ProbabilityFlow),
        "PredictorCorrector": row(sfp.PredictorCorrector),
        "Langevin": row(sfp.Langevin, steps=2, step_size=0.1, legal=later("t")),
        "Denoised": row(sp.Denoised, sampler=sfp.EulerMaruyama(4)),
        "Churn": row(
            sp.Churn,
            amount=1.0,
            roles={"amount": "positive", "lowest": "positive", "highest": "positive"},
            legal={"highest: infinite": "the default", "amount: zero": "none", "lowest: zero": "all"},
        ),
        "RhoGrid": row(sp.RhoGrid),
        "RhoGrid, called": row(sp.RhoGrid().__call__, sde=VP, steps=2),
        "NodeGrid": row(sp.NodeGrid, roles={"spacing": "callable"}),
        "NodeGrid, called": row(sp.NodeGrid().__call__, sde=TABLE, steps=2),
        "log_snr_grid": row(sp.log_snr_grid, sde=VP, steps=2),
        "uniform_grid": row(sp.uniform_grid, sde=VP, steps=2),
        "default_grid": row(sp.default_grid, sde=VP, steps=2),
    }


def of_diagnostics() -> dict[str, Row]:
    """Audits."""
    return {
        "audit": row(
            sfp.audit,
            score=SCORE,
            data=XS,
            key=KEY,
            measures=(d.MatchingCurve(d.Ensemble(2, 4)),),
            roles={"measures": "thing"},
            called={"measures": "a measure"},
            elsewhere=True,
        ),
        "evaluate": row(sfp.evaluate, score=SCORE, data=XS, key=KEY, draws=2, elsewhere=True),
        "ode_sde_gap": row(
            sfp.ode_sde_gap,
            score=SCORE,
            key=KEY,
            samples=8,
            ode=sfp.Heun(4),
            sde=sfp.EulerMaruyama(4),
            roles={"args": None, "resamples": "count"},
            legal={"resamples: zero": "none"},
        ),
        "Bound": row(d.Bound),
        "CodeLength": row(d.CodeLength),
        "ConsistencyCurves": row(d.ConsistencyCurves),
        "CurlCurve": row(d.CurlCurve),
        "CirculationCurve": row(d.CirculationCurve),
        "ScoreError": row(d.ScoreError, roles=STEIN, legal={"waves: zero": "the other functions alone"}),
        "SteinTest": row(d.SteinTest, roles={"width": "positive"}),
        "MatchingCurve": row(d.MatchingCurve),
        "ResidualCurve": row(d.ResidualCurve),
        "Ensemble": row(d.Ensemble),
        "Gap": row(d.Gap),
        "Likelihood": row(d.Likelihood, roles={"threshold": "number"}),
        "ByClass": row(
            d.ByClass,
            measure=d.MatchingCurve(),
            samples=2,
            roles={"measure": "thing", "labels": None},
            legal={"samples: None": "as many as the rarest class has"},
        ),
        "SampleQuality": row(
            d.SampleQuality,
            roles={"kernel": "function", "features": "function", "neighbours": "count"},
            legal={"samples: None": "all of them"},
        ),
        "PriorDivergence": row(d.PriorDivergence, legal={"samples: None": "all of them"}),
        "log_snr_ends": row(d.log_snr_ends, sde=VP, times=2),
        "log_snr_midpoints": row(d.log_snr_midpoints, sde=VP, times=2),
        "uniform_midpoints": row(d.uniform_midpoints, sde=VP, times=2),
    }


def of_stein() -> dict[str, Row]:
    """The error of a score from samples."""
    samples = {"score": SCORE, "t": T, "x": jr.normal(jr.key(3), (20, 2)), "key": KEY}
    return {
        "score_error_bound": row(
            sfp.stein.score_error_bound,
            **samples,
            roles=STEIN | {"x": "samples", "noise": "samples"},
            legal={"waves: zero": "the other functions alone"},
        ),
        "kernel_stein_discrepancy": row(
            sfp.stein.kernel_stein_discrepancy, **samples, roles={"x": "samples", "width": "positive"}
        ),
    }


def of_transport() -> dict[str, Row]:
    """Transport."""
    return {
        "wasserstein2": row(
            sfp.wasserstein2,
            x=XS,
            y=XS + 1,
            roles={"x": "samples", "y": "samples", "resamples": "count"},
            legal=half("x", "y") | {"resamples: zero": "none"},
        ),
        "Assignment": row(tr.Assignment),
        "Quantile": row(tr.Quantile),
        "ExactTransport": row(tr.ExactTransport),
        "Sinkhorn": row(tr.Sinkhorn),
        "Histogram": row(
            tr.Histogram,
            box=sfp.Box(jnp.array(0.0), jnp.array(1.0)),
            weights=jnp.array([1.0, 3.0]),
            roles={"weights": "array", "outside": "share"},
        ),
    }


def of_quality() -> dict[str, Row]:
    """Distances of features."""
    q, xs = sfp.quality, jr.normal(jr.key(3), (20, 2))
    roles = {"x": "samples", "features": "function"}
    of_sets = {"x": xs, "data": xs + 1}
    return {
        "frechet_distance": row(q.frechet_distance, **of_sets, roles=roles),
        "kernel_distance": row(q.kernel_distance, **of_sets, roles=roles | {"kernel": "function"}),
        "precision_recall": row(q.precision_recall, **of_sets, roles=roles | {"neighbours": "count"}),
        "Moments": row(
            q.Moments,
            mean=np.zeros(2),
            covariance=np.eye(2),
            count=3,
            roles={"mean": "array", "covariance": "array"},
        ),
        "Moments.of": row(q.Moments.of, x=xs, roles=roles, legal={"x: broadcastable": "of any number of features"}),
        "GaussianKernel": row(q.GaussianKernel, width=1.0, roles={"width": "positive"}),
        "PolynomialKernel": row(q.PolynomialKernel, roles={"degree": "count"}),
    }


def of_data() -> dict[str, Row]:
    """Data sets and sources."""
    folder = Path(tempfile.mkdtemp())
    np.save(folder / "x.npy", np.asarray(XS))
    images(folder / "pictures")
    published(folder / "published")
    return {
        "Dataset": row(
            sfp.Dataset,
            values=XS,
            roles={"values": "samples", "args": None},
            legal=half("values") | {"values: broadcastable": "any event shape"},
        ),
        "Quantisation": row(
            sfp.Quantisation, levels=256, low=-1.0, high=1.0, roles={"low": "number", "high": "number"}
        ),
        "UniformDequantiser": row(sfp.UniformDequantiser, quantisation=BYTES),
        "UniformDequantiser, called": row(
            sfp.UniformDequantiser(BYTES).__call__,
            k=jnp.asarray(LEVELS),
            key=KEY,
            roles={"k": "array"},
            legal={"k: wrong rank": "any shape"} | whole("k"),
        ),
        "Interval": row(data.Interval, low=-1.0, high=1.0, roles={"low": "number", "high": "number"}),
        "bits_per_dim": row(
            sfp.bits_per_dim,
            log_prob=1.0,
            size=2,
            quantisation=BYTES,
            roles={"log_prob": "number"},
            legal={"log_prob: wrong rank": "elementwise"},
        ),
        "digits": row(data.digits, split="test"),
        "mnist": row(data.mnist, split="test", elsewhere=True),
        "photographs": row(data.photographs, split="test", size=16, labels=False),
        "read_cifar": row(data.read_cifar, path=folder / "published", split="test"),
        "read_imagenet": row(data.read_imagenet, path=folder / "published", split="test"),
        "read_idx": row(
            data.read_idx,
            images=folder / "published/idx3",
            labels=folder / "published/idx1",
            roles={"images": "path", "labels": "path"},
        ),
        "read_arrays": row(data.read_arrays, path=folder / "x.npy", roles={"name": None, "args": None}),
        "ImageFolder": row(
            data.ImageFolder, path=folder / "pictures", roles={"size": "shape", "threads": "count"}, legal=NO_THREADS
        ),
        "HuggingFace": row(
            data.HuggingFace,
            dataset=table(),
            column="x",
            roles={"dataset": "thing", "column": "word", "args": None, "size": "shape", "threads": "count"},
            legal=NO_THREADS,
        ),
        "Loader": row(data.Loader, batches=[np.asarray(XS)], shape=(2,), roles={"batches": "thing"}),
        "OnHost": row(
            data.OnHost,
            dataset=np.asarray(XS),
            roles={"dataset": "samples", "threads": "count"},
            legal=half("dataset") | {"dataset: broadcastable": "any event shape"} | NO_THREADS,
        ),
        "sample_to": row(
            data.sample_to,
            path=folder / "drawn.npy",
            score=SCORE,
            n=2,
            key=KEY,
            method=sfp.EulerMaruyama(4),
            progress=False,
            roles={"args": None, "dtype": None},
        ),
        "split": row(
            data.split,
            data=data.Dataset(XS),
            share=0.5,
            seed=0,
            roles={"data": "thing", "seed": "count"},
            legal={"seed: zero": "a seed"},
        ),
        "Part": row(
            data.Part,
            source=data.OnHost(np.asarray(XS)),
            index=np.arange(4),
            roles={"index": "array"},
            legal=whole("index"),
        ),
    }


def of_plot() -> dict[str, Row]:
    """Figures."""
    audited = sfp.audit(SCORE, XS, key=KEY, measures=(d.MatchingCurve(d.Ensemble(2, 4)),))
    return {
        "compare": row(plot.compare, reports={"a": audited}, roles={"reports": "thing"}),
        "image_grid": row(
            plot.image_grid,
            groups={"a": np.linspace(0, 1, 32).reshape(2, 4, 4)},
            roles={"groups": "thing", "limits": None},
        ),
    }


def of_train() -> dict[str, Row]:
    """Training."""
    folder = Path(tempfile.mkdtemp())
    fitted = {"model": sfp.NoiseScore(sfp.nn.MLP(shape=(2,), width=4, key=KEY), VP), "loss": sfp.DSM(), "data": XS}
    fitted |= {"optimizer": optax.sgd(1e-3), "steps": 2, "key": KEY, "batch_size": 4, "progress": False}
    levels = data.Dataset(LEVELS, BYTES)
    dequantised = sfp.likelihood.variational_dequantiser((2,), BYTES, layers=1, width=4, key=KEY)
    return {
        "fit": row(
            train.fit,
            **fitted,
            report_every=1,
            legal=half("data") | {"clip: None": "no clipping"},
            roles={"decay": "share", "clip": "positive", "callbacks": None, "evaluate": "function"},
        ),
        "fit_dequantiser": row(
            train.fit_dequantiser,
            dequantiser=dequantised,
            score=SCORE,
            data=levels,
            optimizer=optax.sgd(1e-3),
            steps=1,
            key=KEY,
            batch_size=2,
            progress=False,
            report_every=1,
            roles={"data": "thing", "decay": "share"},
            elsewhere=True,
        ),
        "LabelDropout": row(train.LabelDropout, share=0.1, null=2, roles={"null": None}),
        "LabelDropout, called": row(
            train.LabelDropout(0.1, 2).__call__, args=jnp.arange(4), key=KEY, roles={"args": None}
        ),
        "Checkpoints": row(train.Checkpoints, path=folder / "run", roles={"best": None}),
        "load": row(
            train.load,
            path=folder / "run",
            like=SCORE,
            roles={"like": "score", "step": "count", "average": "count"},
            legal={"step: zero": "a step", "average: zero": "the first one", "average: None": "the last parameters"},
            elsewhere=True,
        ),
        "saved_steps": row(train.saved_steps, path=folder / "run"),
        "data_mesh": row(sfp.data_mesh),
        "per_device_batch": row(train.per_device_batch, batch_size=4, mesh=None, legal={"mesh: None": "one device"}),
        "sharded": row(train.sharded, tree=SCORE, mesh=sfp.data_mesh(), roles={"tree": None}),
        "gathered": row(train.gathered, tree=SCORE, roles={"tree": None}),
        "CSVLog": row(train.CSVLog, path=folder / "log.csv"),
        "TensorBoard": row(train.TensorBoard, path=folder / "board"),
        "audit_on": row(
            train.audit_on,
            data=XS,
            key=KEY,
            measures=(d.MatchingCurve(d.Ensemble(2, 4)),),
            roles={"measures": "thing"},
            legal={"data: broadcastable": "no model is known yet"},
        ),
    }


def published(folder: Path) -> None:
    """Two images in each of the formats in which sets are published."""
    folder.mkdir()
    np.zeros((2, 3073), np.uint8).tofile(folder / "test_batch.bin")
    np.savez(folder / "val_data.npz", data=np.zeros((2, 3072), np.uint8), labels=np.array([1, 2]))
    (folder / "idx3").write_bytes(np.array([0x803, 2, 4, 4], ">u4").tobytes() + bytes(32))
    (folder / "idx1").write_bytes(np.array([0x801, 2], ">u4").tobytes() + bytes(2))


def images(folder: Path) -> None:
    """Two pictures in a folder."""
    from PIL import Image

    folder.mkdir()
    for name in ("a", "b"):
        Image.new("L", (6, 4)).save(folder / f"{name}.png")


def table() -> Any:
    from datasets import Dataset

    return Dataset.from_dict({"x": [[0.0, 1.0], [2.0, 3.0]]})


EXEMPT: dict[str, str] = {
    **dict.fromkeys(
        (
            "Estimate",
            "MatchingErrors",
            "ResidualSuprema",
            "GridDensity",
            "LikelihoodBound",
            "FlowLikelihood",
            "Solved",
            "FlowSamples",
            "WeightedSamples",
            "RoundTrip",
            "ScoreErrorBound",
            "SteinDiscrepancy",
        ),
        "a result, made by the library",
    ),
    **dict.fromkeys(
        (
            "KLDecomposition",
            "Audit",
            "OdeSdeGap",
            "Curve",
            "Number",
            "Section",
            "Dequantised",
            "Perturbed",
            "Objective",
        ),
        "a result, made by the library",
    ),
    **dict.fromkeys(
        ("Atoms", "Transported", "FrechetDistance", "PrecisionRecall", "Run", "DequantiserRun", "Report", "TrainState"),
        "a result, made by the library",
    ),
    **dict.fromkeys(("Proposal", "ConditionalFlow", "Batches"), "a protocol has no instances"),
    **dict.fromkeys(("drawn", "in_order", "TrainStep"), "a part of the compiled step"),
    **dict.fromkeys(("distance_energy", "inner_energy"), "called inside of a potential, which checks"),
    **dict.fromkeys(("silu", "softplus"), "elementwise, as those of jax.nn"),
    "citation": "takes words alone",
    "full_precision": "hands on what is no network",
    "CheckpointError": "an exception",
}
"""Public callables that take no input of a user."""


def public() -> dict[str, Any]:
    """Every public callable but abstract classes and aliases of types, by its name."""
    found = dict[str, Any]()
    for package in PACKAGES:
        for name, member in vars(package).items():
            outside = not getattr(member, "__module__", "").startswith("scorefp")
            if name.startswith(("_", "Abstract")) or isinstance(member, ModuleType) or not callable(member):
                continue
            if not outside and get_origin(member) is None:
                found[name] = member
    return found


ROOMS = {name.removeprefix("of_"): make for name, make in list(globals().items()) if name.startswith("of_")}
"""The tables, made where they are needed."""


@functools.cache
def rows(room: str) -> dict[str, Row]:
    return ROOMS[room]()


def all_rows() -> dict[str, Row]:
    return {name: row for room in ROOMS for name, row in rows(room).items()}


def counted() -> str:
    """The table of the documentation: by kind of input, how many calls of how many callables are refused."""
    calls, names = collections.Counter[str](), dict[str, set[str]]()
    for name, row in all_rows().items():
        for argument, kind, _ in row.bad():
            kind = "wrong key" if role(row, argument) == "key" else GROUPS.get(kind, kind)
            calls[kind] += 1
            names.setdefault(kind, set()).add(name)
    lines = ["| input | calls | callables |", "| --- | --- | --- |"]
    lines += [f"| {kind} | {calls[kind]} | {len(names[kind])} |" for kind in sorted(calls)]
    total = f"| all | {calls.total()} | {len(set().union(*names.values()))} |"
    return "\n".join([*lines, total])


GROUPS = {
    **dict.fromkeys(("word", "None", "function", "class", "network", "another word", "score"), "wrong kind"),
    **dict.fromkeys(("number", "bool", "float", "no arguments"), "wrong kind"),
    **dict.fromkeys(("zero", "negative", "above one", "too few"), "out of range"),
    **dict.fromkeys(("before t0", "beyond t1"), "outside the horizon"),
    "wrong dtype": "wrong kind",
}


def role(row: Row, argument: str) -> str:
    """The role of an argument."""
    return (row.roles[argument] if argument in row.roles else NAMES[argument]) or ""


def verdict(row: Row, argument: str, value: Any) -> str:
    """What is wrong with how a bad value of an argument is met; empty where it is refused by an error that names it."""
    try:
        found = row.call(**row.good | {argument: value})
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = "scorefp" in Path(frames[-1].filename).parts or "error_if" in "".join(f.name for f in frames)
        names = (row.called.get(argument, argument), *WORDS.get(role(row, argument), ()))
        if ours and any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", str(error)) for name in names):
            return ""
        return f"unclear: {type(error).__name__}: {error}"[:200]
    except Exception as error:
        return f"bare: {type(error).__name__}: {error}"[:200]
    return f"taken: {found!r}"[:120].replace("\n", " ")
