"""The gap between the samples of the ODE, of the SDE and of Langevin dynamics [G2], [G3]."""

import math
from typing import Any, ClassVar

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jaxtyping import ArrayLike, Bool, Float

from .._checks import all_finite, count, kind, random_key, require, same_shape, single_or_better
from .._describe import described
from .._devices import one_row
from .._module import AbstractModule
from .._precision import measures
from .._types import Key, MaybeNaN
from ..dataset import Dataset
from ..dataset.dataset import as_dataset
from ..integrals import Box, Estimate
from ..reverse import Integrator
from ..sampling import AbstractSampler, EulerMaruyama, Langevin, ProbabilityFlow
from ..sampling.draw import draws_of
from ..sampling.sampler import require_sampler
from ..score import AbstractScore
from ..score.score import require_score
from ..transport import AbstractTransport, Histogram, wasserstein2
from ._intervals import NORMAL, share_interval
from .measure import AbstractMeasure, Number, Section

_MOST = 1024
"""The default number of samples of a gap: their exact transport takes about a second."""

_LABELS = {
    "ode_sde": "W₂² of ODE and SDE",
    "floor": "floor, W₂² of the SDE and itself",
    "ode_data": "W₂² of ODE and data",
    "sde_data": "W₂² of SDE and data",
    "langevin_sde": "W₂² of Langevin and SDE",
    "langevin_data": "W₂² of Langevin and data",
}


class OdeSdeGap(AbstractModule):
    """The result of `ode_sde_gap`. `str` is a table of the squared distances with their standard errors.

    Args:
        ode_sde: Between the samples of the ODE and those of the SDE.
        floor: Between two independent sets of the SDE's samples.
        ode_data: Between the samples of the ODE and the data, where data were given.
        sde_data: Between the samples of the SDE and the data, where data were given.
        langevin_sde: Between the samples of the SDE before and after Langevin dynamics.
        langevin_data: Between these after Langevin dynamics and the data.
        failed: The share of the ODE's trajectories that did not get to `t0` with finite values.
        sde_failed: The same of the SDE's.
        langevin_failed: The same of Langevin dynamics.
        ode: The samples of the ODE; not finite where a trajectory failed.
        sde: The samples of the SDE from the same draws of the prior, likewise.
        langevin: These after Langevin dynamics, likewise; `None` where none was given.
    """

    ode_sde: Estimate
    floor: Estimate
    ode_data: Estimate | None
    sde_data: Estimate | None
    langevin_sde: Estimate | None
    langevin_data: Estimate | None
    failed: MaybeNaN
    sde_failed: MaybeNaN
    langevin_failed: MaybeNaN
    ode: Float[np.ndarray, "n *event"]
    sde: Float[np.ndarray, "n *event"]
    langevin: Float[np.ndarray, "n *event"] | None

    @property
    def distances(self) -> dict[str, Estimate]:
        """The squared distances that were taken, by name."""
        found = {name: getattr(self, name) for name in _LABELS}
        return {name: distance for name, distance in found.items() if distance is not None}

    def __str__(self) -> str:
        lines = [f"{_LABELS[name]:32}   {distance}" for name, distance in self.distances.items()]
        shares = {"ODE": self.failed, "SDE": self.sde_failed, "Langevin": self.langevin_failed}
        lines += [f"{f'failed trajectories of the {n}':32}   {share:.2%}" for n, share in shares.items() if share > 0]
        return "\n".join(lines)


