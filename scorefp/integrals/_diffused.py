"""Integrals over time and the diffused data, sample by sample."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Int

from .._batches import apart, in_batches
from .._checks import fitting_samples, kind, require, single_or_better
from .._types import Event, Key, Scalar
from ..dataset import Dataset
from ..dataset.dataset import as_dataset
from ..score import AbstractScore
from ..score.score import conditioned, linear_sde
from .laws import AbstractTimeSampler, SoftTruncation, TimeInterval

_T = TypeVar("_T")


def check_whole(time: AbstractTimeSampler) -> None:
    """Refuses a sampler that estimates another integral than that over the horizon."""
    kind("time", time, AbstractTimeSampler)
    require(
        not isinstance(time, TimeInterval | SoftTruncation),
        f"time is a {type(time).__name__}, which does not estimate the integral over the whole horizon that is needed "
        "here. Use a law of times, such as UniformLogSNR().",
    )


def unconditioned(xs: Dataset | ArrayLike, key: Key) -> Dataset:
    """Clean samples as floats, refused with conditioning: it would reach the model, and the truth knows none.

    Args:
        xs: Floats, or a data set.
        key: As in `clean_samples`.
    """
    data = clean_samples(xs, key)
    require(
        data.args is None,
        "xs brings args, and the truth is one law of all samples. Compare law by law: bind the conditioning, "
        "score.bind(args=…) and truth.bind(args=…), and give the samples of that law without args.",
    )
    return data


def clean_samples(xs: Dataset | ArrayLike, key: Key | None = None) -> Dataset:
    """Clean samples as floats; levels are dequantised by uniform noise.

    Args:
        xs: Floats, or a data set.
        key: A random key, which levels need. Other draws may fold numbers of samples into it.
    """
    data = as_dataset(xs)
    if data.levels is None:
        single_or_better("xs", jnp.asarray(data.values))
        return data
    if key is None:
        raise ValueError("xs holds levels, and nothing here draws the noise inside them; give xs.dequantised(key).")
    return data.dequantised(apart(key))


def diffused_integral(
    integrand: Callable[[AbstractScore, Scalar, Event, Event], _T],
    score: AbstractScore,
    x: Dataset,
    *,
    key: Key,
    draws: int,
    time: AbstractTimeSampler,
    batch_size: int,
) -> _T:
    r"""$\int_{t_0}^{t_1} E[\ell(t, x_t, \epsilon) \mid x_0]\,dt$ of each clean sample, estimated from its own times and
    noises.

    The estimates of different samples are independent.

    Args:
        integrand: $\ell$, called as `integrand(score, t, x_t, noise)` with the score bound to the conditioning of the
            sample; a pytree of scalars.
        score: A score on a linear SDE.
        x: Clean samples as floats.
        key: A random key.
        draws: Times a sample.
        time: How they are drawn.
        batch_size: How many clean samples are taken at once.

    Returns:
        The pytree of the integrand with arrays of shape `(n,)`.
    """
    check_whole(time)
    fitting_samples("xs", x.shape, score.shape)
    sde = linear_sde(score)

    def one(row: Int[Array, ""]) -> _T:
        bound, x0 = conditioned(score, x.args, row), x.values[row]
        time_key, noise_key = jr.split(jr.fold_in(key, row))
        t, weight = time.sample(sde, draws, key=time_key)
        t, weight = t.astype(x0.dtype), weight.astype(x0.dtype)
        noise = jr.normal(noise_key, (draws, *x0.shape), x0.dtype)

        def at(t: Scalar, noise: Event) -> _T:
            return integrand(bound, t, sde.diffuse(t, x0, noise), noise)

        return jax.tree.map(lambda values: jnp.mean(weight * values), jax.vmap(at)(t, noise))

    return in_batches(one, len(x), batch_size)


def uncontrolled(log_snr: Scalar) -> Scalar:
    r"""The share $1 - c$ of $\|\epsilon\|^2 - D$ to subtract from an integrand for a lower variance, with
    $c = (\mathrm{snr}/(1 + \mathrm{snr}))^2$.

    The mean of $\|\epsilon\|^2 - D$ is zero, so any share leaves the mean alone. Data of unit variance have
    $\sigma s + \epsilon$ of about $\mathrm{snr}/(1 + \mathrm{snr})$ times a standard normal, from which this share
    follows.
    """
    return jax.nn.sigmoid(-log_snr) * (1 + jax.nn.sigmoid(log_snr))
