"""Altered records: every one is a `CheckpointError` with a way on, though its digest is made anew."""

import copy
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from helpers.refusals import refused

import scorefp as sfp
from scorefp import data, train
from scorefp.train import CheckpointError
from scorefp.train._record import digest_of
from scorefp.train.store import Store, _digests  # pyright: ignore[reportPrivateUsage]

X = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
ARRAY = "average 0/network/enter/bias"


def model() -> sfp.score.NetworkScore:
    return sfp.NoiseScore(sfp.nn.MLP((2,), width=8, depth=1, key=jr.key(1)), sfp.VP(), data_std=1.0)


OPTIMIZER = optax.adam(1e-3)


def fitted(folder: Path) -> train.Run:
    return train.fit(
        model(),
        sfp.DSM(),
        data.OnHost(data.Dataset(X)),
        optimizer=OPTIMIZER,
        steps=10,
        key=jr.key(2),
        batch_size=16,
        report_every=5,
        checkpoints=train.Checkpoints(folder, every=5),
        progress=False,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints of the steps 5 and 10."""
    folder = tmp_path_factory.mktemp("record") / "run"
    fitted(folder)
    return folder


def put(*path: Any) -> Callable[[dict[str, Any]], None]:
    """An alteration: the last argument takes the place that the ones before it name."""
    *names, last, value = path

    def change(record: dict[str, Any]) -> None:
        part: Any = record
        for name in names:
            part = part[name]
        part[last] = value

    return change


def drop(*path: Any) -> Callable[[dict[str, Any]], None]:
    *names, last = path

    def change(record: dict[str, Any]) -> None:
        part: Any = record
        for name in names:
            part = part[name]
        del part[last]

    return change


def deep(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


C = "content"
FORM = {"shape": [8], "dtype": "float32", "key": None}
ALTERED: dict[str, Callable[[dict[str, Any]], None]] = {
    # The outer parts, by which a record is known.
    "no format": drop("format"),
    "another format": put("format", "of somebody"),
    "a list for the format": put("format", []),
    "no version": drop("version"),
    "an older version": put("version", 3),
    "a list for the version": put("version", [4]),
    "no content": drop(C),
    "a list for the content": put(C, []),
    "a word for the content": put(C, "content"),
    "nothing for the content": put(C, None),
    "an empty content": put(C, {}),
    # Its parts.
    **{f"no {name}": drop(C, name) for name in ("step", "metrics", "versions", "leaves", "files", "facts")},
    **{f"a list for {name}": put(C, name, []) for name in ("step", "metrics", "versions", "leaves", "files", "facts")},
    "another step": put(C, "step", 5),
    "a step below zero": put(C, "step", -10),
    "a float for the step": put(C, "step", 10.5),
    "truth for the step": put(C, "step", True),
    "a word for a metric": put(C, "metrics", "loss", "low"),
    "a list for a metric": put(C, "metrics", "loss", [0.1]),
    "truth for a metric": put(C, "metrics", "loss", True),
    "a number for a version": put(C, "versions", "jax", 12),
    "nesting in a version": put(C, "versions", "jax", {"jax": {"jax": "0"}}),
    # The arrays.
    "a list for an array": put(C, "leaves", ARRAY, [8]),
    "an array without a shape": put(C, "leaves", ARRAY, {"dtype": "float32", "key": None}),
    "an array with more": put(C, "leaves", ARRAY, FORM | {"more": 1}),
    "a number for a shape": put(C, "leaves", ARRAY, FORM | {"shape": 8}),
    "a word in a shape": put(C, "leaves", ARRAY, FORM | {"shape": ["8"]}),
    "a shape below zero": put(C, "leaves", ARRAY, FORM | {"shape": [-8]}),
    "a huge shape": put(C, "leaves", ARRAY, FORM | {"shape": [2**60]}),
    "a huge shape without entries": put(C, "leaves", ARRAY, FORM | {"shape": [2**60, 0]}),
    "a shape of many axes": put(C, "leaves", ARRAY, FORM | {"shape": [1] * 1000}),
    "another dtype": put(C, "leaves", ARRAY, FORM | {"dtype": "float64"}),
    "a dtype of objects": put(C, "leaves", ARRAY, FORM | {"dtype": "object"}),
    "no dtype": put(C, "leaves", ARRAY, FORM | {"dtype": "nothing"}),
    "a key for an array": put(C, "leaves", ARRAY, FORM | {"key": "threefry2x32"}),
    "a number for a kind of key": put(C, "leaves", ARRAY, FORM | {"key": 1}),
    "an array that is not there": drop(C, "leaves", ARRAY),
    "an array too many": put(C, "leaves", "average 0/more", FORM),
    # The files.
    "a list for a digest": put(C, "files", "arrays/manifest.ocdbt", []),
    "another digest": put(C, "files", "arrays/manifest.ocdbt", "0" * 64),
    "a file that is not there": put(C, "files", "arrays/more", "0" * 64),
    "a file elsewhere": put(C, "files", "../../../etc/passwd", "0" * 64),
    # The facts of the run.
    "no configuration": drop(C, "facts", "configuration"),
    "a list for the configuration": put(C, "facts", "configuration", []),
    "no decay": drop(C, "facts", "configuration", "decay"),
    "a number for the decay": put(C, "facts", "configuration", "decay", 0.999),
    "no model": drop(C, "facts", "model"),
    "a list for the model": put(C, "facts", "model", []),
    "another model": put(C, "facts", "model", "sde", "t1", 2.0),
    "a deep model": put(C, "facts", "model", "sde", deep(400)),
}
OF_A_RUN: dict[str, Callable[[dict[str, Any]], None]] = {
    "no history": drop(C, "facts", "history"),
    "numbers for the history": put(C, "facts", "history", [1, 2]),
    "no place": drop(C, "facts", "batches"),
    "a list for the place": put(C, "facts", "batches", []),
    "an empty place": put(C, "facts", "batches", {}),
    "the place of other batches": put(C, "facts", "batches", "samples", 7),
    "a word for the place of grain": put(C, "facts", "batches", "grain", "far"),
    "another learning rate": put(C, "facts", "configuration", "optimizer", {}),
}


def altered(run: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy whose last record is altered, by somebody who knows how it is sealed."""
    shutil.copytree(run, folder)
    file = folder / "10" / "facts.json"
    record = json.loads(file.read_text())
    before = copy.deepcopy(record)
    change(record)
    assert record != before
    if C in record:
        record["digest"] = digest_of(record[C])
    file.write_text(json.dumps(record))
    return folder


def assert_refused(folder: Path, call: Callable[[], object]) -> None:
    """One error about the folder, with a way on; nothing on disk is changed."""
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(CheckpointError) as error:
        call()
    text = str(error.value)
    assert str(folder) in text
    ways = ("move ", "Build `like` as", "give the same settings", "Build the same model")
    assert any(way in text for way in ways), text
    assert len(text) < 1500
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_how_many() -> None:
    assert len(ALTERED) + len(OF_A_RUN) + len(FILES) >= 46


@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_record_is_refused(name: str, run: Path, tmp_path: Path) -> None:
    folder = altered(run, tmp_path / "run", ALTERED[name])
    assert_refused(folder, lambda: train.load(folder, model()))
    if "decay" not in name and "model" not in name:  # what a run that goes on compares by its configuration
        assert_refused(folder, lambda: fitted(folder))
    assert train.load(folder, model(), step=5).shape == (2,)


@pytest.mark.parametrize("name", OF_A_RUN)
def test_an_altered_record_is_not_gone_on_from(name: str, run: Path, tmp_path: Path) -> None:
    folder = altered(run, tmp_path / "run", OF_A_RUN[name])
    assert_refused(folder, lambda: fitted(folder))


def as_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def as_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


FILES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda step: (step / "facts.json").write_text(""),
    "no JSON": lambda step: (step / "facts.json").write_text("{"),
    "a list": lambda step: (step / "facts.json").write_text("[]"),
    "a word": lambda step: (step / "facts.json").write_text('"facts"'),
    "not of UTF-8": lambda step: (step / "facts.json").write_bytes(b'{"format": "\xff\xfe"}'),
    "deep": lambda step: (step / "facts.json").write_text("[" * 100_000 + "]" * 100_000),
    "a long number": lambda step: (step / "facts.json").write_text("9" * 10_000),
    "a folder for the record": lambda step: as_folder(step / "facts.json"),
    "no record": lambda step: (step / "facts.json").unlink(),
    "a dangling link for the record": lambda step: (
        (step / "facts.json").unlink(),
        (step / "facts.json").symlink_to("x"),
    ),
    "a file for the step": as_file,
    "a file for the arrays": lambda step: as_file(step / "arrays"),
    "an empty folder for the arrays": lambda step: (shutil.rmtree(step / "arrays"), (step / "arrays").mkdir()),
    "no arrays": lambda step: shutil.rmtree(step / "arrays"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_another_kind_are_refused(name: str, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    FILES[name](folder / "10")
    assert_refused(folder, lambda: train.load(folder, model()))
    assert_refused(folder, lambda: fitted(folder))
    assert train.load(folder, model(), step=5).shape == (2,)


def test_the_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    refused("run holds no checkpoint", train.load, tmp_path / "run", model(), error=CheckpointError)
    assert train.saved_steps(tmp_path / "run") == []


def test_names_that_only_look_like_steps(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    for name in ("011", "٣", "1e2", "-5", "²"):
        (folder / name).mkdir()
    assert train.saved_steps(folder) == [5, 10]
    assert fitted(folder).start == 10


def exchange(step: Path, arrays: dict[str, np.ndarray], *, heads: bool = False) -> None:
    """Other arrays in a checkpoint, with true digests; `heads` leaves the description of orbax as it was."""
    kept = (step / "arrays" / "_METADATA").read_bytes()
    shutil.rmtree(step / "arrays")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as writer:
        writer.save(step / "arrays", args=ocp.args.PyTreeSave(arrays))
    if heads:
        (step / "arrays" / "_METADATA").write_bytes(kept)
    record = json.loads((step / "facts.json").read_text())
    record[C]["files"] = _digests(step)
    record["digest"] = hashlib.sha256(json.dumps(record[C], sort_keys=True).encode()).hexdigest()
    (step / "facts.json").write_text(json.dumps(record))


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(1_000_000, np.float32), rf"{ARRAY} is float32\[8\] in facts.json and float32\[1000000\] in arrays"),
        (np.zeros((8, 1), np.float32), r"is float32\[8\] in facts.json and float32\[8, 1\] in arrays"),
        (np.zeros(8, np.int32), r"is float32\[8\] in facts.json and int32\[8\] in arrays"),
        (None, r"is float32\[8\] in facts.json and nothing in arrays"),
    ],
)
def test_arrays_of_other_shapes_are_not_read(
    array: np.ndarray | None, message: str, heads: bool, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        arrays = reader.restore(folder / "10" / "arrays")
    assert arrays[ARRAY].shape == (8,)
    arrays |= {ARRAY: array}
    exchange(folder / "10", {name: value for name, value in arrays.items() if value is not None}, heads=heads)

    def read(*_: object, **__: object) -> None:
        raise AssertionError("the arrays were read")

    with monkeypatch.context() as patch:
        patch.setattr("tensorstore.TensorStore.read", read)
        message += r"\. The checkpoint of step 5 is good"
        refused(message, train.load, folder, model(), error=CheckpointError)


def test_arrays_of_the_same_shapes_are_read(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        arrays = reader.restore(folder / "10" / "arrays")
    exchange(folder / "10", arrays | {ARRAY: np.full(8, 2.0, np.float32)})
    np.testing.assert_array_equal(train.load(folder, model()).network.enter.bias, jnp.full(8, 2.0))


def test_bfloat16_is_the_same_in_both(tmp_path: Path) -> None:
    values = {
        "x": jnp.ones(3, jnp.bfloat16),
        "i": jnp.ones(3, jnp.int4),
        "y": jnp.ones((2, 2), jnp.float8_e4m3fn),
        "b": jnp.ones(2, bool),
    }
    Store(tmp_path).save(1, values, {}, {})
    assert Store(tmp_path).restore(values)[0]["x"].dtype == jnp.bfloat16
