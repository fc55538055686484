"""Samples to a file: those of one go, in the memory of a batch, and on from wherever it stopped."""

import json
import os
import re
import signal
import subprocess
import sys
import time as clock
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import scorefp as sfp
from scorefp import data
from scorefp.data import to_file
from scorefp.sampling import draw

N, BATCH = 23, 5
LABELS = np.arange(N) % 3


class Labelled(eqx.Module):
    mlp: sfp.nn.MLP
    table: jax.Array
    shape: tuple[int, ...] = eqx.field(default=(2,), static=True)

    def __call__(self, t: jax.Array, x: jax.Array, *, args: Any) -> jax.Array:
        return self.mlp(t, x + self.table[args])


def score(seed: int = 0) -> sfp.score.AbstractScore:
    mlp = sfp.nn.MLP((2,), width=8, depth=1, key=jr.key(seed))
    return sfp.NoiseScore(Labelled(mlp, jr.normal(jr.key(seed + 1), (3, 2))), sfp.VP())


SETTINGS: dict[str, Any] = {"key": jr.key(3), "method": sfp.EulerMaruyama(8), "args": LABELS}


def written(path: Path, n: int = N, model: Any = None, **settings: Any) -> np.ndarray:
    model = score() if model is None else model
    options = SETTINGS | {"batch_size": BATCH, "progress": False} | settings
    assert data.sample_to(path, model, n, **options) == path
    return np.load(path)


