"""Training: one compile, the same bits for a key, the average, what is trained, and what is refused."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers.refusals import refused

import scorefp as sfp
from scorefp import train
from scorefp.data import Dataset, OnHost
from scorefp.train import TrainStep
from scorefp.train.loop import repeated

SDE = sfp.VP()


def model(key: int = 0, **options: Any) -> sfp.score.NetworkScore:
    return sfp.NoiseScore(sfp.nn.MLP((2,), width=16, depth=1, key=jr.key(key)), SDE, **options)


def law() -> sfp.GaussianMixture:
    return sfp.GaussianMixture(jnp.array([[-1.0, 0.0], [1.0, 0.0]]), jnp.array([0.1, 0.2]), jnp.array([0.4, 0.6]))


def fitted(steps: int, key: int = 0, *, start: Any = None, data: Any = None, **options: Any) -> train.Run:
    settings = {"loss": sfp.DSM(), "optimizer": optax.adam(1e-2), "batch_size": 32, "report_every": 20}
    start = model() if start is None else start
    data = law().sample(jr.key(9), 256) if data is None else data
    return train.fit(start, data=data, steps=steps, key=jr.key(key), progress=False, **(settings | options))


@pytest.mark.quick
def test_the_loss_goes_where_the_exact_score_has_it() -> None:
    """The excess of DSM over that of the exact score is the error of the score: most of it is trained away."""
    x = law().sample(jr.key(1), 4096)
    run = fitted(600, key=2, data=x, batch_size=256)
    exact = law().score(SDE)
    loss = jax.jit(lambda score, key: sfp.DSM()(score, x, key=key))
    before, after, best = (
        np.mean([loss(score, k) for k in jr.split(jr.key(3), 8)]) for score in (model(), run.model, exact)
    )
    assert best < after
    assert after - best < 0.1 * (before - best)


@pytest.mark.quick
def test_the_same_key_gives_the_same_bits_and_another_does_not() -> None:
    first, again, other = fitted(50), fitted(50), fitted(50, key=1)
    np.testing.assert_array_equal(first.history["loss"], again.history["loss"])
    same = jax.tree.map(lambda a, b: bool((a == b).all()), *(eqx.filter(r.model, eqx.is_array) for r in (first, again)))
    assert all(jax.tree.leaves(same))
    assert not np.array_equal(first.history["loss"], other.history["loss"])


@pytest.mark.parametrize(
    "source", [Dataset, lambda x: OnHost(Dataset(np.asarray(x)))], ids=["on the device", "on the host"]
)
def test_one_compile_for_any_number_of_steps(source: Any) -> None:
    traces = 0

    def weighting(sde: Any, t: jax.Array) -> jax.Array:
        nonlocal traces
        traces += 1
        return sfp.likelihood_weighting(sde, t)

    data = source(law().sample(jr.key(9), 256))
    settings = {"data": data, "loss": sfp.DSM(weighting), "optimizer": optax.sgd(1e-3)}
    fitted(20, **settings)
    once = traces
    for steps in (20, 70, 45, 80, 41):
        run = fitted(steps, key=steps, **settings)
        assert len(run.history["loss"]) == steps
        assert np.isfinite(run.history["loss"]).all()
    assert traces == once


def test_parts_of_a_run_are_one_run() -> None:
    np.testing.assert_array_equal(fitted(45).history["loss"], fitted(45, report_every=45).history["loss"])


def test_average_is_its_recursion() -> None:
    params, skeleton = eqx.partition(model(), model().trained())
    step = TrainStep(skeleton, sfp.DSM(), optax.sgd(1e-3), sfp.UniformLogSNR(), 32, (0.3,), False)
    data = Dataset(law().sample(jr.key(9), 256))
    state = step.init(params, key=jr.key(0))
    advance = eqx.filter_jit(lambda state: step.step(state, (data.values, data.args), jnp.asarray(0))[0])
    average = np.asarray(state.averages[0].network.enter.weight)
    for k in range(6):
        state = advance(state)
        decay = min(0.3, (1 + k) / (10 + k))
        average = decay * average + (1 - decay) * np.asarray(state.params.network.enter.weight)
    np.testing.assert_allclose(state.averages[0].network.enter.weight, average, rtol=1e-5)
    assert not np.allclose(average, state.params.network.enter.weight, atol=1e-7)


def test_clipping_bounds_the_step() -> None:
    def moved(clip: float | None) -> float:
        run = fitted(1, optimizer=optax.sgd(1.0), clip=clip)
        pairs = zip(*(jax.tree.leaves(eqx.filter(m, eqx.is_inexact_array)) for m in (run.last, model())), strict=True)
        return float(np.sqrt(sum(np.sum((a - b) ** 2) for a, b in pairs)))

    assert moved(0.01) == pytest.approx(0.01, rel=1e-4)
    assert moved(None) > 0.02


def test_only_the_network_is_trained() -> None:
    std = jnp.array([0.5, 0.7])
    start = model(data_std=std)
    run = fitted(20, start=start, optimizer=optax.adamw(1e-2, weight_decay=0.5))
    np.testing.assert_array_equal(run.last.data_std, std)
    assert not np.allclose(run.last.network.leave.weight, start.network.leave.weight)
    # The caller's model keeps its buffers.
    assert np.isfinite(start(0.5, jnp.ones(2))).all()


def test_every_term_is_recorded() -> None:
    loss = sfp.DSM() + 0.5 * sfp.ScoreFPE(fraction=0.25) + 0.1 * sfp.ZeroCurl()
    history = fitted(30, loss=loss, optimizer=optax.adam(1e-3)).history
    total = history["DSM"] + 0.5 * history["ScoreFPE"] + 0.1 * history["ZeroCurl"]
    np.testing.assert_allclose(history["loss"], total, rtol=1e-5)


def test_the_loop_lowers_for_gpus_and_tpus() -> None:
    """Without a call of the host, which would stop the device at every step."""
    loss = sfp.DSM() + sfp.ScoreFPE() + sfp.TimeDerivativeTaming() + sfp.ZeroCurl()
    params, skeleton = eqx.partition(model(), model().trained())
    step = TrainStep(skeleton, loss, optax.adam(1e-3), sfp.UniformLogSNR(), 32, (0.999,), False)
    data = Dataset(law().sample(jr.key(9), 256))
    state = step.init(params, key=jr.PRNGKey(0))
    arrays, rest = eqx.partition((step, state, data), eqx.is_array)

    def loop(arrays: Any, count: jax.Array) -> Any:
        step, state, data = eqx.combine(arrays, rest)
        return eqx.filter(repeated(step.step, (data.values, data.args), state, count, 10), eqx.is_array)

    exported = jax.export.export(jax.jit(loop), platforms=["cuda", "tpu"])(arrays, jnp.asarray(10))
    assert exported.platforms == ("cuda", "tpu")
    assert "callback" not in exported.mlir_module()


def test_nothing_is_handed_to_the_device_inside_a_part() -> None:
    """JAX's guard sees this direction on CPUs; the other is in test_devices.py."""
    params, skeleton = eqx.partition(model(), model().trained())
    step = TrainStep(skeleton, sfp.DSM(), optax.adam(1e-3), sfp.UniformLogSNR(), 32, (0.999,), False)
    data = Dataset(law().sample(jr.key(9), 256))
    state, count = step.init(params, key=jr.key(0)), jnp.asarray(5)
    loop = eqx.filter_jit(lambda state, count: repeated(step.step, (data.values, data.args), state, count, 5))
    jax.block_until_ready(loop(state, count))
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(loop(state, count))
        refused("Disallowed host-to-device transfer", loop, state, np.asarray(5), error=Exception)


