"""Training: `fit`, and the compiled step under it."""

from .checkpoint import Checkpoints as Checkpoints, load as load, saved_steps as saved_steps
from .dequantiser import DequantiserRun as DequantiserRun, fit_dequantiser as fit_dequantiser
from .devices import data_mesh as data_mesh, per_device_batch as per_device_batch
from .evaluation import audit_on as audit_on
from .fit import Run as Run, fit as fit
from .log import CSVLog as CSVLog, TensorBoard as TensorBoard
from .loop import TrainState as TrainState
from .report import Report as Report
from .step import TrainStep as TrainStep, split as split
from .store import CheckpointError as CheckpointError
from .supply import AbstractSupply as AbstractSupply, Resident as Resident, Stacked as Stacked
