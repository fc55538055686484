"""An audit as text."""

import io
from collections.abc import Mapping, Sequence

from .._describe import JSON
from .measure import Section, written

_WIDTH = 110


def table(configuration: Mapping[str, JSON], sections: Sequence[Section], notes: Sequence[str]) -> str:
    """A table of all numbers, with the notes below."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    grid = Table("", "quantity", "estimate", "unit", box=SIMPLE_HEAD, pad_edge=False)
    grid.columns[2].no_wrap = True
    for section in sections:
        for i, number in enumerate(section.numbers.values()):
            last = i == len(section.numbers) - 1
            grid.add_row(
                section.title if i == 0 else "",
                number.label,
                written(number.value, number.half_width),
                "" if number.unit == "1" else number.unit,
                end_section=last,
            )
    console = Console(file=io.StringIO(), width=_WIDTH, color_system=None, markup=False, highlight=False, emoji=False)
    with console.capture() as capture:
        console.print(_heading(configuration))
        console.print(grid)
        for section in sections:
            for note in section.notes:
                console.print(f"{section.title}: {note}")
        for note in notes:
            console.print(note)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())


def _heading(configuration: Mapping[str, JSON]) -> str:
    """The score, the samples, and the meaning of ±."""
    sde, samples = configuration["sde"], configuration["samples"]
    return (
        f"Audit of a {configuration['model']} on {sde['type']}: {samples['count']} samples of shape "
        f"{tuple(samples['shape'])}, {samples['dtype']}.\n"
        "± is the half-width of a 95 % confidence interval over samples."
    )
