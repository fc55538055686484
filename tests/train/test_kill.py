"""A training process is killed at random moments, during saves too: nothing is unreadable, and no bit is lost."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
from helpers import kill_training
from helpers.kill_training import STEPS, model, trained

from scorefp import train

SCRIPT = Path(kill_training.__file__)


def started(run: Path, cache: Path) -> subprocess.Popen[str]:
    """A process that trains in a folder, from the moment on that its first report comes."""
    # What is compiled is kept, so that the next process starts soon. The flags of XLA are those of the tests.
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(run)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def killed(process: subprocess.Popen[str], wait: float | None, run: Path) -> bool:
    """Kills a process some seconds after its first report, or during a save; whether it was still under way."""
    assert process.stdout is not None
    assert process.stdout.readline().strip().isdecimal()
    if wait is not None:
        time.sleep(wait)
    else:
        while process.poll() is None and not any(run.glob(".partial-*")):
            time.sleep(0.0002)
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    return process.wait() == -signal.SIGKILL


def moment(run: Path) -> str:
    """What the kill hit, from what it left behind."""
    names = [folder.name for folder in run.iterdir()] if run.exists() else []
    if any(name.startswith(".partial-") for name in names):
        return "during a save"
    return "during a deletion" if any(name.startswith(".retired-") for name in names) else "between saves"


def assert_readable(run: Path) -> None:
    """Every checkpoint is whole, and all its models are loaded."""
    for step in train.saved_steps(run):
        for average in (0, 1, None):
            loaded = train.load(run, model(), step=step, average=average)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(eqx.filter(loaded, eqx.is_inexact_array)))


def assert_same(run: Path, expected: train.Run) -> None:
    """The parameters and averages of the last step are those of a run that was never stopped, to the bit."""
    assert train.saved_steps(run)[-1] == STEPS
    for average, reference in enumerate([*expected.averages, expected.last]):
        loaded = train.load(run, model(), average=average if average < len(expected.averages) else None)
        for one, other in zip(*map(jax.tree.leaves, (loaded, reference)), strict=True):
            if eqx.is_array(one):
                assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def kill_often(kills: int, folder: Path, longest: float) -> Counter[str]:
    """Kills runs until so many kills are done, each run started again until it ends; what the kills hit."""
    random.seed(0)
    expected, hit, number = trained(None), Counter[str](), 0
    while hit.total() < kills or train.saved_steps(folder / str(number))[-1:] != [STEPS]:
        if train.saved_steps(folder / str(number))[-1:] == [STEPS]:
            assert_same(folder / str(number), expected)
            number += 1
        run = folder / str(number)
        process = started(run, folder / "cache")
        if hit.total() == kills:
            process.communicate()
            assert process.returncode == 0
        # Every other kill waits for a save.
        elif killed(process, None if hit.total() % 2 else random.uniform(0.0, longest), run):
            hit[moment(run)] += 1
            assert_readable(run)
    assert_same(folder / str(number), expected)
    return hit


def test_killed_twice(tmp_path: Path) -> None:
    hit = kill_often(2, tmp_path, 0.5)
    assert hit.total() == 2
    assert hit["during a save"] >= 1


@pytest.mark.slow
def test_killed_fifty_times(tmp_path: Path) -> None:
    hit = kill_often(50, tmp_path, 1.5)
    print(dict(hit))
    assert hit.total() == 50
    assert hit["during a save"] >= 10
    assert hit["between saves"] >= 3
