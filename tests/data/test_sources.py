"""Sources read on the host: what they give, in which order, from which place on, and what they refuse."""

import json
import mmap
import pickle
import re
import sys
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import grain
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from datasets import Dataset as Table, Features, Image as Pictures, Value
from helpers.refusals import refused
from PIL import Image

import scorefp as sfp
from scorefp import train
from scorefp.data import (
    AbstractRows,
    AbstractSource,
    Batches,
    Dataset,
    HuggingFace,
    ImageFolder,
    Interval,
    Loader,
    OnHost,
    Part,
    digits,
    read_arrays,
    split,
)

pytestmark = pytest.mark.quick

COUNT, BYTES = 13, sfp.Quantisation(256, -1.0, 1.0)
SHARES = [(0, 2), (1, 2)]


def pictures(count: int = COUNT, channels: int = 1, height: int = 4, width: int = 3) -> np.ndarray:
    """Bytes, each picture another."""
    return np.random.default_rng(0).integers(0, 256, (count, channels, height, width), dtype=np.uint8)


def picture(array: np.ndarray) -> Image.Image:
    """A picture of an array `(c, h, w)`."""
    return Image.fromarray(array[0] if len(array) == 1 else np.moveaxis(array, 0, -1))


def written(folder: Path, arrays: np.ndarray, classes: int = 3) -> Path:
    """Pictures in sub-folders of a folder, in the order of their names; their classes go up."""
    for i, array in enumerate(arrays):
        place = folder / f"class {i * classes // len(arrays)}"
        place.mkdir(parents=True, exist_ok=True)
        picture(array).save(place / f"{i:03}.png")
    return folder


CLASSES = np.arange(COUNT) * 3 // COUNT


def arrays(_: Path) -> OnHost:
    return OnHost(Dataset(pictures(), BYTES, CLASSES))


def threaded(_: Path) -> OnHost:
    return OnHost(Dataset(pictures(), BYTES, CLASSES), threads=3)


def npz(folder: Path) -> OnHost:
    np.savez(folder / "set.npz", x=pictures(), y=CLASSES, z=CLASSES)
    return read_arrays(folder / "set.npz", "x", args="y", quantisation=BYTES)


def image_folder(folder: Path) -> ImageFolder:
    return ImageFolder(written(folder / "pictures", pictures()), labels=True)


def hugging_face(_: Path) -> HuggingFace:
    columns = {"image": [picture(array) for array in pictures()], "label": CLASSES.tolist(), "other": ["a"] * COUNT}
    features = Features({"image": Pictures(), "label": Value("int64"), "other": Value("string")})
    return HuggingFace(Table.from_dict(columns, features=features), "image", args="label")


def part(_: Path) -> Part:
    """All of twice as many, by their index."""
    doubled = OnHost(Dataset(np.repeat(pictures(), 2, axis=0), BYTES, np.repeat(CLASSES, 2)))
    return Part(doubled, 2 * np.arange(COUNT))


def batches(_: Path) -> Batches:
    """In batches of five, five and three."""
    return Loader(
        [(pictures()[i : i + 5], CLASSES[i : i + 5]) for i in range(0, COUNT, 5)], shape=(1, 4, 3), quantisation=BYTES
    )


ROWS: list[Callable[[Path], AbstractRows]] = [arrays, threaded, npz, image_folder, hugging_face, part]
SOURCES: list[Callable[[Path], AbstractSource]] = [*ROWS, batches]


def taken(feed: Batches, count: int) -> list[tuple[np.ndarray, Any]]:
    return [next(feed) for _ in range(count)]


