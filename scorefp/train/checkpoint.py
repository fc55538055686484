"""Checkpoints of a training run: how often, going on from the last one, and the model in one."""

import contextlib
import logging
from abc import abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import optax

from .._checks import count, path_of, require
from .._describe import JSON, form, settings, unequal
from .._module import AbstractModule
from .._types import Key
from ..data import AbstractSource, Dataset
from ..score import AbstractScore
from ..score.score import require_score
from ._background import Background
from ._configuration import configuration_of
from ._lock import alone
from ._record import reason
from .batches import AbstractBatches
from .loop import TrainState, TrainStep
from .store import CheckpointError, Store

_S = TypeVar("_S", bound=AbstractScore)


class Checkpoints(AbstractModule):
    """The folder of the checkpoints of `fit`, and the steps between them.

    The same call of `fit` made again resumes from the last one, and its parameters are those of an uninterrupted run,
    to the bit. While it trains, a run locks the folder: a second one is refused, and `load` reads concurrently.

    Args:
        path: A folder of this run alone.
        every: How many steps lie between two checkpoints, a multiple of `report_every`; there is one at the end too.
        keep: How many of the last ones are kept.
        best: A number that `evaluate` returns; the checkpoint where it was smallest is kept as well. If it is given,
            `evaluate` is called once before the first step, to see that there is such a number.

    Raises:
        TypeError: if `path` is no path, or a count no integer.
        ValueError: if a count is below one.

    Example:
        >>> import jax, optax, scorefp as sfp, tempfile
        >>> from scorefp import train
        >>> x = jax.random.normal(jax.random.key(0), (256, 2))
        >>> model = sfp.NoiseScore(sfp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(1)), sfp.VP())
        >>> def fitted(folder):  # the same call trains, and resumes
        ...     return train.fit(
        ...         model, sfp.DSM(), x, optimizer=optax.adam(1e-2), steps=20, key=jax.random.key(2), progress=False,
        ...         report_every=10, checkpoints=train.Checkpoints(folder, every=10),
        ...     )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fitted(folder).start, fitted(folder).start, train.saved_steps(folder)
        (0, 20, [10, 20])
    """

    path: str | Path = eqx.field(static=True)
    every: int = eqx.field(static=True, default=1000)
    keep: int = eqx.field(static=True, default=3)
    best: str | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        path_of("path", self.path)
        require(
            self.every >= 1 and self.keep >= 1,
            f"every = {self.every}, keep = {self.keep}; both are at least 1.",
        )


class Begun(NamedTuple):
    """The place where a run begins."""

    state: TrainState
    start: int
    """How many steps are taken."""
    names: Sequence[str] = ()
    """What the history records, as far as a checkpoint says it."""


class AbstractSaver(AbstractModule):
    """The saving of one run, chosen once by `saver`."""

    @abstractmethod
    def alone(self) -> AbstractContextManager[None]:
        """The folder for this run, inside; what is being saved is on disk behind it.

        Raises:
            CheckpointError: if another run has it, it cannot be written to, or the last checkpoint cannot.
        """

    @abstractmethod
    def begun(self, like: TrainState, batches: AbstractBatches, steps: int) -> Begun:
        """The last saved state and the number of its step, with the batches behind it; `like` and 0 if there is none.

        Args:
            like: The state before the first step.
            batches: The batches of the run.
            steps: How many steps the run has in all.

        Raises:
            CheckpointError: if the last checkpoint is damaged or not that of this run.
            ValueError: if it is behind the last step.
        """

    @abstractmethod
    def save(
        self,
        step: int,
        steps: int,
        state: TrainState,
        batches: AbstractBatches,
        metrics: Mapping[str, float],
        names: Sequence[str],
    ) -> None:
        """Begins to write a checkpoint where one is due, unless there is one of this step.

        Args:
            step: How many steps are taken.
            steps: How many there are in all.
            state: The state; it is copied before this returns.
            batches: The batches of the run, behind those of the last step.
            metrics: Numbers measured at this step.
            names: What the history records.

        Raises:
            CheckpointError: if the last one cannot be written.
        """

    @abstractmethod
    def offer(self) -> str:
        """A sentence on the last good model, with a space before it; nothing if nothing was saved."""