def test_conditioning_reaches_the_model() -> None:
    class Shifted(eqx.Module):
        shift: jax.Array

        def __call__(self, t: jax.Array, x: jax.Array, *, args: jax.Array) -> jax.Array:
            return x + self.shift * args

    score = sfp.NoiseScore(Shifted(jnp.ones(())), SDE)
    data = Dataset(law().sample(jr.key(9), 256), args=jnp.arange(256.0) / 256)
    run = fitted(5, start=score, data=data, optimizer=optax.sgd(1e-3))
    assert float(run.last.network.shift) != 1.0


def test_a_loss_that_is_not_finite_is_named() -> None:
    def weighting(sde: Any, t: jax.Array) -> jax.Array:
        return jnp.nan * t

    loss = sfp.DSM() + sfp.ScoreFPE(weighting=weighting)
    with pytest.raises(FloatingPointError, match=r"not finite at step 0; terms that are not finite: \['ScoreFPE'\]"):
        fitted(5, loss=loss, optimizer=optax.adam(1e-3))


def test_errors() -> None:
    refused("batch_size = 300; the data have 256 samples", fitted, 5, batch_size=300)
    refused("steps = 0", fitted, 0)
    refused(r"clip = 0\.0; it is positive and finite", fitted, 5, clip=0.0)
    refused("without floating arrays to train", fitted, 1, start=sfp.Score(lambda t, x: -x, SDE))
    general = sfp.GeneralSDE(SDE.drift, SDE.diffusion, SDE.prior, t0=SDE.t0, t1=SDE.t1)
    with pytest.raises(TypeError, match="no Gaussian kernel"):
        sfp.DSM()(sfp.Score(lambda t, x: -x, general), jnp.ones((4, 2)), key=jr.key(0))