@measures
def ode_sde_gap(
    score: AbstractScore,
    *,
    key: Key,
    data: Dataset | Float[ArrayLike, "m *event"] | None = None,
    samples: int | None = None,
    ode: AbstractSampler = ProbabilityFlow(Integrator(throw=False)),
    sde: AbstractSampler = EulerMaruyama(512),
    langevin: Langevin | None = None,
    box: Box | None = None,
    bins: int = 64,
    transport: AbstractTransport | None = None,
    resamples: int = 0,
    args: Any = None,
    shape: tuple[int, ...] | None = None,
    batch_size: int = 1024,
    mesh: Mesh | None = None,
) -> OdeSdeGap:
    r"""The distance of the samples of the probability-flow ODE from those of the reverse SDE: the squared
    $W_2^2(p_{\mathrm{ODE}}, p_{\mathrm{SDE}})$ at `t0` [G2] (Deveney 2023, Table 1), and that of either to the data
    (Tables 2 and 3).

    Of the exact score the two laws are one. Of a learned score they are not, as far as it breaks the Fokker–Planck
    equation (Deveney 2023, Theorem 1). Both samplers start from the same draws of the prior.

    **The floor.** Two finite sets of one law are not at distance zero: in many dimensions they are far apart, and the
    distance of sets is above that of their laws in the mean. The `floor` is the distance of two independent sets of the
    SDE's samples of the same size. Only a gap that is clearly above its floor says something about the score. More
    samples lower it; in one to three dimensions histograms of very many samples (`box`) do so cheaply.

    **Failed trajectories.** The distance to a sample that is not finite is not finite. A draw of the prior from which
    one of the two samplers fails is left out of both sets, and the shares are reported: they belong beside the gap.
    A sample that is far away and finite counts in full; its mark is an error of the size of the distance. Histograms
    keep it at the edge of the box.

    **A third process** [G3]. `langevin` runs Langevin dynamics from the samples of the SDE with the score at one small
    time. Where the score is that of the SDE's law it leaves the law as it is; how far it takes them says how far the
    score can be used as a force.

    The steps of the samplers are part of the gap: to tell the laws of a score from those of a solver, halve the steps
    and see that nothing moves.

    Args:
        score: Any score on any SDE.
        key: A random key; the same key gives the same gap.
        data: Clean samples: floats stacked along the leading axis, or a `Dataset`, whose levels are dequantised; at
            least as many as `samples`, of which as many are drawn without replacement. Histograms take all of them.
        samples: How many samples of each kind. `None` is 1024, or as many as the data has where these are fewer.
        ode: The first sampler.
        sde: The second.
        langevin: The third process, such as `Langevin(steps, step_size)`; none by default.
        box: Take histograms on this box in place of the samples themselves, as the paper does.
        bins: The number of cells along each side of the box.
        transport: The solver of the transport, the `method` of `wasserstein2`.
        resamples: How many bootstrap samples give the errors, as in `wasserstein2`.
        args: Conditioning, a pytree of arrays with `samples` as leading axis, given to the model; `None` is that of the
            data.
        shape: The event shape, where neither the score nor the data know it.
        batch_size: How many trajectories are solved at once, over all devices.
        mesh: The devices that share the trajectories, as `data_mesh` returns them; `None` is one device. The
            transport runs on one.

    Returns:
        The distances with standard errors, the shares of failed trajectories, and the samples.

    Raises:
        ImportError: if the transport needs an extra that is not installed: histograms of two and more elements do.
        TypeError: if `score` is no score, `key` no random key, `data` are not floating, a count is no integer, or
            a sampler, the box, the transport or `mesh` is of another kind.
        ValueError: if the event shape is not known or not that of the score or the box, `data` are not finite or too
            few, a number is too small, or `mesh` has another axis than `"data"`.

    Example:
        >>> import jax, scorefp as sfp
        >>> data = sfp.GaussianMixture(jax.numpy.array([-1.0, 1.0]), 0.1 * jax.numpy.ones(2), jax.numpy.ones(2) / 2)
        >>> found = sfp.ode_sde_gap(data.score(sfp.VP()), samples=200, key=jax.random.key(0))
        >>> bool(found.ode_sde.value < 0.1), found.failed
        (True, 0.0)
    """
    require_score(score)
    one_row(mesh)
    for name, method in (("ode", ode), ("sde", sde)):
        require_sampler(name, method, "scorefp.EulerMaruyama(512)")
    kind("langevin", langevin, (Langevin, type(None)))
    kind("box", box, (Box, type(None)))
    kind("transport", transport, (AbstractTransport, type(None)))
    bins, resamples = count("bins", bins, 1), count("resamples", resamples, 0)
    batch_size = count("batch_size", batch_size, 1)
    sample_key, other_key, data_key, resample_key = jr.split(random_key("a gap", key), 4)
    clean = None
    if data is not None:
        clean = as_dataset(data).dequantised(jr.fold_in(data_key, 1))
        single_or_better("data", jnp.asarray(clean.values))
        shape = clean.shape if shape is None else shape
        same_shape("a sample of data", clean.shape, "a sample of the gap", shape)
    available = _MOST if clean is None else min(_MOST, len(clean))
    samples = available if samples is None else count("samples", samples)
    require(samples >= 2, f"samples = {samples}; a gap needs at least two samples of each kind.")
    if clean is not None and box is None:
        require(
            len(clean) >= samples,
            f"data holds {len(clean)} samples, fewer than samples = {samples}; all distances are taken between sets "
            f"of one size, to have one floor. Set samples = {len(clean)}, or give a box for histograms.",
        )
    real, args = (None, args) if clean is None else _beside(clean, samples, args, every=box is not None, key=data_key)

    def drawn(
        method: AbstractSampler, key: Key, initial: Float[np.ndarray, "n *event"] | None = None
    ) -> tuple[Float[np.ndarray, "n *event"], Bool[np.ndarray, " n"]]:
        start = None if initial is None else jnp.asarray(initial)
        draws = draws_of(
            score,
            samples,
            key=key,
            method=method,
            shape=shape,
            args=args,
            initial=start,
            batch_size=batch_size,
            mesh=mesh,
        )
        x = draws.all()
        return np.asarray(x), np.asarray(all_finite(x))

    def distance(x: Float[np.ndarray, "n *event"], y: Float[np.ndarray, "m *event"]) -> Estimate:
        if min(len(x), len(y)) < 2:
            return Estimate(jnp.asarray(jnp.nan), jnp.asarray(jnp.nan))
        if box is not None:
            laws = Histogram.of(x, box, bins=bins), Histogram.of(y, box, bins=bins)
        else:
            size = min(len(x), len(y))
            laws = x[:size], y[:size]
        return wasserstein2(*laws, method=transport, resamples=resamples, key=resample_key)

    (of_ode, ode_whole), (of_sde, sde_whole) = drawn(ode, sample_key), drawn(sde, sample_key)
    other, other_whole = drawn(sde, other_key)
    third, third_whole = None, None
    if langevin is not None:
        # Chains from failed samples of the SDE count as failed; zero only stands in for their start.
        rows = sde_whole.reshape(-1, *[1] * (of_sde.ndim - 1))
        third, third_whole = drawn(langevin, other_key, np.where(rows, of_sde, 0))
        third, third_whole = np.where(rows, third, np.nan), third_whole & sde_whole
    whole = ode_whole & sde_whole

    def of_third(other: Float[np.ndarray, "m *event"] | None) -> Estimate | None:
        return None if third is None or other is None else distance(third[third_whole], other)

    return OdeSdeGap(
        ode_sde=distance(of_ode[whole], of_sde[whole]),
        floor=distance(of_sde[sde_whole], other[other_whole]),
        ode_data=None if real is None else distance(of_ode[ode_whole], real),
        sde_data=None if real is None else distance(of_sde[sde_whole], real),
        langevin_sde=of_third(of_sde[sde_whole]),
        langevin_data=of_third(real),
        failed=1 - float(ode_whole.mean()),
        sde_failed=1 - float(sde_whole.mean()),
        langevin_failed=0.0 if third_whole is None else 1 - float(third_whole.mean()),
        ode=of_ode,
        sde=of_sde,
        langevin=third,
    )


