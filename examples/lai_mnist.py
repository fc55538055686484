"""Lai 2023, Tables 1 and 5 and Figure 3 at the scale of MNIST: the Fokker–Planck penalty for each of its weights.

A score of real MNIST digits is trained with the paper's penalty, for each of its weights `alpha`, with this library's
penalty, and with score matching alone: for as many steps, and for as many as take the time of the penalised ones. It
starts from scratch or from a score that is trained by score matching, under VP and under VE. The score is the mixture a
pixel of `scoreflow.py`.

    python examples/lai_mnist.py

Each cell, one row and one seed of one table, is a JSON file in `docs/assets/lai_mnist/` and is skipped when the file is
there: a killed run resumes where it stopped, its models are in `.cache/lai_mnist/`. Tables and figure are made from
these files alone. A file made with other settings is refused; give `--out` another folder then.

The paper has 3.24 bits/dim without the penalty and 2.98 with `alpha = 0.1` for VP, 3.73 and 3.42 for VE (Table 1;
fine-tuned, Table 5: 3.27 and 3.01, 3.67 and 3.47).
"""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import _cells
import jax.random as jr
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from regularisers import plain
from scoreflow import PixelMixture

import scorefp as sfp
from scorefp import data, train
from scorefp.diagnostics import CurlCurve, Ensemble, ResidualCurve, evaluate

