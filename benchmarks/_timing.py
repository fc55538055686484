"""What the benchmarks share: programs timed in turn, ratios within rounds, tables, files and options."""

import argparse
import json
import os
import platform
import string
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import jax
import numpy as np

Name = TypeVar("Name")
Row = dict[str, Any]
"""What a line of a table says, by name, as it goes to JSON."""


def timed(function: Callable[..., Any], *args: Any, steps: int = 1) -> Callable[[], float]:
    """A program that calls a function and returns the seconds of each of its steps, until all its arrays are there."""

    def program() -> float:
        begin = time.perf_counter()
        jax.block_until_ready(function(*args))
        return (time.perf_counter() - begin) / steps

    return program


def in_turns(programs: Mapping[Name, Callable[[], float]], rounds: int) -> dict[Name, np.ndarray]:
    """The seconds that each program returns, one number a round; a first round, which may compile, does not count.

    All take turns in a round: a machine that slows down slows all of them, and leaves ratios within a round alone.
    """
    seconds = [[program() for program in programs.values()] for _ in range(1 + rounds)]
    return dict(zip(programs, np.transpose(seconds[1:]), strict=True))


def milliseconds(seconds: np.ndarray) -> float:
    """The median over rounds."""
    return 1e3 * float(np.median(seconds))


def spread(values: np.ndarray) -> list[float]:
    """The median over rounds, and deciles 1 and 9."""
    return np.quantile(values, [0.5, 0.1, 0.9]).tolist()


class Cell(string.Formatter):
    """Fills a cell from a row; a list is a `spread`, and its format that of each number."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if not isinstance(value, list):
            return format(value, format_spec)
        middle, low, high = (format(number, format_spec) for number in value)
        return f"{middle} ({low}, {high})"


def table(template: str, rows: Sequence[Row]) -> str:
    """Markdown: the first two lines of a template, and its third filled from each row."""
    *head, line = template.splitlines(keepends=True)
    return "".join([*head, *(Cell().vformat(line, (), row) for row in rows)])


def machine(*libraries: ModuleType) -> str:
    """Versions of JAX and further libraries, and the machine."""
    versions = [f"{library.__name__} {library.__version__}" for library in (jax, *libraries)]
    return ", ".join([*versions, platform.machine(), f"{os.cpu_count()} CPUs"])


def report(name: str, markdown: str, rows: Sequence[Row], note: str, folder: Path | None) -> None:
    """Table and note on the screen and, where a folder is given, in `<name>.md` and `<name>.json`."""
    text = f"{markdown}\n{note}\n"
    print(text, end="", flush=True)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps({"note": note, "rows": rows}, indent=1) + "\n")
        (folder / f"{name}.md").write_text(text)


def arguments(doc: str, rounds: int, name: str | None = None, about: str | None = None) -> argparse.ArgumentParser:
    """`--rounds`, with what its help says of them; and `--out` for a benchmark that writes files of this name."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds, help=about)
    if name is not None:
        parser.add_argument("--out", type=Path, help=f"folder for {name}.md and .json")
    return parser
