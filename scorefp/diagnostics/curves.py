"""Curves over time: the residual, the error of denoising score matching, the curl and the circulation [F10], [F15],
[C1], [C4].
"""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh

from .._checks import count
from .._describe import described
from .._types import Event, Key, Scalar
from ..calculus import AbstractTrace, Exact, circulation, curl, squared_curl
from ..calculus.probes import default_trace
from ..dataset import Dataset
from ..fokker_planck import AbstractResidualMethod, Form, ResidualMethod
from ..fokker_planck.residual import resolve
from ..score import AbstractScore
from ..score.score import linear_sde
from ._intervals import mean_number
from ._readings import Reading, ratio, section_of, taken
from .ensemble import Ensemble
from .measure import AbstractMeasure, Section


class ResidualCurve(AbstractMeasure):
    r"""The residual of the score Fokker–Planck equation over time, as the paper has it [F10] (Lai 2023, §3) and free
    of the time scale [F15]:

    $$ r_{\mathrm{FP}}(t) = \frac1D\,E\|\varepsilon(x_t, t)\|_2, \qquad
       \tilde r_{\mathrm{FP}}(t) =
       \Big(\frac1D\,E\big\|\tfrac{\sigma^3}{g^2}\,\varepsilon(x_t, t)\big\|_2^2\Big)^{1/2}. $$

    The second is the root mean square, over the entries of a sample, of the defect of the noise prediction per unit of
    log-SNR: a pure number, comparable over `t`. Between SDEs the martingale form compares, and the gradient form of
    conservative scores; that of others depends on the drift through the curl.

    **With a method that draws probes** the norm of one estimate would be biased upwards by its variance. The mean
    square comes from two independent estimates, without bias, and the curve of $r_{\mathrm{FP}}$ is then
    $\tfrac1D (E\|\varepsilon\|_2^2)^{1/2}$: by Jensen's inequality an upper bound of the paper's, exact where the
    norm does not vary. A mean square whose estimate is negative counts as zero.

    The numbers are means over the grid: that of $r_{\mathrm{FP}}$ (with probes: the root of the mean of the mean
    square, divided by $D$), and the root of the mean of $\tilde r_{\mathrm{FP}}^2$.

    Args:
        method: How the residual is taken. `None` is `Exact()` for samples of up to 16 elements and `Hutchinson()` for
            larger ones.
        form: `"gradient"` (that of the paper, first with the default method), `"martingale"` or `"mixed"`; the method's
            own when `None`.
        ensemble: Times and samples.

    Raises:
        TypeError: on a call, if the SDE has no Gaussian kernel.
        ValueError: if the method does not have the form.

    Example:
        >>> import jax, scorefp as sfp
        >>> from scorefp.diagnostics import ResidualCurve
        >>> stationary = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> section = ResidualCurve()(stationary, x, key=jax.random.key(1))
        >>> bool(section.numbers["r_FP_scale_free"].value < 1e-5)
        True
    """

    method: ResidualMethod | None = None
    form: Form | None = eqx.field(default=None, static=True)
    ensemble: Ensemble = Ensemble()

    needs_kernel: ClassVar[bool] = True
    needs_levels: ClassVar[bool] = False

    def __check_init__(self) -> None:
        if self.method is not None:
            self._method(0)

    def section(self, score: AbstractScore, data: Dataset, *, key: Key, mesh: Mesh | None) -> Section:
        t, values = self.ensemble.evaluate(self._at, score, data, key=key, mesh=mesh)
        plain, free = values["square"], values["scale_free_square"]
        size, method = data.size, self._method(data.size)
        given = default_trace(size) if self.method is None else self.method
        unit, notes = "1/(length·time)", [taken(self.ensemble, data, f"{described(given)}, {method.form} form")]
        if method.random:
            label = r"$r_\mathrm{FP} = \frac{1}{D}(E\,\Vert\varepsilon\Vert^2)^{1/2}$"
            words = "r_FP, (1/D) root of mean square over the grid"
            plain = Reading(plain, unit, words, label, scale=1 / size)
            notes.append("r_FP is the root of an unbiased mean square, an upper bound of the mean norm over D.")
        else:
            label = r"$r_\mathrm{FP} = \frac{1}{D}E\,\Vert\varepsilon\Vert$"
            plain = Reading(np.sqrt(plain) / size, unit, "r_FP, mean over the grid", label, root=False)
        label = r"$(\frac{1}{D}E\,\Vert\sigma^3 g^{-2}\varepsilon\Vert^2)^{1/2}$"
        free = Reading(free / size, "1", "r_FP scale-free, root mean square over the grid", label)
        return section_of("residual", t, {"r_FP": plain, "r_FP_scale_free": free}, notes)

    def _method(self, size: int) -> AbstractResidualMethod:
        return resolve(default_trace(size) if self.method is None else self.method, self.form)

    def _at(self, score: AbstractScore, t: Scalar, x: Event, noise: Event, key: Key) -> dict[str, Scalar]:
        square = self._method(x.size).squared_norm(score, t, x, key)[1]
        sde = linear_sde(score)
        return {"square": square, "scale_free_square": (sde.sigma(t) ** 3 / sde.g2(t)) ** 2 * square}


