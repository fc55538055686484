"""What a sampler is: a way to take one sample from `t1` to `t0`; and one that goes by steps of a grid."""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int

from .._checks import require
from .._module import AbstractModule
from .._types import Event, Key, Scalar
from ..score import AbstractScore
from .grid import Grid, RhoGrid, times_of


class AbstractSampler(AbstractModule):
    """A way to take one sample of the prior at `t1` to a sample at `t0` [G1].

    It sees one sample; `sample` draws the prior, batches and compiles.
    """

    @abstractmethod
    def __call__(self, score: AbstractScore, x1: Event, *, key: Key) -> Event:
        """The sample at `t0` that starts from `x1` at `t1`."""


class AbstractStepSampler(AbstractSampler):
    """A sampler that repeats one step over a grid of times, in one compiled loop.

    A step knows nothing of the steps before it. `PredictorCorrector` takes any of these for its predictor. The key is
    not needed where the steps draw no noise.
    """

    if TYPE_CHECKING:
        steps: ClassVar[int]
        grid: ClassVar[Grid | RhoGrid]  # A callable alone would be taken for a method.
    else:
        steps: eqx.AbstractVar[int]
        grid: eqx.AbstractVar[Grid]

    def __check_init__(self) -> None:
        check_steps(self.steps)

    @abstractmethod
    def step(self, score: AbstractScore, t: Scalar, earlier: Scalar, x: Event, *, key: Key | None) -> Event:
        """The state at the time `earlier`, from the state `x` at `t`."""

    def __call__(self, score: AbstractScore, x1: Event, *, key: Key | None = None) -> Event:
        times = times_of(self.grid, score.sde, self.steps, x1)

        def step(x: Event, now: tuple[Scalar, Scalar, Int[Array, ""]]) -> tuple[Event, None]:
            t, earlier, index = now
            step_key = None if key is None else jr.fold_in(key, index)
            return self.step(score, t, earlier, x, key=step_key).astype(x.dtype), None

        return jax.lax.scan(step, x1, (times[:-1], times[1:], jnp.arange(self.steps)))[0]


def check_steps(steps: int) -> None:
    """Refuses a sampler without steps."""
    require(steps >= 1, f"steps = {steps}; a sampler needs at least one step.")
