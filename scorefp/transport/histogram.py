"""Histograms of samples on a box."""

import math

import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real

from .._checks import finite, floating, require, same_shape
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
        ValueError: if the number of axes is not that of the elements of the box, or a weight is negative or not
            finite, or all are zero.

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
        values, size = np.asarray(weights, np.float64), math.prod(box.shape)
        require(
            values.ndim == size <= _LARGEST,
            f"weights has {values.ndim} axes and a sample of the box {size} elements; a histogram has one axis for "
            f"each element, of at most {_LARGEST}.",
        )
        require(
            bool(np.all(np.isfinite(values)) and np.all(values >= 0) and values.sum() > 0),
            "weights holds negative, NaN or infinite entries, or only zeros; the weights of cells are probabilities.",
        )
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
            TypeError: if `x` is not floating.
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
        x = finite("x", floating("x", x))
        require(x.ndim >= 1 and x.shape[0] >= 1, f"x has shape {x.shape}; it needs samples along a leading axis.")
        require(bins >= 1, f"bins = {bins}; a side has at least one cell.")
        same_shape("a sample of x", x.shape[1:], "the box", box.shape)
        rows, (lower, upper) = _rows(x), (_rows(end[None]) for end in (box.lower, box.upper))
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


def _rows(x: Float[Array, "n *event"]) -> Float[np.ndarray, "n size"]:
    return np.asarray(x, np.float64).reshape(x.shape[0], -1)
