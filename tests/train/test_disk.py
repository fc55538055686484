"""A full disk, a folder that cannot be written to, and what is flushed: one error, and nothing is lost."""

import contextlib
import errno
import logging
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from scorefp import train
from scorefp.train import CheckpointError
from scorefp.train.store import Store

X = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)


def arrays(seed: int, size: int = 60_000) -> dict[str, Any]:
    return {"x": jnp.asarray(np.random.default_rng(seed).normal(size=size).astype(np.float32))}


def fitted(folder: Path, steps: int = 20, **options: Any) -> train.Run:
    network = sfp.nn.MLP((2,), width=128, depth=1, key=jr.key(1))
    return train.fit(
        sfp.NoiseScore(network, sfp.VP(), data_std=1.0),
        sfp.DSM(),
        X,
        optimizer=optax.adam(1e-3),
        steps=steps,
        key=jr.key(2),
        batch_size=16,
        report_every=5,
        checkpoints=train.Checkpoints(folder, every=5, **({"keep": 1} | options)),
        progress=False,
    )


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system in memory, of a size or of a state."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        why = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        why = str(error)
    if why:
        pytest.skip(f"this machine mounts no tmpfs: {why}; the simulated ones run all the same")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(file: Path) -> None:
    """Takes what room there is."""
    with file.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(b"0" * 4096)


def assert_one_error(message: str, folder: Path, caplog: pytest.LogCaptureFixture, call: Callable[[], object]) -> None:
    """The call ends in one error about the folder, without the pages of orbax in it or in the log."""
    caplog.clear()
    with caplog.at_level(logging.WARNING), pytest.raises(CheckpointError, match=message) as error:
        call()
    assert str(folder) in str(error.value)
    assert error.value.__suppress_context__
    assert error.value.__cause__ is None
    assert caplog.text == ""
    assert not any(name.startswith((".partial", ".retired")) for name in os.listdir(folder))


def same(one: Any, other: Any) -> bool:
    return all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(*(jax.tree.leaves(eqx.filter(tree, eqx.is_array)) for tree in (one, other)), strict=True)
    )


def test_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of a real file system: with room for one checkpoint and a half, two do not go beside each other."""
    run = tmp_path / "disk" / "run"
    with mounted(tmp_path / "disk", "size=400k"):
        store = Store(run, keep=1)
        store.save(1, arrays(1), {}, {})
        message = r"step 2 could not be written in .*: No space left on device\. The checkpoints \[1\] in it are whole"
        assert_one_error(message, run, caplog, lambda: store.save(2, arrays(2), {}, {}))
        np.testing.assert_array_equal(store.restore(arrays(0))[0]["x"], arrays(1)["x"])
        store.save(3, arrays(3, 100), {}, {})  # what has room is saved
        assert store.steps() == [3]


def test_a_run_on_a_full_disk_goes_on_once_there_is_room(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "size=3m"):
        run = disk / "run"
        first = fitted(run, steps=5)
        fill(disk / "filler")
        message = r"step 10 could not be written .*No space left.*\[5\].*the same call of fit goes on from step 5"
        assert_one_error(message, run, caplog, lambda: fitted(run))
        assert train.saved_steps(run) == [5]
        assert same(train.load(run, first.model), first.model)
        (disk / "filler").unlink()
        assert same(fitted(run).state.params, fitted(tmp_path / "whole").state.params)


def test_a_folder_that_is_read_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "ro"):
        message = "cannot be written to: Read-only file system.*No step was taken"
        with pytest.raises(CheckpointError, match=message):
            fitted(disk / "run")
        # A save that meets one later.
        refused("could not be written in .*: Read-only", Store(disk).save, 1, arrays(1), {}, {}, error=CheckpointError)


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["pathlib.Path.write_text", "pathlib.Path.rename", "os.fsync"])
def test_a_full_disk_at_every_stage(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path, keep=1)
    store.save(1, arrays(1, 100), {}, {})
    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        message = r"step 2 could not be written in .*: No space left on device\. The checkpoints \[1\] in it are whole"
        assert_one_error(message, tmp_path, caplog, lambda: store.save(2, arrays(2, 100), {}, {}))
    assert store.steps() == [1]
    store.save(2, arrays(2, 100), {}, {})
    assert store.steps() == [2]


def test_the_arrays_do_not_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The limit of a process on the length of its files stands for a disk that fills while orbax writes."""
    store = Store(tmp_path, keep=1)
    store.save(1, arrays(1, 100), {}, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        message = r"step 2 could not be written in .*: File too large\. The checkpoints \[1\] in it are whole"
        assert_one_error(message, tmp_path, caplog, lambda: store.save(2, arrays(2), {}, {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    store.save(2, arrays(2), {}, {})
    assert store.steps() == [2]


def test_old_checkpoints_that_cannot_be_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, keep=1)
    store.save(1, arrays(1, 100), {}, {})

    def kept(self: Path, target: Path) -> Path:
        if Path(target).name.startswith(".retired"):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        return rename(self, target)

    rename = Path.rename
    monkeypatch.setattr(Path, "rename", kept)
    message = r"step 2 is saved, but older ones could not be deleted in .*: Operation not permitted\. .* \[1, 2\]"
    refused(message, store.save, 2, arrays(2, 100), {}, {}, error=CheckpointError)


def test_all_is_flushed_before_the_name_and_the_name_before_the_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order in which a machine that loses its power needs it."""
    store, seen = Store(tmp_path, keep=1), list[tuple[str, str]]()
    store.save(1, arrays(1, 100), {}, {})
    fsync, rename, rmtree = os.fsync, Path.rename, shutil.rmtree

    def flushed(descriptor: int) -> None:
        seen.append(("flush", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", flushed)
    monkeypatch.setattr(Path, "rename", lambda s, t: (seen.append(("rename", str(t))), rename(s, t))[1])
    monkeypatch.setattr("shutil.rmtree", lambda p, *a, **k: (seen.append(("delete", str(p))), rmtree(p, *a, **k))[1])
    store.save(2, arrays(2, 100), {}, {})
    files = [file.relative_to(tmp_path / "2").as_posix() for file in (tmp_path / "2").rglob("*")]
    named = seen.index(("rename", str(tmp_path / "2")))
    before = {name for what, name in seen[:named] if what == "flush"}
    assert {str(tmp_path / ".partial-2" / file) for file in files} <= before
    assert str(tmp_path / ".partial-2") in before
    assert seen[named + 1 :] == [
        ("flush", str(tmp_path)),
        ("rename", str(tmp_path / ".retired-1")),
        ("delete", str(tmp_path / ".retired-1")),
    ]
