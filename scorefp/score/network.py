"""Scores around a network that predicts noise, clean data or velocity, well-conditioned at both ends of time."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeAlias, cast

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._checks import function, is_concrete, real, require, same_shape
from .._describe import described
from .._types import Event, Scalar, Time
from ..sde import AbstractLinearSDE
from ..sde.linear import require_linear
from ._bound import shape_of, value_of
from .score import AbstractScore, arguments, check_fields

Target: TypeAlias = Callable[[AbstractLinearSDE, Scalar], tuple[Float[ArrayLike, ""], Float[ArrayLike, ""]]]
r"""The coefficients $(p, q)$ of a target $\tau = p\,x_0 + q\,\epsilon$, a function `(sde, t) -> (p, q)`."""


class NetworkScore(AbstractScore):
    r"""A score around a network whose target is a linear combination $\tau = p\,x_0 + q\,\epsilon$ of clean data
    and noise [P1]. `NoiseScore`, `DenoiserScore`, `VelocityScore` and `EDMScore` make it for the known targets.

    **Preconditioned** (`data_std` is a number or an array of the event shape; the default). With $v =
    \alpha^2\sigma_d^2 + \sigma^2$ the variance of $x_t$ for data of standard deviation $\sigma_d$, the target is
    modelled as

    $$ \tau = \frac{p\,\alpha\sigma_d^2 + q\,\sigma}{v}\,x + \frac{|p\,\sigma - q\,\alpha|\,\sigma_d}{\sqrt v}\,
       F\big(c_{\text{noise}}, x/\sqrt v\big), \qquad c_{\text{noise}} = \tfrac14\log\tfrac{\sigma}{\alpha}, $$

    the linear regression of the target on $x$ plus a remainder, with a network $F$ whose input and target have unit
    variance at every time. It is the scheme of Karras 2022 [P1] for every linear SDE and every target. Solved for the
    score it reads, with no cancellation at either end of time,

    $$ s = -\frac{x}{v} + \operatorname{sign}(p\,\sigma - q\,\alpha)\,\frac{\alpha\,\sigma_d}{\sigma\sqrt v}\,F. $$

    A network that returns zero is then the exact score of $\mathcal N(0, \sigma_d^2 I)$, trajectories far from the
    data are pulled back, and what the network must learn does not depend on the target but for a sign.

    **Bare** (`data_std=None`), for a network trained elsewhere: it is called as `network(t, x)` and returns the
    target itself.

    Args:
        network: Called as `network(c_noise, x)` on scaled inputs, or `network(t, x)` when bare; what `bind` closes over
            follows as keywords.
        sde: A linear SDE.
        target: $(p, q)$, a function `(sde, t) -> (p, q)`: `noise_target`, `clean_target`, `velocity_target` or another.
            It is static: give one function for all scores, not a new lambda for each.
        data_std: The standard deviation of the data, a number or an array of the event shape; `None` for a bare
            network.

    Raises:
        TypeError: if `network` does not take `(t, x)`, `target` not `(sde, t)`, or the SDE has no Gaussian kernel.
        ValueError: if `data_std` is not positive and finite; on a call, if it or the network's value has another shape
            than `x`, or `x` than the network's shape.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> straight = sfp.LinearSDE(lambda t: jnp.log1p(-t), jnp.log, t0=1e-3, t1=0.999)
        >>> def flow_target(sde, t):  # the velocity of flow matching, from data to noise
        ...     return -1.0, 1.0
        >>> network = sfp.nn.MLP(shape=(4,), width=8, key=jax.random.key(0))
        >>> sfp.score.NetworkScore(network, straight, flow_target)(0.5, jnp.ones(4)).shape
        (4,)
    """

    network: Callable[..., Event]
    sde: AbstractLinearSDE
    target: Target = eqx.field(static=True)
    data_std: Float[ArrayLike, "..."] | None = 0.5

    given: ClassVar[tuple[str, ...]] = ("sde", "data_std")
    conditions: ClassVar[tuple[str, ...]] = ("network",)

    def __check_init__(self) -> None:
        check_fields(self, "network")
        check_preconditioning(self.sde, self.data_std, self.shape)
        function("target", self.target, "sde, t", "It returns (p, q), as scorefp.score.noise_target does.")

    def __call__(self, t: Time, x: Event) -> Event:
        t, x = arguments(self, t, x)
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        p, q = (jnp.asarray(c, x.dtype) for c in self.target(self.sde, t))
        lever = p * sigma - q * alpha
        if self.data_std is None:
            return (alpha * value_of("network", self.network, t, x, "x", x.shape) - p * x) / (sigma * lever)
        inner = preconditioned(self.sde, self.data_std, t, x)
        raw = value_of("network", self.network, inner.condition, inner.x, "x", x.shape)
        return -x / inner.std**2 + jnp.sign(lever) * (inner.signal / (sigma * inner.std)) * raw

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The event shape, where the network has a field `shape`."""
        return shape_of(self.network)

    def __repr__(self) -> str:
        maker = _MAKERS.get(self.target)
        target = "" if maker else f"target={described(self.target)}, "
        settings = f"{described(self.network)}, {described(self.sde)}, {target}data_std={described(self.data_std)}"
        return f"{maker or 'NetworkScore'}({settings})"


