"""The residuals along a curve: Itô's formula does the second derivatives at once."""

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import random_key, require
from .._precision import measures
from .._types import Event, Key, Scalar
from ..calculus import AbstractLaw, AbstractProbes, AbstractStencil, Hutchinson, Rademacher, curve_derivatives
from ..calculus._rounding import coarsest_dtype
from ..calculus._smoothness import require_time_derivative
from ..nn import full_precision
from ..score import AbstractPotential, AbstractScore
from ..score.score import linear_sde
from ..sde import AbstractLinearSDE, AbstractSDE
from .method import AbstractLogResidualMethod, AbstractStencilMethod, AbstractTwoProbeMethod, Form
from .operators import advection_divergence


class Ito(AbstractTwoProbeMethod, AbstractLogResidualMethod):
    r"""The martingale residual in one second-order forward pass a probe [F6]. No reverse pass over `x`.

    Along $x(e) = x + e\,\tfrac{g}{\sqrt2}\,v + \tfrac12 e^2 (g^2 s - f)$, $t(e) = t - \tfrac12 e^2$, the curve whose
    second derivative is the generator of the reverse SDE,

    $$ \varepsilon_M = -E_v\Big[\tfrac{d^2}{de^2} s(x(e), t(e))\Big|_{e=0}\Big] + (\nabla f)^\top s +
       \nabla(\nabla\cdot f). $$

    Recommended for measurements. For training see also `Antithetic`, which needs no derivative.

    Of a potential it takes, on any SDE, the residual of the log-Fokker–Planck equation without a Hessian of the network
    [F16]: with $A = f - \tfrac12\nabla\cdot(GG^\top)$, along
    $x(e) = x + e\,\tfrac{1}{\sqrt2} G v + \tfrac12 e^2\big(\tfrac12 GG^\top s + \tfrac12\nabla\cdot(GG^\top) - A\big)$,
    $t(e) = t - \tfrac12 e^2$,

    $$ r[\varphi] = -E_v\Big[\tfrac{d^2}{de^2}\varphi(x(e), t(e))\Big|_{e=0}\Big] + \nabla\cdot A. $$

    Args:
        probes: The probes: `Hutchinson(samples, law)`, or `Exact()` for all `D` of an orthogonal set, which is exact.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> stationary = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> eps = sfp.score_fpe_residual(stationary, 0.5, jnp.ones(3), method=sfp.Ito(), key=jax.random.key(0))
        >>> float(abs(eps).max())
        0.0
    """

    probes: AbstractProbes = Hutchinson()

    form: ClassVar[Form] = "martingale"

    @property
    def random(self) -> bool:
        return self.probes.random

    def residual(self, score: AbstractScore, t: Scalar, x: Event, key: Key | None) -> tuple[Event, Event]:
        sde = linear_sde(score)
        speed = jnp.sqrt(0.5 * sde.g2(t))
        still, one = jnp.zeros_like(t), jnp.ones_like(t)

        def bend(v: Event) -> tuple[Event, Event]:
            # curve_derivatives, linearised between value and acceleration: the latter needs the score.
            def slope(t: Scalar, x: Event, dt: Scalar, dx: Event) -> tuple[Event, Event]:
                return jax.jvp(score, (t, x), (dt, dx))

            (s, _), push = jax.linearize(slope, t, x, still, speed * v)
            return s, push(still, speed * v, -one, -sde.reverse_drift(t, x, s))[1]

        s, bends = jax.vmap(bend, out_axes=(None, 0))(self.probes.probes(x, key))
        return s, sde.rate(t) * s - jnp.mean(bends, axis=0)

    def log_residual(
        self, potential: AbstractPotential, t: Scalar, x: Event, key: Key | None
    ) -> tuple[Event | None, Scalar]:
        sde, s = potential.sde, potential(t, x)
        diffusion, velocity = sde.diffusion(t, x), _log_velocity(sde, t, x, s)
        like = jnp.zeros(diffusion.in_structure().shape, x.dtype)

        def bend(v: Event) -> Scalar:
            spread = jnp.sqrt(0.5).astype(x.dtype) * diffusion.mv(v)
            path = (t, x), (jnp.zeros_like(t), spread), (-jnp.ones_like(t), velocity)
            return curve_derivatives(lambda point: potential.potential(*point), *path)[2]

        bends = jax.vmap(bend)(self.probes.probes(like, key))
        return s, advection_divergence(sde, t, x) - jnp.mean(bends)


