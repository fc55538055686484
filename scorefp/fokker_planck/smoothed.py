"""The residual of a potential by differences of its score."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from .._checks import random_key, require
from .._types import Event, Key, Scalar
from ..calculus import AbstractLaw, Rademacher
from ..score import AbstractPotential
from ..sde import AbstractLinearSDE
from .method import AbstractLogResidualMethod
from .operators import advection_divergence


class Smoothed(AbstractLogResidualMethod):
    r"""The residual of the log-Fokker–Planck equation from the two points $x_\pm = x \pm \rho v$, without second
    derivatives of the network [F16] (Plainer 2025). With $u$ the velocity of the probability flow [F0] and
    $A = f - \tfrac12\nabla\cdot(GG^\top)$,

    $$ r[\varphi] \approx E_v\Big[\tfrac12\sum_\pm\big(\partial_t\varphi + \langle u, s\rangle\big)(x_\pm)
       - \Big\langle v, \tfrac{(GG^\top s)(x_+) - (GG^\top s)(x_-)}{4\rho}\Big\rangle\Big] + \nabla\cdot A. $$

    The bias is of second order in the width. Two evaluations, each with a reverse pass, neither at $x$ itself.

    By normal $v$, Plainer's choice, the mean is that of the residual at $x + \rho v$ on every linear SDE (Stein's
    identity): zero on exact potentials for any width. The variance is many times that of Rademacher probes.

    Args:
        width: $\rho$, in units of $\sigma(t)$, or of the samples where the SDE has no Gaussian kernel. Wide is biased,
            narrow loses digits: in float32 the round-off is about `1e-7 / width` of the residual per unit of log-SNR.
        samples: The number of pairs of points.
        law: The law of $v$.

    Raises:
        ValueError: if `width` is not positive or `samples` is below one.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> stationary = sfp.Potential(lambda t, x: -0.5 * (x**2).sum(), sfp.VP())
        >>> r = sfp.log_fpe_residual(stationary, 0.5, jnp.zeros(3), method=sfp.Smoothed(), key=jax.random.key(0))
        >>> bool(abs(r) < 1e-2)
        True
    """

    width: float = 0.01
    samples: int = 1
    law: AbstractLaw = Rademacher()

    random: ClassVar[bool] = True

    def __check_init__(self) -> None:
        require(self.width > 0, f"width = {self.width}; it is a positive multiple of the noise's deviation.")
        require(self.samples >= 1, f"samples = {self.samples}; at least one pair of points is needed.")

    def log_residual(
        self, potential: AbstractPotential, t: Scalar, x: Event, key: Key | None
    ) -> tuple[Event | None, Scalar]:
        key = random_key("Smoothed", key)
        sde = potential.sde
        width = self.width * sde.sigma(t) if isinstance(sde, AbstractLinearSDE) else jnp.asarray(self.width, x.dtype)

        def at(y: Event) -> tuple[Scalar, Event]:
            _, slope, s = potential.derivatives(t, y)
            return slope + jnp.sum(sde.probability_flow(t, y, s) * s), sde.covariance(t, y, s)

        def pair(v: Event) -> Scalar:
            rates, fluxes = jax.vmap(at)(jnp.stack([x + width * v, x - width * v]))
            return jnp.mean(rates) - jnp.sum(v * (fluxes[0] - fluxes[1])) / (4 * width)

        estimates = jax.vmap(pair)(self.law.draw(key, (self.samples, *x.shape), x.dtype))
        return None, jnp.mean(estimates) + advection_divergence(sde, t, x)
