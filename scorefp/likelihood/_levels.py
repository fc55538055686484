"""Levels behind noise: the decoder of a code length and what its encoder adds to the noise [K10]."""

import math
from typing import Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float, Integer

from .._checks import is_concrete, require
from .._types import Event, Key, Scalar
from ..dataset import Quantisation
from ..sde import AbstractLinearSDE
from ._last_step import AbstractLastStep, ScoreAtStart, moved, normal_entropy

Encoder: TypeAlias = Literal["uniform", "centre"]
r"""Where in its level the encoder of `code_length` puts a sample before the noise of the forward process [K10].

`"uniform"` is anywhere in the level, `"centre"` its centre. Take what the score was trained on: `fit` spreads the
levels of a `Dataset` uniformly.
"""

SHARE = 0.125
"""The default of the noise at the truncation, in widths of a level.

The decoder of the exact score of a law on a lattice loses 3e-4 bits/dim there, 0.05 at twice the noise.
"""


class LevelDecoder(AbstractLastStep):
    r"""$P(k \mid x')$: the Tweedie normal integrated over the levels, the outer ones open [K10].

    Args:
        levels: The levels of one sample.
        quantisation: Their place on the line.
        encoder: Where in its level the encoder puts a sample.
    """

    levels: Integer[Array, "*event"]
    quantisation: Quantisation
    encoder: Encoder = eqx.field(static=True)

    def offsets(self, draws: int, like: Event, *, key: Key) -> Float[Array, "draws *event"] | None:
        """The encoder's points from the centres, for each draw; `None` for the centres themselves."""
        if self.encoder == "centre":
            return None
        return self.quantisation.width * jr.uniform(key, (draws, *like.shape), like.dtype, -0.5, 0.5)

    def deviation(self, scale: Scalar, std: Scalar) -> Scalar:
        # That of the encoder's point in its level adds to the noise.
        spread = self.quantisation.width / math.sqrt(12) if self.encoder == "uniform" else 0.0
        return jnp.hypot(std, scale * spread)

    def information(self, tau: Scalar) -> Scalar:
        """What the diffused sample tells of the place in the level, for one element, in nats."""
        if self.encoder == "centre":
            return jnp.zeros_like(tau)
        return _information(self.quantisation.width / tau)

    def step(self, score: ScoreAtStart, scale: Scalar, std: Scalar, z: Event, u: Event | None) -> Scalar:
        tau = std / scale
        return self(moved(z + std * score(z, u), None if u is None else u / tau), tau)

    def known(self, size: int, scale: Scalar, std: Scalar) -> Scalar:
        return -self.kernel_entropy(size, scale, std)

    def kernel_entropy(self, size: int, scale: Scalar, std: Scalar) -> Scalar:
        return normal_entropy(size, std) + size * self.information(std / scale)

    def __call__(self, shift: Event, tau: Scalar) -> Scalar:
        r"""$-\log P(k \mid x')$ for a normal of width $\tau$ whose mean is `shift` $\tau$ from the centres."""
        delta = self.quantisation.width / tau
        log_mass = jnp.where(
            self.levels == 0,
            log_ndtr(0.5 * delta - shift),
            jnp.where(
                self.levels == self.quantisation.levels - 1, log_ndtr(0.5 * delta + shift), log_interval(shift, delta)
            ),
        )
        return -jnp.sum(log_mass)


# Gauss–Legendre, on [-1/2, 1/2].
_NODES, _WEIGHTS = (0.5 * part for part in np.polynomial.legendre.leggauss(6))


def log_interval(centre: Event, width: Scalar) -> Event:
    r"""$\log\big[\Phi(c + \tfrac w2) - \Phi(c - \tfrac w2)\big]$ without cancellation, finite in both tails.

    A narrow interval is taken by quadrature of its density, since the difference of two nearly equal logarithms has few
    digits; a wide one by that difference, in the lower tail; and one far out by the leading term of the tail, where the
    squares in the two logarithms have lost their difference.
    """
    c = jnp.minimum(jnp.abs(centre), 1e18)  # whose square float32 holds
    wide = width * jnp.maximum(c, 1) > 1
    near_end = c - 0.5 * width
    far = wide & (near_end > 100)
    # Values of the cases that are not taken are kept harmless, for the sake of the gradient.
    upper = log_ndtr(jnp.where(far, 0.0, -near_end))
    apart = jnp.where(wide & ~far, log_ndtr(-0.5 * width - c) - upper, -1.0)
    difference = upper + jnp.log(-jnp.expm1(apart))
    end, ratio = jnp.where(far, near_end, 1.0), jnp.where(far, width * c, 1.0)
    tail = -0.5 * end**2 - jnp.log(end) - 0.5 * math.log(2 * math.pi) + jnp.log(-jnp.expm1(-ratio))
    narrow, near = jnp.where(wide, 1.0, width), jnp.where(wide, 0.0, c)
    u = jnp.asarray(_NODES, c.dtype) * narrow[..., None]
    mean = jnp.exp(-u * (near[..., None] + 0.5 * u)) @ jnp.asarray(_WEIGHTS, c.dtype)
    density = -0.5 * near**2 - 0.5 * math.log(2 * math.pi)
    return jnp.where(far, tail, jnp.where(wide, difference, density + jnp.log(narrow * mean)))


def _information(delta: Scalar) -> Scalar:
    r"""$I(u; u + z)$ of $u$ uniform on an interval of width $\delta$ and standard normal noise $z$, in nats.

    The entropy of the sum is an integral over half of the line, in which the density differs from $1/\delta$ only
    within nine of an end.
    """
    reach = jnp.minimum(0.5 * delta, 9.0)
    nodes, weights = np.polynomial.legendre.leggauss(96)
    length = reach + 9.0
    v = length * jnp.asarray(0.5 * nodes + 0.5, delta.dtype) - reach  # from the end of the interval, outwards
    log_mass = log_interval(v + 0.5 * delta, delta)
    plogp = jnp.exp(log_mass) * log_mass
    entropy = -length * jnp.asarray(weights, delta.dtype) @ plogp / delta + jnp.log(delta)
    return entropy - 0.5 * math.log(2 * math.pi * math.e)


def level_start(sde: AbstractLinearSDE, quantisation: Quantisation) -> float:
    r"""The time at which the noise of a sample, $\sigma/\alpha$, is `SHARE` of the width of a level; `t0` at least.

    Raises:
        ValueError: if there is none before `t1`, or the SDE is traced.
    """
    wanted = -2 * math.log(SHARE * quantisation.width)
    with jax.ensure_compile_time_eval():
        first, last = sde.log_snr(sde.t0), sde.log_snr(sde.t1)
        require(
            is_concrete(first) and is_concrete(last),
            "the parameters of the SDE are traced, and start = None is a time that is found from their values. Give "
            "BoundEstimator(start=…), the time at which sigma/alpha is a small part of a level.",
        )
        if float(first) <= wanted:
            return sde.t0
        require(
            float(last) < wanted,
            f"a level is {quantisation.width:g} wide, and at t1 = {sde.t1:g} the noise sigma/alpha is less than "
            f"{SHARE:g} of it. The SDE does not reach the scale of these data: give another, or another quantisation.",
        )
        return max(sde.t0, float(sde.time_of_log_snr(wanted)))
