"""One mesh for one CPU, many devices and many processes: parameters everywhere or in shares, batches in shares."""

import math
from collections.abc import Callable
from types import NoneType
from typing import Any, Literal, TypeAlias, TypeVar, cast

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from ._checks import count, kind, one_of, require

AXIS = "data"

Shard: TypeAlias = Literal["batch", "parameters"]
"""What is cut among the devices: the batch alone, or the parameters as well."""

_SMALLEST = 2**12
"""Entries of an array that is worth cutting: fewer are sent as fast as a message is."""

_T = TypeVar("_T")


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
    require(
        mesh is None or all(axis == AxisType.Auto for axis in mesh.axis_types),
        f"mesh has axes of the type {mesh and mesh.axis_types[0].name}, as those of jax.make_mesh are; here the "
        "compiler shares the work. Give mesh=data_mesh().",
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


def agreed(act: Callable[[], _T], failed: str) -> _T:
    """What each process finds; where one fails, all do.

    Raises:
        RuntimeError: `failed`, on those that did not fail themselves.
    """
    found, failure = None, None
    try:
        found = act()
    except Exception as error:
        failure = error
    if not all_agree(failure is None):
        raise failure or RuntimeError(failed)
    return cast(_T, found)


def from_first(act: Callable[[], tuple[int, int, int]]) -> tuple[int, int, int]:
    """The three counts that the first process finds, on every process; where it fails, all do.

    Raises:
        RuntimeError: on the other processes, if it fails.
    """
    found = agreed(
        lambda: act() if jax.process_index() == 0 else (0, 0, 0), "the first process failed; its own error says why."
    )
    if jax.process_count() == 1:
        return found
    from jax.experimental import multihost_utils

    one, two, three = multihost_utils.broadcast_one_to_all(np.asarray(found, np.int32))
    return int(one), int(two), int(three)


def check_shard(shard: Any, mesh: Mesh | None) -> None:
    """Refuses another word, and parameters in shares without devices to share them."""
    one_of("shard", shard, ("batch", "parameters"))
    require(
        shard == "batch" or mesh is not None,
        'shard = "parameters", and mesh is None: there are no devices to share them. Give mesh=data_mesh().',
    )


def everywhere(tree: Any, mesh: Mesh | None) -> Any:
    """The arrays of a pytree, the same on every process, on all devices of the mesh; inside a compiled step as well."""
    return tree if mesh is None else _placed(tree, lambda shape: NamedSharding(mesh, PartitionSpec()))


def laid(tree: _T, mesh: Mesh | None, shard: Shard) -> _T:
    """`everywhere`, or `sharded` where that is what is cut."""
    return everywhere(tree, mesh) if mesh is None or shard == "batch" else sharded(tree, mesh)


def sharded(tree: _T, mesh: Mesh) -> _T:
    """The arrays of a model, or of any pytree, cut among devices, as in `fit(…, shard="parameters")`.

    Each is cut along its largest axis that the number of devices divides; one that is small (below 4096 entries) or
    indivisible is on all of them. Inside a compiled function it says where the arrays are to be, so that a model too
    large for one device is built in shares; with `load` a checkpoint is read into them. Every process calls it, with
    the same arrays.

    Args:
        tree: A pytree of arrays.
        mesh: The devices, as `data_mesh` returns them.

    Returns:
        The same pytree on the devices.

    Raises:
        TypeError: if `mesh` is none.
        ValueError: if the mesh has another axis than `"data"`.

    Example:
        >>> import equinox as eqx, jax, scorefp as sfp
        >>> from scorefp import train
        >>> mesh = sfp.data_mesh()
        >>> build = eqx.filter_jit(lambda key: train.sharded(sfp.nn.MLP(shape=(64,), width=256, key=key), mesh))
        >>> build(jax.random.key(0)).leave.weight.sharding.num_devices == mesh.size
        True
    """
    check_mesh(kind("mesh", mesh, Mesh, "It is what data_mesh() returns."))
    return _placed(tree, lambda shape: _in_shares(shape, mesh))


def _in_shares(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """An array cut along its largest axis that the devices divide; one that is small or indivisible is everywhere."""
    axes = [axis for axis, size in enumerate(shape) if size % mesh.size == 0]
    if math.prod(shape) < _SMALLEST or not axes or mesh.size == 1:
        return NamedSharding(mesh, PartitionSpec())
    axis = max(axes, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def _placed(tree: _T, sharding: Callable[[tuple[int, ...]], NamedSharding]) -> _T:
    def placed(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jr.wrap_key_data(placed(jr.key_data(leaf)), impl=jr.key_impl(leaf))
        if isinstance(leaf, Tracer):
            return jax.lax.with_sharding_constraint(leaf, sharding(leaf.shape))
        if jax.process_count() == 1 or not leaf.is_fully_addressable:
            return jax.device_put(leaf, sharding(leaf.shape))
        held = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding(leaf.shape), lambda index: held[index])

    return jax.tree.map(placed, tree)


def in_shares(stack: Any, mesh: Mesh | None) -> Any:
    """Batches, stacked along the first axis, on the devices; of several processes each gives its rows."""
    if mesh is None:
        return jax.tree.map(jnp.asarray, stack)
    sharding = NamedSharding(mesh, PartitionSpec(None, AXIS))
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), stack)


def whole(array: Array) -> Shaped[np.ndarray, "..."]:
    """An array whose rows the devices of all processes hold, on the host of each."""
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(array, tiled=True)


def shared(batch: Any, mesh: Mesh | None) -> Any:
    """Inside a compiled step: the rows of a batch shared among the devices."""
    return batch if mesh is None else jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec(AXIS)))


