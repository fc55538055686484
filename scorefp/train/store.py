"""Checkpoints on disk: arrays and JSON in folders named by their step, written whole or not at all, checked on reading.

A folder `path/1000` holds `arrays`, a checkpoint of orbax with a flat mapping from names to arrays, and `facts.json`,
with the shape and dtype of every array and the SHA-256 digest of every file. The files are compared with their digests
before anything parses them, and reading them runs no code: they can be damaged or foreign, but not harmful.

A folder is renamed to its step when all is written, and from its step before it is deleted, so that a process may be
killed at any moment: names that start with `.` are not checkpoints, and the next `save` deletes them. All is flushed to
the disk before a folder takes its name, and that before an older one is deleted.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np

from .._checks import path_of, require
from .._describe import JSON, first, unequal
from .._devices import all_agree
from .._module import AbstractModule
from ._arrays import ARRAYS, finish, flush, form_of, is_of_the_system, named, on_host, orbax, read, shown, write
from ._background import Background
from ._record import FACTS, UnfitError, opened, reason, sealed

_LIBRARIES = ("scorefp", "jax", "jaxlib", "equinox", "optax", "orbax-checkpoint", "grain", "numpy")
_PARTIAL, _RETIRED = ".partial-", ".retired-"
_READINGS = 100
"""How often a reader begins anew when a run deletes what it reads."""

_T = TypeVar("_T")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used or written. The message says what is wrong, where, and how to go on.

    No checkpoint on disk is changed when it is raised.
    """


