"""Training in one call."""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import ArrayLike, Float

from .._checks import count, fitting_samples, flag, function, kind, number, positive, random_key, require
from .._describe import name_of
from .._devices import Shard, check_shard, copied, laid, local, per_device_batch, require_mesh
from .._module import AbstractModule
from .._types import Key, MaybeNaN
from ..data import AbstractSource
from ..dataset import Dataset
from ..dataset.dataset import as_dataset
from ..integrals import AbstractTimeSampler, UniformLogSNR
from ..objective import AbstractObjective
from ..score import AbstractScore
from ..score.score import require_score
from ._advice import warn_of_dropout, warn_of_null, warn_of_scale, warn_of_ties
from .batches import batches_of
from .checkpoint import Checkpoints, due, saver
from .labels import LabelDropout, fitting
from .loop import Span, TrainState, TrainStep, check_optimizer, spans, whole
from .report import Console, Model_co, Report

_S = TypeVar("_S", bound=AbstractScore)


class Run(AbstractModule, Generic[Model_co]):
    """The result of a training run.

    Args:
        model: The model with averaged parameters, of the first decay; this is the one to use.
        averages: The model with the averaged parameters of each decay.
        last: The model with the parameters of the last step.
        history: The loss, each of its terms and the norm of the gradient, at every step since `start`.
        start: The first step of the history: 0, or where a checkpoint was gone on from. Of a run that had ended before
            it is the number of its steps, and the history is empty.
        seconds_per_step: The median over the reports after the first, which holds the compilation; NaN if there was
            only one.
        state: The state after the last step.
    """

    model: Model_co
    averages: tuple[Model_co, ...]
    last: Model_co
    history: dict[str, Float[np.ndarray, " steps"]]
    start: int
    seconds_per_step: MaybeNaN
    state: TrainState


