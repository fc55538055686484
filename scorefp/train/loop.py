"""The loop of every training: a step of gradient descent, many of them on the device, the losses between."""

import time as clock
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from .._batches import apart
from .._describe import first as some, free_name
from .._devices import Shard, check_mesh, check_shard, laid, not_held, per_device_batch, shared, together
from .._module import AbstractModule
from .._types import Key, MaybeNaN, Scalar
from ..dataset import Quantisation, UniformDequantiser
from ..integrals import AbstractTimeSampler
from ..objective import AbstractObjective
from ..score import AbstractScore
from .batches import AbstractBatches, Pick, Samples, drawn
from .labels import LabelDropout


class TrainState(AbstractModule):
    """The part of a run that changes from step to step.

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
    """One step with the averages of `TrainStep`: the new state, and the loss with its terms before it."""
    updates, own = optimizer.update(grads, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    warm = (1 + state.step) / (10 + state.step)
    averages = tuple(
        optax.incremental_update(params, average, 1 - jnp.minimum(decay, warm))
        for average, decay in zip(state.averages, decays, strict=True)
    )
    records = {"loss": value, **terms, "gradient_norm": optax.tree.norm(grads)}
    return TrainState(params, averages, own, state.step + 1, state.key), records


class TrainStep(AbstractModule):
    r"""Take a batch, estimate the objective and its gradient, update the parameters and their averages.

    An average is $\bar\theta \leftarrow \bar\theta + (1 - d)(\theta - \bar\theta)$ with $d = \min(\text{decay}, (1 +
    k)/(10 + k))$ at step $k$, so that the start is forgotten.

    With `accumulate`, a batch is gone through in that many parts, one after another, and the mean of their gradients
    is the gradient of the step: the memory is that of one part. With a mesh the devices share each part.

    With `shard="parameters"` they share the state as well: the parameters, their averages and the state of the
    optimizer are cut along one axis each, the largest that the number of devices divides; what is small or indivisible
    is on all of them. A step puts the parameters together where it uses them, once for the value and once for the
    gradient, which is summed into the same shares.

    Args:
        skeleton: The model without its trained arrays.
        objective: The objective to minimise.
        optimizer: An optax optimizer.
        time: The law of times.
        batch_size: Samples a step.
        decays: The decay of each average.
        dropout: Whether the model takes a key.
        accumulate: In how many parts a batch is gone through.
        mesh: The devices, as `data_mesh` returns them; `None` is one.
        pick: How a step takes its batch from the samples that its loop is given: `drawn`, or `in_order` of a stack.
        quantisation: The levels of the samples; `None` for floats.
        shard: What the devices share: the `"batch"`, or the `"parameters"` as well.
        label_dropout: What is trained without its conditioning; `None` for nothing.

    Raises:
        ValueError: if the batch does not divide into the parts and among the devices, the mesh has another axis than
            `"data"`, or parameters are to be shared without a mesh.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, optax, scorefp as sfp
        >>> from scorefp import train
        >>> model = sfp.NoiseScore(sfp.nn.MLP(shape=(2,), width=8, key=jax.random.key(0)), sfp.VP())
        >>> params, skeleton = eqx.partition(model, model.trained())
        >>> step = train.TrainStep(skeleton, sfp.DSM(), optax.adam(1e-3), sfp.UniformLogSNR(), 32, (0.99,), False)
        >>> state, samples = step.init(params, key=jax.random.key(1)), (jnp.ones((64, 2)), None)
        >>> state, records = eqx.filter_jit(step.step)(state, samples, jnp.array(0))
        >>> int(state.step), sorted(records)
        (1, ['DSM', 'gradient_norm', 'loss'])
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
    pick: Pick = eqx.field(default=drawn, static=True)
    quantisation: Quantisation | None = None
    shard: Shard = eqx.field(default="batch", static=True)
    label_dropout: LabelDropout | None = None

    def __check_init__(self) -> None:
        check_mesh(self.mesh)
        check_shard(self.shard, self.mesh)
        per_device_batch(self.batch_size, self.mesh, self.accumulate)

    def init(self, params: Any, *, key: Key) -> TrainState:
        """The state before the first step, on the devices of the mesh.

        Args:
            params: The trained arrays: those of the model where `AbstractScore.trained` is true.
            key: A random key.
        """
        settings = self.optimizer, len(self.decays), self.mesh, self.shard
        if self.mesh is None or self.shard == "batch":
            return _placed(params, key, *settings)
        # Compiled, so that no device holds an average or a moment whole.
        return eqx.filter_jit(_placed)(*laid((params, key), self.mesh, self.shard), *settings)

    def step(self, state: TrainState, samples: Samples, i: Int[Array, ""]) -> tuple[TrainState, Records]:
        """One step: the new state; and before it the value of the objective (`"loss"`), of each term, and the norm of
        the gradient.

        Args:
            state: The state.
            samples: The samples from which the batch is picked.
            i: The number of the step in its loop.
        """
        key = jr.fold_in(state.key, state.step)
        index_key, level_key, loss_key = jr.split(key, 3)
        values, args = self.pick(samples, i, self.batch_size, index_key)
        if self.label_dropout is not None:
            args = self.label_dropout(args, key=apart(key))
        if self.quantisation is not None:
            # The levels were checked when they were read.
            values = UniformDequantiser(self.quantisation).inside(values, key=level_key).x
        value, terms, grads = self._gradient(state.params, (values, args), loss_key, state.step)
        grads = laid(grads, self.mesh, self.shard)
        state, records = descended(state, value, terms, grads, self.optimizer, self.decays)
        return (state if self.shard == "batch" else laid(state, self.mesh, self.shard)), records

    def without_gradient(self, state: TrainState, samples: Samples) -> list[str]:
        """The terms whose gradient, each by itself, is not finite at a state, on one batch.

        Args:
            state: The state; its number says which step draws the batch.
            samples: The samples from which it is picked.
        """

        @eqx.filter_jit
        def recorded(step: TrainStep) -> Records:
            return step.step(state, samples, jnp.asarray(0))[1]

        found: dict[str, bool] = {}
        for _, term in self.objective.parts():
            records = recorded(eqx.tree_at(lambda step: step.objective, self, term))
            found[free_name(_names(records)[1], found)] = bool(jnp.isfinite(records["gradient_norm"]))
        return [name for name, finite in found.items() if not finite]

    def _gradient(
        self, params: Any, batch: tuple[Float[Array, "batch *event"], Any], key: Key, step: Int[Array, ""]
    ) -> tuple[Scalar, dict[str, Scalar], Any]:
        """The objective, its terms and its gradient on a batch."""

        def loss(params: Any, x0: Array, args: Any, key: Key) -> tuple[Scalar, dict[str, Scalar]]:
            model = together(eqx.combine(params, self.skeleton), self.mesh, self.shard)
            return self.objective.evaluate(
                model, x0, key=key, time=self.time, args=args, dropout=self.dropout, step=step
            )

        def of_part(batch: tuple[Array, Any], key: Key) -> tuple[Scalar, dict[str, Scalar], Any]:
            graded = jax.value_and_grad(not_held(loss, self.shard), has_aux=True)
            (value, terms), grads = graded(params, *shared(batch, self.mesh), key)
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


