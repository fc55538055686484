"""Audits: how far any score is from being the score of its diffusion, in numbers, curves and one figure."""

from .audit import DEFAULT_MEASURES as DEFAULT_MEASURES, Audit as Audit, AuditData as AuditData, audit as audit
from .bound import Bound as Bound
from .consistency import ConsistencyCurves as ConsistencyCurves
from .curves import CurlCurve as CurlCurve, MatchingCurve as MatchingCurve, ResidualCurve as ResidualCurve
from .ensemble import (
    Ensemble as Ensemble,
    TimeGrid as TimeGrid,
    log_snr_midpoints as log_snr_midpoints,
    uniform_midpoints as uniform_midpoints,
)
from .evaluation import Evaluation as Evaluation, evaluate as evaluate
from .gap import Gap as Gap, OdeSdeGap as OdeSdeGap, ode_sde_gap as ode_sde_gap
from .histogram import Histogram as Histogram
from .likelihood import Likelihood as Likelihood
from .measure import (
    AbstractMeasure as AbstractMeasure,
    CleanSamples as CleanSamples,
    Curve as Curve,
    Estimate as Estimate,
    Section as Section,
)
from .transport import (
    AbstractTransport as AbstractTransport,
    Assignment as Assignment,
    Atoms as Atoms,
    ExactTransport as ExactTransport,
    Quantile as Quantile,
    Sinkhorn as Sinkhorn,
    Transported as Transported,
    wasserstein2 as wasserstein2,
)
