"""Images and labels in the IDX format, that of MNIST."""

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import UInt8

from .._checks import path_of, require
from ..dataset import Dataset
from ._labels import checked_labels
from ._pictures import BYTES
from .files import DEFLATED
from .on_host import OnHost

_UBYTE = 8
_DIMENSIONS = 32
"""Of an array in any numpy."""


def read_idx(images: str | Path, labels: str | Path | None = None) -> OnHost:
    """Images in the IDX format of MNIST (LeCun 1998), and their labels: files of unsigned bytes, packed by gzip or not.

    The head of a file is two zero bytes, one for the type, one for the number of dimensions, and their sizes in four
    bytes each. Samples have 256 levels on [-1, 1] and the shape in the head, `(28, 28)` for MNIST; `reshaped` adds the
    channel that a U-Net takes.

    Args:
        images: The file of images, such as `train-images-idx3-ubyte.gz`.
        labels: The file of their labels, such as `train-labels-idx1-ubyte.gz`, which become `args`; `None` for none.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if an argument is no path.
        ValueError: if a file has another head, another type than unsigned bytes, or another number of bytes than its
            head says, gzip cannot read it, or there is another number of labels than of images.

    Example:
        >>> import pathlib, tempfile, numpy as np
        >>> from scorefp import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "images"
        ...     head = np.array([0x0803, 2, 28, 28], ">u4")
        ...     path.write_bytes(head.tobytes() + bytes(2 * 28 * 28)) and None
        ...     source = data.read_idx(path).reshaped((1, 28, 28))
        >>> len(source), source.shape
        (2, (1, 28, 28))
    """
    values = _array(path_of("images", images))
    require(
        values.ndim > 1 and min(values.shape) > 0,
        f"{images} has the sizes {values.shape}; images have one for their number and one or more for their pixels, "
        "none of them zero. Give labels as labels.",
    )
    args = None
    if labels is not None:
        place = path_of("labels", labels)
        args = checked_labels(place, "the array", _array(place), len(values), range(256))
    return OnHost(Dataset(values, BYTES, args))


def _array(path: Path) -> UInt8[np.ndarray, "..."]:
    """The array in a file, for which memory is taken once the file can hold it."""
    require(not path.is_dir(), f"{path} is a folder; give the IDX file itself.")
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        size = os.fstat(file.fileno()).st_size
        if not packed:
            return _content(path, file, size)
        try:
            with gzip.open(file) as inner:
                return _content(path, inner, DEFLATED * size)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} cannot be unpacked by gzip: {error}. It is truncated or damaged.") from error


def _content(path: Path, file: IO[bytes] | gzip.GzipFile, most: int) -> UInt8[np.ndarray, "..."]:
    """The array in an open file that holds no more than `most` bytes."""
    head = file.read(4)
    require(
        len(head) == 4 and head[:2] == b"\0\0" and 0 < head[3] <= _DIMENSIONS,
        f"{path} starts with {head.hex(' ') or 'nothing'}; an IDX file starts with 00 00, its type and its number of "
        f"dimensions, {_DIMENSIONS} at most.",
    )
    require(head[2] == _UBYTE, f"{path} has the type {head[2]:02x}; images and labels are unsigned bytes, 08.")
    sizes = file.read(4 * head[3])
    require(len(sizes) == 4 * head[3], f"{path} ends in its head, which has {head[3]} sizes of four bytes.")
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    wanted = math.prod(shape)
    content = file.read(wanted + 1) if wanted <= most else b""
    require(
        len(content) == wanted,
        f"the head of {path} says {shape}, {wanted} bytes, and {'more' if len(content) > wanted else 'fewer'} follow. "
        "It is truncated, or another file.",
    )
    return np.frombuffer(content, np.uint8).reshape(shape)
