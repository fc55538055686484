"""The curves of audits as a figure. The only file of this package that needs matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._checks import needs, require
from .measure import Curve, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, told apart with any colour vision."""

_COLUMNS = 2


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of a size in inches.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    with needs("a figure", "matplotlib", "plot"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained")


def written_to(figure: "Figure", path: str | Path | None) -> "Figure":
    """The figure, written to a file where a path is given."""
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def curves_figure(reports: Mapping[str, Sequence[Section]]) -> "Figure":
    """One panel a curve, one column a section, one line a report.

    Args:
        reports: The sections of each report, by the name it has in the legend; an empty name gets none.
    """
    panels = dict[str, dict[str, dict[str, Curve]]]()
    for name, sections in reports.items():
        for section in sections:
            for quantity, curve in section.curves.items():
                panels.setdefault(section.title, {}).setdefault(quantity, {})[name] = curve
    require(bool(panels), "none of the audits has a curve; add a measure with one, such as ResidualCurve().")
    columns = min(_COLUMNS, len(panels))
    blocks = [list(panels)[i : i + columns] for i in range(0, len(panels), columns)]
    depths = [max(len(panels[title]) for title in block) for block in blocks]
    figure = new_figure(4.2 * columns, 2.9 * sum(depths) + 0.4)
    grid = figure.add_gridspec(sum(depths), columns)
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(reports)}
    for block, first in zip(blocks, np.cumsum([0, *depths]), strict=False):
        for column, title in enumerate(block):
            for row, lines in enumerate(panels[title].values()):
                axes = figure.add_subplot(grid[int(first) + row, column])
                _panel(axes, lines, colours)
                if row == 0:
                    axes.set_title(f"{title}\n{axes.get_title()}", fontsize=10)
    named = [name for name in reports if name]
    if named:
        handles = [figure.axes[0].plot([], [], color=colours[name], label=name)[0] for name in named]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(named)), frameon=False)
    return figure


def _panel(axes: "Axes", lines: Mapping[str, Curve], colours: Mapping[str, str]) -> None:
    for name, curve in lines.items():
        axes.plot(curve.t, curve.value, color=colours[name], linewidth=1.6, marker=".", markersize=4)
        axes.fill_between(
            curve.t,
            curve.value - curve.half_width,
            curve.value + curve.half_width,
            color=colours[name],
            alpha=0.2,
            linewidth=0,
        )
    curves = list(lines.values())
    values = np.concatenate([curve.value for curve in curves])
    times = np.concatenate([curve.t for curve in curves])
    if times.min() > 0 and times.max() > 30 * times.min():
        axes.set_xscale("log")
    seen = values[np.isfinite(values) & (values > 0)]
    # A square whose estimate is negative, or a root that counts as zero, has no place on a logarithmic axis.
    if seen.size and np.median(values) > 0:
        axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(seen.min() / 2, 2 * seen.max())
    unit = "" if curves[0].unit == "1" else f" [{curves[0].unit}]"
    axes.set_title(f"{curves[0].label}{unit}", fontsize=10)
    axes.set_xlabel(curves[0].axis)
    axes.grid(True, which="major", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
