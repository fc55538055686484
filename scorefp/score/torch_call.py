"""How a PyTorch module wants to be called: with what for the time, in which order, and what it returns."""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from .._checks import kind
from .._module import AbstractModule
from .._types import Scalar
from ..calculus._smoothness import jumps
from ..sde import AbstractLinearSDE, AbstractSDE, DiscreteSDE
from ..sde.linear import require_linear

TimeInput: TypeAlias = Callable[[Any, Scalar], Float[Array, ""] | Integer[Array, ""]]
"""What a module is given for the time: a function `(sde, t) -> number`; where it returns an integer, the module gets
`int64`."""


def physical_time(sde: AbstractSDE, t: Scalar) -> Float[Array, ""]:
    """The time itself.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> float(sfp.score.physical_time(sfp.EDM(), jnp.array(2.0)))
        2.0
    """
    return t


def step_time(sde: AbstractSDE, t: Scalar) -> Float[Array, ""]:
    """The step of the table, counted from zero, with its fraction: `step_of_time` of a `DiscreteSDE`.

    Raises:
        TypeError: if the SDE has no table.

    Example:
        >>> import jax.numpy as jnp, numpy as np, scorefp as sfp
        >>> sde = sfp.sde.DiscreteSDE.from_betas(np.linspace(1e-4, 0.02, 1000))
        >>> float(sfp.score.step_time(sde, jnp.array(0.5)))
        499.0
    """
    return _table(sde).step_of_time(t)


def whole_step_time(sde: AbstractSDE, t: Scalar) -> Integer[Array, ""]:
    """The nearest step of the table, an integer, for a module that looks it up. The score then jumps from step to step
    and has no time derivative.

    Raises:
        TypeError: if the SDE has no table; where it is differentiated by the time.

    Example:
        >>> import jax.numpy as jnp, numpy as np, scorefp as sfp
        >>> sde = sfp.sde.DiscreteSDE.from_betas(np.linspace(1e-4, 0.02, 1000))
        >>> int(sfp.score.whole_step_time(sde, jnp.array(0.5003)))
        499
    """
    return jnp.round(jumping(_table(sde).step_of_time(t))).astype(jnp.int32)


def sigma_time(sde: AbstractLinearSDE, t: Scalar) -> Float[Array, ""]:
    r"""The standard deviation $\sigma(t)$ of the noise.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> float(sfp.score.sigma_time(sfp.EDM(), jnp.array(2.0)))
        2.0
    """
    return require_linear(sde).sigma(t)


def log_snr_time(sde: AbstractLinearSDE, t: Scalar) -> Float[Array, ""]:
    r"""The log-SNR $\log(\alpha^2/\sigma^2)$.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> round(float(sfp.score.log_snr_time(sfp.EDM(), jnp.array(2.0))), 4)  # -2 log 2
        -1.3863
    """
    return require_linear(sde).log_snr(t)


def _table(sde: AbstractSDE) -> DiscreteSDE:
    return kind(
        "sde",
        sde,
        DiscreteSDE,
        "It has no table of steps, and TorchCall gives a module the step. Say what it takes: "
        "TorchCall(time=scorefp.score.physical_time), or sigma_time, log_snr_time, a function (sde, t).",
    )


@jax.custom_jvp
def jumping(t: Scalar) -> Scalar:
    """The number, of which an integer is made."""
    return t


@jumping.defjvp
def _(primals: Any, tangents: Any) -> Any:
    raise TypeError(jumps("the score"))


class TorchCall(AbstractModule):
    """How a torch module is called, and what it returns. Always a batch, the samples along the first axis.

    Args:
        time: What it is given for the time, a function `(sde, t)`: `step_time`, `whole_step_time`, `physical_time`,
            `sigma_time`, `log_snr_time` or another. It is static: give one function for all, not a new lambda for each.
        time_first: Whether it is called as `module(t, x)`, and not as `module(x, t)`.
        channels_last: Whether the last axis of a sample holds the channels; the module has them first.
        learned_variance: Whether it returns twice the channels; the second half, which stands for a variance, is
            dropped.
        output: The tensor in what it returns, a function, where that is none; static like `time`.

    Example:
        >>> import scorefp as sfp
        >>> sfp.score.TorchCall(time=sfp.score.physical_time, time_first=True)
        TorchCall(time=physical_time, time_first=True)
    """

    time: TimeInput = eqx.field(static=True, default=step_time)
    time_first: bool = eqx.field(static=True, default=False)
    channels_last: bool = eqx.field(static=True, default=False)
    learned_variance: bool = eqx.field(static=True, default=False)
    output: Callable[[Any], Any] | None = eqx.field(static=True, default=None)
