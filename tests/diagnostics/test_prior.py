"""The divergence of the diffused data from the prior, and processes that do not reach it [K9]."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp
from scorefp.data import Dataset
from scorefp.diagnostics import Likelihood, MatchingCurve, PriorDivergence, Section
from scorefp.likelihood import gaussian_kl, prior_kl, prior_kl_bound
from scorefp.sde import AbstractLinearSDE

pytestmark = pytest.mark.usefixtures("x64")

FAR = "The process does not reach its prior: at t1 = 1 the diffused data have a root mean square of"


def normal(mean: float, std: float, count: int, size: int = 2) -> Array:
    return mean + std * jr.normal(jr.key(3), (count, size))


def measured(sde: AbstractLinearSDE, x: Array | Dataset) -> Section:
    return PriorDivergence()(sfp.Score(lambda t, x: -x, sde), x, key=jr.key(0))


def test_unit_data_under_vp() -> None:
    """Next to nothing, and nothing is said."""
    section = measured(sfp.VP(), normal(0.0, 1.0, 1000))
    assert abs(section.numbers["least"].value) < 1e-5
    assert 0 < section.numbers["most"].value < 1e-3
    assert not any("does not reach" in note for note in section.notes)


@pytest.mark.parametrize(("mean", "std"), [(300.0, 100.0), (0.0, 100.0), (30.0, 1.0)])
def test_normal_data_far_out(mean: float, std: float) -> None:
    """At least the closed form, which is that of normal data; at most what `prior_kl_bound` has."""
    sde, x = sfp.VE(), normal(mean, std, 4000)
    section = measured(sde, x)
    eye = jnp.eye(2)
    want = float(gaussian_kl(jnp.full(2, mean), (std**2 + 2500.0) * eye, jnp.zeros(2), 2500.0 * eye))
    least, most = section.numbers["least"], section.numbers["most"]
    assert least.half_width is not None
    assert abs(least.value - want) < 2 * least.half_width < 0.3 * want
    assert most.value == pytest.approx(float(prior_kl_bound(sde, x).value))
    assert most.value > least.value
    assert any(FAR in note for note in section.notes)


def test_a_mixture_lies_between() -> None:
    """The divergence itself by exact logs, for two modes far apart."""
    sde = sfp.VE(sigma_max=3.0)
    law = sfp.GaussianMixture(jnp.array([[-8.0], [9.0]]), jnp.array([0.1, 0.2]), jnp.array([0.5, 0.5]))
    x = law.sample(jr.key(0), 4000)
    found, section = prior_kl(law.score(sde), x, key=jr.key(1)), measured(sde, x)
    least, most = (section.numbers[name].value for name in ("least", "most"))
    assert least + 4 * float(found.error) < float(found.value) < most - 4 * float(found.error)


def test_interval_of_the_least() -> None:
    """Its half-width is that of the estimate, which depends on the variance of the samples twice."""
    sde = sfp.VE()
    numbers = [
        PriorDivergence()(sfp.Score(lambda t, x: -x, sde), 100 * jr.normal(key, (200, 1)), key=key).numbers["least"]
        for key in jr.split(jr.key(5), 60)
    ]
    spread = np.std([number.value for number in numbers], ddof=1)
    assert np.mean([number.half_width for number in numbers]) == pytest.approx(2 * spread, rel=0.3)


def test_bits_of_levels() -> None:
    """The unit of an audit of levels: bits per dimension."""
    levels = jr.randint(jr.key(0), (300, 4), 0, 256)
    data = Dataset(levels, sfp.Quantisation(256, 0.0, 1000.0))
    section = measured(sfp.VE(), data)
    assert section.numbers["most"].unit == "bits/dim"
    x = 1000 * (np.asarray(levels) + 0.5) / 256
    want = np.mean(0.5 * np.sum((x / 50) ** 2, axis=1)) / (4 * np.log(2))
    assert section.numbers["most"].value == pytest.approx(want, rel=0.01)


def test_audits_say_it_and_blame_no_explosion() -> None:
    """Whatever the measures, once; also for few samples; the exact score explodes nowhere, a wrong one does."""
    x = normal(300.0, 100.0, 40)
    exact = sfp.GaussianMixture(jnp.full((1, 2), 300.0), jnp.array([1e4]), jnp.ones(1)).score(sfp.VE())
    report = sfp.audit(exact, x, key=jr.key(1), measures=(Likelihood(),))
    assert str(report).replace("\n", " ").count(FAR) == 1
    assert report["likelihood"].numbers["exploded"].value == 0
    both = sfp.audit(exact, x, key=jr.key(1), measures=(MatchingCurve(), PriorDivergence()))
    assert str(both).replace("\n", " ").count(FAR) == 1
    near = sfp.audit(sfp.Score(lambda t, x: -x, sfp.VP()), normal(0, 1, 40), key=jr.key(1), measures=(MatchingCurve(),))
    assert near.notes == ()
    wide = sfp.Score(lambda t, x: -x / 100, sfp.VE())
    blown = sfp.audit(wide, x, key=jr.key(1), measures=(Likelihood(),))
    assert blown["likelihood"].numbers["exploded"].value == 1


def test_refusals() -> None:
    refused("samples = 1", PriorDivergence, 1)
    general = sfp.Score(lambda t, x: -x, sfp.sde.CriticallyDampedLangevin())
    refused("no Gaussian kernel", PriorDivergence(), general, jnp.ones((3, 2, 2)), key=jr.key(0), error=TypeError)


@pytest.mark.quick
@pytest.mark.usefixtures("unchecked")
def test_entries_of_measures() -> None:
    """What every measure refuses, the neighbouring good call beside it."""
    score, x = sfp.Score(lambda t, x: -x, sfp.VP(), (2,)), normal(0.0, 1.0, 10)
    measure = PriorDivergence()
    refused("score is a function", measure, lambda t, x: -x, x, key=jr.key(0), error=TypeError)
    refused("key is 3; a measure takes a random key", measure, score, x, key=3, error=TypeError)
    refused(r"data holds samples of shape \(3,\)", measure, score, jnp.ones((4, 3)), key=jr.key(0))
    refused("holds nan", measure, score, x.at[3, 1].set(jnp.nan), key=jr.key(0))
    for half in (jnp.float16, jnp.bfloat16):
        refused("the values have dtype", measure, score, x.astype(half), key=jr.key(0), error=TypeError)
    refused(
        "measures is a Likelihood|measures is a",
        sfp.audit,
        score,
        x,
        key=jr.key(0),
        measures=Likelihood(),
        error=TypeError,
    )
    assert np.isfinite(measure(score, x, key=jr.key(0)).numbers["most"].value)
    for name, value in (("ode", "heun"), ("sde", sfp.Heun), ("langevin", 3), ("box", (0, 1)), ("transport", "exact")):
        refused(f"{name} is", sfp.ode_sde_gap, score, samples=4, key=jr.key(0), error=TypeError, **{name: value})
    refused("key is 7; a gap takes a random key", sfp.ode_sde_gap, score, samples=4, key=7, error=TypeError)
    refused(r"samples = 4\.0; it is a count", sfp.ode_sde_gap, score, samples=4.0, key=jr.key(0), error=TypeError)
    down = sfp.diagnostics.Ensemble(3, 5, lambda sde, times: jnp.linspace(0.9, 0.1, times))
    out = sfp.diagnostics.Ensemble(3, 5, lambda sde, times: jnp.linspace(0.5, 2.0, times))
    for ensemble in (down, out):
        refused("its times are finite and ascend inside", MatchingCurve(ensemble), score, x, key=jr.key(0))
    refused(r"times = 2\.5; it is a count", sfp.diagnostics.log_snr_midpoints, sfp.VP(), 2.5, error=TypeError)
    assert jax.eval_shape(lambda: sfp.diagnostics.uniform_midpoints(sfp.VP(), 2)).shape == (2,)
