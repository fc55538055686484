"""Checkpoints of a training run: how often, going on from the last one, and the model in one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
from jaxtyping import Array

from .._checks import require
from .._module import AbstractModule
from ..data import AbstractRows, AbstractSource, Dataset
from ..score import AbstractScore
from .describe import JSON, described, unequal
from .loop import TrainState
from .step import TrainStep, split
from .store import CheckpointError, Store

_S = TypeVar("_S", bound=AbstractScore)


class Checkpoints(AbstractModule):
    """Where and how often `fit` writes checkpoints.

    The same call of `fit` made again goes on from the last one, and its parameters are those of a run that was never
    stopped, to the bit.

    Args:
        path: A folder of this run alone.
        every: How many steps lie between two checkpoints, a multiple of `report_every`; there is one at the end too.
        keep: How many of the last ones stay.
        best: A number that `evaluate` returns; the checkpoint where it was smallest stays as well.

    Raises:
        ValueError: if a count is below one.
    """

    path: str | Path = eqx.field(static=True)
    every: int = eqx.field(static=True, default=1000)
    keep: int = eqx.field(static=True, default=3)
    best: str | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        require(
            self.every >= 1 and self.keep >= 1,
            f"every = {self.every}, keep = {self.keep}; both are at least 1.",
        )


class Saver(AbstractModule):
    """Writes the states of one run, and finds the last one.

    Args:
        store: The folder.
        skeleton: The model without its trained arrays.
        configuration: What a run that goes on must have in common with the one that wrote.
    """

    store: Store
    skeleton: AbstractScore
    configuration: dict[str, JSON] = eqx.field(static=True)

    def save(self, state: TrainState, feed: Mapping[str, JSON], metrics: Mapping[str, float]) -> None:
        """Writes a checkpoint, unless there is one of this step.

        Args:
            state: The state; every process holds all of it.
            feed: Where the reading of the data stands.
            metrics: Numbers measured at this step.
        """
        step = int(state.step)
        if step in self.store.steps():
            return
        facts = {
            "configuration": self.configuration,
            "model": described(self.skeleton, contents=False),
            "feed": dict(feed),
        }
        self.store.save(step, _packed(state, self.skeleton), facts, metrics)

    def resume(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The last state with where the reading of the data stood; `None` if nothing was saved.

        Args:
            like: The state before the first step.

        Raises:
            CheckpointError: if the last checkpoint is damaged or not that of this run.
        """
        if self.store.latest() is None:
            return None
        arrays, facts = self.store.restore(_packed(like, self.skeleton), configuration=self.configuration)
        state = TrainState(
            params=arrays["params"],
            averages=tuple(arrays[_average(i)] for i in range(len(like.averages))),
            optimizer=arrays["optimizer"],
            step=arrays["loop"]["step"],
            key=arrays["loop"]["key"],
        )
        return state, facts["feed"]

    def offer(self) -> str:
        """A sentence on the last good model, with a space before it; nothing if nothing was saved."""
        step = self.store.latest()
        return "" if step is None else f" load({str(self.store.path)!r}, model) gives the model of step {step}."


def saver(
    checkpoints: Checkpoints,
    step: TrainStep,
    like: TrainState,
    data: Dataset | AbstractSource | Array,
    clip: float | None,
) -> Saver:
    """What `fit` saves with.

    Args:
        checkpoints: The settings.
        step: The step of the run.
        like: The state before the first step.
        data: What is trained on.
        clip: The largest norm of a gradient.
    """
    configuration = {
        "model": described(step.skeleton),
        "loss": described(step.objective),
        "time": described(step.time),
        "batch_size": step.batch_size,
        "decay": list(step.decays),
        "clip": clip,
        "accumulate": step.accumulate,
        "dropout": step.dropout,
        "key": described(like.key),
        "data": _described_data(data),
    }
    store = Store(checkpoints.path, checkpoints.keep, checkpoints.best)
    return Saver(store, step.skeleton, configuration)


def load(path: str | Path, like: _S, *, step: int | None = None, average: int | None = 0) -> _S:
    """The model in a checkpoint of `fit`.

    Every array of `like` is replaced by the one that was saved, `data_std`, bound `args` and the arrays of the SDE
    among them. What is not an array, such as a number `data_std`, is not loaded but compared: the model was trained
    with it. Loading runs no code from the file.

    Args:
        path: The folder that was given to `Checkpoints`.
        like: A model built as for that run, with any parameters.
        step: Which checkpoint; `None` is the last.
        average: Which average of the parameters; `None` is those of the last step.

    Raises:
        CheckpointError: if there is no such checkpoint, it is damaged or not of this library, or `like` is another
            model.
        ImportError: if orbax is not installed.

    Example:
        >>> import jax, optax, scorefp as sfp, tempfile
        >>> from scorefp import train
        >>> x = jax.random.normal(jax.random.key(0), (256, 2))
        >>> def model(seed):
        ...     return sfp.NoiseScore(sfp.nn.MLP(shape=(2,), width=16, key=jax.random.key(seed)), sfp.VP())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = train.fit(
        ...         model(1), sfp.DSM(), x, optimizer=optax.adam(1e-2), steps=20, key=jax.random.key(2),
        ...         progress=False, report_every=10, checkpoints=train.Checkpoints(folder, every=10),
        ...     )
        ...     steps, loaded = train.saved_steps(folder), train.load(folder, model(7))
        >>> steps, bool((loaded(0.5, x[0]) == run.model(0.5, x[0])).all())
        ([10, 20], True)
    """
    store = Store(path)
    params, skeleton = split(like)
    part = "params" if average is None else _average(average)
    facts = store.facts(step)
    decays = facts["configuration"]["decay"]
    if average is not None and not 0 <= average < len(decays):
        raise CheckpointError(f"average = {average}; {store.path} holds the averages of the decays {decays}.")
    arrays, _ = store.restore({part: params, "fixed": _fixed(skeleton)}, step=step)
    unlike = unequal(facts["model"], described(skeleton, contents=False))
    if unlike:
        raise CheckpointError(f"{store.path} was saved from another model: {unlike}. Build `like` as for that run.")
    return eqx.combine(arrays[part], arrays["fixed"], skeleton)


def saved_steps(path: str | Path) -> list[int]:
    """The steps with a checkpoint in a folder, in rising order.

    Args:
        path: The folder that was given to `Checkpoints`.

    Example:
        >>> from scorefp import train
        >>> train.saved_steps("runs/none")
        []
    """
    return Store(path).steps()


def _average(index: int) -> str:
    return f"average {index}"


def _fixed(skeleton: AbstractScore) -> AbstractScore:
    """The arrays of a model that are not trained."""
    return eqx.filter(skeleton, eqx.is_array)


def _packed(state: TrainState, skeleton: AbstractScore) -> dict[str, Any]:
    """What a checkpoint holds, in parts that can be read one by one."""
    averages = {_average(i): average for i, average in enumerate(state.averages)}
    loop = {"step": state.step, "key": state.key}
    return averages | {"params": state.params, "optimizer": state.optimizer, "loop": loop, "fixed": _fixed(skeleton)}


def _described_data(data: Dataset | AbstractSource | Array) -> JSON:
    """Data in memory by their entries; of a source what does not depend on where it lies."""
    if not isinstance(data, AbstractSource):
        return described(data)
    found = {"class": type(data).__qualname__, "shape": list(data.shape), "quantisation": described(data.quantisation)}
    return found | ({"samples": len(data)} if isinstance(data, AbstractRows) else {})