def stopped(monkeypatch: pytest.MonkeyPatch, path: Path, after: int, **settings: Any) -> None:
    """A call that is interrupted after so many batches."""
    rows, batches = draw.Draws.rows, list[int]()

    def counted(self: Any, first: Any, *rest: Any) -> Any:
        if len(batches) == after:
            raise KeyboardInterrupt
        batches.append(int(first))
        return rows(self, first, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(draw.Draws, "rows", counted)
        patch.setattr(to_file, "_form", lambda draws, size: jax.ShapeDtypeStruct((size, 2), jnp.float32))
        with pytest.raises(KeyboardInterrupt):
            written(path, **settings)


def firsts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first samples of the batches that are drawn from now on."""
    rows, seen = draw.Draws.rows, list[int]()

    def noted(self: Any, first: Any, *rest: Any) -> Any:
        if not isinstance(first, int):
            seen.append(int(first))
        return rows(self, first, *rest)

    monkeypatch.setattr(draw.Draws, "rows", noted)
    return seen


def test_the_samples_of_one_go(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.npy"
    x = written(path)
    np.testing.assert_allclose(x, sfp.sample(score(), N, **SETTINGS), rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(written(tmp_path / "again.npy"), x)
    assert sorted(os.listdir(path.parent)) == ["x.npy", "x.npy.json"]
    assert data.read_arrays(path).shape == (2,)
    assert abs(written(tmp_path / "other.npy", key=jr.key(4)) - x).max() > 0.1


@pytest.mark.parametrize("batch_size", [BATCH, 7])
def test_it_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int) -> None:
    """Also after a stop in the middle of a batch, to the bit with the same batches."""
    whole, path = written(tmp_path / "whole.npy"), tmp_path / "x.npy"
    stopped(monkeypatch, path, after=2)
    partial = tmp_path / "x.npy.partial"
    assert not path.exists()
    assert json.loads((tmp_path / "x.npy.json").read_text())["finished"] == 2 * BATCH
    with partial.open("ab") as file:
        file.write(b"half of a batch")
    first = partial.read_bytes()
    seen = firsts(monkeypatch)
    x = written(path, batch_size=batch_size)
    assert seen == [10, 15, 20] if batch_size == BATCH else [10, 16, 22]
    assert path.read_bytes().startswith(first[: -len(b"half of a batch")])
    if batch_size == BATCH:
        np.testing.assert_array_equal(x, whole)
    np.testing.assert_allclose(x, whole, rtol=2e-5, atol=2e-6)
    assert not partial.exists()
    seen.clear()
    np.testing.assert_array_equal(written(path), x)
    assert seen == []


def test_a_stop_before_the_last_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All samples are drawn, and the file has not its name yet: nothing is drawn again."""
    whole, path, replace = written(tmp_path / "whole.npy"), tmp_path / "x.npy", os.replace

    def interrupted(source: Any, target: Any) -> None:
        if target == path:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            written(path)
    assert not path.exists()
    seen = firsts(monkeypatch)
    np.testing.assert_array_equal(written(path), whole)
    assert seen == []


def test_one_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the form of a batch, for all batches, the last one too; going on compiles nothing."""
    path, forms = tmp_path / "x.npy", list[Any]()
    batches = draw.in_batches

    def traced(fn: Any, count: int, *rest: Any) -> Any:
        forms.append(count)
        return batches(fn, count, *rest)

    monkeypatch.setattr(draw, "in_batches", traced)
    method = sfp.EulerMaruyama(11)  # of no other test, whose programs are kept
    stopped(monkeypatch, path, after=2, method=method)
    assert forms == [BATCH]
    written(path, method=method)
    assert forms in ([BATCH], [BATCH, BATCH])  # the second one for the form of the samples alone


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "key": ({"key": jr.key(5)}, r"key was uint32\[2\] #\w+, is uint32\[2\]"),
    "n": ({"n": N + 1, "args": np.arange(N + 1) % 3}, r"n was 23, is 24"),
    "method": ({"method": sfp.EulerMaruyama(9)}, r"method.steps was 8, is 9"),
    "sampler": ({"method": sfp.Heun(8)}, r"method was EulerMaruyama, is Heun"),
    "score": ({"model": score(1)}, r"score.network.mlp.\S+ was float32"),
    "args": ({"args": LABELS[::-1]}, r"args was int64\[23\] #\w+, is"),
    "dtype": ({"dtype": jnp.float16}, r"dtype was float32, is float16"),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one file that is whole and one under way."""
    folder = tmp_path_factory.mktemp("begun")
    written(folder / "whole.npy")
    with pytest.MonkeyPatch.context() as patch:
        stopped(patch, folder / "begun.npy", after=1)
    return folder


@pytest.mark.parametrize("other", OTHERS)
def test_other_settings_are_refused(begun: Path, other: str) -> None:
    settings, message = OTHERS[other]
    held = {file.name: file.read_bytes() for file in begun.iterdir()}
    for name in ("whole.npy", "begun.npy"):
        with pytest.raises(ValueError, match=rf"{name} are made with other settings: .*{message}"):
            written(begun / name, **settings)
    assert {file.name: file.read_bytes() for file in begun.iterdir()} == held


def test_another_score_behind_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a function closes over is not seen; what it gives is."""

    def closed(factor: float) -> Any:
        return sfp.Score(lambda t, x: -factor * x, sfp.VP(), shape=(2,))

    path = tmp_path / "x.npy"
    stopped(monkeypatch, path, after=1, model=closed(1.0), args=None)
    with pytest.raises(ValueError, match=r"x\.npy are made with another score: at one point its mean"):
        written(path, model=closed(1.1), args=None)
    assert written(path, model=closed(1.0), args=None).shape == (N, 2)


def alter(path: Path, text: str) -> Callable[[], object]:
    return lambda: path.write_text(text)


def test_files_that_are_not_its_own_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npy"
    partial, record = tmp_path / "x.npy.partial", tmp_path / "x.npy.json"

    def refused(error: type[Exception], message: str) -> None:
        held = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        with pytest.raises(error, match=message):
            written(path)
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == held

    path.write_text("mine")
    refused(FileExistsError, r"x\.npy exists, and no x\.npy\.json says how it was made")
    path.rename(partial)
    refused(FileExistsError, r"x\.npy\.partial exists, and no x\.npy\.json says")
    partial.unlink()
    stopped(monkeypatch, path, after=2)
    path.write_text("mine")
    refused(FileExistsError, r"x\.npy exists, though only 10 of 23 of its samples are drawn so far")
    path.unlink()
    whole = partial.read_bytes()
    partial.write_bytes(whole[:-1])
    refused(ValueError, r"x\.npy\.partial is damaged: it holds \d+ bytes, too few for the 10 samples")
    partial.write_bytes(whole)
    good = record.read_text()
    for bad in ("{", "[]", "{}", good.replace('"finished": 10', '"finished": 99')):
        record.write_text(bad)
        refused(ValueError, r"x\.npy\.json is damaged")
    record.write_text(good)
    assert np.isfinite(written(path)).all()
    path.unlink()  # the samples are gone with the file: they are drawn anew
    assert np.isfinite(written(path)).all()


def test_a_second_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, said = draw.Draws.rows, list[str]()

    def with_another(self: Any, *rest: Any) -> Any:
        if not said and not isinstance(rest[0], int):
            said.append("")
            with pytest.raises(BlockingIOError, match=r"x\.npy is taken: another process writes it") as caught:
                written(tmp_path / "x.npy")
            said.append(str(caught.value))
        return rows(self, *rest)

    monkeypatch.setattr(draw.Draws, "rows", with_another)
    assert written(tmp_path / "x.npy").shape == (N, 2)
    assert len(said) == 2


def test_failed_samples_are_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of batches before a stop too, and those of a file that is whole."""
    model = sfp.Score(lambda t, x: jnp.where(x[0] > 0.5, jnp.nan, -x), sfp.VP(), shape=(2,))
    settings = {"model": model, "args": None}
    with pytest.warns(UserWarning, match=r"of 23 samples failed") as caught:
        sfp.sample(model, N, key=SETTINGS["key"], method=SETTINGS["method"])
    message, path = str(caught[0].message), tmp_path / "x.npy"
    stopped(monkeypatch, path, after=3, **settings)
    for _ in range(2):
        with pytest.warns(UserWarning, match="of 23 samples failed") as caught:
            written(path, **settings)
        assert [str(warning.message) for warning in caught] == [message]
    with pytest.raises(RuntimeError, match="of 23 samples failed"):
        written(path, throw=True, **settings)


def test_progress_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "x.npy", progress=True)
    assert re.fullmatch(r"5/23  \S+ samples/s\n23/23  \S+ samples/s\n", capsys.readouterr().out)
    written(tmp_path / "x.npy", progress=True)
    written(tmp_path / "y.npy")
    assert capsys.readouterr().out == ""


