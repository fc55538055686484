"""Data sets: levels, ranges, the split of the digits, and what is refused."""

import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import pytest

import scorefp as sfp
from scorefp.data import Dataset, digits


@pytest.mark.quick
def test_digits_are_the_whole_set_split_once() -> None:
    from sklearn.datasets import load_digits

    train, test = digits("train"), digits("test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.shape == test.shape == (64,)
    both = np.concatenate([train.values, test.values])
    real = load_digits().data.astype(int)
    np.testing.assert_array_equal(np.sort(both @ np.arange(1, 65)), np.sort(real @ np.arange(1, 65)))
    np.testing.assert_array_equal(train.values, digits("train").values)
    assert both.min() == 0
    assert both.max() == 16


def test_levels_are_spread_over_their_width() -> None:
    """[K7]: level k covers [low + k w, low + (k + 1) w); a uniform position has variance w² / 12."""
    quantisation = sfp.Quantisation(17, -1.0, 1.0)
    levels = jnp.tile(jnp.arange(17), (2000, 1))
    data = Dataset(levels, quantisation)
    w = 2 / 17
    for x in (data.dequantised(jr.key(0)), data.batch(jnp.arange(2000), key=jr.key(1))[0]):
        inside = (x + 1) / w - levels
        assert inside.min() >= -1e-5
        assert inside.max() <= 1 + 1e-5
        spread = np.asarray(inside).var(axis=0)
        # The variance of a sample variance of a uniform law is (1/80 - 1/144) / n.
        np.testing.assert_allclose(spread, 1 / 12, atol=5 * np.sqrt((1 / 80 - 1 / 144) / 2000))


def test_std_is_the_root_mean_square_of_what_the_model_sees() -> None:
    data = digits("train")
    x = np.asarray(data.dequantised(jr.key(0)), np.float64)
    error = (x**2).std() / np.sqrt(x.size) / (2 * data.std)
    assert abs(np.sqrt((x**2).mean()) - data.std) < 5 * error
    floats = Dataset(jnp.array([[3.0], [4.0]]))
    assert floats.std == pytest.approx(np.sqrt(12.5))


def test_batches_bring_their_args() -> None:
    data = Dataset(jnp.arange(5.0)[:, None], args={"label": jnp.arange(5)})
    x, args = data.batch(jnp.array([3, 1]), key=jr.key(0))
    np.testing.assert_array_equal(x[:, 0], [3.0, 1.0])
    np.testing.assert_array_equal(args["label"], [3, 1])


def test_errors() -> None:
    bad = jnp.ones((6, 2)).at[4, 1].set(jnp.nan)
    with pytest.raises(ValueError, match="NaN or infinite entries in 1 of 6 samples, the first at index 4"):
        Dataset(bad)
    with pytest.raises(TypeError, match="quantisation is None; integer levels need"):
        Dataset(jnp.ones((6, 2), int))
    with pytest.raises(ValueError, match=r"levels outside 0 … 3"):
        Dataset(jnp.full((6, 2), 4), sfp.Quantisation(4, 0.0, 1.0))
    # What a user sees, without the checks of types that come with the tests.
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(TypeError, match="levels are integers"):
            Dataset(jnp.ones((6, 2)), sfp.Quantisation(4, 0.0, 1.0))
        with pytest.raises(ValueError, match='the digits have the splits "train" and "test"'):
            digits("validation")
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    with pytest.raises(ValueError, match="needs two samples"):
        Dataset(jnp.ones((1, 2)))
    with pytest.raises(ValueError, match="each sample needs its own"):
        Dataset(jnp.ones((6, 2)), args=jnp.ones(5))
