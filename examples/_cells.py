"""What the examples share: cells that resume, trained models that are kept, tables, and the common options.

A cell is one JSON file: what it was made with, its facts, beside what came out. It is skipped when the file is there,
so that a killed run resumes where it stopped, and refused when its facts are others.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text
from rich.console import Console
from rich.table import Table
from scipy import stats

from scorefp.diagnostics import Audit, Number

Model = TypeVar("Model")
Name = TypeVar("Name", bound="Named")


def parser(doc: str | None, *, out: str, seeds: Sequence[int] | None = None) -> argparse.ArgumentParser:
    """A parser with `--out`, and with `--seeds` where an example has more than one; what is compiled is kept."""
    keep_compiled()
    found = argparse.ArgumentParser(description=(doc or "").split("\n", 1)[0])
    found.add_argument("--out", type=Path, default=Path(out), help="the folder of the results")
    if seeds is not None:
        found.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    return found


def keep_compiled() -> None:
    """Keeps what an example compiles in `.cache/jax` for its next run, unless `JAX_COMPILATION_CACHE_DIR` is set."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".cache" / "jax"))


# ------------------------------------------------------------------------------------------------ files
def write(path: Path, text: str) -> None:
    """All of the file or nothing of it: a run that is stopped here leaves no half of a cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    write(path, json.dumps(value, indent=indent) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def fingerprint(facts: Any) -> str:
    """Eight digits that tell one choice of settings from another."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]


# ------------------------------------------------------------------------------------------------ cells
@dataclasses.dataclass(frozen=True)
class Named:
    """What a cell is of: the names of its parts, which a subclass has as fields, and a seed, the last of them."""

    @property
    def name(self) -> str:
        """The name of the file."""
        *parts, seed = dataclasses.astuple(self)
        words = "-".join([*parts, f"seed{seed}"]).lower()
        for old, new in {"ü": "ue", "–": "-", ",": "", " + ": "-", " = ": "-", " ": "-", "sub-vp": "subvp"}.items():
            words = words.replace(old, new)
        return words


def cells(
    out: Path, of: Iterable[Name], settings: Any, make: Callable[[Name, Any], dict[str, Any]]
) -> dict[Name, dict[str, Any]]:
    """The cells of these names with dataclass settings; those whose files are not there are made."""
    return {
        name: cell(
            out / f"{name.name}.json",
            {"cell": dataclasses.asdict(name), "settings": dataclasses.asdict(settings)},
            functools.partial(make, name, settings),
        )
        for name in of
    }


def cell(
    path: Path, facts: dict[str, Any], make: Callable[[], dict[str, Any]], *, indent: int | None = None
) -> dict[str, Any]:
    """The facts and the result of a cell, which is made if its file is not there."""
    if not path.exists():
        begin = time.perf_counter()
        write_json(path, facts | make(), indent=indent)
        print(f"{path.stem}: done after {time.perf_counter() - begin:.0f} s", flush=True)
    return read_cell(path, facts)


