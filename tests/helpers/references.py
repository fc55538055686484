"""Exact references and the yardsticks that tests share.

What is compared is mathematics: closed forms [X1], [X2], perturbed scores whose residual is known [X3], fitted orders,
and Monte-Carlo means with their standard error.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import scipy.stats
from helpers.linear_case import exponent
from jaxtyping import Array

import scorefp as sfp
from scorefp.sde import AbstractLinearSDE

RARE = scipy.stats.norm.sf(4.0)
"""A test of a law fails at four standard deviations."""


def inverse_linear() -> sfp.LinearSDE:
    """A linear SDE that is no member: `alpha = 1 / (1 + t)`, `sigma = t`."""
    return sfp.LinearSDE(lambda t: -jnp.log1p(t), jnp.log, t0=0.01, t1=3.0)


LINEAR: dict[str, Callable[[], AbstractLinearSDE]] = {
    "VE": sfp.VE,
    "VE from zero": lambda: sfp.VE(t0=1e-3, from_zero=True),
    "VP": sfp.VP,
    "SubVP": sfp.SubVP,
    "OU": sfp.OU,
    "EDM": sfp.EDM,
    "Cosine": sfp.Cosine,
    "LinearSDE": inverse_linear,
    "DiscreteSDE": lambda: sfp.sde.DiscreteSDE(np.exp(-exponent((np.arange(64) + 1) / 64))),
}
"""Every kind of linear SDE, by constructors: what they hold is made in the precision of the test."""


class Local(AbstractLinearSDE):
    """A linear SDE to first order in time around one time, as numbers, so that one compiled function serves them all.

    The Fokker–Planck equation takes one derivative in time, so that nothing at that time is changed.
    """

    centre: Array
    values: Array
    slopes: Array
    rate_there: Array
    g2_there: Array
    t0: float = eqx.field(default=0.0, static=True)
    t1: float = eqx.field(default=100.0, static=True)

    def log_alpha(self, t: Array) -> Array:
        return self.values[0] + self.slopes[0] * (t - self.centre)

    def log_sigma(self, t: Array) -> Array:
        return self.values[1] + self.slopes[1] * (t - self.centre)

    def rate(self, t: Array) -> Array:
        return self.rate_there

    def g2(self, t: Array) -> Array:
        return self.g2_there

    def time_of_log_snr(self, log_snr: Array) -> Array:
        raise NotImplementedError


def local(sde: AbstractLinearSDE, t: Array) -> Local:
    """`Local` of a linear SDE: its own functions' values at `t`, and the derivatives of the first two."""
    both = lambda t: jnp.stack([sde.log_alpha(t), sde.log_sigma(t)])
    values, slopes = jax.jvp(both, (t,), (jnp.ones_like(t),))
    return Local(t, values, slopes, sde.rate(t), sde.g2(t))


def locals_of_all(count: int) -> Local:
    """`local` of every linear SDE at times from t0 to t1, as one pytree of arrays of shape `(SDEs, times, ...)`."""

    @jax.jit
    def every() -> Local:
        found = [
            jax.vmap(lambda t, sde=sde: local(sde, t))(times(sde, count)) for sde in (f() for f in LINEAR.values())
        ]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)

    return every()


LINE_MEANS, LINE_WEIGHTS, LINE_VARIANCES = np.array([[-0.8, 0.6], [0.3, 0.7], [0.1, 0.2]])


def line_mixture() -> sfp.GaussianMixture:
    """Two unequal modes of scalar samples."""
    return sfp.GaussianMixture(*(jnp.asarray(part) for part in (LINE_MEANS, LINE_VARIANCES, LINE_WEIGHTS)))


def on_line_modes(fn: Callable[..., Any], sde: AbstractLinearSDE, t: float, x: Any) -> np.ndarray:
    """The density or distribution function of `line_mixture` at `t`, from `norm.pdf` or `norm.cdf`."""
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    means, stds = alpha * LINE_MEANS, np.sqrt(alpha**2 * LINE_VARIANCES + sigma**2)
    return fn(np.asarray(x)[..., None], means, stds) @ LINE_WEIGHTS


