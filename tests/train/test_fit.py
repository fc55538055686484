"""Training for real work: sources, accumulation, several averages, reports, evaluation, and what is refused."""

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
from scorefp.data import AbstractSource, Dataset, OnHost
from scorefp.train import Report, TrainStep
from scorefp.train.batches import batches_of, in_order

SDE = sfp.VP()
OPTIMIZER = optax.adam(optax.linear_schedule(1e-2, 0.0, 100))
X = np.random.default_rng(0).normal(size=(96, 2)).astype(np.float32)


def model() -> sfp.score.NetworkScore:
    return sfp.NoiseScore(sfp.nn.MLP((2,), width=16, depth=1, key=jr.key(0)), SDE)


def fitted(data: Any, **options: Any) -> train.Run:
    settings = {"optimizer": OPTIMIZER, "steps": 45, "key": jr.key(1), "batch_size": 32, "report_every": 10}
    settings |= {"model": model(), "loss": sfp.DSM(), "progress": False}
    return train.fit(data=data, **(settings | options))


def weights(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))])


@pytest.mark.quick
def test_a_source_trains_as_its_batches_taken_one_by_one() -> None:
    """The loop over stacked batches, read ahead, is the step called with each batch in turn."""
    run = fitted(OnHost(Dataset(X)), report_every=15)
    params, skeleton = eqx.partition(model(), model().trained())
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), OPTIMIZER)
    step = TrainStep(skeleton, sfp.DSM(), optimizer, sfp.UniformLogSNR(), 32, (0.999,), False, pick=in_order)
    state, one = step.init(params, key=jr.key(1)), eqx.filter_jit(step.step)
    batches = batches_of(OnHost(Dataset(X)), 32, 1, None, key=jr.key(1))
    for _ in range(45):
        state, _ = one(state, batches.take(1), jnp.asarray(0))
    np.testing.assert_allclose(weights(state.params), weights(run.state.params), rtol=1e-4, atol=1e-6)
    assert np.abs(weights(run.state.params) - weights(params)).max() > 0.01


class Recorded(AbstractSource):
    """Data that note the seed of their order."""

    seeds: list[int] = eqx.field(static=True)
    quantisation: None = None
    interval: None = None
    shape: tuple[int, ...] = (2,)

    def batches(self, batch_size: int, *, seed: int, share: tuple[int, int] = (0, 1)) -> Any:
        self.seeds.append(seed)
        return OnHost(Dataset(X)).batches(batch_size, seed=seed, share=share)


def test_the_order_has_a_key_of_its_own() -> None:
    """It follows from the key of the run, and is neither that key nor the key of a step."""
    seeds: list[int] = []
    for key in (jr.key(1), jr.key(2), jr.key(1)):
        batches_of(Recorded(seeds), 32, 1, None, key=key)
    assert seeds[0] == seeds[2] != seeds[1]
    steps = [jr.key(1), *(jr.fold_in(jr.key(1), step) for step in range(200))]
    assert seeds[0] not in [int(jr.bits(key, dtype=jnp.uint32)) for key in steps]


def test_levels_stay_integers_until_the_device() -> None:
    """The loop is handed bytes, and dequantises them anew at each step."""
    levels = np.random.default_rng(0).integers(0, 4, (96, 2)).astype(np.uint8)
    quantisation = sfp.Quantisation(4, -1.0, 1.0)
    batches = batches_of(OnHost(Dataset(levels, quantisation)), 96, 1, None, key=jr.key(0))
    values, _ = in_order(batches.take(1), jnp.asarray(0), 96, jr.key(0))
    assert values.dtype == jnp.uint8
    x, other = (sfp.UniformDequantiser(quantisation).inside(values, key=jr.key(seed)).x for seed in (1, 2))
    levels = levels[np.lexsort(levels.T)]
    x, other = x[np.lexsort(np.asarray(values).T)], other[np.lexsort(np.asarray(values).T)]
    np.testing.assert_array_equal(jnp.floor((x + 1) / 0.5), levels)
    assert np.abs(x - other).max() > 0.1


