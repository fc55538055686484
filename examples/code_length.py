"""The code length of images beside lossless codecs: what a score would need, and what PNG and others take.

A perceptron is trained on the 8×8 digits and a small U-Net on MNIST, by denoising score matching on dequantised levels.
For both the negative log-likelihood of the ODE, the dequantised bound of the SDE and the code length of the levels
[K10] are measured on test images, the last one with several truncations. All test images are written by PNG, WebP and
AVIF without loss, by JPEG 2000 and by the compressors bz2 and LZMA, each image by itself and all in one mosaic.

    python examples/code_length.py

Each data set writes one JSON file to `docs/assets/code_length/` and is skipped when the file is there; checkpoints are
in `.cache/code_length/`, and a killed run resumes from the last one. The tables are made from these files alone. A file
made with other settings is refused; give `--out` another folder then.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import _cells
import equinox as eqx
import jax.random as jr
import numpy as np
from _lossless import CODECS, codecs

import scorefp as sfp
from scorefp import data, train
from scorefp.diagnostics import Bound, CodeLength, Likelihood, Number

TITLES = {"digits": "8×8 digits", "mnist": "MNIST"}
SHARES = {"digits": (0.125, 0.25, 0.5, 1.0, 2.0, 4.0), "mnist": (0.125, 0.25, 0.5)}
"""The noise at the truncation, in widths of a level; the first one is the default."""
ENCODERS = ("uniform", "centre")
MODEL: dict[str, Callable[[dict[str, Any]], list[float]]] = {
    "NLL of the ODE, dequantised: mean": lambda found: found["nll"],
    "NLL of the ODE, dequantised: median": lambda found: found["nll_median"],
    "bound of the SDE, dequantised": lambda found: found["bound"],
    "code length of the SDE": lambda found: found["uniform 0.125"]["code_length"],
    "code length of the SDE, truncated at half a level": lambda found: found["uniform 0.5"]["code_length"],
}


@dataclasses.dataclass(frozen=True)
class Name(_cells.Named):
    data: str
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a cell depends on beside its name.

    Attributes:
        steps: Training steps.
        rate: The first step size of Adam, which falls along a cosine.
        batch_size: Of the training.
        images: How many test images the score is measured on, the first ones.
        columns: How many of all test images are side by side in the mosaic.
        draws: Times an image for the bounds.
        tolerance: Of the ODE, relative and absolute.
    """

    steps: int
    rate: float
    batch_size: int
    images: int
    columns: int
    draws: int = 16
    tolerance: float = 1e-3


SETTINGS = {
    "digits": Settings(steps=6000, rate=1e-3, batch_size=128, images=360, columns=20),
    "mnist": Settings(steps=800, rate=2e-3, batch_size=64, images=100, columns=40),
}
SIDES = {"digits": 8, "mnist": 28}


def main(arguments: list[str] | None = None) -> None:
    parser = _cells.parser(__doc__, out="docs/assets/code_length")
    parser.add_argument("--cache", type=Path, default=Path(".cache/code_length"), help="where trained models are kept")
    parser.add_argument(
        "--data", nargs="+", choices=tuple(SETTINGS), default=list(SETTINGS), help="the sets of the tables"
    )
    parser.add_argument("--steps", type=int, help="training steps of both models, in place of their own")
    options = parser.parse_args(arguments)
    cells = dict[str, dict[str, Any]]()
    for name in options.data:
        own = SETTINGS[name]
        settings = own if options.steps is None else dataclasses.replace(own, steps=options.steps)
        (cells[name],) = _cells.cells(
            options.out, [Name(name)], settings, lambda n, s: made(n, s, options.cache)
        ).values()
    for title, of in {"code_length": table, "truncation": truncation}.items():
        _cells.write(options.out / f"{title}.md", of(cells))
        print(f"\n{of(cells)}", end="")


def made(name: Name, settings: Settings, cache: Path) -> dict[str, Any]:
    side = SIDES[name.data]
    rows, test = (getattr(data, name.data)(part).reshaped((1, side, side)) for part in ("train", "test"))
    images = np.asarray(test.values[:, 0], np.uint8)
    model = trained(name, settings, rows, cache)
    found = measured(model, test.rows(np.arange(settings.images)), settings, SHARES[name.data])
    return {"codecs": codecs(images, settings.columns, CODECS), "model": found, "written": len(images)}


