"""A measure of each class by itself."""

import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from .._batches import apart
from .._checks import require
from .._describe import described
from .._types import Key
from ..dataset import Dataset
from ..score import AbstractScore
from .measure import AbstractMeasure, Number, Section


class ByClass(AbstractMeasure):
    """A measure of the samples of each class by itself, side by side.

    `audit(model, data, key=key, measures=(ByClass(Likelihood()), ByClass(ResidualCurve())))` has the sections
    `"likelihood by class"` and `"residual by class"`, with the numbers of the measure for every class, such as
    `"bits_per_dim of 3"`. Curves are left out; for those, audit `data.rows(…)` of each class and give the reports to
    `plot.compare`.

    All classes have as many samples, drawn without replacement: a distance of samples has a bias that depends on their
    number, and what runs is compiled once.

    Args:
        measure: The measure.
        labels: The class of each sample, as integers. `None` is the conditioning of the data, where it is a label; a
            model without conditioning needs them here.
        samples: How many samples of each class; as many as the rarest has for `None`.

    Raises:
        TypeError: if `measure` is no measure; on a call, if the labels are no integers.
        ValueError: on a call, if there are no labels, or another number of them than samples; if a class has fewer than
            `samples`, or than two.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> from scorefp.diagnostics import ByClass, MatchingCurve
        >>> score = sfp.Score(lambda t, x, args: -x, sfp.VP())
        >>> labels = jnp.arange(60) % 2
        >>> data = sfp.Dataset(jax.random.normal(jax.random.key(0), (60, 2)), args=labels)
        >>> section = ByClass(MatchingCurve())(score, data, key=jax.random.key(1))
        >>> section.title, [name for name in section.numbers if "scale_free" in name]
        ('matching by class', ['r_DSM_scale_free of 0', 'r_DSM_scale_free of 1'])
    """

    measure: AbstractMeasure
    labels: Int[Array | np.ndarray, " n"] | None = None
    samples: int | None = None

    def __check_init__(self) -> None:
        require(self.samples is None or self.samples >= 2, f"samples = {self.samples}; a measure needs two at least.")

    @property
    def needs_kernel(self) -> bool:
        return self.measure.needs_kernel

    @property
    def needs_levels(self) -> bool:
        return self.measure.needs_levels

    def section(self, score: AbstractScore, data: Dataset, *, key: Key, mesh: Mesh | None) -> Section:
        sections = {
            label: self.measure.section(score, data.rows(rows), key=key, mesh=mesh)
            for label, rows in self._rows(data, apart(key)).items()
        }
        numbers, points = dict[str, Number](), dict[str, Float[np.ndarray, " n"]]()
        first = next(iter(sections.values()))
        # A measure may have less to say of a class, as of the quality of samples that all failed.
        for name in dict.fromkeys(name for section in sections.values() for name in section.numbers):
            for label, section in sections.items():
                if name in section.numbers:
                    number = section.numbers[name]
                    numbers[f"{name} of {label}"] = dataclasses.replace(number, label=f"{number.label}, class {label}")
        for label, section in sections.items():
            points |= {f"{name} of {label}": values for name, values in section.points.items()}
        return Section(f"{first.title} by class", numbers, {}, tuple(_notes(sections)), points)

    def _rows(self, data: Dataset, key: Key) -> dict[int, Int[np.ndarray, " rows"]]:
        """The samples of each class, in the order of the data."""
        given = data.args if self.labels is None else self.labels
        if given is None:
            raise ValueError(
                "data have no conditioning, and labels is None: the classes are not known. Give a Dataset with args, "
                "or ByClass(measure, labels)."
            )
        if not isinstance(given, Array | np.ndarray) or not jnp.issubdtype(given.dtype, jnp.integer):
            raise TypeError(
                f"labels is {described(given)}; the class of a sample is an integer. Where the conditioning is "
                "another, give ByClass(measure, labels)."
            )
        labels = np.asarray(given)
        require(
            labels.shape == (len(data),),
            f"labels has shape {labels.shape}; there are {len(data)} samples, each with one label.",
        )
        classes, counts = np.unique(labels, return_counts=True)
        rare = int(counts.argmin())
        fewest = int(counts[rare])
        samples = fewest if self.samples is None else self.samples
        require(
            2 <= samples <= fewest,
            f"samples = {samples}, and class {classes[rare]} has {fewest}; every class has so many, and two at least. "
            "Leave rare classes out of the data, or lower samples.",
        )
        found = dict[int, Int[np.ndarray, " rows"]]()
        for label in classes.tolist():
            rows = np.flatnonzero(labels == label)
            drawn = jr.permutation(jr.fold_in(key, label & 0xFFFFFFFF), len(rows))[:samples]
            found[label] = rows[np.sort(np.asarray(drawn))]
        return found


def _notes(sections: dict[int, Section]) -> Iterator[str]:
    """The notes of all classes once, those of some with their class."""
    first, *others = sections.values()
    common = [note for note in first.notes if all(note in other.notes for other in others)]
    yield from common
    for label, section in sections.items():
        yield from (f"class {label}: {note}" for note in section.notes if note not in common)
