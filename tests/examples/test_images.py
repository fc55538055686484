"""The example on natural images: it takes every set, its presets lower for GPUs, its table says what its cells say."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.refusals import refused

import scorefp as sfp
from scorefp.train.loop import TrainStep

BYTES = sfp.Quantisation(256, -1.0, 1.0)
LATER = pytest.mark.slow
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def images(example: Callable[[str], ModuleType]) -> ModuleType:
    return example("images")


# ------------------------------------------------------------------------------------------------ presets


@pytest.mark.parametrize(
    ("name", "i"),
    [
        ("scoreflow", 0),
        ("edm", 0),
        pytest.param("scoreflow-subvp", 0, marks=LATER),
        pytest.param("fp", 0, marks=LATER),
        pytest.param("fp", 1, marks=LATER),
        pytest.param("cdm", 0, marks=LATER),
    ],
)
def test_a_full_step_lowers_for_gpus(images: ModuleType, name: str, i: int) -> None:
    """The whole step at full size, from the key of the parameters on, without an array of it."""
    preset, shape = images.PRESETS[name], (3, 32, 32)
    stage = preset.stages[i]

    def step(key: jax.Array, levels: jax.Array) -> Any:
        model = preset.model(shape, 0.5, key=key)
        params, skeleton = eqx.partition(model, model.trained())
        settings = {"dropout": preset.network.dropout > 0, "quantisation": BYTES}
        own = TrainStep(skeleton, stage.loss, stage.optimizer, stage.time, stage.batch_size, (stage.decay,), **settings)
        state, records = own.step(own.init(params, key=key), (levels, None), jnp.asarray(0))
        return state.averages, records

    levels = jax.ShapeDtypeStruct((50_000, *shape), jnp.uint8)
    traced = jax.jit(step).trace(jr.key(0), levels)
    averages, records = traced.out_info
    parts = stage.loss.parts()
    assert len(records) == 2 + len(parts) if len(parts) > 1 else set(records) >= {"loss", "gradient_norm"}
    # The size of the network, 62 and 56 million parameters in the papers, of which this U-Net lacks some projections.
    assert 4e7 < sum(leaf.size for leaf in jax.tree.leaves(averages)) < 6.2e7
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert f"tensor<{stage.batch_size}x3x32x32xf32>" in text
    assert "stablehlo.convolution" in text
    # Nothing in a step goes to the host, or is of another precision.
    assert "callback" not in text
    assert "f64>" not in text


@pytest.mark.quick
def test_networks_fit_their_images(images: ModuleType) -> None:
    """As many resolutions as halving gives, and attention at the first of them that is small enough."""
    network = dataclasses.replace(images.Network(), channels=1, blocks=1)
    for shape, multipliers, attended in (
        ((3, 32, 32), (1, 2, 2, 2), 16),
        ((1, 28, 28), (1, 2, 2), 14),
        ((3, 16, 16), (1, 2, 2, 2), 16),
        ((1, 7, 7), (1,), 7),
    ):
        made = eqx.filter_eval_shape(lambda shape=shape: network.made(shape, key=jr.key(0)))
        sides = [shape[1] // 2**k for k in range(len(multipliers))]
        assert made.multipliers == multipliers
        assert [side for side, row in zip(sides, made.down, strict=True) if row[0].attention is not None] == [attended]


# ------------------------------------------------------------------------------------------------ data


@pytest.mark.quick
def test_every_set_by_one_argument(images: ModuleType, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("skimage")
    pixels, labels = RNG.integers(0, 256, (6, 3, 32, 32), np.uint8), RNG.integers(0, 10, 6)
    rows = np.column_stack([labels, pixels.reshape(6, -1)]).astype(np.uint8)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        rows.tofile(tmp_path / f"{name}.bin")
    for name in (*(f"train_data_batch_{i}" for i in range(1, 11)), "val_data"):
        np.savez(tmp_path / f"{name}.npz", data=pixels.reshape(6, -1), labels=labels + 1)
    for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        (tmp_path / name).write_bytes(np.array([0x803, 18, 32, 32], ">u4").tobytes() + pixels.tobytes())
    (tmp_path / "pictures").mkdir()
    for i in range(20):
        image.fromarray(np.moveaxis(pixels[i % 6], 0, -1)).save(tmp_path / "pictures" / f"{i}.png")
    for chosen, training, test, shape in (
        (f"cifar10={tmp_path}", 30, 6, (3, 32, 32)),
        (f"imagenet32={tmp_path}", 60, 6, (3, 32, 32)),
        (f"idx={tmp_path}", 18, 18, (1, 32, 32)),
        (f"folder={tmp_path / 'pictures'}", 18, 2, (3, 32, 32)),
        ("photographs", 1337, 386, (3, 32, 32)),
    ):
        found = images.read_data(chosen, 32)
        assert (len(found.training), len(found.test), found.test.shape) == (training, test, shape)
        assert found.training.shape == shape
        assert found.test.quantisation == BYTES
    np.testing.assert_array_equal(images.read_data(f"cifar10={tmp_path}", 32).test.values, pixels)
    refused("--data cifar10 needs a place", images.read_data, "cifar10", 32, error=SystemExit)
    refused("--data faces: it is photographs", images.read_data, "faces", 32, error=SystemExit)
    (tmp_path / "train-images-idx3-ubyte.gz").touch()
    refused("has 2 files train-images", images.read_data, f"idx={tmp_path}", 32, error=SystemExit)


@pytest.mark.quick
def test_codecs_of_colours(images: ModuleType) -> None:
    """They give back what they were given; WebP, which transforms colours, sees where all three are one grey."""
    pytest.importorskip("PIL")
    using = {name: images.CODECS[name] for name in images.USED}
    noise = RNG.integers(0, 256, (4, 16, 16, 3), np.uint8)
    for single, mosaic in images.codecs(noise, 2, using).values():
        assert 8 <= mosaic <= single + 1e-9
    _, mosaic = images.codecs(np.repeat(noise[..., :1], 3, axis=-1), 2, using)["WebP, lossless"]
    assert 8 / 3 < mosaic < 3


# ------------------------------------------------------------------------------------------------ tables


@pytest.mark.quick
def test_table(images: ModuleType) -> None:
    """From made-up cells: means over seeds of each image, and intervals over images."""

    def cell(shift: float) -> dict[str, Any]:
        points = {"nll": [3.0 + shift, 4.0, 5.0 - shift], "bound": [3.5, 4.5, 5.5], "code": [4.0, 4.0, 4.0]}
        made = {"exploded": 0.125 * shift, "points": points}
        return {"settings": {"title": "T"}, "cpu_seconds": 60.0, "uniform": made, "variational": made, "points": points}

    codec = {"codecs": {"PNG": [6.0, 5.0]}}
    written = images.table({"codecs": [codec], "scoreflow": [cell(0.0), cell(2.0)], "flow-scoreflow": [cell(0.0)]})
    # Means over seeds 4, 4, 4 for the score; 3, 4, 5 for the flow, with t_{0.975, 2} = 4.303 times 1 / sqrt(3).
    assert "| T | 4.000 ± 0.000 | 4.000 | 12.5 % | 4.500 ± 2.484 | 4.000 ± 0.000 | 1.0 |" in written
    assert "| T, variational | 4.000 ± 0.000 | 4.000 | 12.5 % | 4.500 ± 2.484 |  | 1.0 |" in written
    assert "| flow of flowjax | 4.000 ± 2.484 | 4.000 |  |  |  | 1.0 |" in written
    assert "| PNG, one mosaic |  |  |  |  | 5.000 |  |" in written


def test_the_table_says_what_the_cells_say(images: ModuleType, root: Path, tmp_path: Path) -> None:
    """The table of the documentation is made again from its cells, to the byte and without training."""
    pytest.importorskip("skimage")
    committed, out = root / "docs/assets/images", tmp_path / "images"
    shutil.copytree(committed, out)
    command = ["--small", "--tables-only", "--out", str(out), "--seeds", "0", "1", "2"]
    for size in (32, 16):
        (out / f"photographs-{size}.md").unlink()
        images.main([*command, "--size", str(size)])
        written = (out / f"photographs-{size}.md").read_text(encoding="utf-8")
        assert written == (committed / f"photographs-{size}.md").read_text(encoding="utf-8")
    for path in out.glob("photographs-??-scoreflow-*.json"):
        cell = json.loads(path.read_text(encoding="utf-8"))
        # A bound is one: in the mean it is above the likelihood of its own score's ODE, but for their difference.
        assert np.mean(cell["uniform"]["points"]["code"]) < np.mean(cell["uniform"]["points"]["bound"]) + 0.1
    cell = out / "photographs-16-scoreflow-seed0.json"
    cell.write_text(cell.read_text(encoding="utf-8").replace('"octaves": 6', '"octaves": 5'), encoding="utf-8")
    refused("was made with other settings; remove it", images.main, command, error=SystemExit)


@pytest.mark.quick
def test_presets_beside_each_other(images: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another preset in the same folder has its own flow; what is refused is refused before anything is trained."""
    made: list[tuple[str, str]] = []
    rows = images.data.Dataset(RNG.integers(0, 256, (3, 3, 16, 16), np.uint8), BYTES)
    points = {"nll": [3.0, 4.0], "bound": [3.5, 4.5], "code": [4.0, 4.0]}

    def cell(kind: str) -> Callable[..., dict[str, Any]]:
        def make(self: Any, preset: str, seed: int) -> dict[str, Any]:
            made.append((kind, preset))
            return {"cpu_seconds": 6.0, "points": points, "uniform": {"exploded": 0.0, "points": points}}

        return make

    monkeypatch.setattr(images, "read_data", lambda *of: images.Data("noise", rows, rows))
    monkeypatch.setattr(images.Experiment, "score", cell("score"))
    monkeypatch.setattr(images.Experiment, "density", cell("flow"))
    monkeypatch.setattr(images.Experiment, "written", lambda self: {"codecs": {}})
    command = ["--small", "--seeds", "0", "--out", str(tmp_path), "--presets"]
    for presets in (["scoreflow"], ["edm", "scoreflow"], ["edm"]):
        images.main([*command, *presets])
    assert made == [(kind, preset) for preset in ("scoreflow", "edm") for kind in ("score", "flow")]
    assert "| EDM | 3.500" in (tmp_path / "noise.md").read_text(encoding="utf-8")
    (tmp_path / "noise-edm-seed0.json").unlink()
    flow = tmp_path / "noise-flow-edm-seed0.json"
    flow.write_text(flow.read_text(encoding="utf-8").replace("512", "511"), encoding="utf-8")
    refused("noise-flow-edm-seed0.json was made with other settings", images.main, [*command, "edm"], error=SystemExit)
    assert len(made) == 4


