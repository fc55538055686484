"""The likelihood of the probability-flow ODE over a set of samples, and the trajectories that explode."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from .._checks import positive
from .._describe import described
from .._module import AbstractModule
from .._types import Event, Key
from ..calculus import AbstractTrace
from ..calculus.probes import default_trace
from ..dataset import AbstractDequantiser, Dataset
from ..likelihood import flow_likelihood
from ..reverse import Integrator
from ..reverse._explosion import EXPLODED, distance, end_scale
from ..score import AbstractScore
from ..sde import AbstractLinearSDE
from ._intervals import mean_number, median_interval, share_interval
from ._repeats import Unit, check_samples, in_repeats, own_dequantiser, told
from .measure import AbstractMeasure, Number, Section

_WITHOUT_FAILED = "the mean is without them, the median counts them as ∞"
_WITH_EXPLODED = "the mean is over all that have a value"
_MOST_NAMED = 20


class Likelihood(AbstractMeasure):
    r"""The negative log-likelihood under the probability-flow ODE [K1]: bits per dimension [K7] where the samples have
    a quantisation, nats a sample where they have none.

    A few trajectories of a trained score may leave the data and explode; they have a finite but absurd likelihood, and
    dominate the mean. Three numbers belong together: the **mean** with its Student-t interval over points [K8],
    the **median** with its interval by order statistics, and the **share of exploded trajectories**. A trajectory has
    exploded when

    * the solver did not get to `t1`, or got there with values that are not finite: it *failed*; or
    * its end is far out, $\big(\tfrac1D\sum_i (x_{t_1,i}/\text{scale}_i)^2\big)^{1/2} > \text{threshold}$, in scales of
      the prior and of where a linear SDE takes the data: $\text{scale}^2 = s^2 + \alpha(t_1)^2 m^2$ with $s$ that of
      the prior and $m$ the root mean square of the entries of a typical sample. A process that does not reach its prior
      makes none explode: `PriorDivergence` tells of it.

    How they enter: the mean is over all samples that have a value, exploded or not; the median is over all samples, one
    with a failed trajectory counted as $+\infty$. A note names both by their row.

    Args:
        trace: `Exact()` or `Hutchinson(samples, law)`, with probes fixed along a trajectory. `None` is `Exact()` for
            samples of up to 16 elements and `Hutchinson()` for larger ones: unbiased for the mean, while the median
            carries the spread of the probe.
        integrator: The solver of the ODE. With `throw=True` a failed trajectory raises instead.
        samples: How many samples, drawn without replacement; all of them for `None`.
        threshold: How many scales are too far.
        batch_size: How many trajectories are solved at once, over all devices. Each has its own steps, and the share of
            a device in a batch runs until its slowest is done.
        repeats: How often each sample is taken, with its own probes; its value is the mean. Levels are dequantised
            anew each time.
        dequantiser: The noise inside levels; its term, which stands beside the mean, is part of it, so that the code
            length of the levels is bounded (Song 2021, Eq. 13). `None` is uniform noise, whose term is zero.

    Raises:
        ValueError: if `samples`, `threshold`, `batch_size` or `repeats` is too small; on a call, if a dequantiser is
            given for floats, or has another quantisation than the data.
        RuntimeError: on a call, if a solve fails and the integrator has `throw=True`.

    Example:
        >>> import jax, scorefp as sfp
        >>> x = jax.random.normal(jax.random.key(0), (400, 2))
        >>> section = sfp.diagnostics.Likelihood()(sfp.Score(lambda t, x: -x, sfp.VP()), x, key=jax.random.key(1))
        >>> nats = section.numbers["negative_log_likelihood"]
        >>> bool(abs(nats.value - 2.838) < 2 * nats.half_width), section.numbers["exploded"].value
        (True, 0.0)
    """

    trace: AbstractTrace | None = None
    integrator: Integrator = Integrator(throw=False)
    samples: int | None = None
    threshold: float = EXPLODED
    batch_size: int = 64
    repeats: int = 1
    dequantiser: AbstractDequantiser | None = None

    needs_kernel: ClassVar[bool] = False

    def __check_init__(self) -> None:
        check_samples(self.samples, self.batch_size, self.repeats)
        positive("threshold", self.threshold)

    @property
    def needs_levels(self) -> bool:
        return self.repeats > 1 or self.dequantiser is not None

    def section(self, score: AbstractScore, data: Dataset, *, key: Key, mesh: Mesh | None) -> Section:
        sample_key, scale_key, probe_key = jr.split(key, 3)
        chosen, rows = data.drawn(self.samples, key=sample_key)
        trace = default_trace(data.size) if self.trace is None else self.trace
        dtype = jnp.result_type(float) if chosen.levels is not None else chosen.values.dtype
        sde, event = score.sde, jax.ShapeDtypeStruct(data.shape, dtype)
        # Where another SDE takes the data is not known.
        reached = float(sde.alpha(sde.t1)) * _typical_size(chosen) if isinstance(sde, AbstractLinearSDE) else 0.0
        scale = end_scale(sde.prior, event, scale_key, reached)
        dequantiser = own_dequantiser(data, self.dequantiser)
        solved, log_noise = in_repeats(
            _Solve(trace, self.integrator, scale),
            score,
            chosen,
            dequantiser,
            self.repeats,
            key=probe_key,
            batch_size=self.batch_size,
            mesh=mesh,
        )

        unit, failed, exploded = Unit(data.size, data.quantisation), solved.failed(), solved.exploded(self.threshold)
        name = "negative_log_likelihood" if data.quantisation is None else "bits_per_dim"
        log_prob = jnp.where(failed, 0, solved.log_prob - log_noise)
        values = np.where(failed, np.nan, unit.negative(log_prob)).mean(axis=0)
        evaluations = np.asarray(solved.evaluations, np.float64).mean(axis=0)
        without = np.isnan(values)
        median, median_error = median_interval(np.where(without, np.inf, values))
        share, share_error = share_interval(float(exploded.mean(axis=0).sum()), values.size)
        numbers = {
            name: mean_number(values[~without], unit.name, f"{unit.name}, mean"),
            f"median_{name}": Number(median, median_error, unit.name, f"{unit.name}, median"),
            "exploded": Number(share, share_error, "1", "share of exploded trajectories"),
            "evaluations": mean_number(evaluations, "1", "evaluations of the ODE, mean"),
        }
        points = {name: values, "exploded": exploded.mean(axis=0), "evaluations": evaluations}
        if self.dequantiser is not None:
            points["dequantisation"] = unit.part(log_noise).mean(axis=0)
            numbers["dequantisation"] = mean_number(
                points["dequantisation"], unit.name, "dequantisation term of the mean"
            )
        return Section(
            "likelihood",
            numbers,
            {},
            (
                f"{told(len(chosen), self.repeats, dequantiser)} by {described(trace)} and {_solver(self.integrator)}. "
                f"A trajectory has exploded if its solve failed, or if it ends beyond {self.threshold:g} scales of the "
                "prior and the diffused data.",
                *_named("have an exploded trajectory", rows[exploded.any(axis=0)], rows.size, _WITH_EXPLODED),
                *_named("have a failed trajectory", rows[failed.any(axis=0)], rows.size, _WITHOUT_FAILED),
            ),
            points,
        )


class Trajectories(AbstractModule):
    """The log-likelihood of each trajectory, its end in the scales there, its evaluations and a flag."""

    log_prob: Float[Array, "*n"]
    distance: Float[Array, "*n"]
    evaluations: Int[Array, "*n"]
    success: Bool[Array, "*n"]

    def failed(self) -> Bool[np.ndarray, "*n"]:
        """The trajectories without a value."""
        return ~(np.asarray(self.success) & np.isfinite(np.asarray(self.log_prob)))

    def exploded(self, threshold: float) -> Bool[np.ndarray, "*n"]:
        """The trajectories that failed, or ended further out than so many scales."""
        return self.failed() | ~(np.asarray(self.distance, np.float64) <= threshold)


class _Solve(AbstractModule):
    """The trajectory of one sample; `scale` is that of its end."""

    trace: AbstractTrace
    integrator: Integrator
    scale: Event

    def __call__(self, score: AbstractScore, x: Event, key: Key) -> Trajectories:
        result = flow_likelihood(score, x, trace=self.trace, integrator=self.integrator, key=key)
        far = distance(result.latent, self.scale)
        return Trajectories(result.log_prob, far, result.evaluations, result.success)


def _typical_size(data: Dataset) -> float:
    """The median over samples of the root mean square of their entries, which a few far out do not change."""
    x = np.asarray(data.values)
    if data.levels is not None:
        x = data.levels.low + (x + 0.5) * data.levels.width
    return float(np.sqrt(np.median(np.mean(x.reshape(len(x), -1).astype(np.float64) ** 2, axis=1))))


def _solver(integrator: Integrator) -> str:
    return f"{type(integrator.solver).__name__}, rtol = {integrator.rtol:g}, atol = {integrator.atol:g}"


def _named(what: str, rows: Int[np.ndarray, " rows"], count: int, effect: str) -> tuple[str, ...]:
    """A note on the samples that `have a failed trajectory`, for example; none where there are none."""
    if rows.size == 0:
        return ()
    listed = ", ".join(map(str, np.sort(rows)[:_MOST_NAMED]))
    more = f" and {rows.size - _MOST_NAMED} more" if rows.size > _MOST_NAMED else ""
    return (f"{rows.size} of {count} samples {what} (rows {listed}{more}); {effect}.",)
