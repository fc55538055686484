"""Divergence and Laplacian, exact or by probes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import floating, same_shape
from .._types import Event, Key, Scalar
from .curve import curve_derivatives
from .probes import AbstractTrace, Exact


def divergence(
    fn: Callable[[Event], Event], x: Event, *, trace: AbstractTrace = Exact(), key: Key | None = None
) -> Scalar:
    r"""The divergence $\nabla\cdot f = \operatorname{tr} J = E_v[v^\top J v]$ of a vector field [F9].

    Args:
        fn: The vector field; it returns an array of the shape of `x`.
        x: One sample.
        trace: `Exact()` (`D` forward products) or `Hutchinson(samples, law)`.
        key: A random key, for `Hutchinson`.

    Returns:
        A scalar.

    Raises:
        TypeError: if `x` is not floating.
        ValueError: if `fn(x)` has another shape than `x`, or a random method gets no key.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp import divergence
        >>> float(divergence(lambda x: x * x.sum(), jnp.array([1.0, 2.0])))
        9.0
    """
    _, div = value_and_divergence(fn, floating("x", x), trace=trace, key=key)
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
    probes = trace.probes(x, key)

    def along(v: Event) -> tuple[Event, Scalar]:
        value, slope = jax.jvp(fn, (x,), (v,))
        same_shape("the value of fn", value.shape, "x", x.shape)
        return value, jnp.sum(v * slope)

    value, slopes = jax.vmap(along, out_axes=(None, 0))(probes)
    return value, jnp.mean(slopes)


def value_and_products(
    fn: Callable[[Event], Event], x: Event, probes: Float[Array, "probes *event"]
) -> tuple[Event, Float[Array, "probes *event"]]:
    """The value of a vector field and its Jacobian's products $Jv$ with probes, sharing one evaluation of the field.

    Args:
        fn: The vector field.
        x: One sample.
        probes: Probes, stacked along the leading axis.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp.calculus import value_and_products
        >>> value, products = value_and_products(lambda x: 3 * x, jnp.ones(2), jnp.eye(2))
        >>> float(value[0]), float(products[1, 1])
        (3.0, 3.0)
    """
    value, push = jax.linearize(fn, x)
    return value, jax.vmap(push)(probes)


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
        TypeError: if `x` is not floating.
        ValueError: if a random method gets no key.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp import laplacian
        >>> float(laplacian(lambda x: (x**2).sum(), jnp.ones(3)))
        6.0
    """
    x = floating("x", x)

    def along(v: Event) -> Float[Array, "*out"]:
        return curve_derivatives(fn, x, v, jnp.zeros_like(x))[2]

    return jnp.mean(jax.vmap(along)(trace.probes(x, key)), axis=0)
