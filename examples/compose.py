"""Composed scores with and without weights: on the line against quadrature, and on 8×8 digits.

*Exact*: mixtures on the line, whose scores are known, annealed, multiplied, guided and tilted. *Digits*: the network of
`guidance.py`, which knows the ten classes and none; classes are guided, multiplied and annealed. Each composition is
sampled by one reverse SDE, whose particles are taken as they come (unweighted), with the weights that they carried
along, and resampled on the way. Prints two tables and writes them with three figures:

    python examples/compose.py --out docs/assets/compose

Each composition in one way is a cell, and the network is kept in `--models`; what is there is not made again. No seed
is tuned.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _cells
import guidance
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.neighbors import KNeighborsClassifier

import scorefp as sfp
from scorefp import data
from scorefp.sampling import WeightedSamples, weighted_samples

# ------------------------------------------------------------------------------------------------ settings
SDE = guidance.SDE
COLOURS = ("#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#56B4E9")


@dataclasses.dataclass(frozen=True)
class Settings:
    steps: int = 6000  # of training
    sampler_steps: int = 400
    particles: int = 256
    runs: int = 8
    line_particles: int = 1024
    line_runs: int = 16


@dataclasses.dataclass(frozen=True)
class Cell(_cells.Named):
    """A composition, its weights carried along or its particles resampled."""

    family: str
    law: str
    way: str
    seed: int = 0

    @property
    def name(self) -> str:
        """The name of the file."""
        return super().name.replace("=", "").replace("β", "beta").replace("--", "-")


def main(arguments: list[str] | None = None) -> None:
    parser = _cells.parser(__doc__, out="docs/assets/compose")
    parser.add_argument("--models", type=Path, default=Path(".cache/guidance"), help="the folder of the trained model")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="training steps")
    parser.add_argument("--particles", type=int, default=Settings.particles, help="particles of a run")
    options = parser.parse_args(arguments)
    settings = Settings(steps=options.steps, particles=options.particles)
    names = [Cell("line", law, "resampled") for law in LINE]
    names += [Cell("digits", law, way) for law in DIGITS for way in ways_of(law)]
    make = {"line": on_the_line, "digits": of_digits}
    found = _cells.cells(options.out, names, settings, lambda name, s: make[name.family](name, s, options.models))
    report(found, settings, options.out)


WAYS = ("carried", "resampled", "resampled, four times the steps")
DENSE = ("β = 1.5",)
"""What is sampled with more steps too."""


def ways_of(law: str) -> tuple[str, ...]:
    """A class by itself has no weights."""
    return WAYS[:1] if law == "class 3" else WAYS if law in DENSE else WAYS[:2]


def weighted(score: sfp.score.AbstractScore, runs: int, method: sfp.FeynmanKac) -> WeightedSamples:
    """Runs of particles. The effective share shows whether their weights collapse."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the effective sample size collapsed")
        return weighted_samples(score, runs, key=jr.key(2), method=method)


# ------------------------------------------------------------------------------------------------ on the line
def column(*values: float) -> jax.Array:
    return jnp.array(values)[:, None]


ONE = sfp.GaussianMixture(column(-1.0, 1.0), jnp.array([0.04, 0.25]), jnp.array([0.3, 0.7]))
OTHER = sfp.GaussianMixture(column(-1.0, 0.6), jnp.array([0.04, 0.36]), jnp.array([0.4, 0.6]))
RIGHT = sfp.GaussianMixture(column(1.0), jnp.array([0.25]), jnp.array([1.0]))


def reward(t: jax.Array | float, x: jax.Array) -> jax.Array:
    return -x[0]


# The score that is composed of exact ones, and the logarithm of the density that it names.
LINE: dict[str, tuple[Callable[[], sfp.score.AbstractScore], Callable[[jax.Array], jax.Array]]] = {
    "annealed": (lambda: sfp.Annealed(ONE.score(SDE), 1.5), lambda x: 1.5 * ONE.log_prob(x)),
    "product": (
        lambda: sfp.Product((ONE.score(SDE), OTHER.score(SDE))),
        lambda x: ONE.log_prob(x) + OTHER.log_prob(x),
    ),
    "guided": (
        lambda: sfp.Guided(RIGHT.score(SDE), ONE.score(SDE), 2.0),
        lambda x: 3 * RIGHT.log_prob(x) - 2 * ONE.log_prob(x),
    ),
    "tilted": (lambda: sfp.Tilted(ONE.score(SDE), reward), lambda x: ONE.log_prob(x) + reward(0.0, x)),
}
EDGES = np.linspace(-2.5, 2.5, 101)


