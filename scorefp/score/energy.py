"""Potentials built from a network with a vector value, the energies of Salimans & Ho 2021 [P2]."""

from collections.abc import Callable
from typing import ClassVar, TypeAlias

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import ArrayLike, Float

from .._checks import function
from .._describe import described
from .._types import Event, Scalar, Time
from ..sde import AbstractLinearSDE
from ._bound import shape_of, value_of
from .network import Preconditioned, check_preconditioning, preconditioned
from .potential import AbstractPotential
from .score import arguments, check_fields

Energy: TypeAlias = Callable[[Event, Event, Scalar, Preconditioned | None], Scalar]
r"""The potential from the network's value, a function `(x, value, sigma, inner) -> scalar`, without offset and
normaliser; `inner` is `None` for a bare network."""


class NetworkPotential(AbstractPotential):
    r"""A potential around a network $F$ whose value has the event's shape [P2] (Salimans & Ho 2021).
    `DistancePotential` and `InnerPotential` make it.

    **Preconditioned** (`data_std` is a number or an array of the event shape; the default). With $v =
    \alpha^2\sigma_d^2 + \sigma^2$ the variance of $x_t$ for data of standard deviation $\sigma_d$, the network is
    called as $F(c_{\text{noise}}, x/\sqrt v)$ with $c_{\text{noise}} = \tfrac14\log\tfrac\sigma\alpha$. One that
    returns zero is the exact potential of $\mathcal N(0, \sigma_d^2 I)$, normalised at every time.

    **Bare** (`data_std=None`), for a network trained elsewhere: it is called as `network(t, x)`, and $v$ does not
    occur.

    The score costs one reverse pass through the network.

    Args:
        network: Called as `network(c_noise, x)` on scaled inputs, or `network(t, x)` when bare; what `bind` closes over
            follows as keywords.
        sde: A linear SDE.
        energy: The potential from the network's value, `distance_energy` or `inner_energy`.
        data_std: The standard deviation of the data, a number or an array of the event shape; `None` for a bare
            network.
        offset: A function of $c_{\text{noise}}$ (bare: of $t$) to add: no score sees it, and `log_fpe_residual` of an
            unnormalised potential needs it to vanish [F3].

    Raises:
        TypeError: if `network` does not take `(t, x)`, or the SDE has no Gaussian kernel.
        ValueError: if `data_std` is not positive and finite; on a call, if it or the network's value has another shape
            than `x`, or `x` than the network's shape.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> from scorefp.score import NetworkPotential, inner_energy
        >>> potential = NetworkPotential(lambda t, x: -x / 2, sfp.VP(), inner_energy, data_std=None)
        >>> potential(0.5, jnp.array([3.0])).tolist()  # the gradient of -x²/2
        [-3.0]
    """

    network: Callable[..., Event]
    sde: AbstractLinearSDE
    energy: Energy = eqx.field(static=True)
    data_std: Float[ArrayLike, "..."] | None = 0.5
    offset: Callable[[Scalar], Scalar] | None = None

    given: ClassVar[tuple[str, ...]] = ("sde", "data_std")
    conditions: ClassVar[tuple[str, ...]] = ("network",)

    def __check_init__(self) -> None:
        check_fields(self, "network")
        check_preconditioning(self.sde, self.data_std, self.shape)
        function("energy", self.energy, "x, value, sigma, inner", "It is scorefp.score.inner_energy, for example.")
        if self.offset is not None:
            function("offset", self.offset, "c_noise", "It returns a number. Give None for no offset.")

    def potential(self, t: Time, x: Event) -> Scalar:
        t, x = arguments(self, t, x)
        if self.data_std is None:
            inner, seen, condition, normaliser = None, x, t, jnp.zeros((), x.dtype)
        else:
            inner = preconditioned(self.sde, self.data_std, t, x)
            seen, condition = inner.x, inner.condition
            normaliser = jnp.sum(jnp.log(jnp.broadcast_to(inner.std, x.shape)))
            normaliser = normaliser + 0.5 * x.size * jnp.log(2 * jnp.pi).astype(x.dtype)
        value = value_of("network", self.network, condition, seen, "x", x.shape)
        offset = 0.0 if self.offset is None else self.offset(condition)
        return self.energy(x, value, self.sde.sigma(t), inner) - normaliser + offset

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The event shape, where the network has a field `shape`."""
        return shape_of(self.network)

    def __repr__(self) -> str:
        maker = _MAKERS.get(self.energy)
        energy = "" if maker else f"energy={described(self.energy)}, "
        offset = "" if self.offset is None else f", offset={described(self.offset)}"
        settings = f"{described(self.network)}, {described(self.sde)}, {energy}data_std={described(self.data_std)}"
        return f"{maker or 'NetworkPotential'}({settings}{offset})"


def distance_energy(x: Event, value: Event, sigma: Scalar, inner: Preconditioned | None) -> Scalar:
    r"""$-\|x - n\|^2/(2\sigma^2)$, with the $n$ of `DistancePotential`."""
    if inner is None:
        return -0.5 * jnp.sum(((x - value) / sigma) ** 2)
    return -0.5 * jnp.sum((inner.x - inner.signal / sigma * value) ** 2)


def inner_energy(x: Event, value: Event, sigma: Scalar, inner: Preconditioned | None) -> Scalar:
    r"""$\langle x, n\rangle$, with the $n$ of `InnerPotential`."""
    if inner is None:
        return jnp.sum(x * value)
    return jnp.sum(inner.x * (inner.signal / sigma * value - 0.5 * inner.x))


def DistancePotential(
    network: Callable[..., Event],
    sde: AbstractLinearSDE,
    data_std: Float[ArrayLike, "..."] | None = 0.5,
    offset: Callable[[Scalar], Scalar] | None = None,
) -> NetworkPotential:
    r"""The potential $\varphi = -\|x - n\|^2/(2\sigma^2)$ of a network $n$ of the event's shape [P2] (Salimans & Ho
    2021): a `NetworkPotential` with `distance_energy`.

    A network that maps to the nearest point of the data, scaled by $\alpha$, is the potential of data on a manifold up
    to its density. Preconditioned, with $v = \alpha^2\sigma_d^2 + \sigma^2$,

    $$ n = \Big(1 - \frac{\sigma}{\sqrt v}\Big)\,x + \alpha\sigma_d\,F\big(c_{\text{noise}}, x/\sqrt v\big). $$

    The arguments and errors are those of `NetworkPotential`.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> origin = sfp.DistancePotential(lambda t, x: jnp.zeros_like(x), sfp.EDM(), data_std=None)
        >>> float(origin.potential(2.0, jnp.array([4.0]))), float(origin(2.0, jnp.array([4.0]))[0])
        (-2.0, -1.0)
    """
    return NetworkPotential(network, sde, distance_energy, data_std, offset)


def InnerPotential(
    network: Callable[..., Event],
    sde: AbstractLinearSDE,
    data_std: Float[ArrayLike, "..."] | None = 0.5,
    offset: Callable[[Scalar], Scalar] | None = None,
) -> NetworkPotential:
    r"""The potential $\varphi = \langle x, n\rangle$ of a network $n$ of the event's shape [P2] (Salimans & Ho 2021): a
    `NetworkPotential` with `inner_energy`.

    Preconditioned, with $v = \alpha^2\sigma_d^2 + \sigma^2$,

    $$ n = -\frac{x}{2v} + \frac{\alpha\sigma_d}{\sigma\sqrt v}\,F\big(c_{\text{noise}}, x/\sqrt v\big), $$

    the factor of $F$ being that of the network of a score.

    The arguments and errors are those of `NetworkPotential`.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> standard = sfp.InnerPotential(lambda t, x: -0.5 * x, sfp.VP(), data_std=None)
        >>> float(standard.potential(0.5, jnp.array([2.0]))), float(standard(0.5, jnp.array([2.0]))[0])
        (-2.0, -2.0)
    """
    return NetworkPotential(network, sde, inner_energy, data_std, offset)


_MAKERS: dict[Energy, str] = {distance_energy: "DistancePotential", inner_energy: "InnerPotential"}
