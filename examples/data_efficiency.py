"""How many samples is a regulariser worth? Likelihood, residual and samples against the number of training samples.

Each method trains on the first `n` samples of a seed's order, a fifth of which it holds back. All methods of a data set
and network have the same start and batches, and the same computing time. At steps that grow by a quarter from one to
the next the loss of denoising score matching is taken on the samples held back, and the model with the least is kept:
every method stops at its best, and so does the one that they are compared with, `DSM`.

    taskset --cpu-list 1 python examples/data_efficiency.py
    python examples/data_efficiency.py --mnist FOLDER  # the whole MNIST from its files

The time of a step is measured first, all methods in turns, and its least value over the rounds counts. Each cell then
takes so many steps as fit into the budget, on one thread. Each is one JSON file in `docs/assets/data_efficiency/`, and
is skipped when the file is there: a killed run resumes where it stopped. Tables and figures are made from these files,
with `--tables-only` from those alone. Files made with other settings are refused; give `--out` another folder then.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import _cells
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from images import read_data
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from regularisers import log_weighting, measured_numbers, nuclei_features, optimizer, step_times, untrained
from scipy.fft import dctn
from scoreflow import PixelMixture, mixture_score

import scorefp as sfp
from scorefp import data, train
from scorefp.diagnostics import Bound, CurlCurve, Ensemble, Likelihood, MatchingCurve, ResidualCurve, SampleQuality
from scorefp.objective import TimeDerivativeSize

ENSEMBLE = Ensemble(times=16, samples=128)
MEASURES = (
    Likelihood(),
    Bound(),
    ResidualCurve(ensemble=ENSEMBLE),
    CurlCurve(ensemble=ENSEMBLE),
    SampleQuality(method=sfp.DPMSolver(32)),
)
FEW_STEPS = Likelihood(integrator=sfp.Integrator(throw=False, max_steps=256))
"""For potentials, of which many trajectories explode: one that needs more steps has failed, which counts as exploded.
Others need about twenty; without this the slowest of a batch make a cell take minutes."""
LOOK = Ensemble(times=16, samples=512)
HELD_BACK = 5
"""One of so many samples chooses the model."""
GROWTH = 1.25
"""From one look at the samples held back to the next."""


# ------------------------------------------------------------------------------------------------ data
Parts = tuple[data.Dataset, data.Dataset, data.Dataset]


@dataclasses.dataclass(frozen=True)
class Problem:
    """A data set and a network.

    Attributes:
        title: The name of the data for a reader.
        unit: That of their negative log-likelihood.
        sde: The forward process.
        width: The width of the network.
        sizes: How many samples there are to learn from.
        budget: Seconds of one core for the steps of a method.
        seeds: How many there are.
        parts: Of so many samples of a seed, those held back and those learnt from; and the test data.
        every: At multiples of so many steps the samples held back are looked at.
        network: The score to start from, of the problem, the method, the samples learnt from and a seed.
    """

    title: str
    unit: str
    sde: sfp.VP
    width: int
    sizes: tuple[int, ...]
    budget: float
    seeds: int
    parts: Callable[[int, int], Parts]
    network: Callable[["Problem", "Method", data.Dataset, int], sfp.score.AbstractScore]
    every: int = 100

    @property
    def kind(self) -> str:
        """That of the network, for a reader."""
        return {perceptron: "perceptron", convolutions: "U-Net"}.get(self.network, "mixture")

    @property
    def data(self) -> str:
        """The data and the unit of their negative log-likelihood."""
        return f"{self.title}, {self.unit}"

    @property
    def methods(self) -> list[str]:
        """Those that are compared: mixtures have no dropout, and only perceptrons are potentials."""
        lacking = {"mixture": ("dropout", "potential", "log-fpe"), "U-Net": ("potential", "log-fpe"), "perceptron": ()}
        return [key for key in METHODS if key not in lacking[self.kind]]


def ordered(dataset: data.Dataset, seed: int) -> data.Dataset:
    return dataset.rows(np.random.default_rng(9000 + seed).permutation(len(dataset)))


def first(dataset: data.Dataset, size: int, test: data.Dataset) -> Parts:
    """The first so many, a fifth of them held back."""
    held_back = size // HELD_BACK
    return dataset.rows(np.arange(held_back)), dataset.rows(np.arange(held_back, size)), test


def digits(seed: int, size: int) -> Parts:
    return first(ordered(data.digits("train"), seed), size, data.digits("test"))


def small_images(seed: int, size: int) -> Parts:
    """The same digits, of which 128 to test, with rows and columns."""
    held_back, rows, test = (part.reshaped((1, 8, 8)) for part in digits(seed, size))
    return held_back, rows, test.rows(np.arange(128))


def nuclei(seed: int, size: int) -> Parts:
    """The same 128 test samples for all seeds; standardised by the others."""
    x = np.random.default_rng(9000).permutation(nuclei_features())
    x = (x - x[128:].mean(axis=0)) / x[128:].std(axis=0)
    rest, test = (data.Dataset(jnp.asarray(part, jnp.float32)) for part in (x[128:], x[:128]))
    return first(ordered(rest, seed), size, test)


def mnist(seed: int, size: int) -> Parts:
    return first(ordered(data.mnist("train"), seed), size, data.mnist("test").rows(np.arange(64)))


def whole_mnist(folder: Path) -> dict[str, Problem]:
    """The 60,000 digits of MNIST, from its files, for the mixture a pixel. Other images have another name for cells."""
    images = read_data(f"idx={folder}", 28)
    # The first half of the test images is the easier one, says the page of the set.
    test = ordered(images.test, 0).rows(np.arange(64))
    training, test = (part.reshaped((784,)) for part in (images.training.load(), test))
    of = lambda seed, size: first(ordered(training, seed), size, test)
    problem = dataclasses.replace(PROBLEMS["mnist"], title="MNIST, whole", sizes=(600, 6000, 60_000), parts=of)
    return {f"mnist-{_cells.fingerprint(np.asarray(training.values).sum(axis=0, dtype=int).tolist())}": problem}


def photographs(seed: int, size: int) -> Parts:
    """Those held back are of one photograph, another for each seed, those learnt from of the four others, those of the
    test of two more. Cosine coefficients, each standardised over all patches of the five."""
    known, test = (cosines(data.photographs(part, size=8, labels=True)) for part in ("train", "test"))
    x = np.asarray(known.values)
    mean, std = x.mean(axis=0), x.std(axis=0)
    known, test = (data.Dataset((part.values - mean) / std, args=part.args) for part in (known, test))
    known = ordered(known, seed)
    one, count = np.asarray(known.args) == seed % 5, size // HELD_BACK
    parts = known.values[one][:count], known.values[~one][: size - count], test.values[:128]
    held_back, rows, test = (data.Dataset(part) for part in parts)
    return held_back, rows, test


def cosines(patches: data.Dataset) -> data.Dataset:
    """The coefficients of an orthonormal cosine transform over rows, columns and colours."""
    x = patches.dequantised(jr.key(9000))
    return data.Dataset(jnp.asarray(dctn(np.asarray(x.values), axes=(1, 2, 3), norm="ortho")), args=x.args)


class Coefficients(eqx.Module):
    r"""The score of independent mixtures of three normal laws, one a coefficient, given what a perceptron sees of all.

    What tells patches apart is their contrast: a smooth one has a hundredth of the variance of a rough one, in all
    coefficients at once. The score has a closed form given the weights, means and scales of the three laws, which the
    perceptron makes of all coefficients; scales start at 0.2, 0.8 and 2.7.
    """

    trunk: eqx.nn.MLP
    sde: sfp.VP

    def __init__(self, size: int, sde: sfp.VP, width: int, key: Any) -> None:
        features = sfp.nn.fourier_features(jnp.zeros(())).size
        trunk = eqx.nn.MLP(size + features, 9 * size, width, 3, activation=jax.nn.silu, key=key)
        self.trunk = eqx.tree_at(
            lambda net: net.layers[-1], trunk, replace_fn=functools.partial(jax.tree.map, jnp.zeros_like)
        )
        self.sde = sde

    def __call__(self, t: jax.Array, x: jax.Array) -> jax.Array:
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        # Tails are heavy.
        seen = jnp.arcsinh(x.reshape(-1) / jnp.sqrt(alpha**2 + sigma**2))
        out = self.trunk(jnp.concatenate([seen, sfp.nn.fourier_features(jnp.log(sigma / alpha) / 4)]))
        logits, means, log_stds = out.reshape(3, 3, *x.shape)
        log_stds += jnp.asarray([-1.5, -0.25, 1.0]).reshape(3, *(1 for _ in x.shape))
        return mixture_score(self.sde, t, x, logits, means, log_stds)


def perceptron(problem: Problem, method: "Method", rows: data.Dataset, seed: int) -> sfp.score.AbstractScore:
    return untrained(problem, method.potential, rows, seed, dropout=method.dropout)


def coefficients(problem: Problem, _: "Method", rows: data.Dataset, seed: int) -> sfp.Score:
    return sfp.Score(Coefficients(rows.size, problem.sde, problem.width, jr.key(seed)), problem.sde, shape=rows.shape)


def pixels(problem: Problem, _: "Method", rows: data.Dataset, seed: int) -> sfp.Score:
    """A perceptron hardly learns pixels of two values. The first weights of the mixtures count those of these samples,
    and all sizes and seeds have one scale, so that they share what is compiled."""
    network = PixelMixture(rows, problem.sde, width=problem.width, data_std=1.0, key=jr.key(seed))
    return sfp.Score(network, problem.sde, shape=rows.shape)


def convolutions(problem: Problem, method: "Method", rows: data.Dataset, seed: int) -> sfp.score.AbstractScore:
    network = sfp.nn.UNet(
        rows.shape, channels=problem.width, multipliers=(1, 2), attention=(4,), dropout=method.dropout, key=jr.key(seed)
    )
    # An array, so that all sizes and seeds share what is compiled.
    return sfp.NoiseScore(network, problem.sde, data_std=jnp.asarray(rows.std))


PROBLEMS = {
    "digits": Problem("Digits, 8×8", "bits/dim", sfp.VP(), 128, (100, 250, 600, 1437), 8.0, 3, digits, perceptron),
    "digits-mixture": Problem(
        "Digits, 8×8", "bits/dim", sfp.VP(), 128, (100, 250, 600, 1437), 8.0, 3, digits, pixels, 20
    ),
    "digits-unet": Problem(
        "Digits, 8×8", "bits/dim", sfp.VP(), 16, (100, 250, 600, 1437), 40.0, 3, small_images, convolutions, 20
    ),
    "nuclei": Problem(
        "Cell nuclei, ten features", "nats", sfp.VP(t0=1e-3), 96, (50, 100, 200, 441), 4.0, 5, nuclei, perceptron
    ),
    "mnist": Problem("MNIST, 28×28", "bits/dim", sfp.VP(), 128, (100, 600, 4000), 8.0, 3, mnist, pixels, 20),
    "photographs": Problem(
        "Photographs, 8×8", "nats", sfp.VP(), 128, (250, 1000, 16000), 6.0, 3, photographs, coefficients, 20
    ),
    "photographs-perceptron": Problem(
        "Photographs, 8×8", "nats", sfp.VP(), 128, (250, 1000, 16000), 6.0, 3, photographs, perceptron, 5
    ),
}


# ------------------------------------------------------------------------------------------------ methods
@dataclasses.dataclass(frozen=True)
class Method:
    """What is trained.

    Attributes:
        title: Its name for a reader.
        penalty: What is added to the loss for samples of so many elements; `None` for nothing.
        decay: That of the weights.
        dropout: The share of the network's entries that a step drops.
        average: The decay of the average of the parameters.
        potential: Whether the model is a potential.
    """

    title: str
    penalty: Callable[[int], Any] | None = None
    decay: float = 0.0
    dropout: float = 0.0
    average: float = 0.999
    potential: bool = False


def lazy(weight: float) -> Callable[[int], Any]:
    """The recommended setting: a sixteenth of the batch at every fourth step."""
    return lambda d: weight * sfp.Lazy(sfp.ScoreFPE(fraction=1 / 16), every=4)


METHODS = {
    "dsm": Method("DSM"),
    "last": Method("DSM, not averaged", average=0.0),
    "decay": Method("weight decay 0.1", decay=0.1),
    "dropout": Method("dropout 0.1", dropout=0.1),
    "fp-0.1": Method("0.1 FP, lazy", lazy(0.1)),
    "fp": Method("0.5 FP, lazy", lazy(0.5)),
    "fp-2.5": Method("2.5 FP, lazy", lazy(2.5)),
    "fp-quarter": Method("0.5 FP, a quarter", lambda d: 0.5 * sfp.ScoreFPE(fraction=0.25)),
    "both": Method("0.5 FP, lazy, and weight decay 0.1", lazy(0.5), decay=0.1),
    "consistency": Method("0.1 consistency, path-wise", lambda d: 0.1 * sfp.Consistency(pathwise=True, fraction=0.25)),
    "dsm-2": Method("0.5 DSM-2", lambda d: 0.5 * sfp.HighOrderDSM(2, sfp.Hutchinson(), fraction=0.25)),
    "slope": Method("0.1 ‖∂ₜs‖²", lambda d: 0.1 * TimeDerivativeSize(fraction=0.25)),
    "potential": Method("DSM of a potential", potential=True),
    "log-fpe": Method(
        "0.02 log-FPE of a potential",
        lambda d: 0.02 / d * sfp.LogFPE(sfp.Ito(), weighting=log_weighting, unbiased=True, fraction=0.25),
        potential=True,
    ),
}


def fitted(problem: Problem, method: Method, rows: data.Dataset, steps: int, seed: int, **watch: Any) -> train.Run:
    """A model trained for so many steps; cells of one seed share their batches."""
    penalty = None if method.penalty is None else method.penalty(int(np.prod(rows.shape)))
    return train.fit(
        problem.network(problem, method, rows, seed),
        sfp.DSM() if penalty is None else sfp.DSM() + penalty,
        rows,
        optimizer=optimizer(method.decay),
        steps=steps,
        # Batches are drawn with replacement: there may be fewer samples than a batch has.
        batch_size=min(128, len(rows)),
        decay=method.average,
        dropout=method.dropout > 0,
        key=jr.key(100 + seed),
        progress=False,
        report_every=problem.every,
        **watch,
    )


# ------------------------------------------------------------------------------------------------ one cell
class Best:
    """The model with the least loss on the samples held back, of those that are looked at."""

    def __init__(self, look: Callable[[Any], dict[str, float]]) -> None:
        self.look, self.next, self.loss, self.step = look, 0.0, np.inf, 0
        self.model: Any = None

    def __call__(self, report: train.Report) -> None:
        if report.step >= self.next or report.step == report.steps:
            self.next = GROWTH * report.step
            loss = self.look(report.model)["matching/r_DSM_scale_free"]
            if self.model is None or loss < self.loss:
                self.loss, self.step, self.model = loss, report.step, report.model


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a cell depends on beside its name."""

    budget: float
    sde: str
    network: str
    every: int
    measures: str = _cells.fingerprint(repr((*MEASURES, FEW_STEPS, LOOK)))


