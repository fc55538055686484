"""A convolution whose derivatives run as fast inside a loop as outside one, on CPUs too.

XLA for CPUs has fast kernels for convolutions of channels-last images with kernels `(k, k, c, out)`. It brings other
arrangements into that form in the outermost computation of a program only; in the body of a loop they run in a plain
one, ten to fifty times as long (github.com/jax-ml/jax/issues/12868). What JAX derives from a convolution are other
arrangements, and training loops, samplers and ODE solvers are loops. The two primitives of this file are bilinear, and
each is what the other's derivatives are made of, in the fast form at every order. Both keep the precision that they
were traced with, as JAX's own products do: they become those when a program is lowered, outside of
`jax.default_matmul_precision`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from .._checks import floating, require
from .._precision import default_precision

_ORDER = ("NHWC", "HWIO", "NHWC")


def convolution(x: Float[Array, "n h w _"], kernel: Float[Array, "_ _ _ out"]) -> Float[Array, "n h w out"]:
    """The convolution of channels-last images with an odd kernel, with zeros around the images, of the images' size.

    Values, derivatives and precision (`jax.default_matmul_precision`) are those of `jax.lax.conv_general_dilated`. On
    CPUs its derivatives are as fast inside a loop, such as that of `scorefp.train.fit`, as outside; those of equinox or
    flax are ten to fifty times slower there. Use it in your own convolutional network.

    Args:
        x: The images.
        kernel: The kernel, of the same dtype; its side is odd.

    Raises:
        ValueError: if the channels or the dtypes differ, or the kernel is not square with an odd side.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp.nn import convolution
        >>> convolution(jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 16))).shape
        (2, 8, 8, 16)
    """
    x, kernel = floating("x", x), floating("kernel", kernel)
    for name, array in (("x", x), ("kernel", kernel)):
        require(array.ndim == 4, f"{name} has shape {array.shape}; it has four axes.")
    side, other, channels, _ = kernel.shape
    require(
        side == other and side % 2 == 1,
        f"kernel has sides {side} and {other}; a kernel that keeps the size of the images is square with an odd side.",
    )
    require(
        x.shape[-1] == channels and x.dtype == kernel.dtype,
        f"x has {x.shape[-1]} channels of {x.dtype}, kernel takes {channels} of {kernel.dtype}; the two must be equal.",
    )
    return _convolution_p.bind(x, kernel, size=kernel.shape[0], precision=default_precision())


def _convolved(x: Array, kernel: Array, *, size: int, precision: str) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_ORDER, precision=precision)


def _correlated(x: Array, y: Array, *, size: int, precision: str) -> Array:
    """The kernel whose entries are the sums of products of `x`, shifted, and `y`: as a convolution of the channels of
    `x` with all of `y`, over the samples.
    """
    edge = (size // 2, size // 2)
    channels, all_of_y = jnp.transpose(x, (3, 1, 2, 0)), jnp.transpose(y, (1, 2, 0, 3))
    sums = jax.lax.conv_general_dilated(
        channels, all_of_y, (1, 1), (edge, edge), dimension_numbers=_ORDER, precision=precision
    )
    return jnp.transpose(sums, (1, 2, 0, 3))


def _correlated_by_jax(x: Array, y: Array, *, size: int, precision: str) -> Array:
    """The same as JAX derives it, which the compilers for GPUs and TPUs know."""
    like = jax.ShapeDtypeStruct((size, size, x.shape[-1], y.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda kernel: _convolved(x, kernel, size=size, precision=precision), like)(y)[0]


def _reversed(kernel: Array) -> Array:
    """The kernel of the transposed convolution."""
    return jnp.swapaxes(kernel[::-1, ::-1], 2, 3)


_convolution_p, _correlation_p = Primitive("convolution"), Primitive("correlation")

_convolution_p.def_impl(jax.jit(_convolved, static_argnames=("size", "precision")))
_correlation_p.def_impl(jax.jit(_correlated, static_argnames=("size", "precision")))


@_convolution_p.def_abstract_eval
def _(x: Any, kernel: Any, *, size: int, precision: str) -> Any:
    return x.update(shape=(*x.shape[:3], kernel.shape[3]))


@_correlation_p.def_abstract_eval
def _(x: Any, y: Any, *, size: int, precision: str) -> Any:
    return x.update(shape=(size, size, x.shape[3], y.shape[3]))


# <convolution(x, k), y> = <x, convolution(y, reversed k)> = <k, correlation(x, y)>.
ad.defbilinear(
    _convolution_p,
    lambda y, x, kernel, **how: _convolution_p.bind(y, _reversed(kernel), **how),
    lambda y, x, kernel, **how: _correlation_p.bind(x, y, **how),
)
ad.defbilinear(
    _correlation_p,
    lambda kernel, x, y, **how: _convolution_p.bind(y, _reversed(kernel), **how),
    lambda kernel, x, y, **how: _convolution_p.bind(x, kernel, **how),
)


def _batched_convolution(arguments: tuple[Array, Array], axes: tuple[Any, Any], **how: Any) -> tuple[Array, int]:
    """Many images with one kernel are more images."""
    (x, kernel), (x_axis, kernel_axis) = arguments, axes
    if kernel_axis is not None:
        return jax.vmap(lambda x, kernel: _convolved(x, kernel, **how), in_axes=axes)(x, kernel), 0
    x = jnp.moveaxis(x, x_axis, 0)
    y = _convolution_p.bind(x.reshape(-1, *x.shape[2:]), kernel, **how)
    return y.reshape(*x.shape[:2], *y.shape[1:]), 0


def _batched_correlation(arguments: tuple[Array, Array], axes: tuple[Any, Any], **how: Any) -> tuple[Array, int]:
    x, y = arguments
    return jax.vmap(lambda x, y: _correlated_by_jax(x, y, **how), in_axes=axes)(x, y), 0


batching.primitive_batchers[_convolution_p] = _batched_convolution
batching.primitive_batchers[_correlation_p] = _batched_correlation

mlir.register_lowering(_convolution_p, mlir.lower_fun(_convolved, multiple_results=False))
mlir.register_lowering(_correlation_p, mlir.lower_fun(_correlated_by_jax, multiple_results=False))
mlir.register_lowering(_correlation_p, mlir.lower_fun(_correlated, multiple_results=False), platform="cpu")
