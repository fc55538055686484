"""The last step of the reverse SDE, from the truncation to the sample, and its part of a bound [K4]."""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._module import AbstractModule
from .._types import Event, Key, Scalar

ScoreAtStart: TypeAlias = Callable[[Event, Event | None], Event]
"""The score at the truncation, of the noise and of the offset there."""


class AbstractLastStep(AbstractModule):
    """The law of a sample, given the noised one at the truncation, whose kernel has `scale` and `std`."""

    @abstractmethod
    def offsets(self, draws: int, like: Event, *, key: Key) -> Float[Array, "draws *event"] | None:
        """What is added to the sample before it is diffused, for each draw; `None` for nothing."""

    @abstractmethod
    def deviation(self, scale: Scalar, std: Scalar) -> Scalar:
        """The standard deviation of the diffused sample with its offset."""

    @abstractmethod
    def step(self, score: ScoreAtStart, scale: Scalar, std: Scalar, z: Event, u: Event | None) -> Scalar:
        r"""$-\log q_\theta(x \mid x_\varepsilon) - H(x_\varepsilon \mid x)$ of one draw, without what is `known`."""

    @abstractmethod
    def known(self, size: int, scale: Scalar, std: Scalar) -> Scalar:
        """The part of it that is the same for every draw."""

    @abstractmethod
    def kernel_entropy(self, size: int, scale: Scalar, std: Scalar) -> Scalar:
        r"""$H(x_\varepsilon \mid x)$, in nats."""


class NoStep(AbstractLastStep):
    """No last step: the sample at the truncation is what is bounded."""

    def offsets(self, draws: int, like: Event, *, key: Key) -> None:
        return None

    def deviation(self, scale: Scalar, std: Scalar) -> Scalar:
        return std

    def step(self, score: ScoreAtStart, scale: Scalar, std: Scalar, z: Event, u: Event | None) -> Scalar:
        return jnp.zeros_like(std)

    def known(self, size: int, scale: Scalar, std: Scalar) -> Scalar:
        return jnp.zeros_like(std)

    def kernel_entropy(self, size: int, scale: Scalar, std: Scalar) -> Scalar:
        return jnp.zeros_like(std)


class TweedieStep(AbstractLastStep):
    r"""The denoising step $\mathcal N\big((x' + \sigma^2 s)/\alpha, (\sigma/\alpha)^2 I\big)$ (Song 2021, Eq. 39)."""

    def offsets(self, draws: int, like: Event, *, key: Key) -> None:
        return None

    def deviation(self, scale: Scalar, std: Scalar) -> Scalar:
        return std

    def step(self, score: ScoreAtStart, scale: Scalar, std: Scalar, z: Event, u: Event | None) -> Scalar:
        return denoising(score(z, u), std, z)

    def known(self, size: int, scale: Scalar, std: Scalar) -> Scalar:
        # The kernel and the step differ in scale.
        return -size * jnp.log(scale)

    def kernel_entropy(self, size: int, scale: Scalar, std: Scalar) -> Scalar:
        return normal_entropy(size, std)


def moved(x: Event, offset: Event | None) -> Event:
    """A sample and what is added to it, where that is something."""
    return x if offset is None else x + offset


def denoising(score: Event, std: Scalar, noise: Event) -> Scalar:
    r"""$\tfrac12\tau^2(\|s\|^2 - 2\langle s, \kappa\rangle)$ with $\kappa = -\epsilon/\tau$."""
    return jnp.sum(std * score * (0.5 * std * score + noise))


def normal_entropy(size: int, std: Scalar) -> Scalar:
    r"""$\tfrac D2\log(2\pi e\,\tau^2)$."""
    return size * (0.5 * math.log(2 * math.pi * math.e) + jnp.log(std))
