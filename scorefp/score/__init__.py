"""Scores: any callable, a potential, a network that predicts noise, clean data or velocity; compositions of them."""

from .composition import (
    AbstractComposition as AbstractComposition,
    Annealed as Annealed,
    Guided as Guided,
    Product as Product,
    Tilted as Tilted,
)
from .energy import (
    DistancePotential as DistancePotential,
    Energy as Energy,
    InnerPotential as InnerPotential,
    NetworkPotential as NetworkPotential,
    distance_energy as distance_energy,
    inner_energy as inner_energy,
)
from .network import (
    DenoiserScore as DenoiserScore,
    EDMScore as EDMScore,
    NetworkScore as NetworkScore,
    NoiseScore as NoiseScore,
    Target as Target,
    VelocityScore as VelocityScore,
    clean_target as clean_target,
    noise_target as noise_target,
    velocity_target as velocity_target,
)
from .potential import (
    AbstractPotential as AbstractPotential,
    Potential as Potential,
)
from .score import (
    AbstractScore as AbstractScore,
    Score as Score,
)
