"""Inpainting of digits: a measurement as a tilt of a score that knows nothing of it.

A score is trained on the 8×8 digits; then the lower half of test digits is hidden, and the upper half is a measurement
y = A x₀ + noise. Its log-likelihood under the denoiser, with the uncertainty of the denoiser added to the noise,

    h(t, x) = −‖A denoise(t, x) − y‖² / (2 (τ² + σ_d² σ² / (α² σ_d² + σ²))),

is the reward of `Tilted`, and any sampler draws digits with the measured half. Samples of the same score without the
tilt are the control. A 5-nearest-neighbours classifier of real digits reads what was made. Prints one table and writes
it with the figure:

    python examples/inpainting.py --out docs/assets/inpainting

The same tilt with weights, `FeynmanKac`, is tried on a few digits as it is and with a tilt that grows with α², for
this measurement and one with more noise. The second table has the effective share of the particles.

The samples of a method are one cell, and the model is kept in `--models`; what is there is not made again. All of it
took seven minutes on two CPU cores that other work shared. No seed is tuned.
"""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import _cells
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from sklearn.neighbors import KNeighborsClassifier

import scorefp as sfp
from scorefp import data, train
from scorefp.sampling import weighted_samples

SDE = sfp.VP()
SEEN = np.arange(64) < 32
"""The upper half."""


@dataclasses.dataclass(frozen=True)
class Settings:
    steps: int = 6000
    width: int = 256
    digits: int = 100
    draws: int = 4
    noise: float = 2 / 17  # the width of a level
    sampler_steps: int = 500


@dataclasses.dataclass(frozen=True)
class WeightedSettings:
    digits: int = 8
    steps: int = 200
    particles: int = 128


@dataclasses.dataclass(frozen=True)
class Cell(_cells.Named):
    method: str
    seed: int = 0


class Measurement(eqx.Module):
    """The log-likelihood of measured pixels, which are the conditioning, under the denoiser."""

    score: sfp.score.AbstractScore
    seen: jax.Array
    noise: float
    data_std: float
    grows: bool = eqx.field(default=False, static=True)

    def __call__(self, t: jax.Array, x: jax.Array, *, args: jax.Array) -> jax.Array:
        alpha, sigma = SDE.alpha(t), SDE.sigma(t)
        # Of clean data given x_t, where they are Gaussian.
        variance = (self.data_std * sigma) ** 2 / ((alpha * self.data_std) ** 2 + sigma**2)
        error = jnp.where(self.seen, self.score.denoise(t, x) - args, 0.0)
        return -0.5 * jnp.sum(error**2) / (self.noise**2 + variance) * (alpha**2 if self.grows else 1.0)


METHODS = ("tilted", "without the measurement")
WAYS = {
    "weighted": (Settings.noise, False),
    "weighted, growing tilt": (Settings.noise, True),
    "weighted, more noise": (0.5, False),
    "weighted, more noise, growing tilt": (0.5, True),
}
"""Of weights: the noise of the measurement, and whether the tilt grows with `alpha**2`."""


def main(arguments: list[str] | None = None) -> None:
    parser = _cells.parser(__doc__, out="docs/assets/inpainting")
    parser.add_argument(
        "--models", type=Path, default=Path(".cache/inpainting"), help="the folder of the trained model"
    )
    parser.add_argument("--steps", type=int, default=6000, help="training steps")
    parser.add_argument("--sampler-steps", type=int, default=500)
    options = parser.parse_args(arguments)
    settings = Settings(steps=options.steps, sampler_steps=options.sampler_steps)
    models = options.models
    make = lambda name, s: made(name, s, models)
    found = _cells.cells(options.out, [Cell(method) for method in METHODS], settings, make)
    report({name.method: cell for name, cell in found.items()}, settings, options.out)
    few = WeightedSettings() if options.steps == Settings.steps else WeightedSettings(2, options.sampler_steps, 16)
    ways = _cells.cells(
        options.out, [Cell(way) for way in WAYS], few, lambda name, s: weighted(name, s, settings, models)
    )
    _cells.write(options.out / "weighted.md", weights_table(ways))
    _cells.save_figure(weights_figure(ways), options.out / "weighted.png")


