"""A guided score is no diffusion's: what an audit says of it, and what it samples.

Two families of scores by class. The first is exact: the modes of a mixture on the line, so that the residual of each
score is zero to rounding, and the law that guidance names, q(x) q(c | x)^(1 + w), is known by quadrature. The second is
trained on the 8×8 digits by `fit(…, label_dropout=…)`: one network for the ten classes and for none. For each strength
w the guided score is audited, and its samples are compared with what was asked for. Prints two tables and writes them
with the figure:

    python examples/guidance.py --out docs/assets/guidance

Each strength of a family is one cell, and the model is kept in `--models`; what is there is not made again. All of it
took 3.5 minutes on two CPU cores that other work shared. No seed is tuned.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import _cells
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from matplotlib.figure import Figure
from scipy import stats
from sklearn.neighbors import KNeighborsClassifier

import scorefp as sfp
from scorefp import data, train
from scorefp.diagnostics import Ensemble, ResidualCurve

SDE = sfp.VP()
MEANS, STDS, WEIGHTS = np.array([-1.0, 1.0, 2.0]), np.array([0.3, 0.5, 0.4]), np.array([0.5, 0.3, 0.2])
ASKED = 1
"""The mode that is asked for, which overlaps with its neighbour."""
CLASSES = 10
COLOURS = ("#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7")


@dataclasses.dataclass(frozen=True)
class Settings:
    strengths: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0)
    samples: int = 20_000
    steps: int = 6000
    width: int = 256
    share: float = 0.15
    digits: int = 50  # samples of each class
    audited: int = 200


@dataclasses.dataclass(frozen=True)
class Cell(_cells.Named):
    family: str
    strength: str
    seed: int = 0


def main() -> None:
    parser = _cells.parser(__doc__, out="docs/assets/guidance")
    parser.add_argument("--models", type=Path, default=Path(".cache/guidance"), help="the folder of the trained model")
    parser.add_argument("--steps", type=int, default=6000, help="training steps")
    parser.add_argument("--samples", type=int, default=20_000, help="samples of the modes")
    options = parser.parse_args()
    settings = Settings(steps=options.steps, samples=options.samples)
    names = [Cell(family, f"w{w:g}") for family in FAMILIES for w in settings.strengths]
    found = _cells.cells(options.out, names, settings, lambda name, s: FAMILIES[name.family](name, s, options.models))
    report(found, settings, options.out)


def strength(name: Cell) -> float:
    return float(name.strength[1:])


# ----------------------------------------------------------------------------------------------- exact modes
class Modes(eqx.Module):
    """The exact score of a mode of the mixture by its number, and of all of it by the number after the last."""

    def __call__(self, t: jax.Array, x: jax.Array, *, args: jax.Array) -> jax.Array:
        alpha, sigma = SDE.alpha(t), SDE.sigma(t)
        variances = alpha**2 * STDS**2 + sigma**2
        centred = x[0] - alpha * MEANS
        shares = jax.nn.softmax(jnp.log(WEIGHTS) - centred**2 / (2 * variances) - jnp.log(variances) / 2)
        scores = -centred / variances
        return jnp.append(scores, shares @ scores)[args][None].astype(x.dtype)


def named_law(w: float) -> tuple[np.ndarray, np.ndarray]:
    """A grid, and on it the density q(x) q(c | x)^(1 + w) at t0."""
    x = np.linspace(-4, 6, 4001)
    alpha, sigma = float(SDE.alpha(SDE.t0)), float(SDE.sigma(SDE.t0))
    variances = alpha**2 * STDS**2 + sigma**2
    modes = WEIGHTS * np.exp(-((x[:, None] - alpha * MEANS) ** 2) / (2 * variances)) / np.sqrt(variances)
    density = modes[:, ASKED] ** (1 + w) * modes.sum(axis=1) ** -w
    return x, density / (density.sum() * (x[1] - x[0]))


def of_modes(name: Cell, settings: Settings, models: Path) -> dict[str, Any]:
    family = sfp.Score(Modes(), SDE, shape=(1,))
    guided = sfp.Guided(family, family.bind(args=len(MEANS)), strength(name)).bind(args=ASKED)
    clean = MEANS[ASKED] + STDS[ASKED] * jr.normal(jr.key(0), (256, 1))
    x = sfp.sample(guided, settings.samples, key=jr.key(2), method=sfp.EulerMaruyama(500))
    grid, density = named_law(strength(name))
    mass = density / density.sum()
    mean = float(mass @ grid)
    return residual(guided, data.Dataset(clean), 256) | {
        "mean": float(x.mean()),
        "error": float(x.std() / math.sqrt(len(x))),
        "std": float(x.std()),
        "named_mean": mean,
        "named_std": float(np.sqrt(mass @ (grid - mean) ** 2)),
        "histogram": _cells.rounded(np.histogram(x, bins=80, range=(-1, 3.5), density=True)[0].tolist(), 4),
    }


def residual(score: sfp.score.AbstractScore, clean: data.Dataset, samples: int) -> dict[str, Any]:
    """The residual over time, free of its scale, on diffused samples."""
    section = ResidualCurve(ensemble=Ensemble(24, samples))(score, clean, key=jr.key(1))
    curve, number = section.curves["r_FP_scale_free"], section.numbers["r_FP_scale_free"]
    return {
        "residual": number.value,
        "half_width": number.half_width,
        "curve": {"t": _cells.rounded(curve.t.tolist()), "value": _cells.rounded(curve.value.tolist())},
    }


# ----------------------------------------------------------------------------------------------- digits
class Labelled(eqx.Module):
    """A perceptron that sees the class beside the image; the label after the last class is that of none."""

    network: sfp.nn.MLP
    shape: tuple[int, ...] = eqx.field(static=True, default=(64,))

    def __call__(self, t: jax.Array, x: jax.Array, *, args: jax.Array) -> jax.Array:
        # Of about the size of the image, whose 64 entries have the deviation one here.
        joined = jnp.concatenate([x, 4 * jax.nn.one_hot(args, CLASSES, dtype=x.dtype)])
        return self.network(t, joined)[: len(x)]


def trained(settings: Settings, models: Path) -> sfp.score.NetworkScore:
    """One network for all classes and for none."""
    digits = data.digits("train", labels=True)
    network = Labelled(sfp.nn.MLP((64 + CLASSES,), width=settings.width, key=jr.key(0)))
    start = sfp.NoiseScore(network, SDE, data_std=digits.std)

    def fitted() -> tuple[sfp.score.NetworkScore, dict[str, Any]]:
        run = train.fit(
            start,
            sfp.DSM(),
            digits,
            optimizer=_cells.adam(1e-3, settings.steps),
            steps=settings.steps,
            key=jr.key(1),
            label_dropout=train.LabelDropout(settings.share, null=CLASSES),
            progress=False,
        )
        return run.model, {"loss": float(run.history["loss"][-500:].mean())}

    return _cells.kept(models / f"digits-{_cells.fingerprint(dataclasses.asdict(settings))}", start, fitted)[0]


def of_digits(name: Cell, settings: Settings, models: Path) -> dict[str, Any]:
    model = trained(settings, models)
    guided = sfp.Guided(model, model.bind(args=CLASSES), strength(name))
    labels = jnp.repeat(jnp.arange(CLASSES), settings.digits)
    x = sfp.sample(guided, len(labels), key=jr.key(2), method=sfp.DPMSolver(40), args=labels)
    real = data.digits("train", labels=True)
    reader = KNeighborsClassifier(5).fit(np.asarray(real.dequantised(jr.key(3)).values), np.asarray(real.args))
    read = reader.predict(np.asarray(x)) == np.asarray(labels)
    by_class = np.asarray(x).reshape(CLASSES, settings.digits, 64)
    test = data.digits("test", labels=True)
    seen = np.asarray(test.dequantised(jr.key(3)).values), np.asarray(test.args)
    return residual(guided, test.dequantised(jr.key(3)), settings.audited) | {
        "read": float(read.mean()),
        "spread": float(np.sqrt(by_class.var(axis=1, ddof=1).mean())),
        "real_read": float((reader.predict(seen[0]) == seen[1]).mean()),
        "real_spread": float(np.sqrt(np.mean([seen[0][seen[1] == c].var(axis=0, ddof=1) for c in range(CLASSES)]))),
        "images": _cells.rounded(by_class[:, 0].clip(-1, 1).tolist(), 3),
    }


FAMILIES = {"modes": of_modes, "digits": of_digits}


# ----------------------------------------------------------------------------------------------- tables and figure
def report(found: dict[Cell, dict[str, Any]], settings: Settings, out: Path) -> None:
    of = {family: {strength(n): f for n, f in found.items() if n.family == family} for family in FAMILIES}
    heading = [
        "strength w",
        "residual",
        "mean of samples",
        "of the named law",
        "deviation of samples",
        "of the named law",
    ]
    body = [
        [
            *(f"{w:g}", f"{f['residual']:.2g}", f"{f['mean']:.3f} ± {2 * f['error']:.3f}", f"{f['named_mean']:.3f}"),
            *(f"{f['std']:.3f}", f"{f['named_std']:.3f}"),
        ]
        for w, f in of["modes"].items()
    ]
    _cells.show(heading, body, left=0, title="Modes: the scores are exact")
    _cells.write(out / "modes.md", _cells.markdown(heading, body, left=0))
    heading = ["strength w", "residual", "read as the class asked for", "spread within a class"]
    body = [
        [
            *(f"{w:g}", f"{f['residual']:.3f} ± {f['half_width']:.3f}"),
            *(share(f["read"], CLASSES * settings.digits), f"{f['spread']:.3f}"),
        ]
        for w, f in of["digits"].items()
    ]
    any_one = next(iter(of["digits"].values()))
    body.append(["test digits", "", f"{any_one['real_read']:.3f}", f"{any_one['real_spread']:.3f}"])
    _cells.show(heading, body, left=0, title="Digits")
    _cells.write(out / "digits.md", _cells.markdown(heading, body, left=0))
    _cells.save_figure(figure(of, settings), out / "guidance.png")
    _cells.save_figure(pictures(of["digits"]), out / "digits.png")


def share(value: float, n: int) -> str:
    """A share of n with its 95 % interval by Wilson's score."""
    low, high = stats.binomtest(round(value * n), n).proportion_ci(method="wilson")
    return f"{value:.3f} ({low:.3f}, {high:.3f})"


