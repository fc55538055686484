"""The time derivative, exact or by Lai's three-point difference."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import finite, function, kind, require, sample
from .._module import AbstractModule
from .._times import scalar_time
from .._types import Event, Scalar, Time
from ._smoothness import require_time_derivative
from .probes import AbstractTrace, Exact


class FiniteDifference(AbstractModule):
    r"""The three-point difference of Lai 2023 for $\partial_t$ [F9], of second order:

    $$ \partial_t f \approx \frac{h_s^2 f(t+h_d) + (h_d^2 - h_s^2) f(t) - h_d^2 f(t-h_s)}{h_s h_d (h_s + h_d)}. $$

    Next to the ends of the horizon the stencil is shifted inside it, and the derivative of the parabola through the
    shifted points is taken at `t`; the order stays two. As the `method` of `score_fpe_residual` it is Lai's recipe,
    kept for comparison: `Ito` and `Antithetic` are cheaper, and the exact derivative has no step to choose.

    Args:
        backward: $h_s$, the step to earlier times, in units of `t`.
        forward: $h_d$, the step to later times.
        trace: How a residual takes its divergence; the time derivative by itself has none.

    Raises:
        ValueError: if a step is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp import FiniteDifference, time_derivative
        >>> end = time_derivative(
        ...     lambda t, x: t**2 * x, 1.0, jnp.ones(()), method=FiniteDifference(0.1, 0.05), horizon=(0.0, 1.0)
        ... )
        >>> round(float(end), 4)
        2.0
    """

    backward: float = 1e-3
    forward: float = 5e-4
    trace: AbstractTrace = Exact()

    def __check_init__(self) -> None:
        require(
            self.backward > 0 and self.forward > 0,
            f"backward = {self.backward} and forward = {self.forward}; both steps must be positive.",
        )


def time_derivative(
    fn: Callable[[Scalar, Event], Float[Array, "*out"]],
    t: Time,
    x: Event,
    *,
    method: Exact | FiniteDifference = Exact(),
    horizon: tuple[float, float] = (-float("inf"), float("inf")),
) -> Float[Array, "*out"]:
    r"""The derivative $\partial_t f(t, x)$ at fixed `x` [F9].

    Args:
        fn: A function of time and one sample with a value of any shape.
        t: The time.
        x: One sample.
        method: `Exact()`, one forward-mode derivative, or `FiniteDifference(backward, forward)`.
        horizon: `(t0, t1)`; a difference evaluates `fn` nowhere outside it.

    Returns:
        An array of the shape of `fn(t, x)`.

    Raises:
        TypeError: if `x` is not floating, or `fn` or `method` is of another kind; if `fn` jumps with `t`, as a
            torch module called with whole steps does.
        ValueError: if `t` is not a scalar, or the stencil is longer than the horizon.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp import time_derivative
        >>> float(time_derivative(lambda t, x: t**2 * x, 3.0, jnp.ones(())))
        6.0
    """
    function("fn", fn, "t, x", "It returns an array of any shape.")
    kind("method", method, (Exact, FiniteDifference), "It is Exact() or FiniteDifference(backward, forward).")
    x = sample("x", x)
    t = finite("t", scalar_time(t, x), known=True)
    if isinstance(method, Exact):
        return jax.jvp(lambda t: fn(t, x), (t,), (jnp.ones_like(t),))[1]
    t0, t1 = horizon
    width = method.backward + method.forward
    require(
        width <= t1 - t0,
        f"backward + forward = {width} is longer than the horizon [{t0}, {t1}]; choose shorter steps.",
    )
    require_time_derivative("fn", fn, t, x)
    first = jnp.clip(t - method.backward, t0, t1 - width)
    # Clipped once more: the sum may round to just beyond t1.
    nodes = jnp.clip(jnp.stack([first, first + method.backward, first + width]), t0, t1)
    values = jax.vmap(fn, in_axes=(0, None))(nodes, x)
    return jnp.tensordot(_slopes(t, nodes), values, axes=1)


def _slopes(t: Scalar, nodes: Float[Array, "3"]) -> Float[Array, "3"]:
    """Derivatives at `t` of the Lagrange parabolas of three nodes; they sum to zero."""
    a, b, c = nodes
    slope_a = (2 * t - b - c) / ((a - b) * (a - c))
    slope_c = (2 * t - a - b) / ((c - a) * (c - b))
    return jnp.stack([slope_a, -(slope_a + slope_c), slope_c])
