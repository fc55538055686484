"""The tables of the documentation are those of the cells that are committed beside them, to the byte."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.mark.parametrize("name", ["scoreflow", "regularisers", "data_efficiency", "lai_mnist", "daras"])
def test_tables_are_those_of_the_cells(
    name: str, example: Callable[[str], ModuleType], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = root / "docs" / "assets" / name
    for cell in committed.glob("*.json"):
        shutil.copy(cell, tmp_path / cell.name)
    module = example(name)
    # What the cells say is in the tables; figures are looked at.
    monkeypatch.setattr(module._cells, "save_figure", lambda *of: None)
    module.main(["--tables-only", "--out", str(tmp_path)])
    tables = {path.name: path.read_bytes() for path in tmp_path.glob("*.md")}
    assert tables
    assert tables == {path.name: path.read_bytes() for path in committed.glob("*.md")}
