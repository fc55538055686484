"""Log-likelihoods, their bounds, entropies and Kullback–Leibler divergences, in nats; bits per dimension."""

from ._levels import Encoder as Encoder
from .bounds import (
    BoundEstimator as BoundEstimator,
    BoundForm as BoundForm,
    LikelihoodBound as LikelihoodBound,
    Truncation as Truncation,
    code_length as code_length,
    evaluate_bound as evaluate_bound,
    likelihood_bound as likelihood_bound,
)
from .entropy import EntropyForm as EntropyForm, entropy as entropy
from .flow import (
    FlowLikelihood as FlowLikelihood,
    flow_likelihood as flow_likelihood,
    log_likelihood as log_likelihood,
)
from .kl import (
    KLDecomposition as KLDecomposition,
    gaussian_kl as gaussian_kl,
    kl_bound as kl_bound,
    kl_decomposition as kl_decomposition,
    ode_score as ode_score,
    prior_kl as prior_kl,
    prior_kl_bound as prior_kl_bound,
)
from .normaliser import (
    AbstractNormaliserMethod as AbstractNormaliserMethod,
    BoxQuadrature as BoxQuadrature,
    ImportanceSampling as ImportanceSampling,
    Proposal as Proposal,
    log_normaliser as log_normaliser,
)
from .variational import (
    ConditionalFlow as ConditionalFlow,
    VariationalDequantiser as VariationalDequantiser,
    variational_dequantiser as variational_dequantiser,
)
