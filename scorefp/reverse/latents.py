"""Between samples and their latents along the probability flow, in either direction [F0]."""

import jax.numpy as jnp
from jaxtyping import Array, Int

from .._checks import single_or_better
from .._module import AbstractModule
from .._types import Event, Flag, Scalar
from ..score import AbstractScore
from ..score.score import require_score, sample_of
from .ode import Integrator, Solved, flow_map


def encode(score: AbstractScore, x: Event, *, integrator: Integrator = Integrator()) -> Event:
    r"""The latent of one sample: the end at `t1` of the path of the probability flow $dx/dt = u(t, x)$ [F0] that starts
    from it at `t0`. `decode` is its inverse.

    It solves no equation for the divergence; `flow_likelihood` has the same latent with the log-likelihood. Batch it
    with `jax.vmap`, or with `jax.lax.map(…, batch_size=…)` for more samples than fit. Conditioning is given before:
    `score.bind(args=…)`.

    Args:
        score: Any score on any SDE.
        x: One sample, at `t0`.
        integrator: How the ODE is solved, and how the solve is differentiated.

    Returns:
        The latent: for samples of the model, a draw of the prior.

    Raises:
        TypeError: if `score` is no score, `x` not floating or of half precision, or `integrator` none.
        ValueError: if `x` is no sample of the score.
        RuntimeError: if the solver fails, unless the integrator has `throw=False`; the result is NaN then.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> law = sfp.GaussianMixture(jnp.ones((1, 2)), jnp.array([0.25]), jnp.ones(1))
        >>> latent = sfp.encode(law.score(sfp.VP()), jnp.array([1.5, 1.0]))
        >>> [round(float(z), 2) for z in latent]
        [1.01, 0.01]
    """
    return _along(score, x, "x", integrator, up=True).state


def decode(score: AbstractScore, latent: Event, *, integrator: Integrator = Integrator()) -> Event:
    r"""The sample of one latent: the end at `t0` of the path of the probability flow that starts from it at `t1`, the
    inverse of `encode`.

    What `sample(…, method=ProbabilityFlow(integrator), initial=latents)` does of a batch, and `flow_samples` with the
    log-likelihoods. Differentiable in the latent and in what the score holds.

    Args:
        score: Any score on any SDE.
        latent: One latent, at `t1`.
        integrator: How the ODE is solved, and how the solve is differentiated.

    Raises:
        TypeError: if `score` is no score, `latent` not floating or of half precision, or `integrator` none.
        ValueError: if `latent` has not the shape of a sample of the score.
        RuntimeError: if the solver fails, unless the integrator has `throw=False`; the result is NaN then.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> law = sfp.GaussianMixture(jnp.ones((1, 2)), jnp.array([0.25]), jnp.ones(1))
        >>> x, slope = jax.value_and_grad(lambda z: sfp.decode(law.score(sfp.VP()), z)[0])(jnp.array([1.0, 0.0]))
        >>> round(float(x), 2), round(float(slope[0]), 2)
        (1.5, 0.5)
    """
    return _along(score, latent, "latent", integrator, up=False).state


class RoundTrip(AbstractModule):
    """A sample, its latent and what comes back.

    Args:
        latent: The latent of the sample.
        returned: The sample of the latent.
        solver_error: The root mean square over the entries of `returned` less the sample, in the units of the sample.
        evaluations: The number of evaluations of the velocity, there and back.
        success: Whether both solves got to their ends with finite values.
    """

    latent: Event
    returned: Event
    solver_error: Scalar
    evaluations: Int[Array, ""]
    success: Flag


def round_trip(score: AbstractScore, x: Event, *, integrator: Integrator = Integrator()) -> RoundTrip:
    """`encode` of one sample, then `decode`, with the error of the way there and back.

    The exact flow comes back to where it started, whatever the score. What is missing is the error of the two solves at
    these tolerances: a typical size for that of `decode` and, brought to `t0`, of `encode`.

    Args:
        score: Any score on any SDE.
        x: One sample, at `t0`.
        integrator: How the ODE is solved.

    Raises:
        TypeError: as `encode`.
        ValueError: as `encode`.
        RuntimeError: as `encode`.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> law = sfp.GaussianMixture(jnp.ones((1, 2)), jnp.array([0.25]), jnp.ones(1))
        >>> trip = sfp.reverse.round_trip(law.score(sfp.VP()), jnp.array([1.5, 1.0]))
        >>> bool(trip.solver_error < 1e-3), bool(trip.success)
        (True, True)
    """
    there = _along(score, x, "x", integrator, up=True)
    # The way back of one that failed is none; it starts somewhere, as NaN is refused.
    back = _along(score, jnp.where(there.success, there.state, 0), "latent", integrator, up=False)
    success = there.success & back.success
    returned = jnp.where(success, back.state, jnp.nan)
    error = jnp.sqrt(jnp.mean((returned - x) ** 2))
    return RoundTrip(there.state, returned, error, there.evaluations + back.evaluations, success)


def _along(score: AbstractScore, x: Event, name: str, integrator: Integrator, *, up: bool) -> Solved:
    """The solve from one end of the horizon to the other, up to `t1` or down to `t0`, of an argument of a name."""
    x = single_or_better(name, sample_of(require_score(score), x, name))
    ends = score.sde.t0, score.sde.t1
    start, stop = ends if up else ends[::-1]
    return flow_map(score, x, start=start, stop=stop, integrator=integrator)