class MatchingCurve(AbstractMeasure):
    r"""The error of denoising score matching over time, as the paper has it [F10] (Lai 2023, §3) and weighted by
    $\sigma$, where it is the root mean square error of the noise prediction:

    $$ \begin{aligned}
       r_{\mathrm{DSM}}(t) &= \frac1D\,E\|s(x_t, t) - \nabla\log q(x_t \mid x_0)\|_2, \\
       \tilde r_{\mathrm{DSM}}(t) &= \Big(\frac1D\,E\|\sigma s(x_t, t) + \epsilon\|_2^2\Big)^{1/2}.
       \end{aligned} $$

    Neither vanishes for the exact score: the noise is not a function of $x_t$. Of two scores for the same data the
    lower curve is the better one; the second never exceeds one at the optimum.

    The numbers are means over the grid: of $r_{\mathrm{DSM}}$, and the root of that of $\tilde r_{\mathrm{DSM}}^2$.

    Args:
        ensemble: Times and samples.

    Raises:
        TypeError: on a call, if the SDE has no Gaussian kernel.

    Example:
        >>> import jax, scorefp as sfp
        >>> from scorefp.diagnostics import MatchingCurve
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> section = MatchingCurve()(sfp.Score(lambda t, x: -x, sfp.VP()), x, key=jax.random.key(1))
        >>> bool(0 < section.numbers["r_DSM_scale_free"].value < 1)
        True
    """

    ensemble: Ensemble = Ensemble()

    needs_kernel: ClassVar[bool] = True
    needs_levels: ClassVar[bool] = False

    def section(self, score: AbstractScore, data: Dataset, *, key: Key, mesh: Mesh | None) -> Section:
        t, values = self.ensemble.evaluate(self._at, score, data, key=key, mesh=mesh)
        label = r"$r_\mathrm{DSM} = \frac{1}{D}E\,\Vert s - \nabla\log q(x_t|x_0)\Vert$"
        norm = Reading(values["norm"] / data.size, "1/length", "r_DSM, mean over the grid", label, root=False)
        label = r"$(\frac{1}{D}E\,\Vert\sigma s + \epsilon\Vert^2)^{1/2}$"
        words = "r_DSM scale-free, root mean square over the grid"
        free = Reading(values["scale_free_square"] / data.size, "1", words, label)
        notes = [taken(self.ensemble, data, "no probes")]
        return section_of("matching", t, {"r_DSM": norm, "r_DSM_scale_free": free}, notes)

    def _at(self, score: AbstractScore, t: Scalar, x: Event, noise: Event, key: Key) -> dict[str, Scalar]:
        sigma = linear_sde(score).sigma(t)
        square = jnp.sum((sigma * score(t, x) + noise) ** 2)
        return {"norm": jnp.sqrt(square) / sigma, "scale_free_square": square}


