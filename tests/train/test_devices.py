"""Many devices and processes: the numbers of one device, up to rounding; each with its share of the work."""

import functools
import json
import math
import re
import sys
import tempfile
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
from helpers import devices_worker as worker, measured
from helpers.processes import launched
from jax.sharding import AxisType, Mesh

import scorefp as sfp
from scorefp import data, train
from scorefp.data import Dataset, OnHost


@functools.cache
def on_one_device(run: str) -> train.Run:
    return worker.RUNS[run](None)


@functools.cache
def measured_on_one_device(part: str) -> dict[str, np.ndarray]:
    return measured.PARTS[part](None, Path(tempfile.mkdtemp()))


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def rounding(dtype: Any) -> float:
    """What two orders of one sum may make of the parameters.

    A step rounds each parameter to its precision, by half a unit at most. The gradients of two runs differ by a few
    units of their own, which the learning rate makes small against that: it decides in which direction a rounding
    falls, so that a step sets them apart by a unit at most, and the next step does not amplify it.
    """
    return worker.STEPS * float(np.finfo(dtype).eps)


def check_equal_to_one_device(found: Any, run: str, dtype: Any) -> None:
    one = on_one_device(run)
    assert relative(worker.flat(one.last), worker.flat(worker.model(jnp.float32))) > 0.05
    for name, value in {"params": worker.flat(one.last), "average": worker.flat(one.model)}.items():
        assert relative(found[f"{run} {name}"], value) < rounding(dtype)
    assert relative(found[f"{run} loss"], one.history["loss"]) < rounding(dtype)


def check_measured_as_on_one_device(found: Any, part: str) -> None:
    """To what the orders of sums make of each number, and of its place in an adaptive solve."""
    for name, want in measured_on_one_device(part).items():
        got, size = found[f"{part} {name}"], float(np.abs(want).max())
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * size, err_msg=f"{part} {name}")


def check_told(told: dict[str, list[str]], process: int, total: int, processes: int) -> None:
    """One sample of thirteen raises, on one device of one process: all raise. Failed samples are told of once."""
    failed = measured.told_of_one_device()
    assert told["thrown"] == failed["thrown"]
    assert told["failed"] == (failed["failed"] if process == 0 else [])
    own = measured.BAD // math.ceil(measured.N / total) // (total // processes) == process
    (error,) = told["raised"]
    assert ("one sample is large" in error) == own
    assert own or error == "RuntimeError: another process failed; its own error says why."


