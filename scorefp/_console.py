"""A progress bar: in terminals and notebooks, elsewhere a line now and then."""

import time as clock
from types import TracebackType

import rich.console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0


class Bar:
    """How much of something is done, with a text beside it.

    Args:
        start: How much is done already.
        total: How much there is.
        heading: The first line, if any.
        shown: Whether to show anything.
    """

    def __init__(self, start: int, total: int, *, heading: str = "", shown: bool) -> None:
        self._console = rich.console.Console(quiet=not shown, highlight=False, markup=False, soft_wrap=True)
        self._heading = heading
        self._total = total
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
        self._task = self._bar.add_task("compiling", total=total, completed=start)

    def __enter__(self) -> "Bar":
        if self._heading:
            self._console.print(self._heading)
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._bar.disable:  # rich 14 ends a disabled bar with an empty line
            self._bar.stop()

    def __call__(self, done: int, text: str) -> None:
        self._bar.update(self._task, completed=done, description=text)
        if not self._live and (clock.monotonic() >= self._next_line or done == self._total):
            self._next_line = clock.monotonic() + _SECONDS_BETWEEN_LINES
            self._console.print(f"{done}/{self._total}  {text}")
