"""The quality of samples, by their features."""

from typing import Any, ClassVar

import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float
from scipy import stats

from .._checks import all_finite, require
from .._describe import described
from .._types import Key
from ..dataset import Dataset
from ..integrals import Estimate
from ..quality import PolynomialKernel, kernel_distance, precision_recall
from ..quality._features import GROUPS, Features, stored
from ..quality.frechet import frechet_of
from ..quality.kernel import Kernel
from ..sampling import AbstractSampler, EulerMaruyama
from ..sampling.draw import draws_of
from ..score import AbstractScore
from ._intervals import NORMAL, share_interval
from ._repeats import check_samples
from .measure import AbstractMeasure, Number, Section

_LABELS = {
    "frechet": "Fréchet distance, plug-in",
    "frechet_extrapolated": "Fréchet distance, extrapolated in 1/n",
    "kernel": "kernel distance, squared",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}


class SampleQuality(AbstractMeasure):
    r"""How good the samples of a score are beside the data: the Fréchet distance of their features, plug-in and
    extrapolated (`frechet_distance`), the kernel distance (`kernel_distance`), precision and recall, density and
    coverage (`precision_recall`), each with its 95 % interval: by the normal law for the kernel distance, and by
    Student's for the jackknife of ten parts.

    As many samples are drawn as data are taken, with the conditioning of these data. It is no measure of an audit by
    default: it needs more samples than the others, and features that say something of the data.

    **Levels.** Of data with a quantisation the samples are brought to its levels, clipped to its interval, as they
    would be to be stored; the features are of the centres of the levels, for samples and for data. Of floats both are
    taken as they are.

    Args:
        samples: How many samples and data; as many as there are data for `None`.
        method: The sampler.
        features: A function of one sample, for `None` its entries.
        kernel: The kernel of the kernel distance.
        neighbours: The number $k$ of precision and recall.
        batch_size: How many samples are drawn, and how many features taken, at once, over all devices.

    Raises:
        ValueError: if a number is too small; on a call, if there are too few data for `neighbours`.

    Example:
        >>> import jax, scorefp as sfp
        >>> from scorefp.diagnostics import SampleQuality
        >>> x = jax.random.normal(jax.random.key(0), (200, 2))
        >>> measure = SampleQuality(method=sfp.Heun(10))
        >>> report = sfp.audit(sfp.Score(lambda t, x: -x, sfp.VP()), x, key=jax.random.key(1), measures=(measure,))
        >>> found = report["quality"].numbers["kernel"]
        >>> bool(abs(found.value) < 2 * found.half_width)
        True
    """

    samples: int | None = 2048
    method: AbstractSampler = EulerMaruyama(128)
    features: Features | None = None
    kernel: Kernel = PolynomialKernel()
    neighbours: int = 5
    batch_size: int = 256

    needs_kernel: ClassVar[bool] = False
    needs_levels: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_samples(self.samples, self.batch_size)
        require(
            self.neighbours >= 1, f"neighbours = {self.neighbours}; a ball reaches to the first neighbour at least."
        )

    def section(self, score: AbstractScore, data: Dataset, *, key: Key, mesh: Mesh | None) -> Section:
        data_key, sample_key = jr.split(key)
        chosen, _ = data.drawn(self.samples, key=data_key)
        n = len(chosen)
        x = draws_of(
            score,
            n,
            key=sample_key,
            method=self.method,
            shape=data.shape,
            args=chosen.args,
            batch_size=self.batch_size,
            mesh=mesh,
        ).all()
        whole = np.asarray(all_finite(x))
        share, half = share_interval(n - int(whole.sum()), n)
        numbers = {"failed": Number(share, half, "1", "share of samples that are not finite")}
        levels = "" if data.quantisation is None else ", at the centres of the levels"
        notes = [f"{n} samples by {described(self.method)} and as many data{levels}."]
        if not whole.all():
            notes.append("The other numbers are without these.")
        try:
            found, more = self._measured(np.asarray(x)[whole], chosen)
        except ValueError as error:
            if whole.all():
                raise
            return Section("quality", numbers, {}, (*notes, f"There are none: {error}"))
        numbers = {name: _number(name, value) for name, value in found.items()} | numbers
        return Section("quality", numbers, {}, (*notes, *more))

    def _measured(self, x: Float[np.ndarray, "n *event"], data: Dataset) -> tuple[dict[str, Estimate], tuple[str, ...]]:
        """The numbers, and what there is to say of them."""
        x, real = (stored(values, data.quantisation) for values in (x, data.values))
        options: dict[str, Any] = {"features": self.features, "batch_size": self.batch_size}
        frechet = frechet_of(x, real, **options)
        shares = precision_recall(x, real, neighbours=self.neighbours, **options)
        found = {
            "frechet": frechet.plug_in,
            "frechet_extrapolated": frechet.extrapolated,
            "kernel": kernel_distance(x, real, kernel=self.kernel, **options),
        }
        found |= {name: getattr(shares, name) for name in ("precision", "recall", "density", "coverage")}
        coverage = f"{shares.coverage_of_equals:.3g}"
        equal = f"Of equal laws of continuous features the coverage is {coverage} and the density 1, in the mean."
        return found, (*frechet.notes, equal)


def _number(name: str, found: Estimate) -> Number:
    times = NORMAL if name == "kernel" else float(stats.t.ppf(0.975, GROUPS - 1))
    return Number(float(found.value), times * float(found.error), "1", _LABELS[name])
