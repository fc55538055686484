"""Forward processes: linear SDEs, defined by two functions of time, and general ones with a matrix diffusion."""

from .base import AbstractSDE as AbstractSDE
from .general import (
    CriticallyDampedLangevin as CriticallyDampedLangevin,
)
from .general import (
    GeneralSDE as GeneralSDE,
)
from .general import (
    GeometricBrownianMotion as GeometricBrownianMotion,
)
from .linear import AbstractLinearSDE as AbstractLinearSDE
from .linear import LinearSDE as LinearSDE
from .linear import require_linear as require_linear
from .members import (
    EDM as EDM,
)
from .members import (
    OU as OU,
)
from .members import (
    VE as VE,
)
from .members import (
    VP as VP,
)
from .members import (
    Cosine as Cosine,
)
from .members import (
    SubVP as SubVP,
)
from .prior import AbstractPrior as AbstractPrior
from .prior import Normal as Normal
