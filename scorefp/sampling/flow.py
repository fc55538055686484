"""Samples of the probability-flow ODE with their log-likelihood, from one solve [K1]."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from .._checks import flag, is_concrete, kind, single_or_better
from .._module import AbstractModule
from .._types import Event, Key
from ..calculus import AbstractTrace, Exact
from ..reverse import Integrator
from ..reverse.ode import drawn, flow_map_with_divergence
from ..score import AbstractScore
from ._failures import failures, tell_of_failures
from .draw import draws_of
from .euler import ProbabilityFlow


class FlowSamples(AbstractModule):
    """Samples with their log-likelihood and the facts of their solves, along the leading axis.

    Args:
        samples: The samples at `t0`; NaN where the solve failed.
        log_prob: The log-likelihood of each one, in nats; NaN where the solve failed.
        latent: The starting points at `t1`.
        evaluations: The number of evaluations of the velocity and its divergence.
        success: Whether the solver got to `t0` with finite values.
    """

    samples: Float[Array, "..."]
    log_prob: Float[Array, "*batch"]
    latent: Float[Array, "..."]
    evaluations: Int[Array, "*batch"]
    success: Bool[Array, "*batch"]


class _WithDensity(AbstractModule):
    """`ProbabilityFlow` with the integral of the divergence; called like a sampler, of one sample."""

    integrator: Integrator
    trace: AbstractTrace

    def __call__(self, score: AbstractScore, x1: Event, *, key: Key) -> FlowSamples:
        sde, trace = score.sde, drawn(self.trace, x1, key)
        solved = flow_map_with_divergence(score, x1, trace, start=sde.t1, stop=sde.t0, integrator=self.integrator)
        x0, growth = solved.state
        # The integral of the divergence from t1 down to t0 has the other sign.
        return FlowSamples(x0, sde.prior.log_prob(x1) - growth, x1, solved.evaluations, solved.success)


def flow_samples(
    score: AbstractScore,
    n: int,
    *,
    key: Key,
    trace: AbstractTrace = Exact(),
    integrator: Integrator = Integrator(),
    shape: tuple[int, ...] | None = None,
    args: Any = None,
    initial: Float[Array, "n *event"] | None = None,
    batch_size: int | None = None,
    dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    throw: bool = False,
) -> FlowSamples:
    r"""Draws samples of the probability-flow ODE together with their log-likelihood, from one solve each [K1]:

    $$ \log p(x_{t_0}) = \log\pi(x_{t_1}) + \int_{t_0}^{t_1} \nabla\cdot u(t, x_t)\,dt,
       \qquad \frac{dx_t}{dt} = u(t, x_t), $$

    the path now followed from a draw $x_{t_1}$ of the prior $\pi$ down to the sample. They are the samples of
    `sample(…, method=ProbabilityFlow(integrator))` with the same key and what `log_likelihood` says of them, both up to
    the tolerance of the solver; a second solve along each path is saved.

    `sample` says how the samples are batched, conditioned, shared among devices and checked. Differentiable in what the
    score holds, and in `initial`: inside `jit`, `vmap` and `grad` nothing is said of samples that failed.

    Args:
        score: Any score on any SDE.
        n: How many samples.
        key: A random key, of the draws of the prior and of probes; the same key gives the same samples.
        trace: `Exact()`; or `Hutchinson(samples, law)` or another, with probes of its own for each sample, drawn once:
            unbiased for the log-likelihood.
        integrator: How the ODE is solved.
        shape: The event shape, where the score does not know it.
        args: Conditioning, a pytree of arrays with `n` as leading axis, given to the model.
        initial: Latents at `t1` in place of draws from the prior.
        batch_size: At most how many samples at once, over all devices; all of them by default.
        dtype: The precision of the state and of the log-likelihood, float32 or better; the score is evaluated in that
            of its own arrays.
        mesh: The devices that share the samples, as `data_mesh` returns them; `None` is one device.
        throw: Whether samples that failed raise. If not, a warning names how many of them there are.

    Returns:
        The samples, their log-likelihoods in nats, their latents, and what their solves took.

    Raises:
        TypeError: as `sample`, and if `trace` or `integrator` is of another kind, or `initial` or `dtype` of half
            precision.
        ValueError: as `sample`.
        RuntimeError: if the solver fails for a sample, unless the integrator has `throw=False`; then if samples failed
            and `throw` is true.

    Warns:
        UserWarning: if samples failed.

    Example:
        >>> import jax, scorefp as sfp
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP(), shape=(2,))
        >>> drawn = sfp.flow_samples(standard, 4, key=jax.random.key(0))
        >>> again = jax.vmap(lambda x: sfp.log_likelihood(standard, x))(drawn.samples)
        >>> drawn.samples.shape, bool(abs(drawn.log_prob - again).max() < 1e-3)
        ((4, 2), True)
    """
    flag("throw", throw)
    kind("trace", trace, AbstractTrace)
    draws = draws_of(
        score,
        n,
        key=key,
        method=ProbabilityFlow(integrator),
        shape=shape,
        args=args,
        initial=initial,
        batch_size=batch_size,
        dtype=dtype,
        mesh=mesh,
    )
    if draws.initial is not None:
        single_or_better("initial", draws.initial)
    if draws.dtype is not None and jnp.finfo(draws.dtype).bits < 32:
        raise TypeError(f"dtype = {draws.dtype}; a likelihood does not round to half precision: give jnp.float32.")
    found = dataclasses.replace(draws, method=_WithDensity(integrator, trace)).all()
    if is_concrete(found.samples):
        failed = failures(found.samples, draws.n, score.sde, draws.initial)
        tell_of_failures(*failed, draws.n, score.sde, draws.initial, mesh=mesh, throw=throw)
    return found
