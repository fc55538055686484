"""The log-likelihood of the probability-flow ODE [K1]."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int

from .._checks import fitting_samples, flag, kind, measured, optional_key, require
from .._module import AbstractModule
from .._precision import measures
from .._times import scalar_time, time_within
from .._types import Event, Key, Scalar, Time
from ..calculus import AbstractTrace, Exact
from ..reverse import Integrator
from ..reverse.ode import batch_flow_map_with_divergence, drawn, flow_map_with_divergence
from ..score import AbstractScore
from ..score._rounding import rounding_told
from ..score.score import require_score, sample_of


class FlowLikelihood(AbstractModule):
    """A log-likelihood and the facts of its solve, of one sample or with the leading axis of a batch.

    Args:
        log_prob: The log-likelihood, in nats; NaN when the solve failed.
        latent: The end of the sample's path, at `t1`.
        evaluations: The number of evaluations of the velocity and its divergence.
        success: Whether the solver got to `t1` with finite values.
        solver_error: The estimated error of `log_prob` by the solver, in nats, where it was asked for: a typical size,
            not a bound.
    """

    log_prob: Float[Array, "*batch"]
    latent: Float[Array, "..."]
    evaluations: Int[Array, "*batch"]
    success: Bool[Array, "*batch"]
    solver_error: Float[Array, "*batch"] | None


def log_likelihood(
    score: AbstractScore,
    x: Event,
    *,
    start: Time | None = None,
    trace: AbstractTrace = Exact(),
    integrator: Integrator = Integrator(),
    key: Key | None = None,
) -> Scalar:
    r"""The log-likelihood of one sample under the probability-flow ODE of a score [K1] (Song 2021, §2):

    $$ \log p(x) = \log\pi(x_{t_1}) + \int_{t_0}^{t_1} \nabla\cdot u(t, x_t)\,dt,
       \qquad \frac{dx_t}{dt} = u(t, x_t), \quad x_{t_0} = x, $$

    with $u$ the velocity of [F0] and $\pi$ the prior of the SDE. It is the density at `t0` of what `ProbabilityFlow`
    samples, and differentiable in `x` and in what the score holds. Batch it with `jax.vmap`: each sample then has its
    own steps. A `vmap` runs until its slowest sample is done; `flow_likelihood` with `common_steps=True` takes steps
    for all of a batch (`benchmarks/likelihood.py` has the time of both).

    Args:
        score: Any score on any SDE.
        x: One sample at time `start`.
        start: The time of the sample, in `[t0, t1]`, at which the density of the flow is asked; `None` is `t0`.
        trace: `Exact()`; or `Hutchinson(samples, law)` or another, whose probes or test vectors are drawn once a solve:
            unbiased for the log-likelihood.
        integrator: How the ODE is solved, and how the solve is differentiated.
        key: A random key, for all but `Exact`.

    Returns:
        The log-likelihood, in nats.

    Raises:
        TypeError: if `x` is not floating or of half precision, or `score`, `trace` or `integrator` is of another kind.
        ValueError: if `x` is not finite, `start` is outside the horizon, the score has another shape than `x`, or
            a random trace gets no key.
        RuntimeError: if the solver fails, unless the integrator has `throw=False`; the result is NaN then.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> logp, grad = jax.value_and_grad(lambda x: sfp.log_likelihood(standard, x))(jnp.ones(1))
        >>> round(float(logp), 3), round(float(grad[0]), 3)
        (-1.419, -1.0)
    """
    return flow_likelihood(score, x, start=start, trace=trace, integrator=integrator, key=key).log_prob


@measures
def flow_likelihood(
    score: AbstractScore,
    x: Float[Array, "..."],
    *,
    start: Time | None = None,
    trace: AbstractTrace = Exact(),
    integrator: Integrator = Integrator(),
    key: Key | None = None,
    error: bool = False,
    common_steps: bool = False,
) -> FlowLikelihood:
    r"""The log-likelihood of `log_likelihood`, with the latent, the number of evaluations, and a flag [K1].

    With `Integrator(throw=False)`, a failed sample of a `jax.vmap` has `success` false and NaN for its values, and the
    others stand.

    With `common_steps=True` a batch is one solve, in which all that depends on time alone is computed once. The
    tolerance holds for each sample; the steps are as long as the worst one allows at each time. One sample that fails,
    fails all.

    Args:
        score: Any score on any SDE.
        x: One sample at time `start`; with `common_steps=True` a batch of them, stacked along the leading axis.
        start: The time of the samples, in `[t0, t1]`; `None` is `t0`.
        trace: As in `log_likelihood`; probes are independent between samples.
        integrator: How the ODE is solved.
        key: A random key, for all but `Exact`.
        error: Whether to solve a second time, with the same probes and both tolerances at a tenth, and to return the
            absolute difference as an estimate of the error of the first: a typical size, not a bound.
        common_steps: Whether `x` is a batch that is solved with common steps.

    Returns:
        The log-likelihood of the first solve and what goes with it. The `solver_error` is not the variance of probes.

    Raises:
        TypeError: if `x` is not floating or of half precision, or `score`, `trace` or `integrator` is of another kind.
        ValueError: if `x` is not finite, or has no leading axis or an empty one where it is a batch, `start` is outside
            the horizon, the score has another shape than a sample, or a random trace gets no key.
        RuntimeError: if the solver fails, unless the integrator has `throw=False`.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> result = sfp.flow_likelihood(standard, jnp.ones(1), error=True)
        >>> bool(result.success), round(float(result.latent[0]), 3), bool(result.solver_error < 1e-4)
        (True, 1.0, True)
        >>> batch = sfp.flow_likelihood(standard, jnp.array([[0.0], [1.0]]), common_steps=True)
        >>> [round(float(value), 3) for value in batch.log_prob]
        [-0.919, -1.419]
    """
    require_score(score)
    kind("trace", trace, AbstractTrace)
    kind("integrator", integrator, Integrator)
    if not flag("common_steps", common_steps):
        x = sample_of(score, x)
    x = measured("x", x)
    if start is not None:
        start = time_within(scalar_time(start, x, "start"), score.sde.t0, score.sde.t1, name="start")
    optional_key(type(trace).__name__, key, needed=trace.random)
    flag("error", error)
    require(
        not common_steps or (x.ndim >= 1 and x.shape[0] >= 1),
        f"x has shape {x.shape}; with common_steps it is a batch, at least one sample along its leading axis. Leave "
        "common_steps out for one sample.",
    )
    if common_steps:
        fitting_samples("x", x.shape[1:], score.shape)
    result = _solved(score, x, start, trace, integrator, key, common_steps)
    if not error:
        return result
    with rounding_told():
        finer = _solved(score, x, start, trace, integrator.tightened(0.1), key, common_steps)
    return dataclasses.replace(result, solver_error=jnp.abs(finer.log_prob - result.log_prob))


@eqx.filter_jit
def _solved(
    score: AbstractScore,
    x: Float[Array, "..."],
    start: Time | None,
    trace: AbstractTrace,
    integrator: Integrator,
    key: Key | None,
    common_steps: bool,
) -> FlowLikelihood:
    sde = score.sde
    ends: dict[str, Any] = {"start": sde.t0 if start is None else start, "stop": sde.t1, "integrator": integrator}
    if common_steps:
        keys = None if key is None else jr.split(key, len(x))
        traces = jax.vmap(lambda x, key: drawn(trace, x, key))(x, keys)
        solved = batch_flow_map_with_divergence(score, x, traces, **ends)
        log_prior = jax.vmap(sde.prior.log_prob)
    else:
        solved, log_prior = flow_map_with_divergence(score, x, drawn(trace, x, key), **ends), sde.prior.log_prob
    latent, growth = solved.state
    evaluations, success = (jnp.broadcast_to(fact, growth.shape) for fact in (solved.evaluations, solved.success))
    return FlowLikelihood(log_prior(latent) + growth, latent, evaluations, success, None)
