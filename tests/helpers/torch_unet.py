"""A small U-Net in PyTorch with group norm and attention, and the same function written in JAX."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import Array
from torch import Tensor, nn
from torch.nn import functional as F

HEADS, GROUPS, RATES = 2, 2, (1.0, 0.3, 0.1, 0.03)


class UNet(nn.Module):
    """Two resolutions: a convolution and a shift by the time, half the size with attention, and back."""

    def __init__(self, channels: int = 8, features: int = 1) -> None:
        super().__init__()
        self.enter = nn.Conv2d(features, channels, 3, padding=1)
        self.times = nn.Linear(2 * len(RATES), channels)
        self.down = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.attention = nn.MultiheadAttention(channels, HEADS, batch_first=True)
        self.join = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.leave = nn.Conv2d(channels, features, 3, padding=1)
        self.norms = nn.ModuleList([nn.GroupNorm(GROUPS, channels) for _ in range(3)])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        turns = t[:, None].to(x.dtype) * torch.tensor(RATES, dtype=x.dtype)
        shift = self.times(torch.cat([turns.sin(), turns.cos()], dim=1))[:, :, None, None]
        wide = F.silu(self.norms[0](self.enter(x) + shift))
        small = F.silu(self.norms[1](self.down(wide)))
        pixels = small.flatten(2).transpose(1, 2)
        mixed, _ = self.attention(pixels, pixels, pixels, need_weights=False)
        small = small + mixed.transpose(1, 2).reshape(small.shape)
        both = torch.cat([wide, F.interpolate(small, scale_factor=2)], dim=1)
        return self.leave(F.silu(self.norms[2](self.join(both))))


def made(*, seed: int = 0, dtype: torch.dtype = torch.float64, **sizes: int) -> UNet:
    """The U-Net with weights of a seed, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet(**sizes).to(dtype).eval()


def port(module: UNet) -> Any:
    """The same function `(t, x)` of one sample, in JAX."""
    weights = {name: jnp.asarray(p.detach().numpy()) for name, p in module.named_parameters()}

    def conv(name: str, x: Array, stride: int = 1) -> Array:
        kernel = weights[f"{name}.weight"].astype(x.dtype)
        (out,) = jax.lax.conv_general_dilated(x[None], kernel, (stride, stride), [(1, 1), (1, 1)])
        return out + weights[f"{name}.bias"].astype(x.dtype)[:, None, None]

    def norm(name: str, x: Array) -> Array:
        grouped = x.reshape(GROUPS, -1)
        centred = grouped - grouped.mean(1, keepdims=True)
        scaled = (centred / jnp.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)).reshape(x.shape)
        scale, shift = (weights[f"{name}.{which}"].astype(x.dtype)[:, None, None] for which in ("weight", "bias"))
        return scaled * scale + shift

    def linear(name: str, x: Array, sep: str = ".") -> Array:
        return x @ weights[f"{name}{sep}weight"].astype(x.dtype).T + weights[f"{name}{sep}bias"].astype(x.dtype)

    def attention(x: Array) -> Array:
        queries, keys, values = (
            part.reshape(len(x), HEADS, -1) for part in jnp.split(linear("attention.in_proj", x, "_"), 3, axis=1)
        )
        logits = jnp.einsum("qhc,khc->hqk", queries, keys) / np.sqrt(queries.shape[-1])
        mixed = jnp.einsum("hqk,khc->qhc", jax.nn.softmax(logits), values).reshape(x.shape)
        return linear("attention.out_proj", mixed)

    def call(t: Array, x: Array) -> Array:
        turns = jnp.asarray(t, x.dtype) * jnp.asarray(RATES, x.dtype)
        shift = linear("times", jnp.concatenate([jnp.sin(turns), jnp.cos(turns)]))[:, None, None]
        wide = jax.nn.silu(norm("norms.0", conv("enter", x) + shift))
        small = jax.nn.silu(norm("norms.1", conv("down", wide, 2)))
        pixels = small.reshape(len(small), -1).T
        small = small + attention(pixels).T.reshape(small.shape)
        both = jnp.concatenate([wide, small.repeat(2, axis=1).repeat(2, axis=2)])
        return conv("leave", jax.nn.silu(norm("norms.2", conv("join", both))))

    return call


def port_of_steps(module: UNet, sde: Any) -> Any:
    """The port, called with the step of a table in the place of the time."""
    call = port(module)
    return lambda t, x: call(sde.step_of_time(t), x)
