"""The error and the bias of a statistic by the jackknife, which leaves out one part of the samples after the other."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ..integrals import Estimate


def estimate(value: float, *left_out: Float[np.ndarray, " groups"]) -> Estimate:
    r"""A statistic of independent sets with its standard error,
    $\mathrm{se}^2 = \sum \frac{B - 1}{B}\sum_b (T_{(-b)} - \bar T)^2$ over the sets.

    Args:
        value: The statistic of all samples.
        left_out: Of each set, the statistic without each of its parts.
    """
    variance = sum((len(t) - 1) * float(np.var(t)) for t in left_out)
    return Estimate(jnp.asarray(value), jnp.asarray(math.sqrt(variance)))


def excess(value: float, left_out: Float[np.ndarray, " groups"], n: int, counts: Sequence[int]) -> float:
    r"""The part $c/n$ of a statistic, from those without a part of the samples: the slope in $1/n$, over $n$.

    The fluctuations of first order are those of the samples left out, of sum zero: they are not in the difference.

    Args:
        value: The statistic of all samples.
        left_out: The statistic without each part.
        n: How many samples there are.
        counts: How many samples are left without each part.
    """
    return (float(np.mean(left_out)) - value) / (n * float(np.mean(1 / np.asarray(counts))) - 1)
