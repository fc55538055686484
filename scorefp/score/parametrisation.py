"""Scores around a network that predicts noise, clean data or velocity, well-conditioned at both ends of time."""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._checks import floating, is_concrete, require, same_shape, scalar_time
from .._types import Event, Key, Scalar, Time
from ..sde import AbstractLinearSDE, require_linear
from .base import AbstractScore, call_bound

_S = TypeVar("_S", bound="AbstractNetworkScore")


class AbstractNetworkScore(AbstractScore):
    r"""A score around a network whose target is a linear combination $\tau = p\,x_0 + q\,\epsilon$ of clean data
    and noise.

    **Preconditioned** (`data_std` is a number or an array of the event shape; the default). With $v =
    \alpha^2\sigma_d^2 + \sigma^2$ the variance of $x_t$ for data of standard deviation $\sigma_d$, the target is
    modelled as

    $$ \tau = \frac{p\,\alpha\sigma_d^2 + q\,\sigma}{v}\,x + \frac{|p\,\sigma - q\,\alpha|\,\sigma_d}{\sqrt v}\,
       F\big(c_{\text{noise}}, x/\sqrt v\big), \qquad c_{\text{noise}} = \tfrac14\log\tfrac{\sigma}{\alpha}, $$

    the linear regression of the target on $x$ plus what is left, with a network $F$ whose input and target have unit
    variance at every time. It is the scheme of Karras 2022 [P1] for every linear SDE and every target. Solved for the
    score it reads, with no cancellation at either end of time,

    $$ s = -\frac{x}{v} + \operatorname{sign}(p\,\sigma - q\,\alpha)\,\frac{\alpha\,\sigma_d}{\sigma\sqrt v}\,F. $$

    A network that returns zero is then the exact score of $\mathcal N(0, \sigma_d^2 I)$, trajectories far from the
    data are pulled back, and what the network must learn does not depend on the target but for a sign.

    **Bare** (`data_std=None`), for a network trained elsewhere: it is called as `network(t, x)` and returns the
    target itself.
    """

    given: ClassVar[tuple[str, ...]] = (*AbstractScore.given, "data_std")

    if TYPE_CHECKING:
        network: ClassVar[Callable[..., Event]]
        sde: ClassVar[AbstractLinearSDE]
        data_std: ClassVar[Float[ArrayLike, "..."] | None]
        args: ClassVar[Any]
        key: ClassVar[Key | None]
    else:
        network: eqx.AbstractVar[Callable[..., Event]]
        sde: eqx.AbstractVar[AbstractLinearSDE]
        data_std: eqx.AbstractVar[Float[ArrayLike, "..."] | None]
        args: eqx.AbstractVar[Any]
        key: eqx.AbstractVar[Key | None]

    @abstractmethod
    def target(self, t: Time) -> tuple[Float[ArrayLike, ""], Float[ArrayLike, ""]]:
        r"""The coefficients $(p, q)$ of the network's target $\tau = p\,x_0 + q\,\epsilon$."""

    def __call__(self, t: Time, x: Event) -> Event:
        x = floating("x", x)
        t = scalar_time(t, x)
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        p, q = (jnp.asarray(c, x.dtype) for c in self.target(t))
        lever = p * sigma - q * alpha
        if self.data_std is None:
            return (alpha * self._network(t, x) - p * x) / (sigma * lever)
        data_std = jnp.asarray(self.data_std, x.dtype)
        if data_std.ndim > 0:
            same_shape("data_std", data_std.shape, "x", x.shape)
        total_std = jnp.hypot(alpha * data_std, sigma)
        raw = self._network(-0.125 * self.sde.log_snr(t), x / total_std)
        return -x / total_std**2 + jnp.sign(lever) * (alpha * data_std / (sigma * total_std)) * raw

    def bind(self: _S, *, args: Any = None, key: Key | None = None) -> _S:
        return dataclasses.replace(self, args=args, key=key)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The event shape, where the network has a field `shape`."""
        return shape_of(self.network)

    def _network(self, t: Scalar, x: Event) -> Array:
        return call_bound("network", self.network, t, x, self.args, self.key, "x", x.shape)


class NoiseScore(AbstractNetworkScore):
    r"""A score around a network that predicts the noise, $s = -\epsilon/\sigma$ [P1].

    Preconditioned by default: see `AbstractNetworkScore`, also for the other arguments of the formula. For a noise
    network trained elsewhere give `data_std=None`: it is called as `network(t, x)`.

    Args:
        network: Called as `network(c_noise, x)` on scaled inputs, or `network(t, x)` when bare.
        sde: A linear SDE.
        data_std: The standard deviation of the data, a number or an array of the event shape; `None` for a bare
            network.
        args: Conditioning, set by `bind`.
        key: A dropout key, set by `bind`.

    Raises:
        TypeError: if the SDE has no Gaussian kernel.
        ValueError: if `data_std` is not positive; on a call, if it or the network's value has another shape than `x`.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> network = sfp.nn.MLP(shape=(4,), width=8, key=jax.random.key(0))
        >>> sfp.NoiseScore(network, sfp.VP())(0.5, jnp.ones(4)).shape
        (4,)
    """

    network: Callable[..., Event]
    sde: AbstractLinearSDE
    data_std: Float[ArrayLike, "..."] | None = 0.5
    args: Any = None
    key: Key | None = None

    def __check_init__(self) -> None:
        _check_fields(self)

    def target(self, t: Time) -> tuple[Float[ArrayLike, ""], Float[ArrayLike, ""]]:
        return 0.0, 1.0


class DenoiserScore(AbstractNetworkScore):
    r"""A score around a network that predicts clean data, $s = (\alpha h - x)/\sigma^2$ [P1].

    Preconditioned by default: see `AbstractNetworkScore`. For a denoiser trained elsewhere give `data_std=None`: it
    is called as `network(t, x)`. In float32 a bare denoiser loses digits near `t0`, where $\alpha h - x$ cancels.

    Args:
        network: Called as `network(c_noise, x)` on scaled inputs, or `network(t, x)` when bare.
        sde: A linear SDE.
        data_std: The standard deviation of the data, a number or an array of the event shape; `None` for a bare
            network.
        args: Conditioning, set by `bind`.
        key: A dropout key, set by `bind`.

    Raises:
        TypeError: if the SDE has no Gaussian kernel.
        ValueError: if `data_std` is not positive; on a call, if it or the network's value has another shape than `x`.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> score = sfp.DenoiserScore(lambda t, x: jnp.zeros_like(x), sfp.EDM(), data_std=None)
        >>> float(score(2.0, jnp.array([4.0]))[0])
        -1.0
    """

    network: Callable[..., Event]
    sde: AbstractLinearSDE
    data_std: Float[ArrayLike, "..."] | None = 0.5
    args: Any = None
    key: Key | None = None

    def __check_init__(self) -> None:
        _check_fields(self)

    def target(self, t: Time) -> tuple[Float[ArrayLike, ""], Float[ArrayLike, ""]]:
        return 1.0, 0.0


class VelocityScore(AbstractNetworkScore):
    r"""A score around a network that predicts the velocity $\alpha\epsilon - \sigma x_0$ [P1] (Salimans & Ho 2022).

    Preconditioned by default: see `AbstractNetworkScore`. For a network trained elsewhere give `data_std=None`: it is
    called as `network(t, x)`.

    Args:
        network: Called as `network(c_noise, x)` on scaled inputs, or `network(t, x)` when bare.
        sde: A linear SDE.
        data_std: The standard deviation of the data, a number or an array of the event shape; `None` for a bare
            network.
        args: Conditioning, set by `bind`.
        key: A dropout key, set by `bind`.

    Raises:
        TypeError: if the SDE has no Gaussian kernel.
        ValueError: if `data_std` is not positive; on a call, if it or the network's value has another shape than `x`.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> score = sfp.VelocityScore(lambda t, x: jnp.zeros_like(x), sfp.Cosine())
        >>> bool(jnp.isfinite(score(0.5, jnp.ones(2))).all())
        True
    """

    network: Callable[..., Event]
    sde: AbstractLinearSDE
    data_std: Float[ArrayLike, "..."] | None = 0.5
    args: Any = None
    key: Key | None = None

    def __check_init__(self) -> None:
        _check_fields(self)

    def target(self, t: Time) -> tuple[Float[ArrayLike, ""], Float[ArrayLike, ""]]:
        t = jnp.asarray(t)
        return -self.sde.sigma(t), self.sde.alpha(t)


class EDMScore(AbstractNetworkScore):
    r"""A score around a network $F$ with the preconditioning of Karras 2022 (Table 1) [P1],

    $$ h = c_{\text{skip}}\,x + c_{\text{out}}\,F(c_{\text{noise}}, c_{\text{in}}\,x), $$

    on any linear SDE: for $\alpha \neq 1$ it acts on $x/\alpha$ at the noise level $\sigma/\alpha$. It takes networks
    trained by EDM as they are. `DenoiserScore` computes the same with the same `data_std`.

    Args:
        network: $F$, called as `network(c_noise, x)` on scaled inputs.
        sde: A linear SDE.
        data_std: $\sigma_d$, a number or an array of the event shape.
        args: Conditioning, set by `bind`.
        key: A dropout key, set by `bind`.

    Raises:
        TypeError: if the SDE has no Gaussian kernel.
        ValueError: if `data_std` is not positive; on a call, if it or the network's value has another shape than `x`.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> score = sfp.EDMScore(lambda c, x: jnp.zeros_like(x), sfp.EDM())
        >>> float(score.denoise(0.5, jnp.array([2.0]))[0])
        1.0
    """

    network: Callable[..., Event]
    sde: AbstractLinearSDE
    data_std: Float[ArrayLike, "..."] = 0.5
    args: Any = None
    key: Key | None = None

    def __check_init__(self) -> None:
        _check_fields(self)

    def target(self, t: Time) -> tuple[Float[ArrayLike, ""], Float[ArrayLike, ""]]:
        return 1.0, 0.0


def _check_fields(score: AbstractNetworkScore) -> None:
    require_linear(score.sde)
    check_data_std(score.data_std)


def check_data_std(data_std: Float[ArrayLike, "..."] | None) -> None:
    """Refuses a standard deviation that is not positive."""
    if data_std is not None and is_concrete(data_std):
        require(
            bool(np.all(np.asarray(data_std) > 0)),
            f"data_std = {data_std}; a standard deviation is positive. "
            "Give None for a network without preconditioning.",
        )


def shape_of(network: Callable[..., Event]) -> tuple[int, ...] | None:
    """The event shape of a network, where it has a field `shape`."""
    return getattr(network, "shape", None)