class Store(AbstractModule):
    """A folder of checkpoints.

    With several processes every one of them calls every method, with the same arguments, and sees the same file system.
    Each writes its shares of the arrays that are cut among the devices; the first one all the rest.

    Args:
        path: The folder; it is made by the first `save`.
        keep: How many of the last checkpoints stay.
        best: The metric whose smallest value keeps its checkpoint besides the last ones.

    Raises:
        ImportError: if orbax is not installed.
        ValueError: if `keep` is below one.
    """

    path: Path = eqx.field(static=True, converter=lambda path: path_of("path", path).expanduser().resolve())
    keep: int = eqx.field(static=True, default=3)
    best: str | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        orbax()
        require(self.keep >= 1, f"keep = {self.keep}; at least the last checkpoint stays.")

    def steps(self) -> list[int]:
        """The steps with a checkpoint, in rising order."""
        if not self.path.is_dir():
            return []
        names = [folder.name for folder in self.path.iterdir()]
        return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)

    def holds(self, step: int) -> bool:
        """Whether what has the name of a step is a checkpoint, be it a damaged one, and nothing of somebody else."""
        return any((self.path / str(step) / part).exists() for part in (FACTS, ARRAYS))

    def latest(self) -> int | None:
        """The last step with a checkpoint; `None` if there is none."""
        return max(self.steps(), default=None)

    def save(
        self, step: int, arrays: Mapping[str, Any], facts: Mapping[str, JSON], metrics: Mapping[str, float]
    ) -> None:
        """Writes one checkpoint, then lets go of those that are not to stay. All is on disk when it returns.

        Args:
            step: The number of steps taken.
            arrays: Pytrees of arrays and random keys, in parts that can be read one by one.
            facts: Further facts to keep, as JSON.
            metrics: Numbers measured at this step.

        Raises:
            CheckpointError: if the step has a checkpoint already, or it cannot be written, as on a full disk.
        """
        work = Background()
        self.begin(step, arrays, facts, metrics, work)
        work.settle()

    def begin(
        self,
        step: int,
        arrays: Mapping[str, Any],
        facts: Mapping[str, JSON],
        metrics: Mapping[str, float],
        work: Background,
    ) -> None:
        """`save` in the background: the arrays are copied to the host when this returns, and on disk when `work` is
        settled.
        """
        work.settle()
        if step in self.steps():
            raise CheckpointError(f"{self.path / str(step)} exists already; a checkpoint is never overwritten.")
        content = {
            "step": step,
            "metrics": dict(metrics),
            "versions": _versions(),
            "leaves": {name: form_of(leaf) for name, leaf in named(arrays)},
            "facts": dict(facts),
        }
        content = json.loads(json.dumps(content))  # what JSON cannot hold is found before anything is written
        partial, writes = self.path / f"{_PARTIAL}{step}", jax.process_index() == 0
        failure = self._emptied(partial) if writes else None
        if not all_agree(failure is None):
            raise self._unsaved(step, failure)
        values = on_host(arrays)

        def of_this_process() -> None:
            write(partial / ARRAYS, values)

        def of_all() -> None:
            if writes:
                self._commit(partial, content)

        work.begin([of_this_process, of_all], lambda failure: self._unsaved(step, failure))

    def _emptied(self, partial: Path) -> OSError | None:
        """Makes an empty folder in the place of what a killed process left; why not, if it cannot."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._sweep()
            (partial / ARRAYS).mkdir(parents=True)
            # A disk that is full is found here: orbax would leave loops behind that print traces of their own.
            (partial / FACTS).write_text("{}")
        except OSError as error:
            return error
        return None

    def _commit(self, partial: Path, content: dict[str, JSON]) -> None:
        """Makes a checkpoint of what is written, flushes it, gives it its name, and lets go of those that are not to
        stay.
        """
        finish(partial / ARRAYS)
        (partial / FACTS).write_text(sealed(content | {"files": _digests(partial)}))
        for folder, _, files in os.walk(partial):
            for file in files:
                flush(Path(folder) / file)
            flush(Path(folder))
        partial.rename(self.path / str(content["step"]))
        flush(self.path)
        self._retire()

    def _unsaved(self, step: int, failure: Exception | None) -> CheckpointError:
        """The error about a checkpoint that could not be saved, once what there is of it is deleted."""
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):
                self._sweep()
        steps = self.steps()
        what = "is saved, but older ones could not be deleted" if step in steps else "could not be written"
        why = "another process failed" if failure is None else reason(failure)
        kept = f"The checkpoints {steps} in it are whole" if steps else "It holds no checkpoint"
        kept += "" if step in steps else "; what was written of this one is deleted"
        on = f"the same call of fit goes on from step {steps[-1]}" if steps else "call fit again"
        error = CheckpointError(
            f"the checkpoint of step {step} {what} in {self.path}: {why}. {kept}. "
            f"Make room or mend the folder, and {on}."
        )
        error.__cause__ = None if failure is None or is_of_the_system(failure) else failure
        return error

    def restore(
        self, like: dict[str, Any], *, step: int | None = None, configuration: Mapping[str, JSON] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Some parts of a checkpoint, and its facts.

        Args:
            like: The parts that are wanted, pytrees of arrays with the names, shapes and dtypes that are expected.
            step: The step of the checkpoint; `None` is the last.
            configuration: The content that the facts must have under `"configuration"`; `None` does not compare.

        Raises:
            CheckpointError: if there is no such checkpoint, it is damaged or not ours, its arrays have other names,
                shapes or dtypes, or its configuration is another.
        """
        return self.steadily(lambda step: self._restored(like, step, configuration), step)

    def _restored(
        self, like: dict[str, Any], step: int, configuration: Mapping[str, JSON] | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        content = self._content(step)
        if configuration is not None:
            self._check_configuration(step, content, configuration)
        wanted = {name: form_of(leaf) for name, leaf in named(like)}
        parts = {str(part) for part in like}
        saved = {name: form for name, form in content["leaves"].items() if name.partition("/")[0] in parts}
        self._check_forms(step, saved, wanted)
        self._check_files(step, content["files"])
        values = self._values(step, saved, like)
        _warn_of_versions(content["versions"], compared=configuration is not None)
        restored = [values[name] for name, _ in named(like)]
        return jax.tree.unflatten(jax.tree.structure(like), restored), content["facts"]

    def facts(self, step: int | None = None) -> dict[str, Any]:
        """The facts of a checkpoint, without its arrays.

        Args:
            step: The step of the checkpoint; `None` is the last.

        Raises:
            CheckpointError: if there is no such checkpoint, or it is damaged or not ours.
        """
        return self.steadily(lambda step: self._content(step)["facts"], step)

    def steadily(self, read: Callable[[int], _T], step: int | None = None) -> _T:
        """What `read` makes of a checkpoint, beside a run that saves and deletes in the same folder.

        Args:
            read: Called with the step. It is called again with the next one where that of the last try is deleted
                meanwhile.
            step: The step of the checkpoint; `None` is the last.

        Raises:
            CheckpointError: if there is no such checkpoint, or all are deleted faster than they are read.
        """
        for _ in range(_READINGS):
            at = self._existing(step)
            try:
                return read(at)
            except Exception:
                # A run takes the name from a folder before it deletes anything in it.
                if os.path.lexists(self.path / str(at)):
                    raise
                if step is not None:
                    raise CheckpointError(
                        f"{self.path / str(at)} was deleted by a run while it was read. There are {self.steps()} now."
                    ) from None
        raise CheckpointError(
            f"the checkpoints in {self.path} are deleted faster than they are read, {_READINGS} times on end. Give the "
            "run that writes them a larger keep or every."
        )

    def refused(self, step: int, what: str) -> CheckpointError:
        """The error about a checkpoint that cannot be used, with the way to go on without it."""
        return CheckpointError(f"{self.path / str(step)} {what} {self._way_on(step)}")

    def _existing(self, step: int | None) -> int:
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"{self.path} holds no checkpoint.")
        if step is not None and step not in steps:
            raise CheckpointError(f"{self.path} holds no checkpoint of step {step}; there are {steps}.")
        return steps[-1] if step is None else step

    def _content(self, step: int) -> dict[str, Any]:
        """The record of a checkpoint, found whole."""
        try:
            return opened(self.path / str(step), step)
        except UnfitError as unfit:
            raise self.refused(step, str(unfit)) from None

    def _check_files(self, step: int, saved: Mapping[str, str]) -> None:
        """Refuses files that are not what was written."""
        if lost := _lost(self.path / str(step), saved):
            raise self.refused(step, f"is damaged: {lost}.")

    def _values(self, step: int, leaves: Mapping[str, Mapping[str, Any]], like: dict[str, Any]) -> dict[str, Any]:
        """The named arrays of a checkpoint, once their files are found to hold the shapes of the record."""
        try:
            return read(self.path / str(step) / ARRAYS, leaves, dict(named(like)))
        except UnfitError as unfit:
            raise self.refused(step, f"is damaged: {unfit}") from None

    def _check_forms(self, step: int, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Refuses arrays of other names, shapes or dtypes."""
        unlike = [f"{name} is not there" for name in wanted if name not in saved]
        unlike += [f"{name} is there, and has no place here" for name in saved if name not in wanted]
        unlike += [
            f"{name} is {shown(saved[name])}, here it is {shown(form)}"
            for name, form in wanted.items()
            if name in saved and shown(saved[name]) != shown(form)
        ]
        if unlike:
            raise CheckpointError(
                f"{self.path / str(step)} was saved from another architecture, optimizer or precision: "
                f"{first(unlike)}. Build the same model and optimizer as for that run, or give another folder."
            )

    def _check_configuration(self, step: int, content: Mapping[str, Any], now: Mapping[str, JSON]) -> None:
        """Refuses to go on with a run that was set up in another way."""
        saved, now = content["facts"].get("configuration", {}), dict(now)
        if not isinstance(saved, dict):
            raise self.refused(step, f"is damaged: configuration in {FACTS} is no mapping.")
        if content["versions"].get("optax") != _versions().get("optax"):
            # The names and numbers inside an optimizer are those of optax, and another version may have others.
            saved, now = ({k: v for k, v in told.items() if k != "optimizer"} for told in (saved, now))
        unlike = unequal(saved, now)
        if unlike:
            raise CheckpointError(
                f"{self.path / str(step)} belongs to another run: {unlike}. To go on with it, give the same "
                f"settings. To fine-tune its model in another way, start from load({str(self.path)!r}, model) and "
                "give a new folder."
            )

    def _way_on(self, step: int) -> str:
        """The way to go on without a step: from the last good one before it, if there is one."""
        before = next((good for good in reversed(self.steps()) if good < step and self._is_good(good)), None)
        if before is None:
            return (
                "There is no good checkpoint before it. Nothing was deleted; to start anew, give another folder or "
                f"move {self.path} aside."
            )
        return (
            f"The checkpoint of step {before} is good: move {self.path / str(step)} aside, and the run goes on from "
            f"there; load({str(self.path)!r}, model, step={before}) gives its model. Nothing was deleted."
        )

    def _is_good(self, step: int) -> bool:
        folder = self.path / str(step)
        try:
            return not _lost(folder, opened(folder, step)["files"])
        except (UnfitError, OSError):
            return False

    def _retire(self) -> None:
        """Deletes the checkpoints that are not to stay."""
        steps = [step for step in self.steps() if self.holds(step)]
        stay = set(steps[-self.keep :])
        if self.best is not None:
            stay |= self._best_of(steps)
        for step in set(steps) - stay:
            (self.path / str(step)).rename(self.path / f"{_RETIRED}{step}")
        self._sweep()

    def _sweep(self) -> None:
        """Deletes the folders that are checkpoints no longer, and those that never became one."""
        for folder in self.path.iterdir():
            if folder.name.startswith((_PARTIAL, _RETIRED)):
                shutil.rmtree(folder)

    def _best_of(self, steps: list[int]) -> set[int]:
        """The step with the smallest metric, as a set; the earliest of equals. What is not finite is no best."""
        found: dict[int, float] = {}
        for step in steps:
            try:
                value = opened(self.path / str(step), step)["metrics"].get(self.best)
            except UnfitError:  # a damaged one is not the best, and is not what stops a run
                continue
            if value is not None and np.isfinite(value):
                found[step] = value
        return {min(found, key=lambda step: found[step])} if found else set()


def _digests(folder: Path) -> dict[str, str]:
    """The digest of every file of orbax in a checkpoint."""
    files = sorted(file for file in (folder / ARRAYS).rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): _file_digest(file) for file in files}


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _lost(folder: Path, saved: Mapping[str, str]) -> str:
    """The files of a checkpoint that are not what was written, in words; empty where there are none."""
    found = _digests(folder)
    lost = [f"{name} is missing" for name in saved if name not in found]
    lost += [f"{name} is not what was written" for name in saved if name in found and found[name] != saved[name]]
    return first(lost)


def _versions() -> dict[str, str]:
    """The versions of the libraries of a run."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _warn_of_versions(saved: Mapping[str, str], *, compared: bool) -> None:
    now = _versions()
    others = [f"{name} {saved[name]}, now {now[name]}" for name in saved if now.get(name, saved[name]) != saved[name]]
    unseen = "; its optimizer was not compared" if compared and saved.get("optax") != now.get("optax") else ""
    if others:
        warnings.warn(
            f"the checkpoint was written with {', '.join(others)}{unseen}; a resumed run need not be the same to the "
            "bit.",
            UserWarning,
            stacklevel=5,
        )
