"""Divergence and Laplacian, exact or by probes, and the second derivative along a curve."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import function, kind, require, same_shape, sample
from .._types import Event, Key, Scalar
from .probes import AbstractProbes, AbstractTrace, Exact, Made, checked_trace

FIELD = "It is a vector field: its value has the shape of x."

_X = TypeVar("_X")
_Y = TypeVar("_Y")


def divergence(
    fn: Callable[[Event], Event], x: Event, *, trace: AbstractTrace = Exact(), key: Key | None = None
) -> Scalar:
    r"""The divergence $\nabla\cdot f = \operatorname{tr} J = E_v[v^\top J v]$ of a vector field [F9].

    Args:
        fn: The vector field; it returns an array of the shape of `x`.
        x: One sample.
        trace: `Exact()` (`D` forward products), `Hutchinson(samples, law)`, `XTrace(samples)` or
            `HutchPlusPlus(samples)`.
        key: A random key, for all but `Exact`.

    Returns:
        A scalar.

    Raises:
        TypeError: if `x` is not floating, or `fn` or `trace` is of another kind.
        ValueError: if `fn(x)` has another shape than `x`, a random method gets no key, or `x` is too large for
            `Exact()`.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp import divergence
        >>> float(divergence(lambda x: x * x.sum(), jnp.array([1.0, 2.0])))
        9.0
    """
    _, div = value_and_divergence(fn, x, trace=trace, key=key)
    return div


def value_and_divergence(
    fn: Callable[[Event], Event], x: Event, *, trace: AbstractTrace = Exact(), key: Key | None = None
) -> tuple[Event, Scalar]:
    """The value of a vector field and its divergence, sharing one evaluation of the field.

    Arguments, errors and formula are those of `divergence`.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp.calculus import value_and_divergence
        >>> value, div = value_and_divergence(jnp.sin, jnp.zeros(3))
        >>> float(div)
        3.0
    """
    function("fn", fn, "x", FIELD)
    x = sample("x", x)
    value, probes, products = value_and_products(fn, x, checked_trace(trace, key), key)
    return value, jnp.sum(probes * products) / len(probes)


def value_and_products(
    fn: Callable[[Event], Event], x: Event, trace: AbstractTrace, key: Key | None
) -> tuple[Event, Made, Made]:
    """The value of a vector field, probes and its Jacobian's products $Jv$ with them, sharing one evaluation of the
    field.

    Args:
        fn: The vector field.
        x: One sample.
        trace: Whose probes.
        key: A random key, for a random trace.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp.calculus import Exact
        >>> from scorefp.calculus.divergence import value_and_products
        >>> value, probes, products = value_and_products(lambda x: 3 * x, jnp.ones(4), Exact(), None)
        >>> float(value[0]), float(probes[1, 1]), float(products[1, 1])
        (3.0, 2.0, 6.0)
    """
    value, push = jax.linearize(fn, x)
    same_shape("the value of fn", value.shape, "x", x.shape)
    return value, *trace.products(push, trace.probes(x, key))


def curve_derivatives(fn: Callable[[_X], _Y], point: _X, velocity: _X, acceleration: _X) -> tuple[_Y, _Y, _Y]:
    r"""Value, first and second derivative at $e = 0$ of $f(c(e))$ along a curve $c$ with
    $c(0), c'(0), c''(0)$ given:

    $$ f(c), \qquad Df[c'], \qquad D^2 f[c', c'] + Df[c'']. $$

    Two nested forward-mode passes; no reverse pass. This is what [F6] and [F16] need: by Itô's formula the second
    derivative along a random curve carries drift, diffusion and Laplacian at once.

    Args:
        fn: A differentiable function of a pytree of arrays.
        point: Where the curve starts.
        velocity: Its first derivative, of the structure of `point`.
        acceleration: Its second derivative, of the structure of `point`.

    Returns:
        Value, first and second derivative, each of the structure of `fn(point)`.

    Raises:
        TypeError: if `fn` is no function of one argument, or an array is not floating.
        ValueError: if `velocity` or `acceleration` has another structure or other shapes than `point`.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp.calculus import curve_derivatives
        >>> y, dy, ddy = curve_derivatives(lambda x: x**3, jnp.array(2.0), jnp.array(1.0), jnp.array(5.0))
        >>> float(y), float(dy), float(ddy)
        (8.0, 12.0, 72.0)
    """
    function("fn", fn, "point", "It is differentiable in its one argument.")
    _same_arrays(point, velocity=velocity, acceleration=acceleration)

    def value_and_slope(c: _X, c_dot: _X) -> tuple[_Y, _Y]:
        return jax.jvp(fn, (c,), (c_dot,))

    (value, slope), (_, bend) = jax.jvp(value_and_slope, (point, velocity), (velocity, acceleration))
    return value, slope, bend


def laplacian(
    fn: Callable[[Event], Float[Array, "*out"]],
    x: Event,
    *,
    trace: AbstractTrace = Exact(),
    key: Key | None = None,
) -> Float[Array, "*out"]:
    r"""The Laplacian $\Delta f = E_v\big[\tfrac{d^2}{de^2} f(x + e v)\big]$, of each component of `fn`.

    One second-order forward pass a probe; no reverse pass.

    Args:
        fn: A function of one sample with a value of any shape.
        x: One sample.
        trace: `Exact()` (`D` passes) or `Hutchinson(samples, law)`.
        key: A random key, for `Hutchinson`.

    Returns:
        An array of the shape of `fn(x)`.

    Raises:
        TypeError: if `x` is not floating, or `fn` or `trace` is of another kind.
        ValueError: if a random method gets no key, or `x` is too large for `Exact()`.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp import laplacian
        >>> float(laplacian(lambda x: (x**2).sum(), jnp.ones(3)))
        6.0
    """
    function("fn", fn, "x", "It returns an array of any shape.")
    x = sample("x", x)

    def along(v: Event) -> Float[Array, "*out"]:
        return curve_derivatives(fn, x, v, jnp.zeros_like(x))[2]

    # A matrix for each component: there is no one to make probes for.
    kind("trace", trace, AbstractProbes)
    return jnp.mean(jax.vmap(along)(checked_trace(trace, key).probes(x, key)), axis=0)


def _same_arrays(point: Any, **tangents: Any) -> None:
    """Refuses a curve that is not made of floats, or whose derivatives are not of the shapes of its point."""
    arrays = [sample("point", leaf) for leaf in jax.tree.leaves(point)]
    for name, tangent in tangents.items():
        require(
            jax.tree.structure(tangent) == jax.tree.structure(point),
            f"{name} is {jax.tree.structure(tangent)}, but point is {jax.tree.structure(point)}; the two are equal.",
        )
        for array, leaf in zip(arrays, jax.tree.leaves(tangent), strict=True):
            same_shape(name, sample(name, leaf).shape, "point", array.shape)
