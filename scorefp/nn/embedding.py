"""Smooth features of a scalar, for conditioning on time."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import finite, scalar
from .._types import Scalar

FEATURES = 17
"""The number of features of `fourier_features`."""


def fourier_features(t: Scalar) -> Float[Array, "features"]:
    r"""The features $(t, \sin\omega_k t, \cos\omega_k t)$ with eight $\omega_k$ from ½ to 8, in geometric progression.

    The preconditioned scores condition on $\tfrac14\log(\sigma/\alpha)$, which runs over about ±2: the slowest
    feature is almost linear there and the fastest turns a few times. Low frequencies keep $\partial_t s$, and with it
    the Fokker–Planck residual of an untrained network, small.

    Args:
        t: A scalar.

    Raises:
        TypeError: if `t` is no number.
        ValueError: if it is no scalar, or known not to be finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp.nn import fourier_features
        >>> fourier_features(jnp.array(0.0)).shape
        (17,)
    """
    t = finite("t", scalar("t", t), known=True)
    omega = jnp.geomspace(0.5, 8.0, FEATURES // 2, dtype=t.dtype)
    return jnp.concatenate([t[None], jnp.sin(omega * t), jnp.cos(omega * t)])
