"""Scores: any callable, a potential, or a network that predicts noise, clean data or velocity."""

from .base import (
    AbstractPotential as AbstractPotential,
    AbstractScore as AbstractScore,
    Potential as Potential,
    Score as Score,
    conditioned as conditioned,
    linear_sde as linear_sde,
    require_potential as require_potential,
)
from .parametrisation import (
    AbstractNetworkScore as AbstractNetworkScore,
    DenoiserScore as DenoiserScore,
    EDMScore as EDMScore,
    NoiseScore as NoiseScore,
    VelocityScore as VelocityScore,
)
from .potential import (
    AbstractNetworkPotential as AbstractNetworkPotential,
    DistancePotential as DistancePotential,
    InnerPotential as InnerPotential,
)
