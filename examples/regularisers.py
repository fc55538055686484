"""Which regulariser should I use? Every one of this library on the same data, network, seeds and computing time.

Four data sets: 8×8 digits, the checkerboard and the eight modes of Lai 2023, and ten measurements of cell nuclei (the
breast-cancer set that scikit-learn ships). Each method has two strengths; each of those, with each of three seeds, is
one cell: a model trained for `--budget` seconds of one core and audited on data it has not seen. The table shows, of
each method, the strength whose median negative log-likelihood on validation data is lower in the mean over seeds.

    taskset --cpu-list 1 python examples/regularisers.py

The time of a step is measured first, all methods in turns, and its least value over the rounds counts: other work on
the machine slows some rounds, not all. Each cell then takes so many steps as fit into the budget, on one thread.

Each cell is one JSON file in `docs/assets/regularisers/`, and is skipped when the file is there: a killed run resumes
where it stopped; trained models are in `.cache/regularisers/`. Tables and the figure are made from these files alone.
"""

import dataclasses
import enum
import functools
import itertools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Read when jax makes its backend: one thread, so that a second of computing is the same for every method.
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import _cells
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

import scorefp as sfp
from scorefp import data, train
from scorefp.densities import Checkerboard, eight_modes
from scorefp.diagnostics import ConsistencyCurves, CurlCurve, Ensemble, Gap, Likelihood, ResidualCurve
from scorefp.objective import JacobianSize, ScoreSize, Smoothness, TimeDerivativeSize

ENSEMBLE = Ensemble(times=16, samples=128)
MEASURES = (
    Likelihood(),
    ResidualCurve(ensemble=ENSEMBLE),
    CurlCurve(ensemble=ENSEMBLE),
    ConsistencyCurves(),
    Gap(samples=1024),
)
SHARE = 0.25
"""The share of each batch on which a penalty is evaluated."""


# ------------------------------------------------------------------------------------------------ data


@dataclasses.dataclass(frozen=True)
class Problem:
    """A data set in three parts, and what belongs to it.

    Attributes:
        title: Its name for a reader.
        sde: The forward process.
        width: The width of the network.
        parts: The training, validation and test data of a seed.
        density: The law of the data, where it is known.
    """

    title: str
    sde: sfp.VP
    width: int
    parts: Callable[[int], tuple[data.Dataset, data.Dataset, data.Dataset]]
    density: Any = None


def drawn(density: Any, seed: int) -> tuple[data.Dataset, ...]:
    """Fresh samples of a density of the plane: 2,000 to train with, 256 to validate, 1,024 to test."""
    x = density.sample(jr.key(9000 + seed), 3280)
    return tuple(data.Dataset(part) for part in (x[:2000], x[2000:2256], x[2256:]))


def shuffled(x: np.ndarray, validation: int, test: int, seed: int) -> tuple[np.ndarray, ...]:
    x = np.random.default_rng(9000 + seed).permutation(x)
    return x[validation + test :], x[:validation], x[validation : validation + test]


def digits(seed: int) -> tuple[data.Dataset, ...]:
    """The library's training digits, 128 of them to validate; its 360 test digits."""
    digits, test = data.digits("train"), data.digits("test")
    training, validation, _ = shuffled(np.asarray(digits.values), 128, 0, seed)
    parts = (training, validation, np.asarray(test.values))
    return tuple(data.Dataset(jnp.asarray(part), digits.quantisation) for part in parts)


def nuclei_features() -> np.ndarray:
    """The means of ten measurements of cell nuclei of 569 patients; logarithms of what is a length or an area."""
    from sklearn.datasets import load_breast_cancer

    x = np.asarray(load_breast_cancer().data)[:, :10]
    x[:, [0, 2, 3]] = np.log(x[:, [0, 2, 3]])
    return x


