"""The interface of forward processes."""

from abc import abstractmethod
from typing import ClassVar

import equinox as eqx
import jax
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from .._checks import floats, is_concrete, real, require, sample
from .._module import AbstractModule
from .._times import nearly_within, no_steps, scalar_time
from .._types import Event, Scalar, Time, Times
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
    for name, end in (("t0", t0), ("t1", t1)):
        if isinstance(end, jax.Array):
            raise TypeError(f"{name} is an array; an end of the horizon is static: pass float({name}).")
    require(
        lowest <= t0 < t1,
        f"the horizon is [t0, t1] = [{t0}, {t1}]; it needs {lowest} <= t0 < t1. "
        "t0 is the time of the data, t1 that of the prior.",
    )


def times_within(sde: AbstractSDE, t: Times, name: str = "t") -> Float[Array, "*times"]:
    """The times, refused where they are known and lie outside the horizon or before the data at zero.

    All an SDE does takes times from here: from `t0`, or from zero where that is earlier (there the data have no noise),
    to `t1`, but for a few units of the last place. Of traced times only the dtype is looked at.
    """
    no_steps(name, t)
    times = floats(real(name, t))
    if all(map(is_concrete, jax.tree.leaves(t))):
        known, low, high = np.asarray(t, np.float64), min(sde.t0, 0.0), sde.t1
        outside = ~nearly_within(known, low, high, times.dtype)
        if outside.any():
            raise ValueError(
                f"{name} = {known[outside].flat[0]:g} lies outside [{low:g}, {high:g}], where "
                f"{type(sde).__name__}(t0={sde.t0:g}, t1={sde.t1:g}) is defined: from the data to the prior. Use a "
                "time inside it, or build the SDE with another horizon."
            )
    return times


def time_and_sample(sde: AbstractSDE, t: Time, x: Event) -> tuple[Scalar, Event]:
    """One time and one sample, refused where they are not; the time has the dtype of the sample."""
    x = sample("x", x)
    scalar = scalar_time(t, x)
    times_within(sde, t)
    return scalar, x
