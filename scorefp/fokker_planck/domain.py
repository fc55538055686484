"""Mean squares of the residuals over a bounded domain of space and time."""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int

from .._batches import in_batches
from .._checks import checked, needs_key, require, same_shape, scalar_time, time_within
from .._module import AbstractModule
from .._monte_carlo import MonteCarlo
from .._types import Event, Key, Scalar, Time
from ..calculus import AbstractTrace, Box, Exact, require_smooth
from ..score import AbstractPotential, AbstractScore, require_potential
from ..sde import AbstractLinearSDE, AbstractSDE
from .method import AbstractLogResidualMethod, AbstractResidualMethod, Form
from .quadrature import box_quadrature, time_quadrature
from .residual import LogResidualMethod, ResidualMethod, fpe_residual, resolve, resolve_log

_Integrand: TypeAlias = Callable[[Scalar, Event, Key | None], Scalar]
"""A function of time, sample and the key of its probes."""


class AbstractDomainRule(AbstractModule):
    r"""A way to take a mean over $U([\text{start}, t_1]\times\Omega)$. `random` says whether it draws points."""

    random: ClassVar[bool]

    @abstractmethod
    def mean(
        self, integrand: _Integrand, sde: AbstractSDE, start: Scalar, box: Box, key: Key | None, batch_size: int
    ) -> MonteCarlo:
        """The mean of the integrand, and its error."""


class UniformDraws(AbstractDomainRule):
    r"""A Monte-Carlo mean: samples uniform in the box, times two in each of equal strata.

    For a linear SDE half of the times are uniform in $t$ and half in the log-SNR $\lambda$, each weighted by
    $2 / (1 + p_\lambda/p_t)$ with $p_\lambda/p_t = (t_1 - \text{start})\,g^2/(\sigma^2 Z)$, the balance heuristic of
    Veach & Guibas 1995. The mean stays that of uniform times, the weights stay below two, and a residual that grows
    over decades of $t$ towards `t0`, where uniform times hardly come, is seen. Its standard error comes from the
    pairs: both of a pair have the same law and are independent.

    Args:
        draws: How many points, rounded up to a multiple of four (of two where the SDE is not linear).

    Raises:
        ValueError: if `draws` is below one.
    """

    draws: int = eqx.field(default=4096, static=True)

    random: ClassVar[bool] = True

    def __check_init__(self) -> None:
        require(self.draws >= 1, f"draws = {self.draws}; at least one point is drawn.")

    def mean(
        self, integrand: _Integrand, sde: AbstractSDE, start: Scalar, box: Box, key: Key | None, batch_size: int
    ) -> MonteCarlo:
        assert key is not None
        time_key, point_key = jr.split(key)
        times, weights = _paired_times(sde, start, self.draws, time_key)

        def one(i: Int[Array, ""]) -> Scalar:
            place_key, probe_key = jr.split(jr.fold_in(point_key, i))
            return weights[i] * integrand(times[i], box.sample(place_key, 1)[0], probe_key)

        pairs = in_batches(one, times.size, batch_size).reshape(-1, 2)
        error = 0.5 * jnp.linalg.norm(pairs[:, 0] - pairs[:, 1]) / pairs.shape[0]
        return MonteCarlo(jnp.mean(pairs), error)


