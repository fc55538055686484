"""Potentials built from a network with a vector value, the energies of Salimans & Ho 2021 [P2]."""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._checks import floating, scalar_time
from .._types import Event, Key, Scalar, Time
from ..sde import AbstractLinearSDE, require_linear
from .base import AbstractPotential, call_bound
from .parametrisation import check_data_std, shape_of

_S = TypeVar("_S", bound="AbstractNetworkPotential")


class AbstractNetworkPotential(AbstractPotential):
    r"""A potential around a network $F$ whose value has the event's shape.

    **Preconditioned** (`data_std` is a number or an array of the event shape; the default). With $v =
    \alpha^2\sigma_d^2 + \sigma^2$ the variance of $x_t$ for data of standard deviation $\sigma_d$, the network is
    called as $F(c_{\text{noise}}, x/\sqrt v)$ with $c_{\text{noise}} = \tfrac14\log\tfrac\sigma\alpha$. One that
    returns zero is the exact potential of $\mathcal N(0, \sigma_d^2 I)$, normalised at every time.

    **Bare** (`data_std=None`), for a network trained elsewhere: it is called as `network(t, x)`, and $v$ does not
    occur.

    `offset` is a function of $c_{\text{noise}}$ (bare: of $t$) that is added: no score sees it, and
    `log_fpe_residual` of an unnormalised potential needs it to vanish [F3].
    """

    given: ClassVar[tuple[str, ...]] = (*AbstractPotential.given, "data_std")

    if TYPE_CHECKING:
        network: ClassVar[Callable[..., Event]]
        sde: ClassVar[AbstractLinearSDE]
        data_std: ClassVar[Float[ArrayLike, "..."] | None]
        offset: ClassVar[Callable[[Scalar], Scalar] | None]
        args: ClassVar[Any]
        key: ClassVar[Key | None]
    else:
        network: eqx.AbstractVar[Callable[..., Event]]
        sde: eqx.AbstractVar[AbstractLinearSDE]
        data_std: eqx.AbstractVar[Float[ArrayLike, "..."] | None]
        offset: eqx.AbstractVar[Callable[[Scalar], Scalar] | None]
        args: eqx.AbstractVar[Any]
        key: eqx.AbstractVar[Key | None]

    def __check_init__(self) -> None:
        require_linear(self.sde)
        check_data_std(self.data_std)

    @abstractmethod
    def energy(self, x: Event, value: Event, alpha: Scalar, sigma: Scalar, data_std: Event | None) -> Scalar:
        """The potential from the network's value, without offset and normaliser."""

    def potential(self, t: Time, x: Event) -> Scalar:
        x = floating("x", x)
        t = scalar_time(t, x)
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        if self.data_std is None:
            condition, normaliser, data_std = t, jnp.zeros((), x.dtype), None
            value = self._network(t, x)
        else:
            data_std = jnp.broadcast_to(jnp.asarray(self.data_std, x.dtype), x.shape)
            total_std = jnp.hypot(alpha * data_std, sigma)
            condition = -0.125 * self.sde.log_snr(t)
            normaliser = jnp.sum(jnp.log(total_std)) + 0.5 * x.size * jnp.log(2 * jnp.pi).astype(x.dtype)
            value = self._network(condition, x / total_std)
        offset = 0.0 if self.offset is None else self.offset(condition)
        return self.energy(x, value, alpha, sigma, data_std) - normaliser + offset

    def bind(self: _S, *, args: Any = None, key: Key | None = None) -> _S:
        return dataclasses.replace(self, args=args, key=key)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The event shape, where the network has a field `shape`."""
        return shape_of(self.network)

    def _network(self, t: Scalar, x: Event) -> Array:
        return call_bound("network", self.network, t, x, self.args, self.key, "x", x.shape)


class DistancePotential(AbstractNetworkPotential):
    r"""The potential $\varphi = -\|x - n\|^2/(2\sigma^2)$ of a network $n$ of the event's shape [P2] (Salimans & Ho
    2021).

    A network that maps to the nearest point of the data, scaled by $\alpha$, is the potential of data on a manifold up
    to its density. Preconditioned, with $v = \alpha^2\sigma_d^2 + \sigma^2$,

    $$ n = \Big(1 - \frac{\sigma}{\sqrt v}\Big)\,x + \alpha\sigma_d\,F\big(c_{\text{noise}}, x/\sqrt v\big). $$

    The score costs one reverse pass through the network. Arguments not named here are those of
    `AbstractNetworkPotential`.

    Args:
        network: $F$, called as `network(c_noise, x)` on scaled inputs, or $n$ as `network(t, x)` when bare.
        sde: A linear SDE.
        data_std: The standard deviation of the data, a number or an array of the event shape; `None` for a bare
            network.
        offset: A function of $c_{\text{noise}}$ to add.
        args: Conditioning, set by `bind`.
        key: A dropout key, set by `bind`.

    Raises:
        TypeError: if the SDE has no Gaussian kernel.
        ValueError: if `data_std` is not positive; on a call, if the network's value has another shape than `x`.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> origin = sfp.DistancePotential(lambda t, x: jnp.zeros_like(x), sfp.EDM(), data_std=None)
        >>> float(origin.potential(2.0, jnp.array([4.0]))), float(origin(2.0, jnp.array([4.0]))[0])
        (-2.0, -1.0)
    """

    network: Callable[..., Event]
    sde: AbstractLinearSDE
    data_std: Float[ArrayLike, "..."] | None = 0.5
    offset: Callable[[Scalar], Scalar] | None = None
    args: Any = None
    key: Key | None = None

    def energy(self, x: Event, value: Event, alpha: Scalar, sigma: Scalar, data_std: Event | None) -> Scalar:
        if data_std is None:
            return -0.5 * jnp.sum(((x - value) / sigma) ** 2)
        total_std = jnp.hypot(alpha * data_std, sigma)
        return -0.5 * jnp.sum((x / total_std - alpha * data_std / sigma * value) ** 2)


class InnerPotential(AbstractNetworkPotential):
    r"""The potential $\varphi = \langle x, n\rangle$ of a network $n$ of the event's shape [P2] (Salimans & Ho 2021).

    Preconditioned, with $v = \alpha^2\sigma_d^2 + \sigma^2$,

    $$ n = -\frac{x}{2v} + \frac{\alpha\sigma_d}{\sigma\sqrt v}\,F\big(c_{\text{noise}}, x/\sqrt v\big), $$

    the factor of $F$ being that of the network of a score. The score costs one reverse pass through the network.
    Arguments not named here are those of `AbstractNetworkPotential`.

    Args:
        network: $F$, called as `network(c_noise, x)` on scaled inputs, or $n$ as `network(t, x)` when bare.
        sde: A linear SDE.
        data_std: The standard deviation of the data, a number or an array of the event shape; `None` for a bare
            network.
        offset: A function of $c_{\text{noise}}$ to add.
        args: Conditioning, set by `bind`.
        key: A dropout key, set by `bind`.

    Raises:
        TypeError: if the SDE has no Gaussian kernel.
        ValueError: if `data_std` is not positive; on a call, if the network's value has another shape than `x`.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> standard = sfp.InnerPotential(lambda t, x: -0.5 * x, sfp.VP(), data_std=None)
        >>> float(standard.potential(0.5, jnp.array([2.0]))), float(standard(0.5, jnp.array([2.0]))[0])
        (-2.0, -2.0)
    """

    network: Callable[..., Event]
    sde: AbstractLinearSDE
    data_std: Float[ArrayLike, "..."] | None = 0.5
    offset: Callable[[Scalar], Scalar] | None = None
    args: Any = None
    key: Key | None = None

    def energy(self, x: Event, value: Event, alpha: Scalar, sigma: Scalar, data_std: Event | None) -> Scalar:
        if data_std is None:
            return jnp.sum(x * value)
        total_std = jnp.hypot(alpha * data_std, sigma)
        scaled = x / total_std
        return jnp.sum(scaled * (alpha * data_std / sigma * value - 0.5 * scaled))
