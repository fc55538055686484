"""`import scorefp` loads the mathematics and nothing else."""

import importlib
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from helpers.scripts import ran

import scorefp
from docs import api_names

pytestmark = pytest.mark.quick

UNWANTED = [
    "optax",
    "grain",
    "orbax",
    "tensorboardX",
    "rich",
    "matplotlib",
    "sklearn",
    "skimage",
    "mlxtend",
    "flowjax",
    "ot",
    "ott",
    "PIL",
    "datasets",
    "torch",
]


def test_import_is_light() -> None:
    loaded = ran("-c", "import sys, scorefp; print(*sys.modules)").stdout.split()
    assert "scorefp" in loaded
    assert not set(UNWANTED) & set(loaded)


def test_import_does_not_start_jax() -> None:
    """Its flags and its configuration are read then: both are the user's to set, after the import too."""
    started = "from jax._src import xla_bridge; print(xla_bridge.backends_are_initialized())"
    assert ran("-c", f"import scorefp; from scorefp import data, plot, train; {started}").stdout.strip() == "False"
    assert ran("-c", f"import jax; jax.numpy.zeros(1); {started}").stdout.strip() == "True"


def test_import_leaves_jax_configuration_alone() -> None:
    values = "{k: str(v) for k, v in jax.config.values.items()}"
    code = f"import jax; before = {values}; import scorefp; print(before == {values})"
    assert ran("-c", code).stdout.strip() == "True"


PUBLIC = """
    VP SubVP Cosine VE EDM OU LinearSDE GeneralSDE
    Score Potential NoiseScore VelocityScore DenoiserScore EDMScore DistancePotential InnerPotential
    Guided Product Annealed Tilted
    Dataset Quantisation UniformDequantiser VariationalDequantiser bits_per_dim GaussianMixture
    divergence laplacian time_derivative curl Exact Hutchinson FiniteDifference
    score_fpe_residual log_fpe_residual fpe_residual fpe_operator Ito Antithetic Sliced Smoothed
    DSM ScoreFPE LogFPE TimeDerivativeTaming HighOrderDSM Consistency ZeroCurl CauchyInitial Restricted Lazy edm_loss
    UniformTime UniformLogSNR LogNormalNoise likelihood_weighting noise_weighting unit_weighting
    log_likelihood flow_likelihood likelihood_bound evaluate_bound BoundEstimator entropy kl_decomposition Integrator
    sample flow_samples encode decode Heun DPMSolver ProbabilityFlow EulerMaruyama ExponentialIntegrator FeynmanKac
    PredictorCorrector Langevin
    audit Audit evaluate ode_sde_gap wasserstein2 Estimate Box
    data_mesh citation
"""


def test_public_names_are_these_and_no_more() -> None:
    assert sorted(api_names.public("")) == sorted(PUBLIC.split())
    assert all(getattr(scorefp, name) is not None for name in PUBLIC.split())


@pytest.mark.parametrize("name", ["data", "train", "plot"])
def test_outer_rooms_are_attributes_that_load_when_used(name: str) -> None:
    assert getattr(scorefp, name) is importlib.import_module(f"scorefp.{name}")
    assert name in dir(scorefp)
    code = f"import sys, scorefp as sfp; print('scorefp.{name}' in sys.modules, bool(sfp.{name}.__doc__))"
    assert ran("-c", code).stdout.split() == ["False", "True"]


def test_version_is_that_of_the_package() -> None:
    assert scorefp.__version__ in (version("scorefp"), "0+source")


def test_unknown_names_are_refused_with_the_place_of_a_name_of_a_room() -> None:
    with pytest.raises(AttributeError, match=r"has no `LogResidual`; it is `scorefp\.fokker_planck\.LogResidual`"):
        _ = scorefp.LogResidual
    with pytest.raises(AttributeError, match=r"has no `nonsense`$"):
        _ = scorefp.nonsense


def test_no_module_is_called_like_one_of_python() -> None:
    names = {path.stem for path in Path(scorefp.__file__).parent.rglob("*.py")}
    assert not {name for name in names & sys.stdlib_module_names if not name.startswith("_")}
