"""Heun's method on the ODE in scaled variables, with or without churn: the samplers of Karras 2022."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import ArrayLike, Float

from .._checks import is_concrete, random_key, require, scalar
from .._module import AbstractModule
from .._types import Event, Key, Scalar
from ..score import AbstractScore
from ..score.score import linear_sde
from ..sde import AbstractLinearSDE
from .exponential import along
from .grid import Grid, RhoGrid
from .sampler import AbstractStepSampler


class Churn(AbstractModule):
    r"""The noise that a `Heun` step adds before it goes down (Karras 2022, Algorithm 2) [G1]: the noise level $\nu =
    \sigma/\alpha$ is first raised to $(1 + \gamma)\nu$ with

    $$ \gamma = \min\big(\text{amount}/\text{steps},\ \sqrt2 - 1\big) \quad\text{for } \nu \in
       [\text{lowest}, \text{highest}], \qquad 0 \text{ elsewhere.} $$

    That is a draw of the forward process, which takes the marginal at the one level to that at the other. The level
    never leaves the horizon of the SDE: it is raised to that of `t1` at most, so that the first step adds none.

    Args:
        amount: $S_\text{churn}$.
        lowest: $S_\text{tmin}$, in the units of $\sigma/\alpha$.
        highest: $S_\text{tmax}$, likewise.
        inflation: $S_\text{noise}$, a factor of the new noise. Karras 2022 takes 1.003 to 1.007 for networks that
            remove a little too much noise; for an exact score one is right.

    Raises:
        TypeError: if one of them is no number.
        ValueError: unless `amount` is not negative and finite, `lowest` not negative and below `highest`, and
            `inflation` positive and finite.

    Example:
        >>> import jax, scorefp as sfp
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP(), shape=(2,))
        >>> method = sfp.Heun(steps=10, churn=sfp.sampling.Churn(amount=4.0))
        >>> sfp.sample(standard, 3, key=jax.random.key(0), method=method).shape
        (3, 2)
    """

    amount: Float[ArrayLike, ""]
    lowest: Float[ArrayLike, ""] = 0.0
    highest: Float[ArrayLike, ""] = np.inf
    inflation: Float[ArrayLike, ""] = 1.0

    def __check_init__(self) -> None:
        values = (self.amount, self.lowest, self.highest, self.inflation)
        for name, value in zip(("amount", "lowest", "highest", "inflation"), values, strict=True):
            scalar(name, value)
        if all(is_concrete(value) for value in values):
            amount, lowest, highest, inflation = (float(np.asarray(value)) for value in values)
            require(0 <= amount < np.inf, f"amount = {amount}; the noise to add is not negative, and finite.")
            require(
                0 <= lowest < highest,
                f"lowest = {lowest} and highest = {highest}; the range of noise levels with churn is empty, or starts "
                "below zero.",
            )
            require(0 < inflation < np.inf, f"inflation = {inflation}; a standard deviation is positive and finite.")

    def raised(self, sde: AbstractLinearSDE, t: Scalar, x: Event, *, steps: int, key: Key) -> tuple[Scalar, Event]:
        """The time of the raised noise level, and a draw of the state there.

        Args:
            sde: A linear SDE.
            t: The time.
            x: The state at `t`.
            steps: The number of steps of the sampler.
            key: A random key.
        """
        log_snr = sde.log_snr(t)
        level = jnp.exp(-0.5 * log_snr)
        growth = jnp.minimum(jnp.asarray(self.amount, t.dtype) / steps, np.sqrt(2) - 1)
        growth = jnp.where((level >= self.lowest) & (level <= self.highest), growth, 0.0)
        raised = jnp.maximum(log_snr - 2 * jnp.log1p(growth), sde.log_snr(jnp.asarray(sde.t1, t.dtype)))
        higher = jnp.clip(sde.time_of_log_snr(raised).astype(t.dtype), t, sde.t1)
        later = jnp.where(growth > 0, higher, t)
        scale, std = sde.transition(t, later)
        return later, scale * x + std * self.inflation * jr.normal(key, x.shape, x.dtype)


class Heun(AbstractStepSampler):
    r"""Heun's method on the probability-flow ODE of a linear SDE in the variables of Karras 2022 (Algorithms 1 and 2)
    [G1]. With $y = x/\alpha$ and $\nu = \sigma/\alpha$ the ODE is $\mathrm dy/\mathrm d\nu = (y - h)/\nu =
    \hat\epsilon$, for every linear SDE, and a step is

    $$ \bar y = y + (\nu' - \nu)\,\hat\epsilon(y, \nu), \qquad
       y' = y + \tfrac12(\nu' - \nu)\,\big(\hat\epsilon(y, \nu) + \hat\epsilon(\bar y, \nu')\big) . $$

    Of order two, with two evaluations a step. Karras 2022 ends with a step of Euler's method to no noise at all, which
    is `Denoised(Heun(n - 1))` for the $n$ steps and $2n - 1$ evaluations there.

    Args:
        steps: The number of steps.
        grid: Called as `grid(sde, steps)`, it returns `steps + 1` times which go down from `t1` to `t0`.
        churn: How much noise each step adds first; `None` for the ODE alone.

    Raises:
        TypeError: on a call, if the SDE has no Gaussian kernel.
        ValueError: if `steps` is below one; on a call, if the times of the grid are not as above, or `key` is
            `None` and there is churn.

    Example:
        >>> import jax, scorefp as sfp
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP(), shape=(2,))
        >>> method = sfp.sampling.Denoised(sfp.Heun(steps=17))
        >>> sfp.sample(standard, 3, key=jax.random.key(0), method=method).shape
        (3, 2)
    """

    steps: int = 18
    grid: Grid | RhoGrid = RhoGrid()
    churn: Churn | None = None

    def step(self, score: AbstractScore, t: Scalar, earlier: Scalar, x: Event, *, key: Key | None) -> Event:
        sde = linear_sde(score)
        if self.churn is not None:
            t, x = self.churn.raised(sde, t, x, steps=self.steps, key=random_key(type(self).__name__, key))
        here = score.noise(t, x)
        there = score.noise(earlier, along(sde, t, earlier, x, here))
        return along(sde, t, earlier, x, 0.5 * (here + there))
