"""Arrays from `.npy` and `.npz` files."""

import io
import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from .._checks import kind, require
from ..dataset import Dataset, Interval, Quantisation
from .on_host import OnHost

_T = TypeVar("_T")

DEFLATED = 1032
"""How many times smaller DEFLATE makes a file at most (zlib's technical details)."""


def read_arrays(
    path: str | Path,
    name: str | None = None,
    *,
    quantisation: Quantisation | None = None,
    interval: Interval | None = None,
    args: str | tuple[str, ...] | None = None,
) -> OnHost:
    """The samples in a file of numpy: a `.npy` file, or one of the arrays in a `.npz` file.

    A `.npy` file is mapped and may be larger than the memory. Arrays in a `.npz` file are read into memory. Files that
    hold Python objects are refused, as loading these would run code, and so are those whose heads say another size than
    the file has, before memory is taken.

    Args:
        path: The file.
        name: The array of a `.npz` file that holds the samples; not needed where there is one.
        quantisation: The levels and the interval they are mapped to; `None` for floats.
        interval: The range that floats are declared to lie on; `None` for floats without bounds.
        args: The array of a `.npz` file that holds the conditioning, such as labels; of a tuple of names, `args` is a
            dictionary by name.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if levels come without a quantisation, floats with one, or an argument is of another kind.
        ValueError: if the file is damaged, is of another kind, holds objects or another number of bytes than its head
            says, there is no array of that name, or the values are refused by `Dataset`.

    Example:
        >>> import pathlib, tempfile, numpy as np, scorefp as sfp
        >>> from scorefp import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "digits.npz"
        ...     np.savez(path, x_train=np.zeros((6, 28, 28), np.uint8), y_train=np.arange(6))
        ...     bytes_on = sfp.Quantisation(256, -1.0, 1.0)
        ...     source = data.read_arrays(path, "x_train", args="y_train", quantisation=bytes_on)
        >>> source.shape, len(source), source.dataset.args
        ((28, 28), 6, array([0, 1, 2, 3, 4, 5]))
    """
    kind("path", path, (str, Path), "It is a file of numpy.")
    kind("name", name, (str, type(None)), "It is the name of an array in a .npz file.")
    kind("args", args, (str, tuple, type(None)), "It is the name of an array in a .npz file, or a tuple of names.")
    conditioning = (args,) if isinstance(args, str) else args or ()
    require(
        not Path(path).exists() or Path(path).is_file(),
        f"{path} is no file; a folder of pictures is read by ImageFolder.",
    )
    with Path(path).open("rb") as file:  # closed here: numpy leaves a damaged one open
        packed = file.read(2) == b"PK"  # a .npz file is a zip file
        if packed:
            values, fields = unpacked(path, file, name, conditioning)
            found = fields[0] if isinstance(args, str) else dict(zip(conditioning, fields, strict=True)) or None
            return OnHost(Dataset(values, quantisation, found, interval))
        require(
            name is None and not conditioning,
            f"{path} holds one array without a name; name = {name!r} and args = {args!r} choose from a .npz file. "
            "Leave them out; conditioning from another file goes to OnHost(Dataset(values, args=…)).",
        )
        file.seek(0)
        _readable(path, lambda: _check_head(file, os.fstat(file.fileno()).st_size))
    return OnHost(
        Dataset(_readable(path, lambda: np.load(path, mmap_mode="r", allow_pickle=False)), quantisation, None, interval)
    )


def unpacked(
    path: str | Path, file: IO[bytes], name: str | None, conditioning: tuple[str, ...]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The samples and their conditioning from a `.npz` file."""
    with _readable(path, lambda: zipfile.ZipFile(file)) as packed:
        members = [info.filename.removesuffix(".npy") for info in packed.infolist()]
        require(len(set(members)) == len(members), f"{path} holds two arrays of one name: {members}. Save it anew.")
        if name is None:
            names = [member for member in members if member not in conditioning]
            require(len(names) == 1, f"{path} holds the arrays {names}; give name, the one with the samples.")
            name = names[0]
        missing = [wanted for wanted in (name, *conditioning) if wanted not in members]
        require(not missing, f"{path} has no arrays {missing}; it holds {members}.")
        size = os.fstat(file.fileno()).st_size
        infos = dict(zip(members, packed.infolist(), strict=True))
        values, *fields = (
            _readable(f"{wanted} of {path}", lambda info=infos[wanted]: _member(packed, info, size))
            for wanted in (name, *conditioning)
        )
    return values, fields


def _member(packed: zipfile.ZipFile, info: zipfile.ZipInfo, size: int) -> np.ndarray:
    """One array of a zip file of so many bytes."""
    most = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: DEFLATED}.get(info.compress_type)
    require(most is not None, "it is compressed in a way that numpy does not write")
    assert most is not None
    require(
        info.compress_size <= size and info.file_size <= most * info.compress_size,
        f"its directory says {info.file_size} bytes, which {info.compress_size} bytes of the file of {size} cannot be",
    )
    with packed.open(info) as member:
        _check_head(member, info.file_size)
    with packed.open(info) as member:
        values = np.lib.format.read_array(member, allow_pickle=False)
        member.read(1)  # the checksum is compared at the end alone
    return values


def _check_head(file: IO[bytes] | io.BufferedIOBase, size: int) -> None:
    """Refuses a head of numpy's format unless the file has as many bytes as it says, and no Python objects."""
    readers: dict[Any, Any] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    require(version in readers, f"its head has the version {version}, and arrays of plain numbers have 1.0 or 2.0")
    shape, _, dtype = readers[version](file)
    require(not dtype.hasobject, "it holds Python objects")
    require(min(shape, default=0) >= 0, f"its head says the shape {shape}")
    wanted, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    require(
        wanted == there,
        f"its head says an array {dtype}{list(shape)} of {wanted} bytes, and {there} follow",
    )


def _readable(path: str | Path, load: Callable[[], _T]) -> _T:
    """The value of `load`, with one message for all that a damaged file may raise."""
    try:
        return load()
    except MemoryError:  # numpy names the size
        raise
    except Exception as error:  # a damaged file raises many kinds: BadZipFile, zlib.error, TokenError, OSError, …
        raise ValueError(
            f"{path} cannot be read: {str(error).removesuffix('.')}. It is damaged, is no .npy or .npz file, or holds "
            "Python objects, which are not loaded because that would run code. Save plain arrays by numpy.save or "
            "numpy.savez."
        ) from error
