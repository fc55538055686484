"""SDEs with a matrix-valued diffusion `G(t, x)`."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from .._checks import finite, floating, function, is_concrete, kind, require, same_shape
from .._types import Event, Scalar, Time
from ..calculus import Exact
from .prior import AbstractPrior, Normal
from .sde import AbstractSDE, check_horizon, time_and_sample


class GeneralSDE(AbstractSDE):
    r"""Any SDE $dx = f(x,t)\,dt + G(x,t)\,dw$ [S1], with $G$ scalar, diagonal or full.

    It has no Gaussian kernel, so what needs one (`perturb`, denoising score matching, the parametrisations) refuses
    it. The Fokker–Planck operator and residuals, the likelihood and the samplers take it like any other.

    Args:
        drift_fn: $f$, called as `drift_fn(t, x)`.
        diffusion_fn: $G$, called as `diffusion_fn(t, x)`; it returns a `lineax` operator that maps to the event shape.
        prior: The law at `t1`.
        t0: The time of the data.
        t1: The time of the prior.

    Raises:
        TypeError: if `drift_fn` or `diffusion_fn` does not take `(t, x)`, `prior` is no prior, or an end of the horizon
            no number; on a call, if a value is not of the kind above.
        ValueError: if the horizon is empty; on a call, if a value has another shape than the sample, or a known `t` is
            outside the horizon.

    Example:
        >>> import jax, jax.numpy as jnp, lineax as lx, scorefp as sfp
        >>> sde = sfp.GeneralSDE(
        ...     lambda t, x: -x, lambda t, x: lx.DiagonalLinearOperator(1 + x**2), sfp.sde.Normal(1.0), t0=0.0, t1=1.0
        ... )
        >>> float(sde.covariance_divergence(0.5, jnp.array([1.0]))[0])
        8.0
    """

    drift_fn: Callable[[Scalar, Event], Event]
    diffusion_fn: Callable[[Scalar, Event], lx.AbstractLinearOperator]
    prior: AbstractPrior
    t0: float = eqx.field(static=True)
    t1: float = eqx.field(static=True)

    def __check_init__(self) -> None:
        check_horizon(self.t0, self.t1, lowest=-float("inf"))
        for name in ("drift_fn", "diffusion_fn"):
            function(name, getattr(self, name), "t, x", "First comes the time, then one sample.")

    def drift(self, t: Time, x: Event) -> Event:
        t, x = time_and_sample(self, t, x)
        drift = floating("the drift", self.drift_fn(t, x))
        same_shape("the drift", drift.shape, "x", x.shape)
        return drift

    def diffusion(self, t: Time, x: Event) -> lx.AbstractLinearOperator:
        t, x = time_and_sample(self, t, x)
        operator = kind(
            "the value of diffusion_fn",
            self.diffusion_fn(t, x),
            lx.AbstractLinearOperator,
            "It is an operator of lineax, for example lineax.DiagonalLinearOperator(scales).",
        )
        same_shape("the value of the diffusion", operator.out_structure().shape, "x", x.shape)
        return operator

    def covariance(self, t: Time, x: Event, v: Event) -> Event:
        operator = self.diffusion(t, x)
        same_shape("v", v.shape, "x", x.shape)
        return operator.mv(operator.T.mv(v))

    def covariance_divergence(self, t: Time, x: Event) -> Event:
        t, x = time_and_sample(self, t, x)

        def column(v: Event) -> Event:
            return jax.jvp(lambda x: self.covariance(t, x, v), (x,), (v,))[1]

        return jnp.mean(jax.vmap(column)(Exact().probes(x, None)), axis=0)


class GeometricBrownianMotion(AbstractSDE):
    r"""Correlated geometric Brownian motion $dx_i = \mu_i x_i\,dt + x_i (S\,dw)_i$, on positive samples.

    From a log-normal start with $\log x_0 \sim \mathcal N(m, C)$ the law stays log-normal, $\log x_t \sim \mathcal
    N(m + (\mu - \tfrac12\operatorname{diag}\Sigma)\,t,\ C + \Sigma t)$ with $\Sigma = SS^\top$. Its diffusion depends
    on the state and is not diagonal, so it exercises every term of [F0]; `log_density` is the reference.

    Args:
        growth: $\mu$, one a coordinate, per unit of time.
        volatility: $S$, a square matrix, per root of time.
        prior: The law at `t1`.
        t0: The time of the data.
        t1: The time of the prior.

    Raises:
        TypeError: if `growth` or `volatility` is not floating, `prior` is no prior, or an end of the horizon no number.
        ValueError: if the shapes of `growth` and `volatility` do not match, they are not finite, or the horizon is
            empty; on a call, if a known `t` is outside the horizon or `x` has another shape.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> sde = sfp.sde.GeometricBrownianMotion(jnp.zeros(2), jnp.array([[0.3, 0.0], [0.1, 0.2]]))
        >>> sde.drift(0.5, jnp.ones(2)).shape
        (2,)
    """

    growth: Float[Array, " D"]
    volatility: Float[Array, "D D"]
    prior: AbstractPrior = Normal(1.0)
    t0: float = eqx.field(default=0.0, static=True)
    t1: float = eqx.field(default=1.0, static=True)

    def __check_init__(self) -> None:
        check_horizon(self.t0, self.t1)
        size = finite("growth", floating("growth", self.growth), known=True).size
        finite("volatility", floating("volatility", self.volatility), known=True)
        same_shape("growth", self.growth.shape, "a row of rates", (size,))
        same_shape("volatility", self.volatility.shape, "a square matrix of the size of growth", (size, size))

    def drift(self, t: Time, x: Event) -> Event:
        return self.growth * self._sample(t, x)

    def diffusion(self, t: Time, x: Event) -> lx.AbstractLinearOperator:
        return lx.MatrixLinearOperator(self._sample(t, x)[:, None] * self.volatility)

    def covariance(self, t: Time, x: Event, v: Event) -> Event:
        x = self._sample(t, x)
        same_shape("v", v.shape, "x", x.shape)
        return x * (self.volatility @ (self.volatility.T @ (x * v)))

    def covariance_divergence(self, t: Time, x: Event) -> Event:
        x = self._sample(t, x)
        rates = self.volatility @ self.volatility.T
        return (rates.sum(axis=1) + jnp.diag(rates)) * x

    def log_density(
        self, t: Time, x: Event, *, log_mean: Float[Array, " D"], log_covariance: Float[Array, "D D"]
    ) -> Scalar:
        r"""The log-density of $x_t$ from the log-normal start $\log x_0 \sim \mathcal N(m, C)$, in nats.

        Args:
            t: The time since the start.
            x: One sample, all entries positive.
            log_mean: $m$.
            log_covariance: $C$, positive definite.
        """
        t, x = time_and_sample(self, t, x)
        same_shape("log_mean", log_mean.shape, "x", x.shape)
        same_shape("log_covariance", log_covariance.shape, "(D, D) of x", x.shape * 2)
        rates = self.volatility @ self.volatility.T
        mean = log_mean + (self.growth - 0.5 * jnp.diag(rates)) * t
        log_x = jnp.log(x)
        normal = jax.scipy.stats.multivariate_normal.logpdf(log_x, mean, log_covariance + rates * t)
        return jnp.asarray(normal) - jnp.sum(log_x)

    def _sample(self, t: Time, x: Event) -> Event:
        x = time_and_sample(self, t, x)[1]
        same_shape("x", x.shape, "growth", self.growth.shape)
        return x


class CriticallyDampedLangevin(AbstractSDE):
    r"""Critically-damped Langevin diffusion (Dockhorn 2022) of position and velocity, stacked as `x[0], x[1]`:

    $$ dq = \tfrac{\beta}{M} v\,dt, \qquad
       dv = -\beta q\,dt - \tfrac{\Gamma\beta}{M} v\,dt + \sqrt{2\Gamma\beta}\,dw, \qquad \Gamma^2 = 4M. $$

    Noise enters the velocity alone, so $G$ is not a multiple of the identity. The stationary law is
    $\mathcal N(0, I)\otimes\mathcal N(0, M I)$.

    Args:
        beta: $\beta$, per unit of time.
        mass: $M$.
        t0: The time of the data.
        t1: The time of the prior.

    Raises:
        TypeError: if a parameter is no number.
        ValueError: if `beta` or `mass` is not positive and finite, or the horizon is empty; on a call, if a known `t`
            is outside the horizon or `x` is not of the shape `(2, d)`.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> sde = sfp.sde.CriticallyDampedLangevin()
        >>> sde.drift(0.5, jnp.ones((2, 3))).shape
        (2, 3)
    """

    beta: float = 4.0
    mass: float = 0.25
    t0: float = eqx.field(default=1e-3, static=True)
    t1: float = eqx.field(default=1.0, static=True)

    def __check_init__(self) -> None:
        check_horizon(self.t0, self.t1)
        if is_concrete(self.beta) and is_concrete(self.mass):
            require(
                self.beta > 0 and self.mass > 0,
                f"beta = {self.beta} and mass = {self.mass}; both must be positive.",
            )

    @property
    def prior(self) -> Normal:
        """The stationary law."""
        return Normal(jnp.sqrt(jnp.array([[1.0], [self.mass]])))

    def drift(self, t: Time, x: Event) -> Event:
        position, velocity = _phase_space(self, t, x)
        friction = 2 * jnp.sqrt(jnp.asarray(self.mass, x.dtype))
        flow = self.beta / self.mass * velocity
        return jnp.stack([flow, -self.beta * position - friction * flow])

    def diffusion(self, t: Time, x: Event) -> lx.AbstractLinearOperator:
        x = _phase_space(self, t, x)
        scale = jnp.zeros_like(x).at[1].set(jnp.sqrt(self._variance(x)))
        return lx.DiagonalLinearOperator(scale)

    def covariance(self, t: Time, x: Event, v: Event) -> Event:
        x = _phase_space(self, t, x)
        same_shape("v", v.shape, "x", x.shape)
        return jnp.stack([jnp.zeros_like(v[0]), self._variance(x) * v[1]])

    def covariance_divergence(self, t: Time, x: Event) -> Event:
        return jnp.zeros_like(_phase_space(self, t, x))

    def _variance(self, x: Event) -> Scalar:
        """The instantaneous variance of the velocity, 2 Γ β."""
        return 4 * self.beta * jnp.sqrt(jnp.asarray(self.mass, x.dtype))


def _phase_space(sde: AbstractSDE, t: Time, x: Event) -> Event:
    x = time_and_sample(sde, t, x)[1]
    require(
        x.ndim == 2 and x.shape[0] == 2,
        f"x has shape {x.shape}; a sample of critically-damped Langevin diffusion has shape (2, d), positions first.",
    )
    return x
