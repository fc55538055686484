"""The martingale property of a denoiser [M1] (Daras 2023): paths, the consistency loss, and windows of time [M2]."""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int

from ._checks import checked, floating, is_concrete, require, scalar_time, time_within
from ._module import AbstractModule
from ._types import Event, Key, Scalar, Time
from .reverse import ReverseStep, euler_maruyama_step
from .score import AbstractScore, linear_sde
from .sde import AbstractLinearSDE

_T = TypeVar("_T")


def reverse_path(
    score: AbstractScore,
    t: Time,
    earlier: Time,
    x: Event,
    *,
    key: Key,
    steps: int = 6,
    step: ReverseStep = euler_maruyama_step,
) -> Event:
    r"""The end $x_{t'}$ of one path of the model's own reverse SDE $dx = (f - g^2 s)\,dt + g\,d\bar w$ from $x_t = x$
    to an earlier time [M2] (Daras 2023, Eq. 7), in steps of equal length in log-SNR.

    One compiled loop. `jax.vmap` over keys gives independent paths.

    Args:
        score: A score on a linear SDE.
        t: The time.
        earlier: $t' \le t$.
        x: The state at $t$.
        key: A random key.
        steps: The number of steps; six in the paper.
        step: `euler_maruyama_step`, `heun_step` or `ancestral_step` of `scorefp.reverse`, or any function of its kind.

    Raises:
        TypeError: if the SDE has no Gaussian kernel, or `x` is not floating.
        ValueError: if $t'$ is above $t$ or either is outside `[t0, t1]`, or `steps` is below one.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> stationary = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> path = jax.jit(lambda key: sfp.reverse_path(stationary, 1.0, 1e-5, jnp.zeros(2000), key=key, steps=100))
        >>> x = path(jax.random.key(0))
        >>> bool(abs(x.mean()) < 0.1), bool(abs(x.std() - 1) < 0.1)
        (True, True)
    """
    t, earlier, x = _checked(score, t, earlier, x, steps)
    return unchecked_path(score, t, earlier, x, key, steps, step)


def consistency_loss(
    score: AbstractScore,
    t: Time,
    earlier: Time,
    x: Event,
    *,
    key: Key,
    steps: int = 6,
    paths: int = 2,
    step: ReverseStep = euler_maruyama_step,
) -> Scalar:
    r"""How far the denoiser $h$ is from being a martingale along its own reverse SDE between two times [M2] (Daras
    2023, §4), without bias from the number of paths:

    $$ \begin{gathered}
       \tfrac12\big\|E[h(x_{t'}, t') \mid x_t = x] - h(x, t)\big\|^2
       \approx \frac{1}{2 n (n - 1)}\sum_{i \ne j}\langle d_i, d_j\rangle, \\
       d_i = h(x_{t'}^{(i)}, t') - h(x, t),
       \end{gathered} $$

    the mean over all pairs of independent paths. It is zero for the exact score of any data, as the steps grow, and
    may be negative by chance.

    To first order in the window $\delta = t - t'$ it is $\tfrac12\delta^2(\sigma^4/\alpha^2)\|\varepsilon_M\|^2$ with
    the martingale form of the residual of the score Fokker–Planck equation [F8].

    Args:
        score: A score on a linear SDE.
        t: The time.
        earlier: $t' \le t$.
        x: The state at $t$.
        key: A random key.
        steps: The number of steps of a path.
        paths: How many independent paths, at least two.
        step: As in `reverse_path`.

    Returns:
        The loss, in squared units of the samples, summed over the entries.

    Raises:
        TypeError: if the SDE has no Gaussian kernel, or `x` is not floating.
        ValueError: if $t'$ is above $t$ or either is outside `[t0, t1]`, `steps` is below one, or `paths` below two.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> x, key = jnp.ones(2), jax.random.key(0)
        >>> score = lambda c: sfp.Score(lambda t, x: -c * x, sfp.VP())  # exact for c = 1
        >>> loss = jax.jit(lambda c: sfp.consistency_loss(score(c), 0.3, 0.1, x, key=key, paths=1000, steps=20))
        >>> bool(abs(loss(1.0)) < 0.002), bool(loss(1.5) > 0.02)
        (True, True)
    """
    require(
        paths >= 2,
        f"paths = {paths}; the square of one path's defect has the variance of the path on top of what is asked for. "
        "The product of two independent paths has not: use paths=2 or more.",
    )
    t, earlier, x = _checked(score, t, earlier, x, steps)
    ends = denoised_ends(score, t, earlier, x, key, steps, paths, step, pathwise=True)
    return 0.5 * mean_product(ends - score.denoise(t, x))


