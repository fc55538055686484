"""Training: `fit`, and the compiled step under it."""

from .dequantiser import DequantiserRun as DequantiserRun, fit_dequantiser as fit_dequantiser
from .fit import Run as Run, fit as fit
from .loop import TrainState as TrainState
from .step import TrainStep as TrainStep, split as split
