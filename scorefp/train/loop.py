"""The parts of every training loop: a state, one step of gradient descent, many steps on the device, many parts."""

import time as clock
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from .._checks import require
from .._module import AbstractModule
from .._types import Key, Scalar


class TrainState(AbstractModule):
    """What changes from step to step.

    Args:
        params: The trained arrays of the model.
        average: Their exponential moving average.
        optimizer: The state of the optimizer.
        step: The number of steps taken.
        key: The key from which every step derives its own.
    """

    params: Any
    average: Any
    optimizer: Any
    step: Int[Array, ""]
    key: Key


Records = dict[str, Float[Array, "..."]]
"""The loss and its terms by name: of one step scalars, of many arrays."""


def started(params: Any, optimizer: optax.GradientTransformation, *, key: Key) -> TrainState:
    """The state before the first step."""
    # Copies: the loop takes over the buffers of its state, and the caller's model keeps its own.
    params = jax.tree.map(jnp.copy, params)
    average = jax.tree.map(jnp.copy, params)
    return TrainState(params, average, optimizer.init(params), jnp.zeros((), jnp.int32), jnp.copy(key))


def descended(
    state: TrainState,
    loss: Callable[[Any], tuple[Scalar, dict[str, Scalar]]],
    optimizer: optax.GradientTransformation,
    decay: float,
) -> tuple[TrainState, Records]:
    r"""One step: the new state, and the loss with its terms before it.

    The average is $\bar\theta \leftarrow \bar\theta + (1 - d)(\theta - \bar\theta)$ with $d = \min(\text{decay}, (1 +
    k)/(10 + k))$ at step $k$, so that the start is forgotten.
    """
    (value, terms), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    updates, own = optimizer.update(grads, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    warmed = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
    average = optax.incremental_update(params, state.average, 1 - warmed)
    return TrainState(params, average, own, state.step + 1, state.key), {"loss": value, **terms}


def repeated(
    step: Callable[[TrainState], tuple[TrainState, Records]], state: TrainState, count: Int[Array, ""], size: int
) -> tuple[TrainState, Records]:
    """Up to `size` steps as one loop on the device.

    Args:
        step: One step.
        state: The state.
        count: How many steps; a value, so that a shorter last part compiles nothing new.
        size: The length of the records.

    Returns:
        The new state, and records of the loss and its terms, NaN after `count`.
    """
    names = jax.eval_shape(step, state)[1]
    records = jax.tree.map(lambda r: jnp.full((size,), jnp.nan, r.dtype), names)

    def body(i: Int[Array, ""], carry: tuple[TrainState, Records]) -> tuple[TrainState, Records]:
        state, records = carry
        state, values = step(state)
        return state, {name: records[name].at[i].set(value) for name, value in values.items()}

    return jax.lax.fori_loop(0, count, body, (state, records))


class Trained(AbstractModule):
    """What all parts together leave: the last state, the records of every step, and the median time of one."""

    state: TrainState
    history: dict[str, Float[np.ndarray, " steps"]]
    seconds_per_step: float


def in_parts(
    part: Callable[[TrainState, Int[Array, ""], int], tuple[TrainState, Records]],
    state: TrainState,
    *,
    steps: int,
    report_every: int,
    progress: bool,
) -> Trained:
    """Runs `steps` in parts of `report_every`; between parts the losses come to the host, are checked and shown.

    Args:
        part: Called as `part(state, count, size)`; compiled once for a size.
        state: The state before the first step.
        steps: How many steps in all.
        report_every: The length of a part.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: if `steps` or `report_every` is below one.
        FloatingPointError: if the loss stops being finite; it names the step and the terms.
    """
    from rich.progress import Progress

    require(steps >= 1 and report_every >= 1, f"steps = {steps}, report_every = {report_every}; both are at least 1.")
    size = min(report_every, steps)
    history: list[dict[str, np.ndarray]] = []
    seconds: list[float] = []
    with Progress(disable=not progress) as bar:
        task = bar.add_task("training", total=steps)
        for start in range(0, steps, size):
            count = min(size, steps - start)
            begin = clock.perf_counter()
            state, records = part(state, jnp.asarray(count), size)
            found = {name: np.asarray(values)[:count] for name, values in records.items()}
            seconds.append((clock.perf_counter() - begin) / count)
            _check_finite(found, start)
            history.append(found)
            bar.update(task, advance=count, description=f"loss {found['loss'].mean():.4g}")
    return Trained(
        state=state,
        history={name: np.concatenate([found[name] for found in history]) for name in history[0]},
        # The first part holds the compilation.
        seconds_per_step=float(np.median(seconds[1:])) if len(seconds) > 1 else float("nan"),
    )


def check_batch(batch_size: int, count: int) -> None:
    """Refuses a batch that is empty or larger than the data."""
    require(
        1 <= batch_size <= count,
        f"batch_size = {batch_size}; the data have {count} samples. Choose a batch between 1 and that.",
    )


def _check_finite(records: dict[str, np.ndarray], start: int) -> None:
    bad = ~np.isfinite(records["loss"])
    if bad.any():
        first = int(bad.argmax())
        terms = [name for name, values in records.items() if name != "loss" and not np.isfinite(values[first])]
        raise FloatingPointError(
            f"the loss is not finite at step {start + first}; not finite are the terms {terms or 'none by itself'}. "
            "Lower the learning rate or the weight of the term, or clip gradients."
        )
