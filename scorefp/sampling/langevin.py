"""Langevin dynamics with the score at one time."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, Int

from .._checks import count, number, positive, random_key
from .._times import known_time_within, scalar_time, time_within
from .._types import Event, Key, Scalar, Time
from ..score import AbstractScore
from ..score.score import require_score
from .sampler import AbstractSampler, start_of


class Langevin(AbstractSampler):
    r"""Unadjusted Langevin dynamics with the score at one time $t$ [G3], the score as a force. A step of size $h$ is

    $$ x \leftarrow x + h\,s(t, x) + \sqrt{2h}\,\epsilon. $$

    As $h \to 0$, and after many steps, the samples have the law whose score is $s(t, \cdot)$. At a small $t$ that is a
    third law of samples beside those of the ODE and the SDE; the three differ where the score breaks the
    Fokker–Planck equation (Plainer 2025). For normal data of variance $v$ the law at a step $h < 2v$ is normal with the
    variance $v / (1 - h / 2v)$, so take $h$ well below the smallest variance, also that of the noise at $t$.

    Between modes it moves slowly. It starts at the `initial` of `sample`, else at draws from the prior.

    Args:
        steps: The number of steps.
        step_size: $h$, in squared units of the samples.
        t: The time; `None` is `t0`.

    Raises:
        TypeError: if `step_size` or `t` is no number.
        ValueError: if `steps` is below one or `step_size` is not positive and finite; on a call, if `t` is outside
            `[t0, t1]`.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> narrow = sfp.Score(lambda t, x: -x / 0.01, sfp.VP())
        >>> method = sfp.Langevin(steps=200, step_size=2e-4)
        >>> x = sfp.sample(narrow, 1000, key=jax.random.key(0), method=method, initial=jnp.ones((1000, 2)))
        >>> bool(abs(x.std() - 0.1) < 0.01)
        True
    """

    steps: int
    step_size: Float[ArrayLike, ""]
    t: Time | None = None

    def __check_init__(self) -> None:
        count("steps", self.steps, 1)
        positive("step_size", self.step_size)
        if self.t is not None:
            number("t", self.t)

    def __call__(self, score: AbstractScore, x1: Event, *, key: Key) -> Event:
        sde, x1 = require_score(score).sde, start_of(self, score, x1, random_key(type(self).__name__, key))
        given = sde.t0 if self.t is None else self.t
        known_time_within(given, sde.t0, sde.t1, x1)
        t = time_within(scalar_time(given, x1), sde.t0, sde.t1)
        length = jnp.asarray(self.step_size, x1.dtype)

        def step(x: Event, index: Int[Array, ""]) -> tuple[Event, None]:
            return langevin_step(score, t, x, length, jr.fold_in(key, index)), None

        return jax.lax.scan(step, x1, jnp.arange(self.steps))[0]


def langevin_step(score: AbstractScore, t: Scalar, x: Event, length: Scalar, key: Key) -> Event:
    """One step of unadjusted Langevin dynamics at the time `t`."""
    noise = jr.normal(key, x.shape, x.dtype)
    return (x + length * score(t, x) + jnp.sqrt(2 * length) * noise).astype(x.dtype)
