"""Patches of the photographs that ship inside scikit-image and scikit-learn."""

import functools
from collections.abc import Iterator
from typing import Any, Literal, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32, UInt8

from .._checks import count, flag, needs, one_of, require
from ..dataset import Dataset
from ._pictures import BYTES, needs_pillow

# The test photographs were chosen once, before anything was trained: an animal and a landscape, one of each package.
_NAMES = {
    "train": ("astronaut", "coffee", "rocket", "stereo_motorcycle", "flower"),
    "test": ("chelsea", "china"),
}


def photographs(split: Literal["train", "test"], *, size: Literal[8, 16, 32] = 16, labels: bool = False) -> Dataset:
    """Patches of real photographs in colour with 256 levels, as samples of shape `(3, size, size)` on [-1, 1].

    A photograph is cut into tiles side by side from its upper left corner; what is left at its right and lower edges is
    dropped. The split is fixed, by photograph, so that no test patch comes from a photograph of the training; within a
    part patches are mixed.

    | part | photographs | 8×8 | 16×16 | 32×32 |
    | --- | --- | --- | --- | --- |
    | `"train"` | `astronaut`, `coffee`, `rocket`, `stereo_motorcycle` (left), `flower` | 22,030 | 5,455 | 1,337 |
    | `"test"` | `chelsea`, `china` | 6,312 | 1,544 | 386 |

    They are the colour photographs of everyday scenes in the wheels of scikit-image (`skimage.data`) and scikit-learn
    (`china`, `flower`); nothing is fetched. Grey ones, textures, and pictures by microscope or telescope are left out.
    `china`, `flower` and `rocket` were JPEG files, with blocks of 8×8 that the patches are aligned with.

    Licences, as the packages state them: `astronaut` (NASA) and `rocket` (SpaceX) are in the public domain, `chelsea`
    (Stefan van der Walt) and `coffee` (Rachel Michetti) CC0, `china` and `flower` CC BY 2.0 (danielbuechele,
    vultilion); `stereo_motorcycle` is of the Middlebury stereo benchmark of 2014 (Scharstein and others), without a
    licence named.

    There are seven photographs, and patches of one are alike: an interval over test patches says less than it seems.

    Args:
        split: `"train"` or `"test"`.
        size: The side of a patch, 8, 16 or 32.
        labels: Whether `args` holds the photograph of each patch, its place in the table above from 0 on: to hold back
            whole photographs. Without, where a network trains that takes no conditioning.

    Raises:
        ImportError: if scikit-image, scikit-learn or Pillow is not installed.
        TypeError: if `size` is no integer, or `labels` neither true nor false.
        ValueError: if `split` is another word, or `size` another number.

    Example:
        >>> from scorefp import data
        >>> len(data.photographs("train")), data.photographs("test", size=32).shape
        (5455, (3, 32, 32))
    """
    one_of("split", split, ("train", "test"))
    require(count("size", size) in (8, 16, 32), f"size = {size}; it is 8, 16 or 32.")
    flag("labels", labels)
    patches, of = _patches(split, size)
    return Dataset(jnp.asarray(patches), BYTES, jnp.asarray(of) if labels else None)


@functools.cache
def _patches(split: str, size: int) -> tuple[UInt8[np.ndarray, "patches 3 size size"], Int32[np.ndarray, " patches"]]:
    """The patches, and the photographs they are of."""
    tiles = [np.concatenate(list(_tiles(_photograph(name), size))) for name in _NAMES[split]]
    of = np.repeat(np.arange(len(tiles), dtype=np.int32), [len(found) for found in tiles])
    order = np.random.default_rng(0).permutation(len(of))
    return np.concatenate(tiles)[order], of[order]


def _tiles(picture: UInt8[np.ndarray, "height width 3"], size: int) -> Iterator[UInt8[np.ndarray, "row 3 size size"]]:
    """The rows of tiles."""
    height, width = (side // size for side in picture.shape[:2])
    for row in picture[: height * size, : width * size].reshape(height, size, width, size, 3):
        yield row.transpose(1, 3, 0, 2)


def _photograph(name: str) -> UInt8[np.ndarray, "height width 3"]:
    needs_pillow("photographs")  # both packages decode by it
    with needs("photographs", "scikit-image", "examples"):
        import skimage.data
    with needs("photographs", "scikit-learn", "examples"):
        from sklearn.datasets import load_sample_image
    if name in ("china", "flower"):
        return cast(Any, load_sample_image)(f"{name}.jpg")
    found = getattr(cast(Any, skimage.data), name)()
    return found[0] if name == "stereo_motorcycle" else found