def line_moments(alpha: float = 1.0, sigma: float = 0.0) -> tuple[float, float, float]:
    """The first three moments of `alpha x + sigma noise` for `line_mixture`."""
    m, v = alpha * LINE_MEANS, alpha**2 * LINE_VARIANCES + sigma**2
    return LINE_WEIGHTS @ m, LINE_WEIGHTS @ (m**2 + v), LINE_WEIGHTS @ (m**3 + 3 * m * v)


def plane_mixture() -> sfp.GaussianMixture:
    """Three modes in the plane with full covariances, of about unit size."""
    covariances = jnp.array([[[0.3, 0.1], [0.1, 0.2]], [[0.2, -0.08], [-0.08, 0.3]], [[0.15, 0.0], [0.0, 0.4]]])
    return sfp.GaussianMixture(
        jnp.array([[-0.9, 0.2], [0.8, 0.5], [0.1, -1.0]]), covariances, jnp.array([0.2, 0.5, 0.3])
    )


def image_mixture() -> sfp.GaussianMixture:
    """Two modes of samples of shape `(2, 1, 2)`, with full covariances."""
    size = 4
    lower = jnp.tril(jnp.sin(jnp.arange(2.0 * size * size).reshape(2, size, size)))
    means = jnp.stack([jnp.linspace(-1.0, 0.5, size), jnp.linspace(0.8, -0.3, size)]).reshape(2, 2, 1, 2)
    return sfp.GaussianMixture(means, 0.2 * lower @ lower.mT + 0.1 * jnp.eye(size), jnp.array([0.4, 0.6]))


MIXTURES: dict[str, Callable[[], sfp.GaussianMixture]] = {
    "()": line_mixture,
    "(2,)": plane_mixture,
    "(2, 1, 2)": image_mixture,
}
"""One mixture an event shape."""


def standard(sde: Any = None, shape: tuple[int, ...] | None = None) -> sfp.Score:
    """The score of standard normal data, `-x`; under VP, which it is by default, they stay so."""
    return sfp.Score(lambda t, x: -x, sfp.VP() if sde is None else sde, shape)


class Multiple(eqx.Module):
    """`-factor x`; the factor is an array, so that one program serves all."""

    factor: Array

    def __call__(self, t: Array, x: Array) -> Array:
        return -self.factor * x


def multiple(factor: float, shape: tuple[int, ...] | None = None) -> sfp.Score:
    """The score of `standard()` times a factor."""
    return sfp.Score(Multiple(jnp.asarray(factor)), sfp.VP(), shape)


def cube(*shape: int, side: float) -> sfp.Box:
    """From `-side` to `side` in each entry."""
    return sfp.Box(jnp.full(shape, -side), jnp.full(shape, side))


def times(sde: AbstractLinearSDE, count: int = 5) -> Array:
    """Times from `t0` to `t1`, even in log-SNR, which is what matters at both ends."""
    ends = jnp.asarray([sde.t0, sde.t1])
    first, last = sde.log_snr(ends)
    return jnp.clip(sde.time_of_log_snr(jnp.linspace(first, last, count)), *ends)


def single_times(sde: AbstractLinearSDE, count: int = 5) -> Array:
    """`times` with the digits of float32, so that both precisions see the same, and inside the horizon."""
    first, *inner, last = np.asarray(jax.jit(lambda: times(sde, count))()).astype(np.float32)
    first = first if float(first) >= sde.t0 else np.nextafter(first, np.float32(np.inf))
    last = last if float(last) <= sde.t1 else np.nextafter(last, np.float32(0))
    return jnp.asarray([first, *inner, last], jnp.float64)


def diffused(mixture: sfp.GaussianMixture, sde: AbstractLinearSDE, t: Array, key: Array, count: int) -> Array:
    """Samples of `q_t`, of shape `(times, count, *event)`."""

    def at(t: Array, key: Array) -> Array:
        data_key, noise_key = jr.split(key)
        x0 = mixture.sample(data_key, count)
        return sde.alpha(t) * x0 + sde.sigma(t) * jr.normal(noise_key, x0.shape)

    return jax.vmap(at)(t, jr.split(key, t.size))


