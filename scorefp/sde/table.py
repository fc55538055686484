"""A linear SDE from a table of discrete noise levels."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int
from scipy.interpolate import CubicSpline

from .._checks import require
from .._module import AbstractModule
from .._types import Times
from ._inverse import bisected, with_slope
from .linear import AbstractLinearSDE
from .sde import check_horizon


class Curve(AbstractModule):
    r"""The natural logarithm of $\bar\alpha$ between the steps of a table, a cubic in each interval.

    Args:
        coefficients: Those of the cubics in $u \in [0, 1]$, the highest first.
    """

    coefficients: Float[Array, "4 intervals"]

    @property
    def steps(self) -> int:
        """The number of steps of the table."""
        return self.coefficients.shape[1] + 1

    def __call__(self, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
        place = t * self.steps - 1
        return self.within(self.interval(place), place)

    def interval(self, place: Float[Array, "*times"]) -> Int[Array, "*times"]:
        """The interval in which a place of the table lies, the nearest one beyond the ends."""
        return jnp.clip(jnp.floor(place).astype(int), 0, self.steps - 2)

    def within(self, interval: Int[Array, "*times"], place: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """The cubic of an interval at a place."""
        a, b, c, d = self.coefficients.astype(place.dtype)[:, interval]
        u = place - interval
        return ((a * u + b) * u + c) * u + d


class DiscreteSDE(AbstractLinearSDE):
    r"""The variance-preserving SDE through a table $\bar\alpha_0 > \dots > \bar\alpha_{N-1}$ of a discrete diffusion
    (Ho 2020, Eq. 4): $\alpha^2 = \bar\alpha$ and $\sigma^2 = 1 - \bar\alpha$ at $t_k = (k + 1)/N$.

    Between the steps $\log\bar\alpha$ is the cubic spline through all of them, so that $g^2 = -(\log\bar\alpha)'$ has a
    derivative and a solver takes the steps that the process asks for, not the table. The horizon is $[1/N, 1]$. A
    network that was trained on the step `k` is called with `step_of_time(t)`; `sampling.NodeGrid` keeps samplers on the
    steps where it knows no others.

    Args:
        table: $\bar\alpha$ (`alphas_cumprod`), of shape `(N,)`. The first values in float32 hold few digits of
            $1 - \bar\alpha$; `from_betas` loses none.
        t0: The time of the data, $1/N$ where none is given.
        t1: The time of the prior.

    Raises:
        TypeError: if the table is no array of floats.
        ValueError: if the table is no vector of at least four falling numbers inside (0, 1), as one with zero terminal
            signal-to-noise ratio is not; it ends above 1/2, as one of `1 - betas` does; or it is so rough that the
            curve through it rises.

    Example:
        >>> import numpy as np
        >>> from scorefp.sde import DiscreteSDE
        >>> sde = DiscreteSDE.from_betas(np.linspace(1e-4, 0.02, 1000))
        >>> round(float(sde.alpha(sde.time_of_step(499))) ** 2, 4), round(float(sde.step_of_time(0.5)))
        (0.0786, 499)
    """

    table: Curve
    t0: float = eqx.field(static=True)
    t1: float = eqx.field(static=True)

    def __init__(
        self, table: Curve | Float[ArrayLike, " N"], t0: float | None = None, t1: float = 1.0
    ) -> None:  # the arguments bear the names of the fields, for `dataclasses.replace`
        self.table = table if isinstance(table, Curve) else _curve(_numbers("table", table))
        self.t0, self.t1 = 1 / self.table.steps if t0 is None else t0, t1

    def __check_init__(self) -> None:
        check_horizon(self.t0, self.t1)
        # Rounding of 1/N in float32 is no way out of the table.
        require(
            self.t0 * self.table.steps > 1 - 1e-6 and self.t1 <= 1,
            f"the horizon is [t0, t1] = [{self.t0}, {self.t1}], and the table has the times from 1/{self.table.steps} "
            "to 1. Choose a part of them.",
        )

    @classmethod
    def from_betas(cls, betas: Float[ArrayLike, " N"]) -> "DiscreteSDE":
        r"""The SDE of the steps $\beta_k$, with $\bar\alpha_k = \prod_{j \le k} (1 - \beta_j)$.

        Args:
            betas: $\beta$, of shape `(N,)`.

        Raises:
            TypeError: if they are no array of floats.
            ValueError: if they are no vector of at least four numbers inside (0, 1).
        """
        steps = _numbers("betas", betas)
        require(
            bool(((steps > 0) & (steps < 1)).all()),
            f"betas goes from {steps.min(initial=1)} to {steps.max(initial=0)}; each lies inside (0, 1). A last one of "
            "1, which is zero terminal signal-to-noise ratio, is left out.",
        )
        return cls(_curve_of_logs("betas", np.cumsum(np.log1p(-steps), axis=-1)))

    def time_of_step(self, step: Times) -> Float[Array, "*times"]:
        """The time $(k + 1)/N$ of a step of the table, counted from zero."""
        return (jnp.asarray(step) + 1) / self.table.steps

    def step_of_time(self, t: Times) -> Float[Array, "*times"]:
        """The inverse of `time_of_step`: integers at the steps, free of rounding, and fractions between them."""
        t = _floats(t)
        step = t * self.table.steps - 1
        # That of a rounded time may lie just below an integer, whose integer part is the step before.
        whole = jnp.round(step)
        near = jnp.abs(step - whole) < 4 * jnp.finfo(step.dtype).eps * self.table.steps
        return step + jax.lax.stop_gradient(jnp.where(near, whole - step, 0))

    def log_alpha(self, t: Times) -> Float[Array, "*times"]:
        return 0.5 * self.table(_floats(t))

    def log_sigma(self, t: Times) -> Float[Array, "*times"]:
        return 0.5 * jnp.log(-jnp.expm1(self.table(_floats(t))))

    def rate(self, t: Times) -> Float[Array, "*times"]:
        t = _floats(t)
        return 0.5 * jax.jvp(self.table, (t,), (jnp.ones_like(t),))[1]

    def g2(self, t: Times) -> Float[Array, "*times"]:
        return -2 * self.rate(t)

    def time_of_log_snr(self, log_snr: Times) -> Float[Array, "*times"]:
        target = jax.nn.log_sigmoid(_floats(log_snr))
        # The values at the left ends fall; the curve is monotone between them.
        starts = self.table.coefficients[3].astype(target.dtype)
        interval = jnp.clip(jnp.searchsorted(-starts, -target, side="right") - 1, 0, self.table.steps - 2)
        inside = lambda place: self.table.within(interval, interval + place)
        t = self.time_of_step(interval + bisected(inside, target, 0.0, 1.0, jnp.finfo(target.dtype).nmant))
        return with_slope(t, target - self.table(t), 2 * self.rate(t), self.t0, self.t1)


def _floats(t: Times) -> Float[Array, "*times"]:
    """Times as an array of floats."""
    return jnp.asarray(t, jnp.result_type(t, float))


def _numbers(name: str, values: ArrayLike) -> Float[np.ndarray, "..."]:
    """Real numbers in float64, on the host: on the device they would lose digits."""
    array = np.asarray(values)
    if array.dtype.kind != "f":
        raise TypeError(f"{name} is of dtype {array.dtype}; it is an array of floats, such as alphas_cumprod.")
    return array.astype(np.float64)


def _curve(table: Float[np.ndarray, "..."]) -> Curve:
    """The curve through a table of cumulative products."""
    fine = table.ndim == 1 and bool(((table > 0) & (table < 1)).all())
    require(
        fine,
        f"table is an array of shape {table.shape} from {table.min(initial=1)} to {table.max(initial=0)}; it is a "
        "vector of the cumulative products of 1 - beta, each inside (0, 1). A last value of 0, which is zero terminal "
        "signal-to-noise ratio, is left out: there is no log-SNR there.",
    )
    return _curve_of_logs("table", np.log(table))


def _curve_of_logs(name: str, logs: Float[np.ndarray, "..."]) -> Curve:
    """The cubic spline through the logarithms of cumulative products, refused unless it falls."""
    require(
        logs.ndim == 1 and logs.size >= 4 and bool((np.diff(logs) < 0).all()),
        f"{name} has shape {logs.shape}; it is a vector of at least four numbers, whose cumulative products fall from "
        "step to step. Check the order, and that it holds alphas_cumprod.",
    )
    require(
        bool(logs[-1] < np.log(0.5)),
        f"the cumulative product of {name} ends at {np.exp(logs[-1]):.3g}, with more signal than noise; that of a "
        "diffusion ends near zero. Give the whole schedule: alphas_cumprod as table, or betas to from_betas.",
    )
    spline = CubicSpline(np.arange(logs.size), logs)
    slopes = spline.derivative()
    # A slope is a parabola in each interval: its largest value is at an end, or at its vertex.
    vertices = spline.derivative(2).roots(extrapolate=False)
    places = np.concatenate([np.arange(logs.size), vertices[np.isfinite(vertices)]])
    require(
        bool((slopes(places) < 0).all()),
        f"{name} is too rough: the smooth curve through it rises between two steps. Give a table of a smooth schedule "
        "in float64.",
    )
    return Curve(jnp.asarray(spline.c))
