"""The reverse SDE and the probability-flow ODE as samplers: by Euler's methods on a grid, and adaptively."""

from .._checks import random_key
from .._types import Event, Key, Scalar
from ..reverse import Integrator, euler_maruyama_step, flow_map
from ..score import AbstractScore
from ..score.score import require_score
from .grid import Grid, default_grid
from .sampler import AbstractSampler, AbstractStepSampler, start_of


class EulerMaruyama(AbstractStepSampler):
    r"""Euler–Maruyama on the reverse SDE of any SDE [G1], [S6] (Song 2021, Eq. 2). A step from $t$ to $t' < t$ is

    $$ x \leftarrow x - (t - t')\,\big(f - \nabla\cdot(GG^\top) - GG^\top s\big) + \sqrt{t - t'}\,G\,\epsilon. $$

    One compiled loop; the laws of the samples converge at order one in the steps. One evaluation of the score a step.

    Args:
        steps: The number of steps.
        grid: Called as `grid(sde, steps)`: `default_grid`, even in log-SNR where the SDE is linear, `uniform_grid` or
            any function that returns `steps + 1` times which go down from `t1` to `t0`.

    Raises:
        ValueError: if `steps` is below one; on a call, if the times of the grid are not as above.

    Example:
        >>> import jax, scorefp as sfp
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP(), shape=(2,))
        >>> sfp.sample(standard, 3, key=jax.random.key(0), method=sfp.EulerMaruyama(steps=10)).shape
        (3, 2)
    """

    steps: int = 1000
    grid: Grid = default_grid

    def step(self, score: AbstractScore, t: Scalar, earlier: Scalar, x: Event, *, key: Key | None) -> Event:
        return euler_maruyama_step(score, t, earlier, x, random_key(type(self).__name__, key))


class Euler(AbstractStepSampler):
    r"""Euler's method on the probability-flow ODE [G1], [F0] (of Deveney 2023, Eq. 9). A step from $t$ to $t' < t$ is

    $$ x \leftarrow x - (t - t')\,u(t, x). $$

    One compiled loop; the samples converge at order one in the steps. With the same grid it makes as many evaluations
    as `EulerMaruyama`, and every sample takes the same steps.

    Args:
        steps: The number of steps.
        grid: Called as `grid(sde, steps)`: `default_grid`, even in log-SNR where the SDE is linear, `uniform_grid` or
            any function that returns `steps + 1` times which go down from `t1` to `t0`.

    Raises:
        ValueError: if `steps` is below one; on a call, if the times of the grid are not as above.

    Example:
        >>> import jax, scorefp as sfp
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP(), shape=(2,))
        >>> sfp.sample(standard, 3, key=jax.random.key(0), method=sfp.sampling.Euler(steps=10)).shape
        (3, 2)
    """

    steps: int = 1000
    grid: Grid = default_grid

    def step(self, score: AbstractScore, t: Scalar, earlier: Scalar, x: Event, *, key: Key | None) -> Event:
        return x - (t - earlier) * score.probability_flow(t, x)


class ProbabilityFlow(AbstractSampler):
    r"""The probability-flow ODE $dx/dt = u(t, x)$ of [F0], [S6] from `t1` to `t0` (Song 2021, Eq. 7).

    A deterministic and invertible map of the prior's samples; `log_likelihood` is the log-density of what comes out.

    Args:
        integrator: How the ODE is solved.

    Raises:
        TypeError: if `integrator` is none.
        RuntimeError: on a call, if the solver fails for a sample, unless the integrator has `throw=False`; the sample
            is NaN then.

    Example:
        >>> import jax, scorefp as sfp
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP(), shape=(2,))
        >>> sfp.sample(standard, 3, key=jax.random.key(0), method=sfp.ProbabilityFlow()).shape
        (3, 2)
    """

    integrator: Integrator = Integrator()

    def __call__(self, score: AbstractScore, x1: Event, *, key: Key | None = None) -> Event:
        sde, x1 = require_score(score).sde, start_of(self, score, x1, key)
        return flow_map(score, x1, start=sde.t1, stop=sde.t0, integrator=self.integrator).state
