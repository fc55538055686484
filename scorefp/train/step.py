"""One training step, and many of them as one compiled loop."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from .._module import AbstractModule
from .._types import Key, Scalar
from ..objective import AbstractObjective
from ..score import AbstractNetworkPotential, AbstractNetworkScore, AbstractScore, Potential, Score
from ..time import AbstractTimeSampler
from .devices import check_mesh, per_device_batch, replicated, shared
from .loop import Records, TrainState, descended, repeated, started
from .supply import AbstractSupply


class TrainStep(AbstractModule):
    r"""Take a batch, estimate the objective and its gradient, update the parameters and their averages.

    An average is $\bar\theta \leftarrow \bar\theta + (1 - d)(\theta - \bar\theta)$ with $d = \min(\text{decay}, (1 +
    k)/(10 + k))$ at step $k$, so that the start is forgotten.

    With `accumulate`, a batch is gone through in that many parts, one after another, and the mean of their gradients
    is the gradient of the step: the memory is that of one part. With a mesh the devices share each part.

    Args:
        skeleton: The model without its trained arrays.
        objective: What is minimised.
        optimizer: An optax optimizer.
        time: How times are drawn.
        batch_size: Samples a step.
        decays: The decay of each average.
        dropout: Whether the model takes a key.
        accumulate: In how many parts a batch is gone through.
        mesh: The devices, as `data_mesh` returns them; `None` is one.

    Raises:
        ValueError: if the batch does not divide into the parts and among the devices, or the mesh has another axis
            than `"data"`.
    """

    skeleton: AbstractScore
    objective: AbstractObjective
    optimizer: optax.GradientTransformation = eqx.field(static=True)
    time: AbstractTimeSampler
    batch_size: int = eqx.field(static=True)
    decays: tuple[float, ...]
    dropout: bool = eqx.field(static=True)
    accumulate: int = eqx.field(default=1, static=True)
    mesh: Mesh | None = eqx.field(default=None, static=True)

    def __check_init__(self) -> None:
        check_mesh(self.mesh)
        per_device_batch(self.batch_size, self.mesh, self.accumulate)

    def init(self, params: Any, *, key: Key) -> TrainState:
        """The state before the first step.

        Args:
            params: The trained arrays, as `split` returns them.
            key: A random key.
        """
        return started(params, self.optimizer, len(self.decays), key=key)

    def step(self, state: TrainState, supply: AbstractSupply, i: Int[Array, ""]) -> tuple[TrainState, Records]:
        """One step: the new state; and before it the value of the objective (`"loss"`), of each term, and the norm of
        the gradient.

        Args:
            state: The state.
            supply: Where the batch comes from.
            i: The number of the step in its loop.
        """
        index_key, level_key, loss_key = jr.split(jr.fold_in(state.key, state.step), 3)
        batch = supply.batch(i, self.batch_size, index_key=index_key, level_key=level_key)
        value, terms, grads = self._gradient(state.params, batch, loss_key)
        return descended(state, value, terms, replicated(grads, self.mesh), self.optimizer, self.decays)

    def loop(
        self, state: TrainState, supply: AbstractSupply, count: Int[Array, ""], size: int
    ) -> tuple[TrainState, Records]:
        """Up to `size` steps as one loop on the device.

        Args:
            state: The state.
            supply: Where the batches come from.
            count: How many steps; a value, so that a shorter last part compiles nothing new.
            size: The length of the records.

        Returns:
            The new state, and records of the loss and its terms, NaN after `count`.
        """
        return repeated(lambda state, i: self.step(state, supply, i), state, count, size)

    def _gradient(
        self, params: Any, batch: tuple[Float[Array, "batch *event"], Any], key: Key
    ) -> tuple[Scalar, dict[str, Scalar], Any]:
        """The objective, its terms and its gradient on a batch."""

        def loss(params: Any, x0: Array, args: Any, key: Key) -> tuple[Scalar, dict[str, Scalar]]:
            model = eqx.combine(params, self.skeleton)
            return self.objective.evaluate(model, x0, key=key, time=self.time, args=args, dropout=self.dropout)

        def of_part(batch: tuple[Array, Any], key: Key) -> tuple[Scalar, dict[str, Scalar], Any]:
            (value, terms), grads = jax.value_and_grad(loss, has_aux=True)(params, *shared(batch, self.mesh), key)
            return value, terms, grads

        if self.accumulate == 1:
            return of_part(batch, key)

        def add(total: Any, part: tuple[tuple[Array, Any], Key]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, of_part(*part)), None

        # Part j takes the rows j, j + accumulate, …: each device finds its share of every part among its own rows.
        parts = jax.tree.map(lambda a: a.reshape((-1, self.accumulate, *a.shape[1:])).swapaxes(0, 1), batch)
        keys = jr.split(key, self.accumulate)
        like = jax.eval_shape(of_part, jax.tree.map(lambda a: a[0], parts), key)
        zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like)
        total, _ = jax.lax.scan(add, zero, (parts, keys))
        return jax.tree.map(lambda a: a / self.accumulate, total)


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
