"""The example of certificates in short."""

from pathlib import Path

import pytest
from helpers.scripts import ran


@pytest.mark.slow
def test_example_in_short(root: Path, tmp_path: Path) -> None:
    ran(root / "examples/certificates.py", "--out", tmp_path, "--samples", "256")
    table = (tmp_path / "certificates.md").read_text()
    assert "| a rotation added | 0.2" in table
    assert (tmp_path / "certificates.png").stat().st_size > 10_000