@dataclasses.dataclass(frozen=True)
class Cell(_cells.Named):
    """One method with so many samples of one data set and one seed."""

    data: str
    method: str
    size: str
    seed: int


def measured(cell: Cell, settings: Settings, problem: Problem, times: dict[str, float]) -> dict[str, Any]:
    """Trains one model, keeps the best of it, and audits that and the last."""
    method = METHODS[cell.method]
    held_back, rows, test = problem.parts(cell.seed, int(cell.size))
    # The samples held back are repeated, each time with a noise of its own.
    often = held_back.rows(np.arange(512) % len(held_back))
    steps = max(1, round(1e3 * settings.budget / times[cell.method] / problem.every)) * problem.every
    best = Best(train.audit_on(often, key=jr.key(2000 + cell.seed), measures=(MatchingCurve(ensemble=LOOK),)))
    run = fitted(problem, method, rows, steps, cell.seed, callbacks=(best,))
    found = {"device": jax.devices()[0].device_kind, "steps": steps, "best step": best.step}
    audit = functools.partial(sfp.audit, data=test, key=jr.key(1000 + cell.seed))
    measures = (FEW_STEPS if method.potential else MEASURES[0], *MEASURES[1:])
    found["best"] = measured_numbers(audit(best.model, measures=measures))
    last = measures[:2]
    found["last"] = found["best"] if best.step == steps else measured_numbers(audit(run.model, measures=last))
    return found


