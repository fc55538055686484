"""The script of the README's picture in short."""

from pathlib import Path

import pytest
from helpers.scripts import ran


@pytest.mark.slow
def test_picture_in_short(root: Path, tmp_path: Path) -> None:
    ran(root / "examples/front.py", "--out", tmp_path, "--steps", "20", "--pixels", "20", "--seeds", "1")
    assert "| exact score | " in (tmp_path / "front.md").read_text()
    assert (tmp_path / "front.png").stat().st_size > 5_000