SDES = {"VP": sfp.VP(), "VE": sfp.VE()}
SCRATCH, FINE_TUNED = "scratch", "fine-tuned"
ALPHAS = (0.001, 0.01, 0.1, 1.0, 10.0)
START, STEPS, TIME = "score matching", "alpha = 0", "alpha = 0, as long"
LOSSES: dict[str, Any] = {
    STEPS: sfp.DSM(),
    TIME: sfp.DSM(),
    **{f"alpha = {alpha:g}": sfp.DSM() + alpha * plain(sfp.Antithetic()) for alpha in ALPHAS},
    "0.02 FP": sfp.DSM() + 0.02 * sfp.ScoreFPE(fraction=0.25),
    "0.5 FP, lazy": sfp.DSM() + 0.5 * sfp.Lazy(sfp.ScoreFPE(fraction=1 / 16), every=4),
}
TABLES = {
    (SCRATCH, "VP"): tuple(row for row in LOSSES if row != "0.02 FP"),
    (SCRATCH, "VE"): tuple(row for row in LOSSES if row != "0.02 FP"),
    (FINE_TUNED, "VP"): (START, *LOSSES),
    (FINE_TUNED, "VE"): (START, *(row for row in LOSSES if row != "0.02 FP")),
}
"""The rows of each table."""
ENSEMBLE = Ensemble(times=16, samples=48)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a cell depends on beside its name."""

    steps: int = 1500
    fine_steps: int = 600
    longer: float = 1.7
    """The steps of score matching that take the time of a penalised one."""
    width: int = 256
    rate: float = 1e-3
    fine_rate: float = 3e-4
    batch_size: int = 128
    points: int = 150
    draws: int = 16


QUICK = Settings(steps=20, fine_steps=10, width=8, batch_size=16, points=4, draws=2)


@dataclasses.dataclass(frozen=True)
class Cell(_cells.Named):
    """One row and one seed of a table: where training starts from, and under which process."""

    start: str
    sde: str
    row: str
    seed: int


def main(arguments: list[str] | None = None) -> None:
    parser = _cells.parser(__doc__, out="docs/assets/lai_mnist", seeds=(0, 1, 2))
    parser.add_argument("--cache", type=Path, default=Path(".cache/lai_mnist"), help="where trained models are kept")
    parser.add_argument("--starts", nargs="+", choices=[SCRATCH, FINE_TUNED], default=[SCRATCH, FINE_TUNED])
    parser.add_argument("--sdes", nargs="+", choices=list(SDES), default=list(SDES))
    parser.add_argument("--rows", nargs="+", choices=[START, *LOSSES], default=[START, *LOSSES])
    parser.add_argument("--quick", action="store_true", help="few steps and points, to see that it runs")
    parser.add_argument("--tables-only", action="store_true", help="run no cell; table and figure from those there are")
    options = parser.parse_args(arguments)
    settings = QUICK if options.quick else Settings()
    made: Found = {}
    for (start, sde), rows in TABLES.items():
        of = [Cell(start, sde, row, seed) for seed in options.seeds for row in rows]
        there = [cell for cell in of if (options.out / f"{cell.name}.json").exists()]
        if not options.tables_only and start in options.starts and sde in options.sdes:
            there = [cell for cell in of if cell.row in options.rows or cell in there]
        found = _cells.cells(options.out, there, settings, functools.partial(measured, cache=options.cache))
        results = {row: [found[cell] for cell in there if cell.row == row] for row in rows}
        if found:
            made[start, sde] = {row: of for row, of in results.items() if of}
            _cells.write(options.out / f"{start}-{sde.lower()}.md", table(made[start, sde]))
            print(f"\n{start}, {sde}\n\n{table(made[start, sde])}")
    if made:
        _cells.save_figure(figure(made), options.out / "lai_mnist.png")


# ------------------------------------------------------------------------------------------------ one cell
def measured(cell: Cell, settings: Settings, cache: Path) -> dict[str, Any]:
    """Trains or fine-tunes a score, and evaluates it."""
    score, said = trained(cell, settings, cache)
    test = data.mnist("test").rows(np.arange(settings.points))
    # One key for all rows of a seed: noises, probes and times are shared, so that differences are precise.
    found = evaluate(
        score,
        test,
        key=jr.key(3000 + cell.seed),
        trace=sfp.Hutchinson(),
        integrator=sfp.Integrator(rtol=1e-5, atol=1e-5, throw=False),
        draws=settings.draws,
        batch_size=50,
    )
    ensemble = dataclasses.replace(ENSEMBLE, samples=min(ENSEMBLE.samples, settings.points))
    measures = (ResidualCurve(ensemble=ensemble), CurlCurve(ensemble=ensemble))
    report = sfp.audit(score, test, key=jr.key(1000 + cell.seed), measures=measures)
    curves = {title: next(iter(section.curves.values())) for title, section in report.sections.items()}
    numbers, points = _cells.evaluated(found)
    return said | {
        "numbers": {name: [number.value, number.half_width] for name, number in numbers.items()},
        "residual": report["residual"].numbers["r_FP_scale_free"].value,
        "curl": report["curl"].numbers["curl_scale_free"].value,
        "curves": {title: _cells.rounded([curve.t.tolist(), curve.value.tolist()]) for title, curve in curves.items()},
        "points": points,
    }


def trained(cell: Cell, settings: Settings, cache: Path) -> tuple[sfp.score.AbstractScore, dict[str, Any]]:
    """The score of a row, and the seconds that its training took.

    All rows of a seed start from the same parameters; to be fine-tuned, from those of score matching from scratch.
    """
    training, sde = data.mnist("train"), SDES[cell.sde]
    folder = cache / f"{cell.sde}-seed{cell.seed}-{_cells.fingerprint(dataclasses.asdict(settings))}"
    network = PixelMixture(training, sde, width=settings.width, key=jr.key(cell.seed))
    untrained = sfp.Score(network, sde, shape=training.shape)

    def run(model: Any, row: str, rate: float, steps: int, seed: int) -> tuple[Any, dict[str, Any]]:
        steps = round(settings.longer * steps) if row == TIME else steps
        begin = time.process_time()
        found = train.fit(
            model,
            LOSSES[row],
            training,
            optimizer=_cells.adam(rate, steps),
            steps=steps,
            key=jr.key(seed),
            batch_size=settings.batch_size,
            progress=False,
        )
        return found.model, {"steps": steps, "seconds": round(time.process_time() - begin, 1)}

    def from_scratch(row: str) -> tuple[Any, dict[str, Any]]:
        first = functools.partial(run, untrained, row, settings.rate, settings.steps, 100 + cell.seed)
        return _cells.kept(folder / Cell(SCRATCH, cell.sde, row, cell.seed).name, untrained, first)

    if cell.start == SCRATCH:
        return from_scratch(cell.row)
    start, said = from_scratch(STEPS)
    if cell.row == START:
        return start, said
    further = functools.partial(run, start, cell.row, settings.fine_rate, settings.fine_steps, 200 + cell.seed)
    return _cells.kept(folder / cell.name, untrained, further)


# ------------------------------------------------------------------------------------------------ tables and figure
Rows = dict[str, list[dict[str, Any]]]
"""The results of all seeds, by row."""
Found = dict[tuple[str, str], Rows]
"""The rows, by start and SDE."""


def table(rows: Rows) -> str:
    """Likelihood, bound, residual and curl; differences to score matching for as many steps, paired by image.

    Each image's value is the mean over seeds; the intervals are over images. Residual and curl: mean over seeds, least
    and largest.
    """
    headings = ["", "NLL", "− alpha = 0", "bound", "− alpha = 0", "residual", "curl"]
    body: list[list[str]] = []
    for row, results in rows.items():
        line = [row]
        for name in ("nll", "bound"):
            mean, half = _cells.interval(points(results, name))
            line.append(f"{mean:.3f} ± {half:.3f}")
            line.append("" if row == STEPS or STEPS not in rows else change(results, rows[STEPS], name))
        line += [_cells.spread([result[name] for result in results]) for name in ("residual", "curl")]
        body.append(line)
    return _cells.markdown(headings, body, left=1)


def points(results: list[dict[str, Any]], name: str) -> np.ndarray:
    """Bits/dim of each image, the mean over seeds; NaN where a trajectory failed."""
    return np.mean([np.asarray(result["points"][name], float) for result in results], axis=0)


def change(results: list[dict[str, Any]], base: list[dict[str, Any]], name: str) -> str:
    """The mean difference with its 95 % interval, bold where this excludes zero and all seeds have one sign."""
    pairs = [points([a], name) - points([b], name) for a, b in _cells.with_same_seed(results, base)]
    if not pairs or not np.isfinite(pairs).all():
        return "fails"
    mean, half = _cells.interval(np.mean(pairs, axis=0))
    signs = {float(np.sign(np.mean(pair))) for pair in pairs}
    said = f"{mean:+.2g} ± {half:.1g}"
    return f"**{said}**" if abs(mean) > half and len(signs) == 1 else said


SHOWN = {TIME: "C7", "alpha = 1": "C0", "alpha = 10": "C3", "0.5 FP, lazy": "C2"}


def figure(made: Found) -> Figure:
    """Residual and curl over time, over those of score matching for as many steps: one point a seed, and their mean.

    Estimates of the square of a curl have any sign; times at which one is negative are left out.
    """
    view = Figure(figsize=(9.5, 2.8 * len(made)), layout="constrained")
    grid = view.subplots(len(made), 2, squeeze=False)
    for panels, ((start, sde), rows) in zip(grid, made.items(), strict=True):
        panels[0].set_ylabel(f"{start}, {sde}")
        for axes, title in zip(panels, ("residual", "curl"), strict=True):
            for row, color in SHOWN.items():
                if row in rows and STEPS in rows:
                    t = np.asarray(rows[row][0]["curves"][title][0])
                    both = _cells.with_same_seed(rows[row], rows[STEPS])
                    values, base = (
                        np.asarray([run["curves"][title][1] for run in runs]) for runs in zip(*both, strict=True)
                    )
                    ratio = np.where((values > 0) & (base > 0), values, np.nan) / base
                    whole = np.isfinite(ratio).all(axis=0)
                    axes.plot(t[whole], ratio[:, whole].mean(axis=0), color=color, label=row)
                    axes.scatter(np.tile(t[whole], len(ratio)), ratio[:, whole], color=color, s=8)
            # Under VE equal steps of time are equal steps of log(sigma).
            axes.set_xscale("linear" if sde == "VE" else "log")
            axes.grid(True)
        panels[0].set_yscale("log")
        panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        panels[0].yaxis.set_major_formatter("{x:g}")
        panels[0].yaxis.set_minor_formatter(NullFormatter())
    for top, bottom, title in zip(grid[0], grid[-1], ("residual", "curl"), strict=True):
        top.set_title(f"{title} over that of alpha = 0")
        bottom.set_xlabel("t")
    lines = {line.get_label(): line for axes in view.axes for line in axes.get_lines()}
    shown = [row for row in SHOWN if row in lines]
    view.legend([lines[row] for row in shown], shown, loc="outside lower center", ncols=4)
    return view


if __name__ == "__main__":
    main()
