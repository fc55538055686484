"""The convolution: its values and derivatives are those of `jax.lax`, alone, batched, and at second order."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.refusals import refused
from jax import Array

from scorefp.nn import convolution

Conv = Callable[[Array, Array], Array]


def by_jax(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def value(conv: Conv, kernel: Array, x: Array) -> Array:
    return jnp.sum(jnp.sin(jax.vmap(lambda x: conv(x[None], kernel)[0])(x)))


def third(conv: Conv, kernel: Array, x: Array) -> Any:
    """The gradient of a curvature along a curve: what a Fokker–Planck term asks of a network."""

    def slope(kernel: Array, x: Array) -> Array:
        return jax.jvp(lambda x: value(conv, kernel, x), (x,), (jnp.cos(x),))[1]

    return jax.grad(lambda kernel, x: jax.jvp(lambda x: slope(kernel, x), (x,), (x,))[1], argnums=(0, 1))(kernel, x)


@pytest.mark.quick
@pytest.mark.parametrize("side", [1, 3])
def test_values_and_derivatives_are_those_of_jax(x64: None, side: int) -> None:
    x, kernel = jr.normal(jr.key(0), (4, 6, 7, 3)), jr.normal(jr.key(1), (side, side, 3, 5))

    def all_orders(conv: Conv) -> list[Array]:
        both = jax.value_and_grad(value, argnums=(1, 2))
        return jax.tree.leaves(jax.jit(lambda kernel, x: (both(conv, kernel, x), third(conv, kernel, x)))(kernel, x))

    for one, other in zip(all_orders(convolution), all_orders(by_jax), strict=True):
        assert jnp.abs(other).max() > 0.01
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_gradients_of_single_samples(x64: None) -> None:
    x, kernels = jr.normal(jr.key(0), (4, 6, 6, 3)), jr.normal(jr.key(1), (4, 3, 3, 3, 2))

    def gradients(conv: Conv) -> Array:
        each = jax.grad(lambda kernel, x: jnp.sum(conv(x[None], kernel) ** 2))
        return jnp.stack([jax.vmap(each, in_axes=(None, 0))(kernels[0], x), jax.vmap(each)(kernels, x)])

    np.testing.assert_allclose(gradients(convolution), gradients(by_jax), rtol=1e-12)


def test_other_platforms_get_what_jax_derives() -> None:
    def gradient(kernel: Array, x: Array) -> Array:
        return jax.grad(lambda kernel: value(convolution, kernel, x))(kernel)

    shapes = (jax.ShapeDtypeStruct((3, 3, 3, 5), jnp.float32), jax.ShapeDtypeStruct((4, 6, 6, 3), jnp.float32))
    exported = jax.export.export(jax.jit(gradient), platforms=["cuda", "tpu"])(*shapes)
    plain = jax.export.export(jax.jit(jax.grad(lambda k, x: value(by_jax, k, x))), platforms=["cuda", "tpu"])(*shapes)
    count = lambda module: module.mlir_module().count("stablehlo.convolution")
    assert count(exported) == count(plain)
    assert "stablehlo.transpose" not in exported.mlir_module()


@pytest.mark.parametrize("precision", ["highest", "default"])
def test_all_derivatives_keep_the_precision_they_were_traced_with(precision: str) -> None:
    """They become products of JAX when the program is lowered, where the context is another one."""
    x, kernel = jnp.ones((4, 6, 6, 3)), jnp.ones((3, 3, 3, 5))
    each = lambda kernel, x: jax.vmap(lambda k, x: value(convolution, k, x[None]), in_axes=(0, 0))(kernel, x)

    def everything(kernel: Array, x: Array) -> Any:
        kernels = jnp.stack([kernel] * 4)
        return third(convolution, kernel, x), jax.vmap(jax.grad(lambda k, x: each(k[None], x[None])[0]))(kernels, x)

    with jax.default_matmul_precision(precision):
        traced = jax.jit(everything).trace(kernel, x)
    other = {"highest": "default", "default": "highest"}[precision]
    with jax.default_matmul_precision(other):
        program = traced.lower(lowering_platforms=("cpu", "cuda", "tpu")).as_text()
    assert program.count("stablehlo.convolution") > 8
    assert program.count("precision_config") == program.count("stablehlo.convolution")
    assert f"<precision {precision.upper()}>" in program
    assert f"<precision {other.upper()}>" not in program


def test_errors() -> None:
    refused("kernel has sides 2 and 2", convolution, jnp.ones((1, 4, 4, 3)), jnp.ones((2, 2, 3, 3)))
    with pytest.raises(ValueError, match="x has 2 channels of float32, kernel takes 3 of float32"):
        convolution(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 3, 3)))
