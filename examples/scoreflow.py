"""ScoreFlow at a small scale: Table 2 and Figure 2 of Song 2021 on real handwritten digits and photographs.

Rows are score matching with the common weighting (baseline), with the likelihood weighting (LW), and with importance
sampling of times on top (LW + IS), each for VP and sub-VP. Columns are the negative log-likelihood of the
probability-flow ODE and the bound of the reverse SDE, under uniform and under variational dequantisation. LW + IS with
variational dequantisation is what the paper calls a ScoreFlow.

    python examples/scoreflow.py

Each cell, one row for one SDE and one seed, writes one JSON file to `docs/assets/scoreflow/` and is skipped when the
file is there: a killed run resumes where it stopped, its models are in `.cache/scoreflow/`. Tables and the figure are
made from these files alone. A file made with other settings is refused; give `--out` another folder then.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import _cells
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from matplotlib.figure import Figure

import scorefp as sfp
from scorefp import data, train
from scorefp.diagnostics import evaluate

# The truncations of the paper's appendix B: 1e-5 for VP, which is the class's own, and 1e-2 for sub-VP.
SDES = {"VP": sfp.VP(t0=1e-5), "sub-VP": sfp.SubVP(t0=1e-2)}
ROWS = {
    "baseline": (sfp.DSM(weighting=sfp.noise_weighting), sfp.UniformTime()),
    "LW": (sfp.DSM(), sfp.UniformTime()),
    "LW + IS": (sfp.DSM(), sfp.UniformLogSNR()),
}
DATA: dict[str, Callable[[Any], data.Dataset]] = {
    "digits": data.digits,
    "mnist": data.mnist,
    "photographs": functools.partial(data.photographs, size=8),
}
NAMES = {"digits": "digits, 8×8", "mnist": "MNIST, 28×28", "photographs": "photographs, 8×8"}
DEQUANTISATIONS = ("uniform", "variational")
# How the time of a loss is drawn, for its variance.
TIMES = {
    "uniform, independent": sfp.UniformTime(stratified=False),
    "uniform, stratified": sfp.UniformTime(),
    "importance, independent": sfp.UniformLogSNR(stratified=False),
    "importance, stratified": sfp.UniformLogSNR(),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a cell depends on beside its name."""

    steps: int
    width: int
    points: int
    draws: int
    dequantiser_steps: int
    dequantiser_width: int = 64
    dequantiser_layers: int = 4
    batch_size: int = 128
    dequantiser_batch_size: int = 64
    dequantiser_draws: int = 2
    rate: float = 1e-3
    dequantiser_rate: float = 2e-3


DEFAULT = {
    "digits": Settings(steps=4000, width=256, points=360, draws=64, dequantiser_steps=500),
    "mnist": Settings(steps=2500, width=256, points=150, draws=16, dequantiser_steps=150),
    "photographs": Settings(steps=1200, width=256, points=100, draws=16, dequantiser_steps=100),
}
QUICK = Settings(
    steps=200,
    width=32,
    points=12,
    draws=8,
    dequantiser_steps=20,
    dequantiser_width=8,
    dequantiser_layers=2,
    batch_size=64,
    dequantiser_batch_size=16,
)


@dataclasses.dataclass(frozen=True)
class Cell(_cells.Named):
    """One row for one SDE, data set and seed."""

    data: str
    sde: str
    row: str
    seed: int