class CurlCurve(AbstractMeasure):
    r"""The curl of the score over time [C1], as a mean square (Lai 2023, Figure 3) and free of the scale of the noise:

    $$ c(t) = E\,\tfrac12\|J - J^\top\|_F^2, \qquad
       \tilde c(t) = \Big(\frac1D\,E\,\tfrac12\|\sigma^2(J - J^\top)\|_F^2\Big)^{1/2}. $$

    In two dimensions the first is the mean square of the scalar curl. The second is a pure number, comparable over `t`:
    $-\sigma^2 J$ is the derivative of the noise prediction by $x/\sigma$, near the identity where the noise dominates,
    and $\tilde c$ is the size of its asymmetry for one entry of the sample. Both vanish exactly where the score is a
    gradient; both come from unbiased squares.

    The numbers are the mean of $c$ over the grid, and the root of the mean of $\tilde c^2$.

    Args:
        trace: `Exact()`, from the whole Jacobian, or `Hutchinson(samples, law)`. `None` is `Exact()` for samples of up
            to 16 elements and `Hutchinson()` for larger ones.
        ensemble: Times and samples.

    Raises:
        TypeError: on a call, if the SDE has no Gaussian kernel.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> from scorefp.diagnostics import CurlCurve
        >>> swirl = sfp.Score(lambda t, x: jnp.stack([-x[1], x[0]]), sfp.VP())
        >>> section = CurlCurve()(swirl, jnp.zeros((10, 2)), key=jax.random.key(0))
        >>> round(section.numbers["curl"].value, 3)
        4.0
    """

    trace: AbstractTrace | None = None
    ensemble: Ensemble = Ensemble()

    needs_kernel: ClassVar[bool] = True
    needs_levels: ClassVar[bool] = False

    def section(self, score: AbstractScore, data: Dataset, *, key: Key, mesh: Mesh | None) -> Section:
        t, values = self.ensemble.evaluate(self._at, score, data, key=key, mesh=mesh)
        label = r"$E\,\frac{1}{2}\Vert J-J^\top\Vert_F^2$"
        square = Reading(values["square"], "1/length⁴", "curl, mean square over the grid", label, root=False)
        label = r"$(\frac{1}{D}E\,\frac{1}{2}\Vert\sigma^2(J-J^\top)\Vert_F^2)^{1/2}$"
        words = "curl scale-free, root mean square over the grid"
        free = Reading(values["scale_free_square"] / data.size, "1", words, label)
        notes = [taken(self.ensemble, data, described(self._trace(data.size)))]
        return section_of("curl", t, {"curl": square, "curl_scale_free": free}, notes)

    def _trace(self, size: int) -> AbstractTrace:
        return default_trace(size) if self.trace is None else self.trace

    def _at(self, score: AbstractScore, t: Scalar, x: Event, noise: Event, key: Key) -> dict[str, Scalar]:
        def field(y: Event) -> Event:
            return score(t, y)

        trace = self._trace(x.size)
        if isinstance(trace, Exact):
            # The difference of entries, whose square is zero to the square of round-off for a gradient.
            square = 0.5 * jnp.sum(curl(field, x) ** 2)
        else:
            square = squared_curl(field, x, trace=trace, key=key)
        return {"square": square, "scale_free_square": linear_sde(score).sigma(t) ** 4 * square}


