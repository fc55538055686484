"""What weights correct, on the line: a wrong potential, an annealed score, a tilt.

Each potential names a law at t0, known by quadrature. The reverse SDE of its score samples another one; its samples,
weighted by the residual along their paths, have the law. Prints the table and writes it with the figure:

    python examples/weighted_laws.py --out docs/assets/weighted_laws

Exact scores of mixtures, no training; no seed is tuned.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import _cells
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from matplotlib.figure import Figure

import scorefp as sfp
from scorefp.score import AbstractScore

SDE = sfp.VP(t0=1e-3)
LAW = sfp.GaussianMixture(jnp.array([-1.0, 1.2]), jnp.array([0.12, 0.25]), jnp.array([0.6, 0.4]))
EXACT = LAW.score(SDE)
SEEN, NOISE = 0.6, 0.5
"""A measurement of clean data, and the deviation of its noise."""
GRID = np.linspace(-4, 4, 3201)
COLOURS = {"unweighted": "#D55E00", "weighted": "#0072B2"}


@dataclasses.dataclass(frozen=True)
class Settings:
    runs: int = 20
    particles: int = 2500
    steps: int = 500


@dataclasses.dataclass(frozen=True)
class Cell(_cells.Named):
    law: str
    seed: int = 0


def bent(t: jax.Array, x: jax.Array) -> jax.Array:
    """The exact potential with an error that grows towards the data."""
    return EXACT.potential(t, x) + 0.8 * jnp.exp(-4 * t) * jnp.sum(jnp.sin(2 * x + 1))


def guess(t: jax.Array, x: jax.Array) -> jax.Array:
    """The likelihood of the measurement, at the denoiser's guess of the clean sample in place of the sample."""
    return -jnp.sum((EXACT.denoise(t, x) - SEEN) ** 2) / (2 * NOISE**2)


@dataclasses.dataclass(frozen=True)
class Law:
    """A score, and the potential of the law that it names."""

    title: str
    score: AbstractScore
    potential: Callable[[jax.Array, jax.Array], jax.Array]


LAWS = {
    "wrong": Law("a wrong potential [W1]", sfp.Potential(bent, SDE, ()), bent),
    "annealed": Law("annealed, β = 2 [W2]", sfp.Annealed(EXACT, 2.0), lambda t, x: 2 * EXACT.potential(t, x)),
    "tilted": Law("a measurement [W3]", sfp.Tilted(EXACT, guess), lambda t, x: EXACT.potential(t, x) + guess(t, x)),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _cells.parser(__doc__, out="docs/assets/weighted_laws")
    parser.add_argument("--steps", type=int, default=500, help="steps of the sampler")
    options = parser.parse_args(arguments)
    settings = Settings(steps=options.steps)
    report(_cells.cells(options.out, [Cell(name) for name in LAWS], settings, measured), options.out)


def named(law: Law) -> tuple[np.ndarray, float]:
    """The density of the law that a potential names at t0, on the grid, and the logarithm of its normaliser."""
    value = np.asarray(jax.vmap(lambda x: law.potential(jnp.asarray(SDE.t0), x))(jnp.asarray(GRID)), np.float64)
    density = np.exp(value)
    normaliser = density.sum() * (GRID[1] - GRID[0])
    return density / normaliser, float(np.log(normaliser))


def measured(name: Cell, settings: Settings) -> dict[str, Any]:
    score = LAWS[name.law].score
    keys = jr.split(jr.key(name.seed))
    method = sfp.FeynmanKac(settings.steps, particles=settings.particles)
    weighted = sfp.sampling.weighted_samples(score, settings.runs, key=keys[0], method=method)
    n = settings.runs * settings.particles
    plain = sfp.sample(score, n, key=keys[1], method=sfp.EulerMaruyama(settings.steps))
    corrected = weighted.mean(lambda x: jnp.stack([x < 0, x]).astype(float))
    normaliser = weighted.log_normaliser
    bins = np.linspace(-3, 3, 101)
    return _cells.rounded(
        {
            "unweighted": [float((plain < 0).mean()), float(plain.mean())],
            "unweighted_errors": [float((plain < 0).std() / n**0.5), float(plain.std() / n**0.5)],
            "weighted": np.asarray(corrected.value).tolist(),
            "weighted_errors": np.asarray(corrected.error).tolist(),
            "log_normaliser": [float(normaliser.value), float(normaliser.error)],
            "ess": (np.asarray(weighted.ess).mean(axis=0) / settings.particles)[::10].tolist(),
            "times": np.asarray(weighted.times)[::10].tolist(),
            "histograms": {
                "unweighted": np.histogram(plain, bins, density=True)[0].tolist(),
                "weighted": np.histogram(
                    weighted.samples.ravel(), bins, density=True, weights=np.exp(weighted.log_weights).ravel()
                )[0].tolist(),
            },
        },
        5,
    )


def report(found: dict[Cell, dict[str, Any]], out: Path) -> None:
    headings = ["", "", "mass left of 0", "mean", "log Z"]
    body = []
    for name, f in found.items():
        law = LAWS[name.law]
        density, normaliser = named(law)
        mass = density / density.sum()
        body.append([law.title, "the law", f"{mass[GRID < 0].sum():.3f}", f"{mass @ GRID:.3f}", f"{normaliser:.3f}"])
        for way in COLOURS:
            cells = [f"{v:.3f} ± {e:.3f}" for v, e in zip(f[way], f[f"{way}_errors"], strict=True)]
            log_z = "" if way == "unweighted" else "{:.3f} ± {:.3f}".format(*f["log_normaliser"])
            body.append(["", way, *cells, log_z])
    _cells.show(headings, body, left=2, title="± one standard error")
    _cells.write(out / "weighted_laws.md", _cells.markdown(headings, body, left=2))
    _cells.save_figure(figure(found), out / "weighted_laws.png")


def figure(found: dict[Cell, dict[str, Any]]) -> Figure:
    """Samples with the law that is named, and the effective sample size on the way."""
    view = Figure(figsize=(10.5, 5.4), layout="constrained")
    upper, lower = view.subplots(2, len(found), height_ratios=(2, 1))
    edges = np.linspace(-3, 3, 101)
    for (name, f), top, bottom in zip(found.items(), upper, lower, strict=True):
        law = LAWS[name.law]
        for way, colour in COLOURS.items():
            filled = way == "weighted"
            top.stairs(f["histograms"][way], edges, color=colour, fill=filled, alpha=0.5 if filled else 1, label=way)
        top.plot(GRID, named(law)[0], color="black", label="the law it names")
        top.set(xlim=(-2.6, 3), xlabel="x", title=law.title)
        bottom.plot(f["times"], f["ess"], color=COLOURS["weighted"])
        bottom.set(xlabel="t", ylim=(0, 1.05), title="effective share of the samples")
        bottom.invert_xaxis()
        bottom.grid(visible=True)
    view.legend(*upper[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return view


if __name__ == "__main__":
    main()
