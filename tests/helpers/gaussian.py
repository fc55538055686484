"""Closed forms of the probability flow: one Gaussian under a linear SDE [X2], geometric Brownian motion."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

import scorefp as sfp
from scorefp.sde import AbstractLinearSDE, AbstractPrior

MEAN = [0.4, -0.3]
COVARIANCE = [[0.5, 0.2], [0.2, 0.3]]


def gaussian(scale: float = 1.0) -> sfp.GaussianMixture:
    """A correlated normal law in the plane, away from the origin, with its covariance scaled."""
    return sfp.GaussianMixture(jnp.asarray([MEAN]), scale * jnp.asarray([COVARIANCE]), jnp.ones(1))


def gaussian_flow(
    sde: AbstractLinearSDE, start: float, stop: float, scale: float = 1.0
) -> tuple[Callable[[Array], Array], Array]:
    """The map of the probability flow of `gaussian(scale)` from `start` to `stop`, and its log Jacobian determinant.

    The score is linear, so along each axis of the covariance the deviation from the mean scales like the standard
    deviation `sqrt(alpha^2 c + sigma^2)`.
    """
    variances, axes = np.linalg.eigh(scale * np.asarray(COVARIANCE))
    mean = jnp.asarray(MEAN)
    spread = [jnp.sqrt(sde.alpha(t) ** 2 * variances + sde.sigma(t) ** 2) for t in (start, stop)]
    ratio = spread[1] / spread[0]

    def push(x: Array) -> Array:
        return sde.alpha(stop) * mean + axes @ (ratio * (axes.T @ (x - sde.alpha(start) * mean)))

    return push, jnp.sum(jnp.log(ratio))


def black_scholes() -> tuple[sfp.sde.GeometricBrownianMotion, sfp.sde.GeometricBrownianMotion]:
    """A correlated geometric Brownian motion, and one whose drift is too fast by `0.1 x`."""
    sde = sfp.sde.GeometricBrownianMotion(jnp.array([0.3, -0.2]), jnp.array([[0.5, 0.1], [-0.3, 0.4]]))
    return sde, eqx.tree_at(lambda s: s.growth, sde, sde.growth + 0.1)


class LogNormalDensity(eqx.Module):
    """The log-density of geometric Brownian motion from a log-normal start."""

    sde: sfp.sde.GeometricBrownianMotion

    def __call__(self, t: Array, x: Array) -> Array:
        start = jnp.array([0.1, -0.3]), jnp.array([[0.2, 0.05], [0.05, 0.1]])
        return self.sde.log_density(t, x, log_mean=start[0], log_covariance=start[1])


class LogNormal(AbstractPrior):
    """The law of the exponential of a normal vector."""

    mean: Array
    covariance: Array

    def log_prob(self, x: Array) -> Array:
        log_x = jnp.log(x)
        return jax.scipy.stats.multivariate_normal.logpdf(log_x, self.mean, self.covariance) - jnp.sum(log_x)

    def sample(self, key: Array, shape: tuple[int, ...]) -> Array:
        return jnp.exp(jr.multivariate_normal(key, self.mean, self.covariance))


def geometric() -> sfp.Score:
    """The exact score of a log-normal law under a correlated geometric Brownian motion; the prior is exact too."""
    growth, volatility = jnp.array([0.2, -0.1]), jnp.array([[0.5, 0.1], [-0.2, 0.4]])
    mean, covariance = jnp.array([0.1, -0.2]), jnp.array([[0.3, 0.1], [0.1, 0.2]])
    rates = volatility @ volatility.T
    end = LogNormal(mean + growth - 0.5 * jnp.diag(rates), covariance + rates)
    sde = sfp.sde.GeometricBrownianMotion(growth, volatility, end)

    def log_density(t: Array, x: Array) -> Array:
        return sde.log_density(t, x, log_mean=mean, log_covariance=covariance)

    return sfp.Score(jax.grad(log_density, argnums=1), sde, shape=(2,))
