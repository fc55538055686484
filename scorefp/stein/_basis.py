"""Functions of a sample with their derivatives, of which test fields are made."""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from .._checks import floating, require
from .._module import AbstractModule
from .._types import Event, Key, Scalar
from ..calculus import AbstractProbes, laplacian

Features: TypeAlias = Callable[[Scalar, Event], Float[Array, "..."]]
"""Called as `features(t, x)` at one sample; its value has any shape."""

_ENTRIES_UP_TO = 256
"""The number of elements of a sample up to which each entry is a function of its own."""

_PHASES = 0.5, 3.0
"""The least and the largest standard deviation of a phase: a nearly linear function, and one with a few waves."""


class Derivatives(NamedTuple):
    """The functions at one sample, their gradients as rows, and their Laplacians."""

    value: Float[Array, " K"]
    gradient: Float[Array, "K D"]
    laplacian: Float[Array, " K"]


class Basis(AbstractModule):
    r"""The constant, the entries $z_i$, the half square $\tfrac12\|z\|^2$ and the waves $\cos\langle\omega, z\rangle$,
    $\sin\langle\omega, z\rangle$ of $z = (x - \text{centre})/\text{scale}$; further functions after them.

    Args:
        centre: The mean of the samples, flat; zero where the entries are no functions of the basis.
        scale: The root mean square of their entries about it.
        frequencies: The $\omega$ as rows.
        further: Functions of `(t, x)`, or `None`.
    """

    centre: Float[Array, " D"]
    scale: Scalar
    frequencies: Float[Array, "waves D"]
    further: Features | None = None

    def __call__(self, t: Scalar, x: Event, trace: AbstractProbes, key: Key) -> Derivatives:
        z = (x.ravel() - self.centre) / self.scale
        zero, one = jnp.zeros((), z.dtype), jnp.ones((), z.dtype)
        phase = self.frequencies @ z
        cos, sin = jnp.cos(phase), jnp.sin(phase)
        bend = jnp.sum(self.frequencies**2, axis=1)
        parts = [
            Derivatives(one[None], jnp.zeros((1, z.size), z.dtype), zero[None]),
            Derivatives(0.5 * (z @ z)[None], z[None], z.size * one[None]),
            Derivatives(cos, -sin[:, None] * self.frequencies, -cos * bend),
            Derivatives(sin, cos[:, None] * self.frequencies, -sin * bend),
        ]
        if z.size <= _ENTRIES_UP_TO:
            parts.append(Derivatives(z, jnp.eye(z.size, dtype=z.dtype), jnp.zeros_like(z)))
        parts = [Derivatives(p.value, p.gradient / self.scale, p.laplacian / self.scale**2) for p in parts]
        if self.further is not None:
            parts.append(_derivatives(self.further, t, x, trace, key))
        return Derivatives(*(jnp.concatenate(pieces) for pieces in zip(*parts, strict=True)))


def basis_of(x: Float[Array, "n *event"], waves: int, further: Features | None, key: Key) -> Basis:
    """The basis in the scale of samples, its frequencies drawn.

    The standard deviations of the phases are even in their logarithm.
    """
    rows = x.reshape(len(x), -1)
    centre = rows.mean(axis=0)
    scale = jnp.sqrt(jnp.mean((rows - centre) ** 2))
    # The entries take up a shift of the other functions. Without them the centre would be a part of the fields which
    # knows the samples that measure them.
    centre = centre if rows.shape[1] <= _ENTRIES_UP_TO else jnp.zeros_like(centre)
    scale = jnp.where(scale > 0, scale, 1)
    least, largest = _PHASES
    # In one precision for all, in which the same key gives the same.
    normal = jr.normal(key, (waves, rows.shape[1]), jnp.float32).astype(rows.dtype)
    phases = jnp.geomspace(least, largest, waves, dtype=rows.dtype)
    return Basis(centre, scale, normal * phases[:, None] / math.sqrt(rows.shape[1]), further)


def _derivatives(fn: Features, t: Scalar, x: Event, trace: AbstractProbes, key: Key) -> Derivatives:
    """Those of functions by automatic differentiation."""

    def flat(y: Event) -> Float[Array, " K"]:
        return jnp.ravel(floating("the value of features", fn(t, y))).astype(x.dtype)

    value = flat(x)
    require(value.size > 0, "the value of features is empty; it has an entry for each function.")
    # As many passes as there are functions, or entries.
    gradient = (jax.jacrev if value.size <= x.size else jax.jacfwd)(flat)(x)
    return Derivatives(value, gradient.reshape(value.size, x.size), laplacian(flat, x, trace=trace, key=key))