def fit(
    model: _S,
    loss: AbstractObjective,
    data: Dataset | AbstractSource | Float[ArrayLike, "n *event"],
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    key: Key,
    batch_size: int = 128,
    time: AbstractTimeSampler = UniformLogSNR(),
    decay: float | Sequence[float] = 0.999,
    clip: float | None = 1.0,
    accumulate: int = 1,
    dropout: bool = False,
    label_dropout: LabelDropout | None = None,
    mesh: Mesh | None = None,
    shard: Shard = "batch",
    checkpoints: Checkpoints | None = None,
    evaluate: Callable[[_S], Mapping[str, float]] | None = None,
    evaluate_every: int = 1000,
    callbacks: Sequence[Callable[[Report[_S]], None]] = (),
    progress: bool = True,
    report_every: int = 100,
) -> Run[_S]:
    """Minimises an objective over the arrays of a score.

    Steps run on the device, and every `report_every` of them the losses come to the host, are checked and reported;
    in between nothing is copied to the host. The step is compiled once, whatever `steps`, the coefficients of the loss
    and the key; another call with the same `optimizer` object and the same shapes compiles nothing new.

    A `Dataset` or an array is held on the device, and a batch is drawn from it with replacement. A source is read on
    the host, every sample once an epoch, while the device computes.

    To fine-tune, give the model of another run, or one that `load` returns, with another loss.

    Args:
        model: The score to train.
        loss: The objective to minimise, such as `DSM() + 0.5 * ScoreFPE()`.
        data: A data set, a source, or an array of clean samples stacked along the first axis.
        optimizer: An optax optimizer; its learning rate may be a schedule.
        steps: The number of steps, those before a checkpoint included.
        key: A random key; the same key gives the same run.
        batch_size: Samples a step, over all devices.
        time: The law of times.
        decay: The decay of the average of the parameters, or several, one for each average.
        clip: The largest global norm of a gradient; `None` does not clip.
        accumulate: In how many parts a batch is gone through, one after another; the gradient is their mean.
        dropout: Whether the model takes a random key.
        label_dropout: The share of the samples that is trained without its conditioning, and what stands in its place,
            for guidance without a classifier; `None` leaves out nothing.
        mesh: The devices that share a batch, as `data_mesh` returns them; `None` is one device.
        shard: What the devices share: the `"batch"`, with the parameters on each of them; or the `"parameters"` as
            well, with their averages and the state of the optimizer, for a network that does not fit on one device. The
            models of the run and of its reports are in shares then; `gathered` puts one together. Of several processes
            all compute with them or none: in `evaluate`, not in a callback.
        checkpoints: The folder and the steps of saved states; if there is a checkpoint, the run resumes from the last
            one, and ends with the same bits as if it had never stopped. `None` saves nothing.
        evaluate: Called with the averaged model; the numbers it returns go into the report. `audit_on` makes one.
        evaluate_every: How many steps lie between two evaluations; there is one at the end as well.
        callbacks: Called in turn with every report, on the first process only. What one raises ends the run.
        progress: Whether to show a progress bar; where the console is no terminal, a line now and then.
        report_every: How many steps lie between two reports.

    Returns:
        The trained model and the history.

    Raises:
        TypeError: if an argument is of another kind (a bare network, an integer for `key`, a float for `steps`), the
            data are not floats and have no quantisation, the SDE has no Gaussian kernel, or the null of `label_dropout`
            has another structure or dtype than the conditioning.
        ValueError: if the data hold NaN or samples of another shape than the model's, `batch_size` exceeds the data or
            does not divide into `accumulate` parts among the devices, the data have no conditioning for `label_dropout`
            or its null has another shape, `shard` is another word or there is no mesh for it, an interval is no
            multiple of `report_every`, or there is nothing to train.
        CheckpointError: if the last checkpoint is damaged or is not one of this run, another run has the folder, or a
            checkpoint cannot be written.
        FloatingPointError: if the loss, its gradient, the parameters or the optimizer's state stop being finite; it
            names the step and the terms or arrays. What is not finite is never saved, reported or returned.

    Warns:
        UserWarning: if the root mean square of the data is more than three times away from `data_std` of the model, or
            more than a third of the largest noise of the process; if the network has dropout and `dropout` is false,
            or one of `scorefp.nn` has none and `dropout` is true; if the null of `label_dropout` is the conditioning of
            some samples of a data set; if one array stands in the model in several places, which training makes
            different.

    Example:
        >>> import jax, optax, scorefp as sfp
        >>> from scorefp import train
        >>> x = jax.random.normal(jax.random.key(0), (256, 2))
        >>> model = sfp.NoiseScore(sfp.nn.MLP(shape=(2,), width=16, key=jax.random.key(1)), sfp.VP())
        >>> run = train.fit(
        ...     model, sfp.DSM(), x, optimizer=optax.adam(1e-2), steps=100, key=jax.random.key(2), progress=False
        ... )
        >>> bool(run.history["loss"][-20:].mean() < run.history["loss"][:20].mean())
        True
    """
    require_score(model, "model")
    check_optimizer(optimizer)
    check_shard(shard, require_mesh(mesh))
    key = random_key("fit", key)
    steps, batch_size = count("steps", steps, 1), count("batch_size", batch_size, 1)
    report_every, evaluate_every = count("report_every", report_every, 1), count("evaluate_every", evaluate_every, 1)
    flag("dropout", dropout)
    flag("progress", progress)
    _check_kinds(loss, time, clip, label_dropout, checkpoints, evaluate, callbacks)
    _check_intervals(report_every, evaluate, evaluate_every, checkpoints)
    decays = _decays(decay)
    data = data if isinstance(data, AbstractSource) else as_dataset(data)
    fitting_samples("data", data.shape, model.shape)
    params, skeleton = _parted(model)
    batches = batches_of(data, batch_size, min(report_every, steps), mesh, key=key)
    step = TrainStep(
        skeleton,
        loss,
        _clipped(optimizer, clip),
        time,
        batch_size,
        decays,
        dropout=dropout,
        accumulate=accumulate,
        mesh=mesh,
        pick=batches.pick,
        quantisation=batches.levels,
        shard=shard,
        label_dropout=None if label_dropout is None else fitting(label_dropout, batches.args),
    )
    first_process, seen = jax.process_index() == 0, list[Span]()
    if first_process:
        warn_of_scale(model, batches.scale)
        warn_of_dropout(model, dropout)
        warn_of_null(None if step.label_dropout is None else step.label_dropout.null, data)
        warn_of_ties(params)
    saves = saver(checkpoints, step, optimizer, data, key=key, clip=clip)
    with saves.alone():
        state, start, names = saves.begun(step.init(params, key=key), batches, steps)
        if evaluate is not None and start < steps:
            _check_best(checkpoints, evaluate, model)
        step, state = laid((step, state), mesh, shard)

        def model_of(params: Any) -> _S:
            if shard == "parameters":
                return eqx.combine(copied(params), step.skeleton)
            return eqx.combine(local(params), skeleton)

        def blamed(at: int) -> list[str]:
            # The state at that step is gone with its buffers. At the first one it is this.
            first = step.init(params, key=key)
            first = eqx.tree_at(lambda first: first.step, first, jnp.full_like(first.step, at))
            try:
                return step.without_gradient(laid(first, mesh, shard), batches.take(1))
            except Exception:  # nothing may hide the error that this is a part of
                return []

        run = spans(
            step.step,
            state,
            batches,
            start=start,
            steps=steps,
            report_every=report_every,
            saved=saves.offer,
            blamed=blamed,
        )
        with Console(start, steps, heading=_heading(step), shown=progress and first_process) as console:
            for state, span in run:
                seen.append(span)
                averaged = model_of(state.averages[0])
                metrics = {name: float(values.mean()) for name, values in span.history.items()}
                metrics["seconds_per_step"] = span.seconds_per_step
                if evaluate is not None and due(span.stop, evaluate_every, steps):
                    metrics |= {name: float(value) for name, value in _numbers(evaluate(averaged)).items()}
                console(span)
                for callback in callbacks if first_process else ():
                    callback(Report(span.stop, steps, span.first, metrics, span.history, averaged))
                saves.save(span.stop, steps, state, batches, metrics, [*span.history])

    averages, last = tuple(model_of(average) for average in state.averages), model_of(state.params)
    history, seconds_per_step = whole(seen, names)
    return Run(averages[0], averages, last, history, start, seconds_per_step, state)


