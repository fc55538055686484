"""Samplers: from the prior back to the data."""

from .base import AbstractSampler as AbstractSampler
from .draw import sample as sample
from .euler_maruyama import EulerMaruyama as EulerMaruyama
from .grid import Grid as Grid, log_snr_grid as log_snr_grid, uniform_grid as uniform_grid
from .ode import ProbabilityFlow as ProbabilityFlow
