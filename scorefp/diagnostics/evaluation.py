"""The likelihood of a score on a data set, as a paper reports it [K1], [K3], [K7], [K8]."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Shaped

from .._checks import finite, floating, require, same_shape
from .._module import AbstractModule
from .._types import Event, Key
from ..calculus import AbstractTrace
from ..flow import Integrator
from ..likelihood import AbstractDequantiser, Quantisation, UniformDequantiser, evaluate_bound
from ..score import AbstractScore
from ..sde import AbstractLinearSDE
from .audit import AuditData
from .configuration import Json, configuration, described, fields, plain
from .likelihood import (
    THRESHOLD,
    WITH_EXPLODED,
    WITHOUT_FAILED,
    Trajectories,
    Unit,
    named,
    prior_scale,
    solved_by,
    trajectory,
)
from .measure import CleanSamples, Estimate, check_args, conditioned, default_trace
from .statistics import mean_of, median_interval, share_interval
from .table import heading


class Evaluation(AbstractModule):
    """What `evaluate` found. `str` is a table.

    Args:
        numbers: The means and shares, by name.
        points: The values of each sample, averaged over its repeats, by the same names; NaN for a sample with a failed
            trajectory. Two scores evaluated with one key are compared by the differences of theirs.
        notes: How the numbers were taken, and what went wrong.
        configuration: Versions, score, samples, key and settings.
    """

    numbers: dict[str, Estimate]
    points: dict[str, Float[np.ndarray, " n"]]
    notes: tuple[str, ...]
    configuration: dict[str, Json]

    def __str__(self) -> str:
        width = max(len(number.label) for number in self.numbers.values())
        lines = [f"{number.label:{width}}   {number}" for number in self.numbers.values()]
        return "\n".join((heading("Evaluation", self.configuration), "", *lines, "", *self.notes))

    def to_dict(self) -> dict[str, Json]:
        """All numbers, notes and settings as plain values; what is not finite is `None`."""
        return {
            "configuration": self.configuration,
            "numbers": {name: fields(number) for name, number in self.numbers.items()},
            "notes": list(self.notes),
        }


def evaluate(
    score: AbstractScore,
    data: ArrayLike | CleanSamples | AuditData,
    *,
    key: Key,
    dequantiser: AbstractDequantiser | None = None,
    repeats: int = 1,
    trace: AbstractTrace | None = None,
    integrator: Integrator = Integrator(throw=False),
    draws: int = 64,
    batch_size: int = 64,
    progress: bool = True,
) -> Evaluation:
    r"""The negative log-likelihood of the probability-flow ODE [K1] and the bound of the reverse SDE [K3], [K4] on a
    data set: bits per dimension where the data have a quantisation [K7], nats a sample where they have none.

    Levels are dequantised, $x = \text{low} + (k + u)\,w$ with $u \sim q(u \mid k)$, and both numbers have the
    dequantisation term $E[\log q(u \mid k)]$ added (Song 2021, Eq. 13), so that they bound the code length of the
    levels. Range and levels come from the data and from nowhere else.

    The numbers, each with its Student-t 95 % interval over samples, whose values are averaged over their repeats first
    [K8]:

    * `nll`, the mean for the ODE, and `nll_median`;
    * `bound`, the mean for the SDE; left out where the SDE has no Gaussian kernel;
    * `dequantisation`, the term that the two hold; zero for uniform noise, left out for floats;
    * `exploded`, the share of trajectories that `Likelihood` calls exploded. A failed one has no value: its sample is
      not in the mean and counts as $+\infty$ in the median.

    It runs from the host, batch by batch in bounded memory, and is compiled once. Each repeat of a sample has its own
    noise, probe and times, by the key, its row and the repeat: the numbers are the same for every `batch_size`, up to
    rounding.

    Args:
        score: Any score.
        data: A data set such as `scorefp.data.Dataset`, with its quantisation and conditioning; or clean samples as
            floats, stacked along the leading axis.
        key: A random key.
        dequantiser: How levels become floats; uniform noise for `None`.
        repeats: How often each sample is evaluated.
        trace: `Exact()` or `Hutchinson(samples, law)`. `None` is `Exact()` for samples of up to 16 elements and
            `Hutchinson()` for larger ones.
        integrator: How the ODE is solved. With `throw=True` a failed trajectory raises.
        draws: Times a sample for the bound.
        batch_size: How many samples are taken at once, each with all its draws.
        progress: Whether to show a progress bar.

    Returns:
        The evaluation: `print` it, or look up `evaluation.numbers["nll"].value`.

    Raises:
        TypeError: if the data are integers without a quantisation.
        ValueError: if there are fewer than two samples, one is not finite or has another shape than the score, a
            dequantiser comes with floats or has another quantisation than the data, or `repeats`, `draws` or
            `batch_size` is below one.
        RuntimeError: if a solve fails and the integrator has `throw=True`.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> from scorefp.data import Dataset
        >>> from scorefp.diagnostics import evaluate
        >>> levels = jax.random.randint(jax.random.key(0), (200, 2), 0, 4)
        >>> data = Dataset(levels, sfp.Quantisation(4, -2.0, 2.0))
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> found = evaluate(standard, data, key=jax.random.key(1), progress=False)
        >>> nll = found.numbers["nll"]  # of samples uniform on [-2, 2] under a standard normal law
        >>> want = (jnp.log(2 * jnp.pi) / 2 + 2 / 3) / jnp.log(2.0)
        >>> nll.unit, bool(abs(nll.value - want) < 2 * nll.error)
        ('bits/dim', True)
    """
    for name, value in {"repeats": repeats, "draws": draws, "batch_size": batch_size}.items():
        require(value >= 1, f"{name} = {value}; it is at least 1.")
    samples, quantisation = _samples(data, dequantiser)
    values = samples.values
    count, shape = values.shape[0], values.shape[1:]
    if score.shape is not None:
        same_shape("a sample of data", shape, "the score's own", score.shape)
    trace = default_trace(math.prod(shape)) if trace is None else trace
    scale_key, own_key = jr.split(key)
    dtype = jnp.result_type(float) if samples.dequantiser is not None else values.dtype
    task = _Task(
        score,
        samples,
        prior_scale(score.sde.prior, jax.ShapeDtypeStruct(shape, dtype), scale_key),
        trace,
        integrator,
        draws,
        own_key,
    )
    found = jax.tree.map(
        lambda leaf: leaf.reshape(repeats, count), _on_host(task, count, repeats, batch_size, progress)
    )

    unit = Unit(math.prod(shape), quantisation)
    failed, exploded = found.trajectory.failed(), found.trajectory.exploded(THRESHOLD)
    points = {"nll": np.where(failed, np.nan, unit.negative(found.trajectory.log_prob - found.dequantisation))}
    if found.bound is not None:
        points["bound"] = unit.negative(-found.bound - found.dequantisation)
    if samples.dequantiser is not None:
        points["dequantisation"] = unit.part(found.dequantisation)
    points = {name: np.mean(value, axis=0) for name, value in points.items()}
    settings = {
        **configuration(score, values, quantisation, key),
        "dequantiser": plain(samples.dequantiser),
        "repeats": repeats,
        "trace": plain(trace),
        "integrator": plain(integrator),
        "draws": draws,
    }
    notes = (
        f"{repeats} {'repeat' if repeats == 1 else 'repeats'} of each sample; "
        f"trajectories by {solved_by(trace, integrator)}.",
        _note_on_bound(task),
        *([] if samples.dequantiser is None else [_note_on_levels(samples.dequantiser)]),
        *named("samples have an exploded trajectory", np.flatnonzero(exploded.any(axis=0)), count, WITH_EXPLODED),
        *named("samples have a failed trajectory", np.flatnonzero(failed.any(axis=0)), count, WITHOUT_FAILED),
    )
    return Evaluation(_numbers(points, exploded, unit.name), points, notes, settings)


class _Samples(AbstractModule):
    """Floats, or levels with what dequantises them."""

    values: Shaped[Array, "n *event"]
    args: Any
    dequantiser: AbstractDequantiser | None


class _Task(AbstractModule):
    """All that the value of a sample depends on."""

    score: AbstractScore
    samples: _Samples
    scale: Event
    trace: AbstractTrace
    integrator: Integrator
    draws: int
    key: Key

    def __call__(self, row: Int[Array, ""], repeat: Int[Array, ""]) -> "_Found":
        noise_key, probe_key, bound_key = jr.split(jr.fold_in(jr.fold_in(self.key, repeat), row), 3)
        x, dequantisation = self.samples.values[row], jnp.zeros((), self.scale.dtype)
        if (dequantiser := self.samples.dequantiser) is not None:
            u, dequantisation = dequantiser.positions(x, key=noise_key)
            x = dequantiser.quantisation.place(x, u)
        score, bound = conditioned(self.score, self.samples.args, row), None
        if isinstance(score.sde, AbstractLinearSDE):
            bound = evaluate_bound(score, x, key=bound_key, draws=self.draws).value
        solved = trajectory(score, x, self.scale, trace=self.trace, integrator=self.integrator, key=probe_key)
        return _Found(solved, bound, dequantisation)


class _Found(AbstractModule):
    """Of each sample its trajectory, its bound and its dequantisation term, in nats."""

    trajectory: Trajectories
    bound: Float[Array, "*n"] | None
    dequantisation: Float[Array, "*n"]


def _samples(
    data: ArrayLike | CleanSamples | AuditData, dequantiser: AbstractDequantiser | None
) -> tuple[_Samples, Quantisation | None]:
    if isinstance(data, CleanSamples | AuditData):
        values, quantisation, args = jnp.asarray(data.values), data.quantisation, data.args
    else:
        values, quantisation, args = jnp.asarray(data), None, None
    require(
        values.ndim >= 1 and values.shape[0] >= 2,
        f"data has shape {values.shape}; an evaluation needs at least two samples, stacked along the leading axis, for "
        "its confidence intervals.",
    )
    args = jax.tree.map(jnp.asarray, args)
    check_args(args, values.shape[0])
    if jnp.issubdtype(values.dtype, jnp.floating) or quantisation is None:
        require(
            dequantiser is None,
            f"dequantiser is a {type(dequantiser).__name__}, but the data have no levels to dequantise. Give levels "
            "with their quantisation, as a Dataset, or leave the dequantiser out.",
        )
        return _Samples(finite("data", floating("data", values)), args, None), quantisation
    if dequantiser is None:
        dequantiser = UniformDequantiser(quantisation)
    require(
        _ends(dequantiser.quantisation) == _ends(quantisation),
        f"the dequantiser has the quantisation {described(dequantiser.quantisation)}, the data have "
        f"{described(quantisation)}. Build the dequantiser from that of the data.",
    )
    return _Samples(quantisation.checked_levels(values), args, dequantiser), quantisation


def _ends(quantisation: Quantisation) -> tuple[int, float, float]:
    return quantisation.levels, quantisation.low, quantisation.high


def _on_host(task: _Task, count: int, repeats: int, batch_size: int, progress: bool) -> _Found:
    """All repeats of all samples, one repeat after the other.

    The batches are of one size, so that one program serves them all. The last one is filled up by its last sample.
    """
    from rich.progress import Progress

    total = count * repeats
    batches = math.ceil(total / batch_size)
    size = math.ceil(total / batches)
    parts: list[_Found] = []
    with Progress(disable=not progress) as bar:
        shown = bar.add_task("evaluating", total=total)
        for start in range(0, total, size):
            indices = np.minimum(np.arange(start, start + size), total - 1)
            part = _batch(task, jnp.asarray(indices % count), jnp.asarray(indices // count))
            parts.append(jax.tree.map(lambda leaf, left=total - start: np.asarray(leaf)[:left], part))
            bar.advance(shown, min(size, total - start))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


@eqx.filter_jit
def _batch(task: _Task, rows: Int[Array, " batch"], repeats: Int[Array, " batch"]) -> _Found:
    return jax.vmap(task)(rows, repeats)


def _numbers(
    points: dict[str, Float[np.ndarray, " n"]], exploded: Bool[np.ndarray, "repeats n"], unit: str
) -> dict[str, Estimate]:
    nll = points["nll"]
    failed = np.isnan(nll)
    median, median_error = median_interval(np.where(failed, np.inf, nll))
    share, share_error = share_interval(float(exploded.mean(axis=0).sum()), nll.size)
    numbers = {
        "nll": mean_of(nll[~failed], unit, "NLL of the ODE, mean"),
        "nll_median": Estimate(median, median_error, unit, "NLL of the ODE, median"),
    }
    if "bound" in points:
        numbers["bound"] = mean_of(points["bound"], unit, "bound of the SDE, mean")
    if "dequantisation" in points:
        numbers["dequantisation"] = mean_of(points["dequantisation"], unit, "dequantisation term of both")
    numbers["exploded"] = Estimate(share, share_error, "1", "share of exploded trajectories")
    return numbers


def _note_on_bound(task: _Task) -> str:
    sde = task.score.sde
    if isinstance(sde, AbstractLinearSDE):
        return f"The bound is by {task.draws} draws of a time for each, with the denoising step at t0."
    return f"Left out: the bound; it needs a Gaussian kernel, which {type(sde).__name__} has not."


def _note_on_levels(dequantiser: AbstractDequantiser) -> str:
    levels = dequantiser.quantisation
    return (
        f"{levels.levels} levels on [{levels.low:g}, {levels.high:g}], dequantised by a {type(dequantiser).__name__}."
    )
