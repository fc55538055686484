"""The martingale property of the denoiser as a regulariser (Daras 2023)."""

from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from .._checks import callable_with, count, random_key, require
from .._module import AbstractModule
from .._types import Event, Key, Scalar, Time
from ..reverse import ReverseStep, euler_maruyama_step
from ..reverse.paths import checked_path, unchecked_path
from ..score import AbstractScore
from ..score.score import linear_sde
from ..sde import AbstractLinearSDE
from .objective import AbstractTerm
from .perturbed import Perturbed
from .weighting import Weighting, weight_at
from .window import AbstractWindow, LogSNRWindow

_T = TypeVar("_T")


def consistency_loss(
    score: AbstractScore,
    t: Time,
    earlier: Time,
    x: Event,
    *,
    key: Key,
    steps: int = 6,
    paths: int = 2,
    step: ReverseStep = euler_maruyama_step,
) -> Scalar:
    r"""The distance of the denoiser $h$ from a martingale along its own reverse SDE between two times [M2] (Daras
    2023, §4), without bias from the number of paths:

    $$ \begin{gathered}
       \tfrac12\big\|E[h(x_{t'}, t') \mid x_t = x] - h(x, t)\big\|^2
       \approx \frac{1}{2 n (n - 1)}\sum_{i \ne j}\langle d_i, d_j\rangle, \\
       d_i = h(x_{t'}^{(i)}, t') - h(x, t),
       \end{gathered} $$

    the mean over all pairs of independent paths. It is zero for the exact score of any data, as the steps grow, and
    may be negative by chance.

    To first order in the window $\delta = t - t'$ it is $\tfrac12\delta^2(\sigma^4/\alpha^2)\|\varepsilon_M\|^2$ with
    the martingale form of the residual of the score Fokker–Planck equation [F8].

    Args:
        score: A score on a linear SDE.
        t: The time.
        earlier: $t' \le t$.
        x: The state at $t$.
        key: A random key.
        steps: The number of steps of a path.
        paths: How many independent paths, at least two.
        step: As in `reverse_path`.

    Returns:
        The loss, in squared units of the samples, summed over the entries.

    Raises:
        TypeError: if the SDE has no Gaussian kernel, or `x` is not floating.
        ValueError: if $t'$ is above $t$ or either is outside `[t0, t1]`, `steps` is below one, or `paths` below two.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> x, key = jnp.ones(2), jax.random.key(0)
        >>> score = lambda c: sfp.Score(lambda t, x: -c * x, sfp.VP())  # exact for c = 1
        >>> loss = jax.jit(
        ...     lambda c: sfp.objective.consistency_loss(score(c), 0.3, 0.1, x, key=key, paths=1000, steps=20)
        ... )
        >>> bool(abs(loss(1.0)) < 0.002), bool(loss(1.5) > 0.02)
        (True, True)
    """
    steps, paths = count("steps", steps), count("paths", paths)
    callable_with("step", step, 5)
    random_key("consistency_loss", key)
    require(
        paths >= 2,
        f"paths = {paths}; the square of one path's defect has the variance of the path on top of what is asked for. "
        "The product of two independent paths does not: use paths=2 or more.",
    )
    t, earlier, x = checked_path(score, t, earlier, x, steps)
    ends = denoised_ends(score, t, earlier, x, key, steps, paths, step, pathwise=True)
    return 0.5 * mean_product(ends - score.denoise(t, x))


def denoised_ends(
    score: AbstractScore,
    t: Scalar,
    earlier: Scalar,
    x: Event,
    key: Key,
    steps: int,
    paths: int,
    step: ReverseStep,
    *,
    pathwise: bool,
) -> Float[Array, "paths *event"]:
    """The denoiser at the ends of independent paths, through which gradients go if they are path-wise."""
    # Stopped before and after: nothing of the path is differentiated, also where the score closes over its parameters.
    walker = score if pathwise else stopped(score)

    def end(key: Key) -> Event:
        there = unchecked_path(walker, t, earlier, x, key, steps, step)
        return score.denoise(earlier, there if pathwise else stopped(there))

    return jax.vmap(end)(jr.split(key, paths))


def stopped(value: _T) -> _T:
    """The same with no gradient through its floating arrays."""
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, value)


def mean_product(defects: Float[Array, "paths *event"]) -> Scalar:
    r"""The mean of $\langle d_i, d_j\rangle$ over all pairs $i \ne j$: the squared norm of the mean of independent
    draws, without bias.
    """
    paths = defects.shape[0]
    others = jnp.sum(defects, axis=0) - defects
    return jnp.sum(defects * others) / (paths * (paths - 1))


class OwnSamples(AbstractModule):
    """Drifted data: points that the model reaches itself, by its own reverse SDE from the prior at `t1` down to the
    time that is asked for (Daras 2023, §4). No gradient goes through them.

    Args:
        steps: The number of steps of Euler–Maruyama, of equal length in log-SNR.

    Raises:
        ValueError: if `steps` is below one.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, scorefp as sfp
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> draw = eqx.filter_jit(sfp.objective.OwnSamples(10))
        >>> x = draw(standard, jnp.asarray(0.5), jnp.zeros(1000), key=jax.random.key(0))
        >>> bool(abs(x.std() - 1) < 0.1)
        True
    """

    steps: int = 32

    def __check_init__(self) -> None:
        count("steps", self.steps, 1)

    def __call__(self, score: AbstractScore, t: Scalar, like: Event, *, key: Key) -> Event:
        """One point at time `t`, of the shape and dtype of `like`.

        Args:
            score: A score on a linear SDE.
            t: The time.
            like: A sample.
            key: A random key.
        """
        prior_key, path_key = jr.split(key)
        sde, fixed = score.sde, stopped(score)
        start = sde.prior.sample(prior_key, like.shape).astype(like.dtype)
        top = jnp.asarray(sde.t1, t.dtype)
        return stopped(unchecked_path(fixed, top, t, start, path_key, self.steps, euler_maruyama_step))


