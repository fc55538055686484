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
    noise = sfp.UniformDequantiser(data.quantisation)
    batch = jax.jit(lambda key: noise.inside(data.rows(index).values, key=key).x)
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
    np.testing.assert_array_equal(batch.values, x[index])
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
    message = r"args has arrays with leading axes \[\(5,\), \(4,\)\], values has 5; each sample has its own"
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
    told = "an interval is finite with low < high" if np.isfinite(ends).all() else "high = inf; it is a finite number"
    refused(told, Interval, *ends)


@pytest.mark.usefixtures("unchecked")
def test_conditioning_is_checked_like_values() -> None:
    """NaN, infinite entries, and numbers that the device would change: by the sample, wherever they are read."""
    x = np.ones((5, 2), np.float32)
    places = [lambda args: Dataset(x, args=args), lambda args: OnHost(Dataset(x, args=args))]
    for bad in (np.nan, np.inf, -np.inf):
        for made in (np.asarray, jnp.asarray, lambda a: np.asarray(a, np.float16), lambda a: a[:, None]):
            args = {"good": np.arange(5), "bad": made(np.asarray([0.0, 1.0, 2.0, bad, bad]))}
            for place in places:
                refused(rf"args of sample 3 holds {bad}; 2 of 5 samples have NaN or infinite", place, args)
    for args, message in {
        "labels": (np.asarray([0, 1, 2**31, 3, 4]), r"args of sample 2 holds 2147483648, beyond the int32"),
        "negative": (np.asarray([0, -(2**31) - 1, 2, 3, 4]), r"args of sample 1 holds -2147483649, beyond the int32"),
        "unsigned": (np.full(5, 2**32, np.uint64), r"args of sample 0 holds 4294967296, beyond the uint32"),
        "floats": (
            np.asarray([0, 1, 2, 3, 1e39]),
            r"args of sample 4 holds 1e\+39, beyond the float32 .* jax_enable_x64",
        ),
    }.values():
        for place in places:
            refused(message, place, args)
    for good in (np.arange(5) - 2**31, np.full(5, 2**32 - 1, np.uint64), np.full(5, 3e38), np.ones(5, bool), None):
        assert len(Dataset(x, args=good)) == 5
    for strange, message in {
        "masked": (np.ma.masked_array(np.ones(5), [0, 0, 1, 0, 0]), "args is a masked array"),
        "complex": (np.ones(5, complex), "args has an array of dtype complex128"),
        "keys": (jr.split(jr.key(0), 5), "args has an array of dtype key"),
        "objects": (np.asarray([None] * 5), "args has an array of dtype object"),
        "long": (np.ones(5, np.longdouble), "args has an array of dtype float128, which no device holds"),
        "order": (np.ones(5, ">f4"), r"args has an array of dtype >f4, .* \.astype\('f4'\)"),
    }.values():
        refused(message, Dataset, x, args=strange, error=TypeError)


@pytest.mark.usefixtures("unchecked")
def test_numbers_that_the_device_would_change() -> None:
    for value in (1e39, -1e300):
        x = np.asarray([[0.0], [value], [value]])
        for place in (Dataset, as_dataset, OnHost):
            refused(r"sample 1 holds .*, beyond the float32 that the device holds, .*; 2 of 3 samples", place, x)
    assert as_dataset(np.full((3, 1), 3e38)).values.dtype == jnp.float32
    with jax.enable_x64(True):
        wide = Dataset(np.full((3, 1), 1e39), args=np.full(3, 2**40))
        assert as_dataset(wide).args.dtype == jnp.int64
    # Made where the device had 64 bits, and used where it has 32.
    refused(r"args of sample 0 holds 1099511627776, beyond the int32", as_dataset, wide)


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_number_of_a_sample() -> None:
    for dtype in (np.float16, jnp.bfloat16):
        for make in (np.ones, jnp.ones):
            message = rf"have dtype {np.dtype(dtype)}, in which .* give values\.astype\(np\.float32\)"
            for place in (Dataset, as_dataset, OnHost):
                refused(message, place, make((4, 2), dtype), error=TypeError)
    refused("dtype complex64 and quantisation is None", Dataset, jnp.ones((4, 2), complex), error=TypeError)
    refused("dtype float128, which no device holds", as_dataset, np.ones((4, 2), np.longdouble), error=TypeError)
    refused(r"dtype >f8, .* \.astype\('f8'\)", Dataset, np.ones((4, 2), ">f8"), error=TypeError)
    masked = np.ma.masked_array(np.ones((4, 2)), np.eye(4, 2))
    for place in (Dataset, as_dataset, OnHost):
        refused("is a masked array, whose mask would be lost", place, masked, error=TypeError)
    refused("values is a list", Dataset, [[1.0], [2.0]], error=TypeError)
    refused("data is a list", as_dataset, [[1.0], [2.0, 3.0]], error=TypeError)
    refused("dataset is 'x.npy'", OnHost, "x.npy", error=TypeError)
    refused("quantisation is 256", Dataset, np.ones((4, 2), int), 256, error=TypeError)
    refused("interval is a tuple", Dataset, np.ones((4, 2)), interval=(0.0, 1.0), error=TypeError)
    refused(r"values has shape \(4, 0\); .* of at least one entry each", Dataset, np.ones((4, 0)))
    assert len(as_dataset([[1.0], [2.0]])) == 2
    data = Dataset(np.ones((5, 2)))
    for most in (0, 1, -2):
        refused(rf"most = {most}; a data set has at least two", data.drawn, most, key=jr.key(0))
    refused("most = 2.0", data.drawn, 2.0, key=jr.key(0), error=TypeError)
    refused("key is 0", data.drawn, 2, key=0, error=TypeError)
    refused("key is 0", Dataset(np.ones((5, 2), int), LEVELS).dequantised, 0, error=TypeError)