def nuclei(seed: int) -> tuple[data.Dataset, ...]:
    """The `nuclei_features` of 345 patients, of 96 to validate and of 128 to test, standardised by the first."""
    training, validation, test = shuffled(nuclei_features(), 96, 128, seed)
    mean, std = training.mean(axis=0), training.std(axis=0)
    parts = (training, validation, test)
    return tuple(data.Dataset(jnp.asarray((part - mean) / std, jnp.float32)) for part in parts)


PLANE = sfp.VP(t0=1e-3)
PROBLEMS = {
    "digits": Problem("Digits, 8×8", sfp.VP(), 128, digits),
    "modes": Problem("Eight modes", PLANE, 64, lambda seed: drawn(eight_modes(), seed), eight_modes()),
    "nuclei": Problem("Cell nuclei, ten features", PLANE, 96, nuclei),
    "checkerboard": Problem("Checkerboard", PLANE, 64, lambda seed: drawn(Checkerboard(), seed), Checkerboard()),
}


# ------------------------------------------------------------------------------------------------ methods


class Strength(enum.Enum):
    """What the strength of a method is: the coefficient of its penalty, the decay of the weights, or the share of the
    time that it takes. An expensive penalty makes few steps, which by itself limits overfitting; the last is for that.
    """

    COEFFICIENT = enum.auto()
    DECAY = enum.auto()
    SHARE = enum.auto()


@dataclasses.dataclass(frozen=True)
class Method:
    """What is trained.

    Attributes:
        title: Its name for a reader.
        penalty: The penalty for samples of so many elements, without its strength; `None` for none.
        strengths: Two values of what `strength` says.
        potential: Whether the model is a potential.
    """

    title: str
    penalty: Callable[[int], Any] | None
    strengths: tuple[float, ...]
    potential: bool = False
    strength: Strength = Strength.COEFFICIENT


def gradient(size: int) -> Any:
    return sfp.Exact() if size <= 16 else sfp.Hutchinson()


def plain(method: Any, form: Any = None) -> sfp.ScoreFPE:
    """The penalty of Lai 2023 for data in the plane and for MNIST: the norm, without a weight, over D."""
    return sfp.ScoreFPE(method, form, power=1.0, scale=sfp.unit_weighting, size_exponent=1.0, fraction=SHARE)


def log_weighting(sde: Any, t: Any) -> Any:
    """The weight that makes the squared residual of a log-density one per unit of log-SNR [F15]."""
    return sde.sigma(t) ** 2 / (2 * sde.g2(t))


def high_order(size: int, *, order: int) -> Any:
    trace = sfp.Exact() if size <= 2 else sfp.Hutchinson()
    terms = [sfp.HighOrderDSM(k, trace, fraction=SHARE) for k in range(2, order + 1)]
    return functools.reduce(lambda a, b: a + b, terms)


