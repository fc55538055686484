"""Training a dequantiser against a frozen score [K7]."""

import time as clock
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from .._checks import require
from .._module import AbstractModule
from .._types import Key, Scalar
from ..data import Dataset
from ..likelihood import Truncation, VariationalDequantiser, likelihood_bound
from ..score import AbstractScore
from ..time import AbstractTimeSampler, UniformLogSNR


class DequantiserRun(AbstractModule):
    """What the training of a dequantiser leaves.

    Args:
        dequantiser: The dequantiser with averaged parameters; this is the one to use.
        history: At every step the loss in nats of a sample, `"loss"`, and its two terms, `"bound"` and `"log_prob"`.
        seconds_per_step: The median over the parts of the run after the first, which holds the compilation; NaN if
            there was only one part.
    """

    dequantiser: VariationalDequantiser
    history: dict[str, Float[np.ndarray, " steps"]]
    seconds_per_step: float


class _State(AbstractModule):
    """What changes from step to step."""

    params: Any
    average: Any
    optimizer: Any
    step: Int[Array, ""]
    key: Key


class _Step(AbstractModule):
    """One step: draw levels, estimate the loss and its gradient, update the flow."""

    skeleton: VariationalDequantiser
    score: AbstractScore
    optimizer: optax.GradientTransformation = eqx.field(static=True)
    time: AbstractTimeSampler
    batch_size: int = eqx.field(static=True)
    draws: int = eqx.field(static=True)
    decay: float

    def step(self, state: _State, levels: Int[Array, "n *event"]) -> tuple[_State, dict[str, Scalar]]:
        index_key, draw_key, bound_key = jr.split(jr.fold_in(state.key, state.step), 3)
        k = levels[jr.randint(index_key, (self.batch_size,), 0, len(levels))]
        draw_keys, bound_keys = jr.split(draw_key, self.batch_size), jr.split(bound_key, self.batch_size)

        def loss(params: Any) -> tuple[Scalar, dict[str, Scalar]]:
            dequantiser = eqx.combine(params, self.skeleton)

            def terms(k: Array, draw_key: Key, bound_key: Key) -> tuple[Scalar, Scalar]:
                # The data set checked the levels.
                u, log_prob = dequantiser.positions(k, key=draw_key)
                x = dequantiser.quantisation.place(k, u)
                bound = likelihood_bound(
                    self.score, x, key=bound_key, draws=self.draws, time=self.time, truncation=Truncation.DENOISED
                )
                return bound, log_prob

            bound, log_prob = jax.tree.map(jnp.mean, jax.vmap(terms)(k, draw_keys, bound_keys))
            return bound + log_prob, {"bound": bound, "log_prob": log_prob}

        (value, terms), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, optimizer = self.optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(self.decay, (1 + state.step) / (10 + state.step))
        average = optax.incremental_update(params, state.average, 1 - decay)
        return _State(params, average, optimizer, state.step + 1, state.key), {"loss": value, **terms}