# ------------------------------------------------------------------------------------------------ the score


def trained(name: Name, settings: Settings, rows: data.Dataset, cache: Path) -> sfp.score.NetworkScore:
    every = max(1, settings.steps // 20)
    return train.fit(
        untrained(name, rows),
        sfp.DSM(),
        rows,
        optimizer=_cells.adam(settings.rate, settings.steps),
        steps=settings.steps,
        batch_size=settings.batch_size,
        key=jr.key(100 + name.seed),
        checkpoints=train.Checkpoints(cache / f"{name.name}-{settings.steps}", every=every, keep=1),
        report_every=every,
    ).model


def untrained(name: Name, rows: data.Dataset) -> sfp.score.NetworkScore:
    key = jr.key(name.seed)
    if name.data == "digits":
        network = sfp.nn.MLP(rows.shape, width=256, key=key)
    else:
        sizes = {"channels": 16, "multipliers": (1, 2, 2), "attention": (7,), "octaves": 6}
        network = eqx.filter_jit(sfp.nn.UNet)(rows.shape, **sizes, key=key)
    return sfp.NoiseScore(network, sfp.VP(), data_std=rows.std)


def measured(
    model: sfp.score.NetworkScore, test: data.Dataset, settings: Settings, shares: Sequence[float]
) -> dict[str, Any]:
    sde, width = model.sde, test.quantisation.width
    own = sfp.BoundEstimator(settings.draws)
    exact = sfp.Integrator(rtol=settings.tolerance, atol=settings.tolerance, throw=False)
    likelihood = Likelihood(sfp.Hutchinson(), exact)(model, test, key=jr.key(1)).numbers
    found = {
        "nll": told(likelihood["bits_per_dim"]),
        "nll_median": told(likelihood["median_bits_per_dim"]),
        "exploded": likelihood["exploded"].value,
        "bound": told(Bound(estimator=own)(model, test, key=jr.key(1)).numbers["bound"]),
    }
    for share in shares:
        log_snr = min(float(sde.log_snr(sde.t0)), -2 * math.log(share * width))
        estimator = dataclasses.replace(own, start=max(sde.t0, float(sde.time_of_log_snr(log_snr))))
        for encoder in ENCODERS:
            numbers = CodeLength(estimator=estimator, encoder=encoder)(model, test, key=jr.key(1)).numbers
            found[f"{encoder} {share:g}"] = {name: told(numbers[name]) for name in ("code_length", "point_error")}
    return found


def told(number: Number) -> list[float]:
    """The value and the half-width of its 95 % interval."""
    return _cells.rounded([number.value, number.half_width])


# ------------------------------------------------------------------------------------------------ the tables


def table(cells: dict[str, dict[str, Any]]) -> str:
    """Bits per dimension of the scores, and bits a pixel of the codecs, one by one and in a mosaic."""
    body = [
        [words, *(entry for cell in cells.values() for entry in (interval(of(cell["model"])), ""))]
        for words, of in MODEL.items()
    ]
    for codec in CODECS:
        body.append([codec, *(f"{bits:.3f}" for cell in cells.values() for bits in cell["codecs"][codec])])
    headings = ["bits per dimension"]
    for name, cell in cells.items():
        headings += [TITLES[name], f"{cell['written']} in one mosaic"]
    return _cells.markdown(headings, body, left=1)


def truncation(cells: dict[str, dict[str, Any]]) -> str:
    """The code length by truncation and encoder, with the standard error of one image by its draws."""
    body = list[list[str]]()
    for name, cell in cells.items():
        for share in SHARES[name]:
            uniform, centre = (cell["model"][f"{encoder} {share:g}"] for encoder in ENCODERS)
            values = (interval(found["code_length"]) for found in (uniform, centre))
            body.append([TITLES[name], f"{share:g}", *values, f"{uniform['point_error'][0]:.3f}"])
    return _cells.markdown(["", "σ/α in levels", *ENCODERS, "s.e. of one image"], body, left=1)


def interval(value: list[float]) -> str:
    return f"{value[0]:.3f} ± {value[1]:.3f}"


if __name__ == "__main__":
    main()
