"""The example on Daras 2023: its losses and what its table says."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import scorefp as sfp


@pytest.fixture(scope="module")
def daras(example: Callable[[str], ModuleType]) -> ModuleType:
    return example("daras")


@pytest.mark.quick
def test_table(daras: ModuleType) -> None:
    """Differences are paired by seed, and have Student's interval over seeds."""

    def cell(seed: int, shift: float, stopped: float | None = None) -> dict[str, Any]:
        samples = {name: {"kernel": 1e-3 * (seed + shift), "frechet": 1.0} for name in daras.SAMPLERS}
        own = {} if stopped is None else {"stopped": {"kernel": 1e-3 * (seed + stopped)}}
        curves = {"to_t0": [[0.5, 0.9, 2.0], [3.0, 4.0, 9.0]]}
        numbers = {"defect": 1.0, "nll_median": 5.0 + shift, "bound": 6.0, "exploded": 0.25}
        return {
            "cell": {"seed": seed},
            "steps": 2000,
            "seconds": 3.0,
            "curves": curves,
            "samples": samples | own,
            **numbers,
        }

    rows = {
        daras.START: [cell(seed, 0.0) for seed in (0, 1, 2)],
        daras.SOME: [cell(seed, shift, stopped=10.0) for seed, shift in ((2, 3.0), (1, 2.0), (0, 1.0))],
    }
    first, second = daras.table(rows, daras.START).splitlines()[2:]
    # The root mean square of 3 and 4. The mean of 1, 2, 3 with t_{0.975, 2} = 4.303 times 1 / sqrt(3).
    assert first == "| EDM | 2,000 | 3 | 1000 | 3536 | 5 | 6 | 25.0 |"
    assert "| +2.0 ± 2.5 |" in second
    first, second = daras.samples(rows, daras.START).splitlines()[2:]
    assert first == "| EDM | 1 | 1 | 1 |  | 1 |"
    # The base has no samples that are stopped: the row's are compared with its whole ones.
    assert second.startswith("| CDM, some times | +2.0 ± 2.5 | +2.0 ± 2.5 | +2.0 ± 2.5 | **+10.0")
    rows[daras.ALONE] = [cell(seed, 1.0, stopped=9.0) for seed in (0, 1, 2)]
    last = daras.samples(rows, daras.START).splitlines()[-1]
    assert last.startswith("| CDM, some times − EDM, some times | +1.0 ± 2.5 | +1.0 ± 2.5 | +1.0 ± 2.5 | **+1.0")


@pytest.mark.quick
def test_weight_of_the_code(daras: ModuleType) -> None:
    """The public code adds ten times the product of two defects, at noise levels of EDM's law and without a half."""
    wave = lambda t: jnp.sin(10 * t)
    score = sfp.DenoiserScore(lambda t, x: wave(t) * jnp.ones_like(x), daras.SDE, None)
    found = jax.jit(lambda x: daras.consistency(1.0)(score, x, key=jr.key(1), time=daras.LAW))(jnp.zeros((100_000, 2)))
    level, share = jr.normal(jr.key(2), (100_000,)), jr.uniform(jr.key(3), (100_000,))
    t = jnp.clip(jnp.exp(-1.2 + 1.2 * level), 0.002, 80.0)
    expected = 10 * jnp.mean(2 * (wave(jnp.maximum(t - 0.05 * share, 0.002)) - wave(t)) ** 2)
    np.testing.assert_allclose(found, expected, rtol=0.03)
