"""What a training run tells while it runs."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from .._module import AbstractModule
from ..score import AbstractScore


class Report(AbstractModule):
    """What callbacks are called with, every `report_every` steps and at the end.

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
    model: AbstractScore
