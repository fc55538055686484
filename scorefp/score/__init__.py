"""Scores: any callable, a potential, or a network that predicts noise, clean data or velocity."""

from .base import (
    AbstractPotential as AbstractPotential,
)
from .base import (
    AbstractScore as AbstractScore,
)
from .base import (
    Potential as Potential,
)
from .base import (
    Score as Score,
)
from .base import (
    linear_sde as linear_sde,
)
from .base import (
    require_potential as require_potential,
)
from .parametrisation import (
    AbstractNetworkScore as AbstractNetworkScore,
)
from .parametrisation import (
    DenoiserScore as DenoiserScore,
)
from .parametrisation import (
    EDMScore as EDMScore,
)
from .parametrisation import (
    NoiseScore as NoiseScore,
)
from .parametrisation import (
    VelocityScore as VelocityScore,
)
