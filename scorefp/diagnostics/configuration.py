"""Settings as plain values, for JSON and for notes."""

import dataclasses
import importlib.metadata
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from .._module import AbstractModule
from .._types import Key
from ..likelihood import Quantisation
from ..score import AbstractScore

Json: TypeAlias = Any
"""What JSON can say: a number, text, a truth value, `None`, or lists and dictionaries of such."""

_SMALL = 16


def described(value: Any) -> str:
    """A setting in one line: a class by its name with the fields that differ from their defaults."""
    if isinstance(value, AbstractModule):
        given = [
            f"{field.name}={described(getattr(value, field.name))}"
            for field in dataclasses.fields(value)
            if not _is_default(field, getattr(value, field.name))
        ]
        return f"{type(value).__name__}({', '.join(given)})"
    return str(plain(value))


def plain(value: Any) -> Json:
    """A setting as JSON: modules by type and fields, functions by name, large arrays by dtype and shape.

    Numbers that are not finite are `None`, as JSON has none.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return _array(value)
    if isinstance(value, AbstractModule):
        fields = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, eqx.Module):
        return _foreign(value)
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in cast("Sequence[Any]", value)]
    if callable(value):
        return _name(value)
    return type(value).__name__


def fields(value: AbstractModule) -> dict[str, Json]:
    """The fields of a module as JSON, arrays in full."""
    return {name: plain(item.tolist() if isinstance(item, np.ndarray) else item) for name, item in vars(value).items()}


def configuration(
    score: AbstractScore, values: Shaped[Array, "n *event"], quantisation: Quantisation | None, key: Key
) -> dict[str, Json]:
    """What numbers on samples depend on, besides their own settings: versions, score, samples and key."""
    return {
        "scorefp": _version(),
        "jax": jax.__version__,
        "score": plain(score),
        "sde": plain(score.sde),
        "samples": {
            "count": values.shape[0],
            "shape": list(values.shape[1:]),
            "dtype": str(values.dtype),
            "quantisation": plain(quantisation),
        },
        "key": plain(jax.random.key_data(key)),
    }


def _version() -> str | None:
    """The version of this package; `None` where it runs from its source without being installed."""
    try:
        return importlib.metadata.version("scorefp")
    except importlib.metadata.PackageNotFoundError:
        return None


def _array(value: Any) -> Json:
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    if array.size > _SMALL:
        return f"{array.dtype}{list(array.shape)}"
    return plain(array.tolist())


def _foreign(value: eqx.Module) -> Json:
    """A module of another library: its type and the number of its parameters."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(value, eqx.is_inexact_array)))
    return {"type": type(value).__name__, "parameters": parameters} if parameters else {"type": type(value).__name__}


def _name(value: Callable[..., Any]) -> str:
    return str(getattr(value, "__qualname__", type(value).__name__))


def _is_default(field: "dataclasses.Field[Any]", value: Any) -> bool:
    return field.default is not dataclasses.MISSING and eqx.tree_equal(value, field.default) is True
