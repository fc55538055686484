"""The residual term by term, each derivative taken where it stands."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from .._types import Event, Key, Scalar
from ..calculus import AbstractTrace, Exact, FiniteDifference, divergence, laplacian, time_derivative
from ..score import AbstractScore, linear_sde
from .method import AbstractResidualMethod, Form, two_probe_square
from .operator import operator


class Pointwise(AbstractResidualMethod):
    r"""The residual in the form asked for, with the traces by `trace` and $\partial_t$ by `time`.

    `Exact()`, `Hutchinson(…)` and `FiniteDifference(…)` as residual methods stand for this class. The forms differ in
    where they put a transpose of the Jacobian $J$ [F4], [F5] (Lai 2023, Eq. 9; Daras 2023, Eq. 10; Deveney 2023,
    Eq. 32):

    $$ \begin{aligned}
       \text{gradient:}\quad & \partial_t s - \nabla L[s]
         = \partial_t s + J^\top f + (\nabla f)^\top s + \nabla(\nabla\cdot f) - g^2 J^\top s - \tfrac12
         g^2\nabla(\nabla\cdot s)\\
       \text{martingale:}\quad & \partial_t s + J f + (\nabla f)^\top s + \nabla(\nabla\cdot f) - g^2 J s -
       \tfrac12 g^2\Delta s\\
       \text{mixed:}\quad & \partial_t s + J f + (\nabla f)^\top s + \nabla(\nabla\cdot f) - g^2 J s - \tfrac12
       g^2\nabla(\nabla\cdot s)
       \end{aligned} $$
    """

    trace: AbstractTrace = Exact()
    time: Exact | FiniteDifference = Exact()

    forms: ClassVar[tuple[Form, ...]] = ("gradient", "martingale", "mixed")

    @property
    def random(self) -> bool:
        return self.trace.random

    def residual(self, score: AbstractScore, t: Scalar, x: Event, s: Event, form: Form, key: Key | None) -> Event:
        slope = time_derivative(score, t, x, method=self.time, horizon=(score.sde.t0, score.sde.t1))
        if form == "gradient":
            return slope - jax.grad(lambda y: operator(score, t, y, self.trace, key))(x)
        sde = linear_sde(score)
        # a(t) x is linear: (∇f)ᵀ s = a s and ∇(∇·f) = 0.
        _, transport = jax.jvp(lambda y: score(t, y), (x,), (sde.reverse_drift(t, x, s),))
        half_g2 = 0.5 * sde.g2(t)
        if form == "martingale":
            spread = laplacian(lambda y: score(t, y), x, method=self.trace, key=key)
        else:
            spread = jax.grad(lambda y: divergence(lambda z: score(t, z), y, method=self.trace, key=key))(x)
        return slope + transport + sde.rate(t) * s - half_g2 * spread

    def squared_norm(self, score: AbstractScore, t: Scalar, x: Event, s: Event, form: Form, key: Key | None) -> Scalar:
        if key is None or not self.random:
            return jnp.sum(self.residual(score, t, x, s, form, key) ** 2)
        return two_probe_square(lambda k: self.residual(score, t, x, s, form, k), key)