def test_accumulation_is_the_mean_over_the_parts() -> None:
    params, skeleton = eqx.partition(model(), model().trained())

    def step(batch_size: int, accumulate: int) -> TrainStep:
        time = sfp.UniformLogSNR()
        return TrainStep(
            skeleton, sfp.DSM(), optax.sgd(1.0), time, batch_size, (0.9,), False, accumulate, pick=in_order
        )

    whole = step(32, 4)
    state = whole.init(params, key=jr.key(3))
    moved, records = eqx.filter_jit(whole.step)(state, (jnp.asarray(X[None, :32]), None), jnp.asarray(0))
    loss_key = jr.split(jr.fold_in(jr.key(3), 0), 3)[2]
    loss = lambda p, x0, key: sfp.DSM()(eqx.combine(p, skeleton), x0, key=key)
    both = jax.jit(jax.value_and_grad(loss))
    parts = [both(params, jnp.asarray(X[:32][j::4]), key) for j, key in enumerate(jr.split(loss_key, 4))]
    np.testing.assert_allclose(records["loss"], np.mean([value for value, _ in parts]), rtol=1e-5)
    expected = weights(params) - np.mean([weights(grad) for _, grad in parts], axis=0)
    np.testing.assert_allclose(weights(moved.params), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(weights(moved.params) - (weights(params) - weights(parts[0][1]))).max() > 0.01


def test_several_averages() -> None:
    run = fitted(X, decay=(0.5, 0.9, 0.0))
    assert [len(weights(m)) for m in run.averages] == [len(weights(run.last))] * 3
    np.testing.assert_array_equal(weights(run.model), weights(run.averages[0]))
    np.testing.assert_array_equal(weights(run.averages[2]), weights(run.last))
    alone = fitted(X, decay=0.9)
    np.testing.assert_allclose(weights(run.averages[1]), weights(alone.model), rtol=1e-6, atol=1e-7)
    far = [np.abs(weights(m) - weights(run.last)).max() for m in run.averages]
    assert far[1] > far[0] > 0


def test_reports_tell_what_happened_and_when() -> None:
    seen: list[Report] = []
    evaluated: list[float] = []

    def evaluate(score: Any) -> dict[str, float]:
        evaluated.append(float(score(0.5, jnp.ones(2))[0]))
        return {"value": evaluated[-1]}

    run = fitted(Dataset(jnp.asarray(X)), callbacks=(seen.append,), evaluate=evaluate, evaluate_every=20)
    assert [(r.first, r.step, r.steps) for r in seen] == [(k, min(k + 10, 45), 45) for k in range(0, 45, 10)]
    assert ["value" in r.metrics for r in seen] == [False, True, False, True, True]
    assert [r.metrics["value"] for r in seen if "value" in r.metrics] == evaluated
    assert list(seen[0].history) == ["loss", "DSM", "gradient_norm"]
    np.testing.assert_array_equal(np.concatenate([r.history["loss"] for r in seen]), run.history["loss"])
    assert seen[0].metrics["loss"] == pytest.approx(float(run.history["loss"][:10].mean()))
    # The models of earlier reports keep their own buffers.
    values = [float(r.model(0.5, jnp.ones(2))[0]) for r in seen]
    assert len(set(values)) == len(values)
    np.testing.assert_array_equal(weights(seen[-1].model), weights(run.model))


def test_fine_tuning_starts_from_the_model_it_is_given() -> None:
    first = fitted(X)
    loss = sfp.DSM() + 0.1 * sfp.ScoreFPE(fraction=0.25)
    tuned = fitted(X, model=first.model, loss=loss, optimizer=optax.sgd(0.0), steps=3, key=jr.key(2))
    np.testing.assert_array_equal(weights(tuned.last), weights(first.model))
    assert {"DSM", "ScoreFPE"} <= set(tuned.history)


class Ending(AbstractSource):
    """Batches that end after so many."""

    count: int
    quantisation: None = None
    interval: None = None
    shape: tuple[int, ...] = (2,)

    def batches(self, batch_size: int, *, seed: int, share: tuple[int, int] = (0, 1)) -> Any:
        count = self.count

        class Ends:
            taken = 0

            def __iter__(self) -> Any:
                return self

            def __next__(self) -> tuple[np.ndarray, None]:
                if self.taken == count:
                    raise StopIteration
                self.taken += 1
                return X[:batch_size], None

            def get_state(self) -> dict[str, Any]:
                return {"taken": self.taken}

            def set_state(self, state: dict[str, Any]) -> None:
                self.taken = state["taken"]

        return Ends()


def test_what_was_computed_is_reported_before_reading_fails() -> None:
    """Batches are read ahead; the error waits for the steps that are under way."""
    seen: list[int] = []
    with pytest.raises(ValueError, match="the batches of the source ended before the last step"):
        fitted(Ending(25), callbacks=(lambda report: seen.append(report.step),))
    assert seen == [10, 20]


def test_a_gradient_that_is_not_finite_is_named() -> None:
    """The loss may be finite where its gradient is not: the root of zero."""

    class Root(eqx.Module):
        scale: jax.Array

        def __call__(self, t: jax.Array, x: jax.Array) -> jax.Array:
            return x * jnp.sqrt(self.scale)

    start = sfp.NoiseScore(Root(jnp.zeros(())), SDE)
    refused(r"the gradient is not finite at step 0", fitted, X, model=start, steps=5, error=FloatingPointError)


def test_errors() -> None:
    with pytest.raises(ValueError, match="evaluate_every = 15 is no multiple of report_every = 10"):
        fitted(X, evaluate=lambda score: {}, evaluate_every=15)
    refused(r"decay = 1\.0; a decay lies in \[0, 1\)", fitted, X, decay=1.0)
    refused(r"batch_size = 32 is no multiple of accumulate = 5 times the number of devices, 1", fitted, X, accumulate=5)
    settings = train.Checkpoints("never", every=10, best="error")
    refused(r'checkpoints\.best = "error" names a number of evaluate, which is None', fitted, X, checkpoints=settings)
    with pytest.raises(ValueError, match=r"checkpoints\.every = 15 is no multiple of report_every = 10"):
        fitted(X, checkpoints=train.Checkpoints("never", every=15))
    refused("batch_size = 300; the data have 96 samples", fitted, OnHost(Dataset(X)), batch_size=300)
    for other in (X[:, :1], OnHost(Dataset(X[:, :1]))):
        refused(r"data holds samples of shape \(1,\), but one .* has shape \(2,\)\. Reshape", fitted, other)
    refused(r"samples of shape \(\), but .* shape \(2,\)\. A batch has a leading axis", fitted, X[:, 0])
