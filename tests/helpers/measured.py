"""What is drawn, measured and trained beside `fit` on a mesh, for tests/train/test_devices.py: small, and all of it."""

import functools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.sharding import Mesh

import scorefp as sfp
from scorefp import data, diagnostics as d, train
from scorefp._devices import everywhere
from scorefp.diagnostics import ensemble
from scorefp.sampling import draw
from scorefp.train import dequantiser
from scorefp.train.loop import repeated, started

N, WIDTH, ROWS = 13, 24, 16
BAD, BIG = 5, 9.0
"""The sample of the tests that fails, and what is too large."""
LEVELS = np.random.default_rng(0).integers(0, 8, (10, 3)).astype(np.uint8)
QUANTISATION = sfp.Quantisation(8, -1.0, 1.0)
HELD_OUT = data.Dataset(LEVELS, QUANTISATION, args=LEVELS[:, 0].astype(np.int32))


class Labelled(eqx.Module):
    mlp: sfp.nn.MLP
    table: jax.Array

    def __call__(self, t: jax.Array, x: jax.Array, *, args: jax.Array | None = None) -> jax.Array:
        return self.mlp(t, x if args is None else x + self.table[args])


def score() -> sfp.score.NetworkScore:
    mlp = sfp.nn.MLP((3,), width=WIDTH, depth=1, key=jr.key(0))
    leave = jr.normal(jr.key(1), mlp.leave.weight.shape) / 9
    network = Labelled(eqx.tree_at(lambda mlp: mlp.leave.weight, mlp, leave), jr.normal(jr.key(2), (8, 3)))
    return sfp.NoiseScore(network, sfp.VP())


def flow() -> sfp.VariationalDequantiser:
    return sfp.likelihood.variational_dequantiser((3,), QUANTISATION, layers=1, width=4, key=jr.key(3))


SGD = optax.sgd(1e-2)
SAMPLERS: dict[str, dict[str, Any]] = {
    "EulerMaruyama": {"method": sfp.EulerMaruyama(6), "batch_size": 6},
    "ProbabilityFlow": {"method": sfp.ProbabilityFlow(sfp.Integrator(rtol=1e-3, atol=1e-3))},
    "DPMSolver": {"method": sfp.DPMSolver(4), "args": np.arange(N) % 8},
    "Langevin": {"method": sfp.Langevin(3, 0.01), "initial": np.linspace(-1, 1, N * 3, dtype=np.float32).reshape(N, 3)},
}

ENSEMBLE = d.Ensemble(3, 6, batch_size=7)
CURVES: tuple[d.AbstractMeasure, ...] = (d.ResidualCurve(ensemble=ENSEMBLE), d.MatchingCurve(ensemble=ENSEMBLE))
MEASURES: tuple[d.AbstractMeasure, ...] = (
    *CURVES,
    d.ScoreError(waves=2, folds=3, ensemble=ENSEMBLE),
    d.CurlCurve(ensemble=ENSEMBLE),
    d.CirculationCurve(ensemble=ENSEMBLE),
    d.SteinTest(draws=20, ensemble=ENSEMBLE),
    d.Gap(samples=9, ode=sfp.Heun(4), sde=sfp.EulerMaruyama(4), batch_size=5),
    d.ConsistencyCurves(steps=4, times=2, samples=7, paths=2, batch_size=5),
    d.PriorDivergence(),
)
"""Those of an audit by default, without the two of `evaluate`, and the test."""


def numbers(report: d.Audit) -> dict[str, np.ndarray]:
    """All numbers, curves and points of a report, by section and name."""
    found = dict[str, np.ndarray]()
    for title, section in report.sections.items():
        found |= {f"{title}/{name}": np.asarray(number.value) for name, number in section.numbers.items()}
        found |= {f"{title}/{name} over t": curve.value for name, curve in section.curves.items()}
        found |= {f"{title}/{name} of samples": points for name, points in section.points.items()}
    return found


def samples(mesh: Mesh | None, folder: Path) -> dict[str, np.ndarray]:
    found = dict[str, np.ndarray]()
    for name, given in SAMPLERS.items():
        settings = {option: jnp.asarray(v) if option == "initial" else v for option, v in given.items()}
        found[name] = np.asarray(sfp.sample(score(), N, key=jr.key(7), shape=(3,), mesh=mesh, **settings))
    flat, method = sfp.Annealed(score(), 0.9), sfp.FeynmanKac(4, particles=8, threshold=1.0)
    weighted = sfp.sampling.weighted_samples(flat, 5, key=jr.key(7), method=method, shape=(3,), mesh=mesh)
    found |= {"weighted": np.asarray(weighted.samples), "their weights": np.asarray(weighted.log_weights)}
    path = folder / f"{'one' if mesh is None else 'many'}.npy"
    settings = SAMPLERS["EulerMaruyama"] | {"shape": (3,), "progress": False}
    return found | {"to a file": np.load(data.sample_to(path, score(), N, key=jr.key(7), mesh=mesh, **settings))}


def audited(mesh: Mesh | None, folder: Path) -> dict[str, np.ndarray]:
    return numbers(sfp.audit(score(), HELD_OUT, key=jr.key(8), measures=MEASURES, mesh=mesh))


