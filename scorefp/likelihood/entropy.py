"""The differential entropy of data from a score [K5]."""

from typing import Literal, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._checks import count, finite, one_of, random_key, scalar
from .._precision import measures
from .._types import Event, Key, Scalar
from ..dataset import Dataset
from ..integrals import AbstractTimeSampler, Estimate, UniformLogSNR
from ..integrals._diffused import clean_samples, diffused_integral, uncontrolled
from ..integrals.estimate import mean_of
from ..score import AbstractScore
from ..score.score import linear_sde
from .kl import end_cross_entropy

EntropyForm: TypeAlias = Literal["divergence", "drift"]
"""The two estimators of Theorem 4: with the divergence of the drift, and with the drift along the score."""


@measures
def entropy(
    score: AbstractScore,
    xs: Dataset | Float[ArrayLike, "n *event"],
    *,
    key: Key,
    form: EntropyForm = "divergence",
    draws: int = 32,
    time: AbstractTimeSampler = UniformLogSNR(),
    terminal: Float[Array, ""] | float | None = None,
    batch_size: int = 256,
) -> Estimate:
    r"""The differential entropy of the data at `t0`, from their samples and a score [K5] (Song 2021, Theorem 4):

    $$ H(q_{t_0}) = H(q_{t_1}) - \tfrac12\int E\big[g^2\|s\|^2 + 2\,\nabla\cdot f\big]dt
                 = H(q_{t_1}) - \tfrac12\int E\big[g^2\|s\|^2 - 2\langle f, s\rangle\big]dt , $$

    the expectations over $x_t \sim q_t$. (The remark after the theorem has clean samples in their place, a misprint.)
    Both hold for the exact score; a score that is off shifts the estimate, by different amounts.

    Args:
        score: The score of the data, on a linear SDE.
        xs: Clean samples: floats stacked along the leading axis, or a `Dataset`, whose levels are dequantised.
            With `args` it is the entropy given them, averaged over the samples.
        key: A random key.
        form: `"divergence"` is the first estimator, with the divergence of the drift integrated exactly; `"drift"` the
            second.
        draws: Times a sample.
        time: How times are drawn.
        terminal: $H(q_{t_1})$ in nats, where it is known. `None` takes the cross-entropy $-E_{q_{t_1}}[\log\pi]$, which
            is larger by $\mathrm{KL}(q_{t_1}\Vert\pi)$: see `prior_kl`.
        batch_size: How many samples are taken at once, which bounds the memory.

    Returns:
        The entropy in nats, with its standard error over samples.

    Raises:
        TypeError: if the SDE has no Gaussian kernel, or `xs` is not floating.
        ValueError: if there are fewer than two samples, one is not finite, `draws` or `batch_size` is below one, or
            `form` is another word.

    Example:
        >>> import jax, jax.numpy as jnp, math, scorefp as sfp
        >>> line = sfp.GaussianMixture(jnp.array([[0.5]]), jnp.array([0.25]), jnp.ones(1))
        >>> xs = line.sample(jax.random.key(0), 2000)
        >>> found = sfp.entropy(line.score(sfp.VP()), xs, key=jax.random.key(1))
        >>> bool(abs(found.value - 0.5 * math.log(2 * math.pi * math.e * 0.25)) < 4 * found.error)
        True
    """
    linear_sde(score)
    one_of("form", form, get_args(EntropyForm))
    random_key("the entropy", key)
    draws, batch_size = count("draws", draws, 1), count("batch_size", batch_size, 1)
    end = None if terminal is None else finite("terminal", scalar("terminal", terminal), known=True)
    return _entropy(score, clean_samples(xs, key), key, form, draws, time, end, batch_size)


@eqx.filter_jit
def _entropy(
    score: AbstractScore,
    x: Dataset,
    key: Key,
    form: EntropyForm,
    draws: int,
    time: AbstractTimeSampler,
    terminal: Scalar | None,
    batch_size: int,
) -> Estimate:
    sde = linear_sde(score)

    def loss(score: AbstractScore, t: Scalar, x: Event, noise: Event) -> Scalar:
        value, g2 = score(t, x), sde.g2(t)
        # Near the prior x is sigma noise, s is -noise/sigma: what they give by chance is taken off, its mean is zero.
        chance = uncontrolled(sde.log_snr(t)) * (jnp.sum(noise**2) - noise.size)
        square = 0.5 * g2 * (jnp.sum(value**2) - chance / sde.sigma(t) ** 2)
        return square if form == "divergence" else square - sde.rate(t) * (jnp.sum(x * value) + chance)

    losses = diffused_integral(loss, score, x, key=key, draws=draws, time=time, batch_size=batch_size)
    if form == "divergence":
        losses = losses + x.size * (sde.log_alpha(sde.t1) - sde.log_alpha(sde.t0)).astype(losses.dtype)
    end = (
        jax.vmap(lambda x0: end_cross_entropy(sde, x0))(x.values) if terminal is None else terminal.astype(losses.dtype)
    )
    return mean_of(end - losses)
