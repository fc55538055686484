"""Regularisers of score matching by the Fokker–Planck equation and by the curl (Lai 2023; Deveney 2023)."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from .._checks import require, same_shape
from .._types import Event, Key, Scalar
from ..calculus import AbstractStencil, AbstractTrace, Exact, Hutchinson
from ..calculus._smoothness import require_smooth
from ..calculus.curl import value_and_squared_curl
from ..fokker_planck import AbstractStencilMethod, Antithetic, Form, LogResidualMethod, ResidualMethod
from ..fokker_planck.operators import value_and_operator
from ..fokker_planck.residual import resolve, resolve_log
from ..integrals import Box
from ..score import AbstractScore
from ..score.potential import require_potential
from ..sde import AbstractLinearSDE
from .objective import AbstractTerm, norm_power
from .perturbed import Perturbed
from .weighting import Weighting, scale_free_weighting, unit_weighting, weight_at


class ScoreFPE(AbstractTerm):
    r"""The residual of the score Fokker–Planck equation as a regulariser [F12] (Lai 2023, Eq. 19),

    $$ \int \lambda(t)\,E\Big[\frac{\|\lambda_{\mathrm{FP}}(t)\,\varepsilon(x_t,
       t)\|^m}{D^{\,m\,\text{size\_exponent}}}\Big]\,dt, $$

    with $\lambda$ the `weighting` and $\lambda_{\mathrm{FP}}$ the `scale`; where one of them is given, the other is 1.

    FP-Diffusion is `DSM() + alpha * ScoreFPE(...) + beta * TimeDerivativeTaming()`.

    **The default is free of the time scale** [F15]: with neither given, $\lambda = 1$ and $\lambda_{\mathrm{FP}}^2 =
    \sigma^4/(2 g^2)$, the `scale_free_weighting`. The square is then in the unit of likelihood-weighted `DSM`, errors
    of the noise prediction per unit of log-SNR, so that `alpha` is a pure number of order one. Without either,
    `weighting=unit_weighting`, the residual grows by decades towards `t0` and whatever happens there is all the
    penalty sees.

    **The cost** with `Antithetic` is two more evaluations of the score on the share of the batch. `fraction=0.25` keeps
    the fall of the residual, and `Lazy(ScoreFPE(fraction=1 / 16), every=4)` 91 % of it with an MLP and 87 % with a
    U-Net (digits, two seeds), at one more evaluation for every 32 (`benchmarks/penalty.py`). Memory grows by the
    activations of the further points; `accumulate` of the trainer bounds it.

    **The paper's** has `size_exponent=1.0` and no $\lambda$. Published settings of `(alpha, beta, scale, power)`:
    images 32×32 `(0.15, 0.01, likelihood_weighting, 2)`; MNIST `(0.1 … 10, 0, unit_weighting, 1)`; two dimensions
    `(0.0015, 0, unit_weighting, 1)`. The published code differs from the formula: for images it has
    $g^2\|\varepsilon\|^2$, which is `weighting=likelihood_weighting`, where the formula has $g^4\|\varepsilon\|^2$,
    `scale=likelihood_weighting`.

    Args:
        method: How the residual is taken; `Antithetic()` is the cheapest. It takes the score at the samples from the
            evaluation that all terms share, and its further points, of all samples of the share, as one more. Of a
            network that rounds its products, as one with `dtype=jnp.bfloat16` does, it takes all three points of the
            difference in float32, or TF32 on GPUs, while `DSM` beside it stays in the lower one.
        form: `"gradient"`, `"martingale"` or `"mixed"`; the method's own when `None`.
        power: $m$.
        scale: $\lambda_{\mathrm{FP}}$, inside the norm and its power, a function `(sde, t) -> factor`.
        weighting: $\lambda$, a function `(sde, t) -> weight`.
        unbiased: Whether to take the unbiased square from two independent probes in place of
            $\|\hat\varepsilon\|^2$, whose mean has the variance of the probe on top [F9]. For `power=2`.
        fraction: The share of the batch it is evaluated on: its first rows.
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
    scale: Weighting | None = None
    weighting: Weighting | None = None
    unbiased: bool = eqx.field(default=False, static=True)
    fraction: float = 1.0
    size_exponent: float = eqx.field(default=0.0, static=True)

    def __check_init__(self) -> None:
        require(self.power > 0, f"power = {self.power}; the exponent of the norm is positive.")
        require(
            self.power == 2 or not self.unbiased,
            f"unbiased = True with power = {self.power}; only the square has an unbiased estimate. Use power=2.",
        )
        resolve(self.method, self.form)

    def observe(self, score: AbstractScore, perturbed: Perturbed, *, key: Key) -> tuple[Event | None, Any]:
        t, x = perturbed.t, perturbed.x
        method = resolve(self.method, self.form)
        if isinstance(method, AbstractStencilMethod):
            keys = jr.split(key) if self.unbiased else [key]
            return None, _Square(tuple(method.stencil(score, t, x, k) for k in keys))
        if self.unbiased:
            return method.squared_norm(score, t, x, key)
        s, residual = method.residual(score, t, x, key)
        return s, jnp.sum(residual**2)

    def integrand(self, sde: AbstractLinearSDE, perturbed: Perturbed, value: Event, observed: Any) -> Scalar:
        t, size = perturbed.t, perturbed.x.size**self.size_exponent
        if self.scale is not None:
            factor = weight_at("scale", self.scale, sde, t) ** 2
        else:
            factor = scale_free_weighting(sde, t) if self.weighting is None else 1.0
        value = norm_power(factor / size**2 * observed, self.power)
        return value if self.weighting is None else weight_at("weighting", self.weighting, sde, t) * value


