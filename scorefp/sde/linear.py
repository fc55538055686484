"""Linear (Gaussian) SDEs: two functions of time, `log_alpha` and `log_sigma`."""

import functools
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from .._checks import floats, function, is_concrete, kind, real, require, same_shape, sample
from .._times import scalar_time, time_within
from .._types import Event, Scalar, Time, Times
from ._inverse import bisected, with_slope
from .prior import Normal
from .sde import AbstractSDE, check_horizon, time_and_sample, times_within

_OfTime: TypeAlias = "Callable[[AbstractLinearSDE, Times], Array]"

_OF_TIME = ("log_alpha", "log_sigma", "rate", "g2")


def _of_time(fn: _OfTime) -> _OfTime:
    """A function of time that refuses times at which the SDE is not defined."""

    @functools.wraps(fn)
    def checked(self: "AbstractLinearSDE", t: Times) -> Array:
        return fn(self, times_within(self, t))

    return checked


def _of_log_snr(fn: _OfTime) -> _OfTime:
    """The inverse of the log-SNR, which refuses what lies beyond its ends."""

    @functools.wraps(fn)
    def checked(self: "AbstractLinearSDE", log_snr: Times) -> Array:
        values = floats(real("log_snr", log_snr))
        if is_concrete(log_snr):
            with jax.ensure_compile_time_eval():
                ends = self.log_snr(self.t1), self.log_snr(self.t0)
            if is_concrete(ends[0]) and is_concrete(ends[1]):
                low, high = (float(end) for end in ends)
                _check_log_snr(np.asarray(log_snr, np.float64), low, high, float(jnp.finfo(values.dtype).eps))
        return fn(self, values)

    return checked


def _check_log_snr(values: np.ndarray, low: float, high: float, eps: float) -> None:
    # Slack for the rounding of the two logarithms in it.
    outside = ~((values >= low - 64 * eps * (1 + abs(low))) & (values <= high + 64 * eps * (1 + abs(high))))
    if outside.any():
        raise ValueError(
            f"log_snr = {values[outside].flat[0]:g} lies outside [{low:g}, {high:g}], its values between t1 and t0. "
            "Use one inside, or build the SDE with another horizon."
        )


