"""The bound of the reverse SDE over a set of samples."""

from typing import ClassVar

import jax.random as jr
from jax.sharding import Mesh

from .._describe import described
from .._types import Event, Key
from ..dataset import AbstractDequantiser, Dataset
from ..likelihood import BoundEstimator, LikelihoodBound, evaluate_bound
from ..score import AbstractScore
from ._bounds import bound_section, check_draws
from ._repeats import Unit, check_samples, in_repeats, own_dequantiser, told
from .measure import AbstractMeasure, Section


class Bound(AbstractMeasure):
    r"""The upper bound of the negative log-likelihood of the reverse SDE [K3], with the denoising step at `t0` [K4]:
    bits per dimension where the samples have a quantisation, nats a sample where they have none.

    Three numbers: the **mean** with its Student-t interval over points [K8], which covers the noise of the draws; the
    part of the **denoising step** in it, $-E[\log q_\theta(x \mid x') - \log q(x' \mid x)]$ with $x'$ at `t0`, near
    zero where the score is right there; and the **standard error of one point** by its draws, in the mean.

    The exact score has a mean bound equal to the entropy of the data, up to the prior and to `t0` (Song 2021,
    Theorem 2).

    Args:
        samples: How many samples, drawn without replacement; all of them for `None`.
        estimator: The draws for each sample, of which each evaluates the score four times, the law of their times, the
            truncation and the trace.
        batch_size: How many samples are taken at once, over all devices, each with all its draws.
        repeats: How often each sample is taken, with its own draws; its value is the mean. Levels are dequantised
            anew each time.
        dequantiser: The noise inside levels; its term is part of the bound (Song 2021, Eq. 13). `None` is uniform
            noise.

    Raises:
        TypeError: on a call, if the SDE has no Gaussian kernel.
        ValueError: if `samples`, `draws`, `batch_size` or `repeats` is too small; on a call, if a dequantiser is given
            for floats, or has another quantisation than the data.

    Example:
        >>> import jax, scorefp as sfp
        >>> x = jax.random.normal(jax.random.key(0), (400, 2))
        >>> section = sfp.diagnostics.Bound()(sfp.Score(lambda t, x: -x, sfp.VP()), x, key=jax.random.key(1))
        >>> bound = section.numbers["bound"]
        >>> bool(abs(bound.value - 2.838) < 2 * bound.half_width)
        True
    """

    samples: int | None = None
    estimator: BoundEstimator = BoundEstimator(draws=32)
    batch_size: int = 64
    repeats: int = 1
    dequantiser: AbstractDequantiser | None = None

    needs_kernel: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_samples(self.samples, self.batch_size, self.repeats)
        check_draws(self.estimator)

    @property
    def needs_levels(self) -> bool:
        return self.repeats > 1 or self.dequantiser is not None

    def section(self, score: AbstractScore, data: Dataset, *, key: Key, mesh: Mesh | None) -> Section:
        sample_key, key = jr.split(key)
        chosen, _ = data.drawn(self.samples, key=sample_key)
        dequantiser = own_dequantiser(data, self.dequantiser)
        found, log_noise = in_repeats(
            self._at, score, chosen, dequantiser, self.repeats, key=key, batch_size=self.batch_size, mesh=mesh
        )
        unit = Unit(data.size, data.quantisation)
        return bound_section(
            "bound",
            unit,
            {
                "bound": unit.negative(-found.value - log_noise),
                "denoising": unit.part(found.denoising - found.kernel_entropy),
                "point_error": unit.part(found.error),
            },
            f"{told(len(chosen), self.repeats, dequantiser)} with {self.estimator.draws} draws of "
            f"{described(self.estimator.time)} each.",
        )

    def _at(self, score: AbstractScore, x: Event, key: Key) -> LikelihoodBound:
        return evaluate_bound(score, x, key=key, estimator=self.estimator)
