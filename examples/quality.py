"""Which number says how good samples are? Fréchet and kernel distance, precision and recall against their number.

Two scores of the 8×8 digits, trained for 300 and for 6,000 steps of denoising score matching, sampled by three
samplers. Features are the 32 units before the last layer of a small classifier, which this script trains on the labels.
Samples are brought to the levels of the data; the data are the 1,437 training digits.

    python examples/quality.py

Each cell is one JSON file in `docs/assets/quality/`, made from 5,120 samples, and is skipped when the file is there;
trained networks are in `.cache/quality/`. The tables and the figure are made from these files alone. Seed 0, float32.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _cells
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from matplotlib.figure import Figure

import scorefp as sfp
from scorefp import data, quality, train
from scorefp.sampling import AbstractSampler

SAMPLERS: dict[str, AbstractSampler] = {
    "DPMSolver, 5 steps": sfp.DPMSolver(5),
    "DPMSolver, 20 steps": sfp.DPMSolver(20),
    "Euler–Maruyama, 200 steps": sfp.EulerMaruyama(200),
}
NUMBERS = (80, 160, 320, 640, 1280, 2560, 5120)
REAL = "test digits"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is the same for all cells.

    Attributes:
        steps: The training steps of the two scores.
        samples: How many samples of each.
        features: The number of features.
    """

    steps: tuple[int, int] = (300, 6000)
    samples: int = 5120
    features: int = 32


@dataclasses.dataclass(frozen=True)
class Cell(_cells.Named):
    """One score and one sampler; or the test digits, and no sampler."""

    model: str
    sampler: str
    seed: int

    @property
    def label(self) -> str:
        return ", ".join(part for part in (self.model, self.sampler) if part)


def main() -> None:
    parser = _cells.parser(__doc__, out="docs/assets/quality")
    parser.add_argument("--cache", type=Path, default=Path(".cache/quality"), help="the folder of trained networks")
    parser.add_argument("--samples", type=int, default=Settings.samples)
    parser.add_argument("--steps", type=int, nargs=2, default=Settings.steps)
    options = parser.parse_args()
    settings = Settings(tuple(options.steps), options.samples)
    names = [Cell(f"{steps} steps", sampler, 0) for steps in settings.steps for sampler in SAMPLERS]
    made = _cells.cells(options.out, [Cell(REAL, "", 0), *names], settings, lambda *of: measured(*of, options.cache))
    accuracy = made[Cell(REAL, "", 0)]["accuracy"]
    write({name.label: found for name, found in made.items()}, accuracy, options.out)


# ------------------------------------------------------------------------------------------------ one cell
def measured(cell: Cell, settings: Settings, cache: Path) -> dict[str, Any]:
    digits = data.digits("train", labels=True)
    classifier, notes = classified(digits, settings, cache)
    # The first layers alone: a function of one sample.
    features = classifier.features
    levels = digits.quantisation
    assert levels is not None
    centred: Callable[[Any], jax.Array] = lambda k: levels.dequantise(k, jnp.full(k.shape, 0.5))
    real = centred(digits.values)
    if cell.model == REAL:
        x = centred(data.digits("test").values)
    else:
        steps = int(cell.model.partition(" ")[0])
        score = trained(digits, steps, cache)
        method = SAMPLERS[cell.sampler]
        x = centred(levels.quantise(sfp.sample(score, settings.samples, key=jr.key(7), method=method)))
    count = min(len(x), len(real))
    shares = quality.precision_recall(x[:count], real[:count], features=features)
    kernel = quality.kernel_distance(x, real, features=features)
    curves = [curve(x, real, n, features) for n in NUMBERS if n <= len(x)]
    return {
        "count": len(x),
        "accuracy": notes["accuracy"],
        "curve": curves,
        "frechet": both(quality.frechet_distance(x, real, features=features)),
        "kernel": pair(kernel),
        **{name: pair(getattr(shares, name)) for name in ("precision", "recall", "density", "coverage")},
        "equals": shares.coverage_of_equals,
        "shares of": count,
    }


def curve(x: jax.Array, real: jax.Array, n: int, features: Any) -> dict[str, Any]:
    """The mean over sets of so many samples that have none in common, eight at most, and the spread of one."""
    sets = [x[first : first + n] for first in range(0, len(x) - n + 1, n)][:8]
    found = [quality.frechet_distance(part, real, features=features) for part in sets]
    values = {name: [float(getattr(f, name).value) for f in found] for name in ("plug_in", "extrapolated")}
    return {
        "n": n,
        "sets": len(sets),
        "error": float(np.mean([float(f.plug_in.error) for f in found])),
        **{name: float(np.mean(v)) for name, v in values.items()},
        **{f"{name} spread": float(np.std(v, ddof=1)) if len(v) > 1 else None for name, v in values.items()},
    }


def pair(found: sfp.Estimate) -> tuple[float, float]:
    return float(found.value), float(found.error)


def both(found: quality.FrechetDistance) -> dict[str, Any]:
    return {"plug_in": pair(found.plug_in), "extrapolated": pair(found.extrapolated)}


class Classifier(eqx.Module):
    """Two layers whose output is the features, and one that makes ten logits of them."""

    layers: eqx.nn.MLP
    last: eqx.nn.Linear

    def features(self, x: jax.Array) -> jax.Array:
        return self.layers(x)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.features(x))


