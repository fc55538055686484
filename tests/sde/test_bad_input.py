"""What SDEs refuse by name: times outside their horizon, and parameters that are no positive, finite numbers."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest
from helpers.references import LINEAR
from helpers.refusals import refused

import scorefp as sfp
from scorefp.sde import AbstractLinearSDE, CriticallyDampedLangevin, GeometricBrownianMotion, Normal

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("unchecked")]

OF_TIME = ("log_alpha", "log_sigma", "alpha", "sigma", "rate", "g2", "log_snr")


def general() -> sfp.GeneralSDE:
    diffusion = lambda t, x: lx.DiagonalLinearOperator(1 + 0 * x)
    return sfp.GeneralSDE(lambda t, x: -x, diffusion, Normal(1.0), t0=0.1, t1=1.0)


@pytest.mark.parametrize("name", LINEAR)
def test_times_outside(name: str) -> None:
    """Refused where they are known; the horizon, zero where it is before it, and integers are taken."""
    sde = LINEAR[name]()
    calls: dict[str, Callable[[Any], Any]] = {of: getattr(sde, of) for of in OF_TIME}
    x = jnp.ones(2)
    calls |= {
        "drift": lambda t: sde.drift(t, x),
        "diffusion": lambda t: sde.diffusion(t, x).mv(x),
        "covariance": lambda t: sde.covariance(t, x, x),
        "transition": lambda t: sde.transition(sde.t0, t),
    }
    below = min(sde.t0, 0.0)
    for call in calls.values():
        for t in (below - 0.5, 1.01 * sde.t1, float("nan"), float("inf"), -float("inf")):
            refused(rf"t = {t:g} lies outside \[{below:g}, {sde.t1:g}\], where {type(sde).__name__}\(t0=", call, t)
        refused("it is real. Pass floats", call, 0.5j, error=TypeError)
        for t in (sde.t0, sde.t1 * (1 + 1e-7), 0.5 * (sde.t0 + sde.t1)):
            assert np.all(np.isfinite(call(t)))
    for of in OF_TIME:
        times = jnp.array([sde.t0, sde.t1, 2 * sde.t1])
        refused(f"t = {2 * sde.t1:g} lies outside", calls[of], times)
        assert calls[of](times[:2]).shape == (2,)
        # Not known inside `jit`: no look, and no cost.
        assert np.isfinite(jax.jit(lambda t, of=of: calls[of](t))(sde.t0))


def test_whole_times() -> None:
    for sde in (
        sfp.VE(),
        sfp.VP(),
        sfp.OU(),
        sfp.EDM(),
        sfp.SubVP(),
        sfp.LinearSDE(sfp.VP().log_alpha, sfp.VP().log_sigma, t0=0.1, t1=1.0),
    ):
        for of in OF_TIME:
            assert getattr(sde, of)(1) == getattr(sde, of)(1.0)
        refused("t is True", sde.sigma, True, error=TypeError)
    assert (sfp.VP().alpha(0), sfp.VP().sigma(0)) == (1, 0)


@pytest.mark.parametrize("name", LINEAR)
def test_log_snr_outside(name: str) -> None:
    sde = LINEAR[name]()
    low, high = float(sde.log_snr(sde.t1)), float(sde.log_snr(sde.t0))
    for value in (low - 0.1, high + 0.1, float("nan")):
        refused(f"log_snr = {value:g} lies outside", sde.time_of_log_snr, value)
    for value, t in ((low, sde.t1), (high, sde.t0)):
        np.testing.assert_allclose(sde.time_of_log_snr(value), t, rtol=1e-4, atol=1e-6)
    refused("log_snr is a complex; it is real", sde.time_of_log_snr, 1j, error=TypeError)


def test_transition_goes_forward() -> None:
    refused(r"s = 0\.5 and t = 0\.4; a transition goes from s to a later t", sfp.VP().transition, 0.5, 0.4)
    scale, std = sfp.VP().transition(0.4, 0.5)
    assert 0 < scale < 1
    assert std > 0


@pytest.mark.parametrize(
    "sde", [general(), CriticallyDampedLangevin(), GeometricBrownianMotion(jnp.zeros(2), jnp.eye(2))]
)
def test_times_outside_of_general_sdes(sde: Any) -> None:
    x = jnp.ones((2, 2)) if isinstance(sde, CriticallyDampedLangevin) else jnp.ones(2)
    calls = (
        sde.drift,
        lambda t, x: sde.diffusion(t, x).mv(x),
        lambda t, x: sde.covariance(t, x, x),
        sde.covariance_divergence,
    )
    for call in calls:
        for t in (-0.5, 1.5, float("nan")):
            refused(f"t = {t:g} lies outside", call, t, x)
        refused(r"t has shape \(1,\)", call, jnp.array([0.5]), x)
        refused("x has dtype int32", call, 0.5, x.astype(int), error=TypeError)
        assert jnp.isfinite(call(0.5, x)).all()
    refused(r"v has shape \(1,\)", sde.covariance, 0.5, x, jnp.ones(1))


PARAMETERS: dict[str, Callable[[Any], Any]] = {
    "sigma_min": lambda v: sfp.VE(sigma_min=v),
    "sigma_max": lambda v: sfp.VE(sigma_max=v),
    "beta_min": lambda v: sfp.VP(beta_min=v),
    "beta_max": lambda v: sfp.SubVP(beta_max=v),
    "theta": lambda v: sfp.OU(theta=v),
    "noise": lambda v: sfp.OU(noise=v),
    "beta": lambda v: CriticallyDampedLangevin(beta=v),
    "mass": lambda v: CriticallyDampedLangevin(mass=v),
    "scale": Normal,
    "t1": lambda v: sfp.EDM(t1=v),
    "t0": lambda v: sfp.Cosine(t0=v),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name: str) -> None:
    for value in (float("inf"), float("nan"), -1.0):
        refused(f"{name}.*{value}", PARAMETERS[name], value)
    for value in ("1.0", True, 1j):
        refused(f"{name} is", PARAMETERS[name], value, error=TypeError)
    PARAMETERS[name](0.05 if name == "beta_min" else 20.0 if name in ("beta_max", "sigma_max") else 0.01)


@pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
def test_horizons_are_numbers() -> None:
    make = lambda t1: sfp.LinearSDE(lambda t: -t, jnp.log, t0=0.1, t1=t1)
    refused("t1 is an array; an end of the horizon is static", make, jnp.asarray(1.0), error=TypeError)
    refused(r"t1 = inf; it is a finite number", make, float("inf"))
    assert make(np.float64(1.0)).t1 == 1.0


def test_kinds() -> None:
    diffusion = lambda t, x: lx.DiagonalLinearOperator(x)
    make = lambda drift=lambda t, x: x, diffusion=diffusion, prior=Normal(1.0): sfp.GeneralSDE(
        drift, diffusion, prior, t0=0.0, t1=1.0
    )
    refused(r"drift_fn takes \(x\)", make, lambda x: x, error=TypeError)
    refused("diffusion_fn is 1", make, diffusion=1, error=TypeError)
    refused("prior is a function|prior is a", make, prior=lambda x: x, error=TypeError)
    wrong = make(diffusion=lambda t, x: x)
    refused("the value of diffusion_fn is", wrong.diffusion, 0.5, jnp.ones(2), error=TypeError)
    refused(r"log_alpha_fn takes \(t, x\)", sfp.LinearSDE, lambda t, x: t, jnp.log, t0=0.1, t1=1.0, error=TypeError)
    prior = Normal(jnp.ones(2))
    refused("key is 0; a prior takes a random key", prior.sample, 0, (2,), error=TypeError)
    refused(r"scale has shape \(2,\); it does not broadcast to the event shape \(3,\)", prior.sample, jr.key(0), (3,))
    refused(r"scale has shape \(2,\)", prior.log_prob, jnp.ones(3))
    assert prior.sample(jr.key(0), (5, 2)).shape == (5, 2)


def test_members_of_ones_own_are_checked() -> None:
    """A subclass is formulas alone; derivatives by time and `vmap` still see through."""

    class Straight(AbstractLinearSDE):
        t0: float = eqx.field(default=1e-3, static=True)
        t1: float = eqx.field(default=0.999, static=True)

        def log_alpha(self, t: Any) -> Any:
            return jnp.log1p(-t)

        def log_sigma(self, t: Any) -> Any:
            return jnp.log(t)

        def rate(self, t: Any) -> Any:
            return -1 / (1 - t)

        def g2(self, t: Any) -> Any:
            return 2 * t / (1 - t)

        def time_of_log_snr(self, log_snr: Any) -> Any:
            return jax.nn.sigmoid(-0.5 * log_snr)

    sde = Straight()
    refused("t = 1 lies outside", sde.rate, 1)
    refused("log_snr = 99 lies outside", sde.time_of_log_snr, 99)
    np.testing.assert_allclose(jax.grad(sde.log_alpha)(0.5), sde.rate(0.5))
    np.testing.assert_allclose(jax.vmap(sde.sigma)(jnp.array([0.2, 0.5])), [0.2, 0.5], rtol=1e-6)
