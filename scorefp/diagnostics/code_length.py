"""The lossless code length of levels over a set of samples."""

import dataclasses
from typing import ClassVar

import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import Array, Integer

from .._checks import require
from .._describe import described
from .._module import AbstractModule
from .._types import Key
from ..dataset import Dataset, Quantisation
from ..likelihood import BoundEstimator, Encoder, LikelihoodBound, code_length
from ..likelihood._levels import level_start
from ..score import AbstractScore
from ..score.score import linear_sde
from ._bounds import bound_section, check_draws
from ._repeats import Unit, check_samples, in_repeats, told
from .measure import AbstractMeasure, Section


class CodeLength(AbstractMeasure):
    r"""The upper bound of the lossless code length of levels under the reverse SDE [K10], in bits per dimension.

    It needs no dequantisation and is what lossless codecs are measured by; see `likelihood.code_length`. Three numbers:
    the **mean** with its Student-t interval over points [K8], which covers the noise of the draws; the part of the
    **decoder** in it, $-E[\log P_\theta(k \mid x_\varepsilon)]$; and the **standard error of one point** by its draws,
    in the mean.

    Its draws are its own: they start at another time than those of `Bound`, and it costs what that costs.

    Args:
        samples: How many samples, drawn without replacement; all of them for `None`.
        estimator: The draws for each sample, of which each evaluates the score four times, the law of their times, the
            truncation and the trace.
        batch_size: How many samples are taken at once, over all devices, each with all its draws.
        repeats: How often each sample is taken, with its own draws; its value is the mean.
        encoder: Where in its level a sample is before the noise: `"uniform"`, for scores that were trained on
            dequantised levels, or `"centre"`.

    Raises:
        TypeError: on a call, if the SDE has no Gaussian kernel.
        ValueError: if `samples`, `draws`, `batch_size` or `repeats` is too small, `truncation` is not `"denoised"`, or
            `encoder` another word; on a call, if the data are floats, which have no code length.

    Example:
        >>> import jax, scorefp as sfp
        >>> data = sfp.Dataset(jax.random.randint(jax.random.key(0), (400, 2), 0, 4), sfp.Quantisation(4, -2.0, 2.0))
        >>> section = sfp.diagnostics.CodeLength()(sfp.Score(lambda t, x: -x, sfp.VP()), data, key=jax.random.key(1))
        >>> code = section.numbers["code_length"]
        >>> bool(code.value + 2 * code.half_width > 2), code.unit  # the entropy of the data is two bits
        (True, 'bits/dim')
    """

    samples: int | None = None
    estimator: BoundEstimator = BoundEstimator(draws=32)
    batch_size: int = 64
    repeats: int = 1
    encoder: Encoder = "uniform"

    needs_kernel: ClassVar[bool] = True
    needs_levels: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_samples(self.samples, self.batch_size, self.repeats)
        check_draws(self.estimator)
        truncation = self.estimator.truncation
        require(
            truncation == "denoised",
            f'truncation = {truncation!r}; a code length needs "denoised", whose last step is its decoder.',
        )

    def section(self, score: AbstractScore, data: Dataset, *, key: Key, mesh: Mesh | None) -> Section:
        levels = data.levels
        if levels is None:
            raise ValueError(
                "the data are floats, which have no code length. Give levels with their quantisation, as a Dataset, or "
                "measure Bound()."
            )
        sde, estimator = linear_sde(score), self.estimator
        if estimator.start is None:
            # Here, where the parameters of the SDE are known.
            estimator = dataclasses.replace(estimator, start=level_start(sde, levels))
        sample_key, key = jr.split(key)
        chosen, _ = data.drawn(self.samples, key=sample_key)
        found, _ = in_repeats(
            _Code(estimator, self.encoder, levels),
            score,
            chosen,
            None,
            self.repeats,
            key=key,
            batch_size=self.batch_size,
            mesh=mesh,
        )
        unit = Unit(data.size, levels)
        return bound_section(
            "code",
            unit,
            {
                "code_length": unit.part(found.value),
                "decoding": unit.part(found.denoising),
                "point_error": unit.part(found.error),
            },
            f"{told(len(chosen), self.repeats, None).rstrip(',')}, {levels.levels} levels on [{levels.low:g}, "
            f'{levels.high:g}] by the encoder "{self.encoder}" and a decoder at t = {estimator.start:.3g}, with '
            f"{estimator.draws} draws of {described(estimator.time)} each.",
        )


class _Code(AbstractModule):
    """The code length of one sample."""

    estimator: BoundEstimator
    encoder: Encoder
    quantisation: Quantisation

    def __call__(self, score: AbstractScore, k: Integer[Array, "*event"], key: Key) -> LikelihoodBound:
        return code_length(
            score, k, quantisation=self.quantisation, key=key, estimator=self.estimator, encoder=self.encoder
        )
