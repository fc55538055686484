"""The integral of the residual over time: the distance to a gradient, and its bound by the errors of score matching."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import floating, function, kind, optional_key, require, same_shape
from .._module import AbstractModule
from .._precision import measures
from .._types import Event, Key, Scalar, Time
from ..calculus import Exact, value_and_divergence
from ..calculus.probes import check_exact
from ..integrals import time_quadrature
from ..score import AbstractPotential, AbstractScore
from ..score.score import linear_sde, measured_at, require_score
from ..sde import AbstractSDE
from .operators import value_and_operator
from .residual import ResidualMethod, resolve


@measures
def integrated_residual(
    score: AbstractScore,
    t: Time,
    x: Event,
    *,
    start: Time,
    nodes: int = 32,
    method: ResidualMethod = Exact(),
    key: Key | None = None,
) -> Event:
    r"""The integral of the residual over time at a fixed sample, in its gradient form [F4]:

    $$ \int_{\text{start}}^{t} \varepsilon[s](x, \tau)\,d\tau . $$

    By Proposition 4.4 of Lai 2023 it is $s - \nabla\Psi$, the distance of the score from a gradient [C2], when the
    score at `start` is that of a density; `AnchoredPotential` is that $\Psi$. `high_order_bound` bounds its norm.

    Args:
        score: Any score.
        t: The upper limit, in `[t0, t1]`.
        x: One sample; batch with `jax.vmap`.
        start: The lower limit, in `[t0, t1]`, before or after `t`.
        nodes: The number of Gauss–Legendre nodes, in log-SNR for a linear SDE and in time for others.
        method: A method that has the gradient form, see `score_fpe_residual`.
        key: A random key, for a method that draws probes; they are independent between nodes.

    Returns:
        The integral, of the shape of `x`, in units of the score.

    Raises:
        TypeError: if `x` is not floating.
        ValueError: if `t` or `start` is outside the horizon, `nodes` is below one, the method has no gradient form, a
            random method gets no key, or the score has another shape than `x`.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> wrong = sfp.Score(lambda t, x: -2 * x, sfp.VP())  # its residual is -2 beta(t) x
        >>> total = sfp.fokker_planck.integrated_residual(wrong, 0.5, jnp.ones(1), start=0.1)
        >>> round(float(total[0]), 2), round(-2 * (0.1 * 0.4 + 19.9 * (0.5**2 - 0.1**2) / 2), 2)
        (-4.86, -4.86)
    """
    start, t, x = _limits(score, start, t, x)
    taken = resolve(method, "gradient")
    optional_key(type(method).__name__, key, needed=taken.random)
    times, weights = time_quadrature(score.sde, start, t, nodes)
    keys = None if key is None else jax.random.split(key, nodes)
    residuals = jax.vmap(lambda tau, key: taken.residual(score, tau, x, key)[1])(times, keys)
    return jnp.tensordot(weights, residuals, axes=1)


class AnchoredPotential(AbstractPotential):
    r"""The potential of Proposition 4.4 of Lai 2023 [C2]: a log-density at one time, carried to others by the
    operator of a score,

    $$ \Psi(x, t) = \log q_{t^*}(x) + \int_{t^*}^t L[s](x, \tau)\,d\tau . $$

    When $s(\cdot, t^*) = \nabla\log q_{t^*}$, $s - \nabla\Psi = \int_{t^*}^t \varepsilon[s](x, \tau)\,d\tau$: the
    score is as far from the gradient of $\Psi$ as `integrated_residual` from `anchor` says. It is a potential like any
    other: its score, curl and residuals can be taken.

    Args:
        score: The score $s$, on any SDE.
        log_density: $\log q_{t^*}$, a function of one sample. An additive constant changes nothing but $\Psi$ itself.
        anchor: $t^*$, in `[t0, t1]`; `t1` with the log-density of the prior is a choice that needs no data.
        nodes: The number of Gauss–Legendre nodes, in log-SNR for a linear SDE and in time for others.

    Raises:
        ValueError: if `anchor` is outside the horizon or `nodes` is below one; on a call, if `t` is outside the horizon
            or `log_density` does not return a scalar.
        TypeError: on a call, if `x` is not floating.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> mixture = sfp.GaussianMixture(jnp.array([[-1.0], [1.0]]), jnp.array([0.1, 0.2]), jnp.array([0.5, 0.5]))
        >>> exact, x = mixture.score(sfp.VP()), jnp.array([0.5])
        >>> psi = sfp.fokker_planck.AnchoredPotential(exact, lambda x: exact.potential(0.8, x), anchor=0.8)
        >>> bool(abs(psi.potential(0.3, x) - exact.potential(0.3, x)) < 1e-4)
        True
    """

    score: AbstractScore
    log_density: Callable[[Event], Scalar]
    anchor: float = eqx.field(static=True)
    nodes: int = eqx.field(default=32, static=True)

    conditions: ClassVar[tuple[str, ...]] = ("score",)

    def __check_init__(self) -> None:
        function("log_density", self.log_density, "x", "It returns a number, the log-density of one sample at anchor.")
        t0, t1 = self.score.sde.t0, self.score.sde.t1
        require(
            t0 <= self.anchor <= t1,
            f"anchor = {self.anchor} lies outside [t0, t1] = [{t0}, {t1}], the horizon of the SDE; take a time at "
            "which the score is that of a known log-density.",
        )
        require(self.nodes >= 1, f"nodes = {self.nodes}; a quadrature has at least one node.")

    @property
    def sde(self) -> AbstractSDE:
        """The forward process of the score."""
        return self.score.sde

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The event shape, where the score knows it."""
        return self.score.shape

    @measures
    def potential(self, t: Time, x: Event) -> Scalar:
        start, t, x = _limits(self, self.anchor, t, x)
        times, weights = time_quadrature(self.sde, start, t, self.nodes)
        rates = jax.vmap(lambda tau: value_and_operator(self.score, tau, x, Exact(), None)[1])(times)
        log_density = floating("the value of log_density", self.log_density(x))
        same_shape("the value of log_density", log_density.shape, "a log-density", ())
        return log_density + jnp.sum(weights * rates)


