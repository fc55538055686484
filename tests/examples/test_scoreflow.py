"""The example that remakes Table 2 and Figure 2 of Song 2021: it resumes, and its tables say what its files say."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.refusals import refused

import scorefp as sfp


@pytest.fixture(scope="module")
def scoreflow(example: Callable[[str], ModuleType]) -> ModuleType:
    return example("scoreflow")


def test_variance_about_the_running_mean(scoreflow: ModuleType) -> None:
    """White noise on a slope: the slope is not counted, the noise in full."""
    noise = np.random.default_rng(0).normal(0.0, 2.0, 40_000)
    found = scoreflow.detrended_variance(noise + np.linspace(0.0, 500.0, 40_000))
    assert found == pytest.approx(4.0, rel=0.05)


def test_tables(scoreflow: ModuleType) -> None:
    """From made-up cells in which sub-VP breaks the fifth observation, and LW alone is worse than the baseline."""
    found = {}
    level = {"baseline": 2.0, "LW": 2.5, "LW + IS": 1.0}
    for sde in scoreflow.SDES:
        for row in scoreflow.ROWS:
            parts: dict[str, Any] = {
                "loss_variance_of_last_half": 8.0 if row == "LW" else 2.0,
                "loss_variance_of_final_score": {name: {"variance": 1.0} for name in scoreflow.TIMES},
            }
            for name in scoreflow.DEQUANTISATIONS:
                shift = 0.0 if name == "uniform" else 0.25 if sde == "sub-VP" else -0.25
                nll = level[row] + shift + np.array([-0.1, 0.0, 0.1])
                parts[name] = {"points": {"nll": nll.tolist(), "bound": (nll + 0.5).tolist()}}
            found[sde, row] = [parts, parts]
    # t_{0.975, 2} = 4.303 times the standard error 0.1 / sqrt(3).
    assert "| VP | LW + IS | 1.000 ± 0.248 | 1.500 ± 0.248 | 0.750 ± 0.248 | 1.250 ± 0.248 |" in scoreflow.table(found)
    lines = [line.split("|")[1:-1] for line in scoreflow.observations(found).splitlines()[2:]]
    counts = [tuple(int(cell) for cell in line[2:5]) for line in lines]
    assert counts == [(12, 0, 0), (12, 0, 0), (0, 8, 0), (16, 0, 0), (6, 6, 0)]
    assert "NLL of sub-VP, LW: +0.250 ± 0.000;" in lines[4][1]
    assert lines[0][1].strip() == "nowhere"
    # A difference that its interval does not tell from zero decides nothing.
    for parts in found["VP", "LW"]:
        parts["uniform"]["points"]["nll"] = [1.9, 2.0, 2.2]
    undecided = [line.split("|")[-3:-1] for line in scoreflow.observations(found).splitlines()[2:]]
    half = 4.302653 * np.std([0.0, 0.0, 0.1], ddof=1) / np.sqrt(3)
    spread = f"± {half:.2g}, ± {half:.2g}"
    assert [[word.strip() for word in words] for words in undecided] == [
        *(["0", ""], ["1", spread], ["1", spread], ["0", ""], ["0", ""])
    ]
    assert "| VP | both trainings, last half of the steps, stratified | 8 | 2 | 4 |" in scoreflow.variances(found)


def test_mixture_in_principal_components(scoreflow: ModuleType) -> None:
    """The score to start from is the gradient of a density: a rotation of independent mixtures, plus the noise."""
    levels = np.random.default_rng(0).integers(0, 256, (60, 2, 2)).astype(np.uint8)
    training = sfp.data.Dataset(levels, sfp.data.Quantisation(256, -1.0, 1.0))
    score = scoreflow.ComponentMixture(training, sfp.VP(), width=8, key=jr.key(0))
    centre = 2 * (levels.reshape(60, 4) + 0.5) / 256 - 1
    variances, axes = np.linalg.eigh(np.cov(centre.T) + np.eye(4) * (2 / 256) ** 2 / 12)
    t, x = jnp.asarray(0.1), jr.normal(jr.key(1), (2, 2))
    alpha, sigma = sfp.VP().alpha(t), sfp.VP().sigma(t)

    def log_density(x: jax.Array) -> jax.Array:
        components = (x.reshape(-1) - alpha * centre.mean(axis=0)) @ axes
        stds = [jnp.sqrt(alpha**2 * np.exp(2 * step) * variances + sigma**2) for step in (-1.5, -0.25, 1.0)]
        return jnp.log(sum(jax.scipy.stats.norm.pdf(components, scale=std) for std in stds) / 3).sum()

    want = jax.grad(log_density)(x)
    np.testing.assert_allclose(score(t, x), want, rtol=1e-4, atol=1e-5)
    assert np.abs(want).max() > 0.5


@pytest.mark.slow
def test_it_resumes(scoreflow: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoreflow, "SDES", {"VP": scoreflow.SDES["VP"]})
    monkeypatch.setattr(scoreflow, "ROWS", {row: scoreflow.ROWS[row] for row in ("LW", "LW + IS")})
    command = ["--quick", "--data", "digits", "--seeds", "0", "--out", str(tmp_path), "--cache", str(tmp_path / "c")]
    scoreflow.main(command)
    first, second = (tmp_path / f"digits-vp-{row}-seed0.json" for row in ("lw", "lw-is"))
    before, table = json.loads(first.read_text()), (tmp_path / "digits.md").read_text()
    assert (tmp_path / "importance_sampling.png").exists()
    assert table.count("\n") == 4
    # One cell is gone: it is evaluated again from the models that are kept, and nothing is trained.
    first.unlink()
    kept = second.stat().st_mtime_ns
    for name in ("fitted", "fitted_dequantiser"):
        monkeypatch.delattr(scoreflow, name)
    scoreflow.main(command)
    after = json.loads(first.read_text())
    assert second.stat().st_mtime_ns == kept
    assert (tmp_path / "digits.md").read_text() == table
    for part in ("history", "uniform", "variational", "loss_variance_of_last_half"):
        assert after[part] == before[part]
    refused("made with other settings", scoreflow.main, [*command, "--steps", "100"], error=SystemExit)
