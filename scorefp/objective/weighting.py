r"""Weightings of integrands over time: functions `(sde, t) -> weight`. Any such callable does."""

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp

from .._checks import floats, function, real, require, scalar
from .._module import AbstractModule
from .._times import known_time_within, no_steps
from .._types import Scalar, Time
from ..integrals import AbstractTimeLaw
from ..sde import AbstractLinearSDE
from ..sde.linear import require_linear

Weighting: TypeAlias = Callable[[AbstractLinearSDE, Scalar], Scalar]
"""A weight as a function of the SDE and one time; it multiplies the integrand of a term."""

WEIGHTING = "For example scorefp.likelihood_weighting."


def weight_at(name: str, weighting: Weighting, sde: AbstractLinearSDE, t: Scalar) -> Scalar:
    """The value of a weighting, the field `name` of a term, at one time, refused unless it is a scalar."""
    return scalar(f"the value of {name}", weighting(sde, t))


def unit_weighting(sde: AbstractLinearSDE, t: Time) -> Scalar:
    """The weight 1.

    Raises:
        TypeError: if the SDE has no Gaussian kernel.
        ValueError: if `t` is known to be outside the horizon.

    Example:
        >>> import scorefp as sfp
        >>> float(sfp.objective.unit_weighting(sfp.EDM(), 3.0))
        1.0
    """
    return jnp.ones_like(_time(sde, t))


def likelihood_weighting(sde: AbstractLinearSDE, t: Time) -> Scalar:
    r"""The weight $\lambda = g^2$, with which denoising score matching bounds $-\log p$ [H1] (Song 2021, Theorem 1).

    Raises:
        TypeError: if the SDE has no Gaussian kernel.
        ValueError: if `t` is known to be outside the horizon.

    Example:
        >>> import scorefp as sfp
        >>> float(sfp.likelihood_weighting(sfp.EDM(), 3.0))
        6.0
    """
    t = _time(sde, t)
    return sde.g2(t)


def noise_weighting(sde: AbstractLinearSDE, t: Time) -> Scalar:
    r"""The weight $\lambda = \sigma^2$, the common one: it counts errors of the noise prediction equally over time [H1]
    (Song 2021, Table 1, whose $\sigma$ is here the kernel's).

    Raises:
        TypeError: if the SDE has no Gaussian kernel.
        ValueError: if `t` is known to be outside the horizon.

    Example:
        >>> import scorefp as sfp
        >>> float(sfp.objective.noise_weighting(sfp.EDM(), 3.0))
        9.0
    """
    t = _time(sde, t)
    return sde.sigma(t) ** 2


def scale_free_weighting(sde: AbstractLinearSDE, t: Time) -> Scalar:
    r"""The weight $\sigma^4/(2 g^2)$ of the squared residual in `ScoreFPE`, comparable over time [F15].

    With $\tilde\varepsilon = (\sigma^3/g^2)\,\varepsilon$ the defect of the noise prediction per unit of log-SNR,

    $$ \int \frac{\sigma^4}{2 g^2}\|\varepsilon\|^2 dt = \tfrac12\int
       \frac{g^2}{\sigma^2}\|\tilde\varepsilon\|^2\,dt
       = \tfrac12\int\|\tilde\varepsilon\|^2\,d\lambda, $$

    which is the unit of likelihood-weighted denoising score matching, $\tfrac12\int\|\hat\epsilon -
    \epsilon\|^2\,d\lambda$.

    Raises:
        TypeError: if the SDE has no Gaussian kernel.
        ValueError: if `t` is known to be outside the horizon.

    Example:
        >>> import scorefp as sfp
        >>> float(sfp.objective.scale_free_weighting(sfp.EDM(), 2.0))  # 2^4 / (2 * 2*2)
        2.0
    """
    t = _time(sde, t)
    return sde.sigma(t) ** 4 / (2 * sde.g2(t))


