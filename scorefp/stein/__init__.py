"""The error of a score from samples, without the true score, by Stein's identity [N1], [N2]."""

from .bound import ScoreErrorBound as ScoreErrorBound, score_error_bound as score_error_bound
from .kernel import (
    SteinDiscrepancy as SteinDiscrepancy,
    kernel_stein_discrepancy as kernel_stein_discrepancy,
)
