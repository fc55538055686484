r"""Cheap smoothers of a score: what any gain of a Fokker–Planck term must be compared with at equal cost [F17].

None of them knows the Fokker–Planck equation, and the exact score does not make them zero: each pulls the minimiser
away from it. Niemann 2026 finds that light penalties give much of what the residual's give. Weight decay, the cheapest,
is the optimizer's: `optax.adamw`.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from .._checks import require
from .._types import Event, Key, Scalar
from ..calculus import AbstractStencil, AbstractTrace, Hutchinson
from ..calculus.divergence import value_and_products
from ..score import AbstractScore
from ..score.score import linear_sde
from ..sde import AbstractLinearSDE
from .objective import AbstractTerm
from .perturbed import Perturbed
from .weighting import (
    Weighting,
    scale_free_jacobian_weighting,
    scale_free_score_weighting,
    scale_free_weighting,
    weight_at,
)


class ScoreSize(AbstractTerm):
    r"""The size of the score as a penalty, $\int \lambda(t)\,E\|s(x_t, t)\|^2\,dt$ [F17].

    Args:
        weighting: $\lambda$, a function `(sde, t) -> weight`.
        fraction: The share of the batch it is evaluated on: its first rows.

    Raises:
        ValueError: if `fraction` is outside (0, 1].

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> from scorefp.objective import ScoreSize
        >>> unit = sfp.Score(lambda t, x: jnp.ones_like(x), sfp.EDM(t0=1.0, t1=2.0))
        >>> term = ScoreSize(weighting=sfp.unit_weighting)
        >>> float(term(unit, jnp.zeros((8, 3)), key=jax.random.key(0), time=sfp.UniformTime()))
        3.0
    """

    weighting: Weighting = scale_free_score_weighting
    fraction: float = 1.0

    def observe(self, score: AbstractScore, perturbed: Perturbed, *, key: Key) -> tuple[Event | None, Any]:
        return None, None

    def integrand(self, sde: AbstractLinearSDE, perturbed: Perturbed, value: Event, observed: Any) -> Scalar:
        return weight_at("weighting", self.weighting, sde, perturbed.t) * jnp.sum(value**2)


class JacobianSize(AbstractTerm):
    r"""The size of the Jacobian of the score as a penalty, $\int \lambda(t)\,E\|J\|_F^2\,dt$ with $\|J\|_F^2 =
    E_v\|Jv\|^2$ [F17].

    Args:
        trace: `Exact()`, `Hutchinson(samples, law)` or another; all are unbiased.
        weighting: $\lambda$, a function `(sde, t) -> weight`.
        fraction: The share of the batch it is evaluated on: its first rows.

    Raises:
        ValueError: if `fraction` is outside (0, 1].

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> from scorefp.objective import JacobianSize
        >>> double = sfp.Score(lambda t, x: 2 * x, sfp.EDM(t0=1.0, t1=2.0))
        >>> term = JacobianSize(weighting=sfp.unit_weighting)
        >>> float(term(double, jnp.zeros((8, 3)), key=jax.random.key(0), time=sfp.UniformTime()))
        12.0
    """

    trace: AbstractTrace = Hutchinson()
    weighting: Weighting = scale_free_jacobian_weighting
    fraction: float = 1.0

    def observe(self, score: AbstractScore, perturbed: Perturbed, *, key: Key) -> tuple[Event | None, Any]:
        t, x = perturbed.t, perturbed.x
        value, _, products = value_and_products(lambda y: score(t, y), x, self.trace, key)
        return value, jnp.sum(products**2) / len(products)

    def integrand(self, sde: AbstractLinearSDE, perturbed: Perturbed, value: Event, observed: Any) -> Scalar:
        return weight_at("weighting", self.weighting, sde, perturbed.t) * observed


class TimeDerivativeSize(AbstractTerm):
    r"""The size of the time derivative of the score as a penalty, $\int \lambda(t)\,E\|\partial_t s(x_t, t)\|^2\,dt$
    [F17].

    Args:
        weighting: $\lambda$, a function `(sde, t) -> weight`.
        fraction: The share of the batch it is evaluated on: its first rows.

    Raises:
        ValueError: if `fraction` is outside (0, 1].

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> from scorefp.objective import TimeDerivativeSize
        >>> still = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> float(TimeDerivativeSize()(still, jnp.ones((8, 2)), key=jax.random.key(0)))
        0.0
    """

    weighting: Weighting = scale_free_weighting
    fraction: float = 1.0

    def observe(self, score: AbstractScore, perturbed: Perturbed, *, key: Key) -> tuple[Event | None, Any]:
        t = perturbed.t
        return jax.jvp(lambda t: score(t, perturbed.x), (t,), (jnp.ones_like(t),))

    def integrand(self, sde: AbstractLinearSDE, perturbed: Perturbed, value: Event, observed: Any) -> Scalar:
        return weight_at("weighting", self.weighting, sde, perturbed.t) * jnp.sum(observed**2)


class Smoothness(AbstractTerm):
    r"""The change of the score between near points as a penalty [F17],

    $$ \int \lambda(t)\,E\Big\|\frac{s(x_t + \delta\sigma\xi, t) - s(x_t, t)}{\delta}\Big\|^2 dt,
       \qquad \xi \sim \mathcal N(0, I). $$

    `JacobianSize` without a derivative, as $\delta \to 0$.

    Args:
        step: $\delta$, in units of the noise $\sigma$.
        weighting: $\lambda$, a function `(sde, t) -> weight`.
        fraction: The share of the batch it is evaluated on: its first rows.

    Raises:
        ValueError: if `step` is not positive or `fraction` is outside (0, 1].

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> from scorefp.objective import Smoothness
        >>> level = sfp.Score(lambda t, x: jnp.ones_like(x), sfp.VP())
        >>> float(Smoothness()(level, jnp.ones((8, 2)), key=jax.random.key(0)))
        0.0
    """

    step: float = 0.1
    weighting: Weighting = scale_free_score_weighting
    fraction: float = 1.0

    def __check_init__(self) -> None:
        require(self.step > 0, f"step = {self.step}; it is a positive share of the noise.")

    def observe(self, score: AbstractScore, perturbed: Perturbed, *, key: Key) -> tuple[Event | None, Any]:
        t, x = perturbed.t, perturbed.x
        shift = linear_sde(score).sigma(t) * jr.normal(key, x.shape, x.dtype)
        return None, _Slope(t, x + self.step * shift, self.step)

    def integrand(self, sde: AbstractLinearSDE, perturbed: Perturbed, value: Event, observed: Any) -> Scalar:
        return weight_at("weighting", self.weighting, sde, perturbed.t) * jnp.sum(observed**2)


class _Slope(AbstractStencil):
    """The change of the score to a near point, over the step [F17]."""

    t: Scalar
    near: Event
    step: float = eqx.field(static=True)

    def points(self, value: Event) -> tuple[Float[Array, " points"], Float[Array, "points *event"]]:
        return self.t[None], self.near[None]

    def combined(self, value: Event, values: Float[Array, "points *event"]) -> Event:
        return (values[0] - value) / self.step
