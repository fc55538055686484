"""The linear SDEs of the literature, each with closed forms [S4].

Near `t = 0` a variance is taken by `expm1`, never as one minus an exponential [S5]: in float32 at `t = 1e-5` the latter
puts the sigma of `VP` off by 2.4 % with NumPy's exponential and by 0.6 % with JAX's.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import require
from .._types import Times
from .linear import AbstractLinearSDE
from .sde import check_horizon


class VE(AbstractLinearSDE):
    r"""The variance-exploding SDE (Song 2021, Table 1): $\alpha = 1$, $\sigma = \sigma_{\min}
    (\sigma_{\max}/\sigma_{\min})^t$.

    The common code's kernel has $\sigma(0) = \sigma_{\min}$, and so has this one. The SDE started at $t = 0$ has
    $\sigma^2(t) - \sigma^2(0)$ instead; `from_zero=True` takes that. Both have the same $g^2$.

    Args:
        sigma_min: $\sigma_{\min}$, in units of the data.
        sigma_max: $\sigma_{\max}$; about the largest distance between two data points.
        t0: The time of the data.
        t1: The time of the prior.
        from_zero: Whether the kernel starts with no noise at `t = 0`.

    Raises:
        TypeError: if a parameter is no number.
        ValueError: unless all are finite, `0 < sigma_min < sigma_max` and `0 <= t0 < t1`; with `from_zero`, `t0` must
            be positive.

    Example:
        >>> import scorefp as sfp
        >>> round(float(sfp.VE().sigma(1.0)), 3)
        50.0
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t0: float = eqx.field(default=1e-5, static=True)
    t1: float = eqx.field(default=1.0, static=True)
    from_zero: bool = eqx.field(default=False, static=True)

    def __check_init__(self) -> None:
        check_horizon(self.t0, self.t1)
        require(
            0 < self.sigma_min < self.sigma_max,
            f"sigma_min = {self.sigma_min} and sigma_max = {self.sigma_max}; VE needs 0 < sigma_min < sigma_max.",
        )
        require(not self.from_zero or self.t0 > 0, "t0 = 0 with from_zero=True has sigma = 0; take t0 > 0.")

    @property
    def _log_ratio(self) -> Float[Array, ""]:
        return jnp.log(self.sigma_max) - jnp.log(self.sigma_min)

    def log_alpha(self, t: Times) -> Float[Array, "*times"]:
        return 0.0 * jnp.asarray(t)

    def log_sigma(self, t: Times) -> Float[Array, "*times"]:
        growth = self._log_ratio * t
        return jnp.log(self.sigma_min) + (0.5 * jnp.log(jnp.expm1(2 * growth)) if self.from_zero else growth)

    def rate(self, t: Times) -> Float[Array, "*times"]:
        return 0.0 * jnp.asarray(t)

    def g2(self, t: Times) -> Float[Array, "*times"]:
        return 2 * self._log_ratio * self.sigma_min**2 * jnp.exp(2 * self._log_ratio * t)

    def time_of_log_snr(self, log_snr: Times) -> Float[Array, "*times"]:
        log_growth = -0.5 * jnp.asarray(log_snr) - jnp.log(self.sigma_min)
        growth = 0.5 * jnp.log1p(jnp.exp(2 * log_growth)) if self.from_zero else log_growth
        return growth / self._log_ratio


class _BetaFields:
    beta_min: eqx.AbstractVar[float]
    beta_max: eqx.AbstractVar[float]


class _AbstractLinearBeta(AbstractLinearSDE, _BetaFields):
    r"""The drift $-\tfrac12\beta x$ with $\beta$ linear in time, and $\alpha = e^{-B/2}$ with $B = \int_0^t\beta$."""

    def __check_init__(self) -> None:
        check_horizon(self.t0, self.t1)
        require(self.t0 > 0, f"t0 = {self.t0}; sigma vanishes at t = 0, take t0 > 0.")
        require(
            0 < self.beta_min <= self.beta_max,
            f"beta_min = {self.beta_min} and beta_max = {self.beta_max}; {type(self).__name__} needs "
            "0 < beta_min <= beta_max. Were they swapped?",
        )

    def log_alpha(self, t: Times) -> Float[Array, "*times"]:
        return -0.5 * self._integral(t)

    def rate(self, t: Times) -> Float[Array, "*times"]:
        return -0.5 * self._beta(t)

    def _beta(self, t: Times) -> Float[Array, "*times"]:
        return self.beta_min + (self.beta_max - self.beta_min) * jnp.asarray(t)

    def _integral(self, t: Times) -> Float[Array, "*times"]:
        t = jnp.asarray(t)
        return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def _time_of_integral(self, integral: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """Solves the quadratic `B(t) = integral` in the form that does not cancel."""
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2 * slope * integral))