def noise_target(sde: AbstractLinearSDE, t: Scalar) -> tuple[Float[ArrayLike, ""], Float[ArrayLike, ""]]:
    r"""The noise, $(p, q) = (0, 1)$.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> [float(c) for c in sfp.score.noise_target(sfp.EDM(), jnp.array(2.0))]
        [0.0, 1.0]
    """
    return 0.0, 1.0


def clean_target(sde: AbstractLinearSDE, t: Scalar) -> tuple[Float[ArrayLike, ""], Float[ArrayLike, ""]]:
    r"""Clean data, $(p, q) = (1, 0)$.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> [float(c) for c in sfp.score.clean_target(sfp.EDM(), jnp.array(2.0))]
        [1.0, 0.0]
    """
    return 1.0, 0.0


def velocity_target(sde: AbstractLinearSDE, t: Scalar) -> tuple[Float[ArrayLike, ""], Float[ArrayLike, ""]]:
    r"""The velocity $\alpha\epsilon - \sigma x_0$ of Salimans & Ho 2022, $(p, q) = (-\sigma, \alpha)$.

    Flow matching predicts another, $\epsilon - x_0$ along $(1 - t)\,x_0 + t\,\epsilon$: a target of one's own, as in
    the example of `NetworkScore`.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> [float(c) for c in sfp.score.velocity_target(sfp.EDM(), jnp.array(2.0))]
        [-2.0, 1.0]
    """
    return -require_linear(sde).sigma(t), sde.alpha(t)


def score_target(sde: AbstractLinearSDE, t: Scalar) -> tuple[Float[ArrayLike, ""], Float[ArrayLike, ""]]:
    r"""The score itself, $(p, q) = (0, -1/\sigma)$, for a bare network.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> [float(c) for c in sfp.score.score_target(sfp.EDM(), jnp.array(2.0))]
        [0.0, -0.5]
    """
    return 0.0, -1 / require_linear(sde).sigma(t)


def NoiseScore(
    network: Callable[..., Event], sde: AbstractLinearSDE, data_std: Float[ArrayLike, "..."] | None = 0.5
) -> NetworkScore:
    r"""A score around a network that predicts the noise, $s = -\epsilon/\sigma$ [P1]: a `NetworkScore` with
    `noise_target`.

    The arguments and errors are those of `NetworkScore`.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> network = sfp.nn.MLP(shape=(4,), width=8, key=jax.random.key(0))
        >>> sfp.NoiseScore(network, sfp.VP())(0.5, jnp.ones(4)).shape
        (4,)
    """
    return NetworkScore(network, sde, noise_target, data_std)


def DenoiserScore(
    network: Callable[..., Event], sde: AbstractLinearSDE, data_std: Float[ArrayLike, "..."] | None = 0.5
) -> NetworkScore:
    r"""A score around a network that predicts clean data, $s = (\alpha h - x)/\sigma^2$ [P1]: a `NetworkScore` with
    `clean_target`.

    In float32 a bare denoiser loses digits near `t0`, where $\alpha h - x$ cancels.

    The arguments and errors are those of `NetworkScore`.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> score = sfp.DenoiserScore(lambda t, x: jnp.zeros_like(x), sfp.EDM(), data_std=None)
        >>> float(score(2.0, jnp.array([4.0]))[0])
        -1.0
    """
    return NetworkScore(network, sde, clean_target, data_std)


