"""The example of scores as forces: its quadrature and bins against closed forms, and its table against its cells."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.remade import remade
from jaxtyping import Array

import scorefp as sfp


@pytest.fixture(scope="module")
def force(example: Callable[[str], ModuleType]) -> ModuleType:
    return example("force")


def test_law_of_a_potential(force: ModuleType) -> None:
    """The exact potential, and one with a step of height log 16 between the modes at t0."""
    law, exact = force.LAWS["two modes"], force.MIXTURE.score(force.SDE)

    def stepped(t: Array, x: Array) -> Array:
        return exact.potential(t, x) + jnp.log(4.0) * jnp.tanh(8 * jnp.sum(x)) * jnp.maximum(1 - t / force.EARLY, 0)

    right, wrong = force.said(exact, law), force.said(sfp.Potential(stepped, force.SDE), law)
    np.testing.assert_allclose(right["truth"]["masses"], [0.2, 0.0, 0.8], atol=1e-4)
    np.testing.assert_allclose(right["curve"][0]["masses"], [0.2, 0.0, 0.8], atol=1e-4)
    assert right["curve"][0]["kl"] < 1e-5
    # Later the noise is part of the law.
    assert right["curve"][-1]["kl"] > 0.1
    left = 0.2 / (0.2 + 16 * 0.8)
    share = 1 - force.SDE.t0 / force.EARLY
    np.testing.assert_allclose(wrong["curve"][0]["masses"], [left, 0.0, 1 - left], atol=2e-4 / share)
    kl = 0.2 * np.log(0.2 / left) + 0.8 * np.log(0.8 / (1 - left))
    assert wrong["curve"][0]["kl"] == pytest.approx(kl, rel=0.01)


@pytest.mark.parametrize("name", ["two modes", "Müller–Brown"])
def test_bins_of_grid_and_samples_are_the_same(force: ModuleType, name: str) -> None:
    """Samples drawn from the cells of the grid fill the bins as the free energy says, and the basins."""
    law, n = force.LAWS[name], 20_000
    potential = sfp.Potential(lambda t, x: law.log_prob(x), force.SDE)
    said = force.said(potential, law)
    assert said["curve"][0]["kl"] == pytest.approx(0.0, abs=1e-6)
    shares = np.exp(-np.array(said["free_energy"]))
    assert shares.sum() == pytest.approx(1.0, abs=1e-6)
    middle = 0.5 * (law.edges()[1:] + law.edges()[:-1])
    assert np.allclose(np.diff(middle), law.side * 7 / 200)
    half = np.array(law.corner) + 0.5 * law.side
    assert middle[force.BINS // 2] == pytest.approx(half[1] + law.along * half[0])
    if name == "two modes":
        x = np.asarray(force.MIXTURE.sample(jr.key(0), n))
        found = force.compared(x[:500], x[500:1000], law)
        counts = np.histogram(law.coordinate(x), law.edges())[0]
        assert np.all(np.abs(counts - n * shares) < 5 * np.sqrt(n * shares) + 3)
        assert found["outside"] == 0
        assert sum(found["counts"]) == 500
        far = force.compared(np.vstack([x[:499], [[np.inf, np.nan]]]), x[500:1000], law)
        assert far["outside"] == pytest.approx(1 / 500)
        assert np.isfinite(far["w2"])


def test_the_table_says_what_the_cells_say(force: ModuleType, root: Path, tmp_path: Path) -> None:
    for cell in remade(force, root, tmp_path):
        assert all(np.isfinite(at["kl"]) for at in cell["curve"])