def evaluated(mesh: Mesh | None, folder: Path) -> dict[str, np.ndarray]:
    integrator = sfp.Integrator(rtol=1e-3, atol=1e-3, throw=False)
    settings = {"repeats": 2, "draws": 3, "batch_size": 7, "integrator": integrator}
    return numbers(sfp.evaluate(score(), HELD_OUT, key=jr.key(9), mesh=mesh, **settings))


def audited_in_fit(mesh: Mesh | None, folder: Path) -> dict[str, np.ndarray]:
    """The numbers of an audit on the mesh of a training, which `fit` calls on every process."""
    evaluate, seen = train.audit_on(HELD_OUT, key=jr.key(6), measures=CURVES, mesh=mesh), dict[str, np.ndarray]()

    def noted(model: sfp.score.AbstractScore) -> dict[str, float]:
        found = evaluate(model)
        seen.update({name: np.asarray(value) for name, value in found.items()})
        return found

    settings = {"optimizer": SGD, "steps": 2, "batch_size": 8, "report_every": 2, "progress": False}
    options = settings | {"evaluate": noted, "evaluate_every": 2}
    train.fit(score(), sfp.DSM(), HELD_OUT, key=jr.key(5), mesh=mesh, **options)
    return seen


def dequantised(mesh: Mesh | None, folder: Path) -> dict[str, np.ndarray]:
    settings = {"optimizer": SGD, "steps": 6, "batch_size": 8, "report_every": 3, "progress": False}
    run = train.fit_dequantiser(flow(), score(), HELD_OUT, key=jr.key(4), mesh=mesh, **settings)
    leaves = jax.tree.leaves(eqx.filter(run.dequantiser, eqx.is_inexact_array))
    return run.history | {"parameters": np.concatenate([np.ravel(leaf) for leaf in leaves])}


PARTS: dict[str, Callable[[Mesh | None, Path], dict[str, np.ndarray]]] = {
    "samples": samples,
    "audit": audited,
    "evaluate": evaluated,
    "audit in fit": audited_in_fit,
    "dequantiser": dequantised,
}


def refuses_large(t: Any, x: jax.Array) -> jax.Array:
    """A score that raises at one sample of many."""
    return eqx.error_if(-x, x[0] > BIG, "one sample is large")


def broken_at_large(t: Any, x: jax.Array) -> jax.Array:
    """A score that fails at one sample of many."""
    return jnp.where(x[0] > BIG, jnp.nan, -x)


@functools.cache
def told_of_one_device() -> dict[str, list[str]]:
    return told(None)


def said(fn: Any, mesh: Mesh | None, **settings: Any) -> list[str]:
    """The warnings and the error of a call whose sample `BAD` is large."""
    model = sfp.Score(fn, sfp.VP(), shape=(3,))
    initial = jnp.zeros((N, 3)).at[BAD, 0].set(BIG + 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            sfp.sample(model, N, key=jr.key(0), method=sfp.sampling.Euler(2), initial=initial, mesh=mesh, **settings)
        except Exception as error:
            return [*(str(warning.message) for warning in caught), f"{type(error).__name__}: {error}"]
    return [str(warning.message) for warning in caught]


def told(mesh: Mesh | None) -> dict[str, list[str]]:
    """What is said where one sample raises, and where one is broken."""
    return {
        "raised": said(refuses_large, mesh),
        "failed": said(broken_at_large, mesh),
        "thrown": said(broken_at_large, mesh, throw=True),
    }


def programs(mesh: Mesh | None) -> dict[str, list[Any]]:
    """Of compiled programs: how many rows one device multiplies with the weights of the network at a time, and what
    devices do together.
    """
    model, key, t = score(), jr.key(0), jnp.linspace(0.1, 0.9, 4)
    clean, first, count = jnp.zeros((4, 3)), jnp.asarray(0), 16
    draws = draw.draws_of(model, ROWS, key=key, method=sfp.DPMSolver(2), shape=(3,))
    params, skeleton = dequantiser._parted(flow())
    step = dequantiser._Step(skeleton, model, SGD, sfp.BoundEstimator(1), ROWS, 0.9, mesh)
    state = started(params, SGD, 1, key=key)
    loop = eqx.filter_jit(lambda step, state, samples, mesh: repeated(step.step, samples, state, jnp.asarray(1), 1))
    calls = {
        "sample": (draw._rows, (draws, 0, ROWS)),
        "residual": (ensemble._evaluate, (d.MatchingCurve()._at, model, clean, None, t, key, (first, count), ROWS)),
        "dequantiser": (loop, (step, state, (HELD_OUT.values, HELD_OUT.args))),
    }
    found = dict[str, list[Any]]()
    for name, (compiled, arguments) in calls.items():
        text = compiled.lower(*everywhere(arguments, mesh), mesh).compile().compiled.as_text()
        rows = {int(rows) for rows in re.findall(rf"= f32\[(\d+),{WIDTH}\]\S* dot\(", text)}
        found[name] = [*sorted(rows), *sorted(set(re.findall(r"all-\w+|collective-\w+", text)))]
    return found
