"""Folders of pictures."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import equinox as eqx
import numpy as np
from jaxtyping import Int

from .._checks import require
from ..dataset import Interval, Quantisation
from ._pictures import BYTES, Layout, agree, needs_pillow
from .source import AbstractRows, Batch

if TYPE_CHECKING:
    from PIL.Image import Image

_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


class ImageFolder(AbstractRows):
    """The pictures in a folder and its sub-folders, in the order of their names, as bytes of shape `(c, h, w)`.

    Files are read when their batch comes. Their heads are read once, here, so that pictures of another size are found
    at the start. What fits into memory trains faster from there: see `load`.

    Args:
        path: The folder.
        channels: 1 makes all pictures grey, 3 coloured; `None` takes them as they are.
        size: Height and width that all pictures are brought to, resized to cover it and cut around the middle; `None`
            takes them as they are.
        labels: Whether `args` is the class of a picture, an integer: the place in `classes` of the sub-folder it is in.
        skip_corrupt: Whether to leave out, with a warning, the files that cannot be read; to find them all files are
            read once, here. Otherwise the first of them is an error.
        quantisation: The meaning of the 256 levels; they lie on [-1, 1] by default.
        threads: How many threads read ahead, a batch each.

    Attributes:
        files: The names of the files within the folder.
        classes: The names of the sub-folders, where there are `labels`.

    Raises:
        ImportError: if Pillow is not installed.
        FileNotFoundError: if there is no such folder.
        ValueError: if there are no pictures in it; if two have different shapes, one cannot be read, is transparent or
            has more than 8 bits a channel; or if one is in no sub-folder where there are `labels`.

    Example:
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> from scorefp import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("cat", "dog"):
        ...         (pathlib.Path(folder) / name).mkdir()
        ...         Image.new("L", (6, 4)).save(pathlib.Path(folder) / name / "1.png")
        ...     source = data.ImageFolder(folder, labels=True)
        ...     values, classes = next(source.batches(2, seed=0))
        >>> source.files, source.classes, values.shape
        (('cat/1.png', 'dog/1.png'), ('cat', 'dog'), (2, 1, 4, 6))
    """

    path: Path = eqx.field(static=True)
    files: tuple[str, ...] = eqx.field(static=True)
    classes: tuple[str, ...] = eqx.field(static=True)
    labels: Int[np.ndarray, " n"] | None
    layout: Layout
    shape: tuple[int, int, int] = eqx.field(static=True)
    quantisation: Quantisation
    interval: Interval | None
    threads: int

    def __init__(
        self,
        path: str | Path,
        *,
        channels: int | None = None,
        size: tuple[int, int] | None = None,
        labels: bool = False,
        skip_corrupt: bool = False,
        quantisation: Quantisation = BYTES,
        threads: int = 4,
    ) -> None:
        self.path, self.layout, self.threads = Path(path), Layout(channels, size), threads
        self.quantisation, self.interval = quantisation, None
        require(quantisation.levels == 256, f"quantisation has {quantisation.levels} levels; pictures have 256 here.")
        needs_pillow("ImageFolder")
        files = _pictures(self.path)
        if skip_corrupt:
            files = _readable(self.path, files)
        self.shape = _one_shape(self.path, files, self.layout)
        self.files = tuple(files)
        self.classes, self.labels = _classes(self.path, files) if labels else ((), None)

    def __len__(self) -> int:
        return len(self.files)

    def rows(self, index: Int[np.ndarray, " batch"]) -> Batch:
        path, files, layout = self.path, self.files, self.layout
        chosen = [path / files[row] for row in index.tolist()]
        values = np.stack([layout.pixels(_opened(file), str(file)) for file in chosen])
        return values, None if self.labels is None else self.labels[index]

    def name(self, row: int) -> str:
        return str(self.path / self.files[row])


def _pictures(path: Path) -> list[str]:
    """The names of all pictures in a folder, in order."""
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}; give the folder that holds the pictures.")
    found = (file.relative_to(path) for file in path.rglob("*") if file.suffix.lower() in _ENDINGS and file.is_file())
    # Hidden files are notes of editors and of file managers.
    files = sorted(file.as_posix() for file in found if not any(part.startswith(".") for part in file.parts))
    require(len(files) > 0, f"{path} holds no pictures; their names end in one of {', '.join(_ENDINGS)}.")
    return files


def _one_shape(path: Path, files: list[str], layout: Layout) -> tuple[int, int, int]:
    """The shape that all pictures have, from their heads."""
    first = _shape(path / files[0], layout)
    for name in files[1:]:
        remedy = "Give size=(height, width) to resize and cut them, or channels."
        agree(_shape(path / name, layout), str(path / name), first, str(path / files[0]), remedy)
    return first


def _classes(path: Path, files: list[str]) -> tuple[tuple[str, ...], Int[np.ndarray, " n"]]:
    """The names of the sub-folders, and the place of each picture's among them."""
    loose = [name for name in files if "/" not in name]
    require(
        not loose,
        f"{len(loose)} pictures of {path}, the first {loose[:1]}, are in no sub-folder, and the sub-folders are the "
        "labels. Move them into one, or leave labels out.",
    )
    classes, labels = np.unique([name.split("/", 1)[0] for name in files], return_inverse=True)
    return tuple(classes.tolist()), labels.astype(np.int32)


def _readable(path: Path, files: list[str]) -> list[str]:
    """The files that can be read; a warning counts and names the others."""
    bad = [name for name in files if not _can_be_read(path / name)]
    require(len(bad) < len(files), f"none of the {len(files)} pictures in {path} can be read.")
    if bad:
        warnings.warn(
            f"{len(bad)} of {len(files)} pictures in {path} cannot be read and are left out: {', '.join(bad)}.",
            stacklevel=5,  # through equinox to the caller
        )
    return [name for name in files if name not in set(bad)]


def _can_be_read(file: Path) -> bool:
    try:
        _opened(file)
    except _CorruptError:
        return False
    return True


def _shape(file: Path, layout: Layout) -> tuple[int, int, int]:
    return layout.shape(_opened(file, head=True), str(file))


class _CorruptError(ValueError):
    """A file that is no picture, or only the start of one."""


def _opened(file: Path, *, head: bool = False) -> "Image":
    """The picture in a file, decoded, or its head alone."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            if not head:
                image.load()
            return image
    except Exception as error:  # Pillow raises many kinds: OSError, SyntaxError, ValueError, struct.error, …
        raise _CorruptError(
            f"{file} cannot be read: {error}. Repair or remove it, or give skip_corrupt=True to leave such files out."
        ) from error
