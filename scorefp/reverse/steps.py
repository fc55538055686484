"""Steps of the reverse SDE, for samplers and for the martingale property of a denoiser."""

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from .._checks import is_concrete, number, random_key, require
from .._times import known_time_within, scalar_time
from .._types import Event, Key, Scalar, Time
from ..score import AbstractScore
from ..score.score import linear_sde, require_score, sample_of
from ..sde import AbstractSDE

ReverseStep: TypeAlias = Callable[[AbstractScore, Scalar, Scalar, Event, Key], Event]
"""Called as `step(score, t, earlier, x, key)`, it returns the state at the earlier time."""


def euler_maruyama_step(score: AbstractScore, t: Scalar, earlier: Scalar, x: Event, key: Key) -> Event:
    r"""One Euler–Maruyama step of the reverse SDE of any SDE from $t$ to $t' < t$ [G1], [S6] (Song 2021, Eq. 2),

    $$ x' = x - (t - t')\,\big(f - \nabla\cdot(GG^\top) - GG^\top s\big) + \sqrt{t - t'}\,G\,\epsilon, $$

    of weak order one. One evaluation of the score.

    Args:
        score: Any score.
        t: The time.
        earlier: $t'$.
        x: The state at $t$.
        key: A random key.

    Raises:
        TypeError: if `score` is no score, `x` not floating or `key` no random key.
        ValueError: if `x` is no sample of the score, or known times are outside the horizon or not in order.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> score, t, earlier = sfp.Score(lambda t, x: -x, sfp.VP()), jnp.array(0.5), jnp.array(0.4)
        >>> sfp.reverse.euler_maruyama_step(score, t, earlier, jnp.ones(2), jax.random.key(0)).shape
        (2,)
    """
    t, earlier, x, key = checked_step(score, t, earlier, x, key)
    like = score.sde.diffusion(t, x).in_structure()
    return moved(score.sde, t, earlier, x, score(t, x), 1.0, jr.normal(key, like.shape, like.dtype))


def moved(
    sde: AbstractSDE, t: Scalar, earlier: Scalar, x: Event, score: Event, noise: float, fresh: Float[Array, "..."]
) -> Event:
    r"""The step of `euler_maruyama_step` with a share $\eta$ of its noise, where the score's value is known [W1],

    $$ x' = x - (t - t')\,\big(f - \tfrac12(1 + \eta^2)(\nabla\cdot(GG^\top) + GG^\top s)\big)
       + \eta\sqrt{t - t'}\,G\,\epsilon. $$

    The velocity of the probability flow [F0] for $\eta = 0$, where $\epsilon$ is not looked at, and the reverse SDE
    [S6] for $\eta = 1$. Every $\eta$ has the marginals of the process where the score is exact.

    Args:
        sde: Any SDE.
        t: The time.
        earlier: $t'$.
        x: The state at $t$.
        score: $s(t, x)$.
        noise: $\eta$.
        fresh: $\epsilon$, which may have more entries than the state.
    """
    length = t - earlier
    pull = sde.covariance_divergence(t, x) + sde.covariance(t, x, score)
    ahead = x - length * (sde.drift(t, x) - 0.5 * (1 + noise**2) * pull)
    if noise == 0:
        return ahead.astype(x.dtype)
    return (ahead + noise * jnp.sqrt(length) * sde.diffusion(t, x).mv(fresh)).astype(x.dtype)


def heun_step(score: AbstractScore, t: Scalar, earlier: Scalar, x: Event, key: Key) -> Event:
    r"""One step of Heun's method on the reverse SDE of a linear SDE from $t$ to $t' < t$ [M2]: with $b = f - g^2 s$,

    $$ \begin{gathered}
       \hat x = x - (t - t')\,b(t, x) + \xi, \qquad
       x' = x - \tfrac12 (t - t')\,\big(b(t, x) + b(t', \hat x)\big) + \xi, \\
       \xi = \sqrt{\tfrac12 (t - t')\,(g^2(t) + g^2(t'))}\,\epsilon.
       \end{gathered} $$

    The noise does not depend on the state, so that the step has weak order two. Two evaluations of the score.

    Args:
        score: A score on a linear SDE.
        t: The time.
        earlier: $t'$.
        x: The state at $t$.
        key: A random key.

    Raises:
        TypeError: as `euler_maruyama_step`, and if the SDE has no Gaussian kernel.
        ValueError: as `euler_maruyama_step`.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> score, t, earlier = sfp.Score(lambda t, x: -x, sfp.VP()), jnp.array(0.5), jnp.array(0.4)
        >>> sfp.reverse.heun_step(score, t, earlier, jnp.ones(2), jax.random.key(0)).shape
        (2,)
    """
    sde = linear_sde(score)
    t, earlier, x, key = checked_step(score, t, earlier, x, key)
    length = t - earlier
    spread = jnp.sqrt(0.5 * length * (sde.g2(t) + sde.g2(earlier)))
    drift, noise = score.reverse_drift(t, x), spread * jr.normal(key, x.shape, x.dtype)
    ahead = score.reverse_drift(earlier, x - length * drift + noise)
    return (x - 0.5 * length * (drift + ahead) + noise).astype(x.dtype)


