"""scorefp: score-based diffusion models seen through the Fokker–Planck equation.

The mathematics takes one time and one sample, `(t, x)`, of any event shape; batch it with `jax.vmap`. Tags such as
[F4] name a formula of the documentation's derivation pages.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from . import (
    calculus as calculus,
    dataset as dataset,
    densities as densities,
    diagnostics as diagnostics,
    fokker_planck as fokker_planck,
    integrals as integrals,
    likelihood as likelihood,
    nn as nn,
    objective as objective,
    quality as quality,
    reverse as reverse,
    sampling as sampling,
    score as score,
    sde as sde,
    stein as stein,
    transport as transport,
)
from ._citation import citation as citation, installed_version as _installed_version
from ._devices import data_mesh as data_mesh
from ._runtime import set_right_sums as _set_right_sums
from .calculus import (
    Exact as Exact,
    FiniteDifference as FiniteDifference,
    Hutchinson as Hutchinson,
    curl as curl,
    divergence as divergence,
    laplacian as laplacian,
    time_derivative as time_derivative,
)
from .dataset import (
    Dataset as Dataset,
    Quantisation as Quantisation,
    UniformDequantiser as UniformDequantiser,
    bits_per_dim as bits_per_dim,
)
from .densities import (
    GaussianMixture as GaussianMixture,
)
from .diagnostics import (
    Audit as Audit,
    audit as audit,
    evaluate as evaluate,
    ode_sde_gap as ode_sde_gap,
)
from .fokker_planck import (
    Antithetic as Antithetic,
    Ito as Ito,
    Sliced as Sliced,
    Smoothed as Smoothed,
    fpe_operator as fpe_operator,
    fpe_residual as fpe_residual,
    log_fpe_residual as log_fpe_residual,
    score_fpe_residual as score_fpe_residual,
)
from .integrals import (
    Box as Box,
    Estimate as Estimate,
    LogNormalNoise as LogNormalNoise,
    UniformLogSNR as UniformLogSNR,
    UniformTime as UniformTime,
)
from .likelihood import (
    BoundEstimator as BoundEstimator,
    VariationalDequantiser as VariationalDequantiser,
    entropy as entropy,
    evaluate_bound as evaluate_bound,
    flow_likelihood as flow_likelihood,
    kl_decomposition as kl_decomposition,
    likelihood_bound as likelihood_bound,
    log_likelihood as log_likelihood,
)
from .objective import (
    DSM as DSM,
    CauchyInitial as CauchyInitial,
    Consistency as Consistency,
    HighOrderDSM as HighOrderDSM,
    Lazy as Lazy,
    LogFPE as LogFPE,
    Restricted as Restricted,
    ScoreFPE as ScoreFPE,
    TimeDerivativeTaming as TimeDerivativeTaming,
    ZeroCurl as ZeroCurl,
    edm_loss as edm_loss,
    likelihood_weighting as likelihood_weighting,
    noise_weighting as noise_weighting,
    unit_weighting as unit_weighting,
)
from .reverse import (
    Integrator as Integrator,
    decode as decode,
    encode as encode,
)
from .sampling import (
    DPMSolver as DPMSolver,
    EulerMaruyama as EulerMaruyama,
    ExponentialIntegrator as ExponentialIntegrator,
    FeynmanKac as FeynmanKac,
    Heun as Heun,
    Langevin as Langevin,
    PredictorCorrector as PredictorCorrector,
    ProbabilityFlow as ProbabilityFlow,
    flow_samples as flow_samples,
    sample as sample,
)
from .score import (
    Annealed as Annealed,
    DenoiserScore as DenoiserScore,
    DistancePotential as DistancePotential,
    EDMScore as EDMScore,
    Guided as Guided,
    InnerPotential as InnerPotential,
    NoiseScore as NoiseScore,
    Potential as Potential,
    Product as Product,
    Score as Score,
    Tilted as Tilted,
    VelocityScore as VelocityScore,
)
from .sde import (
    EDM as EDM,
    OU as OU,
    VE as VE,
    VP as VP,
    Cosine as Cosine,
    GeneralSDE as GeneralSDE,
    LinearSDE as LinearSDE,
    SubVP as SubVP,
)
from .transport import (
    wasserstein2 as wasserstein2,
)

if TYPE_CHECKING:
    from . import data as data, plot as plot, train as train

    __version__: str
else:  # a checker that saw `__getattr__` would take every misspelt name for one of `scorefp`

    def __getattr__(name: str) -> object:
        """Loads the outer rooms, and what they need, where they are first used (PEP 562)."""
        if name in _OUTER:
            return _import_module(f"{__name__}.{name}")
        if name == "__version__":
            return _installed_version()
        rooms = [room for room, held in globals().items() if hasattr(held, "__path__") and hasattr(held, name)]
        hint = f"; it is `{__name__}.{rooms[0]}.{name}`" if rooms else ""
        raise AttributeError(f"module `{__name__}` has no `{name}`{hint}")


_OUTER = ("data", "plot", "train")


def __dir__() -> list[str]:
    return sorted({*globals(), *_OUTER, "__version__"} - {"TYPE_CHECKING"})


_set_right_sums()
