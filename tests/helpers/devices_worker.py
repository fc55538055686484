"""Training runs for tests/train/test_devices.py, on all devices of all processes.

    python tests/helpers/devices_worker.py RESULTS RUNS [ADDRESS PROCESSES PROCESS]

`RUNS` are names with commas between, of `RUNS` below and of `PARTS` in `measured.py`. Each process writes
`RESULTS/{process}.npz` with the parameters and the losses of every run and the arrays of every part, and
`RESULTS/{process}.json` with what else it has seen. `RESULTS/saved` holds a checkpoint of one device.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from helpers import measured
from jax.sharding import Mesh

import scorefp as sfp
from scorefp import train
from scorefp._devices import everywhere
from scorefp.data import Dataset, OnHost
from scorefp.train import TrainStep
from scorefp.train.loop import repeated

STEPS, BATCH, WIDTH = 20, 64, 24
OPTIMIZER = optax.sgd(0.05, momentum=0.9)

LEVELS = np.random.default_rng(0).integers(0, 8, (96, 3)).astype(np.uint8)
LABELS = LEVELS[:, 0].astype(np.int32)
QUANTISATION = sfp.Quantisation(8, -1.0, 1.0)


class Network(eqx.Module):
    """With labels and dropout, and a last layer that is not zero: all parameters move from the first step on."""

    mlp: sfp.nn.MLP
    table: jax.Array

    def __call__(self, t: jax.Array, x: jax.Array, *, args: jax.Array, key: jax.Array) -> jax.Array:
        kept = jr.bernoulli(key, 0.9, x.shape)
        return self.mlp(t, x * kept + self.table[args])


def model(dtype: Any) -> sfp.score.NetworkScore:
    mlp = sfp.nn.MLP((3,), width=WIDTH, depth=1, key=jr.key(0))
    leave = jr.normal(jr.key(1), mlp.leave.weight.shape) / 5
    network = Network(eqx.tree_at(lambda mlp: mlp.leave.weight, mlp, leave), jnp.zeros((9, 3)))
    cast = lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf
    return sfp.NoiseScore(jax.tree.map(cast, network), sfp.VP())


def loss() -> sfp.objective.AbstractObjective:
    return sfp.DSM() + 0.1 * sfp.Lazy(sfp.TimeDerivativeTaming(fraction=0.25), every=2)


def fitted(data: Any, mesh: Mesh | None, *, dtype: Any = jnp.float32, **options: Any) -> train.Run:
    settings = {"optimizer": OPTIMIZER, "steps": STEPS, "key": jr.key(2), "batch_size": BATCH, "dropout": True}
    quiet = {"report_every": 10, "progress": False}
    return train.fit(model(dtype), loss(), data, mesh=mesh, **(settings | quiet | options))


def resident() -> Dataset:
    return Dataset(jnp.asarray(LEVELS), QUANTISATION, args=jnp.asarray(LABELS))


def source() -> OnHost:
    return OnHost(Dataset(LEVELS, QUANTISATION, args=LABELS))


def in_float64(mesh: Mesh | None) -> train.Run:
    with jax.enable_x64(True):
        x = np.random.default_rng(1).normal(size=(96, 3))
        return fitted(Dataset(jnp.asarray(x), args=jnp.asarray(LABELS)), mesh, dtype=jnp.float64)


OF_SOURCE: dict[str, Any] = {"accumulate": 2, "label_dropout": train.LabelDropout(0.3, null=8)}

RUNS: Mapping[str, Callable[[Mesh | None], train.Run]] = {
    "resident": lambda mesh: fitted(resident(), mesh),
    "float64": in_float64,
    "source": lambda mesh: fitted(source(), mesh, **OF_SOURCE),
}


def size(score: sfp.score.NetworkScore) -> dict[str, float]:
    return {"size": float(jnp.linalg.norm(score.network.mlp.leave.weight))}


def saved_by(mesh: Mesh | None, folder: Path, steps: int, **options: Any) -> train.Run:
    """The run of `"source"` with checkpoints and evaluations."""
    checkpoints = train.Checkpoints(folder, every=10, best="size")
    settings = {**OF_SOURCE, "checkpoints": checkpoints, "evaluate": size, "evaluate_every": 10}
    return fitted(source(), mesh, steps=steps, **settings, **options)


def flat(tree: Any) -> np.ndarray:
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in leaves])


def refused(mesh: Mesh | None, **options: Any) -> str:
    """What `fit` says."""
    try:
        fitted(resident(), mesh, **options)
    except ValueError as error:
        return str(error)
    return "no error"


def rows_of_matrix_products(mesh: Mesh) -> list[int]:
    """How many rows the activations have that one device multiplies with weights in the compiled loop."""
    params, skeleton = eqx.partition(model(jnp.float32), model(jnp.float32).trained())
    data = resident()
    settings = {"mesh": mesh, "quantisation": data.quantisation}
    step = TrainStep(skeleton, sfp.DSM(), OPTIMIZER, sfp.UniformLogSNR(), BATCH, (0.9,), True, **settings)
    held = step, step.init(params, key=jr.key(0)), (data.values, data.args)
    step, state, samples = everywhere(held, mesh)
    lowered = eqx.filter_jit(repeated).lower(step.step, samples, state, jnp.asarray(1), 1)
    program = lowered.compile().compiled.as_text()
    return sorted({int(rows) for rows in re.findall(rf"= f32\[(\d+),{WIDTH}\]\S* dot\(", program)})


def main() -> None:
    folder, names, distributed = Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:]
    if distributed:
        jax.distributed.initialize(distributed[0], int(distributed[1]), int(distributed[2]))
    mesh = sfp.data_mesh()
    reports: list[int] = []
    runs = {name: RUNS[name](mesh) for name in names if name in RUNS}
    runs["resumed"] = saved_by(mesh, folder / "saved", STEPS, callbacks=[lambda report: reports.append(report.step)])
    saved_by(mesh, folder / "own", STEPS // 2)
    runs["again"] = saved_by(mesh, folder / "own", STEPS)
    seen = {
        "devices": mesh.size,
        "processes": jax.process_count(),
        "per device": train.per_device_batch(BATCH, mesh),
        "rows": [] if distributed else rows_of_matrix_products(mesh),
        "start": runs["resumed"].start,
        "odd batch": refused(mesh, batch_size=BATCH - 1),
        "odd parts": refused(mesh, accumulate=BATCH),
        "no mesh": refused(None) if distributed else "not tried",
        "reports": reports,
        "told": measured.told(mesh),
        "programs": {} if distributed else measured.programs(mesh),
    }
    arrays = {f"{name} params": flat(run.last) for name, run in runs.items()}
    arrays |= {f"{name} average": flat(run.model) for name, run in runs.items()}
    arrays |= {f"{name} loss": run.history["loss"] for name, run in runs.items()}
    for part in (name for name in names if name in measured.PARTS):
        arrays |= {f"{part} {name}": value for name, value in measured.PARTS[part](mesh, folder).items()}
    np.savez(folder / f"{jax.process_index()}.npz", **arrays)
    (folder / f"{jax.process_index()}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
