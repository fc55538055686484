"""Training: `fit`, and the compiled step under it."""

from .dequantiser import DequantiserRun as DequantiserRun, fit_dequantiser as fit_dequantiser
from .fit import Run as Run, fit as fit
from .step import TrainState as TrainState, TrainStep as TrainStep, split as split
