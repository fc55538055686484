"""Forward processes: linear SDEs, defined by two functions of time, and general ones with a matrix diffusion."""

from .general import (
    CriticallyDampedLangevin as CriticallyDampedLangevin,
    GeneralSDE as GeneralSDE,
    GeometricBrownianMotion as GeometricBrownianMotion,
)
from .linear import AbstractLinearSDE as AbstractLinearSDE, LinearSDE as LinearSDE
from .members import (
    EDM as EDM,
    OU as OU,
    VE as VE,
    VP as VP,
    Cosine as Cosine,
    SubVP as SubVP,
)
from .prior import AbstractPrior as AbstractPrior, Normal as Normal
from .sde import AbstractSDE as AbstractSDE
from .table import DiscreteSDE as DiscreteSDE
