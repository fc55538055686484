"""Log-likelihoods of the probability-flow ODE, in nats and in bits per dimension, and dequantisation."""

from .dequantise import (
    Quantisation as Quantisation,
    UniformDequantiser as UniformDequantiser,
    bits_per_dim as bits_per_dim,
)
from .flow import (
    FlowLikelihood as FlowLikelihood,
    batch_log_likelihood as batch_log_likelihood,
    flow_likelihood as flow_likelihood,
    log_likelihood as log_likelihood,
)
