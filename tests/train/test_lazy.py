"""Lazy terms in a training: which steps have them, in parts of a batch, and in a run that goes on."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import optax
from helpers.refusals import refused

import scorefp as sfp
from scorefp import train

X = jr.normal(jr.key(0), (64, 2))
LOSS = sfp.DSM() + 0.3 * sfp.Lazy(sfp.ScoreFPE(fraction=0.5), every=4)
OPTIMIZER = optax.sgd(1e-2)


def fitted(steps: int, loss: Any = LOSS, **options: Any) -> train.Run:
    mlp = sfp.nn.MLP((2,), width=16, depth=1, key=jr.key(1))
    mlp = eqx.tree_at(lambda n: n.leave.weight, mlp, 0.3 * jr.normal(jr.key(4), mlp.leave.weight.shape))
    model = sfp.NoiseScore(mlp, sfp.VP(), data_std=1.0)
    settings = {"optimizer": OPTIMIZER, "key": jr.key(2), "batch_size": 32, "report_every": 5, "progress": False}
    return train.fit(model, loss, X, steps=steps, **(settings | options))


def test_every_fourth_step_of_a_run(tmp_path: Path) -> None:
    """Also with a stop between two of them: the number of the step decides, and the bits are those of one run."""
    whole = fitted(20)
    values = whole.history["Lazy(ScoreFPE)"]
    np.testing.assert_array_equal(values != 0, np.arange(20) % 4 == 0)
    np.testing.assert_allclose(whole.history["loss"], whole.history["DSM"] + 0.3 * values, rtol=1e-6)
    saved = train.Checkpoints(tmp_path, every=5)
    fitted(10, checkpoints=saved)
    rest = fitted(20, checkpoints=saved)
    assert rest.start == 10
    np.testing.assert_array_equal(rest.history["Lazy(ScoreFPE)"], values[10:])
    for one, other in zip(*map(jax.tree.leaves, (rest.state.params, whole.state.params)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_mean_of_the_history_is_that_of_the_term() -> None:
    """At a model that does not move; with the same draws at the steps that both have."""
    lazy, full = (
        fitted(400, sfp.DSM() + 0.0 * penalty, optimizer=optax.sgd(0.0)).history
        for penalty in (sfp.Lazy(sfp.ScoreFPE(), every=4), sfp.ScoreFPE())
    )
    found, want = lazy["Lazy(ScoreFPE)"], full["ScoreFPE"]
    np.testing.assert_allclose(found[::4], 4 * want[::4], rtol=1e-3)
    error = np.std(4 * want[::4]) / 10
    assert abs(found.mean() - want.mean()) < 4 * error < 0.5 * want.mean()


def test_parts_of_a_batch_are_of_one_step() -> None:
    parts = fitted(6, accumulate=2).history["Lazy(ScoreFPE)"]
    np.testing.assert_array_equal(parts != 0, np.arange(6) % 4 == 0)


def test_a_run_with_other_steps_is_another(tmp_path: Path) -> None:
    saved = train.Checkpoints(tmp_path, every=5)
    fitted(5, checkpoints=saved)
    other = sfp.DSM() + 0.3 * sfp.Lazy(sfp.ScoreFPE(fraction=0.5), every=2)
    refused("every was 4, is 2", fitted, 10, other, checkpoints=saved, error=train.CheckpointError)