def test_samples_have_a_dtype_that_files_have(tmp_path: Path) -> None:
    assert written(tmp_path / "half.npy", dtype=jnp.float16).dtype == np.float16
    with pytest.raises(ValueError, match=r"dtype = bfloat16, which \.npy files do not have"):
        written(tmp_path / "x.npy", dtype=jnp.bfloat16)
    with pytest.raises(ValueError, match=r"whose name ends with \.npy"):
        written(tmp_path / "x.npz")
    assert [file.name for file in tmp_path.glob("x*")] == []


KILLED = """
import sys
sys.path.insert(0, {folder!r})
from pathlib import Path
from test_to_file import written
written(Path(sys.argv[1]), n=60, args=None, model=__import__("test_to_file").slow())
"""


def slow() -> sfp.score.AbstractScore:
    return sfp.Score(lambda t, x: -jnp.tanh(x), sfp.VP(), shape=(2,))


@pytest.mark.slow
def test_kills_lose_nothing_that_is_finished(tmp_path: Path) -> None:
    whole, path = written(tmp_path / "whole.npy", n=60, args=None, model=slow()), tmp_path / "x.npy"
    record, finished, kills = tmp_path / "x.npy.json", 0, 0
    command = [sys.executable, "-c", KILLED.format(folder=str(Path(__file__).parent)), str(path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    while not path.exists():
        process = subprocess.Popen(command, env=environment)
        while process.poll() is None:
            if record.exists() and json.loads(record.read_text())["finished"] >= finished + 3 * BATCH:
                process.send_signal(signal.SIGKILL)
                break
            clock.sleep(0.001)
        kills += process.wait() == -signal.SIGKILL
        now = json.loads(record.read_text())["finished"]
        assert now >= finished
        finished = now
        if not path.exists():
            assert (tmp_path / "x.npy.partial").exists()
    assert kills > 0
    np.testing.assert_array_equal(written(path, n=60, args=None, model=slow()), whole)


def test_inside_of_jit_it_is_refused(tmp_path: Path) -> None:
    score = sfp.Score(lambda t, x: -x, sfp.VP(), shape=(2,))

    def drawn(key: jax.Array) -> int:
        data.sample_to(tmp_path / "x.npy", score, 4, key=key, method=sfp.DPMSolver(1), progress=False)
        return 0

    with pytest.raises(ValueError, match="sample_to is called inside jit, vmap or grad"):
        jax.jit(drawn)(jr.key(0))
    assert not list(tmp_path.iterdir())