def main(arguments: list[str] | None = None) -> None:
    parser = _cells.parser(__doc__, out="docs/assets/scoreflow", seeds=(0, 1, 2))
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--steps", type=int, help="training steps of each score")
    parser.add_argument("--cache", type=Path, default=Path(".cache/scoreflow"), help="where trained models are kept")
    parser.add_argument("--quick", action="store_true", help="few steps and points, to see that it runs")
    parser.add_argument(
        "--tables-only", action="store_true", help="run no cell; tables and figure from those there are"
    )
    options = parser.parse_args(arguments)
    for name in options.data:
        settings = QUICK if options.quick else DEFAULT[name]
        if options.steps is not None:
            settings = dataclasses.replace(settings, steps=options.steps)
        of = [Cell(name, sde, row, seed) for seed in options.seeds for sde in SDES for row in ROWS]
        if options.tables_only:
            of = [cell for cell in of if (options.out / f"{cell.name}.json").exists()]
        found: Found = {}
        make = functools.partial(measured, cache=options.cache)
        for cell, result in _cells.cells(options.out, of, settings, make).items():
            found.setdefault((cell.sde, cell.row), []).append(result)
        if found:
            print(f"\n{NAMES[name]}\n")
            tables = {"": table, "-spread": spread, "-observations": observations, "-variance": variances}
            for ending, of in tables.items():
                _cells.write(options.out / f"{name}{ending}.md", of(found))
                print(of(found))
    learning_curves(options.out)


# ------------------------------------------------------------------------------------------------ one cell


def measured(cell: Cell, settings: Settings, cache: Path) -> dict[str, Any]:
    """Trains a score and a dequantiser, and evaluates the score under both dequantisations."""
    training, test = DATA[cell.data]("train"), DATA[cell.data]("test")
    test = test.rows(np.arange(settings.points))
    seconds: dict[str, float] = {}
    folder = cache / f"{cell.name}-{_cells.fingerprint(dataclasses.asdict(settings))}"

    model = untrained(cell, settings, training)
    score, history = kept(folder / "score", seconds, model, lambda: fitted(cell, settings, model, training))
    variance = timed("variance", seconds, lambda: loss_variance(score, training, settings.batch_size))
    start = uniform_at_first(cell.data, cell.seed, settings)
    dequantiser, curve = kept(
        folder / "dequantiser", seconds, start, lambda: fitted_dequantiser(cell, settings, start, score, training)
    )
    result: dict[str, Any] = {
        "history": blocks(history["loss"]),
        "loss_variance_of_last_half": detrended_variance(history["loss"]),
        "loss_variance_of_final_score": variance,
        "dequantiser_history": {name: blocks(values) for name, values in curve.items()},
    }
    for name in DEQUANTISATIONS:
        chosen = None if name == "uniform" else dequantiser
        # The same key for both: probes, times and noises of the bound are shared, so that differences are precise.
        found = timed(
            f"evaluation, {name}",
            seconds,
            lambda chosen=chosen: evaluate(
                score,
                test,
                key=jr.key(3000 + cell.seed),
                dequantiser=chosen,
                trace=sfp.Hutchinson(),
                integrator=sfp.Integrator(rtol=1e-5, atol=1e-5, throw=False),
                draws=settings.draws,
                batch_size=50,
            ),
        )
        numbers, points = _cells.evaluated(found)
        result[name] = {
            "numbers": {key: [number.value, number.half_width] for key, number in numbers.items()},
            "points": points,
        }
    return result | {"seconds": {name: round(value, 1) for name, value in seconds.items()}}


