"""Training: `fit`, and the compiled step under it."""

from .fit import Run as Run, fit as fit
from .step import TrainState as TrainState, TrainStep as TrainStep, split as split