def ancestral_step(score: AbstractScore, t: Scalar, earlier: Scalar, x: Event, key: Key) -> Event:
    r"""One step of the reverse SDE of a linear SDE from $t$ to $t' < t$ with the denoiser $h = h(x, t)$ held fixed, all
    else solved exactly: a draw of the law of $x_{t'}$ given $x_t = x$ and $x_0 = h$ [G1], [S3],

    $$ x' = \alpha' h + \sigma' e^{(\lambda - \lambda')/2}\,\frac{x - \alpha h}{\sigma}
            + \sigma'\sqrt{1 - e^{\lambda - \lambda'}}\;\epsilon, $$

    the step of Ho 2020 in continuous time. Of weak order one. For the exact score a step has the exact mean:
    the law of $x_{t'}$ given $x_t$ is the mixture of these over $x_0$. One evaluation of the score.

    Args:
        score: A score on a linear SDE.
        t: The time.
        earlier: $t'$.
        x: The state at $t$.
        key: A random key.

    Raises:
        TypeError: as `euler_maruyama_step`, and if the SDE has no Gaussian kernel.
        ValueError: as `euler_maruyama_step`.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> score, t, earlier = sfp.Score(lambda t, x: -x, sfp.VP()), jnp.array(0.5), jnp.array(0.4)
        >>> sfp.reverse.ancestral_step(score, t, earlier, jnp.ones(2), jax.random.key(0)).shape
        (2,)
    """
    return exponential_step(score, t, earlier, x, key, jnp.ones(()))


def exponential_step(score: AbstractScore, t: Scalar, earlier: Scalar, x: Event, key: Key, noise: Scalar) -> Event:
    r"""The step of `ancestral_step` with a share $\eta$ of its noise (Song 2020, DDIM, Eq. 12 and 16): with $\tau =
    \eta\,\sigma'\sqrt{1 - e^{\lambda - \lambda'}}$ and the noise prediction $\hat\epsilon = (x - \alpha h)/\sigma$,

    $$ x' = \alpha' h + \sqrt{\sigma'^2 - \tau^2}\;\hat\epsilon + \tau\epsilon. $$

    The ODE's step for $\eta = 0$, the ancestral one for $\eta = 1$. Every $\eta$ has the marginals of the process where
    $h$ is exact and known.

    Args:
        score: A score on a linear SDE.
        t: The time.
        earlier: $t'$.
        x: The state at $t$.
        key: A random key.
        noise: $\eta$, in [0, 1].

    Raises:
        TypeError: as `euler_maruyama_step`, and if the SDE has no Gaussian kernel.
        ValueError: as `euler_maruyama_step`.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> sde, t, earlier, noise = sfp.VP(), jnp.array(0.5), jnp.array(0.4), jnp.array(0.0)
        >>> score = sfp.Score(lambda t, x: -x / sde.sigma(t) ** 2, sde)  # all data at the origin
        >>> x = sfp.reverse.exponential_step(score, t, earlier, jnp.ones(1), jax.random.key(0), noise)
        >>> bool(jnp.allclose(x, sde.sigma(0.4) / sde.sigma(0.5)))  # the ODE's solution, in one step
        True
    """
    sde = linear_sde(score)
    t, earlier, x, key = checked_step(score, t, earlier, x, key)
    require(not is_concrete(number("noise", noise)) or bool(0 <= noise <= 1), f"noise = {noise}; it lies in [0, 1].")
    sigma = sde.sigma(earlier)
    fresh = noise * jnp.sqrt(-jnp.expm1(sde.log_snr(t) - sde.log_snr(earlier)))
    predicted = score.noise(t, x)
    clean = (x - sde.sigma(t) * predicted) / sde.alpha(t)
    kept = sigma * (jnp.sqrt(1 - fresh**2) * predicted + fresh * jr.normal(key, x.shape, x.dtype))
    return (sde.alpha(earlier) * clean + kept).astype(x.dtype)


def checked_step(score: AbstractScore, t: Time, earlier: Time, x: Event, key: Key) -> tuple[Scalar, Scalar, Event, Key]:
    """The arguments of a step, refused where they are of another kind or shape, or known times are not in order."""
    x = sample_of(require_score(score), x)
    now, then = scalar_time(t, x), scalar_time(earlier, x, "earlier")
    for name, time in (("t", t), ("earlier", earlier)):
        known_time_within(time, score.sde.t0, score.sde.t1, x, name=name)
    if is_concrete(t) and is_concrete(earlier):
        require(
            float(np.asarray(earlier)) <= float(np.asarray(t)),
            f"earlier = {earlier} lies above t = {t}; a step goes from t to an earlier time. Were they swapped?",
        )
    return now, then, x, random_key("a step", key)
