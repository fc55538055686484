"""The state of populations of weighted particles, and what is said of those that fail [W4]."""

import math
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._checks import all_finite


class State(NamedTuple):
    """The particles of runs on their way; their weights have the mean one, and `log_z` is what was divided out.

    `lost` counts particles that were not finite; `failed` is the step at which none was left, or -1, and `broken` how
    many of them were not finite there.
    """

    x: Float[Array, "runs particles *event"]
    log_w: Float[Array, "runs particles"]
    log_z: Float[Array, " runs"]
    lost: Int[Array, " runs"]
    failed: Int[Array, " runs"]
    broken: Int[Array, " runs"]


class Run(NamedTuple):
    """Runs at their end."""

    state: State
    ess: Float[Array, "runs times"]
    times: Float[Array, "runs times"]


def weighed(
    state: State, log_w: Float[Array, "runs particles"], k: Int[Array, ""]
) -> tuple[State, Float[Array, " runs"]]:
    """The state with weights of mean one, zero for particles that are not finite, and the effective sample size."""
    n = log_w.shape[1]
    whole = all_finite(state.x, 2) & (log_w < jnp.inf)
    kept = whole & (log_w > -jnp.inf)
    log_w = jnp.where(kept, log_w, -jnp.inf)
    none = ~jnp.any(kept, axis=1)
    # The largest first, as the rest is small beside a large one.
    largest = jnp.where(none, 0.0, jnp.max(log_w, axis=1))
    log_w = jnp.where(none[:, None], 0.0, log_w - largest[:, None])
    mean = jax.nn.logsumexp(log_w, axis=1) - math.log(n)
    log_w, total = log_w - mean[:, None], largest + mean
    first = none & (state.failed < 0)
    lost = jnp.sum(~whole & (state.log_w != -jnp.inf), axis=1)
    state = State(
        state.x,
        log_w,
        jnp.where(none, jnp.nan, state.log_z + total),
        state.lost + lost,
        jnp.where(first, k, state.failed),
        jnp.where(first, jnp.sum(~whole, axis=1), state.broken),
    )
    return state, jnp.where(none, 0.0, n / jnp.mean(jnp.exp(2 * log_w), axis=1))


def check_runs(state: State, times: Float[Array, " times"]) -> None:
    """Refuses runs of which one has no particle left."""
    failed = np.asarray(state.failed)
    if (failed < 0).all():
        return
    run = int(np.argmax(failed >= 0))
    step, broken, n, steps = int(failed[run]), int(state.broken[run]), state.log_w.shape[1], len(times) - 1
    others = f" and of {(failed >= 0).sum() - 1} other runs" if (failed >= 0).sum() > 1 else ""
    raise RuntimeError(
        f"all weights of run {run}{others} are zero or not finite, of run {run} from step {step} of {steps} on, "
        f"t = {float(times[step]):.6g}: {broken} of its {n} particles are not finite there, the others "
        "have the weight zero. Look at the score and the reward at that time; take more steps, or another grid."
    )


def warn_of_runs(
    state: State, ess: Float[Array, "runs times"], times: Float[Array, " times"], threshold: float
) -> None:
    """Warns of particles that were not finite, and of runs of which next to nothing was left."""
    lost, n = int(np.sum(state.lost)), state.log_w.shape[1]
    if lost > 0:
        warnings.warn(
            f"{lost} times a particle of {state.x.shape[0]} runs of {n} was not finite and got the weight zero. Look "
            "at the score along the way, or take more steps.",
            stacklevel=4,
        )
    floor = max(0.01 * n, min(10.0, 0.1 * n))
    sizes = np.asarray(ess)
    if n > 1 and (sizes < floor).any():
        run, step = np.unravel_index(np.argmin(sizes), sizes.shape)
        remedy = "Take more particles, more steps" + (
            ", or resample: threshold=0.5."
            if threshold == 0
            else ", or another noise or reward; a sum over runs of such weights is that of a few."
        )
        warnings.warn(
            f"the effective sample size collapsed in {(sizes < floor).any(axis=1).sum()} of {len(sizes)} runs, to "
            f"{sizes[run, step]:.3g} of {n} particles in run {run} at t = {float(times[step]):.4g}, with threshold = "
            f"{threshold:g}. {remedy}",
            stacklevel=4,
        )
