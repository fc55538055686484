"""The reproduction of Deveney 2023 in short: one target, a tenth of the iterations, resumed from its cells."""

import json
from pathlib import Path

import pytest
from helpers.scripts import ran

OPTIONS = "--targets mixture --penalties 0 1 --seeds 0 --iterations 10000 --samples 6000 --steps 100 --quiet --out"


def run(root: Path, out: Path) -> str:
    return ran(root / "examples/deveney.py", *OPTIONS.split(), out, "--weights", out).stdout


@pytest.mark.slow
def test_the_reproduction_in_short(root: Path, tmp_path: Path) -> None:
    printed = run(root, tmp_path)
    names = {"exact": "exact_mixture_0_0.json", "0": "paper_mixture_0_0.json", "1": "paper_mixture_1_0.json"}
    cells = {name: json.loads((tmp_path / file).read_text()) for name, file in names.items()}
    residual = {name: cell["residual"][0] for name, cell in cells.items()}
    # In float32 the exact score has a residual of rounding errors near t0.
    assert residual["exact"] < 1e-2 * residual["1"]
    assert residual["1"] < 0.5 * residual["0"]
    matching = {name: cell["matching"] for name, cell in cells.items()}
    assert matching["exact"] < min(matching["0"], matching["1"])
    distances = {name: {pair: value for pair, (value, _) in c["transport"].items()} for name, c in cells.items()}
    assert all(distances["exact"][pair] < distances["0"][pair] for pair in ("ode_sde", "ode_data", "sde_data"))
    assert f"{distances['0']['ode_sde']:.4f}" in printed
    assert min((tmp_path / name).stat().st_size for name in ("samples.png", "relations.png")) > 10_000

    # What is there is not run again.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    again = run(root, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")} == before
    assert again == printed[printed.index("**The network") :]
