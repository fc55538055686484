"""The kernel Stein discrepancy of samples from a score, with its test [N2]."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int

from .._batches import in_batches
from .._checks import count, floating, host_samples, positive, random_key, require, single_or_better
from .._module import AbstractModule
from .._precision import measures
from .._types import Key, Scalar, Time
from ..integrals import Estimate
from ..score import AbstractScore
from ..score.score import measured_at
from .bound import scores

_MEDIAN_OF = 1000
"""The number of samples whose distances give the width."""


class SteinDiscrepancy(AbstractModule):
    r"""A kernel Stein discrepancy and its test.

    Args:
        squared: The squared discrepancy, in $1/\text{length}^2$, with its standard error; without bias, and negative
            as often as not for the score of the samples.
        p_value: The share of the bootstrap that is no smaller.
        width: The width of the kernel.
    """

    squared: Estimate
    p_value: Scalar
    width: Scalar


@measures
def kernel_stein_discrepancy(
    score: AbstractScore,
    t: Time,
    x: Float[Array, "n *event"],
    *,
    key: Key,
    width: float | None = None,
    draws: int = 1000,
    batch_size: int = 256,
) -> SteinDiscrepancy:
    r"""Whether samples have this score: the kernel Stein discrepancy with its p-value [N2] (Liu 2016, Chwialkowski
    2016).

    It is the norm of the error $e = s - \nabla\log q$ averaged by a kernel, over independent pairs of samples:

    $$ \mathrm{KSD}^2 = E\big[k(x, x')\langle e(x), e(x')\rangle\big] = E\,u(x, x') \le E\|e\|^2, $$

    $$ u = k\,\langle s, s'\rangle + \langle s, \nabla_{x'}k\rangle + \langle s', \nabla_x k\rangle
       + \operatorname{tr}\nabla_x\nabla_{x'}k, \qquad k = \big(1 + \|x - x'\|^2/w^2\big)^{-1/2}, $$

    without the true score, by Stein's identity. The inverse multiquadric $k$ tells every law from that of the score
    whose tails are not too heavy (Gorham 2017). The mean over all pairs of different samples has no bias. Its law for
    the exact score is that of a degenerate statistic, which the wild bootstrap draws: the sum with independent signs at
    both samples of a pair. The standard error is for a discrepancy that is not zero.

    A small p-value says that the samples are not of the law whose score it is; a large one proves nothing. It sees
    errors that vary over the width or more: at an early time, where scores are of the size $1/\sigma$, it takes many
    samples, or a width near $\sigma$, to see one of the size of one.

    All pairs are gone through in float64, a batch of rows at a time.

    Args:
        score: Any score.
        t: The time.
        x: Independent samples, stacked along the leading axis, which the score was not trained on.
        key: A random key.
        width: The width $w$; the median distance of the samples for `None`.
        draws: How many draws the bootstrap takes; the p-value is no smaller than one over one more.
        batch_size: How many rows of pairs are taken at once.

    Raises:
        TypeError: if `x` is not floating or of half precision, or an argument is traced.
        ValueError: if there are fewer than four samples, they have another shape than the score's or are not finite,
            the width is not positive, or all samples are equal and no width is given; if the time is outside the
            horizon.

    Example:
        >>> import jax, scorefp as sfp
        >>> x = jax.random.normal(jax.random.key(0), (300, 2))
        >>> for factor in (1.0, 1.6):
        ...     score = sfp.Score(lambda t, x, factor=factor: -factor * x, sfp.VP())
        ...     found = sfp.stein.kernel_stein_discrepancy(score, 0.5, x, key=jax.random.key(1))
        ...     print(bool(found.p_value > 0.05))
        True
        False
    """
    x = single_or_better("x", floating("x", x))
    draws, batch_size = count("draws", draws, 1), count("batch_size", batch_size, 1)
    if width is not None:
        positive("width", width)
    key = random_key("kernel_stein_discrepancy", key)
    host_samples("x", x)
    t, _ = measured_at(score, t, x[0])
    return discrepancy_of(x, scores(score, t, x, batch_size), key, width, draws, batch_size)


def discrepancy_of(
    x: Float[Array | np.ndarray, "n *event"],
    score: Float[Array | np.ndarray, "n *event"],
    key: Key,
    width: float | None,
    draws: int,
    batch_size: int,
) -> SteinDiscrepancy:
    """The discrepancy of samples from the values of a score at them."""
    points, fields = (host_samples(name, value).reshape(len(value), -1) for name, value in (("x", x), ("score", score)))
    n = len(points)
    require(n >= 4, f"x holds {n} samples; at least four are needed for the value and its error.")
    w = median_distance(points) if width is None else width
    require(w > 0, "the median distance of the samples x is zero; give a width, or look why so many are equal.")
    with jax.enable_x64(True):
        a, b, scale = jnp.asarray(points), jnp.asarray(fields), jnp.asarray(w, float)
        rows, squares, drawn = (np.asarray(v) for v in sums_over_pairs(a, b, scale, key, draws, min(batch_size, n)))
    pairs = n * (n - 1)
    value, means = rows.sum() / pairs, rows / (n - 1)
    # As in `quality.kernel`: the variance of the means is without the noise that the pairs leave in them.
    second = max(0.0, squares.sum() / pairs - 2 * np.mean(means**2) + value**2)
    first = max(0.0, np.var(means, ddof=1) - second / (n - 1))
    error = np.sqrt(4 * first / n + 2 * second / pairs)
    share = (1 + np.sum(drawn >= rows.sum())) / (1 + draws)
    return SteinDiscrepancy(Estimate(jnp.asarray(value), jnp.asarray(error)), jnp.asarray(share), jnp.asarray(w))


def median_distance(points: Float[np.ndarray, "n D"]) -> float:
    """The median distance of different samples, of the first so many."""
    points = points[:_MEDIAN_OF]
    norms = np.sum(points**2, axis=1)
    squares = norms[:, None] + norms - 2 * points @ points.T
    return float(np.sqrt(np.median(np.maximum(squares[np.triu_indices(len(points), 1)], 0))))


@eqx.filter_jit
def sums_over_pairs(
    x: Float[Array, "n D"], s: Float[Array, "n D"], width: Scalar, key: Key, draws: int, batch_size: int
) -> tuple[Float[Array, " n"], Float[Array, " n"], Float[Array, " draws"]]:
    """The sums over the partners of each sample, of their squares, and over all pairs with signs."""
    n, size = x.shape
    signs = jr.rademacher(key, (n, draws), x.dtype)
    norms, own = jnp.sum(x * x, axis=1), jnp.sum(x * s, axis=1)

    def row(i: Int[Array, ""]) -> tuple[Scalar, Scalar, Float[Array, " draws"]]:
        square = jnp.maximum(norms[i] + norms - 2 * (x @ x[i]), 0)
        q = 1 + square / width**2
        slope = q**-1.5 / width**2
        u = (
            (s @ s[i]) / jnp.sqrt(q)
            + slope * (own[i] + own - x @ s[i] - s @ x[i])
            + size * slope
            - 3 * square / width**4 * q**-2.5
        )
        u = jnp.where(jnp.arange(n) == i, 0, u)
        return u.sum(), jnp.sum(u * u), signs[i] * (u @ signs)

    sums, squares, drawn = in_batches(row, n, batch_size)
    return sums, squares, drawn.sum(axis=0)
