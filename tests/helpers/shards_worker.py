"""Runs with parameters in shares for tests/train/test_shards.py, on all devices of all processes.

    python tests/helpers/shards_worker.py RESULTS [ADDRESS PROCESSES PROCESS]

Each process writes `RESULTS/{process}.npz` with the parameters and the losses of every run, and
`RESULTS/{process}.json` with what else it has seen. `RESULTS/one` holds a checkpoint of one device.
"""

import errno
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from helpers import devices_worker
from helpers.devices_worker import BATCH, OPTIMIZER, STEPS, Network, flat, loss, source
from jax.sharding import AxisType, Mesh

import scorefp as sfp
from scorefp import train
from scorefp._devices import everywhere
from scorefp.train import TrainStep, store

WIDTH, DEPTH = 128, 2
SHAPES = [(64, 64), (3, 4096), (64, 9, 128), (4097,), (64, 32), ()]


def model(seed: int = 0) -> sfp.score.NetworkScore:
    """The network of `devices_worker`, wide enough that most of it is cut."""
    mlp = sfp.nn.MLP((3,), width=WIDTH, depth=DEPTH, key=jr.key(seed))
    leave = jr.normal(jr.key(1), mlp.leave.weight.shape) / 5
    return sfp.NoiseScore(Network(eqx.tree_at(lambda m: m.leave.weight, mlp, leave), jnp.zeros((8, 3))), sfp.VP())


def fitted(mesh: Mesh | None, folder: Path | None = None, **options: Any) -> train.Run:
    """The run, in shares if there are devices."""
    settings = {"optimizer": OPTIMIZER, "steps": STEPS, "key": jr.key(2), "batch_size": BATCH, "dropout": True}
    settings |= {"accumulate": 2, "report_every": 5, "progress": False, "mesh": mesh}
    settings |= {"shard": "batch" if mesh is None else "parameters"}
    if folder is not None:
        settings["checkpoints"] = train.Checkpoints(folder, every=10)
    return train.fit(model(), loss(), source(), **(settings | options))


def copied(folder: Path, name: str) -> Path:
    """A copy of a folder of checkpoints, made by the first process and seen by all."""
    other = folder.with_name(name)
    if jax.process_index() == 0:
        shutil.copytree(folder, other, ignore=shutil.ignore_patterns(".*"))
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
    return other


def whole(tree: Any) -> np.ndarray:
    return flat(train.gathered(tree))


def counted(do: Callable[[], train.Run]) -> tuple[train.Run, int]:
    """A run, and how many times the loop of the training is compiled for it."""
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    logger = logging.getLogger("jax")
    logger.addHandler(handler)
    with jax.log_compiles(True):
        run = do()
    logger.removeHandler(handler)
    return run, sum("Compiling jit(_loop)" in message for message in seen)


def largest_share(state: Any) -> float:
    """The bytes of the state on the fullest device of this process over those of the whole."""
    held = dict.fromkeys(jax.local_devices(), 0)
    leaves = jax.tree.leaves((state.params, state.averages, state.optimizer))
    for leaf in leaves:
        for share in leaf.addressable_shards:
            held[share.device] += share.data.nbytes
    return max(held.values()) / sum(leaf.nbytes for leaf in leaves)


def program(mesh: Mesh, shard: Any) -> dict[str, float]:
    """The memory of a device and the collectives of a compiled step."""
    start = model()
    params, skeleton = eqx.partition(start, start.trained())
    settings = {"mesh": mesh, "shard": shard, "quantisation": devices_worker.QUANTISATION}
    step = TrainStep(skeleton, sfp.DSM(), OPTIMIZER, sfp.UniformLogSNR(), BATCH, (0.9,), True, **settings)
    data = devices_worker.resident()
    step, samples = everywhere((step, (data.values, data.args)), mesh)
    state = step.init(params, key=jr.key(0))
    lowered = eqx.filter_jit(lambda state, samples: step.step(state, samples, jnp.asarray(0))).lower(state, samples)
    compiled = lowered.compile().compiled
    memory, text = compiled.memory_analysis(), compiled.as_text()
    return {
        "arguments": memory.argument_size_in_bytes,
        "all": memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes,
        "gathers": len(re.findall(r" all-gather(?:-start)?\(", text)),
        "cut": sum(not leaf.is_fully_replicated for leaf in jax.tree.leaves(state.params)),
    }


