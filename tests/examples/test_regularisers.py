"""The comparison of regularisers in short: two methods, one seed, a fraction of the time."""

import json
from pathlib import Path

import pytest
from helpers.scripts import ran

pytestmark = pytest.mark.slow

OPTIONS = "--problems modes --methods dsm antithetic --seeds 0 --budget 0.5 --rounds 1"


def test_the_comparison_in_short(root: Path, tmp_path: Path) -> None:
    out, script = tmp_path / "out", root / "examples/regularisers.py"
    places = ["--out", out, "--cache", tmp_path / "cache"]
    ran(script, *OPTIONS.split(), *places)
    times = json.loads((out / "modes.json").read_text())["milliseconds a step"]
    assert 0 < times["dsm"] < times["antithetic"]
    cells = {path.name: json.loads(path.read_text()) for path in out.glob("modes-*.json")}
    assert sorted(cells) == ["modes-antithetic-0.1-0.json", "modes-antithetic-0.5-0.json", "modes-dsm-0-0.json"]
    # The same time for all: the cheaper step makes more of them.
    assert cells["modes-dsm-0-0.json"]["steps"] > cells["modes-antithetic-0.1-0.json"]["steps"]
    residual = {name: cell["test"]["residual.r_FP_scale_free"][0] for name, cell in cells.items()}
    assert residual["modes-antithetic-0.5-0.json"] < residual["modes-dsm-0-0.json"]
    assert (out / "regularisers.png").stat().st_size > 10_000

    # What is there is not run again, and what was made with other settings is refused.
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.json")}
    ran(script, *OPTIONS.split(), *places)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.json")} == before
    refused = ran(script, *OPTIONS.replace("0.5", "0.6").split(), *places, check=False)
    assert refused.returncode != 0
    assert "give --out another folder" in refused.stderr