def scale_free_score_weighting(sde: AbstractLinearSDE, t: Time) -> Scalar:
    r"""The weight $g^2/2$ of a squared score, which makes it one of the noise prediction per unit of log-SNR:
    $\int\tfrac12 g^2\|s\|^2 dt = \tfrac12\int\|\sigma s\|^2 d\lambda$ [F15], [F17].

    Raises:
        TypeError: if the SDE has no Gaussian kernel.
        ValueError: if `t` is known to be outside the horizon.

    Example:
        >>> import scorefp as sfp
        >>> float(sfp.objective.scale_free_score_weighting(sfp.EDM(), 3.0))
        3.0
    """
    t = _time(sde, t)
    return 0.5 * sde.g2(t)


def scale_free_jacobian_weighting(sde: AbstractLinearSDE, t: Time) -> Scalar:
    r"""The weight $\sigma^2 g^2/2$ of the squared Jacobian of a score, likewise:
    $\int\tfrac12\sigma^2 g^2\|J\|^2 dt = \tfrac12\int\|\sigma^2 J\|^2 d\lambda$ [F15], [F17].

    $-\sigma^2 J$ is the derivative of the noise prediction by $x/\sigma$.

    Raises:
        TypeError: if the SDE has no Gaussian kernel.
        ValueError: if `t` is known to be outside the horizon.

    Example:
        >>> import scorefp as sfp
        >>> float(sfp.objective.scale_free_jacobian_weighting(sfp.EDM(), 3.0))
        27.0
    """
    t = _time(sde, t)
    return sde.sigma(t) ** 2 * 0.5 * sde.g2(t)


class EDMWeighting(AbstractModule):
    r"""The weight of Karras 2022 [H1]: $(\tilde\sigma^2 + \sigma_d^2)/(\tilde\sigma\sigma_d)^2$ on the squared
    error of the denoiser, with $\tilde\sigma = \sigma/\alpha$; on that of the score it is $\lambda =
    (\sigma^2/\alpha)^2$ times this.

    Args:
        data_std: $\sigma_d$, the standard deviation of the data.

    Raises:
        ValueError: if `data_std` is not positive.

    Example:
        >>> import scorefp as sfp
        >>> round(float(sfp.objective.EDMWeighting(0.5)(sfp.EDM(), 0.5)), 4)
        0.5
    """

    data_std: float = 0.5

    def __check_init__(self) -> None:
        require(
            0 < self.data_std < float("inf"),
            f"data_std = {self.data_std}; a standard deviation is positive and finite.",
        )

    def __call__(self, sde: AbstractLinearSDE, t: Time) -> Scalar:
        t = _time(sde, t)
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        ratio = sigma / alpha
        return sigma**4 / alpha**2 * (ratio**2 + self.data_std**2) / (ratio * self.data_std) ** 2


class MinSNRWeighting(AbstractModule):
    r"""The weight of Hang 2023 [H1]: $\min(\mathrm{snr}, \gamma)$ on the squared error of the denoiser, with
    $\mathrm{snr} = \alpha^2/\sigma^2$; on that of the score it is

    $$ \lambda = \frac{\sigma^4}{\alpha^2}\min(\mathrm{snr}, \gamma)
       = \sigma^2\min\Big(1, \frac{\gamma}{\mathrm{snr}}\Big) : $$

    the common weight $\sigma^2$, capped where there is little noise.

    Args:
        gamma: The largest signal-to-noise ratio that counts in full.

    Raises:
        ValueError: if `gamma` is not positive.

    Example:
        >>> import scorefp as sfp
        >>> (
        ...     float(sfp.objective.MinSNRWeighting(4.0)(sfp.EDM(), 2.0)),
        ...     float(sfp.objective.MinSNRWeighting(4.0)(sfp.EDM(), 0.25)),
        ... )
        (4.0, 0.015625)
    """

    gamma: float = 5.0

    def __check_init__(self) -> None:
        _check_gamma(self.gamma)

    def __call__(self, sde: AbstractLinearSDE, t: Time) -> Scalar:
        t = _time(sde, t)
        return sde.sigma(t) ** 2 * jnp.minimum(1, self.gamma * jnp.exp(-sde.log_snr(t)))


