"""Weighted samples and what is made of them: means, normalisers, samples of equal weight [W4]."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, Shaped

from .._checks import count, function, random_key
from .._module import AbstractModule
from .._precision import measures
from .._types import Event, Key
from ..integrals import Estimate


class WeightedSamples(AbstractModule):
    r"""Runs of particles with their weights.

    Args:
        samples: The particles at `t0`, those of a run along the second axis.
        log_weights: The logarithms of their weights, made to have the sum one over all runs: a run counts by its
            $Z$, as it must where runs are pooled.
        times: The times of the grid, from `t1` to `t0`.
        ess: The effective sample size of each run at these times, as a number of particles, before they are resampled
            there [W4].
        log_normalisers: $\log Z$ of each run, that of the mean of its weights: $Z$ is unbiased for $\int
            e^{\varphi(t_0, x)}\,dx$, up to the order of the steps. Without a potential it is $\int\prod_i
            q_i^{\beta_i}\,dx$ of the laws that the parts are the scores of.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp.sampling import WeightedSamples
        >>> log_weights = jnp.log(jnp.array([[0.1, 0.4], [0.4, 0.1]]))
        >>> runs = WeightedSamples(
        ...     jnp.array([[0.0, 1.0], [1.0, 0.0]]), log_weights, jnp.array([0.0]), jnp.ones((2, 1)), jnp.zeros(2)
        ... )
        >>> round(float(runs.mean(lambda x: x).value), 4)
        0.8
    """

    samples: Float[Array, "runs particles *event"]
    log_weights: Float[Array, "runs particles"]
    times: Float[Array, " times"]
    ess: Float[Array, "runs times"]
    log_normalisers: Float[Array, " runs"]

    @property
    def log_normaliser(self) -> Estimate:
        r"""$\log Z$ from the mean of $Z$ over the runs, with its standard error, NaN from one run."""
        runs = self.log_normalisers.size
        total = jax.nn.logsumexp(self.log_normalisers) - math.log(runs)
        shares = jnp.exp(self.log_normalisers - total)
        return Estimate(total, over_runs(shares - 1, runs))

    @measures
    def mean(self, fn: Callable[[Event], Shaped[Array, "*out"]]) -> Estimate:
        r"""The weighted mean of a function of one sample over all runs, $\sum w f/\sum w$.

        Its standard error is that of a ratio over independent runs; NaN from one run. Its bias is of the order of one
        over the particles.

        Args:
            fn: The function, called with one sample; its value is an array of numbers or booleans.
        """
        function("fn", fn, "x", "It returns an array for one sample.")
        values = jnp.asarray(jax.vmap(jax.vmap(fn))(self.samples))
        values = values.astype(jnp.promote_types(values.dtype, self.log_weights.dtype))
        runs, weights = len(self.log_weights), jnp.exp(self.log_weights).astype(values.dtype)
        sums = jnp.einsum("rp,rp...->r...", weights, values)
        mean = jnp.sum(sums, axis=0)
        shares = jnp.sum(weights, axis=1).reshape(-1, *(1 for _ in mean.shape))
        return Estimate(mean, over_runs(runs * (sums - shares * mean), runs))

    def resampled(self, n: int, *, key: Key) -> Float[Array, "n *event"]:
        """`n` samples of equal weight, in random order: systematic resampling of all runs together.

        Args:
            n: How many.
            key: A random key.
        """
        n, key = count("n", n, 1), random_key("resampled", key)
        place_key, order_key = jr.split(key)
        which = jr.permutation(order_key, systematic(place_key, self.log_weights.reshape(-1), n))
        return self.samples.reshape(-1, *self.samples.shape[2:])[which]


def systematic(key: Key, log_w: Float[Array, " particles"], n: int) -> Int[Array, " n"]:
    r"""Which particles are kept where they are resampled to `n` of equal weight [W4]: those at the quantiles
    $(u + i)/n$ with one uniform $u$. Particle `j` is kept $\lfloor n\bar w_j\rfloor$ or one more times, $n\bar w_j$ on
    average.
    """
    shares = jnp.cumsum(jnp.exp(log_w - jnp.max(log_w)))
    places = (jr.uniform(key, (), log_w.dtype) + jnp.arange(n, dtype=log_w.dtype)) / n
    # Below one after rounding too: particles at the end of weight zero are not kept.
    below_one = 1 - float(jnp.finfo(log_w.dtype).epsneg)
    return jnp.searchsorted(shares / shares[-1], jnp.minimum(places, below_one), side="right")


def over_runs(deviations: Float[Array, "runs *out"], runs: int) -> Float[Array, "*out"]:
    """The standard error of the mean of values with the mean zero, one of each run."""
    if runs < 2:
        return jnp.full(deviations.shape[1:], jnp.nan, deviations.dtype)
    return jnp.sqrt(jnp.sum(deviations**2, axis=0) / (runs * (runs - 1)))