class Perturbed(eqx.Module):
    """The field `eta w(t) p(x)` with `w = cos 3t`, `p_i = sin(x_{i+1} + i)`; no potential has it for `D > 1` [X3]."""

    eta: Array | float = 0.3

    def __call__(self, t: Array, x: Array) -> Array:
        shift = jnp.arange(x.size).reshape(x.shape)
        return self.eta * jnp.cos(3 * t) * jnp.sin(jnp.roll(x.ravel(), -1).reshape(x.shape) + shift)


class Sum(eqx.Module):
    """A score and a field."""

    score: sfp.score.AbstractScore
    field: Callable[[Array, Array], Array]

    def __call__(self, t: Array, x: Array) -> Array:
        return self.score(t, x) + self.field(t, x)


def perturbed(score: sfp.score.AbstractScore, eta: Array | float = 0.3) -> sfp.Score:
    """The score with the field of `Perturbed` added: neither exact nor conservative. For an array `eta`, one program
    serves all."""
    return sfp.Score(Sum(score, Perturbed(eta)), score.sde, score.shape)


def relative(error: Array, scale: Array) -> float:
    """The largest norm of `error` over the root mean square norm of `scale`, both of shape `(count, *event)`."""
    rows = jnp.linalg.norm(error.reshape(error.shape[0], -1), axis=1)
    return float(rows.max() / jnp.sqrt(jnp.mean(jnp.sum(scale.reshape(scale.shape[0], -1) ** 2, axis=1))))


def integral(fn: Callable[[np.ndarray], np.ndarray], first: float, last: float) -> float:
    """Gauss–Legendre, for smooth functions."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    return float(0.5 * (last - first) * np.sum(weights * fn(first + 0.5 * (last - first) * (nodes + 1))))


def fitted_order(steps: Array | list[float], errors: Array | list[float]) -> float:
    """The slope of `log(error)` over `log(step)`."""
    return float(np.polyfit(np.log(np.asarray(steps)), np.log(np.asarray(errors)), 1)[0])


def standard_error(samples: Array) -> np.ndarray:
    """The standard error of the mean over the leading axis."""
    samples = np.asarray(samples, np.float64)
    return samples.std(axis=0, ddof=1) / np.sqrt(samples.shape[0])


def mean_is(samples: Array, want: Array | float, *, sigmas: float = 4.0) -> bool:
    """Whether the mean over the leading axis is within `sigmas` standard errors of `want`, in every entry."""
    mean = np.asarray(samples, np.float64).mean(axis=0)
    allowed = sigmas * standard_error(samples) + 1e-12 * (1 + np.abs(mean))
    return bool(np.all(np.abs(mean - np.asarray(want)) <= allowed))


def assert_mean(samples: Array, want: Array | float, *, sigmas: float = 4.0, resolution: float = 0.1) -> None:
    """The mean over the leading axis is `want` within its standard error.

    The control comes with it: the standard error must be below `resolution` of the size of `want`, and a value off by
    `2 * sigmas * resolution` of that size must be told apart. Otherwise the test could not fail.
    """
    want = np.asarray(want, np.float64)
    size = np.abs(want).max()
    error = standard_error(samples)
    assert error.max() <= resolution * size, f"standard error {error} is no use for a value of {want}"
    assert mean_is(samples, want, sigmas=sigmas), (
        f"the mean is {np.asarray(samples).mean(axis=0)} ± {error}, not {want}"
    )
    assert not mean_is(samples, want + 2 * sigmas * resolution * size, sigmas=sigmas)


def inside(x: Array, quantisation: sfp.Quantisation | None) -> sfp.Dataset:
    """Floats as they are after the dequantisation of levels, with their quantisation."""
    return eqx.tree_at(lambda data: data.quantisation, sfp.Dataset(x), quantisation, is_leaf=lambda node: node is None)
