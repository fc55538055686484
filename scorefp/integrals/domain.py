"""Means over a bounded domain of time and space."""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int

from .._batches import in_batches
from .._checks import random_key, require
from .._module import AbstractModule
from .._types import Event, Key, Scalar
from ..sde import AbstractLinearSDE, AbstractSDE
from .box import Box
from .estimate import Estimate
from .log_snr import log_snr_times
from .quadrature import box_quadrature, time_quadrature

Integrand: TypeAlias = Callable[[Scalar, Event, Key | None], Scalar]
"""A function of time, sample and the key of its probes."""


class AbstractDomainRule(AbstractModule):
    r"""A way to take a mean over $U([\text{start}, t_1]\times\Omega)$. `random` says whether it draws points."""

    random: ClassVar[bool]

    @abstractmethod
    def mean(
        self, integrand: Integrand, sde: AbstractSDE, start: Scalar, box: Box, key: Key | None, batch_size: int
    ) -> Estimate:
        """The mean of the integrand, and its error."""


class UniformDraws(AbstractDomainRule):
    r"""A mean over draws: samples uniform in the box, times two in each of equal strata.

    For a linear SDE half of the times are uniform in $t$ and half in the log-SNR $\lambda$, each weighted by
    $2 / (1 + p_\lambda/p_t)$ with $p_\lambda/p_t = (t_1 - \text{start})\,g^2/(\sigma^2 Z)$, the balance heuristic of
    Veach & Guibas 1995. The mean stays that of uniform times, the weights stay below two, and a residual that grows
    over decades of $t$ towards `t0`, where uniform times hardly come, is seen. Its standard error comes from the
    pairs: both of a pair have the same law and are independent.

    Args:
        draws: How many points, rounded up to a multiple of four (of two where the SDE is not linear).

    Raises:
        ValueError: if `draws` is below one.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> from scorefp.fokker_planck import LogResidual, mean_square
        >>> wide = sfp.Potential(lambda t, x: -0.5 * (x**2).sum(), sfp.OU())  # r = (x² - 1)/2
        >>> residual, box = LogResidual(wide), sfp.Box(-jnp.ones(1), jnp.ones(1))
        >>> found = mean_square(residual, box, rule=sfp.integrals.UniformDraws(64), key=jax.random.key(0))
        >>> bool(abs(found.value - 2 / 15) < 4 * found.error)
        True
    """

    draws: int = eqx.field(default=4096, static=True)

    random: ClassVar[bool] = True

    def __check_init__(self) -> None:
        require(self.draws >= 1, f"draws = {self.draws}; at least one point is drawn.")

    def mean(
        self, integrand: Integrand, sde: AbstractSDE, start: Scalar, box: Box, key: Key | None, batch_size: int
    ) -> Estimate:
        time_key, point_key = jr.split(random_key("UniformDraws", key))
        times, weights = _paired_times(sde, start, self.draws, time_key)

        def one(i: Int[Array, ""]) -> Scalar:
            place_key, probe_key = jr.split(jr.fold_in(point_key, i))
            return weights[i] * integrand(times[i], box.sample(place_key, 1)[0], probe_key)

        pairs = in_batches(one, times.size, batch_size).reshape(-1, 2)
        error = 0.5 * jnp.linalg.norm(pairs[:, 0] - pairs[:, 1]) / pairs.shape[0]
        return Estimate(jnp.mean(pairs), error)


class GaussLegendre(AbstractDomainRule):
    r"""A tensor product of Gauss–Legendre rules, for samples of at most three elements.

    The nodes in time are those of `time_quadrature`: in log-SNR for a linear SDE. Nothing is drawn, so the standard
    error is zero; the remainder is the distance to the rule with half the nodes, above that of the rule itself where it
    converges.

    Args:
        nodes: How many nodes along each side of the box.
        times: How many times.

    Raises:
        ValueError: if a number is below two; on use, if the box has more than three elements.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> from scorefp.fokker_planck import LogResidual, mean_square
        >>> wide = sfp.Potential(lambda t, x: -0.5 * (x**2).sum(), sfp.OU())  # r = (x² - 1)/2
        >>> residual, box = LogResidual(wide), sfp.Box(-jnp.ones(1), jnp.ones(1))
        >>> round(float(mean_square(residual, box, rule=sfp.integrals.GaussLegendre(4, 2)).value), 4)  # 2/15
        0.1333
    """

    nodes: int = eqx.field(default=32, static=True)
    times: int = eqx.field(default=32, static=True)

    random: ClassVar[bool] = False

    def __check_init__(self) -> None:
        require(
            self.nodes >= 2 and self.times >= 2,
            f"nodes = {self.nodes} and times = {self.times}; the remainder takes half of each: at least two.",
        )

    def mean(
        self, integrand: Integrand, sde: AbstractSDE, start: Scalar, box: Box, key: Key | None, batch_size: int
    ) -> Estimate:
        def tensor(nodes: int, times: int) -> tuple[Array, Array, Array]:
            t, time_weights = time_quadrature(sde, start, jnp.asarray(sde.t1, start.dtype), times)
            points, weights = box_quadrature(box, nodes)
            shares = jnp.outer(time_weights, weights).ravel()
            # Divided by their sum: a constant has itself for its mean, whatever the nodes in log-SNR make of it.
            return jnp.repeat(t, weights.size), jnp.tile(points, (times, *[1] * len(box.shape))), shares / shares.sum()

        fine, coarse = tensor(self.nodes, self.times), tensor(self.nodes // 2, self.times // 2)
        times, points, weights = (jnp.concatenate(both) for both in zip(fine, coarse, strict=True))

        def one(i: Int[Array, ""]) -> Scalar:
            return weights[i] * integrand(times[i], points[i], None if key is None else jr.fold_in(key, i))

        values = in_batches(one, weights.size, batch_size)
        cut = fine[-1].size
        value = jnp.sum(values[:cut])
        return Estimate(value, jnp.zeros_like(value), jnp.abs(value - jnp.sum(values[cut:])))


def _paired_times(
    sde: AbstractSDE, start: Scalar, draws: int, key: Key
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Times, the two of a stratum beside each other, and the weights that make their mean one over uniform times."""
    linear = isinstance(sde, AbstractLinearSDE)
    pairs = math.ceil(draws / (4 if linear else 2))
    shares = jr.uniform(key, (2, pairs, 2) if linear else (1, pairs, 2), start.dtype)
    shares = (jnp.arange(pairs, dtype=start.dtype)[:, None] + shares) / pairs
    span = sde.t1 - start
    times = start + span * shares[0]
    if not linear:
        return jnp.clip(times, start, sde.t1).ravel(), jnp.ones(times.size, start.dtype)
    times = jnp.stack([times, log_snr_times(sde, start, sde.t1, shares[1])])
    times = jnp.clip(times, start, sde.t1).astype(start.dtype).ravel()
    fall = sde.log_snr(start) - sde.log_snr(sde.t1)
    odds = span * sde.g2(times) / (sde.sigma(times) ** 2 * fall)
    return times, (2 / (1 + odds)).astype(start.dtype)
