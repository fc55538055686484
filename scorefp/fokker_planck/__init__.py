"""The Fokker–Planck operator and the residuals of its score, log-density and density equations."""

from .curve import Antithetic as Antithetic, Ito as Ito
from .method import AbstractResidualMethod as AbstractResidualMethod, Form as Form
from .operator import fpe_operator as fpe_operator
from .pointwise import Pointwise as Pointwise
from .residual import (
    ResidualMethod as ResidualMethod,
    fpe_residual as fpe_residual,
    log_fpe_residual as log_fpe_residual,
    resolve as resolve,
    score_fpe_residual as score_fpe_residual,
)
from .sliced import Sliced as Sliced
