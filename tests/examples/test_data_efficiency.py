"""What the comparison by number of samples learns from, its network for photographs, and the cells that it refuses."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import scorefp as sfp


@pytest.fixture
def module(example: Callable[[str], ModuleType]) -> ModuleType:
    return example("data_efficiency")


def test_patches_held_back_are_of_a_photograph_that_is_not_learnt_from(module: ModuleType) -> None:
    source = sfp.data.photographs("train", size=8, labels=True)
    every = np.asarray(module.cosines(source).values)
    every = (every - every.mean(axis=0)) / every.std(axis=0)

    def names(x: np.ndarray) -> list[bytes]:
        """Their coarsest coefficients of one colour; noise inside the levels makes each patch another."""
        return [part.astype(np.float32).round(2).tobytes() for part in x[:, 0, :3, :3]]

    of = dict(zip(names(every), np.asarray(source.args).tolist(), strict=True))
    held_back, rows, test = (np.asarray(part.values) for part in module.photographs(1, 1000))
    assert (len(held_back), len(rows)) == (200, 800)
    # A few are rounded to the other side.
    for part, photographs in ((held_back, {1}), (rows, {0, 2, 3, 4})):
        found = [of[name] for name in names(part) if name in of]
        assert set(found) == photographs
        assert len(found) > 0.9 * len(part)
    assert not set(names(test)) & set(of)
    # With more samples these are among them.
    np.testing.assert_array_equal(module.photographs(1, 2000)[0].values[:200], held_back)


def head_of(images: np.ndarray) -> bytes:
    return np.array([0x0803, *images.shape], ">u4").tobytes()


def test_the_whole_mnist_is_read_from_its_files(module: ModuleType, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (270, 28, 28), np.uint8)
    for name, part in {"train": images[:200], "t10k": images[200:]}.items():
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(head_of(part) + part.tobytes())
    (name, problem), *_ = module.whole_mnist(tmp_path).items()
    held_back, rows, test = problem.parts(0, 100)
    assert (len(held_back), len(rows), rows.shape) == (20, 80, (784,))
    learnt, chosen, tested = ({np.asarray(row).tobytes() for row in part.values} for part in (rows, held_back, test))
    known, others = ({image.tobytes() for image in part} for part in (images[:200], images[200:]))
    assert learnt < known
    assert chosen < known
    assert tested < others
    assert not learnt & chosen
    # Cells of other images are other files.
    (tmp_path / "train-images-idx3-ubyte").write_bytes(head_of(images[1:200]) + images[1:200].tobytes())
    assert name not in module.whole_mnist(tmp_path)


def test_the_mixture_starts_as_the_score_of_three_normal_laws(module: ModuleType) -> None:
    sde, x, t = sfp.VP(), jnp.asarray([0.3, -2.0, 0.01, 5.0]), jnp.asarray(0.3)
    stds = sde.alpha(t) * jnp.exp(jnp.asarray([-1.5, -0.25, 1.0]))

    def log_prob(x: jax.Array) -> jax.Array:
        variances = stds**2 + sde.sigma(t) ** 2
        laws = -0.5 * x[:, None] ** 2 / variances - 0.5 * jnp.log(variances)
        return jnp.sum(jax.nn.logsumexp(laws, axis=1))

    found = module.Coefficients(4, sde, 8, jr.key(0))(t, x)
    np.testing.assert_allclose(found, jax.grad(log_prob)(x), rtol=1e-4)


def test_cells_of_another_problem_are_refused(
    module: ModuleType, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = "digits-dsm-100-seed0.json"
    shutil.copy(root / "docs/assets/data_efficiency" / cell, tmp_path / cell)
    monkeypatch.setattr(module._cells, "save_figure", lambda *of: None)
    options = ["--tables-only", "--problems", "digits", "--out", str(tmp_path)]
    module.main(options)
    for change in ({"width": 64}, {"sde": sfp.VP(t0=1e-3)}, {"every": 50}):
        monkeypatch.setitem(module.PROBLEMS, "digits", dataclasses.replace(module.PROBLEMS["digits"], **change))
        with pytest.raises(SystemExit, match="made with other settings"):
            module.main(options)
        monkeypatch.undo()
        monkeypatch.setattr(module._cells, "save_figure", lambda *of: None)
