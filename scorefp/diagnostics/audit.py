"""The audit of a score: a sequence of measures, in one table, one figure and one JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, Shaped

from .._checks import finite, floating, require, same_shape
from .._module import AbstractModule
from .._types import Key
from ..likelihood import Quantisation
from ..score import AbstractScore
from ..sde import AbstractLinearSDE
from .bound import Bound
from .configuration import Json, configuration, fields, plain
from .consistency import ConsistencyCurves
from .curves import CurlCurve, MatchingCurve, ResidualCurve
from .gap import Gap
from .likelihood import Likelihood
from .measure import AbstractMeasure, CleanSamples, Section
from .table import table

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
)
"""What an audit measures where it is not told."""


@runtime_checkable
class AuditData(Protocol):
    """A data set that an audit takes whole, with its levels and range: `scorefp.data.Dataset` is one."""

    @property
    def values(self) -> Shaped[Array, "n *event"]:
        """The samples: floats, or integer levels."""
        ...

    @property
    def quantisation(self) -> Quantisation | None:
        """The levels and their range; `None` for floats."""
        ...

    @property
    def args(self) -> Any:
        """Conditioning of each sample for the model."""
        ...

    def dequantised(self, key: Key) -> Float[Array, "n *event"]:
        """All samples as floats."""
        ...


class Audit(AbstractModule):
    """What an audit found, made by `audit`. `str` is a table.

    Args:
        sections: What each measure found, by title.
        notes: What was left out, and why.
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
    configuration: dict[str, Json]

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
            path: Where to write it; the ending says the format. Nowhere for `None`.

        Returns:
            The matplotlib figure.

        Raises:
            ImportError: if matplotlib is not installed.
            ValueError: if no measure has a curve.
        """
        from .figure import curves_figure, written_to

        return written_to(curves_figure({"": list(self.sections.values())}), path)

    def to_dict(self) -> dict[str, Json]:
        """All numbers, curves, notes and settings as plain values; what is not finite is `None`."""
        return {
            "configuration": self.configuration,
            "sections": {
                title: {
                    "numbers": {name: fields(number) for name, number in section.numbers.items()},
                    "curves": {name: fields(curve) for name, curve in section.curves.items()},
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


def audit(
    score: AbstractScore,
    x: ArrayLike | AuditData,
    *,
    key: Key,
    measures: Sequence[AbstractMeasure] | None = None,
    quantisation: Quantisation | None = None,
    args: Any = None,
) -> Audit:
    r"""A full account of how far a score is from being the score of its diffusion.

    By default: the likelihood of the probability-flow ODE with its exploded trajectories (`Likelihood`), the bound of
    the reverse SDE (`Bound`), the residual of the score Fokker–Planck equation (`ResidualCurve`), the error of
    denoising score matching (`MatchingCurve`) and the curl (`CurlCurve`), these three over time, the gap between the
    samples of the ODE and those of the SDE (`Gap`), and whether the denoiser is a martingale along its own reverse SDE
    (`ConsistencyCurves`). Every number comes with a 95 % confidence interval over samples [K8].

    Each measure is compiled once for a configuration, runs in batches of bounded memory, and gives the same values for
    the same key. It has a key of its own by its place in the sequence.

    Args:
        score: Any score.
        x: Clean samples as floats, stacked along the leading axis; or a data set such as `scorefp.data.Dataset`, which
            is dequantised once and brings its quantisation and conditioning.
        key: A random key.
        measures: What to measure, in this order. `None` is `DEFAULT_MEASURES`, of which a score on an SDE without a
            Gaussian kernel gets those that need none.
        quantisation: The levels and the range that samples given as floats were dequantised from; it turns
            likelihoods into bits per dimension.
        args: Conditioning of each sample for the model, a pytree of arrays with the same leading axis.

    Returns:
        The audit: `print` it, `.plot(path)` it, write it `.to_json(path)`, or look up
        `report["residual"].numbers["r_FP"].value`.

    Raises:
        TypeError: if `x` is not floating, or a measure given by name needs a Gaussian kernel that the SDE has not.
        ValueError: if there are fewer than two samples, one is not finite, their shape is not that of the score, or
            quantisation or conditioning come twice.

    Example:
        >>> import jax, scorefp as sfp
        >>> x = jax.random.normal(jax.random.key(0), (50, 2))
        >>> report = sfp.audit(sfp.Score(lambda t, x: -x, sfp.VP()), x, key=jax.random.key(1))
        >>> list(report.sections)
        ['likelihood', 'bound', 'residual', 'matching', 'curl', 'gap', 'consistency']
        >>> report["likelihood"].numbers["exploded"].value
        0.0
    """
    data_key, measure_key = jr.split(key)
    samples = _clean(x, quantisation, args, data_key)
    if score.shape is not None:
        same_shape("a sample of x", samples.values.shape[1:], "the score's own", score.shape)
    linear = isinstance(score.sde, AbstractLinearSDE)
    chosen, notes = list(DEFAULT_MEASURES) if measures is None else list(measures), list[str]()
    if measures is None and not linear:
        left_out = [type(measure).__name__ for measure in chosen if measure.needs_kernel]
        chosen = [measure for measure in chosen if not measure.needs_kernel]
        notes.append(
            f"Left out: {', '.join(left_out)}; they need a Gaussian kernel, which {type(score.sde).__name__} has not."
        )
    sections = dict[str, Section]()
    for place, measure in enumerate(chosen):
        section = measure(score, samples, key=jr.fold_in(measure_key, place))
        sections[_free(section.title, sections)] = section
    settings = {
        **configuration(score, samples.values, samples.quantisation, key),
        "measures": [plain(measure) for measure in chosen],
    }
    return Audit(sections, tuple(notes), settings)


def _clean(x: ArrayLike | AuditData, quantisation: Quantisation | None, args: Any, key: Key) -> CleanSamples:
    if isinstance(x, AuditData):
        for name, given in (("quantisation", quantisation), ("args", args)):
            require(
                given is None, f"{name} is given, but x is a {type(x).__name__}, which brings its own. Leave it out."
            )
        values, quantisation, args = x.dequantised(key), x.quantisation, x.args
    else:
        values = floating("x", x)
    require(
        values.ndim >= 1 and values.shape[0] >= 2,
        f"x has shape {values.shape}; an audit needs at least two samples, stacked along the leading axis, for its "
        "confidence intervals.",
    )
    return CleanSamples(finite("x", values), quantisation, jax.tree.map(jnp.asarray, args))


def _free(title: str, taken: dict[str, Section]) -> str:
    """The title of a section, numbered where an audit has several of one kind."""
    numbered = (title if i == 1 else f"{title} {i}" for i in range(1, len(taken) + 2))
    return next(candidate for candidate in numbered if candidate not in taken)
