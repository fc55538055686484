"""The Fokker–Planck operator and the residuals of its score, log-density and density equations."""

from .curve import Antithetic as Antithetic, Ito as Ito
from .grid import GridDensity as GridDensity, Process as Process, solve_density as solve_density
from .integrated import (
    AnchoredPotential as AnchoredPotential,
    MatchingErrors as MatchingErrors,
    high_order_bound as high_order_bound,
    integrated_residual as integrated_residual,
    matching_errors as matching_errors,
)
from .mean_square import (
    AbstractResidual as AbstractResidual,
    DensityResidual as DensityResidual,
    LogResidual as LogResidual,
    ScoreResidual as ScoreResidual,
    mean_square as mean_square,
)
from .method import (
    AbstractLogResidualMethod as AbstractLogResidualMethod,
    AbstractResidualMethod as AbstractResidualMethod,
    AbstractStencilMethod as AbstractStencilMethod,
    Form as Form,
)
from .operators import fpe_operator as fpe_operator
from .pointwise import Pointwise as Pointwise
from .residual import (
    LogResidualMethod as LogResidualMethod,
    ResidualMethod as ResidualMethod,
    fpe_residual as fpe_residual,
    log_fpe_residual as log_fpe_residual,
    score_fpe_residual as score_fpe_residual,
)
from .sliced import Sliced as Sliced
from .smoothed import Smoothed as Smoothed
from .suprema import ResidualSuprema as ResidualSuprema, residual_suprema as residual_suprema