# ------------------------------------------------------------------------------------------------ all cells
def main(arguments: list[str] | None = None) -> None:
    parser = _cells.parser(__doc__, out="docs/assets/data_efficiency")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    which.add_argument("--mnist", type=Path, help="folder of the IDX files of the whole MNIST, in their place")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", help="which to run; three, and five on the nuclei, without")
    parser.add_argument("--sizes", type=int, nargs="+", help="how many samples there are; three or four by default")
    parser.add_argument("--budget", type=float, help="seconds of one core for the steps of a cell; by data set without")
    parser.add_argument("--rounds", type=int, default=5, help="rounds in which the time of a step is taken")
    parser.add_argument("--tables-only", action="store_true", help="run no cell; tables and figures from those there")
    options = parser.parse_args(arguments)
    of_all: dict[str, Found] = {}
    problems = {name: PROBLEMS[name] for name in options.problems}
    if options.mnist:
        problems = whole_mnist(options.mnist)
    for name, problem in problems.items():
        network = f"{problem.network.__name__}, {problem.width}"
        settings = Settings(options.budget or problem.budget, repr(problem.sde), network, problem.every)
        sizes, seeds = options.sizes or problem.sizes, options.seeds or range(problem.seeds)
        # Tables are of all that is there, also where a part is run.
        every = itertools.product({*range(problem.seeds), *seeds}, {*problem.sizes, *sizes}, problem.methods)
        there = [
            Cell(name, key, str(size), seed)
            for seed, size, key in sorted(every)
            if (options.out / f"{Cell(name, key, str(size), seed).name}.json").exists()
            or (not options.tables_only and seed in seeds and size in sizes and key in options.methods)
        ]
        ran = dict.fromkeys(cell.method for cell in there)
        times = {} if options.tables_only else step_times_of(problem, ran, options.out / f"{name}.json", options.rounds)
        found = _cells.cells(options.out, there, settings, functools.partial(measured, problem=problem, times=times))
        controlled = {cell.size for cell in found if cell.method == "dsm"}
        for size in {cell.size for cell in found} - controlled:
            print(f"{name}, n = {size}: no table without cells of dsm, with which the others are compared")
        found = {cell: result for cell, result in found.items() if cell.size in controlled}
        if not found:
            continue
        for ending, table in {"": changes, "-numbers": numbers}.items():
            _cells.write(options.out / f"{name}{ending}.md", table(problem, found))
            print(f"\n{problem.title}, {problem.kind}\n\n{table(problem, found)}")
        _cells.save_figure(figure(problem, found), options.out / f"{name}.png")
        of_all[name] = found
    if list(of_all) == list(PROBLEMS):
        for ending, table in {"cases": cases, "counts": counts, "networks": networks}.items():
            _cells.write(options.out / f"{ending}.md", table(of_all))
            print(f"\n{table(of_all)}")


