"""The solver of the probability-flow ODE, for the likelihood and for its samples alike [F0]."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, ArrayLike, Float, Int

from .._checks import is_concrete, kind, positive, require, single_or_better
from .._module import AbstractModule
from .._precision import measures
from .._times import known_time_within, scalar_time
from .._types import Event, Flag, Key, Scalar, Time
from ..calculus import AbstractTrace, Hutchinson, value_and_divergence
from ..calculus.probes import Made, Probes
from ..score import AbstractScore
from ..score._rounding import tell_of_rounding
from ..score.score import require_score, sample_of
from ..sde import AbstractLinearSDE, AbstractSDE


class Solved(AbstractModule):
    """The end of a solve.

    Args:
        state: The state at the last time; NaN everywhere when the solve failed with `throw=False`.
        evaluations: The number of evaluations of the vector field.
        success: Whether the solver got to the last time with finite values.
    """

    state: Any
    evaluations: Int[Array, ""]
    success: Flag


class Integrator(AbstractModule):
    r"""A solver of an ODE along the probability flow: an adaptive Runge–Kutta method of `diffrax`.

    A step is kept when the root mean square, over all entries of the state, of $\text{error} / (\text{atol} +
    \text{rtol}\,|y|)$ is below one; in a batch with common steps, when it is for each sample. Time and state have the
    dtype of the sample.

    For a linear SDE steps are taken in $s = \mathrm{arsinh}(2\sigma/\alpha)$: the noise level near data of about half a
    unit's size, where the flow has no singularity in it as it has in $t$, and the log-SNR far from data [S7].

    Args:
        solver: A Runge–Kutta method with an error estimate, such as `diffrax.Dopri8()` for tight tolerances in float64.
        rtol: The relative tolerance of one step.
        atol: The absolute tolerance of one step.
        max_steps: The most steps, kept or refused.
        adjoint: How the solve is differentiated: `RecursiveCheckpointAdjoint()` (reverse mode, exact for the steps
            taken), `DirectAdjoint()` (forward mode too), `BacksolveAdjoint()` (the continuous adjoint: little memory, a
            gradient off by the tolerance; only of what the score holds in its fields, not of what its function closes
            over), `ForwardMode()`.
        throw: Whether a failed solve raises. If not, its results are NaN; `flow_likelihood` returns the flag as well.

    Raises:
        TypeError: if `solver` is not a Runge–Kutta method of one tableau, `adjoint` none of diffrax, or a tolerance or
            `max_steps` no number.
        ValueError: if a tolerance is not positive and finite, or `max_steps` not positive.
        RuntimeError: on a solve, if `max_steps` run out or a value is not finite, unless `throw=False`.

    Example:
        >>> import diffrax, jax.numpy as jnp, scorefp as sfp
        >>> score = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> loose = sfp.Integrator(diffrax.Bosh3(), rtol=1e-2, atol=1e-2)
        >>> round(float(sfp.log_likelihood(score, jnp.zeros(2), integrator=loose)), 3)
        -1.838
    """

    remedy: ClassVar[str] = "It is scorefp.Integrator(), for example."

    solver: diffrax.AbstractRungeKutta = diffrax.Tsit5()
    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 4096
    adjoint: diffrax.AbstractAdjoint = diffrax.RecursiveCheckpointAdjoint()
    throw: bool = True

    def __check_init__(self) -> None:
        tableau = None if isinstance(self.solver, type) else getattr(self.solver, "tableau", None)
        if not isinstance(tableau, diffrax.ButcherTableau):
            raise TypeError(
                f"solver is a {type(self.solver).__name__}; the step size follows an error estimate, so it must be a "
                "Runge–Kutta method of one tableau, such as diffrax.Tsit5(), Dopri5(), Dopri8() or Kvaerno5()."
            )
        positive("rtol", self.rtol)
        positive("atol", self.atol)
        adjoint = "It is diffrax.RecursiveCheckpointAdjoint() or another of diffrax."
        kind("adjoint", self.adjoint, diffrax.AbstractAdjoint, adjoint)
        require(self.max_steps >= 1, f"max_steps = {self.max_steps}; a solve needs at least one step.")

    @measures
    def solve(
        self,
        field: Callable[[Any, Any, Any], Any],
        state: Any,
        args: Any,
        *,
        start: Time,
        stop: Time,
        first: Float[ArrayLike, ""],
        norm: Callable[[Any], Scalar] = optx.rms_norm,
        times: tuple[Time, Time] | None = None,
    ) -> Solved:
        """Solves `dy/dt = field(t, y, args)` from `start` to `stop`, in either direction.

        Args:
            field: The vector field. A module-level function: one solve is then compiled once.
            state: A pytree of arrays of one dtype.
            args: The parameters of the field; `BacksolveAdjoint` differentiates by nothing else.
            start: The first time.
            stop: The last time.
            first: The length of the first step tried, positive.
            norm: The size of an error over the tolerance, of the structure of `state`.
            times: The times for `start` and `stop` in error messages, where these are not times.
        """
        dtype = jnp.result_type(*jax.tree.leaves(state))
        exhausted_message = self._exhausted(*((start, stop) if times is None else times))
        start, stop = jnp.asarray(start, dtype), jnp.asarray(stop, dtype)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            self.solver,
            start,
            stop,
            jax.lax.stop_gradient(jnp.copysign(jnp.asarray(first, dtype), stop - start)),
            state,
            args,
            stepsize_controller=diffrax.PIDController(rtol=self.rtol, atol=self.atol, norm=norm),
            adjoint=self._own_adjoint,
            max_steps=self.max_steps,
            throw=False,
        )
        last = jax.tree.map(lambda y: y[-1], solution.ys)
        finite = jnp.stack([jnp.all(jnp.isfinite(y)) for y in jax.tree.leaves(last)]).all()
        reached = diffrax.is_successful(solution.result)
        success = reached & finite
        if self.throw:
            exhausted = solution.result == diffrax.RESULTS.max_steps_reached
            last = eqx.branched_error_if(last, ~success, jnp.where(exhausted, 0, 1), [exhausted_message, _BROKEN])
        # A state on the way, or beyond the range of floats, must not pass for an answer.
        last = jax.tree.map(lambda y: jnp.where(success, y, jnp.nan), last)
        return Solved(last, self._evaluations(jnp.asarray(solution.stats["num_steps"])), success)

    def tightened(self, factor: float) -> "Integrator":
        """The same integrator with both tolerances multiplied by `factor`."""
        return Integrator(self.solver, self.rtol * factor, self.atol * factor, self.max_steps, self.adjoint, self.throw)

    @property
    def _own_adjoint(self) -> diffrax.AbstractAdjoint:
        if isinstance(self.adjoint, diffrax.BacksolveAdjoint):
            # Its backward solve would inherit throw=False from the forward one above, and fail in silence; and a norm
            # that does not know the adjoint equations.
            controller = diffrax.PIDController(rtol=self.rtol, atol=self.atol)
            inherited = {"throw": self.throw, "stepsize_controller": controller}
            return diffrax.BacksolveAdjoint(**(inherited | self.adjoint.kwargs))
        return self.adjoint

    def _evaluations(self, steps: Int[Array, ""]) -> Int[Array, ""]:
        """A stage is an evaluation; a method whose last stage is the first of the next step saves one a step.

        For an implicit method this counts stages, not the iterations of its root finder.
        """
        tableau = self.solver.tableau
        assert isinstance(tableau, diffrax.ButcherTableau)
        return steps * (tableau.num_stages - tableau.fsal) + int(tableau.fsal)

    def _exhausted(self, start: Time, stop: Time) -> str:
        between = f"t = {start} to t = {stop}" if is_concrete(start) and is_concrete(stop) else "one time to the other"
        return (
            f"The probability-flow ODE ran out of steps: max_steps = {self.max_steps} did not bring it from "
            f"{between} with rtol = {self.rtol}, atol = {self.atol}. Give Integrator a larger "
            "max_steps or looser rtol and atol, or compute in float64 where the tolerance is near float32's rounding. "
            "A score that is NaN, or grows without bound along the path, ends here too; Integrator(throw=False) "
            "returns NaN instead."
        )


_BROKEN = (
    "The probability-flow ODE ended in values that are not finite, or its solver's equations had no solution. Check "
    "that the score is finite along the path; Integrator(throw=False) returns NaN instead."
)


class FixedProbes(AbstractTrace):
    """A trace by probes drawn beforehand: the same ones at each step of a solve [K1].

    Args:
        values: The probes, stacked along a leading axis.
        trace: The trace that they were drawn for.
    """

    values: Probes
    trace: AbstractTrace = eqx.field(default=Hutchinson(), static=True)

    random: ClassVar[bool] = False

    def probes(self, x: Event, key: Key | None) -> Probes:
        return self.values

    def products(self, push: Callable[[Event], Event], probes: Probes) -> tuple[Made, Made]:
        return self.trace.products(push, probes)


def drawn(trace: AbstractTrace, x: Event, key: Key | None) -> AbstractTrace:
    """The trace with its probes drawn once, where it draws any."""
    return FixedProbes(trace.probes(x, key), trace) if trace.random else trace


def flow_map(score: AbstractScore, x: Event, *, start: Time, stop: Time, integrator: Integrator) -> Solved:
    r"""Takes one sample along the probability flow $dx/dt = u(t, x)$ [F0]; the state is the sample at `stop`.

    Args:
        score: Any score.
        x: One sample, at time `start`.
        start: The first time.
        stop: The last time, before or after `start`.
        integrator: The solver of the ODE.

    Raises:
        TypeError: if `score` is no score, `x` not floating or `integrator` none.
        ValueError: if `x` is no sample of the score, or a known time is outside the horizon.
        RuntimeError: if the solver fails, unless the integrator has `throw=False`.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> from scorefp.reverse import flow_map
        >>> stationary = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> end = flow_map(stationary, jnp.ones(1), start=1e-5, stop=1.0, integrator=sfp.Integrator())
        >>> round(float(end.state[0]), 4)
        1.0
    """
    kind("integrator", integrator, Integrator)
    x = single_or_better("x", sample_of(require_score(score), x))
    for name, time in (("start", start), ("stop", stop)):
        scalar_time(time, x, name)
        known_time_within(time, score.sde.t0, score.sde.t1, x, name=name)
    return _along_the_flow(integrator, _velocity, x, x, score, None, start, stop)


def flow_map_with_divergence(
    score: AbstractScore, x: Event, trace: AbstractTrace, *, start: Time, stop: Time, integrator: Integrator
) -> Solved:
    r"""Takes one sample along the flow with the integral of the divergence; the state is
    $\big(x,\ \int \nabla\cdot u\,dt\big)$ at `stop`.

    Args:
        score: Any score.
        x: One sample, at time `start`.
        trace: A trace whose probes are drawn.
        start: The first time.
        stop: The last time.
        integrator: The solver of the ODE.
    """
    state = (x, jnp.zeros((), x.dtype))
    return _along_the_flow(integrator, _velocity_and_divergence, x, state, score, trace, start, stop)


def batch_flow_map_with_divergence(
    score: AbstractScore,
    xs: Float[Array, "n *event"],
    traces: AbstractTrace,
    *,
    start: Time,
    stop: Time,
    integrator: Integrator,
) -> Solved:
    """As `flow_map_with_divergence` for a batch in one solve; the arrays of `traces` have its leading axis.

    The tolerance holds for each sample: a step is kept when the worst one allows it.
    """
    state = (xs, jnp.zeros(xs.shape[:1], xs.dtype))
    return _along_the_flow(
        integrator, _batch_velocity_and_divergence, xs[0], state, score, traces, start, stop, norm=_norm_of_the_worst
    )


def _along_the_flow(
    integrator: Integrator,
    field: Callable[[Scalar, Any, tuple[AbstractScore, Any]], Any],
    x: Event,
    state: Any,
    score: AbstractScore,
    trace: AbstractTrace | None,
    start: Time,
    stop: Time,
    *,
    norm: Callable[[Any], Scalar] = optx.rms_norm,
) -> Solved:
    """A solve of one of the fields below, which take the variable of `clock`; `x` is one sample of the state."""
    dtype = jnp.result_type(*jax.tree.leaves(state))
    tell_of_rounding(score, x)
    first, last = (clock(score.sde, jnp.asarray(t, dtype)) for t in (start, stop))
    return integrator.solve(
        field,
        state,
        (score, trace),
        start=first,
        stop=last,
        first=_first_step(score.sde, first, last),
        norm=norm,
        times=(start, stop),
    )


def clock(sde: AbstractSDE, t: Scalar) -> Scalar:
    r"""The variable in which steps are taken: $s = \mathrm{arsinh}(2\sigma/\alpha)$ for a linear SDE, else $t$.

    In $t$ the velocity of a VP or OU process goes like $1/\sqrt t$ near zero. In $\sigma/\alpha$ it is smooth there, as
    is $\log(\sigma/\alpha)$ far from the data, and the inverse hyperbolic sine goes over from the one to the other
    at data of standard deviation one half (the $\sigma_d$ of Karras 2022). `benchmarks/likelihood.py`
    counts the evaluations it saves.
    """
    if not isinstance(sde, AbstractLinearSDE):
        return t
    log_ratio = math.log(2) - 0.5 * sde.log_snr(t)
    # Far out it is log(2 · ratio) to the last digit, where the ratio itself may be beyond the range of floats.
    far = log_ratio > 10
    near = jnp.arcsinh(jnp.exp(jnp.where(far, 0.0, log_ratio)))
    return jnp.where(far, log_ratio + math.log(2), near).astype(t.dtype)


def time_and_pace(sde: AbstractSDE, s: Scalar) -> tuple[Scalar, Scalar]:
    r"""The time at a value of `clock`, and $dt/ds = 2\,\frac{\sigma^2}{g^2}\coth s$ [S7]."""
    if not isinstance(sde, AbstractLinearSDE):
        return s, jnp.ones_like(s)
    log_snr = -2 * (s + jnp.log1p(-jnp.exp(-2 * s)) - 2 * math.log(2))
    # Rounding must not take it beyond the horizon.
    t = jnp.clip(sde.time_of_log_snr(log_snr), sde.t0, sde.t1).astype(s.dtype)
    return t, (2 * sde.sigma(t) ** 2 / (sde.g2(t) * jnp.tanh(s))).astype(s.dtype)


def _first_step(sde: AbstractSDE, start: Scalar, stop: Scalar) -> Scalar:
    r"""The first step tried: no more than what changes the log-SNR by one, $\tfrac12\tanh s$ [S7].

    A network may depend on the log-SNR itself. A first step of a hundredth of the horizon then lies across many units
    of it near the data, where the error estimate of a method means nothing.
    """
    share = jnp.abs(stop - start) / 100
    return jnp.minimum(share, 0.5 * jnp.tanh(start)) if isinstance(sde, AbstractLinearSDE) else share / 10


def _norm_of_the_worst(state: tuple[Float[Array, "n *event"], Float[Array, " n"]]) -> Scalar:
    """The largest, over samples, of the root mean square over the entries of one."""
    events, growths = state
    squares = jnp.sum(events.reshape(growths.size, -1) ** 2, axis=1) + growths**2
    return jnp.sqrt(jnp.max(squares) / (events.size / growths.size + 1))


@measures
def _velocity(s: Scalar, x: Event, args: tuple[AbstractScore, None]) -> Event:
    score, _ = args
    t, pace = time_and_pace(score.sde, s)
    return pace * score.probability_flow(t, x)


@measures
def _velocity_and_divergence(
    s: Scalar, state: tuple[Event, Scalar], args: tuple[AbstractScore, AbstractTrace]
) -> tuple[Event, Scalar]:
    score, trace = args
    t, pace = time_and_pace(score.sde, s)
    return _with_divergence(t, pace, state[0], score, trace)


@measures
def _batch_velocity_and_divergence(
    s: Scalar,
    state: tuple[Float[Array, "n *event"], Float[Array, " n"]],
    args: tuple[AbstractScore, AbstractTrace],
) -> tuple[Float[Array, "n *event"], Float[Array, " n"]]:
    score, traces = args
    t, pace = time_and_pace(score.sde, s)
    return jax.vmap(lambda x, trace: _with_divergence(t, pace, x, score, trace))(state[0], traces)


def _with_divergence(
    t: Scalar, pace: Scalar, x: Event, score: AbstractScore, trace: AbstractTrace
) -> tuple[Event, Scalar]:
    velocity, divergence = value_and_divergence(lambda y: score.probability_flow(t, y), x, trace=trace)
    return pace * velocity, pace * divergence
