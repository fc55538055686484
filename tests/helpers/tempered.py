"""Laws that compositions of scores name, by quadrature: what weighted samples are held against."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import scorefp as sfp


def line() -> sfp.GaussianMixture:
    """Two modes on the line, of different weight and width."""
    return sfp.GaussianMixture(jnp.array([[-1.0], [1.0]]), jnp.array([0.1, 0.2]), jnp.array([0.3, 0.7]))


def other_line() -> sfp.GaussianMixture:
    """Two more on the line, wider and shifted."""
    return sfp.GaussianMixture(jnp.array([[-0.8], [1.3]]), jnp.array([0.3, 0.25]), jnp.array([0.6, 0.4]))


def statistics(x: Array) -> Array:
    """The mean of the first coordinate, the second moment and the mass on its left side."""
    return jnp.stack([x[0], jnp.sum(x**2), jnp.where(x[0] < 0, 1.0, 0.0).astype(x.dtype)])


class Law:
    """A law whose log-density is known up to its normaliser, on a grid.

    Args:
        log_density: Called with one sample.
        axes: The coordinates of the grid, one array for each element of a sample.
        statistics: What is compared, a vector of one sample.
    """

    def __init__(
        self,
        log_density: Callable[[Array], Array],
        axes: Sequence[np.ndarray],
        statistics: Callable[[Array], Array] = statistics,
    ) -> None:
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
        points = jnp.asarray(grid, float)
        logs = np.asarray(jax.jit(jax.vmap(log_density))(points), np.float64)
        density = np.exp(logs - logs.max())
        cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
        self.statistics = statistics
        self.log_normaliser = float(np.log(density.sum() * cell) + logs.max())
        self.values = density / density.sum() @ np.asarray(jax.vmap(statistics)(points), np.float64)

    def off(self, x: Array) -> float:
        """By how many standard errors equally weighted samples are off, in the statistic that is furthest."""
        found = np.asarray(jax.vmap(self.statistics)(x), np.float64)
        return float(np.max(np.abs(found.mean(axis=0) - self.values) / (found.std(axis=0) / np.sqrt(len(x)))))


def line_law(log_density: Callable[[Array], Array], **options: Any) -> Law:
    """A law on the line."""
    return Law(log_density, [np.linspace(-7, 7, 4001)], **options)


def plane_law(log_density: Callable[[Array], Array], **options: Any) -> Law:
    """A law in the plane."""
    return Law(log_density, [np.linspace(-5, 5, 401)] * 2, **options)


def assert_law(
    found: sfp.sampling.WeightedSamples,
    law: Law,
    *,
    coarse: sfp.sampling.WeightedSamples | None = None,
    slack: float = 0.03,
) -> None:
    """Weighted means and the normaliser within three standard errors of those of the law, the normaliser but for
    `slack`. Their errors are of order one in the steps; with `coarse`, of half the steps, they are extrapolated.
    """

    def estimate(of: Callable[[sfp.sampling.WeightedSamples], Any]) -> tuple[np.ndarray, np.ndarray]:
        value, error = (np.asarray(part, np.float64) for part in of(found))
        if coarse is None:
            return value, error
        half, half_error = (np.asarray(part, np.float64) for part in of(coarse))
        return 2 * value - half, np.hypot(2 * error, half_error)

    value, error = estimate(lambda run: ((mean := run.mean(law.statistics)).value, mean.error))
    off = (value - law.values) / error
    assert np.all(np.abs(off) < 3), off
    total, error = estimate(lambda run: (run.log_normaliser.value, run.log_normaliser.error))
    assert abs(total - law.log_normaliser) < 3 * error + slack, (total, error, law.log_normaliser)


def potential_of(score: Any) -> sfp.Potential:
    """The potential that a composition of potentials names, put together by hand."""

    def value(score: Any, t: Array, x: Array) -> Array:
        if isinstance(score, sfp.Tilted):
            return value(score.score, t, x) + score.reward(t, x)
        if isinstance(score, sfp.score.AbstractComposition):
            parts = zip(score.exponents, score.scores, strict=True)
            return sum((beta * value(part, t, x) for beta, part in parts), jnp.zeros((), x.dtype))
        return score.potential(t, x)

    return sfp.Potential(lambda t, x: value(score, t, x), score.sde)
