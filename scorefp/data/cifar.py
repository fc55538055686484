"""CIFAR-10 and CIFAR-100 from the files in which they are published."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
from jaxtyping import UInt8

from .._checks import flag, one_of, path_of, require
from ..dataset import Dataset
from ._labels import checked_labels
from ._pickled import read_pickled
from ._pictures import BYTES
from .on_host import OnHost

_PIXELS = 3 * 32 * 32


@final
@dataclasses.dataclass(frozen=True)
class _Version:
    """One of the published versions: the files of its parts, and the labels of an image and their classes."""

    name: str
    files: dict[str, tuple[str, ...]]
    labels: dict[str, int]

    @property
    def binary(self) -> bool:
        return self.files["test"][0].endswith(".bin")

    def records(self, path: Path) -> tuple[UInt8[np.ndarray, "images 3072"], np.ndarray]:
        """Pixels and labels, the finest ones, of one file."""
        pixels, labels = self._of_bytes(path) if self.binary else self._of_pickle(path)
        found = [checked_labels(path, word, labels[word], len(pixels), range(n)) for word, n in self.labels.items()]
        return pixels, found[-1]

    def _of_bytes(self, path: Path) -> tuple[np.ndarray, dict[str, Any]]:
        content, size = np.fromfile(path, np.uint8), len(self.labels) + _PIXELS
        require(
            len(content) > 0 and len(content) % size == 0,
            f"{path} has {len(content)} bytes; the {self.name} has records of {size} bytes, {len(self.labels)} of "
            f"labels and {_PIXELS} of pixels, and this is not a multiple of that. It is truncated, or another file.",
        )
        rows = content.reshape(-1, size)
        return rows[:, -_PIXELS:], {word: rows[:, i] for i, word in enumerate(self.labels)}

    def _of_pickle(self, path: Path) -> tuple[np.ndarray, dict[str, Any]]:
        found = read_pickled(path)
        missing = [name for name in ("data", *self.labels) if name not in found]
        require(not missing, f"{path} has no {missing}; the {self.name} has them, and this file has {sorted(found)}.")
        pixels = found["data"]
        told = f"has shape {pixels.shape}" if isinstance(pixels, np.ndarray) else f"is a {type(pixels).__name__}"
        require(
            isinstance(pixels, np.ndarray) and pixels.ndim == 2 and pixels.shape[1] == _PIXELS and len(pixels) > 0,
            f"data in {path} {told}; the {self.name} has a row of {_PIXELS} pixels an image.",
        )
        return pixels, found


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_TEN, _HUNDRED = {"labels": 10}, {"coarse_labels": 20, "fine_labels": 100}
_VERSIONS = (
    _Version(
        "binary version of CIFAR-10",
        {"train": tuple(f"{name}.bin" for name in _BATCHES), "test": ("test_batch.bin",)},
        _TEN,
    ),
    _Version("python version of CIFAR-10", {"train": _BATCHES, "test": ("test_batch",)}, _TEN),
    _Version("binary version of CIFAR-100", {"train": ("train.bin",), "test": ("test.bin",)}, _HUNDRED),
    _Version("python version of CIFAR-100", {"train": ("train",), "test": ("test",)}, _HUNDRED),
)


def read_cifar(path: str | Path, split: Literal["train", "test"], *, labels: bool = False) -> OnHost:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009), samples of shape `(3, 32, 32)` with 256 levels on [-1, 1].

    The folder is that of an unpacked archive: `cifar-10-batches-bin`, `cifar-10-batches-py`, `cifar-100-binary` or
    `cifar-100-python`; which of them is seen by the names of the files. The python versions are pickles and are read
    without unpickling, so that no code in them runs. Images stay on the host as bytes, in the order of the files.

    Args:
        path: The folder.
        split: `"train"` or `"test"`, the published ones.
        labels: Whether `args` holds the class of each image, 0 to 9, or 0 to 99 for CIFAR-100, its fine label.

    Raises:
        FileNotFoundError: if the files of no version are there, or some of them are missing.
        TypeError: if `path` is no path, or `labels` neither true nor false.
        ValueError: if `split` is another word, or a file is truncated, has records of another size, labels outside of
            the classes, another number of images than the others, or names what is to be run.

    Example:
        >>> import pathlib, tempfile, numpy as np
        >>> from scorefp import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     records = np.zeros((4, 3073), np.uint8)  # a label and 3 × 32 × 32 pixels each
        ...     records[:, 0] = [3, 1, 4, 1]
        ...     records.tofile(pathlib.Path(folder) / "test_batch.bin")
        ...     source = data.read_cifar(folder, "test", labels=True)
        >>> source.shape, source.dataset.args
        ((3, 32, 32), array([3, 1, 4, 1], dtype=int32))
    """
    folder = path_of("path", path)
    one_of("split", split, ("train", "test"))
    flag("labels", labels)
    version, files = _files(folder, split)
    parts = [version.records(file) for file in files]
    counts = {file.name: len(pixels) for file, (pixels, _) in zip(files, parts, strict=True)}
    require(
        len(set(counts.values())) == 1,
        f"the files in {folder} hold different numbers of images, {counts}; those of the {version.name} have equally "
        "many. One of them is truncated.",
    )
    values = np.concatenate([pixels for pixels, _ in parts]).reshape(-1, 3, 32, 32)
    return OnHost(Dataset(values, BYTES, np.concatenate([found for _, found in parts]) if labels else None))


def _files(folder: Path, split: Literal["train", "test"]) -> tuple[_Version, list[Path]]:
    """The version in a folder, and the files of one part."""
    named = [(version, [folder / name for name in version.files[split]]) for version in _VERSIONS]
    for version, files in named:
        missing = [file.name for file in files if not file.is_file()]
        if not missing:
            return version, files
        if len(missing) < len(files):
            raise FileNotFoundError(f"{folder} has no {missing}, which belong to the {version.name}.")
    raise FileNotFoundError(
        f"{folder} has none of {[files[0].name for _, files in named]}. Unpack the archive, and give the folder with "
        "these files."
    )