def fit_dequantiser(
    dequantiser: VariationalDequantiser,
    score: AbstractScore,
    data: Dataset,
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    key: Key,
    batch_size: int = 128,
    draws: int = 1,
    time: AbstractTimeSampler = UniformLogSNR(),
    decay: float = 0.999,
    progress: bool = True,
    report_every: int = 100,
) -> DequantiserRun:
    r"""Trains a variational dequantiser through the likelihood bound, with the score frozen [K7] (Song 2021, Eq. 13):

    $$ \min_\phi\; E_k E_{u \sim q_\phi(u \mid k)}\big[L(x) + \log q_\phi(u \mid k)\big], \qquad
       x = \text{low} + (k + u)\,w, $$

    with $L$ the bound of `likelihood_bound`, denoising step included (Eq. 39). Up to $D\log w$ the minimum bounds the
    code length of the levels from above, and uniform noise is one of the candidates. Gradients pass through the draws
    of the flow. Steps run on the device in parts of `report_every`, as those of `fit` do.

    Args:
        dequantiser: Where to start.
        score: A score on a linear SDE; nothing of it changes.
        data: Levels with the quantisation of the dequantiser.
        optimizer: An optax optimizer. Gradients of the bound are noisy: clip them and let the rate decay.
        steps: The number of steps.
        key: A random key; the same key gives the same run.
        batch_size: Samples a step, drawn with replacement.
        draws: Draws of the bound for each sample.
        time: How times are drawn.
        decay: The decay of the average of the parameters.
        progress: Whether to show a progress bar.
        report_every: The length of a part.

    Returns:
        The trained dequantiser and the history.

    Raises:
        TypeError: if the SDE has no Gaussian kernel.
        ValueError: if the data are floats or have another quantisation or size than the dequantiser, `batch_size`
            exceeds the data, or a count is below one.
        FloatingPointError: if the loss stops being finite; it names the step and the terms.

    Example:
        >>> import jax, jax.numpy as jnp, optax, scorefp as sfp
        >>> from scorefp import data, train
        >>> quantisation = sfp.Quantisation(2, -1.0, 1.0)
        >>> levels = data.Dataset(jnp.array([[0], [1]] * 64), quantisation)
        >>> score = sfp.GaussianMixture(jnp.zeros((1, 1)), jnp.array([0.1]), jnp.ones(1)).score(sfp.VP())
        >>> start = sfp.variational_dequantiser((1,), quantisation, layers=1, key=jax.random.key(0))
        >>> run = train.fit_dequantiser(
        ...     start, score, levels, optimizer=optax.adam(1e-2), steps=100, key=jax.random.key(1), progress=False
        ... )
        >>> run.history["loss"].shape, bool(run.history["log_prob"][-1] > 0.1)
        ((100,), True)
    """
    if data.quantisation is None:
        raise ValueError(
            "data has no quantisation; a dequantiser is trained on integer levels. Give Dataset(levels, quantisation)."
        )
    require(
        data.quantisation == dequantiser.quantisation,
        f"data has {data.quantisation}, dequantiser has {dequantiser.quantisation}; the two must be equal.",
    )
    for name, value in (("steps", steps), ("draws", draws), ("report_every", report_every)):
        require(value >= 1, f"{name} = {value}; it is at least one.")
    require(
        1 <= batch_size <= len(data),
        f"batch_size = {batch_size}; the data have {len(data)} samples. Choose a batch between 1 and that.",
    )
    params, skeleton = _split(dequantiser)
    # Copies: the loop takes over the buffers of its state.
    copy, average = jax.tree.map(jnp.copy, params), jax.tree.map(jnp.copy, params)
    state = _State(copy, average, optimizer.init(params), jnp.zeros((), jnp.int32), jnp.copy(key))
    step = _Step(skeleton, score, optimizer, time, batch_size, draws, decay)
    size = min(report_every, steps)
    history: list[dict[str, np.ndarray]] = []
    seconds: list[float] = []
    with _bar(progress) as bar:
        task = bar.add_task("training", total=steps)
        for start in range(0, steps, size):
            count = min(size, steps - start)
            begin = clock.perf_counter()
            state, records = _loop((step, data.values, jnp.asarray(count)), state, size)
            part = {name: np.asarray(values)[:count] for name, values in records.items()}
            seconds.append((clock.perf_counter() - begin) / count)
            _check_finite(part, start)
            history.append(part)
            bar.update(task, advance=count, description=f"loss {part['loss'].mean():.4g}")
    return DequantiserRun(
        dequantiser=eqx.combine(state.average, skeleton),
        history={name: np.concatenate([part[name] for part in history]) for name in history[0]},
        seconds_per_step=float(np.median(seconds[1:])) if len(seconds) > 1 else float("nan"),
    )


@eqx.filter_jit(donate="all-except-first")
def _loop(
    fixed: tuple[_Step, Int[Array, "n *event"], Int[Array, ""]], state: _State, size: int
) -> tuple[_State, dict[str, Float[Array, " size"]]]:
    """Up to `size` steps on the device; records are NaN after `count`, a value, so that it compiles once."""
    step, levels, count = fixed
    names = jax.eval_shape(step.step, state, levels)[1]
    records = jax.tree.map(lambda r: jnp.full((size,), jnp.nan, r.dtype), names)

    def body(i: Int[Array, ""], carry: tuple[_State, dict[str, Array]]) -> tuple[_State, dict[str, Array]]:
        state, records = carry
        state, values = step.step(state, levels)
        return state, {name: records[name].at[i].set(value) for name, value in values.items()}

    return jax.lax.fori_loop(0, count, body, (state, records))


def _split(dequantiser: VariationalDequantiser) -> tuple[Any, VariationalDequantiser]:
    """The arrays to train, and the rest; flowjax marks the ends of the base density as not to be trained."""
    try:
        from paramax import NonTrainable
    except ImportError:  # a flow of another library
        return eqx.partition(dequantiser, eqx.is_inexact_array)
    return eqx.partition(dequantiser, eqx.is_inexact_array, is_leaf=lambda node: isinstance(node, NonTrainable))


def _check_finite(records: dict[str, np.ndarray], start: int) -> None:
    bad = ~np.isfinite(records["loss"])
    if bad.any():
        first = int(bad.argmax())
        terms = [name for name, values in records.items() if name != "loss" and not np.isfinite(values[first])]
        raise FloatingPointError(
            f"the loss is not finite at step {start + first}; not finite are the terms {terms or 'none by itself'}. "
            "Lower the learning rate, or clip gradients."
        )


def _bar(progress: bool) -> Any:
    from rich.progress import Progress

    return Progress(disable=not progress)
