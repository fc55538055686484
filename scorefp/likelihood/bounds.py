r"""Upper bounds of the negative log-likelihood of the reverse SDE [K3], [K4] and of the code length of levels [K10]."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import ArrayLike, Integer

from .._batches import apart
from .._checks import finite, kind, one_of, random_key, require, same_shape, single_or_better
from .._module import AbstractModule
from .._precision import measures
from .._types import Event, Key, Scalar
from ..calculus import AbstractTrace, Exact, value_and_divergence
from ..dataset import Quantisation
from ..integrals import AbstractTimeSampler, UniformLogSNR
from ..integrals._diffused import check_whole, uncontrolled
from ..integrals.estimate import mean_of, stratified_mean_of
from ..score import AbstractScore
from ..score.score import linear_sde, sample_of
from ..sde import AbstractLinearSDE
from ._last_step import AbstractLastStep, NoStep, TweedieStep, denoising, moved
from ._levels import Encoder, LevelDecoder, level_start

BoundForm: TypeAlias = Literal["dsm", "sm"]
"""Denoising score matching, or implicit score matching with the divergence of the score."""


Truncation: TypeAlias = Literal["denoised", "noised", "ignored"]
r"""The quantity that a bound on $[\varepsilon, t_1]$ bounds, since no score is integrated down to $t = 0$ [K4].

