"""Samples with the levels and the range that bits per dimension need, and with their conditioning."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Int, Shaped

from .._checks import count, event_shape, finite, is_concrete, random_key, require
from .._module import AbstractModule
from .._types import Key
from .dequantise import UniformDequantiser
from .quantisation import Quantisation
from .values import (
    Interval,
    check_args,
    check_array,
    check_index,
    check_kind,
    check_reshape,
    check_values,
)


class Dataset(AbstractModule):
    """Samples stacked along the first axis: floats, or integer levels with their quantisation; and their conditioning.

    The quantisation travels with the data, so that bits per dimension are computed with the range that training used.
    Arrays of JAX are in the memory of the device, those of numpy in that of the host or mapped from a file; what
    takes a data set moves it to the device, but for `scorefp.data.OnHost`, which reads it where it is.

    Args:
        values: The samples, of shape `(n, *event)`: floats, or levels in `0 … levels - 1`.
        quantisation: The levels and the interval they are mapped to; `None` for floats.
        args: Conditioning of each sample for the model, a pytree of arrays with `n` rows.
        interval: The range that floats are declared to lie on; `None` for floats without bounds.

    Raises:
        TypeError: if an argument is of another kind, levels come without a quantisation, floats with one, or numbers
            have half precision or none that a device holds.
        ValueError: if there are fewer than two samples, a value is NaN, infinite or out of its range, `args` has
            another number of rows or NaN, or a number is beyond those of the device: float32 and int32, unless
            `jax_enable_x64` is on.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from scorefp.data import Dataset
        >>> data = Dataset(jnp.ones((10, 3)))
        >>> data.shape, len(data)
        ((3,), 10)
    """

    values: Shaped[Array | np.ndarray, "n *event"]
    quantisation: Quantisation | None = None
    args: Any = None
    interval: Interval | None = None

    def __check_init__(self) -> None:
        check_array("values", self.values)
        require(
            self.values.ndim >= 1 and len(self) >= 2 and self.size >= 1,
            f"values has shape {self.values.shape}; it needs at least two samples, stacked along the first axis, of at "
            "least one entry each.",
        )
        check_kind(self.values.dtype, self.quantisation, self.interval)
        _check_numbers(self)

    def __len__(self) -> int:
        return self.values.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape."""
        return self.values.shape[1:]

    @property
    def size(self) -> int:
        """The number of elements `D` of one sample."""
        return math.prod(self.shape)

    @property
    def std(self) -> float:
        """The root mean square of the entries as the model sees them, for `data_std` of a score.

        About zero, not about the mean: the preconditioning takes the data as centred. Levels are those after
        dequantisation, whose uniform noise is counted by its variance.
        """
        return float(np.sqrt(mean_square(np.asarray(self.values), self.levels)))

    def reshaped(self, shape: tuple[int, ...]) -> "Dataset":
        """The same samples with another event shape, such as flat images as `(1, 28, 28)` for a U-Net.

        Args:
            shape: The event shape.

        Raises:
            TypeError: if it is no tuple of integers.
            ValueError: if it has another number of entries.
        """
        shape = event_shape(shape)
        check_reshape(self.shape, shape)
        return self._with(self.values.reshape(len(self), *shape), self.args)

    def rows(self, index: Int[Array | np.ndarray, " rows"]) -> "Dataset":
        """The chosen samples, with their conditioning.

        Args:
            index: The indices of the samples, in order; at least two.

        Raises:
            ValueError: if there are fewer, or one is not in `0 … n - 1`.
        """
        if is_concrete(index):
            # JAX takes the last sample for one beyond it, and numpy one from the end for a negative number.
            check_index(index, len(self), 2)
        return self._with(*jax.tree.map(lambda a: a[index], (self.values, self.args)))

    def drawn(self, most: int | None, *, key: Key) -> "tuple[Dataset, Int[np.ndarray, ' rows']]":
        """At most so many of the samples, drawn without replacement, and their rows; all of them for `None`.

        Args:
            most: How many at most, and two at least.
            key: A random key.

        Raises:
            TypeError: if `most` is no integer.
            ValueError: if it is below two.
        """
        if most is None or count("most", most) >= len(self):
            return self, np.arange(len(self))
        require(most >= 2, f"most = {most}; a data set has at least two samples. Give None for all of them.")
        rows = jr.permutation(random_key("a draw of samples", key), len(self))[:most]
        return self.rows(rows), np.asarray(rows)

    def dequantised(self, key: Key) -> "Dataset":
        """The same samples as floats, levels spread uniformly over their width.

        It still has the quantisation, so that its likelihoods are in bits per dimension.

        Args:
            key: A random key; floats need none and are returned as they are.
        """
        if self.levels is None:
            return self
        random_key("dequantisation", key)
        return self._with(UniformDequantiser(self.levels)(self.values, key=key), self.args)

    @property
    def levels(self) -> Quantisation | None:
        """The quantisation of values that are levels; `None` for floats, also for those that were dequantised."""
        return self.quantisation if jnp.issubdtype(self.values.dtype, jnp.integer) else None

    def _with(self, values: Shaped[Array | np.ndarray, "m *other"], args: Any) -> "Dataset":
        """Other values of the same kind, which need no check."""
        held = (values, args)
        return eqx.tree_at(lambda data: (data.values, data.args), self, held, is_leaf=lambda node: node is None)


