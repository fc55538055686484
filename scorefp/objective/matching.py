"""Denoising score matching."""

from typing import Any

import jax.numpy as jnp

from .._types import Event, Key, Scalar
from ..score import AbstractScore
from ..sde import AbstractLinearSDE
from .base import AbstractTerm, Perturbed
from .weighting import Weighting, likelihood_weighting


class DSM(AbstractTerm):
    r"""Denoising score matching (Vincent 2011; Song 2021, Eq. 4) [H1],

    $$ \tfrac12\int \lambda(t)\,E\big\|s(x_t, t) - \nabla\log q(x_t \mid x_0)\big\|^2 dt
       = \tfrac12\int \frac{\lambda}{\sigma^2}\,E\|\sigma s + \epsilon\|^2\,dt. $$

    Its minimiser is the score of $q_t$, for every positive weighting; with $\lambda = g^2$ it bounds the negative
    log-likelihood up to a constant.

    Args:
        weighting: $\lambda$, a function `(sde, t) -> weight`.
        fraction: The share of the batch it is evaluated on.

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
        return 0.5 * self.weighting(sde, perturbed.t) / sigma**2 * error
