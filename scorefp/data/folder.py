"""Folders of pictures."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import equinox as eqx
import numpy as np
from jaxtyping import Int

from .._checks import flag, kind, require
from ..dataset import Interval, Quantisation
from ._pictures import BYTES, FORMATS, Layout, UnreadableError, agree, needs_pillow, opened
from .source import AbstractRows, Batch, check_threads

if TYPE_CHECKING:
    from PIL.Image import Image

_OTHERS = (".avif", ".eps", ".exr", ".heic", ".heif", ".jp2", ".jxl", ".mpo", ".psd", ".svg", ".tga")
"""The endings of pictures that are not read."""

_Id = tuple[int, int]
"""What a folder is, by whatever name."""


class ImageFolder(AbstractRows):
    """The pictures in a folder and its sub-folders, in the order of their names, as bytes of shape `(c, h, w)`.

    Files are read when their batch comes. Their heads are read once, here, so that pictures of another size are found
    at the start. What fits into memory trains faster from there: see `load`.

    A file is opened in the format that its ending says, and no other. Pictures are turned upright where they say how
    (EXIF), of a JPEG file with several (MPO) the first is taken, palettes count as coloured, and profiles of colour are
    not applied. Refused by name are transparent pictures unless `channels` is given, animations, several pages, more
    than 8 bits a channel, CMYK, and what has more than `PIL.Image.MAX_IMAGE_PIXELS` pixels. Links are followed, and
    what is hidden, its name starting with a dot, is left alone.

    Args:
        path: The folder.
        channels: 1 makes all pictures grey, 3 coloured; `None` takes them as they are.
        size: Height and width that all pictures are brought to, resized to cover it and cut around the middle; `None`
            takes them as they are.
        labels: Whether `args` is the class of a picture, an integer: the place in `classes` of the sub-folder it is in.
        skip_corrupt: Whether to leave out, with a warning, the files that cannot be read, and links to nothing; to find
            them all files are read once, here. Otherwise the first of them is an error.
        quantisation: The meaning of the 256 levels; they lie on [-1, 1] by default.
        threads: How many threads read ahead, a batch each.

    Attributes:
        files: The names of the files within the folder.
        classes: The names of the sub-folders, where there are `labels`.

    Raises:
        ImportError: if Pillow is not installed.
        FileNotFoundError: if there is no such folder.
        PermissionError: if a sub-folder cannot be listed.
        TypeError: if an argument is of another kind.
        ValueError: if there are no pictures in it, or a link in it leads back to a folder around it; if two have
            different shapes, one cannot be read or is refused; or, where there are `labels`, if a picture is in no
            sub-folder, or a sub-folder has none.

    Warns:
        UserWarning: if files are left out, or have endings of pictures in formats that are not read.

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
        self.path = Path(kind("path", path, (str, Path), "It is the folder that holds the pictures."))
        self.layout, self.threads = Layout(channels, size), threads
        check_threads(threads)
        for name, value in (("labels", labels), ("skip_corrupt", skip_corrupt)):
            flag(name, value)
        kind("quantisation", quantisation, Quantisation)
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
        pixels = [layout.pixels(_opened(file), str(file)) for file in chosen]
        for file, array in zip(chosen, pixels, strict=True):
            agree(array.shape, str(file), self.shape, "the first picture", "It has changed since it was looked at.")
        return np.stack(pixels), None if self.labels is None else self.labels[index]

    def name(self, row: int) -> str:
        return str(self.path / self.files[row])


def _pictures(path: Path) -> list[str]:
    """The names of all pictures in a folder, and of links to nothing, in order."""
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}; give the folder that holds the pictures.")
    found = list(_walked(path, "", [_id(folder) for folder in path.resolve().parents]))
    files = sorted(name for name in found if _is_picture(name) or not (path / name).exists())
    others = Counter(ending for name in found if (ending := PurePath(name).suffix.lower()) in _OTHERS)
    if others:
        told = ", ".join(f"{count} {ending}" for ending, count in sorted(others.items()))
        warnings.warn(
            f"{path} holds pictures in formats that are not read and are left out: {told}. Convert them.",
            stacklevel=5,  # through equinox to the caller
        )
    require(len(files) > 0, f"{path} holds no pictures; their names end in one of {', '.join(FORMATS)}.")
    return files


def _is_picture(name: str) -> bool:
    return PurePath(name).suffix.lower() in FORMATS


def _walked(folder: Path, within: str, around: list[_Id]) -> Iterator[str]:
    """The names of all in a folder and its sub-folders that is no folder, but for what is hidden; links are followed.

    Hidden files are notes of editors and of file managers.
    """
    around = [*around, _id(folder)]
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not (entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry))):
                yield within + entry.name
                continue
            require(
                not entry.is_symlink() or _id(Path(entry)) not in around,
                f"{entry.path} is a link back to {os.path.realpath(entry)}, a folder around it; its pictures have no "
                "end. Remove the link.",
            )
            yield from _walked(Path(entry), f"{within}{entry.name}/", around)


def _id(folder: Path) -> _Id:
    found = folder.stat()
    return found.st_dev, found.st_ino


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
    folders = {entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    empty = sorted(folders.difference(classes.tolist()))
    require(
        not empty,
        f"the sub-folders {empty} of {path} hold no pictures that can be read, and the sub-folders are the labels: "
        "without them those that follow would have other numbers. Remove them, or leave labels out.",
    )
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
    except UnreadableError:
        return False
    return True


def _shape(file: Path, layout: Layout) -> tuple[int, int, int]:
    return layout.shape(_opened(file, head=True), str(file))


def _opened(file: Path, *, head: bool = False) -> "Image":
    """The picture in a file, decoded, or its head alone."""
    try:
        if not file.is_file():  # opening a pipe would wait
            where = f"a link to {file.readlink()}, where there is nothing" if file.is_symlink() else "no file"
            raise UnreadableError(f"it is {where}")
        with file.open("rb") as held:
            return opened(held, str(file), file.suffix, head=head)
    except (UnreadableError, OSError) as error:
        raise UnreadableError(
            f"{file} cannot be read: {error}. Repair or remove it, or give skip_corrupt=True to leave such files out."
        ) from error
