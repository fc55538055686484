"""The residual in random directions."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from .._checks import random_key, require
from .._types import Event, Key, Scalar
from ..calculus import AbstractLaw, AbstractTrace, Exact, Rademacher, time_derivative
from ..score import AbstractScore
from .method import AbstractResidualMethod, Form
from .operators import value_and_operator


class Sliced(AbstractResidualMethod):
    r"""The gradient form in random directions (Lai 2023, Eq. 24, where the square is missing) [F9]:

    $$ \langle\varepsilon, v\rangle = \langle\partial_t s, v\rangle - \tfrac{d}{dh} L[s](x + h v), \qquad
       \varepsilon = E_v[\langle\varepsilon, v\rangle\,v], \qquad \|\varepsilon\|^2 = E_v[\langle\varepsilon,
       v\rangle^2]. $$

    No reverse pass over `x`. The estimate of $\varepsilon$ itself is noisy, since it points along `v`.

    Args:
        samples: The number of directions.
        law: Their law.
        trace: How $L[s]$ takes its divergence: `Exact()`, `Hutchinson(samples, law)` or another.

    Raises:
        ValueError: if `samples` is below one.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> stationary = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> eps = sfp.score_fpe_residual(stationary, 0.5, jnp.ones(3), method=sfp.Sliced(), key=jax.random.key(0))
        >>> bool(abs(eps).max() < 1e-4)
        True
    """

    samples: int = 1
    law: AbstractLaw = Rademacher()
    trace: AbstractTrace = Exact()

    form: ClassVar[Form] = "gradient"
    random: ClassVar[bool] = True

    def __check_init__(self) -> None:
        require(self.samples >= 1, f"samples = {self.samples}; at least one direction is needed.")

    def residual(self, score: AbstractScore, t: Scalar, x: Event, key: Key | None) -> tuple[Event, Event]:
        directions, trace_key = self._directions(x, key)
        s, shares = jax.vmap(lambda v: self._share(score, t, x, v, trace_key), out_axes=(None, 0))(directions)
        return s, jnp.mean(jax.vmap(jnp.multiply)(shares, directions), axis=0)

    def squared_norm(self, score: AbstractScore, t: Scalar, x: Event, key: Key | None) -> tuple[Event, Scalar]:
        directions, trace_key = self._directions(x, key)

        def square(v: Event) -> tuple[Event, Scalar]:
            # A random trace is drawn twice in one direction: its own variance would bias the square.
            first, second = jr.split(trace_key)
            s, share = self._share(score, t, x, v, first)
            return s, share * (self._share(score, t, x, v, second)[1] if self.trace.random else share)

        s, squares = jax.vmap(square, out_axes=(None, 0))(directions)
        return s, jnp.mean(squares)

    def _directions(self, x: Event, key: Key | None) -> tuple[Float[Array, "directions *event"], Key]:
        """The directions, and a key for the traces."""
        direction_key, trace_key = jr.split(random_key("Sliced", key))
        return self.law.draw(direction_key, (self.samples, *x.shape), x.dtype), trace_key

    def _share(self, score: AbstractScore, t: Scalar, x: Event, v: Event, key: Key) -> tuple[Event, Scalar]:
        """The score, and the component of the residual along `v`."""
        slope = time_derivative(score, t, x)
        (s, _), (_, rise) = jax.jvp(lambda y: value_and_operator(score, t, y, self.trace, key), (x,), (v,))
        return s, jnp.sum(slope * v) - rise
