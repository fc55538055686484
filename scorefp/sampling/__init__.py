"""Samplers: from the prior back to the data, and Langevin dynamics."""

from .base import AbstractSampler as AbstractSampler
from .draw import sample as sample
from .euler_maruyama import EulerMaruyama as EulerMaruyama
from .grid import Grid as Grid, log_snr_grid as log_snr_grid, uniform_grid as uniform_grid
from .langevin import Langevin as Langevin
from .ode import Euler as Euler, ProbabilityFlow as ProbabilityFlow