def step_times_of(problem: Problem, methods: Iterable[str], path: Path, rounds: int) -> dict[str, float]:
    """Milliseconds of a step of each method, from the file and, where it is not there, measured.

    Methods that are added later take their turns with `DSM`, whose time in the file counts.
    """
    known = _cells.read_json(path)["milliseconds a step"] if path.exists() else {}
    missing = [key for key in methods if key not in known]
    if missing:
        _, rows, _ = problem.parts(0, max(problem.sizes))

        def steps(key: str, count: int) -> None:
            fitted(problem, METHODS[key], rows, count, 0)

        found = step_times(steps, list(dict.fromkeys(("dsm", *missing))), rounds, problem.every)
        scale = known.get("dsm", found["dsm"]) / found["dsm"]
        known = _cells.rounded({key: scale * ms for key, ms in found.items()}) | known
        _cells.write_json(path, {"milliseconds a step": known}, indent=1)
    return known


# ------------------------------------------------------------------------------------------------ tables
Found = dict[Cell, dict[str, Any]]
Reading = Callable[[dict[str, Any]], float]


def by_method(found: Found, size: str) -> dict[str, list[dict[str, Any]]]:
    """The cells of one size by method, in the order of seeds; those of `DSM` first."""
    of: dict[str, list[dict[str, Any]]] = {}
    for cell, result in found.items():
        if cell.size == size:
            of.setdefault(cell.method, []).append(result)
    return {key: of[key] for key in METHODS if key in of}


