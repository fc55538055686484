"""Checkpoints: the same bits back, what stays, what is refused and by which words, and runs that go on."""

import contextlib
import dataclasses
import hashlib
import json
import math
import pickle
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers.kill_training import LABELS, LEVELS, SOURCE, STEPS, model, trained
from helpers.refusals import refused

import scorefp as sfp
from scorefp import data, train
from scorefp._describe import digest, form, settings, unequal
from scorefp.train import CheckpointError, Checkpoints
from scorefp.train._record import digest_of
from scorefp.train.store import Store

SCHEDULE = optax.cosine_decay_schedule(1e-2, STEPS)


def same(one: Any, other: Any) -> bool:
    """Whether two pytrees are equal to the bit, in structure, dtypes and kinds of keys too."""
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False

    def bits(leaf: Any) -> tuple[Any, ...]:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return (str(jr.key_impl(leaf)), *bits(jr.key_data(leaf)))
        return type(leaf), leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()

    return all(bits(a) == bits(b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def tree(seed: int = 0) -> dict[str, Any]:
    """Leaves of every kind that a state may hold."""
    return {
        "params": eqx.filter(eqx.nn.MLP(3, 2, 8, 1, key=jr.key(seed)), eqx.is_array),
        "optimizer": (optax.EmptyState(), [jnp.full((), -0.0), jnp.array([jnp.nan, jnp.inf])]),
        "half": jr.normal(jr.key(seed), (5,), jnp.bfloat16),
        "empty": jnp.zeros((0, 3)),
        "count": jnp.asarray(seed, jnp.int32),
        "host": np.arange(3, dtype=np.float64),
        "keys": (jr.key(seed), jr.key(seed, impl="rbg"), jr.PRNGKey(seed), jr.split(jr.key(seed), 2)),
    }


def listing(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# -------------------------------------------------------------------------------------------------------------- store


@pytest.mark.quick
def test_what_is_restored_is_what_was_saved(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    assert store.latest() is None
    store.save(7, tree(1), {"batches": {"next": [1, 2]}, "configuration": {"a": 0.1}}, {"loss": 0.5})
    arrays, facts = store.restore(tree(0))
    assert same(arrays, tree(1))
    assert not same(arrays, tree(0))
    assert facts == store.facts() == {"batches": {"next": [1, 2]}, "configuration": {"a": 0.1}}
    assert store.steps() == [7]


def test_a_part_is_read_alone(tmp_path: Path) -> None:
    Store(tmp_path).save(1, tree(1), {}, {})
    arrays, _ = Store(tmp_path).restore({"half": tree()["half"]})
    assert same(arrays, {"half": tree(1)["half"]})


@pytest.mark.usefixtures("x64")
def test_double_precision(tmp_path: Path) -> None:
    values = {"x": jr.normal(jr.key(0), (4,), jnp.float64)}
    Store(tmp_path).save(1, values, {}, {})
    assert same(Store(tmp_path).restore(values)[0], values)
    with jax.enable_x64(False), pytest.raises(CheckpointError, match=r"x is float64\[4\], here it is float32\[4\]"):
        Store(tmp_path).restore({"x": jnp.zeros(4)})


def test_the_record_is_plain_json(tmp_path: Path) -> None:
    Store(tmp_path).save(3, tree(), {"note": 1}, {"bits": 2.5})
    content = json.loads((tmp_path / "3" / "facts.json").read_text())["content"]
    assert (content["step"], content["metrics"], content["facts"]) == (3, {"bits": 2.5}, {"note": 1})
    assert {"python", "jax", "jaxlib", "equinox", "optax", "orbax-checkpoint", "grain", "numpy"} <= set(
        content["versions"]
    )
    assert content["versions"]["jax"] == jax.__version__
    assert content["leaves"]["params/layers/0/weight"] == {"shape": [8, 3], "dtype": "float32", "key": None}


@pytest.mark.parametrize(
    ("keep", "best", "metrics", "stay"),
    [
        (2, None, [5.0, 4.0, 3.0, 2.0, 1.0], [4, 5]),
        (2, "bits", [3.0, 1.0, 2.0, 5.0, 4.0], [2, 4, 5]),
        (1, "bits", [float("nan"), 2.0, 2.0, None, float("nan")], [2, 5]),  # the earliest of equals; NaN is no best
        (1, "bits", [3.0, -math.inf, 2.0, math.inf], [3, 4]),  # nor is what is infinite
        (1, "bits", [None, None, None], [3]),
    ],
)
def test_the_last_and_the_best_stay(
    keep: int, best: str | None, metrics: list[float | None], stay: list[int], tmp_path: Path
) -> None:
    for step, value in enumerate(metrics, 1):
        # A new object each time: what it must know stands on the disk.
        Store(tmp_path, keep, best).save(step, {"x": jnp.ones(2)}, {}, {} if value is None else {"bits": value})
    assert Store(tmp_path).steps() == stay
    assert sorted(folder.name for folder in tmp_path.iterdir()) == sorted(map(str, stay))


def test_what_a_killed_process_leaves_is_no_checkpoint_and_goes(tmp_path: Path) -> None:
    store = Store(tmp_path, keep=1)
    store.save(1, tree(1), {}, {})
    shutil.copytree(tmp_path / "1", tmp_path / ".partial-2")  # killed before the last renaming
    shutil.copytree(tmp_path / "1", tmp_path / ".retired-1")  # killed while deleting
    (tmp_path / ".retired-1" / "facts.json").unlink()
    assert store.steps() == [1]
    assert same(store.restore(tree())[0], tree(1))
    store.save(2, tree(2), {}, {})
    assert [folder.name for folder in tmp_path.iterdir()] == ["2"]
    assert same(store.restore(tree())[0], tree(2))


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    """A folder or a file of somebody's own that has the name of a step."""
    store = Store(tmp_path, keep=1)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "thesis.tex").touch()
    (tmp_path / "2").touch()
    for step in (3, 4):
        store.save(step, tree(step), {}, {})
    assert sorted(place.name for place in tmp_path.iterdir()) == ["1", "2", "4"]
    assert (tmp_path / "1" / "thesis.tex").exists()
    assert same(store.restore(tree())[0], tree(4))
    with pytest.raises(CheckpointError, match="2 exists already"):
        store.save(2, tree(2), {}, {})


def test_a_place_that_is_taken_is_no_saved_step(tmp_path: Path) -> None:
    def taken(report: train.Report) -> None:
        (tmp_path / str(report.step)).mkdir()

    settings = {"steps": 4, "report_every": 2, "batch_size": 8, "progress": False}
    x = jr.normal(jr.key(0), (32, 2))
    mine = sfp.NoiseScore(sfp.nn.MLP(shape=(2,), width=4, depth=1, key=jr.key(1)), sfp.VP(), data_std=1.0)
    with pytest.raises(CheckpointError, match="2 exists already"):
        train.fit(
            mine,
            sfp.DSM(),
            x,
            optimizer=optax.sgd(1e-3),
            key=jr.key(2),
            checkpoints=Checkpoints(tmp_path, every=2),
            callbacks=(taken,),
            **settings,
        )


def test_what_json_cannot_hold_is_found_before_anything_is_written(tmp_path: Path) -> None:
    store = Store(tmp_path, keep=1)
    store.save(1, tree(1), {}, {})
    before = listing(tmp_path)
    refused("JSON", store.save, 2, tree(2), {"what": object()}, {}, error=TypeError)
    assert listing(tmp_path) == before


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    Store(tmp_path).save(1, tree(1), {}, {})
    with pytest.raises(CheckpointError, match="1 exists already; a checkpoint is never overwritten"):
        Store(tmp_path).save(1, tree(2), {}, {})


def test_what_is_not_there(tmp_path: Path) -> None:
    refused("none holds no checkpoint", Store(tmp_path / "none").restore, tree(), error=CheckpointError)
    Store(tmp_path).save(1, tree(), {}, {})
    with pytest.raises(CheckpointError, match=r"holds no checkpoint of step 2; there are \[1\]"):
        Store(tmp_path).restore(tree(), step=2)
    refused("keep = 0", Store, tmp_path, keep=0)


def test_orbax_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    refused(r"pip install 'scorefp\[train\]'", Store, tmp_path, error=ImportError)


def test_other_versions_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scorefp.train.store.importlib.metadata.version", lambda name: f"{name} of old")
    Store(tmp_path).save(1, tree(1), {}, {})
    monkeypatch.undo()
    with pytest.warns(UserWarning, match=rf"jax of old, now {jax.__version__}.*need not be the same to the bit"):
        arrays, _ = Store(tmp_path).restore(tree())
    assert same(arrays, tree(1))


# ------------------------------------------------------------------------------------------------------------- damage


def half(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def other(file: Path) -> None:
    file.write_bytes(pickle.dumps({"step": 2}))


@pytest.mark.parametrize("damage", [Path.unlink, half, bit, other])
def test_damage_of_any_file_is_found_and_the_last_good_one_offered(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    run, copy = tmp_path / "run", tmp_path / "copy"
    store = Store(run)
    for step in (1, 2, 3):
        store.save(step, tree(step), {}, {})
    bit(run / "2" / "facts.json")  # not good: not offered
    shutil.copytree(run, copy)
    files = sorted(file.relative_to(run) for file in (run / "3").rglob("*") if file.is_file())
    assert len(files) > 5
    for file in files:
        damage(run / file)
        before = listing(run)
        with pytest.raises(CheckpointError, match=rf"{run}/3 is (damaged|not a checkpoint)") as refused:
            store.restore(tree())
        assert file.name in str(refused.value)
        assert f"The checkpoint of step 1 is good: move {run}/3 aside" in str(refused.value)
        assert listing(run) == before
        assert same(store.restore(tree(), step=1)[0], tree(1))
        shutil.copy(copy / file, run / file)
    assert same(store.restore(tree())[0], tree(3))


def test_damage_of_the_only_one(tmp_path: Path) -> None:
    Store(tmp_path).save(1, tree(), {}, {})
    half(tmp_path / "1" / "facts.json")
    with pytest.raises(
        CheckpointError, match=rf"no good checkpoint before it. .* another folder or move {tmp_path} aside"
    ):
        Store(tmp_path).restore(tree())


def reseal(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Alters the record of a checkpoint as one can who knows how it is made."""
    record = json.loads((folder / "facts.json").read_text())
    change(record)
    record["digest"] = digest_of(record["content"])
    (folder / "facts.json").write_text(json.dumps(record))


class Payload:
    """What runs code when it is unpickled: it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    run, mark = tmp_path / "run", tmp_path / "mark"
    payload = pickle.dumps(Payload(mark))
    seal = hashlib.sha256(payload).hexdigest()
    pickle.loads(payload)
    assert mark.exists()  # the payload works
    mark.unlink()
    arrays = {"x": jnp.ones(3)}
    Store(run).save(1, arrays, {}, {})
    whole = listing(run)
    for name in whole:
        (run / name).write_bytes(payload)
        with pytest.raises(CheckpointError):
            Store(run).restore(arrays)
        if name != "1/facts.json":
            # With a true digest the file is not only compared but read, and orbax makes of it what it can.
            inner = name.removeprefix("1/")
            reseal(run / "1", lambda record, inner=inner: record["content"]["files"].update({inner: seal}))
            with contextlib.suppress(Exception):
                Store(run).restore(arrays)
        assert not mark.exists()
        for name, content in whole.items():
            (run / name).write_bytes(content)


# ------------------------------------------------------------------------------------------------------------ foreign


def test_a_checkpoint_of_something_else(tmp_path: Path) -> None:
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as writer:
        writer.save(tmp_path / "1", {"x": np.ones(3)})
    before = listing(tmp_path)
    refused(rf"{tmp_path}/1 is not a checkpoint of scorefp", Store(tmp_path).restore, tree(), error=CheckpointError)
    (tmp_path / "1" / "facts.json").write_text('{"format": "of somebody"}')
    refused("is not a checkpoint of scorefp", Store(tmp_path).restore, tree(), error=CheckpointError)
    assert listing(tmp_path) == before | {"1/facts.json": b'{"format": "of somebody"}'}


def test_another_version_of_the_format_and_a_renamed_folder(tmp_path: Path) -> None:
    Store(tmp_path).save(1, tree(), {}, {})
    reseal(tmp_path / "1", lambda record: record.update(version=1))
    with pytest.raises(CheckpointError, match="in version 1 of the format; this scorefp reads version 4"):
        Store(tmp_path).restore(tree())
    reseal(tmp_path / "1", lambda record: record.update(version=4))
    (tmp_path / "1").rename(tmp_path / "5")
    refused("5 is damaged: it was saved as step 1", Store(tmp_path).restore, tree(), error=CheckpointError)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"x": jnp.ones(3), "y": jnp.ones(2)}, r"y is not there"),
        ({"x": {"a": jnp.ones(3)}}, r"x/a is not there; x is there, and has no place here"),
        ({"x": jnp.ones((3, 1))}, r"x is float32\[3\], here it is float32\[3, 1\]"),
        ({"x": jnp.ones(3, jnp.int32)}, r"x is float32\[3\], here it is int32\[3\]"),
        ({"k": jr.PRNGKey(0)}, r"k is uint32\[2\] \(a threefry2x32 key\), here it is uint32\[2\]\."),
        ({"k": jr.key(0, impl="rbg")}, r"k is .*here it is uint32\[4\] \(a rbg key\)"),
        ({f"z{i}": jnp.ones(1) for i in range(5)}, r"z0 is not there; z1 .*; z2 is not there; and 2 more\."),
    ],
)
def test_another_architecture(like: Any, message: str, tmp_path: Path) -> None:
    Store(tmp_path).save(1, {"x": jnp.ones(3), "k": jr.key(0)}, {}, {})
    with pytest.raises(CheckpointError, match=f"another architecture, optimizer or precision: {message}"):
        Store(tmp_path).restore(like)


# -------------------------------------------------------------------------------------------------------- description


class Method(eqx.Module):
    size: float
    table: jax.Array
    fn: Callable[..., Any] = eqx.field(static=True)


def tell(value: Any, array: Callable[[Any], Any] = digest) -> Any:
    return settings(value, array)


def test_descriptions_differ_where_values_do() -> None:
    one = Method(1.0, jnp.arange(3), jnp.tanh)
    text = json.dumps(tell(one))
    assert json.loads(text) == tell(one)
    assert " at 0x" not in text
    assert unequal(tell(one), tell(Method(1.0, jnp.arange(3), jnp.tanh))) == ""
    assert unequal(tell(one), tell(dataclasses.replace(one, size=2.0))) == "size was 1.0, is 2.0"
    other = dataclasses.replace(one, table=jnp.arange(3) + 1)
    assert unequal(tell([one]), tell([other])).startswith("[0].table was int32[3] #")
    assert unequal(tell(one, form), tell(other, form)) == ""
    assert "fn was" in unequal(tell(one), tell(dataclasses.replace(one, fn=jnp.sin)))
    assert unequal(tell(one), tell({"size": 1.0})) == "the whole was Method, is None"
    assert unequal([1, 2], [1]) == "the whole was [1, 2], is [1]"
    assert unequal({"a": 1}, {"b": 1}) == "a was 1, is absent; b was absent, is 1"
    assert unequal(list(range(9)), list(range(1, 10))).endswith("[2] was 2, is 3; and 6 more")
    key = jr.key(0)
    assert tell(key) != tell(jr.key(1))
    assert unequal(tell(float("nan")), tell(float("nan"))) == ""


# ---------------------------------------------------------------------------------------------------------------- fit
class Stop(Exception):
    """What a test stops a run with."""


def stop_at(step: int) -> Callable[[train.Report], None]:
    def stop(report: train.Report) -> None:
        if report.step == step:
            raise Stop

    return stop


@pytest.fixture(scope="module")
def uninterrupted() -> train.Run:
    return trained(None)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A folder of a run that was stopped before step 16 was saved."""
    with pytest.raises(Stop):
        trained(tmp_path / "run", callbacks=(stop_at(16),))
    return tmp_path / "run"


@pytest.mark.quick
def test_a_run_that_goes_on_ends_with_the_same_bits(stopped: Path, uninterrupted: train.Run) -> None:
    assert train.saved_steps(stopped)[-2:] == [8, 12]
    with pytest.raises(Stop):  # stopped again, in another epoch
        trained(stopped, callbacks=(stop_at(64),))
    reports: list[train.Report] = []
    run = trained(stopped, callbacks=(reports.append,))
    assert (run.start, reports[0].first, len(run.history["loss"])) == (60, 60, STEPS - 60)
    assert same(run.state, uninterrupted.state)
    for name, values in run.history.items():
        np.testing.assert_array_equal(values, uninterrupted.history[name][60:])
    assert same(eqx.filter(run.averages, eqx.is_array), eqx.filter(uninterrupted.averages, eqx.is_array))
    assert train.saved_steps(stopped)[-2:] == [STEPS - 4, STEPS]
    again = trained(stopped)
    assert same(again.state, uninterrupted.state)
    assert (again.start, {name: len(values) for name, values in again.history.items()}) == (
        STEPS,
        dict.fromkeys(uninterrupted.history, 0),
    )
    refused(r"optimizer\.update_fns", trained, stopped, optimizer=optax.adam(1e-2), error=CheckpointError)


def test_the_best_checkpoint_stays(tmp_path: Path) -> None:
    reports: list[train.Report] = []
    trained(tmp_path, callbacks=(reports.append,), steps=40)
    best = min(reports, key=lambda report: report.metrics["size"])
    assert train.saved_steps(tmp_path) == sorted({best.step, 36, 40})
    assert same_model(train.load(tmp_path, model(3), step=best.step), best.model)


def same_model(one: Any, other: Any) -> bool:
    return same(eqx.filter(one, eqx.is_array), eqx.filter(other, eqx.is_array))


def test_the_models_in_a_checkpoint(tmp_path: Path) -> None:
    run = trained(tmp_path, steps=20)
    like = dataclasses.replace(model(7), data_std=jnp.ones(3))
    assert same_model(train.load(tmp_path, like), run.model)
    assert same_model(train.load(tmp_path, like, average=1), run.averages[1])
    assert same_model(train.load(tmp_path, like, average=None), run.last)
    assert not same_model(run.averages[1], run.model)
    np.testing.assert_array_equal(train.load(tmp_path, like).data_std, jnp.asarray([0.5, 0.6, 0.7]))
    assert train.saved_steps(tmp_path)[-2:] == [16, 20]
    with pytest.raises(CheckpointError, match=r"average = 2; .* holds the averages of the decays \[0\.5, 0\.9\]"):
        train.load(tmp_path, like, average=2)
    refused("holds no checkpoint of step 5", train.load, tmp_path, like, step=5, error=CheckpointError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: dataclasses.replace(m, data_std=0.5), r"data_std.*"),
        (lambda m: dataclasses.replace(m, sde=sfp.VP(t1=0.9)), r"sde\.t1 was 1\.0, is 0\.9"),
        (lambda m: sfp.DenoiserScore(m.network, m.sde, m.data_std), "target was noise_target, is clean_target"),
        (
            lambda m: sfp.NoiseScore(sfp.nn.MLP((3,), width=4, key=jr.key(0)), m.sde, m.data_std),
            r"network/times/weight is not there",
        ),
        (lambda m: eqx.tree_at(lambda m: m.network.dropout.p, m, 0.5), r"network\.dropout\.p was 0\.2, is 0\.5"),
    ],
)
def test_another_model_is_not_loaded(change: Callable[[Any], Any], message: str, stopped: Path) -> None:
    before = listing(stopped)
    refused(message, train.load, stopped, change(model()), error=CheckpointError)
    assert listing(stopped) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": sfp.DSM()}, "loss was Objective, is DSM"),
        (
            {"loss": sfp.DSM() + 0.2 * sfp.ScoreFPE(fraction=0.5)},
            r"loss\.combination\[1\]\[0\] was .*0\.1.*, is .*0\.2",
        ),
        ({"loss": sfp.DSM() + 0.1 * sfp.ScoreFPE(fraction=0.25)}, r"fraction was 0\.5, is 0\.25"),
        ({"batch_size": 32}, "batch_size was 16, is 32"),
        ({"clip": 2.0}, r"clip was 1\.0, is 2\.0"),
        ({"time": sfp.UniformTime()}, "time was UniformLogSNR, is UniformTime"),
        ({"key": jr.key(2)}, "key was uint32"),
        ({"data": data.OnHost(data.Dataset(LEVELS[:40], SOURCE.quantisation))}, "data.samples was 50, is 40"),
        ({"data": SOURCE.load()}, "data was OnHost, is Dataset"),
        ({"model": dataclasses.replace(model(), data_std=jnp.ones(3))}, r"model\.data_std was float32\[3\] #"),
        ({"optimizer": optax.sgd(1e-3)}, r"optimizer\.update_fns was \[scale_by_adam, .*\], is \[identity, scale\]"),
        (
            {"optimizer": optax.adam(SCHEDULE)},
            r"optimizer\.update_fns was \[scale_by_adam, add_decayed_weights, scale_",
        ),
        (
            {"optimizer": optax.adamw(SCHEDULE, weight_decay=0.1)},
            r"optimizer\.update_fns\[1\]\.weight_decay was 0\.0001, is 0\.1",
        ),
        (
            {"optimizer": optax.adamw(optax.cosine_decay_schedule(1e-3, STEPS))},
            r"learning_rate\.init_value was 0\.01, is 0\.001",
        ),
        (
            {"optimizer": optax.adamw(optax.cosine_decay_schedule(1e-2, 2 * STEPS))},
            rf"learning_rate\.decay_steps was {STEPS}.*, is {2 * STEPS}",
        ),
        (
            {"data": data.OnHost(data.Dataset(np.roll(LEVELS, 1), SOURCE.quantisation, LABELS))},
            r"data\.first_samples was 50 samples, sha256 .*, is 50 samples, sha256",
        ),
    ],
)
def test_another_configuration_is_refused(options: Mapping[str, Any], message: str, stopped: Path) -> None:
    before = listing(stopped)
    with pytest.raises(CheckpointError, match=message):
        trained(stopped, **options)
    assert listing(stopped) == before


def test_fine_tuning_starts_from_a_checkpoint_in_another_folder(stopped: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"start from load\('{stopped}', model\) and give a new folder"):
        trained(stopped, loss=sfp.DSM())
    start = train.load(stopped, model())
    tuned = trained(tmp_path / "tuned", model=start, loss=sfp.DSM(), steps=4, optimizer=optax.sgd(0.0))
    assert tuned.start == 0
    assert same_model(tuned.last, start)
    assert train.saved_steps(tmp_path / "tuned") == [4]


def test_a_run_goes_on_before_a_damaged_checkpoint_once_it_is_moved(
    stopped: Path, uninterrupted: train.Run, tmp_path: Path
) -> None:
    half(next(file for file in (stopped / "12").rglob("d/*") if file.is_file()))
    with pytest.raises(CheckpointError, match=rf"{stopped}/12 is damaged.*step 8 is good: move {stopped}/12 aside"):
        trained(stopped)
    (stopped / "12").rename(tmp_path / "aside")
    run = trained(stopped)
    assert run.start == 8
    assert same(run.state, uninterrupted.state)


def test_the_last_good_model_is_offered_when_the_loss_stops_being_finite(tmp_path: Path) -> None:
    optimizer = optax.sgd(lambda count: jnp.where(count < 9, 1e-3, jnp.nan))
    with pytest.raises(FloatingPointError, match=rf"at step 10.*load\('{tmp_path}', model\) gives the model of step 8"):
        trained(tmp_path, optimizer=optimizer)
    assert all(
        np.isfinite(leaf).all() for leaf in jax.tree.leaves(eqx.filter(train.load(tmp_path, model()), eqx.is_array))
    )


def test_settings() -> None:
    refused("every = 0, keep = 3; both are at least 1", Checkpoints, "runs", every=0)
    refused("keep = 0", Checkpoints, "runs", keep=0)