class MatchingErrors(AbstractModule):
    r"""Errors of score matching of three orders, $e = s_\theta - s$ with $s$ the true score [H4].

    Args:
        score: $\delta_0 = \|e\|_2$.
        jacobian: $\delta_1 = \|\nabla e\|_F$.
        divergence: $\delta_2 = \|\nabla(\nabla\cdot e)\|_2$.
    """

    score: Scalar
    jacobian: Scalar
    divergence: Scalar


@measures
def matching_errors(score: AbstractScore, truth: AbstractScore, t: Time, x: Event) -> MatchingErrors:
    r"""The errors of score matching at one time and sample, of the orders that Proposition 4.6 of Lai 2023 assumes
    bounded [H4].

    Their largest values over times, `jax.tree.map(jnp.max, …)` of a batch, are the $\delta_0, \delta_1, \delta_2$ of
    `high_order_bound`.

    Args:
        score: The model $s_\theta$.
        truth: The true score $s$, for example `GaussianMixture.score(sde)`.
        t: The time, in `[t0, t1]`.
        x: One sample.

    Returns:
        Three scalars.

    Raises:
        TypeError: if `x` is not floating.
        ValueError: if `t` is outside the horizon.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> truth = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> model = sfp.Score(lambda t, x: -1.5 * x, sfp.VP())
        >>> errors = sfp.fokker_planck.matching_errors(model, truth, 0.5, jnp.array([2.0]))
        >>> float(errors.score), float(errors.jacobian), float(errors.divergence)
        (1.0, 0.5, 0.0)
    """
    require_score(truth, "truth")
    t, x = measured_at(truth, t, x)
    require_score(score)
    check_exact(x)
    error = lambda y: score(t, y) - truth(t, y)
    slope = jax.grad(lambda y: value_and_divergence(error, y)[1])(x)
    return MatchingErrors(_norm(error(x)), _norm(jax.jacfwd(error)(x)), _norm(slope))