def sizes_of(found: Found) -> list[str]:
    return sorted({cell.size for cell in found}, key=int)


def reading(*names: str, of: str = "best", factor: float = 1.0) -> Reading:
    """A number of a cell by the first name that it has; one that is not finite as infinity."""

    def read(result: dict[str, Any]) -> float:
        value = next(result[of][name][0] for name in names if name in result[of])
        return np.inf if value is None else factor * value

    return read


NLL = ("likelihood.median_bits_per_dim", "likelihood.median_negative_log_likelihood")
MEDIAN, LAST_MEDIAN = reading(*NLL), reading(*NLL, of="last")
BOUND, LAST = reading("bound.bound"), reading("bound.bound", of="last")


def paired(results: list[dict[str, Any]], base: list[dict[str, Any]], read: Reading, other: Reading) -> np.ndarray:
    """The differences to `DSM` with the same seed, of the seeds that both have."""
    return np.asarray([read(result) - other(control) for result, control in _cells.with_same_seed(results, base)])


def written(differences: np.ndarray) -> str:
    """The mean over seeds with the half-width of its 95 % interval; bold where that excludes zero."""
    failed = int(np.sum(~np.isfinite(differences)))
    if failed or not len(differences):
        return f"fails in {failed} of {len(differences)}"
    mean, half = _cells.interval(differences) if len(differences) > 1 else (float(differences[0]), np.inf)
    # Not stopped, some models are off by orders of magnitude.
    form = ".3f" if half < 100 else ".0e"
    said = f"{mean:+{form}} ± {half:{form}}"
    return f"**{said}**" if abs(mean) > half else said


