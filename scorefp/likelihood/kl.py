"""Kullback–Leibler divergences between data, reverse SDE and probability-flow ODE [K2], [K6], [K9]."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, Int

from .._batches import in_batches
from .._checks import checked, count, finite, floating, kind, random_key, require, same_shape
from .._module import AbstractModule
from .._precision import measures
from .._types import Event, Key, Scalar, Time
from ..dataset import Dataset
from ..integrals import AbstractTimeSampler, Estimate, UniformLogSNR
from ..integrals._diffused import clean_samples, diffused_integral, unconditioned
from ..integrals.estimate import mean_of
from ..reverse import Integrator
from ..score import AbstractPotential, AbstractScore
from ..score.potential import require_potential
from ..score.score import linear_sde, measured_at
from ..sde import AbstractLinearSDE
from ..sde.linear import require_linear
from .flow import log_likelihood


@measures
def gaussian_kl(
    mean: Float[Array, " D"],
    covariance: Float[Array, "D D"],
    other_mean: Float[Array, " D"],
    other_covariance: Float[Array, "D D"],
) -> Scalar:
    r"""$\mathrm{KL}\big(\mathcal N(m, C)\,\Vert\,\mathcal N(m', C')\big)$ in closed form [K9]:

    $$ \tfrac12\Big(\operatorname{tr}(C'^{-1}C) + (m' - m)^\top C'^{-1}(m' - m) - D
       + \log\frac{\det C'}{\det C}\Big). $$

    Args:
        mean: $m$.
        covariance: $C$, symmetric positive definite.
        other_mean: $m'$.
        other_covariance: $C'$, symmetric positive definite.

    Returns:
        The divergence, in nats.

    Raises:
        TypeError: if an array is not floating.
        ValueError: if the shapes do not match, an entry is not finite, or a covariance is not symmetric positive
            definite.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> one = jnp.eye(1)
        >>> round(float(sfp.likelihood.gaussian_kl(jnp.zeros(1), one, jnp.ones(1), 2 * one)), 4)
        0.3466
    """
    mean, other_mean = (finite(name, floating(name, m)) for name, m in (("mean", mean), ("other_mean", other_mean)))
    require(mean.ndim == 1, f"mean has shape {mean.shape}; it is a vector.")
    same_shape("other_mean", other_mean.shape, "mean", mean.shape)
    covariance = _covariance("covariance", covariance, mean)
    other_covariance = _covariance("other_covariance", other_covariance, mean)
    factor = jax.scipy.linalg.cho_factor(other_covariance)
    shift = other_mean - mean
    solved = jax.scipy.linalg.cho_solve(factor, jnp.concatenate([covariance, shift[:, None]], axis=1))
    log_det = jnp.linalg.slogdet(other_covariance)[1] - jnp.linalg.slogdet(covariance)[1]
    return 0.5 * (jnp.trace(solved[:, :-1]) + shift @ solved[:, -1] - mean.size + log_det)


def _covariance(name: str, matrix: Float[Array, "D D"], mean: Float[Array, " D"]) -> Float[Array, "D D"]:
    """A covariance for a mean, refused unless it is symmetric positive definite."""
    matrix = finite(name, floating(name, matrix))
    same_shape(name, matrix.shape, "(D, D) of mean", mean.shape * 2)
    asymmetric = ~jnp.allclose(matrix, matrix.T)
    bad = asymmetric | jnp.isnan(jnp.linalg.cholesky(matrix)).any()
    return checked(matrix, bad, f"{name} is not symmetric positive definite, which a covariance is.")


@measures
def prior_kl(truth: AbstractPotential, xs: Dataset | Float[ArrayLike, "n *event"], *, key: Key) -> Estimate:
    r"""$\mathrm{KL}(q_{t_1}\Vert\pi)$, the divergence of the diffused data from the prior at $t_1$, by exact logs
    [K9].

    Args:
        truth: The exact, normalised log-density of the diffused data, such as `GaussianMixture.score(sde)`.
        xs: Clean samples: floats, or a `Dataset`, whose levels are dequantised.
        key: A random key.

    Returns:
        The divergence in nats, with its standard error.

    Raises:
        TypeError: if `truth` is no potential, or the SDE has no Gaussian kernel.
        ValueError: if there are fewer than two samples, or one is not finite.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> line = sfp.GaussianMixture(jnp.array([[3.0]]), jnp.array([0.25]), jnp.ones(1))
        >>> xs = line.sample(jax.random.key(0), 1000)
        >>> found = sfp.likelihood.prior_kl(line.score(sfp.OU(t1=1.0)), xs, key=jax.random.key(1))
        >>> bool(abs(found.value - 1.410) < 4 * found.error)  # N(3/e, 1/2 - 1/4e²) against N(0, 1/2 - 1/2e²)
        True
    """
    linear_sde(require_potential(truth, "truth"))
    random_key("prior_kl", key)
    return _prior_kl(truth, unconditioned(xs, key), key)


@eqx.filter_jit
def _prior_kl(truth: AbstractPotential, x: Dataset, key: Key) -> Estimate:
    sde, x0 = linear_sde(truth), x.values
    t1 = jnp.asarray(sde.t1, x0.dtype)
    ends = sde.alpha(t1) * x0 + sde.sigma(t1) * jr.normal(key, x0.shape, x0.dtype)
    return mean_of(jax.vmap(lambda x: truth.potential(t1, x) - sde.prior.log_prob(x))(ends))


@measures
def prior_kl_bound(sde: AbstractLinearSDE, xs: Dataset | Float[ArrayLike, "n *event"]) -> Estimate:
    r"""An upper bound of $\mathrm{KL}(q_{t_1}\Vert\pi)$ from clean samples alone: the divergence is convex, so it is
    below the mean of $\mathrm{KL}\big(q(x_{t_1}\mid x_0)\,\Vert\,\pi\big)$, each between two Gaussians [K9].

    Args:
        sde: The forward process.
        xs: Clean samples: floats, or a `Dataset` of them.

    Returns:
        The bound in nats, with its standard error.

    Raises:
        TypeError: if the SDE has no Gaussian kernel, or the samples are not floats.
        ValueError: if there are fewer than two samples, or one is not finite.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> found = sfp.likelihood.prior_kl_bound(sfp.EDM(t1=2.0), jnp.array([[1.0], [-1.0]]))
        >>> float(found.value)  # 1/2 (1/2)^2
        0.125
    """
    data = clean_samples(xs)
    require_linear(sde)
    x = data.values
    entropy = data.size * (0.5 * jnp.log(2 * jnp.pi * jnp.e) + sde.log_sigma(sde.t1)).astype(x.dtype)
    return mean_of(jax.vmap(lambda x0: end_cross_entropy(sde, x0))(x) - entropy)


def end_cross_entropy(sde: AbstractLinearSDE, x0: Event) -> Scalar:
    r"""$-E[\log\pi(x_{t_1}) \mid x_0]$ [K9]."""
    t1 = jnp.asarray(sde.t1, x0.dtype)
    return sde.prior.cross_entropy(sde.alpha(t1) * x0, sde.sigma(t1))


@measures
def kl_bound(
    score: AbstractScore,
    truth: AbstractPotential,
    xs: Dataset | Float[ArrayLike, "n *event"],
    *,
    key: Key,
    draws: int = 32,
    time: AbstractTimeSampler = UniformLogSNR(),
    batch_size: int = 256,
) -> Estimate:
    r"""The upper bound of the divergence between the data and the reverse SDE's samples [K2] (Song 2021, Theorem 1):

    $$ \mathrm{KL}(q_{t_0}\Vert p_{\mathrm{SDE}}) \le \underbrace{\tfrac12\int g^2\,E\|s - \nabla\log q_t\|^2
       dt}_{J_{\mathrm{SM}}(g^2)} + \mathrm{KL}(q_{t_1}\Vert\pi) , $$

    an equality where the score is that of another diffusion of the same SDE that ends in $\pi$ (Theorem 2).

    Args:
        score: The model's score.
        truth: The exact, normalised log-density of the diffused data, on the same SDE.
        xs: Clean samples: floats, or a `Dataset`, whose levels are dequantised.
        key: A random key.
        draws: Times a sample.
        time: How times are drawn.
        batch_size: How many samples are taken at once.

    Returns:
        The bound in nats, with its standard error over samples.

    Raises:
        TypeError: if `truth` is no potential, or the SDE has no Gaussian kernel.
        ValueError: if the two have different SDEs, there are fewer than two samples, one is not finite, or `draws` or
            `batch_size` is below one.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> line = sfp.GaussianMixture(jnp.array([[0.5]]), jnp.array([0.25]), jnp.ones(1))
        >>> xs, truth = line.sample(jax.random.key(0), 100), line.score(sfp.VP())
        >>> off = sfp.Score(lambda t, x: truth(t, x) + 0.1, truth.sde)
        >>> found = sfp.likelihood.kl_bound(off, truth, xs, key=jax.random.key(1), draws=256)  # 1/2 0.01 (0.1 + 20) / 2
        >>> bool(abs(found.value - 0.05025) < 0.003)
        True
    """
    _same_sde(score, truth)
    random_key("kl_bound", key)
    draws, batch_size = count("draws", draws, 1), count("batch_size", batch_size, 1)
    return _kl_bound(score, truth, unconditioned(xs, key), key, draws, time, batch_size)


@eqx.filter_jit
def _kl_bound(
    score: AbstractScore,
    truth: AbstractPotential,
    x: Dataset,
    key: Key,
    draws: int,
    time: AbstractTimeSampler,
    batch_size: int,
) -> Estimate:
    path_key, end_key = jr.split(key)
    error = partial(_matching_error, truth)
    found = mean_of(diffused_integral(error, score, x, key=path_key, draws=draws, time=time, batch_size=batch_size))
    prior = _prior_kl(truth, x, end_key)
    return Estimate(found.value + prior.value, jnp.hypot(found.error, prior.error))


@measures
def ode_score(
    score: AbstractScore,
    t: Time,
    x: Event,
    *,
    integrator: Integrator = Integrator(),
) -> Event:
    r"""The score $\nabla\log p_{\mathrm{ODE},t}(x)$ of the law that the probability-flow ODE of a score has at time
    `t`, by differentiating the likelihood solve [K6].

    It equals $s$ where $s$ solves the score Fokker–Planck equation, is a gradient and ends in the score of the prior.

    Args:
        score: Any score on any SDE.
        t: The time, in `[t0, t1]`.
        x: One sample; batch with `jax.vmap`.
        integrator: How the ODE is solved; its adjoint must allow reverse mode.

    Returns:
        The score, of the shape of `x`.

    Raises:
        TypeError: if `x` is not floating.
        ValueError: if `t` is outside the horizon, or `x` is not finite.
        RuntimeError: if the solver fails.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> round(float(sfp.likelihood.ode_score(standard, 0.3, jnp.array([0.5]))[0]), 3)
        -0.5
    """
    t, x = measured_at(score, t, x)
    return jax.grad(lambda y: log_likelihood(score, y, start=t, integrator=integrator))(x)


class KLDecomposition(AbstractModule):
    r"""The two sides of $\mathrm{KL}(q_{t_0}\Vert p_{\mathrm{ODE}}) = \mathrm{KL}(q_{t_1}\Vert\pi) +
    J_{\mathrm{SM}} + J_{\mathrm{Diff}}$ [K6], in nats, each with its standard error.

    Args:
        kl: The left side, $E[\log q_{t_0} - \log p_{\mathrm{ODE}}]$, by exact logs and the likelihood solve.
        prior: $\mathrm{KL}(q_{t_1}\Vert\pi)$.
        matching: $J_{\mathrm{SM}} = \tfrac12\int g^2 E\|s - \nabla\log q_t\|^2 dt$.
        difference: $J_{\mathrm{Diff}} = \tfrac12\int g^2 E\langle s - \nabla\log q_t,\ s_{\mathrm{ODE}} - s\rangle dt$.
        fisher: $J_{\mathrm{Fisher}} = \tfrac12\int g^2 E\|s_{\mathrm{ODE}} - s\|^2 dt$, with
            $J_{\mathrm{Diff}}^2 \le J_{\mathrm{SM}} J_{\mathrm{Fisher}}$ (Lai 2023, Theorem 4.2).
        gap: Left side less right side, zero in the mean. Its error is smaller than what the others' add up to, since
            all of them see the same clean samples.
    """

    kl: Estimate
    prior: Estimate
    matching: Estimate
    difference: Estimate
    fisher: Estimate
    gap: Estimate

    @property
    def total(self) -> Scalar:
        """The right side: `prior + matching + difference`."""
        return self.prior.value + self.matching.value + self.difference.value


@measures
def kl_decomposition(
    score: AbstractScore,
    truth: AbstractPotential,
    xs: Dataset | Float[ArrayLike, "n *event"],
    *,
    key: Key,
    draws: int = 8,
    time: AbstractTimeSampler = UniformLogSNR(),
    integrator: Integrator = Integrator(),
    batch_size: int = 64,
) -> KLDecomposition:
    r"""The divergence between the data and the ODE's samples, and the three terms that it is made of [K6] (Lu 2022;
    Lai 2023, Lemma 4.1; Deveney 2023 prints the first factor of $J_{\mathrm{Diff}}$ with the wrong sign).

    Every term has noises of its own. The terms with $s_{\mathrm{ODE}}$ cost one likelihood solve and its gradient for
    each sample and draw, with the exact trace: it is a tool for small $D$.

    Args:
        score: The model's score.
        truth: The exact, normalised log-density of the diffused data, on the same SDE.
        xs: Clean samples: floats, or a `Dataset`, whose levels are dequantised.
        key: A random key.
        draws: Times a sample.
        time: How times are drawn.
        integrator: How the ODE is solved.
        batch_size: How many samples are taken at once.

    Returns:
        Both sides.

    Raises:
        TypeError: if `truth` is no potential, or the SDE has no Gaussian kernel.
        ValueError: if the two have different SDEs, there are fewer than two samples, one is not finite, or `draws` or
            `batch_size` is below one.
        RuntimeError: if a solve fails.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> line = sfp.GaussianMixture(jnp.array([[0.5]]), jnp.array([0.25]), jnp.ones(1))
        >>> xs, truth = line.sample(jax.random.key(0), 64), line.score(sfp.VP())
        >>> off = sfp.Score(lambda t, x: 1.1 * truth(t, x), truth.sde)
        >>> sides = sfp.kl_decomposition(off, truth, xs, key=jax.random.key(1), draws=4)
        >>> bool(abs(sides.gap.value) < 4 * sides.gap.error), bool(sides.kl.value > 0)
        (True, True)
    """
    _same_sde(score, truth)
    random_key("kl_decomposition", key)
    draws, batch_size = count("draws", draws, 1), count("batch_size", batch_size, 1)
    kind("integrator", integrator, Integrator)
    return _kl_decomposition(score, truth, unconditioned(xs, key), key, draws, time, integrator, batch_size)


@eqx.filter_jit
def _kl_decomposition(
    score: AbstractScore,
    truth: AbstractPotential,
    x: Dataset,
    key: Key,
    draws: int,
    time: AbstractTimeSampler,
    integrator: Integrator,
    batch_size: int,
) -> KLDecomposition:
    sde = linear_sde(score)
    kl_key, prior_key, matching_key, ode_key = jr.split(key, 4)
    t0, t1 = jnp.asarray(sde.t0, x.values.dtype), jnp.asarray(sde.t1, x.values.dtype)

    def diffused(t: Scalar, row: Int[Array, ""], key: Key) -> Event:
        noise = jr.normal(jr.fold_in(key, row), x.shape, x.values.dtype)
        return sde.diffuse(t, x.values[row], noise)

    def kl(row: Int[Array, ""]) -> Scalar:
        end = diffused(t0, row, kl_key)
        return truth.potential(t0, end) - log_likelihood(score, end, integrator=integrator)

    def prior(row: Int[Array, ""]) -> Scalar:
        end = diffused(t1, row, prior_key)
        return truth.potential(t1, end) - sde.prior.log_prob(end)

    def by_ode(score: AbstractScore, t: Scalar, x: Event, noise: Event) -> tuple[Scalar, Scalar]:
        value, g2 = score(t, x), sde.g2(t)
        off = ode_score(score, t, x, integrator=integrator) - value
        return 0.5 * g2 * jnp.sum((value - truth(t, x)) * off), 0.5 * g2 * jnp.sum(off**2)

    left = in_batches(kl, len(x), batch_size)
    at_end = in_batches(prior, len(x), batch_size)
    error = partial(_matching_error, truth)
    matched = diffused_integral(error, score, x, key=matching_key, draws=draws, time=time, batch_size=batch_size)
    difference, fisher = diffused_integral(by_ode, score, x, key=ode_key, draws=draws, time=time, batch_size=batch_size)
    return KLDecomposition(
        kl=mean_of(left),
        prior=mean_of(at_end),
        matching=mean_of(matched),
        difference=mean_of(difference),
        fisher=mean_of(fisher),
        gap=mean_of(left - at_end - matched - difference),
    )


def _matching_error(truth: AbstractPotential, score: AbstractScore, t: Scalar, x: Event, noise: Event) -> Scalar:
    """The integrand of the matching loss with the weight of the likelihood."""
    return 0.5 * linear_sde(score).g2(t) * jnp.sum((score(t, x) - truth(t, x)) ** 2)


def _same_sde(score: AbstractScore, truth: AbstractPotential) -> None:
    sde, other = linear_sde(score), linear_sde(require_potential(truth, "truth"))
    require(
        eqx.tree_equal(sde, other) is True,
        f"score is on {sde} and truth on {other}; both must be on the same SDE. Diffuse the data by the score's: "
        "mixture.score(score.sde).",
    )