@pytest.mark.usefixtures("unchecked")
def test_bad_quantisations() -> None:
    for levels in (256.5, 1e20, "256", None, 2.0):
        refused(r"levels = .*; it is a count", sfp.Quantisation, levels, 0.0, 1.0, error=TypeError)
    for levels in (1, 0, -3, 2**24 + 1, 10**20):
        refused(
            rf"levels = {levels}; quantised data have at least two levels, and at most", sfp.Quantisation, levels, 0, 1
        )
    for of in (lambda *ends: sfp.Quantisation(4, *ends), Interval):
        for ends in ((1, -1), (0, 0), (np.nan, 1), (0, np.nan), (-np.inf, 1), (0, np.inf)):
            told = r"\[low, high\] = .*; an interval is finite" if np.isfinite(ends).all() else "it is a finite number"
            refused(told, of, *ends)
        for ends, name in (
            ((1j, 2), "low"),
            (("0", 1), "low"),
            ((0, None), "high"),
            ((0, True), "high"),
            ((0, [1]), "high"),
        ):
            with pytest.raises((TypeError, ValueError), match=rf"{name} (is|has) .*; it is (a )?(real|scalar)"):
                of(*ends)
        assert of(np.float32(0), jnp.ones(())).high == 1.0
    assert sfp.Quantisation(np.int64(2**24), 0, 1).levels == 2**24


@pytest.mark.usefixtures("unchecked")
def test_bad_levels() -> None:
    few = sfp.Quantisation(4, 0.0, 1.0)
    for k in (4, -1, np.asarray([0, 2**32 + 1]), np.asarray([2**32 - 1], np.uint32), jnp.asarray([255], jnp.uint8)):
        for call in (few.checked_levels, lambda k: sfp.UniformDequantiser(few)(k, key=jr.key(0))):
            refused(r"k holds levels outside 0 … 3", call, k)
    for k in (1.0, np.ones(2), jnp.ones(2, bool), jnp.ones(2, complex), "1", None):
        refused(r"k has dtype .*; levels are integers 0 … 3", few.checked_levels, k, error=TypeError)
    for k in (3, np.asarray([0, 3], np.uint64), jnp.asarray([0, 3], jnp.int8)):
        np.testing.assert_array_equal(few.checked_levels(k), np.asarray(k))
    # A dtype may hold fewer numbers than there are levels.
    assert sfp.Quantisation(1024, 0.0, 1.0).checked_levels(jnp.asarray([255], jnp.uint8)).dtype == jnp.uint8
    k = jnp.asarray([1, 2])
    for u in (1.1 * jnp.ones(2), -0.1 * jnp.ones(2), jnp.full(2, jnp.nan)):
        refused(r"u holds positions outside \[0, 1\], or NaN", few.dequantise, k, u)
        with pytest.raises(Exception, match="u holds positions outside"):
            eqx.filter_jit(few.dequantise)(k, u)
    refused(r"u has shape \(\), but k has shape \(2,\)", few.dequantise, k, 0.5)
    refused(
        "u has dtype float16; a measurement does not round",
        few.dequantise,
        k,
        jnp.zeros(2, jnp.float16),
        error=TypeError,
    )
    refused("u has dtype int", few.dequantise, k, k, error=TypeError)
    refused("key is 0", sfp.UniformDequantiser(few), k, key=0, error=TypeError)
    refused("quantisation is 4", sfp.UniformDequantiser, 4, error=TypeError)


@pytest.mark.usefixtures("unchecked")
def test_bad_log_probabilities() -> None:
    bits = sfp.bits_per_dim
    for value in (np.nan, np.inf, np.asarray([1.0, np.nan])):
        refused(r"log_prob holds NaN or \+inf", bits, value, 4, BYTES)
        with pytest.raises(Exception, match="log_prob holds NaN"):
            eqx.filter_jit(lambda v: bits(v, 4, BYTES))(jnp.asarray(value))
    assert bits(-np.inf, 4, BYTES) == np.inf
    for value in (3, 1j, jnp.ones(2, bool)):
        refused("log_prob has dtype", bits, value, 4, BYTES, error=TypeError)
    for dtype in (jnp.float16, jnp.bfloat16):
        refused(
            "log_prob has dtype .*; a measurement does not round", bits, jnp.ones((), dtype), 4, BYTES, error=TypeError
        )
    for size in (0, -1):
        refused(rf"size = {size}", bits, 1.0, size, BYTES)
    for size in (4.0, "4", None):
        refused("size = .*; it is a count", bits, 1.0, size, BYTES, error=TypeError)
    refused("quantisation is 256", bits, 1.0, 4, 256, error=TypeError)


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
    assert batches.levels is None
    assert np.isin(np.asarray(values), np.asarray(floats.values)).all()
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
    refused(r"args has arrays with leading axes \[\(3,\)\], values has 4", with_args, jnp.ones((4, 2)))
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
        refused("it is a row of integers", data.rows, index)
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
