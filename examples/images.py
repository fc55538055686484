"""Natural images by the settings of the papers, beside lossless codecs and a flow trained for the same time.

The images are patches of real photographs that need no download, or any of the published sets; the settings are those
of ScoreFlow (Song 2021), FP-Diffusion (Lai 2023), EDM (Karras 2022) and EDM with consistency (Daras 2023) on CIFAR-10.

    python examples/images.py --data photographs --small           # minutes on one CPU core
    python examples/images.py --data cifar10=cifar-10-batches-bin  # full size, for a GPU
    python examples/images.py --data imagenet32=FOLDER --presets scoreflow fp
    python examples/images.py --data idx=FOLDER | folder=FOLDER | mnist

All numbers are bits per dimension of 256 levels. Each cell, one row for one data set and seed, writes one JSON file to
`docs/assets/images/` and is skipped when the file is there; checkpoints are in `.cache/images/`, and a killed run goes
on from the last one. The table is made from these files alone. A file made with other settings is refused; give `--out`
another folder then.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _cells
import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import optax
from _flows import Clock, Flow, fitted_flow, flat, shown
from _lossless import CODECS, codecs

import scorefp as sfp
from scorefp import data, train
from scorefp.diagnostics import evaluate

# ------------------------------------------------------------------------------------------------ settings


@dataclasses.dataclass(frozen=True)
class Network:
    """The U-Net.

    Attributes:
        attention: At which resolution there is attention: the first one that is no larger.
        octaves: Features of small differences, which no preset of a paper has.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 4
    attention: int = 16
    dropout: float = 0.1
    octaves: int = 0

    def made(self, shape: tuple[int, int, int], *, key: Any) -> sfp.nn.UNet:
        """The network for images of any size, with as many of the resolutions as halving it gives."""
        sides = [shape[1]]
        while len(sides) < len(self.multipliers) and sides[-1] % 2 == 0:
            sides.append(sides[-1] // 2)
        return eqx.filter_jit(sfp.nn.UNet)(
            shape,
            channels=self.channels,
            multipliers=self.multipliers[: len(sides)],
            blocks=self.blocks,
            attention=[side for side in sides if side <= self.attention][:1],
            dropout=self.dropout,
            octaves=self.octaves,
            key=key,
        )


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training, which continues from the model of the one before.

    Attributes:
        warmup: Over how many steps the step size rises; it is constant then.
        decay: Of the average of the parameters.
        clip: The largest norm of a gradient.
    """

    loss: sfp.objective.AbstractObjective
    time: sfp.integrals.AbstractTimeSampler
    steps: int
    batch_size: int
    rate: float
    warmup: int
    decay: float
    clip: float | None = 1.0

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        rising = optax.linear_schedule(0.0, self.rate, max(1, self.warmup))
        return optax.adam(rising)


@dataclasses.dataclass(frozen=True)
class Dequantiser:
    """The variational dequantiser that is trained for a score (Song 2021), of coupling layers; Flow++ in the paper."""

    steps: int = 300_000
    batch_size: int = 128
    rate: float = 2e-4
    layers: int = 8
    width: int = 256
    draws: int = 1


@dataclasses.dataclass(frozen=True)
class Preset:
    """The settings of a paper.

    Attributes:
        title: Its name in tables.
        score: What a network predicts, and its preconditioning.
    """

    title: str
    sde: sfp.sde.AbstractLinearSDE
    score: Callable[..., sfp.score.NetworkScore]
    stages: tuple[Stage, ...]
    network: Network = Network()
    dequantiser: Dequantiser | None = None

    def model(self, shape: tuple[int, int, int], data_std: float, *, key: Any) -> sfp.score.NetworkScore:
        """The score to start from."""
        return self.score(self.network.made(shape, key=key), self.sde, data_std)

    @property
    def facts(self) -> dict[str, Any]:
        """The settings as words and numbers."""
        own = {"title": self.title, "sde": repr(self.sde), "score": self.score.__name__}
        plain = lambda value: None if value is None else dataclasses.asdict(value)
        stages = [
            {name: value if isinstance(value, (int, float, type(None))) else repr(value) for name, value in each}
            for each in (((f.name, getattr(stage, f.name)) for f in dataclasses.fields(stage)) for stage in self.stages)
        ]
        return own | {"network": plain(self.network), "stages": stages, "dequantiser": plain(self.dequantiser)}


# Song 2021 trains "as in [48]", Song 2021b, and names no numbers but the 300,000 steps of the dequantiser. The public
# configurations have batches of 128, Adam at 2e-4 after a rise over 5,000 steps, gradients clipped at 1, averages at
# 0.9999 (0.999 for VE) and 1.3 million steps; they mirror images at random, which the library does not.
SONG = {"batch_size": 128, "rate": 2e-4, "warmup": 5000}
LIKELIHOOD = Stage(sfp.DSM(), sfp.UniformLogSNR(), steps=1_300_000, decay=0.9999, **SONG)
# DDPM++, but that the library's U-Net halves by means and has no kernel for it.
DDPM = Network()
# Lai 2023, appendices D.3 and E.1: a trained VE model goes on for 0.1 million steps with batches of 48, a start time of
# 1e-5 and (α, β, λ_FP, m) = (0.15, 0.01, g², 2). It is silent on step size, averages and the weighting of DSM, here
# those of the trained model. Its NCSN++ has another halving, and the image at each resolution.
FP_LOSS = (
    sfp.DSM(weighting=sfp.noise_weighting)
    + 0.15 * sfp.ScoreFPE(scale=sfp.likelihood_weighting, power=2.0, size_exponent=1.0)
    + 0.01 * sfp.TimeDerivativeTaming()
)
# Karras 2022, Table 7 and its code: 128 channels times (2, 2, 2), dropout 0.13, batches of 512, Adam at 1e-3 after a
# rise over 10 million images, averages with a half-life of 0.5 million, no clipping, 200 million images; 200,000 steps
# in Daras 2023. The augmentation of 12 % is not in the library.
KARRAS = {"batch_size": 512, "rate": 1e-3, "warmup": 19_531, "decay": 0.5 ** (512 / 500_000), "clip": None}
EDM_NETWORK = Network(multipliers=(2, 2, 2), dropout=0.13)
# Daras 2023, §4 and its code: six steps in a window of 0.05 in the noise level, the mean over EDM's law of them. The
# paper names no weight; its code has 10, in the unit of EDM's loss and without the half of the term.
CONSISTENCY = 20.0 * sfp.Consistency(
    sfp.objective.NoiseWindow(0.05),
    weighting=sfp.objective.ExpectedWeighting(sfp.unit_weighting, sfp.LogNormalNoise()),
)

PRESETS = {
    "scoreflow": Preset(
        "ScoreFlow, VP", sfp.VP(t0=1e-5), sfp.NoiseScore, (LIKELIHOOD,), DDPM, dequantiser=Dequantiser()
    ),
    "scoreflow-subvp": Preset(
        "ScoreFlow, sub-VP", sfp.SubVP(t0=1e-2), sfp.NoiseScore, (LIKELIHOOD,), DDPM, dequantiser=Dequantiser()
    ),
    "fp": Preset(
        "FP-Diffusion, VE",
        sfp.VE(t0=1e-5),
        sfp.NoiseScore,
        (
            Stage(sfp.DSM(weighting=sfp.noise_weighting), sfp.UniformTime(), steps=1_300_000, decay=0.999, **SONG),
            Stage(FP_LOSS, sfp.UniformTime(), steps=100_000, decay=0.999, **(SONG | {"batch_size": 48})),
        ),
        DDPM,
    ),
    "edm": Preset(
        "EDM",
        sfp.EDM(),
        sfp.EDMScore,
        (Stage(sfp.edm_loss(), sfp.LogNormalNoise(), steps=200_000, **KARRAS),),
        EDM_NETWORK,
    ),
    "cdm": Preset(
        "EDM with consistency",
        sfp.EDM(),
        sfp.EDMScore,
        (Stage(sfp.edm_loss() + CONSISTENCY, sfp.LogNormalNoise(), steps=200_000, **KARRAS),),
        EDM_NETWORK,
    ),
}


def small(preset: Preset, side: int = 16) -> Preset:
    """The same with a network and a training for one CPU core; larger images come in smaller batches."""
    steps, batch_size = ((3000, 600), 32) if side <= 16 else ((2000, 400), 16)
    stages = tuple(
        dataclasses.replace(stage, steps=own, batch_size=batch_size, rate=1e-3, warmup=100, decay=0.999)
        for stage, own in zip(preset.stages, steps[: len(preset.stages)], strict=True)
    )
    network = Network(channels=16, multipliers=(1, 2, 2), blocks=1, attention=side // 4, dropout=0.0, octaves=6)
    dequantiser = preset.dequantiser and Dequantiser(steps=200, batch_size=batch_size, rate=2e-3, layers=4, width=64)
    return dataclasses.replace(preset, stages=stages, network=network, dequantiser=dequantiser)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How rows are evaluated.

    Attributes:
        points: How many test images there are, the first ones, for codecs too.
        tolerance: Of the ODE, relative and absolute.
        columns: How many images are side by side in the mosaic of the codecs.
    """

    points: int = 1024
    draws: int = 64
    tolerance: float = 1e-5
    at_once: int = 128
    columns: int = 32


SMALL = Evaluation(points=192, draws=32, tolerance=1e-4, at_once=48, columns=16)
SMALL_32 = dataclasses.replace(SMALL, points=96, draws=16)
FLOW = Flow()
SMALL_FLOW = Flow(sizes=((5, 512),))
USED = ("PNG", "WebP, lossless", "JPEG 2000, reversible")
# The row of a flow is called after the preset whose time it takes.
FLOW_OF = "flow-"


# ------------------------------------------------------------------------------------------------ data


@dataclasses.dataclass(frozen=True)
class Data:
    """The images to train on, and those to test on."""

    name: str
    training: data.Dataset | data.AbstractRows
    test: data.Dataset

    @property
    def facts(self) -> dict[str, Any]:
        return {"training": len(self.training), "test": len(self.test), "shape": list(self.test.shape)}


def read_data(chosen: str, size: int) -> Data:
    """Images `(channels, n, n)` by a word: `photographs`, `mnist`, or a kind of files and where they are."""
    kind, _, place = chosen.partition("=")
    path = Path(place)
    readers = {"cifar10": data.read_cifar, "cifar100": data.read_cifar, "imagenet32": data.read_imagenet}
    if kind in {*readers, "idx", "folder"} and not place:
        raise SystemExit(f"--data {kind} needs a place: {kind}=PATH.")
    if kind == "photographs":
        return Data(f"{kind}-{size}", data.photographs("train", size=size), data.photographs("test", size=size))
    if kind == "mnist":
        return Data(kind, *(data.mnist(part).reshaped((1, 28, 28)) for part in ("train", "test")))
    if kind in readers:
        return Data(kind, readers[kind](path, "train"), readers[kind](path, "test").load())
    if kind == "idx":
        parts = (data.read_idx(found(path, f"{part}-images*")) for part in ("train", "t10k"))
        rows, test = (part.reshaped((1, *part.shape[-2:])) for part in parts)
        return Data(kind, rows, test.load())
    if kind == "folder":
        rest, held_out = data.split(data.ImageFolder(path), 0.1, seed=0)
        return Data(kind, rest, held_out.load())
    raise SystemExit(f"--data {chosen}: it is photographs, mnist, or {', '.join(readers)}, idx or folder with =PATH.")


def found(folder: Path, pattern: str) -> Path:
    """The one file of this pattern."""
    files = sorted(folder.glob(pattern))
    if len(files) != 1:
        raise SystemExit(f"{folder} has {len(files)} files {pattern}; it has one for MNIST's files.")
    return files[0]


# ------------------------------------------------------------------------------------------------ cells


@dataclasses.dataclass(frozen=True)
class Cell(_cells.Named):
    data: str
    row: str
    seed: int


Found = dict[str, list[dict[str, Any]]]


def main(arguments: list[str] | None = None) -> None:
    parser = _cells.parser(__doc__, out="docs/assets/images", seeds=(0, 1, 2))
    parser.add_argument("--data", default="photographs", help="photographs, mnist, or cifar10=PATH and the like")
    parser.add_argument("--size", type=int, choices=(16, 32), help="of patches; 16 for --small, else 32")
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=["scoreflow"])
    parser.add_argument("--small", action="store_true", help="networks and trainings for one CPU core")
    parser.add_argument("--cache", type=Path, default=Path(".cache/images"), help="where checkpoints are kept")
    parser.add_argument("--tables-only", action="store_true", help="make no cell; the table is that of those there are")
    options = parser.parse_args(arguments)
    images = read_data(options.data, options.size or (16 if options.small else 32))
    side = images.test.shape[1]
    presets = {name: small(PRESETS[name], side) if options.small else PRESETS[name] for name in options.presets}
    evaluation, flow = (SMALL if side <= 16 else SMALL_32, SMALL_FLOW) if options.small else (Evaluation(), FLOW)
    run = Experiment(images, presets, evaluation, flow, options.out, options.cache)
    wanted = {"codecs": [0], **dict.fromkeys([*presets, FLOW_OF + options.presets[0]], options.seeds)}
    there = {row: [seed for seed in seeds if run.path(row, seed).exists()] for row, seeds in wanted.items()}
    # One that was made with other settings is refused before another is made.
    cells = {row: [run.cell(row, seed) for seed in seeds] for row, seeds in there.items() if seeds}
    if not options.tables_only:
        cells = {row: [run.cell(row, seed) for seed in seeds] for row, seeds in wanted.items()}
    text = table(cells)
    _cells.write(options.out / f"{images.name}.md", text)
    print(f"\n{text}", end="")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One run: its data and settings, and where its files are."""

    images: Data
    presets: dict[str, Preset]
    evaluation: Evaluation
    flow: Flow
    out: Path
    cache: Path

    def path(self, row: str, seed: int) -> Path:
        return self.out / f"{Cell(self.images.name, row, seed).name}.json"

    def cell(self, row: str, seed: int) -> dict[str, Any]:
        """The file of a row, which is made if it is not there."""
        preset = row.removeprefix(FLOW_OF)
        if row == "codecs":
            make = self.written
        else:
            make = functools.partial(self.score if row == preset else self.density, preset, seed)
        return _cells.cell(self.path(row, seed), self.facts(row, seed), make)

    def facts(self, row: str, seed: int) -> dict[str, Any]:
        """What a row is made with."""
        preset = row.removeprefix(FLOW_OF)
        if row == "codecs":
            own: dict[str, Any] = {"codecs": USED}
        elif row == preset:
            own = self.presets[row].facts
        else:
            own = {"flow": dataclasses.asdict(self.flow), "as long as": preset}
        evaluation = dataclasses.asdict(self.evaluation)
        name = dataclasses.asdict(Cell(self.images.name, row, seed))
        return {"cell": name, "data": self.images.facts, "evaluation": evaluation, "settings": own}

    # -------------------------------------------------------------------------------------------- scores

    def score(self, row: str, seed: int) -> dict[str, Any]:
        """Trains a score, stage by stage, and its dequantiser, and evaluates it with both dequantisations."""
        preset, training = self.presets[row], self.images.training
        model = preset.model(self.images.test.shape, training.std, key=jr.key(seed))
        seconds = 0.0
        for i in range(len(preset.stages)):
            model, own = self.trained(preset, i, model, seed)
            seconds += own
        dequantisers: dict[str, Any] = {"uniform": None}
        if preset.dequantiser is not None:
            dequantisers["variational"] = self.dequantiser(preset.dequantiser, model, seed)
        made = {name: self.evaluated(model, how, seed) for name, how in dequantisers.items()}
        steps = [stage.steps for stage in preset.stages]
        return {"device": jax.devices()[0].device_kind, "steps": steps, "cpu_seconds": round(seconds, 1)} | made

    def trained(self, preset: Preset, i: int, model: Any, seed: int) -> tuple[Any, float]:
        """The model after a stage, and the computing time of the stage in CPU seconds."""
        stage, clock = preset.stages[i], Clock()
        facts = [preset.facts["stages"][: i + 1], dataclasses.asdict(preset.network), seed, self.images.facts]
        folder = self.cache / f"{self.images.name}-{i}-{_cells.fingerprint(facts)}"
        every = max(1, stage.steps // 60)
        run = train.fit(
            model,
            stage.loss,
            self.images.training,
            optimizer=stage.optimizer,
            steps=stage.steps,
            key=jr.key(100 + seed),
            batch_size=stage.batch_size,
            time=stage.time,
            decay=stage.decay,
            clip=stage.clip,
            dropout=preset.network.dropout > 0,
            checkpoints=train.Checkpoints(folder, every=5 * every, keep=1),
            callbacks=(clock, shown),
            progress=False,
            report_every=every,
        )
        return run.model, clock.seconds(folder, stage.steps)

    def dequantiser(self, settings: Dequantiser, model: Any, seed: int) -> sfp.VariationalDequantiser:
        levels = self.images.test.quantisation
        assert levels is not None
        start = sfp.likelihood.variational_dequantiser(
            self.images.test.shape, levels, layers=settings.layers, width=settings.width, key=jr.key(200 + seed)
        )
        return train.fit_dequantiser(
            start,
            model,
            self.images.training,
            optimizer=optax.chain(optax.clip_by_global_norm(100.0), _cells.adam(settings.rate, settings.steps)),
            steps=settings.steps,
            key=jr.key(300 + seed),
            batch_size=settings.batch_size,
            draws=settings.draws,
            progress=False,
        ).dequantiser

    def evaluated(self, model: Any, dequantiser: Any, seed: int) -> dict[str, Any]:
        """Bits per dimension of each test image, with the same key for all scores of a seed."""
        settings = self.evaluation
        audit = evaluate(
            model,
            self.tested(),
            key=jr.key(1000 + seed),
            dequantiser=dequantiser,
            trace=sfp.Hutchinson(),
            integrator=sfp.Integrator(rtol=settings.tolerance, atol=settings.tolerance, throw=False),
            draws=settings.draws,
            batch_size=settings.at_once,
        )
        numbers, points = _cells.evaluated(audit)
        print(f"  {numbers['nll']}, bound {numbers['bound']}", flush=True)
        code = _cells.rounded(np.asarray(audit["code"].points["code_length"]).tolist())
        return {"exploded": numbers["exploded"].value, "points": points | {"code": code}}

    # -------------------------------------------------------------------------------------------- baselines

    def density(self, preset: str, seed: int) -> dict[str, Any]:
        """A flow on the logits of the pixels, in no more CPU time than the training of the preset's score."""
        training = self.images.training
        rows = training if isinstance(training, data.Dataset) else training.load()
        rest, chosen = data.split(rows, 0.1, seed=2)
        seconds = self.cell(preset, seed)["cpu_seconds"]
        said, flow = fitted_flow(self.flow, rest, chosen, seconds=seconds, seed=seed)
        test = self.tested()
        log_prob = np.asarray(flow.log_prob(flat(test, jr.key(4000 + seed))))
        bits = np.asarray(sfp.bits_per_dim(log_prob, int(np.prod(test.shape)), test.quantisation))
        return {"device": jax.devices()[0].device_kind} | said | {"points": {"nll": _cells.rounded(bits.tolist())}}

    def written(self) -> dict[str, Any]:
        """The files of the test images, colours last."""
        pictures = np.moveaxis(np.asarray(self.tested().values, np.uint8), 1, -1)
        pictures = pictures[..., 0] if pictures.shape[-1] == 1 else pictures
        return {"codecs": codecs(pictures, self.evaluation.columns, {name: CODECS[name] for name in USED})}

    def tested(self) -> data.Dataset:
        """The test images that are measured."""
        test = self.images.test
        columns, points = self.evaluation.columns, min(self.evaluation.points, len(test))
        return test.rows(np.arange(points // columns * columns))


# ------------------------------------------------------------------------------------------------ the table


def table(cells: Found) -> str:
    """Bits per dimension: of each score by its ODE, its bound and its code length, of the flow, and of the codecs."""
    body: list[list[str]] = []
    for row, found in cells.items():
        if row == "codecs":
            continue
        minutes = f"{np.mean([each['cpu_seconds'] for each in found]) / 60:.1f}"
        if row.startswith(FLOW_OF):
            body.append(["flow of flowjax", interval(found, "nll"), median(found), "", "", "", minutes])
            continue
        for name in ("uniform", "variational"):
            if name in found[0]:
                own = [each[name] for each in found]
                title = found[0]["settings"]["title"] + (", variational" if name == "variational" else "")
                exploded = f"{100 * np.mean([each['exploded'] for each in own]):.1f} %"
                # The code length has no dequantisation.
                code = interval(own, "code") if name == "uniform" else ""
                body.append([title, interval(own, "nll"), median(own), exploded, interval(own, "bound"), code, minutes])
    written = cells["codecs"][0]["codecs"] if "codecs" in cells else {}
    for name, (single, mosaic) in written.items():
        body.append([f"{name}, each image", "", "", "", "", f"{single:.3f}", ""])
        body.append([f"{name}, one mosaic", "", "", "", "", f"{mosaic:.3f}", ""])
    heading = ["bits per dimension", "NLL, mean", "NLL, median", "exploded", "bound", "code length", "CPU minutes"]
    return _cells.markdown(heading, body, left=1)


def of_images(found: list[dict[str, Any]], name: str) -> np.ndarray:
    """The mean over seeds for each image."""
    return np.mean([each["points"][name] for each in found], axis=0)


def median(found: list[dict[str, Any]]) -> str:
    return f"{np.median(of_images(found, 'nll')):.3f}"


def interval(found: list[dict[str, Any]], name: str) -> str:
    """The mean over seeds and images with its 95 % interval over images."""
    mean, half = _cells.interval(of_images(found, name))
    form = ".3f" if mean < 100 else ".1e"  # what a few images make of a mean
    return f"{mean:{form}} ± {half:{form}}"


if __name__ == "__main__":
    main()
