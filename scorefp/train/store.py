"""Checkpoints on disk: arrays and JSON in folders named by their step, written whole or not at all, checked on reading.

A folder `path/1000` holds `arrays`, a checkpoint of orbax with a flat mapping from names to arrays, and `facts.json`,
with the shape and dtype of every array and the SHA-256 digest of every file. The files are compared with their digests
before anything parses them, and reading them runs no code: they can be damaged or foreign, but not harmful.

A folder is renamed to its step when all is written, and from its step before it is deleted, so that a process may be
killed at any moment: names that start with `.` are not checkpoints, and the next `save` deletes them.
"""

import hashlib
import importlib.metadata
import json
import platform
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._checks import require
from .._describe import JSON, first, unequal
from .._module import AbstractModule

_FORMAT = {"format": "scorefp checkpoint", "version": 3}
_LIBRARIES = ("scorefp", "jax", "jaxlib", "equinox", "optax", "orbax-checkpoint", "grain", "numpy")
_ARRAYS, _FACTS = "arrays", "facts.json"
_PARTIAL, _RETIRED = ".partial-", ".retired-"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used. The message says what is wrong, where, and how to go on.

    Nothing on disk is changed when it is raised.
    """


class Store(AbstractModule):
    """A folder of checkpoints.

    With several processes every one of them calls every method, with the same arguments, and sees the same file system;
    the first process writes.

    Args:
        path: The folder; it is made by the first `save`.
        keep: How many of the last checkpoints stay.
        best: The metric whose smallest value keeps its checkpoint besides the last ones.

    Raises:
        ImportError: if orbax is not installed.
        ValueError: if `keep` is below one.
    """

    path: Path = eqx.field(static=True, converter=lambda path: Path(path).expanduser().resolve())
    keep: int = eqx.field(static=True, default=3)
    best: str | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        _orbax()
        require(self.keep >= 1, f"keep = {self.keep}; at least the last checkpoint stays.")

    def steps(self) -> list[int]:
        """The steps with a checkpoint, in rising order."""
        if not self.path.is_dir():
            return []
        return sorted(int(folder.name) for folder in self.path.iterdir() if folder.name.isdecimal())

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
            CheckpointError: if the step has a checkpoint already.
        """
        if step in self.steps():
            raise CheckpointError(f"{self.path / str(step)} exists already; a checkpoint is never overwritten.")
        ocp, writes = _orbax(), jax.process_index() == 0
        if writes:
            self.path.mkdir(parents=True, exist_ok=True)
            self._sweep()
        ocp.multihost.sync_global_processes("scorefp: before a checkpoint")
        partial = self.path / f"{_PARTIAL}{step}"
        # Orbax refuses arrays without entries; their shape says all.
        values = {name: _plain(leaf) for name, leaf in _named(arrays) if leaf.size}
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as writer:
            writer.save(partial / _ARRAYS, args=ocp.args.PyTreeSave(values))
        if writes:
            content = {
                "step": step,
                "metrics": dict(metrics),
                "versions": _versions(),
                "leaves": {name: _form(leaf) for name, leaf in _named(arrays)},
                "files": _digests(partial),
                "facts": dict(facts),
            }
            # To JSON and back, so that the digest is that of what a reader finds.
            content = json.loads(json.dumps(content))
            record = _FORMAT | {"digest": _digest(_json(content)), "content": content}
            (partial / _FACTS).write_text(json.dumps(record, indent=1))
            partial.rename(self.path / str(step))
            self._retire()
        ocp.multihost.sync_global_processes("scorefp: after a checkpoint")

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
        step = self._existing(step)
        content = self._content(step)
        if configuration is not None:
            self._check_configuration(step, content["facts"].get("configuration", {}), configuration)
        wanted = {name: _form(leaf) for name, leaf in _named(like)}
        parts = {str(part) for part in like}
        saved = {name: form for name, form in content["leaves"].items() if name.partition("/")[0] in parts}
        self._check_forms(step, saved, wanted)
        self._check_files(step, content["files"])
        values = self._values(step, saved)
        _warn_of_versions(content["versions"])
        restored = [_typed(values[name], leaf) for name, leaf in _named(like)]
        return jax.tree.unflatten(jax.tree.structure(like), restored), content["facts"]

    def facts(self, step: int | None = None) -> dict[str, Any]:
        """The facts of a checkpoint, without its arrays.

        Args:
            step: The step of the checkpoint; `None` is the last.

        Raises:
            CheckpointError: if there is no such checkpoint, or it is damaged or not ours.
        """
        return self._content(self._existing(step))["facts"]

    def _existing(self, step: int | None) -> int:
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"{self.path} holds no checkpoint.")
        if step is not None and step not in steps:
            raise CheckpointError(f"{self.path} holds no checkpoint of step {step}; there are {steps}.")
        return steps[-1] if step is None else step

    def _content(self, step: int) -> dict[str, Any]:
        """The record of a checkpoint, found whole."""
        file = self.path / str(step) / _FACTS
        if not file.is_file():
            raise CheckpointError(
                f"{file.parent} is not a checkpoint of scorefp, or a damaged one: it has no {_FACTS}. "
                + self._way_on(step)
            )
        try:
            record = json.loads(file.read_bytes())
        except ValueError as error:
            raise self._damaged(step, f"{_FACTS} is not JSON") from error
        if not isinstance(record, dict) or record.get("format") != _FORMAT["format"]:
            raise CheckpointError(f"{file.parent} is not a checkpoint of scorefp. " + self._way_on(step))
        if record.get("version") != _FORMAT["version"]:
            raise CheckpointError(
                f"{file.parent} is written in version {record.get('version')} of the format; this scorefp reads "
                f"version {_FORMAT['version']}. Use the release that wrote it."
            )
        content = cast(dict[str, Any], record.get("content"))
        if record.get("digest") != _digest(_json(content)):
            raise self._damaged(step, f"{_FACTS} was altered")
        if content["step"] != step:
            raise self._damaged(step, f"it was saved as step {content['step']}")
        return content

    def _check_files(self, step: int, saved: Mapping[str, str]) -> None:
        """Refuses files that are not what was written."""
        found = _digests(self.path / str(step))
        lost = [f"{name} is missing" for name in saved if name not in found]
        lost += [f"{name} is not what was written" for name in saved if name in found and found[name] != saved[name]]
        if lost:
            raise self._damaged(step, first(lost))

    def _values(self, step: int, leaves: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """The named arrays of a checkpoint as numbers."""
        ocp = _orbax()
        values = {name: np.empty(form["shape"], form["dtype"]) for name, form in leaves.items() if 0 in form["shape"]}
        names = [name for name in leaves if name not in values]
        request = ocp.args.PyTreeRestore(
            item=dict.fromkeys(names, 0),
            restore_args={name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names},
            partial_restore=True,
        )
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            return values | reader.restore(self.path / str(step) / _ARRAYS, args=request)

    def _check_forms(self, step: int, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Refuses arrays of other names, shapes or dtypes."""
        unlike = [f"{name} is not there" for name in wanted if name not in saved]
        unlike += [f"{name} is there, and has no place here" for name in saved if name not in wanted]
        unlike += [
            f"{name} is {_shown(saved[name])}, here it is {_shown(form)}"
            for name, form in wanted.items()
            if name in saved and _shown(saved[name]) != _shown(form)
        ]
        if unlike:
            raise CheckpointError(
                f"{self.path / str(step)} was saved from another architecture, optimizer or precision: "
                f"{first(unlike)}. Build the same model and optimizer as for that run, or give another folder."
            )

    def _check_configuration(self, step: int, saved: JSON, now: Mapping[str, JSON]) -> None:
        """Refuses to go on with a run that was set up in another way."""
        unlike = unequal(saved, dict(now))
        if unlike:
            raise CheckpointError(
                f"{self.path / str(step)} belongs to another run: {unlike}. To go on with it, give the same "
                f"settings. To fine-tune its model in another way, start from load({str(self.path)!r}, model) and "
                "give a new folder."
            )

    def _damaged(self, step: int, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path / str(step)} is damaged: {what}. " + self._way_on(step))

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
        try:
            self._check_files(step, self._content(step)["files"])
        except CheckpointError:
            return False
        return True

    def _retire(self) -> None:
        """Deletes the checkpoints that are not to stay."""
        steps = self.steps()
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
        """The step with the smallest metric, as a set; the earliest of equals. NaN is no best."""
        found: dict[int, float] = {}
        for step in steps:
            try:
                value = self._content(step)["metrics"].get(self.best)
            except CheckpointError:  # a damaged one is not the best, and is not what stops a run
                continue
            if value is not None and not np.isnan(value):
                found[step] = value
        return {min(found, key=lambda step: found[step])} if found else set()


def _orbax() -> Any:
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ImportError("checkpoints need orbax; install it with: pip install 'scorefp[train]'") from error
    return ocp


def _named(tree: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of a pytree with their names, such as `params/network/enter/weight`."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> np.ndarray:
    """A leaf as an array of numbers; a random key as its bits."""
    return np.asarray(jr.key_data(leaf) if _is_key(leaf) else leaf)


def _form(leaf: Any) -> dict[str, Any]:
    """The shape and dtype of a leaf as an array of numbers, and the kind of a random key."""
    kind = str(jr.key_impl(leaf)) if _is_key(leaf) else None
    leaf = jax.eval_shape(jr.key_data, leaf) if kind else leaf
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "key": kind}


def _shown(form: Mapping[str, Any]) -> str:
    kind = f" (a {form['key']} key)" if form["key"] else ""
    return f"{form['dtype']}{form['shape']}{kind}"


def _typed(value: np.ndarray, like: Any) -> Any:
    """A saved array in the type of a leaf; a copy, as a donated buffer must not be numpy's."""
    if _is_key(like):
        return jr.wrap_key_data(jnp.array(value), impl=str(jr.key_impl(like)))
    return value if isinstance(like, np.ndarray) else jnp.array(value)


def _digests(folder: Path) -> dict[str, str]:
    """The digest of every file of orbax in a checkpoint."""
    files = sorted(file for file in (folder / _ARRAYS).rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): _file_digest(file) for file in files}


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _json(content: JSON) -> bytes:
    """The one way of writing JSON that has a digest."""
    return json.dumps(content, sort_keys=True).encode()


def _versions() -> dict[str, str]:
    """The versions of the libraries of a run."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _warn_of_versions(saved: Mapping[str, str]) -> None:
    now = _versions()
    others = [f"{name} {saved[name]}, now {now[name]}" for name in saved if now.get(name, saved[name]) != saved[name]]
    if others:
        warnings.warn(
            f"the checkpoint was written with {', '.join(others)}; a resumed run need not be the same to the bit.",
            UserWarning,
            stacklevel=3,
        )
