"""What is not finite is never saved, reported or returned, and the message names what made it so."""

from collections.abc import Callable
from pathlib import Path
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
from scorefp import data, train
from scorefp.train.loop import TrainState, not_finite

X = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
SOURCE = data.OnHost(data.Dataset(X))


def model() -> sfp.score.NetworkScore:
    return sfp.NoiseScore(sfp.nn.MLP((2,), width=8, depth=1, key=jr.key(1)), sfp.VP(), data_std=1.0)


def nan_at(step: int) -> optax.GradientTransformation:
    """Adam whose learning rate is NaN at one step."""
    return optax.adam(lambda count: jnp.where(count == step, jnp.nan, 1e-2))


def fitted(folder: Path | None = None, **options: Any) -> train.Run:
    settings = {"model": model(), "loss": sfp.DSM(), "data": X, "steps": 20, "key": jr.key(2), "batch_size": 16}
    settings |= {"optimizer": optax.adam(1e-2), "report_every": 5, "progress": False}
    if folder is not None:
        settings["checkpoints"] = train.Checkpoints(folder, every=5, keep=1)
    return train.fit(**(settings | options))


def is_finite(tree: Any) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)))


@pytest.mark.quick
@pytest.mark.parametrize("source", [X, SOURCE], ids=["on the device", "on the host"])
def test_the_last_good_checkpoint_stays_and_is_offered(source: Any, tmp_path: Path) -> None:
    """The losses up to the report are finite, and its last update is not."""
    reports: list[train.Report] = []
    message = (
        rf"the update of step 14 made .* in params/network/.*load\('{tmp_path}', model\) gives the model of step 10"
    )
    with pytest.raises(FloatingPointError, match=message) as error:
        fitted(tmp_path, data=source, optimizer=nan_at(14), callbacks=(reports.append,))
    assert "steps 10 … 14 are finite" in str(error.value)
    assert train.saved_steps(tmp_path) == [10]
    assert is_finite(train.load(tmp_path, model()))
    assert [report.step for report in reports] == [5, 10]
    # With the schedule mended the folder belongs to another run.
    refused(
        "was scale_by_schedule, is scale", fitted, tmp_path, optimizer=optax.adam(1e-2), error=train.CheckpointError
    )


def test_what_is_not_finite_is_not_returned() -> None:
    refused("the update of step 19 made NaN or infinite", fitted, optimizer=nan_at(19), error=FloatingPointError)
    assert is_finite(fitted(optimizer=nan_at(20)).state.params)


def test_nothing_is_offered_where_nothing_is_saved(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError) as error:
        fitted(tmp_path, optimizer=nan_at(4))
    assert "load(" not in str(error.value)
    assert train.saved_steps(tmp_path) == []


def test_an_average_alone_is_found() -> None:
    """It may be infinite where the parameters have come back."""
    state = train.TrainStep(
        *eqx.partition(model(), model().trained())[::-1][:1],
        sfp.DSM(),
        optax.adam(1.0),
        sfp.UniformLogSNR(),
        16,
        (0.9,),
        False,
    ).init(eqx.partition(model(), model().trained())[0], key=jr.key(0))
    assert not_finite(state) == []
    bad = eqx.tree_at(lambda s: s.averages[0].network.leave.bias, state, jnp.array([0.0, jnp.inf]))
    assert not_finite(bad) == ["averages/0/network/leave/bias"]
    bad = eqx.tree_at(lambda s: s.optimizer[0].nu.network.leave.bias, state, jnp.array([0.0, jnp.nan]))
    assert not_finite(bad) == ["optimizer/0/nu/network/leave/bias"]


def test_an_optimizer_may_begin_with_what_is_infinite() -> None:
    """The best value of one that watches a plateau is infinite at first."""

    def init(params: Any) -> Any:
        return {"best": jnp.asarray(jnp.inf), "count": jnp.zeros(())}

    def update(broken: bool) -> Callable[..., Any]:
        def change(updates: Any, state: Any, params: Any = None) -> Any:
            count = jnp.where(broken & (state["count"] >= 3), jnp.nan, state["count"] + 1)
            return jax.tree.map(lambda u: -1e-3 * u, updates), {"best": state["best"], "count": count}

        return change

    assert is_finite(fitted(optimizer=optax.GradientTransformation(init, update(False))).state.params)
    broken = optax.GradientTransformation(init, update(True))
    refused("the update of step 4 made .* in optimizer/.*count", fitted, optimizer=broken, error=FloatingPointError)


