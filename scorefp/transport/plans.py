"""Solvers of the optimal transport from one discrete law to another, exact or nearly so [G2]."""

import warnings
from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from .._checks import count, kind, needs, positive, require
from .._module import AbstractModule
from .._precision import measures
from .._types import MaybeNaN, Scalar


class Atoms(AbstractModule):
    """A law of finitely many points.

    Args:
        points: The points, as rows.
        weights: Their probabilities, of sum one; `None` where all are equal.
        count: How many samples the law comes from; `None` where its weights are known and not counted.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if there are no points, one is not finite, the weights are not one probability a point, or `count`
            is below one.
    """

    points: Float[np.ndarray, "n size"]
    weights: Float[np.ndarray, " n"] | None
    count: int | None

    def __check_init__(self) -> None:
        kind("points", self.points, np.ndarray, "It is an array of numpy with the points as rows.")
        require(
            self.points.ndim == 2 and self.points.size >= 1 and self.points.dtype.kind == "f",
            f"points is an array {self.points.dtype}{list(self.points.shape)}; it holds the points as rows, in floats.",
        )
        require(bool(np.all(np.isfinite(self.points))), "points holds NaN or infinite entries; leave them out.")
        require(self.count is None or self.count >= 1, f"count = {self.count}; there is at least one sample.")
        if self.weights is None:
            return
        weights = kind("weights", self.weights, np.ndarray, "It is an array of numpy, or None where all are equal.")
        require(
            weights.shape == self.points.shape[:1] and weights.dtype.kind == "f",
            f"weights is an array {weights.dtype}{list(weights.shape)}; it holds one probability for each of "
            f"{len(self.points)} points.",
        )
        require(
            bool(np.all(weights >= 0) and abs(weights.sum() - 1) < 1e-6),
            f"weights lie from {weights.min()} to {weights.max()} and sum to {weights.sum()}; they are probabilities. "
            "Divide them by their sum.",
        )

    @property
    def probabilities(self) -> Float[np.ndarray, " n"]:
        """The probability of each point."""
        n = len(self.points)
        return np.full(n, 1 / n) if self.weights is None else self.weights

    def resampled(self, generator: np.random.Generator) -> "Atoms":
        """As many samples drawn from the law with replacement; the law itself where its weights are known."""
        if self.count is None:
            return self
        counts = generator.multinomial(self.count, self.probabilities)
        if self.weights is None:
            return Atoms(np.repeat(self.points, counts, axis=0), None, self.count)
        drawn = counts > 0
        return Atoms(self.points[drawn], counts[drawn] / self.count, self.count)

    def variance(self, potential: Float[np.ndarray, " n"]) -> float:
        """The sampling variance of the mean of a function of the points."""
        if self.count is None:
            return 0.0
        return float(self.probabilities @ (potential - self.probabilities @ potential) ** 2) / self.count


class Transported(AbstractModule):
    r"""An optimal transport.

    Args:
        cost: The mean squared length of the moves.
        start: The dual potential $f$ at the points that are moved.
        end: The dual potential $g$ where they go; $E f + E g$ is the cost.
    """

    cost: MaybeNaN
    start: Float[np.ndarray, " n"]
    end: Float[np.ndarray, " m"]


class AbstractTransport(AbstractModule):
    """A solver of the optimal transport from one discrete law to another."""

    @abstractmethod
    def __call__(self, start: Atoms, end: Atoms) -> Transported:
        """The transport from `start` to `end`, two laws of points of one size."""


def _size(start: Atoms, end: Atoms) -> int:
    """The number of elements of a point of both laws."""
    for name, law in (("start", start), ("end", end)):
        kind(name, law, Atoms, "It is a law of points, Atoms(points, weights, count).")
    first, second = start.points.shape[1], end.points.shape[1]
    require(first == second, f"a point of start has {first} elements, one of end {second}; both have equally many.")
    return first


class Quantile(AbstractTransport):
    r"""Samples of one element, of any number and weights: quantiles go to quantiles,
    $W_2^2 = \int_0^1 (F^{-1}(u) - G^{-1}(u))^2\,du$.

    Raises:
        ValueError: on a call, if a sample has more than one element.

    Example:
        >>> import numpy as np
        >>> from scorefp.transport import Atoms, Quantile
        >>> start, end = Atoms(np.array([[0.0], [1.0]]), None, 2), Atoms(np.array([[3.0], [2.0]]), None, 2)
        >>> Quantile()(start, end).cost
        4.0
    """

    def __call__(self, start: Atoms, end: Atoms) -> Transported:
        size = _size(start, end)
        require(
            size == 1,
            f"a sample has {size} elements; Quantile takes one. Take Assignment() or ExactTransport() for more.",
        )
        x, y = _sorted(start), _sorted(end)
        cost, first, second = _staircase(x, y)
        # Where both go on at once either may be first; the mean of the two ways is fair to both.
        _, other_second, other_first = _staircase(y, x)
        f, g = np.empty_like(first), np.empty_like(second)
        f[x.order], g[y.order] = (first + other_first) / 2, (second + other_second) / 2
        return Transported(cost, f, g)


