"""Mean and covariance of features, batch by batch."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from .._checks import kind, require
from .._module import AbstractModule
from .._precision import measures
from ._features import BATCH, Features, Samples, check_enough, check_features, feature_batches


class Moments(AbstractModule):
    r"""The mean and the covariance of features, in float64, of so many samples.

    Two of them **add up** to those of all their samples (Chan, Golub & LeVeque 1983), without the loss of digits that
    sums of squares have:

    $$ \begin{gathered}
       m = \frac{n_1 m_1 + n_2 m_2}{n_1 + n_2}, \\
       (n - 1)\,C = (n_1 - 1)\,C_1 + (n_2 - 1)\,C_2 + \frac{n_1 n_2}{n}(m_1 - m_2)(m_1 - m_2)^\top.
       \end{gathered} $$

    Args:
        mean: The mean, of as many entries as there are features.
        covariance: The covariance, with $n - 1$ for its denominator, as `numpy.cov` has it; zero for one sample.
        count: How many samples they are of; `None` for those of a law that is known.

    Raises:
        TypeError: if the mean or the covariance is no array of numpy, or `count` no integer.
        ValueError: if their shapes do not agree, an entry is not finite, the covariance is not symmetric or has a
            negative entry on its diagonal, or `count` is below one.

    Example:
        >>> import numpy as np
        >>> from scorefp.quality import Moments
        >>> x = np.arange(12.0).reshape(6, 2)
        >>> both = Moments.of(x[:4]) + Moments.of(x[4:])
        >>> both.count, both.mean.tolist(), np.allclose(both.covariance, np.cov(x.T))
        (6, [5.0, 6.0], True)
    """

    mean: Float[np.ndarray, " size"]
    covariance: Float[np.ndarray, "size size"]
    count: int | None = None

    def __check_init__(self) -> None:
        for name, value, axes in (("mean", self.mean, 1), ("covariance", self.covariance, 2)):
            kind(name, value, np.ndarray, "It is an array of numpy, of floats.")
            require(
                value.ndim == axes and value.size >= 1 and value.dtype.kind == "f",
                f"{name} is an array {value.dtype}{list(value.shape)}; it is one of floats with {axes} axes.",
            )
            require(bool(np.isfinite(value).all()), f"{name} holds NaN or infinite entries; they are moments.")
        size = len(self.mean)
        require(
            self.covariance.shape == (size, size),
            f"covariance has shape {self.covariance.shape}, and mean {size} entries; it is of shape {(size, size)}.",
        )
        scale = float(np.abs(self.covariance).max())
        require(
            bool(
                np.all(np.diag(self.covariance) >= 0)
                and np.all(abs(self.covariance - self.covariance.T) <= 1e-6 * scale)
            ),
            "covariance is not symmetric or has a negative variance; give that of samples, such as np.cov(x.T).",
        )
        require(self.count is None or self.count >= 1, f"count = {self.count}; there is at least one sample.")

    @staticmethod
    @measures
    def of(x: Samples, *, features: Features | None = None, batch_size: int = BATCH) -> "Moments":
        """The moments of the features of samples, in the memory of one batch.

        Args:
            x: Samples, stacked along the leading axis, also mapped from a file; or an iterable of batches.
            features: A function of one sample, mapped over batches and compiled; the entries of the sample themselves
                for `None`.
            batch_size: How many samples are taken at once.

        Raises:
            TypeError: if a sample is not floating, `x` is traced, or an argument is of another kind.
            ValueError: if there are fewer than two samples, one of them or of their features is not finite, or
                `batch_size` is below one.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from scorefp.quality import Moments
            >>> x = jax.random.normal(jax.random.key(0), (100, 8, 8))
            >>> Moments.of(x, features=lambda x: x.mean(axis=0)).mean.shape
            (8,)
        """
        check_features(features, batch_size)
        return part_moments("x", x, features, batch_size, 1, 2).all

    def __add__(self, other: "Moments") -> "Moments":
        kind("the other term", other, Moments)
        require(
            self.mean.shape == other.mean.shape,
            f"one has {len(self.mean)} features, the other {len(other.mean)}; moments of the same features add up.",
        )
        counts = [part.count for part in (self, other) if part.count is not None]
        require(len(counts) == 2, "count is None; what adds up are the moments of samples, and their counts are known.")
        scatters = np.stack([(n - 1) * part.covariance for n, part in zip(counts, (self, other), strict=True)])
        return Parts(np.array(counts), np.stack([self.mean, other.mean]), scatters).all


class Parts(NamedTuple):
    """Of each part of the samples how many they are, their mean, and the sum of the squares about it."""

    counts: Int[np.ndarray, " parts"]
    means: Float[np.ndarray, "parts size"]
    scatters: Float[np.ndarray, "parts size size"]

    @property
    def all(self) -> Moments:
        """The moments of all samples."""
        n = int(self.counts.sum())
        mean = self.counts @ self.means / n
        off = self.means - mean
        scatter = self.scatters.sum(axis=0) + (self.counts * off.T) @ off
        return Moments(mean, scatter / max(n - 1, 1), n)

    def without_each(self, every: Moments) -> Iterator[tuple[int, Float[np.ndarray, " size"], Any]]:
        """The number, the mean and the covariance of the samples without each part, one at a time."""
        total = int(self.counts.sum())
        for n, mean, scatter in zip(self.counts.tolist(), self.means, self.scatters, strict=True):
            left, shift = total - n, mean - every.mean
            rest = (total - 1) * every.covariance - scatter - total * n / left * np.outer(shift, shift)
            yield left, every.mean - n / left * shift, rest / (left - 1)


def part_moments(name: str, x: Samples, features: Features | None, batch_size: int, parts: int, least: int) -> Parts:
    """The moments of each part of the samples, sample $i$ in part $i$ modulo their number.

    Raises:
        ValueError: if there are too few samples.
    """
    first, counts = 0, np.zeros(parts, int)
    means = scatters = np.zeros(0)
    for rows in feature_batches(name, x, features, batch_size):
        size = rows.shape[1]
        if first == 0:
            means, scatters = np.zeros((parts, size)), np.zeros((parts, size, size))
        for part in range(parts):
            own = rows[(part - first) % parts :: parts]
            if len(own):
                mean, n = own.mean(axis=0), counts[part] + len(own)
                off, shift = own - mean, mean - means[part]
                scatters[part] += off.T @ off + counts[part] * len(own) / n * np.outer(shift, shift)
                means[part] += len(own) / n * shift
                counts[part] = n
        first += len(rows)
    check_enough(name, first, least)
    return Parts(counts, means, scatters)
