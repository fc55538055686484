"""The example of quality in short: two scores that hardly trained, few samples."""

import json
from pathlib import Path

import pytest
from helpers.scripts import ran

pytestmark = pytest.mark.slow

OPTIONS = "--samples 640 --steps 20 400"


def test_quality_in_short(root: Path, tmp_path: Path) -> None:
    out, script = tmp_path / "out", root / "examples/quality.py"
    places = ["--out", out, "--cache", tmp_path / "cache"]
    ran(script, *OPTIONS.split(), *places)
    cells = {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}
    assert len(cells) == 7
    real = cells["test-digits--seed0"]
    assert real["accuracy"] > 0.95
    assert abs(real["kernel"][0]) < 4 * real["kernel"][1]
    # Trained longer it is nearer to the data, by every distance, and the plug-in is above what is extrapolated.
    short, long = (cells[f"{steps}-steps-dpmsolver-20-steps-seed0"] for steps in (20, 400))
    assert short["kernel"][0] > long["kernel"][0] > real["kernel"][0]
    for cell in cells.values():
        assert cell["frechet"]["plug_in"][0] > cell["frechet"]["extrapolated"][0]
        assert all(point["plug_in"] > point["extrapolated"] for point in cell["curve"])
    assert (out / "quality.png").stat().st_size > 10_000
    assert (out / "quality.md").read_text().count("\n") == 11

    # What is there is not run again, and what was made with other settings is refused.
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.json")}
    ran(script, *OPTIONS.split(), *places)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.json")} == before
    refused = ran(script, *OPTIONS.replace("640", "320").split(), *places, check=False)
    assert refused.returncode != 0
    assert "give --out another folder" in refused.stderr
