"""Time of a step of `fit` over that of the same step written by hand.

    python benchmarks/train_step.py --out docs/assets

scikit-learn's digits, 17 levels, dequantised anew at each step; `DSM`, Adam behind a clip of the gradient's norm, one
average of the parameters, batches of 128, float32; an `MLP` and a small `UNet`. Three programs:

* `fit`: from one report to the next, with all that belongs to it: losses come to the host and are checked, the averaged
  model is copied, the callback is called.
* `scan`: the floor. The same draws and the same step by hand with optax, in one compiled `jax.lax.scan` whose losses
  come to the host at its end. Its losses are those of `fit` up to rounding; the largest difference is printed.
* `loop`: what a user writes with equinox: a jitted step, called from a Python loop with batches from numpy.

All take turns in a round, so that a machine that slows down slows all of them. A number is the median over rounds of
the time over that of `scan` in the same round; in brackets deciles 1 and 9. Traces are counted in all rounds together.
"""

import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from _timing import Row, arguments, in_turns, machine, milliseconds, report, spread, table

import scorefp as sfp
from scorefp import data, train

BATCH, CLIP, DECAY, SDE = 128, 1.0, 0.999, sfp.VP()
ADAM = optax.adam(1e-3)
BY_HAND = optax.chain(optax.clip_by_global_norm(CLIP), ADAM)
"""What `fit` makes of `ADAM` and `CLIP`."""

DIGITS = data.digits("train")
FLOOR = "scan"
TABLE = """\
| network | program | ms a step | over `scan` |
| --- | --- | ---: | ---: |
| {network} | `{program}` | {ms:.3f} | {over scan:.3f} |
"""
Program = Callable[[], tuple[float, np.ndarray]]
"""Returns the seconds of a step, and the losses."""


