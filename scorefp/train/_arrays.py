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

from .._checks import needs
from .._describe import first
from .._devices import copied
from ._record import FACTS, UnfitError, reason

ARRAYS = "arrays"


def on_host(tree: Any) -> dict[str, Any]:
    """Copies of the leaves of a pytree in the memory of the host, by name; of an array in shares those of this process.

    The arrays may be donated or changed behind it.
    """
    # Orbax refuses arrays without entries; their shape says all.
    leaves = {name: jr.key_data(leaf) if _is_key(leaf) else leaf for name, leaf in named(tree) if leaf.size}
    for leaf in leaves.values():
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()  # all are under way before the first is waited for
    values = {name: _copy_on_host(leaf) for name, leaf in leaves.items()}
    return jax.block_until_ready(values)


def _copy_on_host(leaf: Any) -> Any:
    if not _in_shares(leaf):
        return np.array(leaf)
    return jax.device_put(leaf, leaf.sharding.with_memory_kind("pinned_host"))


def _in_shares(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not leaf.is_fully_replicated


def write(folder: Path, values: Mapping[str, Any]) -> None:
    """Writes what `on_host` gives as a checkpoint of orbax, a flat mapping, but for `finish`.

    All processes call it, and none waits for another: each writes its shares, the first one what is not in shares.
    """
    ocp = orbax()
    with _unlogged(), contextlib.closing(_handler()) as handler:
        handler.save(_path(folder), args=ocp.args.PyTreeSave(dict(values)))


def finish(folder: Path) -> None:
    """Makes one checkpoint of what all processes have written. One of them calls it."""
    with _unlogged(), contextlib.closing(_handler()) as handler:
        handler.finalize(_path(folder))


def _handler() -> Any:
    return orbax().PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=False)


def _path(folder: Path) -> Any:
    """A path of the kind that orbax takes."""
    from etils import epath

    return epath.Path(folder)


def read(
    folder: Path, leaves: Mapping[str, Mapping[str, Any]], like: Mapping[str, Any]
) -> dict[str, jax.Array | np.ndarray]:
    """The named arrays, once the heads of their files are found to have the forms of a record.

    Each is of the type of the leaf of its name, on the devices of that leaf if there are several. Of an array in shares
    a process reads its own, and no device holds all.

    Args:
        folder: The folder of orbax.
        leaves: The forms of the record.
        like: The leaves.

    Raises:
        UnfitError: if they have other forms, or cannot be read.
    """
    empty = {name: np.empty(form["shape"], form["dtype"]) for name, form in leaves.items() if 0 in form["shape"]}
    names = [name for name in leaves if name not in empty]
    try:
        held = _opened(folder, names)
        unlike = [
            f"{name} is {_bare(leaves[name])} in {FACTS} and {_held(held[name])} in {ARRAYS}"
            for name in names
            if _held(held[name]) != _bare(leaves[name])
        ]
        if unlike:
            raise UnfitError(first(unlike))
        whole = {name: held[name].read() for name in names if not _in_shares(like[name])}
        values = empty | {name: np.asarray(read.result()) for name, read in whole.items()}
        shares = {name: _shares(held[name], like[name].sharding) for name in names if name not in whole}
        return {name: _typed(value, like[name]) for name, value in values.items()} | shares
    except Exception as error:  # files from a stranger: tensorstore raises what it likes
        raise UnfitError(f"{ARRAYS} cannot be read: {reason(error)}.") from None


def _shares(array: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """An array of tensorstore on devices, of which each gets its share."""
    reads = jax.make_array_from_callback(array.shape, sharding, lambda index: np.asarray(array[index].read().result()))
    return copied(reads)  # a donated buffer must not be numpy's


def orbax() -> Any:
    """The library, or an error that says how to install it."""
    with needs("a checkpoint", "orbax", "train"):
        import orbax.checkpoint as ocp
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


def _typed(value: np.ndarray, like: Any) -> Any:
    """A saved array in the type of a leaf; on its devices, where there are several."""
    if isinstance(like, np.ndarray):
        return value
    if _is_key(like):
        return jr.wrap_key_data(_typed(value, jr.key_data(like)), impl=str(jr.key_impl(like)))
    # Copies, as a donated buffer must not be numpy's.
    if len(like.sharding.device_set) == 1:
        return jnp.array(value)
    return copied(jax.make_array_from_callback(value.shape, like.sharding, lambda index: value[index]))


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
