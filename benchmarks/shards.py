"""What a parameter costs: bytes of the state, bytes between devices, bytes and seconds of a checkpoint.

    python benchmarks/shards.py --out docs/assets

An `MLP` by `DSM` and Adam with one average, in float32, on four devices that a CPU passes for, with the batch in shares
(`fit(…, mesh=…)`) and with the parameters in shares as well (`shard="parameters"`). A row holds, for each parameter:

* the bytes of the state (parameters, average, moments of Adam) on one device;
* the bytes that a compiled step moves between the devices, by the shapes in its program: what is gathered, and the
  gradients that are summed. On CPUs these are summed whole and cut behind it; GPUs and TPUs sum each share where it
  stays, a half of the traffic;
* the bytes of its checkpoint on disk.

Then seconds, medians over rounds: how long training waits for a save, until the checkpoint is on disk (written, its
digests taken, flushed), and until it is read again into the same places, digests compared. Last, a run of `fit` that
saves at every report over one that saves nothing: the share of the time by which it is longer, and the share if
training waited for the disk. The thread that writes takes its time from the same processors here.
"""

import math
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from _timing import Row, arguments, machine, report, table, timed

import scorefp as sfp
from scorefp import train
from scorefp.train._background import Background
from scorefp.train.store import Store

DEVICES, BATCH, EVENT = 4, 64, 64
SIZES = {(1024, 9): 10, (2048, 12): 50}
"""Width and depth, and about how many million parameters they make."""
ADAM = optax.adam(1e-4)

TABLE = """\
| million parameters | in shares | state on a device | gathered | summed | on disk | waits | written | read |
| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| {millions:.1f} | {shard} | {state:.2f} B | {gathered:.2f} B | {summed:.2f} B | {disk:.2f} B \
| {waits:.2f} s | {written:.2f} s | {read:.2f} s |
"""


def model(width: int, depth: int) -> sfp.score.NetworkScore:
    return sfp.NoiseScore(sfp.nn.MLP((EVENT,), width=width, depth=depth, key=jr.key(0)), sfp.VP(), data_std=1.0)


def held(state: Any) -> int:
    """The bytes of a state on the first device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.float32)


def moved(text: str) -> dict[str, int]:
    """The bytes of the results of the collectives in a compiled program."""
    found = {"all-gather": 0, "all-reduce": 0, "reduce-scatter": 0}
    for result, kind in re.findall(r" = (\([^)]*\)|\S+) (all-gather|all-reduce|reduce-scatter)(?:-start)?\(", text):
        for shape in re.findall(r"f32\[([\d,]*)\]", result):
            found[kind] += 4 * math.prod(int(size) for size in shape.split(",") if size)
    return found


def row(width: int, depth: int, shard: Any, rounds: int) -> Row:
    start, mesh = model(width, depth), sfp.data_mesh()
    params, skeleton = eqx.partition(start, start.trained())
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    settings = {"mesh": mesh, "shard": shard}
    step = train.TrainStep(skeleton, sfp.DSM(), ADAM, sfp.UniformLogSNR(), BATCH, (0.999,), False, **settings)
    state = step.init(params, key=jr.key(1))
    samples = (jr.normal(jr.key(2), (BATCH, EVENT)), None)
    compiled = eqx.filter_jit(step.step).lower(state, samples, jnp.asarray(0)).compile().compiled
    traffic = moved(compiled.as_text())
    # Moments and averages of a real state are no zeros, which would be packed to nothing.
    state = jax.jit(lambda state: jax.tree.map(lambda a: noisy(a) if a.dtype == jnp.float32 else a, state))(state)
    arrays = {"params": state.params, "averages": state.averages, "optimizer": state.optimizer}
    seconds: list[tuple[float, float, float]] = []
    size = 0
    for _ in range(rounds):
        folder = Path(tempfile.mkdtemp())
        try:
            store, work, begin = Store(folder), Background(), time.perf_counter()
            store.begin(1, arrays, {}, {}, work)
            waits = time.perf_counter() - begin
            work.settle()
            written = time.perf_counter() - begin
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            begin = time.perf_counter()
            jax.block_until_ready(store.restore(arrays)[0])
            seconds.append((waits, written, time.perf_counter() - begin))
        finally:
            shutil.rmtree(folder)
    waits, written, read = np.median(seconds, axis=0).tolist()
    return {
        "millions": count / 1e6,
        "shard": "batch" if shard == "batch" else "batch and parameters",
        "state": held(state) / count,
        "gathered": traffic["all-gather"] / count,
        "summed": (traffic["all-reduce"] + traffic["reduce-scatter"]) / count,
        "disk": size / count,
        "waits": waits,
        "written": written,
        "read": read,
    }


def noisy(leaf: jax.Array) -> jax.Array:
    return leaf + 1e-3 * jr.normal(jr.key(leaf.size), leaf.shape)


def longer(rounds: int) -> dict[str, float]:
    """The seconds of a run without saves, with them, and of the saves by themselves."""
    data = np.random.default_rng(0).normal(size=(BATCH, EVENT)).astype(np.float32)
    steps, every = 60, 10
    start = model(1024, 9)

    def fitted(folder: Path | None) -> train.TrainState:
        saves = {} if folder is None else {"checkpoints": train.Checkpoints(folder, every=every, keep=1)}
        settings = {"optimizer": ADAM, "key": jr.key(1), "batch_size": BATCH, "progress": False}
        return train.fit(start, sfp.DSM(), data, steps=steps, report_every=every, **settings, **saves).state

    state = fitted(None)
    seconds: list[tuple[float, float, float]] = []
    for _ in range(rounds):
        folder = Path(tempfile.mkdtemp())
        try:
            bare, saved = timed(fitted, None)(), timed(fitted, folder / "run")()
            begin = time.perf_counter()
            for i in range(steps // every):
                Store(folder / "alone", keep=1).save(i, {"state": state}, {}, {})
            seconds.append((bare, saved, time.perf_counter() - begin))
        finally:
            shutil.rmtree(folder)
    bare, saved, alone = np.median(seconds, axis=0).tolist()
    return {"bare": bare, "saved": saved, "alone": alone}


def main() -> None:
    parser = arguments(__doc__ or "", 3, "shards", "how often each checkpoint is written and read")
    parser.add_argument("--largest", type=int, default=50, help="million parameters of the largest network")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", DEVICES)
    rows = [
        row(*shape, shard, options.rounds)
        for shape, millions in SIZES.items()
        for shard in ("batch", "parameters")
        if millions <= options.largest
    ]
    run = longer(options.rounds)
    over, waiting = 100 * (run["saved"] / run["bare"] - 1), 100 * run["alone"] / run["bare"]
    note = (
        f"\nA run of 60 steps of {rows[0]['millions']:.1f} million parameters on one device takes {run['bare']:.1f} s. "
        f"One that saves after every 10 steps takes {over:.0f} % longer; if it waited for the disk, it would take "
        f"{waiting:.0f} % longer. {machine()}."
    )
    report("shards", table(TABLE, rows), rows, note, options.out)


if __name__ == "__main__":
    main()