class VP(_AbstractLinearBeta):
    r"""The variance-preserving SDE (Song 2021, Table 1): $f = -\tfrac12\beta x$, $g^2 = \beta$ with
    $\beta(t) = \beta_{\min} + t(\beta_{\max} - \beta_{\min})$, so $\alpha = e^{-B/2}$, $\sigma^2 = 1 - e^{-B}$, $B
    = \int_0^t\beta$.

    Args:
        beta_min: $\beta_{\min}$, per unit of time.
        beta_max: $\beta_{\max}$, per unit of time.
        t0: The time of the data.
        t1: The time of the prior.

    Raises:
        TypeError: if a parameter is no number.
        ValueError: unless all are finite, `0 < beta_min <= beta_max` and `0 < t0 < t1`.

    Example:
        >>> import scorefp as sfp
        >>> sde = sfp.VP()
        >>> round(float(sde.log_snr(sde.t0) - sde.log_snr(sde.t1)), 3)
        23.864
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t0: float = eqx.field(default=1e-5, static=True)
    t1: float = eqx.field(default=1.0, static=True)

    def log_sigma(self, t: Times) -> Float[Array, "*times"]:
        return 0.5 * jnp.log(-jnp.expm1(-self._integral(t)))

    def g2(self, t: Times) -> Float[Array, "*times"]:
        return self._beta(t)

    def time_of_log_snr(self, log_snr: Times) -> Float[Array, "*times"]:
        return self._time_of_integral(jnp.logaddexp(0.0, -jnp.asarray(log_snr)))


class SubVP(_AbstractLinearBeta):
    r"""The sub-variance-preserving SDE (Song 2021, Table 1): the drift and $\alpha$ of `VP`, with
    $g^2 = \beta(1 - e^{-2B})$ and $\sigma = 1 - e^{-B}$.

    Its $\sigma$ falls like $t$, that of `VP` like $\sqrt t$: the default `t0` is larger, since at `t = 1e-5` the noise
    `1e-6` is lost in float32 samples of order one.

    Args:
        beta_min: $\beta_{\min}$, per unit of time.
        beta_max: $\beta_{\max}$, per unit of time.
        t0: The time of the data.
        t1: The time of the prior.

    Raises:
        TypeError: if a parameter is no number.
        ValueError: unless all are finite, `0 < beta_min <= beta_max` and `0 < t0 < t1`.

    Example:
        >>> import scorefp as sfp
        >>> sde = sfp.SubVP()
        >>> bool(sde.sigma(0.3) < sfp.VP().sigma(0.3))
        True
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t0: float = eqx.field(default=1e-3, static=True)
    t1: float = eqx.field(default=1.0, static=True)

    def log_sigma(self, t: Times) -> Float[Array, "*times"]:
        return jnp.log(-jnp.expm1(-self._integral(t)))

    def g2(self, t: Times) -> Float[Array, "*times"]:
        return -self._beta(t) * jnp.expm1(-2 * self._integral(t))

    def time_of_log_snr(self, log_snr: Times) -> Float[Array, "*times"]:
        # alpha / sigma = 1 / (2 sinh(B / 2)).
        return self._time_of_integral(2 * jnp.arcsinh(0.5 * jnp.exp(-0.5 * jnp.asarray(log_snr))))


