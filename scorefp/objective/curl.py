"""The zero-curl penalty."""

from typing import Any

from .._types import Event, Key, Scalar
from ..calculus import AbstractTrace, Hutchinson, value_and_squared_curl
from ..score import AbstractScore
from ..sde import AbstractLinearSDE
from .base import AbstractTerm, Perturbed
from .weighting import Weighting, unit_weighting


class ZeroCurl(AbstractTerm):
    r"""The curl of the score as a penalty, $\int \lambda(t)^2\,E\big[\tfrac12\|J - J^\top\|_F^2\big]\,dt$ [C1], [C3].

    Args:
        weighting: $\lambda$, inside the norm, a function `(sde, t) -> weight`.
        trace: `Exact()` or `Hutchinson(samples, law)`; both are unbiased.
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
    trace: AbstractTrace = Hutchinson()
    fraction: float = 1.0

    def observe(self, score: AbstractScore, perturbed: Perturbed, *, key: Key) -> tuple[Event | None, Any]:
        t = perturbed.t
        return value_and_squared_curl(lambda y: score(t, y), perturbed.x, trace=self.trace, key=key)

    def integrand(self, sde: AbstractLinearSDE, perturbed: Perturbed, value: Event, observed: Any) -> Scalar:
        return self.weighting(sde, perturbed.t) ** 2 * observed
