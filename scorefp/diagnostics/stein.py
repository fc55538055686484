"""The error of the score without the true score, as a lower bound and as a test [N1], [N2]."""

from typing import ClassVar

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh

from .._batches import apart
from .._checks import count, positive
from .._describe import described
from .._types import Event, Key, Scalar
from ..calculus import AbstractProbes
from ..calculus.probes import default_trace
from ..dataset import Dataset
from ..score import AbstractScore
from ..score.score import linear_sde
from ..stein._basis import Features
from ..stein.bound import check_settings, driven, lower_bounds
from ..stein.kernel import discrepancy_of
from ._intervals import NORMAL
from ._readings import Reading, section_of, taken
from .ensemble import Ensemble, log_snr_ends
from .measure import AbstractMeasure, Curve, Number, Section


class ScoreError(AbstractMeasure):
    r"""How large the error $e = s - \nabla\log q_t$ of the score is over time, at least [N1]:

    $$ \Big(\frac{\sigma^2}{D}\,E\|e\|^2\Big)^{1/2} \ge \texttt{score\_error}, \qquad
       \Big(\frac{\sigma^2}{D}\,E\|Pe\|^2\Big)^{1/2} \ge \texttt{score\_error\_gradient}, $$

    with $Pe$ the part of the error that is a gradient, the one that moves marginals; each bound by fields that are
    fitted on some samples and measured on others (`score_error_bound`). Unlike the error of score matching, whose
    square is this one's plus a constant that nobody knows, it is zero for the exact score. It is the root mean square
    error of the noise prediction, over the entries of a sample: a pure number, on the scale of `r_DSM_scale_free`.

    The values of the samples are the squares, of any sign; a mean square that is negative counts as zero. The interval
    is that of the bound: with a probability of nominally 97.5 % the error is above its lower end, with less where a
    sample has more elements than there are samples (`score_error_bound`).

    **The samples** are independent, and not those that the score was trained on. A thousand or more show errors of a
    few per cent; with a hundred the fields that can be fitted are few. Of a score with conditioning the fields see the
    mean over it: measure classes one by one with `ByClass`.

    Args:
        waves: How many random frequencies, each with its cosine and sine.
        features: Further functions as `features(t, x)`, in many dimensions above all: the score itself, or the hidden
            layer of its network. They are evaluated on the first device.
        trace: `Exact()` or `Hutchinson(samples, law)` for the Laplacians of `features`. `None` is `Exact()` for samples
            of up to 16 elements and `Hutchinson()` for larger ones.
        folds: How many parts of the samples, at least three.
        ensemble: Times and samples.

    Raises:
        TypeError: if a setting is of another kind; on a call, if the SDE has no Gaussian kernel.
        ValueError: if a number is too small.

    Example:
        >>> import jax, scorefp as sfp
        >>> from scorefp.diagnostics import Ensemble, ScoreError
        >>> x = jax.random.normal(jax.random.key(0), (400, 1))
        >>> measure, key = ScoreError(waves=8, ensemble=Ensemble(4)), jax.random.key(1)
        >>> for factor in (1.0, 1.5):
        ...     section = measure(sfp.Score(lambda t, x, f=factor: -f * x, sfp.VP()), x, key=key)
        ...     found = section.numbers["score_error"]
        ...     print(bool(found.value > 2 * found.half_width))
        False
        True
    """

    waves: int = 16
    features: Features | None = None
    trace: AbstractProbes | None = None
    folds: int = 4
    ensemble: Ensemble = Ensemble(12, 1024)

    needs_kernel: ClassVar[bool] = True
    needs_levels: ClassVar[bool] = False

    def __check_init__(self) -> None:
        check_settings(self.waves, self.features, self.folds)

    def section(self, score: AbstractScore, data: Dataset, *, key: Key, mesh: Mesh | None) -> Section:
        size, n = data.size, min(self.ensemble.samples, len(data))
        if n < 2 * self.folds:
            return Section("error", {}, {}, (f"There are none: {n} samples for {self.folds} folds of two and more.",))
        t, slices = self.ensemble.slices(_at, score, data, key=key, mesh=mesh)
        sde = linear_sde(score)
        trace = default_trace(size) if self.trace is None else self.trace
        squares = np.zeros((2, len(t), n))
        for i, (time, values) in enumerate(zip(t, slices, strict=True)):
            x, s, noise = (jnp.asarray(values[name][0], data.values.dtype) for name in ("x", "score", "noise"))
            now = jnp.asarray(time, x.dtype)
            bounds = lower_bounds(
                now,
                x,
                *driven(sde, now, s, noise),
                apart(key),
                waves=self.waves,
                features=self.features,
                trace=trace,
                folds=self.folds,
                batch_size=self.ensemble.batch_size,
            )
            squares[:, i] = np.asarray(bounds) * float(sde.sigma(time)) ** 2 / size
        further = "" if self.features is None else f" and {described(self.features)}"
        how = f"fields of {self.waves} waves{further}, {self.folds} folds"
        notes = [taken(self.ensemble, data, how), "Lower bounds; a square below zero counts as zero."]
        readings = {
            "score_error": Reading(
                squares[1],
                "1",
                "error at least, root mean square over the grid",
                r"$(\frac{\sigma^2}{D}E\,\Vert e\Vert^2)^{1/2}$ at least",
            ),
            "score_error_gradient": Reading(
                squares[0],
                "1",
                "gradient part at least, likewise",
                r"$(\frac{\sigma^2}{D}E\,\Vert Pe\Vert^2)^{1/2}$ at least",
            ),
        }
        return section_of("error", t, readings, notes)


