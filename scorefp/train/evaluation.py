"""Measuring the model while it trains."""

from collections.abc import Callable, Sequence

from jaxtyping import ArrayLike

from .._types import Key
from ..diagnostics import AbstractMeasure, AuditData, Likelihood, ResidualCurve, audit
from ..score import AbstractScore


def audit_on(
    data: ArrayLike | AuditData,
    *,
    key: Key,
    measures: Sequence[AbstractMeasure] = (Likelihood(), ResidualCurve()),
) -> Callable[[AbstractScore], dict[str, float]]:
    """An audit on held-out data, for `evaluate` of `fit`.

    All evaluations take the same samples with the same noise, so that their differences are those of the models. What
    they run is compiled at the first one. Give measures few samples, `Likelihood(samples=64)` for example: they stop
    the training.

    Args:
        data: A data set such as `scorefp.data.Dataset`, with its quantisation and conditioning; or clean samples as
            floats, stacked along the leading axis.
        key: A random key.
        measures: What to measure, as in `audit`.

    Returns:
        A function of a score that returns the numbers of its audit by section and name, such as
        `"likelihood/bits_per_dim"` and `"residual/r_FP"`.

    Example:
        >>> import jax, scorefp as sfp
        >>> from scorefp import train
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> evaluate = train.audit_on(x, key=jax.random.key(1), measures=(sfp.diagnostics.MatchingCurve(),))
        >>> numbers = evaluate(sfp.Score(lambda t, x: -x, sfp.VP()))
        >>> bool(0 < numbers["matching/r_DSM_scale_free"] < 1)
        True
    """

    def evaluate(score: AbstractScore) -> dict[str, float]:
        report = audit(score, data, key=key, measures=measures)
        return {
            f"{title}/{name}": number.value
            for title, section in report.sections.items()
            for name, number in section.numbers.items()
        }

    return evaluate
