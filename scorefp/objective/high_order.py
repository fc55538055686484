"""Score matching of higher order: the Jacobian of the score and the gradient of its trace (Lu 2022)."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import require
from .._types import Event, Key, Scalar
from ..calculus import AbstractTrace, Hutchinson
from ..calculus._smoothness import require_smooth
from ..calculus.divergence import value_and_products
from ..calculus.probes import Probes
from ..score import AbstractScore
from ..sde import AbstractLinearSDE
from .objective import AbstractTerm
from .perturbed import Perturbed
from .weighting import Weighting, likelihood_weighting, weight_at


class HighOrderDSM(AbstractTerm):
    r"""Denoising score matching of order two or three [H3] (Lu 2022, *Maximum Likelihood Training for Score-Based
    Diffusion ODEs by High-Order Denoising Score Matching*), that order alone. With $\hat e = \operatorname{sg}(\sigma
    s) + \epsilon$, probes $v$ and $J = \nabla s$, order two is

    $$ \tfrac12\int\frac{\lambda}{\sigma^2}\,E\Big[\frac{\big\|\sigma^2Jv + v - (\hat e\cdot v)\,\hat e\big\|^2}D
       + \Big(\frac{\sigma^2v^\top Jv + \|v\|^2 - (\hat e\cdot v)^2}D\Big)^2\Big]\,dt $$

    and order three

    $$ \begin{aligned}
       \tfrac12\int\frac{\lambda}{\sigma^2}\,E\Big\|\tfrac1D\Big[\sigma^3\nabla(v^\top Jv) + (\hat e\cdot v)^2\hat e
       &- \operatorname{sg}\big(\sigma^2v^\top Jv + \|v\|^2\big)\hat e \\
       &- 2\,(v\cdot\hat e)\operatorname{sg}\big(\sigma^2Jv + v\big)\Big]\Big\|^2 dt.
       \end{aligned} $$

    The minimisers are the Jacobian of the score of $q_t$ and the gradient of its trace. The lower orders enter the
    target without a gradient: add `DSM()`, and for order three `HighOrderDSM(2)`, which train them,
    `DSM() + a * HighOrderDSM(2) + b * HighOrderDSM(3)`.

    **Probes.** The mean over probes stands outside the first square and inside the other two, so that `Exact()` gives
    the Frobenius norm, the trace and $\nabla\operatorname{tr}J$. A random probe has the mean of the first; the other
    two get the variance of the probe on top. The target is right for each probe by itself, so the minimisers stay.

    The published code divides by $D$ once more where a norm has $D$ entries, in the first order too: against its other
    terms its square of the trace is $D$ times as large.

    Args:
        order: 2 or 3.
        trace: `Exact()`, `Hutchinson(samples, law)` or another.
        weighting: $\lambda$, a function `(sde, t) -> weight`.
        fraction: The share of the batch it is evaluated on: its first rows.

    Raises:
        ValueError: if `order` is neither 2 nor 3, or `fraction` is outside (0, 1]; on a call of order 3, if the score
            is made of piecewise-linear functions such as `relu`.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> score = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> loss = jax.jit(lambda x0: sfp.HighOrderDSM(2)(score, x0, key=jax.random.key(0)))
        >>> bool(loss(jnp.zeros((8, 2))) > 0)
        True
    """

    order: int = eqx.field(default=2, static=True)
    trace: AbstractTrace = Hutchinson()
    weighting: Weighting = likelihood_weighting
    fraction: float = 1.0

    def __check_init__(self) -> None:
        require(
            self.order in (2, 3),
            f"order = {self.order}; score matching of higher order has order 2 or 3. The first order is DSM().",
        )

    def observe(self, score: AbstractScore, perturbed: Perturbed, *, key: Key) -> tuple[Event | None, Any]:
        t, x = perturbed.t, perturbed.x
        if self.order == 2:
            value, probes, products = value_and_products(lambda y: score(t, y), x, self.trace, key)
            return value, (probes, products, None)
        require_smooth("score", score, t, x)

        def traced(y: Event) -> tuple[Scalar, tuple[Event, Probes, Probes]]:
            value, probes, products = value_and_products(lambda z: score(t, z), y, self.trace, key)
            return jnp.sum(probes * products) / len(probes), (value, probes, products)

        slope, (value, probes, products) = jax.grad(traced, has_aux=True)(x)
        return value, (probes, products, slope)

    def integrand(self, sde: AbstractLinearSDE, perturbed: Perturbed, value: Event, observed: Any) -> Scalar:
        sigma = sde.sigma(perturbed.t)
        probes, products, slope = observed
        e = jax.lax.stop_gradient(sigma * value) + perturbed.noise
        if self.order == 2:
            square = _second(probes, sigma**2 * products, e)
        else:
            square = _third(probes, jax.lax.stop_gradient(sigma**2 * products), sigma**3 * slope, e)
        return 0.5 * weight_at("weighting", self.weighting, sde, perturbed.t) / sigma**2 * square


def _second(probes: Probes, products: Probes, e: Event) -> Scalar:
    r"""The squares of order two; `products` are $\sigma^2Jv$."""
    errors = jax.vmap(lambda v, jv: jv + v - jnp.sum(e * v) * e)(probes, products)
    traces = jax.vmap(lambda v, error: jnp.sum(v * error))(probes, errors)
    return jnp.sum(errors**2) / (len(probes) * e.size) + (jnp.mean(traces) / e.size) ** 2


def _third(probes: Probes, products: Probes, slope: Event, e: Event) -> Scalar:
    r"""The square of order three; `products` are $\sigma^2Jv$, `slope` is the mean of $\sigma^3\nabla(v^\top Jv)$."""

    def target(v: Event, jv: Event) -> Event:
        along, covariance = jnp.sum(v * e), jv + v
        return (jnp.sum(v * covariance) - along**2) * e + 2 * along * covariance

    error = slope - jnp.mean(jax.vmap(target)(probes, products), axis=0)
    return jnp.sum((error / e.size) ** 2)
