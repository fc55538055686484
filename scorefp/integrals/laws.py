"""Laws of times for an integral over time: changes of measure that no integrand sees."""

from abc import abstractmethod
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Float, Int

from .._checks import checked, count, random_key, require
from .._module import AbstractModule
from .._times import check_interval, interval_within
from .._types import Key, Scalar, Times
from ..sde import AbstractLinearSDE
from ..sde.linear import require_linear
from .log_snr import End, log_snr_times


class _TimeSamplerFields:
    stratified: eqx.AbstractVar[bool]


class AbstractTimeSampler(AbstractModule, _TimeSamplerFields):
    r"""Draws of times with weights: an estimate $\frac1n\sum_i w_i\,\ell(t_i)$ of an integral $\int\ell\,dt$.

    That of a law $p$ on `[t0, t1]` has the weights $1/p$ and is unbiased. A `TimeInterval` estimates the integral over
    a part of the horizon, `SoftTruncation` one with another weighting; both say so.

    `stratified` says whether `n` draws lie one in each of `n` cells of equal probability. An estimate of the error
    of a mean over them depends on it.
    """

    remedy: ClassVar[str] = "It is a law of times, for example scorefp.UniformLogSNR()."

    @abstractmethod
    def sample(self, sde: AbstractLinearSDE, n: int, *, key: Key) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """`n` times, each with its weight.

        Args:
            sde: The forward process.
            n: How many.
            key: A random key.
        """


class AbstractTimeLaw(AbstractTimeSampler):
    r"""A positive density $p$ on `[t0, t1]`, with draws and weights $1/p$, so that $\int\ell\,dt = E[\ell(t)/p(t)]$.

    A law restricts to any interval of the horizon, with the density normalised there.
    """

    @abstractmethod
    def quantile(self, sde: AbstractLinearSDE, u: Times, start: End, stop: End) -> Float[Array, "*times"]:
        """The time below which a share `u` of the law on `[start, stop]` lies.

        Args:
            sde: The forward process.
            u: Shares in [0, 1], of any shape.
            start: The beginning of the interval; it may be traced.
            stop: Its end.
        """

    @abstractmethod
    def weight(self, sde: AbstractLinearSDE, t: Times, start: End, stop: End) -> Float[Array, "*times"]:
        r"""The reciprocal $1/p(t)$ of the density of the law on `[start, stop]`.

        Args:
            sde: The forward process.
            t: Times in the interval, of any shape.
            start: The beginning of the interval; it may be traced.
            stop: Its end.
        """

    def sample(self, sde: AbstractLinearSDE, n: int, *, key: Key) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        sde = require_linear(sde)
        return self.between(sde, sde.t0, sde.t1, n, key=key)

    def between(
        self, sde: AbstractLinearSDE, start: End, stop: End, n: int, *, key: Key
    ) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """`n` times of the law on `[start, stop]`, each with its weight `1/p(t)`.

        Args:
            sde: The forward process.
            start: The beginning of the interval; it may be traced.
            stop: Its end.
            n: How many.
            key: A random key.
        """
        t = jnp.clip(self.quantile(sde, _uniform(n, key, self.stratified), start, stop), start, stop)
        return t, self.weight(sde, t, start, stop)


class UniformTime(AbstractTimeLaw):
    r"""Uniform in `t`, with the constant weight $t_1 - t_0$.

    Args:
        stratified: Whether each of `n` equal cells gets one time, which lowers the variance and keeps the mean.

    Example:
        >>> import jax, scorefp as sfp
        >>> t, weight = sfp.UniformTime().sample(sfp.EDM(t0=1.0, t1=3.0), 4, key=jax.random.key(0))
        >>> float(weight[0])
        2.0
    """

    stratified: bool = eqx.field(default=True, static=True)

    def quantile(self, sde: AbstractLinearSDE, u: Times, start: End, stop: End) -> Float[Array, "*times"]:
        return start + (stop - start) * jnp.asarray(u)

    def weight(self, sde: AbstractLinearSDE, t: Times, start: End, stop: End) -> Float[Array, "*times"]:
        return jnp.full(jnp.shape(t), stop - start)


