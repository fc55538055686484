"""The loss of Karras 2022."""

from ..integrals import AbstractTimeLaw, LogNormalNoise
from .base import Objective
from .matching import DSM
from .weighting import EDMWeighting, ExpectedWeighting


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
