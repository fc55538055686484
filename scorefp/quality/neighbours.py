"""Precision and recall, density and coverage of samples, by nearest neighbours."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._checks import count, require
from .._module import AbstractModule
from .._precision import measures
from ..integrals import Estimate
from ._features import BATCH, GROUPS, Features, Samples, check_features, check_sizes, feature_rows
from ._jackknife import estimate
from ._pairs import rows_of_a_block, squared_distance


class PrecisionRecall(AbstractModule):
    """The result of `precision_recall`. `str` is a table.

    Args:
        precision: The share of samples that lie among the data.
        recall: The share of data that lie among the samples.
        density: The mean number of balls of the data around a sample, over `neighbours`.
        coverage: The share of the balls of the data with a sample in them.
        counts: How many samples of `x` and of the data there are.
        neighbours: The number of the neighbour to which a ball reaches.
    """

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate
    counts: tuple[int, int]
    neighbours: int

    @property
    def coverage_of_equals(self) -> float:
        r"""The coverage to expect where both laws are the same, $1 - \prod_{i=1}^k (m - i)/(n + m - i)$ for $n$ samples
        and $m$ data (Naeem 2020), whatever the law; the density to expect is 1.
        """
        n, m = self.counts
        i = np.arange(1, self.neighbours + 1)
        return 1 - float(np.prod((m - i) / (n + m - i)))

    def __str__(self) -> str:
        lines = [f"{name:9}   {getattr(self, name)}" for name in ("precision", "recall", "density", "coverage")]
        lines[2] += "   of equal laws 1"
        lines[3] += f"   of equal laws {self.coverage_of_equals:.3g}"
        return "\n".join(lines)


@measures
def precision_recall(
    x: Samples,
    data: Samples,
    *,
    neighbours: int = 5,
    features: Features | None = None,
    batch_size: int = BATCH,
) -> PrecisionRecall:
    r"""Precision and recall (Kynkäänniemi 2019), density and coverage (Naeem 2020) of the features of samples.

    A set is a manifold of balls, around each of its points to the $k$-th nearest other one. **Precision** is the share
    of samples in a ball of the data, **recall** that of data in a ball of the samples: samples that are good, and
    samples that are all kinds. **Density** is the mean number of balls of the data that a sample lies in, over $k$; it
    may be above one, and an outlier among the data moves it little. **Coverage** is the share of balls of the data
    with a sample in them; balls of the samples, which outliers among these make large, are not asked.

    **The number of samples.** All four depend on the numbers of samples and on $k$, and tend to nothing of the laws
    alone: compare them at the same numbers, and beside those of two sets of data. For equal laws of features that are
    continuous the mean of the density is 1 and that of the coverage `coverage_of_equals`, whatever the law. Where
    features coincide, as those of few levels may, both are larger: points at one distance are in a ball together.
    Precision and recall have no such number.

    **The error** is that of the jackknife, which leaves out a tenth of the samples or of the data at a time, with the
    balls of those that are left, for samples that are independent and in no particular order. It is too large, by up to
    a factor of two: a ball depends on many points at once, and the jackknife counts what several points do together
    once for each.

    All pairs are gone through in float64, a block at a time: the memory is that of the features and of one block.

    Args:
        x: Samples, stacked along the leading axis, also mapped from a file; or an iterable of batches.
        data: Data, likewise.
        neighbours: The number $k$ of the neighbour to which a ball reaches.
        features: A function of one sample, mapped over batches and compiled; the entries of the sample themselves for
            `None`.
        batch_size: How many samples are taken at once for their features.

    Returns:
        The four shares with their standard errors.

    Raises:
        TypeError: if a sample is not floating, an argument is traced or of another kind.
        ValueError: if there are fewer than ten samples, or fewer than `neighbours` others without a tenth of them, one
            of them or of their features is not finite, or samples and data have different numbers of features.

    Example:
        >>> import jax, scorefp as sfp
        >>> x, y = jax.random.normal(jax.random.key(0), (2, 400, 3))
        >>> narrow = sfp.quality.precision_recall(0.5 * x, y)
        >>> bool(narrow.precision.value > 0.9), bool(narrow.recall.value < 0.7)
        (True, True)
    """
    check_features(features, batch_size)
    count("neighbours", neighbours, 1)
    first, second = (feature_rows(name, s, features, batch_size, GROUPS) for name, s in (("x", x), ("data", data)))
    for name, rows in (("x", first), ("data", second)):
        most = len(rows) - -(-len(rows) // GROUPS) - 1
        require(
            neighbours <= most,
            f"neighbours = {neighbours}, and {name} has {len(rows)} samples; without a tenth of them, left out for the "
            f"error, each has at most {most} neighbours. Take fewer neighbours, or more samples.",
        )
    check_sizes(first.shape[1], second.shape[1])
    # About one mean, so that distances lose no digits to what all features have in common; and of a size of one, as
    # their squares have to lie in the range of float32.
    mean = second.mean(axis=0)
    first, second = first - mean, second - mean
    size = max(np.abs(first).max(), np.abs(second).max()) or 1.0
    with jax.enable_x64(True):
        a, b = jnp.asarray(first / size), jnp.asarray(second / size)
        of_x, of_data = (
            _radii(rows, neighbours, rows_of_a_block(len(rows), len(rows)))[:, : len(rows)] for rows in (a, b)
        )
        found = _cross(a, b, of_x, of_data, rows_of_a_block(len(a), len(b), GROUPS))
        radii, held, among, near = (np.asarray(value) for value in (of_data, *found))
    held = held[:, : len(a)]
    return PrecisionRecall(
        precision=_share(held[0] > 0, held[1:] > 0),
        recall=_share(among[0], among[1:]),
        density=_share(held[0] / neighbours, held[1:] / neighbours),
        coverage=_coverage(near, radii),
        counts=(len(a), len(b)),
        neighbours=neighbours,
    )


def _share(points: np.ndarray, without: np.ndarray) -> Estimate:
    """The mean of a value of each point.

    Args:
        points: The values.
        without: The same, where a part of the other set is left out, part by part.
    """
    part = np.arange(len(points)) % GROUPS
    own = np.array([points[part != group].mean() for group in range(GROUPS)])
    return estimate(float(points.mean()), own, without.mean(axis=1))


def _coverage(near: Float[np.ndarray, "groups m"], radii: Float[np.ndarray, "more m"]) -> Estimate:
    """The share of balls with a sample in them.

    Args:
        near: How near the nearest sample of each part is to the points of the data.
        radii: The radii of the balls, of all data and without each part.
    """
    part, nearest = np.arange(near.shape[1]) % GROUPS, near.min(axis=0)
    of_data = np.array([(nearest <= radii[1 + group])[part != group].mean() for group in range(GROUPS)])
    of_x = np.array([(np.delete(near, group, axis=0).min(axis=0) <= radii[0]).mean() for group in range(GROUPS)])
    return estimate(float((nearest <= radii[0]).mean()), of_data, of_x)


@eqx.filter_jit
def _radii(x: Float[Array, "n size"], neighbours: int, rows: int) -> Float[Array, "more filled"]:
    """The squared radii of the balls around the points; and those without each part, negative for its own points.

    Of the nearest neighbours four times as many are kept as there may be needed without a part. Should there still be
    too few, the last of them stands for what is farther: that is for the error alone.
    """
    n, kept = len(x), min(len(x) - 1, 4 * neighbours + 16)
    groups = jnp.arange(GROUPS)

    def block(carry: None, start: Int[Array, ""]) -> tuple[None, Any]:
        index = jnp.minimum(start + jnp.arange(rows), n - 1)
        squares = jnp.where(index[:, None] == jnp.arange(n), jnp.inf, _squares(x[index], x))
        # Chosen in float32, for which devices have a fast way, and put into order in float64.
        _, found = jax.lax.top_k(-squares.astype(jnp.float32), kept)
        found = jnp.take_along_axis(found, jnp.argsort(jnp.take_along_axis(squares, found, 1), axis=1), 1)
        nearest = jnp.take_along_axis(squares, found, axis=1)
        there = found % GROUPS != groups[:, None, None]
        enough = jnp.cumsum(there, axis=-1) >= neighbours
        without = jnp.where(enough, nearest, nearest[:, -1:]).min(axis=-1)
        without = jnp.where(index % GROUPS == groups[:, None], -1.0, without)
        return carry, jnp.concatenate([nearest[None, :, neighbours - 1], without])

    radii = jax.lax.scan(block, None, jnp.arange(0, n, rows))[1]
    # Points at one distance but for rounding, as those of levels are, are inside or outside together: the rounding of
    # float32, in which samples mostly come, and that of the sums in float64.
    rounding = 64 * jnp.finfo(x.dtype).eps * jnp.max(jnp.sum(x**2, axis=1))
    radii = jnp.where(radii < 0, radii, radii * (1 + 1e-6) + rounding)
    return jnp.moveaxis(radii, 0, 1).reshape(1 + GROUPS, -1)


@eqx.filter_jit
def _cross(
    x: Float[Array, "n size"],
    data: Float[Array, "m size"],
    of_x: Float[Array, "more n"],
    of_data: Float[Array, "more m"],
    rows: int,
) -> tuple[Int[Array, "more filled"], Bool[Array, "more m"], Float[Array, "groups m"]]:
    """How many balls of the data each sample is in; whether each of the data is in a ball of the samples; both with
    the balls of all and of all but a part; and how near the samples of each part come to each of the data.
    """
    n, m = len(x), len(data)

    def block(carry: Any, start: Int[Array, ""]) -> tuple[Any, Any]:
        among, near = carry
        index = start + jnp.arange(rows)
        taken = jnp.minimum(index, n - 1)
        squares = jnp.where((index < n)[:, None], _squares(x[taken], data), jnp.inf)
        held = jax.lax.map(lambda radii: jnp.sum(squares <= radii, axis=1), of_data)
        among |= jax.lax.map(lambda radii: jnp.any(squares <= radii[taken][:, None], axis=0), of_x)
        # A block begins with the first part.
        near = jnp.minimum(near, squares.reshape(-1, GROUPS, m).min(axis=0))
        return (among, near), held

    start = jnp.zeros((1 + GROUPS, m), bool), jnp.full((GROUPS, m), jnp.inf, x.dtype)
    (among, near), held = jax.lax.scan(block, start, jnp.arange(0, n, rows))
    return jnp.moveaxis(held, 0, 1).reshape(1 + GROUPS, -1), among, near


def _squares(x: Float[Array, "n size"], y: Float[Array, "m size"]) -> Float[Array, "n m"]:
    return jax.vmap(lambda one: jax.vmap(lambda other: squared_distance(one, other))(y))(x)
