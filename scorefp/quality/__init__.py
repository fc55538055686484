"""How good samples are: distances between sets of features, precision and recall, each with its error."""

from .frechet import FrechetDistance as FrechetDistance, frechet_distance as frechet_distance
from .kernel import (
    GaussianKernel as GaussianKernel,
    PolynomialKernel as PolynomialKernel,
    kernel_distance as kernel_distance,
)
from .moments import Moments as Moments
from .neighbours import PrecisionRecall as PrecisionRecall, precision_recall as precision_recall
