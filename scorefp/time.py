"""How times are drawn for an integral over time: a change of measure that no integrand sees."""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int

from ._checks import require
from ._module import AbstractModule
from ._types import Key
from .sde import AbstractLinearSDE


class AbstractTimeSampler(AbstractModule):
    r"""A density $p$ on `[t0, t1]` with draws and weights $1/p$, so that $\int \ell\,dt = E[\ell(t)/p(t)]$.

    `stratified` says whether `n` draws lie one in each of `n` cells of equal probability. Whoever estimates the error
    of a mean over them has to know.
    """

    if TYPE_CHECKING:
        stratified: ClassVar[bool]
    else:
        stratified: eqx.AbstractVar[bool]

    @abstractmethod
    def sample(self, sde: AbstractLinearSDE, n: int, *, key: Key) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """`n` times, each with its weight `1/p(t)`.

        Args:
            sde: The forward process.
            n: How many.
            key: A random key.
        """


class UniformTime(AbstractTimeSampler):
    r"""Uniform in `t`, with the constant weight $t_1 - t_0$.

    Args:
        stratified: Whether each of `n` equal cells gets one time, which lowers the variance and keeps the mean.

    Example:
        >>> import jax, scorefp as sfp
        >>> t, weight = sfp.UniformTime().sample(sfp.EDM(t0=1.0, t1=3.0), 4, key=jax.random.key(0))
        >>> float(weight[0])
        2.0
    """

    stratified: bool = eqx.field(default=True, static=True)

    def sample(self, sde: AbstractLinearSDE, n: int, *, key: Key) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        length = sde.t1 - sde.t0
        t = sde.t0 + length * _uniform(n, key, self.stratified)
        return jnp.clip(t, sde.t0, sde.t1), jnp.full((n,), length)


class UniformLogSNR(AbstractTimeSampler):
    r"""Uniform in the log-SNR $\lambda$ [H2]: the density is $p = -\lambda'/Z = g^2/(\sigma^2 Z)$ with
    $Z = \lambda(t_0) - \lambda(t_1)$, the weight $Z\sigma^2/g^2$ (Song 2021, Eq. 12, without its spurious $T$).

    It is importance sampling for every likelihood-weighted term, for every linear SDE: the integrand of `DSM` then
    varies as the squared error of the noise prediction, where uniform times let a factor $g^2/\sigma^2$ range over
    decades.

    Args:
        stratified: Whether each of `n` equal cells of $\lambda$ gets one time, which lowers the variance and keeps
            the mean.

    Example:
        >>> import jax, scorefp as sfp
        >>> sde = sfp.EDM(t0=0.01, t1=100.0)
        >>> t, _ = sfp.UniformLogSNR().sample(sde, 1000, key=jax.random.key(0))
        >>> bool(abs((t < 1.0).mean() - 0.5) < 0.01)
        True
    """

    stratified: bool = eqx.field(default=True, static=True)

    def sample(self, sde: AbstractLinearSDE, n: int, *, key: Key) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        first, last = sde.log_snr(sde.t0), sde.log_snr(sde.t1)
        t = sde.time_of_log_snr(first + (last - first) * _uniform(n, key, self.stratified))
        t = jnp.clip(t, sde.t0, sde.t1)
        return t, (first - last) * sde.sigma(t) ** 2 / sde.g2(t)


def _uniform(n: int, key: Key, stratified: bool) -> Float[Array, " n"]:
    """Draws in (0, 1); stratified ones in an order whose every head is spread evenly: a term may see only that.

    The cells are turned by a random number of places. Each draw by itself is then uniform, without which the mean over
    a head would be that of its own cells.
    """
    require(n >= 1, f"n = {n}; at least one time is drawn.")
    if not stratified:
        return jr.uniform(key, (n,))
    turn_key, place_key = jr.split(key)
    cells = (jnp.asarray(_even_order(n)) + jr.randint(turn_key, (), 0, n)) % n
    return (cells + jr.uniform(place_key, (n,))) / n


def _even_order(n: int) -> Int[np.ndarray, " n"]:
    """The numbers below `n`, ranked as the van der Corput sequence ranks them."""
    bits = max(1, (n - 1).bit_length())
    reversed_bits = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(n)]
    return np.argsort(np.argsort(reversed_bits))
