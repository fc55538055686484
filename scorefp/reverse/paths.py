"""Paths of the model's own reverse SDE from one time to an earlier one [M2] (Daras 2023)."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int

from .._checks import checked, count, function, is_concrete, random_key
from .._times import scalar_time, time_within
from .._types import Event, Key, Scalar, Time
from ..integrals import log_snr_times
from ..score import AbstractScore
from ..score.score import linear_sde, sample_of
from ..sde import AbstractLinearSDE
from .steps import ReverseStep, euler_maruyama_step


def reverse_path(
    score: AbstractScore,
    t: Time,
    earlier: Time,
    x: Event,
    *,
    key: Key,
    steps: int = 6,
    step: ReverseStep = euler_maruyama_step,
) -> Event:
    r"""The end $x_{t'}$ of one path of the model's own reverse SDE $dx = (f - g^2 s)\,dt + g\,d\bar w$ from $x_t = x$
    to an earlier time [M2] (Daras 2023, Eq. 7), in steps of equal length in log-SNR.

    One compiled loop. `jax.vmap` over keys gives independent paths.

    Args:
        score: A score on a linear SDE.
        t: The time.
        earlier: $t' \le t$.
        x: The state at $t$.
        key: A random key.
        steps: The number of steps; six in the paper.
        step: `euler_maruyama_step`, `heun_step` or `ancestral_step` of this package, or any function of its kind.

    Raises:
        TypeError: if the SDE has no Gaussian kernel, `x` is not floating, `key` is no random key, `steps` no whole
            number, or `step` does not take `(score, t, earlier, x, key)`.
        ValueError: if $t'$ is above $t$ or either is outside `[t0, t1]`, `x` is no sample of the score, or `steps` is
            below one.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> stationary = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> path = jax.jit(
        ...     lambda key: sfp.reverse.reverse_path(stationary, 1.0, 1e-5, jnp.zeros(2000), key=key, steps=100)
        ... )
        >>> x = path(jax.random.key(0))
        >>> bool(abs(x.mean()) < 0.1), bool(abs(x.std() - 1) < 0.1)
        (True, True)
    """
    t, earlier, x = checked_path(score, t, earlier, x, steps)
    key = random_key("a path", key)
    function("step", step, "score, t, earlier, x, key", "It is scorefp.reverse.euler_maruyama_step, for example.")
    return unchecked_path(score, t, earlier, x, key, steps, step)


def unchecked_path(
    score: AbstractScore, t: Scalar, earlier: Scalar, x: Event, key: Key, steps: int, step: ReverseStep
) -> Event:
    """`reverse_path` of times that were checked before."""
    times = _path_times(linear_sde(score), t, earlier, steps)

    def move(x: Event, now: tuple[Scalar, Scalar, Int[Array, ""]]) -> tuple[Event, None]:
        t, earlier, index = now
        return step(score, t, earlier, x, jr.fold_in(key, index)), None

    return jax.lax.scan(move, x, (times[:-1], times[1:], jnp.arange(steps)))[0]


def checked_path(score: AbstractScore, t: Time, earlier: Time, x: Event, steps: int) -> tuple[Scalar, Scalar, Event]:
    """The arguments of a path: the two times and the sample, refused unless the times are in order."""
    sde, x = linear_sde(score), sample_of(score, x)
    count("steps", steps, 1)
    t = time_within(scalar_time(t, x), sde.t0, sde.t1)
    earlier = time_within(scalar_time(earlier, x, "earlier"), sde.t0, sde.t1, name="earlier")
    known = is_concrete(earlier) and is_concrete(t)
    what = f"earlier = {float(earlier)} lies above t = {float(t)}" if known else "earlier lies above t"
    message = f"{what}; the reverse SDE runs from t down to an earlier time. Were they swapped?"
    return t, checked(earlier, earlier > t, message), x


def _path_times(sde: AbstractLinearSDE, t: Scalar, earlier: Scalar, steps: int) -> Float[Array, " times"]:
    inner = log_snr_times(sde, t, earlier, jnp.arange(1, steps, dtype=t.dtype) / steps)
    times = jnp.concatenate([t[None], inner.astype(t.dtype), earlier[None]])
    # The inverse of the log-SNR is rounded: between times that are nearly equal it may leave the window or go back.
    return jax.lax.cummin(jnp.clip(times, earlier, t))
