"""The example on MNIST: it runs in its small form, goes on where it stopped, and its tables say what its files say."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.refusals import refused

import scorefp as sfp


@pytest.fixture(scope="module")
def mnist(example: Callable[[str], ModuleType]) -> ModuleType:
    return example("mnist")


@pytest.mark.quick
def test_tables(mnist: ModuleType) -> None:
    """From made-up rows: intervals over images, and differences paired by image."""
    rows = {}
    for i, row in enumerate(mnist.ROWS):
        nll = 1.0 + i + np.array([-0.1, 0.0, 0.1])
        rows[row] = {"points": {"nll": nll.tolist()}, "cpu_seconds": 60.0 * (i + 1)}
        if row in mnist.SCORES:
            rows[row]["points"]["bound"] = (nll + 0.5).tolist()
            rows[row] |= {"steps": 60, "exploded": 0.0, "residual": [0.1, 0.01]}
    rows["mixture"]["chosen"] = [3, "diag", 0.1]
    rows["flow"] |= {"chosen": [5, 512, 0.0], "epochs": 7}
    # t_{0.975, 2} = 4.303 times the standard error 0.1 / sqrt(3).
    assert "| U-Net, DSM | 3.0000 ± 0.2484 | 3.000 | 0.0 % | 3.5000 ± 0.2484 | 0.1 ± 0.01 | 60 | 3.0 |" in mnist.table(
        rows
    )
    assert "| U-Net, then DSM + FP less U-Net, DSM | +1.0000 ± 0.0000 | +1.0000 ± 0.0000 |" in mnist.differences(rows)
    assert "| U-Net, then DSM + FP less Gaussian mixture | +3.0000 ± 0.0000 |  |" in mnist.differences(rows)
    assert "| U-Net, then DSM + FP | 4.00 | 1.33 |" in mnist.training(rows)
    assert "3 components with diag covariance and 0.1 added" in mnist.training(rows)
    assert "5 layers of width 512 and the weight decay 0, and stopped after 7 epochs" in mnist.training(rows)
    # A trajectory that failed has no value.
    rows["fp"]["points"]["nll"][1] = float("nan")
    assert "| U-Net, then DSM + FP | 4.0000 ± 1.2706 |" in mnist.table(rows)


@pytest.mark.quick
@pytest.mark.usefixtures("x64")
def test_logits_have_their_jacobian(mnist: ModuleType) -> None:
    logits = mnist.Logits(sfp.Quantisation(256, -1.0, 1.0))
    x = jnp.array([-0.999, 0.2, 0.9])
    z, log_det = logits(x)
    assert log_det == pytest.approx(float(jnp.linalg.slogdet(jax.jacfwd(lambda x: logits(x)[0])(x))[1]), rel=1e-9)
    np.testing.assert_allclose(jax.nn.sigmoid(z), (x + 1) / 2, atol=2e-6)


@pytest.mark.quick
def test_own_data(mnist: ModuleType, tmp_path: Path) -> None:
    """The whole set as an `.npz` file, and a folder of pictures, of which a tenth is held out."""
    image = pytest.importorskip("PIL.Image")
    levels = np.random.default_rng(0).integers(0, 256, (30, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "mnist.npz", x_train=levels[:20], x_test=levels[20:])
    found = mnist.read_data(tmp_path / "mnist.npz", small=False)
    assert (len(found.training), found.test.shape, found.quantisation.levels) == (20, (1, 8, 8), 256)
    np.testing.assert_array_equal(found.test.values[:, 0], levels[20:])
    (tmp_path / "pictures").mkdir()
    for i, pixels in enumerate(levels):
        image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    found = mnist.read_data(tmp_path / "pictures", small=False)
    assert (len(found.training), len(found.test), found.test.shape) == (27, 3, (1, 8, 8))


@pytest.mark.slow
def test_fine_tuning_goes_on_from_the_checkpoint(mnist: ModuleType, tmp_path: Path) -> None:
    settings = mnist.SMALL
    settings = dataclasses.replace(settings, training=dataclasses.replace(settings.training, steps=8, fine_steps=4))
    experiment = mnist.Experiment(mnist.read_data(None, small=True), settings, 0, tmp_path, tmp_path)
    dsm, seconds = experiment.trained("dsm")
    assert seconds > 0
    fp, _ = experiment.trained("fp")
    assert int(dsm.state.step) == 8
    assert set(fp.history) == {"loss", "DSM", "ScoreFPE", "gradient_norm"}
    # Four small steps from the average of the first training are a small part of the way that it went.
    ways = [
        float(optax.tree.norm(jax.tree.map(jnp.subtract, *(eqx.filter(m, eqx.is_array) for m in pair))))
        for pair in ((fp.model, dsm.model), (dsm.model, experiment.untrained()))
    ]
    assert 0 < ways[0] < ways[1]


@pytest.mark.slow
def test_small_form(mnist: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["--small", "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    mnist.main(command)
    out = tmp_path / "out"
    rows = {row: json.loads((out / f"{row}.json").read_text()) for row in mnist.ROWS}
    assert (out / "samples.png").stat().st_size > 0
    table = (out / "mnist.md").read_text()
    assert table.count("\n") == 2 + len(rows)
    # The control has taken the computing time of the fine-tuning, to a report.
    each = rows["dsm"]["cpu_seconds"] / rows["dsm"]["steps"]
    assert abs(rows["control"]["steps"] * each - rows["fp"]["cpu_seconds"]) <= 2 * each
    assert len(rows["dsm"]["history"]["DSM"]) == rows["dsm"]["steps"] / mnist.SMALL.training.report_every
    assert all(np.isfinite(row["points"]["nll"]).all() for row in rows.values())
    # Nothing is done twice.
    monkeypatch.delattr(mnist.Experiment, "trained")
    monkeypatch.delattr(mnist.Experiment, "picture")
    mnist.main(command)
    assert (out / "mnist.md").read_text() == table
    refused("was made with other settings; remove it", mnist.main, [*command, "--seed", "1"], error=SystemExit)