def _placed(
    params: Any, key: Key, optimizer: optax.GradientTransformation, averages: int, mesh: Mesh | None, shard: Shard
) -> TrainState:
    """The state before the first step, where the devices of a mesh are to have it."""
    return laid(started(params, optimizer, averages, key=key), mesh, shard)


Step = Callable[[TrainState, Any, Int[Array, ""]], tuple[TrainState, Records]]
"""One step, called with the state, what its loop is given, and the number of the step in the loop."""


def repeated(
    step: Step, samples: Any, state: TrainState, count: Int[Array, ""], size: int
) -> tuple[TrainState, Records]:
    """Up to `size` steps as one loop on the device.

    Args:
        step: One step.
        samples: The samples that each step is given.
        state: The state.
        count: How many steps; a value, so that a shorter last loop compiles nothing new.
        size: The length of the records.

    Returns:
        The new state, and records of the loss and its terms, NaN after `count`.
    """
    names = jax.eval_shape(step, state, samples, count)[1]
    records = jax.tree.map(lambda r: jnp.full((size,), jnp.nan, r.dtype), names)

    def body(i: Int[Array, ""], carry: tuple[TrainState, Records]) -> tuple[TrainState, Records]:
        state, records = carry
        state, values = step(state, samples, i)
        return state, {name: records[name].at[i].set(value) for name, value in values.items()}

    return jax.lax.fori_loop(0, count, body, (state, records))


