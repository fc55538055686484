"""What a measure of an audit is, and what it returns."""

from abc import abstractmethod
from typing import Any, ClassVar, TypeVar

import jax
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int

from .._checks import same_shape
from .._module import AbstractModule
from .._types import Key
from ..calculus import Exact, Hutchinson
from ..likelihood import Quantisation
from ..score import AbstractScore

_S = TypeVar("_S", bound=AbstractScore)


class Estimate(AbstractModule):
    """One number of an audit.

    Args:
        value: The estimate.
        error: The half-width of its 95 % confidence interval, the longer side where the interval is not symmetric;
            `None` where none is known.
        unit: Its unit; `"1"` for a pure number.
        label: What it is, in words.

    Example:
        >>> from scorefp.diagnostics import Estimate
        >>> print(Estimate(2.5341, 0.0312, "bits/dim", "mean"))
        2.534 ± 0.031 bits/dim
    """

    value: float
    error: float | None
    unit: str
    label: str

    def __str__(self) -> str:
        text = written(self.value, self.error)
        return text if self.unit == "1" else f"{text} {self.unit}"


class Curve(AbstractModule):
    """One curve of an audit, with a confidence band.

    Args:
        t: Where it was taken, in ascending order.
        value: The estimates there.
        error: The half-widths of their 95 % confidence intervals, the longer sides where they are not symmetric.
        unit: The unit of the value; `"1"` for a pure number.
        label: What it is, as text for matplotlib.
        axis: What `t` is.
    """

    t: Float[np.ndarray, " times"]
    value: Float[np.ndarray, " times"]
    error: Float[np.ndarray, " times"]
    unit: str
    label: str
    axis: str = "t"


class Section(AbstractModule):
    """What one measure found.

    Args:
        title: What was measured.
        numbers: The numbers, by name.
        curves: The curves, by name.
        notes: What a reader must know: how it was taken, and what went wrong.
    """

    title: str
    numbers: dict[str, Estimate]
    curves: dict[str, Curve]
    notes: tuple[str, ...] = ()


class CleanSamples(AbstractModule):
    """What a measure looks at: clean samples as floats, stacked along the leading axis, and what belongs to them.

    Args:
        values: The samples.
        quantisation: Their levels and range, where they stem from levels.
        args: Conditioning of each sample for the model, a pytree of arrays with the same leading axis.
    """

    values: Float[Array, "n *event"]
    quantisation: Quantisation | None = None
    args: Any = None

    def __check_init__(self) -> None:
        check_args(self.args, self.count)

    @property
    def count(self) -> int:
        """The number of samples."""
        return self.values.shape[0]

    @property
    def size(self) -> int:
        """The number of elements `D` of one sample."""
        return int(np.prod(self.values.shape[1:]))

    def drawn(self, most: int | None, *, key: Key) -> "tuple[CleanSamples, Int[np.ndarray, ' rows']]":
        """At most so many of the samples, drawn without replacement, and their rows; all of them for `None`.

        They have no quantisation: what is compiled for floats serves levels as well.

        Args:
            most: How many at most.
            key: A random key.
        """
        if most is None or most >= self.count:
            return CleanSamples(self.values, None, self.args), np.arange(self.count)
        rows = jr.permutation(key, self.count)[:most]
        args = jax.tree.map(lambda a: a[rows], self.args)
        return CleanSamples(self.values[rows], None, args), np.asarray(rows)

    def bind(self, score: _S, row: Int[Array, ""]) -> _S:
        """The score with the conditioning of one sample closed over."""
        return conditioned(score, self.args, row)


def check_args(args: Any, count: int) -> None:
    """Refuses conditioning that has not one row for each of `count` samples."""
    for leaf in jax.tree.leaves(args):
        same_shape("a leading axis of args", leaf.shape[:1], "that of the samples", (count,))


def conditioned(score: _S, args: Any, row: Int[Array, ""]) -> _S:
    """The score with the conditioning of one sample closed over, where there is any."""
    return score if args is None else score.bind(args=jax.tree.map(lambda a: a[row], args))


class AbstractMeasure(AbstractModule):
    """One thing to measure on a score: a value with its settings as fields, called with clean samples.

    An audit is a sequence of measures, so that a new one is a new class and changes no other.
    `needs_kernel` says whether it takes a linear SDE, whose Gaussian kernel diffuses the samples.
    """

    needs_kernel: ClassVar[bool]

    @abstractmethod
    def __call__(self, score: AbstractScore, x: CleanSamples, *, key: Key) -> Section:
        """Measures the score.

        Args:
            score: Any score.
            x: Clean samples; at least two.
            key: A random key; the same key gives the same section.
        """


EXACT_UP_TO = 16
"""The number of elements of a sample up to which the default of a measure takes every trace exactly."""


def default_trace(size: int) -> Exact | Hutchinson:
    """`Exact()` for small samples, one probe for larger ones."""
    return Exact() if size <= EXACT_UP_TO else Hutchinson()


def written(value: float, error: float | None) -> str:
    """A number with its error, to two significant digits of the error."""
    if error is None or not np.isfinite(error) or not np.isfinite(value) or error == 0:
        text = f"{value:.4g}"
        return text if error is None else f"{text} ± {error:.2g}"
    largest = max(abs(value), error)
    if not 1e-3 <= largest < 1e4:
        exponent = int(np.floor(np.log10(largest)))
        return f"({written(value / 10.0**exponent, error / 10.0**exponent)})e{exponent:+03d}"
    digits = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f}"
