"""Integrals over time, space and the diffused data, with their errors."""

from .box import Box as Box
from .domain import (
    AbstractDomainRule as AbstractDomainRule,
    GaussLegendre as GaussLegendre,
    UniformDraws as UniformDraws,
)
from .estimate import (
    Estimate as Estimate,
)
from .laws import (
    AbstractTimeLaw as AbstractTimeLaw,
    AbstractTimeSampler as AbstractTimeSampler,
    LogNormalNoise as LogNormalNoise,
    SoftTruncation as SoftTruncation,
    TimeInterval as TimeInterval,
    UniformLogSNR as UniformLogSNR,
    UniformTime as UniformTime,
)
from .log_snr import log_snr_times as log_snr_times
from .quadrature import box_quadrature as box_quadrature, time_quadrature as time_quadrature
