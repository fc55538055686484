"""Residuals of the three Fokker–Planck equations: score, log-density and density."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from .._checks import checked, function, kind, one_of, optional_key, require, sample, scalar, single_or_better
from .._precision import measures
from .._times import scalar_time, time_within
from .._types import Event, Key, Scalar, Time
from ..calculus import AbstractTrace, Exact, FiniteDifference, divergence
from ..calculus._smoothness import require_smooth
from ..score import AbstractPotential, AbstractScore
from ..score.potential import require_potential
from ..score.score import measured_at
from ..sde import AbstractSDE
from .curve import Antithetic
from .method import FORMS, AbstractLogResidualMethod, AbstractResidualMethod, Form
from .pointwise import Pointwise

_M = TypeVar("_M", bound=AbstractResidualMethod | AbstractLogResidualMethod)

ResidualMethod = AbstractResidualMethod | AbstractTrace | FiniteDifference
"""The `method` of `score_fpe_residual`."""

LogResidualMethod = AbstractLogResidualMethod | AbstractTrace | FiniteDifference
"""The `method` of `log_fpe_residual`."""


@measures
def score_fpe_residual(
    score: AbstractScore,
    t: Time,
    x: Event,
    *,
    form: Form | None = None,
    method: ResidualMethod = Exact(),
    key: Key | None = None,
) -> Event:
    r"""The residual of the score Fokker–Planck equation, $\varepsilon[s] = \partial_t s - \nabla L[s]$ [F4] (Lai
    2023, Eq. 9).

    It vanishes for every `(t, x)` when the score solves the equation. Three forms agree on conservative scores [F5]:
    `"gradient"` is the line above; `"martingale"` has $J$ for $J^\top$ and $\Delta s$ for $\nabla(\nabla\cdot s)$
    (Daras 2023, Eq. 10); `"mixed"` is that of Deveney 2023, Eq. 32.

    | method | forms | SDEs | cost |
    | --- | --- | --- | --- |
    | `Exact()` | all | all; linear for the last two forms | $D$ forward products, one reverse pass |
    | `Hutchinson(samples, law)` | all | the same | one forward product a probe, one reverse pass |
    | `XTrace(samples)`, `HutchPlusPlus(samples)` | all | the same | three products a sample, two in the pass |
    | `Ito(probes)` | martingale | linear | one second-order forward pass a probe |
    | `Antithetic(step)` | martingale | linear | two evaluations |
    | `Sliced(samples, law, trace)` | gradient | all | forward passes, one component at a time |
    | `FiniteDifference(…)` | all | as `Exact()` | Lai's recipe, for comparison |

    Args:
        score: Any score.
        t: The time, in `[t0, t1]`.
        x: One sample; batch with `jax.vmap`.
        form: `"gradient"`, `"martingale"` or `"mixed"`; the method's own when `None`.
        method: How it is taken.
        key: A random key, for a method that draws probes.

    Returns:
        The residual, of the shape of `x`, in units of the score per unit of time.

    Raises:
        TypeError: if `score` or `method` is of another kind, `x` is not floating or of half precision, or a form that
            needs a linear SDE gets another.
        ValueError: if `t` is outside the horizon, the method does not have the form, a random method gets no key, or
            the score has another shape than `x`; where it is known, if `x` is not finite.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> mixture = sfp.GaussianMixture(jnp.array([[-1.0], [1.0]]), jnp.array([0.1, 0.2]), jnp.array([0.5, 0.5]))
        >>> exact = mixture.score(sfp.VP())
        >>> bool(abs(sfp.score_fpe_residual(exact, 0.3, jnp.array([0.5]))[0]) < 1e-3)
        True
        >>> wrong = sfp.Score(lambda t, x: 2 * exact(t, x), exact.sde)
        >>> bool(abs(sfp.score_fpe_residual(wrong, 0.3, jnp.array([0.5]))[0]) > 1)
        True
    """
    t, x = measured_at(score, t, x)
    taken = resolve(method, form)
    optional_key(type(method).__name__, key, needed=taken.random)
    return taken.residual(score, with_room(taken, t, score.sde), x, key)[1]


def check_density(density: Callable[[Scalar, Event], Scalar], sde: AbstractSDE) -> None:
    """Refuses what is no density with its process."""
    function("density", density, "t, x", "It returns a number, the density at one time and one sample.")
    kind("sde", sde, AbstractSDE)


def resolve(method: ResidualMethod, form: Form | None = None) -> AbstractResidualMethod:
    """The residual method that a value stands for, in a form; the method's own when `None`.

    Raises:
        ValueError: if the method does not have the form.
    """
    taken = kind("method", _pointwise(method), AbstractResidualMethod)
    if form is None:
        return taken
    one_of("form", form, FORMS)
    if isinstance(taken, Pointwise):
        return dataclasses.replace(taken, form=form)
    require(
        form == taken.form,
        f"form = {form!r} with method = {type(method).__name__}(…), which takes {taken.form!r}. "
        'Exact() and Hutchinson() take the forms "gradient", "martingale" and "mixed".',
    )
    return taken


def resolve_log(method: LogResidualMethod | AbstractResidualMethod) -> AbstractLogResidualMethod:
    """The method for a potential that a value stands for.

    Raises:
        TypeError: if the method takes the residual of a score alone.
    """
    taken = _pointwise(method)
    if isinstance(taken, AbstractLogResidualMethod):
        return taken
    kind("method", taken, AbstractResidualMethod)
    raise TypeError(
        f"method = {type(method).__name__}(…), which takes the residual of a score. That of a potential takes Exact(), "
        "Hutchinson(), Ito(), Antithetic(), Smoothed() or FiniteDifference()."
    )


@measures
def log_fpe_residual(
    potential: AbstractPotential,
    t: Time,
    x: Event,
    *,
    method: LogResidualMethod = Exact(),
    key: Key | None = None,
) -> Scalar:
    r"""The residual of the log-Fokker–Planck equation, $r[\varphi] = \partial_t\varphi - L[\nabla\varphi]$ [F3]
    (Deveney 2023, Eq. 16, 20).

    For an unnormalised potential, $\varphi = \log p + \log Z_t$ with $p$ a solution, it is $d\log Z_t/dt$, a function
    of `t` alone. Its gradient in `x` is the gradient form of the score's residual.

    All methods take any SDE [F16]:

    | method | cost, beside one reverse pass |
    | --- | --- |
    | `Exact()` | $D$ forward passes through the reverse pass |
    | `Hutchinson(samples, law)` | one such pass a probe |
    | `XTrace(samples)`, `HutchPlusPlus(samples)` | two, three such passes a sample |
    | `Ito(probes)` | one second-order forward pass a probe |
    | `Antithetic(step)` | two evaluations |
    | `Smoothed(width)` | another reverse pass |
    | `FiniteDifference(…)` | as `Exact()`, and three evaluations in time |

    Args:
        potential: A potential on any SDE.
        t: The time, in `[t0, t1]`.
        x: One sample.
        method: How it is taken.
        key: A random key, for a method that draws probes.

    Returns:
        A scalar, in nats per unit of time.

    Raises:
        TypeError: if `potential` is a score without a potential, `x` is not floating or of half precision, or the
            method is one for scores alone.
        ValueError: if `t` is outside the horizon, a random method gets no key, the potential has another shape than
            `x` or is made of piecewise-linear functions such as `relu`; where it is known, if `x` is not finite.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> mixture = sfp.GaussianMixture(jnp.array([[-1.0], [1.0]]), jnp.array([0.1, 0.2]), jnp.array([0.5, 0.5]))
        >>> bool(abs(sfp.log_fpe_residual(mixture.score(sfp.VP()), 0.3, jnp.array([0.5]))) < 1e-3)
        True
    """
    potential = require_potential(potential)
    t, x = measured_at(potential, t, x)
    taken = resolve_log(method)
    optional_key(type(method).__name__, key, needed=taken.random)
    require_smooth("potential", potential.potential, t, x)
    return taken.log_residual(potential, with_room(taken, t, potential.sde), x, key)[1]


@measures
def fpe_residual(
    density: Callable[[Scalar, Event], Scalar],
    t: Time,
    x: Event,
    *,
    sde: AbstractSDE,
    trace: AbstractTrace = Exact(),
    key: Key | None = None,
) -> Scalar:
    r"""The residual of the Fokker–Planck equation of a density model [F1] (Deveney 2023, Eq. 18),

    $$ \begin{aligned}
       R[p] &= \partial_t p + \nabla\cdot(f p) - \tfrac12\nabla\cdot\nabla\cdot(GG^\top p) \\
            &= \partial_t p + \nabla\cdot\big(p\,(f - \tfrac12\nabla\cdot(GG^\top)) - \tfrac12 GG^\top\nabla p\big).
       \end{aligned} $$

    It is linear in $p$: a constant factor scales it and does not move its zeros. For $p = e^\varphi$ it is
    $p\,r[\varphi]$.

    Args:
        density: $p$, called as `density(t, x)`.
        t: The time, in `[t0, t1]`.
        x: One sample.
        sde: The forward process.
        trace: `Exact()`, `Hutchinson(samples, law)` or another, for the divergence of the flux.
        key: A random key, for all but `Exact`.

    Returns:
        A scalar, in units of the density per unit of time.

    Raises:
        TypeError: if `density`, `sde` or `trace` is of another kind, or `x` is not floating or of half precision.
        ValueError: if `t` is outside the horizon, the value of `density` is not a scalar, or a random method gets no
            key; where it is known, if `x` is not finite.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> sde = sfp.VP()
        >>> standard = lambda t, x: jnp.exp(-0.5 * (x**2).sum())
        >>> round(float(sfp.fpe_residual(standard, 0.5, jnp.ones(2), sde=sde)), 4)
        0.0
    """
    check_density(density, sde)
    x = single_or_better("x", sample("x", x))
    t = time_within(scalar_time(t, x), sde.t0, sde.t1)

    def value(t: Scalar, y: Event) -> Scalar:
        return scalar("the value of density", density(t, y)).astype(x.dtype)

    def flux(y: Event) -> Event:
        p, slope = jax.value_and_grad(value, argnums=1)(t, y)
        advected = sde.drift(t, y) - 0.5 * sde.covariance_divergence(t, y)
        return p * advected - 0.5 * sde.covariance(t, y, slope)

    _, slope = jax.jvp(lambda t: value(t, x), (t,), (jnp.ones_like(t),))
    return slope + divergence(flux, x, trace=trace, key=key)


def _pointwise(method: _M | AbstractTrace | FiniteDifference) -> _M | Pointwise:
    """The method, `Pointwise` where a value stands for it."""
    if isinstance(method, FiniteDifference):
        return Pointwise(method.trace, method)
    return Pointwise(method) if isinstance(method, AbstractTrace) else method


def with_room(method: AbstractResidualMethod | AbstractLogResidualMethod, t: Scalar, sde: AbstractSDE) -> Scalar:
    """The time, refused where the method steps to an earlier one and there is none."""
    if not isinstance(method, Antithetic):
        return t
    message = (
        f"t is t0 = {sde.t0}, where Antithetic has no room for a step to an earlier time. "
        "Use Ito() or Exact() there, or a later time."
    )
    return checked(t, t <= jnp.asarray(sde.t0, t.dtype), message)
