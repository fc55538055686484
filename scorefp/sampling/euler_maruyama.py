"""Euler–Maruyama on the reverse SDE."""

from .._checks import random_key
from .._types import Event, Key, Scalar
from ..reverse import euler_maruyama_step
from ..score import AbstractScore
from .base import AbstractStepSampler
from .grid import Grid, uniform_grid


class EulerMaruyama(AbstractStepSampler):
    r"""Euler–Maruyama on the reverse SDE of any SDE [G1], [S6] (Song 2021, Eq. 2). A step from $t$ to $t' < t$ is

    $$ x \leftarrow x - (t - t')\,\big(f - \nabla\cdot(GG^\top) - GG^\top s\big) + \sqrt{t - t'}\,G\,\epsilon. $$

    One compiled loop; the laws of the samples converge at order one in the steps. One evaluation of the score a step.

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

    def step(self, score: AbstractScore, t: Scalar, earlier: Scalar, x: Event, *, key: Key | None) -> Event:
        return euler_maruyama_step(score, t, earlier, x, random_key(type(self).__name__, key))
