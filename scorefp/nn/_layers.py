"""Layers on channels-last images, and products at a lower precision.

Images are `(h, w, c)` inside a network. Under `jax.vmap` that is the layout in which XLA's convolutions run on CPUs and
TPUs: equinox's channels-first layers cost a transpose around every convolution there, and in the body of a loop much
more: see `convolution`.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from .._checks import finite, number, require, same_shape, sample
from .._describe import outlined
from .._module import AbstractModule
from .._precision import measuring
from .._times import time_or_step
from .._types import Event, Key, Scalar, Time
from .convolution import convolution

Image: TypeAlias = Float[Array, "_ _ _"]
"""An image inside a network, `(h, w, c)`."""

Channels: TypeAlias = Float[Array, " _"]
"""A number for each channel."""

Activation: TypeAlias = Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]]
"""A function of each entry."""


class AbstractNetwork(AbstractModule):
    """A network, or a layer of one. It prints with its settings, never its weights."""

    def __repr__(self) -> str:
        return outlined(self, static=True)


class Conv(AbstractNetwork):
    """A convolution of an odd kernel that keeps the size, with a bias.

    Weights start uniform with the variance of Glorot & Bengio 2010, as in DDPM++.

    Operands of the product are cast to `dtype` where one is given. Every back end accumulates the products of a
    lower precision in float32 and rounds once; the bias is added at the precision of the parameters. Of a half
    precision the sum is rounded to it once more, for the next layer.

    Args:
        channels: How many go in.
        out: How many come out.
        size: The side of the kernel.
        zero: Whether all parameters start at zero.
        dtype: The precision of the product; `None` for that of parameters and input.
        key: A random key.
    """

    weight: Float[Array, "k k c out"]
    bias: Float[Array, " out"]
    dtype: DTypeLike | None = eqx.field(static=True)

    def __init__(
        self, channels: int, out: int, size: int = 3, *, zero: bool = False, dtype: DTypeLike | None = None, key: Key
    ) -> None:
        shape = (size, size, channels, out)
        limit = math.sqrt(6 / (size**2 * (channels + out)))
        self.weight = jnp.zeros(shape) if zero else jax.random.uniform(key, shape, minval=-limit, maxval=limit)
        self.bias = jnp.zeros(out)
        self.dtype = dtype

    def __call__(self, x: Image) -> Image:
        kind = jnp.result_type(x, self.weight)
        dtype = rounded_to(self.dtype)
        product = convolution(x[None].astype(dtype or kind), self.weight.astype(dtype or kind))
        return kept(product[0].astype(kind) + self.bias, dtype)


class GroupNorm(AbstractNetwork):
    """Group normalisation over the last axis (Wu & He 2018), at float32 or better.

    Groups have at least four channels and there are at most 32, as in NCSN++.

    Args:
        channels: How many there are.
    """

    weight: Float[Array, " c"]
    bias: Float[Array, " c"]
    groups: int = eqx.field(static=True)

    def __init__(self, channels: int) -> None:
        self.weight, self.bias = jnp.ones(channels), jnp.zeros(channels)
        self.groups = max((n for n in range(1, min(32, channels // 4) + 1) if channels % n == 0), default=1)

    def __call__(self, x: Image) -> Image:
        y = wide(x).reshape(-1, self.groups, x.shape[-1] // self.groups)
        centred = y - jnp.mean(y, axis=(0, 2), keepdims=True)
        variance = jnp.mean(centred**2, axis=(0, 2), keepdims=True)
        normal = (centred * jax.lax.rsqrt(variance + 1e-5)).reshape(x.shape)
        return normal * self.weight + self.bias

    def activated(self, activation: Activation, x: Image, shift: Channels | None = None) -> Image:
        """The activation of the norm of `x`, or of `x` with a shift of each channel, at the precision of `x`."""
        if is_half(x.dtype):
            return self.as_affine(activation, x, jnp.zeros_like(self.bias) if shift is None else shift)
        return activation(self(x if shift is None else x + shift))

    def as_affine(self, activation: Activation, x: Image, shift: Channels) -> Image:
        """The same by the affine map of each channel that the norm is, from the moments of the channels.

        Memory bounds a step in half precision. So the moments take one pass over the image, the values another, and
        the derivative forms what is wider than `x` again in place of reading it: half of the bytes.
        """
        mean, square = jax.checkpoint(_moments)(x)
        # A shift has no part in the sum of squares, from which one larger than the spread would take the digits.
        centre = self._over_groups(mean + shift)
        variance = jnp.maximum(square - mean**2, 0) + (mean + shift - centre) ** 2
        scale = self.weight * jax.lax.rsqrt(self._over_groups(variance) + 1e-5)
        values = lambda x, scale, offset: activation(wide(x) * scale + offset).astype(x.dtype)
        return jax.checkpoint(values)(x, scale, self.bias + (shift - centre) * scale)

    def _over_groups(self, y: Channels) -> Channels:
        """The mean of each group at each of its channels."""
        return jnp.repeat(jnp.mean(y.reshape(self.groups, -1), axis=1), len(y) // self.groups)


def _moments(x: Image) -> tuple[Channels, Channels]:
    """The means over the pixels of each channel, and of its square."""
    y = wide(x)
    return jnp.mean(y, axis=(0, 1)), jnp.mean(y**2, axis=(0, 1))


class Attention(AbstractNetwork):
    r"""The term of self-attention of one head over all pixels, $W\,\mathrm{softmax}(qk^\top/\sqrt c)\,v$.

    The last map starts at zero. The softmax runs in float32 or better.

    Args:
        channels: How many there are.
        dtype: The precision of the products.
        key: A random key.
    """

    norm: GroupNorm
    enter: Conv
    leave: Conv

    def __init__(self, channels: int, *, dtype: DTypeLike | None = None, key: Key) -> None:
        enter_key, leave_key = jax.random.split(key)
        self.norm = GroupNorm(channels)
        self.enter = Conv(channels, 3 * channels, 1, dtype=dtype, key=enter_key)
        self.leave = Conv(channels, channels, 1, zero=True, dtype=dtype, key=leave_key)

    def __call__(self, x: Image) -> Image:
        mixed = self.enter(self.norm.activated(lambda y: y, x))
        mixed = wide(mixed).reshape(-1, mixed.shape[-1])
        q, k, v = jnp.split(mixed, 3, axis=-1)
        # Not jax.nn.dot_product_attention: its softmax is in float32 also where all else is in float64, and the fused
        # kernel of cuDNN is a custom_vjp, without the forward mode and second derivatives of residuals and the penalty.
        weights = jax.nn.softmax(self._product(q / math.sqrt(x.shape[-1]), k.T), axis=-1)
        return self.leave(self._product(weights, v).astype(x.dtype).reshape(x.shape))

    def _product(self, x: Float[Array, "n k"], y: Float[Array, "k m"]) -> Float[Array, "n m"]:
        kind = rounded_to(self.enter.dtype) or x.dtype
        return (x.astype(kind) @ y.astype(kind)).astype(x.dtype)


def rounded_to(dtype: DTypeLike | None) -> DTypeLike | None:
    """The precision of a network's products: that of its settings, but in a measurement no half one."""
    return None if is_half(dtype) and measuring() else dtype


