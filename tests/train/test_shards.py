"""Parameters in shares: the numbers of one device up to rounding, in a part of its memory; checkpoints on any mesh."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import shards_worker as worker
from helpers.devices_worker import flat
from helpers.processes import launched
from helpers.refusals import refused

import scorefp as sfp
from scorefp import train

ROUNDING = worker.STEPS * float(np.finfo(np.float32).eps)
"""What two orders of one sum may make of the parameters; see `rounding` in tests/train/test_devices.py."""


@functools.cache
def on_one_device(steps: int = worker.STEPS) -> train.Run:
    return worker.fitted(None, steps=steps)


def off(found: Any, name: str, run: train.Run, start: int = 0) -> list[float]:
    """The relative distances of parameters, averages and losses from those of a run."""
    pairs = [
        (found[f"{name} params"], flat(run.last)),
        (found[f"{name} average"], flat(run.model)),
        (found[f"{name} loss"], run.history["loss"][start:]),
    ]
    return [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs]


SEVERAL = [
    pytest.param(4, 1, id="four devices"),
    pytest.param(1, 2, id="two processes", marks=pytest.mark.slow),
    pytest.param(2, 2, id="two processes of two devices", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("devices", "processes"), SEVERAL)
def test_shares_train_as_one_device(tmp_path: Path, devices: int, processes: int) -> None:
    total = devices * processes
    worker.fitted(None, tmp_path / "one", steps=10)
    with launched(worker.__file__, tmp_path, devices=devices, processes=processes):
        one = on_one_device()
    found, *others = [np.load(tmp_path / f"{i}.npz") for i in range(processes)]
    seen = [json.loads((tmp_path / f"{i}.json").read_text()) for i in range(processes)]

    # The run; gone on with in shares, to the bit; and from a checkpoint of one device.
    assert np.linalg.norm(flat(one.last) - flat(worker.model())) > 0.04 * np.linalg.norm(flat(one.last))
    assert max(off(found, "shares", one)) < ROUNDING
    for name in ("params", "average"):
        np.testing.assert_array_equal(found[f"again {name}"], found[f"shares {name}"])
    assert max(off(found, "from one", one, start=10)) < ROUNDING
    for other in others:
        assert all(np.array_equal(found[name], other[name]) for name in found.files)

    # What one device holds: its share of the large arrays, and the small ones.
    is_cut = seen[0]["is cut"]
    assert 0 < sum(is_cut) < len(is_cut)
    assert [("data" in spec) for spec in seen[0]["model"]] == is_cut
    assert seen[0]["evaluated"] == seen[0]["model"]
    for s in seen:
        assert s["loops"] == 1
        assert s["share"] == pytest.approx(share(total), rel=1e-6)

    # The disk of one process is full: all of them hear of it, and what was saved stays.
    words = [s["full"] for s in seen]
    assert "step 10 could not be written" in words[-1]
    assert "No space left on device. The checkpoints [5] in it are whole" in words[-1]
    assert all("another process failed. The checkpoints [5] in it are whole" in told for told in words[:-1])
    assert all(s["full steps"] == [5] for s in seen)
    assert sorted(file.name for file in (tmp_path / "full").iterdir()) == ["5"]

    # What shares have written is read on one device, by this process.
    assert train.saved_steps(tmp_path / "own") == [10]
    loaded = train.load(tmp_path / "own", worker.model(seed=7))
    ten = on_one_device(10)
    assert np.linalg.norm(flat(loaded) - flat(ten.model)) < ROUNDING * np.linalg.norm(flat(ten.model))

    if processes == 1:
        check_of_one_process(found, seen[0], total)


def share(devices: int) -> float:
    """The share of the state that one device holds: large arrays are cut, small ones are not."""
    sizes = [leaf.size for leaf in jax.tree.leaves(on_one_device().state.params)]
    return sum(size / devices if size >= 4096 else size for size in sizes) / sum(sizes)


def check_of_one_process(found: Any, seen: Any, total: int) -> None:
    """Other meshes, the compiled program, and a model that is loaded into shares."""
    one = on_one_device()
    for name in ("two devices", "one device", "batch"):
        assert max(off(found, name, one, start=10)) < ROUNDING
    assert max(off(found, "back", on_one_device(worker.STEPS + 10), start=worker.STEPS)) < 2 * ROUNDING
    assert seen["specs"] == [seen["model"]] * 3
    assert seen["same"]
    # The largest axis that the devices divide, where there is one and the array is worth it.
    specs = ["P('data',)", "P(None, 'data')", "P(None, None, 'data')", "P()", "P()", "P()"]
    assert seen["cut"] == dict(zip(map(str, worker.SHAPES), specs, strict=True))
    # Arrays are put together for the value and again for the gradient, which the first layer's is without.
    batch, shares = seen["programs"]["batch"], seen["programs"]["parameters"]
    assert (batch["cut"], batch["gathers"]) == (0, 0)
    assert shares["cut"] == sum(seen["is cut"])
    assert shares["gathers"] == 2 * shares["cut"] - 1
    assert shares["arguments"] / batch["arguments"] == pytest.approx(share(total), abs=0.02)
    assert shares["all"] < 0.7 * batch["all"]


def test_a_gathered_model_is_on_one_device() -> None:
    array = jnp.arange(4096.0)
    on_mesh, word = train.gathered((train.sharded(array, sfp.data_mesh()), "a word"))
    assert word == "a word"
    assert len(on_mesh.sharding.device_set) == 1
    assert jnp.array_equal(on_mesh, array)


def test_shares_need_devices() -> None:
    refused('shard = "parameters", and mesh is None', worker.fitted, None, shard="parameters")
