"""Estimates with 95 % confidence intervals over independent points [K8]."""

import math

import numpy as np
from jaxtyping import Float
from scipy import special

from .measure import Curve, Number

NORMAL = 1.959963984540054
"""The 97.5 % quantile of the standard normal law."""


def mean_interval(
    values: Float[np.ndarray, "*curve n"],
) -> tuple[Float[np.ndarray, "*curve"], Float[np.ndarray, "*curve"]]:
    r"""Mean and Student-t half-width $t_{0.975,\,n-1}\,\text{std}/\sqrt n$ over the last axis, in float64 [K8].

    NaN for the half-width of fewer than two points.
    """
    values = np.asarray(values, np.float64)
    count = values.shape[-1]
    if count == 0:
        return np.full(values.shape[:-1], np.nan), np.full(values.shape[:-1], np.nan)
    # Arrays, also of no dimension, where NumPy returns scalars.
    mean = np.asarray(np.mean(values, axis=-1))
    if count == 1:
        return mean, np.full_like(mean, np.nan)
    quantile = float(special.stdtrit(count - 1, 0.975))
    # Beyond the range of float64 the interval is infinite, which is what it says.
    with np.errstate(over="ignore"):
        return mean, np.asarray(quantile * np.std(values, axis=-1, ddof=1) / math.sqrt(count))


def root_interval(
    mean: Float[np.ndarray, "*curve"], half: Float[np.ndarray, "*curve"]
) -> tuple[Float[np.ndarray, "*curve"], Float[np.ndarray, "*curve"]]:
    """The root of a mean square, and the longer side of the image of its interval.

    The estimate of a square may be negative: its root is then zero.
    """
    root = np.asarray(np.sqrt(np.maximum(mean, 0)))
    upper = np.sqrt(np.maximum(mean + half, 0))
    lower = np.sqrt(np.maximum(mean - half, 0))
    return root, np.asarray(np.maximum(upper - root, root - lower))


def median_interval(values: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """The median, and the longer side of its interval by order statistics; infinite values are allowed.

    The ranks are those of the normal approximation of the binomial law.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    count = ordered.size
    low = max(0, math.floor((count - NORMAL * math.sqrt(count)) / 2) - 1)
    with np.errstate(invalid="ignore"):
        median = float(np.median(ordered))
        return median, float(max(ordered[count - 1 - low] - median, median - ordered[low]))


def share_interval(hits: int | float, count: int) -> tuple[float, float]:
    """A share, and the longer side of its Wilson interval, which is not zero where nothing was hit.

    A point may be hit in part. Its variance is then below that of a hit or none, and the interval is too wide.
    """
    share = hits / count
    z2 = NORMAL**2 / count
    centre = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(share * (1 - share) * z2 + z2**2 / 4) / (1 + z2)
    return share, max(centre + half - share, share - centre + half)


def mean_number(values: Float[np.ndarray, " n"], unit: str, label: str) -> Number:
    """The mean over points."""
    mean, half = mean_interval(values)
    return _number(mean, half, unit, label)


def root_mean_number(values: Float[np.ndarray, " n"], unit: str, label: str, *, scale: float = 1.0) -> Number:
    """The root of the mean over points of unbiased squares, times `scale`."""
    root, half = root_interval(*mean_interval(values))
    return _number(np.asarray(scale * root), np.asarray(scale * half), unit, label)


def mean_curve(t: Float[np.ndarray, " times"], values: Float[np.ndarray, "times n"], unit: str, label: str) -> Curve:
    """The mean over points at each time."""
    return Curve(t, *mean_interval(values), unit, label)


def root_mean_curve(
    t: Float[np.ndarray, " times"],
    values: Float[np.ndarray, "times n"],
    unit: str,
    label: str,
    *,
    scale: float = 1.0,
) -> Curve:
    """The root of the mean over points of unbiased squares at each time, times `scale`."""
    root, half = root_interval(*mean_interval(values))
    return Curve(t, scale * root, scale * half, unit, label)


def _number(value: Float[np.ndarray, ""], half: Float[np.ndarray, ""], unit: str, label: str) -> Number:
    return Number(float(value), None if math.isnan(float(half)) else float(half), unit, label)