class UniformLogSNR(AbstractTimeLaw):
    r"""Uniform in the log-SNR $\lambda$ [H2]: the density is $p = -\lambda'/Z = g^2/(\sigma^2 Z)$ with
    $Z = \lambda(t_0) - \lambda(t_1)$, the weight $Z\sigma^2/g^2$ (Song 2021, Eq. 12, without its spurious $T$).

    It is importance sampling for every likelihood-weighted term, for every linear SDE: the integrand of `DSM` then
    varies as the squared error of the noise prediction, where uniform times let a factor $g^2/\sigma^2$ range over
    decades.

    Args:
        stratified: Whether each of `n` equal cells of $\lambda$ gets one time, which lowers the variance and keeps
            the mean.

    Example:
        >>> import jax, scorefp as sfp
        >>> sde = sfp.EDM(t0=0.01, t1=100.0)
        >>> t, _ = sfp.UniformLogSNR().sample(sde, 1000, key=jax.random.key(0))
        >>> bool(abs((t < 1.0).mean() - 0.5) < 0.01)
        True
    """

    stratified: bool = eqx.field(default=True, static=True)

    def quantile(self, sde: AbstractLinearSDE, u: Times, start: End, stop: End) -> Float[Array, "*times"]:
        return log_snr_times(sde, start, stop, jnp.asarray(u))

    def weight(self, sde: AbstractLinearSDE, t: Times, start: End, stop: End) -> Float[Array, "*times"]:
        return (sde.log_snr(start) - sde.log_snr(stop)) * sde.sigma(t) ** 2 / sde.g2(t)


class LogNormalNoise(AbstractTimeLaw):
    r"""A normal law of the log noise level $\ln\tilde\sigma$, $\tilde\sigma = \sigma/\alpha = e^{-\lambda/2}$ [H5]
    (Karras 2022, Table 1), cut off at the ends of the horizon.

    With $z = (\ln\tilde\sigma - \mu)/s$ and $\Phi$, $\varphi$ the standard normal distribution and density,

    $$ p(t) = \frac{\varphi(z)}{s\,Z}\,\frac{g^2}{2\sigma^2}, \qquad Z = \Phi(z(t_1)) - \Phi(z(t_0)). $$

    Training with it does not change what is trained, as with any law: Karras's loss is an expectation under this law,
    which `edm_loss` is.

    Args:
        mean: $\mu$.
        std: $s$.
        stratified: Whether each of `n` cells of equal probability gets one time, which lowers the variance and keeps
            the mean.

    Raises:
        ValueError: if `std` is not positive; at a call, if the law has no mass on the interval, in the precision that
            is on.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> t, _ = sfp.LogNormalNoise().sample(sfp.EDM(), 1000, key=jax.random.key(0))
        >>> round(float(jnp.median(jnp.log(t))), 2)
        -1.2
    """

    mean: float = -1.2
    std: float = 1.2
    stratified: bool = eqx.field(default=True, static=True)

    def __check_init__(self) -> None:
        require(self.std > 0, f"std = {self.std}; a standard deviation is positive.")

    def quantile(self, sde: AbstractLinearSDE, u: Times, start: End, stop: End) -> Float[Array, "*times"]:
        u = jnp.asarray(u)
        low, high, mass = self._ends(sde, start, stop)
        # The smaller of the two tails, whose digits are not lost in a number near 1.
        below, above = ndtr(low) + u * mass, ndtr(-high) + (1 - u) * mass
        z = jnp.clip(jnp.where(below < above, ndtri(below), -ndtri(above)), low, high)
        return sde.time_of_log_snr(-2 * (self.mean + self.std * z))

    def weight(self, sde: AbstractLinearSDE, t: Times, start: End, stop: End) -> Float[Array, "*times"]:
        _, _, mass = self._ends(sde, start, stop)
        normal = jnp.exp(-0.5 * self._standard(sde, t) ** 2) / np.sqrt(2 * np.pi)
        return mass * self.std * 2 * sde.sigma(t) ** 2 / (sde.g2(t) * normal)

    def _standard(self, sde: AbstractLinearSDE, t: Times) -> Float[Array, "*times"]:
        return (-0.5 * sde.log_snr(t) - self.mean) / self.std

    def _ends(self, sde: AbstractLinearSDE, start: End, stop: End) -> tuple[Scalar, Scalar, Scalar]:
        """The standardised ends of an interval, and the mass of the normal law between them."""
        # Outside of any program where the ends are known, so that the check costs nothing there.
        with jax.ensure_compile_time_eval():
            low, high = self._standard(sde, start), self._standard(sde, stop)
            right = low + high > 0
            larger = jnp.where(right, ndtr(-low), ndtr(high))
            # Of a very short interval the difference may round to zero; so does its integral.
            mass = jnp.maximum(larger - jnp.where(right, ndtr(-high), ndtr(low)), 0)
            empty = ~(larger > 0)
        message = (
            f"the interval of times has no mass in {mass.dtype} under a normal law of the log noise level with mean "
            f"{self.mean} and standard deviation {self.std}; choose them to cover log(sigma/alpha) there."
        )
        return low, high, checked(mass, empty, message)


