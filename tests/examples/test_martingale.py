"""The example of consistency in the plane in short; what is there is not run again."""

from pathlib import Path

import pytest
from helpers.scripts import ran


@pytest.mark.slow
def test_example_in_short(root: Path, tmp_path: Path) -> None:
    cells = dict[Path, int]()
    for _ in range(2):
        before = cells
        ran(root / "examples/martingale.py", "--out", tmp_path, *["--steps", "20", "--samples", "40", "--seeds", "1"])
        cells = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
        assert len(cells) == 6
        assert "| exact | " in (tmp_path / "martingale.md").read_text()
        assert (tmp_path / "martingale.png").stat().st_size > 10_000
    assert cells == before
