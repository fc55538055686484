"""Data sets in memory, with the levels and the range that bits per dimension need."""

from typing import Any

import jax
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from .._checks import is_concrete, require
from .._module import AbstractModule
from .._types import Key
from ..likelihood import Quantisation, UniformDequantiser
from .values import Interval, check_args, check_kind, check_reshape, check_values


class Dataset(AbstractModule):
    """Samples in memory, stacked along the first axis: floats, or integer levels with their quantisation.

    Levels are dequantised anew whenever they are drawn. The quantisation travels with the data, so that bits per
    dimension are computed with the range that training used.

    Args:
        values: The samples, of shape `(n, *event)`: floats, or levels in `0 … levels - 1`.
        quantisation: The levels and the interval they are mapped to; `None` for floats.
        args: Conditioning of each sample for the model, a pytree of arrays with `n` rows.
        interval: The range that floats are declared to lie on; `None` for floats without bounds.

    Raises:
        TypeError: if levels come without a quantisation, or floats with one.
        ValueError: if there are fewer than two samples, a value is NaN, infinite or out of its range, or `args` has
            another number of rows.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from scorefp.data import Dataset
        >>> data = Dataset(jnp.ones((10, 3)))
        >>> data.shape, len(data)
        ((3,), 10)
    """

    values: Shaped[Array, "n *event"]
    quantisation: Quantisation | None = None
    args: Any = None
    interval: Interval | None = None

    def __check_init__(self) -> None:
        if not is_concrete(self.values):
            return
        values = np.asarray(self.values)
        require(values.ndim >= 1 and len(values) >= 2, f"values has shape {values.shape}; it needs two samples.")
        check_args(self.args, len(values))
        check_kind(values.dtype, self.quantisation, self.interval)
        check_values(values, self.quantisation, self.interval, "sample {}".format)

    def __len__(self) -> int:
        return self.values.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape."""
        return self.values.shape[1:]

    @property
    def std(self) -> float:
        """The root mean square of the entries as the model sees them, for `data_std` of a score.

        About zero, not about the mean: the preconditioning takes the data as centred. Levels are those after
        dequantisation, whose uniform noise is counted by its variance.
        """
        return float(np.sqrt(mean_square(np.asarray(self.values), self.quantisation)))

    def reshaped(self, shape: tuple[int, ...]) -> "Dataset":
        """The same samples with another event shape, such as flat images as `(1, 28, 28)` for a U-Net.

        Args:
            shape: The event shape.

        Raises:
            ValueError: if it has another number of entries.
        """
        check_reshape(self.shape, shape)
        return Dataset(self.values.reshape(len(self), *shape), self.quantisation, self.args, self.interval)

    def dequantised(self, key: Key) -> Float[Array, "n *event"]:
        """All samples as floats, levels spread uniformly over their width.

        Args:
            key: A random key; floats need none and are returned as they are.
        """
        if self.quantisation is None:
            return self.values
        return UniformDequantiser(self.quantisation)(self.values, key=key)

    def batch(self, index: Int[Array, " batch"], *, key: Key) -> tuple[Float[Array, "batch *event"], Any]:
        """The chosen samples as floats, and their `args`, inside a compiled step.

        Args:
            index: Which samples.
            key: A random key for the dequantisation.
        """
        args = jax.tree.map(lambda a: a[index], self.args)
        chosen = self.values[index]
        if self.quantisation is None:
            return chosen, args
        # The levels were checked when the data set was made; a check here would cost a host call a step.
        return self.quantisation.place(chosen, jr.uniform(key, chosen.shape)), args


def mean_square(values: Shaped[np.ndarray, "*shape"], quantisation: Quantisation | None) -> float:
    """The mean square of the entries as the model sees them; the uniform noise of levels is counted by its variance."""
    x = np.asarray(values, np.float64)
    if quantisation is None:
        return float(np.mean(x**2))
    width = quantisation.width
    return float(np.mean((quantisation.low + (x + 0.5) * width) ** 2) + width**2 / 12)
