"""The example that solves the Cauchy problem: its noisy score, and its table against its cells."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import jax
import jax.random as jr
import numpy as np
import pytest
from helpers.references import assert_mean, mean_is
from helpers.remade import remade


@pytest.fixture(scope="module")
def cauchy(example: Callable[[str], ModuleType]) -> ModuleType:
    return example("cauchy")


@pytest.mark.usefixtures("x64")
def test_a_noisy_score(cauchy: ModuleType) -> None:
    """Its noise has mean zero and the standard deviation that is said, and is one at each point."""
    with jax.enable_x64(False):
        sde = cauchy.PROBLEMS["a noisy score, everywhere"].sde
        x = cauchy.MIXTURE.sample(jr.key(0), 4000)
        exact = cauchy.MIXTURE.score(sde)
        noisy = lambda x: cauchy.measured_score(sde, 0.5, x)
        first, second, truth = jax.jit(jax.vmap(lambda x: (noisy(x), noisy(x + 0), exact(sde.t0, x))))(x)
        np.testing.assert_array_equal(first, second)
        noise = np.asarray(first - truth)
    assert mean_is(noise, np.zeros(2))
    assert_mean(noise**2, np.full(2, 0.25))
    assert mean_is(noise[:, :1] * noise[:, 1:], np.zeros(1))


def test_the_table_says_what_the_cells_say(cauchy: ModuleType, root: Path, tmp_path: Path) -> None:
    assert all(np.isfinite(cell["model"]["kl"]) for cell in remade(cauchy, root, tmp_path))