def unchecked_path(
    score: AbstractScore, t: Scalar, earlier: Scalar, x: Event, key: Key, steps: int, step: ReverseStep
) -> Event:
    """`reverse_path` of times that are known to be right."""
    times = _path_times(linear_sde(score), t, earlier, steps)

    def move(x: Event, now: tuple[Scalar, Scalar, Int[Array, ""]]) -> tuple[Event, None]:
        t, earlier, index = now
        return step(score, t, earlier, x, jr.fold_in(key, index)), None

    return jax.lax.scan(move, x, (times[:-1], times[1:], jnp.arange(steps)))[0]


def denoised_ends(
    score: AbstractScore,
    t: Scalar,
    earlier: Scalar,
    x: Event,
    key: Key,
    steps: int,
    paths: int,
    step: ReverseStep,
    *,
    pathwise: bool,
) -> Float[Array, "paths *event"]:
    """The denoiser at the ends of independent paths, through which gradients go if they are path-wise."""
    # Stopped before and after: nothing of the path is differentiated, also where the score closes over its parameters.
    walker = score if pathwise else stopped(score)

    def end(key: Key) -> Event:
        there = unchecked_path(walker, t, earlier, x, key, steps, step)
        return score.denoise(earlier, there if pathwise else stopped(there))

    return jax.vmap(end)(jr.split(key, paths))


def stopped(value: _T) -> _T:
    """The same with no gradient through its floating arrays."""
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, value)


def mean_product(defects: Float[Array, "paths *event"]) -> Scalar:
    r"""The mean of $\langle d_i, d_j\rangle$ over all pairs $i \ne j$: the squared norm of the mean of independent
    draws, without bias.
    """
    paths = defects.shape[0]
    others = jnp.sum(defects, axis=0) - defects
    return jnp.sum(defects * others) / (paths * (paths - 1))


def check_steps(steps: int) -> None:
    """Refuses a path without steps."""
    require(steps >= 1, f"steps = {steps}; a path needs at least one step.")


def _checked(score: AbstractScore, t: Time, earlier: Time, x: Event, steps: int) -> tuple[Scalar, Scalar, Event]:
    sde, x = linear_sde(score), floating("x", x)
    check_steps(steps)
    t = time_within(scalar_time(t, x), sde.t0, sde.t1)
    earlier = time_within(scalar_time(earlier, x), sde.t0, sde.t1, name="earlier")
    known = is_concrete(earlier) and is_concrete(t)
    what = f"earlier = {float(earlier)} lies above t = {float(t)}" if known else "earlier lies above t"
    message = f"{what}; the reverse SDE runs from t down to an earlier time. Were they swapped?"
    return t, checked(earlier, earlier > t, message), x


def _path_times(sde: AbstractLinearSDE, t: Scalar, earlier: Scalar, steps: int) -> Float[Array, " times"]:
    first, last = sde.log_snr(t), sde.log_snr(earlier)
    inner = sde.time_of_log_snr(first + (last - first) * jnp.arange(1, steps, dtype=t.dtype) / steps)
    times = jnp.concatenate([t[None], inner.astype(t.dtype), earlier[None]])
    # The inverse of the log-SNR is rounded: between times that are nearly equal it may leave the window or go back.
    return jax.lax.cummin(jnp.clip(times, earlier, t))


class AbstractWindow(AbstractModule):
    r"""A law of the earlier time $t' \le t$ at which a denoiser is compared with itself.

    A window has a `length` in some coordinate that grows with time. With `random` the coordinate of $t'$ is uniform
    over the window, else $t'$ is its far end. A window that reaches below `floor`, a time (`t0` for `None`), ends
    there; above a time below the floor there is none, $t' = t$.
    """

    if TYPE_CHECKING:
        length: ClassVar[float]
        random: ClassVar[bool]
        floor: ClassVar[float | None]
    else:
        length: eqx.AbstractVar[float]
        random: eqx.AbstractVar[bool]
        floor: eqx.AbstractVar[float | None]

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
        >>> window = sfp.TimeWindow(0.25, random=False)
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
        >>> window = sfp.NoiseWindow(0.05, random=False)
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
        >>> window = sfp.LogSNRWindow(2.0, random=False)
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
