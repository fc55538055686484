"""Dequantisation: noise inside integer levels, and its density [K7]."""

from abc import abstractmethod

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Integer

from .._checks import random_key
from .._module import AbstractModule
from .._types import Event, Key, Scalar
from .quantisation import Quantisation


class Dequantised(AbstractModule):
    r"""Dequantised levels, with the log-density of their noise.

    Args:
        x: The sample $\text{low} + (k + u)\,w$.
        log_prob: $\log q(u \mid k)$, the log-density of the noise on the unit cube, in nats; zero for uniform noise.
    """

    x: Event
    log_prob: Scalar


class _DequantiserFields:
    quantisation: eqx.AbstractVar[Quantisation]


class AbstractDequantiser(AbstractModule, _DequantiserFields):
    r"""Noise $u \in [0, 1)^D$ with a density $q(u \mid k)$ inside the levels $k$ [K7] (Song 2021, Eq. 13).

    For every $q$, with $x = \text{low} + (k + u)\,w$, Jensen's inequality gives

    $$ \log P(k) \ge E_{u \sim q}\big[\log p(x) - \log q(u \mid k)\big] + D\log w, $$

    so `bits_per_dim(log_likelihood - log_prob, …)` bounds the code length of the levels from above.
    """

    @abstractmethod
    def positions(self, k: Integer[Array, "*event"], *, key: Key) -> tuple[Event, Scalar]:
        r"""Noise $u$ for the levels of one sample, and its log-density $\log q(u \mid k)$ in nats.

        The levels are not checked here: `draw` does it.

        Args:
            k: Integer levels of one sample.
            key: A random key.
        """

    def inside(self, k: Integer[Array, "*event"], *, key: Key) -> Dequantised:
        """`draw` for levels that were checked before: inside a loop a check would cost a host call a step.

        Args:
            k: Integer levels of one sample.
            key: A random key.
        """
        u, log_prob = self.positions(k, key=key)
        return Dequantised(self.quantisation.place(k, u), log_prob)

    def draw(self, k: Integer[ArrayLike, "*event"], *, key: Key) -> Dequantised:
        """A sample inside the levels, differentiable in what the dequantiser holds, with the density of its noise.

        Args:
            k: Integer levels of one sample; batch with `jax.vmap`.
            key: A random key.

        Raises:
            TypeError: if the levels are not integers, or `key` is no random key.
            ValueError: if a level is out of range, or their shape is not the dequantiser's.
        """
        return self.inside(self.quantisation.checked_levels(k), key=random_key("a dequantiser", key))

    def __call__(self, k: Integer[ArrayLike, "*event"], *, key: Key) -> Event:
        """The sample of `draw` alone."""
        return self.draw(k, key=key).x


class UniformDequantiser(AbstractDequantiser):
    r"""Uniform dequantisation, $x = \text{low} + (k + u)\,w$ with $u \sim \mathcal U[0, 1)$ [K7].

    By Jensen's inequality $\log P(k) \ge E_u[\log p(x)] + D\log w$: bits per dimension of dequantised data bound those
    of the levels from above. The noise knows no shape, so a whole batch of levels may be given at once.

    Args:
        quantisation: The levels and the interval.

    Raises:
        TypeError: if `quantisation` is none; on a call, if the levels are not integers.
        ValueError: on a call, if a level is out of range.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> dequantiser = sfp.UniformDequantiser(sfp.Quantisation(17, -1.0, 1.0))
        >>> x = dequantiser(jnp.array([0, 16]), key=jax.random.key(0))
        >>> bool(x[0] < -1 + 2 / 17), bool(x[1] >= 1 - 2 / 17)
        (True, True)
        >>> float(dequantiser.draw(jnp.array([0, 16]), key=jax.random.key(0)).log_prob)
        0.0
    """

    quantisation: Quantisation

    def positions(self, k: Integer[Array, "*event"], *, key: Key) -> tuple[Event, Scalar]:
        u = jr.uniform(key, k.shape)
        return u, jnp.zeros((), u.dtype)