class AbstractLinearSDE(AbstractSDE):
    r"""A forward process $dx = a(t)\,x\,dt + g(t)\,dw$, whose kernel is Gaussian [S2]:

    $$ x_t \mid x_0 \sim \mathcal N(\alpha(t)\,x_0,\ \sigma^2(t) I),
       \qquad a = (\log\alpha)', \qquad g^2 = (\sigma^2)' - 2 a \sigma^2. $$

    The functions of time alone work elementwise on times of any shape: real numbers from `t0`, or from zero where that
    is earlier, to `t1`.

    Raises:
        TypeError: on a call, if a time is not real.
        ValueError: on a call, if a time is NaN or outside that interval, or `time_of_log_snr` is asked beyond the ends
            of the horizon. Under `jit`, `vmap` and `grad`, where a time is not known, this is not looked at.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Here once, so that the members stay formulas.
        super().__init_subclass__(**kwargs)
        for names, check in ((_OF_TIME, _of_time), (("time_of_log_snr",), _of_log_snr)):
            for name in set(names) & set(vars(cls)):
                setattr(cls, name, check(vars(cls)[name]))

    @abstractmethod
    def log_alpha(self, t: Times) -> Float[Array, "*times"]:
        r"""$\log\alpha(t)$, the log of the signal's scale."""

    @abstractmethod
    def log_sigma(self, t: Times) -> Float[Array, "*times"]:
        r"""$\log\sigma(t)$, the log of the noise's standard deviation."""

    @abstractmethod
    def rate(self, t: Times) -> Float[Array, "*times"]:
        r"""The rate $a(t) = (\log\alpha)'$ of the drift $a(t)\,x$, per unit of time."""

    @abstractmethod
    def g2(self, t: Times) -> Float[Array, "*times"]:
        r"""The squared diffusion $g^2(t)$, per unit of time."""

    @abstractmethod
    def time_of_log_snr(self, log_snr: Times) -> Float[Array, "*times"]:
        r"""The inverse of `log_snr`: the time at which $\log\alpha^2/\sigma^2$ has the given value [H2]."""

    @property
    def prior(self) -> Normal:
        r"""$\mathcal N(0, \sigma^2(t_1) I)$: the kernel at $t_1$ of data at the origin."""
        return Normal(self.sigma(self.t1))

    def alpha(self, t: Times) -> Float[Array, "*times"]:
        r"""The signal's scale $\alpha(t)$."""
        return jnp.exp(self.log_alpha(t))

    def sigma(self, t: Times) -> Float[Array, "*times"]:
        r"""The noise's standard deviation $\sigma(t)$."""
        return jnp.exp(self.log_sigma(t))

    def log_snr(self, t: Times) -> Float[Array, "*times"]:
        r"""The log-signal-to-noise ratio $\lambda = \log\alpha^2/\sigma^2$, with $\lambda' = -g^2/\sigma^2$ [S7]."""
        return 2 * (self.log_alpha(t) - self.log_sigma(t))

    def drift(self, t: Time, x: Event) -> Event:
        t, x = time_and_sample(self, t, x)
        return self.rate(t) * x

    def diffusion(self, t: Time, x: Event) -> lx.AbstractLinearOperator:
        t, x = time_and_sample(self, t, x)
        identity = lx.IdentityLinearOperator(jax.ShapeDtypeStruct(x.shape, x.dtype))
        return identity * jnp.sqrt(self.g2(t))

    def covariance(self, t: Time, x: Event, v: Event) -> Event:
        t, x = time_and_sample(self, t, x)
        same_shape("v", v.shape, "x", x.shape)
        return self.g2(t) * v

    def covariance_divergence(self, t: Time, x: Event) -> Event:
        return jnp.zeros_like(x)

    def transition(self, s: Times, t: Times) -> tuple[Float[Array, "*times"], Float[Array, "*times"]]:
        r"""Scale and standard deviation of the transition from time $s$ to a later $t$ [S3]:

        $$ x_t \mid x_s \sim \mathcal N\Big(\tfrac{\alpha_t}{\alpha_s} x_s,\
           \sigma_t^2 - \big(\tfrac{\alpha_t}{\alpha_s}\big)^2 \sigma_s^2\Big). $$

        The variance is taken as $-\sigma_t^2\,\mathrm{expm1}(\lambda_t - \lambda_s)$. Between times that are nearly
        equal it has the digits in which the two log-SNRs differ, no more.

        Returns:
            The scale and the standard deviation.

        Raises:
            ValueError: if a time $s$ is after its $t$.
        """
        times_within(self, s, "s")
        times_within(self, t)
        if is_concrete(s) and is_concrete(t):
            first, last = np.asarray(s), np.asarray(t)
            require(
                not np.any(first > last),
                f"s = {first} and t = {last}; a transition goes from s to a later t. Were they swapped?",
            )
        scale = jnp.exp(self.log_alpha(t) - self.log_alpha(s))
        return scale, self.sigma(t) * jnp.sqrt(-jnp.expm1(self.log_snr(t) - self.log_snr(s)))

    def diffuse(self, t: Scalar, x0: Event, noise: Event) -> Event:
        r"""`perturb` without its checks: $\alpha(t)\,x_0 + \sigma(t)\,\epsilon$ [S2]."""
        return self.alpha(t) * x0 + self.sigma(t) * noise

    def perturb(self, t: Time, x0: Event, noise: Event) -> Event:
        r"""The diffused sample $x_t = \alpha(t)\,x_0 + \sigma(t)\,\epsilon$ [S2].

        Args:
            t: The time, in `[t0, t1]`.
            x0: One clean sample.
            noise: A standard normal draw of the shape of `x0`.

        Raises:
            TypeError: if `x0` or `noise` is not floating.
            ValueError: if the shapes differ (nothing is broadcast), or `t` is not a scalar inside `[t0, t1]`.

        Example:
            >>> import jax.numpy as jnp, scorefp as sfp
            >>> x = sfp.EDM().perturb(2.0, jnp.array([1.0]), jnp.array([0.5]))
            >>> float(x[0])
            2.0
        """
        x0, noise = (sample(name, x) for name, x in (("x0", x0), ("noise", noise)))
        same_shape("noise", noise.shape, "x0", x0.shape)
        t = time_within(scalar_time(t, x0), self.t0, self.t1)
        return self.diffuse(t, x0, noise)