class Traced:
    """Counts how often an objective is traced."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, sde: Any, t: Any) -> Any:
        self.times += 1
        return sfp.likelihood_weighting(sde, t)


def models() -> dict[str, tuple[sfp.score.NetworkScore, data.Dataset]]:
    images = DIGITS.reshaped((1, 8, 8))
    flat = sfp.nn.MLP(DIGITS.shape, width=128, key=jr.key(0))
    unet = sfp.nn.UNet(images.shape, channels=16, multipliers=(1, 2), attention=(4,), key=jr.key(0))
    return {
        "MLP": (sfp.NoiseScore(flat, SDE, data_std=DIGITS.std), DIGITS),
        "UNet": (sfp.NoiseScore(unet, SDE, data_std=images.std), images),
    }


def fitted(model: sfp.score.NetworkScore, images: data.Dataset, loss: sfp.DSM, steps: int) -> Program:
    common = {"optimizer": ADAM, "key": jr.key(1), "batch_size": BATCH, "decay": DECAY, "clip": CLIP, "progress": False}

    def run() -> tuple[float, np.ndarray]:
        at: list[float] = []
        clock = lambda report: at.append(time.perf_counter())
        done = train.fit(model, loss, images, steps=2 * steps, report_every=steps, callbacks=(clock,), **common)
        return (at[1] - at[0]) / steps, done.history["loss"][:steps]

    return run


def updated(carry: Any, rest: Any, loss: sfp.DSM, x: Any, key: Any, rate: Any) -> tuple[Any, jax.Array]:
    """Parameters, their average and the state of the optimizer after a step by hand, and its loss."""
    params, average, state = carry
    value, grads = jax.value_and_grad(lambda p: loss(eqx.combine(p, rest), x, key=key))(params)
    updates, state = BY_HAND.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    return (params, optax.incremental_update(params, average, rate), state), value


def scanned(model: sfp.score.NetworkScore, images: data.Dataset, loss: sfp.DSM, steps: int) -> Program:
    start, rest = eqx.partition(model, model.trained())
    key, levels, quantisation = jr.key(1), images.values, images.quantisation
    assert quantisation is not None

    def step(carry: Any, i: jax.Array) -> tuple[Any, jax.Array]:
        index_key, level_key, loss_key = jr.split(jr.fold_in(key, i), 3)
        k = levels[jr.randint(index_key, (BATCH,), 0, len(levels))]
        x = quantisation.low + quantisation.width * (k + jr.uniform(level_key, k.shape))
        return updated(carry, rest, loss, x, loss_key, 1 - jnp.minimum(DECAY, (1 + i) / (10 + i)))

    @eqx.filter_jit(donate="all")
    def many(carry: Any) -> tuple[Any, jax.Array]:
        return jax.lax.scan(step, carry, jnp.arange(steps))

    def run() -> tuple[float, np.ndarray]:
        params, average = (jax.tree.map(jnp.copy, start) for _ in range(2))
        carry = jax.block_until_ready((params, average, BY_HAND.init(params)))
        begin = time.perf_counter()
        carry, losses = many(carry)
        losses = np.asarray(losses)
        assert np.isfinite(losses).all()
        jax.block_until_ready(carry)
        return (time.perf_counter() - begin) / steps, losses

    return run


def looped(model: sfp.score.NetworkScore, images: data.Dataset, loss: sfp.DSM, steps: int) -> Program:
    levels = np.asarray(images.values, np.float32)
    start, rest = eqx.partition(model, model.trained())

    @eqx.filter_jit
    def step(carry: Any, x: Any, key: Any) -> tuple[Any, jax.Array]:
        return updated(carry, rest, loss, x, key, 1 - DECAY)

    def run() -> tuple[float, np.ndarray]:
        carry = start, start, BY_HAND.init(start)
        rng, key, losses = np.random.default_rng(0), jr.key(1), list[jax.Array]()
        begin = time.perf_counter()
        for _ in range(steps):
            key, step_key = jr.split(key)
            k = levels[rng.integers(len(levels), size=BATCH)]
            x = (k + rng.random(k.shape, np.float32)) * (2 / 17) - 1
            carry, value = step(carry, x, step_key)
            losses.append(value)
        jax.block_until_ready(carry)
        return (time.perf_counter() - begin) / steps, np.asarray(losses)

    return run


def compared(name: str, rounds: int, steps: int) -> list[Row]:
    """One row a program."""
    model, images = models()[name]
    counters = {"fit": Traced(), FLOOR: Traced(), "loop": Traced()}
    makers = {"fit": fitted, FLOOR: scanned, "loop": looped}
    programs = {key: make(model, images, sfp.DSM(counters[key]), steps) for key, make in makers.items()}
    losses = {key: program()[1] for key, program in programs.items()}
    first = {key: counter.times for key, counter in counters.items()}
    seconds = in_turns({key: lambda program=program: program()[0] for key, program in programs.items()}, rounds)
    difference = float(np.max(np.abs(losses["fit"] / losses[FLOOR] - 1)))
    return [
        {
            "network": name,
            "program": key,
            "ms": milliseconds(seconds[key]),
            "over scan": spread(seconds[key] / seconds[FLOOR]),
            "traced later": counters[key].times - first[key],
            "loss from scan": difference if key == "fit" else None,
        }
        for key in programs
    ]


def main() -> None:
    parser = arguments(__doc__, 15, "train_step")
    parser.add_argument("--steps", type=int, nargs=2, default=[400, 20], help="steps a round of MLP and UNet")
    options = parser.parse_args()
    mlp, unet = (compared(name, options.rounds, steps) for name, steps in zip(models(), options.steps, strict=True))
    rows = mlp + unet
    parts = [row for row in rows if row["program"] == "fit"]
    note = (
        f"{options.rounds} rounds of {options.steps[0]} and {options.steps[1]} steps, batches of {BATCH}; "
        f"{machine()}. In brackets deciles 1 and 9. Losses of `fit` and `scan` differ by "
        f"{max(row['loss from scan'] for row in parts):.0e} at most, relatively; `fit` was traced "
        f"{sum(row['traced later'] for row in parts)} times after its first call."
    )
    report("train_step", table(TABLE, rows), rows, note, options.out)


if __name__ == "__main__":
    main()
