"""Checkpoints are written while training goes on: steps do not wait, and nothing is lost or wrong for it."""

import errno
import os
import signal
import threading
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

import scorefp as sfp
from scorefp import train
from scorefp.train import CheckpointError, store
from scorefp.train._background import Background
from scorefp.train.store import Store

X = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
PATIENCE = 60.0


def model() -> sfp.score.NetworkScore:
    return sfp.NoiseScore(sfp.nn.MLP((2,), width=16, depth=1, key=jr.key(1)), sfp.VP(), data_std=1.0)


def fitted(folder: Path | None, steps: int = 20, *, every: int = 5, **options: Any) -> train.Run:
    settings = {"optimizer": optax.adam(1e-2), "batch_size": 16, "report_every": 5, "progress": False}
    if folder is not None:
        settings["checkpoints"] = train.Checkpoints(folder, every=every, keep=2)
    return train.fit(model(), sfp.DSM(), X, steps=steps, key=jr.key(2), **(settings | options))


def same(one: Any, other: Any) -> bool:
    return all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(*(jax.tree.leaves(eqx.filter(tree, eqx.is_array)) for tree in (one, other)), strict=True)
    )


class Disk:
    """The writing of the arrays of a step, held until it is let go, or refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held, self.full = dict[int, threading.Event](), set[int]()
        self.begun, self.write = list[int](), store.write
        monkeypatch.setattr(store, "write", self)

    def __call__(self, folder: Path, values: Any) -> None:
        step = int(folder.parent.name.removeprefix(".partial-"))
        self.begun.append(step)
        if step in self.held and not self.held[step].wait(PATIENCE):
            raise TimeoutError(f"nobody lets go of step {step}: the training waits")
        if step in self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.write(folder, values)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def at(steps: dict[int, Callable[[], object]]) -> Callable[[train.Report], None]:
    """A callback that does something at some steps."""
    return lambda report: (steps.get(report.step, str)(), None)[1]


@pytest.mark.quick
def test_steps_do_not_wait_and_the_state_is_that_of_its_step(tmp_path: Path, disk: Disk) -> None:
    disk.held[10] = threading.Event()
    seen: list[list[int]] = []
    look = lambda: (seen.append(train.saved_steps(tmp_path)), disk.held[10].set())
    run = fitted(tmp_path, every=10, callbacks=(at({20: look}),))
    assert seen == [[]]
    assert train.saved_steps(tmp_path) == [10, 20]
    assert same(train.load(tmp_path, model(), step=10, average=None), fitted(None, 10).last)
    assert same(run.state.params, fitted(None).state.params)


def test_a_save_waits_for_the_one_before(tmp_path: Path, disk: Disk) -> None:
    disk.held[5] = threading.Event()
    reports: list[int] = []

    def note(report: train.Report) -> None:
        reports.append(report.step)
        if report.step == 10:
            assert disk.begun == [5]
            threading.Timer(0.3, disk.held[5].set).start()
        if report.step == 15:
            assert disk.begun[:2] == [5, 10]
            assert disk.held[5].is_set()
            assert train.saved_steps(tmp_path)[0] == 5

    fitted(tmp_path, callbacks=(note,))
    assert reports == [5, 10, 15, 20]
    assert train.saved_steps(tmp_path) == [15, 20]


@pytest.mark.quick
def test_a_full_disk_is_told_at_the_next_report(tmp_path: Path, disk: Disk) -> None:
    disk.full = {10}
    reports: list[int] = []
    message = (
        r"the checkpoint of step 10 could not be written in .*: No space left on device\. The checkpoints \[5\] in it "
        r"are whole; what was written of this one is deleted\. .*goes on from step 5\."
    )
    with pytest.raises(CheckpointError, match=message) as error:
        fitted(tmp_path, callbacks=(lambda report: reports.append(report.step),))
    assert error.value.__cause__ is None
    assert not getattr(error.value, "__notes__", [])
    assert reports == [5, 10, 15]
    assert os.listdir(tmp_path) == ["5"]
    disk.full = set()
    assert same(fitted(tmp_path).state.params, fitted(None).state.params)


def test_the_last_save_fails(tmp_path: Path, disk: Disk) -> None:
    disk.full = {20}
    with pytest.raises(CheckpointError, match=r"step 20 could not be written .*\[10, 15\]"):
        fitted(tmp_path)


@contextmanager
def stopped(error: type[BaseException]) -> Iterator[pytest.ExceptionInfo[BaseException]]:
    with pytest.raises(error) as info:
        yield info
    assert not any(thread.name == "scorefp checkpoint" for thread in threading.enumerate())


def raising(error: BaseException) -> Callable[[], None]:
    def do() -> None:
        raise error

    return do


def let_go_later(disk: Disk, step: int) -> None:
    threading.Timer(0.3, disk.held[step].set).start()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_ends_a_run_waits_for_the_save(error: type[BaseException], tmp_path: Path, disk: Disk) -> None:
    """And the folder is not let go of before."""
    disk.held[5] = threading.Event()
    do = lambda: (let_go_later(disk, 5), raising(error("enough"))())
    with stopped(error) as info:
        fitted(tmp_path, callbacks=(at({10: do}),))
    assert not getattr(info.value, "__notes__", [])
    assert os.listdir(tmp_path) == ["5"]


def test_an_interrupted_wait_is_waited_on() -> None:
    """Ctrl-C while a save is waited for: what is being written is not left alone with the next run of the folder."""
    work, go_on, done = Background(), threading.Event(), list[str]()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        work.begin([lambda: done.append(str(go_on.wait(PATIENCE)))], lambda failure: RuntimeError(str(failure)))
        main = threading.main_thread().ident
        assert main is not None
        threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            work.settle()
        threading.Timer(0.2, go_on.set).start()
        assert work.left() is None
    finally:
        go_on.set()
        signal.signal(signal.SIGINT, before)
    assert done == ["True"]


def test_what_ends_a_run_is_not_hidden_by_a_full_disk(tmp_path: Path, disk: Disk) -> None:
    disk.held[5], disk.full = threading.Event(), {5}
    do = lambda: (let_go_later(disk, 5), raising(ValueError("enough"))())
    with stopped(ValueError) as info:
        fitted(tmp_path, callbacks=(at({10: do}),))
    assert info.value.__notes__ == ["A checkpoint could not be written meanwhile: No space left on device."]
    assert train.saved_steps(tmp_path) == []


@pytest.mark.parametrize("full", [False, True])
def test_a_save_under_way_is_offered_once_it_is_there(full: bool, tmp_path: Path, disk: Disk) -> None:
    disk.held[5], disk.full = threading.Event(), {5} if full else set()
    wrong = optax.adam(lambda count: jnp.where(count == 7, jnp.nan, 1e-2))
    threading.Timer(1.0, lambda: let_go_later(disk, 5)).start()
    with stopped(FloatingPointError) as info:
        fitted(tmp_path, optimizer=wrong, every=5)
    assert ("gives the model of step 5" in str(info.value)) == (not full)
    assert train.saved_steps(tmp_path) == ([] if full else [5])


def test_best_is_chosen_among_what_is_saved(tmp_path: Path, disk: Disk) -> None:
    """With the saves late, the one with the smallest number stays all the same."""
    for step in (5, 10, 15):
        disk.held[step] = threading.Event()
    numbers = iter([9.0, 3.0, 1.0, 2.0, 4.0])  # the first is asked for before the first step
    let_go = {step + 5: lambda step=step: let_go_later(disk, step) for step in (5, 10, 15)}
    fitted(
        tmp_path,
        evaluate=lambda score: {"bits": next(numbers)},
        evaluate_every=5,
        checkpoints=train.Checkpoints(tmp_path, every=5, keep=1, best="bits"),
        callbacks=(at(let_go),),
    )
    assert train.saved_steps(tmp_path) == [10, 20]


def test_saving_at_once_and_in_the_background_write_the_same(tmp_path: Path) -> None:
    arrays = {"x": jnp.asarray(X), "key": jr.key(3), "empty": jnp.zeros((0, 2))}
    work = train._background.Background()
    now, later = Store(tmp_path / "now"), Store(tmp_path / "later")
    now.save(1, arrays, {"a": 1}, {})
    later.begin(1, arrays, {"a": 1}, {}, work)
    jax.tree.map(lambda leaf: leaf.delete(), arrays)  # as donation does
    work.settle()
    like = {"x": jnp.zeros((64, 2)), "key": jr.key(0), "empty": jnp.zeros((0, 2))}
    one, other = (store.restore(like) for store in (now, later))
    assert one[1] == other[1]
    assert np.array_equal(one[0]["x"], X)
    assert np.array_equal(other[0]["x"], X)
    assert jnp.array_equal(jr.key_data(other[0]["key"]), jr.key_data(jr.key(3)))