def changes(problem: Problem, found: Found) -> str:
    """Bound and median against those of `DSM` stopped at its best, with as many samples; the value of that above."""
    sizes = {size: by_method(found, size) for size in sizes_of(found)}
    shown = [key for key in METHODS if key != "dsm" and any(key in of for of in sizes.values())]
    tables: list[str] = []
    for title, read, last in (("bound", BOUND, LAST), ("median NLL", MEDIAN, LAST_MEDIAN)):
        means = [f"{np.mean([read(result) for result in of['dsm']]):.3f}" for of in sizes.values()]
        ends = [written(paired(of["dsm"], of["dsm"], last, read)) for of in sizes.values()]
        body = [["DSM, stopped at its best", *means], ["… not stopped", *ends]]
        for key in shown:
            body.append([METHODS[key].title])
            body[-1] += [written(paired(of[key], of["dsm"], read, read)) if key in of else "" for of in sizes.values()]
        headings = [f"{title}, {problem.unit}", *(f"n = {size}" for size in sizes)]
        tables.append(_cells.markdown(headings, body, left=1))
    return "\n".join(tables)


COLUMNS: dict[str, tuple[Reading, str]] = {
    "steps": (lambda result: result["steps"], ".0f"),
    "of which kept, %": (lambda result: 100 * result["best step"] / result["steps"], ".0f"),
    "bound": (BOUND, ".3f"),
    "NLL, median": (MEDIAN, ".3f"),
    "exploded, %": (reading("likelihood.exploded", factor=100), ".2f"),
    "residual": (reading("residual.r_FP_scale_free"), ".4f"),
    "curl": (reading("curl.curl_scale_free"), ".4f"),
    "kernel distance": (reading("quality.kernel"), ".4f"),
}


