"""A progress bar on the console."""

from types import TracebackType

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from .parts import Span


class Console:
    """A rich progress bar with the loss, its terms and the rate.

    Args:
        start: How many steps are taken already.
        steps: The number of steps in all.
        shown: Whether to show anything.
    """

    def __init__(self, start: int, steps: int, *, shown: bool) -> None:
        self._bar = Progress(
            TextColumn("{task.completed}/{task.total}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            disable=not shown,
        )
        self._task = self._bar.add_task("compiling", total=steps, completed=start)

    def __enter__(self) -> "Console":
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
        rate = 1 / span.seconds_per_step
        self._bar.update(self._task, completed=span.step, description=f"{shown}  {rate:.3g} steps/s")
