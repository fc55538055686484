"""The device's side of every training loop: a state, one step of gradient descent, many steps without the host."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from .._module import AbstractModule
from .._types import Key, Scalar


class TrainState(AbstractModule):
    """What changes from step to step.

    Args:
        params: The trained arrays of the model.
        averages: Their exponential moving averages, one for each decay.
        optimizer: The state of the optimizer.
        step: The number of steps taken.
        key: The key from which every step derives its own.
    """

    params: Any
    averages: tuple[Any, ...]
    optimizer: Any
    step: Int[Array, ""]
    key: Key


Records = dict[str, Float[Array, "..."]]
"""The loss, its terms by name and the norm of the gradient: of one step scalars, of many arrays."""


def started(params: Any, optimizer: optax.GradientTransformation, averages: int, *, key: Key) -> TrainState:
    """The state before the first step, with so many averages."""
    # Copies: the loop takes over the buffers of its state, and the caller's model keeps its own.
    params, *copies = (jax.tree.map(jnp.copy, params) for _ in range(1 + averages))
    return TrainState(params, tuple(copies), optimizer.init(params), jnp.zeros((), jnp.int32), jnp.copy(key))


def descended(
    state: TrainState,
    value: Scalar,
    terms: dict[str, Scalar],
    grads: Any,
    optimizer: optax.GradientTransformation,
    decays: tuple[float, ...],
) -> tuple[TrainState, Records]:
    r"""One step: the new state, and the loss with its terms before it.

    An average is $\bar\theta \leftarrow \bar\theta + (1 - d)(\theta - \bar\theta)$ with $d = \min(\text{decay}, (1 +
    k)/(10 + k))$ at step $k$, so that the start is forgotten.
    """
    updates, own = optimizer.update(grads, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    warm = (1 + state.step) / (10 + state.step)
    averages = tuple(
        optax.incremental_update(params, average, 1 - jnp.minimum(decay, warm))
        for average, decay in zip(state.averages, decays, strict=True)
    )
    records = {"loss": value, **terms, "gradient_norm": optax.tree.norm(grads)}
    return TrainState(params, averages, own, state.step + 1, state.key), records


def repeated(
    step: Callable[[TrainState, Int[Array, ""]], tuple[TrainState, Records]],
    state: TrainState,
    count: Int[Array, ""],
    size: int,
) -> tuple[TrainState, Records]:
    """Up to `size` steps as one loop on the device.

    Args:
        step: One step, called with the state and the number of the step in this loop.
        state: The state.
        count: How many steps; a value, so that a shorter last part compiles nothing new.
        size: The length of the records.

    Returns:
        The new state, and records of the loss and its terms, NaN after `count`.
    """
    names = jax.eval_shape(step, state, count)[1]
    records = jax.tree.map(lambda r: jnp.full((size,), jnp.nan, r.dtype), names)

    def body(i: Int[Array, ""], carry: tuple[TrainState, Records]) -> tuple[TrainState, Records]:
        state, records = carry
        state, values = step(state, i)
        return state, {name: records[name].at[i].set(value) for name, value in values.items()}

    return jax.lax.fori_loop(0, count, body, (state, records))