def assert_same(found: list[tuple[np.ndarray, Any]], wanted: list[tuple[np.ndarray, Any]]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one[0].dtype == other[0].dtype
        jax.tree.map(np.testing.assert_array_equal, one, other)


# ------------------------------------------------------------------------------------------- what all sources do


@pytest.mark.parametrize("make", ROWS)
def test_rows_are_those_of_the_arrays(make: Callable[[Path], AbstractRows], tmp_path: Path) -> None:
    source, plain = make(tmp_path), OnHost(Dataset(pictures(), BYTES, CLASSES))
    assert (len(source), source.shape, source.quantisation, source.interval) == (COUNT, (1, 4, 3), BYTES, None)
    index = np.asarray([12, 0, 5, 5])
    assert_same([source.read(index)], [plain.read(index)])
    values, classes = source.read(index)
    assert values.dtype == np.uint8
    np.testing.assert_array_equal(values, pictures()[index])
    np.testing.assert_array_equal(classes, CLASSES[index])
    # The order depends on the seed, the size and the batch alone, and so do the batches.
    assert_same(taken(source.batches(4, seed=3), 5), taken(plain.batches(4, seed=3), 5))
    loaded = source.load()
    np.testing.assert_array_equal(loaded.values, pictures())
    np.testing.assert_array_equal(loaded.args, CLASSES)
    assert loaded.quantisation == BYTES
    assert loaded.values.dtype == jnp.uint8
    assert source.std == pytest.approx(loaded.std, rel=1e-12)


@pytest.mark.parametrize("make", SOURCES)
def test_a_resumed_feed_is_the_uninterrupted_one(make: Callable[[Path], AbstractSource], tmp_path: Path) -> None:
    """To the bit, from any place, also within an epoch and after several, through JSON, in another process's feed."""
    source = make(tmp_path)
    for share in [(0, 1), *SHARES]:
        new = lambda share=share: source.batches(4, seed=7, share=share)
        feed = new()
        assert isinstance(feed, Batches)
        assert iter(feed) is feed
        places, whole = [], []
        for _ in range(11):
            places.append(json.dumps(feed.get_state()))
            whole += taken(feed, 1)
        again = new()
        for start in (10, 0, 3, 4, 9, 1):
            # A new feed, and one that is elsewhere.
            for resumed in (new(), again):
                resumed.set_state(json.loads(places[start]))
                assert json.dumps(resumed.get_state()) == places[start]
                assert_same(taken(resumed, min(4, 11 - start)), whole[start : start + 4])


@pytest.mark.parametrize("make", SOURCES)
def test_shares_make_up_the_batch(make: Callable[[Path], AbstractSource], tmp_path: Path) -> None:
    source = make(tmp_path)
    whole = taken(source.batches(4, seed=1), 5)
    for count in (2, 4):
        parts = [taken(source.batches(4, seed=1, share=(i, count)), 5) for i in range(count)]
        assert all(len(batch[0]) == 4 // count for batches in parts for batch in batches)
        joined = [jax.tree.map(lambda *rows: np.concatenate(rows), *step) for step in zip(*parts, strict=True)]
        assert_same(joined, whole)
    # A run of two processes goes on in one.
    first = source.batches(4, seed=1, share=(1, 2))
    taken(first, 3)
    alone = source.batches(4, seed=1)
    alone.set_state(first.get_state())
    assert_same(taken(alone, 2), whole[3:])


@pytest.mark.parametrize("make", [arrays, batches])
@pytest.mark.usefixtures("unchecked")
def test_bad_shares_and_batches(make: Callable[[Path], AbstractSource], tmp_path: Path) -> None:
    source = make(tmp_path)
    with pytest.raises(ValueError, match=r"batch_size = 4 does not divide by 3 processes; choose a multiple of 3"):
        source.batches(4, seed=0, share=(0, 3))
    with pytest.raises(ValueError, match=r"share = \(2, 2\); it is \(i, n\) for process i of n, with 0 <= i < n"):
        source.batches(4, seed=0, share=(2, 2))
    refused(r"batch_size = 0; ", source.batches, 0, seed=0)


def test_bad_feeds(tmp_path: Path) -> None:
    source = arrays(tmp_path)
    refused(r"batch_size = 14; the data have 13 samples\. Choose a batch between 1 and", source.batches, 14, seed=0)
    for seed in (-1, 2**32):
        refused(rf"seed = {seed}; a seed is a number of 32 bits", source.batches, 4, seed=seed)
    with pytest.raises(ValueError, match=r"threads = -1; give zero to read without threads, or more"):
        OnHost(Dataset(pictures(), BYTES), threads=-1).batches(4, seed=0)


def test_a_place_of_other_data_is_refused(tmp_path: Path) -> None:
    place = arrays(tmp_path).batches(4, seed=0).get_state()
    others = [
        OnHost(Dataset(pictures(12), BYTES)).batches(4, seed=0),
        arrays(tmp_path).batches(5, seed=0),
        arrays(tmp_path).batches(4, seed=1),
    ]
    for other in others:
        before = other.get_state()
        refused(r"the saved place is one of batches with \{'samples': 13, 'batch_size': 4, ", other.set_state, place)
        assert other.get_state() == before
    for feed in (batches(tmp_path).batches(4, seed=0), batches(tmp_path).batches(3, seed=0)):
        for state in (place, {**batches(tmp_path).batches(5, seed=0).get_state()}):
            refused(r"they differ in the data or in the batch size", feed.set_state, state)


# ------------------------------------------------------------------------------------------- the order of rows


@pytest.mark.parametrize("batch_size", [1, 4, 12, 13])
def test_each_sample_comes_once_an_epoch(batch_size: int) -> None:
    source = OnHost(Dataset(np.arange(13.0)[:, None]))
    flat = np.concatenate([values[:, 0] for values, _ in taken(source.batches(batch_size, seed=5), 3 * 13)])
    epochs = flat[: len(flat) // 13 * 13].reshape(-1, 13)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(13), (len(epochs), 1)))
    # In another order each time, which is that of the seed and not that of the batch size.
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
    one = np.concatenate([values[:, 0] for values, _ in taken(source.batches(13, seed=5), 3)])
    np.testing.assert_array_equal(flat[:39], one)
    other = np.concatenate([values[:, 0] for values, _ in taken(source.batches(13, seed=6), 3)])
    assert np.mean(one == other) < 0.5


def test_order_is_uniform() -> None:
    """Over epochs and seeds, each sample stands at each place equally often."""
    source, epochs = OnHost(Dataset(np.arange(5.0))), 400
    order = np.stack([values for seed in range(4) for values, _ in taken(source.batches(5, seed=seed), epochs)])
    counts = np.stack([np.bincount(order[:, place].astype(int), minlength=5) for place in range(5)])
    expected = 4 * epochs / 5
    # Chi-squared with 16 degrees of freedom: 39.3 is exceeded once in a thousand.
    assert np.sum((counts - expected) ** 2 / expected) < 39.3


# ------------------------------------------------------------------------------------------- arrays


def test_arrays_of_floats() -> None:
    x = np.random.default_rng(0).uniform(0, 1, (6, 2)).astype(np.float32)
    args = {"label": np.arange(6), "c": jnp.ones((6, 3))}
    source = OnHost(Dataset(x, args=args, interval=Interval(0.0, 1.0)))
    values, chosen = source.read(np.asarray([5, 0]))
    np.testing.assert_array_equal(values, x[[5, 0]])
    np.testing.assert_array_equal(chosen["label"], [5, 0])
    assert isinstance(chosen["c"], np.ndarray)
    loaded = source.load()
    assert loaded.interval == Interval(0.0, 1.0)
    assert source.std == pytest.approx(float(np.sqrt(np.mean(x.astype(np.float64) ** 2))))
    assert source.reshaped((1, 2)).shape == (1, 2)
    np.testing.assert_array_equal(source.reshaped((2, 1)).read(np.arange(6))[0], x[..., None])


def test_a_npy_file_is_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", pictures())
    source = read_arrays(tmp_path / "x.npy", quantisation=BYTES)
    for values in (source.dataset.values, source.reshaped((12,)).dataset.values):
        while isinstance(values, np.ndarray):
            values = values.base
        assert isinstance(values, mmap.mmap)
    assert_same(taken(source.batches(4, seed=0), 4), taken(OnHost(Dataset(pictures(), BYTES)).batches(4, seed=0), 4))


def test_npz_files(tmp_path: Path) -> None:
    several = read_arrays(npz(tmp_path) and tmp_path / "set.npz", "x", args=("y", "z"), quantisation=BYTES)
    assert several.dataset.args.keys() == {"y", "z"}
    np.savez(tmp_path / "one.npz", x=np.ones((3, 2)))
    assert read_arrays(tmp_path / "one.npz").shape == (2,)
    # Without a name where what remains beside the conditioning is one.
    np.savez(tmp_path / "two.npz", x=np.ones((3, 2)), y=np.arange(3))
    assert read_arrays(tmp_path / "two.npz", args="y").dataset.args.tolist() == [0, 1, 2]


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_bad_files(tmp_path: Path) -> None:
    npz(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"set\.npz holds the arrays \['x', 'y', 'z'\]; give name, the one with the"):
        read_arrays(tmp_path / "set.npz")
    with pytest.raises(ValueError, match=r"set\.npz has no arrays \['a', 'b'\]; it holds \['x', 'y', 'z'\]"):
        read_arrays(tmp_path / "set.npz", "a", args=("y", "b"))
    np.save(tmp_path / "x.npy", pictures())
    with pytest.raises(ValueError, match=r"x\.npy holds one array without a name; name = 'x' and args = None choose"):
        read_arrays(tmp_path / "x.npy", "x")
    # Cut short, not of numpy, and with objects in them.
    for name in ("set.npz", "x.npy"):
        whole = (tmp_path / name).read_bytes()
        for length in (0, 4, len(whole) // 2):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(ValueError, match=rf"{name} cannot be read: .*It is damaged, is no \.npy or \.npz"):
                read_arrays(tmp_path / name, quantisation=BYTES)
    mark = tmp_path / "mark"
    np.save(tmp_path / "objects.npy", np.asarray([Bomb(mark)] * 3, object))
    np.savez(tmp_path / "objects.npz", x=np.asarray([Bomb(mark)] * 3, object))
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Bomb(mark)))
    for name in ("objects.npy", "objects.npz", "pickle.npy"):
        refused(rf"{name} cannot be read: .*holds Python objects", read_arrays, tmp_path / name)
    assert not mark.exists()


def head(shape: str, dtype: str = "'|u1'", order: bool = False) -> bytes:
    """The head of a .npy file that says what it is told."""
    told = f"{{'descr': {dtype}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    told += b" " * (-(len(told) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(told).to_bytes(2, "little") + told


# A head, the bytes that follow, and what is said of them.
HEADS: dict[str, tuple[bytes, int, str]] = {
    "more than there is": (
        head("(1000000000000, 4)"),
        12,
        r"an array uint8\[1000000000000, 4\] of 4000000000000 bytes, and 12 follow",
    ),
    "one row more": (head("(4, 4)"), 12, "of 16 bytes, and 12 follow"),
    "one row less": (head("(2, 4)"), 12, "of 8 bytes, and 12 follow"),
    "more than 64 bits": (head("(4611686018427387904, 4611686018427387904)"), 12, "and 12 follow"),
    "a product of zero": (head("(4611686018427387904, 4)"), 0, "bytes, and 0 follow"),
    "negative": (head("(-3, 4)"), 12, r"its head says the shape \(-3, 4\)"),
    "negative twice": (head("(-3, -4)"), 12, r"its head says the shape \(-3, -4\)"),
    "objects": (head("(3, 4)", "'|O'"), 96, "it holds Python objects"),
    "objects within": (head("(3,)", "[('a', '|O'), ('b', '<f4')]"), 36, "it holds Python objects"),
    "a version": (b"\x93NUMPY\x07\x00" + head("(3, 4)")[8:], 12, r"version \(7, 0\)"),
    "no dtype": (head("(3, 4)", "'nonsense'"), 12, "cannot be read"),
    "no shape": (head("'abc'"), 12, "cannot be read"),
    "a program": (head("__import__('os')"), 12, "cannot be read"),
    "half a head": (head("(3, 4)")[:40], 0, "cannot be read"),
}


def zipped(path: Path, content: bytes, **lies: int) -> None:
    """A .npz file of one array whose directory may say another size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("x.npy", content)
        for name, value in lies.items():
            setattr(packed.infolist()[0], name, value)


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_compared_with_what_follows(name: str, tmp_path: Path) -> None:
    """Before memory is taken, also in a .npz file."""
    start, size, message = HEADS[name]
    (tmp_path / "x.npy").write_bytes(start + bytes(size))
    zipped(tmp_path / "x.npz", start + bytes(size))
    tracemalloc.start()
    for file in ("x.npy", "x.npz"):
        refused(
            rf"{file} cannot be read: .*{message if 'cannot' not in message else ''}",
            read_arrays,
            tmp_path / file,
            quantisation=BYTES,
        )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


def test_directories_that_lie(tmp_path: Path) -> None:
    content = head("(3, 4)") + bytes(range(12))
    zipped(tmp_path / "x.npz", content)
    np.testing.assert_array_equal(read_arrays(tmp_path / "x.npz", quantisation=BYTES).dataset.values[2], [8, 9, 10, 11])
    wide = head("(1000000000, 4)") + bytes(range(12))
    zipped(tmp_path / "x.npz", wide, file_size=len(wide) + 4_000_000_000 - 12)
    refused(
        r"its directory says \d+ bytes, which \d+ bytes of the file of \d+ cannot be", read_arrays, tmp_path / "x.npz"
    )
    zipped(tmp_path / "x.npz", content, file_size=len(content) + 1)
    refused(r"of 12 bytes, and 13 follow", read_arrays, tmp_path / "x.npz")
    # A byte changed, packed or not.
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "y.npz", x=np.arange(4000, dtype=np.uint8).reshape(1000, 4))
        whole = bytearray((tmp_path / "y.npz").read_bytes())
        whole[len(whole) // 2] ^= 1
        (tmp_path / "y.npz").write_bytes(whole)
        refused(r"x of .*y\.npz cannot be read: ", read_arrays, tmp_path / "y.npz", quantisation=BYTES)
    with zipfile.ZipFile(tmp_path / "z.npz", "w", zipfile.ZIP_LZMA) as packed:
        packed.writestr("x.npy", content)
    refused("compressed in a way that numpy does not write", read_arrays, tmp_path / "z.npz")
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as packed:
        packed.writestr("x.npy", content)
        packed.writestr("notes.txt", b"notes")
    assert read_arrays(tmp_path / "z.npz", "x", quantisation=BYTES).shape == (4,)
    refused("notes.txt of .* cannot be read", read_arrays, tmp_path / "z.npz", "notes.txt")
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as packed, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile says it too
        packed.writestr("x.npy", content)
        packed.writestr("x.npy", content)
    refused(r"holds two arrays of one name: \['x', 'x'\]", read_arrays, tmp_path / "z.npz")


def test_orders_of_arrays(tmp_path: Path) -> None:
    """Columns first are read as they are meant; the other order of bytes is refused by name."""
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "x.npy", np.asfortranarray(x))
    np.savez(tmp_path / "x.npz", x=np.asfortranarray(x))
    for name in ("x.npy", "x.npz"):
        np.testing.assert_array_equal(read_arrays(tmp_path / name).read(np.arange(3))[0], x)
    np.save(tmp_path / "x.npy", x.astype(">f4"))
    refused(
        r"dtype >f4, in the other order of bytes; give it \.astype\('f4'\)",
        read_arrays,
        tmp_path / "x.npy",
        error=TypeError,
    )
    np.save(tmp_path / "x.npy", np.zeros(3, [("a", "<f4")]))
    refused("the values have dtype", read_arrays, tmp_path / "x.npy", error=TypeError)
    np.save(tmp_path / "x.npy", np.asarray([1.0, np.nan]))
    refused("sample 1 holds nan", read_arrays, tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", x=x, c=np.asarray([0, np.nan, 1]))
    refused("args of sample 1 holds nan", read_arrays, tmp_path / "x.npz", args="c")


@pytest.mark.usefixtures("unchecked")
def test_other_kinds_of_arguments(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones((3, 4)), y=np.asarray(["a", "b", "c"]))
    refused("path is 3", read_arrays, 3, error=TypeError)
    refused("name is 3", read_arrays, tmp_path / "x.npz", 3, error=TypeError)
    refused("args is a list", read_arrays, tmp_path / "x.npz", "x", args=["y"], error=TypeError)
    refused("args has an array of dtype <U1", read_arrays, tmp_path / "x.npz", args="y", error=TypeError)
    refused("quantisation is 256", read_arrays, tmp_path / "x.npz", "x", quantisation=256, error=TypeError)
    refused("is no file; a folder of pictures is read by ImageFolder", read_arrays, tmp_path)


class Wrong(AbstractRows):
    """A source of a user that gives `shape` of samples that have another, or `dtype`."""

    shape: tuple[int, ...] = (2,)
    quantisation: sfp.Quantisation | None = None
    interval: Interval | None = None
    threads: int = 0
    value: float = 0.0

    def __len__(self) -> int:
        return 5

    def rows(self, index: np.ndarray) -> tuple[np.ndarray, Any]:
        return np.where(index[:, None] == 3, self.value, np.ones((len(index), 2))), None

    def name(self, row: int) -> str:
        return f"line {row + 1}"


def test_what_a_source_reads_is_checked() -> None:
    """While it trains too, by the name that it gives."""
    assert len(taken(Wrong().batches(5, seed=0), 2)) == 2
    refused(r"line 4 holds nan", next, Wrong(value=np.nan).batches(5, seed=0))
    with pytest.raises(ValueError, match=r"line 4 holds 2\.0, outside \[0\.0, 1\.0\]"):
        next(Wrong(value=2.0, interval=Interval(0.0, 1.0), threads=1).batches(5, seed=0))
    refused(r"Wrong\.rows gave values of shape \(5, 2\) for 5 samples of shape \(3,\)", Wrong(shape=(3,)).load)


# ------------------------------------------------------------------------------------------- folders of pictures


def test_folder_of_pictures(tmp_path: Path) -> None:
    folder = written(tmp_path, pictures(6, channels=3))
    # What is no picture is not looked at, nor what is hidden.
    (folder / "notes.txt").write_text("notes")
    (folder / ".thumbnails").mkdir()
    Image.new("L", (2, 2)).save(folder / ".thumbnails" / "a.png")
    Image.new("L", (2, 2)).save(folder / "class 0" / "._000.png")
    (folder / "class 0" / "000.png").rename(folder / "class 0" / "000.PNG")
    source = ImageFolder(folder)
    assert source.files[:3] == ("class 0/000.PNG", "class 0/001.png", "class 1/002.png")
    assert source.name(2) == str(folder / "class 1/002.png")
    assert (source.shape, source.classes, source.quantisation) == ((3, 4, 3), (), BYTES)
    values, labels = source.read(np.arange(6))
    np.testing.assert_array_equal(values, pictures(6, channels=3))
    assert labels is None
    labelled = ImageFolder(folder, labels=True, quantisation=sfp.Quantisation(256, 0.0, 1.0))
    assert labelled.classes == ("class 0", "class 1", "class 2")
    assert labelled.read(np.arange(6))[1].tolist() == [0, 0, 1, 1, 2, 2]
    assert labelled.quantisation.low == 0.0


def test_pictures_are_made_grey_coloured_and_cut_if_asked(tmp_path: Path) -> None:
    # Left half black, right half white, 8 high and 16 wide; and a small one in one colour.
    wide = np.zeros((8, 16), np.uint8)
    wide[:, 8:] = 255
    Image.fromarray(wide).save(tmp_path / "a.png")
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "b.png")
    refused(r"a\.png has shape \(1, 8, 16\), .*b\.png has shape \(3, 4, 4\); all samples", ImageFolder, tmp_path)
    source = ImageFolder(tmp_path, channels=3, size=(8, 8))
    values, _ = source.read(np.arange(2))
    assert source.shape == (3, 8, 8)
    # The middle of the wide one as it is, not the whole squeezed; the small one larger.
    np.testing.assert_array_equal(values[0], np.tile(wide[:, 4:12], (3, 1, 1)))
    np.testing.assert_array_equal(values[1, :, 5, 5], [255, 0, 0])
    grey = ImageFolder(tmp_path, channels=1, size=(4, 8)).read(np.arange(2))[0]
    # The weights of ITU-R 601-2: 299/1000 of red.
    np.testing.assert_array_equal(grey[1], np.full((1, 4, 8), 76))
    # A size that they have changes nothing.
    Image.new("L", (16, 8)).save(tmp_path / "b.png")
    np.testing.assert_array_equal(ImageFolder(tmp_path, size=(8, 16)).read(np.arange(1))[0], [[wide]])


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("RGB", 3), ("P", 3)])
def test_modes_of_pictures(mode: str, channels: int, tmp_path: Path) -> None:
    values = np.where(np.arange(12).reshape(4, 3) % 2, 255, 0).astype(np.uint8)
    Image.fromarray(values).convert("RGB").convert(mode).save(tmp_path / "a.png")
    found = ImageFolder(tmp_path).read(np.zeros(2, int))[0]
    np.testing.assert_array_equal(found, np.tile(values, (2, channels, 1, 1)))


def test_bad_pictures(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*none; give the folder that holds the pictures"):
        ImageFolder(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("notes")
    refused(rf"{re.escape(str(tmp_path))} holds no pictures; their names end in one of", ImageFolder, tmp_path)
    picture(pictures()[0]).save(tmp_path / "a.png")
    refused(r"1 pictures of .*, the first \['a\.png'\], are in no sub-folder", ImageFolder, tmp_path, labels=True)
    refused(r"channels = 2; give 1 for grey, 3 for colour, or None", ImageFolder, tmp_path, channels=2)
    refused(r"size = \(0, 4\); it is \(height, width\), both at least one", ImageFolder, tmp_path, size=(0, 4))
    with pytest.raises(ValueError, match=r"quantisation has 17 levels; pictures have 256 here"):
        ImageFolder(tmp_path, quantisation=sfp.Quantisation(17, -1.0, 1.0))
    picture(pictures(height=5)[0]).save(tmp_path / "b.png")
    with pytest.raises(
        ValueError,
        match=r"a\.png has shape \(1, 4, 3\), .*b\.png has shape \(1, 5, 3\); .* Give size=\(height, width\) to resize",
    ):
        ImageFolder(tmp_path)
    Image.fromarray(np.full((4, 3), 300, np.uint16)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png has 16 bits a channel; pictures have 8 bits a channel here"):
        ImageFolder(tmp_path, channels=1)
    Image.new("LA", (3, 4), (100, 0)).save(tmp_path / "b.png")
    refused(r"b\.png is transparent, .* Flatten it first, or give channels=1", ImageFolder, tmp_path)
    assert ImageFolder(tmp_path, channels=1).read(np.asarray([1]))[0].max() == 100


@pytest.mark.parametrize("head", [False, True])
def test_corrupt_pictures_are_named_and_left_out_if_asked(head: bool, tmp_path: Path) -> None:
    """Whether the head of the file is damaged or what comes after it."""
    array = pictures(6, height=20, width=20)
    folder, bad = written(tmp_path, array), tmp_path / "class 1" / "003.png"
    whole = bad.read_bytes()
    bad.write_bytes(b"no picture" if head else whole[: len(whole) // 2])
    message = r"class 1.003\.png cannot be read: .* or give skip_corrupt=True to leave such files out"
    refused(message, lambda: taken(ImageFolder(folder).batches(3, seed=0), 2))
    with pytest.warns(UserWarning, match=r"1 of 6 pictures in .* are left out: class 1/003\.png\.") as caught:
        source = ImageFolder(folder, labels=True, skip_corrupt=True)
    assert len(caught) == 1
    assert len(source) == 5
    values, labels = source.read(np.arange(5))
    np.testing.assert_array_equal(values, np.delete(array, 3, axis=0))
    assert labels.tolist() == [0, 0, 1, 2, 2]
    # Nothing to leave out, nothing said; and nothing left.
    bad.write_bytes(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(ImageFolder(folder, skip_corrupt=True)) == 6
    for file in folder.rglob("*.png"):
        file.write_bytes(b"")
    refused(r"none of the 6 pictures in .* can be read", ImageFolder, folder, skip_corrupt=True)


def test_folder_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    message = r"ImageFolder needs Pillow; install it with: pip install 'scorefp\[images\]'"
    refused(message, ImageFolder, tmp_path, error=ImportError)


# ------------------------------------------------------------------------------------------- Hugging Face


def test_columns_of_numbers() -> None:
    x = np.random.default_rng(0).normal(size=(6, 2, 3))
    table = Table.from_dict(
        {"x": x.tolist(), "k": [[i, 2 * i] for i in range(6)], "a": list(range(6)), "b": x[:, 0, 0]}
    )
    source = HuggingFace(table, "x", args=("a", "b"))
    index = np.asarray([4, 4, 1])
    values, args = source.read(index)
    np.testing.assert_array_equal(values, x[index])
    np.testing.assert_array_equal(args["a"], index)
    np.testing.assert_array_equal(args["b"], x[index, 0, 0])
    assert (source.shape, source.quantisation) == ((2, 3), None)
    levels = HuggingFace(table, "k", quantisation=sfp.Quantisation(11, -1.0, 1.0))
    assert levels.read(index)[0].tolist() == [[4, 8], [4, 8], [1, 2]]
    # The format of the table may be another, whose numbers are float32.
    formatted, _ = HuggingFace(table.with_format("numpy"), "x", args=("a", "b")).read(index)
    np.testing.assert_array_equal(formatted, x[index].astype(np.float32))


def test_bad_tables() -> None:
    table = Table.from_dict({"x": [[0.0], [2.0], [np.nan]], "k": [0, 1, 2], "ragged": [[1.0], [1.0], [1.0, 2.0]]})
    with pytest.raises(
        ValueError, match=r"column or args name what is not in the table, \['y', 'z'\]; it has \['x', 'k', 'ragged'\]"
    ):
        HuggingFace(table, "y", args=("k", "z"))
    with pytest.raises(TypeError, match=r"dataset is a dictionary of the splits \['train', 'test'\]; give one of them"):
        HuggingFace({"train": table, "test": table}, "x")
    with pytest.raises(TypeError, match=r"dataset is a IterableDataset, whose rows have no index .* Loader"):
        HuggingFace(table.to_iterable_dataset(), "x")
    refused(r"the table has no rows", HuggingFace, table.select([]), "x")
    refused(r"dtype int64 and quantisation is None", HuggingFace, table, "k", error=TypeError)
    refused(r"row 2 holds nan", HuggingFace(table, "x").load)
    with pytest.raises(ValueError, match=r"row 1 holds 2\.0, outside \[0\.0, 1\.0\]"):
        HuggingFace(table.select([0, 1]), "x", interval=Interval(0.0, 1.0)).load()
    refused(r"row 0 has shape \(1,\), row 2 has shape \(2,\); all samples have one", HuggingFace(table, "ragged").load)


def test_bad_pictures_in_a_table() -> None:
    good = [picture(array) for array in pictures(3)]
    table = Table.from_dict(
        {"image": [*good, picture(pictures(height=5)[0])]}, features=Features({"image": Pictures()})
    )
    with pytest.raises(ValueError, match=r"row 0 has shape \(1, 4, 3\), row 3 has shape \(1, 5, 3\); .* give size="):
        HuggingFace(table, "image").load()
    assert HuggingFace(table, "image", size=(2, 2), channels=3).load().shape == (3, 2, 2)
    encoded = [
        {"bytes": cell["bytes"], "path": None} for cell in table.cast_column("image", Pictures(decode=False))["image"]
    ]
    encoded[2]["bytes"] = encoded[2]["bytes"][:40]
    damaged = Table.from_dict({"image": encoded}, features=Features({"image": Pictures()}))
    with pytest.raises(ValueError, match=r"row 2 of the table cannot be read: .* dataset\.select"):
        next(HuggingFace(damaged, "image").batches(4, seed=0))


# ------------------------------------------------------------------------------------------- batches of others


class Torch:
    """Iterated anew each time, in the same order, as a loader without shuffling."""

    def __init__(self, values: np.ndarray, size: int) -> None:
        self.values, self.size, self.started = values, size, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        self.started += 1
        return (self.values[i : i + self.size] for i in range(0, len(self.values), self.size))


class Placed:
    """An iterator with a place of its own, which draws its batches."""

    def __init__(self, end: int, plain: bool = True) -> None:
        self.number, self.end, self.plain = 0, end, plain

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        if self.number == self.end:
            raise StopIteration
        self.number += 1
        return np.random.default_rng(self.number).normal(size=(3, 2))

    def get_state(self) -> Any:
        return {"number": self.number} if self.plain else b"bytes"

    def set_state(self, state: Any) -> None:
        self.number = state["number"]


@pytest.mark.parametrize("size", [1, 3, 4, 10, 40])
def test_batches_are_cut_and_joined(size: int) -> None:
    """Nothing is lost or doubled between batches or epochs, whatever the lengths are."""
    values = np.arange(10.0)[:, None]
    loader = Torch(values, size)
    for batch_size in (1, 4, 10, 25):
        feed = Loader(loader, shape=(1,)).batches(batch_size, seed=0)
        found = taken(feed, 7)
        assert all(batch.shape == (batch_size, 1) for batch, _ in found)
        flat = np.concatenate([batch for batch, _ in found])
        np.testing.assert_array_equal(flat, np.resize(values, flat.shape))


def test_batches_keep_their_range() -> None:
    source = Loader([np.full((3, 2), 0.5)], shape=(2,), interval=Interval(0.0, 1.0))
    assert (source.shape, source.quantisation, source.interval) == ((2,), None, Interval(0.0, 1.0))


def test_an_iterator_with_a_place_is_asked() -> None:
    source = lambda: Loader(Placed(100), shape=(2,))
    feed = source().batches(4, seed=0)
    taken(feed, 5)
    place, following = json.loads(json.dumps(feed.get_state())), taken(feed, 6)
    resumed = source().batches(4, seed=0)
    resumed.set_state(place)
    assert_same(taken(resumed, 6), following)
    # It goes there by itself, without reading what comes before.
    assert place["own"] == {"number": 6}


def test_a_pipeline_of_grain() -> None:
    """Across the borders of its epochs too."""
    pipeline = grain.MapDataset.range(10).seed(3).shuffle().map(lambda i: np.full(2, float(i))).batch(3)
    source = Loader(pipeline.to_iter_dataset(), shape=(2,))
    feed = source.batches(4, seed=0)
    flat = np.concatenate([values[:, 0] for values, _ in taken(feed, 5)])
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    for _ in range(4):
        place, following = json.loads(json.dumps(feed.get_state())), taken(feed, 3)
        resumed = source.batches(4, seed=0)
        resumed.set_state(place)
        assert_same(taken(resumed, 3), following)


def test_batches_that_are_read_once() -> None:
    generator = lambda: (np.full((4, 2), float(i)) for i in range(5))
    feed = Loader(generator(), shape=(2,)).batches(4, seed=0)
    assert [batch[0, 0] for batch, _ in taken(feed, 5)] == [0, 1, 2, 3, 4]
    refused(r"the batches ended after 5: they come from a generator, which is read once", next, feed)
    place = feed.get_state()
    with pytest.raises(ValueError, match=r"a generator, which is read once; the place behind its batch 5 cannot be"):
        Loader(generator(), shape=(2,)).batches(4, seed=0).set_state(place)
    # What has a place of its own but ends does not start anew either.
    feed = Loader(Placed(2), shape=(2,)).batches(3, seed=0)
    taken(feed, 2)
    refused(r"the batches ended after 2: they come from a Placed", next, feed)


def test_resuming_skips_without_reading_twice() -> None:
    loader = Torch(np.arange(10.0)[:, None], 4)
    feed = Loader(loader, shape=(1,)).batches(4, seed=0)
    taken(feed, 4)
    resumed = Loader(loader, shape=(1,)).batches(4, seed=0)
    started = loader.started
    resumed.set_state(feed.get_state())
    assert_same(taken(resumed, 2), taken(feed, 2))
    shorter = Loader(Torch(np.arange(4.0)[:, None], 4), shape=(1,)).batches(4, seed=0)
    with pytest.raises(ValueError, match=r"the batches end after 1, the saved place is behind 2"):
        shorter.set_state({"batch_size": 4, "epoch": 0, "taken": 2, "own": None, "used": 0})
    assert loader.started - started <= 3


@pytest.mark.usefixtures("unchecked")
def test_bad_batches() -> None:
    good, first = (
        np.ones((3, 2)),
        lambda *batches, **options: next(Loader(batches, shape=(2,), **options).batches(6, seed=0)),
    )
    message = r"batch 1 has shape \(3, 4\), and shape = \(2,\); a batch has the shape \(n, \*"
    refused(message, first, good, np.ones((3, 4)))
    refused(r"batch 0 has shape \(\), and shape = \(2,\)", first, 1.0)
    refused(r"batch 1 holds no samples", first, good, np.ones((0, 2)))
    refused(r"batches gives no batches", first)
    refused(r"sample 2 of batch 1 holds inf", first, good, np.where(np.arange(3)[:, None] == 2, np.inf, good))
    refused(r"sample 0 of batch 0 holds 1\.0, outside \[-1\.0, 0\.0\]", first, good, interval=Interval(-1.0, 0.0))
    refused(r"dtype int64 and quantisation is None", first, good.astype(np.int64), error=TypeError)
    refused(r"args has arrays with leading axes \[\(2,\)\], values has 3", first, (good, np.arange(2)))
    refused(r"batch 0 is a dict; a batch is an array, or a pair", first, {"x": good}, error=TypeError)
    refused(r"batches is 3\.0\. It is an iterable of arrays", Loader, 3.0, shape=(2,), error=TypeError)
    refused(r"batches is 'x\.npy'; it is an iterable .* read_arrays", Loader, "x.npy", shape=(2,), error=TypeError)
    for shape in (2, (2.0,)):
        refused(r"shape(\[0\])? (is|=) ", Loader, [good], shape=shape, error=TypeError)
    refused(r"shape\[1\] = 0; it is a count of at least 1", Loader, [good], shape=(2, 0))
    ragged = [[1.0, 2.0], [1.0], [2.0]]
    refused(r"batch 1 is a list, of which there is no array", first, good, ragged, good, error=TypeError)
    masked = np.ma.masked_array(good, good > 0)
    refused(r"batch 0 is a masked array, whose mask would be lost", first, masked, error=TypeError)
    refused(r"args of batch 0 is a masked array", first, (good, masked), error=TypeError)
    refused(r"the values of batch 0 have dtype float16", first, good.astype(np.float16), error=TypeError)
    with pytest.raises(TypeError, match=r"get_state of the batches gives bytes, which a checkpoint cannot hold"):
        Loader(Placed(2, plain=False), shape=(2,)).batches(4, seed=0)


# ------------------------------------------------------------------------------------------- one kind of batch

FIRST = np.ones((4, 2), np.float32)
# What comes second, beside a pair whose conditioning is a label and a number.
SECOND: dict[str, tuple[Any, Any, str]] = {
    "wider floats": (FIRST.astype(np.float64), None, "values of dtype float64, .* has float32"),
    "conditioning at once": (FIRST, np.arange(4), r"args of structure .*\*.*, .* has .*None"),
    "no more conditioning": (FIRST, "none", r"args of structure .*None.*, .* has "),
    "other names": (FIRST, {"k": np.arange(4), "c": FIRST}, r"args of structure .*'c'.*'k'.*"),
    "wider labels": (FIRST, {"label": np.arange(4), "c": FIRST}, r"args of dtypes .*int64.*, .* has .*int32"),
    "labels as floats": (FIRST, {"label": np.ones(4, np.float32), "c": FIRST}, "args of dtypes .*float32"),
    "another shape": (FIRST, {"label": np.arange(4, dtype=np.int32), "c": FIRST[:, :1]}, r"args of shapes .*\(1,\)"),
}


def first_args(second: Any) -> Any:
    """The conditioning of the first batch."""
    no = second is None or isinstance(second, np.ndarray)
    return None if no else {"label": np.arange(4, dtype=np.int32), "c": FIRST}


class Own(AbstractSource):
    """A source of a user that gives what it is given."""

    given: tuple[Any, ...]
    shape: tuple[int, ...] = (2,)
    quantisation: sfp.Quantisation | None = None
    interval: Interval | None = None

    def batches(self, batch_size: int, *, seed: int, share: tuple[int, int] = (0, 1)) -> Any:
        return Given(self.given)


class Given:
    """Batches whose place is never asked for."""

    def __init__(self, given: tuple[Any, ...]) -> None:
        self.given = iter(given)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self.given)

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        pass


class Turn(AbstractRows):
    """Rows of which the first half is of one kind and the rest of another."""

    given: tuple[Any, ...]
    shape: tuple[int, ...] = (2,)
    quantisation: sfp.Quantisation | None = None
    interval: Interval | None = None
    threads: int = 0

    def __len__(self) -> int:
        return 4 * len(self.given)

    def rows(self, index: np.ndarray) -> Any:
        return jax.tree.map(lambda leaf: leaf[: len(index)], self.given[int(index[0]) // 4])

    def name(self, row: int) -> str:
        return f"row {row}"


def fitted(source: AbstractSource) -> Any:
    """A few steps of a network that takes any conditioning."""
    model = sfp.NoiseScore(Deaf(sfp.nn.MLP(shape=(2,), width=8, depth=1, key=jr.key(1))), sfp.VP())
    options = {"optimizer": optax.adam(1e-3), "steps": 2, "batch_size": 4, "report_every": 1, "progress": False}
    return train.fit(model, sfp.DSM(), source, key=jr.key(1), **options)


class Deaf(eqx.Module):
    """A network that does not hear its conditioning."""

    network: sfp.nn.MLP

    def __call__(self, t: Any, x: Any, *, args: Any = None) -> Any:
        return self.network(t, x)


@pytest.mark.parametrize("name", SECOND)
@pytest.mark.usefixtures("unchecked")
def test_batches_are_of_the_kind_of_the_first(name: str) -> None:
    values, args, message = SECOND[name]
    given = ((FIRST, first_args(args)), (values, None if isinstance(args, str) else args))
    pairs = [pair if pair[1] is not None else pair[0] for pair in given]
    refused(rf"batch 1 has {message}", lambda: taken(Loader(pairs, shape=(2,)).batches(4, seed=0), 2))
    # Cut to pieces and joined as well.
    refused(rf"batch 1 has {message}", next, Loader(pairs, shape=(2,)).batches(6, seed=0))
    refused(rf"batch 1 has {message}", fitted, Own(given))
    turn = Turn(given)
    seed = next(s for s in range(9) if [*{int(i) // 4 for i in (order_of(turn, s)[0], order_of(turn, s)[4])}] == [0, 1])
    refused(r"batch 1 has .*; all batches are of the kind of the first", lambda: taken(turn.batches(4, seed=seed), 2))


def order_of(source: AbstractRows, seed: int) -> np.ndarray:
    """The rows of the first epoch."""
    return np.random.RandomState([seed, 0]).permutation(len(source))


@pytest.mark.usefixtures("unchecked")
def test_batches_of_one_kind_train() -> None:
    given = (FIRST, {"label": np.arange(4, dtype=np.int32), "c": FIRST})
    for source in (Loader([given, given], shape=(2,)), Own((given,) * 3), Turn((given, given))):
        assert np.isfinite(fitted(source).history["loss"]).all()


@pytest.mark.usefixtures("unchecked")
def test_levels_and_floats_are_not_wrapped() -> None:
    """The batches of an issue: bytes, then levels above 255; and float16, then more than it holds."""
    many = sfp.Quantisation(1024, -1.0, 1.0)
    levels = [np.full((4, 2), 10, np.uint8), np.full((4, 2), 1000, np.uint16)]
    message = "batch 1 has values of dtype uint16, batch 0 has uint8; all batches"
    refused(message, fitted, Loader(levels, shape=(2,), quantisation=many))
    wide = Loader([batch.astype(np.uint16) for batch in levels], shape=(2,), quantisation=many)
    assert np.isfinite(fitted(wide).history["loss"]).all()
    halves = [np.full((4, 2), 1.0, np.float16), np.full((4, 2), 1e5, np.float32)]
    refused("the values of batch 0 have dtype float16", fitted, Loader(halves, shape=(2,)), error=TypeError)


@pytest.mark.usefixtures("unchecked")
def test_what_an_own_source_gives_is_checked() -> None:
    """As much as what rows and loaders read."""
    second = lambda values, args=None, **options: fitted(Own(((FIRST, None), (values, args)), **options))
    refused("sample 3 of batch 1 holds nan", second, np.where(np.eye(4, 2, -3) == 1, np.nan, FIRST).astype(np.float32))
    refused("args of sample 3 of batch 0 holds nan", fitted, Own(((FIRST, np.asarray([0, 1, 2, np.nan])),)))
    refused(r"sample 0 of batch 0 holds 1\.0, outside", fitted, Own(((FIRST, None),), interval=Interval(-1.0, 0.0)))
    refused("the values of batch 0 have dtype int64", fitted, Own(((np.ones((4, 2), int), None),)), error=TypeError)
    refused(
        r"batch 1 of Own is a ndarray; it is \(values, args\)",
        lambda: fitted(Own(((FIRST, None), FIRST))),
        error=TypeError,
    )
    assert len(fitted(Own(((FIRST, None),) * 3)).history["loss"]) == 2


@pytest.mark.usefixtures("unchecked")
def test_nan_in_the_conditioning_is_found_where_it_enters() -> None:
    c = np.asarray([0.0, np.nan, 2.0, 3.0])
    refused("args of sample 1 of batch 1 holds nan", fitted, Loader([(FIRST, np.ones(4)), (FIRST, c)], shape=(2,)))
    refused("args of row 5 holds nan", Turn(((FIRST, c * 0), (FIRST, c))).read, np.arange(4, 8))
    table = Table.from_dict(
        {"x": [[0.0], [1.0], [2.0]], "c": [0.0, 1.0, np.nan], "k": [0, None, 2], "r": [[1], [1], [1, 2]]}
    )
    refused("args of row 2 holds nan", HuggingFace(table, "x", args="c").load)
    refused(
        "row 1 of the table cannot be read: it holds what is no number, in column 'k'",
        HuggingFace(table, "x", args="k").load,
    )
    refused(r"row 0 has shape \(1,\), row 2 has shape \(2,\)", HuggingFace(table, "x", args="r").load)
    big = Table.from_dict({"x": [[0.0], [1.0]], "k": [0, 2**31]})
    refused("args of row 1 holds 2147483648, beyond the int32", HuggingFace(big, "x", args="k").load)


@pytest.mark.usefixtures("unchecked")
def test_what_rows_give_is_checked() -> None:
    source = OnHost(np.ones((5, 2)))
    for index in (np.asarray([5]), np.asarray([-1]), np.asarray([], int)):
        refused(r"index holds . numbers, . of them outside 0 … 4; it needs at least one", source.read, index)
    refused("it is a row of integers", source.read, np.ones(2))
    refused(
        r"Turn\.rows gave a list; it gives \(values, args\)", Turn(([FIRST, None],)).read, np.arange(4), error=TypeError
    )
    refused(r"the values of Turn\.rows is a list", Turn(((["a"] * 4, None),)).read, np.arange(4), error=TypeError)
    refused("quantisation is 256", Turn(((FIRST, None),), quantisation=256).read, np.arange(4), error=TypeError)
    for state in (None, [1]):
        for feed in (source.batches(2, seed=0), Loader([FIRST], shape=(2,)).batches(2, seed=0)):
            refused("state is ", feed.set_state, state, error=TypeError)
    feed = source.batches(2, seed=0)
    for place in (None, {}, {"next_index": -5}):
        refused("It is damaged", feed.set_state, {**feed.get_state(), "grain": place})
    assert len(next(feed)[0]) == 2
    feed = Loader([FIRST], shape=(2,)).batches(2, seed=0)
    for wrong in ({"used": -1}, {"epoch": "0"}, {"taken": 0.5}):
        refused("the saved place is", feed.set_state, {**feed.get_state(), **wrong})
    refused("is behind 9 samples of a batch that has 4 now", feed.set_state, {**feed.get_state(), "used": 9})


@pytest.mark.usefixtures("unchecked")
def test_counts_of_a_source() -> None:
    source, loader = OnHost(np.ones((5, 2))), Loader([FIRST], shape=(2,))
    for one in (source, loader):
        for size in (2.0, "2", None):
            refused("batch_size = ", one.batches, size, seed=0, error=TypeError)
        for share in (3, (0.0, 2), None):
            refused("share (=|is) ", one.batches, 2, seed=0, share=share, error=TypeError)
        refused(r"share = \(0, 1, 2\); it is \(i, n\)", one.batches, 2, seed=0, share=(0, 1, 2))
    for seed in (0.5, "0", None):
        refused("seed = ", source.batches, 2, seed=seed, error=TypeError)
    for threads in (1.5, "2", None):
        refused("threads = ", OnHost, np.ones((5, 2)), threads=threads, error=TypeError)
    refused("threads = -1", OnHost, np.ones((5, 2)), threads=-1)
    table = Table.from_dict({"x": [[0.0], [1.0]]})
    for name, value in (
        ("column", 3),
        ("args", 3),
        ("channels", 1.0),
        ("size", 3),
        ("threads", 1.5),
        ("interval", (0, 1)),
    ):
        given: dict[str, Any] = {"dataset": table, "column": "x", name: value}
        refused(rf"{name} (=|is) ", lambda given=given: HuggingFace(**given), error=TypeError)


# ------------------------------------------------------------------------------------------- splits


def test_split_of_a_source(tmp_path: Path) -> None:
    source = arrays(tmp_path)
    rest, held_out = split(source, 0.3, seed=0)
    assert (len(rest), len(held_out)) == (9, 4)
    both = np.concatenate([rest.index, held_out.index])
    assert sorted(both.tolist()) == list(range(COUNT))
    assert np.all(np.diff(rest.index) > 0)
    values, classes = held_out.read(np.arange(4))
    np.testing.assert_array_equal(values, pictures()[held_out.index])
    np.testing.assert_array_equal(classes, CLASSES[held_out.index])
    assert (held_out.shape, held_out.quantisation, held_out.interval, held_out.threads) == ((1, 4, 3), BYTES, None, 0)
    assert held_out.name(0) == f"sample {held_out.index[0]}"
    # The same by the same seed; another by another; a part may be split again.
    np.testing.assert_array_equal(split(source, 0.3, seed=0)[1].index, held_out.index)
    assert any(not np.array_equal(split(source, 0.3, seed=seed)[1].index, held_out.index) for seed in (1, 2))
    again, _ = split(rest, 0.5, seed=0)
    assert set(again.load().args.tolist()) <= set(rest.load().args.tolist())
    np.testing.assert_array_equal(again.read(np.arange(1))[0], pictures()[rest.index[again.index[:1]]])


def test_split_of_a_data_set() -> None:
    x = Dataset(jnp.arange(20.0)[:, None], args={"i": jnp.arange(20)}, interval=Interval(0.0, 20.0))
    rest, held_out = split(x, 0.25, seed=1)
    assert (len(rest), len(held_out)) == (15, 5)
    assert sorted([*rest.args["i"].tolist(), *held_out.args["i"].tolist()]) == list(range(20))
    np.testing.assert_array_equal(held_out.values[:, 0], held_out.args["i"])
    assert held_out.interval == Interval(0.0, 20.0)
    levels = split(digits("test"), 0.5, seed=0)[1]
    assert levels.quantisation == digits("test").quantisation
    # It is the split of the source.
    np.testing.assert_array_equal(split(OnHost(Dataset(np.arange(20.0))), 0.25, seed=1)[1].index, held_out.args["i"])


@pytest.mark.parametrize("share", [0.0, 0.03, 0.97, 1.0, -1.0, 2.0])
def test_bad_splits(share: float) -> None:
    message = rf"share = {share} puts .* of 13 samples into the second part; each part needs"
    refused(message, split, OnHost(Dataset(pictures(), BYTES)), share, seed=0)
    refused(r"each part needs at least 2", split, Dataset(jnp.ones((13, 1))), share, seed=0)


@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_of_a_split() -> None:
    data = Dataset(np.ones((13, 1)))
    for share in (np.nan, np.inf):
        refused(rf"share = {share}; it is a finite number", split, data, share, seed=0)
    for share in ("0.1", None, True, 0.1j):
        refused(r"share is .*; it is (a )?real", split, data, share, seed=0, error=TypeError)
    for seed in (-1, 2**32):
        refused(rf"seed = {seed}; a seed is a number of 32 bits", split, data, 0.3, seed=seed)
    refused("seed = 0.5", split, data, 0.3, seed=0.5, error=TypeError)
    loader = Loader([np.ones((4, 1))], shape=(1,))
    refused("data is a Loader, whose samples have no index", split, loader, 0.3, seed=0, error=TypeError)


@pytest.mark.usefixtures("unchecked")
def test_bad_parts() -> None:
    for index in ([], [13], [-1, 2]):
        with pytest.raises(
            ValueError, match=rf"index holds {len(index)} numbers, .* outside 0 … 12; it needs at least one"
        ):
            Part(OnHost(Dataset(pictures(), BYTES)), np.asarray(index, int))
    for index in (np.ones(3), np.ones(13, bool), np.ones((2, 2), int)):
        refused("it is a row of integers", Part, arrays(Path()), index)
    refused("index is a list", Part, arrays(Path()), [1, 2], error=TypeError)
    refused("source is a Dataset", Part, Dataset(np.ones((4, 2))), np.arange(2), error=TypeError)


# ------------------------------------------------------------------------------------------- training

ADAM = optax.adam(1e-2)


def trained(data: AbstractSource | Dataset, **options: Any) -> list[np.ndarray]:
    """The parameters after a few steps."""
    model = sfp.NoiseScore(sfp.nn.MLP((1, 4, 3), width=8, depth=1, key=jr.key(0)), sfp.VP(), data_std=0.6)
    settings = {"optimizer": ADAM, "steps": 4, "batch_size": 4, "report_every": 2, "key": jr.key(1), "progress": False}
    run = train.fit(model, sfp.DSM(), data, **(settings | options))
    assert np.all(np.isfinite(run.history["loss"]))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(run.last) if isinstance(leaf, jax.Array)]


def test_fit_reads_every_source(tmp_path: Path) -> None:
    """The same samples in the same order give the same parameters, wherever they are read from."""
    plain = [trained(OnHost(Dataset(pictures(), BYTES))) for _ in range(2)]
    written(tmp_path / "pictures", pictures())
    np.save(tmp_path / "x.npy", pictures())
    table = Table.from_dict(
        {"image": [picture(array) for array in pictures()]}, features=Features({"image": Pictures()})
    )
    sources = [
        Part(OnHost(Dataset(np.repeat(pictures(), 2, axis=0), BYTES)), 2 * np.arange(COUNT)),
        read_arrays(tmp_path / "x.npy", quantisation=BYTES),
        ImageFolder(tmp_path / "pictures"),
        HuggingFace(table, "image"),
    ]
    for found in [plain[1], *map(trained, sources)]:
        for one, other in zip(found, plain[0], strict=True):
            np.testing.assert_array_equal(one, other)
    # In another order, or drawn with replacement, they are others.
    for other in (Loader([pictures()], shape=(1, 4, 3), quantisation=BYTES), OnHost(Dataset(pictures(), BYTES)).load()):
        assert not all(np.array_equal(*pair) for pair in zip(trained(other), plain[0], strict=True))


def test_a_picture_that_is_damaged_while_training_loses_nothing(tmp_path: Path) -> None:
    """The error names it, the checkpoints stay, and after its repair the run ends as if nothing had happened."""
    source = ImageFolder(written(tmp_path / "pictures", pictures()))
    bad = tmp_path / "pictures" / "class 1" / "006.png"
    whole, content = trained(source, steps=20), bad.read_bytes()
    checkpoints = train.Checkpoints(tmp_path / "run", every=2)

    def damage(report: train.Report) -> None:
        if report.step == 4:
            bad.write_bytes(content[:60])

    refused(r"006\.png cannot be read", trained, source, steps=20, checkpoints=checkpoints, callbacks=[damage])
    assert 4 <= train.saved_steps(tmp_path / "run")[-1] < 20
    bad.write_bytes(content)
    for one, other in zip(trained(source, steps=20, checkpoints=checkpoints), whole, strict=True):
        np.testing.assert_array_equal(one, other)