class Unsaved(AbstractSaver):
    """A run that saves nothing."""

    def alone(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def begun(self, like: TrainState, batches: AbstractBatches, steps: int) -> Begun:
        return Begun(like, 0)

    def save(
        self,
        step: int,
        steps: int,
        state: TrainState,
        batches: AbstractBatches,
        metrics: Mapping[str, float],
        names: Sequence[str],
    ) -> None:
        pass

    def offer(self) -> str:
        return ""


class Saver(AbstractSaver):
    """Writes the states of one run to a store, and finds the last one.

    Args:
        store: The folder.
        every: How many steps lie between two checkpoints.
        skeleton: The model without its trained arrays.
        configuration: The settings that a resumed run must have in common with the one that wrote.
        saving: The saving that is under way.
    """

    store: Store
    every: int = eqx.field(static=True)
    skeleton: AbstractScore
    configuration: dict[str, JSON] = eqx.field(static=True)
    saving: Background = eqx.field(static=True, default_factory=Background)

    @contextlib.contextmanager
    def alone(self) -> Generator[None, None, None]:
        with alone(self.store.path):
            try:
                yield
                self.saving.settle()
            except BaseException as error:
                if failure := self.saving.left():
                    error.add_note(f"A checkpoint could not be written meanwhile: {reason(failure)}.")
                raise

    def begun(self, like: TrainState, batches: AbstractBatches, steps: int) -> Begun:
        latest = self.store.latest()
        if latest is None:
            return Begun(like, 0)
        arrays, facts = self.store.restore(_packed(like, self.skeleton), step=latest, configuration=self.configuration)
        start, names = int(arrays["loop"]["step"]), facts.get("history")
        if start != latest or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self.store.refused(latest, "is damaged: its facts are not those of a run.")
        require(start <= steps, f"steps = {steps}, and the run was saved at step {start} already; give at least that.")
        try:
            batches.go_to(facts["batches"])
        except Exception as error:  # a place is what a source made of it, and may come from a stranger
            what = f"has a place in the data to which these batches cannot go: {error}"
            raise self.store.refused(latest, what) from error
        averages = tuple(arrays[_average(i)] for i in range(len(like.averages)))
        state = TrainState(arrays["params"], averages, arrays["optimizer"], **arrays["loop"])
        return Begun(state, start, names)

    def save(
        self,
        step: int,
        steps: int,
        state: TrainState,
        batches: AbstractBatches,
        metrics: Mapping[str, float],
        names: Sequence[str],
    ) -> None:
        self.saving.look()
        if not due(step, self.every, steps):
            return
        if self.store.holds(step):
            return
        facts = {
            "configuration": self.configuration,
            "model": settings(self.skeleton, form),
            "batches": batches.place(),
            "history": list(names),
        }
        self.store.begin(step, _packed(state, self.skeleton), facts, metrics, self.saving)

    def offer(self) -> str:
        with contextlib.suppress(CheckpointError):  # it stands beside a worse error
            self.saving.settle()
        step = self.store.latest()
        return "" if step is None else f" load({str(self.store.path)!r}, model) gives the model of step {step}."


def saver(
    checkpoints: Checkpoints | None,
    step: TrainStep,
    optimizer: optax.GradientTransformation,
    data: Dataset | AbstractSource,
    *,
    key: Key,
    clip: float | None,
) -> AbstractSaver:
    """The saver of a run.

    Args:
        checkpoints: The settings; with `None` nothing is saved.
        step: The step of the run.
        optimizer: The optimizer, as it was given.
        data: The data of the training.
        key: The key of the run.
        clip: The largest norm of a gradient.
    """
    if checkpoints is None:
        return Unsaved()
    configuration, unseen = configuration_of(step, optimizer, data, key=key, clip=clip)
    if unseen and jax.process_index() == 0:
        logging.getLogger("scorefp").warning(
            "checkpoints: a run that goes on is not compared in %s; change nothing there.", ", ".join(unseen)
        )
    store = Store(checkpoints.path, checkpoints.keep, checkpoints.best)
    return Saver(store, checkpoints.every, step.skeleton, configuration)


def due(taken: int, every: int, steps: int) -> bool:
    """Whether an event of every `every` steps, and of the last one, is due after `taken` steps."""
    return taken % every == 0 or taken == steps


def load(path: str | Path, like: _S, *, step: int | None = None, average: int | None = 0) -> _S:
    """The model in a checkpoint of `fit`.

    Every array of `like` is replaced by the one that was saved, `data_std`, bound `args` and the arrays of the SDE
    among them. What is not an array, such as a number `data_std`, is not loaded but compared: the model was trained
    with it. Loading runs no code from the file. It may run beside the training: where the last checkpoint is deleted
    while it is read, the next one is taken.

    Args:
        path: The folder that was given to `Checkpoints`.
        like: A model built as for that run, with any parameters.
        step: The step of the checkpoint; `None` is the last.
        average: The number of the average of the parameters; `None` is the parameters of the last step.

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
    require_score(like, "like")
    step = None if step is None else count("step", step, least=0)
    average = None if average is None else count("average", average, least=0)
    params, skeleton = eqx.partition(like, like.trained())
    part = "params" if average is None else _average(average)

    def read(step: int) -> _S:
        facts = store.facts(step)
        configuration = facts.get("configuration")
        decays = configuration.get("decay") if isinstance(configuration, dict) else None
        if not isinstance(decays, list) or "model" not in facts:
            raise store.refused(step, "is damaged: its facts are not those of a run.")
        if average is not None and not 0 <= average < len(decays):
            raise CheckpointError(f"average = {average}; {store.path} holds the averages of the decays {decays}.")
        arrays, _ = store.restore({part: params, "fixed": _fixed(skeleton)}, step=step)
        unlike = unequal(facts["model"], settings(skeleton, form))
        if unlike:
            raise CheckpointError(f"{store.path} was saved from another model: {unlike}. Build `like` as for that run.")
        return eqx.combine(arrays[part], arrays["fixed"], skeleton)

    return store.steadily(read, step)


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
    """The content of a checkpoint, in parts that can be read one by one."""
    averages = {_average(i): average for i, average in enumerate(state.averages)}
    loop = {"step": state.step, "key": state.key}
    return averages | {"params": state.params, "optimizer": state.optimizer, "loop": loop, "fixed": _fixed(skeleton)}
