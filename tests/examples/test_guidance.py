"""The examples of guidance and inpainting: their law by quadrature, and each in short, what is there not run again."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers.scripts import ran


def test_the_law_that_guidance_names(example: Callable[[str], ModuleType]) -> None:
    """Of strength zero it is the mode, of strength minus one the mixture."""
    guidance = example("guidance")
    for w, mean, variance in (
        (0.0, 1.0, 0.25),
        (-1.0, 0.2, float(guidance.WEIGHTS @ (guidance.STDS**2 + (guidance.MEANS - 0.2) ** 2))),
    ):
        x, density = guidance.named_law(w)
        mass = density * (x[1] - x[0])
        np.testing.assert_allclose([mass.sum(), mass @ x, mass @ (x - mean) ** 2], [1.0, mean, variance], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("guidance", ["--steps", "20", "--samples", "200"], 10),
        ("inpainting", ["--steps", "20", "--sampler-steps", "10"], 6),
    ],
)
def test_example_in_short(root: Path, tmp_path: Path, name: str, options: list[str], count: int) -> None:
    cells = dict[Path, int]()
    for _ in range(2):
        before = cells
        ran(root / f"examples/{name}.py", "--out", tmp_path, "--models", tmp_path / "models", *options)
        cells = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
        assert len(cells) == count
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert cells == before
