"""Densities with known scores, and the toy sets of the papers."""

from .mixture import GaussianMixture as GaussianMixture, MixturePotential as MixturePotential
from .toy import (
    Checkerboard as Checkerboard,
    Circles as Circles,
    MuellerBrown as MuellerBrown,
    SwissRolls as SwissRolls,
    deveney_mixture as deveney_mixture,
    eight_modes as eight_modes,
    lai_three_modes as lai_three_modes,
    lai_two_modes as lai_two_modes,
)
