"""Training in one call."""

import functools
from collections.abc import Callable, Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from .._checks import require
from .._module import AbstractModule
from .._types import Key
from ..data import AbstractSource, Dataset
from ..objective import AbstractObjective
from ..score import AbstractScore
from ..time import AbstractTimeSampler, UniformLogSNR
from .checkpoint import Checkpoints, saver
from .console import Console
from .devices import everywhere, local, per_device_batch
from .loop import Records, TrainState
from .parts import Span, check_counts, in_parts
from .reader import reader_of
from .report import Report
from .step import TrainStep, split
from .supply import AbstractSupply


class Run(AbstractModule):
    """What a training run leaves.

    Args:
        model: The model with averaged parameters, of the first decay; this is the one to use.
        averages: The model with the averaged parameters of each decay.
        last: The model with the parameters of the last step.
        history: The loss, each of its terms and the norm of the gradient, at every step since `start`.
        start: The first step of the history: 0, or where a checkpoint was gone on from.
        seconds_per_step: The median over the reports after the first, which holds the compilation; NaN if there was
            only one.
        state: The state after the last step.
    """

    model: AbstractScore
    averages: tuple[AbstractScore, ...]
    last: AbstractScore
    history: dict[str, Float[np.ndarray, " steps"]]
    start: int
    seconds_per_step: float
    state: TrainState


