"""Predictor and corrector: Langevin dynamics between the steps of another sampler."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, Int

from .._checks import positive, random_key, require
from .._types import Event, Key, Scalar
from ..score import AbstractScore
from ..score.score import linear_sde
from .euler import EulerMaruyama
from .grid import Grid
from .langevin import langevin_step
from .sampler import AbstractStepSampler


class PredictorCorrector(AbstractStepSampler):
    r"""A step of another sampler from $t$ to $t'$, then steps of Langevin dynamics at $t'$ (Song 2021b, Algorithms 4
    and 5) [G1],

    $$ x \leftarrow x + \delta\,s(t', x) + \sqrt{2\delta}\,\epsilon, \qquad \delta = 2\,(r\,\sigma(t'))^2 . $$

    The paper has $\delta = 2\,(r\,\lVert\epsilon\rVert/\lVert s\rVert)^2$ with norms averaged over a batch. Their ratio
    is about $\sigma$ where noise is much more or much less than data, and larger in between. With the norms of one
    sample the step would depend on where the sample is, and such dynamics have another law.

    More predictor steps make no Langevin step smaller. In their limit the samples have the stationary law of the
    corrector at `t0`: for normal data whose variance there is $v$, the variance $v/(1 - r^2\sigma^2/v)$. Evaluations:
    those of the predictor and `corrections` a step.

    Args:
        predictor: Any sampler that goes by independent steps: `EulerMaruyama(steps, grid)`, `Heun(...)`.
        corrections: The number of Langevin steps at each time.
        ratio: $r$, the signal-to-noise ratio of a correction.

    Raises:
        TypeError: if the predictor does not go by independent steps, as `DPMSolver` and `ProbabilityFlow` do not; on a
            call, if the SDE has no Gaussian kernel.
        ValueError: if `corrections` is below one or `ratio` is not positive and finite; on a call, if `key` is `None`.

    Example:
        >>> import jax, scorefp as sfp
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP(), shape=(2,))
        >>> method = sfp.PredictorCorrector(sfp.EulerMaruyama(steps=10), corrections=2)
        >>> sfp.sample(standard, 3, key=jax.random.key(0), method=method).shape
        (3, 2)
    """

    predictor: AbstractStepSampler = EulerMaruyama()
    corrections: int = eqx.field(default=1, static=True)
    ratio: Float[ArrayLike, ""] = 0.16

    def __check_init__(self) -> None:
        require(self.corrections >= 1, f"corrections = {self.corrections}; without any, use the predictor alone.")
        positive("ratio", self.ratio)

    @property
    def steps(self) -> int:
        """The number of steps of the predictor."""
        return self.predictor.steps

    @property
    def grid(self) -> Grid:
        """The grid of the predictor."""
        return self.predictor.grid

    def step(self, score: AbstractScore, t: Scalar, earlier: Scalar, x: Event, *, key: Key | None) -> Event:
        predictor_key, corrector_key = jr.split(random_key(type(self).__name__, key))
        length = 2 * (jnp.asarray(self.ratio, x.dtype) * linear_sde(score).sigma(earlier)) ** 2
        predicted = self.predictor.step(score, t, earlier, x, key=predictor_key).astype(x.dtype)

        def correct(x: Event, index: Int[Array, ""]) -> tuple[Event, None]:
            return langevin_step(score, earlier, x, length, jr.fold_in(corrector_key, index)), None

        return jax.lax.scan(correct, predicted, jnp.arange(self.corrections))[0]
