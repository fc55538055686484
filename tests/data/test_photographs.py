"""Patches of photographs: what they are cut from, that the parts share none, and what is refused."""

import importlib
import itertools
import sys

import numpy as np
import pytest
from helpers.refusals import refused

from scorefp.data import photographs

data = pytest.importorskip("skimage.data")
pytest.importorskip("PIL")
pytestmark = pytest.mark.quick

COUNTS = {
    (8, "train"): 22030,
    (8, "test"): 6312,
    (16, "train"): 5455,
    (16, "test"): 1544,
    (32, "train"): 1337,
    (32, "test"): 386,
}


def pictures(part: str) -> list[np.ndarray]:
    """The photographs of a part, by the packages themselves."""
    from sklearn.datasets import load_sample_image

    if part == "test":
        return [data.chelsea(), load_sample_image("china.jpg")]
    left, _, _ = data.stereo_motorcycle()
    return [data.astronaut(), data.coffee(), data.rocket(), left, load_sample_image("flower.jpg")]


@pytest.mark.parametrize(("size", "part"), COUNTS)
def test_every_patch_is_a_tile_of_one_photograph(size: int, part: str) -> None:
    found = photographs(part, size=size)
    assert (len(found), found.shape, found.values.dtype) == (COUNTS[size, part], (3, size, size), np.uint8)
    assert (found.quantisation.levels, found.quantisation.low, found.quantisation.high) == (256, -1.0, 1.0)
    tiles = [
        np.moveaxis(picture[i : i + size, j : j + size], -1, 0).tobytes()
        for picture in pictures(part)
        for i in range(0, picture.shape[0] - size + 1, size)
        for j in range(0, picture.shape[1] - size + 1, size)
    ]
    patches = [patch.tobytes() for patch in np.asarray(found.values)]
    assert sorted(patches) == sorted(tiles)
    # Mixed, the same at each call: what is measured on the first ones sees every photograph.
    assert patches != tiles
    again = photographs(part, size=size, labels=True)
    np.testing.assert_array_equal(found.values, again.values)
    counts = [(picture.shape[0] // size) * (picture.shape[1] // size) for picture in pictures(part)]
    assert found.args is None
    np.testing.assert_array_equal(np.bincount(again.args), counts)
    ends = np.cumsum([0, *counts])
    for label, (begin, end) in enumerate(itertools.pairwise(ends)):
        of = np.asarray(again.values)[np.asarray(again.args) == label]
        assert sorted(patch.tobytes() for patch in of) == sorted(tiles[begin:end])
    first = {tiles.index(patch) / len(tiles) for patch in patches[:100]}
    assert min(first) < 0.1
    assert max(first) > 0.9


def test_parts_share_no_patch() -> None:
    """Those of one colour apart, of which black ones may be in any photograph."""
    for size in (8, 16, 32):
        train, test = (
            {p.tobytes() for p in np.asarray(photographs(part, size=size).values) if np.ptp(p, axis=(1, 2)).any()}
            for part in ("train", "test")
        )
        assert not train & test


@pytest.mark.usefixtures("unchecked")
def test_refused() -> None:
    refused("split = 'all'; it is 'train' or 'test'", photographs, "all")
    for size in (4, 0, 64):
        refused(f"size = {size}; it is 8, 16 or 32", photographs, "test", size=size)
    refused(r"size = 16\.0; it is a count", photographs, "test", size=16.0, error=TypeError)


@pytest.mark.parametrize(
    ("package", "extra"), [("skimage.data", "examples"), ("sklearn.datasets", "examples"), ("PIL.Image", "images")]
)
def test_without_a_package(monkeypatch: pytest.MonkeyPatch, package: str, extra: str) -> None:
    module = importlib.import_module("scorefp.data.photographs")
    monkeypatch.setattr(module, "_patches", module._patches.__wrapped__)
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"photographs needs .*; install it with: pip install 'scorefp\[{extra}\]'"
    refused(message, photographs, "train", error=ImportError)
