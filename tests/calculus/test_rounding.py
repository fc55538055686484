"""The coarsest dtype on the way from the arguments of a function to its value."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array

from scorefp.calculus._rounding import coarsest_dtype

HALF = jnp.bfloat16
W = jnp.ones((3, 3))


def rounded(x: Array) -> Array:
    return x.astype(HALF).astype(x.dtype)


def looped(t: Array, x: Array) -> Array:
    return jax.lax.fori_loop(0, 2, lambda i, y: rounded(y @ W), x)


def scanned(t: Array, x: Array) -> Array:
    """Its carry depends on the arguments from the second round on."""
    return jax.lax.scan(lambda y, _: (x, rounded(y)), jnp.zeros_like(x), None, length=3)[1][-1]


ROUNDS: dict[str, Callable[[Array, Array], Array]] = {
    "a product": lambda t, x: (W.astype(HALF) @ x.astype(HALF)).astype(x.dtype),
    "a product that accumulates": lambda t, x: jnp.matmul(
        W.astype(HALF), x.astype(HALF), preferred_element_type=jnp.float32
    ),
    "the sample": lambda t, x: W @ rounded(x),
    "the value": lambda t, x: rounded(W @ x),
    "the time": lambda t, x: jnp.sin(rounded(t)) * x,
    "by reduce_precision": lambda t, x: jax.lax.reduce_precision(x, 8, 7),
    "compiled": jax.jit(lambda t, x: rounded(x)),
    "under a checkpoint": jax.checkpoint(lambda t, x: rounded(x)),
    "in a loop": looped,
    "in a scan": scanned,
    "in a branch": lambda t, x: jax.lax.cond(t > 0, rounded, lambda x: x, x),
}

FULL: dict[str, Callable[[Array, Array], Array]] = {
    "products": lambda t, x: W @ x,
    "parameters in half precision": lambda t, x: jnp.matmul(W.astype(HALF), x),
    "parameters that are rounded": lambda t, x: rounded(W) @ x,
    "parameters whose product rounds": lambda t, x: (W.astype(HALF) @ W.astype(HALF)).astype(x.dtype) @ x,
    "parameters rounded in a compiled function": jax.jit(lambda t, x: rounded(W) @ x),
    "an index": lambda t, x: W[jnp.floor(3 * t).astype(int)] * x,
    "reduce_precision to what it is": lambda t, x: jax.lax.reduce_precision(x, 8, 23),
}


@pytest.mark.quick
@pytest.mark.parametrize("name", ROUNDS)
def test_what_rounds_is_seen(name: str) -> None:
    assert coarsest_dtype(ROUNDS[name], jnp.asarray(0.5), jnp.ones(3)) == HALF


@pytest.mark.quick
@pytest.mark.parametrize("name", FULL)
def test_what_does_not_depend_on_the_arguments_is_no_rounding(name: str) -> None:
    assert coarsest_dtype(FULL[name], jnp.asarray(0.5), jnp.ones(3)) == jnp.float32
