"""The handwritten digits that scikit-learn ships."""

from typing import Any, Literal, cast

import jax.numpy as jnp
import numpy as np

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
        ValueError: if `split` is another word.

    Example:
        >>> from scorefp import data
        >>> len(data.digits("train")), data.digits("test").shape
        (1437, (64,))
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError("digits needs scikit-learn; install it with: pip install 'scorefp[examples]'") from error
    found = cast(Any, datasets.load_digits())
    images, digit = np.asarray(found.data, np.int32), np.asarray(found.target, np.int32)
    order = np.random.default_rng(0).permutation(len(images))
    parts = {"train": order[:1437], "test": order[1437:]}
    if split not in parts:
        raise ValueError(f'split = {split!r}; the digits have the splits "train" and "test".')
    part = parts[split]
    args = jnp.asarray(digit[part]) if labels else None
    return Dataset(jnp.asarray(images[part]), Quantisation(levels=17, low=-1.0, high=1.0), args)