class PixelMixture(eqx.Module):
    r"""The score of independent mixtures of three normal laws, one a pixel, given what a perceptron sees of the image.

    Most pixels of MNIST are black up to the width of a level, 1/256 of the range. Near `t0` a noise prediction must
    tell them from others with a gain of $1/\sigma$, for 784 pixels at once, which a perceptron narrower than the image
    cannot. With the context $c$ of the whole noisy image held fixed, the score of a pixel has a closed form,

    $$ s_i = -\sum_k r_{ik}\,\frac{x_i - \alpha\mu_{ik}}{\alpha^2 v_{ik} + \sigma^2}, \qquad
       r_{ik} \propto \pi_{ik}(c)\,\mathcal N(x_i;\, \alpha\mu_{ik},\, \alpha^2 v_{ik} + \sigma^2). $$

    The weights of the three laws and the third law depend on the context; the first two start at black and at white.
    """

    trunk: eqx.nn.MLP
    leave: eqx.nn.Linear
    logits: jax.Array
    means: jax.Array
    log_stds: jax.Array
    sde: sfp.LinearSDE | sfp.VP | sfp.SubVP
    data_std: float = eqx.field(static=True)

    def __init__(
        self, training: data.Dataset, sde: Any, *, width: int, data_std: float | None = None, key: Any
    ) -> None:
        assert training.quantisation is not None
        size, levels, span = training.shape[0], training.quantisation.levels, training.quantisation.width
        trunk_key, leave_key = jr.split(key)
        features = sfp.nn.fourier_features(jnp.zeros(())).size
        self.trunk = eqx.nn.MLP(
            size + features, width, width, 2, activation=jax.nn.silu, final_activation=jax.nn.silu, key=trunk_key
        )
        leave = eqx.nn.Linear(width, 5 * size, key=leave_key)
        self.leave = jax.tree.map(jnp.zeros_like, leave)
        values = np.asarray(training.values)
        black, white = np.sum(values == 0, axis=0), np.sum(values == levels - 1, axis=0)
        counts = np.stack([black, white, len(values) - black - white])
        self.logits = jnp.log(jnp.asarray(counts + 1.0) / (len(values) + 3))
        ends = training.quantisation.low + span / 2, training.quantisation.high - span / 2
        self.means = jnp.stack([jnp.full(size, ends[0]), jnp.full(size, ends[1]), jnp.zeros(size)])
        inside = np.log(span / np.sqrt(12))
        self.log_stds = jnp.stack([jnp.full(size, inside), jnp.full(size, inside), jnp.full(size, np.log(0.6))])
        self.sde, self.data_std = sde, training.std if data_std is None else data_std

    def __call__(self, t: jax.Array, x: jax.Array) -> jax.Array:
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        scaled = x / jnp.sqrt((alpha * self.data_std) ** 2 + sigma**2)
        context = jnp.concatenate([scaled, sfp.nn.fourier_features(jnp.log(sigma / alpha) / 4)])
        out = self.leave(self.trunk(context)).reshape(5, -1)
        logits = self.logits + out[:3]
        means = self.means.at[2].add(out[3])
        log_stds = self.log_stds.at[2].add(out[4])
        return mixture_score(self.sde, t, x, logits, means, log_stds)


class ComponentMixture(eqx.Module):
    r"""The score of independent mixtures of three normal laws, one a principal component, given the whole noisy image.

    What tells patches of photographs apart is their contrast: a smooth one has a hundredth of the variance of a rough
    one in all fine components at once, and noise has the same law in every orthonormal basis. Scales of a component are
    those of the training data; the three laws start at 0.2, 0.8 and 2.7 of them, and depend on the context.
    """

    trunk: eqx.nn.MLP
    leave: eqx.nn.Linear
    mean: jax.Array
    axes: jax.Array
    stds: jax.Array
    sde: sfp.LinearSDE | sfp.VP | sfp.SubVP

    def __init__(self, training: data.Dataset, sde: Any, *, width: int, key: Any) -> None:
        assert training.quantisation is not None
        low, span = training.quantisation.low, training.quantisation.width
        values = low + span * (np.asarray(training.values, np.float64).reshape(len(training), -1) + 0.5)
        size = values.shape[1]
        # What uniform noise inside the levels adds to the covariance.
        spectrum, axes = np.linalg.eigh(np.cov(values.T) + np.eye(size) * span**2 / 12)
        self.mean, self.axes, self.stds = (
            jnp.asarray(part, jnp.float32) for part in (values.mean(axis=0), axes, np.sqrt(spectrum))
        )
        trunk_key, leave_key = jr.split(key)
        features = sfp.nn.fourier_features(jnp.zeros(())).size
        self.trunk = eqx.nn.MLP(
            size + features, width, width, 2, activation=jax.nn.silu, final_activation=jax.nn.silu, key=trunk_key
        )
        self.leave = jax.tree.map(jnp.zeros_like, eqx.nn.Linear(width, 9 * size, key=leave_key))
        self.sde = sde

    def __call__(self, t: jax.Array, x: jax.Array) -> jax.Array:
        mean, axes, stds = jax.lax.stop_gradient((self.mean, self.axes, self.stds))
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        components = (x.reshape(-1) - alpha * mean) @ axes
        scaled = components / jnp.sqrt((alpha * stds) ** 2 + sigma**2)
        context = jnp.concatenate([scaled, sfp.nn.fourier_features(jnp.log(sigma / alpha) / 4)])
        logits, means, log_scales = self.leave(self.trunk(context)).reshape(3, 3, -1)
        log_stds = jnp.log(stds) + jnp.asarray([-1.5, -0.25, 1.0])[:, None] + log_scales
        return (axes @ mixture_score(self.sde, t, components, logits, stds * means, log_stds)).reshape(x.shape)


