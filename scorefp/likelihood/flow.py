"""The log-likelihood of the probability-flow ODE [K1]."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int

from .._checks import finite, floating, random_key, require, scalar_time, time_within
from .._module import AbstractModule
from .._types import Event, Flag, Key, Scalar, Time
from ..calculus import AbstractTrace, Exact
from ..reverse import Integrator
from ..reverse.ode import batch_flow_map_with_divergence, drawn, flow_map_with_divergence
from ..score import AbstractScore


class FlowLikelihood(AbstractModule):
    """A log-likelihood with what is known about its solve.

    Args:
        log_prob: The log-likelihood, in nats; NaN when the solve failed.
        latent: Where the sample ends up at `t1`.
        evaluations: How often the velocity and its divergence were evaluated.
        success: Whether the solver got to `t1` with finite values.
        error: The estimated error of `log_prob`, in nats, where it was asked for.
    """

    log_prob: Scalar
    latent: Event
    evaluations: Int[Array, ""]
    success: Flag
    error: Scalar | None


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
    own steps. A `vmap` goes on until its slowest sample is done; `batch_log_likelihood` is the faster one for many.

    Args:
        score: Any score on any SDE.
        x: One sample at time `start`.
        start: The time of the sample, in `[t0, t1]`, at which the density of the flow is asked; `None` is `t0`.
        trace: `Exact()`, or `Hutchinson(samples, law)` with probes drawn once a solve: unbiased for the log-likelihood.
        integrator: How the ODE is solved, and how the solve is differentiated.
        key: A random key, for `Hutchinson`.

    Returns:
        The log-likelihood, in nats.

    Raises:
        TypeError: if `x` is not floating.
        ValueError: if `x` is not finite, `start` is outside the horizon, the score has another shape than `x`, or
            `Hutchinson` gets no key.
        RuntimeError: if the solver fails, unless the integrator has `throw=False`; the result is NaN then.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> logp, grad = jax.value_and_grad(lambda x: sfp.log_likelihood(standard, x))(jnp.ones(1))
        >>> round(float(logp), 3), round(float(grad[0]), 3)
        (-1.419, -1.0)
    """
    x = _checked_sample("x", x, trace, key)
    if start is not None:
        start = time_within(scalar_time(start, x), score.sde.t0, score.sde.t1)
    return _flow_likelihood(score, x, trace, integrator, key, start).log_prob


def flow_likelihood(
    score: AbstractScore,
    x: Event,
    *,
    trace: AbstractTrace = Exact(),
    integrator: Integrator = Integrator(),
    key: Key | None = None,
    error: bool = False,
) -> FlowLikelihood:
    r"""The log-likelihood of `log_likelihood`, with the latent, the number of evaluations, and a flag [K1].

    With `Integrator(throw=False)`, a failed sample of a batch has `success` false and NaN for its values, and the
    others stand.

    Args:
        score: Any score on any SDE.
        x: One sample at time `t0`; batch with `jax.vmap`.
        trace: As in `log_likelihood`.
        integrator: How the ODE is solved.
        key: A random key, for `Hutchinson`.
        error: Whether to solve a second time, with the same probes and both tolerances at a tenth, and to return the
            absolute difference as an estimate of the error of the first.

    Returns:
        The log-likelihood of the first solve and what goes with it. The error covers the solver alone, not the
        variance of probes.

    Raises:
        TypeError: if `x` is not floating.
        ValueError: if `x` is not finite, the score has another shape than `x`, or `Hutchinson` gets no key.
        RuntimeError: if the solver fails, unless the integrator has `throw=False`.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> result = sfp.flow_likelihood(standard, jnp.ones(1), error=True)
        >>> bool(result.success), round(float(result.latent[0]), 3), bool(result.error < 1e-4)
        (True, 1.0, True)
    """
    x = _checked_sample("x", x, trace, key)
    result = _flow_likelihood(score, x, trace, integrator, key)
    if not error:
        return result
    finer = _flow_likelihood(score, x, trace, integrator.tightened(0.1), key)
    return dataclasses.replace(result, error=jnp.abs(finer.log_prob - result.log_prob))


def batch_log_likelihood(
    score: AbstractScore,
    xs: Float[Array, "n *event"],
    *,
    trace: AbstractTrace = Exact(),
    integrator: Integrator = Integrator(),
    key: Key | None = None,
) -> Float[Array, " n"]:
    r"""The log-likelihoods of a batch in one solve with common steps [K1].

    Faster than `jax.vmap(log_likelihood)`, since what depends on time alone is computed once. The tolerance holds for
    each sample; the steps are as long as the worst one allows at each time. One sample that fails, fails all.

    Args:
        score: Any score on any SDE.
        xs: Samples at time `t0`, stacked along the leading axis.
        trace: As in `log_likelihood`; probes are independent between samples.
        integrator: How the ODE is solved.
        key: A random key, for `Hutchinson`.

    Returns:
        One log-likelihood a sample, in nats.

    Raises:
        TypeError: if `xs` is not floating.
        ValueError: if `xs` has no leading axis, is empty or not finite, the score has another shape than a sample, or
            `Hutchinson` gets no key.
        RuntimeError: if the solver fails, unless the integrator has `throw=False`.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> [round(float(value), 3) for value in sfp.batch_log_likelihood(standard, jnp.array([[0.0], [1.0]]))]
        [-0.919, -1.419]
    """
    xs = _checked_sample("xs", xs, trace, key)
    require(
        xs.ndim >= 1 and xs.shape[0] >= 1,
        f"xs has shape {xs.shape}; it needs a leading axis with at least one sample. One sample alone goes to "
        "log_likelihood.",
    )
    return _batch_log_likelihood(score, xs, trace, integrator, key)


def _checked_sample(name: str, x: Array, trace: AbstractTrace, key: Key | None) -> Array:
    x = finite(name, floating(name, x))
    if trace.random:
        random_key(type(trace).__name__, key)
    return x


@eqx.filter_jit
def _flow_likelihood(
    score: AbstractScore,
    x: Event,
    trace: AbstractTrace,
    integrator: Integrator,
    key: Key | None,
    start: Time | None = None,
) -> FlowLikelihood:
    sde = score.sde
    start = sde.t0 if start is None else start
    solved = flow_map_with_divergence(score, x, drawn(trace, x, key), start=start, stop=sde.t1, integrator=integrator)
    latent, growth = solved.state
    return FlowLikelihood(sde.prior.log_prob(latent) + growth, latent, solved.evaluations, solved.success, None)


@eqx.filter_jit
def _batch_log_likelihood(
    score: AbstractScore,
    xs: Float[Array, "n *event"],
    trace: AbstractTrace,
    integrator: Integrator,
    key: Key | None,
) -> Float[Array, " n"]:
    sde = score.sde
    keys = None if key is None else jr.split(key, xs.shape[0])
    traces = jax.vmap(lambda x, key: drawn(trace, x, key))(xs, keys)
    solved = batch_flow_map_with_divergence(score, xs, traces, start=sde.t0, stop=sde.t1, integrator=integrator)
    latents, growths = solved.state
    return jax.vmap(sde.prior.log_prob)(latents) + growths
