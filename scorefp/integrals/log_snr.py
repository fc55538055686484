"""Times even in the log-SNR."""

from typing import TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import finite, floats, real, scalar
from .._times import known_time_within, no_steps
from .._types import Scalar
from ..sde import AbstractLinearSDE, AbstractSDE
from ..sde.linear import require_linear

End: TypeAlias = float | Scalar
"""An end of an interval of times: a number, or a scalar that may be traced."""


def log_snr_times(
    sde: AbstractLinearSDE, start: End, stop: End, shares: Float[Array, "*times"]
) -> Float[Array, "*times"]:
    r"""The times at given shares of the way of the log-SNR $\lambda$ from one time to another [S7].

    Equal steps of the shares are equal steps of $\lambda$. Rounding may take a time a little beyond the ends.

    Args:
        sde: A linear SDE.
        start: The time of the share 0; it may be traced.
        stop: The time of the share 1, before or after `start`.
        shares: Numbers in [0, 1], of any shape.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> from scorefp.integrals import log_snr_times
        >>> [round(float(t), 3) for t in log_snr_times(sfp.EDM(), 1.0, 0.01, jnp.linspace(0, 1, 3))]
        [1.0, 0.1, 0.01]

    Raises:
        TypeError: if the SDE has no Gaussian kernel, or a number is not real.
        ValueError: if a time is no scalar or, where it is known, outside the horizon.
    """
    require_linear(sde)
    first, last = (sde.log_snr(checked_end(name, t, sde)) for name, t in (("start", start), ("stop", stop)))
    shares = finite("shares", real("shares", shares), known=True)
    return sde.time_of_log_snr(first + (last - first) * shares)


def checked_end(name: str, t: End, sde: AbstractSDE) -> Scalar:
    """An end of an interval of times, refused where it is known to be outside the horizon."""
    no_steps(name, t)
    end = floats(scalar(name, t))
    known_time_within(t, sde.t0, sde.t1, jnp.zeros(()), name=name)
    return end