def test_a_model_that_is_not_finite_is_not_trained() -> None:
    bad = eqx.tree_at(lambda m: m.network.leave.bias, model(), jnp.array([jnp.nan, 0.0]))
    refused("before step 0: .*network/leave/bias", fitted, model=bad)


def test_a_dequantiser_is_not_returned_either() -> None:
    quantisation = sfp.Quantisation(2, -1.0, 1.0)
    levels = data.Dataset(jnp.array([[0], [1]] * 16), quantisation)
    score = sfp.GaussianMixture(jnp.zeros((1, 1)), jnp.array([0.1]), jnp.ones(1)).score(sfp.VP())
    start = sfp.likelihood.variational_dequantiser((1,), quantisation, layers=1, key=jr.key(0))
    settings = {"steps": 4, "key": jr.key(1), "batch_size": 8, "progress": False, "report_every": 4}
    with pytest.raises(FloatingPointError, match="the update of step 3 made NaN"):
        train.fit_dequantiser(start, score, levels, optimizer=nan_at(3), **settings)
    assert is_finite(train.fit_dequantiser(start, score, levels, optimizer=nan_at(4), **settings).dequantiser)


class Root(eqx.Module):
    """A network without a derivative where it begins."""

    scale: jax.Array

    def __call__(self, t: jax.Array, x: jax.Array) -> jax.Array:
        return x * jnp.sqrt(self.scale)


class Rooted(sfp.objective.AbstractTerm):
    """A term that is finite at a network that begins with zeros, and whose gradient is not."""

    fraction: float = 1.0

    def observe(self, score: Any, perturbed: Any, *, key: Any) -> Any:
        return None, None

    def integrand(self, sde: Any, perturbed: Any, value: Any, observed: Any) -> Any:
        return jnp.sqrt(jnp.sum((value * 0.0) ** 2))


@pytest.mark.parametrize("source", [X, SOURCE], ids=["on the device", "on the host"])
def test_the_term_without_a_gradient_is_named(source: Any) -> None:
    loss = sfp.DSM() + 0.5 * Rooted()
    message = r"the gradient is not finite at step 0; its terms are, and the gradient of \['Rooted'\] is not.*root"
    refused(message, fitted, loss=loss, data=source, error=FloatingPointError)
    start = sfp.NoiseScore(Root(jnp.zeros(())), sfp.VP(), data_std=1.0)
    message = r"the gradient of \['DSM', 'DSM 2'\] is not"
    refused(message, fitted, model=start, loss=sfp.DSM() + sfp.DSM(), error=FloatingPointError)


def test_a_gradient_that_stops_being_finite_later_has_a_way_on() -> None:
    """The parameters of that step are gone; at those of the start every term is well."""

    @jax.custom_jvp
    def broken(x: jax.Array, big: jax.Array) -> jax.Array:
        return x

    broken.defjvp(lambda at, along: (at[0], jnp.where(at[1], jnp.nan, 1.0) * along[0]))

    class Breaking(eqx.Module):
        scale: jax.Array

        def __call__(self, t: jax.Array, x: jax.Array) -> jax.Array:
            return x * broken(self.scale, self.scale > 1.05)

    start = sfp.NoiseScore(Breaking(jnp.asarray(0.5)), sfp.VP(), data_std=1.0)
    optimizer = optax.GradientTransformation(
        lambda params: (),
        lambda grads, state, params=None: (jax.tree.map(lambda g: jnp.full_like(g, 0.1), grads), state),
    )
    message = r"the gradient is not finite at step 6; its terms are\. .*train with one term at a time"
    refused(message, fitted, model=start, optimizer=optimizer, error=FloatingPointError)


def test_a_sum_that_is_not_finite() -> None:
    message = "the loss is not finite at step 0; each term is finite, and their sum is not. Look at the coefficients"
    refused(message, fitted, loss=3e38 * sfp.DSM(), error=FloatingPointError)
    assert isinstance(fitted(loss=2.0 * sfp.DSM()).state, TrainState)
