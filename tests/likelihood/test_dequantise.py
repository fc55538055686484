"""Dequantisation with a density of the noise [K7]: its laws, the inequality it gives, and its training."""

import functools
import math
import sys
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers.references import assert_mean
from helpers.refusals import refused
from jaxtyping import Array
from paramax import NonTrainable

import scorefp as sfp
from scorefp.data import Dataset
from scorefp.likelihood import variational_dequantiser
from scorefp.train import fit_dequantiser

# Few and wide levels, so that a density bends inside them.
COARSE = sfp.Quantisation(6, -1.0, 1.0)
CENTRES, VARIANCES, WEIGHTS = np.array([-0.4, 0.5]), np.array([0.02, 0.01]), np.array([0.5, 0.5])


def mixture() -> sfp.GaussianMixture:
    return sfp.GaussianMixture(jnp.asarray(CENTRES)[:, None], jnp.asarray(VARIANCES), jnp.asarray(WEIGHTS))


def dequantiser(size: int) -> sfp.VariationalDequantiser:
    """One whose noise is uniform; the same object for the same size and precision, which is compiled once."""
    return _dequantiser(size, jnp.result_type(float))


@functools.cache
def _dequantiser(size: int, dtype: np.dtype) -> sfp.VariationalDequantiser:
    return variational_dequantiser((size,), COARSE, layers=2, width=16, key=jr.key(0))