`"denoised"` is the one to report. It bounds $-\log p_\theta(x)$ of a clean sample under the model that takes the
reverse SDE to $\varepsilon$ and then one denoising step $q_\theta(x \mid x') = \mathcal N\big((x' + \sigma^2 s)/\alpha,
(\sigma/\alpha)^2 I\big)$ (Song 2021, Eq. 39). `"noised"` bounds $-\log\tilde p(x)$ of a sample at time $\varepsilon$
under the reverse SDE itself (Theorem 7). `"ignored"` bounds $-E[\log\tilde p(x_\varepsilon) \mid x]$, an average over
the noise of a clean sample (Theorem 6) that is no likelihood of `x`.
"""


class BoundEstimator(AbstractModule):
    r"""The settings of `likelihood_bound`, `evaluate_bound` and `code_length`: the draws, and the quantity that is
    bounded.

    Args:
        draws: The number of times. A draw evaluates the score twice, and twice more at `start` for the denoising
            step.
        time: The law of times; the default is importance sampling for every linear SDE [H2].
        truncation: The quantity that is bounded: `"denoised"`, `"noised"` or `"ignored"`; see `Truncation`.
        start: The truncation $\varepsilon$, in `[t0, t1)`. `None` is `t0`; for a code length it is the time at which
            the noise $\sigma/\alpha$ is an eighth of a level, if that is later.
        trace: For the form `"sm"`: `Exact()`; or `Hutchinson(samples, law)` or another, which leaves the estimate
            unbiased.

    Raises:
        ValueError: if `draws` is below one, or `truncation` is another word.

    Example:
        >>> import scorefp as sfp
        >>> sfp.BoundEstimator(draws=1000, time=sfp.UniformTime(), start=1e-3).truncation
        'denoised'
    """

    remedy: ClassVar[str] = "It is scorefp.BoundEstimator(draws=128), for example."

    draws: int = eqx.field(default=256, static=True)
    time: AbstractTimeSampler = UniformLogSNR()
    truncation: Truncation = eqx.field(default="denoised", static=True)
    start: float | None = eqx.field(default=None, static=True)
    trace: AbstractTrace = Exact()

    def __check_init__(self) -> None:
        require(self.draws >= 1, f"draws = {self.draws}; the bound needs at least one draw.")

    def horizon(self, sde: AbstractLinearSDE) -> AbstractLinearSDE:
        """The SDE from the truncation on.

        Args:
            sde: The forward process.

        Raises:
            ValueError: if the truncation is outside its horizon.
        """
        if self.start is None:
            return sde
        require(
            sde.t0 <= self.start < sde.t1,
            f"start = {self.start} lies outside [t0, t1) = [{sde.t0}, {sde.t1}), the horizon of the SDE. Give a "
            "truncation inside it, or None for t0.",
        )
        return dataclasses.replace(sde, t0=self.start)


class LikelihoodBound(AbstractModule):
    r"""An upper bound of a negative log-likelihood, in nats, with its parts:
    `value = prior + diffusion + denoising - kernel_entropy`.

    Args:
        value: The bound.
        error: Its standard error; NaN from a single draw.
        prior: $-E[\log\pi(x_{t_1})]$, exact.
        diffusion: The integral over time, estimated.
        denoising: $-E[\log q_\theta(x \mid x_\varepsilon)]$, estimated; zero unless `"denoised"`. For a code length
            $-E[\log P_\theta(k \mid x_\varepsilon)]$.
        kernel_entropy: $\tfrac D2\log(2\pi e\,\sigma^2(\varepsilon))$, the entropy of the kernel; zero unless
            `"denoised"`. For VP at $10^{-5}$ it is -7.92 bits per dimension; a denoising term without it is a known
            mistake. For a code length it is that of $x_\varepsilon$ given the levels.
    """

    value: Scalar
    error: Scalar
    prior: Scalar
    diffusion: Scalar
    denoising: Scalar
    kernel_entropy: Scalar


@measures
def likelihood_bound(
    score: AbstractScore,
    x: Event,
    *,
    key: Key,
    form: BoundForm = "dsm",
    estimator: BoundEstimator = BoundEstimator(),
) -> Scalar:
    r"""An unbiased estimate of an upper bound of $-\log p_{\mathrm{SDE}}(x)$ of one sample [K3] (Song 2021,
    Theorem 3):

    $$ \begin{gathered}
       -E[\log\pi(x_{t_1})] + \int_\varepsilon^{t_1} E\Big[\tfrac12 g^2\big(\|s\|^2 - 2\langle s, \kappa\rangle\big)
       - \nabla\cdot f\Big]dt \\
       \text{or, for "sm",}\quad \tfrac12 g^2\big(\|s\|^2 + 2\,\nabla\cdot s\big) - \nabla\cdot f ,
       \end{gathered} $$

    with $\kappa = \nabla\log q(x_t \mid x)$ the kernel's score, whose square drops out of the paper's line, and with
    the denoising step of [K4] at the truncation $\varepsilon$ by default. The law that is bounded is that of
    the reverse SDE, not of the probability-flow ODE. It is differentiable in `x` and in what the score holds.

    Each draw takes one time and a pair of opposite noises. With `truncation="noised"`, `form="dsm"` needs the pair: the
    variance of a single noise is infinite there.

    Args:
        score: A score on a linear SDE.
        x: One clean sample; with `truncation="noised"` one sample at time `start`. Batch with `jax.vmap`.
        key: A random key.
        form: `"dsm"`, or `"sm"` with the divergence of the score.
        estimator: The draws, the law of their times, the truncation and the trace.

    Returns:
        The estimate, in nats.

    Raises:
        TypeError: if the SDE has no Gaussian kernel, or `x` is not floating or of half precision.
        ValueError: if `x` is not finite or has another shape than the score, the estimator's `start` is outside
            `[t0, t1)`, `form` is another word, or the times have no law on the whole horizon.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> mixture = sfp.GaussianMixture(jnp.array([[-1.0], [1.0]]), jnp.array([0.1, 0.2]), jnp.array([0.5, 0.5]))
        >>> x, exact = jnp.array([0.7]), mixture.score(sfp.VP())
        >>> bound = sfp.likelihood_bound(exact, x, key=jax.random.key(0), estimator=sfp.BoundEstimator(1000))
        >>> bool(bound > -mixture.log_prob(x) - 0.05)
        True
    """
    return evaluate_bound(score, x, key=key, form=form, estimator=estimator).value


@measures
def evaluate_bound(
    score: AbstractScore,
    x: Event,
    *,
    key: Key,
    form: BoundForm = "dsm",
    estimator: BoundEstimator = BoundEstimator(),
) -> LikelihoodBound:
    r"""The bound of `likelihood_bound` with its standard error and its parts [K3], [K4].

    The arguments and errors are those of `likelihood_bound`. The standard error is that of the draws: for stratified
    times by successive differences in the order of time. Of nominal 95 %, 1.96 standard errors at 64 draws hold the
    mean in 90 to 94 % of all cases with times uniform in log-SNR, in 80 % with uniform times on `EDM`, where few draws
    carry the integral (`benchmarks/coverage.py`).

    Returns:
        The bound, in nats.

    Example:
        >>> import jax, jax.numpy as jnp, math, scorefp as sfp
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> bound = sfp.evaluate_bound(standard, jnp.zeros(4), key=jax.random.key(0))
        >>> bool(abs(bound.value - 2 * math.log(2 * math.pi)) < 5 * bound.error)
        True
        >>> round(float(bound.kernel_entropy) / (4 * math.log(2)), 2)  # bits/dim
        -7.92
    """
    linear_sde(score)
    x, key = finite("x", single_or_better("x", sample_of(score, x))), random_key("the bound", key)
    one_of("form", form, get_args(BoundForm))
    kind("estimator", estimator, BoundEstimator)
    last = TweedieStep() if estimator.truncation == "denoised" else NoStep()
    return _evaluate(score, estimator.horizon(linear_sde(score)), x, key, form, estimator, last)


@measures
def code_length(
    score: AbstractScore,
    k: Integer[ArrayLike, "*event"],
    *,
    quantisation: Quantisation,
    key: Key,
    form: BoundForm = "dsm",
    estimator: BoundEstimator = BoundEstimator(),
    encoder: Encoder = "uniform",
) -> LikelihoodBound:
    r"""An unbiased estimate of an upper bound of the lossless code length $-\log P(k)$ of the levels of one sample, in
    nats, without dequantisation [K10]. It is what lossless codecs are measured by; `/ (D log 2)` makes it bits per
    dimension.

    The bound is that of the reverse SDE from `t1` to the truncation $\varepsilon$, with a decoder for its last step:
    the normal $\mathcal N(m, \tau^2 I)$ of Tweedie, integrated over the levels with the outer ones open,

    $$ \begin{gathered}
       P_\theta(k \mid x_\varepsilon) = \prod_i \Big[\Phi\Big(\frac{b_{k_i + 1} - m_i}\tau\Big)
       - \Phi\Big(\frac{b_{k_i} - m_i}\tau\Big)\Big], \\
       m = \frac{x_\varepsilon + \sigma^2 s}\alpha, \quad \tau = \frac\sigma\alpha, \\
       -\log P(k) \le -E[\log\pi(x_{t_1})] + \int_\varepsilon^{t_1} E\Big[\tfrac12 g^2\big(\|s\|^2
       - 2\langle s, \kappa\rangle\big) - \nabla\cdot f\Big]dt \\
       {} - E[\log P_\theta(k \mid x_\varepsilon)] - H(x_\varepsilon \mid k) .
       \end{gathered} $$

    Expectations are over $x_t = \alpha x + \sigma z$ with $x$ where the **encoder** puts the levels: at their centres,
    for a score that was trained on these, or uniformly inside. Every choice gives a bound. For a score that was trained
    on dequantised levels `"uniform"` is never above the dequantised bound [K4] with the same truncation, in the mean
    over its noise; `"centre"` may be several bits above it. The exact score of the diffused centres has, with
    `"centre"`, the code length itself, up to the prior and 3e-4 bits per dimension that the decoder loses at the
    default truncation.

    Args:
        score: A score on a linear SDE.
        k: The integer levels of one sample. Batch with `jax.vmap`.
        quantisation: The levels and the interval.
        key: A random key.
        form: `"dsm"`, or `"sm"` with the divergence of the score.
        estimator: The draws, the law of their times, the truncation and the trace. Less noise at $\varepsilon$ than the
            default adds variance and, for a score that is not exact there, its error; more noise leaves more to the
            decoder, which knows no law of pixels together.
        encoder: `"uniform"` or `"centre"`.

    Returns:
        The bound with its standard error and parts; `denoising` is the decoder's.

    Raises:
        TypeError: if the SDE has no Gaussian kernel, `k` does not hold integers, or `quantisation` is none.
        ValueError: if a level is out of range, `k` has another shape than the score, `truncation` is not `"denoised"`,
            `start` is outside `[t0, t1)`, `form` or `encoder` is another word, or the times have no law on the whole
            horizon; if `start` is None and the noise at `t1` is below an eighth of a level, or the SDE is traced.

    Example:
        >>> import jax, jax.numpy as jnp, math, scorefp as sfp
        >>> levels = sfp.Quantisation(4, -2.0, 2.0)
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> k, key = jnp.array([2]), jax.random.key(0)
        >>> found = sfp.likelihood.code_length(standard, k, quantisation=levels, key=key)
        >>> exact = -jnp.log(jax.scipy.stats.norm.cdf(1.0) - 0.5)  # level 2 is [0, 1)
        >>> bool(exact < found.value + 3 * found.error < exact + 1)
        True
    """
    sde = linear_sde(score)
    kind("quantisation", quantisation, Quantisation)
    k, key = quantisation.checked_levels(k), random_key("a code length", key)
    if score.shape is not None:
        same_shape("k", k.shape, "the score's own sample", score.shape)
    one_of("form", form, get_args(BoundForm))
    kind("estimator", estimator, BoundEstimator)
    require(
        estimator.truncation == "denoised",
        f"truncation = {estimator.truncation!r}; levels are decoded from the sample at the truncation, which is the "
        'last step of "denoised".',
    )
    one_of("encoder", encoder, get_args(Encoder))
    if estimator.start is None:
        estimator = dataclasses.replace(estimator, start=level_start(sde, quantisation))
    x = quantisation.place(k, jnp.full(k.shape, 0.5))
    return _evaluate(score, estimator.horizon(sde), x, key, form, estimator, LevelDecoder(k, quantisation, encoder))


@eqx.filter_jit
def _evaluate(
    score: AbstractScore,
    sde: AbstractLinearSDE,
    x: Event,
    key: Key,
    form: BoundForm,
    estimator: BoundEstimator,
    last: AbstractLastStep,
) -> LikelihoodBound:
    """The bound on the horizon of `sde`, with the last step from its start."""
    draws, time, truncation, trace = estimator.draws, estimator.time, estimator.truncation, estimator.trace
    check_whole(time)
    time_key, noise_key, trace_key = jr.split(key, 3)
    t, weight = (drawn.astype(x.dtype) for drawn in time.sample(sde, draws, key=time_key))
    noises, offsets = jr.normal(noise_key, (draws, *x.shape), x.dtype), last.offsets(draws, x, key=apart(noise_key))

    def integrand(t: Scalar, noise: Event, offset: Event | None, key: Key) -> Scalar:
        scale, std = _kernel(sde, t, truncation)

        def at(z: Event, u: Event | None) -> Scalar:
            x_t = scale * moved(x, u) + std * z
            return denoising(score(t, x_t), std, z) if form == "dsm" else _implicit(score, t, x_t, std, trace, key)

        half_square = _opposite(at, noise, offset)
        share = uncontrolled(2 * (jnp.log(scale) - jnp.log(std)))
        excess = 0.5 * share * (jnp.sum(noise**2) - x.size)
        return sde.g2(t) / std**2 * (half_square + (excess if form == "dsm" else -excess))

    def at_start(z: Event, u: Event | None) -> Event:
        return score(start, scale * moved(x, u) + std * z)

    start, end = jnp.asarray(sde.t0, x.dtype), jnp.asarray(sde.t1, x.dtype)
    over_time = weight * jax.vmap(integrand)(t, noises, offsets, jr.split(trace_key, draws))
    end_scale, end_std = _kernel(sde, end, truncation)
    # The cross entropy is quadratic in the sample, and needs no more than the variance.
    prior = sde.prior.cross_entropy(end_scale * x, last.deviation(end_scale, end_std))
    contraction = x.size * (sde.log_alpha(start) - sde.log_alpha(sde.t1)).astype(x.dtype)
    scale, std = _kernel(sde, start, truncation)
    last_step = jax.vmap(partial(_opposite, partial(last.step, at_start, scale, std)))(noises, offsets)
    known, kernel_entropy = last.known(x.size, scale, std), last.kernel_entropy(x.size, scale, std)

    total = over_time + last_step
    summed = stratified_mean_of(t, total) if time.stratified else mean_of(total)
    return LikelihoodBound(
        value=prior + contraction + known + summed.value,
        error=summed.error,
        prior=prior,
        diffusion=contraction + jnp.mean(over_time),
        denoising=jnp.mean(last_step) + known + kernel_entropy,
        kernel_entropy=kernel_entropy,
    )


def _kernel(sde: AbstractLinearSDE, t: Scalar, truncation: Truncation) -> tuple[Scalar, Scalar]:
    """Scale and standard deviation of the law of the sample at `t`, given the clean one or the one at `t0`."""
    if truncation != "noised":
        return sde.alpha(t), sde.sigma(t)
    scale, std = sde.transition(jnp.asarray(sde.t0, t.dtype), t)
    # At t0 itself nothing is left to divide by. Below this floor a pair of opposite noises gives rounding errors only.
    return scale, jnp.maximum(std, jnp.finfo(t.dtype).eps ** 0.5 * sde.sigma(t))


def _opposite(fn: Callable[[Event, Event | None], Scalar], noise: Event, offset: Event | None) -> Scalar:
    """The mean over a noise and an offset, where there is one, and their opposites."""
    return 0.5 * (fn(noise, offset) + fn(-noise, None if offset is None else -offset))


def _implicit(score: AbstractScore, t: Scalar, x: Event, std: Scalar, trace: AbstractTrace, key: Key) -> Scalar:
    r"""$\tfrac12\tau^2(\|s\|^2 + 2\,\nabla\cdot s)$."""
    value, div = value_and_divergence(lambda y: score(t, y), x, trace=trace, key=key)
    return std**2 * (0.5 * jnp.sum(value**2) + div)