def figure(of: dict[str, dict[float, dict[str, Any]]], settings: Settings) -> Figure:
    """The residual over time of both families, and the samples of the modes with the laws that guidance names."""
    view = Figure(figsize=(10.5, 6.2), layout="constrained")
    grid = view.add_gridspec(2, 6)
    left, right = view.add_subplot(grid[0, :3]), view.add_subplot(grid[0, 3:])
    for axes, family, title in ((left, "modes", "exact modes"), (right, "digits", "trained on digits")):
        for (w, f), colour in zip(of[family].items(), COLOURS, strict=True):
            axes.plot(f["curve"]["t"], f["curve"]["value"], color=colour, label=f"w = {w:g}")
        axes.set(yscale="log", xscale="log", xlabel="t", title=f"residual, {title}")
        axes.grid(visible=True)
    left.set_ylim(1e-9, 20)
    left.legend(loc="upper left", ncols=2)
    shown = [w for w in settings.strengths if w in (0.0, 1.0, 4.0)]
    edges = np.linspace(-1, 3.5, 81)
    for i, w in enumerate(shown):
        axes = view.add_subplot(grid[1, 2 * i : 2 * i + 2])
        colour = COLOURS[settings.strengths.index(w)]
        axes.stairs(of["modes"][w]["histogram"], edges, color=colour, fill=True, alpha=0.5, label="samples")
        axes.plot(*named_law(w), color="black", label="the law it names")
        axes.set(xlim=(-1, 3.5), ylim=(0, 2), xlabel="x", title=f"modes, w = {w:g}")
        axes.legend(loc="upper right")
    return view


def pictures(found: dict[float, dict[str, Any]]) -> Figure:
    """The first sample of each class at each strength, from the same noise."""
    view = Figure(figsize=(10.5, 0.95 * len(found)), layout="constrained")
    for (w, f), panels in zip(found.items(), view.subplots(len(found), CLASSES), strict=True):
        for image, axes in zip(f["images"], panels, strict=True):
            axes.imshow(np.reshape(image, (8, 8)), cmap="gray", vmin=-1, vmax=1)
            axes.set(xticks=[], yticks=[])
        panels[0].set_ylabel(f"w = {w:g}", rotation=0, ha="right", va="center")
    return view


if __name__ == "__main__":
    main()
