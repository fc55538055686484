"""The probability-flow ODE as a sampler."""

from .._types import Event, Key
from ..flow import Integrator, transport
from ..score import AbstractScore
from .base import AbstractSampler


class ProbabilityFlow(AbstractSampler):
    r"""The probability-flow ODE $dx/dt = u(t, x)$ of [F0], [S6] from `t1` to `t0` (Song 2021, Eq. 7).

    A deterministic and invertible map of the prior's samples; `log_likelihood` is the log-density of what comes out.

    Args:
        integrator: How the ODE is solved.

    Raises:
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
        sde = score.sde
        return transport(score, x1, start=sde.t1, stop=sde.t0, integrator=self.integrator).state
