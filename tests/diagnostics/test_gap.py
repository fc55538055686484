"""The gap between the ODE's and the SDE's samples [G2], of a wrong score whose two laws are known in closed form."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.references import multiple
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp
from scorefp.dataset import Dataset
from scorefp.diagnostics import Gap, OdeSdeGap
from scorefp.sampling import AbstractSampler

pytestmark = pytest.mark.usefixtures("x64")


def wrong(eta: float, shape: tuple[int, ...] = ()) -> sfp.Score:
    return multiple(1 + eta, shape)


def deviations(eta: float) -> tuple[float, float]:
    """Standard deviations at `t0` of the ODE's and of the SDE's law: both equations are linear.

    With beta = g², the ODE has the velocity beta eta x / 2 and the reverse SDE the drift beta (1/2 + eta) x.
    """
    sde = sfp.VP()
    whole = 2 * float(sde.log_alpha(sde.t0) - sde.log_alpha(sde.t1))
    prior = float(sde.sigma(sde.t1)) ** 2
    still, forgotten = 1 / (1 + 2 * eta), math.exp(-(1 + 2 * eta) * whole)
    return math.sqrt(prior * math.exp(-eta * whole)), math.sqrt(still + (prior - still) * forgotten)


def is_about(found: Any, want: float) -> bool:
    return abs(float(found.value) - want) < 4 * float(found.error)


class Stay(AbstractSampler):
    """No motion at all; not a number beyond a place."""

    end: Any = math.inf

    def __call__(self, score: sfp.score.AbstractScore, x1: Array, *, key: Array) -> Array:
        return jnp.where(x1 > self.end, jnp.nan, x1)


class Shown(AbstractSampler):
    """The score itself."""

    def __call__(self, score: sfp.score.AbstractScore, x1: Array, *, key: Array) -> Array:
        return score(0.5, x1)


STILL: dict[str, Any] = {"ode": Stay(), "sde": Stay()}


# --------------------------------------------------------------------------------------------------------- closed forms


def gap(eta: float, **settings: Any) -> OdeSdeGap:
    data = jr.normal(jr.key(7), (3000,))
    return sfp.ode_sde_gap(wrong(eta), key=jr.key(0), data=data, samples=2000, **settings)


def test_exact_score_is_at_its_floor() -> None:
    found = gap(0.0)
    for distance in found.distances.values():
        assert 0 < distance.value < 0.01
    assert float(found.ode_sde.value) < float(found.floor.value) + 4 * float(found.ode_sde.error)
    assert (found.failed, found.sde_failed) == (0, 0)


def test_wrong_score_has_the_gap_of_its_two_laws() -> None:
    ode, sde = deviations(0.05)
    found = gap(0.05)
    assert np.std(found.ode) == pytest.approx(ode, rel=0.05)
    assert np.std(found.sde) == pytest.approx(sde, rel=0.05)
    assert is_about(found.ode_sde, (ode - sde) ** 2)
    assert is_about(found.ode_data, (ode - 1) ** 2)
    assert is_about(found.sde_data, (sde - 1) ** 2)
    # And none of it is noise.
    assert float(found.ode_sde.value) > float(found.floor.value) + 4 * float(found.ode_sde.error)
    assert float(found.ode_data.value) > 4 * float(found.sde_data.value)
    assert str(found).count("±") == 4


def test_histograms_and_bootstrap() -> None:
    """On a grid what moves is moved by whole cells, so that the gap is somewhat larger."""
    box = sfp.Box(jnp.array(-4.0), jnp.array(4.0))
    plain, resampled, rounded = gap(0.05), gap(0.05, resamples=50), gap(0.05, box=box, bins=256)
    assert plain.ode_sde.value == resampled.ode_sde.value != rounded.ode_sde.value
    assert float(resampled.ode_sde.error) == pytest.approx(float(plain.ode_sde.error), rel=0.4)
    assert float(rounded.ode_sde.value) == pytest.approx(float(plain.ode_sde.value), rel=0.05)


# -------------------------------------------------------------------------------------- draws, explosions, conditioning


def test_shared_draws_of_the_prior_and_a_floor_of_its_own() -> None:
    found = sfp.ode_sde_gap(wrong(0.0, (2,)), key=jr.key(1), samples=50, **STILL)
    assert np.array_equal(found.ode, found.sde)
    assert found.ode.shape == (50, 2)
    assert found.ode_sde.value == 0 < found.floor.value
    assert found.ode_data is None is found.sde_data
    again, other = (sfp.ode_sde_gap(wrong(0.0, (2,)), key=jr.key(k), samples=50, **STILL) for k in (1, 2))
    assert again.floor.value == found.floor.value != other.floor.value


@pytest.mark.parametrize("broken", ["ode", "sde"])
def test_failed_trajectories_are_left_out_and_reported(broken: str) -> None:
    samplers = STILL | {broken: Stay(0.8)}
    found = sfp.ode_sde_gap(wrong(0.0), key=jr.key(1), samples=200, **samplers)
    share = np.mean(sfp.ode_sde_gap(wrong(0.0), key=jr.key(1), samples=200, **STILL).ode > 0.8)
    assert 0.1 < share < 0.4
    assert {"ode": found.failed, "sde": found.sde_failed}[broken] == pytest.approx(share)
    # The same draws are left out of both.
    assert found.ode_sde.value == 0 < found.floor.value < 0.2
    assert str(found).endswith(f"{f'failed trajectories of the {broken.upper()}':32}   {share:.2%}")
    x = Dataset(jr.normal(jr.key(2), (200,)))
    section = Gap(**samplers)(wrong(0.0), x, key=jr.key(1))
    assert (section.numbers["failed"].value > 0) is (broken == "ode")
    assert section.notes[-1] == "The distances are without failed trajectories, those that are not finite at t0."


def test_all_failed_is_not_a_number() -> None:
    x = Dataset(jr.normal(jr.key(2), (20,)))
    numbers = Gap(ode=Stay(-math.inf), sde=Stay())(wrong(0.0), x, key=jr.key(1)).numbers
    assert math.isnan(numbers["ode_sde"].value)
    assert math.isnan(numbers["ode_data"].value)
    assert math.isfinite(numbers["sde_data"].value)
    assert numbers["failed"].value == 1


def test_conditioning_follows_its_sample() -> None:
    place = jnp.arange(30.0)[:, None]
    score = sfp.Score(lambda t, x, *, args: args, sfp.VP())
    found = sfp.ode_sde_gap(score, key=jr.key(0), data=place, args=place, ode=Shown(), sde=Stay())
    assert np.array_equal(found.ode, place)
    # In the audit a part of the samples is drawn, with its conditioning.
    part = Gap(20, Shown(), Stay())(score, Dataset(place, args=place), key=jr.key(0))
    assert part.numbers["ode_data"].value == 0 < part.numbers["sde_data"].value


def test_langevin_from_the_samples_of_the_sde() -> None:
    r"""[G3]: it leaves a normal law of variance v alone when the score is its own, and takes it to the variance w of
    another: $W_2^2 = (\sqrt v - \sqrt w)^2$ in one dimension."""
    sde, kept = sfp.VP(), {"samples": 2000, "ode": Stay(), "sde": Stay()}
    method = sfp.Langevin(steps=200, step_size=0.02)

    def found(variance: float) -> Any:
        score = sfp.Score(lambda t, x: -x / variance, sde, shape=())
        return sfp.ode_sde_gap(score, key=jr.key(5), langevin=method, data=jr.normal(jr.key(6), (2000,)), **kept)

    own, other = found(1.0), found(0.25)
    assert max(own.langevin_sde.value, own.langevin_data.value) < 0.02
    # The step widens the law a little: the variance is w / (1 - h / 2w).
    want = (1 - math.sqrt(0.25 / (1 - 0.02 / 0.5))) ** 2
    for distance in (other.langevin_sde, other.langevin_data):
        assert abs(float(distance.value) - want) < 4 * float(distance.error) + 0.01
    assert "W₂² of Langevin and SDE" in str(other)
    assert other.langevin.shape == (2000,)
    assert found(-1e-4).langevin_failed == 1


# ---------------------------------------------------------------------------------------------------------- the measure


def test_measure_tells_the_gap_with_its_interval() -> None:
    """Distances without a solve, the same key for the same draws."""
    x, key = jr.normal(jr.key(3), (60, 2)), jr.key(4)
    section = Gap(60, **STILL)(wrong(0.0, (2,)), Dataset(x), key=key)
    found = sfp.ode_sde_gap(wrong(0.0, (2,)), key=jr.split(key)[1], data=x, samples=60, **STILL)
    assert section.title == "gap"
    assert list(section.numbers) == ["ode_sde", "floor", "ode_data", "sde_data", "failed"]
    for name, distance in found.distances.items():
        number = section.numbers[name]
        assert number.unit == "length²"
        assert number.value == pytest.approx(float(distance.value))
        assert number.half_width == pytest.approx(1.96 * float(distance.error), rel=1e-4)


# ------------------------------------------------------------------------------------------------------------ bad input


def call(**settings: Any) -> Callable[[], Any]:
    return lambda: sfp.ode_sde_gap(wrong(0.0), key=jr.key(0), **(STILL | settings))


def test_histograms_take_the_conditioning_of_the_data() -> None:
    score = sfp.Score(lambda t, x, args: -x * args, sfp.VP())
    data = Dataset(jr.normal(jr.key(0), (64,)), args=jnp.linspace(0.5, 2, 64))
    settings = {"box": sfp.Box(jnp.asarray(-3.0), jnp.asarray(3.0)), "bins": 4, "ode": sfp.sampling.Euler(2)}
    settings |= {"sde": sfp.EulerMaruyama(2), "key": jr.key(0), "data": data}
    assert all(np.isfinite(sfp.ode_sde_gap(score, samples=n, **settings).ode_sde.value) for n in (8, 64))
    with pytest.raises(ValueError, match=r"data brings args for 64 samples, fewer than samples = 128"):
        sfp.ode_sde_gap(score, samples=128, **settings)


BAD: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "one sample": (ValueError, "samples = 1; a gap needs", call(samples=1)),
    "few data": (
        ValueError,
        "data holds 5 samples, fewer than samples = 6",
        call(data=np.ones(5), samples=6),
    ),
    "NaN": (ValueError, "sample 1 holds nan", call(data=np.array([1.0, np.nan]))),
    "integers": (TypeError, "the values have dtype int64 and quantisation is None", call(data=np.arange(5))),
    "shape of the data": (
        ValueError,
        r"a sample has shape \(2,\), but the score's own has shape \(\)",
        call(data=np.ones((5, 2))),
    ),
    "two shapes": (
        ValueError,
        r"a sample of data has shape \(2,\), but a sample of the gap has shape \(3,\)",
        call(data=np.ones((5, 2)), shape=(3,)),
    ),
    "no shape": (
        ValueError,
        "the event shape is not known",
        lambda: sfp.ode_sde_gap(sfp.Score(lambda t, x: -x, sfp.VP()), key=jr.key(0), **STILL),
    ),
    "box": (ValueError, "but the box has shape", call(samples=9, box=sfp.Box(np.zeros(2), np.ones(2)))),
    "measure of one sample": (ValueError, "samples = 1", lambda: Gap(1)),
    "batch": (ValueError, "batch_size = 0", lambda: Gap(batch_size=0)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, unchecked: None) -> None:
    kind, message, bad_call = BAD[name]
    refused(message, bad_call, error=kind)
