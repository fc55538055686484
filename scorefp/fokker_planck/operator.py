"""The Fokker–Planck operator `L[s]`."""

from .._checks import floating, scalar_time, time_within
from .._types import Event, Key, Scalar, Time
from ..calculus import AbstractTrace, Exact, value_and_divergence
from ..score import AbstractScore


def fpe_operator(
    score: AbstractScore, t: Time, x: Event, *, method: AbstractTrace = Exact(), key: Key | None = None
) -> Scalar:
    r"""The operator $L[s]$ with $\partial_t \log q = L[\nabla\log q]$ for every solution of the Fokker–Planck
    equation [F2]
    (Lai 2023, Eq. 7), taken from the velocity $u$ of the probability-flow ODE [F0]:

    $$ L[s] = -(\nabla\cdot u + \langle u, s\rangle)
       = \tfrac12 g^2\,\nabla\cdot s + \tfrac12 g^2\|s\|^2 - \langle f, s\rangle - \nabla\cdot f
       \quad\text{for } G = g I. $$

    Args:
        score: A score on any SDE.
        t: The time, in `[t0, t1]`.
        x: One sample.
        method: `Exact()` or `Hutchinson(samples, law)`, for the divergence.
        key: A random key, for `Hutchinson`.

    Returns:
        A scalar, in nats per unit of time.

    Raises:
        TypeError: if `x` is not floating.
        ValueError: if `t` is outside the horizon, the score has another shape than `x`, or a random method gets no key.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> stationary = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> round(float(sfp.fpe_operator(stationary, 0.5, jnp.array([2.0]))), 4)
        0.0
    """
    x = floating("x", x)
    t = time_within(scalar_time(t, x), score.sde.t0, score.sde.t1)
    return operator(score, t, x, method, key)


def operator(score: AbstractScore, t: Scalar, x: Event, trace: AbstractTrace, key: Key | None) -> Scalar:
    """`fpe_operator` with its arguments already checked, for inner loops."""
    s = score(t, x)
    u, div_u = value_and_divergence(lambda y: score.probability_flow(t, y), x, method=trace, key=key)
    return -(div_u + (u * s).sum())
