"""Labels in published files."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from .._checks import require


def checked_labels(path: Path, name: str, labels: Any, images: int, classes: range) -> Int32[np.ndarray, " images"]:
    """Labels counted from 0, refused unless each image has one and it is that of a class.

    Args:
        path: The file that they are from.
        name: What they are called there.
        labels: As the file has them.
        images: How many images there are.
        classes: The labels of the classes in the file.
    """
    # A list is looked at before memory is taken for it: one of lists may stand for far more than the file holds.
    if isinstance(labels, np.ndarray):
        found, told = labels, f"an array {labels.dtype}{list(labels.shape)}"
    elif isinstance(labels, list) and all(type(label) is int for label in labels):
        found, told = np.asarray(labels, np.int64), f"a list of {len(labels)}"
    else:
        found, told = np.asarray(None), f"a {type(labels).__name__} of more than integers"
    require(
        found.shape == (images,) and found.dtype.kind in "iu" and images > 0,
        f"{name} in {path} is {told}; it is an integer for each of {images} images.",
    )
    outside = (found < classes[0]) | (found > classes[-1])
    require(
        not outside.any(),
        f"{name} in {path} holds {found[outside.argmax()]} at image {outside.argmax()}; classes are {classes[0]} to "
        f"{classes[-1]}.",
    )
    return (found.astype(np.int64) - classes[0]).astype(np.int32)
