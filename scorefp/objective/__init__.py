"""Training terms: integrands over time that add, multiply by numbers and share one evaluation of the score."""

from .cauchy import CauchyInitial as CauchyInitial
from .consistency import (
    Consistency as Consistency,
    OwnSamples as OwnSamples,
    consistency_loss as consistency_loss,
)
from .control import (
    JacobianSize as JacobianSize,
    ScoreSize as ScoreSize,
    Smoothness as Smoothness,
    TimeDerivativeSize as TimeDerivativeSize,
)
from .fokker_planck import (
    LogFPE as LogFPE,
    ScoreFPE as ScoreFPE,
    TimeDerivativeTaming as TimeDerivativeTaming,
    ZeroCurl as ZeroCurl,
)
from .high_order import HighOrderDSM as HighOrderDSM
from .matching import DSM as DSM, edm_loss as edm_loss
from .objective import (
    AbstractObjective as AbstractObjective,
    AbstractTerm as AbstractTerm,
    Lazy as Lazy,
    Objective as Objective,
)
from .perturbed import Perturbed as Perturbed
from .restricted import Restricted as Restricted
from .weighting import (
    EDMWeighting as EDMWeighting,
    ExpectedWeighting as ExpectedWeighting,
    InterpolatedWeighting as InterpolatedWeighting,
    MinSNRWeighting as MinSNRWeighting,
    SoftMinSNRWeighting as SoftMinSNRWeighting,
    Weighting as Weighting,
    likelihood_weighting as likelihood_weighting,
    noise_weighting as noise_weighting,
    scale_free_jacobian_weighting as scale_free_jacobian_weighting,
    scale_free_score_weighting as scale_free_score_weighting,
    scale_free_weighting as scale_free_weighting,
    unit_weighting as unit_weighting,
)
from .window import (
    AbstractWindow as AbstractWindow,
    LogSNRWindow as LogSNRWindow,
    NoiseWindow as NoiseWindow,
    TimeWindow as TimeWindow,
)
