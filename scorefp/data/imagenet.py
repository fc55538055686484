"""Downsampled ImageNet from the files in which it is published."""

from pathlib import Path
from typing import Literal

import numpy as np

from .._checks import flag, one_of, path_of, require
from ..dataset import Dataset
from ._labels import checked_labels
from ._pictures import BYTES
from .files import unpacked
from .on_host import OnHost

_FILES = {"train": tuple(f"train_data_batch_{i}.npz" for i in range(1, 11)), "test": ("val_data.npz",)}
_SIDES = {3 * side**2: side for side in (8, 16, 32, 64)}
"""The side of an image by the number of its entries."""


def read_imagenet(path: str | Path, split: Literal["train", "test"], *, labels: bool = False) -> OnHost:
    """Downsampled ImageNet (Chrabaszcz 2017), such as ImageNet32, samples `(3, n, n)` with 256 levels on [-1, 1].

    The folder holds the published `.npz` files with the arrays `data` and `labels`: `train_data_batch_1.npz` to
    `train_data_batch_10.npz`, and `val_data.npz`, which is the test part. The side `n`, 8, 16, 32 or 64, is seen by the
    number of pixels. Images stay on the host as bytes, in the order of the files; those of ImageNet32 take 3.9 GB.

    Args:
        path: The folder.
        split: `"train"` or `"test"`.
        labels: Whether `args` holds the class of each image, 0 to 999; the files count from 1.

    Raises:
        FileNotFoundError: if a file is missing.
        TypeError: if `path` is no path, or `labels` neither true nor false.
        ValueError: if `split` is another word, or a file is damaged, has no such arrays, images of another size than
            the others, or labels outside of 1 to 1000.

    Example:
        >>> import pathlib, tempfile, numpy as np
        >>> from scorefp import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "val_data.npz"
        ...     np.savez(path, data=np.zeros((2, 3072), np.uint8), labels=np.array([1, 1000]))
        ...     source = data.read_imagenet(folder, "test", labels=True)
        >>> source.shape, source.dataset.args
        ((3, 32, 32), array([  0, 999], dtype=int32))
    """
    folder = path_of("path", path)
    one_of("split", split, ("train", "test"))
    flag("labels", labels)
    files = [folder / name for name in _FILES[split]]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} has no {missing}; give the folder with the .npz files of the {split} part.")
    # Labels first, which say how much memory the images take: these are then held once, and one file of them twice.
    classes = [_array(file, "labels") for file in files]
    for file, found in zip(files, classes, strict=True):
        require(found.ndim == 1, f"labels in {file} have shape {found.shape}; there is one for each image.")
    values, side, done, args = np.empty((0, 0), np.uint8), 0, 0, list[np.ndarray]()
    for file, found in zip(files, classes, strict=True):
        pixels = _array(file, "data")
        require(
            pixels.dtype == np.uint8 and pixels.ndim == 2 and pixels.shape[1] in _SIDES and len(pixels) > 0,
            f"data in {file} is an array {pixels.dtype}{list(pixels.shape)}; it has a row of uint8 an image, one or "
            f"more, with {' or '.join(map(str, _SIDES))} entries.",
        )
        if not side:
            side, values = _SIDES[pixels.shape[1]], np.empty((sum(map(np.size, classes)), pixels.shape[1]), np.uint8)
        require(
            pixels.shape[1] == values.shape[1],
            f"data in {file} has images of side {_SIDES[pixels.shape[1]]}, and {files[0]} of side {side}.",
        )
        args.append(checked_labels(file, "labels", found, len(pixels), range(1, 1001)))
        values[done : done + len(pixels)] = pixels
        done += len(pixels)
    return OnHost(Dataset(values.reshape(-1, 3, side, side), BYTES, np.concatenate(args) if labels else None))


def _array(path: Path, name: str) -> np.ndarray:
    with path.open("rb") as file:
        return unpacked(path, file, name, ())[0]
