"""Mean squares of the residuals over a bounded domain of time and space."""

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import equinox as eqx
import jax.numpy as jnp

from .._checks import checked, count, kind, optional_key, require, same_shape, single_or_better
from .._module import AbstractModule
from .._precision import measures
from .._times import scalar_time, time_within
from .._types import Event, Key, Scalar, Time
from ..calculus import Exact
from ..calculus._smoothness import require_smooth
from ..integrals import AbstractDomainRule, Box, Estimate, UniformDraws
from ..score import AbstractPotential, AbstractScore
from ..score.potential import require_potential
from ..sde import AbstractSDE
from .method import AbstractLogResidualMethod, AbstractResidualMethod, Form
from .residual import LogResidualMethod, ResidualMethod, check_density, fpe_residual, resolve, resolve_log


class AbstractResidual(AbstractModule):
    """The residual of one of the three Fokker–Planck equations, with how it is taken, as `mean_square` wants it.

    `random` says whether it draws probes.
    """

    if TYPE_CHECKING:
        sde: ClassVar[AbstractSDE]
        random: ClassVar[bool]
    else:
        sde: eqx.AbstractVar[AbstractSDE]
        random: eqx.AbstractVar[bool]

    @abstractmethod
    def check(self, t: Scalar, x: Event) -> None:
        """Refuses samples of this shape, where the model cannot take them."""

    @abstractmethod
    def square(self, t: Scalar, x: Event, key: Key | None) -> Scalar:
        """The square of the residual, or an unbiased estimate of it by two independent ones."""


class DensityResidual(AbstractResidual):
    r"""The residual $R[p]$ of a density, that of `fpe_residual` [F1] (Deveney 2023, Eq. 18). It is linear in $p$: a
    constant factor scales the residual and does not move its zeros.

    Args:
        density: $p$, called as `density(t, x)`.
        sde: The forward process.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> from scorefp.fokker_planck import DensityResidual, mean_square
        >>> bell = lambda t, x: jnp.exp(-0.5 * (x**2).sum())  # the stationary density of VP, times a constant
        >>> residual, box = DensityResidual(bell, sfp.VP()), sfp.Box(-jnp.ones(1), jnp.ones(1))
        >>> float(mean_square(residual, box, rule=sfp.integrals.GaussLegendre(4, 2)).value) < 1e-9
        True
    """

    density: Callable[[Scalar, Event], Scalar]
    sde: AbstractSDE

    random: ClassVar[bool] = False

    def __check_init__(self) -> None:
        check_density(self.density, self.sde)

    def check(self, t: Scalar, x: Event) -> None:
        return

    @measures
    def square(self, t: Scalar, x: Event, key: Key | None) -> Scalar:
        return fpe_residual(self.density, t, x, sde=self.sde) ** 2


class LogResidual(AbstractResidual):
    r"""The residual $r[\varphi]$ of a potential, that of `log_fpe_residual` [F3] (Deveney 2023, Eq. 20). For an
    unnormalised potential of a solution it is $d\log Z_t/dt$.

    Args:
        potential: $\varphi$, on any SDE.
        method: As in `log_fpe_residual`.

    Raises:
        TypeError: if `potential` is a score without a potential, or the method is one for scores alone.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> from scorefp.fokker_planck import LogResidual, mean_square
        >>> moving = sfp.Potential(lambda t, x: 3 * t - 0.5 * (x**2).sum(), sfp.VP())  # r = d log Z_t/dt = 3
        >>> residual, box = LogResidual(moving), sfp.Box(-jnp.ones(1), jnp.ones(1))
        >>> round(float(mean_square(residual, box, rule=sfp.integrals.GaussLegendre(4, 2)).value), 3)
        9.0
    """

    potential: AbstractPotential
    method: LogResidualMethod = Exact()

    def __check_init__(self) -> None:
        require_potential(self.potential)
        resolve_log(self.method)

    @property
    def taken(self) -> AbstractLogResidualMethod:
        """The method that `method` stands for."""
        return resolve_log(self.method)

    @property
    def sde(self) -> AbstractSDE:
        return self.potential.sde

    @property
    def random(self) -> bool:
        return self.taken.random

    def check(self, t: Scalar, x: Event) -> None:
        _check_shape(self.potential, x)
        require_smooth("potential", self.potential.potential, t, x)

    @measures
    def square(self, t: Scalar, x: Event, key: Key | None) -> Scalar:
        return self.taken.log_square(self.potential, t, x, key)[1]