class LinearSDE(AbstractLinearSDE):
    r"""A linear SDE defined by two functions of time, $\log\alpha$ and $\log\sigma$ [S2].

    The rate $a$ and $g^2$ follow by automatic differentiation, the inverse of the log-SNR by bisection.

    Args:
        log_alpha_fn: $\log\alpha(t)$, a smooth elementwise function.
        log_sigma_fn: $\log\sigma(t)$, likewise; $\log\alpha - \log\sigma$ must fall with `t`.
        t0: The time of the data.
        t1: The time of the prior.

    Raises:
        TypeError: if a function does not take one argument.
        ValueError: if the horizon is empty, or the log-SNR does not fall from `t0` to `t1`.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> mine = sfp.LinearSDE(lambda t: -t, lambda t: 0.5 * jnp.log(-jnp.expm1(-2 * t)), t0=1e-3, t1=5.0)
        >>> round(float(mine.g2(1.0)), 4)
        2.0
    """

    log_alpha_fn: Callable[[Array], Float[Array, "*times"]]
    log_sigma_fn: Callable[[Array], Float[Array, "*times"]]
    t0: float = eqx.field(static=True)
    t1: float = eqx.field(static=True)

    def __check_init__(self) -> None:
        check_horizon(self.t0, self.t1, lowest=-float("inf"))
        for name in ("log_alpha_fn", "log_sigma_fn"):
            function(name, getattr(self, name), "t", "It is a smooth elementwise function of time.")
        first, last = self.log_snr(self.t0), self.log_snr(self.t1)
        if is_concrete(first):
            require(
                bool(first > last),
                f"log_alpha - log_sigma goes from {float(first) / 2} at t0 to {float(last) / 2} at t1; it must be "
                "finite and fall. Check that the functions return logarithms.",
            )

    def log_alpha(self, t: Times) -> Float[Array, "*times"]:
        return jnp.asarray(self.log_alpha_fn(jnp.asarray(t)))

    def log_sigma(self, t: Times) -> Float[Array, "*times"]:
        return jnp.asarray(self.log_sigma_fn(jnp.asarray(t)))

    def rate(self, t: Times) -> Float[Array, "*times"]:
        return _slope(self.log_alpha, t)

    def g2(self, t: Times) -> Float[Array, "*times"]:
        return -jnp.exp(2 * self.log_sigma(t)) * _slope(self.log_snr, t)

    def time_of_log_snr(self, log_snr: Times) -> Float[Array, "*times"]:
        target = jnp.asarray(log_snr, jnp.result_type(log_snr, float))
        # Twice the digits of the dtype: a root near t0 = 1e-5 needs more halvings than one near t1.
        t = bisected(self.log_snr, target, self.t0, self.t1, 2 * jnp.finfo(target.dtype).nmant)
        return with_slope(t, target - self.log_snr(t), _slope(self.log_snr, t), self.t0, self.t1)


def require_linear(sde: AbstractSDE) -> AbstractLinearSDE:
    """The SDE itself, where a Gaussian kernel is needed."""
    sde = kind("sde", sde, AbstractSDE)
    if not isinstance(sde, AbstractLinearSDE):
        raise TypeError(
            f"sde is a {type(sde).__name__}, which has no Gaussian kernel alpha(t), sigma(t); a linear SDE is needed "
            "here (VE, VP, SubVP, OU, EDM, Cosine or LinearSDE). What works for every SDE: the Fokker–Planck "
            "operator, the gradient form of the residual, the likelihood and the samplers."
        )
    return sde


def _slope(fn: Callable[[Array], Float[Array, "*times"]], t: Times) -> Float[Array, "*times"]:
    """The derivative of an elementwise function of time."""
    t = jnp.asarray(t)
    return jax.jvp(fn, (t,), (jnp.ones_like(t),))[1]
