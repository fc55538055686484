"""Steps per second of `fit` that reads its data on the host over those with the batch held in memory.

    python benchmarks/pipeline.py --out docs/assets

Batches of 256 images of 28×28, 256 levels, by `DSM` and Adam, in float32, with two networks: an `MLP` so small that
reading counts, and one of a common size. The floor is `fit` on a `Dataset` of 256 images: the batch lies on the device,
and nothing is read. A row is a place that the images are read from:

* `Dataset`: 60,000 images on the device, of which each step draws its batch.
* `OnHost`: the same images in the memory of the host, read by grain.
* `read_arrays`: the same in a `.npy` file, mapped.
* `Loader`: the same from a Python loop that cuts an array.
* `HuggingFace`: 4,000 images as PNG in a table of the library `datasets`.
* `ImageFolder`: 4,000 images as PNG files.

The images are those of `data.mnist("train")`, repeated where there are more. Files lie in the cache of the operating
system. All rows take turns in a round, so that a machine that slows down slows all of them. A number is the median over
rounds of the steps per second over those of the floor in the same round; in brackets deciles 1 and 9.
"""

import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import jax.random as jr
import numpy as np
import optax
from _timing import Row, arguments, in_turns, machine, milliseconds, report, spread, table
from PIL import Image

import scorefp as sfp
from scorefp import data, train

BATCH, FLOOR = 256, "the batch in memory"
NETWORKS = {"small": (32, 1), "common": (256, 3)}
"""Width and depth by name."""

SPANS = 6
"""Reports in a run."""

ADAM = optax.adam(1e-4)
Source = data.Dataset | data.AbstractSource

TABLE = """\
| network | images in | ms a step | images a second | steps per second over those of the batch in memory |
| --- | --- | ---: | ---: | ---: |
| {network} | {source} | {ms:.2f} | {images a second:,.0f} | {over floor:.2f} |
"""


class Cut:
    """Batches of an array, one after another."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.values[i : i + BATCH] for i in range(0, len(self.values), BATCH))


def sources(folder: Path, count: int) -> dict[str, Source]:
    """By row, where the images are read from."""
    few = data.mnist("train").reshaped((28, 28))
    levels, images = few.quantisation, np.asarray(few.values)
    many = np.resize(images, (count, 28, 28))
    np.save(folder / "images.npy", many)
    (folder / "images").mkdir()
    pictures = [Image.fromarray(image) for image in images]
    for i, picture in enumerate(pictures):
        picture.save(folder / "images" / f"{i:04}.png")
    table = datasets.Dataset.from_dict({"image": pictures}, features=datasets.Features({"image": datasets.Image()}))
    return {
        FLOOR: data.Dataset(few.values[:BATCH].reshape(-1, 1, 28, 28), levels),
        "Dataset": data.Dataset(many[:, None], levels),
        "OnHost": data.OnHost(data.Dataset(many[:, None], levels)),
        "read_arrays": data.read_arrays(folder / "images.npy", quantisation=levels).reshaped((1, 28, 28)),
        "Loader": data.Loader(Cut(many[:, None]), shape=(1, 28, 28), quantisation=levels),
        "HuggingFace": data.HuggingFace(table, "image"),
        "ImageFolder": data.ImageFolder(folder / "images"),
    }


def fitted(network: str, source: Source, steps: int) -> Callable[[], float]:
    """A run that returns the seconds of a step."""
    width, depth = NETWORKS[network]
    model = sfp.NoiseScore(sfp.nn.MLP((1, 28, 28), width=width, depth=depth, key=jr.key(0)), sfp.VP(), data_std=0.6)
    run = functools.partial(train.fit, optimizer=ADAM, batch_size=BATCH, key=jr.key(1), progress=False)
    # The median over five spans: the first holds the start of the reading, and the last reads nothing ahead.
    return lambda: run(model, sfp.DSM(), source, steps=SPANS * steps, report_every=steps).seconds_per_step


def compared(network: str, places: dict[str, Source], rounds: int, steps: int) -> list[Row]:
    """One row a source."""
    seconds = in_turns({name: fitted(network, source, steps) for name, source in places.items()}, rounds)
    return [
        {
            "network": network,
            "source": name,
            "ms": milliseconds(times),
            "images a second": BATCH / float(np.median(times)),
            "over floor": spread(seconds[FLOOR] / times),
        }
        for name, times in seconds.items()
    ]


def main() -> None:
    parser = arguments(__doc__, 7, "pipeline")
    parser.add_argument("--steps", type=int, default=50, help="between two reports")
    parser.add_argument("--images", type=int, default=60_000, help="how many, where they are not PNG")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        places = sources(Path(folder), options.images)
        rows = [row for name in options.networks for row in compared(name, places, options.rounds, options.steps)]
    sizes = ", ".join(f"{name}: width {width}, depth {depth}" for name, (width, depth) in NETWORKS.items())
    note = (
        f"{options.rounds} rounds of {SPANS * options.steps} steps, batches of {BATCH} images of 28×28, MLP "
        f"({sizes}); {machine()}. In brackets deciles 1 and 9."
    )
    report("pipeline", table(TABLE, rows), rows, note, options.out)


if __name__ == "__main__":
    main()
