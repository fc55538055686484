"""What a run that goes on notices, and what it says that it cannot: optimizers, functions, objects and sources."""

import functools
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers.kill_training import LABELS, LEVELS, SOURCE
from helpers.refusals import refused

import scorefp as sfp
from scorefp import data, train
from scorefp._describe import unequal
from scorefp.train._configuration import _Look, _of_data  # pyright: ignore[reportPrivateUsage]

PLAIN = data.OnHost(data.Dataset(LEVELS, SOURCE.quantisation))


def seen(value: Any) -> Any:
    look = _Look()
    found = look(value, "it")
    assert look.unseen == []
    return found


class Schedule:
    """A callable object."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, count: Any) -> Any:
        return self.rate

    def method(self, count: Any) -> Any:
        return self.rate

    @functools.cached_property
    def computed(self) -> float:
        return 2 * self.rate


def closed(rate: float) -> Callable[..., Any]:
    return lambda count: rate / (1 + count)


def default(rate: float) -> Callable[..., Any]:
    def schedule(count: Any, rate: float = rate) -> Any:
        return rate

    return schedule


RATE = 0.1


def of_module(count: Any) -> Any:
    return RATE * count


SAME: dict[str, Callable[[Any], Any]] = {
    "adam": optax.adam,
    "adamw": lambda rate: optax.adamw(1e-3, weight_decay=rate),
    "sgd with momentum": lambda rate: optax.sgd(1e-3, momentum=rate),
    "adagrad's start": lambda rate: optax.adagrad(1e-3, initial_accumulator_value=rate),
    "hyperparameters that are injected": lambda rate: optax.inject_hyperparams(optax.adam)(rate),
    "a schedule": lambda rate: optax.adam(optax.cosine_decay_schedule(rate, 10)),
    "the length of a schedule": lambda rate: optax.adam(optax.cosine_decay_schedule(1e-3, int(1000 * rate))),
    "a schedule in parts": lambda rate: optax.adam(
        optax.join_schedules([optax.linear_schedule(0.0, rate, 5), optax.constant_schedule(rate)], [5])
    ),
    "a chain": lambda rate: optax.chain(optax.clip(1.0), optax.adam(rate)),
    "several": lambda rate: optax.MultiSteps(optax.adam(rate), 4),
    "by label": lambda rate: optax.multi_transform({"a": optax.sgd(rate), "b": optax.set_to_zero()}, lambda p: p),
    "muon": lambda rate: optax.contrib.muon(rate),
    "lbfgs": lambda rate: optax.lbfgs(rate),
    "a function": closed,
    "a default": default,
    "a partial": lambda rate: functools.partial(optax.cosine_decay_schedule, rate),
    "an object": Schedule,
    "its method": lambda rate: Schedule(rate).method,
    "an object within": lambda rate: optax.sgd(Schedule(rate)),
    "jit": lambda rate: jax.jit(closed(rate)),
    "a set": lambda rate: {"a", "b", "c", rate},
    "an array": lambda rate: closed(jnp.asarray([rate, 1.0])),
}


@pytest.mark.parametrize("name", SAME)
def test_a_number_inside_is_seen(name: str) -> None:
    """Two that are made alike are equal, another number is found."""
    make = SAME[name]
    one, again, other = seen(make(0.1)), seen(make(0.1)), seen(make(0.2))
    assert json.loads(json.dumps(one)) == one
    assert unequal(one, again) == ""
    assert unequal(one, other) != ""


def test_constants_and_globals_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seen(lambda t: 0.1 * t) != seen(lambda t: 0.2 * t)
    assert seen(lambda t: t > 10) != seen(lambda t: t > 15)
    # A global of the name of an attribute is another thing.
    monkeypatch.setitem(of_module.__globals__, "sigma", 1.0)
    weighting = lambda sde, t: sde.sigma(t) ** 2
    named = seen(weighting)
    monkeypatch.setitem(of_module.__globals__, "sigma", 2.0)
    assert seen(weighting) == named
    before = seen(of_module)
    monkeypatch.setitem(of_module.__globals__, "RATE", 0.2)
    assert unequal(before, seen(of_module)) == "RATE was 0.1, is 0.2"


def test_what_a_function_or_an_object_makes_itself_is_no_setting() -> None:
    calls = 0

    def counted(count: Any) -> Any:
        nonlocal calls
        calls += 1
        return RATE

    before = seen(counted)
    counted(0)
    assert calls == 1
    assert seen(counted) == before
    schedule, used = Schedule(0.1), Schedule(0.1)
    assert used.computed == 0.2
    assert seen(schedule) == seen(used)
    # Optax makes floats of the integers of a schedule when it is called.
    cosine = optax.cosine_decay_schedule(1e-3, 100)
    before = seen(cosine)
    cosine(jnp.asarray(3))
    assert unequal(before, seen(cosine)) == ""


def test_itself_within_and_many_and_deep() -> None:
    loop = Schedule(0.1)
    loop.rate = loop  # type: ignore
    assert seen(loop) == {"type": "Schedule", "rate": "itself"}
    nested: Any = 0
    for _ in range(200):
        nested = [nested]
    for large in (list(range(30_000)), nested):
        look = _Look()
        json.dumps(look([large, [large]], "it"))
        assert look.unseen
        assert all(part.startswith("a part of it") for part in look.unseen)


@pytest.mark.slow
def test_it_is_the_same_in_another_process(tmp_path: Path, root: Path) -> None:
    code = (
        "import json; from helpers.kill_training import *; from scorefp.train._configuration import _Look\n"
        "import sys; from train_test_resume import SAME\n"
        "print(json.dumps({n: _Look()(m(0.1), n) for n, m in SAME.items()} | {'m': _Look()([model(), LOSS], 'm')}))"
    )
    (tmp_path / "train_test_resume.py").write_text(Path(__file__).read_text())
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(map(str, (root, root / "tests", tmp_path))), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1
    assert " at 0x" not in texts.pop()


def test_sources() -> None:
    told = _of_data(SOURCE)
    values = LEVELS.astype(np.float32) / 7
    floats = lambda x=values, **options: _of_data(data.OnHost(data.Dataset(x, **options)))
    assert told == _of_data(data.OnHost(data.Dataset(LEVELS.copy(), SOURCE.quantisation, LABELS.copy())))
    other = LEVELS.copy()
    other[3, 0] = (other[3, 0] + 1) % 8
    quantised = lambda x, labels: _of_data(data.OnHost(data.Dataset(x, SOURCE.quantisation, labels)))
    assert "first_samples was" in unequal(told, quantised(other, LABELS))
    assert "first_samples was" in unequal(told, quantised(LEVELS, LABELS + 1))
    interval = floats(interval=data.Interval(0.0, 1.0))
    assert "interval" in unequal(interval, floats())
    assert "interval.high was 1.0, is 2.0" in unequal(interval, floats(interval=data.Interval(0.0, 2.0)))
    # Of many samples the first ones.
    many = np.random.default_rng(0).normal(size=(1000, 3))
    late, early = many.copy(), many.copy()
    late[999], early[0] = 0.0, 0.0
    assert floats(many) == floats(late)
    assert floats(many) != floats(early)
    assert floats(many)["first_samples"].startswith("64 samples")
    # About a million bytes of them at most.
    assert floats(np.ones((20, 100_000)))["first_samples"].startswith("1 samples")


def fitted(folder: Path, **options: Any) -> train.Run:
    model = sfp.NoiseScore(sfp.nn.MLP((3,), width=8, depth=1, key=jr.key(1)), sfp.VP(), data_std=0.6)
    settings = {"model": model, "loss": sfp.DSM(), "data": PLAIN, "steps": 4, "optimizer": optax.adam(1e-3)}
    settings |= {"key": jr.key(0), "batch_size": 10, "report_every": 2, "progress": False}
    return train.fit(**(settings | options), checkpoints=train.Checkpoints(folder, every=2))


def test_a_weighting_that_is_an_object(tmp_path: Path) -> None:
    class Power:
        def __init__(self, power: float) -> None:
            self.power = power

        def __call__(self, sde: Any, t: Any) -> Any:
            return sde.sigma(t) ** self.power

    fitted(tmp_path, loss=sfp.DSM(Power(2.0)))
    message = r"loss\.weighting\.power was 2\.0, is 1\.0"
    refused(message, fitted, tmp_path, loss=sfp.DSM(Power(1.0)), error=train.CheckpointError)
    assert fitted(tmp_path, loss=sfp.DSM(Power(2.0)), steps=6).start == 4


def test_what_cannot_be_seen_is_said_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draws = np.random.default_rng(0)
    schedule = lambda count: 1e-3 if draws else 2e-3
    numbers = data.Loader([LEVELS], shape=(3,), quantisation=SOURCE.quantisation)
    with caplog.at_level(logging.WARNING, logger="scorefp"):
        fitted(tmp_path / "seen")
        assert caplog.records == []
        fitted(tmp_path / "unseen", optimizer=optax.adam(schedule), data=numbers)
    assert len(caplog.records) == 1
    text = caplog.text
    assert "not compared in optimizer." in text
    assert "draws, a Generator, what the Loader reads; change nothing there" in text
    with caplog.at_level(logging.WARNING, logger="scorefp"):
        assert fitted(tmp_path / "unseen", optimizer=optax.adam(schedule), data=numbers, steps=6).start == 4


def test_another_version_of_optax_may_call_its_numbers_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted(tmp_path)
    versions = sys.modules["scorefp.train.store"]._versions()
    monkeypatch.setattr("scorefp.train.store._versions", lambda: versions | {"optax": "9.9"})
    with pytest.warns(UserWarning, match=r"optax .*, now 9\.9.*; its optimizer was not compared"):
        assert fitted(tmp_path, optimizer=optax.adam(1e-2), steps=6).start == 4
    with pytest.raises(train.CheckpointError, match="clip was"):
        fitted(tmp_path, clip=2.0, steps=8)


def test_a_finished_run_called_again(tmp_path: Path) -> None:
    first = fitted(tmp_path)
    again = fitted(tmp_path)
    assert again.start == 4
    assert {name: values.shape for name, values in again.history.items()} == dict.fromkeys(first.history, (0,))
    assert list(again.history) == list(first.history)
    assert np.isnan(again.seconds_per_step)
    for one, other in zip(*map(jax.tree.leaves, (first.model, again.model)), strict=True):
        np.testing.assert_array_equal(one, other)
    refused("update_fns", fitted, tmp_path, optimizer=optax.adam(1e-2), error=train.CheckpointError)
    refused("steps = 2, and the run was saved at step 4 already", fitted, tmp_path, steps=2)


def test_a_misspelt_best_is_found_before_the_first_step(tmp_path: Path) -> None:
    evaluated, reports = list[int](), list[train.Report]()

    def evaluate(score: Any) -> dict[str, float]:
        evaluated.append(1)
        return {"size": float(len(evaluated))}

    model = sfp.NoiseScore(sfp.nn.MLP((3,), width=8, depth=1, key=jr.key(1)), sfp.VP(), data_std=0.6)
    run = lambda best: train.fit(
        model,
        sfp.DSM(),
        PLAIN,
        optimizer=optax.adam(1e-3),
        steps=4,
        key=jr.key(0),
        batch_size=10,
        report_every=2,
        evaluate=evaluate,
        evaluate_every=2,
        callbacks=(reports.append,),
        checkpoints=train.Checkpoints(tmp_path / "run", every=2, best=best),
        progress=False,
    )
    refused(r'best = "sizes" is not among the numbers of evaluate, \[\'size\'\]; name one', run, "sizes")
    assert (len(evaluated), reports, list((tmp_path / "run").iterdir())) == (1, [], [])
    run("size")
    assert len(evaluated) == 1 + 1 + 2
    assert [report.metrics["size"] for report in reports] == [3.0, 4.0]
