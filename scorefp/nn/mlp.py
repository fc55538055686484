"""Multilayer perceptrons of time and one sample."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from .._checks import count, event_shape, random_key
from .._types import Event, Key, Scalar, Time
from ..calculus._smoothness import require_smooth_activation
from ._layers import AbstractNetwork, affine, dropout_share, dropped, inputs, kept, rounded_to
from .activation import silu, softplus
from .embedding import FEATURES, fourier_features


class MLP(AbstractNetwork):
    r"""A residual perceptron of time and one sample of a fixed shape.

    With $e$ the `fourier_features` of time and $\phi$ the activation,

    $$ h_0 = \phi(W_0 x + U_0 e), \qquad h_{k} = h_{k-1} + \phi(W_k h_{k-1} + U_k e), \qquad F(t, x) =
       W_{\text{out}} h_{\text{depth}}. $$

    With dropout each $\phi$ loses entries.

    The last layer starts at zero, so that a preconditioned score starts as the score of a Gaussian.

    Args:
        shape: The event shape.
        width: The size of $h$.
        depth: The number of residual layers.
        dropout: The share of the entries of each $\phi$ that is dropped, where the call gets a key; a call without one
            drops nothing.
        activation: A smooth function; second derivatives of the network are taken.
        dtype: The precision of the products, such as `jnp.bfloat16`; `None` for that of parameters and sample. What
            one layer hands to the next is of a half precision too; parameters and the value keep theirs, and sums and
            activations are in float32. Functions that measure take no half precision: they see the network without.
        key: A random key for the weights.

    Raises:
        ValueError: if `width` or `depth` is below one, `dropout` is not in [0, 1), or the activation is piecewise
            linear; on a call, if `x` has another shape than `shape`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from scorefp.nn import MLP
        >>> MLP(shape=(2, 3), width=8, key=jax.random.key(0))(0.5, jnp.ones((2, 3))).shape
        (2, 3)
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    width: int = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    enter: eqx.nn.Linear
    times: eqx.nn.Linear
    layers: tuple[eqx.nn.Linear, ...]
    leave: eqx.nn.Linear
    dropout: float = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)
    dtype: DTypeLike | None = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        width: int = 128,
        depth: int = 3,
        dropout: float = 0.0,
        activation: Callable[[Array], Array] = silu,
        dtype: DTypeLike | None = None,
        key: Key,
    ) -> None:
        shape, width, depth = _checked(shape, width, depth, activation, key)
        size = int(np.prod(shape))
        enter_key, time_key, leave_key, *layer_keys = jr.split(key, 3 + depth)
        self.shape, self.width, self.depth = shape, width, depth
        self.enter = eqx.nn.Linear(size, width, key=enter_key)
        self.times = eqx.nn.Linear(FEATURES, (1 + depth) * width, use_bias=False, key=time_key)
        self.layers = tuple(eqx.nn.Linear(width, width, key=k) for k in layer_keys)
        leave = eqx.nn.Linear(width, size, key=leave_key)
        self.leave = jax.tree.map(jnp.zeros_like, leave)
        self.dropout = dropout_share(dropout)
        self.activation = activation
        self.dtype = dtype

    def __call__(self, t: Time, x: Event, *, key: Key | None = None) -> Event:
        """The value of the network at one time and one sample.

        Args:
            t: The time, or whatever the score conditions on.
            x: One sample.
            key: A random key for dropout; `None` drops nothing.
        """
        t, x = inputs(t, x, self.shape)
        shifts = affine(self.times, fourier_features(t), self.dtype)
        shifts = shifts.reshape((1 + len(self.layers), -1))
        dtype = rounded_to(self.dtype)
        drop, *drops = [None] * len(shifts) if key is None else jr.split(random_key("dropout", key), len(shifts))

        def phi(z: Float[Array, " width"], drop: Key | None) -> Float[Array, " width"]:
            return dropped(self.activation(z), self.dropout, drop)

        h = kept(phi(affine(self.enter, x.reshape(-1), self.dtype) + shifts[0], drop), dtype)
        for layer, shift, drop in zip(self.layers, shifts[1:], drops, strict=True):
            h = kept(h + phi(affine(layer, h, self.dtype) + shift, drop), dtype)
        return affine(self.leave, h, self.dtype).reshape(self.shape)


class ScalarMLP(AbstractNetwork):
    r"""A plain perceptron with a scalar value, to be a potential: `Potential(ScalarMLP(...), sde)` (Deveney 2023, §4).

    With $\phi$ the activation,

    $$ h_0 = (t, x), \qquad h_k = \phi(W_k h_{k-1} + b_k), \qquad F(t, x) = w\cdot h_{\text{depth}} + b. $$

    Time enters as it is. On a horizon of many decades, near whose start the potential must be sharp, the energies
    around an `MLP` do better: `InnerPotential`, `DistancePotential`.

    Args:
        shape: The event shape.
        width: The size of $h$.
        depth: The number of hidden layers.
        activation: A smooth function; the score is a derivative of the network already.
        key: A random key for the weights.

    Raises:
        ValueError: if `width` or `depth` is below one, or the activation is piecewise linear; on a call, if `x` has
            another shape than `shape`.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> network = sfp.nn.ScalarMLP(shape=(2,), key=jax.random.key(0))
        >>> sfp.Potential(network, sfp.OU(), shape=(2,))(0.5, jnp.ones(2)).shape
        (2,)
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    width: int = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    layers: tuple[eqx.nn.Linear, ...]
    leave: eqx.nn.Linear
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        width: int = 80,
        depth: int = 2,
        activation: Callable[[Array], Array] = softplus,
        key: Key,
    ) -> None:
        shape, width, depth = _checked(shape, width, depth, activation, key)
        leave_key, *layer_keys = jr.split(key, 1 + depth)
        size = 1 + int(np.prod(shape))
        self.shape, self.width, self.depth = shape, width, depth
        self.layers = tuple(eqx.nn.Linear(width if i else size, width, key=k) for i, k in enumerate(layer_keys))
        self.leave = eqx.nn.Linear(width, "scalar", key=leave_key)
        self.activation = activation

    def __call__(self, t: Time, x: Event) -> Scalar:
        """The value of the network at one time and one sample.

        Args:
            t: The time.
            x: One sample.
        """
        t, x = inputs(t, x, self.shape)
        h = jnp.concatenate([t[None], x.reshape(-1)])
        for layer in self.layers:
            h = self.activation(layer(h))
        return self.leave(h)


def _checked(
    shape: tuple[int, ...], width: int, depth: int, activation: Callable[[Array], Array], key: Key
) -> tuple[tuple[int, ...], int, int]:
    """The sizes of a network, once all of its settings are looked at."""
    shape, width, depth = event_shape(shape), count("width", width, 1), count("depth", depth, 1)
    require_smooth_activation(activation)
    random_key("the weights of a network", key)
    return shape, width, depth
