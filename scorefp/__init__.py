"""scorefp: score-based diffusion models seen through the Fokker–Planck equation.

The mathematics takes one time and one sample, `(t, x)`, of any event shape; batch it with `jax.vmap`. Tags such as
[F4] name a
formula of the documentation's derivation pages.
"""

from . import (
    calculus as calculus,
)
from . import (
    densities as densities,
)
from . import (
    fokker_planck as fokker_planck,
)
from . import (
    score as score,
)
from . import (
    sde as sde,
)
from .calculus import (
    Exact as Exact,
)
from .calculus import (
    FiniteDifference as FiniteDifference,
)
from .calculus import (
    Gaussian as Gaussian,
)
from .calculus import (
    Hutchinson as Hutchinson,
)
from .calculus import (
    Rademacher as Rademacher,
)
from .calculus import (
    curl as curl,
)
from .calculus import (
    divergence as divergence,
)
from .calculus import (
    laplacian as laplacian,
)
from .calculus import (
    squared_curl as squared_curl,
)
from .calculus import (
    time_derivative as time_derivative,
)
from .densities import GaussianMixture as GaussianMixture
from .fokker_planck import (
    Antithetic as Antithetic,
)
from .fokker_planck import (
    Ito as Ito,
)
from .fokker_planck import (
    Sliced as Sliced,
)
from .fokker_planck import (
    fpe_operator as fpe_operator,
)
from .fokker_planck import (
    fpe_residual as fpe_residual,
)
from .fokker_planck import (
    log_fpe_residual as log_fpe_residual,
)
from .fokker_planck import (
    score_fpe_residual as score_fpe_residual,
)
from .score import (
    AbstractPotential as AbstractPotential,
)
from .score import (
    AbstractScore as AbstractScore,
)
from .score import (
    DenoiserScore as DenoiserScore,
)
from .score import (
    EDMScore as EDMScore,
)
from .score import (
    NoiseScore as NoiseScore,
)
from .score import (
    Potential as Potential,
)
from .score import (
    Score as Score,
)
from .score import (
    VelocityScore as VelocityScore,
)
from .sde import (
    EDM as EDM,
)
from .sde import (
    OU as OU,
)
from .sde import (
    VE as VE,
)
from .sde import (
    VP as VP,
)
from .sde import (
    Cosine as Cosine,
)
from .sde import (
    GeneralSDE as GeneralSDE,
)
from .sde import (
    LinearSDE as LinearSDE,
)
from .sde import (
    SubVP as SubVP,
)
