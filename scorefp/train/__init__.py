"""Training: `fit`, and the compiled step under it."""

from .._devices import gathered as gathered, per_device_batch as per_device_batch, sharded as sharded
from .batches import drawn as drawn, in_order as in_order
from .checkpoint import Checkpoints as Checkpoints, load as load, saved_steps as saved_steps
from .dequantiser import DequantiserRun as DequantiserRun, fit_dequantiser as fit_dequantiser
from .fit import Run as Run, fit as fit
from .labels import LabelDropout as LabelDropout
from .log import CSVLog as CSVLog, TensorBoard as TensorBoard
from .loop import TrainState as TrainState, TrainStep as TrainStep
from .report import Report as Report, audit_on as audit_on
from .store import CheckpointError as CheckpointError
