"""Samples as images."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import ArrayLike, Float

from .._checks import count, event_shape, kind, number, require
from ..diagnostics._figure import new_figure, written_to

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL = 0.5
"""The side of one image, in inches."""


def image_grid(
    groups: Mapping[str, ArrayLike],
    path: str | Path | None = None,
    *,
    columns: int = 10,
    shape: tuple[int, ...] | None = None,
    limits: tuple[float, float] | None = None,
) -> "Figure":
    """Samples as grids of grey or coloured images, one grid a group, side by side.

    Args:
        groups: Samples by the title of their grid, each of shape `(n, *event)`, with an event `(h, w)`, `(1, h, w)`,
            `(3, h, w)`, or flat.
        path: The file to write, whose ending is the format; none for `None`.
        columns: How many images stand in a row.
        shape: The shape of an image that is stored otherwise; flat samples of a square size need none.
        limits: The values of black and white. `None` takes the least and the largest finite value of all groups.

    Returns:
        The matplotlib figure. Values that are not finite are drawn in red.

    Raises:
        ImportError: if matplotlib is not installed.
        TypeError: if `groups` are no arrays of real numbers by their titles, or another argument is of another kind.
        ValueError: if there is no sample, a sample has no shape of an image, or `limits` are not two finite numbers,
            black below white.

    Example:
        >>> import numpy as np
        >>> from scorefp import plot
        >>> figure = plot.image_grid({"noise": np.linspace(0, 1, 12 * 64).reshape(12, 64)}, columns=4)
        >>> len(figure.axes)
        1
    """
    kind("path", path, (str, Path, type(None)), "It is the file to write, or None.")
    kind("groups", groups, Mapping, "It is a dictionary of arrays of samples, by the titles of their grids.")
    require(len(groups) > 0, "groups is empty; give at least one array of samples, by its title.")
    count("columns", columns, 1)
    if shape is not None:
        shape = event_shape(shape)
    if limits is not None:
        _check_limits(limits)
    images = {name: _images(name, _numbers(name, samples), shape) for name, samples in groups.items()}
    low, high = _limits(list(images.values())) if limits is None else limits
    boards = {name: _board(array, columns, low, high) for name, array in images.items()}
    rows = max(math.ceil(len(array) / columns) for array in images.values())
    height, width = next(iter(images.values())).shape[1:3]
    figure = new_figure(max(2.0, _CELL * columns) * len(boards) + 0.3, max(1.0, _CELL * rows * height / width) + 0.5)
    for axes, (name, board) in zip(
        np.ravel(figure.subplots(1, len(boards), squeeze=False, gridspec_kw={"wspace": 0.06})),
        boards.items(),
        strict=True,
    ):
        axes.imshow(board, interpolation="nearest")
        axes.set_title(name, fontsize=10)
        axes.set_axis_off()
    return written_to(figure, path)


def _check_limits(limits: tuple[float, float]) -> None:
    """Refuses what are no values of black and white."""
    told = f"limits = {limits}; it is (black, white), two finite numbers, and black is below white."
    require(len(kind("limits", limits, tuple, "It is (black, white).")) == 2, told)
    low, high = (number("limits", limit) for limit in limits)
    require(low < high, told)


def _numbers(name: str, samples: ArrayLike) -> Float[np.ndarray, "n *event"]:
    """The samples of a group as floats."""
    try:
        found = np.asarray(samples)
        if found.dtype.kind in "cOSU":
            raise TypeError
        return found.astype(np.float64)
    except (TypeError, ValueError):
        told = f"has dtype {samples.dtype}" if isinstance(samples, np.ndarray) else f"is a {type(samples).__name__}"
        raise TypeError(f"{name} {told}; it holds real numbers, of shape (n, *event).") from None


def _images(name: str, samples: Float[np.ndarray, "n *event"], shape: tuple[int, ...] | None) -> np.ndarray:
    """The samples as `(n, height, width, channels)`."""
    require(samples.ndim >= 2 and len(samples) >= 1, f"{name} has shape {samples.shape}; it holds no image.")
    event = samples.shape[1:] if shape is None else shape
    if len(event) == 1 and math.isqrt(event[0]) ** 2 == event[0]:
        event = (math.isqrt(event[0]),) * 2
    if len(event) == 2:
        event = (1, *event)
    require(
        len(event) == 3 and event[0] in (1, 3) and math.prod(event) == math.prod(samples.shape[1:]),
        f"{name} has samples of shape {samples.shape[1:]}, to be seen as {event}; an image is (h, w), (1, h, w) or "
        "(3, h, w), or flat with a square size. Give shape=(h, w) for another.",
    )
    return np.moveaxis(samples.reshape(len(samples), *event), 1, -1)


def _limits(images: list[np.ndarray]) -> tuple[float, float]:
    values = np.concatenate([array[np.isfinite(array)] for array in images])
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    require(low < high, f"the samples have no range of values, from {low} to {high}; give limits=(low, high).")
    return low, high


def _board(images: np.ndarray, columns: int, low: float, high: float) -> np.ndarray:
    """All images of a group as one coloured one, with white lines between."""
    count, height, width, _ = images.shape
    rows = math.ceil(count / columns)
    board = np.ones((rows * (height + 1) - 1, columns * (width + 1) - 1, 3))
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + 1), (i % columns) * (width + 1)
        shade = np.broadcast_to(np.clip((image - low) / (high - low), 0, 1), (height, width, 3))
        broken = ~np.isfinite(image).all(axis=-1, keepdims=True)
        board[top : top + height, left : left + width] = np.where(broken, (0.8, 0.1, 0.1), shade)
    return board
