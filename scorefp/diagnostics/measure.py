"""The measures of audits, and their results."""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import ArrayLike, Float

from .._batches import apart
from .._checks import fitting_samples, random_key, single_or_better
from .._devices import one_row
from .._module import AbstractModule
from .._precision import measures
from .._types import Event, Key, MaybeNaN
from ..dataset import Dataset
from ..dataset.dataset import as_dataset
from ..score import AbstractScore
from ..score._rounding import rounding_told, tell_of_rounding
from ..score.score import conditioned, linear_sde, require_score


class Number(AbstractModule):
    """One number of an audit.

    Args:
        value: The estimate.
        half_width: The half-width of its 95 % confidence interval, the longer side where the interval is not symmetric;
            `None` where none is known.
        unit: Its unit; `"1"` for a pure number.
        label: Its name, in words.

    Example:
        >>> from scorefp.diagnostics import Number
        >>> print(Number(2.5341, 0.0312, "bits/dim", "mean"))
        2.534 ± 0.031 bits/dim
    """

    value: MaybeNaN
    half_width: MaybeNaN | None
    unit: str
    label: str

    def __str__(self) -> str:
        text = written(self.value, self.half_width)
        return text if self.unit == "1" else f"{text} {self.unit}"


class Curve(AbstractModule):
    """One curve of an audit, with a confidence band.

    Args:
        t: The times, in ascending order.
        value: The estimates at these times.
        half_width: The half-widths of their 95 % confidence intervals, the longer sides where they are not symmetric.
        unit: The unit of the value; `"1"` for a pure number.
        label: Its name, as text for matplotlib.
        axis: The name of `t`.
    """

    t: Float[np.ndarray, " times"]
    value: Float[np.ndarray, " times"]
    half_width: Float[np.ndarray, " times"]
    unit: str
    label: str
    axis: str = "t"


class Section(AbstractModule):
    """The result of one measure.

    Args:
        title: The name of the measure.
        numbers: The numbers, by name.
        curves: The curves, by name.
        notes: Remarks on the method, and on failures.
        points: Per-sample values whose mean is the number of the same name (their squares, for a root mean square); NaN
            for a sample without a value. Two scores measured with one key use the same samples in the same order:
            compare them by the differences of their points.
    """

    title: str
    numbers: dict[str, Number]
    curves: dict[str, Curve]
    notes: tuple[str, ...] = ()
    points: dict[str, Float[np.ndarray, " n"]] = eqx.field(default_factory=dict)


class AbstractMeasure(AbstractModule):
    """A measure of a score: a value with its settings as fields, called with a score and a data set.

    An audit is a sequence of measures, so that a new one is a new class and changes no other. `needs_kernel` says
    whether it takes a linear SDE, whose Gaussian kernel diffuses the samples; `needs_levels` whether it is given
    quantised data as their levels; otherwise they are dequantised first.
    """

    remedy: ClassVar[str] = "It is a measure, for example scorefp.diagnostics.Bound()."

    if TYPE_CHECKING:
        needs_kernel: ClassVar[bool]
        needs_levels: ClassVar[bool]
    else:
        needs_kernel: eqx.AbstractVar[bool]
        needs_levels: eqx.AbstractVar[bool]

    @abstractmethod
    def section(self, score: AbstractScore, data: Dataset, *, key: Key, mesh: Mesh | None) -> Section:
        """The result of a call, from data that were checked, and that are floats unless `needs_levels`.

        A measure that leaves `mesh` alone runs on one device; of several processes each then does the whole of it.
        """

    @measures
    def __call__(
        self,
        score: AbstractScore,
        data: Dataset | Float[ArrayLike, "n *event"],
        *,
        key: Key,
        mesh: Mesh | None = None,
    ) -> Section:
        """Measures the score.

        Args:
            score: Any score.
            data: A data set; or clean samples as floats, stacked along the leading axis.
            key: A random key; the same key gives the same section.
            mesh: The devices that share the samples, as `data_mesh` returns them; `None` is one device. The section is
                the same up to rounding, or the tolerance of an adaptive solver, and every process, each of which makes
                the call, has it.

        Raises:
            TypeError: if `score` is no score or `key` no random key, or the measure needs a Gaussian kernel, which the
                SDE does not have.
            ValueError: if there are fewer than two samples, one is not finite, or their shape is not that of the score;
                if `mesh` has another axis than `"data"`.
        """
        require_score(score)
        one_row(mesh)
        key, data = random_key("a measure", key), as_dataset(data)
        if data.levels is None:
            single_or_better("data", jnp.asarray(data.values))
        fitting_samples("data", data.shape, score.shape)
        if self.needs_kernel:
            linear_sde(score)
        data = data if self.needs_levels else data.dequantised(apart(key))
        tell_of_rounding_on(score, data)
        with rounding_told():
            return self.section(score, data, key=key, mesh=mesh)


def tell_of_rounding_on(score: AbstractScore, data: Dataset) -> None:
    """Warns of a score that rounds to half precision, at the first sample of a data set."""
    dtype = jnp.result_type(float) if data.levels is not None else data.values.dtype
    _tell(conditioned(score, data.args, 0), jnp.zeros(data.shape, dtype))


@eqx.filter_jit
def _tell(score: AbstractScore, x: Event) -> None:
    """Looked at once for scores of one structure: what a function does is what its trace does."""
    tell_of_rounding(score, x)


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