def classified(digits: data.Dataset, settings: Settings, cache: Path) -> tuple[Classifier, dict[str, Any]]:
    """A classifier of digits, trained by a loop of optax on dequantised digits, and its accuracy on the test."""
    first, last = jr.split(jr.key(1))
    start = Classifier(
        eqx.nn.MLP(digits.size, settings.features, 128, 1, jax.nn.silu, final_activation=jnp.tanh, key=first),
        eqx.nn.Linear(settings.features, 10, key=last),
    )
    return _cells.kept(cache / f"classifier-{settings.features}", start, lambda: fitted(start, digits))


def fitted(start: Classifier, digits: data.Dataset) -> tuple[Classifier, dict[str, Any]]:
    adam = optax.adam(1e-3)

    @eqx.filter_jit
    def looped(model: Classifier, keys: jax.Array) -> Classifier:
        arrays, rest = eqx.partition(model, eqx.is_array)

        def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
            arrays, state = carry
            index_key, noise_key = jr.split(key)
            rows = jr.randint(index_key, (128,), 0, len(digits))
            x = digits.quantisation.place(digits.values[rows], jr.uniform(noise_key, (128, digits.size)))

            def loss(arrays: Any) -> jax.Array:
                logits = jax.vmap(eqx.combine(arrays, rest))(x)
                return optax.softmax_cross_entropy_with_integer_labels(logits, digits.args[rows]).mean()

            updates, state = adam.update(jax.grad(loss)(arrays), state)
            return (optax.apply_updates(arrays, updates), state), None

        (arrays, _), _ = jax.lax.scan(step, (arrays, adam.init(arrays)), keys)
        return eqx.combine(arrays, rest)

    model = looped(start, jr.split(jr.key(2), 3000))
    test = data.digits("test", labels=True).dequantised(jr.key(3))
    found = jnp.argmax(jax.vmap(model)(test.values), axis=1)
    return model, {"accuracy": float(jnp.mean(found == test.args))}


def trained(digits: data.Dataset, steps: int, cache: Path) -> Any:
    network = sfp.nn.MLP(digits.shape, width=256, key=jr.key(4))
    start = sfp.NoiseScore(network, sfp.VP(), data_std=digits.std)
    unlabelled = data.Dataset(digits.values, digits.quantisation)

    def fit() -> tuple[Any, dict[str, Any]]:
        optimizer = _cells.adam(1e-3, steps)
        run = train.fit(start, sfp.DSM(), unlabelled, optimizer=optimizer, steps=steps, key=jr.key(5))
        return run.model, {"seconds_per_step": run.seconds_per_step}

    return _cells.kept(cache / f"score-{steps}", start, fit)[0]


# ------------------------------------------------------------------------------------------------ what is shown
def write(found: dict[str, dict[str, Any]], accuracy: float, out: Path) -> None:
    head = ["samples", "Fréchet, plug-in", "extrapolated", "kernel · 10³", "precision", "recall", "density", "coverage"]
    body = [
        [
            label,
            told(cell["frechet"]["plug_in"]),
            told(cell["frechet"]["extrapolated"]),
            told([1e3 * value for value in cell["kernel"]]),
            *(told(cell[name]) for name in ("precision", "recall", "density", "coverage")),
        ]
        for label, cell in found.items()
    ]
    real = found[REAL]
    some = next(cell for label, cell in found.items() if label != REAL)
    note = (
        f"± is one standard error. {some['count']:,} samples, {real['count']} {REAL}, 1,437 training digits; the last "
        f"four columns are of {some['shares of']:,} and {real['shares of']} samples and as many training digits: of "
        f"equal laws the coverage is {some['equals']:.3f} and {real['equals']:.3f}, the density 1. The classifier is "
        f"right on {accuracy:.1%} of the test digits."
    )
    _cells.show(head, body, left=1, title=note)
    _cells.write(out / "quality.md", f"{_cells.markdown(head, body, left=1)}\n{note}\n")
    head = ["samples", *(f"{n:,}" for n in NUMBERS)]
    body = [
        [f"{label}: {word}", *(f"{point[name]:.2f}" for point in cell["curve"])]
        for label, cell in found.items()
        if label != REAL
        for name, word in (("plug_in", "plug-in"), ("extrapolated", "extrapolated"))
    ]
    _cells.show(head, body, left=1)
    _cells.write(out / "numbers.md", _cells.markdown(head, body, left=1))
    _cells.save_figure(figure(found), out / "quality.png")


def told(estimate: Any) -> str:
    value, error = estimate
    digits = max(0, 1 - int(np.floor(np.log10(error)))) if error > 0 else 3
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def figure(found: dict[str, dict[str, Any]]) -> Figure:
    """The Fréchet distance by the number of samples."""
    view = Figure(figsize=(8.4, 4.4), layout="constrained")
    axes = view.subplots(1, 2, sharey=True)
    titles = {"plug_in": "plug-in", "extrapolated": "extrapolated to 1/n = 0"}
    for ax, (name, title) in zip(axes, titles.items(), strict=True):
        for i, (label, cell) in enumerate(found.items()):
            n, value, error = (np.array([point[key] for point in cell["curve"]]) for key in ("n", name, "error"))
            # A little apart, so that no bar hides another.
            look = _cells.INK if label == REAL else f"C{i - 1}"
            ax.errorbar(n * 1.03 ** (i - 3), value, error, color=look, marker="o", markersize=3, capsize=2, label=label)
        ax.set(xscale="log", xlabel="samples n", title=title)
        ax.set_xticks(NUMBERS, [str(n) for n in NUMBERS], rotation=45)
        ax.minorticks_off()
        ax.axhline(0, color=_cells.INK, linewidth=0.8)
        ax.grid(visible=True, axis="y")
    axes[0].set_ylabel("Fréchet distance of 32 features")
    view.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return view


if __name__ == "__main__":
    main()
