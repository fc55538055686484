"""The zero-curl penalty."""

from .._types import Key, Scalar
from ..calculus import AbstractTrace, Hutchinson, squared_curl
from ..score import AbstractScore, linear_sde
from .base import AbstractTerm, Perturbed, check_fraction
from .weighting import Weighting, unit_weighting


class ZeroCurl(AbstractTerm):
    r"""The curl of the score as a penalty, $\int \lambda(t)^2\,E\big[\tfrac12\|J - J^\top\|_F^2\big]\,dt$ [C1], [C3].

    Args:
        weighting: $\lambda$, inside the norm, a function `(sde, t) -> weight`.
        method: `Exact()` or `Hutchinson(samples, law)`; both are unbiased.
        fraction: The share of the batch it is evaluated on.

    Raises:
        ValueError: if `fraction` is outside (0, 1].

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> swirl = sfp.Score(lambda t, x: jnp.stack([-x[1], x[0]]), sfp.VP())
        >>> round(float(sfp.ZeroCurl()(swirl, jnp.zeros((8, 2)), key=jax.random.key(0), time=sfp.UniformTime())), 3)
        4.0
    """

    weighting: Weighting = unit_weighting
    method: AbstractTrace = Hutchinson()
    fraction: float = 1.0

    def __check_init__(self) -> None:
        check_fraction(self.fraction)

    def integrand(self, score: AbstractScore, perturbed: Perturbed, *, key: Key) -> Scalar:
        t, x = perturbed.t, perturbed.x
        size = squared_curl(lambda y: score(t, y), x, method=self.method, key=key)
        return self.weighting(linear_sde(score), t) ** 2 * size
