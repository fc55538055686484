"""One training step, and many of them as one compiled loop."""

from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import optax
from jaxtyping import Array, Int

from .._module import AbstractModule
from .._types import Key, Scalar
from ..data import Dataset
from ..objective import AbstractObjective
from ..score import AbstractNetworkPotential, AbstractNetworkScore, AbstractScore, Potential, Score
from ..time import AbstractTimeSampler
from .loop import Records, TrainState, descended, repeated, started


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
        return started(params, self.optimizer, key=key)

    def step(self, state: TrainState, data: Dataset) -> tuple[TrainState, Records]:
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

        return descended(state, loss, self.optimizer, self.decay)

    def loop(self, state: TrainState, data: Dataset, count: Int[Array, ""], size: int) -> tuple[TrainState, Records]:
        """Up to `size` steps as one loop on the device.

        Args:
            state: The state.
            data: The data.
            count: How many steps; a value, so that a shorter last part compiles nothing new.
            size: The length of the records.

        Returns:
            The new state, and records of the loss and its terms, NaN after `count`.
        """
        return repeated(lambda state: self.step(state, data), state, count, size)


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
    if isinstance(model, AbstractNetworkScore | AbstractNetworkPotential):
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
