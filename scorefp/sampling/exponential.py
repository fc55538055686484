"""Exponential integrators: steps that are exact for a denoiser held fixed, or extrapolated."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import random_key, require
from .._types import Event, Key, Scalar
from ..reverse import exponential_step
from ..score import AbstractScore
from ..score.score import linear_sde
from ..sde import AbstractLinearSDE
from .grid import Grid, log_snr_grid
from .sampler import AbstractGridSampler, AbstractStepSampler, start_of


class ExponentialIntegrator(AbstractStepSampler):
    r"""The exponential integrator of a linear SDE [G1]: over each step the denoiser $h$ is held fixed and all else is
    solved exactly. With the noise prediction $\hat\epsilon$ and $\tau = \eta\,\sigma'\sqrt{1 - e^{\lambda -
    \lambda'}}$ a step from $t$ to $t' < t$ is

    $$ x' = \alpha' h + \sqrt{\sigma'^2 - \tau^2}\;\hat\epsilon + \tau\epsilon . $$

    The ODE for $\eta = 0$, then it is DDIM (Song 2020, Eq. 12), which is Euler's method in $x/\alpha$ over
    $\sigma/\alpha$; the reverse SDE for $\eta = 1$, then it is ancestral sampling, with the posterior's
    variance (Ho 2020, Eq. 7). Of order one, one evaluation a step.

    On the steps of a table these are the published updates. For a thousand steps
    `Denoised(ExponentialIntegrator(999, NodeGrid(), noise=1.0))` is Algorithm 2 of Ho 2020.

    Args:
        steps: The number of steps.
        grid: Called as `grid(sde, steps)`, it returns `steps + 1` times which go down from `t1` to `t0`.
        noise: $\eta$, in [0, 1].

    Raises:
        TypeError: on a call, if the SDE has no Gaussian kernel.
        ValueError: if `steps` is below one or `noise` outside [0, 1]; on a call, if the times of the
            grid are not as above, or `key` is `None` and `noise` is not zero.

    Example:
        >>> import jax, scorefp as sfp
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP(), shape=(2,))
        >>> method = sfp.ExponentialIntegrator(steps=10, noise=1.0)
        >>> sfp.sample(standard, 3, key=jax.random.key(0), method=method).shape
        (3, 2)
    """

    steps: int = 100
    grid: Grid = log_snr_grid
    noise: float = eqx.field(default=0.0, static=True)

    def __check_init__(self) -> None:
        require(0 <= self.noise <= 1, f"noise = {self.noise}; the share of the noise lies in [0, 1].")

    def step(self, score: AbstractScore, t: Scalar, earlier: Scalar, x: Event, *, key: Key | None) -> Event:
        if self.noise == 0:  # No draws: they can cost as much as a small network.
            return along(linear_sde(score), t, earlier, x, score.noise(t, x))
        return exponential_step(
            score, t, earlier, x, random_key(type(self).__name__, key), jnp.asarray(self.noise, x.dtype)
        )


class DPMSolver(AbstractGridSampler):
    r"""DPM-Solver++(2M) (Lu 2022b, Algorithm 2) on the ODE of a linear SDE [G1]: an exponential integrator in the half
    log-SNR $\ell = \log\alpha/\sigma$ that extrapolates the denoiser from the last two evaluations. With the lengths
    $\delta_i$ of the steps in $\ell$ and $h_i = h(t_i, x_i)$, the step from $t_i$ is

    $$ x_{i+1} = \frac{\sigma_{i+1}}{\sigma_i} x_i + \alpha_{i+1}\big(1 - e^{-\delta_i}\big)
       \Big(h_i + \frac{\delta_i}{2\delta_{i-1}}\,(h_i - h_{i-1})\Big), $$

    the first one without extrapolation. Of order two, with one evaluation a step.

    Args:
        steps: The number of steps.
        grid: Called as `grid(sde, steps)`, it returns `steps + 1` times which go down from `t1` to `t0`.

    Raises:
        TypeError: on a call, if the SDE has no Gaussian kernel.
        ValueError: if `steps` is below one; on a call, if the times of the grid are not as above.

    Example:
        >>> import jax, scorefp as sfp
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP(), shape=(2,))
        >>> sfp.sample(standard, 3, key=jax.random.key(0), method=sfp.DPMSolver(steps=10)).shape
        (3, 2)
    """

    steps: int = 20
    grid: Grid = log_snr_grid

    def __call__(self, score: AbstractScore, x1: Event, *, key: Key | None = None) -> Event:
        sde, x1 = linear_sde(score), start_of(self, score, x1, key)
        times = self.times(sde, x1.dtype)
        lengths = 0.5 * jnp.diff(sde.log_snr(times))
        shares = jnp.concatenate([jnp.zeros_like(lengths[:1]), 0.5 * lengths[1:] / lengths[:-1]])

        def step(
            state: tuple[Event, Event], now: tuple[Scalar, Scalar, Scalar, Scalar]
        ) -> tuple[tuple[Event, Event], None]:
            (x, before), (t, earlier, length, share) = state, now
            clean = score.denoise(t, x)
            target = clean + share * (clean - before)
            kept = jnp.exp(sde.log_sigma(earlier) - sde.log_sigma(t))
            moved = kept * x - sde.alpha(earlier) * jnp.expm1(-length) * target
            return (moved.astype(x.dtype), clean.astype(x.dtype)), None

        return jax.lax.scan(step, (x1, jnp.zeros_like(x1)), (times[:-1], times[1:], lengths, shares))[0][0]


def along(sde: AbstractLinearSDE, t: Scalar, earlier: Scalar, x: Event, noise: Event) -> Event:
    r"""The state at $t'$ along $\mathrm d(x/\alpha) = \epsilon\,\mathrm d(\sigma/\alpha)$ with a fixed $\epsilon$."""
    scale = jnp.exp(sde.log_alpha(earlier) - sde.log_alpha(t))
    return scale * x + (sde.sigma(earlier) - scale * sde.sigma(t)) * noise