class CirculationCurve(AbstractMeasure):
    r"""How far the score is from every gradient, at least [C4]: its integral along circles of the noise,

    $$ c = \frac{1}{2\pi}\oint\langle s, \mathrm dl\rangle, \qquad
       x_t(\theta) = \alpha x_0 + \sigma(\cos\theta\,\epsilon + \sin\theta\,\epsilon'), $$

    with two independent noises. Every point of a circle is a sample of $q_t$, so that the score is seen where it is
    used, in any dimension. The tangent is independent of the point, and by Jensen's inequality

    $$ \begin{gathered}
       \frac{1}{\sigma^2}\,E\,c^2 \le \min_\varphi E\|s - \nabla\varphi\|^2 \quad\text{over all potentials}, \\
       \text{share} = \frac{E\,c^2}{\sigma^2 E\|s\|^2} \le
       \frac{\min_\varphi E\|s - \nabla\varphi\|^2}{E\|s\|^2} \le 1 .
       \end{gathered} $$

    Both hold with equality for a linear score where the noise dominates. The first, as $(\tfrac1D E\,c^2)^{1/2}$, is a
    pure number on the scale of `ScoreError`: the root mean square, over the entries of a sample, of the part of the
    noise prediction that no potential explains. The share is the part of the score's mean square. They see of the
    asymmetry of the score what does not cancel over a circle of the noise, where the curl (`CurlCurve`) is local, and
    take no derivative.

    The integral is the mean over even angles, and its square the product of two such means whose angles differ by a
    random turn: without bias for any number of nodes, and zero in the mean for a gradient.

    The numbers are the root of the mean of $\tfrac1D c^2$ over the grid, and the mean of $c^2$ over that of
    $\sigma^2\|s\|^2$.

    Args:
        nodes: How many angles each of the two means takes, at least three.
        ensemble: Times and samples.

    Raises:
        TypeError: on a call, if the SDE has no Gaussian kernel.
        ValueError: if `nodes` is below three.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> from scorefp.diagnostics import CirculationCurve
        >>> swirl = sfp.Score(lambda t, x: jnp.stack([-x[1], x[0]]) - x, sfp.VP())
        >>> x = jax.random.normal(jax.random.key(0), (200, 2))
        >>> share = CirculationCurve()(swirl, x, key=jax.random.key(1)).curves["circulation_share"]
        >>> bool(abs(share.value[-1] - 0.5) < share.half_width[-1])
        True
    """

    nodes: int = 4
    ensemble: Ensemble = Ensemble()

    needs_kernel: ClassVar[bool] = True
    needs_levels: ClassVar[bool] = False

    def __check_init__(self) -> None:
        count("nodes", self.nodes, 3)

    def section(self, score: AbstractScore, data: Dataset, *, key: Key, mesh: Mesh | None) -> Section:
        t, values = self.ensemble.evaluate(self._at, score, data, key=key, mesh=mesh)
        label = r"$(\frac{1}{D}E\,c^2)^{1/2},\ c = \frac{1}{2\pi}\oint\langle s, \mathrm{d}l\rangle$"
        words = "circulation, root mean square over the grid"
        size = Reading(values["square"] / data.size, "1", words, label)
        label = r"$E\,c^2 / E\,\Vert\sigma s\Vert^2$"
        words = "share that no potential explains, at least"
        notes = [taken(self.ensemble, data, f"two means over {self.nodes} angles of a circle each")]
        share = Reading(ratio(values["square"], values["score"]), "1", words, label, root=False)
        found = section_of("circulation", t, {"circulation": size, "circulation_share": share}, notes)
        # Of all times together, where one with a small score counts little.
        points = ratio(values["square"].mean(axis=0), values["score"].mean(axis=0))
        found.numbers["circulation_share"] = mean_number(points, "1", words)
        found.points["circulation_share"] = points
        return found

    def _at(self, score: AbstractScore, t: Scalar, x: Event, noise: Event, key: Key) -> dict[str, Scalar]:
        noise_key, turn_key = jr.split(key)
        sigma = linear_sde(score).sigma(t).astype(x.dtype)
        first, second = sigma * noise, sigma * jr.normal(noise_key, x.shape, x.dtype)

        def integral(start: Scalar) -> Scalar:
            along = lambda y: score(t, y)
            return circulation(along, x - first, first, second, nodes=self.nodes, start=start) / (2 * jnp.pi)

        turn = jr.uniform(turn_key, (), x.dtype, maxval=2 * jnp.pi / self.nodes)
        square = integral(jnp.zeros((), x.dtype)) * integral(turn)
        return {"square": square, "score": jnp.sum((sigma * score(t, x)) ** 2)}