class SteinTest(AbstractMeasure):
    r"""Whether the diffused data have this score: the test of the kernel Stein discrepancy at times from $t_0$ on [N2].

    A p-value at each time and the discrepancy free of the time scale, $\tfrac{\sigma^2}{D}\mathrm{KSD}^2$, a lower
    bound of the mean square of `ScoreError` without a regression (`kernel_stein_discrepancy`). The numbers are the
    p-value at the first time of the grid, $t_0$ by default, and that of all times: the smallest times their number, or
    one, which is right however the times depend on each other (Bonferroni).

    It is no measure of an audit by default: a p-value says whether there is an error, of a learned score always, and
    not how large it is. The samples are not those that the score was trained on.

    Args:
        width: The width of the kernel; the median distance of the samples at each time for `None`.
        draws: How many draws the bootstrap takes.
        ensemble: Times and samples.

    Raises:
        TypeError: on a call, if the SDE has no Gaussian kernel.
        ValueError: if a number is too small; on a call, if there are fewer than four samples.

    Example:
        >>> import jax, scorefp as sfp
        >>> from scorefp.diagnostics import Ensemble, SteinTest, log_snr_ends
        >>> x = jax.random.normal(jax.random.key(0), (200, 2))
        >>> measure = SteinTest(draws=200, ensemble=Ensemble(4, 200, log_snr_ends))
        >>> section = measure(sfp.Score(lambda t, x: -x, sfp.VP()), x, key=jax.random.key(1))
        >>> bool(section.numbers["p_value"].value > 0.05)
        True
    """

    width: float | None = None
    draws: int = 1000
    ensemble: Ensemble = Ensemble(8, 1024, log_snr_ends)

    needs_kernel: ClassVar[bool] = True
    needs_levels: ClassVar[bool] = False

    def __check_init__(self) -> None:
        count("draws", self.draws, 1)
        if self.width is not None:
            positive("width", self.width)

    def section(self, score: AbstractScore, data: Dataset, *, key: Key, mesh: Mesh | None) -> Section:
        t, slices = self.ensemble.slices(_at, score, data, key=key, mesh=mesh)
        own, batch = apart(key), self.ensemble.batch_size
        found = [
            discrepancy_of(at["x"][0], at["score"][0], jr.fold_in(own, i), self.width, self.draws, batch)
            for i, at in enumerate(slices)
        ]
        scale = np.asarray(linear_sde(score).sigma(jnp.asarray(t)), np.float64) ** 2 / data.size
        squared = scale * np.asarray([float(one.squared.value) for one in found])
        half = NORMAL * scale * np.asarray([float(one.squared.error) for one in found])
        p = np.asarray([float(one.p_value) for one in found])
        numbers = {
            "p_value_first": Number(float(p[0]), None, "1", f"p-value at t = {t[0]:.3g}"),
            "p_value": Number(float(min(1.0, len(p) * p.min())), None, "1", f"p-value of all {len(p)} times"),
        }
        label = r"$\frac{\sigma^2}{D}\mathrm{KSD}^2$"
        curves = {
            "discrepancy": Curve(t, squared, half, "1", label),
            "p_value": Curve(t, p, np.zeros_like(p), "1", "p-value"),
        }
        width = "the median distance" if self.width is None else f"{self.width:g}"
        how = f"kernel of width {width}, {self.draws} draws of the bootstrap"
        return Section("stein", numbers, curves, (taken(self.ensemble, data, how),))


def _at(score: AbstractScore, t: Scalar, x: Event, noise: Event, key: Key) -> dict[str, Event]:
    return {"x": x, "score": score(t, x), "noise": noise}
