"""A training process is killed at random moments, during saves too, with a second run at the door and a reader beside:
nothing is unreadable, and no bit is lost."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
from helpers import kill_training
from helpers.kill_training import STEPS, model, trained

from scorefp import train

SCRIPT = Path(kill_training.__file__)


def started(run: Path, cache: Path, *mode: str) -> subprocess.Popen[str]:
    """A process that trains in a folder."""
    # What is compiled is kept, so that the next process starts soon. The flags of XLA are those of the tests.
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(run), *mode],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def reported(process: subprocess.Popen[str]) -> None:
    """Waits for the first report of a process."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line.isdecimal(), process.communicate()


def killed(process: subprocess.Popen[str], wait: float | None, run: Path, before: Callable[[], None]) -> bool:
    """Kills a process some seconds after its first report, or during a save; whether it was still under way.

    It is stopped first, for what is to happen `before`.
    """
    reported(process)
    if wait is not None:
        time.sleep(wait)
    else:
        while process.poll() is None and not any(run.glob(".partial-*")):
            time.sleep(0.0002)
    process.send_signal(signal.SIGSTOP)
    if process.poll() is None:
        before()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def refuse_a_second(first: subprocess.Popen[str], run: Path, cache: Path) -> None:
    """A second run in the folder of one that is under way ends at once, and changes nothing."""
    before = sorted(run.iterdir())
    second = started(run, cache)
    said, errors = second.communicate()
    assert (second.returncode, said) == (1, "")
    assert f"{run} is taken: process {first.pid} on" in errors
    assert "orbax" not in errors
    assert sorted(run.iterdir()) == before


@contextmanager
def reading(run: Callable[[], Path]) -> Iterator[Counter[str]]:
    """Loads the last model of the folder of the moment over and over, and counts what comes."""
    seen, over = Counter[str](), threading.Event()

    def read() -> None:
        while not over.is_set():
            try:
                loaded = train.load(run(), model())
                seen["good" if is_finite(loaded) else "not finite"] += 1
            except train.CheckpointError as error:
                seen["none yet" if "holds no checkpoint." in str(error) else str(error)] += 1
                time.sleep(0.01)
            except Exception as error:
                seen[repr(error)] += 1

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def moment(run: Path) -> str:
    """What the kill hit, from what it left behind."""
    names = [folder.name for folder in run.iterdir()] if run.exists() else []
    if any(name.startswith(".partial-") for name in names):
        return "during a save"
    return "during a deletion" if any(name.startswith(".retired-") for name in names) else "between saves"


def is_finite(score: object) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(eqx.filter(score, eqx.is_inexact_array)))


def assert_readable(run: Path) -> None:
    """Every checkpoint is whole, and all its models are loaded."""
    for step in train.saved_steps(run):
        for average in (0, 1, None):
            assert is_finite(train.load(run, model(), step=step, average=average))


def assert_same(run: Path, expected: train.Run) -> None:
    """The parameters and averages of the last step are those of a run that was never stopped, to the bit."""
    assert train.saved_steps(run)[-1] == STEPS
    for average, reference in enumerate([*expected.averages, expected.last]):
        loaded = train.load(run, model(), average=average if average < len(expected.averages) else None)
        for one, other in zip(*map(jax.tree.leaves, (loaded, reference)), strict=True):
            if eqx.is_array(one):
                assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def kill_often(kills: int, folder: Path, longest: float, *, second: int) -> Counter[str]:
    """Kills runs until so many kills are done, each run started again until it ends; what the kills hit.

    Args:
        kills: How many.
        folder: Where the runs are.
        longest: The longest wait before a kill, in seconds.
        second: At every so many kills a second run is tried in the folder.
    """
    random.seed(0)
    expected, hit, number = trained(None), Counter[str](), 0
    run, cache = lambda: folder / str(number), folder / "cache"
    done = lambda: train.saved_steps(run())[-1:] == [STEPS]
    count = lambda: sum(hit[name] for name in ("during a save", "during a deletion", "between saves"))
    with reading(run) as seen:
        while count() < kills or not done():
            if done():
                assert_same(run(), expected)
                number += 1
            process = started(run(), cache)
            if count() == kills:
                _, errors = process.communicate()
                assert process.returncode == 0, errors
                continue

            def before(first: subprocess.Popen[str] = process) -> None:
                # One that is on its way out has let go of the folder.
                if hit["a second run refused"] * second <= count() and (run() / ".lock").exists():
                    refuse_a_second(first, run(), cache)
                    hit["a second run refused"] += 1

            # Every other kill waits for a save.
            if killed(process, None if count() % 2 == 0 else random.uniform(0.0, longest), run(), before):
                hit[moment(run())] += 1
                held = (run() / ".lock").exists()
                assert held or done()  # a process may be killed on its way out
                hit["with the lock held"] += held
                assert_readable(run())
    assert_same(run(), expected)
    assert not (run() / ".lock").exists()
    hit["loads beside"] = seen.pop("good")
    seen.pop("none yet", 0)
    assert not seen
    print(dict(hit))
    return hit


@pytest.mark.slow
def test_killed_twice(tmp_path: Path) -> None:
    hit = kill_often(2, tmp_path, 0.5, second=2)
    assert hit["during a save"] >= 1
    assert hit["a second run refused"] >= 1
    assert hit["with the lock held"] >= 1
    assert hit["loads beside"] >= 1


@pytest.mark.slow
def test_killed_a_hundred_times(tmp_path: Path) -> None:
    hit = kill_often(100, tmp_path, 1.5, second=5)
    assert hit["during a save"] >= 20
    assert hit["between saves"] >= 6
    assert hit["a second run refused"] >= 20
    assert hit["with the lock held"] >= 80
    assert hit["loads beside"] >= 400


@pytest.mark.parametrize("loads", [100, pytest.param(400, marks=pytest.mark.slow)])
def test_loads_beside_a_run_that_keeps_one(loads: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each finds a checkpoint, though the one that it began with is often gone before it ends."""
    process = started(tmp_path / "run", tmp_path / "cache", "endless")
    try:
        reported(process)
        while not train.saved_steps(tmp_path / "run"):
            time.sleep(0.01)
        first = train.saved_steps(tmp_path / "run")[-1]
        for _ in range(loads):
            assert is_finite(train.load(tmp_path / "run", model()))
        assert process.poll() is None
        assert train.saved_steps(tmp_path / "run")[-1] > first
        message = rf"/{first} was deleted|holds no checkpoint of step {first}; there are"
        with pytest.raises(train.CheckpointError, match=message):
            train.load(tmp_path / "run", model(), step=first)
    finally:
        process.kill()
        process.communicate()
    assert capfd.readouterr() == ("", "")
