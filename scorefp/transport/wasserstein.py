"""The squared Wasserstein distance between samples, with its error [G2]."""

import math
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import ArrayLike, Float

from .._checks import count, host_samples, kind, optional_key, require, same_shape
from .._precision import measures
from .._types import Key
from ..integrals import Estimate
from .histogram import Histogram
from .plans import AbstractTransport, Assignment, Atoms, ExactTransport, Quantile


@measures
def wasserstein2(
    x: Float[ArrayLike, "n *event"] | Histogram,
    y: Float[ArrayLike, "m *event"] | Histogram,
    *,
    method: AbstractTransport | None = None,
    resamples: int = 0,
    key: Key | None = None,
) -> Estimate:
    r"""The squared Wasserstein distance between the laws of two sets of samples, with its standard error [G2]:

    $$ W_2^2(p, q) = \min_{\pi} E_{(x, y) \sim \pi} |x - y|^2 = \max_{f(x) + g(y) \le |x - y|^2} E_p f + E_q g. $$

    It is the number of Tables 1–3 of Deveney 2023. Its unit is length², that of a sum over all elements.

    **The error** comes from the optimal potentials $f$ and $g$ and costs no further solve:
    $\mathrm{se}^2 = \mathrm{Var}_p f / n + \mathrm{Var}_q g / m$, the central limit theorem of the transport cost
    (del Barrio & Loubes 2019) for independent sets of different laws; of one law it is too large. It is the spread
    around the mean over sets of this size. **That mean is above the distance of the laws**: two sets of one law are not
    at distance zero, and what is too much falls only like $n^{-2/D}$ in $D > 4$ dimensions. Compare with the distance
    of two sets of one law, as `ode_sde_gap` does.

    It runs on the host in float64, and has no gradient.

    Args:
        x: Samples, stacked along the leading axis; or a histogram.
        y: Samples of the same event shape, or a histogram where `x` is one.
        method: `Quantile()`, `Assignment()`, `ExactTransport()` or `Sinkhorn(epsilon)`. `None` is `Quantile()` for one
            element a sample, `Assignment()` for sets of equally many samples, and `ExactTransport()` for all else.
        resamples: How many bootstrap samples give the error in place of the potentials; each costs a solve.
        key: A random key, for the bootstrap.

    Returns:
        The squared distance and its standard error.

    Raises:
        ImportError: if the method needs an extra that is not installed.
        TypeError: if a sample is not floating, is traced, one argument is a histogram and the other is not, or another
            argument is of another kind.
        ValueError: if the event shapes differ, a sample is not finite, there are none, the method does not take these
            samples, `resamples` is 1 or negative, or the bootstrap has no key.
        RuntimeError: if the method's iterations run out.

    Example:
        >>> import jax, scorefp as sfp
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> print(sfp.wasserstein2(x, x + 0.5))
        0.5 ± 0.14
    """
    if isinstance(x, Histogram) != isinstance(y, Histogram):
        raise TypeError(
            "one of x and y is a Histogram and the other is not; make one of the samples: Histogram.of(samples, box)."
        )
    kind("method", method, (AbstractTransport, type(None)))
    require(
        count("resamples", resamples) == 0 or resamples >= 2,
        f"resamples = {resamples}; the bootstrap needs at least two, and 0 takes the error from the potentials.",
    )
    key = optional_key("the bootstrap", key, needed=resamples > 0)
    event, start = _atoms("x", x)
    other, end = _atoms("y", y)
    same_shape("a sample of y", other, "a sample of x", event)
    if method is None:
        method = _default(start, end)
    found = method(start, end)
    if key is None or resamples == 0:
        error = math.sqrt(start.variance(found.start) + end.variance(found.end))
    else:
        generator = np.random.default_rng(np.ravel(jr.key_data(key)).tolist())
        costs = [method(start.resampled(generator), end.resampled(generator)).cost for _ in range(resamples)]
        error = float(np.std(costs, ddof=1))
    return Estimate(jnp.asarray(found.cost), jnp.asarray(error))


def _atoms(name: str, x: Any) -> tuple[tuple[int, ...], Atoms]:
    """The event shape, and the law."""
    if isinstance(x, Histogram):
        full = x.weights > 0
        return x.box.shape, Atoms(x.centres[full].reshape(full.sum(), -1), x.weights[full], x.count)
    rows = host_samples(name, x)
    return rows.shape[1:], Atoms(rows.reshape(len(rows), -1), None, len(rows))


def _default(start: Atoms, end: Atoms) -> AbstractTransport:
    if start.points.shape[1] == 1:
        return Quantile()
    equal = len(start.points) == len(end.points) and start.weights is None and end.weights is None
    return Assignment() if equal else ExactTransport()
