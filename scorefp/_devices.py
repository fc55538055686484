"""One mesh for one CPU, many devices and many processes: parameters everywhere, batches in shares."""

from collections.abc import Callable
from types import NoneType
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from ._checks import count, kind, require

AXIS = "data"


def data_mesh() -> Mesh:
    """All devices of all processes in one row, an axis called `"data"`: a batch is shared among them.

    With several processes call `jax.distributed.initialize` first.

    Example:
        >>> import scorefp as sfp
        >>> sfp.data_mesh().axis_names
        ('data',)
    """
    return Mesh(np.array(jax.devices()), (AXIS,), axis_types=(AxisType.Auto,))


def per_device_batch(batch_size: int, mesh: Mesh | None, accumulate: int = 1) -> int:
    """How many samples one device holds at a time.

    Args:
        batch_size: Samples a step, over all devices.
        mesh: The devices; `None` is one.
        accumulate: In how many parts a batch is gone through.

    Raises:
        ValueError: if the batch does not divide into the parts and among the devices.

    Example:
        >>> from scorefp import train
        >>> train.per_device_batch(128, None)
        128
    """
    require_mesh(mesh)
    devices = 1 if mesh is None else mesh.size
    batch_size, accumulate = count("batch_size", batch_size, least=1), count("accumulate", accumulate, least=1)
    require(
        batch_size % (accumulate * devices) == 0,
        f"batch_size = {batch_size} is no multiple of accumulate = {accumulate} times the number of devices, "
        f"{devices}; choose a multiple of {accumulate * devices}.",
    )
    return batch_size // (accumulate * devices)


def require_mesh(mesh: Any) -> Mesh | None:
    """The mesh itself, where it is one or none."""
    return kind("mesh", mesh, (Mesh, NoneType), "It is what data_mesh() returns, or None for one device.")


def one_row(mesh: Any) -> Mesh | None:
    """`mesh`, refused unless it is one row of devices along which work is shared, or none."""
    require(
        require_mesh(mesh) is None or mesh.axis_names == (AXIS,),
        f'mesh has the axes {mesh and mesh.axis_names}; work is shared along one axis called "{AXIS}". '
        "Give mesh=data_mesh().",
    )
    return mesh


def check_mesh(mesh: Mesh | None) -> None:
    """Refuses a mesh with another axis, and several processes without a mesh."""
    require(
        mesh is not None or jax.process_count() == 1,
        f"mesh is None, and there are {jax.process_count()} processes, which would each train a model of their own. "
        "Give mesh=data_mesh().",
    )
    one_row(mesh)


def share() -> tuple[int, int]:
    """The number of this process, whose share of every batch it reads, and the number of processes."""
    return jax.process_index(), jax.process_count()


def all_agree(well: bool) -> bool:
    """Whether all is well on every process; each waits here for all."""
    if jax.process_count() == 1:
        return well
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.asarray(well))))


def from_first(act: Callable[[], tuple[int, int, int]]) -> tuple[int, int, int]:
    """The three counts that the first process finds, on every process; where it fails, all do.

    Raises:
        RuntimeError: on the other processes, if it fails.
    """
    found, failure = (0, 0, 0), None
    if jax.process_index() == 0:
        try:
            found = act()
        except Exception as error:
            failure = error
    if not all_agree(failure is None):
        raise failure or RuntimeError("the first process failed; its own error says why.")
    if jax.process_count() == 1:
        return found
    from jax.experimental import multihost_utils

    one, two, three = multihost_utils.broadcast_one_to_all(np.asarray(found, np.int32))
    return int(one), int(two), int(three)


def everywhere(tree: Any, mesh: Mesh | None) -> Any:
    """The arrays of a pytree, the same on every process, on all devices of the mesh."""
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec())

    def placed(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jr.wrap_key_data(placed(jr.key_data(leaf)), impl=jr.key_impl(leaf))
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

    return jax.tree.map(placed, tree)


def in_shares(stack: Any, mesh: Mesh | None) -> Any:
    """Batches, stacked along the first axis, on the devices; of several processes each gives its rows."""
    if mesh is None:
        return jax.tree.map(jnp.asarray, stack)
    sharding = NamedSharding(mesh, PartitionSpec(None, AXIS))
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), stack)


def whole(array: Array) -> Shaped[np.ndarray, "..."]:
    """An array whose rows the devices of all processes hold, on the host of each."""
    if jax.process_count() == 1:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(array, tiled=True)


def shared(batch: Any, mesh: Mesh | None) -> Any:
    """Inside a compiled step: the rows of a batch shared among the devices."""
    return batch if mesh is None else jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec(AXIS)))


def replicated(tree: Any, mesh: Mesh | None) -> Any:
    """Inside a compiled step: the same arrays on every device."""
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def local(tree: Any) -> Any:
    """Copies of arrays that every device holds, on the first device of this process."""

    def copied(leaf: Any) -> Any:
        return jnp.copy(leaf.addressable_data(0)) if isinstance(leaf, jax.Array) else leaf

    return jax.tree.map(copied, tree)
