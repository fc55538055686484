"""A term on a part of the horizon."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._times import check_interval, interval_within
from .._types import Event, Key, Scalar
from ..score import AbstractScore
from ..score.score import linear_sde
from ..sde import AbstractLinearSDE
from .objective import AbstractTerm
from .perturbed import Perturbed


class Restricted(AbstractTerm):
    r"""A term on an interval of times, and nothing outside [M4]: $\int_{\text{start}}^{\text{stop}} E[\ell(t)]\,dt$.

    `Restricted(DSM(), start=0.2) + Consistency()` is the ablation of Daras 2023, Table 2: nothing is matched near
    `t0`, and consistency carries the score there. Times outside the interval are still drawn, evaluated and masked out;
    to restrict a whole objective, draw times from a `TimeInterval`.

    The values of the integrand and its gradient outside do not matter, infinite or NaN, as long as the score itself
    is finite there.

    Args:
        term: The term.
        start: The beginning of the interval; `None` for `t0`.
        stop: Its end; `None` for `t1`.

    Raises:
        ValueError: if the interval is empty; at a call, if it leaves the horizon.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> score, x, key = sfp.Score(lambda t, x: -x, sfp.VP()), jnp.zeros((8, 2)), jax.random.key(0)
        >>> parts = sfp.Restricted(sfp.DSM(), stop=0.3) + sfp.Restricted(sfp.DSM(), start=0.3)
        >>> bool(jnp.isclose(parts(score, x, key=key), sfp.DSM()(score, x, key=key)))
        True
    """

    term: AbstractTerm
    start: float | None = None
    stop: float | None = None

    def __check_init__(self) -> None:
        check_interval(self.start, self.stop)

    @property
    def fraction(self) -> float:
        """The share of the batch, that of the term."""
        return self.term.fraction

    def observe(self, score: AbstractScore, perturbed: Perturbed, *, key: Key) -> tuple[Event | None, Any]:
        sde = linear_sde(score)
        interval_within(self.start, self.stop, sde.t0, sde.t1)
        return self.term.observe(score, perturbed, key=key)

    def integrand(self, sde: AbstractLinearSDE, perturbed: Perturbed, value: Event, observed: Any) -> Scalar:
        start, stop = interval_within(self.start, self.stop, sde.t0, sde.t1)
        inside = (perturbed.t >= start) & (perturbed.t <= stop)
        # Outside, the term is evaluated at the nearest time of the interval and at zeros, where it is finite: what is
        # infinite there would spoil the gradient even where it is not taken.
        t = jnp.clip(perturbed.t, start, stop)
        x = sde.diffuse(t, perturbed.x0, perturbed.noise)
        near = Perturbed(t, perturbed.weight, perturbed.x0, perturbed.noise, x)
        value, observed = jax.tree.map(
            lambda leaf: jnp.where(inside, leaf, 0) if eqx.is_inexact_array(leaf) else leaf, (value, observed)
        )
        return jnp.where(inside, self.term.integrand(sde, near, value, observed), 0)
