"""A training run that stands a kill at any moment: `python kill_training.py FOLDER`, the same again to go on.

`python kill_training.py FOLDER endless` saves after every step and keeps one checkpoint, without end.

It has all that a state may hold: a source read on the host, dropout, labels, two averages, accumulated gradients, an
optimizer with a schedule, and a best checkpoint beside the last ones. It saves often, so that many kills hit a save.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import scorefp as sfp
from scorefp import data, train

STEPS, EVERY = 120, 4
LEVELS = np.random.default_rng(0).integers(0, 8, (50, 3))
LABELS = np.arange(50) % 4
SOURCE = data.OnHost(data.Dataset(LEVELS, sfp.Quantisation(8, -1.0, 1.0), args=LABELS))
OPTIMIZER = optax.adamw(optax.cosine_decay_schedule(1e-2, STEPS))
LOSS = sfp.DSM() + 0.1 * sfp.ScoreFPE(fraction=0.5)


class Network(eqx.Module):
    """A perceptron with labels and dropout."""

    enter: eqx.nn.Linear
    leave: eqx.nn.Linear
    labels: eqx.nn.Embedding
    dropout: eqx.nn.Dropout

    def __init__(self, key: jax.Array) -> None:
        one, two, three = jr.split(key, 3)
        self.enter = eqx.nn.Linear(4, 16, key=one)
        self.leave = eqx.nn.Linear(16, 3, key=two)
        self.labels = eqx.nn.Embedding(4, 16, key=three)
        self.dropout = eqx.nn.Dropout(0.2)

    def __call__(self, t: jax.Array, x: jax.Array, *, args: Any = None, key: jax.Array | None = None) -> jax.Array:
        h = jnp.tanh(self.enter(jnp.append(x, t)) + (0.0 if args is None else self.labels(args)))
        return self.leave(self.dropout(h, key=key, inference=True if key is None else None))


def model(seed: int = 0) -> sfp.score.NetworkScore:
    return sfp.NoiseScore(Network(jr.key(seed)), sfp.VP(), data_std=jnp.asarray([0.5, 0.6, 0.7]))


def trained(
    folder: Path | None, *, callbacks: Sequence[Callable[[train.Report], None]] = (), **options: Any
) -> train.Run:
    """The run, with checkpoints in a folder if one is given."""
    settings = {"data": SOURCE, "steps": STEPS, "optimizer": OPTIMIZER, "key": jr.key(1), "batch_size": 16}
    return train.fit(
        **{"model": model(), "loss": LOSS} | settings | options,
        decay=(0.5, 0.9),
        accumulate=2,
        dropout=True,
        report_every=EVERY,
        evaluate=lambda score: {"size": float(jnp.square(score(0.5, jnp.ones(3))).sum())},
        evaluate_every=EVERY,
        callbacks=callbacks,
        checkpoints=None if folder is None else train.Checkpoints(folder, every=EVERY, keep=2, best="size"),
        progress=False,
    )


def endless(folder: Path) -> None:
    """A run that deletes a checkpoint many times a second."""
    train.fit(
        model(),
        LOSS,
        SOURCE,
        optimizer=OPTIMIZER,
        steps=10**6,
        key=jr.key(1),
        batch_size=16,
        report_every=1,
        callbacks=(said,),
        checkpoints=train.Checkpoints(folder, every=1, keep=1),
        progress=False,
    )


def said(report: train.Report) -> None:
    """Tells the one who waits to kill that training is under way."""
    print(report.step, flush=True)


if __name__ == "__main__":
    if sys.argv[2:] == ["endless"]:
        endless(Path(sys.argv[1]))
    trained(Path(sys.argv[1]), callbacks=(said,))
    print("end", flush=True)
