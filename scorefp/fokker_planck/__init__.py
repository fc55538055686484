"""The Fokker–Planck operator and the residuals of its score, log-density and density equations."""

from .curve import Antithetic as Antithetic
from .curve import Ito as Ito
from .method import AbstractResidualMethod as AbstractResidualMethod
from .method import Form as Form
from .operator import fpe_operator as fpe_operator
from .pointwise import Pointwise as Pointwise
from .residual import (
    ResidualMethod as ResidualMethod,
)
from .residual import (
    fpe_residual as fpe_residual,
)
from .residual import (
    log_fpe_residual as log_fpe_residual,
)
from .residual import (
    resolve as resolve,
)
from .residual import (
    score_fpe_residual as score_fpe_residual,
)
from .sliced import Sliced as Sliced
