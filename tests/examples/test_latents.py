"""The example of latents in short; what is there is not made again."""

from pathlib import Path

import pytest
from helpers.scripts import ran


@pytest.mark.slow
def test_example_in_short(root: Path, tmp_path: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        options = ["--steps", "20", "--pairs", "6", "--cache", tmp_path / "cache"]
        said.append(ran(root / "examples/latents.py", "--out", tmp_path, *options).stdout)
        assert "| circle of latents | " in (tmp_path / "latents.md").read_text()
        assert (tmp_path / "latents.png").stat().st_size > 10_000
    assert "latents: done after" in said[0]
    assert "latents: done after" not in said[1]
