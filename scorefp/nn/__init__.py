"""Networks to put into a score. Any other callable does as well."""

from .embedding import fourier_features as fourier_features
from .mlp import MLP as MLP