def mixture_score(
    sde: Any, t: jax.Array, x: jax.Array, logits: jax.Array, means: jax.Array, log_stds: jax.Array
) -> jax.Array:
    """The score of independent mixtures, one an entry of `x`; the laws of a mixture come first in the other arrays."""
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    variances = (alpha * jnp.exp(log_stds)) ** 2 + sigma**2
    offsets = x - alpha * means
    shares = jax.nn.softmax(jax.nn.log_softmax(logits, 0) - 0.5 * (jnp.log(variances) + offsets**2 / variances), 0)
    return -jnp.sum(shares * offsets / variances, axis=0)


MIXTURES = {"mnist": PixelMixture, "photographs": ComponentMixture}
"""The networks of data that a perceptron hardly learns."""


def untrained(cell: Cell, settings: Settings, training: data.Dataset) -> sfp.score.AbstractScore:
    """The score to start from; cells of one seed share its arrays."""
    sde, key = SDES[cell.sde], jr.key(cell.seed)
    if cell.data in MIXTURES:
        network = MIXTURES[cell.data](training, sde, width=settings.width, key=key)
        return sfp.Score(network, sde, shape=training.shape)
    return sfp.NoiseScore(sfp.nn.MLP(training.shape, width=settings.width, key=key), sde, data_std=training.std)


def fitted(
    cell: Cell, settings: Settings, model: sfp.score.AbstractScore, training: data.Dataset
) -> tuple[sfp.score.AbstractScore, dict[str, np.ndarray]]:
    """A trained score, and its losses; cells of one seed share their batches."""
    objective, times = ROWS[cell.row]
    run = train.fit(
        model,
        objective,
        training,
        optimizer=_cells.adam(settings.rate, settings.steps),
        steps=settings.steps,
        key=jr.key(100 + cell.seed),
        batch_size=settings.batch_size,
        time=times,
        progress=False,
    )
    return run.model, {"loss": run.history["loss"]}


@functools.cache
def uniform_at_first(name: str, seed: int, settings: Settings) -> sfp.VariationalDequantiser:
    """The dequantiser to start from, one for all cells of a seed."""
    training = DATA[name]("train")
    assert training.quantisation is not None
    return sfp.likelihood.variational_dequantiser(
        training.shape,
        training.quantisation,
        layers=settings.dequantiser_layers,
        width=settings.dequantiser_width,
        key=jr.key(200 + seed),
    )


def fitted_dequantiser(
    cell: Cell,
    settings: Settings,
    start: sfp.VariationalDequantiser,
    score: sfp.score.AbstractScore,
    training: data.Dataset,
) -> tuple[sfp.VariationalDequantiser, dict[str, np.ndarray]]:
    """A dequantiser trained through the bound of the score, which stays as it is, and its losses."""
    run = train.fit_dequantiser(
        start,
        score,
        training,
        optimizer=clipped(settings.dequantiser_rate, settings.dequantiser_steps),
        steps=settings.dequantiser_steps,
        key=jr.key(300 + cell.seed),
        batch_size=settings.dequantiser_batch_size,
        draws=settings.dequantiser_draws,
        progress=False,
    )
    return run.dequantiser, run.history


