"""What the sections of the bounds of the reverse SDE have in common."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from .._checks import require
from ..likelihood import BoundEstimator
from ._intervals import mean_number
from ._repeats import Unit
from .measure import Section

_LABELS = {
    "bound": "bound of the SDE, mean",
    "denoising": "denoising step, part of the bound",
    "code_length": "code length of the SDE, mean",
    "decoding": "decoder, part of the code length",
    "point_error": "standard error of one sample, mean",
}


def check_draws(estimator: BoundEstimator) -> None:
    """Refuses an estimator whose points have no standard error."""
    draws = estimator.draws
    require(draws >= 2, f"draws = {draws}; the standard error of a point needs at least two draws.")


def bound_section(name: str, unit: Unit, repeats: Mapping[str, Float[np.ndarray, "repeats n"]], note: str) -> Section:
    """A section of the means over points, from the values of each repeat."""
    points = {name: values.mean(axis=0) for name, values in repeats.items()}
    numbers = {name: mean_number(values, unit.name, _LABELS[name]) for name, values in points.items()}
    return Section(name, numbers, {}, (note,), points)
