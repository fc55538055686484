"""Times even in the log-SNR."""

from typing import TypeAlias

from jaxtyping import Array, Float

from .._types import Scalar
from ..sde import AbstractLinearSDE

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
    """
    first, last = sde.log_snr(start), sde.log_snr(stop)
    return sde.time_of_log_snr(first + (last - first) * shares)
