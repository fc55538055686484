"""The worst residuals that bound the likelihood gap: `M`, `m` and the density-weighted `M`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from .._checks import count, fitting_samples, kind, measured, random_key, require
from .._module import AbstractModule
from .._precision import measures
from .._types import Event, Key, Scalar
from ..calculus import AbstractTrace, Exact
from ..integrals import Estimate, log_snr_times, time_quadrature
from ..integrals.estimate import mean_of
from ..score import AbstractPotential, AbstractScore
from ..score.potential import require_potential
from ..score.score import linear_sde
from ..sde import AbstractLinearSDE
from .operators import value_and_operator
from .residual import resolve


class ResidualSuprema(AbstractModule):
    r"""Integrals of residuals over all times, as curves over the time at which the sample was taken [F11].

    Args:
        time: $t$, ascending.
        residual: $E_{x\sim q_t}\int\|\varepsilon(x,\tau)\|^2\,d\tau$.
        operator: The largest $\int|L[s](x,\tau)|\,d\tau$ of the samples at $t$.
        weighted: $E_{x\sim q_t}\int q_\tau(x)\,\|\varepsilon(x,\tau)\|^2\,d\tau$, where the density was given.
    """

    time: Float[Array, " times"]
    residual: Estimate
    operator: Float[Array, " times"]
    weighted: Estimate | None

    @property
    def M(self) -> Scalar:
        r"""$M(\theta) = \sup_t E_{x\sim q_t}\int\|\varepsilon\|^2\,d\tau$ over the grid of times (Lai 2023, Eq. 11)."""
        return jnp.max(self.residual.value)

    @property
    def m(self) -> Scalar:
        r"""$m(\theta) = \sup_x \int|L[s]|\,d\tau$, over the samples (Lai 2023, Eq. 12).

        The largest of finitely many samples is a lower bound of the supremum over the whole space.
        """
        return jnp.max(self.operator)

    @property
    def M_weighted(self) -> Scalar | None:
        r"""$\tilde M(\theta) = \sup_t E_{x\sim q_t}\int q_\tau(x)\,\|\varepsilon\|^2\,d\tau$ (Lai 2023, Eq. 34).

        `None` where no density was given.
        """
        return None if self.weighted is None else jnp.max(self.weighted.value)


@measures
def residual_suprema(
    score: AbstractScore,
    xs: Float[Array, "n *event"],
    *,
    key: Key,
    times: int = 16,
    nodes: int = 32,
    trace: AbstractTrace = Exact(),
    density: AbstractPotential | None = None,
    batch_size: int = 32,
) -> ResidualSuprema:
    r"""The quantities that bound the gap between the likelihoods of the ODE and the SDE [F11] (Lai 2023, Eq. 11, 12
    and 34; Theorems 4.2, 4.3 and G.3):

    $$ \begin{gathered}
       M(\theta) = \sup_t E_{x\sim q_t}\int\|\varepsilon(x,\tau)\|^2 d\tau, \quad
       m(\theta) = \sup_x\int|L[s](x,\tau)|\,d\tau, \\
       \tilde M(\theta) = \sup_t E_{x\sim q_t}\int q_\tau(x)\,\|\varepsilon(x,\tau)\|^2 d\tau,
       \end{gathered} $$

    each integral from `t0` to `t1` at the fixed sample. A sample of a late $t$ is thus seen at early $\tau$, where it
    may lie far from all data: there a network is free, and $M$ large. $\tilde M$ forgives that.

    Args:
        score: A score on a linear SDE.
        xs: Clean samples, stacked along the leading axis; each is diffused to every $t$ with noise of its own.
        key: A random key.
        times: The number of times $t$, even in log-SNR from `t0` to `t1`.
        nodes: The number of Gauss–Legendre nodes of each integral, in log-SNR.
        trace: `Exact()`, or `Hutchinson(samples, law)`: then $M$ and $\tilde M$ come from two independent estimates,
            without bias, and $m$ is biased upwards by the variance of $L$.
        density: The exact normalised potential $\log q_\tau$, for $\tilde M$.
        batch_size: How many samples are taken at once, which bounds the memory.

    Returns:
        Curves over $t$, with the suprema as properties.

    Raises:
        TypeError: if the SDE has no Gaussian kernel, or `xs` is not floating.
        ValueError: if `xs` holds fewer than two samples, or a number is below one.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> wrong = sfp.Score(lambda t, x: -1.1 * x, sfp.VP())
        >>> xs = jax.random.normal(jax.random.key(0), (50, 2))
        >>> found = sfp.fokker_planck.residual_suprema(wrong, xs, key=jax.random.key(1), times=4)
        >>> bool(0 < found.M < 50), bool(found.m > 0)
        (True, True)
    """
    xs = measured("xs", xs)
    linear_sde(score)
    kind("trace", trace, AbstractTrace)
    if density is not None:
        require_potential(density, "density")
    require(
        xs.ndim >= 1 and xs.shape[0] >= 2,
        f"xs has shape {xs.shape}; it needs a leading axis with at least two samples, for a mean and its error.",
    )
    fitting_samples("xs", xs.shape[1:], score.shape)
    times, nodes, batch_size = count("times", times, 1), count("nodes", nodes, 1), count("batch_size", batch_size, 1)
    random_key("residual_suprema", key)
    return _suprema(score, xs, key, times, nodes, trace, density, batch_size)


@eqx.filter_jit
def _suprema(
    score: AbstractScore,
    xs: Float[Array, "n *event"],
    key: Key,
    times: int,
    nodes: int,
    trace: AbstractTrace,
    density: AbstractPotential | None,
    batch_size: int,
) -> ResidualSuprema:
    sde = linear_sde(score)
    grid = _even_times(sde, times, xs)
    method = resolve(trace, "gradient")

    def at(t: Scalar, x0: Event, key: Key) -> tuple[Scalar, Scalar, Scalar]:
        """The three integrals over time, of one sample diffused to `t`."""
        noise_key, key = jr.split(key)
        x = sde.diffuse(t, x0, jr.normal(noise_key, x0.shape, x0.dtype))
        ends = jnp.asarray([sde.t0, sde.t1], x.dtype)
        taus, weights = time_quadrature(sde, ends[0], ends[1], nodes)

        def rates(tau: Scalar, key: Key) -> tuple[Scalar, Scalar, Scalar]:
            square_key, operator_key = jr.split(key)
            square = method.squared_norm(score, tau, x, square_key)[1]
            operator = value_and_operator(score, tau, x, trace, operator_key)[1]
            weight = 0.0 if density is None else jnp.exp(density.potential(tau, x))
            return square, jnp.abs(operator), weight * square

        values = jax.vmap(rates)(taus, jr.split(key, nodes))
        square, operator, weighted = (jnp.sum(weights * value) for value in values)
        return square, operator, weighted

    def curve(both: tuple[Scalar, Key]) -> tuple[Float[Array, " n"], Float[Array, " n"], Float[Array, " n"]]:
        t, key = both
        each = jr.split(key, xs.shape[0])
        return jax.lax.map(lambda pair: at(t, *pair), (xs, each), batch_size=min(batch_size, xs.shape[0]))

    square, operator, weighted = jax.lax.map(curve, (grid, jr.split(key, times)))
    by_density = None if density is None else mean_of(weighted)
    return ResidualSuprema(grid, mean_of(square), jnp.max(operator, axis=1), by_density)


def _even_times(sde: AbstractLinearSDE, times: int, like: Array) -> Float[Array, " times"]:
    """Times even in log-SNR, both ends among them."""
    even = log_snr_times(sde, sde.t0, sde.t1, jnp.linspace(0, 1, times))
    return jnp.clip(even, sde.t0, sde.t1).astype(like.dtype)