METHODS = {
    "dsm": Method("DSM", None, (0.0,)),
    "early": Method("DSM, stopped early", None, (0.2, 0.5), strength=Strength.SHARE),
    "gradient": Method("FP, gradient", lambda d: sfp.ScoreFPE(gradient(d), "gradient", fraction=SHARE), (0.1, 0.5)),
    "ito": Method("FP, Itô", lambda d: sfp.ScoreFPE(sfp.Ito(), fraction=SHARE), (0.1, 0.5)),
    "antithetic": Method("FP, antithetic", lambda d: sfp.ScoreFPE(fraction=SHARE), (0.1, 0.5)),
    "gradient-plain": Method("FP, gradient, plain", lambda d: plain(gradient(d), "gradient"), (0.0015, 0.1)),
    "ito-plain": Method("FP, Itô, plain", lambda d: plain(sfp.Ito()), (0.0015, 0.1)),
    "antithetic-plain": Method("FP, antithetic, plain", lambda d: plain(sfp.Antithetic()), (0.0015, 0.1)),
    "consistency": Method("consistency", lambda d: sfp.Consistency(fraction=SHARE), (0.1, 0.5)),
    "consistency-pathwise": Method(
        "consistency, path-wise", lambda d: sfp.Consistency(pathwise=True, fraction=SHARE), (0.1, 0.5)
    ),
    "curl": Method(
        "zero curl",
        lambda d: sfp.ZeroCurl(sfp.objective.scale_free_jacobian_weighting, fraction=SHARE),
        (0.1, 0.5),
    ),
    "dsm-2": Method("DSM-2", functools.partial(high_order, order=2), (0.1, 0.5)),
    "dsm-3": Method("DSM-3", functools.partial(high_order, order=3), (0.1, 0.5)),
    "decay": Method("weight decay", None, (0.1, 1.0), strength=Strength.DECAY),
    "size": Method("‖s‖²", lambda d: ScoreSize(fraction=SHARE), (0.001, 0.01)),
    "jacobian": Method("‖J‖²", lambda d: JacobianSize(fraction=SHARE), (0.001, 0.01)),
    "slope": Method("‖∂ₜs‖²", lambda d: TimeDerivativeSize(fraction=SHARE), (0.01, 0.1)),
    "smooth": Method("smoothness", lambda d: Smoothness(fraction=SHARE), (0.001, 0.01)),
    "potential": Method("DSM of a potential", None, (0.0,), potential=True),
    "log-fpe": Method(
        "log-FPE",
        lambda d: 1 / d * sfp.LogFPE(sfp.Ito(), weighting=log_weighting, unbiased=True, fraction=SHARE),
        (0.02, 0.2),
        potential=True,
    ),
}


class Offset(eqx.Module):
    """The free function of time of an unnormalised potential [F3]."""

    weights: jax.Array

    def __call__(self, c_noise: jax.Array) -> jax.Array:
        return self.weights @ sfp.nn.fourier_features(c_noise)


def untrained(
    problem: Any, potential: bool, training: data.Dataset, seed: int, *, dropout: float = 0.0
) -> sfp.score.AbstractScore:
    """The score or potential to start from; all methods of a seed share the network's arrays."""
    network = sfp.nn.MLP(training.shape, width=problem.width, depth=2, dropout=dropout, key=jr.key(seed))
    # An array, so that all seeds share what is compiled.
    data_std = jnp.asarray(training.std)
    if not potential:
        return sfp.NoiseScore(network, problem.sde, data_std=data_std)
    offset = Offset(jnp.zeros(sfp.nn.fourier_features(jnp.zeros(())).size))
    return sfp.InnerPotential(network, problem.sde, data_std=data_std, offset=offset)


@functools.cache
def optimizer(decay: float) -> optax.GradientTransformation:
    """One object for all cells, so that what they share is compiled once."""
    return optax.adamw(1e-3, weight_decay=decay) if decay else optax.adam(1e-3)


def fitted(
    problem: Problem, method: Method, strength: float, training: data.Dataset, steps: int, seed: int
) -> train.Run:
    """A model trained for so many steps; cells of one seed share their batches."""
    penalty = None if method.penalty is None else method.penalty(int(np.prod(training.shape)))
    return train.fit(
        untrained(problem, method.potential, training, seed),
        sfp.DSM() if penalty is None else sfp.DSM() + strength * penalty,
        training,
        optimizer=optimizer(strength if method.strength is Strength.DECAY else 0.0),
        steps=steps,
        key=jr.key(100 + seed),
        progress=False,
        report_every=PART,
    )


PART = 100


# ------------------------------------------------------------------------------------------------ cells


