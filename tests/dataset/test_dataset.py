"""Data sets: what a batch holds, the standard deviation, what is refused, and that every entry point takes one."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers.references import assert_mean, line_mixture
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp
from scorefp.data import OnHost, digits, split
from scorefp.dataset import Dataset, Interval
from scorefp.dataset.dataset import as_dataset
from scorefp.dataset.dequantise import spread
from scorefp.diagnostics import Bound, Ensemble, MatchingCurve
from scorefp.score import NetworkScore
from scorefp.train import fit_dequantiser
from scorefp.train.batches import batches_of

pytestmark = pytest.mark.quick

BYTES, LEVELS = sfp.Quantisation(256, -1.0, 1.0), sfp.Quantisation(17, -1.0, 1.0)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8])
def test_batches_lie_inside_their_levels(dtype: type, getkey: Callable[[], Array]) -> None:
    """Bytes with all their 256 levels, and uniform inside each."""
    levels = np.arange(256).reshape(128, 2)
    data = Dataset(jnp.asarray(levels, dtype), sfp.Quantisation(256, -1.0, 1.0))
    index = jnp.asarray([3, 127, 3, 0])
    batch = jax.jit(lambda key: spread(data.rows(index).values, data.quantisation, key=key))
    x = batch(getkey())
    assert x.dtype == jnp.float32
    for values, level in ((x, levels[np.asarray(index)]), (data.dequantised(getkey()).values, levels)):
        place = (np.asarray(values, np.float64) + 1) * 128 - level
        # The round-off of float32 at level 256.
        assert place.min() > -1e-4
        assert place.max() < 1 + 1e-4
    # Drawn anew with each key, also for the same sample twice.
    assert not np.array_equal(x[0], x[2])
    assert not np.array_equal(x, batch(getkey()))
    place = (np.stack([batch(key) for key in jr.split(getkey(), 200)]) + 1) * 128 - levels[np.asarray(index)]
    assert_mean(place.reshape(200, -1), np.full(8, 0.5), resolution=0.1)
    assert_mean(place.reshape(200, -1) ** 2, np.full(8, 1 / 3), resolution=0.1)


def test_batches_of_floats(getkey: Callable[[], Array]) -> None:
    x = jr.normal(getkey(), (6, 2, 1))
    args = {"label": jnp.arange(6), "c": jr.normal(getkey(), (6, 3))}
    data, index = Dataset(x, args=args), jnp.asarray([5, 0, 5])
    batch = data.rows(index)
    np.testing.assert_array_equal(spread(batch.values, batch.quantisation, key=getkey()), x[index])
    np.testing.assert_array_equal(batch.args["label"], [5, 0, 5])
    np.testing.assert_array_equal(batch.args["c"], args["c"][index])
    np.testing.assert_array_equal(data.dequantised(getkey()).values, x)
    assert (len(data), data.shape) == (6, (2, 1))


def test_std() -> None:
    """The root of the mean square about zero, of what the model sees."""
    x = jnp.array([[1.0, 2.0], [3.0, 6.0]])
    assert Dataset(x).std == pytest.approx(np.sqrt((1 + 4 + 9 + 36) / 4))
    # Three levels on [-1, 1]: uniform over the interval if they are equally frequent, of variance one third.
    even = Dataset(jnp.array([[0], [1], [2]]), sfp.Quantisation(3, -1.0, 1.0))
    assert even.std == pytest.approx(np.sqrt(1 / 3))
    train = digits("train")
    squares = [np.mean(np.asarray(train.dequantised(key).values, np.float64) ** 2) for key in jr.split(jr.key(0), 20)]
    assert train.std**2 == pytest.approx(np.mean(squares), rel=1e-4)


@pytest.mark.usefixtures("unchecked")
def test_bad_values() -> None:
    x = np.ones((2000, 2), np.float32)
    x[1500, 1], x[1501, 0] = np.nan, np.inf
    message = r"sample 1500 holds nan; 2 of 2000 samples have NaN or infinite entries\. Remove"
    for values in (x, jnp.asarray(x)):
        refused(message, Dataset, values)
        refused(message, as_dataset, values)
    x[1500, 1], x[1501, 0] = 1.5, -3.0
    message = r"sample 1500 holds 1\.5, outside \[-1\.0, 1\.0\]; 2 of 2000 samples .* Declare the interval that"
    refused(message, Dataset, x, interval=Interval(-1.0, 1.0))
    assert len(Dataset(x, interval=Interval(-3.0, 1.5))) == 2000
    levels = np.ones((5, 2), np.int64)
    for bad in (-1, 17):
        refused(rf"sample 0 holds the level {bad}, outside 0 … 16; 5 of 5 samples", Dataset, bad * levels, LEVELS)
    refused(r"sample 0 holds the level -1, outside 0 … 255", Dataset, -levels.astype(np.int8), BYTES)
    message = r"dtype int64 and quantisation is None; integer levels need Quantisation\("
    refused(message, Dataset, levels, error=TypeError)
    message = r"dtype float64 and a quantisation; levels are integers 0 … 255.* np\.round\(values \* 255\)"
    refused(message, Dataset, np.ones((5, 2)), BYTES, error=TypeError)
    refused(r"dtype bool and quantisation is None", Dataset, np.ones((5, 2), bool), error=TypeError)
    message = r"have the quantisation .* and the interval .* Leave interval out"
    refused(message, Dataset, levels, BYTES, interval=Interval(0.0, 1.0))
    message = r"args has arrays with \[\(5,\), \(4,\)\] rows, values has 5; each sample needs"
    refused(message, Dataset, levels, BYTES, [np.ones((5, 1)), np.arange(4)])
    message = r"args has an array of dtype <U3; .* np\.unique\(names, return_inverse=True\)"
    refused(message, Dataset, levels, BYTES, np.asarray(["cat"] * 5), error=TypeError)
    for few in (np.ones((0, 3)), np.ones((1, 3)), np.asarray(1.0)):
        message = r"values has shape .*; it needs at least two samples, stacked along the first axis"
        refused(message, Dataset, few)
    for index in ([0, 5], [-1, 0], [3]):
        message = (
            rf"index holds {len(index)} numbers, {int(len(index) > 1)} of them outside 0 … 4; it needs at least two"
        )
        for data in (Dataset(levels, BYTES), as_dataset(Dataset(levels, BYTES))):
            refused(message, data.rows, np.asarray(index))
    message = r"shape = \(1, 3\) has 3 entries, the samples have shape \(2,\) with 2"
    for data in (Dataset(levels, BYTES), OnHost(Dataset(levels, BYTES))):
        refused(message, data.reshaped, (1, 3))


@pytest.mark.parametrize("ends", [(1.0, 1.0), (0.0, np.inf), (2.0, 1.0)])
def test_bad_intervals(ends: tuple[float, float]) -> None:
    refused(r"an interval is finite with low < high", Interval, *ends)


# ---------------------------------------------------------------------------------------- one type for every entry


def test_dequantised_samples_know_their_levels() -> None:
    data = Dataset(np.arange(34, dtype=np.uint8).reshape(17, 2) % 17, LEVELS, args=np.arange(17))
    floats = data.dequantised(jr.key(0))
    assert data.levels == floats.quantisation == LEVELS
    assert floats.levels is None
    np.testing.assert_array_equal(jnp.floor((floats.values + 1) * 8.5), data.values)
    assert floats.dequantised(jr.key(1)) is floats
    chosen, rows = floats.drawn(5, key=jr.key(2))
    assert len(set(rows.tolist())) == len(chosen) == 5
    np.testing.assert_array_equal(chosen.args, rows)
    np.testing.assert_array_equal(chosen.values, floats.values[rows])


def test_dequantised_samples_are_floats_to_all_that_trains() -> None:
    """They are placed inside their levels once, not twice."""
    data = digits("test")
    floats = data.dequantised(jr.key(0))
    assert floats.std == pytest.approx(Dataset(floats.values).std) == pytest.approx(data.std, rel=1e-2)
    batches = batches_of(floats, 8, 1, None, key=jr.key(1))
    values, _ = batches.pick(batches.take(1), jnp.asarray(0), 8, jr.key(2))
    x = spread(values, batches.levels, key=jr.key(3))
    assert np.isin(np.asarray(x), np.asarray(floats.values)).all()
    refused("dataset was dequantised once and for all; give its levels", OnHost, floats)
    start = sfp.likelihood.variational_dequantiser((64,), data.quantisation, layers=1, width=4, key=jr.key(4))
    settings = {"optimizer": optax.sgd(1e-3), "steps": 1, "key": jr.key(5)}
    refused("a dequantiser is trained on integer levels", fit_dequantiser, start, exact(), floats, **settings)


@pytest.mark.usefixtures("unchecked")
def test_traced_samples_are_checked() -> None:
    """What is known when a program is traced is refused then, and NaN as it runs."""
    of = lambda x: jax.eval_shape(lambda x: as_dataset(x).values, x)
    refused("quantisation is None; integer levels need Quantisation", of, jnp.ones((4, 2), int), error=TypeError)
    refused("it needs at least two samples", of, jnp.ones((1, 2)))
    with_args = lambda x: jax.eval_shape(lambda x: Dataset(x, args=jnp.arange(3)).values, x)
    refused(r"args has arrays with \[\(3,\)\] rows, values has 4", with_args, jnp.ones((4, 2)))
    # Not by the whole message: it comes from the runtime of XLA.
    with pytest.raises(Exception, match="data holds NaN or infinite entries"):
        jax.block_until_ready(jax.jit(lambda x: as_dataset(x).values)(jnp.asarray([[1.0], [jnp.nan]])))


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_set_of_samples_is_refused() -> None:
    source = OnHost(np.ones((4, 2)))
    assert source.shape == (2,)
    refused(
        r"data is a OnHost; give a Dataset, or an array .* give source\.load\(\)", as_dataset, source, error=TypeError
    )
    data = Dataset(np.ones((4, 2)))
    for index in (np.arange(4) == 3, np.ones((2, 2), int), np.ones(2)):
        refused("it is a row of whole numbers", data.rows, index)
    assert [len(part) for part in split(np.ones((8, 2)), 0.25, seed=0)] == [6, 2]


def given(t: Array, x: Array, *, args: Array) -> Array:
    """The exact score of N(c, 1/4) under VP, with c the conditioning."""
    sde = sfp.VP()
    return -(x - sde.alpha(t) * args) / (sde.alpha(t) ** 2 / 4 + sde.sigma(t) ** 2)


def exact() -> sfp.score.AbstractPotential:
    return line_mixture().score(sfp.VP())


@pytest.mark.usefixtures("x64")
def test_means_over_samples_know_the_conditioning_of_each() -> None:
    """The entropy of x given c [K5], in closed form; and another number where the c of others are given."""
    c = jr.normal(jr.key(0), (400,))
    x, score, key = c + 0.5 * jr.normal(jr.key(1), (400,)), sfp.Score(given, sfp.VP()), jr.key(2)
    found, mixed = (sfp.entropy(score, Dataset(x, args=args), key=key) for args in (c, c[::-1]))
    want = 0.5 * np.log(2 * np.pi * np.e / 4)
    assert abs(found.value - want) < 4 * found.error < 0.3
    assert abs(mixed.value - want) > 10 * np.hypot(found.error, mixed.error)
    bound = sfp.likelihood.prior_kl_bound(sfp.VP(), Dataset(x, args=c))
    assert bound.value == sfp.likelihood.prior_kl_bound(sfp.VP(), x).value
    for call in (sfp.likelihood.kl_bound, sfp.kl_decomposition):
        refused(
            "xs brings args, and the truth is one law of all samples", call, score, exact(), Dataset(x, args=c), key=key
        )
    refused("xs brings args", sfp.likelihood.prior_kl, exact(), Dataset(x, args=c), key=key)


@pytest.mark.usefixtures("x64")
def test_levels_are_dequantised_where_samples_are_taken() -> None:
    """Of levels, of their floats, and of neither without a key."""
    quantisation = sfp.Quantisation(64, -4.0, 4.0)
    levels = jnp.clip(jnp.floor((line_mixture().sample(jr.key(0), 400) + 4) * 8), 0, 63).astype(jnp.int32)
    data, truth, key = Dataset(levels, quantisation), exact(), jr.key(1)
    of_levels, of_floats = (sfp.entropy(truth, x, key=key) for x in (data, data.dequantised(jr.key(2))))
    assert of_levels.value != of_floats.value
    assert abs(of_levels.value - of_floats.value) < 4 * np.hypot(of_levels.error, of_floats.error)
    bounds = [sfp.likelihood.prior_kl_bound(sfp.VP(), x) for x in (data.dequantised(key), data.dequantised(key).values)]
    assert bounds[0].value == bounds[1].value
    refused(r"xs holds levels, .* give xs\.dequantised\(key\)", sfp.likelihood.prior_kl_bound, sfp.VP(), data)
    # A measure by itself takes what an audit takes.
    numbers = MatchingCurve(Ensemble(3, 10))(truth, data.rows(jnp.arange(12)), key=key).numbers
    assert all(np.isfinite(number.value) for number in numbers.values())


@pytest.mark.usefixtures("x64")
def test_points_compare_scores_sample_by_sample() -> None:
    """The number is the mean of its points, and the difference of two scores is far sharper paired than not."""
    x = line_mixture().sample(jr.key(0), 200)
    truth = exact()
    scores = truth, sfp.Score(lambda t, x: truth(t, x) + 0.02, sfp.VP())
    first, second = (
        sfp.audit(score, x, key=jr.key(1), measures=(Bound(estimator=sfp.BoundEstimator(8)),))["bound"]
        for score in scores
    )
    assert first.numbers["bound"].value == pytest.approx(first.points["bound"].mean())
    paired = np.std(second.points["bound"] - first.points["bound"])
    assert 0 < paired < 0.1 * np.std(first.points["bound"])


class Twice(eqx.Module):
    """A network with a score inside."""

    inner: sfp.score.AbstractScore
    weight: Array

    def __call__(self, t: Array, x: Array) -> Array:
        return self.weight * self.inner(t, x)


def test_a_score_says_what_is_trained() -> None:
    network = sfp.nn.MLP(shape=(2,), width=4, key=jr.key(0))
    inner = sfp.NoiseScore(network, sfp.VP(), data_std=jnp.ones(2)).bind(args=jnp.ones(3))
    own = sfp.LinearSDE(lambda t: -t, lambda t: jnp.log(t), t0=0.01, t1=1.0)
    outer = sfp.Score(Twice(inner, jnp.ones(())), own).bind(args=jnp.ones(2), key=jr.key(0))

    def arrays(score: Any) -> int:
        return len(jax.tree.leaves(eqx.filter(score, score.trained())))

    of_network = len(jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array)))
    assert arrays(inner) == of_network
    assert arrays(outer) == of_network + 1
    assert arrays(sfp.Score(lambda t, x: -x, sfp.VP())) == 0
    mixed = NetworkScore(network, sfp.VP(), lambda sde, t: (0.5, 1.0), jnp.ones(2)).bind(args=jnp.ones(3))
    assert arrays(mixed) == of_network
