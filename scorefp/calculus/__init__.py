"""Derivatives: divergence, Laplacian, curl, time derivative and the second derivative along a curve.

Every function takes one sample of any event shape. Traces are exact or estimated by probes; the choice is a
value, `Exact()` or `Hutchinson(samples, law)`.
"""

from .curl import curl as curl
from .curl import squared_curl as squared_curl
from .curve import curve_derivatives as curve_derivatives
from .divergence import (
    divergence as divergence,
)
from .divergence import (
    laplacian as laplacian,
)
from .divergence import (
    value_and_divergence as value_and_divergence,
)
from .probes import (
    AbstractLaw as AbstractLaw,
)
from .probes import (
    AbstractTrace as AbstractTrace,
)
from .probes import (
    Exact as Exact,
)
from .probes import (
    Gaussian as Gaussian,
)
from .probes import (
    Hutchinson as Hutchinson,
)
from .probes import (
    Rademacher as Rademacher,
)
from .time_derivative import FiniteDifference as FiniteDifference
from .time_derivative import time_derivative as time_derivative
