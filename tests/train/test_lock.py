"""One run a folder: the second one is refused, a dead one holds nothing, and readers need no lock."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers.refusals import refused

from scorefp.train import CheckpointError, saved_steps
from scorefp.train._lock import alone

HOLD = """
import sys, pathlib
from scorefp.train._lock import alone
with alone(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder: Path, root: Path) -> subprocess.Popen[str]:
    """A process that holds a folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        env=os.environ | {"PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def ended(process: subprocess.Popen[str]) -> None:
    process.communicate()


def enter(folder: Path) -> None:
    with alone(folder):
        pass


def test_the_second_is_refused_and_told_who_has_it(tmp_path: Path, root: Path) -> None:
    first = holder(tmp_path, root)
    message = rf"{tmp_path} is taken: process {first.pid} on .* trains in it since 2.* UTC\. .*a folder of its own"
    before = (tmp_path / ".lock").read_bytes()
    refused(message, enter, tmp_path, error=CheckpointError)
    assert (tmp_path / ".lock").read_bytes() == before
    assert saved_steps(tmp_path) == []  # a reader is not refused
    ended(first)
    enter(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_process_held_is_free(tmp_path: Path, root: Path) -> None:
    first = holder(tmp_path, root)
    first.send_signal(signal.SIGKILL)
    ended(first)
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == first.pid
    with alone(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
        refused(f"process {os.getpid()} on", enter, tmp_path, error=CheckpointError)  # in one process too
    assert list(tmp_path.iterdir()) == []


def test_it_is_let_go_of_on_the_way_out_of_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), alone(tmp_path):
        raise KeyboardInterrupt
    enter(tmp_path)


def test_a_forked_worker_holds_nothing(tmp_path: Path, root: Path) -> None:
    """One that outlives its run, as a loader's may."""
    code = HOLD.replace(
        'print("held", flush=True)',
        "import os, time\n    if os.fork() == 0: time.sleep(60)\n    print('held', flush=True)",
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    try:
        enter(tmp_path)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        ended(process)


def test_many_at_once(tmp_path: Path) -> None:
    """One of them at a time, also while the file is made and deleted."""
    inside, most, entered, lock = 0, 0, 0, threading.Lock()

    def often() -> None:
        nonlocal inside, most, entered
        for _ in range(300):
            try:
                with alone(tmp_path):
                    with lock:
                        inside += 1
                        most, entered = max(most, inside), entered + 1
                    with lock:
                        inside -= 1
            except CheckpointError:
                pass

    threads = [threading.Thread(target=often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert entered >= 10


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, "function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    with pytest.warns(UserWarning, match=f"the file system of {tmp_path} has no locks"):
        enter(tmp_path)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    refused("run cannot be written to: File exists.*No step was taken", enter, tmp_path / "run", error=CheckpointError)
