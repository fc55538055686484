"""Histograms of samples on a box."""

import math

import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real

from .._checks import count as counted, host_array, host_samples, kind, require, same_shape
from .._module import AbstractModule
from ..integrals import Box

_LARGEST = 3
"""Cells of a grid in more dimensions are too many to transport."""


class Histogram(AbstractModule):
    r"""The law of samples, rounded to the centres of equal cells of a box, as Deveney 2023, §4 takes it for samples of
    one to three elements.

    Millions of samples become a few thousand points, which exact transport can take. The price is the width $h$ of a
    cell: what moves by less than $h$ is moved by whole cells or not at all, so that shifting a law by
    $\delta \ll h$ costs $h\,\delta$ in place of $\delta^2$.

    The authors' code rounds to 64 × 64 nodes from -3.5 to 3.5, ends included: here the box whose ends are
    ±(3.5 + 3.5/63), with 64 bins.

    Args:
        box: The box.
        weights: The weights of the cells, one axis for each element of a sample; their sum is made one.
        count: How many samples they come from, for the error of what is computed from them; `None` for weights that
            are known and not counted, such as those of a density.
        outside: The share of the samples that lay outside.

    Raises:
        TypeError: if the weights are no real numbers, or another argument is of another kind.
        ValueError: if the number of axes is not that of the elements of the box, a weight is negative or not finite, or
            all are zero; `count` is below one, or `outside` no share.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> from scorefp.transport import Histogram
        >>> box = sfp.Box(jnp.array(0.0), jnp.array(1.0))
        >>> Histogram(box, jnp.array([1.0, 3.0])).centres
        array([0.25, 0.75])
    """

    box: Box
    weights: Float[np.ndarray, "*cells"]
    count: int | None = None
    outside: float = 0.0

    def __init__(
        self, box: Box, weights: Real[ArrayLike, "*cells"], count: int | None = None, outside: float = 0.0
    ) -> None:
        kind("box", box, Box)
        found, size = host_array("weights", weights), math.prod(box.shape)
        if found.dtype.kind not in "iuf":
            raise TypeError(f"weights has dtype {found.dtype}; weights are real numbers. Give floats, or counts.")
        values = found.astype(np.float64)
        require(
            values.ndim == size <= _LARGEST,
            f"weights has {values.ndim} axes and a sample of the box {size} elements; a histogram has one axis for "
            f"each element, of at most {_LARGEST}.",
        )
        require(
            bool(np.all(np.isfinite(values)) and np.all(values >= 0) and values.sum() > 0),
            "weights holds negative, NaN or infinite entries, or only zeros; the weights of cells are probabilities.",
        )
        if count is not None:
            counted("count", count, 1)
        kind("outside", outside, (int, float), "It is the share of the samples that lay outside the box.")
        require(0 <= outside <= 1, f"outside = {outside}; it is a share, in [0, 1].")
        self.box, self.weights, self.count, self.outside = box, values / values.sum(), count, outside

    @staticmethod
    def of(x: Float[ArrayLike, "n *event"], box: Box, *, bins: int = 64) -> "Histogram":
        """The histogram of samples. A sample outside the box counts in the cell nearest to it, as in the authors' code,
        and in `outside`.

        Args:
            x: Samples, stacked along the leading axis.
            box: The box.
            bins: The number of cells along each side.

        Raises:
            TypeError: if `x` is not floating or is traced, `box` is none, or `bins` no integer.
            ValueError: if a sample has another shape than the box or more than three elements, one is not finite, there
                are none, or `bins` is below one.

        Example:
            >>> import jax, jax.numpy as jnp, scorefp as sfp
            >>> from scorefp.transport import Histogram
            >>> box = sfp.Box(-2 * jnp.ones(2), 2 * jnp.ones(2))
            >>> found = Histogram.of(jax.random.normal(jax.random.key(0), (10_000, 2)), box)
            >>> found.weights.shape, round(found.outside, 2)
            ((64, 64), 0.09)
        """
        kind("box", box, Box)
        found = host_samples("x", x)
        counted("bins", bins, 1)
        same_shape("a sample of x", found.shape[1:], "the box", box.shape)
        size = math.prod(box.shape)
        require(size <= _LARGEST, f"a sample of the box has {size} elements; a histogram takes at most {_LARGEST}.")
        rows, (lower, upper) = _rows(found), (_rows(end[None]) for end in (box.lower, box.upper))
        inside = np.all((lower <= rows) & (rows <= upper), axis=1)
        cells = np.clip(np.floor((rows - lower) / (upper - lower) * bins).astype(int), 0, bins - 1)
        shape = (bins,) * rows.shape[1]
        counts = np.bincount(np.ravel_multi_index(tuple(cells.T), shape), minlength=math.prod(shape))
        return Histogram(box, counts.reshape(shape), len(rows), 1 - float(inside.mean()))

    @property
    def centres(self) -> Float[np.ndarray, "..."]:
        """The centres of the cells, of shape `(*cells, *event)`."""
        (lower,), (upper,) = (_rows(end[None]) for end in (self.box.lower, self.box.upper))
        sides = [
            a + (b - a) * (np.arange(bins) + 0.5) / bins
            for a, b, bins in zip(lower, upper, self.weights.shape, strict=True)
        ]
        return np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(*self.weights.shape, *self.box.shape)


def _rows(x: Float[Array | np.ndarray, "n *event"]) -> Float[np.ndarray, "n size"]:
    return np.asarray(x, np.float64).reshape(x.shape[0], -1)
