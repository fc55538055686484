"""Daras 2023 at the scale of digits: fine-tuning with consistency, its Table 2, and its Figure 1.

A network denoises the 8×8 digits by EDM's process, times, weighting and preconditioning. *Fine*: it is trained by score
matching, and from there continues with the paper's consistency, with more of it, and with score matching alone, for as
many steps and for as long. *Scratch*, the paper's Table 2: trained from the first step with consistency, and with score
matching for the noisier 80 % of the sampler's steps only.

    python examples/daras.py

Each cell, one row and one seed, is a JSON file in `docs/assets/daras/` and is skipped when the file is there: a killed
run resumes where it stopped, its models are in `.cache/daras/`. Tables and figure are made from these files alone. A
file made with other settings is refused; give `--out` another folder then.

The paper has FIDs: fine-tuned on FFHQ 2.61 with consistency, from 2.68 (§5.1); in Table 2, on CIFAR-10 after 10,000
steps, 5.81 by score matching, 5.45 with consistency, 6.59 where some times are not matched, 14.52 stopped before them.
"""

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import _cells
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _flows import Clock
from matplotlib.figure import Figure
from quality import Settings as Features, classified

import scorefp as sfp
from scorefp import data, quality, train
from scorefp.diagnostics import ConsistencyCurves, evaluate
from scorefp.objective import ExpectedWeighting, NoiseWindow
from scorefp.sampling import AbstractSampler, Churn, Denoised, RhoGrid

SDE = sfp.EDM()
LAW = sfp.LogNormalNoise()
DIGITS = data.digits("train")
EDM = sfp.edm_loss(DIGITS.std, LAW)
# The time that four fifths of the sampler's steps reach.
THRESHOLD = float(RhoGrid()(SDE, 20)[16])


def consistency(weight: float, *, pathwise: bool = False) -> sfp.objective.Objective:
    """The term of the paper: the mean over EDM's noise levels, six steps, a window of 0.05 in the noise level.

    The weight is that over the one of the public code, 10 without the half of the term; the paper names none.
    """
    term = sfp.Consistency(NoiseWindow(0.05), weighting=ExpectedWeighting(sfp.unit_weighting, LAW), pathwise=pathwise)
    return 20.0 * weight * term


