"""The likelihood of the probability-flow ODE over a set of samples, and the trajectories that explode."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._batches import in_batches
from .._checks import require
from .._module import AbstractModule
from .._types import Event, Key
from ..calculus import AbstractTrace
from ..flow import Integrator
from ..likelihood import Quantisation, bits_per_dim, flow_likelihood
from ..score import AbstractScore
from ..sde import AbstractPrior, Normal
from .configuration import described
from .measure import AbstractMeasure, CleanSamples, Estimate, Section, default_trace
from .statistics import mean_of, median_interval, share_interval

THRESHOLD = 5.0
"""Beyond so many scales of the prior a trajectory has exploded."""

WITHOUT_FAILED = "the mean is without them, the median counts them as ∞"
WITH_EXPLODED = "the mean is over all that have a value"
_NAMED = 20


class Likelihood(AbstractMeasure):
    r"""The negative log-likelihood under the probability-flow ODE [K1]: bits per dimension [K7] where the samples have
    a quantisation, nats a sample where they have none.

    A few trajectories of a trained score may leave the data and explode; they have a finite but absurd likelihood, and
    dominate the mean. Three numbers tell the story together: the **mean** with its Student-t interval over points [K8],
    the **median** with its interval by order statistics, and the **share of exploded trajectories**. A trajectory has
    exploded when

    * the solver did not get to `t1`, or got there with values that are not finite: it *failed*; or
    * its end is far out of the prior, $\big(\tfrac1D\sum_i (x_{t_1,i}/\text{scale}_i)^2\big)^{1/2} > \text{threshold}$.

    How they enter: the mean is over all trajectories that have a value, exploded or not; the median is over all
    trajectories, failed ones counted as $+\infty$. A note names exploded and failed ones by their row.

    Args:
        trace: `Exact()` or `Hutchinson(samples, law)`, with probes fixed along a trajectory. `None` is `Exact()` for
            samples of up to 16 elements and `Hutchinson()` for larger ones: unbiased for the mean, while the median
            carries the spread of the probe.
        integrator: How the ODE is solved. With `throw=True` a failed trajectory raises instead.
        samples: How many samples, drawn without replacement; all of them for `None`.
        threshold: How many scales of the prior are too far.
        batch_size: How many trajectories are solved at once. Each has its own steps, and a batch goes on until its
            slowest is done.

    Raises:
        ValueError: if `samples`, `threshold` or `batch_size` is too small.
        RuntimeError: on a call, if a solve fails and the integrator has `throw=True`.

    Example:
        >>> import jax, scorefp as sfp
        >>> from scorefp.diagnostics import CleanSamples, Likelihood
        >>> x = CleanSamples(jax.random.normal(jax.random.key(0), (400, 2)))
        >>> section = Likelihood()(sfp.Score(lambda t, x: -x, sfp.VP()), x, key=jax.random.key(1))
        >>> nats = section.numbers["negative_log_likelihood"]
        >>> bool(abs(nats.value - 2.838) < 2 * nats.error), section.numbers["exploded"].value
        (True, 0.0)
    """

    trace: AbstractTrace | None = None
    integrator: Integrator = Integrator(throw=False)
    samples: int | None = None
    threshold: float = THRESHOLD
    batch_size: int = 64

    needs_kernel: ClassVar[bool] = False

    def __check_init__(self) -> None:
        require(
            self.samples is None or self.samples >= 2,
            f"samples = {self.samples}; a confidence interval needs at least two samples.",
        )
        require(self.threshold > 0, f"threshold = {self.threshold}; it is a positive number of prior scales.")
        require(self.batch_size >= 1, f"batch_size = {self.batch_size}; at least one trajectory is solved at once.")

    def __call__(self, score: AbstractScore, x: CleanSamples, *, key: Key) -> Section:
        sample_key, scale_key, probe_key = jr.split(key, 3)
        chosen, rows = x.drawn(self.samples, key=sample_key)
        trace = default_trace(x.size) if self.trace is None else self.trace
        event = jax.ShapeDtypeStruct(chosen.values.shape[1:], chosen.values.dtype)
        scale = prior_scale(score.sde.prior, event, scale_key)
        solved = _solve(score, chosen, trace, self.integrator, scale, probe_key, self.batch_size)

        unit, failed, exploded = Unit(x.size, x.quantisation), solved.failed(), solved.exploded(self.threshold)
        name = "negative_log_likelihood" if x.quantisation is None else "bits_per_dim"
        values = unit.negative(solved.log_prob)
        median, median_error = median_interval(np.where(failed, np.inf, values))
        share, share_error = share_interval(int(exploded.sum()), exploded.size)
        return Section(
            "likelihood",
            {
                name: mean_of(values[~failed], unit.name, f"{unit.name}, mean"),
                f"median_{name}": Estimate(median, median_error, unit.name, f"{unit.name}, median"),
                "exploded": Estimate(share, share_error, "1", "share of exploded trajectories"),
                "evaluations": mean_of(np.asarray(solved.evaluations, np.float64), "1", "evaluations of the ODE, mean"),
            },
            {},
            (
                f"{exploded.size} trajectories by {solved_by(trace, self.integrator)}.",
                *named("trajectories exploded", rows[exploded], exploded.size, WITH_EXPLODED),
                *named("trajectories failed", rows[failed], exploded.size, WITHOUT_FAILED),
            ),
        )


class Unit(AbstractModule):
    """What likelihoods are told in: bits per dimension where there is a quantisation [K7], nats a sample elsewhere.

    Args:
        size: The number of elements of one sample.
        quantisation: The levels of the samples.
    """

    size: int
    quantisation: Quantisation | None

    @property
    def name(self) -> str:
        """Its name beside a number."""
        return "nats" if self.quantisation is None else "bits/dim"

    def negative(self, log_prob: Float[Array, "*batch"]) -> Float[np.ndarray, "*batch"]:
        """Negative log-likelihoods from log-likelihoods in nats."""
        if self.quantisation is None:
            return -np.asarray(log_prob, np.float64)
        return np.asarray(bits_per_dim(log_prob, self.size, self.quantisation), np.float64)

    def part(self, nats: Float[Array, "*batch"]) -> Float[np.ndarray, "*batch"]:
        """Terms of a log-likelihood, or differences of two, from nats: the width of a level has no part in them."""
        return np.asarray(nats, np.float64) / (1 if self.quantisation is None else self.size * math.log(2))


class Trajectories(AbstractModule):
    """Of each trajectory its log-likelihood, its end in scales of the prior, its evaluations and a flag."""

    log_prob: Float[Array, "*n"]
    distance: Float[Array, "*n"]
    evaluations: Int[Array, "*n"]
    success: Bool[Array, "*n"]

    def failed(self) -> Bool[np.ndarray, "*n"]:
        """Which have no value."""
        return ~(np.asarray(self.success) & np.isfinite(np.asarray(self.log_prob)))

    def exploded(self, threshold: float) -> Bool[np.ndarray, "*n"]:
        """Which failed, or ended further out than so many scales of the prior."""
        return self.failed() | ~(np.asarray(self.distance, np.float64) <= threshold)


def trajectory(
    score: AbstractScore, x: Event, scale: Event, *, trace: AbstractTrace, integrator: Integrator, key: Key
) -> Trajectories:
    """The trajectory of one sample; `scale` is that of the prior."""
    result = flow_likelihood(score, x, trace=trace, integrator=integrator, key=key)
    distance = jnp.sqrt(jnp.mean((result.latent / scale) ** 2))
    return Trajectories(result.log_prob, distance, result.evaluations, result.success)


def prior_scale(prior: AbstractPrior, event: jax.ShapeDtypeStruct, key: Key) -> Event:
    """The scale of each entry under the prior: of a normal law its own, of another the root mean square of draws."""
    if isinstance(prior, Normal):
        return jnp.broadcast_to(jnp.asarray(prior.scale, event.dtype), event.shape)
    draws = jax.vmap(lambda k: prior.sample(k, event.shape))(jr.split(key, 1024))
    return jnp.sqrt(jnp.mean(draws.astype(event.dtype) ** 2, axis=0))


def solved_by(trace: AbstractTrace, integrator: Integrator) -> str:
    """How trajectories are solved, for a note."""
    return (
        f"{described(trace)}, {type(integrator.solver).__name__} with rtol = {integrator.rtol:g}, "
        f"atol = {integrator.atol:g}"
    )


@eqx.filter_jit
def _solve(
    score: AbstractScore,
    x: CleanSamples,
    trace: AbstractTrace,
    integrator: Integrator,
    scale: Event,
    key: Key,
    batch_size: int,
) -> Trajectories:
    def one(row: Int[Array, ""]) -> Trajectories:
        own = jr.fold_in(key, row)
        return trajectory(x.bind(score, row), x.values[row], scale, trace=trace, integrator=integrator, key=own)

    return in_batches(one, x.count, batch_size)


def named(what: str, rows: Int[np.ndarray, " rows"], count: int, effect: str) -> tuple[str, ...]:
    """A note on the rows of which `what` is true, `"trajectories failed"` for example; none where there are none."""
    if rows.size == 0:
        return ()
    listed = ", ".join(map(str, np.sort(rows)[:_NAMED]))
    more = f" and {rows.size - _NAMED} more" if rows.size > _NAMED else ""
    return (f"{rows.size} of {count} {what} (rows {listed}{more}); {effect}.",)