@functools.cache
def clipped(rate: float, steps: int) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(100.0), _cells.adam(rate, steps))


def loss_variance(
    score: sfp.score.AbstractScore, training: data.Dataset, batch_size: int
) -> dict[str, dict[str, float]]:
    """Mean and variance over 200 batches of the likelihood-weighted loss of one score, for each way to draw times."""

    found: dict[str, dict[str, float]] = {}
    for name, times in TIMES.items():
        values = np.asarray(losses(score, training, times, batch_size, jr.split(jr.key(4000), 200)), np.float64)
        found[name] = {"mean": float(values.mean()), "variance": float(values.var(ddof=1))}
    return found


@eqx.filter_jit
def losses(
    score: sfp.score.AbstractScore, training: data.Dataset, times: Any, batch_size: int, keys: jax.Array
) -> jax.Array:
    def one(key: jax.Array) -> jax.Array:
        index_key, level_key, loss_key = jr.split(key, 3)
        x = training.rows(jr.randint(index_key, (batch_size,), 0, len(training))).dequantised(level_key).values
        return sfp.DSM()(score, x, key=loss_key, time=times)

    return jax.lax.map(one, keys)


def detrended_variance(loss: np.ndarray, window: int = 101) -> float:
    """The variance of the losses of the last half of the steps about their running mean."""
    tail = np.asarray(loss[len(loss) // 2 :], np.float64)
    window = min(window, len(tail) // 2 * 2 - 1)
    middle = np.convolve(tail, np.ones(window) / window, "valid")
    residual = tail[window // 2 : window // 2 + len(middle)] - middle
    # A value about the mean of the `window` values around it has (1 - 1/window) of its variance.
    return float(np.mean(residual**2) / (1 - 1 / window))


def blocks(values: np.ndarray, count: int = 120) -> dict[str, list[float]]:
    """A curve in at most so many blocks: the mean and the standard deviation of each."""
    parts = np.array_split(np.asarray(values, np.float64), min(count, len(values)))
    return _cells.rounded({"mean": [p.mean() for p in parts], "std": [p.std() for p in parts]})


def timed(name: str, seconds: dict[str, float], work: Callable[[], Any]) -> Any:
    begin = time.perf_counter()
    result = work()
    seconds[name] = time.perf_counter() - begin
    print(f"  {name}: {seconds[name]:.0f} s", flush=True)
    return result


def kept(
    path: Path, seconds: dict[str, float], start: Any, work: Callable[[], tuple[Any, dict[str, np.ndarray]]]
) -> tuple[Any, dict[str, np.ndarray]]:
    """What `work` makes of `start`, and its history, from the cache if they are there."""

    def made() -> tuple[Any, dict[str, Any]]:
        model, history = timed(path.name, seconds, work)
        curves = {name: values.tolist() for name, values in history.items()}
        return model, {"seconds": seconds[path.name], "history": curves}

    model, notes = _cells.kept(path, start, made)
    seconds[path.name] = notes["seconds"]
    return model, {name: np.asarray(values) for name, values in notes["history"].items()}


# ------------------------------------------------------------------------------------------------ tables and figure

Found = dict[tuple[str, str], list[dict[str, Any]]]
"""The results of all seeds, by SDE and row."""


def points(results: list[dict[str, Any]], dequantisation: str, name: str) -> np.ndarray:
    """The value of each test image, averaged over the seeds."""
    return np.mean([np.asarray(r[dequantisation]["points"][name], np.float64) for r in results], axis=0)


def shown(values: np.ndarray) -> str:
    mean, half = _cells.interval(values)
    return f"{mean:.3f} ± {half:.3f}" if abs(mean) < 1000 else f"{mean:.3g} ± {half:.2g}"


def table(found: Found) -> str:
    """Negative log-likelihoods and bounds, in bits per dimension."""
    body = [
        [sde, row, *(shown(points(results, d, name)) for d in DEQUANTISATIONS for name in ("nll", "bound"))]
        for (sde, row), results in found.items()
    ]
    headings = ["SDE", "training", "NLL, uniform", "bound, uniform", "NLL, variational", "bound, variational"]
    return _cells.markdown(headings, body, left=2)


def spread(found: Found) -> str:
    """Medians, exploded trajectories, the least and the largest mean over seeds, and what a cell cost."""

    def over_seeds(results: list[dict[str, Any]], name: str, field: str) -> str:
        values = [r[name]["numbers"][field][0] for r in results]
        return f"{values[0]:.3f}" if len(values) == 1 else f"{min(values):.3f} to {max(values):.3f}"

    def share(results: list[dict[str, Any]]) -> str:
        return f"{100 * np.mean([r[d]['numbers']['exploded'][0] for r in results for d in DEQUANTISATIONS]):.1f} %"

    body = [
        [
            sde,
            row,
            *(over_seeds(results, d, "nll_median") for d in DEQUANTISATIONS),
            *(over_seeds(results, d, "nll") for d in DEQUANTISATIONS),
            share(results),
            f"{np.mean([sum(r['seconds'].values()) for r in results]) / 60:.1f}",
        ]
        for (sde, row), results in found.items()
    ]
    headings = ["SDE", "training"]
    headings += [f"{what}, {d}" for what in ("median NLL", "mean NLL") for d in DEQUANTISATIONS]
    return _cells.markdown([*headings, "exploded", "minutes a cell"], body, left=2)


def observations(found: Found) -> str:
    """Where the paper's five observations hold: the interval of a mean difference over images decides, if it can."""

    def values(sde: str, row: str, d: str, name: str) -> np.ndarray:
        return points(found[sde, row], d, "nll" if name == "NLL" else name)

    def compared(better: str, worse: str) -> list[Check]:
        return [
            check(
                f"{name} of {sde}, {better} less {worse}, {d}",
                values(sde, better, d, name),
                values(sde, worse, d, name),
            )
            for sde in SDES
            if (sde, better) in found and (sde, worse) in found
            for d in DEQUANTISATIONS
            for name in ("NLL", "bound")
        ]

    def agreement(a: str, b: str) -> list[Check]:
        checks: list[Check] = []
        for by_nll, by_bound in zip(*[iter(compared(a, b))] * 2, strict=True):
            # Undecided if one of the two is.
            name = by_nll.name.removeprefix("NLL of ").replace(" less ", " and ")
            checks.append(Check(name, by_nll.sign * by_bound.sign, max(by_nll.half, by_bound.half)))
        return checks

    lines = {
        "1. the bound is above the NLL": [
            check(f"{sde}, {row}, {d}, NLL less bound", values(sde, row, d, "NLL"), values(sde, row, d, "bound"))
            for sde, row in found
            for d in DEQUANTISATIONS
        ],
        "2. the training of the lower bound has the lower NLL": [
            *agreement("LW", "baseline"),
            *agreement("LW + IS", "LW"),
            *agreement("LW + IS", "baseline"),
        ],
        "3. LW alone improves NLL and bound": compared("LW", "baseline"),
        "4. LW + IS improves NLL and bound, over the baseline and over LW": [
            *compared("LW + IS", "baseline"),
            *compared("LW + IS", "LW"),
        ],
        "5. variational dequantisation improves NLL and bound": [
            check(f"{name} of {sde}, {row}", values(sde, row, "variational", name), values(sde, row, "uniform", name))
            for sde, row in found
            for name in ("NLL", "bound")
        ],
    }
    body: list[list[str]] = []
    for title, checks in lines.items():
        counts = [str(sum(check.sign == wanted for check in checks)) for wanted in (1, -1, 0)]
        halves = [check.half for check in checks if check.sign == 0]
        power = f"± {np.median(halves):.2g}, ± {max(halves):.2g}" if halves else ""
        body.append([title, "; ".join(check.name for check in checks if check.sign < 0) or "nowhere", *counts, power])
    headings = ["observation", "fails for", "holds", "fails", "undecided", "their intervals"]
    return _cells.markdown(headings, body, left=2)


class Check(NamedTuple):
    """What is compared: 1 where it holds, -1 where it fails, 0 where the interval of the difference contains zero."""

    name: str
    sign: int
    half: float


def check(name: str, lower: np.ndarray, higher: np.ndarray) -> Check:
    """Whether the first is lower than the second in the mean over images."""
    mean, half = _cells.interval(lower - higher)
    if abs(mean) <= half:
        return Check(name, 0, half)
    return Check(f"{name}: {mean:+.3f} ± {half:.3f}", 1 if mean < 0 else -1, half)


def variances(found: Found) -> str:
    """The variance of the likelihood-weighted loss with and without importance sampling."""
    body: list[list[str]] = []
    for (sde, row), results in found.items():
        if row != "LW + IS":
            continue
        without = found.get((sde, "LW"))
        if without:
            ends = [float(np.mean([r["loss_variance_of_last_half"] for r in rs])) for rs in (without, results)]
            body.append([sde, "both trainings, last half of the steps, stratified", *ratio(*ends)])
        for kind in ("independent", "stratified"):
            values = [
                float(np.mean([r["loss_variance_of_final_score"][f"{t}, {kind}"]["variance"] for r in results]))
                for t in ("uniform", "importance")
            ]
            body.append([sde, f"the final score of LW + IS, 200 batches, {kind}", *ratio(*values)])
    return _cells.markdown(["SDE", "losses of", "uniform times", "importance sampling", "ratio"], body, left=2)


def ratio(without: float, with_: float) -> list[str]:
    return [f"{without:.4g}", f"{with_:.3g}", f"{without / with_:.3g}"]


def learning_curves(out: Path) -> None:
    """Figure 2 of the paper: the likelihood-weighted loss of training with and without importance sampling."""

    def files(name: str, sde: str) -> dict[str, Path]:
        return {row: out / f"{Cell(name, sde, row, 0).name}.json" for row in ("LW", "LW + IS")}

    names = [name for name in DATA if all(path.exists() for sde in SDES for path in files(name, sde).values())]
    if not names:
        return
    view = Figure(figsize=(3.4 * len(names), 3.0 * len(SDES)), layout="constrained")
    grid = view.subplots(len(SDES), len(names), squeeze=False)
    for axes, (sde, name) in zip(grid.flat, itertools.product(SDES, names), strict=True):
        for row, color in (("LW", "tab:orange"), ("LW + IS", "tab:blue")):
            cell = _cells.read_json(files(name, sde)[row])
            history, steps = cell["history"], cell["settings"]["steps"]
            mean, std = np.asarray(history["mean"]), np.asarray(history["std"])
            at = (np.arange(len(mean)) + 0.5) * steps / len(mean)
            axes.plot(at, mean, color=color, label=row)
            axes.fill_between(at, np.maximum(mean - std, mean.min() / 2), mean + std, color=color, alpha=0.25, lw=0)
        # Under VP the loss of LW alone ranges over decades.
        axes.set(title=f"{NAMES[name]}, {sde}", yscale="log" if sde == "VP" else "linear")
        axes.grid(alpha=0.3)
    for axes in grid[-1]:
        axes.set_xlabel("step")
    for axes in grid[:, 0]:
        axes.set_ylabel("loss, nats a sample")
    view.legend(*view.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    _cells.save_figure(view, out / "importance_sampling.png")


if __name__ == "__main__":
    main()
