"""Arrays from `.npy` and `.npz` files."""

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from .._checks import require
from ..dataset import Dataset, Interval, Quantisation
from .on_host import OnHost

_T = TypeVar("_T")


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
    hold Python objects are refused, as loading these would run code.

    Args:
        path: The file.
        name: The array of a `.npz` file that holds the samples; not needed where there is one.
        quantisation: The levels and the interval they are mapped to; `None` for floats.
        interval: The range that floats are declared to lie on; `None` for floats without bounds.
        args: The array of a `.npz` file that holds the conditioning, such as labels; of a tuple of names, `args` is a
            dictionary by name.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if levels come without a quantisation, or floats with one.
        ValueError: if the file is damaged, is of another kind or holds objects, there is no array of that name, or
            the values are refused by `Dataset`.

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
    conditioning = (args,) if isinstance(args, str) else args or ()
    with Path(path).open("rb") as start:
        packed = start.read(2) == b"PK"  # a .npz file is a zip file
    if not packed:
        require(
            name is None and not conditioning,
            f"{path} holds one array without a name; name = {name!r} and args = {args!r} choose from a .npz file. "
            "Leave them out; conditioning from another file goes to OnHost(Dataset(values, args=…)).",
        )
        values = _readable(path, lambda: np.load(path, mmap_mode="r", allow_pickle=False))
        return OnHost(Dataset(values, quantisation, interval=interval))
    # Opened here, as numpy leaves a damaged file open.
    with Path(path).open("rb") as opened, _readable(path, lambda: np.load(opened, allow_pickle=False)) as file:
        if name is None:
            names = [key for key in file.files if key not in conditioning]
            require(len(names) == 1, f"{path} holds the arrays {names}; give name, the one with the samples.")
            name = names[0]
        missing = [key for key in (name, *conditioning) if key not in file.files]
        require(not missing, f"{path} has no arrays {missing}; it holds {file.files}.")
        values, *fields = (_readable(path, lambda key=key: file[key]) for key in (name, *conditioning))
    found = fields[0] if isinstance(args, str) else dict(zip(conditioning, fields, strict=True)) or None
    return OnHost(Dataset(values, quantisation, found, interval))


def _readable(path: str | Path, load: Callable[[], _T]) -> _T:
    """The value of `load`, with one message for all that a damaged file may raise."""
    try:
        return load()
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be read: {error} It is damaged, is no .npy or .npz file, or holds Python objects, which "
            "are not loaded because that would run code. Save plain arrays by numpy.save or numpy.savez."
        ) from error