class _Sorted(AbstractModule):
    """The points of a law on the line in order, their permutation, and its distribution function between them."""

    points: Float[np.ndarray, " n"]
    order: Int[np.ndarray, " n"]
    levels: Float[np.ndarray, " levels"]


def _sorted(law: Atoms) -> _Sorted:
    order = np.argsort(law.points[:, 0], kind="stable")
    levels = np.cumsum(law.probabilities[order])
    return _Sorted(law.points[order, 0], order, levels[:-1] / levels[-1])


def _staircase(x: _Sorted, y: _Sorted) -> tuple[float, Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """The cost of taking quantiles to quantiles, and its potentials.

    At each step of the two distribution functions, in order, the one or the other goes on to its next point.
    """
    levels = np.concatenate([x.levels, y.levels])
    order = np.argsort(levels, kind="stable")
    of_x = order < x.levels.size
    rows, columns = (np.concatenate([[0], np.cumsum(step)]) for step in (of_x, ~of_x))
    squares = (x.points[rows] - y.points[columns]) ** 2
    cost = np.diff(levels[order], prepend=0.0, append=1.0) @ squares
    # The sum of the potentials is the squared distance all along the way.
    change = np.diff(squares)
    first, second = (np.cumsum(np.concatenate([[0.0], change[step]])) for step in (of_x, ~of_x))
    return float(cost), first + squares[0], second


class Assignment(AbstractTransport):
    r"""Two sets of equally many samples: each goes to one of the other set,
    $W_2^2 = \min_\pi \frac1n\sum_i |x_i - y_{\pi(i)}|^2$, exactly, by SciPy's `linear_sum_assignment`.

    Its time grows with the cube of the number, its memory with the square: a few thousand samples.

    Raises:
        ValueError: on a call, if the numbers differ or the samples have weights.

    Example:
        >>> import numpy as np
        >>> from scorefp.transport import Assignment, Atoms
        >>> start = Atoms(np.array([[0.0, 0.0], [1.0, 0.0]]), None, 2)
        >>> end = Atoms(np.array([[1.0, 2.0], [0.0, 2.0]]), None, 2)
        >>> Assignment()(start, end).cost
        4.0
    """

    def __call__(self, start: Atoms, end: Atoms) -> Transported:
        _size(start, end)
        n, m = len(start.points), len(end.points)
        require(
            n == m and start.weights is None and end.weights is None,
            f"x has {n} samples and y has {m}; Assignment takes two sets of equal size without weights. Leave "
            "some out, or use ExactTransport(), which takes any numbers and weights.",
        )
        squares = cdist(start.points, end.points, "sqeuclidean")
        chosen = np.asarray(linear_sum_assignment(squares)[1])
        lengths = np.take_along_axis(squares, chosen[:, None], axis=1)
        # The potential g at the target of sample j less that at the target of i is at most entry (j, i) here: shortest
        # ways are a solution, and the assignment being optimal, no circle is shorter than none.
        excess = np.ascontiguousarray((squares[:, chosen] - lengths).T)
        ways = np.zeros(n)
        for _ in range(n):
            shorter = np.minimum(ways, (excess + ways).min(axis=1))
            if np.array_equal(shorter, ways):
                break
            ways = shorter
        g = np.empty(n)
        g[chosen] = ways
        return Transported(float(lengths.mean()), lengths[:, 0] - ways, g)


class ExactTransport(AbstractTransport):
    """Samples of any number and weights, and histograms, exactly, by POT's network simplex (`ot.emd2`).

    Its memory is that of the matrix of distances: a few thousand points a side, in seconds.

    Args:
        max_iterations: The most pivots.

    Raises:
        TypeError: if `max_iterations` is no integer.
        ValueError: if it is below one.
        ImportError: on a call, if POT is not installed.
        RuntimeError: on a call, if the pivots run out.

    Example:
        >>> import numpy as np
        >>> from scorefp.transport import Atoms, ExactTransport
        >>> start = Atoms(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([0.25, 0.75]), None)
        >>> end = Atoms(np.array([[1.0, 2.0]]), None, 1)
        >>> ExactTransport()(start, end).cost
        4.25
    """

    max_iterations: int = 10_000_000

    def __check_init__(self) -> None:
        count("max_iterations", self.max_iterations, 1)

    def __call__(self, start: Atoms, end: Atoms) -> Transported:
        _size(start, end)
        with needs("ExactTransport", "POT", "ot"):
            import ot
        squares = cdist(start.points, end.points, "sqeuclidean")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of is raised below
            cost, log = ot.emd2(
                start.probabilities, end.probabilities, squares, numItermax=self.max_iterations, log=True
            )
        if log["warning"] is not None:
            raise RuntimeError(
                f"POT found no optimal transport within max_iterations = {self.max_iterations}: {log['warning']} "
                "Give ExactTransport a larger max_iterations."
            )
        return Transported(float(cost), np.asarray(log["u"]), np.asarray(log["v"]))


class Sinkhorn(AbstractTransport):
    r"""Samples of any number and weights, approximately, by ott-jax: the Sinkhorn divergence
    $S_\varepsilon(p, q) = T_\varepsilon(p, q) - \tfrac12 T_\varepsilon(p, p) - \tfrac12 T_\varepsilon(q, q)$ of the
    entropic cost $T_\varepsilon$ (Feydy 2019), which is zero for equal laws and tends to $W_2^2$ as
    $\varepsilon \to 0$.

    It suffers less from few samples in many dimensions than the exact distance, and runs on an accelerator, in the
    precision that is switched on. ott-jax has no exact solver for samples of more than one element: `Assignment` and
    `ExactTransport` are.

    Args:
        epsilon: The strength of the entropy, as a share of the mean squared distance between the two sets.
        threshold: The largest error of a marginal at the end.
        max_iterations: The most iterations of one of the three problems.

    Raises:
        ImportError: on a call, if ott-jax is not installed.
        TypeError: if an argument is of another kind.
        ValueError: if a number is not positive and finite.
        RuntimeError: on a call, if the iterations run out.

    Example:
        >>> import numpy as np
        >>> from scorefp.transport import Atoms, Sinkhorn
        >>> start = Atoms(np.array([[0.0, 0.0], [1.0, 0.0]]), None, 2)
        >>> end = Atoms(np.array([[1.0, 2.0], [0.0, 2.0]]), None, 2)
        >>> round(Sinkhorn()(start, end).cost, 2)
        4.0
    """

    epsilon: float = 0.01
    threshold: float = 1e-3
    max_iterations: int = 10_000

    def __check_init__(self) -> None:
        for name, value in (("epsilon", self.epsilon), ("threshold", self.threshold)):
            positive(name, value)
        count("max_iterations", self.max_iterations, 1)

    @measures
    def __call__(self, start: Atoms, end: Atoms) -> Transported:
        _size(start, end)
        with needs("Sinkhorn", "ott-jax", "ot"):
            from ott.geometry.pointcloud import PointCloud
            from ott.tools.sinkhorn_divergence import sinkhorn_divergence
        cost, potentials, converged = _sinkhorn(
            (PointCloud, sinkhorn_divergence),
            jnp.asarray(start.points),
            jnp.asarray(end.points),
            jnp.asarray(start.probabilities),
            jnp.asarray(end.probabilities),
            jnp.asarray(self.epsilon),
            jnp.asarray(self.threshold),
            self.max_iterations,
        )
        if not bool(jnp.all(converged)):
            raise RuntimeError(
                f"Sinkhorn's iterations did not converge: max_iterations = {self.max_iterations} did not bring the "
                f"error of a marginal below threshold = {self.threshold} with epsilon = {self.epsilon}. Give Sinkhorn "
                "a larger epsilon or more iterations."
            )
        return Transported(float(cost), *(np.asarray(p, np.float64) for p in potentials))


@eqx.filter_jit
def _sinkhorn(
    ott: tuple[Any, Any],
    x: Float[Array, "n size"],
    y: Float[Array, "m size"],
    p: Float[Array, " n"],
    q: Float[Array, " m"],
    epsilon: Scalar,
    threshold: Scalar,
    max_iterations: int,
) -> tuple[Scalar, tuple[Float[Array, " n"], Float[Array, " m"]], Bool[Array, "3"]]:
    """The divergence, its potentials, and whether each of the three problems converged."""
    geometry, divergence = ott
    limits = {"threshold": threshold, "max_iterations": max_iterations}
    cost, found = divergence(geometry, x, y, a=p, b=q, epsilon=epsilon, relative_epsilon="mean", solve_kwargs=limits)
    (f, g), (own_f, _), (_, own_g) = found.potentials
    return cost, (f - own_f, g - own_g), jnp.stack(found.converged)