def bent(size: int) -> sfp.VariationalDequantiser:
    """One whose noise is far from uniform and depends on the levels."""
    start = dequantiser(size)
    params, rest = eqx.partition(start, eqx.is_inexact_array, is_leaf=lambda node: isinstance(node, NonTrainable))
    leaves, structure = jax.tree.flatten(params)
    keys = jr.split(jr.key(1), len(leaves))
    moved = [leaf + 0.3 * jr.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return eqx.combine(jax.tree.unflatten(structure, moved), rest)


def grid(count: int = 1000) -> Array:
    return (jnp.arange(count) + 0.5) / count


@eqx.filter_jit
def draws(noise: sfp.VariationalDequantiser, k: Array, keys: Array) -> tuple[Array, Array]:
    """Noise of each sample, and its log-density."""
    return jax.vmap(lambda k, key: noise.positions(k, key=key))(k, keys)


@eqx.filter_jit
def log_density(noise: sfp.VariationalDequantiser, k: Array, u: Array) -> Array:
    """log q(u | k) of one entry, on a grid, by the flow's own inverse."""
    condition = noise.condition(k[None])
    return jax.vmap(lambda v: noise.flow.log_prob(v[None], condition))(u)


@eqx.filter_jit
def bits(line: sfp.GaussianMixture, noise: sfp.VariationalDequantiser | None, u: Array) -> Array:
    r"""$E_u[-\log p(x) + \log q(u \mid k)] - \log w$ in bits for each level, by quadrature."""

    def of_level(k: Array) -> Array:
        x = COARSE.place(jnp.full(u.shape, k), u)
        log_p = jax.vmap(lambda y: line.log_prob(y[None]))(x)
        log_q = jnp.zeros_like(u) if noise is None else log_density(noise, k, u)
        return jnp.mean(jnp.exp(log_q) * sfp.bits_per_dim(log_p - log_q, 1, COARSE))

    return jax.vmap(of_level)(jnp.arange(COARSE.levels))


def cell_probabilities() -> np.ndarray:
    edges = np.linspace(COARSE.low, COARSE.high, COARSE.levels + 1)
    standard = (edges[:, None] - CENTRES) / np.sqrt(VARIANCES)
    return np.diff(np.asarray(jax.scipy.stats.norm.cdf(standard)) @ WEIGHTS)


# ------------------------------------------------------------------------------------------------ laws


@pytest.mark.parametrize(("shape", "double"), [((), True), ((2, 2), False)])
def test_noise_stays_inside_its_level(shape: tuple[int, ...], double: bool) -> None:
    with jax.enable_x64(double):
        noise = bent(math.prod(shape))
        k = jr.randint(jr.key(2), (500, *shape), 0, COARSE.levels)
        keys = jr.split(jr.key(3), 500)
        parts = jax.jit(jax.vmap(lambda k, key: (*noise.positions(k, key=key), noise.draw(k, key=key))))
        u, log_prob, drawn = parts(k, keys)
        assert drawn.x.shape == (500, *shape)
        assert drawn.log_prob.shape == (500,)
        assert drawn.x.dtype == drawn.log_prob.dtype == (jnp.float64 if double else jnp.float32)
        assert float(u.min()) >= 0
        assert float(u.max()) < 1
        np.testing.assert_allclose(drawn.x, COARSE.place(k, u), atol=1e-6)
        np.testing.assert_allclose(drawn.log_prob, log_prob, atol=1e-6)
        # Another law than the uniform one, and not the same noise at each draw.
        assert float(jnp.std(log_prob)) > 0.05
        assert np.unique(np.asarray(u)).size > 0.99 * u.size


@pytest.mark.usefixtures("x64")
def test_density_of_the_noise_is_normalised() -> None:
    """In one dimension, for each level, and the levels have different laws."""
    noise, u = bent(1), grid()
    log_q = jax.vmap(lambda k: log_density(noise, k, u))(jnp.arange(COARSE.levels))
    np.testing.assert_allclose(np.exp(log_q).mean(axis=1), 1.0, atol=2e-4)
    assert np.all(np.std(log_q, axis=1) > 0.05)
    assert np.abs(np.asarray(log_q[1:] - log_q[:-1])).max(axis=1).min() > 0.05


def test_density_of_a_draw_is_that_of_the_inverse() -> None:
    noise = bent(4)
    k = jr.randint(jr.key(2), (50, 2, 2), 0, COARSE.levels)
    u, log_prob = draws(noise, k, jr.split(jr.key(3), 50))
    inverse = jax.jit(jax.vmap(lambda k, u: noise.flow.log_prob(u.reshape(-1), noise.condition(k))))
    np.testing.assert_allclose(log_prob, inverse(k, u), atol=1e-3)
    assert np.std(log_prob) > 0.05


@pytest.mark.usefixtures("x64")
def test_draws_follow_the_density() -> None:
    noise, k = bent(1), jnp.asarray(2)
    u, _ = draws(noise, jnp.full((4000, 1), 2), jr.split(jr.key(4), 4000))
    density = np.exp(log_density(noise, k, grid()))
    for power in (1, 2):
        want = np.mean(density * np.asarray(grid()) ** power)
        assert abs(want - 1 / (power + 1)) > 0.02
        assert_mean(np.asarray(u) ** power, np.array([want]))


def test_untrained_noise_is_uniform(getkey: Callable[[], Array]) -> None:
    noise = dequantiser(4)
    k = jr.randint(getkey(), (2000, 2, 2), 0, COARSE.levels)
    u, log_prob = draws(noise, k, jr.split(getkey(), 2000))
    np.testing.assert_allclose(log_prob, 0.0, atol=1e-5)
    u = np.asarray(u).reshape(2000, 4)
    assert_mean(u, np.full(4, 1 / 2))
    assert_mean(u**2, np.full(4, 1 / 3))
    uniform = sfp.UniformDequantiser(COARSE).draw(k[0], key=getkey())
    assert uniform.x.shape == (2, 2)
    assert float(uniform.log_prob) == 0.0


def test_condition_is_the_levels_on_the_unit_interval() -> None:
    noise = sfp.VariationalDequantiser(dequantiser(4).flow, sfp.Quantisation(256, 0.0, 5.0))
    condition = noise.condition(jnp.asarray([0, 255, 0, 128], jnp.uint8))
    np.testing.assert_allclose(condition, [-255 / 256, 255 / 256, -255 / 256, 1 / 256], rtol=1e-5)


# ------------------------------------------------------------------------------------------------ the inequality


@pytest.mark.usefixtures("x64")
def test_trained_bits_lie_between_the_code_length_and_the_uniform_bound() -> None:
    """Jensen [K7], all three by quadrature: no Monte Carlo in what is compared."""
    u, cells = grid(), cell_probabilities()
    exact = -np.log2(cells)
    uniform = np.asarray(bits(mixture(), None, u))
    levels = np.random.default_rng(0).choice(COARSE.levels, 5000, p=cells / cells.sum())
    run = fit_dequantiser(
        dequantiser(1),
        mixture().score(sfp.VP()),
        Dataset(jnp.asarray(levels)[:, None], COARSE),
        optimizer=optax.adam(optax.cosine_decay_schedule(1e-2, 600)),
        steps=600,
        key=jr.key(5),
        batch_size=64,
        draws=4,
        progress=False,
    )
    trained = np.asarray(bits(mixture(), run.dequantiser, u))
    for noise in (uniform, trained, np.asarray(bits(mixture(), bent(1), u))):
        # For each level, up to the error of the quadrature.
        assert np.all(noise > exact - 1e-4)
    gap = {"uniform": cells @ (uniform - exact), "trained": cells @ (trained - exact)}
    assert gap["uniform"] > 0.1
    assert gap["trained"] < 0.3 * gap["uniform"]
    # What the loss says of itself is the same number, with the noise of its draws: data and score share the density.
    want = np.log(2) * cells @ trained + np.log(COARSE.width)
    assert_mean(run.history["loss"][-150:][:, None], np.array([want]), resolution=0.2)
    np.testing.assert_allclose(run.history["loss"], run.history["bound"] + run.history["log_prob"], atol=1e-10)


# ------------------------------------------------------------------------------------------------ training


def levels(count: int = 32, size: int = 4) -> Dataset:
    return Dataset(jr.randint(jr.key(6), (count, size), 0, COARSE.levels), COARSE)


def network_score() -> sfp.score.NetworkScore:
    return sfp.NoiseScore(sfp.nn.MLP((4,), width=8, key=jr.key(7)), sfp.VP())


# One object, so that what is trained with it is compiled once.
OPTIMIZER = optax.adamw(1e-2, weight_decay=0.1)


def test_training_touches_nothing_but_the_flow() -> None:
    """Not the score, not the dequantiser it starts from, and not the ends of the unit cube, under weight decay too."""
    score, start = network_score(), dequantiser(4)
    before = jax.tree.map(np.array, eqx.filter((score, start), eqx.is_array))
    options = {"optimizer": OPTIMIZER, "steps": 7, "key": jr.key(8), "batch_size": 8, "report_every": 4}
    options["progress"] = False
    run = fit_dequantiser(start, score, levels(), **options)
    after = eqx.filter((score, start), eqx.is_array)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, after))
    # The same key gives the same run, which is cut into two parts.
    again = fit_dequantiser(start, score, levels(), **options)
    for name in ("loss", "bound", "log_prob"):
        assert run.history[name].shape == (7,)
        np.testing.assert_array_equal(run.history[name], again.history[name])
    moved = jax.tree.map(
        lambda a, b: not np.array_equal(a, b), *(eqx.filter(d, eqx.is_array) for d in (run.dequantiser, start))
    )
    base = jax.tree.leaves(eqx.filter(moved.flow.base_dist, lambda leaf: leaf is not None))
    assert base
    assert not any(base)
    assert any(jax.tree.leaves(moved))
    # A loss that is not finite stops the training, and its step is named though parameters are lost with it.
    bad = eqx.tree_at(lambda s: s.network.leave.weight, score, replace_fn=lambda w: w.at[0, 0].set(jnp.nan))
    with pytest.raises(FloatingPointError, match=r"not finite at step 0; terms that are not finite: \['bound'\]"):
        fit_dequantiser(start, bad, levels(), **options)


