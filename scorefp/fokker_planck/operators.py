"""The Fokker–Planck operator `L[s]`."""

import jax
import jax.numpy as jnp

from .._precision import measures
from .._types import Event, Key, Scalar, Time
from ..calculus import AbstractTrace, Exact, divergence
from ..calculus.divergence import value_and_products
from ..calculus.probes import checked_trace
from ..score import AbstractScore
from ..score.score import measured_at
from ..sde import AbstractLinearSDE, AbstractSDE


@measures
def fpe_operator(
    score: AbstractScore, t: Time, x: Event, *, trace: AbstractTrace = Exact(), key: Key | None = None
) -> Scalar:
    r"""The operator $L[s]$ with $\partial_t \log q = L[\nabla\log q]$ for every solution of the Fokker–Planck equation
    [F2] (Lai 2023, Eq. 7), taken from the velocity $u$ of the probability-flow ODE [F0]:

    $$ L[s] = -(\nabla\cdot u + \langle u, s\rangle)
       = \tfrac12 g^2\,\nabla\cdot s + \tfrac12 g^2\|s\|^2 - \langle f, s\rangle - \nabla\cdot f
       \quad\text{for } G = g I. $$

    Args:
        score: A score on any SDE.
        t: The time, in `[t0, t1]`.
        x: One sample.
        trace: How the divergence is taken: `Exact()`, `Hutchinson(samples, law)` or another.
        key: A random key, for a trace that draws.

    Returns:
        A scalar, in nats per unit of time.

    Raises:
        TypeError: if `score` or `trace` is of another kind, or `x` is not floating or of half precision.
        ValueError: if `t` is outside the horizon, the score has another shape than `x`, or a random method gets no
            key; where it is known, if `x` is not finite.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> stationary = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> round(float(sfp.fpe_operator(stationary, 0.5, jnp.array([2.0]))), 4)
        0.0
    """
    t, x = measured_at(score, t, x)
    return value_and_operator(score, t, x, checked_trace(trace, key), key)[1]


def value_and_operator(
    score: AbstractScore, t: Scalar, x: Event, trace: AbstractTrace, key: Key | None
) -> tuple[Event, Scalar]:
    """The score and `L[s]` from one evaluation, of arguments already checked."""
    s, probes, products = value_and_products(lambda y: score(t, y), x, trace, key)
    return s, jnp.mean(jax.vmap(lambda v, jv: operator_along(score.sde, t, x, v, s, jv))(probes, products))


def advection_divergence(sde: AbstractSDE, t: Scalar, x: Event) -> Scalar:
    r"""The divergence $\nabla\cdot A$ of $A = f - \tfrac12\nabla\cdot(GG^\top)$, the score-free part of $L[s]$."""
    if isinstance(sde, AbstractLinearSDE):
        return x.size * sde.rate(t)
    return divergence(lambda y: sde.drift(t, y) - 0.5 * sde.covariance_divergence(t, y), x)


def operator_along(sde: AbstractSDE, t: Scalar, x: Event, v: Event, s: Event, jv: Event) -> Scalar:
    r"""The integrand $-(v^\top\nabla u\,v + \langle u, s\rangle)$ of $L[s]$ for one probe, as a function of $s$
    and $Jv$ [F0].

    Here $v^\top\nabla u\,v$ follows from $\partial_x$ and $\partial_s$ of the velocity $u(x, s(x))$, so that no
    derivative of the score is taken beyond $Jv$.
    """
    u, slope = jax.jvp(lambda y, r: sde.probability_flow(t, y, r), (x, s), (v, jv))
    return -(jnp.sum(v * slope) + jnp.sum(u * s))