def main(arguments: list[str] | None = None) -> None:
    parser = _cells.parser(__doc__, out="docs/assets/regularisers", seeds=(0, 1, 2))
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--budget", type=float, default=6.0, help="seconds of one core for the steps of a cell")
    parser.add_argument("--rounds", type=int, default=8, help="rounds in which the time of a step is taken")
    parser.add_argument("--cache", type=Path, default=Path(".cache/regularisers"), help="where trained models are kept")
    parser.add_argument("--tables-only", action="store_true", help="run no cell; tables and figure from those there")
    options = parser.parse_args(arguments)
    for name in () if options.tables_only else options.problems:
        times = all_times(options.out / f"{name}.json", name, options.methods, options.rounds)
        for seed, key in itertools.product(options.seeds, options.methods):
            for strength in METHODS[key].strengths:
                path = options.out / f"{name}-{key}-{strength:g}-{seed}.json"
                steps = steps_within(options.budget, times, key, strength)
                make = functools.partial(measured, name, key, strength, seed, steps, options.cache)
                _cells.cell(path, {"budget": options.budget}, make, indent=1)
    found = {
        name: cells for name in options.problems if (cells := read(options.out, name, options.seeds, options.budget))
    }
    for name, cells in found.items():
        short = table(name, chosen(cells), options.seeds)
        _cells.write(options.out / f"{name}.md", short)
        _cells.write(options.out / f"{name}-all.md", table(name, cells, options.seeds))
        print(f"\n{PROBLEMS[name].title}\n\n{short}")
    compared = {name: cells for name, cells in found.items() if ("dsm", 0.0) in cells}
    if compared:
        _cells.save_figure(figure(compared), options.out / "regularisers.png")


def steps_within(budget: float, times: dict[str, float], key: str, strength: float) -> int:
    """How many steps of a method fit into so many seconds."""
    share = strength if METHODS[key].strength is Strength.SHARE else 1.0
    return max(PART, round(1e3 * share * budget / times[timed_as(key)]))


def timed_as(key: str) -> str:
    """The method whose step a method makes."""
    return "dsm" if METHODS[key].strength is Strength.SHARE else key


def all_times(path: Path, name: str, methods: list[str], rounds: int) -> dict[str, float]:
    """The time of a step of each method, from the file and, where it is not there, measured.

    Methods that are added later take their turns with DSM, whose time in the file counts.
    """
    known = _cells.read_json(path)["milliseconds a step"] if path.exists() else {}
    missing = [key for key in map(timed_as, ("dsm", *methods)) if key not in known]
    if missing:
        training = PROBLEMS[name].parts(0)[0]

        def steps(key: str, count: int) -> None:
            fitted(PROBLEMS[name], METHODS[key], METHODS[key].strengths[0], training, count, 0)

        found = step_times(steps, list(dict.fromkeys(("dsm", *missing))), rounds, PART)
        scale = known.get("dsm", found["dsm"]) / found["dsm"]
        known = {key: round(scale * value, 5) for key, value in found.items()} | known
        _cells.write_json(path, {"milliseconds a step": known}, indent=1)
        print(f"{name}: milliseconds a step {known}", flush=True)
    return known


def step_times(steps: Callable[[str, int], Any], keys: Sequence[str], rounds: int, part: int) -> dict[str, float]:
    """Milliseconds of computing for one step of each method: the least over rounds in which all take turns.

    `steps` makes so many steps of a method.
    """
    found: dict[str, list[float]] = {key: [] for key in keys}
    for round_ in range(rounds + 1):
        for key in found:
            # The first part of a run is not counted: the first round compiles, every part starts the loop.
            begin = time.process_time()
            steps(key, part)
            half = time.process_time()
            steps(key, 3 * part)
            end = time.process_time()
            if round_:
                found[key].append(1e3 * ((end - half) - (half - begin)) / (2 * part))
    return {key: min(values) for key, values in found.items()}