class Antithetic(AbstractStencilMethod, AbstractLogResidualMethod):
    r"""The martingale residual by two more evaluations of the score and no derivative [F7]:

    $$ \begin{gathered}
       \varepsilon_M \approx -\frac{s(x_+, t_-) - 2 s(x, t) + s(x_-, t_-)}{2\,\Delta t}
         + (\nabla f)^\top s + \nabla(\nabla\cdot f),\\
       x_\pm = x \pm g\sqrt{\Delta t}\,v + \Delta t\,(g^2 s - f), \qquad t_- = t - \Delta t.
       \end{gathered} $$

    The two evaluations are an antithetic pair of Euler–Maruyama steps of the reverse SDE; the bias is of first order
    in $\Delta t$. The step is a fraction of the local time scale, $\Delta t = \text{step}\cdot\sigma^2/g^2$, and
    never leaves the horizon: closer than that to `t0` it shortens, and at `t0` itself there is no room for one, so
    that a residual asked for there is an error (`Ito` and `Exact` have none).

    Recommended for training. A difference of evaluations loses the digits they have in common, and bfloat16 has three:
    at a step of 0.02 its own rounding would be 0.4 to 1.2 of the residual of a small U-Net
    (`benchmarks/residuals.py`). So an objective evaluates all three points of a network in half precision, and on TPUs
    of every network, in float32: with TF32 products on GPUs, three bfloat16 products for one on TPUs. The rounding
    error left on CPUs is a hundredth, as with `Ito` and `Hutchinson`, which stay in the lower precision, and with TF32
    products, emulated, 0.03 to 0.10; a larger step divides it. A measurement takes full float32. A network of another
    library that computes in a precision too low for the step is refused; what it does in a call of the host is not
    seen.

    Of a potential it takes the residual of the log-Fokker–Planck equation by two more evaluations of $\varphi$ on the
    curve of `Ito` [F16]; on an SDE without a Gaussian kernel, the step is a share of the horizon.

    Args:
        step: The step in units of $\sigma^2/g^2$, so of log-SNR. Large steps are biased, small ones lose digits: in
            float32 the round-off is about `1e-7 / step` of the time-scale-free residual [F15].
        samples: The number of antithetic pairs.
        law: The law of the probes.

    Raises:
        ValueError: if `step` is not positive or `samples` is below one; on a call, if the products of the network or
            the sample have so few digits that the difference is noise.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> stationary = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> eps = sfp.score_fpe_residual(stationary, 0.5, jnp.ones(3), method=sfp.Antithetic(), key=jax.random.key(0))
        >>> bool(abs(eps).max() < 0.5)
        True
    """

    step: float = 0.02
    samples: int = 1
    law: AbstractLaw = Rademacher()

    form: ClassVar[Form] = "martingale"
    random: ClassVar[bool] = True

    def __check_init__(self) -> None:
        require(self.step > 0, f"step = {self.step}; it is a positive share of the local time scale.")
        require(self.samples >= 1, f"samples = {self.samples}; at least one antithetic pair is needed.")

    def stencil(self, score: AbstractScore, t: Scalar, x: Event, key: Key | None) -> AbstractStencil:
        key, sde = random_key("Antithetic", key), linear_sde(score)
        self._require_digits(full_precision(score), t, x)
        g2 = sde.g2(t)
        earlier = jnp.maximum(t - self.step * sde.sigma(t) ** 2 / g2, jnp.asarray(sde.t0, t.dtype))
        dt = t - earlier
        shifts = jnp.sqrt(g2 * dt) * self.law.draw(key, (self.samples, *x.shape), x.dtype)
        return _Pairs(earlier, dt, x - dt * sde.drift(t, x), dt * g2, shifts, sde.rate(t))

    @measures
    def log_residual(
        self, potential: AbstractPotential, t: Scalar, x: Event, key: Key | None
    ) -> tuple[Event | None, Scalar]:
        key = random_key("Antithetic", key)
        self._require_digits(potential.potential, t, x)
        sde = potential.sde
        value, _, s = potential.derivatives(t, x)
        scale = sde.sigma(t) ** 2 / sde.g2(t) if isinstance(sde, AbstractLinearSDE) else sde.t1 - sde.t0
        earlier = jnp.maximum(t - self.step * scale, jnp.asarray(sde.t0, t.dtype))
        dt = t - earlier
        diffusion, centre = sde.diffusion(t, x), x + dt * _log_velocity(sde, t, x, s)

        def bend(v: Event) -> Scalar:
            spread = jnp.sqrt(dt) * diffusion.mv(v)
            steps = jnp.stack([centre + spread, centre - spread])
            ahead, behind = jax.vmap(potential.potential, in_axes=(None, 0))(earlier, steps)
            return (ahead - value) + (behind - value)

        noises = self.law.draw(key, (self.samples, *diffusion.in_structure().shape), x.dtype)
        bends = jnp.mean(jax.vmap(bend)(noises))
        return s, advection_divergence(sde, t, x) - _curvature(bends, dt)

    def _require_digits(self, fn: Callable[..., Array], t: Scalar, x: Event) -> None:
        """Refuses a function whose products round so that the difference is noise, or that jumps from time to time."""
        require_time_derivative("the score", fn, t, x)
        dtype = coarsest_dtype(fn, t, x)
        require(
            float(jnp.finfo(dtype).eps) < 0.1 * self.step,
            f"step = {self.step} with products in {dtype}: the difference of Antithetic rounds by up to "
            f"{float(jnp.finfo(dtype).eps) / self.step:.2g} of the noise prediction, as much as a residual is. Let the "
            "network compute in float32, take method=Ito() or Hutchinson(), which have no difference, or a larger "
            "step.",
        )


