"""Scores: any callable, a potential, a network of JAX or PyTorch; compositions of scores."""

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
    score_target as score_target,
    velocity_target as velocity_target,
)
from .potential import (
    AbstractPotential as AbstractPotential,
    Potential as Potential,
)
from .pytorch import TorchNetwork as TorchNetwork, from_torch as from_torch
from .score import (
    AbstractScore as AbstractScore,
    Score as Score,
)
from .torch_call import (
    TimeInput as TimeInput,
    TorchCall as TorchCall,
    log_snr_time as log_snr_time,
    physical_time as physical_time,
    sigma_time as sigma_time,
    step_time as step_time,
    whole_step_time as whole_step_time,
)