def together(tree: _T, mesh: Mesh | None, shard: Shard) -> _T:
    """Inside a compiled step: the arrays of `laid` whole on every device, and the derivatives by them laid again."""
    if mesh is None or shard == "batch":
        return tree

    @jax.custom_vjp
    def whole(leaf: jax.Array) -> jax.Array:
        return everywhere(leaf, mesh)

    whole.defvjp(lambda leaf: (everywhere(leaf, mesh), None), lambda _, cotangent: (sharded(cotangent, mesh),))
    return jax.tree.map(lambda leaf: whole(leaf) if isinstance(leaf, jax.Array) else leaf, tree)


def not_held(fn: Callable[..., _T], shard: Shard) -> Callable[..., _T]:
    """The function with gathered parameters rematerialised in the backward pass instead of kept as residuals."""
    if shard == "batch":
        return fn

    def held(primitive: Any, *_: Any, **__: Any) -> bool:
        return primitive.name != "sharding_constraint"

    return jax.checkpoint(fn, policy=held)


def copied(tree: _T) -> _T:
    """Copies of the arrays of a pytree, on the same devices: what takes over the buffers of one leaves the other."""

    def copy(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        shares = [jnp.copy(share.data) for share in leaf.addressable_shards]
        return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, shares)

    return jax.tree.map(copy, tree)


def local(tree: _T) -> _T:
    """Copies of arrays that every device holds, on the first device of this process."""

    def copy(leaf: Any) -> Any:
        return jnp.copy(leaf.addressable_data(0)) if isinstance(leaf, jax.Array) else leaf

    return jax.tree.map(copy, tree)


def gathered(tree: _T) -> _T:
    """The arrays of a model, or of any pytree, whole on the first device of each process.

    It is for the model of a run with `shard="parameters"`, once it is to be used on one device. Every process calls
    it.

    Args:
        tree: A pytree, whose arrays may be cut among devices.

    Returns:
        The same pytree with its arrays, copies of them, on one device.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp import train
        >>> train.gathered({"weight": jnp.ones(3)})["weight"].shape
        (3,)
    """

    def one(leaf: Any) -> Any:
        in_parts = isinstance(leaf, jax.Array) and not leaf.is_fully_replicated
        return jnp.array(whole(leaf)) if in_parts else local(leaf)

    return jax.tree.map(one, tree)
