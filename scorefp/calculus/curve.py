"""The second derivative of a function along a curve."""

from collections.abc import Callable
from typing import TypeVar

import jax

_X = TypeVar("_X")
_Y = TypeVar("_Y")


def curve_derivatives(fn: Callable[[_X], _Y], point: _X, velocity: _X, acceleration: _X) -> tuple[_Y, _Y, _Y]:
    r"""Value, first and second derivative at $e = 0$ of $f(c(e))$ along a curve $c$ with
    $c(0), c'(0), c''(0)$ given:

    $$ f(c), \qquad Df[c'], \qquad D^2 f[c', c'] + Df[c'']. $$

    Two nested forward-mode passes; no reverse pass. This is what [F6] and [F16] need: by Itô's formula the second
    derivative along a random curve carries drift, diffusion and Laplacian at once.

    Args:
        fn: A differentiable function of a pytree of arrays.
        point: The start of the curve.
        velocity: Its first derivative, of the structure of `point`.
        acceleration: Its second derivative, of the structure of `point`.

    Returns:
        Value, first and second derivative, each of the structure of `fn(point)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp.calculus import curve_derivatives
        >>> y, dy, ddy = curve_derivatives(lambda x: x**3, jnp.array(2.0), jnp.array(1.0), jnp.array(5.0))
        >>> float(y), float(dy), float(ddy)
        (8.0, 12.0, 72.0)
    """

    def value_and_slope(c: _X, c_dot: _X) -> tuple[_Y, _Y]:
        return jax.jvp(fn, (c,), (c_dot,))

    (value, slope), (_, bend) = jax.jvp(value_and_slope, (point, velocity), (velocity, acceleration))
    return value, slope, bend