class OU(AbstractLinearSDE):
    r"""The Ornstein–Uhlenbeck process $dx = -\theta x\,dt + g\,dw$ (Deveney 2023, §4), with
    $\alpha = e^{-\theta t}$ and $\sigma^2 = g^2 (1 - e^{-2\theta t})/(2\theta)$.

    Args:
        theta: $\theta$, per unit of time.
        noise: $g$, in units of the data per root of time.
        t0: The time of the data.
        t1: The time of the prior, here the stationary law $\mathcal N(0, g^2/2\theta)$.

    Raises:
        TypeError: if a parameter is no number.
        ValueError: unless all are finite, `theta`, `noise` and `t0` are positive and `t0 < t1`.

    Example:
        >>> import scorefp as sfp
        >>> round(float(sfp.OU().sigma(10.0) ** 2), 4)
        0.5
    """

    theta: float = 1.0
    noise: float = 1.0
    t0: float = eqx.field(default=1e-3, static=True)
    t1: float = eqx.field(default=10.0, static=True)

    def __check_init__(self) -> None:
        check_horizon(self.t0, self.t1)
        require(
            self.theta > 0 and self.noise > 0 and self.t0 > 0,
            f"theta = {self.theta}, noise = {self.noise}, t0 = {self.t0}; OU needs all three positive.",
        )

    def log_alpha(self, t: Times) -> Float[Array, "*times"]:
        return -self.theta * jnp.asarray(t)

    def log_sigma(self, t: Times) -> Float[Array, "*times"]:
        decay = -jnp.expm1(-2 * self.theta * jnp.asarray(t))
        return jnp.log(self.noise) + 0.5 * (jnp.log(decay) - jnp.log(2 * self.theta))

    def rate(self, t: Times) -> Float[Array, "*times"]:
        return -self.theta + 0.0 * jnp.asarray(t)

    def g2(self, t: Times) -> Float[Array, "*times"]:
        return self.noise**2 + 0.0 * jnp.asarray(t)

    def time_of_log_snr(self, log_snr: Times) -> Float[Array, "*times"]:
        ratio = 2 * self.theta / self.noise**2
        return jnp.log1p(ratio * jnp.exp(-jnp.asarray(log_snr))) / (2 * self.theta)


class EDM(AbstractLinearSDE):
    r"""The process of Karras 2022: $\alpha = 1$, $\sigma(t) = t$, $g^2 = 2t$.

    Args:
        t0: The least noise level, in units of the data.
        t1: The largest noise level.

    Raises:
        TypeError: if an end is no number.
        ValueError: unless all are finite, `0 < t0 < t1`.

    Example:
        >>> import scorefp as sfp
        >>> float(sfp.EDM().g2(3.0))
        6.0
    """

    t0: float = eqx.field(default=0.002, static=True)
    t1: float = eqx.field(default=80.0, static=True)

    def __check_init__(self) -> None:
        check_horizon(self.t0, self.t1)
        require(self.t0 > 0, f"t0 = {self.t0}; the noise level must be positive.")

    def log_alpha(self, t: Times) -> Float[Array, "*times"]:
        return 0.0 * jnp.asarray(t)

    def log_sigma(self, t: Times) -> Float[Array, "*times"]:
        return jnp.log(t)

    def rate(self, t: Times) -> Float[Array, "*times"]:
        return 0.0 * jnp.asarray(t)

    def g2(self, t: Times) -> Float[Array, "*times"]:
        return 2.0 * jnp.asarray(t)

    def time_of_log_snr(self, log_snr: Times) -> Float[Array, "*times"]:
        return jnp.exp(-0.5 * jnp.asarray(log_snr))


class Cosine(AbstractLinearSDE):
    r"""The variance-preserving process with the cosine schedule (after Nichol & Dhariwal 2021):
    $\alpha = \cos(\pi t/2)$, $\sigma = \sin(\pi t/2)$, $g^2 = \pi\tan(\pi t/2)$.

    The rate has a pole at `t = 1`, so the horizon ends before it; the default has log-SNR in ±12.9.

    Args:
        t0: The time of the data.
        t1: The time of the prior.

    Raises:
        TypeError: if an end is no number.
        ValueError: unless all are finite, `0 < t0 < t1 < 1`.

    Example:
        >>> import scorefp as sfp
        >>> round(float(sfp.Cosine().alpha(0.5)), 4)
        0.7071
    """

    t0: float = eqx.field(default=1e-3, static=True)
    t1: float = eqx.field(default=0.999, static=True)

    def __check_init__(self) -> None:
        check_horizon(self.t0, self.t1)
        require(
            self.t0 > 0 and self.t1 < 1,
            f"[t0, t1] = [{self.t0}, {self.t1}]; the cosine schedule lives inside (0, 1).",
        )

    def log_alpha(self, t: Times) -> Float[Array, "*times"]:
        return jnp.log(jnp.cos(0.5 * jnp.pi * jnp.asarray(t)))

    def log_sigma(self, t: Times) -> Float[Array, "*times"]:
        return jnp.log(jnp.sin(0.5 * jnp.pi * jnp.asarray(t)))

    def rate(self, t: Times) -> Float[Array, "*times"]:
        return -0.5 * jnp.pi * jnp.tan(0.5 * jnp.pi * jnp.asarray(t))

    def g2(self, t: Times) -> Float[Array, "*times"]:
        return jnp.pi * jnp.tan(0.5 * jnp.pi * jnp.asarray(t))

    def time_of_log_snr(self, log_snr: Times) -> Float[Array, "*times"]:
        return jnp.arctan(jnp.exp(-0.5 * jnp.asarray(log_snr))) * (2 / jnp.pi)
