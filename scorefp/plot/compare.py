"""The curves of several audits in one figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .._checks import kind, require
from ..diagnostics import Audit
from ..diagnostics._figure import curves_figure, written_to

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def compare(reports: Mapping[str, Audit], path: str | Path | None = None) -> "Figure":
    """The curves of several audits in one figure: one panel a curve, one line an audit, with 95 % confidence bands.

    Args:
        reports: The audits, by the name each has in the legend.
        path: The file to write, whose ending is the format; none for `None`.

    Returns:
        The matplotlib figure.

    Raises:
        ImportError: if matplotlib is not installed.
        TypeError: if `reports` are no audits by their names.
        ValueError: if there is no audit, or none has a curve.

    Example:
        >>> import jax, scorefp as sfp
        >>> from scorefp import plot
        >>> from scorefp.diagnostics import MatchingCurve
        >>> x = jax.random.normal(jax.random.key(0), (50, 2))
        >>> settings = dict(key=jax.random.key(1), measures=(MatchingCurve(),))
        >>> exact = sfp.audit(sfp.Score(lambda t, x: -x, sfp.VP()), x, **settings)
        >>> half = sfp.audit(sfp.Score(lambda t, x: -0.5 * x, sfp.VP()), x, **settings)
        >>> len(plot.compare({"exact": exact, "half": half}).axes)
        2
    """
    kind("path", path, (str, Path, type(None)), "It is the file to write, or None.")
    kind("reports", reports, Mapping, "It is a dictionary of audits, by their names in the legend.")
    for name, report in reports.items():
        kind(f"reports[{name!r}]", report, Audit, "It is what scorefp.audit returns.")
    require(len(reports) > 0, "reports is empty; give at least one audit, by its name in the legend.")
    return written_to(curves_figure({name: list(report.sections.values()) for name, report in reports.items()}), path)