@pytest.mark.slow
def test_it_runs_and_resumes(images: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All presets in a tiny form; a second call trains nothing."""
    pytest.importorskip("skimage")

    def tiny(name: str) -> Any:
        preset = images.small(images.PRESETS[name])
        stages = tuple(dataclasses.replace(each, steps=10, warmup=2, batch_size=8) for each in preset.stages)
        network = dataclasses.replace(preset.network, channels=4, multipliers=(1,), attention=1)
        own = preset.dequantiser and dataclasses.replace(preset.dequantiser, steps=2, batch_size=4, layers=2, width=8)
        return dataclasses.replace(preset, stages=stages, network=network, dequantiser=own)

    presets = ("scoreflow", "fp", "edm", "cdm")
    monkeypatch.setattr(images, "PRESETS", {name: tiny(name) for name in presets})
    monkeypatch.setattr(images, "small", lambda preset, side: preset)
    few = {"points": 8, "columns": 4, "draws": 2, "tolerance": 0.1, "at_once": 8}
    monkeypatch.setattr(images, "SMALL", images.Evaluation(**few))
    monkeypatch.setattr(images, "SMALL_FLOW", images.Flow(sizes=((1, 8),), decays=(0.0,), patience=1))
    command = ["--small", "--seeds", "0", "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    command += ["--presets", *presets]
    images.main(command)
    written = (tmp_path / "out/photographs-16.md").read_text()
    assert written.count("\n") == 2 + 4 + 1 + 1 + 6  # scores, a dequantiser, the flow, codecs
    cells = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")]
    assert len(cells) == 6
    scores = [cell for cell in cells if "uniform" in cell]
    assert all(np.isfinite(cell["uniform"]["points"]["bound"]).all() for cell in scores)
    assert [len(cell["steps"]) for cell in scores if cell["cell"]["row"] == "fp"] == [2]
    monkeypatch.delattr(images.Experiment, "trained")
    images.main(command)
    assert (tmp_path / "out/photographs-16.md").read_text() == written
