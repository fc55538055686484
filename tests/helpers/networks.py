"""Networks with numbers in every array, and what is asked of any network."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

_M = TypeVar("_M")


def filled(make: Callable[[], _M], dtype: Any, scale: Callable[[tuple[int, ...]], float]) -> _M:
    """A network with random numbers in every array, those that start at zero among them; nothing is compiled.

    `scale` divides the numbers, by the shape of their array.
    """
    rng = np.random.default_rng(0)

    def fill(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return jnp.asarray((rng.normal(size=leaf.shape) / scale(leaf.shape)).astype(dtype))

    return jax.tree.map(fill, eqx.filter_eval_shape(make))


def every_array_counts(slopes: Any) -> None:
    """Gradients are finite, and none of their arrays is zero."""
    for slope in jax.tree.leaves(slopes):
        assert np.all(np.isfinite(slope))
        assert np.abs(slope).max() > 0


def slopes_along(network: Callable[[Array, Array], Array], t: Array, x: Array, v: Array) -> Any:
    """The first two derivatives of the network along the line `(t + 0.7 e, x + e v)`, at any `e`."""

    @jax.jit
    def slopes(e: Array) -> tuple[Array, Array]:
        along = lambda e: network(t + 0.7 * e, x + e * v)
        slope = lambda e: jax.jvp(along, (e,), (jnp.ones_like(e),))[1]
        return jax.jvp(slope, (e,), (jnp.ones_like(e),))

    return slopes


def against_differences(both: Callable[[Array], tuple[Array, Array]], *, least: float, within: float) -> None:
    """Central differences of the first value approach the second, its derivative at zero, at second order in the step.

    The derivative has an entry above `least`; the smaller step leaves the share `within` of the largest.
    """
    slope, errors = both(jnp.asarray(0.0))[1], []
    for h in (1e-3, 1e-4):
        ahead, behind = both(jnp.asarray(h))[0], both(jnp.asarray(-h))[0]
        errors.append(np.abs((ahead - behind) / (2 * h) - slope).max())
    assert np.all(np.isfinite(slope))
    assert np.abs(slope).max() > least
    assert errors[1] < within * np.abs(slope).max()
    assert 90 < errors[0] / errors[1] < 110