def numbers(_: Problem, found: Found) -> str:
    """Means over seeds of all that is measured, of the models that are kept."""
    body = [
        [
            METHODS[key].title,
            size,
            *(f"{np.mean([read(result) for result in results]):{form}}" for read, form in COLUMNS.values()),
        ]
        for size in sizes_of(found)
        for key, results in by_method(found, size).items()
    ]
    return _cells.markdown(["method", "n", *COLUMNS], body, left=1)


EARLY = 0.9
"""Of its steps, where `DSM` is at its best before the time is over."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One number of samples of one data set."""

    problem: Problem
    size: str
    methods: dict[str, list[dict[str, Any]]]

    @property
    def kept(self) -> float:
        """Of the steps of `DSM`, those of the model that is kept."""
        return float(np.mean([result["best step"] / result["steps"] for result in self.methods["dsm"]]))

    def change(self, key: str, read: Reading) -> np.ndarray:
        return paired(self.methods[key], self.methods["dsm"], read, read)


KINDS = ("perceptron", "U-Net", "mixture")


def in_order(of: dict[str, Found]) -> list[Case]:
    """All cases by network, those first where `DSM` stops first."""
    every = [
        Case(PROBLEMS[name], size, by_method(found, size)) for name, found in of.items() for size in sizes_of(found)
    ]
    return sorted(every, key=lambda case: (KINDS.index(case.problem.kind), case.kept))


def cases(of: dict[str, Found]) -> str:
    """Where `DSM` stops, and what the penalty changes."""
    shown = ("fp", "fp-2.5")
    body: list[list[str]] = []
    for case in in_order(of):
        problem = case.problem
        body.append([problem.kind, problem.data, case.size, f"{100 * case.kept:.0f}"])
        for key in shown:
            body[-1] += [written(case.change(key, read)) if key in case.methods else "" for read in (BOUND, MEDIAN)]
    headings = [f"{what}, {METHODS[key].title}" for key in shown for what in ("bound", "median")]
    return _cells.markdown(["network", "data", "n", "DSM kept at, %", *headings], body, left=2)


def networks(of: dict[str, Found]) -> str:
    """The bound of `DSM`, stopped at its best, with each network, of the data that have several."""
    bounds = {
        (case.problem.data, case.size, case.problem.kind): f"{np.mean([BOUND(run) for run in case.methods['dsm']]):.3f}"
        for case in in_order(of)
    }
    titles = [problem.data for problem in PROBLEMS.values()]
    rows = sorted({(titles.index(title), int(size)) for title, size, _ in bounds if titles.count(title) > 1})
    body = [[titles[i], f"{n}", *(bounds.get((titles[i], f"{n}", kind), "") for kind in KINDS)] for i, n in rows]
    return _cells.markdown(["bound of DSM", "n", *KINDS], body, left=1)