def is_half(dtype: DTypeLike | None) -> bool:
    """Whether it is a dtype of fewer bits than float32."""
    return dtype is not None and jnp.finfo(dtype).bits < 32


def kept(x: Float[Array, "*shape"], dtype: DTypeLike | None) -> Float[Array, "*shape"]:
    """What one layer hands to the next: of half precision where its products are, so that no array between two layers
    has more bytes.
    """
    return x if dtype is None or not is_half(dtype) else x.astype(dtype)


def wide(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """An array at float32 or better, for what sums and divides."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def inputs(t: Time, x: Event, shape: tuple[int, ...]) -> tuple[Scalar, Event]:
    """The time, or what stands for it, and the sample of a network, refused unless they are its own."""
    x = sample("x", x)
    same_shape("x", x.shape, "a sample of this network", shape)
    return finite("t", time_or_step(t, x), known=True), x


def dropped(x: Float[Array, "*shape"], share: float, key: Key | None) -> Float[Array, "*shape"]:
    """A share of the entries set to zero and the others as much larger; all as they are without a key."""
    return eqx.nn.Dropout(share)(x, key=key, inference=key is None)


def dropout_share(share: float) -> float:
    """The share that is dropped, as a plain number, refused where it is out of range."""
    number("dropout", share)
    require(0 <= share < 1, f"dropout = {share}; the share of entries that are dropped is in [0, 1).")
    return float(share)


def affine(layer: eqx.nn.Linear, x: Float[Array, " inputs"], dtype: DTypeLike | None) -> Float[Array, " outputs"]:
    """A linear layer whose product has its operands cast to `dtype`, where one is given."""
    dtype = rounded_to(dtype)
    if dtype is None:
        return layer(x)
    product = (layer.weight.astype(dtype) @ x.astype(dtype)).astype(jnp.result_type(x, layer.weight))
    return product if layer.bias is None else product + layer.bias


def with_octaves(x: Image, count: int) -> Image:
    r"""An image with $\sin(2^k\pi x)$ and $\cos(2^k\pi x)$ for $k = 1 \ldots$ `count` as further channels, by
    doubling of the angle.
    """
    channels = [x]
    sine, cosine = jnp.sin(jnp.pi * x), jnp.cos(jnp.pi * x)
    for _ in range(count):
        sine, cosine = 2 * sine * cosine, 1 - 2 * sine**2
        channels += [sine, cosine]
    return jnp.concatenate(channels, axis=-1)


def halved(x: Image) -> Image:
    """Every square of two by two pixels by its mean."""
    h, w, c = x.shape
    return jnp.mean(x.reshape(h // 2, 2, w // 2, 2, c), axis=(1, 3))


def doubled(x: Image) -> Image:
    """Every pixel as a square of two by two; the sums of its derivative are at float32 or better."""
    return jnp.repeat(jnp.repeat(wide(x), 2, axis=0), 2, axis=1).astype(x.dtype)


def balanced(x: Image, y: Image) -> Image:
    """The sum of two images of one variance, with that variance."""
    return ((wide(x) + wide(y)) / math.sqrt(2)).astype(y.dtype)