@eqx.filter_jit(donate="all-except-first")
def _loop(fixed: tuple[Step, Any, Int[Array, ""]], state: TrainState, size: int) -> tuple[TrainState, Records]:
    """`repeated`; the buffers of the state are taken over, those of the step and of the samples are kept."""
    step, samples, count = fixed
    return repeated(step, samples, state, count, size)


class Span(AbstractModule):
    """The steps between two reports.

    Args:
        first: The number of the first one.
        stop: How many steps are taken after them.
        history: The loss, its terms and the norm of the gradient at each.
        seconds_per_step: The mean time of one.
    """

    first: int
    stop: int
    history: dict[str, Float[np.ndarray, " steps"]]
    seconds_per_step: MaybeNaN


def spans(
    step: Step,
    state: TrainState,
    batches: AbstractBatches,
    *,
    start: int,
    steps: int,
    report_every: int,
    saved: Callable[[], str] = str,
    blamed: Callable[[int], Sequence[str]] = lambda at: (),
) -> Iterator[tuple[TrainState, Span]]:
    """Steps `start … steps - 1`; after every `report_every` the state, and the losses, both found finite.

    Between two spans nothing is copied to the host, and while the device computes the host reads the next batches.

    Args:
        step: One step, the method of a module.
        state: The state before step `start`; its buffers are taken over.
        batches: The batches.
        start: How many steps are taken already.
        steps: How many steps in all.
        report_every: How many steps lie between two reports.
        saved: A sentence on saved states for the error when something stops being finite.
        blamed: The terms whose gradient is not finite at a step, as far as they can be found.

    Raises:
        FloatingPointError: if the loss, the gradient or the state stops being finite; it names the step and the terms,
            or the arrays.
        ValueError: if the state is not finite to begin with.
    """
    size = batches.size
    # An optimizer may begin with what is not finite, such as the infinite best value of one that watches a plateau.
    known = set(not_finite(state))
    if lost := sorted(name for name in known if not name.startswith("optimizer/")):
        raise ValueError(
            f"the model holds NaN or infinite entries before step {start}: {some(lost)}. Give a model, or a "
            "checkpoint, whose parameters are finite."
        )
    while start < steps:
        # Reports stand at multiples of `report_every`, also after a start between two of them.
        first, stop = start, min(start - start % report_every + report_every, steps)
        begin = clock.perf_counter()
        pending: list[tuple[int, Records]] = []
        for at in range(first, stop, size):
            count = min(size, stop - at)
            state, records = _loop((step, batches.take(count), jnp.asarray(count)), state, size)
            pending.append((count, records))
            if at + count < stop:
                batches.prepare(min(size, stop - at - count))
        batches.prepare(min(size, report_every, steps - stop))
        history = {
            name: np.concatenate([np.asarray(r[name])[:n] for n, r in pending]) for name in _names(pending[0][1])
        }
        seconds = (clock.perf_counter() - begin) / (stop - first)
        _check_finite(history, first, saved, blamed)
        if lost := [name for name in not_finite(state) if name not in known]:
            raise FloatingPointError(
                f"the update of step {stop - 1} made NaN or infinite entries in {some(lost)}; the losses and gradients "
                f"of the steps {first} … {stop - 1} are finite. Lower the learning rate, or look at its schedule and "
                f"at the optimizer.{saved()}"
            )
        yield state, Span(first, stop, history, seconds)
        start = stop


