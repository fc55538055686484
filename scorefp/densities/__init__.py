"""Densities with known scores, and the toy sets of the papers."""

from .mixture import GaussianMixture as GaussianMixture
from .mixture import MixturePotential as MixturePotential
