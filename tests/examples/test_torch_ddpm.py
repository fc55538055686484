"""The example of PyTorch: its table against its cells, and what the cells say."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from helpers.remade import remade

pytest.importorskip("torch", reason="PyTorch is not installed: its example is not tested here")


def test_the_table_says_what_the_cells_say(example: Callable[[str], ModuleType], root: Path, tmp_path: Path) -> None:
    distances = {cell["cell"]["question"]: cell.get("w2") for cell in remade(example("torch_ddpm"), root, tmp_path)}
    real = distances.pop("images of the training set")
    distances.pop("bits per dimension")
    assert len(distances) == 5
    assert all(real < distance < 1.5 * real for distance in distances.values())
