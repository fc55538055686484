"""Callbacks: nothing that was written is lost, and an evaluation compiles once."""

import csv
import os
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers.refusals import refused

import scorefp as sfp
from scorefp import train
from scorefp.data import Dataset
from scorefp.diagnostics import Ensemble, Likelihood, MatchingCurve, ResidualCurve
from scorefp.train import Report

pytestmark = pytest.mark.quick

OPTIMIZER = optax.adam(1e-3)
MODEL = sfp.Score(lambda t, x: -x, sfp.VP())


def report(first: int, step: int, last: int = 1000, **metrics: float) -> Report:
    return Report(step, last, first, {"loss": step / 7, **metrics}, {"loss": np.zeros(step - first)}, MODEL)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_grows_by_rows_that_hold_every_bit(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "metrics.csv"
    log = train.CSVLog(path)
    for step in (100, 200, 300):
        log(report(step - 100, step, **{"FixedPoint(DSM), twice": float("nan")}))
    assert [int(row["step"]) for row in rows(path)] == [100, 200, 300]
    assert [float(row["loss"]) for row in rows(path)] == [100 / 7, 200 / 7, 300 / 7]
    assert all(row["FixedPoint(DSM), twice"] == "nan" for row in rows(path))


def test_a_metric_that_comes_later_gets_a_column(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    log = train.CSVLog(path)
    log(report(0, 100))
    log(report(100, 200, bits=2.5))
    log(report(200, 300))
    log(report(300, 400, bits=2.25, gap=1.0))
    assert [row["bits"] for row in rows(path)] == ["", "2.5", "", "2.25"]
    assert [row["gap"] for row in rows(path)] == ["", "", "", "1.0"]
    assert [float(row["loss"]) for row in rows(path)] == [100 / 7, 200 / 7, 300 / 7, 400 / 7]


@pytest.mark.parametrize("torn", ["", "400,57.14", "400"])
def test_a_resumed_run_goes_on_in_the_table(tmp_path: Path, torn: str) -> None:
    """Rows that it reports again are replaced, one that the machine did not finish is dropped, the others stay."""
    path = tmp_path / "metrics.csv"
    first = train.CSVLog(path)
    for step in (100, 200, 300):
        first(report(step - 100, step, bits=float(step)))
    with path.open("a") as file:
        file.write(torn)
    before = path.read_text().splitlines()
    second = train.CSVLog(path)
    second(report(200, 300))
    second(report(300, 400))
    after = path.read_text().splitlines()
    assert after[:3] == before[:3]
    assert after[3:] == [f"300,{300 / 7!r},", f"400,{400 / 7!r},"]
    train.CSVLog(path)(report(0, 100))
    assert path.read_text() == f"step,loss\n100,{100 / 7!r}\n"
    assert os.listdir(tmp_path) == ["metrics.csv"]


def test_a_process_that_dies_leaves_the_old_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.csv"
    train.CSVLog(path)(report(0, 100))
    before = path.read_text()

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", dies)
        with pytest.raises(KeyboardInterrupt):
            train.CSVLog(path)(report(100, 200))
    assert path.read_text() == before
    train.CSVLog(path)(report(100, 200))
    assert path.read_text().startswith(before)
    assert len(rows(path)) == 2


@pytest.mark.parametrize("text", ["x,y\n1,2\n", "step,loss\n1\n", "step,loss\nfirst,2\n", "one line", "\x00\xff\n"])
def test_a_table_of_something_else_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.csv"
    path.write_text(text, encoding="latin-1")
    refused(r"results\.csv exists and is no table of CSVLog, .* Choose another path", train.CSVLog, path)
    assert path.read_text(encoding="latin-1") == text


def events(folder: Path) -> Iterator[Any]:
    """The records of TensorBoard's files in the order of their names: a length, a checksum, the event, a checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_tensorboard_sees_every_metric(tmp_path: Path) -> None:
    log = train.TensorBoard(tmp_path)
    log(report(0, 100, **{"likelihood/bits_per_dim": 2.5}))
    log(report(100, 200, 200))
    scalars = [
        (e.summary.value[0].tag, e.step, e.summary.value[0].simple_value) for e in events(tmp_path) if e.summary.value
    ]
    assert scalars == [
        ("loss", 100, pytest.approx(100 / 7)),
        ("likelihood/bits_per_dim", 100, 2.5),
        ("loss", 200, pytest.approx(200 / 7)),
    ]


def test_tensorboard_hides_what_is_reported_again(tmp_path: Path) -> None:
    """Within one second, too: the first files stay, and the last one says from which step on it counts."""
    for first in (0, 200):
        log = train.TensorBoard(tmp_path)
        for step in (first + 100, first + 200, first + 300):
            log(report(step - 100, step, first + 300))
    assert len(os.listdir(tmp_path)) == 2
    steps = [e.step for e in events(tmp_path) if e.summary.value]
    assert steps == [100, 200, 300, 300, 400, 500]
    starts = [e.step for e in events(tmp_path) if e.HasField("session_log")]
    assert starts == [1, 201]


def test_tensorboard_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    refused(r"pip install 'scorefp\[train\]'", train.TensorBoard, tmp_path, error=ImportError)


def test_audits_of_one_run_compile_once() -> None:
    traces = 0

    class Linear(eqx.Module):
        slope: jax.Array

        def __call__(self, t: jax.Array, x: jax.Array) -> jax.Array:
            nonlocal traces
            traces += 1
            return -self.slope * x

    levels = Dataset(jr.randint(jr.key(0), (40, 2), 0, 4), sfp.Quantisation(4, -1.0, 1.0))
    few = Ensemble(times=3, samples=8)
    measures = (Likelihood(samples=8), MatchingCurve(few), ResidualCurve(ensemble=few), MatchingCurve(few))
    evaluate = train.audit_on(levels, key=jr.key(1), measures=measures)
    first = evaluate(sfp.Score(Linear(jnp.asarray(1.0)), sfp.VP()))
    once = traces
    again = evaluate(sfp.Score(Linear(jnp.asarray(1.0)), sfp.VP()))
    other = evaluate(sfp.Score(Linear(jnp.asarray(1.1)), sfp.VP()))
    assert once > 0
    assert traces == once
    assert first == again
    assert all(type(value) is float for value in first.values())
    differ = [name for name in first if first[name] != other[name]]
    assert {"likelihood/bits_per_dim", "matching/r_DSM", "matching 2/r_DSM", "residual/r_FP"} <= set(differ)
    audit = sfp.audit(sfp.Score(Linear(jnp.asarray(1.0)), sfp.VP()), levels, key=jr.key(1), measures=measures)
    assert first["residual/r_FP"] == audit["residual"].numbers["r_FP"].value


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool) -> str:
    """What a run of three reports writes on the console."""
    for name, value in {"FORCE_COLOR": "1" if terminal else "", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    model = sfp.NoiseScore(sfp.nn.MLP((2,), width=8, depth=1, key=jr.key(0)), sfp.VP())
    train.fit(
        model,
        sfp.DSM() + 0.1 * sfp.TimeDerivativeTaming(),
        jnp.zeros((64, 2)),
        optimizer=OPTIMIZER,
        steps=30,
        key=jr.key(1),
        batch_size=32,
        mesh=sfp.data_mesh(),
        report_every=10,
    )
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(monkeypatch, capsys, terminal=True)
    assert text.startswith("devices: 1  samples a step: 32  at a time on each: 32\n")
    assert "30/30" in text
    assert "━━━" in text
    assert re.search(r"loss \S+  DSM \S+  TimeDerivativeTaming \S+", text)


def test_a_file_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The first report and the last, if those between come within seconds."""
    _, first, last = shown(monkeypatch, capsys, terminal=False).splitlines()
    assert re.fullmatch(r"10/30  loss \S+  DSM \S+  TimeDerivativeTaming \S+  \S+ steps/s", first)
    assert last.startswith("30/30  loss ")
    monkeypatch.setattr("scorefp._console._SECONDS_BETWEEN_LINES", 0.0)
    assert len(shown(monkeypatch, capsys, terminal=False).splitlines()) == 4


def test_the_table_of_a_run_that_was_stopped_is_that_of_one_that_was_not(tmp_path: Path) -> None:
    model = sfp.NoiseScore(sfp.nn.MLP((2,), width=8, depth=1, key=jr.key(0)), sfp.VP())
    x = jr.normal(jr.key(1), (64, 2))

    def run(name: str, *callbacks: Any) -> None:
        train.fit(
            model,
            sfp.DSM(),
            x,
            optimizer=OPTIMIZER,
            steps=40,
            key=jr.key(2),
            batch_size=32,
            checkpoints=train.Checkpoints(tmp_path / name, every=20),
            evaluate=lambda score: {"largest": float(jnp.abs(score(0.5, x[0])).max())},
            evaluate_every=20,
            callbacks=(train.CSVLog(tmp_path / f"{name}.csv"), *callbacks),
            report_every=10,
            progress=False,
        )

    def stop(report: Report) -> None:
        if report.step == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("stopped", stop)
    assert [row["step"] for row in rows(tmp_path / "stopped.csv")] == ["10", "20", "30"]
    run("stopped")
    run("whole")
    stopped, whole = rows(tmp_path / "stopped.csv"), rows(tmp_path / "whole.csv")
    for row in (*stopped, *whole):
        assert float(row.pop("seconds_per_step")) > 0
    assert stopped == whole
    assert [row["step"] for row in whole] == ["10", "20", "30", "40"]
    assert [row["largest"] != "" for row in whole] == [False, True, False, True]
    assert list(whole[0]) == ["step", "loss", "DSM", "gradient_norm", "largest"]