class _Pairs(AbstractStencil):
    """Antithetic pairs of Euler–Maruyama steps of the reverse SDE, and the residual from the score there [F7].

    Args:
        earlier: The time after the step.
        dt: The length of the step.
        start: The sample moved by the drift of the forward SDE.
        pull: By how much of the score it is moved as well.
        shifts: The noise of each step, which the other of its pair has with the other sign.
        rate: The derivative of the drift of the forward SDE.
    """

    earlier: Scalar
    dt: Scalar
    start: Event
    pull: Scalar
    shifts: Float[Array, "samples *event"]
    rate: Scalar

    def points(self, value: Event) -> tuple[Float[Array, " points"], Float[Array, "points *event"]]:
        centre = self.start + self.pull * value
        steps = jnp.concatenate([centre + self.shifts, centre - self.shifts])
        return jnp.broadcast_to(self.earlier, steps.shape[:1]), steps

    def combined(self, value: Event, values: Float[Array, "points *event"]) -> Event:
        ahead, behind = jnp.split(values, 2)
        bends = jnp.mean((ahead - value) + (behind - value), axis=0)
        return self.rate * value - _curvature(bends, self.dt)


def _curvature(bends: Array, dt: Scalar) -> Array:
    """The second difference of two steps of length `dt` over what it is divided by."""
    # At t0 exactly, which a sampler of times hits with probability zero, there is no step to divide by.
    return jnp.where(dt > 0, bends / jnp.where(dt > 0, 2 * dt, 1), 0)


def _log_velocity(sde: AbstractSDE, t: Scalar, x: Event, s: Event) -> Event:
    r"""$\tfrac12 GG^\top s + \nabla\cdot(GG^\top) - f$, the drift of the curve of [F16]."""
    return 0.5 * sde.covariance(t, x, s) + sde.covariance_divergence(t, x) - sde.drift(t, x)
