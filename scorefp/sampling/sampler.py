"""The interface of samplers: from `t1` to `t0`, by steps of a grid, and with the last of the noise taken away."""

from abc import abstractmethod
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from .._checks import count, function, kind, random_key
from .._describe import name_of
from .._module import AbstractModule
from .._types import Event, Key, Scalar
from ..score import AbstractScore
from ..score.score import require_score, sample_of
from ..sde import AbstractSDE
from .grid import Grid, RhoGrid, from_t1, times_of


class AbstractSampler(AbstractModule):
    """A way to take one sample of the prior at `t1` to a sample at `t0` [G1].

    It sees one sample; `sample` draws the prior, batches and compiles.
    """

    remedy: ClassVar[str] = "It is a sampler, for example scorefp.Heun()."

    @abstractmethod
    def __call__(self, score: AbstractScore, x1: Event, *, key: Key) -> Event:
        """The sample at `t0` that starts from `x1` at `t1`, or at the first time of a grid that starts later."""


class AbstractPopulationSampler(AbstractModule):
    """A way to draw samples that go from `t1` to `t0` together, such as `FeynmanKac`, and are known by their weights.

    `sample` resamples them.
    """

    @abstractmethod
    def samples(
        self,
        score: AbstractScore,
        n: int,
        *,
        key: Key,
        shape: tuple[int, ...] | None,
        batch_size: int | None,
        dtype: DTypeLike | None,
        mesh: Mesh | None,
    ) -> Float[Array, "n *event"]:
        """`n` samples of equal weight, for the arguments of `sample`."""


def require_sampler(name: str, method: Any, example: str) -> AbstractSampler:
    """`method`, refused unless it draws each sample by itself."""
    if isinstance(method, AbstractPopulationSampler):
        raise TypeError(
            f"{name} is a {name_of(method)}, whose samples are drawn together and weighted; sample and "
            f"weighted_samples take it. Here each sample is drawn by itself, for example by {example}."
        )
    return kind(name, method, AbstractSampler, f"It is a sampler, for example {example}.")


class _GridSamplerFields:
    steps: eqx.AbstractVar[int]
    grid: eqx.AbstractVar[Grid | RhoGrid]  # A callable alone would be taken for a method.


class AbstractGridSampler(AbstractSampler, _GridSamplerFields):
    """A sampler whose steps go over a grid of times."""

    def __check_init__(self) -> None:
        count("steps", self.steps, 1)
        function("grid", self.grid, "sde, steps", "It is scorefp.sampling.log_snr_grid, for example.")

    def times(self, sde: AbstractSDE, dtype: np.dtype[Any]) -> Float[Array, " times"]:
        """The times of the grid in a dtype.

        Args:
            sde: Any SDE.
            dtype: That of the sample.

        Raises:
            ValueError: unless they are `steps + 1`, finite, inside the horizon, and go down at every step to `t0`.
        """
        return times_of(self.grid, sde, self.steps, dtype)


class AbstractStepSampler(AbstractGridSampler):
    """A sampler that repeats one step over a grid of times, in one compiled loop.

    A step knows nothing of the steps before it. `PredictorCorrector` takes any of these for its predictor. The key is
    not needed where the steps draw no noise.
    """

    remedy: ClassVar[str] = "It goes by independent steps, as scorefp.EulerMaruyama() and scorefp.Heun() do."

    @abstractmethod
    def step(self, score: AbstractScore, t: Scalar, earlier: Scalar, x: Event, *, key: Key | None) -> Event:
        """The state at the time `earlier`, from the state `x` at `t`."""

    def __call__(self, score: AbstractScore, x1: Event, *, key: Key | None = None) -> Event:
        x1 = start_of(self, score, x1, key)
        times = self.times(score.sde, x1.dtype)

        def step(x: Event, now: tuple[Scalar, Scalar, Int[Array, ""]]) -> tuple[Event, None]:
            t, earlier, index = now
            step_key = None if key is None else jr.fold_in(key, index)
            return self.step(score, t, earlier, x, key=step_key).astype(x.dtype), None

        return jax.lax.scan(step, x1, (times[:-1], times[1:], jnp.arange(self.steps)))[0]


class Denoised(AbstractSampler):
    r"""Any sampler, then the denoiser at `t0`: $x \leftarrow h(t_0, x) = (x + \sigma^2 s)/\alpha$ [P1], [G1].

    It is the step of Euler's method in $\sigma/\alpha$ to no noise at all with which Karras 2022 ends, and costs one
    evaluation. The noise of `t0` is gone, a smear of $\sigma(t_0)$; there is no likelihood of what comes out.

    Args:
        sampler: Any sampler.

    Raises:
        TypeError: if `sampler` is no sampler; on a call, if the SDE has no Gaussian kernel.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> point = sfp.GaussianMixture(jnp.ones((1, 2)), jnp.array([1e-8]), jnp.ones(1))
        >>> score = point.score(sfp.EDM(t0=0.1, t1=10.0))
        >>> x = sfp.sample(score, 3, key=jax.random.key(0), method=sfp.sampling.Denoised(sfp.DPMSolver(5)))
        >>> bool(abs(x - 1.0).max() < 1e-4)
        True
    """

    sampler: AbstractSampler

    def __call__(self, score: AbstractScore, x1: Event, *, key: Key) -> Event:
        x = self.sampler(score, start_of(self, score, x1, key), key=key)
        return score.denoise(score.sde.t0, x).astype(x.dtype)


def at_t1(method: Any, sde: AbstractSDE, start: Event) -> Event:
    """`start`, a draw of the prior, refused unless the grids in a method start at `t1`."""
    is_gridded = lambda node: isinstance(node, AbstractGridSampler)
    for sampler in filter(is_gridded, jax.tree.leaves(method, is_leaf=is_gridded)):
        start = from_t1(sampler.grid, sde, sampler.times(sde, start.dtype), start)
    return start


def start_of(sampler: AbstractSampler, score: AbstractScore, x1: Event, key: Key | None) -> Event:
    """The sample that a sampler starts from; refuses what is none, what is no score, and a key that is none."""
    if key is not None:
        random_key(type(sampler).__name__, key)
    return sample_of(require_score(score), x1, "x1")