@functools.cache
def named(law: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Points of the line, the density that a composition names there, and the logarithm of its normaliser."""
    x = np.linspace(-5, 5, 4001)
    log_p = np.asarray(jax.jit(jax.vmap(LINE[law][1]))(jnp.asarray(x)[:, None]), np.float64)
    z = np.exp(log_p).sum() * (x[1] - x[0])
    return x, np.exp(log_p) / z, float(np.log(z))


def on_the_line(name: Cell, settings: Settings, models: Path) -> dict[str, Any]:
    score = LINE[name.law][0]()
    method = sfp.FeynmanKac(settings.sampler_steps, particles=settings.line_particles)
    found = weighted(score, settings.line_runs, method)
    count = settings.line_runs * settings.line_particles
    plain = np.asarray(sfp.sample(score, count, key=jr.key(2), method=sfp.EulerMaruyama(settings.sampler_steps)))[:, 0]
    mean, log_z = found.mean(lambda x: x[0]), found.log_normaliser
    w = np.exp(np.asarray(found.log_weights, np.float64)).ravel()
    histogram = lambda x, w: np.histogram(x, EDGES, weights=w / w.sum())[0] / np.diff(EDGES)
    return _cells.rounded(
        {
            "mean": float(mean.value),
            "error": float(mean.error),
            "log_z": float(log_z.value),
            "log_z_error": float(log_z.error),
            "unweighted": float(plain.mean()),
            "unweighted_error": float(plain.std() / np.sqrt(count)),
            "ess": curve(found),
            "weighted_histogram": histogram(np.asarray(found.samples).ravel(), w).tolist(),
            "unweighted_histogram": histogram(plain, np.ones(count)).tolist(),
        },
        4,
    )


def curve(found: WeightedSamples) -> dict[str, list[float]]:
    """The effective share of the particles at every fourth time, the mean over runs."""
    share = np.asarray(found.ess).mean(axis=0) / found.samples.shape[1]
    every = max(1, (len(share) - 1) // 100)
    return {"t": np.asarray(found.times)[::every].tolist(), "share": share[::every].tolist()}


# ------------------------------------------------------------------------------------------------ digits
def of_class(model: sfp.score.AbstractScore, label: int) -> sfp.score.AbstractScore:
    return model.bind(args=jnp.asarray(label))


def guided(strength: float) -> Callable[[sfp.score.AbstractScore], sfp.score.AbstractScore]:
    return lambda model: sfp.Guided(of_class(model, 3), of_class(model, guidance.CLASSES), strength)


def product(*factors: tuple[int, float]) -> Callable[[sfp.score.AbstractScore], sfp.score.AbstractScore]:
    return lambda model: sfp.Product([of_class(model, label) for label, _ in factors], [beta for _, beta in factors])


def annealed(beta: float) -> Callable[[sfp.score.AbstractScore], sfp.score.AbstractScore]:
    return lambda model: sfp.Annealed(of_class(model, 3), beta)


DIGITS = {
    "class 3": annealed(1.0),
    "w = 0.5": guided(0.5),
    "w = 1": guided(1.0),
    "w = 2": guided(2.0),
    "3 and 8": product((3, 1.0), (8, 1.0), (guidance.CLASSES, -1.0)),
    "between 3 and 8": product((3, 0.5), (8, 0.5)),
    "β = 1.1": annealed(1.1),
    "β = 1.5": annealed(1.5),
}
"""Scores that are composed of those of the classes."""
MEASURED = {"spread": "spread of a pixel", "three": "read as 3", "eight": "read as 8"}


def of_digits(name: Cell, settings: Settings, models: Path) -> dict[str, Any]:
    """The particles of one law, by their weights and without them."""
    model = guidance.trained(guidance.Settings(steps=settings.steps), models)
    steps = settings.sampler_steps * (4 if name.way == WAYS[2] else 1)
    threshold = 0.0 if name.way == WAYS[0] else 0.5
    method = sfp.FeynmanKac(steps, threshold=threshold, particles=settings.particles)
    found = weighted(DIGITS[name.law](model), settings.runs, method)
    x, w = np.asarray(found.samples), np.exp(np.asarray(found.log_weights, np.float64))
    w /= w.sum(axis=1, keepdims=True)
    reads = reader().predict(x.reshape(-1, 64)).reshape(w.shape)
    ess, log_z = np.asarray(found.ess) / settings.particles, found.log_normaliser
    # Without resampling the particles by themselves are those of the reverse SDE.
    ways = {"weighted": w} | ({"unweighted": np.full_like(w, 1 / settings.particles)} if threshold == 0 else {})
    shown = np.random.default_rng(0)
    return _cells.rounded(
        {
            "log_z": float(log_z.value),
            "log_z_error": float(log_z.error),
            "end": float(ess[:, -1].mean()),
            "least": float(ess.min()),
            "resampled": float((ess < threshold).sum(axis=1).mean()),
            "ess": curve(found),
            "numbers": {way: numbers(x, of, reads) for way, of in ways.items()},
            "images": {way: drawn(x, of, shown) for way, of in ways.items()},
        },
        4,
    )


@functools.cache
def reader() -> KNeighborsClassifier:
    """Reads real digits, and what is drawn."""
    real = data.digits("train", labels=True)
    return KNeighborsClassifier(5).fit(np.asarray(real.dequantised(jr.key(3)).values), np.asarray(real.args))


def numbers(x: np.ndarray, w: np.ndarray, reads: np.ndarray) -> dict[str, list[float]]:
    """The mean over runs, each by its own weights, and its standard error."""
    mean = np.einsum("rp,rpd->rd", w, x)[:, None]
    # As many independent particles as are effective.
    variance = np.einsum("rp,rpd->r", w, (x - mean) ** 2) / (x.shape[2] * np.maximum(1 - (w**2).sum(axis=1), 1e-9))
    of = {"spread": np.sqrt(variance), "three": (w * (reads == 3)).sum(axis=1), "eight": (w * (reads == 8)).sum(axis=1)}
    return {key: [float(v.mean()), float(v.std(ddof=1) / np.sqrt(len(v)))] for key, v in of.items()}


def drawn(x: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> list[list[float]]:
    """Twelve particles by their weights, from all runs in turns."""
    runs = np.arange(12) % len(x)
    return [x[run, rng.choice(w.shape[1], p=w[run])].clip(-1, 1).tolist() for run in runs]


# ------------------------------------------------------------------------------------------------ tables and figures
def report(found: dict[Cell, dict[str, Any]], settings: Settings, out: Path) -> None:
    line = {name.law: cell for name, cell in found.items() if name.family == "line"}
    of_law = {law: {n.way: c for n, c in found.items() if (n.family, n.law) == ("digits", law)} for law in DIGITS}
    pair = "{:.3f} ± {:.3f}".format
    heading = ["", "mean, named", "unweighted", "weighted", "log Z, named", "found"]
    body = [
        [
            *(law, f"{(named(law)[0] * named(law)[1]).sum() * (named(law)[0][1] - named(law)[0][0]):.3f}"),
            *(pair(cell["unweighted"], cell["unweighted_error"]), pair(cell["mean"], cell["error"])),
            *(f"{named(law)[2]:.3f}", pair(cell["log_z"], cell["log_z_error"])),
        ]
        for law, cell in line.items()
    ]
    _cells.show(heading, body, left=1, title="Mixtures on the line")
    _cells.write(out / "line.md", _cells.markdown(heading, body, left=1))
    heading = ["", "particles", "effective, at the end", "least", "log Z", *MEASURED.values()]
    body = [line for law, ways in of_law.items() for line in rows(law, ways)]
    _cells.show(heading, body, left=2, title=f"Digits: {settings.runs} runs of {settings.particles} particles")
    _cells.write(out / "compose.md", _cells.markdown(heading, body, left=2))
    _cells.save_figure(line_figure(line), out / "line.png")
    _cells.save_figure(ess_figure(of_law), out / "ess.png")
    _cells.save_figure(pictures(of_law), out / "digits.png")


def rows(law: str, ways: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Of one law: the particles without weights, with those that they carried, and resampled."""
    lines: list[list[str]] = []
    for way, cell in ways.items():
        log_z = f"{cell['log_z']:.1f} ± {cell['log_z_error']:.1f}"
        for kind, values in sorted(cell["numbers"].items()):
            of = [f"{values[key][0]:.3f} ± {values[key][1]:.3f}" for key in MEASURED]
            if kind == "unweighted":
                lines.append([law, "unweighted", "", "", "", *of])
            elif law != "class 3":
                name = "weights carried" if way == WAYS[0] else way
                lines.append([law, name, f"{100 * cell['end']:.1f} %", f"{100 * cell['least']:.1f} %", log_z, *of])
    return lines


def line_figure(found: dict[str, dict[str, Any]]) -> Figure:
    """Above the laws that are named and the particles with and without weights, below the effective share."""
    view = Figure(figsize=(10.5, 5.6), layout="constrained")
    above, below = view.subplots(2, len(found), height_ratios=(3, 2))
    for axes, share, (law, cell) in zip(above, below, found.items(), strict=True):
        x, density, _ = named(law)
        axes.stairs(cell["unweighted_histogram"], EDGES, color=COLOURS[3], fill=True, alpha=0.35, label="unweighted")
        axes.stairs(cell["weighted_histogram"], EDGES, color=COLOURS[0], lw=1.5, label="weighted")
        axes.plot(x, density, color="black", label="named")
        axes.set(xlim=(-2.5, 2.5), ylim=(0, None), title=law, yticks=[], xlabel="x")
        share.plot(cell["ess"]["t"], cell["ess"]["share"], color=COLOURS[0])
        share.axhline(0.5, color="black", lw=0.8, ls=":")
        share.set(xscale="log", ylim=(0, 1.05), xlabel="t")
        share.invert_xaxis()
    below[0].set_ylabel("effective share")
    view.legend(*above[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return view


def ess_figure(of_law: dict[str, dict[str, dict[str, Any]]]) -> Figure:
    """The effective share on the way from noise to digits, weights carried along and resampled."""
    view = Figure(figsize=(10.5, 3.9), layout="constrained")
    left, right = view.subplots(1, 2, sharey=True)
    for axes, way, title in ((left, WAYS[0], "weights carried along"), (right, WAYS[1], "resampled below one half")):
        of_way(axes, of_law, way)
        axes.set(title=title, xscale="log", yscale="log", xlabel="t", ylim=(3e-3, 1.3))
        axes.grid(visible=True)
        axes.invert_xaxis()
    left.set_ylabel("effective share")
    view.legend(*left.get_legend_handles_labels(), loc="outside right upper")
    return view


def of_way(axes: Axes, of_law: dict[str, dict[str, dict[str, Any]]], way: str) -> None:
    laws = [law for law in of_law if law != "class 3"]
    for i, law in enumerate(laws):
        cell = of_law[law][way]
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "ls": "-" if i < len(COLOURS) else "--"}
        axes.plot(cell["ess"]["t"], cell["ess"]["share"], label=law, **style)


SHOWN = ("class 3", "w = 1", "w = 2", "3 and 8", "between 3 and 8", "β = 1.5")


def pictures(of_law: dict[str, dict[str, dict[str, Any]]]) -> Figure:
    """Twelve particles of each law, without weights and, if it is a composition, resampled by them."""
    lines: dict[str, list[list[float]]] = {}
    for law in SHOWN:
        carried, *others = of_law[law].values()
        lines[law if law == "class 3" else f"{law}\nunweighted"] = carried["images"]["unweighted"]
        if law != "class 3":
            lines[f"{law}\nweighted"] = others[-1]["images"]["weighted"]
    view = Figure(figsize=(10.5, 0.8 * len(lines)), layout="constrained")
    for (title, images), panels in zip(lines.items(), view.subplots(len(lines), 12), strict=True):
        for image, axes in zip(images, panels, strict=True):
            axes.imshow(np.reshape(image, (8, 8)), cmap="gray", vmin=-1, vmax=1)
            axes.set(xticks=[], yticks=[])
        panels[0].set_ylabel(title, rotation=0, ha="right", va="center")
    return view


if __name__ == "__main__":
    main()
