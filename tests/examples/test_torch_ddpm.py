"""The example of PyTorch: its table against its cells, and what the cells say."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from helpers.remade import remade

pytest.importorskip("torch", reason="PyTorch is not installed: its example is not tested here")


def test_the_table_says_what_the_cells_say(example: Callable[[str], ModuleType], root: Path, tmp_path: Path) -> None:
    cells = {cell["cell"]["question"]: cell for cell in remade(example("torch_ddpm"), root, tmp_path)}
    numbers = cells.pop("bits per dimension")["numbers"]
    distances = {question: cell["w2"] for question, cell in cells.items()}
    real = distances.pop("images of the training set")
    assert len(distances) == 5
    assert all(real < distance < 1.5 * real for distance in distances.values())
    # A uniform law has log2(17) = 4.1; the MLP in JAX of `docs/assets/digits.md` has a bound of 2.749.
    mean, half = numbers["bits_per_dim"]
    assert 1.5 < mean < 2.749 - half
    assert numbers["exploded"][0] == 0