def _check_kinds(
    loss: Any, time: Any, clip: Any, label_dropout: Any, checkpoints: Any, evaluate: Any, callbacks: Any
) -> None:
    """Refuses arguments of `fit` that are of another kind."""
    kind("loss", loss, AbstractObjective)
    kind("time", time, AbstractTimeSampler)
    remedy = "It is scorefp.train.LabelDropout(share, null), or None."
    kind("label_dropout", label_dropout, (LabelDropout, NoneType), remedy)
    if clip is not None:
        positive("clip", clip)  # None leaves gradients alone
    kind("checkpoints", checkpoints, (Checkpoints, NoneType), "It is scorefp.train.Checkpoints(folder), or None.")
    for callback in kind("callbacks", callbacks, Sequence, "It is a sequence of functions of a Report."):
        function("callbacks", callback, "report", "Each of them takes a Report.")
    if evaluate is not None:
        function("evaluate", evaluate, "model", "It returns numbers by name, as what audit_on makes does.")


def _decays(decay: float | Sequence[float]) -> tuple[float, ...]:
    """The decays, one for each average."""
    decays = tuple(decay) if isinstance(decay, Sequence) else (decay,)
    fine = len(decays) > 0 and all(0 <= number("decay", d) < 1 for d in decays)
    require(fine, f"decay = {decay}; a decay lies in [0, 1).")
    return decays


def _parted(model: _S) -> tuple[Any, _S]:
    """The trained arrays of a model, refused where there are none, and the model without them."""
    params, skeleton = eqx.partition(model, model.trained())
    if not jax.tree.leaves(params):
        raise ValueError(
            f"model is a {name_of(model)} without floating arrays to train; "
            "a function that closes over its weights hides them: make it an equinox.Module. A torch module is trained "
            "by torch."
        )
    return params, skeleton


@functools.lru_cache(maxsize=64)
def _clipped(optimizer: optax.GradientTransformation, clip: float | None) -> optax.GradientTransformation:
    """The optimizer behind a clip, the same object for the same two, so that another `fit` compiles nothing new."""
    if clip is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(clip), optimizer)


def _heading(step: TrainStep) -> str:
    """How a batch is shared, where it is."""
    if step.mesh is None:
        return ""
    each = per_device_batch(step.batch_size, step.mesh, step.accumulate)
    return f"devices: {step.mesh.size}  samples a step: {step.batch_size}  at a time on each: {each}"


def _numbers(value: Any) -> Mapping[str, float]:
    """What `evaluate` returns, refused unless it is numbers by name."""
    return kind("the value of evaluate", value, Mapping, "It is numbers by name, such as {'bits_per_dim': 3.1}.")


def _check_best(checkpoints: Checkpoints | None, evaluate: Callable[[_S], Mapping[str, float]], model: _S) -> None:
    """Refuses a best number that there is not, before anything is trained."""
    if checkpoints is not None and checkpoints.best is not None:
        numbers = sorted(_numbers(evaluate(model)))
        require(
            checkpoints.best in numbers,
            f'checkpoints.best = "{checkpoints.best}" is not among the numbers of evaluate, {numbers}; name one.',
        )


def _check_intervals(
    report_every: int,
    evaluate: Callable[[Any], Mapping[str, float]] | None,
    evaluate_every: int,
    checkpoints: Checkpoints | None,
) -> None:
    """Refuses intervals that do not fit into each other."""

    def check_multiple(name: str, every: int, unit: str, count: int) -> None:
        require(every % count == 0, f"{name} = {every} is no multiple of {unit} = {count}; choose one.")

    if evaluate is not None:
        check_multiple("evaluate_every", evaluate_every, "report_every", report_every)
    if checkpoints is None:
        return
    check_multiple("checkpoints.every", checkpoints.every, "report_every", report_every)
    if checkpoints.best is not None:
        require(
            evaluate is not None,
            f'checkpoints.best = "{checkpoints.best}" names a number of evaluate, which is None. Give evaluate.',
        )
        check_multiple("checkpoints.every", checkpoints.every, "evaluate_every", evaluate_every)
