"""Training in one call."""

import functools

import equinox as eqx
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from .._checks import require
from .._module import AbstractModule
from .._types import Key
from ..data import Dataset
from ..objective import AbstractObjective
from ..score import AbstractScore
from ..time import AbstractTimeSampler, UniformLogSNR
from .loop import Records, TrainState, check_batch, in_parts
from .step import TrainStep, split


class Run(AbstractModule):
    """What a training run leaves.

    Args:
        model: The model with averaged parameters; this is the one to use.
        last: The model with the parameters of the last step.
        history: The loss and each of its terms, at every step.
        seconds_per_step: The median over the parts of the run after the first, which holds the compilation; NaN if
            there was only one part.
        state: The state after the last step.
    """

    model: AbstractScore
    last: AbstractScore
    history: dict[str, Float[np.ndarray, " steps"]]
    seconds_per_step: float
    state: TrainState


def fit(
    model: AbstractScore,
    loss: AbstractObjective,
    data: Dataset | Float[Array, "n *event"],
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    key: Key,
    batch_size: int = 128,
    time: AbstractTimeSampler = UniformLogSNR(),
    decay: float = 0.999,
    clip: float | None = 1.0,
    dropout: bool = False,
    progress: bool = True,
    report_every: int = 100,
) -> Run:
    """Minimises an objective over the arrays of a score.

    Steps run on the device in parts of `report_every`; between parts the losses come to the host, are checked and
    shown. The step is compiled once, whatever `steps`, the coefficients of the loss and the key; another call with the
    same `optimizer` object and the same shapes compiles nothing new.

    Args:
        model: The score to train.
        loss: What is minimised, such as `DSM() + 0.1 * ScoreFPE()`.
        data: A data set, or an array of clean samples stacked along the first axis.
        optimizer: An optax optimizer.
        steps: The number of steps.
        key: A random key; the same key gives the same run.
        batch_size: Samples a step, drawn with replacement.
        time: How times are drawn.
        decay: The decay of the average of the parameters.
        clip: The largest global norm of a gradient; `None` does not clip.
        dropout: Whether the model takes a random key.
        progress: Whether to show a progress bar.
        report_every: The length of a part.

    Returns:
        The trained model and the history.

    Raises:
        TypeError: if the data are not floats and have no quantisation, or the SDE has no Gaussian kernel.
        ValueError: if the data hold NaN, `batch_size` exceeds the data, or there is nothing to train.
        FloatingPointError: if the loss stops being finite; it names the step and the terms.

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
    data = data if isinstance(data, Dataset) else Dataset(data)
    check_batch(batch_size, len(data))
    if clip is not None:
        require(clip > 0, f"clip = {clip}; a norm is positive. Give None to leave gradients alone.")
        optimizer = _clipped(optimizer, clip)
    params, skeleton = split(model)
    step = TrainStep(skeleton, loss, optimizer, time, batch_size, decay, dropout)
    trained = in_parts(
        lambda state, count, size: _loop((step, data, count), state, size),
        step.init(params, key=key),
        steps=steps,
        report_every=report_every,
        progress=progress,
    )
    return Run(
        model=eqx.combine(trained.state.average, skeleton),
        last=eqx.combine(trained.state.params, skeleton),
        history=trained.history,
        seconds_per_step=trained.seconds_per_step,
        state=trained.state,
    )


@functools.lru_cache(maxsize=64)
def _clipped(optimizer: optax.GradientTransformation, clip: float) -> optax.GradientTransformation:
    """The optimizer behind a clip, the same object for the same two, so that another `fit` compiles nothing new."""
    return optax.chain(optax.clip_by_global_norm(clip), optimizer)


@eqx.filter_jit(donate="all-except-first")
def _loop(fixed: tuple[TrainStep, Dataset, Int[Array, ""]], state: TrainState, size: int) -> tuple[TrainState, Records]:
    step, data, count = fixed
    return step.loop(state, data, count, size)
