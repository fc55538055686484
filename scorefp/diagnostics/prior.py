"""How far the diffused data are from the prior at the end of the horizon [K9]."""

from typing import ClassVar, NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from .._types import Key
from ..dataset import Dataset
from ..score import AbstractScore
from ..score.score import linear_sde
from ..sde import AbstractLinearSDE
from ._intervals import mean_number
from ._repeats import Unit, check_samples
from .measure import AbstractMeasure, Section

_LARGE = 0.01
"""The divergence for each entry, in nats, from which on the process does not reach its prior."""

MOST = 4096
"""The default number of samples."""


class PriorDivergence(AbstractMeasure):
    r"""The divergence of the diffused data from the prior, $\mathrm{KL}(q_{t_1}\Vert\pi)$ [K9], between two numbers
    that the samples alone give.

    **At most** the mean over $x_0$ of $\mathrm{KL}\big(q(x_{t_1}\mid x_0)\,\Vert\,\pi\big)$: the divergence is convex
    (`prior_kl_bound`). **At least** the divergence of the normal law with the mean and the variance of each entry: of
    all laws with these it has the largest entropy. For normal data with independent entries it is the divergence
    itself.

    Samples start from the prior and likelihoods end there. Where the process does not reach it, both are off by this
    divergence for the exact score too: an audit says so. It costs no evaluation of the score, and runs on the host
    whatever the devices.

    Args:
        samples: How many samples, drawn without replacement; all of them for `None`.

    Raises:
        TypeError: on a call, if the SDE has no Gaussian kernel.
        ValueError: if `samples` is below two.

    Example:
        >>> import jax, scorefp as sfp
        >>> x = 300 + 100 * jax.random.normal(jax.random.key(0), (400, 1))
        >>> measure = sfp.diagnostics.PriorDivergence()
        >>> section = measure(sfp.Score(lambda t, x: -x, sfp.VE()), x, key=jax.random.key(1))
        >>> # of N(300, 100² + 50²) from N(0, 50²): (41 - 1 - log 5) / 2
        >>> least, most = (section.numbers[name].value for name in ("least", "most"))
        >>> bool(abs(least - 19.2) < 2), bool(least < most)
        (True, True)
    """

    samples: int | None = MOST

    needs_kernel: ClassVar[bool] = True
    needs_levels: ClassVar[bool] = False

    def __check_init__(self) -> None:
        check_samples(self.samples, 1)

    def section(self, score: AbstractScore, data: Dataset, *, key: Key, mesh: Mesh | None) -> Section:
        chosen, _ = data.drawn(self.samples, key=key)
        unit, found = Unit(data.size, data.quantisation), divergence_at_t1(linear_sde(score), chosen)
        points = {name: unit.part(nats) for name, nats in (("least", found.least), ("most", found.most))}
        words = {name: f"divergence from the prior, at {name}" for name in points}
        return Section(
            "prior",
            {name: mean_number(values, unit.name, words[name]) for name, values in points.items()},
            {},
            (f"{len(chosen)} samples at t1.", *found.notes),
            points,
        )


class _AtT1(NamedTuple):
    """The values of each sample whose means are the two numbers, in nats, and a note where they are large."""

    least: Float[np.ndarray, " n"]
    most: Float[np.ndarray, " n"]
    notes: tuple[str, ...]


def divergence_at_t1(sde: AbstractLinearSDE, data: Dataset) -> _AtT1:
    r"""The two sides of $\mathrm{KL}(q_{t_1}\Vert\pi)$ for data as floats, sample by sample."""
    x = np.asarray(data.values, np.float64).reshape(len(data), -1)
    alpha, sigma = float(sde.alpha(sde.t1)), float(sde.sigma(sde.t1))
    scale = np.broadcast_to(np.asarray(sde.prior.scale, np.float64), data.shape).reshape(-1)
    mean, variance = alpha * x.mean(axis=0), alpha**2 * x.var(axis=0) + sigma**2
    square = (alpha * x) ** 2 + sigma**2
    # Their mean is the divergence of the normal law; the last term, of mean zero, is how it depends on the variance.
    off = ((alpha * x - mean) ** 2 + sigma**2) / variance - 1
    least = 0.5 * np.sum(square / scale**2 - 1 - np.log(variance / scale**2) - off, axis=1)
    most = 0.5 * np.sum(square / scale**2 - 1 - np.log(sigma**2 / scale**2), axis=1)
    notes = ()
    if least.mean() > _LARGE * x.shape[1]:
        notes = (
            f"The process does not reach its prior: at t1 = {sde.t1:g} the diffused data have a root mean square of "
            f"{np.sqrt(square.mean()):.3g}, the prior one of {np.sqrt((scale**2).mean()):.3g}, a divergence of at "
            f"least {least.mean():.3g} nats. Samples start from the prior, so that even an exact score does not give "
            "the data. Scale the data to mean zero and a standard deviation of about one, or take a process with more "
            "noise at t1 (a larger sigma_max or t1).",
        )
    return _AtT1(least, most, notes)