def test_training_knows_the_conditioning() -> None:
    """The bound is that of the score which knows the conditioning of its sample: without it there is none."""

    def score(t: Array, x: Array, *, args: Array) -> Array:
        return -(x - args)

    data = Dataset(jnp.array([[0], [3]] * 32), sfp.Quantisation(4, -2.0, 2.0), args=jnp.array([[-1.5], [1.5]] * 32))
    start = variational_dequantiser((1,), data.quantisation, layers=1, width=8, key=jr.key(0))
    settings = {"optimizer": optax.sgd(1e-3), "steps": 2, "batch_size": 64, "draws": 16, "progress": False}
    run, other = (
        fit_dequantiser(start, sfp.Score(score, sfp.VP()), held, key=jr.key(1), **settings)
        for held in (data, Dataset(data.values, data.quantisation, args=-data.args))
    )
    assert run.history["bound"].mean() + 0.5 < other.history["bound"].mean()


@pytest.mark.usefixtures("unchecked")
def test_bad_training() -> None:
    def fit(data: Dataset | None = None, **changes: object) -> object:
        options = {"optimizer": optax.sgd(0.1), "steps": 2, "key": jr.key(0), "batch_size": 8, "progress": False}
        return fit_dequantiser(dequantiser(4), network_score(), data or levels(), **(options | changes))  # pyright: ignore

    refused("data has no quantisation; a dequantiser is trained on integer levels", fit, Dataset(jnp.zeros((16, 2))))
    with pytest.raises(ValueError, match=r"data has Quantisation\((.|\n)*the two must be equal"):
        fit(Dataset(levels().values, sfp.Quantisation(6, 0.0, 1.0)))
    refused("batch_size = 33; the data have 32 samples", fit, batch_size=33)
    for name in ("steps", "draws", "report_every"):
        refused(f"{name} = 0", fit, **{name: 0})
    refused(r"k has shape \(3,\) and 3 elements, but the flow has 4", fit, levels(size=3))


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.quick
@pytest.mark.usefixtures("unchecked")
def test_bad_levels_and_flows(monkeypatch: pytest.MonkeyPatch) -> None:
    noise, key = dequantiser(4), jr.key(0)
    refused(r"k has dtype float32; levels are integers 0 … 5", noise.draw, jnp.zeros((2, 2)), key=key, error=TypeError)
    for outside in (-1, 6):
        refused("levels outside 0 … 5", noise, jnp.full((2, 2), outside), key=key)
    with pytest.raises(ValueError, match=r"k has shape \(7, 2, 2\) and 28 elements, but the flow has 4; .*jax.vmap"):
        noise.draw(jnp.zeros((7, 2, 2), int), key=key)
    with pytest.raises(TypeError, match=r"flow is a int; it needs sample_and_log_prob"):
        sfp.VariationalDequantiser(3, COARSE)  # pyright: ignore
    refused(r"shape\[1\] = 0; it is a count of at least 1", variational_dequantiser, (2, 0), COARSE, key=key)
    for name in ("layers", "width"):
        refused(f"{name} = 0; it is a count of at least 1", variational_dequantiser, (2,), COARSE, key=key, **{name: 0})
    monkeypatch.setitem(sys.modules, "flowjax", None)
    refused(r"pip install 'scorefp\[flow\]'", variational_dequantiser, (2,), COARSE, key=key, error=ImportError)


@pytest.mark.usefixtures("unchecked")
def test_a_flow_without_the_condition_is_refused() -> None:
    from flowjax.distributions import Uniform

    with pytest.raises(ValueError, match=r"flow has the shape \(2,\) and the condition's shape None; both must be"):
        sfp.VariationalDequantiser(Uniform(jnp.zeros(2), jnp.ones(2)), COARSE)