class _Square(AbstractStencil):
    """The squared norm of a residual, or its unbiased estimate: the product of two with independent probes [F9].

    Args:
        residuals: The stencils of one or two residuals, of as many points each.
    """

    residuals: tuple[AbstractStencil, ...]

    def points(self, value: Event) -> tuple[Float[Array, " points"], Float[Array, "points *event"]]:
        times, places = zip(*(stencil.points(value) for stencil in self.residuals), strict=True)
        return jnp.concatenate(times), jnp.concatenate(places)

    def combined(self, value: Event, values: Float[Array, "points *event"]) -> Scalar:
        parts = jnp.split(values, len(self.residuals))
        found = [stencil.combined(value, part) for stencil, part in zip(self.residuals, parts, strict=True)]
        return jnp.sum(found[0] * found[-1])


class LogFPE(AbstractTerm):
    r"""The residual of the log-Fokker–Planck equation of a potential as a regulariser [F13] (Deveney 2023, Eq. 20),

    $$ \int \lambda(t)\,E_x\big[r[\varphi](x, t)^2\big]\,dt, $$

    with $x$ uniform on a box $\Omega$, as in the paper, or the diffused data.

    Deveney's loss is $T\,(L_{\mathrm{DSM}} + w_R\tilde R) = 2\int\tfrac12 E\|\cdot\|^2 dt + w_R\int E_\Omega[r^2]\,dt$,
    in which his weight $\lambda = 1$ of score matching is $g^2$ of his process: with `OU()` it is
    `2 * DSM() + w_R * LogFPE(domain=box)`.

    The residual has no weight by default. That of an unnormalised potential sees $d\log Z_t/dt$ [F3], so that the
    potential needs a free function of time, as a `ScalarMLP` is or an `offset` adds.

    Args:
        method: How the residual is taken; see `log_fpe_residual`.
        domain: $\Omega$; the diffused data for `None`.
        weighting: $\lambda$, a function `(sde, t) -> weight`; one that is zero beyond a time
            restricts the term to earlier ones.
        unbiased: Whether to take the square from two independent estimates, without the variance of the probe.
        fraction: The share of the batch it is evaluated on: its first rows.

    Raises:
        TypeError: on a call, if the score is no potential.
        ValueError: if `fraction` is outside (0, 1]; on a call, if the domain has another shape than the samples, or the
            potential is made of piecewise-linear functions such as `relu`.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> stationary = sfp.Potential(lambda t, x: -0.5 * (x**2).sum(), sfp.VP())
        >>> term = sfp.LogFPE(domain=sfp.Box(-jnp.ones(2), jnp.ones(2)))
        >>> bool(term(stationary, jnp.zeros((8, 2)), key=jax.random.key(0)) < 1e-6)
        True
    """

    method: LogResidualMethod = Exact()
    domain: Box | None = None
    weighting: Weighting = unit_weighting
    unbiased: bool = eqx.field(default=False, static=True)
    fraction: float = 1.0

    def __check_init__(self) -> None:
        resolve_log(self.method)

    def observe(self, score: AbstractScore, perturbed: Perturbed, *, key: Key) -> tuple[Event | None, Any]:
        t, x = perturbed.t, perturbed.x
        potential, method = require_potential(score), resolve_log(self.method)
        require_smooth("potential", potential.potential, t, x)
        point_key, method_key = jr.split(key)
        if self.domain is None:
            point = x
        else:
            same_shape("domain", self.domain.shape, "a sample", x.shape)
            point = self.domain.sample(point_key, 1)[0].astype(x.dtype)
        if self.unbiased:
            s, square = method.log_square(potential, t, point, method_key)
        else:
            s, residual = method.log_residual(potential, t, point, method_key)
            square = residual**2
        return (s if self.domain is None else None), square

    def integrand(self, sde: AbstractLinearSDE, perturbed: Perturbed, value: Event, observed: Any) -> Scalar:
        return weight_at("weighting", self.weighting, sde, perturbed.t) * observed


class TimeDerivativeTaming(AbstractTerm):
    r"""The size of the time derivative of the log-density, $\int E\,|L[s](x_t, t)|\,dt$ [F12] (Lai 2023, Eq. 19,
    the term of $\beta$).

    Args:
        trace: How $L[s]$ takes its divergence: `Exact()`, `Hutchinson(samples, law)` or another. With probes the
            absolute value is biased upwards by their spread.
        fraction: The share of the batch it is evaluated on: its first rows.

    Raises:
        ValueError: if `fraction` is outside (0, 1].

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> stationary = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> taming = sfp.TimeDerivativeTaming()
        >>> bool(taming(stationary, jnp.zeros((8, 2)), key=jax.random.key(0)) < 1e-3)
        True
    """

    trace: AbstractTrace = Hutchinson()
    fraction: float = 1.0

    def observe(self, score: AbstractScore, perturbed: Perturbed, *, key: Key) -> tuple[Event | None, Any]:
        return value_and_operator(score, perturbed.t, perturbed.x, self.trace, key)

    def integrand(self, sde: AbstractLinearSDE, perturbed: Perturbed, value: Event, observed: Any) -> Scalar:
        return jnp.abs(observed)


class ZeroCurl(AbstractTerm):
    r"""The curl of the score as a penalty, $\int \lambda(t)\,E\big[\tfrac12\|J - J^\top\|_F^2\big]\,dt$ [C1], [C3].

    Args:
        weighting: $\lambda$, a function `(sde, t) -> weight`.
        trace: `Exact()`, `Hutchinson(samples, law)` or another; all are unbiased.
        fraction: The share of the batch it is evaluated on: its first rows.

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
        return weight_at("weighting", self.weighting, sde, perturbed.t) * observed