def trained(settings: Settings, models: Path) -> sfp.score.NetworkScore:
    """The score of all digits, without classes."""
    digits = data.digits("train")
    start = sfp.NoiseScore(sfp.nn.MLP((64,), width=settings.width, key=jr.key(0)), SDE, data_std=digits.std)

    def fitted() -> tuple[sfp.score.NetworkScore, dict[str, Any]]:
        optimizer = _cells.adam(1e-3, settings.steps)
        options = {"optimizer": optimizer, "steps": settings.steps, "key": jr.key(1), "progress": False}
        run = train.fit(start, sfp.DSM(), digits, **options)
        return run.model, {"loss": float(run.history["loss"][-500:].mean())}

    return _cells.kept(models / f"digits-{_cells.fingerprint(dataclasses.asdict(settings))}", start, fitted)[0]


def hidden(settings: Settings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test digits, what is measured of each, and the digit that each is."""
    test = data.digits("test", labels=True)
    x = np.asarray(test.dequantised(jr.key(3)).values)[: settings.digits]
    noise = settings.noise * np.asarray(jr.normal(jr.key(4), x.shape))
    return x, np.where(SEEN, x + noise, 0.0), np.asarray(test.args)[: settings.digits]


def inpainted(
    model: sfp.score.AbstractScore, data_std: float, noise: float, *, grows: bool = False
) -> sfp.score.AbstractScore:
    """The tilted score, whose conditioning is a measurement; the score inside takes none."""
    unconditional = sfp.Score(lambda t, x, args: model(t, x), SDE, shape=(64,))
    return sfp.Tilted(unconditional, Measurement(model, jnp.asarray(SEEN), noise, data_std, grows))


def made(name: Cell, settings: Settings, models: Path) -> dict[str, Any]:
    model, (truth, measured, digit) = trained(settings, models), hidden(settings)
    score = inpainted(model, data.digits("train").std, settings.noise) if name.method == METHODS[0] else model
    args = jnp.repeat(jnp.asarray(measured), settings.draws, axis=0) if name.method == METHODS[0] else None
    method = sfp.EulerMaruyama(settings.sampler_steps)
    x = np.asarray(sfp.sample(score, settings.digits * settings.draws, key=jr.key(2), method=method, args=args))
    real = data.digits("train", labels=True)
    reader = KNeighborsClassifier(5).fit(np.asarray(real.dequantised(jr.key(3)).values), np.asarray(real.args))
    by_digit = x.reshape(settings.digits, settings.draws, 64)
    off = (by_digit - truth[:, None]) ** 2
    return {
        "seen": _cells.interval(np.sqrt(off[..., SEEN].mean(axis=(1, 2)))),
        "hidden": _cells.interval(np.sqrt(off[..., ~SEEN].mean(axis=(1, 2)))),
        "hidden_mean": _cells.interval(np.sqrt(((by_digit.mean(axis=1) - truth) ** 2)[:, ~SEEN].mean(axis=1))),
        "read": _cells.interval((reader.predict(x).reshape(by_digit.shape[:2]) == digit[:, None]).mean(axis=1)),
        "spread": float(np.sqrt(by_digit.var(axis=1, ddof=1)[:, ~SEEN].mean())),
        "images": _cells.rounded(by_digit[:12].clip(-1, 1).tolist(), 3),
    }


def weighted(name: Cell, few: WeightedSettings, settings: Settings, models: Path) -> dict[str, Any]:
    """The effective share of the particles, mean over digits, and log Z of each by weights carried and resampled."""
    noise, grows = WAYS[name.method]
    truth, _, _ = hidden(settings)
    score = inpainted(trained(settings, models), data.digits("train").std, noise, grows=grows)
    measured = np.where(SEEN, truth + noise * np.asarray(jr.normal(jr.key(4), truth.shape)), 0.0)

    def off(weights: np.ndarray, x: np.ndarray) -> float:
        """The error of the mean of the draws, hidden."""
        weights = np.broadcast_to(weights, x.shape[:2])
        means = np.einsum("rp,rpd->rd", weights / weights.sum(axis=1, keepdims=True), x)
        return float(np.sqrt(((means - truth[: few.digits]) ** 2)[:, ~SEEN].mean()))

    row: dict[str, Any] = {}
    for way, threshold in {"carried": 0.0, "resampled": 0.5}.items():
        method = sfp.FeynmanKac(few.steps, threshold=threshold, particles=few.particles)
        with warnings.catch_warnings():
            # It is what is measured here.
            warnings.filterwarnings("ignore", "the effective sample size collapsed")
            args = jnp.asarray(measured[: few.digits], jnp.float32)
            found = weighted_samples(score, few.digits, key=jr.key(5), method=method, args=args)
        shares = np.asarray(found.ess) / few.particles
        row[way] = {
            "start": float(shares[:, 0].mean()),
            "least": float(shares.min(axis=1).mean()),
            "end": float(shares[:, -1].mean()),
            "log_z": np.asarray(found.log_normalisers).tolist(),
            "curve": shares.mean(axis=0)[:: max(1, few.steps // 50)].tolist(),
            "hidden_mean": off(np.exp(np.asarray(found.log_weights, np.float64)), np.asarray(found.samples)),
            "hidden_mean_unweighted": off(np.ones(shares[:, :1].shape), np.asarray(found.samples)),
        }
    return _cells.rounded(row, 4)


# ----------------------------------------------------------------------------------------------- table and figure
def weights_table(ways: dict[Cell, dict[str, Any]]) -> str:
    heading = ["", "share at the start, %", "at the end, carried, %", "least, resampled, %", "log Z apart, nats"]
    heading += ["error of the mean, hidden: no weights", "carried", "resampled"]
    body: list[list[str]] = []
    for name, way in ways.items():
        carried, resampled = way["carried"], way["resampled"]
        apart = float(np.median(np.abs(np.subtract(carried["log_z"], resampled["log_z"]))))
        shares = (carried["start"], carried["end"], resampled["least"])
        errors = (carried["hidden_mean_unweighted"], carried["hidden_mean"], resampled["hidden_mean"])
        numbers = [*(f"{100 * share:.1f}" for share in shares), f"{apart:.2g}", *(f"{error:.3f}" for error in errors)]
        body.append([name.method, *numbers])
    return _cells.markdown(heading, body, left=1)


def report(found: dict[str, dict[str, Any]], settings: Settings, out: Path) -> None:
    heading = ["", *METHODS]
    rows = {
        "error of a measured pixel": "seen",
        "error of a hidden pixel": "hidden",
        "error of the mean of the draws, hidden": "hidden_mean",
        "share read as the digit it is": "read",
    }
    pair = lambda value: "{:.3f} ± {:.3f}".format(*value)
    body = [[label, *(pair(found[method][key]) for method in METHODS)] for label, key in rows.items()]
    body.append(["spread of a hidden pixel over draws", *(f"{found[method]['spread']:.3f}" for method in METHODS)])
    _cells.show(heading, body, left=1, title=f"{settings.digits} test digits, {settings.draws} draws of each")
    _cells.write(out / "inpainting.md", _cells.markdown(heading, body, left=1))
    _cells.save_figure(figure(np.asarray(found[METHODS[0]]["images"]), settings), out / "inpainting.png")


def weights_figure(ways: dict[Cell, dict[str, Any]]) -> Figure:
    """The effective share on the way, mean over digits."""
    view = Figure(figsize=(10.5, 4.0), layout="constrained")
    for axes, way in zip(view.subplots(1, 2, sharey=True), ("carried", "resampled"), strict=True):
        for name, cell in ways.items():
            curve = cell[way]["curve"]
            axes.plot(np.linspace(0, 1, len(curve)), curve, label=name.method)
        axes.set(yscale="log", xlabel="share of the steps", title=f"effective share, weights {way}")
        axes.grid(visible=True)
    view.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return view


def figure(images: np.ndarray, settings: Settings) -> Figure:
    """Twelve digits in columns: whole, as measured, and the draws."""
    truth, measured, _ = hidden(settings)
    count = len(images)
    rows = {"test digit": truth[:count], "measured": np.where(SEEN, measured[:count], np.nan)}
    rows |= {f"draw {i + 1}": images[:, i] for i in range(settings.draws)}
    view = Figure(figsize=(10.5, 0.86 * len(rows)), layout="constrained")
    shades = colormaps["gray"].with_extremes(bad=_cells.INK)
    for (name, line), panels in zip(rows.items(), view.subplots(len(rows), count, squeeze=False), strict=True):
        for image, axes in zip(line, panels, strict=True):
            axes.imshow(image.reshape(8, 8), cmap=shades, vmin=-1, vmax=1)
            axes.set(xticks=[], yticks=[])
        panels[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return view


if __name__ == "__main__":
    main()