def VelocityScore(
    network: Callable[..., Event], sde: AbstractLinearSDE, data_std: Float[ArrayLike, "..."] | None = 0.5
) -> NetworkScore:
    r"""A score around a network that predicts the velocity $\alpha\epsilon - \sigma x_0$ [P1] (Salimans & Ho 2022): a
    `NetworkScore` with `velocity_target`.

    The arguments and errors are those of `NetworkScore`.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> score = sfp.VelocityScore(lambda t, x: jnp.zeros_like(x), sfp.Cosine())
        >>> bool(jnp.isfinite(score(0.5, jnp.ones(2))).all())
        True
    """
    return NetworkScore(network, sde, velocity_target, data_std)


def EDMScore(
    network: Callable[..., Event], sde: AbstractLinearSDE, data_std: Float[ArrayLike, "..."] = 0.5
) -> NetworkScore:
    r"""A score around a network $F$ with the preconditioning of Karras 2022 (Table 1) [P1],

    $$ h = c_{\text{skip}}\,x + c_{\text{out}}\,F(c_{\text{noise}}, c_{\text{in}}\,x), $$

    on any linear SDE: for $\alpha \neq 1$ it acts on $x/\alpha$ at the noise level $\sigma/\alpha$. It takes networks
    trained by EDM as they are, and is the preconditioned `DenoiserScore`.

    The arguments and errors are those of `NetworkScore`; `data_std`, $\sigma_d$, is not `None`.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> score = sfp.EDMScore(lambda c, x: jnp.zeros_like(x), sfp.EDM())
        >>> float(score.denoise(0.5, jnp.array([2.0]))[0])
        1.0
    """
    require(
        cast(Any, data_std) is not None,
        "data_std = None; EDM's network is preconditioned by it. Use DenoiserScore for a bare denoiser.",
    )
    return NetworkScore(network, sde, clean_target, data_std)


_MAKERS: dict[Target, str] = {
    noise_target: "NoiseScore",
    clean_target: "DenoiserScore",
    velocity_target: "VelocityScore",
}


class Preconditioned(NamedTuple):
    r"""The input of a preconditioned network, and the scale of its value.

    Attributes:
        condition: $c_{\text{noise}} = \tfrac14\log\tfrac\sigma\alpha$.
        x: $x/\sqrt v$.
        std: $\sqrt v$, a number or an array of the event shape.
        signal: $\alpha\sigma_d$, the same.
    """

    condition: Scalar
    x: Event
    std: Array
    signal: Array


def preconditioned(sde: AbstractLinearSDE, data_std: Float[ArrayLike, "..."], t: Scalar, x: Event) -> Preconditioned:
    """The preconditioning of a network at one time and sample, the same for scores and energies."""
    data_std = jnp.asarray(data_std, x.dtype)
    if data_std.ndim > 0:
        same_shape("data_std", data_std.shape, "x", x.shape)
    signal = sde.alpha(t) * data_std
    std = jnp.hypot(signal, sde.sigma(t))
    return Preconditioned(-0.125 * sde.log_snr(t), x / std, std, signal)


def check_preconditioning(
    sde: AbstractLinearSDE, data_std: Float[ArrayLike, "..."] | None, shape: tuple[int, ...] | None
) -> None:
    """Refuses an SDE without a Gaussian kernel, and what is no standard deviation of samples of a shape."""
    require_linear(sde)
    if data_std is None:
        return
    deviation = real("data_std", data_std)
    if deviation.ndim > 0 and shape is not None:
        same_shape("data_std", deviation.shape, "one sample of the network", shape)
    if is_concrete(data_std):
        require(
            bool(np.all((np.asarray(data_std) > 0) & np.isfinite(data_std))),
            f"data_std = {data_std}; a standard deviation is positive and finite. "
            "Give None for a network without preconditioning.",
        )
