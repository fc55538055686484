"""The Fokker–Planck operator and the residuals of its score, log-density and density equations."""

from .curve import Antithetic as Antithetic, Ito as Ito
from .integrated import (
    AnchoredPotential as AnchoredPotential,
    MatchingErrors as MatchingErrors,
    high_order_bound as high_order_bound,
    integrated_residual as integrated_residual,
    matching_errors as matching_errors,
)
from .method import AbstractResidualMethod as AbstractResidualMethod, Form as Form
from .operator import fpe_operator as fpe_operator
from .pointwise import Pointwise as Pointwise
from .quadrature import time_quadrature as time_quadrature
from .residual import (
    ResidualMethod as ResidualMethod,
    fpe_residual as fpe_residual,
    log_fpe_residual as log_fpe_residual,
    resolve as resolve,
    score_fpe_residual as score_fpe_residual,
)
from .sliced import Sliced as Sliced
from .suprema import ResidualSuprema as ResidualSuprema, residual_suprema as residual_suprema
