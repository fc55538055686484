"""A network at the precision that measuring needs."""

import dataclasses
from typing import Any, TypeVar, cast

import equinox as eqx
import jax

from ._layers import AbstractNetwork, is_half

_T = TypeVar("_T")


def full_precision(network: _T) -> _T:
    """The same network, its products at the precision of parameters and sample instead of a lower one.

    A network with `dtype=jnp.bfloat16` rounds its products to three digits. Training may; a measurement, and above all
    a difference of two evaluations, may not. The networks of this package are found wherever an `equinox.Module`, a
    list, a tuple or a dictionary holds them, so also in a score; those in a closure, and others' networks, are not.
    Functions that measure, such as `scorefp.log_likelihood`, need no such network: inside of them every network of this
    package is in full precision, wherever it is held.

    Args:
        network: A network, a score, or any pytree that holds some. What rounds nothing is returned as it is.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from scorefp.nn import MLP, full_precision
        >>> network = MLP(shape=(2,), width=8, dtype=jnp.bfloat16, key=jax.random.key(0))
        >>> full_precision(network).dtype is None
        True
    """
    if isinstance(network, list | tuple | dict):
        parts, structure = jax.tree.flatten(network, is_leaf=lambda node: node is not network)
        full = [full_precision(part) for part in parts]
        same = all(new is old for new, old in zip(full, parts, strict=True))
        return cast(Any, network if same else jax.tree.unflatten(structure, full))
    if not isinstance(network, eqx.Module):
        return network
    fields = {field.name: getattr(network, field.name) for field in dataclasses.fields(network)}
    full = {name: full_precision(value) for name, value in fields.items()}
    if isinstance(network, AbstractNetwork) and is_half(fields.get("dtype")):
        full["dtype"] = None
    if all(full[name] is value for name, value in fields.items()):
        return network
    # Not by `__init__`, which makes new weights.
    new = object.__new__(type(network))
    for name, value in full.items():
        object.__setattr__(new, name, value)
    return new
