"""The initial condition of the Cauchy problem of the score Fokker–Planck equation (Lai 2023, §6.1)."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from .._checks import floating, function, require, same_shape
from .._types import Event, Key, Scalar
from ..score import AbstractScore
from ..score.score import linear_sde
from ..sde import AbstractLinearSDE
from .objective import AbstractTerm, norm_power
from .perturbed import Perturbed


class CauchyInitial(AbstractTerm):
    r"""The score at $t_0$ as an initial condition [F14] (Lai 2023, Eq. 20 and 21),

    $$ E\big\|s(x_{t_0}, t_0) - s_0(x_{t_0})\big\|^p \qquad\text{or}\qquad
       E\big\|\sigma s(x_{t_0}, t_0) + \epsilon\big\|^2, $$

    with $x_{t_0} = \alpha x_0 + \sigma\epsilon$, $\alpha$ and $\sigma$ at $t_0$. The score Fokker–Planck equation
    carries the score from there to all later times: `ScoreFPE() + c * CauchyInitial(s_0)` is the Cauchy problem, and
    samples at later times are no more than places where the residual is looked at.

    Without `initial` it is the second, denoising form, which needs the data alone. Its minimiser is the score of
    $q_{t_0}$; against the first form with $p = 2$ it has the factor $\sigma^2(t_0)$ and a constant on top, as [H1] has.
    It is `DSM` at one time. Only a square has the mean of a noisy target as its minimiser, so the power of the
    denoising form is 2; use 2 as well when $s_0$ is noisy.

    It is no integral over time: laws of times leave it alone.

    Args:
        initial: $s_0$, a function of one sample `x`; the denoising form for `None`.
        power: $p$.
        fraction: The share of the batch it is evaluated on: its first rows.

    Raises:
        TypeError: if `initial` is a score of `(t, x)`; on a call, if its value is not floating.
        ValueError: if `power` is not positive, or is not 2 without `initial`, or `fraction` is outside (0, 1]; on a
            call, if the value of `initial` has another shape than the sample.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> score = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> term = sfp.CauchyInitial(lambda x: -x)
        >>> value = jax.jit(lambda x0: term(score, x0, key=jax.random.key(0)))
        >>> float(value(jnp.ones((8, 2))))
        0.0
    """

    initial: Callable[..., Event] | None = None
    power: float = eqx.field(default=2.0, static=True)
    fraction: float = 1.0

    def __check_init__(self) -> None:
        require(self.power > 0, f"power = {self.power}; the exponent of the norm is positive.")
        require(
            self.power == 2 or self.initial is not None,
            f"power = {self.power} without initial; only the square of a denoising error has the score as its "
            "minimiser. Use power=2, or give initial.",
        )
        if isinstance(self.initial, AbstractScore):
            raise TypeError(
                f"initial is a {type(self.initial).__name__}, a function of (t, x); an initial condition is a function "
                "of x. Pass lambda x: score(score.sde.t0, x)."
            )
        if self.initial is not None:
            function("initial", self.initial, "x", "It is a score at t0, as a function of one sample.")

    def observe(self, score: AbstractScore, perturbed: Perturbed, *, key: Key) -> tuple[Event | None, Any]:
        sde = linear_sde(score)
        t0 = jnp.asarray(sde.t0, perturbed.x.dtype)
        x = sde.diffuse(t0, perturbed.x0, perturbed.noise)
        value = score(t0, x)
        if self.initial is None:
            return None, jnp.sum((sde.sigma(t0) * value + perturbed.noise) ** 2)
        wanted = floating("the value of initial", self.initial(x))
        same_shape("the value of initial", wanted.shape, "a score at x", x.shape)
        return None, jnp.sum((value - wanted.astype(x.dtype)) ** 2)

    def integrand(self, sde: AbstractLinearSDE, perturbed: Perturbed, value: Event, observed: Any) -> Scalar:
        # The objective multiplies by the weight of the time, which has no part in this.
        return norm_power(observed, self.power) / perturbed.weight