def as_dataset(data: Dataset | ArrayLike) -> Dataset:
    """A data set in the memory of the device, from one, or from an array of clean samples as floats.

    All that takes samples takes either, and calls this.

    Args:
        data: A data set, or floats of shape `(n, *event)`.

    Raises:
        TypeError: if it is neither, or an array holds integers; levels come as a `Dataset` with their quantisation.
        ValueError: if an array holds fewer than two samples, or NaN or infinite entries, or a number is beyond those
            of the device.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp.dataset.dataset import as_dataset
        >>> len(as_dataset(jnp.ones((10, 3))))
        10
    """
    if not isinstance(data, Dataset):
        values = _array(data)
        data = Dataset(values if is_concrete(values) else finite("data", jnp.asarray(values)))
    elif any(_is_narrowed(leaf) for leaf in jax.tree.leaves((data.values, data.args))):
        _check_numbers(data)  # jax_enable_x64 may have been on when it was made
    held = jax.tree.map(jnp.asarray, (data.values, data.args))
    return data._with(*held)  # pyright: ignore[reportPrivateUsage]


def _check_numbers(data: Dataset) -> None:
    """Refuses values and conditioning that are out of their range, where they are known."""
    check_args(data.args, len(data), "sample {}".format)
    if is_concrete(data.values):
        check_values(np.asarray(data.values), data.quantisation, data.interval, "sample {}".format)


def _is_narrowed(leaf: Any) -> bool:
    """Whether an array of the host has fewer bits on the device."""
    return isinstance(leaf, np.ndarray) and jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype


def _array(data: ArrayLike) -> Array | np.ndarray:
    """What can be one as an array, on the host or on the device."""
    try:
        values = data if isinstance(data, jax.Array | np.ndarray) else np.asarray(data)
    except ValueError:  # lists of different lengths
        values = np.asarray(None)
    number = values.ndim == 0 and not isinstance(data, jax.Array | np.ndarray | np.generic)
    if values.dtype.kind in "OUS" or number:
        raise TypeError(
            f"data is a {type(data).__name__}; give a Dataset, or an array of floats stacked along the first axis. Of "
            "a source, give source.load()."
        )
    return values


def mean_square(values: Shaped[np.ndarray, "*shape"], quantisation: Quantisation | None) -> float:
    """The mean square of the entries as the model sees them; the uniform noise of levels is counted by its variance."""
    x = np.asarray(values, np.float64)
    if quantisation is None:
        return float(np.mean(x**2))
    width = quantisation.width
    return float(np.mean((quantisation.low + (x + 0.5) * width) ** 2) + width**2 / 12)
