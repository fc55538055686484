"""Samples as rows of features, batch by batch."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Shaped

from .._checks import count, floating, function, host_samples, is_concrete, kind, require, same_shape
from .._types import Event
from ..dataset import Dataset, Quantisation

Samples: TypeAlias = Dataset | Float[ArrayLike, "_ ..."] | Iterable[Float[ArrayLike, "_ ..."]]
"""Samples, stacked along the leading axis; or batches of them, one after the other. Levels of a data set are taken at
their centres.
"""

Features: TypeAlias = Callable[[Event], Event]
"""The features of one sample."""

GROUPS = 10
"""The parts of a set that the jackknife leaves out one by one; sample $i$ is in part $i$ modulo this."""

BATCH = 1024
"""The default number of samples whose features are taken at once."""


def check_features(features: Any, batch_size: Any) -> None:
    """Refuses what is no function of one sample, and a batch of none."""
    if features is not None:
        function("features", features, "x", "It is a function of one sample, or None for the samples themselves.")
    count("batch_size", batch_size, 1)
    if not is_concrete(jnp.zeros(()) + 0):
        raise TypeError("the quality of samples is measured on the host; call it outside of jit, vmap and grad.")


def feature_batches(
    name: str, x: Samples, features: Features | None, batch_size: int
) -> Iterator[Float[np.ndarray, "b size"]]:
    """The features of samples as rows of float64 on the host, in their order.

    Raises:
        TypeError: if the samples are no floats of 32 bits or more, or traced, or their features are no floats.
        ValueError: if a sample or a feature is not finite, or the batches have different event shapes.
    """
    first, size, event = 0, 0, None
    for batch in _batches(name, x, batch_size):
        rows = host_samples(name, batch, first)
        same_shape(f"a sample of {name}", rows.shape[1:], "the first one", event := event or rows.shape[1:])
        if features is None:
            yield rows.reshape(len(rows), -1)
        else:
            # The last batch is filled up to the size of the others, so that all are compiled once.
            size = max(size, len(rows))
            filled = np.concatenate([batch, np.repeat(batch[-1:], size - len(rows), axis=0)])
            found = np.asarray(_mapped(features, jnp.asarray(filled)), np.float64)[: len(rows)]
            bad = np.any(~np.isfinite(found), axis=1)
            require(
                not bad.any(),
                f"features gives NaN or infinite entries for {bad.sum()} of {len(rows)} samples of {name}, the first "
                f"sample {first + bad.argmax()}; look at its value there.",
            )
            yield found
        first += len(rows)


def feature_rows(
    name: str, x: Samples, features: Features | None, batch_size: int, least: int
) -> Float[np.ndarray, "n size"]:
    """The features of all samples as rows, of which there are so many at least."""
    found = list(feature_batches(name, x, features, batch_size))
    check_enough(name, sum(map(len, found)), least)
    return np.concatenate(found)


def check_enough(name: str, n: int, least: int) -> None:
    """Refuses too few samples."""
    require(n >= least, f"{name} has {n} samples; at least {least} are needed for the value and its error.")


def check_sizes(x: int, data: int) -> None:
    """Refuses features of different sizes."""
    require(
        x == data,
        f"a sample of x has {x} features, one of data {data}; both have the same. Take the same features, of samples "
        "of one shape.",
    )


def _batches(name: str, x: Any, batch_size: int) -> Iterator[Any]:
    """Samples of one array, on the host, mapped from a file or on the device, or of many, so many at a time."""
    if isinstance(x, Dataset):
        x = stored(x.values, x.quantisation)
    array = hasattr(x, "shape")
    if not array:
        kind(name, x, Iterable, "It is an array of samples, or an iterable of batches of them.")
    for batch in (x,) if array else x:
        if not hasattr(batch, "shape"):
            raise TypeError(
                f"{name} gives a {type(batch).__name__} in the place of a batch; a batch is an array of samples. Stack "
                "them; of a loader of torch take (batch[0].numpy() for batch in loader)."
            )
        require(
            array or batch.ndim >= 2,
            f"{name} gives an array of shape {batch.shape} in the place of a batch; a batch has its samples along the "
            "first axis, and scalars along a second one of length 1. Single samples are stacked first.",
        )
        require(batch.ndim >= 1, f"{name} has shape {batch.shape}; it needs samples along an axis.")
        for first in range(0, len(batch), batch_size):
            yield batch[first : first + batch_size]


def stored(x: Shaped[ArrayLike, "n *event"], quantisation: Quantisation | None) -> Float[np.ndarray, "n *event"]:
    """Samples as they are stored: at the centres of the levels, where there are any."""
    if quantisation is None:
        return np.asarray(x)
    values = jnp.asarray(x)
    levels = values if jnp.issubdtype(values.dtype, jnp.integer) else quantisation.quantise(values)
    return np.asarray(quantisation.place(levels, jnp.full(values.shape, 0.5)))


@eqx.filter_jit
def _mapped(features: Features, x: Float[Array, "b *event"]) -> Float[Array, "b size"]:
    return jax.vmap(lambda x: jnp.ravel(floating("the value of features", features(x))))(x)