def trained(name: str, key: str, strength: float, seed: int, steps: int, cache: Path) -> tuple[Any, dict[str, Any]]:
    """A trained model and what is known of its training, kept so that a killed run resumes."""
    problem, method = PROBLEMS[name], METHODS[key]
    training = problem.parts(seed)[0]

    def made() -> tuple[Any, dict[str, Any]]:
        begin = time.process_time()
        run = fitted(problem, method, strength, training, steps, seed)
        seconds = round(time.process_time() - begin, 2)
        losses = {term: rounded(float(values[-1000:].mean())) for term, values in run.history.items()}
        return run.model, {"steps": steps, "training seconds": seconds, "last losses": losses}

    start = untrained(problem, method.potential, training, seed)
    return _cells.kept(cache / f"{name}-{key}-{strength:g}-{seed}-{steps}", start, made)


def measured(name: str, key: str, strength: float, seed: int, steps: int, cache: Path) -> dict[str, Any]:
    """Trains one model and audits it."""
    _, validation, test = PROBLEMS[name].parts(seed)
    model, facts = trained(name, key, strength, seed, steps, cache)
    begin = time.process_time()
    report = sfp.audit(model, test, key=jr.key(1000 + seed), measures=MEASURES)
    chosen = sfp.audit(model, validation, key=jr.key(2000 + seed), measures=(Likelihood(),))
    seconds = {"audit seconds": round(time.process_time() - begin, 2)}
    return facts | seconds | {"test": measured_numbers(report), "validation": measured_numbers(chosen)}


def measured_numbers(report: sfp.Audit) -> dict[str, list[float | None]]:
    return {
        f"{title}.{name}": [rounded(number.value), rounded(number.half_width)]
        for title, section in report.sections.items()
        for name, number in section.numbers.items()
    }


def rounded(value: float | None) -> float | None:
    """Six digits; what is not finite as `None`."""
    return None if value is None or not np.isfinite(value) else _cells.rounded(value)


# ------------------------------------------------------------------------------------------------ tables

Cells = dict[tuple[str, float], list[dict[str, Any]]]
"""The cells of a data set by method and strength, one a seed."""


def read(out: Path, name: str, seeds: list[int], budget: float) -> Cells:
    """What is there for all seeds, refused where it was made with another budget."""
    found: Cells = {}
    for key, method in METHODS.items():
        for strength in method.strengths:
            paths = [out / f"{name}-{key}-{strength:g}-{seed}.json" for seed in seeds]
            if all(path.exists() for path in paths):
                found[key, strength] = [_cells.read_cell(path, {"budget": budget}) for path in paths]
    return found


def chosen(cells: Cells) -> Cells:
    """Of each method the strength with the lower median on the validation data, in the mean over seeds."""
    best: Cells = {}
    for key in METHODS:
        mine = {cell: runs for cell, runs in cells.items() if cell[0] == key}
        if mine:
            cell = min(mine, key=lambda cell: float(np.mean([likelihood(run, "validation") for run in mine[cell]])))
            best[cell] = mine[cell]
    return best


def likelihood(run: dict[str, Any], part: str = "test", kind: str = "median_") -> float:
    """The negative log-likelihood of the ODE, in bits/dim or nats."""
    names = (f"likelihood.{kind}bits_per_dim", f"likelihood.{kind}negative_log_likelihood")
    value = next(run[part][name][0] for name in names if name in run[part])
    return float("inf") if value is None else value


def on_test(name: str, factor: float = 1.0) -> Callable[[dict[str, Any]], float]:
    return lambda run: factor * (np.nan if run["test"][name][0] is None else run["test"][name][0])


COLUMNS: dict[str, tuple[Callable[[dict[str, Any]], float], int]] = {
    "steps": (lambda run: float(run["steps"]), 5),
    "median": (likelihood, 4),
    "mean": (lambda run: likelihood(run, kind=""), 4),
    "exploded, %": (on_test("likelihood.exploded", 100), 2),
    "r_FP": (on_test("residual.r_FP_scale_free"), 3),
    "curl": (on_test("curl.curl_scale_free"), 3),
    "defect": (lambda run: on_test("consistency.consistency_rms")(run) or np.nan, 3),
    "W₂²": (on_test("gap.ode_sde"), 3),
    "floor": (on_test("gap.floor"), 3),
}
"""What is read of a cell, and to how many digits it is shown."""


