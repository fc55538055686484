"""Label dropout: which samples lose their conditioning, what is learned of it, and what is refused."""

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
from jaxtyping import Array

import scorefp as sfp
from scorefp import train
from scorefp.data import Dataset, OnHost
from scorefp.train import LabelDropout, TrainStep
from scorefp.train.labels import fitting

SDE, NULL = sfp.VP(), 2
MEANS, STD = np.array([[-1.0], [1.0]]), 0.3
LABELS = np.arange(256, dtype=np.int32) % 2
VALUES = (MEANS[LABELS] + STD * np.random.default_rng(0).normal(size=(256, 1))).astype(np.float32)


class Classified(eqx.Module):
    """A perceptron whose input is joined by a vector of the class."""

    network: sfp.nn.MLP
    table: Array

    def __call__(self, t: Array, x: Array, *, args: Array) -> Array:
        joined = jnp.concatenate([x, self.table[args]])
        return self.network(t, joined)[:1]


def model(classes: int = NULL) -> sfp.score.NetworkScore:
    network = sfp.nn.MLP((1 + classes,), width=32, depth=1, key=jr.key(1))
    network = eqx.tree_at(lambda n: n.leave.weight, network, jr.normal(jr.key(4), (1 + classes, 32)) / 3)
    table = jnp.concatenate([jnp.eye(classes), jnp.zeros((1, classes))])
    return sfp.NoiseScore(Classified(network, table), SDE, data_std=1.0)


def fitted(data: Any, steps: int = 4, **options: Any) -> train.Run:
    settings = {"optimizer": optax.adam(1e-2), "batch_size": 32, "report_every": 2, "key": jr.key(0)}
    settings |= {"label_dropout": LabelDropout(0.3, NULL), "progress": False}
    return train.fit(model(), sfp.DSM(), data, steps=steps, **(settings | options))


def labelled(**options: Any) -> Dataset:
    return Dataset(jnp.asarray(VALUES), args=jnp.asarray(LABELS), **options)


def test_a_share_of_the_rows_is_replaced_whole() -> None:
    """Each by itself, all arrays of a row at once, and other rows with another key."""
    n = 20_000
    args = {"label": jnp.arange(n), "place": jnp.ones((n, 2, 3)) * jnp.arange(n)[:, None, None]}
    null = {"label": -1, "place": np.full((2, 3), -2.0, np.float32)}
    dropout = fitting(
        LabelDropout(0.3, null),
        {"label": jax.ShapeDtypeStruct((), jnp.int32), "place": jax.ShapeDtypeStruct((2, 3), jnp.float32)},
    )
    found = dropout(args, key=jr.key(0))
    gone = np.asarray(found["label"] == -1)
    np.testing.assert_array_equal(found["label"], np.where(gone, -1, np.arange(n)))
    np.testing.assert_array_equal(found["place"], np.where(gone[:, None, None], -2.0, args["place"]))
    error = np.sqrt(0.3 * 0.7 / n)
    assert abs(gone.mean() - 0.3) < 4 * error
    # Neighbours do not know of each other.
    assert abs((gone[1:] & gone[:-1]).mean() - 0.09) < 4 * np.sqrt(0.09 * 0.91 / n)
    other = np.asarray(dropout(args, key=jr.key(1))["label"] == -1)
    assert abs((gone & other).mean() - 0.09) < 4 * np.sqrt(0.09 * 0.91 / n)
    for share in (0.0, 1.0):
        assert ((LabelDropout(share, null)(args, key=jr.key(0))["label"] == -1) == bool(share)).all()


def test_the_loss_is_the_mean_of_the_two_losses() -> None:
    """Over draws of the samples that lose their label, at the same noise and times."""
    score, x, labels = model(), jnp.asarray(VALUES[:64]), jnp.asarray(LABELS[:64])
    loss = jax.jit(lambda labels: sfp.DSM()(score, x, key=jr.key(2), args=labels))
    dropout = LabelDropout(0.3, NULL)
    draws = jax.jit(lambda keys: jax.lax.map(lambda key: loss(dropout(labels, key=key)), keys, batch_size=64))
    found = np.asarray(draws(jr.split(jr.key(3), 1024)), np.float64)
    conditional, unconditional = float(loss(labels)), float(loss(jnp.full_like(labels, NULL)))
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean() - (0.7 * conditional + 0.3 * unconditional)) < 4 * error
    assert abs(conditional - unconditional) > 20 * error