class Consistency(AbstractTerm):
    r"""The martingale property of the denoiser $h$ along the model's own reverse SDE as a regulariser [M2] (Daras 2023,
    §4),

    $$ \int \lambda(t)\,E_{x_t, t'}\Big[\tfrac12\big\|E[h(x_{t'}, t') \mid x_t] - h(x_t, t)\big\|^2\Big]\,dt, $$

    the square without bias from the product $\langle d_1, d_2\rangle$ of the defects $d_i = h(x_{t'}^{(i)}, t') -
    h(x_t, t)$ of two independent paths. A denoiser is a martingale exactly when its score solves the score
    Fokker–Planck equation in the martingale form: this is `ScoreFPE` over a window of time, without a derivative.

    **The default is free of the time scale**: with no weighting given it is

    $$ \lambda(t) = \frac{g^2}{\sigma^2}\cdot\frac{\alpha^2}{\sigma^2}\Big/E[(\lambda_{t'} - \lambda_t)^2], $$

    the last mean over the log-SNR of the window (`mean_square`). For short windows the term is then
    $\tfrac12\int\|\tilde\varepsilon_M\|^2\,d\lambda$, what `ScoreFPE` is by default [F8], [F15], in the unit of
    likelihood-weighted `DSM`. A longer window averages the residual over itself, costs no more and has less noise: that
    of an estimate falls like one over the length.

    **The paper's** is a mean over EDM's law of noise levels, `Consistency(NoiseWindow(0.05),
    weighting=ExpectedWeighting(unit_weighting, LogNormalNoise()))` on `EDM()`, and beside `edm_loss()` has no weight in
    the paper; its public code has 20 times it by default.

    **The gradient** of the paper leaves out how the law of $x_{t'}$ depends on the parameters: the path is stopped, the
    score in it too. It is the gradient of no function and may climb: at small noise an error of the noise prediction
    grows along it, which `DSM` at the same times has to hold down. `pathwise` has the full gradient of the loss, by
    differentiating through the steps; it takes the memory of all of them.

    All evaluations for one sample share one dropout mask, as the model is bound to one key: a mask for each would make
    a defect of its own.

    Args:
        window: The law of $t'$: `LogSNRWindow(length)`, `NoiseWindow(length)` or `TimeWindow(length)`.
        steps: The number of steps of a path, each an evaluation of the score (two with `heun_step`).
        step: As in `reverse_path`.
        points: The points $x_t$: `OwnSamples(steps)`; the diffused data for `None`.
        pathwise: Whether the gradient goes through the paths too.
        weighting: $\lambda$, outside the half, a function `(sde, t) -> weight`; the one free of the
            time scale for `None`.
        fraction: The share of the batch it is evaluated on: its first rows.

    Raises:
        ValueError: if `steps` is below one or `fraction` outside (0, 1]; on a call, if the floor of the window is
            outside `[t0, t1)`.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, scorefp as sfp
        >>> point = sfp.DenoiserScore(lambda t, x: jnp.zeros_like(x), sfp.VP(), None)  # all data are zero
        >>> loss = eqx.filter_jit(sfp.Consistency())
        >>> float(loss(point, jnp.zeros((8, 2)), key=jax.random.key(0)))
        0.0
    """

    window: AbstractWindow = LogSNRWindow()
    steps: int = 6
    step: ReverseStep = euler_maruyama_step
    points: OwnSamples | None = None
    pathwise: bool = eqx.field(default=False, static=True)
    weighting: Weighting | None = None
    fraction: float = 1.0

    def __check_init__(self) -> None:
        count("steps", self.steps, 1)

    def observe(self, score: AbstractScore, perturbed: Perturbed, *, key: Key) -> tuple[Event | None, Any]:
        t, sde = perturbed.t, linear_sde(score)
        window_key, path_key, point_key = jr.split(key, 3)
        earlier = self.window(sde, t, key=window_key)
        if self.points is None:
            x, start = perturbed.x, None
        else:
            x = self.points(score, t, perturbed.x, key=point_key)
            start = score.denoise(t, x)
        ends = denoised_ends(score, t, earlier, x, path_key, self.steps, 2, self.step, pathwise=self.pathwise)
        return None, (ends, start)

    def integrand(self, sde: AbstractLinearSDE, perturbed: Perturbed, value: Event, observed: Any) -> Scalar:
        t = perturbed.t
        ends, start = observed
        if start is None:
            start = (perturbed.x + sde.sigma(t) ** 2 * value) / sde.alpha(t)
        return self._weight(sde, t) * 0.5 * mean_product(ends - start)

    def _weight(self, sde: AbstractLinearSDE, t: Scalar) -> Scalar:
        if self.weighting is not None:
            return weight_at("weighting", self.weighting, sde, t)
        return sde.g2(t) * (sde.alpha(t) / sde.sigma(t) ** 2) ** 2 / self.window.mean_square(sde, t)
