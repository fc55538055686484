"""The example of code lengths: its codecs give back what they were given, and its tables say what its cells say."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers.remade import remade


@pytest.fixture(scope="module")
def codes(example: Callable[[str], ModuleType]) -> ModuleType:
    return example("code_length")


@pytest.mark.quick
def test_codecs_are_lossless(codes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise costs what it has, and one grey costs nearly nothing; a codec that loses something is refused."""
    pytest.importorskip("PIL")
    noise = np.random.default_rng(0).integers(0, 256, (4, 16, 16)).astype(np.uint8)
    found = codes.codecs(noise, 2, codes.CODECS)
    assert list(found) == list(codes.CODECS)
    for single, mosaic in found.values():
        assert 8 <= mosaic <= single + 1e-9
    for _, mosaic in codes.codecs(np.full((4, 16, 16), 7, np.uint8), 2, codes.CODECS).values():
        assert 0 < mosaic < 4
    monkeypatch.setitem(codes.CODECS, "lossy", (lambda picture: b"", lambda code, shape: np.zeros(shape, np.uint8)))
    with pytest.raises(RuntimeError, match="lossy is not lossless here"):
        codes.codecs(noise, 2, codes.CODECS)


def test_the_tables_say_what_the_cells_say(codes: ModuleType, root: Path, tmp_path: Path) -> None:
    cells = remade(codes, root, tmp_path)
    table = (root / "docs/assets/code_length/code_length.md").read_text(encoding="utf-8")
    written = (tmp_path / "code_length/truncation.md").read_text(encoding="utf-8")
    assert written == (root / "docs/assets/code_length/truncation.md").read_text(encoding="utf-8")
    for cell in cells:
        value, half = cell["model"]["uniform 0.125"]["code_length"]
        assert f"{value:.3f} ± {half:.3f}" in table
        # In the same units, and never above the dequantised bound but for the noise of both.
        bound, error = cell["model"]["bound"]
        assert value < bound + half + error
        assert all(mosaic < single for single, mosaic in cell["codecs"].values())


@pytest.mark.slow
def test_measuring_runs(codes: ModuleType, tmp_path: Path) -> None:
    """A model that was hardly trained, on few images; a second call finds the checkpoint."""
    settings = codes.Settings(steps=20, rate=1e-3, batch_size=16, images=4, columns=20, draws=2, tolerance=0.1)
    rows = codes.data.digits("train").reshaped((1, 8, 8))
    first, again = (codes.trained(codes.Name("digits"), settings, rows, tmp_path) for _ in range(2))
    some = codes.data.digits("test").reshaped((1, 8, 8)).rows(np.arange(4))
    found = codes.measured(again, some, settings, (0.125, 0.5))
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {"nll", "nll_median", "exploded", "bound"} | {
        f"{encoder} {share:g}" for encoder in codes.ENCODERS for share in (0.125, 0.5)
    }
    assert np.array_equal(first.network.leave.weight, again.network.leave.weight)