SEVERAL = [
    pytest.param(4, 1, ["resident", "source", "samples", "audit in fit"], id="four devices"),
    pytest.param(4, 1, ["resident", "source", *measured.PARTS], id="four devices, all", marks=pytest.mark.slow),
    pytest.param(1, 2, ["source", "samples"], id="two processes"),
    pytest.param(4, 1, ["float64", "source"], id="four devices, float64", marks=pytest.mark.slow),
    pytest.param(2, 2, [*worker.RUNS, *measured.PARTS], id="two processes of two devices", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("devices", "processes", "names"), SEVERAL)
def test_many_devices_train_as_one(tmp_path: Path, devices: int, processes: int, names: list[str]) -> None:
    worker.saved_by(None, tmp_path / "saved", 10)
    parts, runs = [n for n in names if n in measured.PARTS], [n for n in names if n in worker.RUNS]
    with launched(worker.__file__, tmp_path, ",".join(names), devices=devices, processes=processes):
        for run in runs:
            on_one_device(run)
        for part in parts:
            measured_on_one_device(part)
    found, *others = [np.load(tmp_path / f"{i}.npz") for i in range(processes)]
    seen = [json.loads((tmp_path / f"{i}.json").read_text()) for i in range(processes)]
    for run in runs:
        check_equal_to_one_device(found, run, np.float64 if run == "float64" else np.float32)
    for part in parts:
        check_measured_as_on_one_device(found, part)
    for other in others:
        assert all(np.array_equal(found[name], other[name]) for name in found.files)

    # From a checkpoint of one device, in the middle, up to rounding; from one of their own, to the bit.
    one = on_one_device("source")
    assert relative(found["resumed params"], worker.flat(one.last)) < rounding(np.float32)
    assert relative(found["resumed loss"], one.history["loss"][10:]) < rounding(np.float32)
    for name in ("params", "average"):
        np.testing.assert_array_equal(found[f"again {name}"], found[f"source {name}"])

    # The first process alone reports, and a device multiplies its share of the batch with the weights, never the whole.
    total = devices * processes
    assert [s["reports"] for s in seen] == [[20], [], []][:processes]
    for s in seen:
        assert (s["devices"], s["processes"], s["start"]) == (total, processes, 10)
        assert s["per device"] == worker.BATCH // total
        assert f"choose a multiple of {total}." in s["odd batch"]
        assert f"choose a multiple of {total * worker.BATCH}." in s["odd parts"]
        assert processes == 1 or f"mesh is None, and there are {processes} processes" in s["no mesh"]
        assert processes > 1 or worker.BATCH // total in s["rows"]
        assert worker.BATCH not in s["rows"]
    for process, s in enumerate(seen):
        check_told(s["told"], process, total, processes)
        # Beside the rows of a share nothing: the devices do nothing together, so that an error leaves none waiting.
        rows = [measured.ROWS // total]
        alone = {"sample": rows, "residual": rows, "dequantiser": [*rows, "all-reduce"]}
        assert processes > 1 or s["programs"] == alone


def by_hand(parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Parameters and losses of the run `"resident"`, with so many parts of a batch that each draw the same noise."""
    data, start = worker.resident(), worker.model(jnp.float32)
    params, skeleton = eqx.partition(start, lambda leaf: eqx.is_inexact_array(leaf) and leaf.ndim > 0)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), worker.OPTIMIZER)

    def loss(params: Any, x: jax.Array, labels: jax.Array, key: jax.Array, i: jax.Array) -> jax.Array:
        score = eqx.combine(params, skeleton)
        cut = lambda a: a.reshape(parts, -1, *a.shape[1:])
        of_part = lambda x, labels: worker.loss()(score, x, key=key, args=labels, dropout=True, step=i)
        return jnp.mean(jax.vmap(of_part)(cut(x), cut(labels)))

    @jax.jit
    def step(carry: Any, i: jax.Array) -> tuple[Any, jax.Array]:
        params, state = carry
        index_key, level_key, loss_key = jr.split(jr.fold_in(jr.key(2), i), 3)
        chosen = data.rows(jr.randint(index_key, (worker.BATCH,), 0, len(data)))
        x, labels = sfp.UniformDequantiser(chosen.quantisation).inside(chosen.values, key=level_key).x, chosen.args
        value, grads = jax.value_and_grad(loss)(params, x, labels, loss_key, i)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), value

    (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(worker.STEPS))
    return worker.flat(eqx.combine(params, skeleton)), np.asarray(losses)


def test_devices_with_the_same_noise_would_be_far_off() -> None:
    """The mistake that sharing by hand invites stands out from rounding by orders of magnitude."""
    run = on_one_device("resident")
    for parts, far in ((1, False), (4, True)):
        params, losses = by_hand(parts)
        off = relative(params, worker.flat(run.last)), relative(losses, run.history["loss"])
        assert all((error > 1e4 * rounding(np.float32)) == far for error in off)
        assert all((error < rounding(np.float32)) != far for error in off)


def test_one_device_has_all_rows() -> None:
    """What the programs of many devices are compared with."""
    assert measured.programs(None) == {name: [measured.ROWS] for name in ("sample", "residual", "dequantiser")}


SHARED: dict[str, Callable[[Mesh], Any]] = {
    "fit": lambda mesh: worker.fitted(worker.resident(), mesh),
    **{name: lambda mesh, part=part: part(mesh, Path("nowhere")) for name, part in measured.PARTS.items()},
    "audit_on": lambda mesh: train.audit_on(measured.HELD_OUT, key=jr.key(0), mesh=mesh),
    "measure": lambda mesh: measured.CURVES[0](measured.score(), jnp.zeros((4, 3)), key=jr.key(0), mesh=mesh),
    "gap": lambda mesh: sfp.ode_sde_gap(measured.score(), key=jr.key(0), shape=(3,), mesh=mesh),
    "sample_to": lambda mesh: data.sample_to("x.npy", measured.score(), 4, key=jr.key(0), shape=(3,), mesh=mesh),
}


@pytest.mark.parametrize("name", SHARED)
def test_a_mesh_of_another_axis_is_refused(name: str) -> None:
    mesh = Mesh(np.array(jax.devices()), ("batch",), axis_types=(AxisType.Auto,))
    with pytest.raises(ValueError, match=r'axes \(\'batch\',\); work is shared along one axis called "data"'):
        SHARED[name](mesh)


def test_a_mesh_of_explicit_axes_is_refused() -> None:
    mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Explicit,))
    for name in ("fit", "sample_to", "audit_on"):
        with pytest.raises(ValueError, match=r"mesh has axes of the type Explicit.* Give mesh=data_mesh\(\)"):
            SHARED[name](mesh)


def test_a_mesh_inside_of_jit_is_refused() -> None:
    def drawn(key: jax.Array) -> jax.Array:
        return sfp.sample(measured.score(), 4, key=key, shape=(3,), method=sfp.DPMSolver(1), mesh=sfp.data_mesh())

    keys = jr.split(jr.key(0))
    assert drawn(keys[0]).shape == (4, 3)
    for transformed in (lambda: jax.jit(drawn)(keys[0]), lambda: jax.vmap(drawn)(keys)):
        with pytest.raises(ValueError, match="mesh is given inside jit, vmap or grad"):
            transformed()


def test_the_host_reads_nothing_between_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays are read where losses are reported: after all loops of a report are under way, never among them.

    JAX's guard of transfers sees none on CPUs, where the host reads the memory of the device; so the reads are counted.
    """
    seen = ""

    def note(letter: str) -> None:
        nonlocal seen
        seen += letter

    def run() -> None:
        train.fit(
            sfp.NoiseScore(sfp.nn.MLP((3,), width=8, depth=1, key=jr.key(0)), sfp.VP()),
            sfp.DSM(),
            OnHost(Dataset(worker.LEVELS, worker.QUANTISATION)),
            optimizer=worker.OPTIMIZER,
            steps=30,
            key=jr.key(1),
            batch_size=worker.BATCH,
            mesh=sfp.data_mesh(),
            report_every=10,
            progress=False,
        )

    array, asarray, module = type(jnp.zeros(())), np.asarray, sys.modules["scorefp.train.loop"]
    value, loop = array._value.fget, module._loop
    monkeypatch.setattr("scorefp.train.batches._LARGEST_STACK", 5 * worker.BATCH * 3)
    run()
    monkeypatch.setattr(array, "_value", property(lambda self: (note("r"), value(self))[1]))
    monkeypatch.setattr(
        np, "asarray", lambda a, *rest, **named: (isinstance(a, jax.Array) and note("r"), asarray(a, *rest, **named))[1]
    )
    monkeypatch.setattr(module, "_loop", lambda *args: (note("L"), loop(*args))[1])
    run()
    assert re.fullmatch("r*(LLr+){3}", seen), seen
