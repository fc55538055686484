"""The normaliser of a potential, its distance from a log-density at one time."""

import math
from abc import abstractmethod
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._batches import in_batches
from .._checks import count, kind, optional_key, random_key, require, same_shape
from .._module import AbstractModule
from .._precision import measures
from .._times import scalar_time, time_within
from .._types import Event, Key, Scalar, Time
from ..integrals import Box, Estimate, box_quadrature
from ..score import AbstractPotential
from ..score.potential import require_potential


@runtime_checkable
class Proposal(Protocol):
    """A normalised density from which samples can be drawn, such as `GaussianMixture`."""

    def log_prob(self, x: Event) -> Scalar:
        """The log-density at one sample, in nats."""
        ...

    def sample(self, key: Key, n: int) -> Float[Array, "n *event"]:
        """`n` independent samples."""
        ...


class AbstractNormaliserMethod(AbstractModule):
    r"""A way to take $\log\int e^\varphi\,dx$."""

    @abstractmethod
    def log_integral(self, potential: AbstractPotential, t: Scalar, key: Key | None, batch_size: int) -> Estimate:
        """The log of the integral, and its error."""


class BoxQuadrature(AbstractNormaliserMethod):
    r"""The integral over a box by a tensor product of Gauss–Legendre rules, for samples of at most three elements.

    The part outside of the box is not counted. Nothing is drawn, so the standard error is zero; the remainder is the
    distance to the rule with half the nodes, above that of the rule itself where it converges.

    Args:
        box: The box, which must hold all but a negligible part of $e^\varphi$.
        nodes: How many nodes along each side. Their distance must be well below the width of a mode.

    Raises:
        ValueError: if `nodes` is below two; on use, if the box has more than three elements.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> bell = sfp.Potential(lambda t, x: -0.5 * (x**2).sum(), sfp.VP())
        >>> method = sfp.likelihood.BoxQuadrature(sfp.Box(-8 * jnp.ones(1), 8 * jnp.ones(1)))
        >>> round(float(sfp.likelihood.log_normaliser(bell, 0.5, method).value), 4)  # log sqrt(2 pi)
        0.9189
    """

    box: Box
    nodes: int = eqx.field(default=64, static=True)

    def __check_init__(self) -> None:
        require(self.nodes >= 2, f"nodes = {self.nodes}; the remainder takes half of them, so they are at least two.")

    def log_integral(self, potential: AbstractPotential, t: Scalar, key: Key | None, batch_size: int) -> Estimate:
        fine, coarse = box_quadrature(self.box, self.nodes), box_quadrature(self.box, self.nodes // 2)
        points, weights = (jnp.concatenate(both) for both in zip(fine, coarse, strict=True))
        log_shares = _potentials(potential, t, points, batch_size) + jnp.log(weights)
        cut = fine[1].size
        value = jax.nn.logsumexp(log_shares[:cut])
        return Estimate(value, jnp.zeros_like(value), jnp.abs(value - jax.nn.logsumexp(log_shares[cut:])))


class ImportanceSampling(AbstractNormaliserMethod):
    r"""The mean of $w = e^{\varphi(x)}/p(x)$ over draws of a proposal $p$, in any dimension.

    Its error is that of the logarithm to first order, $\mathrm{se}(\bar w)/\bar w$. Both can be trusted where $w$ is
    bounded, so where the proposal is nowhere much thinner than $e^\varphi$: a proposal that misses a mode misses it in
    the error too.

    Args:
        proposal: $p$, a density with `log_prob(x)` and `sample(key, n)`.
        draws: How many samples.

    Raises:
        ValueError: if `draws` is below two.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> bell = sfp.Potential(lambda t, x: -0.5 * (x**2).sum(), sfp.VP())
        >>> proposal = sfp.GaussianMixture(jnp.zeros((1, 1)), jnp.array([2.0]), jnp.ones(1))
        >>> method = sfp.likelihood.ImportanceSampling(proposal)
        >>> found = sfp.likelihood.log_normaliser(bell, 0.5, method, key=jax.random.key(0))
        >>> bool(abs(found.value - 0.9189) < 4 * found.error < 0.1)
        True
    """

    proposal: Proposal
    draws: int = eqx.field(default=4096, static=True)

    def __check_init__(self) -> None:
        kind("proposal", self.proposal, Proposal, "It has log_prob(x) and sample(key, n), as GaussianMixture does.")
        require(self.draws >= 2, f"draws = {self.draws}; a mean with its error needs at least two.")

    def log_integral(self, potential: AbstractPotential, t: Scalar, key: Key | None, batch_size: int) -> Estimate:
        xs = self.proposal.sample(random_key("ImportanceSampling", key), self.draws)
        log_weights = _potentials(potential, t, xs, batch_size) - jax.vmap(self.proposal.log_prob)(xs)
        value = jax.nn.logsumexp(log_weights) - math.log(self.draws)
        # Over their mean, so that nothing overflows.
        return Estimate(value, jnp.std(jnp.exp(log_weights - value), ddof=1) / math.sqrt(self.draws))


@measures
def log_normaliser(
    potential: AbstractPotential,
    t: Time,
    method: AbstractNormaliserMethod,
    *,
    key: Key | None = None,
    batch_size: int = 1024,
) -> Estimate:
    r"""The log-normaliser of a potential at one time [F3],

    $$ \log Z_t = \log\int e^{\varphi(x, t)}\,dx, $$

    so that $\varphi - \log Z_t$ is a log-density. Where that solves the Fokker–Planck equation, $d\log Z_t/dt$ is the
    residual $r[\varphi]$. It can be differentiated, and mapped over times with `jax.vmap`.

    Args:
        potential: $\varphi$.
        t: The time, in `[t0, t1]`.
        method: `BoxQuadrature(box, nodes)` for samples of at most three elements, or
            `ImportanceSampling(proposal, draws)`.
        key: A random key, for `ImportanceSampling`.
        batch_size: How many points are taken at once, which bounds the memory.

    Returns:
        The log-normaliser in nats, and its error.

    Raises:
        TypeError: if `potential` is a score without a potential.
        ValueError: if `t` is outside the horizon, `batch_size` is below one, the points have another shape than the
            potential, the box has more than three elements, or a key is missing.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> bell = sfp.Potential(lambda t, x: -0.5 * (x**2).sum(), sfp.VP())
        >>> found = sfp.likelihood.log_normaliser(
        ...     bell, 0.5, sfp.likelihood.BoxQuadrature(sfp.Box(-8 * jnp.ones(2), 8 * jnp.ones(2)))
        ... )
        >>> round(float(found.value), 4), round(float(jnp.log(2 * jnp.pi)), 4)
        (1.8379, 1.8379)
        >>> wide = sfp.GaussianMixture(jnp.zeros((1, 2)), jnp.array([2.0]), jnp.ones(1))
        >>> found = sfp.likelihood.log_normaliser(
        ...     bell, 0.5, sfp.likelihood.ImportanceSampling(wide), key=jax.random.key(0)
        ... )
        >>> bool(abs(found.value - jnp.log(2 * jnp.pi)) < 4 * found.error < 0.06)
        True
    """
    potential = require_potential(potential)
    kind("method", method, AbstractNormaliserMethod)
    batch_size = count("batch_size", batch_size, 1)
    t = time_within(scalar_time(t, jnp.zeros(())), potential.sde.t0, potential.sde.t1)
    optional_key(type(method).__name__, key, needed=False)
    return _log_normaliser(potential, t, method, key, batch_size)


@eqx.filter_jit
def _log_normaliser(
    potential: AbstractPotential, t: Scalar, method: AbstractNormaliserMethod, key: Key | None, batch_size: int
) -> Estimate:
    return method.log_integral(potential, t, key, batch_size)


def _potentials(
    potential: AbstractPotential, t: Scalar, xs: Float[Array, "n *event"], batch_size: int
) -> Float[Array, " n"]:
    if potential.shape is not None:
        same_shape("a point of the method", xs.shape[1:], "one sample of the potential", potential.shape)
    t = t.astype(xs.dtype)
    return in_batches(lambda i: potential.potential(t, xs[i]), xs.shape[0], batch_size)