class TimeInterval(AbstractTimeSampler):
    r"""A law restricted to an interval: every integral over the horizon becomes one over `[start, stop]`, for the
    price of that part alone [M4].

    `Restricted` does so for one term of an objective.

    Args:
        law: The law of times, normalised on the interval.
        start: The beginning of the interval; `None` for `t0`.
        stop: Its end; `None` for `t1`.

    Raises:
        ValueError: if the interval is empty; at a call, if it leaves the horizon.

    Example:
        >>> import jax, scorefp as sfp
        >>> times = sfp.integrals.TimeInterval(sfp.UniformTime(), start=0.5)
        >>> t, weight = times.sample(sfp.VP(), 4, key=jax.random.key(0))
        >>> bool(t.min() >= 0.5), float(weight[0])
        (True, 0.5)
    """

    law: AbstractTimeLaw
    start: float | None = None
    stop: float | None = None

    def __check_init__(self) -> None:
        check_interval(self.start, self.stop)

    @property
    def stratified(self) -> bool:
        """Whether the law's draws are."""
        return self.law.stratified

    def sample(self, sde: AbstractLinearSDE, n: int, *, key: Key) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        sde = require_linear(sde)
        start, stop = interval_within(self.start, self.stop, sde.t0, sde.t1)
        return self.law.between(sde, start, stop, n, key=key)


class SoftTruncation(AbstractTimeSampler):
    r"""A random start of the integral, one for each batch (Kim 2022): $\tau$ of density proportional to $\tau^{-k}$ on
    `[t0, t1]`, then times of a law on $[\tau, t_1]$.

    This is a weighting, not a change of measure only. What is estimated is

    $$ E_\tau \int_\tau^{t_1} \ell\,dt = \int_{t_0}^{t_1} P(\tau \le t)\,\ell\,dt, \qquad
       P(\tau \le t) = \frac{t^{1-k} - t_0^{1-k}}{t_1^{1-k} - t_0^{1-k}}, $$

    $\ln(t/t_0)/\ln(t_1/t_0)$ for $k = 1$, which counts small times less: not at all at `t0`. Bounds of the likelihood
    refuse it, and a `TimeInterval` too.

    Args:
        law: The law of times on $[\tau, t_1]$.
        power: $k$; the larger, the nearer $\tau$ is to `t0`.

    Raises:
        ValueError: if `power` is not in [0, inf); at a call, if `t0` is not positive.

    Example:
        >>> import jax, scorefp as sfp
        >>> t, weight = sfp.integrals.SoftTruncation().sample(sfp.VP(), 4, key=jax.random.key(0))
        >>> bool(weight[0] == weight[3]), bool(t.min() > 1 - weight[0])
        (True, True)
    """

    law: AbstractTimeLaw = UniformTime()
    power: float = 1.0

    def __check_init__(self) -> None:
        require(0 <= self.power < np.inf, f"power = {self.power}; it is finite and at least 0.")

    @property
    def stratified(self) -> bool:
        """Whether the law's draws are; all of a batch have one start."""
        return self.law.stratified

    def sample(self, sde: AbstractLinearSDE, n: int, *, key: Key) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        sde = require_linear(sde)
        start_key, times_key = jr.split(random_key("SoftTruncation", key))
        require(sde.t0 > 0, f"t0 = {sde.t0}; a start of density tau^(-{self.power}) needs a positive one.")
        share, rate, length = jr.uniform(start_key), 1 - self.power, np.log(sde.t1 / sde.t0)
        growth = share * length if rate == 0 else jnp.log1p(share * np.expm1(rate * length)) / rate
        return self.law.between(sde, sde.t0 * jnp.exp(growth), sde.t1, n, key=times_key)


def _uniform(n: int, key: Key, stratified: bool) -> Float[Array, " n"]:
    """Draws in (0, 1); stratified ones in an order whose every head is spread evenly, since a term may see only that.

    The cells are turned by a random number of places. Each draw by itself is then uniform, without which the mean over
    a head would be that of its own cells.
    """
    count("n", n, 1)
    random_key("a law of times", key)
    if not stratified:
        return jr.uniform(key, (n,))
    turn_key, place_key = jr.split(key)
    cells = (jnp.asarray(_even_order(n)) + jr.randint(turn_key, (), 0, n)) % n
    return (cells + jr.uniform(place_key, (n,))) / n


def _even_order(n: int) -> Int[np.ndarray, " n"]:
    """The numbers below `n`, ranked as the van der Corput sequence ranks them."""
    bits = max(1, (n - 1).bit_length())
    reversed_bits = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(n)]
    return np.argsort(np.argsort(reversed_bits))
