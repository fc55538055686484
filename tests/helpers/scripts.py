"""Python in processes of their own: scripts and lines of code."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SAME = os.environ["XLA_FLAGS"]
"""The flags of XLA in the tests, which leave its optimiser out."""
OPTIMISED = ""
"""None, for what runs long: the import of scorefp adds the one that it needs."""


def ran(
    *command: str | Path, flags: str = OPTIMISED, check: bool = True, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Python with a script and its options, or with `-c` and code; it must not fail, unless `check` is off."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert not check or done.returncode == 0, done.stderr
    return done
