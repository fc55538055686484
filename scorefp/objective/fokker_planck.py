"""Fokker–Planck regularisers of score matching (Lai 2023)."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from .._checks import require
from .._types import Event, Key, Scalar
from ..calculus import AbstractTrace, Hutchinson
from ..fokker_planck import Antithetic, Form, ResidualMethod, resolve
from ..fokker_planck.operator import value_and_operator
from ..score import AbstractScore
from ..sde import AbstractLinearSDE
from .base import AbstractTerm, Perturbed, check_fraction
from .weighting import Weighting, scale_free_weighting


class ScoreFPE(AbstractTerm):
    r"""The residual of the score Fokker–Planck equation as a regulariser [F12] (Lai 2023, Eq. 19),

    $$ \int E\Big[\frac{\|\lambda_{\mathrm{FP}}(t)\,\varepsilon(x_t,
       t)\|^m}{D^{\,m\,\text{size\_exponent}}}\Big]\,dt. $$

    FP-Diffusion is `DSM() + alpha * ScoreFPE(...) + beta * TimeDerivativeTaming()`.

    **The default is free of the time scale** [F15]: with `scale_free_weighting` the square is in the unit of
    likelihood-weighted `DSM`, errors of the noise prediction per unit of log-SNR, so that `alpha` is a pure number of
    order one. Without a weighting the residual grows by decades towards `t0` and whatever happens there is all the
    penalty sees.

    **The paper's** has `size_exponent=1.0` and its own weightings. Published settings of `(alpha, beta, weighting,
    power)`: images 32×32 `(0.15, 0.01, likelihood_weighting, 2)`; MNIST `(0.1 … 10, 0, unit_weighting, 1)`; two
    dimensions `(0.0015, 0, unit_weighting, 1)`. The published code differs from the formula: it weights
    $\|\varepsilon\|^2$ by $g^2$ where the formula has $g^4$.

    Args:
        method: How the residual is taken; `Antithetic()` is the cheapest.
        form: `"gradient"`, `"martingale"` or `"mixed"`; the method's own when `None`.
        power: $m$.
        weighting: $\lambda_{\mathrm{FP}}$, inside the norm, a function `(sde, t) -> weight`.
        unbiased: Whether to take the unbiased square from two independent probes in place of
            $\|\hat\varepsilon\|^2$, whose mean has the variance of the probe on top [F9]. For `power=2`.
        fraction: The share of the batch it is evaluated on.
        size_exponent: 1 divides the norm by the number of elements $D$, as the paper does; 0 does not, as `DSM`
            does not.

    Raises:
        ValueError: if `power` is not positive, `unbiased` goes with another power than 2, `fraction` is outside (0, 1],
            or the method does not have the form.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> stationary = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> float(sfp.ScoreFPE(method=sfp.Ito())(stationary, jnp.zeros((8, 2)), key=jax.random.key(0)))
        0.0
    """

    method: ResidualMethod = Antithetic()
    form: Form | None = eqx.field(default=None, static=True)
    power: float = eqx.field(default=2.0, static=True)
    weighting: Weighting = scale_free_weighting
    unbiased: bool = eqx.field(default=False, static=True)
    fraction: float = 1.0
    size_exponent: float = eqx.field(default=0.0, static=True)

    def __check_init__(self) -> None:
        check_fraction(self.fraction)
        require(self.power > 0, f"power = {self.power}; the exponent of the norm is positive.")
        require(
            self.power == 2 or not self.unbiased,
            f"unbiased = True with power = {self.power}; only the square has an unbiased estimate. Use power=2.",
        )
        resolve(self.method, self.form)

    def observe(self, score: AbstractScore, t: Scalar, x: Event, *, key: Key) -> tuple[Event | None, Any]:
        method, form = resolve(self.method, self.form)
        if self.unbiased:
            return method.squared_norm(score, t, x, form, key)
        s, residual = method.residual(score, t, x, form, key)
        return s, jnp.sum(residual**2)

    def integrand(self, sde: AbstractLinearSDE, perturbed: Perturbed, observed: Any) -> Scalar:
        square = (self.weighting(sde, perturbed.t) / perturbed.x.size**self.size_exponent) ** 2 * observed
        if self.power == 2:
            return square
        # The power of the norm has no derivative at zero, where the exact score sits: zero is its subgradient.
        return jnp.where(square > 0, jnp.where(square > 0, square, 1.0) ** (self.power / 2), 0.0)


class TimeDerivativeTaming(AbstractTerm):
    r"""The size of the time derivative of the log-density, $\int E\,|L[s](x_t, t)|\,dt$ [F12] (Lai 2023, Eq. 19,
    the term of $\beta$).

    Args:
        method: How $L[s]$ takes its divergence: `Exact()` or `Hutchinson(samples, law)`. With probes the absolute
            value is biased upwards by their spread.
        fraction: The share of the batch it is evaluated on.

    Raises:
        ValueError: if `fraction` is outside (0, 1].

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> stationary = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> taming = sfp.TimeDerivativeTaming()
        >>> bool(taming(stationary, jnp.zeros((8, 2)), key=jax.random.key(0)) < 1e-3)
        True
    """

    method: AbstractTrace = Hutchinson()
    fraction: float = 1.0

    def __check_init__(self) -> None:
        check_fraction(self.fraction)

    def observe(self, score: AbstractScore, t: Scalar, x: Event, *, key: Key) -> tuple[Event | None, Any]:
        return value_and_operator(score, t, x, self.method, key)

    def integrand(self, sde: AbstractLinearSDE, perturbed: Perturbed, observed: Any) -> Scalar:
        return jnp.abs(observed)
