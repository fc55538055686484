"""The kernel distance between sets of features, unbiased, with its analytic error."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._checks import function, positive, require
from .._module import AbstractModule
from .._precision import measures
from .._types import Scalar
from ..integrals import Estimate
from ._features import BATCH, Features, Samples, check_features, check_sizes, feature_rows
from ._pairs import rows_of_a_block, squared_distance

Kernel = Callable[[Float[Array, " size"], Float[Array, " size"]], Scalar]
"""A kernel of two rows of features."""


class PolynomialKernel(AbstractModule):
    r"""The kernel $(\langle x, y\rangle / D + 1)^p$ of $D$ features, of degree 3 that of the KID (Bińkowski 2018).

    It sees the first $p$ moments, of each law, and no more.

    Args:
        degree: The degree $p$.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it is below one.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp.quality import PolynomialKernel
        >>> float(PolynomialKernel()(jnp.ones(4), jnp.ones(4)))
        8.0
    """

    degree: int = 3

    def __check_init__(self) -> None:
        require(self.degree >= 1, f"degree = {self.degree}; the degree of a kernel is at least 1.")

    def __call__(self, x: Float[Array, " size"], y: Float[Array, " size"]) -> Scalar:
        return (x @ y / x.size + 1) ** self.degree


class GaussianKernel(AbstractModule):
    r"""The kernel $\exp(-\lVert x - y\rVert^2 / 2 w^2)$, which tells any two laws apart (Gretton 2012).

    Args:
        width: The width $w$, a distance of two samples that is neither near nor far.

    Raises:
        TypeError: if it is no real number.
        ValueError: if it is not positive and finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp.quality import GaussianKernel
        >>> float(GaussianKernel(2.0)(jnp.ones(4), jnp.ones(4)))
        1.0
    """

    width: float

    def __check_init__(self) -> None:
        positive("width", self.width)

    def __call__(self, x: Float[Array, " size"], y: Float[Array, " size"]) -> Scalar:
        return jnp.exp(-squared_distance(x, y) / (2 * self.width**2))


@measures
def kernel_distance(
    x: Samples,
    data: Samples,
    *,
    kernel: Kernel = PolynomialKernel(),
    features: Features | None = None,
    batch_size: int = BATCH,
) -> Estimate:
    r"""The squared distance of the laws of the features of samples and of data in the space of a kernel, the maximum
    mean discrepancy (Gretton 2012), by its unbiased estimate

    $$ \frac{1}{n(n-1)}\sum_{i \ne j} k(x_i, x_j) + \frac{1}{m(m-1)}\sum_{i \ne j} k(y_i, y_j)
       - \frac{2}{nm}\sum_{i, j} k(x_i, y_j). $$

    With the kernel of degree three and the features of Inception it is the KID (Bińkowski 2018), whose authors take the
    mean over subsets; here all pairs are taken. It has no bias at any number of samples: of equal laws it is zero in
    the mean, and negative as often as not.

    **The error** is analytic. With $h_i$ the mean over the other set of $k(x_i, \cdot)$ taken from that over its own,
    and the variances $\tau$ of the kernels without their means over rows and columns, the variance is

    $$ \frac{4\,\mathrm{Var}\,h_x}{n} + \frac{4\,\mathrm{Var}\,h_y}{m} + \frac{2\,\tau_{xx}}{n(n-1)}
       + \frac{2\,\tau_{yy}}{m(m-1)} + \frac{4\,\tau_{xy}}{nm}, $$

    where the estimate of $\mathrm{Var}\,h_x$ is without the noise $\tau_{xx}/(n-1) + \tau_{xy}/m$ of the means. The
    last three terms are what is left for equal laws. The first two together are never taken below zero, so that the
    error of equal laws is right or too large, by up to a factor of two where the kernel does not know their scale.

    All pairs are gone through in float64, a block at a time: the memory is that of the features and of one block.

    Args:
        x: Samples, stacked along the leading axis, also mapped from a file; or an iterable of batches.
        data: Data, likewise.
        kernel: A kernel as a function of two rows of features: `PolynomialKernel()`, `GaussianKernel(width)` or another
            function of JAX, which is positive definite.
        features: A function of one sample, mapped over batches and compiled; the entries of the sample themselves for
            `None`.
        batch_size: How many samples are taken at once for their features.

    Returns:
        The squared distance and its standard error.

    Raises:
        TypeError: if a sample is not floating, an argument is traced or of another kind.
        ValueError: if there are fewer than four samples, one of them, of their features or of the kernel's values is
            not finite, samples and data have different numbers of features, or the kernel gives no scalar.

    Example:
        >>> import jax, scorefp as sfp
        >>> x, y, z = jax.random.normal(jax.random.key(0), (3, 300, 5))
        >>> same, other = sfp.quality.kernel_distance(x, y), sfp.quality.kernel_distance(x, z + 0.5)
        >>> bool(abs(same.value) < 3 * same.error), bool(other.value > 5 * other.error)
        (True, True)
    """
    check_features(features, batch_size)
    function("kernel", kernel, "x, y", "It is a kernel, such as PolynomialKernel(), or a function of two samples.")
    first, second = (feature_rows(name, s, features, batch_size, 4) for name, s in (("x", x), ("data", data)))
    check_sizes(first.shape[1], second.shape[1])
    with jax.enable_x64(True):
        a, b = jnp.asarray(first), jnp.asarray(second)
        shape = jax.eval_shape(kernel, a[0], b[0]).shape
        require(shape == (), f"the value of kernel has shape {shape}; it is a scalar.")
        pairs = [_means(kernel, *sets) for sets in ((a, a), (b, b), (a, b))]
    return _estimate(*pairs)


class _Means(NamedTuple):
    """The means of a kernel over the columns and over the rows of its matrix, and that of its squares."""

    rows: Float[np.ndarray, " n"]
    columns: Float[np.ndarray, " m"]
    square: float

    @property
    def mean(self) -> float:
        return float(self.rows.mean())

    @property
    def rest(self) -> float:
        """The variance without the means over rows and columns."""
        return max(0.0, self.square - float(np.mean(self.rows**2) + np.mean(self.columns**2)) + self.mean**2)


def _estimate(xx: _Means, yy: _Means, xy: _Means) -> Estimate:
    n, m = len(xy.rows), len(xy.columns)
    h_x = np.var(xx.rows - xy.rows, ddof=1) - xx.rest / (n - 1) - xy.rest / m
    h_y = np.var(yy.rows - xy.columns, ddof=1) - yy.rest / (m - 1) - xy.rest / n
    first = max(0.0, 4 * float(h_x / n + h_y / m))
    second = 2 * xx.rest / (n * (n - 1)) + 2 * yy.rest / (m * (m - 1)) + 4 * xy.rest / (n * m)
    return Estimate(jnp.asarray(xx.mean + yy.mean - 2 * xy.mean), jnp.asarray(math.sqrt(first + second)))


def _means(kernel: Kernel, x: Float[Array, "n size"], y: Float[Array, "m size"]) -> _Means:
    """Over all pairs, of one set over those of different samples."""
    same = x is y
    found = _sums(kernel, x, y, same, rows_of_a_block(len(x), len(y)))
    rows, columns, squares = (np.asarray(value) for value in found)
    require(
        bool(np.isfinite(rows).all() and np.isfinite(squares).all()),
        "kernel gives NaN or infinite values; look at its width and at the size of the features.",
    )
    across, along = (len(y) - 1, len(x) - 1) if same else (len(y), len(x))
    rows = rows[: len(x)] / across
    return _Means(rows, rows if same else columns / along, float(squares.sum()) / (len(x) * across))


@eqx.filter_jit
def _sums(
    kernel: Kernel, x: Float[Array, "n size"], y: Float[Array, "m size"], same: bool, rows: int
) -> tuple[Float[Array, " filled"], Float[Array, " m"], Float[Array, " filled"]]:
    """The sums over the columns, over the rows, and over the columns of the squares; of rows beyond the last, zero."""

    def block(columns: Float[Array, " m"], start: Int[Array, ""]) -> tuple[Float[Array, " m"], Any]:
        index = start + jnp.arange(rows)
        taken = x[jnp.minimum(index, len(x) - 1)]
        values = jax.vmap(lambda one: jax.vmap(lambda other: kernel(one, other))(y))(taken)
        counted = (index < len(x))[:, None] & (jnp.logical_not(same) | (index[:, None] != jnp.arange(len(y))))
        values = jnp.where(counted, values, 0)
        return columns + values.sum(axis=0), (values.sum(axis=1), (values**2).sum(axis=1))

    columns, (sums, squares) = jax.lax.scan(block, jnp.zeros(len(y), x.dtype), jnp.arange(0, len(x), rows))
    return sums.ravel(), columns, squares.ravel()
