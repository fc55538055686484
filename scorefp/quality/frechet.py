"""The Fréchet distance between sets of features, with its bias and its error."""

import warnings

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .._checks import require
from .._module import AbstractModule
from .._precision import measures
from ..integrals import Estimate
from ._features import BATCH, GROUPS, Features, Samples, check_features, check_sizes
from ._jackknife import estimate, excess
from .moments import Moments, Parts, part_moments

_NAMES = "samples", "data"


class FrechetDistance(AbstractModule):
    """The result of `frechet_distance`. `str` is a table.

    Args:
        plug_in: The distance of the samples' moments, which papers report: above that of the laws in the mean.
        extrapolated: The same, extrapolated in `1/n` to infinitely many samples; it may be negative.
        counts: How many samples of `x` and of the data there are; `None` for a law.
        size: How many features a sample has.
    """

    plug_in: Estimate
    extrapolated: Estimate
    counts: tuple[int | None, int | None]
    size: int

    @property
    def bias(self) -> float:
        """The estimated bias of `plug_in`: `plug_in - extrapolated`."""
        return float(self.plug_in.value - self.extrapolated.value)

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to say of too few samples."""
        if all(count is None or count > self.size for count in self.counts):
            return ()
        return (
            f"There are {self._told} for {self.size} features: a "
            "covariance is singular, the Fréchet distance far too large, and its bias no longer of the order 1/n. Take "
            "more samples, fewer features, or the kernel distance, which has no bias.",
        )

    def __str__(self) -> str:
        return (
            f"plug-in        {self.plug_in}   of {self._told}, {self.size} features\nextrapolated   {self.extrapolated}"
        )

    @property
    def _told(self) -> str:
        x, data = ("a law" if n is None else f"{n} {name}" for n, name in zip(self.counts, _NAMES, strict=True))
        return f"{x} and {data}"


@measures
def frechet_distance(
    x: Samples | Moments,
    data: Samples | Moments,
    *,
    features: Features | None = None,
    batch_size: int = BATCH,
) -> FrechetDistance:
    r"""The Fréchet distance between the features of samples and those of data (Heusel 2017), which is the squared
    Wasserstein distance of the normal laws with their moments (Dowson & Landau 1982):

    $$ \lVert m - m' \rVert^2 + \mathrm{tr}\big(C + C' - 2\,(C^{1/2} C' C^{1/2})^{1/2}\big). $$

    With the features of Inception it is the FID. It is zero where the first two moments of the features agree, whatever
    else does not. Its unit is that of a squared feature.

    **Its bias.** The distance of the moments of samples is above that of the laws in the mean, by $c/n + c'/m$ to first
    order, with a $c$ that depends on the model, so that two models are not compared by it (Chong & Forsyth 2020). The
    jackknife leaves out a tenth of the samples at a time, which gives $c$: `extrapolated` is the value at $1/n = 0$.
    Chong & Forsyth fit a line in $1/n$ to the distances of random subsets; here the samples left out sum up to all, so
    that the first-order noise of the subsets is not in the slope. What is left is of the order $1/n^2$, and large where
    there are no more samples than features: a warning says so.

    **The error** is that of the same jackknife, for samples that are independent and in no particular order. It is the
    error of either value; of two sets of one law it is too large.

    It takes one pass over the samples, in the memory of a batch and of twenty covariances. It runs on the host in
    float64, but for the features.

    Args:
        x: Samples, stacked along the leading axis, also mapped from a file; or an iterable of batches, such as those
            of features that another framework computes; or `Moments`, which are taken as those of a law, without an
            error and a bias.
        data: Data, likewise.
        features: A function of one sample, mapped over batches and compiled; the entries of the sample themselves for
            `None`.
        batch_size: How many samples are taken at once.

    Returns:
        The distance, the extrapolated distance, both with their standard error, and the numbers of samples.

    Raises:
        TypeError: if a sample is not floating, an argument is traced or of another kind.
        ValueError: if there are fewer than ten samples, one of them or of their features is not finite, or samples and
            data have different numbers of features.

    Warns:
        UserWarning: if there are no more samples than features.

    Example:
        >>> import jax, scorefp as sfp
        >>> x, y = jax.random.normal(jax.random.key(0), (2, 500, 10))
        >>> found = sfp.quality.frechet_distance(x, y + 0.1)
        >>> float(found.plug_in.value) > float(found.extrapolated.value)
        True
        >>> bool(abs(found.extrapolated.value - 0.1) < 3 * found.extrapolated.error)  # 10 * 0.1²
        True
    """
    found = frechet_of(x, data, features, batch_size)
    for note in found.notes:
        warnings.warn(note, stacklevel=3)
    return found


def frechet_of(
    x: Samples | Moments, data: Samples | Moments, features: Features | None, batch_size: int
) -> FrechetDistance:
    """`frechet_distance`, whose caller tells of too few samples."""
    check_features(features, batch_size)
    (start, of_start), (end, of_end) = (
        _law(name, samples, features, batch_size) for name, samples in (("x", x), ("data", data))
    )
    check_sizes(len(start.mean), len(end.mean))
    root = _root(end.covariance)
    value, bias = _distance(start.mean, start.covariance, end, root), 0.0
    without = list[Float[np.ndarray, " parts"]]()
    for every, parts, other in ((start, of_start, end), (end, of_end, start)):
        if parts is not None:
            root = root if other is end else _root(other.covariance)
            left = parts.without_each(every)
            counts, values = zip(*((n, _distance(mean, c, other, root)) for n, mean, c in left), strict=True)
            without.append(np.array(values))
            bias += excess(value, without[-1], int(parts.counts.sum()), counts)
    plug_in = estimate(value, *without)
    extrapolated = Estimate(jnp.asarray(value - bias), plug_in.error)
    return FrechetDistance(plug_in, extrapolated, (start.count, end.count), len(start.mean))


def _law(name: str, x: Samples | Moments, features: Features | None, batch_size: int) -> tuple[Moments, Parts | None]:
    """The moments of all samples, and of their parts where they are not given."""
    if isinstance(x, Moments):
        return x, None
    parts = part_moments(name, x, features, batch_size, GROUPS, GROUPS)
    return parts.all, parts


def _root(covariance: Float[np.ndarray, "size size"]) -> Float[np.ndarray, "size rank"]:
    """A root $R$ of a covariance $C = R R^T$, without the directions in which it is zero to rounding."""
    values, vectors = np.linalg.eigh(covariance)
    require(
        bool(values[0] >= -1e-6 * abs(values[-1])),
        f"covariance has the eigenvalue {values[0]:.3g} beside {values[-1]:.3g}; a covariance has none below zero.",
    )
    kept = _above_rounding(values)
    return vectors[:, kept] * np.sqrt(values[kept])


def _distance(
    mean: Float[np.ndarray, " size"],
    covariance: Float[np.ndarray, "size size"],
    end: Moments,
    root: Float[np.ndarray, "size rank"],
) -> float:
    """The distance to the end, with a root of its covariance: the eigenvalues of $R^T C R$ are those of $C C'$."""
    values = np.linalg.eigvalsh(root.T @ covariance @ root)
    shared = np.sum(np.sqrt(values[_above_rounding(values)]))
    shift = mean - end.mean
    return float(shift @ shift + np.trace(covariance) + np.trace(end.covariance) - 2 * shared)


def _above_rounding(values: Float[np.ndarray, " size"]) -> np.ndarray:
    return values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0) if len(values) else values > 0
