"""Callbacks that write the metrics of a run: as a table, and for TensorBoard."""

import csv
import io
import os
import time as clock
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, final

from .._checks import needs, path_of, require
from .report import Report

if TYPE_CHECKING:
    from tensorboardX.event_file_writer import EventsWriter


@final
class CSVLog:
    """A callback that writes the metrics of each report as one row of a table, with a header and the step in front.

    A resumed run continues in the same file: rows after the step at which it begins anew are dropped, as it
    reports these steps a second time, and a run from step 0 starts the table anew. A metric that comes later, such as
    one that is evaluated now and then, gets a new column; cells without a value are empty. Numbers are written in
    full. A row is appended in one piece; where more of the file changes, a new file replaces it at once, so that a
    process that dies leaves the one or the other.

    Args:
        path: The file. It need not exist, nor its folder.

    Raises:
        ValueError: if the file exists and is no table of this kind.

    Example:
        >>> import tempfile, jax, optax, scorefp as sfp
        >>> from pathlib import Path
        >>> from scorefp import train
        >>> x = jax.random.normal(jax.random.key(0), (256, 2))
        >>> model = sfp.NoiseScore(sfp.nn.MLP(shape=(2,), width=16, key=jax.random.key(1)), sfp.VP())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "metrics.csv"
        ...     run = train.fit(
        ...         model, sfp.DSM(), x, optimizer=optax.adam(1e-2), steps=20, key=jax.random.key(2),
        ...         callbacks=(train.CSVLog(path),), report_every=10, progress=False,
        ...     )
        ...     header, *rows = path.read_text().splitlines()
        >>> header.split(",")[:3], [row.split(",")[0] for row in rows]
        (['step', 'loss', 'DSM'], ['10', '20'])
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path_of("path", path)
        self._columns, _ = _table(self.path)
        self._written: int | None = None

    def __call__(self, report: Report) -> None:
        row = {"step": str(report.step), **{name: repr(float(value)) for name, value in report.metrics.items()}}
        new = [name for name in row if name not in self._columns]
        if report.first == self._written and not new:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(_lines(self._columns, [row]))
        else:
            columns, rows = _table(self.path)
            kept = [earlier for earlier in rows if int(earlier["step"]) <= report.first]
            # What a table from which no row is kept was about is not known to be what this one is about.
            self._columns = [*columns, *(name for name in row if name not in columns)] if kept else list(row)
            heading = dict(zip(self._columns, self._columns, strict=True))
            _replace(self.path, _lines(self._columns, [heading, *kept, row]))
        self._written = report.step


@final
class TensorBoard:
    """A callback that writes the metrics of each report as scalars for TensorBoard.

    Metrics keep their names; TensorBoard makes a group of those with the same word before a slash, such as
    `likelihood/bits_per_dim`. A resumed run continues in the same folder, and TensorBoard hides what was written
    of the steps that it reports a second time.

    Args:
        path: The folder of this run.

    Raises:
        ImportError: if tensorboardX is not installed.

    Example:
        >>> from scorefp import train
        >>> callbacks = (train.TensorBoard("runs/first"), train.CSVLog("runs/first.csv"))
    """

    def __init__(self, path: str | Path) -> None:
        with needs("TensorBoard", "tensorboardX", "train"):
            import tensorboardX  # noqa: F401  # pyright: ignore[reportUnusedImport]
        self.path = path_of("path", path)
        self._writer: EventsWriter | None = None
        self._written: int | None = None

    def __call__(self, report: Report) -> None:
        from tensorboardX.summary import scalar

        if self._writer is None or report.first != self._written:
            self._close()
            self._writer = _events(self.path, report.first)
        for name, value in report.metrics.items():
            self._writer.write_event(_event(step=report.step, summary=scalar(name, float(value))))
        self._writer.flush()
        self._written = report.step
        if report.step == report.steps:
            self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _events(folder: Path, first: int) -> "EventsWriter":
    """A new event file, which hides the steps after `first` of the files before it.

    tensorboardX's `SummaryWriter` writes from a thread of its own, some time later; this is what it writes with.
    """
    from tensorboardX.event_file_writer import EventsWriter

    folder.mkdir(parents=True, exist_ok=True)
    # The name of an event file holds the time in seconds, and a second file of that name would replace it.
    writer = EventsWriter(str(folder / "events"), filename_suffix=f".{clock.time_ns()}.{os.getpid()}")
    writer.write_event(_event(step=first + 1, session_log={"status": "START"}))
    return writer


def _event(**fields: Any) -> Any:
    from tensorboardX.proto import event_pb2

    messages = cast(Any, event_pb2)  # made when it is imported, unknown to type checkers
    return messages.Event(wall_time=clock.time(), **fields)


def _table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and rows of a table; none where there is no file."""
    if not path.exists():
        return [], []
    text = path.read_text(encoding="utf-8", errors="replace")
    # A line without an end was being written when the machine stopped.
    lines = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    columns, *rows = [*lines] or [[]]
    require(
        (not text or columns[:1] == ["step"]) and all(len(row) == len(columns) and row[0].isdecimal() for row in rows),
        f"{path} exists and is no table of CSVLog, which has a column of steps in front. Choose another path.",
    )
    return columns, [dict(zip(columns, row, strict=True)) for row in rows]


def _lines(columns: list[str], rows: list[dict[str, str]]) -> str:
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns, restval="", lineterminator="\n").writerows(rows)
    return text.getvalue()


def _replace(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    with new.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
