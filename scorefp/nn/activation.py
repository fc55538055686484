"""Smooth activations whose derivatives are closed forms."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_Elementwise = Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]]


def silu(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""The activation $z\,\varsigma(z)$ with $\varsigma$ the logistic function (Elfwing 2017), as `jax.nn.silu`.

    A Fokker–Planck residual takes two derivatives of the network in `x`, and training takes a third. Derived by the
    chain rule they grow to dozens of elementwise products; here the first three are given in closed form, each rule one
    product. `benchmarks/residuals.py` shows what that saves.

    Args:
        z: An array of any shape.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from scorefp.nn import silu
        >>> round(float(jax.grad(jax.grad(silu))(jnp.array(0.0))), 4)
        0.5
    """
    return _silu(z)


def softplus(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""The activation $\log(1 + e^z)$, as `jax.nn.softplus`, whose derivative is the logistic function (Deveney 2023,
    §4).

    Args:
        z: An array of any shape.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from scorefp.nn import softplus
        >>> round(float(jax.grad(jax.grad(softplus))(jnp.array(0.0))), 4)
        0.25
    """
    return _softplus(z)


def _differentiated_by(fn: _Elementwise, derivative: _Elementwise) -> _Elementwise:
    """An elementwise function with a given derivative."""
    wrapped = jax.custom_jvp(fn)
    wrapped.defjvp(lambda primals, tangents: (wrapped(*primals), derivative(*primals) * tangents[0]))
    return wrapped


def _value(z: Array) -> Array:
    return z * jax.lax.logistic(z)


def _first(z: Array) -> Array:
    s = jax.lax.logistic(z)
    return s * (1 + z * (1 - s))


def _second(z: Array) -> Array:
    s = jax.lax.logistic(z)
    return s * (1 - s) * (2 + z * (1 - 2 * s))


def _third(z: Array) -> Array:
    s = jax.lax.logistic(z)
    bump = s * (1 - s)
    return bump * (3 * (1 - 2 * s) + z * (1 - 6 * bump))


_silu = _differentiated_by(_value, _differentiated_by(_first, _differentiated_by(_second, _third)))
_softplus = _differentiated_by(lambda z: jnp.maximum(z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z))), jax.lax.logistic)