def read_cell(path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """The facts and the result of a cell whose file is there; refused if it was made with others."""
    found, wanted = read_json(path), json.loads(json.dumps(facts))
    if {name: found.get(name) for name in wanted} != wanted:
        raise SystemExit(f"{path} was made with other settings; remove it, or give --out another folder.")
    return found


def kept(path: Path, start: Model, train: Callable[[], tuple[Model, dict[str, Any]]]) -> tuple[Model, dict[str, Any]]:
    """A trained model and notes of its training, from two files that are made if they are not there.

    `start` is a model of the same structure; `path` has no ending.
    """
    arrays, notes = (path.with_name(f"{path.name}.{ending}") for ending in ("eqx", "json"))
    if not notes.exists():
        model, said = train()
        path.parent.mkdir(parents=True, exist_ok=True)
        eqx.tree_serialise_leaves(arrays, model)
        # The notes come last: where they are, the arrays are whole.
        write_json(notes, said)
    return eqx.tree_deserialise_leaves(arrays, start), read_json(notes)


@functools.cache
def adam(rate: float, steps: int) -> optax.GradientTransformation:
    """Adam with a cosine schedule; one object for all cells, so that what they share is compiled once."""
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


# ------------------------------------------------------------------------------------------------ numbers
def rounded(value: Any, digits: int = 6) -> Any:
    """The numbers in it to so many digits."""
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def spread(values: Sequence[float], form: str = ".3g") -> str:
    """The mean over seeds, with the least and the largest where there are several."""
    if len(values) < 2:
        return "".join(f"{value:{form}}" for value in values)
    return f"{np.mean(values):{form}} ({min(values):{form}}, {max(values):{form}})"


def interval(values: np.ndarray) -> tuple[float, float]:
    """The mean and the half-width of its 95 % interval by Student's t, over what is finite."""
    values = values[np.isfinite(values)]
    quantile = stats.t.ppf(0.975, len(values) - 1)
    return float(values.mean()), float(quantile * values.std(ddof=1) / np.sqrt(len(values)))


def with_same_seed(
    results: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each result beside that of the base with its seed, of the seeds that both have."""
    controls = {control["cell"]["seed"]: control for control in base}
    return [(result, controls[seed]) for result in results if (seed := result["cell"]["seed"]) in controls]


EVALUATED = {
    "nll": ("likelihood", "bits_per_dim"),
    "nll_median": ("likelihood", "median_bits_per_dim"),
    "bound": ("bound", "bound"),
    "dequantisation": ("likelihood", "dequantisation"),
    "exploded": ("likelihood", "exploded"),
}

POINTS = ("nll", "bound")


def evaluated(found: Audit) -> tuple[dict[str, Number], dict[str, list[float]]]:
    """The numbers of `scorefp.evaluate` by the names they have in cells, and the bits/dim of each sample."""
    numbers = {name: found[title].numbers.get(number) for name, (title, number) in EVALUATED.items()}
    points = {name: found[title].points[number] for name, (title, number) in EVALUATED.items() if name in POINTS}
    told = {name: number for name, number in numbers.items() if number is not None}
    return told, {name: rounded(values.tolist()) for name, values in points.items()}


# ------------------------------------------------------------------------------------------------ figures
INK = "#76808f"
"""A grey that is read on white and on the dark ground of the documentation, with a contrast of 3.9 on both."""


def save_figure(view: Figure, path: Path) -> None:
    """A figure for the documentation: without a ground, black lines and words in grey.

    The documentation shows it 836 pixels wide at most, where its words are to be 11.5 pixels high or more.
    """
    least = 11.5 * 72 / min(100.0, 836 / view.get_figwidth())
    for axes in view.findobj(Axes):
        axes.tick_params(which="both", colors=INK, labelsize=least, grid_color=INK, grid_alpha=0.3)
        axes.spines[:].set_color(INK)
    for legend in view.findobj(Legend):
        legend.get_frame().set(facecolor="none", edgecolor="none")
    for text in view.findobj(Text):
        text.set_fontsize(max(text.get_fontsize(), least))
        text.set_color(INK)
    for line in view.findobj(Line2D):
        if to_hex(line.get_color()) == "#000000":
            line.set_color(INK)
    for marks in view.findobj(Collection):
        if len(colors := marks.get_edgecolor()) and to_hex(colors[0]) == "#000000":
            marks.set_edgecolor(INK)
    view.savefig(path, dpi=160, transparent=True)


# ------------------------------------------------------------------------------------------------ tables
def markdown(headings: Sequence[str], body: Sequence[Sequence[str]], *, left: int | None = None) -> str:
    """A table in Markdown. The first `left` columns are left-aligned, all without it; the others right-aligned."""
    left = len(headings) if left is None else left
    first = "|" + "".join(f" {heading} |" if heading else " |" for heading in headings)
    lines = [["---"] * left + ["---:"] * (len(headings) - left), *body]
    return "".join(f"{line}\n" for line in (first, *(f"| {' | '.join(line)} |" for line in lines)))


def show(
    headings: Sequence[str], body: Sequence[Sequence[str]], *, left: int | None = None, title: str | None = None
) -> None:
    """The same table on the console."""
    view = Table(title=title, title_justify="left")
    for i, heading in enumerate(headings):
        view.add_column(heading, justify="left" if left is None or i < left else "right")
    for line in body:
        view.add_row(*line)
    # Wide also where the output goes to a file.
    Console(width=160).print(view)
