"""Euler–Maruyama on the reverse SDE."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int

from .._checks import require
from .._types import Event, Key, Scalar
from ..score import AbstractScore
from .base import AbstractSampler
from .grid import Grid, times_of, uniform_grid


class EulerMaruyama(AbstractSampler):
    r"""Euler–Maruyama on the reverse SDE of any SDE [G1], [S6] (Song 2021, Eq. 2). A step from $t$ to $t' < t$ is

    $$ x \leftarrow x - (t - t')\,\big(f - \nabla\cdot(GG^\top) - GG^\top s\big) + \sqrt{t - t'}\,G\,\epsilon. $$

    One compiled loop; the laws of the samples converge at order one in the steps.

    Args:
        steps: The number of steps.
        grid: Called as `grid(sde, steps)`: `uniform_grid`, `log_snr_grid` or any function that returns `steps + 1`
            descending times.

    Raises:
        ValueError: if `steps` is below one; on a call, if the grid has another number of times.

    Example:
        >>> import jax, scorefp as sfp
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP(), shape=(2,))
        >>> sfp.sample(standard, 3, key=jax.random.key(0), method=sfp.EulerMaruyama(steps=10)).shape
        (3, 2)
    """

    steps: int = 1000
    grid: Grid = uniform_grid

    def __check_init__(self) -> None:
        require(self.steps >= 1, f"steps = {self.steps}; a sampler needs at least one step.")

    def __call__(self, score: AbstractScore, x1: Event, *, key: Key) -> Event:
        times = times_of(self.grid, score.sde, self.steps, x1)

        def step(x: Event, now: tuple[Scalar, Scalar, Int[Array, ""]]) -> tuple[Event, None]:
            t, earlier, index = now
            length = t - earlier
            diffusion = score.sde.diffusion(t, x)
            noise_like = diffusion.in_structure()
            noise = jr.normal(jr.fold_in(key, index), noise_like.shape, noise_like.dtype)
            moved = x - length * score.reverse_drift(t, x) + jnp.sqrt(length) * diffusion.mv(noise)
            return moved.astype(x.dtype), None

        return jax.lax.scan(step, x1, (times[:-1], times[1:], jnp.arange(self.steps)))[0]