@measures
def high_order_bound(
    truth: AbstractScore, errors: MatchingErrors, t: Time, x: Event, *, start: Time, nodes: int = 32
) -> Scalar:
    r"""The bound of Proposition 4.6 of Lai 2023 on `integrated_residual` by errors of score matching [H4]:

    $$ \begin{aligned}
       \Big\|\int_{\text{start}}^t \varepsilon[s_\theta]\,d\tau\Big\|_2 \le 2\delta_0
       &+ \tfrac12(\delta_2 + 2\delta_1\delta_0)\int g^2 + \delta_1\int\big(g^2\|s\|_2 + \|f\|_2\big) \\
       &+ \delta_0\int\big(g^2\|\nabla s\|_F + \|\nabla f\|_F\big),
       \end{aligned} $$

    with $s$ the true score, and all integrals over time at the fixed sample. The $\delta$'s have to bound the errors at
    that sample for every time between `start` and `t`; the paper takes them over the whole space. It follows from
    $\varepsilon[s] = 0$ and, with $e = s_\theta - s$,
    $\varepsilon[s_\theta] = \partial_t e - \nabla\big(\tfrac12 g^2\,\nabla\cdot e + \tfrac12 g^2\|e\|^2
    + \langle g^2 s - f, e\rangle\big)$, term by term.

    Args:
        truth: The true score, on a linear SDE.
        errors: $\delta_0, \delta_1, \delta_2$, the largest `matching_errors` of the model.
        t: The later time, in `[t0, t1]`.
        x: One sample.
        start: The lower limit; the order of the two does not matter.
        nodes: The number of Gauss–Legendre nodes in log-SNR.

    Returns:
        A scalar, in units of the score.

    Raises:
        TypeError: if the SDE has no Gaussian kernel, or `x` is not floating.
        ValueError: if `t` or `start` is outside the horizon, or `nodes` is below one.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> truth, x = sfp.Score(lambda t, x: -x, sfp.VP()), jnp.ones(1)
        >>> model = sfp.Score(lambda t, x: -1.1 * x, sfp.VP())
        >>> bound = sfp.fokker_planck.high_order_bound(
        ...     truth, sfp.fokker_planck.matching_errors(model, truth, 0.5, x), 0.5, x, start=0.1
        ... )
        >>> bool(abs(sfp.fokker_planck.integrated_residual(model, 0.5, x, start=0.1)[0]) < bound)
        True
    """
    require_score(truth, "truth")
    sde = linear_sde(truth)
    kind("errors", errors, MatchingErrors, "It is what matching_errors returns, or the largest of them.")
    start, t, x = _limits(truth, start, t, x)
    check_exact(x)
    times, weights = time_quadrature(sde, start, t, nodes)

    def sizes(tau: Scalar) -> tuple[Scalar, Scalar, Scalar]:
        """The factors of the three integrals."""
        g2, rate = sde.g2(tau), jnp.abs(sde.rate(tau))
        s, jacobian = truth(tau, x), jax.jacfwd(lambda y: truth(tau, y))(x)
        # f = a(t) x is linear, and the Frobenius norm of the identity is √D.
        return g2, g2 * _norm(s) + rate * _norm(x), g2 * _norm(jacobian) + rate * jnp.sqrt(1.0 * x.size)

    spread, by_jacobian, by_score = (jnp.abs(jnp.sum(weights * size)) for size in jax.vmap(sizes)(times))
    return (
        2 * errors.score
        + 0.5 * (errors.divergence + 2 * errors.jacobian * errors.score) * spread
        + errors.jacobian * by_jacobian
        + errors.score * by_score
    )


def _limits(score: AbstractScore, start: Time, t: Time, x: Event) -> tuple[Scalar, Scalar, Event]:
    """Both limits of an integral over time, inside the horizon, and the sample."""
    start, x = measured_at(score, start, x, "start")
    return start, *measured_at(score, t, x)


def _norm(x: Event) -> Scalar:
    """The Euclidean (Frobenius) norm of an array of any shape."""
    return jnp.sqrt(jnp.sum(x**2))
