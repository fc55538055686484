"""One training step, and many of them as one compiled loop."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Float, Int

from .._module import AbstractModule
from .._types import Key, Scalar
from ..data import Dataset
from ..objective import AbstractObjective
from ..score import AbstractNetworkScore, AbstractScore, Potential, Score
from ..time import AbstractTimeSampler


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


class TrainStep(AbstractModule):
    r"""Draw a batch, estimate the objective and its gradient, update the parameters and their average.

    The average is $\bar\theta \leftarrow \bar\theta + (1 - d)(\theta - \bar\theta)$ with $d = \min(\text{decay}, (1 +
    k)/(10 + k))$ at step $k$, so that the start is forgotten.

    Args:
        skeleton: The model without its trained arrays.
        objective: What is minimised.
        optimizer: An optax optimizer.
        time: How times are drawn.
        batch_size: Samples a step.
        decay: The decay of the average.
        dropout: Whether the model takes a key.
    """

    skeleton: AbstractScore
    objective: AbstractObjective
    optimizer: optax.GradientTransformation = eqx.field(static=True)
    time: AbstractTimeSampler
    batch_size: int = eqx.field(static=True)
    decay: float
    dropout: bool = eqx.field(static=True)

    def init(self, params: Any, *, key: Key) -> TrainState:
        """The state before the first step.

        Args:
            params: The trained arrays, as `split` returns them.
            key: A random key.
        """
        # Copies: the loop takes over the buffers of its state, and the caller's model keeps its own.
        params = jax.tree.map(jnp.copy, params)
        average = jax.tree.map(jnp.copy, params)
        return TrainState(params, average, self.optimizer.init(params), jnp.zeros((), jnp.int32), jnp.copy(key))

    def step(self, state: TrainState, data: Dataset) -> tuple[TrainState, dict[str, Scalar]]:
        """One step: the new state, and the value of the objective (`"loss"`) and of each term before it.

        Args:
            state: The state.
            data: The data.
        """
        index_key, level_key, loss_key = jr.split(jr.fold_in(state.key, state.step), 3)
        index = jr.randint(index_key, (self.batch_size,), 0, len(data))
        x0, args = data.batch(index, key=level_key)

        def loss(params: Any) -> tuple[Scalar, dict[str, Scalar]]:
            model = eqx.combine(params, self.skeleton)
            return self.objective.evaluate(model, x0, key=loss_key, time=self.time, args=args, dropout=self.dropout)

        (value, terms), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, optimizer = self.optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(self.decay, (1 + state.step) / (10 + state.step))
        average = optax.incremental_update(params, state.average, 1 - decay)
        return TrainState(params, average, optimizer, state.step + 1, state.key), {"loss": value, **terms}

    def loop(
        self, state: TrainState, data: Dataset, count: Int[Array, ""], size: int
    ) -> tuple[TrainState, dict[str, Float[Array, " size"]]]:
        """Up to `size` steps as one loop on the device.

        Args:
            state: The state.
            data: The data.
            count: How many steps; a value, so that a shorter last part compiles nothing new.
            size: The length of the records.

        Returns:
            The new state, and records of the loss and its terms, NaN after `count`.
        """
        names = jax.eval_shape(self.step, state, data)[1]
        records = jax.tree.map(lambda r: jnp.full((size,), jnp.nan, r.dtype), names)

        def body(i: Int[Array, ""], carry: tuple[TrainState, dict[str, Array]]) -> tuple[TrainState, dict[str, Array]]:
            state, records = carry
            state, values = self.step(state, data)
            return state, {name: records[name].at[i].set(value) for name, value in values.items()}

        return jax.lax.fori_loop(0, count, body, (state, records))


def split(model: AbstractScore) -> tuple[Any, AbstractScore]:
    """The trained arrays of a model, and the model without them.

    Trained are the floating arrays outside the SDE and outside what a score knows of its data: `data_std`, and bound
    `args`.

    Args:
        model: A score.

    Raises:
        ValueError: if there is nothing to train.
    """
    trained = jax.tree.map(eqx.is_inexact_array, model)
    fixed: list[Any] = [model.sde]
    if isinstance(model, AbstractNetworkScore):
        fixed += [model.data_std, model.args]
    elif isinstance(model, Score | Potential):
        fixed.append(model.args)
    held = {id(leaf) for part in fixed for leaf in jax.tree.leaves(part) if eqx.is_array(leaf)}
    trained = jax.tree.map(lambda leaf, yes: yes and id(leaf) not in held, model, trained)
    params, skeleton = eqx.partition(model, trained)
    if not jax.tree.leaves(params):
        raise ValueError(
            f"model is a {type(model).__name__} without floating arrays to train; "
            "a function that closes over its weights hides them: make it an equinox.Module."
        )
    return params, skeleton