def spec(tree: Any) -> list[str]:
    return [str(leaf.sharding.spec) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))]


def of_one_process(mesh: Mesh, folder: Path) -> tuple[dict[str, train.Run], dict[str, Any]]:
    """Other meshes, the compiled program, and models in shares, which one process can look at alone."""
    half = Mesh(np.array(jax.devices()[:2]), ("data",), axis_types=(AxisType.Auto,))
    runs = {
        "two devices": fitted(half, copied(folder / "own", "two")),
        "one device": fitted(None, copied(folder / "own", "none")),
        "batch": fitted(mesh, copied(folder / "own", "batch"), shard="batch"),
    }
    runs["back"] = fitted(mesh, copied(folder / "none", "back"), steps=STEPS + 10)
    start = model(seed=7)
    like = train.sharded(start, mesh)
    built = eqx.filter_jit(lambda: train.sharded(model(), mesh))()
    loaded = train.load(folder / "own", like)
    seen = {
        "programs": {shard: program(mesh, shard) for shard in ("batch", "parameters")},
        "cut": {str(shape): str(train.sharded(jnp.ones(shape), mesh).sharding.spec) for shape in SHAPES},
        "specs": [spec(like), spec(loaded), spec(built)],
        "same": bool(np.array_equal(whole(loaded), whole(train.load(folder / "own", start)))),
    }
    return runs, seen


def refused(mesh: Mesh, folder: Path) -> str:
    """What `fit` says where the disk of the last process is full at step 10."""
    write, last = store.write, jax.process_index() == jax.process_count() - 1

    def full(folder: Path, values: Any) -> None:
        if last and folder.parent.name == ".partial-10":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(folder, values)

    store.write = full
    try:
        fitted(mesh, folder, checkpoints=train.Checkpoints(folder, every=5))
    except train.CheckpointError as error:
        return str(error)
    finally:
        store.write = write
    return "no error"


def main() -> None:
    folder, distributed = Path(sys.argv[1]), sys.argv[2:]
    if distributed:
        jax.distributed.initialize(distributed[0], int(distributed[1]), int(distributed[2]))
    mesh = sfp.data_mesh()
    shares: list[str] = []

    def evaluate(score: sfp.score.NetworkScore) -> dict[str, float]:
        shares[:] = spec(score)
        return {"size": float(jnp.linalg.norm(score.network.mlp.leave.weight))}

    first, loops = counted(lambda: fitted(mesh, evaluate=evaluate, evaluate_every=10))
    runs = {"shares": first}
    fitted(mesh, folder / "own", steps=10)
    runs["again"] = fitted(mesh, copied(folder / "own", "again"))
    runs["from one"] = fitted(mesh, copied(folder / "one", "more"))
    seen = {
        "loops": loops,
        "share": largest_share(first.state),
        "full": refused(mesh, folder / "full"),
        "full steps": train.saved_steps(folder / "full"),
        "evaluated": shares,
        "model": spec(first.model),
        "is cut": [leaf.size >= 4096 for leaf in jax.tree.leaves(eqx.filter(model(), eqx.is_inexact_array))],
    }
    if not distributed:
        more, looked = of_one_process(mesh, folder)
        runs, seen = runs | more, seen | looked
    arrays = {f"{name} params": whole(run.last) for name, run in runs.items()}
    arrays |= {f"{name} average": whole(run.model) for name, run in runs.items()}
    arrays |= {f"{name} loss": run.history["loss"] for name, run in runs.items()}
    np.savez(folder / f"{jax.process_index()}.npz", **arrays)
    (folder / f"{jax.process_index()}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
