"""Reports of a training run while it runs: to callbacks, on the console, and on held-out data."""

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Generic

import numpy as np
from jax.sharding import Mesh
from jaxtyping import ArrayLike, Float
from typing_extensions import TypeVar

from .._checks import kind, random_key
from .._console import Bar
from .._devices import one_row
from .._module import AbstractModule
from .._types import Key
from ..dataset import Dataset
from ..dataset.dataset import as_dataset
from ..diagnostics import AbstractMeasure, Likelihood, ResidualCurve, audit
from ..score import AbstractScore
from .loop import Span

Model_co = TypeVar("Model_co", bound=AbstractScore, covariant=True, default=AbstractScore)


class Report(AbstractModule, Generic[Model_co]):
    """The argument of callbacks, every `report_every` steps and at the end.

    Args:
        step: The number of steps taken.
        steps: The number of steps in all.
        first: The first step since the last report; a run that was resumed reports some steps a second time.
        metrics: Means over the steps since the last report: `"loss"`, its terms, `"gradient_norm"`; then
            `"seconds_per_step"`, and what `evaluate` returned where it ran.
        history: The loss, its terms and the norm of the gradient at each of these steps.
        model: The model with averaged parameters, on buffers of its own.
    """

    step: int
    steps: int
    first: int
    metrics: Mapping[str, float]
    history: Mapping[str, Float[np.ndarray, " steps"]]
    model: Model_co


def audit_on(
    data: Dataset | Float[ArrayLike, "n *event"],
    *,
    key: Key,
    measures: Sequence[AbstractMeasure] = (Likelihood(), ResidualCurve()),
    mesh: Mesh | None = None,
) -> Callable[[AbstractScore], dict[str, float]]:
    """An audit on held-out data, for `evaluate` of `fit`.

    All evaluations take the same samples with the same noise, so that their differences are those of the models. What
    they run is compiled at the first one. Give measures few samples, `Likelihood(samples=64)` for example: they stop
    the training.

    Args:
        data: A data set, with its quantisation and conditioning; or clean samples as floats, stacked along the leading
            axis.
        key: A random key.
        measures: The measures, as in `audit`.
        mesh: The devices that share the work of every measure, those of the training for example; `None` is one device.
            With several processes and a mesh every process calls the function, as `fit` does.

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
    one_row(mesh)
    held_out, key = as_dataset(data), random_key("audit_on", key)
    for measure in kind("measures", measures, Sequence, "It is a sequence of measures, such as (Likelihood(),)."):
        kind("measures", measure, AbstractMeasure)

    def evaluate(score: AbstractScore) -> dict[str, float]:
        report = audit(score, held_out, key=key, measures=measures, mesh=mesh)
        return {
            f"{title}/{name}": number.value
            for title, section in report.sections.items()
            for name, number in section.numbers.items()
        }

    return evaluate


class Console:
    """The loss, its terms and the rate: beside a bar in terminals and notebooks, elsewhere in a line now and then.

    Args:
        start: How many steps are taken already.
        steps: The number of steps in all.
        heading: The first line, if any.
        shown: Whether to show anything.
    """

    def __init__(self, start: int, steps: int, *, heading: str = "", shown: bool) -> None:
        self._bar = Bar(start, steps, heading=heading, shown=shown)

    def __enter__(self) -> "Console":
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def __call__(self, span: Span) -> None:
        loss, *terms, _ = span.history
        # A single term is the loss.
        names = [loss, *(terms if len(terms) > 1 else ())]
        shown = "  ".join(f"{name} {span.history[name].mean():.4g}" for name in names)
        self._bar(span.stop, f"{shown}  {1 / span.seconds_per_step:.3g} steps/s")
