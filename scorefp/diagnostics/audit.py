"""The audit of a score: a sequence of measures, in one table, one figure and one JSON."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jaxtyping import ArrayLike, Float

from .._checks import fitting_samples, kind, random_key
from .._citation import installed_version
from .._describe import JSON, free_name, name_of, settings
from .._devices import one_row
from .._module import AbstractModule
from .._precision import measures
from .._types import Key
from ..calculus import AbstractTrace
from ..calculus._smoothness import jumps
from ..dataset import AbstractDequantiser, Dataset
from ..dataset.dataset import as_dataset
from ..likelihood import BoundEstimator
from ..reverse import Integrator
from ..score import AbstractScore, TorchNetwork
from ..score._rounding import rounding_told
from ..score.score import require_score
from ..sde import AbstractLinearSDE
from ._table import table
from .bound import Bound
from .by_class import ByClass
from .code_length import CodeLength
from .consistency import ConsistencyCurves
from .curves import CirculationCurve, CurlCurve, MatchingCurve, ResidualCurve
from .gap import Gap
from .likelihood import Likelihood
from .measure import AbstractMeasure, Curve, Number, Section, tell_of_rounding_on
from .prior import MOST, PriorDivergence, divergence_at_t1
from .stein import ScoreError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT_MEASURES: tuple[AbstractMeasure, ...] = (
    Likelihood(),
    Bound(),
    ResidualCurve(),
    MatchingCurve(),
    CurlCurve(),
    Gap(),
    ConsistencyCurves(),
    PriorDivergence(),
    ScoreError(),
    CirculationCurve(),
    CodeLength(),
)
"""The measures of an audit by default, of which `CodeLength` is for levels alone. A new one comes last: keys follow
from places, and the numbers of the others stay."""


class Audit(AbstractModule):
    """The result of `audit`. `str` is a table.

    Args:
        sections: The result of each measure, by title.
        notes: The measures that were left out, and the reason.
        configuration: Versions, score, samples, key and the settings of the measures.

    Example:
        >>> import jax, scorefp as sfp
        >>> from scorefp.diagnostics import MatchingCurve
        >>> x = jax.random.normal(jax.random.key(0), (50, 2))
        >>> score = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> report = sfp.audit(score, x, key=jax.random.key(1), measures=(MatchingCurve(),))
        >>> bool(0 < report["matching"].numbers["r_DSM_scale_free"].value < 1)
        True
    """

    sections: dict[str, Section]
    notes: tuple[str, ...]
    configuration: dict[str, JSON]

    def __getitem__(self, title: str) -> Section:
        """The section of that title.

        Raises:
            KeyError: if there is none.
        """
        if title not in self.sections:
            raise KeyError(f"the audit has no section {title!r}; it has {', '.join(map(repr, self.sections))}.")
        return self.sections[title]

    def __str__(self) -> str:
        return table(self.configuration, list(self.sections.values()), self.notes)

    def plot(self, path: str | Path | None = None) -> "Figure":
        """One figure of all curves, with their 95 % confidence bands.

        Args:
            path: The file to write, whose ending is the format; none for `None`.

        Returns:
            The matplotlib figure.

        Raises:
            ImportError: if matplotlib is not installed.
            ValueError: if no measure has a curve.
        """
        from ._figure import curves_figure, written_to

        return written_to(curves_figure({"": list(self.sections.values())}), path)

    def to_dict(self) -> dict[str, JSON]:
        """All numbers, curves, notes and settings as plain values; a number that is not finite is `None`."""
        return {
            "configuration": self.configuration,
            "sections": {
                title: {
                    "numbers": {name: _fields(number) for name, number in section.numbers.items()},
                    "curves": {name: _fields(curve) for name, curve in section.curves.items()},
                    "notes": list(section.notes),
                }
                for title, section in self.sections.items()
            },
            "notes": list(self.notes),
        }

    def to_json(self, path: str | Path) -> None:
        """Writes `to_dict` as JSON.

        Args:
            path: The file.
        """
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")


@measures
def audit(
    score: AbstractScore,
    data: Dataset | Float[ArrayLike, "n *event"],
    *,
    key: Key,
    measures: Sequence[AbstractMeasure] | None = None,
    mesh: Mesh | None = None,
) -> Audit:
    r"""The distance of a score from the score of its diffusion, by several measures.

    By default: the likelihood of the probability-flow ODE with its exploded trajectories (`Likelihood`), the bound of
    the reverse SDE (`Bound`), the residual of the score Fokker–Planck equation (`ResidualCurve`), the error of
    denoising score matching (`MatchingCurve`) and the curl (`CurlCurve`), these three over time, the gap between the
    samples of the ODE and those of the SDE (`Gap`), whether the denoiser is a martingale along its own reverse SDE
    (`ConsistencyCurves`), how far the diffused data are from the prior (`PriorDivergence`); over time and without the
    true score, a lower bound of the score's error with its gradient part (`ScoreError`), and of the part that no
    potential explains (`CirculationCurve`); and, of levels, their lossless code length (`CodeLength`). Every number
    comes with a 95 % confidence interval over samples [K8].

    Each measure is compiled once for a configuration, runs in batches of bounded memory, and gives the same values for
    the same key. It has a key of its own by its place in the sequence. Where the process does not reach its prior, a
    note says so, whatever the measures.

    Args:
        score: Any score.
        data: A data set, with its quantisation and conditioning; or clean samples as floats, stacked along the leading
            axis. Levels are dequantised once for all measures, by uniform noise, but for those that draw their own.
        key: A random key.
        measures: The measures, in this order. `None` is `DEFAULT_MEASURES`, of which a score on an SDE without a
            Gaussian kernel gets those that need none, one that jumps from step to step those that need no time
            derivative, and floats all but `CodeLength`.
        mesh: The devices that share the work of every measure, as `data_mesh` returns them; `None` is one device. The
            audit is the same up to rounding, or the tolerance of an adaptive solver. The `batch_size` of a measure
            counts samples over all devices: give a larger one to many. With several processes each makes the call, with
            the same arguments, and has the audit.

    Returns:
        The audit: `print` it, `.plot(path)` it, write it `.to_json(path)`, or look up
        `report["residual"].numbers["r_FP"].value`.

    Raises:
        TypeError: if `score` is no score, `key` no random key, `measures` no sequence of measures, the data are
            integers without a quantisation or of half precision, or a measure given by name needs a Gaussian kernel
            that the SDE does not have, or a time derivative that the score does not have.
        ValueError: if there are fewer than two samples, one is not finite, or their shape is not that of the score; if
            `mesh` has another axis than `"data"`.

    Example:
        >>> import jax, scorefp as sfp
        >>> x = jax.random.normal(jax.random.key(0), (50, 2))
        >>> report = sfp.audit(sfp.Score(lambda t, x: -x, sfp.VP()), x, key=jax.random.key(1))
        >>> list(report.sections)
        ['likelihood', 'bound', 'residual', 'matching', 'curl', 'gap', 'consistency', 'prior', 'error', 'circulation']
        >>> report["likelihood"].numbers["exploded"].value
        0.0
    """
    if measures is not None:
        return _audit(score, data, measures, (), key, mesh)
    return _audit(score, data, *_suited(DEFAULT_MEASURES, require_score(score), data), key, mesh)


@measures
def evaluate(
    score: AbstractScore,
    data: Dataset | Float[ArrayLike, "n *event"],
    *,
    key: Key,
    dequantiser: AbstractDequantiser | None = None,
    repeats: int = 1,
    trace: AbstractTrace | None = None,
    integrator: Integrator = Integrator(throw=False),
    draws: int = 64,
    batch_size: int = 64,
    mesh: Mesh | None = None,
) -> Audit:
    r"""The negative log-likelihood of the probability-flow ODE [K1], the bound of the reverse SDE [K3], [K4] and, of
    levels, their lossless code length [K10] on a data set, as a paper reports them: the audit of `Likelihood`, `Bound`
    and `CodeLength` with common settings.

    Bits per dimension where the data have a quantisation [K7], nats a sample where they have none. With a dequantiser
    the first two have its term $E[\log q(u \mid k)]$ added (Song 2021, Eq. 13), so that they bound the code length of
    the levels; the third has no density to add it to. The bounds are left out where the SDE has no Gaussian kernel.

    Args:
        score: Any score.
        data: A data set, with its quantisation and conditioning; or clean samples as floats, stacked along the leading
            axis.
        key: A random key.
        dequantiser: How levels become floats for the first two; uniform noise for `None`.
        repeats: How often each sample is taken, each time with its own noise, probe and times.
        trace: `Exact()` or `Hutchinson(samples, law)`. `None` is `Exact()` for samples of up to 16 elements and
            `Hutchinson()` for larger ones.
        integrator: How the ODE is solved. With `throw=True` a failed trajectory raises.
        draws: Times a sample for each of the bounds.
        batch_size: How many samples are taken at once, over all devices, each with all its draws.
        mesh: The devices that share the samples, as `data_mesh` returns them; `None` is one device. The numbers are the
            same up to rounding, or the tolerance of an adaptive solver. With several processes each makes the call,
            with the same arguments, and has the audit.

    Returns:
        An audit with the sections `"likelihood"`, `"bound"` and, of levels, `"code"`. The values of each sample are in
        their `points`: two scores are compared by the differences of their points.

    Raises:
        TypeError: if `score` is no score, `key` no random key, a setting of another kind, or the data are integers
            without a quantisation or of half precision.
        ValueError: if there are fewer than two samples, one is not finite or has another shape than the score, a
            dequantiser comes with floats or has another quantisation than the data, a count is too small, or `mesh`
            has another axis than `"data"`.
        RuntimeError: if a solve fails and the integrator has `throw=True`.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> levels = jax.random.randint(jax.random.key(0), (200, 2), 0, 4)
        >>> data = sfp.Dataset(levels, sfp.Quantisation(4, -2.0, 2.0))
        >>> found = sfp.evaluate(sfp.Score(lambda t, x: -x, sfp.VP()), data, key=jax.random.key(1))
        >>> nll = found["likelihood"].numbers["bits_per_dim"]
        >>> # Samples uniform on [-2, 2] under a standard normal law:
        >>> want = (jnp.log(2 * jnp.pi) / 2 + 2 / 3) / jnp.log(2.0)
        >>> bool(abs(nll.value - want) < 2 * nll.half_width), found["bound"].points["bound"].shape
        (True, (200,))
    """
    nll = Likelihood(trace, integrator, batch_size=batch_size, repeats=repeats, dequantiser=dequantiser)
    bound = Bound(None, BoundEstimator(draws), batch_size, repeats, dequantiser)
    code = CodeLength(None, BoundEstimator(draws), batch_size, repeats)
    return _audit(score, data, *_suited((nll, bound, code), require_score(score), data), key, mesh)


def _suited(
    measures: Sequence[AbstractMeasure], score: AbstractScore, data: Dataset | ArrayLike
) -> tuple[Sequence[AbstractMeasure], tuple[str, ...]]:
    """The measures that there are levels, a kernel and a time derivative for, and a note on each of the last two."""
    notes = list[str]()
    if not (isinstance(data, Dataset) and data.levels is not None):
        measures = [measure for measure in measures if not isinstance(measure, CodeLength)]
    if not isinstance(score.sde, AbstractLinearSDE):
        left_out = _names(measure for measure in measures if measure.needs_kernel)
        notes.append(
            f"Left out: {left_out}; they need a Gaussian kernel, which {type(score.sde).__name__} does not have."
        )
        measures = [measure for measure in measures if not measure.needs_kernel]
    if _jumps(score) and (left_out := _names(filter(_differentiates_by_time, measures))):
        notes.append(f"Left out: {left_out}; {jumps('the score')}")
        measures = [measure for measure in measures if not _differentiates_by_time(measure)]
    return measures, tuple(notes)


def _names(measures: Iterable[AbstractMeasure]) -> str:
    return ", ".join(type(measure).__name__ for measure in measures)


def _differentiates_by_time(measure: AbstractMeasure) -> bool:
    return isinstance(measure.measure if isinstance(measure, ByClass) else measure, ResidualCurve)


def _jumps(score: AbstractScore) -> bool:
    """Whether a torch module in a score takes an integer for the time."""
    is_leaf = lambda node: isinstance(node, TorchNetwork)
    return any(is_leaf(node) and node.jumps for node in jax.tree.leaves(score, is_leaf=is_leaf))


def _audit(
    score: AbstractScore,
    data: Dataset | ArrayLike,
    measures: Sequence[AbstractMeasure],
    notes: tuple[str, ...],
    key: Key,
    mesh: Mesh | None,
) -> Audit:
    require_score(score)
    one_row(mesh)
    kind("measures", measures, Sequence, "Each of a sequence is a measure, as in (scorefp.diagnostics.Bound(),).")
    for measure in measures:
        kind("a measure", measure, AbstractMeasure)
    if _jumps(score) and (needing := _names(filter(_differentiates_by_time, measures))):
        others = _names(measure for measure in DEFAULT_MEASURES if not _differentiates_by_time(measure))
        raise TypeError(f"{needing} takes the time derivative, and {jumps('the score')} Others work: {others}.")
    data_key, measure_key = jr.split(random_key("an audit", key))
    data = as_dataset(data)
    fitting_samples("data", data.shape, score.shape)
    floats = data.dequantised(data_key)
    sections = dict[str, Section]()
    tell_of_rounding_on(score, floats)
    with rounding_told():
        for place, measure in enumerate(measures):
            measured = data if measure.needs_levels else floats
            section = measure(score, measured, key=jr.fold_in(measure_key, place), mesh=mesh)
            sections[free_name(section.title, sections)] = section
    if isinstance(score.sde, AbstractLinearSDE) and not any(isinstance(m, PriorDivergence) for m in measures):
        notes = (*notes, *divergence_at_t1(score.sde, floats.drawn(MOST, key=data_key)[0]).notes)
    configuration = {
        "scorefp": installed_version(),
        "jax": jax.__version__,
        "model": name_of(score),
        "score": settings(score),
        "sde": settings(score.sde),
        "samples": {
            "count": len(data),
            "shape": list(data.shape),
            "dtype": str(floats.values.dtype),
            "quantisation": settings(data.quantisation),
        },
        "key": settings(jr.key_data(key)),
        "measures": [settings(measure) for measure in measures],
    }
    return Audit(sections, notes, configuration)


def _fields(value: Number | Curve) -> dict[str, JSON]:
    """The fields as JSON, arrays in full; a number that is not finite is `None`."""

    def plain(item: Any) -> JSON:
        if isinstance(item, np.ndarray):
            return [plain(entry) for entry in item.tolist()]
        return None if isinstance(item, float) and not math.isfinite(item) else item

    return {name: plain(item) for name, item in vars(value).items()}
