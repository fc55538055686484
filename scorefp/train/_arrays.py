"""The arrays of a checkpoint: their names and forms, written by orbax, read by tensorstore, flushed to the disk."""

import contextlib
import errno
import logging
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._describe import first
from ._record import FACTS, UnfitError, reason

ARRAYS = "arrays"


def write(folder: Path, arrays: Mapping[str, Any]) -> None:
    """Writes the leaves of a pytree as a checkpoint of orbax, a flat mapping; all processes call it."""
    ocp = orbax()
    # Orbax refuses arrays without entries; their shape says all.
    values = {name: _plain(leaf) for name, leaf in named(arrays) if leaf.size}
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=False)
    with _unlogged(), ocp.Checkpointer(handler) as writer:
        writer.save(folder, args=ocp.args.PyTreeSave(values))


def read(folder: Path, leaves: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The named arrays as numbers, once the heads of their files are found to have the forms of a record.

    Raises:
        UnfitError: if they have other forms, or cannot be read.
    """
    values = {name: np.empty(form["shape"], form["dtype"]) for name, form in leaves.items() if 0 in form["shape"]}
    names = [name for name in leaves if name not in values]
    try:
        held = _opened(folder, names)
        unlike = [
            f"{name} is {_bare(leaves[name])} in {FACTS} and {_held(held[name])} in {ARRAYS}"
            for name in names
            if _held(held[name]) != _bare(leaves[name])
        ]
        if unlike:
            raise UnfitError(first(unlike))
        reads = {name: held[name].read() for name in names}
        return values | {name: np.asarray(read.result()) for name, read in reads.items()}
    except Exception as error:  # files from a stranger: tensorstore raises what it likes
        raise UnfitError(f"{ARRAYS} cannot be read: {reason(error)}.") from None


def orbax() -> Any:
    """The library, or an error that says how to install it."""
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ImportError("checkpoints need orbax; install it with: pip install 'scorefp[train]'") from error
    return ocp


@contextlib.contextmanager
def _unlogged() -> Generator[None, None, None]:
    """Without the log of orbax, which gives pages of traces to what it raises as well."""
    logger = logging.getLogger("absl")

    def is_other(record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def named(tree: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of a pytree with their names, such as `params/network/enter/weight`."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> np.ndarray:
    """A leaf as an array of numbers; a random key as its bits."""
    return np.asarray(jr.key_data(leaf) if _is_key(leaf) else leaf)


def form_of(leaf: Any) -> dict[str, Any]:
    """The shape and dtype of a leaf as an array of numbers, and the kind of a random key."""
    kind = str(jr.key_impl(leaf)) if _is_key(leaf) else None
    leaf = jax.eval_shape(jr.key_data, leaf) if kind else leaf
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "key": kind}


def shown(form: Mapping[str, Any]) -> str:
    """A form in words: dtype, shape, and the kind of a random key."""
    kind = f" (a {form['key']} key)" if form["key"] else ""
    return _bare(form) + kind


def _bare(form: Mapping[str, Any]) -> str:
    """The dtype and shape of an array of numbers."""
    return f"{form['dtype']}{form['shape']}"


def _opened(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """The named arrays of a checkpoint of orbax, of which only the heads are read so far; `None` where there is none.

    By tensorstore, with which orbax reads them as well: where files vanish meanwhile, orbax leaves loops behind that
    print traces of their own.
    """
    import tensorstore

    arrays = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
    futures = {
        name: cast(Any, tensorstore).open({"driver": "zarr", "kvstore": arrays | {"path": name}}, open=True, read=True)
        for name in names
    }

    def result(future: Any) -> Any:
        try:
            return future.result()
        except ValueError as error:
            if str(error).startswith("NOT_FOUND"):
                return None
            raise

    return {name: result(future) for name, future in futures.items()}


def _held(array: Any) -> str:
    """The dtype and shape of an array in the files of orbax."""
    return "nothing" if array is None else _bare({"dtype": array.dtype.name, "shape": list(array.shape)})


def typed(value: np.ndarray, like: Any) -> Any:
    """A saved array in the type of a leaf; a copy, as a donated buffer must not be numpy's."""
    if _is_key(like):
        return jr.wrap_key_data(jnp.array(value), impl=str(jr.key_impl(like)))
    return value if isinstance(like, np.ndarray) else jnp.array(value)


def flush(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():  # Windows opens no folders
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems flush no folders.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def is_of_the_system(error: BaseException) -> bool:
    """Whether an error is one of the disk, of which the words say all; tensorstore makes a `ValueError` of it."""
    return isinstance(error, OSError) or "os_error_code" in str(error)