@jax.jit
def _are_finite(leaves: list[Array]) -> Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])


def not_finite(state: TrainState) -> list[str]:
    """The names of the floating arrays of a state that hold NaN or infinite entries."""
    parts = (state.params, state.averages, state.optimizer)
    held = [leaf for leaf in jax.tree.leaves(parts) if eqx.is_inexact_array(leaf)]
    good = np.asarray(_are_finite(held))
    if good.all():
        return []
    names = [
        f"{name}/{jax.tree_util.keystr(path, simple=True, separator='/')}"
        for name, part in zip(("params", "averages", "optimizer"), parts, strict=True)
        for path, leaf in jax.tree_util.tree_leaves_with_path(part)
        if eqx.is_inexact_array(leaf)
    ]
    return [name for name, fine in zip(names, good, strict=True) if not fine]


def whole(parts: Sequence[Span], names: Sequence[str] = ()) -> tuple[dict[str, Float[np.ndarray, " steps"]], float]:
    """The history of all spans together, and the median time of a step; the first span holds the compilation.

    Args:
        parts: The spans.
        names: What an empty history is about.
    """
    if not parts:
        return {name: np.zeros(0, np.float32) for name in names}, float("nan")
    history = {name: np.concatenate([part.history[name] for part in parts]) for name in parts[0].history}
    seconds = [part.seconds_per_step for part in parts[1:]]
    return history, float(np.median(seconds)) if seconds else float("nan")


def check_optimizer(optimizer: Any) -> None:
    """Refuses what is no optimizer of optax: two functions, `init` and `update`."""
    if isinstance(optimizer, type) or not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        told = optimizer.__name__ if isinstance(optimizer, type) else type(optimizer).__name__
        raise TypeError(f"optimizer is of the kind {told}. It is one of optax, for example optax.adam(1e-3).")


def _names(records: Records) -> list[str]:
    """The loss, its terms, the norm of the gradient: a compiled function sorts them by name."""
    return ["loss", *(name for name in records if name not in ("loss", "gradient_norm")), "gradient_norm"]


def _check_finite(
    history: dict[str, np.ndarray], first: int, saved: Callable[[], str], blamed: Callable[[int], Sequence[str]]
) -> None:
    bad = ~(np.isfinite(history["loss"]) & np.isfinite(history["gradient_norm"]))
    if not bad.any():
        return
    at = int(bad.argmax())
    terms = [name for name in list(history)[1:-1] if not np.isfinite(history[name][at])]
    remedy = "Lower the learning rate or the weight of the term, or clip gradients."
    if terms:
        what = f"terms that are not finite: {terms}"
    elif not np.isfinite(history["loss"][at]):
        what = "each term is finite, and their sum is not"
        remedy = "Look at the coefficients of the loss, or lower the learning rate."
    elif terms := list(blamed(first + at)):
        what = f"its terms are, and the gradient of {terms} is not"
        remedy = (
            "Such a term or the network has no derivative there, as a root or a norm at zero has none, or the gradient "
            "is beyond the range of its floats."
        )
    else:
        what = "its terms are"
        remedy = (
            "A term or the network has no derivative there, as a root or a norm at zero has none, or the gradient is "
            "beyond the range of its floats: train with one term at a time to find which. " + remedy
        )
    named = "gradient" if np.isfinite(history["loss"][at]) else "loss"
    raise FloatingPointError(f"the {named} is not finite at step {first + at}; {what}. {remedy}{saved()}")