def _beside(
    clean: Dataset, samples: int, args: Any, *, every: bool, key: Key
) -> tuple[Float[np.ndarray, "m *event"], Any]:
    """The data that so many samples are held against, all of them or as many, and the conditioning of these samples:
    the given one, or that of as many data.
    """
    values = np.asarray(clean.values)
    if len(clean) >= samples:
        rows = np.asarray(jr.permutation(key, len(clean)))[:samples]
        return values if every else values[rows], clean.rows(np.sort(rows)).args if args is None else args
    require(
        args is not None or clean.args is None,
        f"data brings args for {len(clean)} samples, fewer than samples = {samples}. Give args with one row for each, "
        f"or at most {len(clean)} samples.",
    )
    return values, args


class Gap(AbstractMeasure):
    r"""The gap between the samples of the ODE and those of the SDE, and the distance of either to the data, as squared
    Wasserstein distances [G2] (Deveney 2023, Tables 1–3), by `ode_sde_gap`.

    Four distances, each with 1.96 standard errors, and the share of the ODE's trajectories that failed. The **floor**
    is the distance of two sets of the SDE's own samples: a gap near it says nothing against the score. It is high
    for few samples and in many dimensions; `ode_sde_gap` takes more samples, and histograms.

    Args:
        samples: How many samples of each kind; as many as there are clean samples where these are fewer.
        ode: The first sampler.
        sde: The second.
        transport: The solver of the transport, the `method` of `wasserstein2`. It runs on one device.
        batch_size: How many trajectories are solved at once, over all devices.

    Raises:
        ValueError: if `samples` or `batch_size` is too small.

    Example:
        >>> import jax, scorefp as sfp
        >>> from scorefp.diagnostics import Gap
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> section = Gap(ode=sfp.sampling.Euler(100))(sfp.Score(lambda t, x: -x, sfp.VP()), x, key=jax.random.key(1))
        >>> gap, floor = (section.numbers[name].value for name in ("ode_sde", "floor"))
        >>> bool(gap < 2 * floor)
        True
    """

    samples: int = 512
    ode: AbstractSampler = ProbabilityFlow(Integrator(throw=False))
    sde: AbstractSampler = EulerMaruyama(128)
    transport: AbstractTransport | None = None
    batch_size: int = 256

    needs_kernel: ClassVar[bool] = False
    needs_levels: ClassVar[bool] = False

    def __check_init__(self) -> None:
        require(self.samples >= 2, f"samples = {self.samples}; a gap needs at least two samples of each kind.")
        require(self.batch_size >= 1, f"batch_size = {self.batch_size}; at least one trajectory is solved at once.")

    def section(self, score: AbstractScore, data: Dataset, *, key: Key, mesh: Mesh | None) -> Section:
        sample_key, key = jr.split(key)
        chosen, _ = data.drawn(self.samples, key=sample_key)
        found = ode_sde_gap(
            score,
            key=key,
            data=chosen,
            samples=len(chosen),
            ode=self.ode,
            sde=self.sde,
            transport=self.transport,
            batch_size=self.batch_size,
            mesh=mesh,
        )
        numbers = {name: _number(distance, _LABELS[name]) for name, distance in found.distances.items()}
        share, half = share_interval(round(found.failed * len(chosen)), len(chosen))
        numbers["failed"] = Number(share, half, "1", "share of failed trajectories of the ODE")
        notes = [f"{len(chosen)} samples of each kind by {described(self.ode)} and {described(self.sde)}."]
        if found.sde_failed > 0:
            notes.append(f"{found.sde_failed:.2%} of the SDE's trajectories failed.")
        if found.failed + found.sde_failed > 0:
            notes.append("The distances are without failed trajectories, those that are not finite at t0.")
        return Section("gap", numbers, {}, tuple(notes))


def _number(distance: Estimate, label: str) -> Number:
    error = float(distance.error)
    return Number(float(distance.value), None if math.isnan(error) else NORMAL * error, "length²", label)
