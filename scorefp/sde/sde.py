"""The interface of forward processes."""

from abc import abstractmethod
from typing import ClassVar

import equinox as eqx
import lineax as lx

from .._checks import require
from .._module import AbstractModule
from .._types import Event, Time
from .prior import AbstractPrior


class _SDEFields:
    t0: eqx.AbstractVar[float]
    t1: eqx.AbstractVar[float]
    prior: eqx.AbstractVar[AbstractPrior]


class AbstractSDE(AbstractModule, _SDEFields):
    r"""A forward process $dx = f(x,t)\,dt + G(x,t)\,dw$ on $[t_0, t_1]$ [S1].

    Methods take one physical time and one sample of any event shape. `t0` is where data live, `t1` where the law is
    close to `prior`, a density with `log_prob(x)` and `sample(key, shape)`; generation runs from `t1` to `t0`.
    """

    remedy: ClassVar[str] = "It is the forward process, for example scorefp.VP()."

    @abstractmethod
    def drift(self, t: Time, x: Event) -> Event:
        r"""The drift $f(x,t)$."""

    @abstractmethod
    def diffusion(self, t: Time, x: Event) -> lx.AbstractLinearOperator:
        r"""The diffusion $G(x,t)$ as a `lineax` operator, in the form that `diffrax.ControlTerm` takes."""

    @abstractmethod
    def covariance(self, t: Time, x: Event, v: Event) -> Event:
        r"""The product $G G^\top v$ of the instantaneous covariance with a vector."""

    @abstractmethod
    def covariance_divergence(self, t: Time, x: Event) -> Event:
        r"""The row divergence $\nabla\cdot(GG^\top)$; zero when $G$ does not depend on $x$."""

    def probability_flow(self, t: Time, x: Event, score: Event) -> Event:
        r"""The velocity $u = f - \tfrac12\nabla\cdot(GG^\top) - \tfrac12 GG^\top s$ of the probability-flow ODE
        [F0], [S6] (Song 2021, Eq. 7).

        Args:
            t: The time.
            x: One sample.
            score: The score at `(t, x)`.
        """
        return self.drift(t, x) - 0.5 * (self.covariance_divergence(t, x) + self.covariance(t, x, score))

    def reverse_drift(self, t: Time, x: Event, score: Event) -> Event:
        r"""The drift $f - \nabla\cdot(GG^\top) - GG^\top s$ of the reverse SDE in physical time [S6] (Song 2021,
        Eq. 2).

        Going from `t1` to `t0`, a step of length `dt > 0` adds `-dt` times this drift.

        Args:
            t: The time.
            x: One sample.
            score: The score at `(t, x)`.
        """
        return self.drift(t, x) - self.covariance_divergence(t, x) - self.covariance(t, x, score)


def check_horizon(t0: float, t1: float, *, lowest: float = 0.0) -> None:
    """Refuses an empty or reversed horizon, or one that starts below `lowest`."""
    require(
        lowest <= t0 < t1,
        f"the horizon is [t0, t1] = [{t0}, {t1}]; it needs {lowest} <= t0 < t1. "
        "t0 is the time of the data, t1 that of the prior.",
    )
