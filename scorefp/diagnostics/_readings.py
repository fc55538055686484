"""Quantities over time and samples, reported as numbers, curves and points."""

import numpy as np
from jaxtyping import Float

from .._describe import described
from .._module import AbstractModule
from ..dataset import Dataset
from ._intervals import mean_curve, mean_number, root_mean_curve, root_mean_number
from .ensemble import Ensemble
from .measure import Curve, Number, Section


def taken(ensemble: Ensemble, data: Dataset, how: str) -> str:
    """A note on times, samples and method."""
    samples = min(ensemble.samples, len(data))
    return f"{samples} samples at each of {ensemble.times} times of {described(ensemble.grid)}; {how}."


class Reading(AbstractModule):
    """One quantity over time and samples, as a number, a curve and points: its mean, or the root of its mean."""

    values: Float[np.ndarray, "times n"]
    unit: str
    words: str
    label: str
    root: bool = True
    scale: float = 1.0

    def number(self) -> Number:
        points = self.values.mean(axis=0)
        if self.root:
            return root_mean_number(points, self.unit, self.words, scale=self.scale)
        return mean_number(points, self.unit, self.words)

    def curve(self, t: Float[np.ndarray, " times"]) -> Curve:
        if self.root:
            return root_mean_curve(t, self.values, self.unit, self.label, scale=self.scale)
        return mean_curve(t, self.values, self.unit, self.label)


def section_of(title: str, t: Float[np.ndarray, " times"], readings: dict[str, Reading], notes: list[str]) -> Section:
    return Section(
        title,
        {name: reading.number() for name, reading in readings.items()},
        {name: reading.curve(t) for name, reading in readings.items()},
        tuple(notes),
        {name: reading.values.mean(axis=0) for name, reading in readings.items()},
    )


def ratio(first: Float[np.ndarray, "*curve n"], second: Float[np.ndarray, "*curve n"]) -> Float[np.ndarray, "*curve n"]:
    """Values of each sample whose mean is the ratio of two means, and whose spread is that of the ratio to first
    order.
    """
    below = np.mean(second, axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.mean(first, axis=-1, keepdims=True) / below
        return share + (first - share * second) / below