def table(name: str, cells: Cells, seeds: list[int]) -> str:
    """One row for each method and strength: means over seeds, and the difference to DSM paired by seed."""
    base = cells.get(("dsm", 0.0))
    headings = ["method", "strength", *COLUMNS]
    headings[4:4] = ["− DSM's", "least, largest"]
    body: list[list[str]] = []
    for (key, strength), runs in cells.items():
        means = [written(float(np.mean([read(run) for run in runs])), digits) for read, digits in COLUMNS.values()]
        row = [METHODS[key].title, f"{strength:g}" if strength else "", *means]
        change = [] if base is None or key == "dsm" else differences(runs, base)
        row[4:4] = [f"{np.mean(change):+.3f}", f"{min(change):+.3f}, {max(change):+.3f}"] if change else ["", ""]
        body.append(row)
    if PROBLEMS[name].density is not None:
        true = [-jax.vmap(PROBLEMS[name].density.log_prob)(PROBLEMS[name].parts(seed)[2].values) for seed in seeds]
        row = ["the law of the data", *[""] * (len(headings) - 1)]
        for heading, statistic in {"median": np.median, "mean": np.mean}.items():
            row[headings.index(heading)] = written(float(np.mean([statistic(values) for values in true])), 4)
        body.append(row)
    return _cells.markdown(headings, body, left=1)


def written(value: float, digits: int) -> str:
    """A number; a dash where there is none, such as for the root of an estimate that is negative."""
    return "—" if np.isnan(value) else f"{value:.{digits}g}"


def differences(runs: list[dict[str, Any]], base: list[dict[str, Any]]) -> list[float]:
    return [likelihood(run) - likelihood(other) for run, other in zip(runs, base, strict=True)]


def figure(found: dict[str, Cells]) -> Figure:
    """Of each method and data set: the median minus that of DSM, and the residual; one point a seed."""
    view = Figure(figsize=(3.1 * len(found) + 1.6, 12), layout="constrained")
    panels = view.subplots(2, len(found), squeeze=False, sharey=True)
    titles = [method.title for method in METHODS.values()]
    for column, (name, cells) in enumerate(found.items()):
        base, best = cells["dsm", 0.0], chosen(cells)
        for (key, strength), runs in cells.items():
            row = list(METHODS).index(key)
            kept = (key, strength) in best
            style = {"s": 22, "color": "C0" if kept else "none", "edgecolors": "C0" if kept else "C7", "zorder": 3}
            panels[0, column].scatter(differences(runs, base), [row] * len(runs), **style)
            panels[1, column].scatter(
                [on_test("residual.r_FP_scale_free")(run) for run in runs], [row] * len(runs), **style
            )
        unit = "bits/dim" if name == "digits" else "nats"
        panels[0, column].set(title=PROBLEMS[name].title, xlabel=f"median − DSM's, {unit}")
        panels[0, column].set_xscale("symlog", linthresh=0.1)
        panels[0, column].axvline(0, color="black", linewidth=0.8)
        panels[1, column].set(xscale="log", xlabel="residual, scale-free")
        panels[1, column].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panels[1, column].xaxis.set_major_formatter("{x:g}")
        panels[1, column].xaxis.set_minor_formatter(NullFormatter())
        panels[1, column].axvline(
            np.mean([on_test("residual.r_FP_scale_free")(run) for run in base]), color="black", linewidth=0.8
        )
        for panel in panels[:, column]:
            panel.grid(alpha=0.3)
            panel.tick_params(axis="x", labelrotation=45)
    for panel in panels[:, 0]:
        panel.set_yticks(range(len(titles)), titles)
    panels[0, 0].invert_yaxis()
    return view


if __name__ == "__main__":
    main()
