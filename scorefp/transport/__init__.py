"""Optimal transport between sets of samples: squared Wasserstein distances with their errors."""

from .histogram import Histogram as Histogram
from .plans import (
    AbstractTransport as AbstractTransport,
    Assignment as Assignment,
    Atoms as Atoms,
    ExactTransport as ExactTransport,
    Quantile as Quantile,
    Sinkhorn as Sinkhorn,
    Transported as Transported,
)
from .wasserstein import wasserstein2 as wasserstein2
