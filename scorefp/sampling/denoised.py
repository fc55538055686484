"""The last of the noise taken away."""

from .._types import Event, Key
from ..score import AbstractScore
from .base import AbstractSampler


class Denoised(AbstractSampler):
    r"""Any sampler, then the denoiser at `t0`: $x \leftarrow h(t_0, x) = (x + \sigma^2 s)/\alpha$ [P1], [G1].

    It is the step of Euler's method in $\sigma/\alpha$ to no noise at all with which Karras 2022 ends, and costs one
    evaluation. The noise of `t0` is gone, a smear of $\sigma(t_0)$; there is no likelihood of what comes out.

    Args:
        sampler: Any sampler.

    Raises:
        TypeError: on a call, if the SDE has no Gaussian kernel.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> point = sfp.GaussianMixture(jnp.ones((1, 2)), jnp.array([1e-8]), jnp.ones(1))
        >>> score = point.score(sfp.EDM(t0=0.1, t1=10.0))
        >>> x = sfp.sample(score, 3, key=jax.random.key(0), method=sfp.Denoised(sfp.DPMSolver(5)))
        >>> bool(abs(x - 1.0).max() < 1e-4)
        True
    """

    sampler: AbstractSampler

    def __call__(self, score: AbstractScore, x1: Event, *, key: Key) -> Event:
        x = self.sampler(score, x1, key=key)
        return score.denoise(score.sde.t0, x).astype(x.dtype)