def fit(
    model: AbstractScore,
    loss: AbstractObjective,
    data: Dataset | AbstractSource | Float[Array, "n *event"] | Float[np.ndarray, "n *event"],
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
    mesh: Mesh | None = None,
    checkpoints: Checkpoints | None = None,
    evaluate: Callable[[AbstractScore], Mapping[str, float]] | None = None,
    evaluate_every: int = 1000,
    callbacks: Sequence[Callable[[Report], None]] = (),
    progress: bool = True,
    report_every: int = 100,
) -> Run:
    """Minimises an objective over the arrays of a score.

    Steps run on the device, and every `report_every` of them the losses come to the host, are checked and reported;
    in between nothing is copied to the host. The step is compiled once, whatever `steps`, the coefficients of the loss
    and the key; another call with the same `optimizer` object and the same shapes compiles nothing new.

    A `Dataset` or an array is held on the device, and a batch is drawn from it with replacement. A source is read on
    the host, every sample once an epoch, while the device computes.

    To fine-tune, give the model of another run, or one that `load` returns, with another loss.

    Args:
        model: The score to train.
        loss: What is minimised, such as `DSM() + 0.1 * ScoreFPE()`.
        data: A data set, a source, or an array of clean samples stacked along the first axis.
        optimizer: An optax optimizer; its learning rate may be a schedule.
        steps: The number of steps, those before a checkpoint included.
        key: A random key; the same key gives the same run.
        batch_size: Samples a step, over all devices.
        time: How times are drawn.
        decay: The decay of the average of the parameters, or several, one for each average.
        clip: The largest global norm of a gradient; `None` does not clip.
        accumulate: In how many parts a batch is gone through, one after another; the gradient is their mean.
        dropout: Whether the model takes a random key.
        mesh: The devices that share a batch, as `data_mesh` returns them; `None` is one device.
        checkpoints: Where and how often the state is saved; if there is a checkpoint, the run goes on from the last
            one, and ends with the same bits as if it had never stopped. `None` saves nothing.
        evaluate: Called with the averaged model; the numbers it returns go into the report. `audit_on` makes one.
        evaluate_every: How many steps lie between two evaluations; there is one at the end as well.
        callbacks: Called in turn with every report, on the first process only. What one raises ends the run.
        progress: Whether to show a progress bar; where the console is no terminal, a line now and then.
        report_every: How many steps lie between two reports.

    Returns:
        The trained model and the history.

    Raises:
        TypeError: if the data are not floats and have no quantisation, or the SDE has no Gaussian kernel.
        ValueError: if the data hold NaN, `batch_size` exceeds the data or does not divide into `accumulate` parts
            among the devices, an interval is no multiple of `report_every`, or there is nothing to train.
        CheckpointError: if the last checkpoint is damaged, or is not one of this run.
        FloatingPointError: if the loss or its gradient stops being finite; it names the step and the terms.

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
    check_counts(steps, report_every)
    if evaluate is not None:
        _check_multiple("evaluate_every", evaluate_every, "report_every", report_every)
    if checkpoints is not None:
        _check_multiple("checkpoints.every", checkpoints.every, "report_every", report_every)
    if checkpoints is not None and checkpoints.best is not None:
        require(
            evaluate is not None,
            f'checkpoints.best = "{checkpoints.best}" names a number of evaluate, which is None. Give evaluate.',
        )
        _check_multiple("checkpoints.every", checkpoints.every, "evaluate_every", evaluate_every)
    if clip is not None:
        require(clip > 0, f"clip = {clip}; a norm is positive. Give None to leave gradients alone.")
        optimizer = _clipped(optimizer, clip)
    decays = tuple(decay) if isinstance(decay, Sequence) else (decay,)
    require(len(decays) > 0 and all(0 <= d < 1 for d in decays), f"decay = {decay}; a decay lies in [0, 1).")
    data = data if isinstance(data, Dataset | AbstractSource) else Dataset(jnp.asarray(data))
    params, skeleton = split(model)
    step = TrainStep(skeleton, loss, optimizer, time, batch_size, decays, dropout, accumulate, mesh)
    state, start = step.init(params, key=key), 0
    reader = reader_of(data, batch_size, min(report_every, steps), mesh, key=key)
    saves = None if checkpoints is None else saver(checkpoints, step, state, data, clip)
    found = None if saves is None else saves.resume(state)
    if found is not None:
        state, place = found
        reader.restore(place)
        start = int(state.step)
        require(start <= steps, f"steps = {steps}, and the run was saved at step {start} already; give at least that.")
    step, state = everywhere((step, state), mesh)

    def averaged(state: TrainState, which: int = 0) -> AbstractScore:
        return eqx.combine(local(state.averages[which]), skeleton)

    def due(taken: int, every: int) -> bool:
        return taken % every == 0 or taken == steps

    heading = ""
    if mesh is not None:
        each = per_device_batch(batch_size, mesh, accumulate)
        heading = f"devices: {mesh.size}  samples a step: {batch_size}  at a time on each: {each}"
    with Console(start, steps, heading=heading, shown=progress and jax.process_index() == 0) as console:

        def report(span: Span) -> None:
            metrics = {name: float(values.mean()) for name, values in span.history.items()}
            metrics["seconds_per_step"] = span.seconds_per_step
            known = averaged(span.state)
            if evaluate is not None and due(span.step, evaluate_every):
                metrics |= {name: float(value) for name, value in evaluate(known).items()}
            told = Report(span.step, steps, span.first, metrics, span.history, known)
            console(span)
            for callback in callbacks if jax.process_index() == 0 else ():
                callback(told)
            if saves is not None and checkpoints is not None and due(span.step, checkpoints.every):
                require(
                    checkpoints.best is None or checkpoints.best in metrics,
                    f'checkpoints.best = "{checkpoints.best}" is not among the numbers {sorted(metrics)}; name one.',
                )
                saves.save(span.state, reader.state(), metrics)

        trained = in_parts(
            lambda state, supply, count, size: _loop((step, supply, count), state, size),
            state,
            reader,
            start=start,
            steps=steps,
            report_every=report_every,
            report=report,
            saved=lambda: "" if saves is None else saves.offer(),
        )
    models = tuple(averaged(trained.state, which) for which in range(len(decays)))
    return Run(
        model=models[0],
        averages=models,
        last=eqx.combine(local(trained.state.params), skeleton),
        history=trained.history,
        start=start,
        seconds_per_step=trained.seconds_per_step,
        state=trained.state,
    )


@functools.lru_cache(maxsize=64)
def _clipped(optimizer: optax.GradientTransformation, clip: float) -> optax.GradientTransformation:
    """The optimizer behind a clip, the same object for the same two, so that another `fit` compiles nothing new."""
    return optax.chain(optax.clip_by_global_norm(clip), optimizer)


@eqx.filter_jit(donate="all-except-first")
def _loop(
    fixed: tuple[TrainStep, AbstractSupply, Int[Array, ""]], state: TrainState, size: int
) -> tuple[TrainState, Records]:
    step, supply, count = fixed
    return step.loop(state, supply, count, size)


def _check_multiple(name: str, every: int, unit: str, count: int) -> None:
    require(
        every >= 1 and every % count == 0,
        f"{name} = {every} is no multiple of {unit} = {count}; choose one.",
    )
