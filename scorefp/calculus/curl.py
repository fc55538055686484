"""The antisymmetric part of a Jacobian and integrals along loops, which are zero for the gradient of a potential."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._checks import count, function, number, same_shape, sample
from .._precision import measures
from .._types import Event, Key, Scalar
from .divergence import FIELD
from .probes import AbstractTrace, Exact, check_exact, checked_trace, probes_for


@measures
def curl(fn: Callable[[Event], Event], x: Event) -> Float[Array, "D D"]:
    r"""The antisymmetric Jacobian $J - J^\top$ of a vector field, flattened to $D \times D$ [C1].

    It vanishes for every `x` exactly when the field is a gradient. Entry `[1, 0]` of a field in two dimensions is the
    scalar curl $\partial_1 s_2 - \partial_2 s_1$ (Lai 2023, §6.2).

    Args:
        fn: The vector field; it returns an array of the shape of `x`.
        x: One sample.

    Returns:
        A matrix; rows are components of `fn`, columns are derivatives.

    Raises:
        TypeError: if `x` is not floating, or `fn` no function of one argument.
        ValueError: if `fn(x)` has another shape than `x`, or `x` more elements than a Jacobian of 16 GiB has rows.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp import curl
        >>> rotation = lambda x: jnp.stack([-x[1], x[0]])
        >>> float(curl(rotation, jnp.ones(2))[1, 0])
        2.0
    """
    function("fn", fn, "x", FIELD)
    x = sample("x", x)
    check_exact(x)
    jacobian = jax.jacfwd(fn)(x)
    same_shape("the Jacobian of fn", jacobian.shape, "a square one", (*x.shape, *x.shape))
    jacobian = jacobian.reshape((x.size, x.size))
    return jacobian - jacobian.T


@measures
def squared_curl(
    fn: Callable[[Event], Event], x: Event, *, trace: AbstractTrace = Exact(), key: Key | None = None
) -> Scalar:
    r"""The squared size of the curl, $\tfrac12\|J - J^\top\|_F^2 = E_v\big[\|Jv\|^2 - v^\top J J v\big]$ [C1].

    Two forward products a probe in place of the whole Jacobian. In two dimensions it is the square of the scalar curl.

    Args:
        fn: The vector field; it returns an array of the shape of `x`.
        x: One sample.
        trace: `Exact()`; or `Hutchinson(samples, law)`, which is unbiased and may be negative, as may `XTrace(samples)`
            and `HutchPlusPlus(samples)`, which take a reverse product beside each of their first products.
        key: A random key, for all but `Exact`.

    Returns:
        A scalar.

    Raises:
        TypeError: if `x` is not floating, or `fn` or `trace` is of another kind.
        ValueError: if `fn(x)` has another shape than `x`, a random method gets no key, or `x` is too large for
            `Exact()`.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp.calculus import squared_curl
        >>> round(float(squared_curl(lambda x: jnp.stack([-x[1], x[0]]), jnp.ones(2))), 5)
        4.0
    """
    function("fn", fn, "x", FIELD)
    return value_and_squared_curl(fn, sample("x", x), trace=checked_trace(trace, key), key=key)[1]


def value_and_squared_curl(
    fn: Callable[[Event], Event], x: Event, *, trace: AbstractTrace = Exact(), key: Key | None = None
) -> tuple[Event, Scalar]:
    """The value of a vector field and the squared size of its curl, sharing one evaluation of the field.

    Arguments, errors and formula are those of `squared_curl`.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp.calculus.curl import value_and_squared_curl
        >>> float(value_and_squared_curl(jnp.sin, jnp.zeros(3))[1])
        0.0
    """
    value, push = jax.linearize(fn, x)
    same_shape("the value of fn", value.shape, "x", x.shape)

    def along(v: Event) -> Scalar:
        jv = push(v)
        return jnp.sum(jv * jv) - jnp.sum(v * push(jv))

    def turned(v: Event) -> Event:
        """The product with the antisymmetric part, whose square is the matrix that is traced."""
        return push(v) - jax.linear_transpose(push, x)(v)[0]

    return value, jnp.mean(jax.vmap(along)(probes_for(trace, turned, x, key)))


@measures
def circulation(
    fn: Callable[[Event], Event],
    centre: Event,
    first: Event,
    second: Event,
    *,
    nodes: int = 16,
    start: ArrayLike = 0.0,
) -> Scalar:
    r"""The integral of a vector field along a closed loop, $\oint\langle f, \mathrm dl\rangle$ along the ellipse
    $x(\theta) = c + \cos\theta\,a + \sin\theta\,b$ [C4].

    It vanishes for every loop exactly when the field is a gradient, in any dimension and without a derivative of the
    field. By the trapezoid rule at even angles, exact where the field along the loop has fewer than `nodes` waves; the
    mean over `start`, uniform over $[0, 2\pi/\text{nodes})$, is exact for every field.

    Args:
        fn: The vector field; it returns an array of the shape of its sample.
        centre: $c$.
        first: The half axis $a$.
        second: The half axis $b$; neither need the two be orthogonal.
        nodes: How often the field is evaluated.
        start: The first angle.

    Raises:
        TypeError: if a sample is not floating, or `fn` no function of one argument.
        ValueError: if shapes differ, there are fewer than three nodes, or `start` is not finite where it is known.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp.calculus import circulation
        >>> rotation, e = lambda x: jnp.stack([-x[1], x[0]]), jnp.eye(2)
        >>> round(float(circulation(rotation, jnp.ones(2), e[0], e[1])), 5)  # twice the area
        6.28319
    """
    function("fn", fn, "x", FIELD)
    centre, first, second = (sample(n, x) for n, x in (("centre", centre), ("first", first), ("second", second)))
    same_shape("first", first.shape, "centre", centre.shape)
    same_shape("second", second.shape, "centre", centre.shape)
    nodes, start = count("nodes", nodes, 3), jnp.asarray(number("start", start), centre.dtype)

    def along(angle: Scalar) -> Scalar:
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        value = fn(centre + cos * first + sin * second)
        same_shape("the value of fn", value.shape, "x", centre.shape)
        return jnp.sum(value * (cos * second - sin * first))

    angles = start + 2 * jnp.pi / nodes * jnp.arange(nodes, dtype=centre.dtype)
    return 2 * jnp.pi * jnp.mean(jax.vmap(along)(angles))
