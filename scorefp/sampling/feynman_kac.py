"""Weighted samples: paths of the reverse process with the weights that correct their law [W1], [W4]."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from .._batches import apart, in_batches, on_mesh
from .._checks import count, function, is_concrete, kind, require, single_or_better
from .._module import AbstractModule
from .._precision import measures
from .._times import scalar_time
from .._types import Event, Key, Scalar
from ..calculus import AbstractTrace, FiniteDifference
from ..dataset.values import check_args
from ..fokker_planck import AbstractLogResidualMethod
from ..fokker_planck.residual import resolve_log
from ..reverse.steps import moved
from ..reverse.weights import (
    Rates,
    check_weighable,
    checked_exponent,
    log_end_density,
    rates_of,
    tempered,
)
from ..score import AbstractScore
from ..score.score import conditioned
from ._particles import Run, State, check_runs, warn_of_runs, weighed
from ._precision import in_its_precision
from .draw import Draws, draws_of
from .grid import Grid, default_grid, from_t1, times_of
from .sampler import AbstractPopulationSampler
from .weighted import WeightedSamples, systematic

_T = TypeVar("_T")


class FeynmanKac(AbstractPopulationSampler):
    r"""Sequential Monte Carlo along the reverse process: samples with the weights that give them the law which a
    potential or a composition of scores names [W1], [W4] (Skreta 2025).

    A run is a population of particles. They start from the prior, $x \sim \pi^B$ with $B$ the sum of the exponents of
    the parts, with the weight $e^{\varphi(t_1, x)}/\pi^B(x)$, and take Euler–Maruyama steps of

    $$ dx = \big(f - \tfrac12(1 + \eta^2)(\nabla\cdot(GG^\top) + GG^\top s)\big)\,dt + \eta\,G\,d\bar w $$

    to `t0`, where $\eta$ = `noise`: the reverse SDE for $\eta = 1$, the probability flow for $\eta = 0$. On their way
    $\log w$ falls by $r\,dt$, with the rate $r$ of `weight_rate`, by the trapezoid rule but for the last step. The
    weighted law at each time is $p_t \propto e^{\varphi(t, \cdot)}$ for every $\eta$, and the mean of the weights is
    unbiased for the ratio of normalisers, up to the order of the steps. Where the effective sample size
    $(\sum w)^2/\sum w^2$ falls below `threshold` times the particles, they are resampled (systematically), which keeps
    both.

    Linear combinations and tilts of exact scores need no potential; `weight_rate` says which rate they have. One
    evaluation of each part a step. All products are in full precision.

    **When it fails.** The variance of $\log w$ grows with the size of the residual and with the number of elements of a
    sample: in high dimension few particles carry all the weight, and resampling copies them. The curve of the effective
    sample size shows it, and a warning tells of a population of which next to nothing was left. With $\eta = 0$ copies
    never part again.

    **Sharper laws need more noise.** The paths of `Annealed(score, beta)` with $\beta > 1$ draw together more than the
    law does, and the weights are heavy-tailed where $\eta$ is small. Of a normal law on VP they have a variance for
    $\eta^2 > 2(1 - 1/\beta)$ with resampling, for $\eta^2 \ge 5.83\,(1 - 1/\beta)$ without: for $\beta = 2$ above one
    and 1.71. The effective sample size after resampling does not show it, the spread of $\log Z$ over runs does. More
    noise takes more steps.

    Args:
        steps: The number of steps.
        grid: Called as `grid(sde, steps)`: `default_grid`, even in log-SNR where the SDE is linear, `uniform_grid` or
            any function that returns `steps + 1` times which go down from `t1` to `t0`.
        noise: $\eta$, zero or more.
        residual: How the residuals of the parts are taken, which need a potential each: any method of
            `log_fpe_residual`. With `None` the parts of a composition are exact, and that of a potential by itself, and
            the derivatives of a reward, are taken by `Exact()` up to 16 elements, else by `Hutchinson()`.
        threshold: The share of the particles below which the effective sample size has them resampled, in [0, 1];
            never for zero.
        particles: The number of particles of a run.

    Raises:
        TypeError: if `residual` is no method for potentials, or `noise` or `threshold` no number of Python.
        ValueError: if `steps` or `particles` is below one, `noise` negative or not finite, or `threshold` outside
            [0, 1].

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> data = sfp.GaussianMixture(jnp.array([[-1.0], [1.0]]), jnp.array([0.1, 0.1]), jnp.array([0.3, 0.7]))
        >>> sharper = sfp.Annealed(data.score(sfp.VP()), 2.0)
        >>> x = sfp.sample(sharper, 8000, key=jax.random.key(0), method=sfp.FeynmanKac(steps=100))
        >>> bool(abs((x < 0).mean() - 0.3**2 / (0.3**2 + 0.7**2)) < 0.05)
        True
    """

    steps: int = 400
    grid: Grid = default_grid
    noise: float = eqx.field(default=1.0, static=True)
    residual: AbstractLogResidualMethod | AbstractTrace | FiniteDifference | None = None
    threshold: float = eqx.field(default=0.5, static=True)
    particles: int = 1024

    remedy: ClassVar[str] = "It is scorefp.FeynmanKac(steps=400), for example."

    def __check_init__(self) -> None:
        count("steps", self.steps, 1)
        count("particles", self.particles, 1)
        function("grid", self.grid, "sde, steps", "It is scorefp.sampling.log_snr_grid, for example.")
        for name in ("noise", "threshold"):
            kind(
                name, getattr(self, name), (int, float), "It is a number of Python, for one program is compiled for it."
            )
        require(0 <= self.noise < math.inf, f"noise = {self.noise}; it is zero or more, one for the reverse SDE.")
        require(0 <= self.threshold <= 1, f"threshold = {self.threshold}; a share of the particles lies in [0, 1].")
        if self.residual is not None:
            resolve_log(self.residual)

    def samples(
        self,
        score: AbstractScore,
        n: int,
        *,
        key: Key,
        shape: tuple[int, ...] | None,
        batch_size: int | None,
        dtype: DTypeLike | None,
        mesh: Mesh | None,
    ) -> Float[Array, "n *event"]:
        runs = math.ceil(count("n", n, 1) / self.particles)
        found = weighted_samples(
            score, runs, key=key, method=self, shape=shape, batch_size=batch_size, dtype=dtype, mesh=mesh
        )
        return found.resampled(n, key=apart(key))


def weighted_samples(
    score: AbstractScore,
    runs: int,
    *,
    key: Key,
    method: FeynmanKac = FeynmanKac(),
    shape: tuple[int, ...] | None = None,
    args: Any = None,
    batch_size: int | None = None,
    dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
) -> WeightedSamples:
    r"""Draws independent runs of particles with the weights that give them the law which the score names [W1], [W4].

    Compiled once for a configuration. A run depends on the key and its number alone, so that more runs add to those
    that were there. `sample(…, method=FeynmanKac(…))` resamples them. With `threshold=0` derivatives are those along
    the paths; where particles are resampled, what their choice depends on is left out of them.

    Args:
        score: A potential, or a composition of scores, on any SDE.
        runs: How many runs of `method.particles`; errors are estimated from the differences of runs, and from one run
            there are none.
        key: A random key; the same key gives the same samples.
        method: `FeynmanKac(…)`.
        shape: The event shape, where the score does not know it.
        args: Conditioning, a pytree of arrays with `runs` as leading axis: one for each run, where runs lead to laws of
            their own. What pools the runs has no meaning then. One for all of them is closed over,
            `score.bind(args=...)`.
        batch_size: At most how many particles at once, over all devices, for many or large ones in bounded memory; all
            of them by default.
        dtype: The precision of states and weights, float32 or better; the score is evaluated in that of its own arrays,
            in float32 at least.
        mesh: The devices that share the runs, as `data_mesh` returns them; `None` is one device.

    Returns:
        The samples with their weights, the curve of the effective sample size and $\log Z$.

    Raises:
        TypeError: if `score` is no score, or one without a potential and no composition; if `method` asks for residuals
            and a part has no potential; if `key` is no random key, `runs` or `batch_size` no integer, `shape` no
            tuple of them, `mesh` no mesh, or `dtype` not floating or of half precision.
        ValueError: if `runs` or `batch_size` is below one, the event shape is not known or not that of the score, the
            exponents of the score do not have a positive sum, `args` has another leading axis or holds NaN, the grid
            of the method does not go from `t1` down to `t0`, or `mesh` has another axis than `"data"` or is given
            inside `jit`, `vmap` or `grad`.
        RuntimeError: if all weights of a run are zero or not finite; the run, the step and the time are named where
            they are known.

    Warns:
        UserWarning: if particles were not finite, which have the weight zero; if the effective sample size of a run
            fell below one hundredth of its particles, or below ten (a tenth of fewer than a hundred).

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> data = sfp.GaussianMixture(jnp.array([[-1.0], [1.0]]), jnp.array([0.1, 0.1]), jnp.array([0.3, 0.7]))
        >>> sharper, method = sfp.Annealed(data.score(sfp.VP()), 2.0), sfp.FeynmanKac(steps=100)
        >>> found = sfp.sampling.weighted_samples(sharper, 4, key=jax.random.key(0), method=method)
        >>> left = found.mean(lambda x: (x[0] < 0).astype(x.dtype))
        >>> bool(abs(left.value - 0.3**2 / (0.3**2 + 0.7**2)) < 3 * left.error)
        True
    """
    runs = count("runs", runs, 1)
    kind("method", method, FeynmanKac)
    check_weighable(score, method.residual)
    draws = draws_of(score, runs, key=key, method=method, shape=shape, batch_size=batch_size, dtype=dtype, mesh=mesh)
    check_args(args, runs, "run {}".format, "runs = {}")
    checked_exponent(score)
    if draws.dtype is not None:
        single_or_better("dtype", jnp.zeros((), draws.dtype))
    at_once = runs * method.particles if batch_size is None else draws.batch_size
    devices = 1 if mesh is None else mesh.size
    share = max(1, at_once // devices)
    size = max(1, min(math.ceil(runs / devices), share // method.particles))
    blocks = on_mesh(_blocks, mesh, math.ceil(runs / size), draws, args, size, share)
    found = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:runs], blocks)
    return _told(found, method, mesh)


@eqx.filter_jit
def _blocks(draws: Draws, args: Any, size: int, at_once: int, mesh: Mesh | None) -> Run:
    """The runs, `size` of them in a block that goes its way together, and of blocks one on a device."""

    def block(index: Int[Array, ""]) -> Run:
        return _block(draws, args, jnp.minimum(size * index + jnp.arange(size), draws.n - 1), at_once)

    return in_batches(block, math.ceil(draws.n / size), 1 if mesh is None else mesh.size, mesh)


@measures
def _block(draws: Draws, args: Any, runs: Int[Array, " runs"], at_once: int) -> Run:
    """The runs of these numbers, at most so many particles of which are evaluated at a time."""
    method, sde = draws.method, draws.score.sde
    rates = rates_of(draws.score, method.residual, math.prod(draws.shape))
    prior_keys, steps_keys = jax.vmap(lambda run: jr.split(jr.fold_in(draws.key, run)), out_axes=1)(runs)
    x, log_proposal = _proposed(draws, prior_keys)
    times = times_of(method.grid, sde, method.steps, np.dtype(x.dtype))
    x = from_t1(method.grid, sde, times, x)
    noise = sde.diffusion(times[0], x[0, 0]).in_structure()
    way = _Way(draws.score, args, method, rates, noise, runs, at_once)
    lengths = times[:-1] - times[1:]
    # By the trapezoid rule, but for the last step, whose rate at t0 would cost an evaluation, and which some methods
    # do not have there.
    before = 0.5 * lengths.at[1:].set(lengths[:-1]).at[0].set(0.0)
    after = (0.5 * lengths).at[-1].multiply(2)
    steps = times[:-1], times[1:], before, after, jnp.arange(method.steps)
    state, ess = jax.lax.scan(lambda state, now: way.step(state, *now, steps_keys), way.start(x, log_proposal), steps)
    state, last = weighed(state, state.log_w, jnp.asarray(method.steps))
    # A particle of weight zero may be NaN, and NaN in a sum is not nothing.
    whole = jnp.argmax(state.log_w, axis=1, keepdims=True)
    whole = jnp.where(state.log_w > -jnp.inf, jnp.arange(method.particles), whole)
    state = state._replace(x=jax.vmap(lambda x, which: x[which])(state.x, whole))
    return Run(state, jnp.append(ess, last[None], axis=0).T, jnp.broadcast_to(times, (len(runs), len(times))))


def _proposed(
    draws: Draws, keys: Array
) -> tuple[Float[Array, "runs particles *event"], Float[Array, "runs particles"]]:
    """Particles of the tempered prior for each run, and their log-densities."""
    prior, exponent, n = draws.score.sde.prior, checked_exponent(draws.score), draws.method.particles
    x = jax.vmap(jax.vmap(lambda k: prior.sample(k, draws.shape)))(jax.vmap(lambda k: jr.split(k, n))(keys))
    if draws.dtype is not None:
        x = x.astype(draws.dtype)
    return jax.vmap(jax.vmap(lambda draw: tempered(prior, exponent, draw)))(x)


class _Way(AbstractModule):
    """The steps of the runs of a block. Functions of one particle take the number of its run in the block, and its own
    in the run.
    """

    score: AbstractScore
    args: Any
    method: FeynmanKac
    rates: Rates
    noise: jax.ShapeDtypeStruct
    runs: Int[Array, " runs"]
    at_once: int

    def start(self, x: Float[Array, "runs particles *event"], log_proposal: Float[Array, "runs particles"]) -> State:
        """The state of particles at `t1`."""
        none = jnp.zeros(len(self.runs), int)
        log_w = self._each(self._end_density, x) - log_proposal
        return State(x, log_w, jnp.zeros(len(self.runs), x.dtype), none, none - 1, none)

    def step(
        self,
        state: State,
        t: Scalar,
        earlier: Scalar,
        before: Scalar,
        after: Scalar,
        k: Int[Array, ""],
        keys: Array,
    ) -> tuple[State, Float[Array, " runs"]]:
        """The state at the time `earlier`, and the effective sample sizes at `t`, where particles are resampled. The
        rate there counts for the lengths `before` and `after` that.
        """
        fold = lambda key: jr.split(jr.fold_in(key, k), 3)
        rate_keys, place_keys, noise_keys = jax.vmap(fold, out_axes=1)(keys)
        s, rate = self._each(partial(self._evaluate, t, rate_keys), state.x)
        state, ess = weighed(state, state.log_w - before * rate, k)
        x, log_w = state.x, state.log_w
        if self.method.threshold > 0:
            few = (ess < self.method.threshold * self.method.particles)[:, None]
            resample = partial(self._resampled, place_keys, few, log_w)
            x, s, rate = jax.lax.cond(jnp.any(few), resample, lambda values: values, (x, s, rate))
            log_w = jnp.where(few, 0.0, log_w)
        fresh = self._noise(noise_keys) if self.method.noise > 0 else x
        move = lambda x, s, fresh, *_: moved(self.score.sde, t, earlier, x, s, self.method.noise, fresh)
        log_w = jnp.where(log_w > -jnp.inf, log_w - after * rate, -jnp.inf)
        return state._replace(x=self._each(move, x, s, fresh), log_w=log_w), ess

    def _end_density(self, x: Event, run: Int[Array, ""], _: Int[Array, ""]) -> Scalar:
        score = conditioned(self.score, self.args, self.runs[run])
        return log_end_density(score, weighable(score, x)).astype(x.dtype)

    def _evaluate(
        self, t: Scalar, keys: Array, x: Event, run: Int[Array, ""], i: Int[Array, ""]
    ) -> tuple[Event, Scalar]:
        """The score of a particle and its rate."""
        score = conditioned(self.score, self.args, self.runs[run])
        inner = weighable(score, x)
        own_key = jr.fold_in(keys[run], i) if self.rates.random else None
        s, rate = self.rates(score, scalar_time(t, inner), inner, own_key)
        return s.astype(x.dtype), rate.astype(x.dtype)

    def _resampled(
        self, keys: Array, few: Bool[Array, "runs 1"], log_w: Float[Array, "runs particles"], values: _T
    ) -> _T:
        """Values of particles, resampled in the runs where few are left."""
        n = self.method.particles
        kept = jax.vmap(lambda key, log_w: systematic(key, log_w, n))(keys, log_w)
        which = jnp.where(few, kept, jnp.arange(n))
        return jax.tree.map(lambda value: jax.vmap(lambda v, i: v[i])(value, which), values)

    def _noise(self, keys: Array) -> Float[Array, "runs particles *noise"]:
        """The noise of a step, for each particle."""
        like = self.noise
        return jax.vmap(lambda key: jr.normal(key, (self.method.particles, *like.shape), like.dtype))(keys)

    def _each(self, fn: Callable[..., Any], *values: Float[Array, "runs particles ..."]) -> Any:
        """A function of values of one particle, of each."""
        # Under one `vmap`: a network under two takes twice the time, and so does a gather, on small ones.
        flat = [value.reshape(-1, *value.shape[2:]) for value in values]
        runs, n = len(self.runs), self.method.particles
        one = lambda *value_and_place: fn(*value_and_place[:-1], *divmod(value_and_place[-1], n))
        if self.at_once >= runs * n:
            found = jax.vmap(one)(*flat, jnp.arange(runs * n))
        else:
            found = in_batches(lambda i: one(*(value[i] for value in flat), i), runs * n, self.at_once)
        return jax.tree.map(lambda leaf: leaf.reshape(runs, n, *leaf.shape[1:]), found)


def weighable(score: AbstractScore, x: Event) -> Event:
    """A state in the score's own precision, or in float32 where that is less."""
    inner = in_its_precision(score, x)
    return inner.astype(jnp.promote_types(inner.dtype, jnp.float32))


def _told(found: Run, method: FeynmanKac, mesh: Mesh | None) -> WeightedSamples:
    """The runs as they are returned; raises where one has no particle left, and warns where few are."""
    state, ess, times = found.state, found.ess, found.times[0]
    if all(map(is_concrete, jax.tree.leaves(found))):
        check_runs(state, times)
        if mesh is None or jax.process_index() == 0:
            warn_of_runs(state, ess, times, method.threshold)
    else:
        message = "all weights of a run are zero or not finite; outside jit, vmap and grad its step and time are named."
        state = state._replace(x=eqx.error_if(state.x, jnp.any(state.failed >= 0), message))
    log_weights = state.log_w + (state.log_z - jnp.max(state.log_z))[:, None]
    log_weights = log_weights - jax.nn.logsumexp(log_weights)
    return WeightedSamples(state.x, log_weights, times, ess, state.log_z)
