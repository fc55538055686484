"""A time-conditioned multilayer perceptron."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from .._checks import require, same_shape, scalar_time
from .._module import AbstractModule
from .._types import Event, Key, Time
from .activation import silu
from .embedding import FEATURES, fourier_features


class MLP(AbstractModule):
    r"""A residual perceptron of time and one sample of a fixed shape.

    With $e$ the `fourier_features` of time and $\phi$ the activation,

    $$ h_0 = \phi(W_0 x + U_0 e), \qquad h_{k} = h_{k-1} + \phi(W_k h_{k-1} + U_k e), \qquad F(t, x) =
       W_{\text{out}} h_{\text{depth}}. $$

    The last layer starts at zero, so that a preconditioned score starts as the score of a Gaussian.

    Args:
        shape: The event shape.
        width: The size of $h$.
        depth: The number of residual layers.
        activation: A smooth function; second derivatives of the network are taken.
        key: A random key for the weights.

    Raises:
        ValueError: if `width` or `depth` is below one; on a call, if `x` has another shape than `shape`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from scorefp.nn import MLP
        >>> MLP(shape=(2, 3), width=8, key=jax.random.key(0))(0.5, jnp.ones((2, 3))).shape
        (2, 3)
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    enter: eqx.nn.Linear
    times: eqx.nn.Linear
    layers: tuple[eqx.nn.Linear, ...]
    leave: eqx.nn.Linear
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        width: int = 128,
        depth: int = 3,
        activation: Callable[[Array], Array] = silu,
        key: Key,
    ) -> None:
        require(width >= 1 and depth >= 1, f"width = {width} and depth = {depth}; both must be at least one.")
        size = int(np.prod(shape))
        enter_key, time_key, leave_key, *layer_keys = jr.split(key, 3 + depth)
        self.shape = shape
        self.enter = eqx.nn.Linear(size, width, key=enter_key)
        self.times = eqx.nn.Linear(FEATURES, (1 + depth) * width, use_bias=False, key=time_key)
        self.layers = tuple(eqx.nn.Linear(width, width, key=k) for k in layer_keys)
        leave = eqx.nn.Linear(width, size, key=leave_key)
        self.leave = jax.tree.map(jnp.zeros_like, leave)
        self.activation = activation

    def __call__(self, t: Time, x: Event) -> Event:
        """The value of the network at one time and one sample.

        Args:
            t: The time, or whatever the score conditions on.
            x: One sample.
        """
        same_shape("x", x.shape, "a sample of this network", self.shape)
        shifts = self.times(fourier_features(scalar_time(t, x))).reshape((1 + len(self.layers), -1))
        h = self.activation(self.enter(x.reshape(-1)) + shifts[0])
        for layer, shift in zip(self.layers, shifts[1:], strict=True):
            h = h + self.activation(layer(h) + shift)
        return self.leave(h).reshape(self.shape)
