"""Training a dequantiser against a frozen score [K7]."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float, Int

from .._checks import count, flag, kind, number, random_key, require
from .._devices import check_mesh, everywhere, local, per_device_batch, shared
from .._module import AbstractModule
from .._types import Key, MaybeNaN, Scalar
from ..dataset import Dataset
from ..dataset.dataset import as_dataset
from ..integrals import AbstractTimeSampler, UniformLogSNR
from ..likelihood import BoundEstimator, VariationalDequantiser, likelihood_bound
from ..score import AbstractScore
from .batches import Samples, batches_of, drawn
from .loop import Records, Span, TrainState, check_optimizer, descended, spans, started, whole
from .report import Console


class DequantiserRun(AbstractModule):
    """The result of the training of a dequantiser.

    Args:
        dequantiser: The dequantiser with averaged parameters; this is the one to use.
        history: At every step the loss in nats of a sample, `"loss"`, its two terms, `"bound"` and `"log_prob"`, and
            the norm of the gradient, `"gradient_norm"`.
        seconds_per_step: The median over the parts of the run after the first, which holds the compilation; NaN if
            there was only one part.
    """

    dequantiser: VariationalDequantiser
    history: dict[str, Float[np.ndarray, " steps"]]
    seconds_per_step: MaybeNaN


class _Step(AbstractModule):
    """One step: draw levels, estimate the loss and its gradient, update the flow."""

    skeleton: VariationalDequantiser
    score: AbstractScore
    optimizer: optax.GradientTransformation = eqx.field(static=True)
    estimator: BoundEstimator
    batch_size: int = eqx.field(static=True)
    decay: float
    mesh: Mesh | None = eqx.field(static=True)

    def step(self, state: TrainState, samples: Samples, i: Int[Array, ""]) -> tuple[TrainState, Records]:
        index_key, draw_key, bound_key = jr.split(jr.fold_in(state.key, state.step), 3)
        k, args = drawn(samples, i, self.batch_size, index_key)
        keys = jr.split(draw_key, self.batch_size), jr.split(bound_key, self.batch_size)
        k, args, keys = shared((k, args, keys), self.mesh)

        def loss(params: Any) -> tuple[Scalar, dict[str, Scalar]]:
            dequantiser = eqx.combine(params, self.skeleton)

            def terms(k: Array, args: Any, draw_key: Key, bound_key: Key) -> tuple[Scalar, Scalar]:
                # The data set checked the levels. A sample that is not finite would raise below, before the loss, which
                # is not finite either, could name the step.
                inside = dequantiser.inside(k, key=draw_key)
                score, x = self.score.bind(args=args), jnp.nan_to_num(inside.x)
                return likelihood_bound(score, x, key=bound_key, estimator=self.estimator), inside.log_prob

            bound, log_prob = jax.tree.map(jnp.mean, jax.vmap(terms)(k, args, *keys))
            return bound + log_prob, {"bound": bound, "log_prob": log_prob}

        (value, terms), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        grads = everywhere(grads, self.mesh)
        return descended(state, value, terms, grads, self.optimizer, (self.decay,))


def fit_dequantiser(
    dequantiser: VariationalDequantiser,
    score: AbstractScore,
    data: Dataset | ArrayLike,
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    key: Key,
    batch_size: int = 128,
    draws: int = 1,
    time: AbstractTimeSampler = UniformLogSNR(),
    decay: float = 0.999,
    mesh: Mesh | None = None,
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
        dequantiser: The starting point.
        score: A score on a linear SDE; nothing of it changes.
        data: Levels with the quantisation of the dequantiser.
        optimizer: An optax optimizer. Gradients of the bound are noisy: clip them and let the rate decay.
        steps: The number of steps.
        key: A random key; the same key gives the same run.
        batch_size: Samples a step, over all devices, drawn with replacement.
        draws: Draws of the bound for each sample.
        time: How times are drawn.
        decay: The decay of the average of the parameters.
        mesh: The devices that share a batch, as `data_mesh` returns them; `None` is one device. The run is the same up
            to rounding. With several processes each makes the call, with the same arguments, and has the result.
        progress: Whether to show a progress bar.
        report_every: The length of a part.

    Returns:
        The trained dequantiser and the history.

    Raises:
        TypeError: if the SDE has no Gaussian kernel.
        ValueError: if the data are floats or have another quantisation or size than the dequantiser, `batch_size`
            exceeds the data or does not divide among the devices, a count is below one, or `mesh` has another axis than
            `"data"`.
        FloatingPointError: if the loss, its gradient, the parameters or the optimizer's state stop being finite; it
            names the step and the terms or arrays.

    Example:
        >>> import jax, jax.numpy as jnp, optax, scorefp as sfp
        >>> from scorefp import data, train
        >>> quantisation = sfp.Quantisation(2, -1.0, 1.0)
        >>> levels = data.Dataset(jnp.array([[0], [1]] * 64), quantisation)
        >>> score = sfp.GaussianMixture(jnp.zeros((1, 1)), jnp.array([0.1]), jnp.ones(1)).score(sfp.VP())
        >>> start = sfp.likelihood.variational_dequantiser((1,), quantisation, layers=1, key=jax.random.key(0))
        >>> run = train.fit_dequantiser(
        ...     start, score, levels, optimizer=optax.adam(1e-2), steps=100, key=jax.random.key(1), progress=False
        ... )
        >>> run.history["loss"].shape, bool(run.history["log_prob"][-1] > 0.1)
        ((100,), True)
    """
    remedy = "It is a variational one, for example scorefp.likelihood.variational_dequantiser(…)."
    kind("dequantiser", dequantiser, VariationalDequantiser, remedy)
    check_optimizer(optimizer)
    check_mesh(mesh)
    key, steps = random_key("fit_dequantiser", key), count("steps", steps, 1)
    report_every, batch_size = count("report_every", report_every, 1), count("batch_size", batch_size, 1)
    per_device_batch(batch_size, mesh)
    require(0 <= number("decay", decay) < 1, f"decay = {decay}; it lies in [0, 1).")
    flag("progress", progress)
    data = as_dataset(data)
    if data.levels is None:
        raise ValueError(
            f"data has no {'quantisation' if data.quantisation is None else 'levels, but floats'}; a dequantiser is "
            "trained on integer levels. Give Dataset(levels, quantisation)."
        )
    require(
        data.levels == dequantiser.quantisation,
        f"data has {data.levels}, dequantiser has {dequantiser.quantisation}; the two must be equal.",
    )
    estimator = BoundEstimator(draws, time)
    params, skeleton = _parted(dequantiser)
    batches = batches_of(data, batch_size, min(report_every, steps), mesh, key=key)
    step = _Step(skeleton, score, optimizer, estimator, batch_size, decay, mesh)
    step, state = everywhere((step, started(params, optimizer, 1, key=key)), mesh)
    seen = list[Span]()
    run = spans(step.step, state, batches, start=0, steps=steps, report_every=report_every)
    with Console(0, steps, shown=progress and jax.process_index() == 0) as console:
        for state, span in run:  # noqa: B007
            seen.append(span)
            console(span)
    return DequantiserRun(eqx.combine(local(state.averages[0]), skeleton), *whole(seen))


def _parted(dequantiser: VariationalDequantiser) -> tuple[Any, VariationalDequantiser]:
    """The arrays to train, and the rest; flowjax marks the ends of the base density as not to be trained."""
    try:
        from paramax import NonTrainable
    except ImportError:  # a flow of another library
        return eqx.partition(dequantiser, eqx.is_inexact_array)
    return eqx.partition(dequantiser, eqx.is_inexact_array, is_leaf=lambda node: isinstance(node, NonTrainable))