def test_a_step_draws_with_a_key_of_its_own() -> None:
    """A step does what it would do with these labels, on the batch, times and noise of a step without dropout."""
    params, skeleton = eqx.partition(model(), model().trained())
    settings = skeleton, sfp.DSM(), optax.sgd(1.0), sfp.UniformLogSNR(), 32, (0.9,), False
    step = TrainStep(*settings, label_dropout=LabelDropout(0.5, NULL))
    state = step.init(params, key=jr.key(3))
    samples, zero = (jnp.asarray(VALUES), jnp.asarray(LABELS)), jnp.asarray(0)
    key = jr.fold_in(jr.key(3), 0)
    index_key, _, loss_key = jr.split(key, 3)
    rows = jr.randint(index_key, (32,), 0, 256)
    own = LabelDropout(0.5, NULL)(samples[1][rows], key=jr.fold_in(key, 2**32 - 1))
    assert 4 < int((own == NULL).sum()) < 28
    records = eqx.filter_jit(step.step)(state, samples, zero)[1]
    loss = jax.jit(lambda labels: sfp.DSM()(model(), samples[0][rows], key=loss_key, args=labels))
    np.testing.assert_allclose(records["loss"], loss(own), rtol=1e-5)
    assert abs(records["loss"] / loss(samples[1][rows]) - 1) > 1e-3


def test_a_run_that_goes_on_has_the_same_bits(tmp_path: Path) -> None:
    """Of samples that are read on the host, in parts of a batch; many devices have it in test_devices.py."""
    data = OnHost(Dataset(VALUES, args=LABELS))
    whole = fitted(data, accumulate=2)
    first = fitted(data, 2, accumulate=2, checkpoints=train.Checkpoints(tmp_path, every=2))
    rest = fitted(data, accumulate=2, checkpoints=train.Checkpoints(tmp_path, every=2))
    losses = np.concatenate([first.history["loss"], rest.history["loss"]])
    np.testing.assert_array_equal(losses, whole.history["loss"])
    message = "label_dropout.share was 0.3, is 0.4"
    settings = {"accumulate": 2, "checkpoints": train.Checkpoints(tmp_path, every=2)}
    refused(message, fitted, data, 6, error=train.CheckpointError, label_dropout=LabelDropout(0.4, NULL), **settings)


@pytest.mark.slow
def test_one_network_learns_both_scores() -> None:
    """Those of the modes and of the mixture: the errors are small against the difference of the two."""
    run = fitted(
        labelled(),
        1500,
        optimizer=optax.adam(optax.cosine_decay_schedule(1e-2, 1500)),
        report_every=500,
        batch_size=256,
    )
    modes = [sfp.GaussianMixture(MEANS[i : i + 1], np.array([STD**2]), np.ones(1)).score(SDE) for i in range(2)]
    both = sfp.GaussianMixture(MEANS, np.full(2, STD**2), np.full(2, 0.5)).score(SDE)
    t = SDE.time_of_log_snr(jnp.array([-1.0, 0.0, 1.0, 2.0]))
    x0 = jnp.asarray(VALUES)

    @jax.jit
    def error(learned: Any, exact: Any, x0: Array) -> Array:
        def one(t: Array, x0: Array, noise: Array) -> Array:
            x = SDE.diffuse(t, x0, noise)
            return jnp.sum((SDE.sigma(t) * (learned(t, x) - exact(t, x))) ** 2)

        noise = jr.normal(jr.key(5), (len(t), *x0.shape))
        return jnp.mean(jax.vmap(lambda t, noise: jax.vmap(one, (None, 0, 0))(t, x0, noise))(t, noise))

    # By the label of a learned score and the exact one, on the samples of a class.
    for label in range(3):
        errors = [
            float(error(run.model.bind(args=label), other, x0 if label == 2 else x0[label::2]))
            for other in (*modes, both)
        ]
        assert errors[label] < 0.02, (label, errors)
        assert min(e for i, e in enumerate(errors) if i != label) > 5 * errors[label], (label, errors)


def test_what_does_not_fit_is_refused() -> None:
    of = lambda null: {"label_dropout": LabelDropout(0.1, null)}
    for data in (jnp.asarray(VALUES), OnHost(Dataset(VALUES))):
        refused("label_dropout is given, but data have no conditioning", fitted, data, **of(2))
    for data in (labelled(), OnHost(Dataset(VALUES, args=LABELS))):
        refused("null is of the structure", fitted, data, error=TypeError, **of((2, 2)))
        refused(r"null holds an array of shape \(2,\); that of one .* has \(\)", fitted, data, **of(np.array([2, 2])))
        refused("null holds 0.5 of dtype float.*has dtype int32", fitted, data, error=TypeError, **of(0.5))
        refused("null holds .* of dtype float32.*has dtype int32", fitted, data, error=TypeError, **of(np.float32(2)))
        refused("null = 3000000000; int32.*holds -2147483648", fitted, data, **of(3_000_000_000))
    floats = Dataset(jnp.asarray(VALUES), args=jnp.asarray(VALUES))
    refused("null holds NaN", fitted, floats, **of(np.full(1, np.nan, np.float32)))
    refused(r"share = 1\.5; a share", LabelDropout, 1.5, 2)
    refused("null is None", LabelDropout, 0.1, None)
