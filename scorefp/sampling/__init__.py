"""Samplers: from the prior back to the data, and Langevin dynamics."""

from .base import AbstractSampler as AbstractSampler, AbstractStepSampler as AbstractStepSampler
from .corrector import PredictorCorrector as PredictorCorrector
from .denoised import Denoised as Denoised
from .draw import sample as sample
from .euler_maruyama import EulerMaruyama as EulerMaruyama
from .exponential import DPMSolver as DPMSolver, ExponentialIntegrator as ExponentialIntegrator
from .grid import (
    Grid as Grid,
    RhoGrid as RhoGrid,
    log_snr_grid as log_snr_grid,
    rho_grid as rho_grid,
    uniform_grid as uniform_grid,
)
from .heun import Churn as Churn, Heun as Heun
from .langevin import Langevin as Langevin
from .ode import Euler as Euler, ProbabilityFlow as ProbabilityFlow