class GaussLegendre(AbstractDomainRule):
    r"""A tensor product of Gauss–Legendre rules, for samples of at most three elements.

    The nodes in time are those of `time_quadrature`: in log-SNR for a linear SDE. The error is no statistical one: it
    is the distance to the rule with half the nodes, above the error of the rule itself where that converges.

    Args:
        nodes: How many nodes along each side of the box.
        times: How many times.

    Raises:
        ValueError: if a number is below two; on use, if the box has more than three elements.
    """

    nodes: int = eqx.field(default=32, static=True)
    times: int = eqx.field(default=32, static=True)

    random: ClassVar[bool] = False

    def __check_init__(self) -> None:
        require(
            self.nodes >= 2 and self.times >= 2,
            f"nodes = {self.nodes} and times = {self.times}; the error takes half of each, so both are at least two.",
        )

    def mean(
        self, integrand: _Integrand, sde: AbstractSDE, start: Scalar, box: Box, key: Key | None, batch_size: int
    ) -> MonteCarlo:
        def tensor(nodes: int, times: int) -> tuple[Array, Array, Array]:
            t, time_weights = time_quadrature(sde, start, jnp.asarray(sde.t1, start.dtype), times)
            points, weights = box_quadrature(box, nodes)
            shares = jnp.outer(time_weights, weights).ravel()
            # Divided by their sum: a constant has itself for its mean, whatever the nodes in log-SNR make of it.
            return jnp.repeat(t, weights.size), jnp.tile(points, (times, *[1] * len(box.shape))), shares / shares.sum()

        fine, coarse = tensor(self.nodes, self.times), tensor(self.nodes // 2, self.times // 2)
        times, points, weights = (jnp.concatenate(both) for both in zip(fine, coarse, strict=True))

        def one(i: Int[Array, ""]) -> Scalar:
            return weights[i] * integrand(times[i], points[i], None if key is None else jr.fold_in(key, i))

        values = in_batches(one, weights.size, batch_size)
        cut = fine[-1].size
        value = jnp.sum(values[:cut])
        return MonteCarlo(value, jnp.abs(value - jnp.sum(values[cut:])))


def fpe_mean_square(
    density: Callable[[Scalar, Event], Scalar],
    box: Box,
    *,
    sde: AbstractSDE,
    start: Time | None = None,
    rule: AbstractDomainRule = UniformDraws(),
    method: AbstractTrace = Exact(),
    key: Key | None = None,
    batch_size: int = 1024,
) -> MonteCarlo:
    r"""The Fokker–Planck residual of a density over a domain [F11] (Deveney 2023, Eq. 18):

    $$ R(p) = E_{\tau\sim U(\text{start}, t_1),\ x\sim U(\Omega)}\big[R[p](x, \tau)^2\big], $$

    with $R[p]$ of `fpe_residual`, for any SDE. It is quadratic in $p$: a factor that normalises the density counts.

    Args:
        density: $p$, called as `density(t, x)`.
        box: $\Omega$, of the event shape; `Box.around(x)` is that of samples. Its dtype is that of the computation.
        sde: The forward process.
        start: The first time; `t0` when `None`.
        rule: `UniformDraws(draws)` or, for samples of at most three elements, `GaussLegendre(nodes, times)`.
        method: `Exact()` or `Hutchinson(samples, law)`, for the divergence of the flux. The square of a random method
            is the product of two independent estimates, which is unbiased.
        key: A random key, for `UniformDraws` and for a random method.
        batch_size: How many points are taken at once, which bounds the memory.

    Returns:
        The mean square, in squared units of the density per unit of time, and its error.

    Raises:
        ValueError: if `start` is outside `[t0, t1)`, a key is missing, `batch_size` is below one, or the rule cannot
            take the box.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> box = sfp.Box(jnp.full(1, -3.0), jnp.full(1, 3.0))
        >>> standard = lambda t, x: jnp.exp(-0.5 * (x**2).sum())
        >>> found = sfp.fpe_mean_square(standard, box, sde=sfp.VP(), rule=sfp.GaussLegendre())
        >>> bool(found.value < 1e-10)
        True
    """
    first = _first_time(sde, start, box)
    _check_keys(rule, method, key)
    return _mean(eqx.Partial(_density_square, density, sde, method), sde, first, box, rule, key, batch_size)


def log_fpe_mean_square(
    potential: AbstractPotential,
    box: Box,
    *,
    start: Time | None = None,
    rule: AbstractDomainRule = UniformDraws(),
    method: LogResidualMethod = Exact(),
    key: Key | None = None,
    batch_size: int = 1024,
) -> MonteCarlo:
    r"""The log-Fokker–Planck residual of a potential over a domain [F11] (Deveney 2023, Eq. 20):

    $$ \tilde R(\varphi) = E_{\tau\sim U(\text{start}, t_1),\ x\sim U(\Omega)}\big[r[\varphi](x, \tau)^2\big], $$

    with $r[\varphi]$ of `log_fpe_residual`, for any SDE. An unnormalised potential of a solution has the mean square of
    $d\log Z_t/dt$.

    Args:
        potential: $\varphi$.
        box: $\Omega$, of the event shape; `Box.around(x)` is that of samples. Its dtype is that of the computation.
        start: The first time; `t0` when `None`.
        rule: `UniformDraws(draws)` or, for samples of at most three elements, `GaussLegendre(nodes, times)`.
        method: As in `log_fpe_residual`. The square of a random method is the product of two independent estimates,
            which is unbiased.
        key: A random key, for `UniformDraws` and for a random method.
        batch_size: How many points are taken at once, which bounds the memory.

    Returns:
        The mean square, in squared nats per unit of time, and its error.

    Raises:
        TypeError: if `potential` is a score without a potential, or the method is one for scores alone.
        ValueError: if `start` is outside `[t0, t1)`, the potential has another shape than the box or is made of
            piecewise-linear functions such as `relu`, a key is missing, `batch_size` is below one, or the rule cannot
            take the box.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> box = sfp.Box(jnp.full(2, -1.0), jnp.full(2, 1.0))
        >>> wide = sfp.Potential(lambda t, x: -0.5 * (x**2).sum(), sfp.OU())  # r = |x|²/2 - 1
        >>> found = sfp.log_fpe_mean_square(wide, box, key=jax.random.key(0))
        >>> round(1 - 2 / 3 + (2 / 5 + 2 / 9) / 4, 4), bool(abs(found.value - 0.4889) < 4 * found.error < 0.03)
        (0.4889, True)
    """
    potential = require_potential(potential)
    _check_shape(potential, box)
    first = _first_time(potential.sde, start, box)
    taken = resolve_log(method)
    _check_keys(rule, taken, key)
    require_smooth("potential", potential.potential, first, box.lower)
    return _mean(eqx.Partial(_log_square, potential, taken), potential.sde, first, box, rule, key, batch_size)


def score_fpe_mean_square(
    score: AbstractScore,
    box: Box,
    *,
    start: Time | None = None,
    rule: AbstractDomainRule = UniformDraws(),
    form: Form | None = None,
    method: ResidualMethod = Exact(),
    key: Key | None = None,
    batch_size: int = 1024,
) -> MonteCarlo:
    r"""The score Fokker–Planck residual over a domain [F11] (Deveney 2023, Eq. 32, which has the form `"mixed"`):

    $$ R^s(s) = E_{\tau\sim U(\text{start}, t_1),\ x\sim U(\Omega)}\big[\|\varepsilon[s](x, \tau)\|^2\big], $$

    with $\varepsilon[s]$ of `score_fpe_residual`.

    Args:
        score: Any score.
        box: $\Omega$, of the event shape; `Box.around(x)` is that of samples. Its dtype is that of the computation.
        start: The first time; `t0` when `None`.
        rule: `UniformDraws(draws)` or, for samples of at most three elements, `GaussLegendre(nodes, times)`.
        form: As in `score_fpe_residual`; `None` is the method's own, for `Exact()` the gradient form.
        method: As in `score_fpe_residual`. The square of a random method is its unbiased one [F9].
        key: A random key, for `UniformDraws` and for a random method.
        batch_size: How many points are taken at once, which bounds the memory.

    Returns:
        The mean square, in squared units of the score per unit of time, and its error.

    Raises:
        TypeError: if a form that needs a linear SDE gets another.
        ValueError: if `start` is outside `[t0, t1)`, the score has another shape than the box, the method does not have
            the form, a key is missing, `batch_size` is below one, or the rule cannot take the box.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> box = sfp.Box(jnp.full(2, -1.0), jnp.full(2, 1.0))
        >>> wide = sfp.Score(lambda t, x: -x, sfp.OU())  # its residual is x
        >>> found = sfp.score_fpe_mean_square(wide, box, form="mixed", rule=sfp.GaussLegendre(4, 2))
        >>> round(float(found.value), 4)
        0.6667
    """
    _check_shape(score, box)
    first = _first_time(score.sde, start, box)
    taken, form = resolve(method, form)
    _check_keys(rule, taken, key)
    return _mean(eqx.Partial(_score_square, score, taken, form), score.sde, first, box, rule, key, batch_size)


# Functions of this module, not closures: `_mean` is then compiled once for all models of one structure.
@eqx.filter_jit
def _mean(
    integrand: _Integrand,
    sde: AbstractSDE,
    start: Scalar,
    box: Box,
    rule: AbstractDomainRule,
    key: Key | None,
    batch_size: int,
) -> MonteCarlo:
    require(batch_size >= 1, f"batch_size = {batch_size}; at least one point is taken at once.")
    return rule.mean(integrand, sde, start, box, key, batch_size)


def _density_square(
    density: Callable[[Scalar, Event], Scalar],
    sde: AbstractSDE,
    method: AbstractTrace,
    t: Scalar,
    x: Event,
    key: Key | None,
) -> Scalar:
    estimate = lambda k: fpe_residual(density, t, x, sde=sde, method=method, key=k)
    if key is None or not method.random:
        return estimate(key) ** 2
    return jnp.prod(jax.vmap(estimate)(jr.split(key)))


def _log_square(
    potential: AbstractPotential, taken: AbstractLogResidualMethod, t: Scalar, x: Event, key: Key | None
) -> Scalar:
    return taken.log_square(potential, t, x, key)[1]


def _score_square(
    score: AbstractScore, taken: AbstractResidualMethod, form: Form, t: Scalar, x: Event, key: Key | None
) -> Scalar:
    return taken.squared_norm(score, t, x, form, key)[1]


def _paired_times(
    sde: AbstractSDE, start: Scalar, draws: int, key: Key
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Times, each stratum's two beside each other, and the weights that make their mean one over uniform times."""
    linear = isinstance(sde, AbstractLinearSDE)
    pairs = math.ceil(draws / (4 if linear else 2))
    shares = jr.uniform(key, (2, pairs, 2) if linear else (1, pairs, 2), start.dtype)
    shares = (jnp.arange(pairs, dtype=start.dtype)[:, None] + shares) / pairs
    span = sde.t1 - start
    times = start + span * shares[0]
    if not linear:
        return jnp.clip(times, start, sde.t1).ravel(), jnp.ones(times.size, start.dtype)
    first, last = sde.log_snr(start), sde.log_snr(sde.t1)
    times = jnp.stack([times, sde.time_of_log_snr(first + (last - first) * shares[1])])
    times = jnp.clip(times, start, sde.t1).astype(start.dtype).ravel()
    odds = span * sde.g2(times) / (sde.sigma(times) ** 2 * (first - last))
    return times, (2 / (1 + odds)).astype(start.dtype)


def _first_time(sde: AbstractSDE, start: Time | None, box: Box) -> Scalar:
    first = time_within(scalar_time(sde.t0 if start is None else start, box.lower), sde.t0, sde.t1, name="start")
    message = (
        f"start is t1 = {sde.t1}, the end of the horizon, and leaves no times to average over; take an earlier one."
    )
    return checked(first, first >= jnp.asarray(sde.t1, first.dtype), message)


def _check_shape(score: AbstractScore, box: Box) -> None:
    if score.shape is not None:
        same_shape("box", box.shape, "one sample of the score", score.shape)


def _check_keys(
    rule: AbstractDomainRule,
    method: AbstractTrace | AbstractLogResidualMethod | AbstractResidualMethod,
    key: Key | None,
) -> None:
    require(
        key is not None or not rule.random,
        f"key is None, but {type(rule).__name__} draws random points; pass key=jax.random.key(seed), or "
        "rule=GaussLegendre().",
    )
    if method.random:
        needs_key("method", key)
