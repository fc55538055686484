"""The law at the end of the forward process."""

from abc import abstractmethod

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import ArrayLike, Float

from .._checks import floating
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

    def log_prob(self, x: Event) -> Scalar:
        x = floating("x", x)
        scale = jnp.broadcast_to(jnp.asarray(self.scale, x.dtype), x.shape)
        return -jnp.sum(0.5 * (x / scale) ** 2 + jnp.log(scale) + 0.5 * jnp.log(2 * jnp.pi))

    def sample(self, key: Key, shape: tuple[int, ...]) -> Event:
        noise = jr.normal(key, shape)
        return jnp.asarray(self.scale, noise.dtype) * noise

    def cross_entropy(self, mean: Event, std: Scalar) -> Scalar:
        r"""$-E[\log\pi(x)]$ for $x \sim \mathcal N(\text{mean}, \text{std}^2 I)$, in closed form [K9].

        Args:
            mean: The mean of `x`.
            std: Its standard deviation, a scalar.
        """
        scale = jnp.broadcast_to(jnp.asarray(self.scale, mean.dtype), mean.shape)
        return -self.log_prob(mean) + 0.5 * jnp.sum((std / scale) ** 2)
