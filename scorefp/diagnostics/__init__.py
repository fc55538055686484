"""Audits: the distance of any score from the score of its diffusion, in numbers, curves and one figure."""

from .audit import DEFAULT_MEASURES as DEFAULT_MEASURES, Audit as Audit, audit as audit, evaluate as evaluate
from .bound import Bound as Bound
from .by_class import ByClass as ByClass
from .code_length import CodeLength as CodeLength
from .consistency import ConsistencyCurves as ConsistencyCurves
from .curves import (
    CirculationCurve as CirculationCurve,
    CurlCurve as CurlCurve,
    MatchingCurve as MatchingCurve,
    ResidualCurve as ResidualCurve,
)
from .ensemble import (
    Ensemble as Ensemble,
    TimeGrid as TimeGrid,
    log_snr_ends as log_snr_ends,
    log_snr_midpoints as log_snr_midpoints,
    uniform_midpoints as uniform_midpoints,
)
from .gap import Gap as Gap, OdeSdeGap as OdeSdeGap, ode_sde_gap as ode_sde_gap
from .likelihood import Likelihood as Likelihood
from .measure import (
    AbstractMeasure as AbstractMeasure,
    Curve as Curve,
    Number as Number,
    Section as Section,
)
from .prior import PriorDivergence as PriorDivergence
from .quality import SampleQuality as SampleQuality
from .stein import ScoreError as ScoreError, SteinTest as SteinTest
