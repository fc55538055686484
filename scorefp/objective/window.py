"""Windows of time in which a denoiser is compared with itself [M2] (Daras 2023)."""

from abc import abstractmethod

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr

from .._checks import require
from .._module import AbstractModule
from .._types import Key, Scalar
from ..sde import AbstractLinearSDE


class _WindowFields:
    length: eqx.AbstractVar[float]
    random: eqx.AbstractVar[bool]
    floor: eqx.AbstractVar[float | None]


class AbstractWindow(AbstractModule, _WindowFields):
    r"""A law of the earlier time $t' \le t$ at which a denoiser is compared with itself.

    A window has a `length` in some coordinate that grows with time. With `random` the coordinate of $t'$ is uniform
    over the window, else $t'$ is its far end. A window that reaches below `floor`, a time (`t0` for `None`), ends
    there; above a time below the floor there is none, $t' = t$.
    """

    def __check_init__(self) -> None:
        require(self.length > 0, f"length = {self.length}; the length of a window is positive.")

    @abstractmethod
    def coordinate(self, sde: AbstractLinearSDE, t: Scalar) -> Scalar:
        """The coordinate of a time, which grows with it."""

    @abstractmethod
    def time(self, sde: AbstractLinearSDE, coordinate: Scalar) -> Scalar:
        """The time of a coordinate."""

    @abstractmethod
    def log_snr_rate(self, sde: AbstractLinearSDE, t: Scalar) -> Scalar:
        """By how much the log-SNR falls per unit of the coordinate."""

    def __call__(self, sde: AbstractLinearSDE, t: Scalar, *, key: Key) -> Scalar:
        r"""The earlier time $t'$.

        Args:
            sde: The forward process.
            t: The time, inside `[t0, t1]`.
            key: A random key.

        Raises:
            ValueError: if the floor is outside `[t0, t1)`.
        """
        floor = sde.t0 if self.floor is None else self.floor
        require(
            sde.t0 <= floor < sde.t1,
            f"floor = {floor} lies outside [t0, t1) = [{sde.t0}, {sde.t1}), the horizon of the SDE. The floor of a "
            "window is the lowest time it reaches to; leave it out for t0.",
        )
        start = self.coordinate(sde, t)
        lowest = self.coordinate(sde, jnp.asarray(floor, t.dtype))
        length = jnp.clip(start - lowest, 0, self.length)
        share = jr.uniform(key, (), t.dtype) if self.random else jnp.ones((), t.dtype)
        earlier = self.time(sde, start - share * length).astype(t.dtype)
        return jnp.minimum(jnp.maximum(earlier, jnp.asarray(floor, t.dtype)), t)

    def mean_square(self, sde: AbstractLinearSDE, t: Scalar) -> Scalar:
        r"""The mean square $E[(\lambda' - \lambda)^2]$ of the length of a window in log-SNR, to first order in the
        length and without the floor.

        Args:
            sde: The forward process.
            t: The time.
        """
        return (self.length * self.log_snr_rate(sde, t)) ** 2 * (1 / 3 if self.random else 1.0)


class TimeWindow(AbstractWindow):
    r"""A window in time: $t' \sim U[t - \delta, t]$, or $t' = t - \delta$ [M2] (Daras 2023, §4).

    Args:
        length: $\delta$.
        random: Whether $t'$ is drawn.
        floor: The lowest $t'$; `t0` for `None`.

    Raises:
        ValueError: if `length` is not positive; on a call, if the floor is outside `[t0, t1)`.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> window = sfp.objective.TimeWindow(0.25, random=False)
        >>> [float(window(sfp.EDM(t0=0.125), jnp.asarray(t), key=jax.random.key(0))) for t in (1.0, 0.25)]
        [0.75, 0.125]
    """

    length: float
    random: bool = True
    floor: float | None = None

    def coordinate(self, sde: AbstractLinearSDE, t: Scalar) -> Scalar:
        return t

    def time(self, sde: AbstractLinearSDE, coordinate: Scalar) -> Scalar:
        return coordinate

    def log_snr_rate(self, sde: AbstractLinearSDE, t: Scalar) -> Scalar:
        return sde.g2(t) / sde.sigma(t) ** 2


class NoiseWindow(AbstractWindow):
    r"""A window in the noise level $\tilde\sigma = \sigma/\alpha$: $\tilde\sigma' \sim U[\tilde\sigma - \delta,
    \tilde\sigma]$, or its far end [M2].

    The public code of Daras 2023 has $\delta = 0.05$ and a floor at $\tilde\sigma = 0.002$, the `t0` of `EDM()`.

    Args:
        length: $\delta$, in units of the samples.
        random: Whether $t'$ is drawn.
        floor: The lowest $t'$, a time; `t0` for `None`.

    Raises:
        ValueError: if `length` is not positive; on a call, if the floor is outside `[t0, t1)`.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> window = sfp.objective.NoiseWindow(0.05, random=False)
        >>> [round(float(window(sfp.EDM(), jnp.asarray(t), key=jax.random.key(0))), 4) for t in (1.0, 0.04)]
        [0.95, 0.002]
    """

    length: float = 0.05
    random: bool = True
    floor: float | None = None

    def coordinate(self, sde: AbstractLinearSDE, t: Scalar) -> Scalar:
        return jnp.exp(-0.5 * sde.log_snr(t))

    def time(self, sde: AbstractLinearSDE, coordinate: Scalar) -> Scalar:
        return sde.time_of_log_snr(-2 * jnp.log(coordinate))

    def log_snr_rate(self, sde: AbstractLinearSDE, t: Scalar) -> Scalar:
        return 2 * jnp.exp(0.5 * sde.log_snr(t))


class LogSNRWindow(AbstractWindow):
    r"""A window in the log-SNR $\lambda$ [S7]: $\lambda' \sim U[\lambda, \lambda + \delta]$, or its far end.

    It is the same share of the noise at all times and for every linear SDE. The window of the public code of Daras
    2023 has the length 0.36 where EDM's training has its median noise, $\tilde\sigma = e^{-1.2}$.

    Args:
        length: $\delta$, a pure number.
        random: Whether $t'$ is drawn.
        floor: The lowest $t'$, a time; `t0` for `None`.

    Raises:
        ValueError: if `length` is not positive; on a call, if the floor is outside `[t0, t1)`.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> window = sfp.objective.LogSNRWindow(2.0, random=False)
        >>> round(float(window(sfp.EDM(), jnp.asarray(1.0), key=jax.random.key(0))), 4)  # exp(-1)
        0.3679
    """

    length: float = 1.0
    random: bool = True
    floor: float | None = None

    def coordinate(self, sde: AbstractLinearSDE, t: Scalar) -> Scalar:
        return -sde.log_snr(t)

    def time(self, sde: AbstractLinearSDE, coordinate: Scalar) -> Scalar:
        return sde.time_of_log_snr(-coordinate)

    def log_snr_rate(self, sde: AbstractLinearSDE, t: Scalar) -> Scalar:
        return jnp.ones_like(t)
