"""The bound of the reverse SDE over a set of samples."""

from typing import ClassVar

import equinox as eqx
import jax.random as jr
from jaxtyping import Array, Float, Int

from .._batches import in_batches
from .._checks import require
from .._module import AbstractModule
from .._types import Key
from ..likelihood import evaluate_bound
from ..score import AbstractScore, linear_sde
from ..time import AbstractTimeSampler, UniformLogSNR
from .configuration import described
from .likelihood import Unit
from .measure import AbstractMeasure, CleanSamples, Section
from .statistics import mean_of


class Bound(AbstractMeasure):
    r"""The upper bound of the negative log-likelihood of the reverse SDE [K3], with the denoising step at `t0` [K4]:
    bits per dimension where the samples have a quantisation, nats a sample where they have none.

    Three numbers: the **mean** with its Student-t interval over points [K8], which covers the noise of the draws; what
    of it the **denoising step** contributes, $-E[\log q_\theta(x \mid x') - \log q(x' \mid x)]$ with $x'$ at `t0`, near
    zero where the score is right there; and the **standard error of one point** by its draws, in the mean.

    The exact score has a mean bound equal to the entropy of the data, up to the prior and to `t0` (Song 2021,
    Theorem 2).

    Args:
        samples: How many samples, drawn without replacement; all of them for `None`.
        draws: Times a sample. A draw evaluates the score four times.
        time: How they are drawn.
        batch_size: How many samples are taken at once, each with all its draws.

    Raises:
        TypeError: on a call, if the SDE has no Gaussian kernel.
        ValueError: if `samples`, `draws` or `batch_size` is too small.

    Example:
        >>> import jax, scorefp as sfp
        >>> from scorefp.diagnostics import Bound, CleanSamples
        >>> x = CleanSamples(jax.random.normal(jax.random.key(0), (400, 2)))
        >>> section = Bound()(sfp.Score(lambda t, x: -x, sfp.VP()), x, key=jax.random.key(1))
        >>> bound = section.numbers["bound"]
        >>> bool(abs(bound.value - 2.838) < 2 * bound.error)
        True
    """

    samples: int | None = None
    draws: int = 32
    time: AbstractTimeSampler = UniformLogSNR()
    batch_size: int = 64

    needs_kernel: ClassVar[bool] = True

    def __check_init__(self) -> None:
        require(
            self.samples is None or self.samples >= 2,
            f"samples = {self.samples}; a confidence interval needs at least two samples.",
        )
        require(self.draws >= 2, f"draws = {self.draws}; the standard error of a point needs at least two draws.")
        require(self.batch_size >= 1, f"batch_size = {self.batch_size}; at least one sample is taken at once.")

    def __call__(self, score: AbstractScore, x: CleanSamples, *, key: Key) -> Section:
        linear_sde(score)
        sample_key, key = jr.split(key)
        chosen, _ = x.drawn(self.samples, key=sample_key)
        found = _bounds(score, chosen, self.draws, self.time, key, self.batch_size)
        unit = Unit(x.size, x.quantisation)
        name = unit.name
        return Section(
            "bound",
            {
                "bound": mean_of(unit.negative(-found.value), name, "bound of the SDE, mean"),
                "denoising": mean_of(unit.part(found.denoising), name, "of it the denoising step"),
                "point_error": mean_of(unit.part(found.error), name, "standard error of one sample, mean"),
            },
            {},
            (f"{chosen.count} samples with {self.draws} draws of {described(self.time)} each.",),
        )


class _Bounds(AbstractModule):
    """Of each sample, in nats: the bound, its standard error, and the share of the denoising step."""

    value: Float[Array, "*n"]
    error: Float[Array, "*n"]
    denoising: Float[Array, "*n"]


@eqx.filter_jit
def _bounds(
    score: AbstractScore, x: CleanSamples, draws: int, time: AbstractTimeSampler, key: Key, batch_size: int
) -> _Bounds:
    def one(row: Int[Array, ""]) -> _Bounds:
        own = jr.fold_in(key, row)
        found = evaluate_bound(x.bind(score, row), x.values[row], key=own, draws=draws, time=time)
        return _Bounds(found.value, found.error, found.denoising - found.kernel_entropy)

    return in_batches(one, x.count, batch_size)