class SoftMinSNRWeighting(AbstractModule):
    r"""The weight of Crowson 2024 [H1], a smooth `MinSNRWeighting`: half the harmonic mean
    $\big(\mathrm{snr}^{-1} + \gamma^{-1}\big)^{-1}$ in the place of the minimum, so that
    $\lambda = \sigma^2\,\gamma/(\mathrm{snr} + \gamma)$.

    Args:
        gamma: The signal-to-noise ratio around which the weight turns.

    Raises:
        ValueError: if `gamma` is not positive.

    Example:
        >>> import scorefp as sfp
        >>> float(sfp.objective.SoftMinSNRWeighting(4.0)(sfp.EDM(), 0.5))  # snr = 4
        0.125
    """

    gamma: float = 4.0

    def __check_init__(self) -> None:
        _check_gamma(self.gamma)

    def __call__(self, sde: AbstractLinearSDE, t: Time) -> Scalar:
        t = _time(sde, t)
        return sde.sigma(t) ** 2 * self.gamma / (jnp.exp(sde.log_snr(t)) + self.gamma)


class ExpectedWeighting(AbstractModule):
    r"""A weighting times the density of a law of times, $\lambda(t)\,p(t)$: the integral over time becomes the
    expectation $E_{t\sim p}[\lambda(t)\,\cdot\,]$ of the papers that write their loss as one [H5].

    With times drawn from the same law the two densities cancel. Any other law of draws estimates the same number.

    Args:
        weighting: $\lambda$.
        law: $p$, on the horizon.

    Example:
        >>> import scorefp as sfp
        >>> weighting = sfp.objective.ExpectedWeighting(sfp.likelihood_weighting, sfp.UniformTime())
        >>> float(weighting(sfp.EDM(t0=1.0, t1=5.0), 2.0))  # g^2 / (t1 - t0)
        1.0
    """

    weighting: Weighting
    law: AbstractTimeLaw

    def __check_init__(self) -> None:
        function("weighting", self.weighting, "sde, t", WEIGHTING)

    def __call__(self, sde: AbstractLinearSDE, t: Time) -> Scalar:
        t = _time(sde, t)
        return weight_at("weighting", self.weighting, sde, t) / self.law.weight(sde, t, sde.t0, sde.t1)


class InterpolatedWeighting(AbstractModule):
    r"""The geometric mean $\lambda = \lambda_0^{1 - w}\,\lambda_1^w$ of two weightings: by default from the common
    weight $\sigma^2$ to the likelihood's $g^2$.

    An arithmetic mean needs no class: `(1 - w) * DSM(first) + w * DSM(last)` is one.

    Args:
        share: $w$.
        first: $\lambda_0$.
        last: $\lambda_1$.

    Raises:
        ValueError: if `share` is outside [0, 1].

    Example:
        >>> import scorefp as sfp
        >>> round(float(sfp.objective.InterpolatedWeighting(0.5)(sfp.EDM(), 2.0)), 4)  # sqrt(2^2 * 2*2)
        4.0
    """

    share: float
    first: Weighting = noise_weighting
    last: Weighting = likelihood_weighting

    def __check_init__(self) -> None:
        require(0 <= self.share <= 1, f"share = {self.share}; a share lies in [0, 1].")
        function("first", self.first, "sde, t", WEIGHTING)
        function("last", self.last, "sde, t", WEIGHTING)

    def __call__(self, sde: AbstractLinearSDE, t: Time) -> Scalar:
        t = _time(sde, t)
        first, last = weight_at("first", self.first, sde, t), weight_at("last", self.last, sde, t)
        return first ** (1 - self.share) * last**self.share


def _time(sde: AbstractLinearSDE, t: Time) -> Scalar:
    """The time of a weighting, refused where the SDE is not linear, or the time known to be outside the horizon."""
    require_linear(sde)
    no_steps("t", t)
    time = floats(real("t", t))
    known_time_within(t, sde.t0, sde.t1, jnp.zeros(()))
    return time


def _check_gamma(gamma: float) -> None:
    require(gamma > 0, f"gamma = {gamma}; a signal-to-noise ratio is positive.")