class ScoreResidual(AbstractResidual):
    r"""The residual $\varepsilon[s]$ of a score, that of `score_fpe_residual` [F4] (Deveney 2023, Eq. 32, has the form
    `"mixed"`).

    Args:
        score: $s$.
        form: `"gradient"`, `"martingale"` or `"mixed"`; the method's own when `None`.
        method: As in `score_fpe_residual`. The square of a random method is its unbiased one [F9].

    Raises:
        ValueError: if the method does not have the form.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> from scorefp.fokker_planck import ScoreResidual, mean_square
        >>> wrong = sfp.Score(lambda t, x: -0.5 * x, sfp.OU())  # eps = 3/4 x
        >>> residual, box = ScoreResidual(wrong, "martingale"), sfp.Box(-jnp.ones(1), jnp.ones(1))
        >>> round(float(mean_square(residual, box, rule=sfp.integrals.GaussLegendre(4, 2)).value), 4)
        0.1875
    """

    score: AbstractScore
    form: Form | None = eqx.field(default=None, static=True)
    method: ResidualMethod = Exact()

    def __check_init__(self) -> None:
        resolve(self.method, self.form)

    @property
    def taken(self) -> AbstractResidualMethod:
        """The method that `method` and `form` stand for."""
        return resolve(self.method, self.form)

    @property
    def sde(self) -> AbstractSDE:
        return self.score.sde

    @property
    def random(self) -> bool:
        return self.taken.random

    def check(self, t: Scalar, x: Event) -> None:
        _check_shape(self.score, x)

    @measures
    def square(self, t: Scalar, x: Event, key: Key | None) -> Scalar:
        return self.taken.squared_norm(self.score, t, x, key)[1]


@measures
def mean_square(
    residual: AbstractResidual,
    box: Box,
    *,
    start: Time | None = None,
    rule: AbstractDomainRule = UniformDraws(),
    key: Key | None = None,
    batch_size: int = 1024,
) -> Estimate:
    r"""The mean square of a residual over a domain [F11] (Deveney 2023, Eq. 18, 20 and 32),

    $$ E_{\tau\sim U(\text{start}, t_1),\ x\sim U(\Omega)}\big[R[p](x, \tau)^2\big], \qquad
       E\big[r[\varphi](x, \tau)^2\big] \qquad\text{or}\qquad E\big[\|\varepsilon[s](x, \tau)\|^2\big]. $$

    Args:
        residual: `DensityResidual(density, sde)`, `LogResidual(potential)` or `ScoreResidual(score)`, each with the way
            it is taken.
        box: $\Omega$, of the event shape; `Box.around(x)` is that of samples. Its dtype is that of the computation.
        start: The first time; `t0` when `None`.
        rule: `UniformDraws(draws)` or, for samples of at most three elements, `GaussLegendre(nodes, times)`.
        key: A random key, for `UniformDraws` and for a residual that draws probes.
        batch_size: How many points are taken at once, which bounds the memory.

    Returns:
        The mean square, in squared units of the residual: of the density per unit of time, of nats per unit of time, or
        of the score per unit of time.

    Raises:
        TypeError: if a form that needs a linear SDE gets another.
        ValueError: if `start` is outside `[t0, t1)`, the model has another shape than the box, a potential is made of
            piecewise-linear functions such as `relu`, a key is missing, `batch_size` is below one, or the rule cannot
            take the box.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> from scorefp.fokker_planck import LogResidual, ScoreResidual, mean_square
        >>> box = sfp.Box(jnp.full(2, -1.0), jnp.full(2, 1.0))
        >>> wide = sfp.Potential(lambda t, x: -0.5 * (x**2).sum(), sfp.OU())  # r = |x|²/2 - 1, and eps = x
        >>> found = mean_square(LogResidual(wide), box, key=jax.random.key(0))
        >>> round(1 - 2 / 3 + (2 / 5 + 2 / 9) / 4, 4), bool(abs(found.value - 0.4889) < 4 * found.error < 0.03)
        (0.4889, True)
        >>> round(float(mean_square(ScoreResidual(wide), box, rule=sfp.integrals.GaussLegendre(4, 2)).value), 4)
        0.6667
    """
    kind("residual", residual, AbstractResidual, "It is scorefp.fokker_planck.ScoreResidual(score), for example.")
    kind("box", box, Box)
    kind("rule", rule, AbstractDomainRule)
    sde, like = residual.sde, single_or_better("box", box.lower)
    first = scalar_time(sde.t0 if start is None else start, like, "start")
    first = time_within(first, sde.t0, sde.t1, name="start")
    message = (
        f"start is t1 = {sde.t1}, the end of the horizon, and leaves no times to average over; take an earlier one."
    )
    first = checked(first, first >= jnp.asarray(sde.t1, first.dtype), message)
    batch_size = count("batch_size", batch_size, 1)
    require(
        key is not None or not rule.random,
        f"key is None, but {type(rule).__name__} draws random points; pass key=jax.random.key(seed), or "
        "rule=GaussLegendre().",
    )
    optional_key("method", key, needed=residual.random)
    residual.check(first, box.lower)
    return _mean_square(residual, first, box, rule, key, batch_size)


@eqx.filter_jit
def _mean_square(
    residual: AbstractResidual,
    start: Scalar,
    box: Box,
    rule: AbstractDomainRule,
    key: Key | None,
    batch_size: int,
) -> Estimate:
    return rule.mean(residual.square, residual.sde, start, box, key, batch_size)


def _check_shape(score: AbstractScore, x: Event) -> None:
    if score.shape is not None:
        same_shape("box", x.shape, "one sample of the score", score.shape)
