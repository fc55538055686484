"""The residual term by term, each derivative taken where it stands."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Event, Key, Scalar
from ..calculus import AbstractTrace, Exact, FiniteDifference, time_derivative
from ..calculus.probes import probes_for
from ..score import AbstractPotential, AbstractScore
from ..score.score import linear_sde
from .method import AbstractLogResidualMethod, AbstractTwoProbeMethod, Form
from .operators import operator_along


class Pointwise(AbstractTwoProbeMethod, AbstractLogResidualMethod):
    r"""The residual in one of its forms, with the traces by `trace` and $\partial_t$ by `time`.

    A trace, such as `Exact()`, and `FiniteDifference(…)` as residual methods stand for this class. The forms differ in
    where they put a transpose of the Jacobian $J$ [F4], [F5] (Lai 2023, Eq. 9; Daras 2023, Eq. 10; Deveney 2023,
    Eq. 32):

    $$ \begin{aligned}
       \text{gradient:}\quad & \partial_t s - \nabla L[s]\\
       & = \partial_t s + J^\top f + (\nabla f)^\top s + \nabla(\nabla\cdot f) - g^2 J^\top s
         - \tfrac12 g^2\nabla(\nabla\cdot s)\\
       \text{martingale:}\quad & \partial_t s + J f + (\nabla f)^\top s + \nabla(\nabla\cdot f) - g^2 J s
         - \tfrac12 g^2\Delta s\\
       \text{mixed:}\quad & \partial_t s + J f + (\nabla f)^\top s + \nabla(\nabla\cdot f) - g^2 J s
         - \tfrac12 g^2\nabla(\nabla\cdot s)
       \end{aligned} $$

    Of a potential it takes $\partial_t\varphi - L[\nabla\varphi]$ [F3] as it stands: value, score and time derivative
    from one reverse pass, the Laplacian by one forward pass a probe through it.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> method = sfp.fokker_planck.Pointwise(time=sfp.calculus.FiniteDifference(1e-2))
        >>> moving = sfp.Potential(lambda t, x: 3 * t - 0.5 * (x**2).sum(), sfp.VP())  # r = d log Z_t/dt = 3
        >>> round(float(sfp.log_fpe_residual(moving, 0.5, jnp.ones(1), method=method)), 2)
        3.0
    """

    trace: AbstractTrace = Exact()
    time: Exact | FiniteDifference = Exact()

    form: Form = eqx.field(default="gradient", static=True)

    @property
    def random(self) -> bool:
        return self.trace.random

    def residual(self, score: AbstractScore, t: Scalar, x: Event, key: Key | None) -> tuple[Event, Event]:
        def along(v: Event) -> tuple[Event, Event]:
            return self._along(score, t, x, v)

        def push(v: Event) -> Event:
            return jax.jvp(lambda y: score(t, y), (x,), (v,))[1]

        s, residuals = jax.vmap(along, out_axes=(None, 0))(probes_for(self.trace, push, x, key))
        return s, jnp.mean(residuals, axis=0)

    def log_residual(
        self, potential: AbstractPotential, t: Scalar, x: Event, key: Key | None
    ) -> tuple[Event | None, Scalar]:
        def gradients(y: Event) -> tuple[Scalar, Event]:
            return potential.derivatives(t, y)[1:]

        (slope, s), push = jax.linearize(gradients, x)
        probes, products = self.trace.products(lambda v: push(v)[1], self.trace.probes(x, key))
        operators = jax.vmap(lambda v, jv: operator_along(potential.sde, t, x, v, s, jv))(probes, products)
        if not isinstance(self.time, Exact):
            horizon = potential.sde.t0, potential.sde.t1
            slope = time_derivative(potential.potential, t, x, method=self.time, horizon=horizon)
        return s, slope - jnp.mean(operators)

    def _along(self, score: AbstractScore, t: Scalar, x: Event, v: Event) -> tuple[Event, Event]:
        """The score and the residual for one probe: all of it from one linearisation of `(s, J v)`."""

        def tangent(t: Scalar, x: Event) -> tuple[Event, Event]:
            return jax.jvp(lambda y: score(t, y), (x,), (v,))

        (s, jv), push = jax.linearize(tangent, t, x)
        pull = jax.linear_transpose(push, t, x)

        def material(dx: Event) -> Event:
            """`∂_t s + J dx`."""
            if isinstance(self.time, Exact):
                return push(jnp.ones_like(t), dx)[0]
            horizon = score.sde.t0, score.sde.t1
            slope = time_derivative(score, t, x, method=self.time, horizon=horizon)
            return slope + push(jnp.zeros_like(t), dx)[0]

        if self.form == "gradient":
            # The gradient of L(x, s(x), J(x) v) by the chain rule.
            grad_x, *cotangents = jax.grad(operator_along, argnums=(2, 4, 5))(score.sde, t, x, v, s, jv)
            return s, material(jnp.zeros_like(x)) - grad_x - pull(tuple(cotangents))[1]
        sde = linear_sde(score)
        # f = a(t) x is linear: (∇f)ᵀ s = a s and ∇(∇·f) = 0.
        transported = material(sde.reverse_drift(t, x, s)) + sde.rate(t) * s
        spread = push(jnp.zeros_like(t), v)[1] if self.form == "martingale" else pull((jnp.zeros_like(s), v))[1]
        return s, transported - 0.5 * sde.g2(t) * spread
