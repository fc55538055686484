"""Derivatives: divergence, Laplacian, curl, time derivative and the second derivative along a curve.

Every function takes one sample of any event shape. Traces are exact or estimated by probes; the choice is a
value, `Exact()`, `Hutchinson(samples, law)`, `XTrace(samples)` or `HutchPlusPlus(samples)`.
"""

from .curl import circulation as circulation, curl as curl, squared_curl as squared_curl
from .divergence import (
    curve_derivatives as curve_derivatives,
    divergence as divergence,
    laplacian as laplacian,
    value_and_divergence as value_and_divergence,
)
from .probes import (
    AbstractLaw as AbstractLaw,
    AbstractProbes as AbstractProbes,
    AbstractTrace as AbstractTrace,
    Exact as Exact,
    Gaussian as Gaussian,
    Hutchinson as Hutchinson,
    Rademacher as Rademacher,
)
from .sketch import HutchPlusPlus as HutchPlusPlus, XTrace as XTrace
from .stencil import AbstractStencil as AbstractStencil
from .time_derivative import FiniteDifference as FiniteDifference, time_derivative as time_derivative