def counts(of: dict[str, Found]) -> str:
    """In how many cases a method is below `DSM` and above it, and in how many its interval excludes zero."""
    body: list[list[str]] = []
    for kind, early, key in itertools.product(KINDS, (True, False), METHODS):
        having = [
            case
            for case in in_order(of)
            if (case.problem.kind, case.kept < EARLY) == (kind, early)
            and key in case.methods
            and len(case.change(key, BOUND)) > 1
        ]
        if key == "dsm" or METHODS[key].potential or not having:
            continue
        body.append([kind, "before the end" if early else "at the end", METHODS[key].title, str(len(having))])
        for read in (BOUND, MEDIAN):
            changes = [case.change(key, read) for case in having]
            # One that fails in a seed is no better and no worse, as in the other tables.
            ends = [_cells.interval(change) for change in changes if np.isfinite(change).all()]
            for sign in (-1, 1):
                there = [abs(mean) > half for mean, half in ends if sign * mean > 0]
                body[-1].append(f"{len(there)} ({sum(there)})")
    headings = [f"{what} {side}" for what in ("bound", "median") for side in ("below", "above")]
    return _cells.markdown(["network", "DSM is best", "method", "cases", *headings], body, left=3)


# ------------------------------------------------------------------------------------------------ figures
SHOWN = {"dsm": "C7", "decay": "C0", "dropout": "C2", "fp": "C1", "fp-2.5": "C3", "both": "C4"}


def figure(problem: Problem, found: Found) -> Figure:
    """Against the number of samples: bound and median beside those of `DSM`, residual and kernel distance."""
    view = Figure(figsize=(9.5, 7.5), layout="constrained")
    panels = view.subplots(2, 2, sharex=True)
    unit, sizes = problem.unit, sizes_of(found)
    of = {size: by_method(found, size) for size in sizes}
    shown = [key for key in SHOWN if all(key in of[size] for size in sizes)]
    rows: dict[str, tuple[Reading, bool]] = {
        f"bound − DSM's, {unit}": (BOUND, True),
        f"NLL, median − DSM's, {unit}": (MEDIAN, True),
        "residual, scale-free": (COLUMNS["residual"][0], False),
        "kernel distance": (COLUMNS["kernel distance"][0], False),
    }
    for axes, (title, (read, difference)) in zip(panels.flat, rows.items(), strict=True):
        for i, key in enumerate(shown):
            values = [
                paired(of[size][key], of[size]["dsm"], read, read)
                if difference
                else np.asarray([read(result) for result in of[size][key]])
                for size in sizes
            ]
            x = np.asarray([float(size) for size in sizes]) * 1.04 ** (i - len(shown) / 2)
            axes.plot(x, [v.mean() for v in values], color=SHOWN[key], label=METHODS[key].title)
            for place, seeds in zip(x, values, strict=True):
                axes.scatter(np.full(len(seeds), place), seeds, color=SHOWN[key], s=14)
        axes.set(title=title, xscale="log")
        axes.set_xticks([float(size) for size in sizes], sizes)
        axes.minorticks_off()
        axes.grid(True)
    panels[1, 0].set_yscale("log")
    panels[1, 0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 4, 6, 8)))
    panels[1, 0].yaxis.set_major_formatter("{x:g}")
    panels[1, 0].yaxis.set_minor_formatter(NullFormatter())
    for axes in panels[1]:
        axes.set_xlabel("samples")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    view.legend(handles, labels, loc="outside lower center", ncols=3)
    return view


if __name__ == "__main__":
    main()
