"""The law at the end of the forward process."""

from abc import abstractmethod

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._checks import event_shape, is_concrete, number, random_key, real, require, sample
from .._module import AbstractModule
from .._types import Event, Key, Scalar


class AbstractPrior(AbstractModule):
    """A law on samples of a given event shape, from which generation starts."""

    @abstractmethod
    def log_prob(self, x: Event) -> Scalar:
        """The log-density at one sample, in nats."""

    @abstractmethod
    def sample(self, key: Key, shape: tuple[int, ...]) -> Event:
        """One sample of the given event shape."""


class Normal(AbstractPrior):
    r"""The centred normal law $\mathcal N(0, \mathrm{diag}(\text{scale}^2))$.

    Args:
        scale: The standard deviation, a scalar or an array that broadcasts to the event shape.

    Raises:
        TypeError: if `scale` is not real.
        ValueError: if `scale` is not positive and finite; on a call, if it does not broadcast to the event shape.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from scorefp.sde import Normal
        >>> prior = Normal(2.0)
        >>> prior.sample(jax.random.key(0), (3,)).shape
        (3,)
        >>> round(float(prior.log_prob(jnp.zeros(()))), 4)
        -1.6121
    """

    scale: Float[ArrayLike, "..."]

    def __check_init__(self) -> None:
        if is_concrete(self.scale):
            # A number by itself makes no array: a default is made at import, before jax starts.
            (number if np.ndim(self.scale) == 0 else real)("scale", self.scale)
            known = np.asarray(self.scale)
            require(
                bool(np.all((known > 0) & np.isfinite(known))),
                f"scale = {self.scale}; a standard deviation is positive and finite.",
            )

    def log_prob(self, x: Event) -> Scalar:
        x = sample("x", x)
        scale = self._scale(x.shape).astype(x.dtype)
        return -jnp.sum(0.5 * (x / scale) ** 2 + jnp.log(scale) + 0.5 * jnp.log(2 * jnp.pi))

    def sample(self, key: Key, shape: tuple[int, ...]) -> Event:
        shape = event_shape(shape)
        noise = jr.normal(random_key("a prior", key), shape)
        return self._scale(shape).astype(noise.dtype) * noise

    def cross_entropy(self, mean: Event, std: Scalar) -> Scalar:
        r"""$-E[\log\pi(x)]$ for $x \sim \mathcal N(\text{mean}, \text{std}^2 I)$, in closed form [K9].

        Args:
            mean: The mean of `x`.
            std: Its standard deviation, a scalar.
        """
        scale = self._scale(mean.shape).astype(mean.dtype)
        return -self.log_prob(mean) + 0.5 * jnp.sum((std / scale) ** 2)

    def _scale(self, shape: tuple[int, ...]) -> Array:
        """The standard deviation of each element of a sample."""
        scale = jnp.asarray(self.scale)
        pairs = zip(scale.shape[::-1], shape[::-1], strict=False)
        fits = scale.ndim <= len(shape) and all(one in (1, size) for one, size in pairs)
        require(fits, f"scale has shape {scale.shape}; it does not broadcast to the event shape {shape}.")
        return jnp.broadcast_to(scale, shape)
