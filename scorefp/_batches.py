"""Many evaluations in bounded memory, on one device or many, and the keys of their draws."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int

from ._checks import is_concrete, require
from ._devices import AXIS, agreed, everywhere, one_row, whole
from ._types import Key

_T = TypeVar("_T")


def apart(key: Key) -> Key:
    """A key beside those of samples, steps and measures, which fold their numbers into `key`: none has this one."""
    return jr.fold_in(key, 2**32 - 1)


def in_batches(fn: Callable[[Int[Array, ""]], _T], count: int, batch_size: int, mesh: Mesh | None = None) -> _T:
    """`fn` of the indices below `count`, at most so many at once; the memory is that of one batch.

    The batches are of one size, so that `fn` is compiled once: `jax.lax.map` compiles the last one apart. The indices
    that fill it up repeat the last one.

    With a mesh each device goes through a share of the indices by itself, a batch is one over all devices, and the
    values stay where they are, those of repeated indices with them: `on_mesh` brings them together.
    """
    devices = 1 if mesh is None else mesh.size
    size = math.ceil(count / (math.ceil(count / batch_size) * devices))
    batches = math.ceil(count / (size * devices))
    indices = jnp.minimum(jnp.arange(batches * size * devices), count - 1)

    def share(indices: Int[Array, " share"]) -> _T:
        if size == 1:  # without `vmap`, under which a branch becomes two
            return jax.lax.map(fn, indices)
        values = jax.lax.map(jax.vmap(fn), indices.reshape(batches, size))
        return jax.tree.map(lambda value: value.reshape(batches * size, *value.shape[2:]), values)

    if mesh is None:
        return jax.tree.map(lambda value: value[:count], share(indices))
    # By hand, as loops of shares need not wait for each other. It is traced outside: inside, types know the mesh, and
    # lineax and others compare them with those that do not. Nothing of a share is replicated, to be checked for it.
    traced, held = jax.closure_convert(share, indices[: batches * size])
    along, same = PartitionSpec(AXIS), PartitionSpec()
    specs = (along, [same] * len(held))
    return jax.shard_map(
        lambda indices, held: traced(indices, *held), mesh=mesh, in_specs=specs, out_specs=along, check_vma=False
    )(indices, held)


def on_mesh(compiled: Callable[..., _T], mesh: Mesh | None, count: int, *arguments: Any) -> _T:
    """`compiled(*arguments, mesh)`, which returns what `in_batches` does of indices below `count`: of all of them, on
    the first device of each process.

    An error on one device must not leave the others waiting: the program has nothing that devices do together, and
    what its shares found is brought together here.

    Raises:
        ValueError: inside `jit`, `vmap` or `grad`, where no device can be chosen.
        RuntimeError: on every process, where one failed on another.
    """
    if one_row(mesh) is None:
        return compiled(*arguments, None)
    traced = [leaf for leaf in (jnp.zeros(()), *jax.tree.leaves(arguments)) if not is_concrete(leaf)]
    require(
        not traced,
        "mesh is given inside jit, vmap or grad; what is shared among devices is compiled by itself. Call it outside "
        "of them, or leave mesh out.",
    )
    # Data on the host come as arrays of NumPy; devices take those of JAX.
    arguments = jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf, arguments)
    found = agreed(
        lambda: jax.block_until_ready(compiled(*everywhere(arguments, mesh), mesh)),
        "another process failed; its own error says why.",
    )
    return jax.tree.map(lambda value: jnp.asarray(whole(value)[:count]), found)
