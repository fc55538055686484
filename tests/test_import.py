"""`import scorefp` loads the mathematics and nothing else."""

import importlib
from importlib.metadata import version

import pytest
from helpers.scripts import ran

import scorefp

pytestmark = pytest.mark.quick

UNWANTED = [
    "optax",
    "grain",
    "orbax",
    "tensorboardX",
    "rich",
    "matplotlib",
    "sklearn",
    "mlxtend",
    "flowjax",
    "ot",
    "ott",
    "PIL",
    "datasets",
]


def test_import_is_light() -> None:
    loaded = ran("-c", "import sys, scorefp; print(*sys.modules)").stdout.split()
    assert "scorefp" in loaded
    assert not set(UNWANTED) & set(loaded)


def test_import_leaves_jax_configuration_alone() -> None:
    values = "{k: str(v) for k, v in jax.config.values.items()}"
    code = f"import jax; before = {values}; import scorefp; print(before == {values})"
    assert ran("-c", code).stdout.strip() == "True"


PUBLIC = """
    VE VP SubVP OU EDM Cosine LinearSDE GeneralSDE
    Score Potential NoiseScore DenoiserScore VelocityScore EDMScore DistancePotential InnerPotential
    GaussianMixture
    divergence laplacian time_derivative curl
    Box Exact Hutchinson Ito Antithetic Sliced Smoothed FiniteDifference
    fpe_operator score_fpe_residual log_fpe_residual fpe_residual
    DSM ScoreFPE LogFPE TimeDerivativeTaming ZeroCurl HighOrderDSM CauchyInitial
    UniformTime UniformLogSNR LogNormalNoise TimeInterval SoftTruncation Restricted edm_loss
    likelihood_weighting ExpectedWeighting
    MinSNRWeighting SoftMinSNRWeighting InterpolatedWeighting
    log_likelihood likelihood_bound evaluate_bound BoundEstimator Estimate entropy kl_decomposition kl_bound
    log_normaliser BoxQuadrature ImportanceSampling
    gaussian_kl prior_kl prior_kl_bound ode_score bits_per_dim UniformDequantiser VariationalDequantiser
    integrated_residual AnchoredPotential high_order_bound residual_suprema
    UniformDraws GaussLegendre
    solve_density Process GridDensity
    sample EulerMaruyama ProbabilityFlow Euler Langevin
    Heun Churn RhoGrid DPMSolver ExponentialIntegrator PredictorCorrector Denoised
    reverse_path consistency_loss Consistency OwnSamples TimeWindow NoiseWindow LogSNRWindow
    audit wasserstein2 ode_sde_gap nn
"""


@pytest.mark.parametrize("name", PUBLIC.split())
def test_public_name_exists(name: str) -> None:
    assert getattr(scorefp, name) is not None


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
