"""Samplers: from the prior back to the data, and Langevin dynamics."""

from .corrector import PredictorCorrector as PredictorCorrector
from .draw import sample as sample
from .euler import Euler as Euler, EulerMaruyama as EulerMaruyama, ProbabilityFlow as ProbabilityFlow
from .exponential import DPMSolver as DPMSolver, ExponentialIntegrator as ExponentialIntegrator
from .feynman_kac import FeynmanKac as FeynmanKac, weighted_samples as weighted_samples
from .flow import FlowSamples as FlowSamples, flow_samples as flow_samples
from .grid import (
    Grid as Grid,
    NodeGrid as NodeGrid,
    RhoGrid as RhoGrid,
    default_grid as default_grid,
    log_snr_grid as log_snr_grid,
    uniform_grid as uniform_grid,
)
from .heun import Churn as Churn, Heun as Heun
from .langevin import Langevin as Langevin
from .sampler import (
    AbstractGridSampler as AbstractGridSampler,
    AbstractPopulationSampler as AbstractPopulationSampler,
    AbstractSampler as AbstractSampler,
    AbstractStepSampler as AbstractStepSampler,
    Denoised as Denoised,
)
from .weighted import WeightedSamples as WeightedSamples
