"""What a run shows on the console."""

import time as clock
from types import TracebackType

import rich.console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from .parts import Span

_SECONDS_BETWEEN_LINES = 10.0


class Console:
    """The loss, its terms and the rate: beside a bar in terminals and notebooks, elsewhere in a line now and then.

    Args:
        start: How many steps are taken already.
        steps: The number of steps in all.
        heading: What is shown first, if anything.
        shown: Whether to show anything.
    """

    def __init__(self, start: int, steps: int, *, heading: str = "", shown: bool) -> None:
        self._console = rich.console.Console(quiet=not shown, highlight=False, markup=False, soft_wrap=True)
        self._heading = heading
        self._steps = steps
        self._live = self._console.is_terminal or self._console.is_jupyter
        self._next_line = clock.monotonic()
        self._bar = Progress(
            TextColumn("{task.completed}/{task.total}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=self._console,
            disable=not (shown and self._live),
        )
        self._task = self._bar.add_task("compiling", total=steps, completed=start)

    def __enter__(self) -> "Console":
        if self._heading:
            self._console.print(self._heading)
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, span: Span) -> None:
        loss, *terms, _ = span.history
        # A single term is the loss.
        names = [loss, *(terms if len(terms) > 1 else ())]
        shown = "  ".join(f"{name} {span.history[name].mean():.4g}" for name in names)
        shown += f"  {1 / span.seconds_per_step:.3g} steps/s"
        self._bar.update(self._task, completed=span.step, description=shown)
        if not self._live and (clock.monotonic() >= self._next_line or span.step == self._steps):
            self._next_line = clock.monotonic() + _SECONDS_BETWEEN_LINES
            self._console.print(f"{span.step}/{self._steps}  {shown}")
