"""Denoising score matching, and the loss of Karras 2022."""

from typing import Any

import jax.numpy as jnp

from .._types import Event, Key, Scalar
from ..integrals import AbstractTimeLaw, LogNormalNoise
from ..score import AbstractScore
from ..sde import AbstractLinearSDE
from .objective import AbstractTerm, Objective
from .perturbed import Perturbed
from .weighting import EDMWeighting, ExpectedWeighting, Weighting, likelihood_weighting, weight_at


class DSM(AbstractTerm):
    r"""Denoising score matching (Vincent 2011; Song 2021, Eq. 4) [H1],

    $$ \tfrac12\int \lambda(t)\,E\big\|s(x_t, t) - \nabla\log q(x_t \mid x_0)\big\|^2 dt
       = \tfrac12\int \frac{\lambda}{\sigma^2}\,E\|\sigma s + \epsilon\|^2\,dt. $$

    Its minimiser is the score of $q_t$, for every positive weighting; with $\lambda = g^2$ it bounds the negative
    log-likelihood up to a constant.

    Args:
        weighting: $\lambda$, a function `(sde, t) -> weight`.
        fraction: The share of the batch it is evaluated on: its first rows.

    Raises:
        ValueError: if `fraction` is outside (0, 1].

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> score = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> bool(sfp.DSM()(score, jnp.zeros((8, 2)), key=jax.random.key(0)) > 0)
        True
    """

    weighting: Weighting = likelihood_weighting
    fraction: float = 1.0

    def observe(self, score: AbstractScore, perturbed: Perturbed, *, key: Key) -> tuple[Event | None, Any]:
        return None, None

    def integrand(self, sde: AbstractLinearSDE, perturbed: Perturbed, value: Event, observed: Any) -> Scalar:
        sigma = sde.sigma(perturbed.t)
        error = jnp.sum((sigma * value + perturbed.noise) ** 2)
        return 0.5 * weight_at("weighting", self.weighting, sde, perturbed.t) / sigma**2 * error


def edm_loss(data_std: float = 0.5, law: AbstractTimeLaw = LogNormalNoise()) -> Objective:
    r"""The loss of Karras 2022, Eq. 2 and Table 1 [H5]: an expectation under a law of noise levels,

    $$ E_{t\sim p}\Big[\frac{\tilde\sigma^2 + \sigma_d^2}{(\tilde\sigma\sigma_d)^2}\,
       E\|h(x_t, t) - x_0\|^2\Big], \qquad \tilde\sigma = \sigma/\alpha, $$

    with $h$ the denoiser, summed over the elements of a sample. As an integral over time it is denoising score matching
    with the weighting $\lambda\,p$, `2 * DSM(ExpectedWeighting(EDMWeighting(data_std), law))`, which is what is
    returned. The law belongs to the loss; give it to the training as `time` too, and every sample has the same weight
    in it as in Karras's.

    Args:
        data_std: $\sigma_d$, the standard deviation of the data.
        law: $p$.

    Raises:
        ValueError: if `data_std` is not positive.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> score = sfp.Score(lambda t, x: -x / (1 + t**2), sfp.EDM())
        >>> x, law = jax.random.normal(jax.random.key(0), (64, 2)), sfp.LogNormalNoise()
        >>> loss = sfp.edm_loss(data_std=1.0, law=law)
        >>> bool(1.5 < loss(score, x, key=jax.random.key(1), time=law) < 2.5)  # D when the score is exact
        True
    """
    return 2 * DSM(ExpectedWeighting(EDMWeighting(data_std), law))