START, STEPS, TIME = "EDM", "EDM, as many steps", "EDM, as long"
CDM, MORE, MOST, PATH = "CDM", "CDM, weight 100", "CDM, weight 1000", "CDM, weight 1000, path-wise"
OWN = "scale-free consistency, 0.5"
ALL, ALL_MORE, ALONE = "CDM, all times", "CDM, all times, weight 100", "EDM, some times"
SOME, SOME_PATH = "CDM, some times", "CDM, some times, weight 1000, path-wise"
LATE = 1.0 * sfp.Restricted(sfp.DSM(ExpectedWeighting(sfp.objective.EDMWeighting(DIGITS.std), LAW)), start=THRESHOLD)
LOSSES: dict[str, dict[str, Any]] = {
    "fine": {
        START: EDM,
        STEPS: EDM,
        TIME: EDM,
        CDM: EDM + consistency(1.0),
        MORE: EDM + consistency(100.0),
        MOST: EDM + consistency(1000.0),
        PATH: EDM + consistency(1000.0, pathwise=True),
        OWN: EDM + 0.5 * sfp.Consistency(),
    },
    "scratch": {
        START: EDM,
        TIME: EDM,
        ALL: EDM + consistency(1.0),
        ALL_MORE: EDM + consistency(100.0),
        ALONE: 2 * LATE,
        SOME: 2 * LATE + consistency(1.0),
        SOME_PATH: 2 * LATE + consistency(1000.0, pathwise=True),
    },
}
BASE = {"fine": STEPS, "scratch": START}
# Evaluations of the network: 9 and 35, the latter the paper's for CIFAR-10; the stochastic one has EDM's churn for
# CIFAR-10 and 71.
SAMPLERS: dict[str, AbstractSampler] = {
    "9": Denoised(sfp.Heun(4)),
    "35": Denoised(sfp.Heun(17)),
    "stochastic": Denoised(sfp.Heun(35, churn=Churn(30.0, 0.01, 1.0, 1.007))),
}
STOPPED: AbstractSampler = Denoised(sfp.Heun(14))


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a cell depends on beside its name."""

    steps: int = 6000
    fine_steps: int = 1000
    scratch_steps: int = 2000
    longer: float = 6.2
    """The steps of score matching that take the time of one with consistency."""
    width: int = 128
    rate: float = 1e-3
    fine_rate: float = 3e-4
    batch_size: int = 128
    samples: int = 4000
    points: int = 360
    draws: int = 16


QUICK = Settings(20, 10, 10, width=8, batch_size=16, samples=40, points=8, draws=2)


@dataclasses.dataclass(frozen=True)
class Cell(_cells.Named):
    """One experiment, one row and one seed."""

    part: str
    row: str
    seed: int


def main(arguments: list[str] | None = None) -> None:
    parser = _cells.parser(__doc__, out="docs/assets/daras", seeds=range(4))
    parser.add_argument("--cache", type=Path, default=Path(".cache/daras"), help="where trained models are kept")
    parser.add_argument("--parts", nargs="+", choices=list(LOSSES), default=list(LOSSES))
    parser.add_argument("--quick", action="store_true", help="few steps and samples, to see that it runs")
    parser.add_argument("--tables-only", action="store_true", help="run no cell; tables of those there are")
    options = parser.parse_args(arguments)
    settings = QUICK if options.quick else Settings()
    of = [Cell(part, row, seed) for seed in options.seeds for part in LOSSES for row in LOSSES[part]]
    wanted = [] if options.tables_only else options.parts
    there = [cell for cell in of if cell.part in wanted or (options.out / f"{cell.name}.json").exists()]
    found = _cells.cells(options.out, there, settings, functools.partial(measured, cache=options.cache))
    for part in LOSSES:
        rows = {row: [found[cell] for cell in there if (cell.part, cell.row) == (part, row)] for row in LOSSES[part]}
        if rows[BASE[part]]:
            for name, text in ((part, table(rows, BASE[part])), (f"{part}-samples", samples(rows, BASE[part]))):
                _cells.write(options.out / f"{name}.md", text)
                print(f"\n{text}", end="")
            if part == "fine":
                _cells.save_figure(figure(rows), options.out / "daras.png")


# ------------------------------------------------------------------------------------------------ one cell
def measured(cell: Cell, settings: Settings, cache: Path) -> dict[str, Any]:
    """Trains a score, and measures consistency, likelihood and the distance of its samples to the digits."""
    score, said = trained(cell, settings, cache)
    test = data.digits("test").rows(np.arange(settings.points))
    # One key for all rows of a seed: noises, probes and prior draws are shared, so that differences are precise.
    section = ConsistencyCurves(steps=128, times=16, samples=settings.points)(score, test, key=jr.key(1000 + cell.seed))
    found = evaluate(
        score,
        test,
        key=jr.key(3000 + cell.seed),
        trace=sfp.Hutchinson(),
        integrator=sfp.Integrator(rtol=1e-5, atol=1e-5, throw=False),
        draws=settings.draws,
        batch_size=settings.points,
    )
    numbers, _ = _cells.evaluated(found)
    methods = {name: (score, method) for name, method in SAMPLERS.items()}
    if cell.row in (ALONE, SOME, SOME_PATH):
        methods["stopped"] = (sfp.Score(score, sfp.EDM(t0=THRESHOLD)), STOPPED)
    return said | {
        "defect": section.numbers["consistency_rms"].value,
        "curves": {
            name: _cells.rounded([curve.t.tolist(), curve.value.tolist()]) for name, curve in section.curves.items()
        },
        **{name: number.value for name, number in numbers.items()},
        "samples": {name: distances(*of, cell.seed, settings, cache) for name, of in methods.items()},
    }


def distances(
    score: sfp.score.AbstractScore, method: AbstractSampler, seed: int, settings: Settings, cache: Path
) -> dict[str, float]:
    """Kernel and Fréchet distance of samples on the levels of the digits, by the features of a classifier."""
    classifier, _ = classified(data.digits("train", labels=True), Features(), cache)
    levels = DIGITS.quantisation
    assert levels is not None
    centred = lambda k: levels.dequantise(k, jnp.full(k.shape, 0.5))
    x = sfp.sample(score, settings.samples, key=jr.key(2000 + seed), method=method, shape=DIGITS.shape)
    x, real, test = (centred(k) for k in (levels.quantise(x), DIGITS.values, data.digits("test").values))
    of: Any = {"features": classifier.features}
    return {
        "kernel": float(quality.kernel_distance(x, real, **of).value),
        "kernel, test": float(quality.kernel_distance(x, test, **of).value),
        "frechet": float(quality.frechet_distance(x, real, **of).extrapolated.value),
    }


def trained(cell: Cell, settings: Settings, cache: Path) -> tuple[sfp.score.AbstractScore, dict[str, Any]]:
    """The score of a row, its steps and the CPU seconds of its training; all rows of a seed have one start."""
    folder = cache / f"seed{cell.seed}-{_cells.fingerprint(dataclasses.asdict(settings))}"
    network = sfp.nn.MLP(DIGITS.shape, width=settings.width, key=jr.key(cell.seed))
    untrained = sfp.EDMScore(network, SDE, DIGITS.std)

    def run(model: Any, loss: Any, rate: float, steps: int, seed: int) -> tuple[Any, dict[str, Any]]:
        clock = Clock()
        found = train.fit(
            model,
            loss,
            DIGITS,
            optimizer=_cells.adam(rate, steps),
            steps=steps,
            key=jr.key(seed),
            batch_size=settings.batch_size,
            time=LAW,
            callbacks=(clock,),
            progress=False,
            report_every=max(1, steps // 20),
        )
        return found.model, {"steps": steps, "seconds": round(float(np.median(clock.each)) * steps, 1)}

    def kept(row: str, model: Any, rate: float, steps: int, seed: int) -> tuple[Any, dict[str, Any]]:
        name = Cell(cell.part, row, cell.seed).name
        loss = LOSSES[cell.part][row]
        return _cells.kept(folder / name, untrained, lambda: run(model, loss, rate, steps, seed))

    factor = settings.longer if cell.row == TIME else 1.0
    if cell.part == "scratch":
        steps = round(factor * settings.scratch_steps)
        return kept(cell.row, untrained, settings.rate, steps, 100 + cell.seed)
    start, said = kept(START, untrained, settings.rate, settings.steps, 100 + cell.seed)
    if cell.row == START:
        return start, said
    return kept(cell.row, start, settings.fine_rate, round(factor * settings.fine_steps), 200 + cell.seed)


# ------------------------------------------------------------------------------------------------ tables and figure
Rows = dict[str, list[dict[str, Any]]]
EARLY = "defect, t < 1"
MODEL = {"defect": "defect · 10³", EARLY: "…, t < 1", "nll_median": "NLL, median", "bound": "bound"}
SAMPLES = {name: f"kernel · 10³, {name}" for name in (*SAMPLERS, "stopped")} | {"frechet": "Fréchet"}


def number(result: dict[str, Any], name: str) -> float:
    """A number of a cell; NaN where it has none."""
    if name == EARLY:
        t, defect = np.asarray(result["curves"]["to_t0"])
        return 1e3 * float(np.sqrt(np.mean(defect[t < 1] ** 2)))
    if name == "frechet":
        return result["samples"]["35"]["frechet"]
    if name in (*SAMPLERS, "stopped"):
        return 1e3 * result["samples"].get(name, {"kernel": np.nan})["kernel"]
    return 1e3 * result[name] if name == "defect" else result[name]


def table(rows: Rows, base: str) -> str:
    """What is measured of the scores themselves."""
    body: list[list[str]] = []
    for row, runs in rows.items():
        if runs:
            seconds = np.median([run["seconds"] for run in runs])
            exploded = 100 * np.mean([run["exploded"] for run in runs])
            values = [entry(row, name, rows, base) for name in MODEL]
            body.append([row, f"{runs[0]['steps']:,}", f"{seconds:.0f}", *values, f"{exploded:.1f}"])
    body += [[label, "", "", *values, ""] for label, *values in added(rows, MODEL)]
    return _cells.markdown(["", "steps", "CPU s", *MODEL.values(), "exploded, %"], body, left=1)


def samples(rows: Rows, base: str) -> str:
    """The distances of samples to the digits."""
    shown = {name: title for name, title in SAMPLES.items() if name != "stopped" or base == START}
    body = [[row, *(entry(row, name, rows, base) for name in shown)] for row, runs in rows.items() if runs]
    return _cells.markdown(["", *shown.values()], [*body, *added(rows, shown)], left=1)


def added(rows: Rows, names: Iterable[str]) -> list[list[str]]:
    """What consistency adds where some times are not matched: the differences from the row without it."""
    if not (rows.get(SOME) and rows.get(ALONE)):
        return []
    return [[f"{SOME} − {ALONE}", *(entry(SOME, name, rows, ALONE) for name in names)]]


def entry(row: str, name: str, rows: Rows, base: str) -> str:
    """The mean of the base; the mean difference from it, paired by seed, with its 95 % interval by t over seeds.

    Bold where the interval excludes zero.
    """
    # The base has no samples that are stopped early: they are compared with its whole ones.
    of = "35" if name == "stopped" and base != ALONE else name
    if row == base:
        return "" if name == "stopped" else f"{np.mean([number(run, of) for run in rows[base]]):.4g}"
    pairs = _cells.with_same_seed(rows[row], rows[base])
    found = np.array([number(run, name) - number(control, of) for run, control in pairs])
    if not np.isfinite(found).all():
        return ""
    if len(found) < 2:
        return "".join(f"{value:+.2g}" for value in found)
    mean, half = _cells.interval(found)
    places = max(0, 1 - int(np.floor(np.log10(max(half, 1e-9)))))
    said = f"{mean:+.{places}f} ± {half:.{places}f}"
    return f"**{said}**" if abs(mean) > half else said


SHOWN = {TIME: "C7", CDM: "C0", MORE: "C1", PATH: "C2"}


def figure(rows: Rows) -> Figure:
    """Both curves over those of score matching for as many steps: one point a seed, and the mean."""
    view = Figure(figsize=(9.5, 4.2), layout="constrained")
    panels = view.subplots(1, 2)
    names = {"to_t0": ("from $t$ to $t' = t_0$", "t"), "from_t1": ("from $t = t_1$ to $t'$", "t'")}
    for axes, (name, (title, axis)) in zip(panels, names.items(), strict=True):
        for row, color in SHOWN.items():
            if pairs := _cells.with_same_seed(rows[row], rows[STEPS]):
                t = np.asarray(pairs[0][0]["curves"][name][0])
                values, base = (
                    np.asarray([run["curves"][name][1] for run in runs]) for runs in zip(*pairs, strict=True)
                )
                ratio = np.where((values > 0) & (base > 0), values, np.nan) / np.where(base > 0, base, np.nan)
                whole = np.isfinite(ratio).all(axis=0)
                axes.plot(t[whole], ratio[:, whole].mean(axis=0), color=color, label=row)
                axes.scatter(np.tile(t[whole], (len(ratio), 1)), ratio[:, whole], color=color, s=8)
        axes.set(title=f"defect {title},\nover that of {STEPS}", xlabel=axis, xscale="log")
        axes.grid(True)
    view.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return view


if __name__ == "__main__":
    main()
