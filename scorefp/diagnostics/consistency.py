"""The property tests of consistency [M3]: the martingale property of the denoiser along its own reverse SDE."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from .._batches import in_batches, on_mesh
from .._checks import require
from .._types import Event, Key
from ..dataset import Dataset
from ..objective.consistency import mean_product
from ..reverse import ancestral_step
from ..sampling import log_snr_grid
from ..score import AbstractScore
from ..score.score import conditioned, linear_sde
from ._intervals import mean_number, root_mean_curve, root_mean_number
from ._repeats import check_samples
from .measure import AbstractMeasure, Section


class ConsistencyCurves(AbstractMeasure):
    r"""The two property tests of Daras 2023 (§5.1, Figures 1 and 4–7) [M3]. From diffused samples $x_t$, paths of the
    model's own reverse SDE, and the defect of the martingale property of its denoiser:

    $$ L(t, t') = E_{x_t}\Big[\tfrac12\big\|E[h(x_{t'}, t') \mid x_t] - h(x_t, t)\big\|^2\Big]. $$

    `from_t1` starts at $t = t_1$ and shows over $t'$ where along the way the property is broken; `to_t0` ends at
    $t' = t_0$ and shows over $t$ the distance of the denoiser from the mean of what the model generates. The
    curves are $(2L/D)^{1/2}$, the root mean square of the defect of one entry, in the unit of the samples. The numbers
    are the mean of $L(t, t_0)$ over the grid of $t$, and its root mean square for one entry.

    The squares are without bias, from the product of independent paths; one whose estimate is negative has the root
    zero. The steps have an error of their own: the exact score has a defect that falls like one over their number
    (`ancestral_step`). Double `steps` to tell the two apart.

    Args:
        steps: The number of steps from `t1` to `t0`, of equal length in log-SNR.
        times: The number of times of a curve; it divides `steps`.
        samples: How many clean samples, drawn without replacement; all where there are fewer.
        paths: How many independent paths a sample and start, at least two.
        batch_size: How many samples are taken at once, over all devices, each with all its paths.

    Raises:
        TypeError: on a call, if the SDE has no Gaussian kernel.
        ValueError: if a number is too small, or `times` does not divide `steps`.

    Example:
        >>> import jax, scorefp as sfp
        >>> from scorefp.diagnostics import ConsistencyCurves
        >>> x = jax.random.normal(jax.random.key(0), (50, 2))
        >>> point = sfp.DenoiserScore(lambda t, x: 0 * x, sfp.VP(), None)  # a martingale, though not that of the data
        >>> section = ConsistencyCurves(steps=16, times=4)(point, x, key=jax.random.key(1))
        >>> section.numbers["consistency"].value
        0.0
    """

    steps: int = 64
    times: int = 8
    samples: int = 128
    paths: int = 8
    batch_size: int = 128

    needs_kernel: ClassVar[bool] = True
    needs_levels: ClassVar[bool] = False

    def __check_init__(self) -> None:
        require(self.times >= 1, f"times = {self.times}; a curve has at least one time.")
        require(
            self.steps >= 1 and self.steps % self.times == 0,
            f"steps = {self.steps} with times = {self.times}; the steps between two times are equally many, so that "
            "steps is a multiple of times.",
        )
        check_samples(self.samples, self.batch_size)
        require(self.paths >= 2, f"paths = {self.paths}; the square without bias is a product of two paths.")

    def section(self, score: AbstractScore, data: Dataset, *, key: Key, mesh: Mesh | None) -> Section:
        sample_key, key = jr.split(key)
        chosen, _ = data.drawn(self.samples, key=sample_key)
        times = log_snr_grid(linear_sde(score), self.steps).astype(chosen.values.dtype)
        arguments = (self, score, chosen.values, chosen.args, times, key)
        found = on_mesh(_products, mesh, len(chosen), *arguments)
        times = np.asarray(times[:: self.steps // self.times], np.float64)
        products = np.moveaxis(np.asarray(found, np.float64), 0, -1)
        start, end, size = products[0], products[:, -1], data.size
        loss = 0.5 * end.mean(axis=0)
        label = r"$(\frac{1}{D}E\,\Vert E[h'|x_t] - h\Vert^2)^{1/2}$"
        notes = [
            f"{len(chosen)} samples with {self.paths} paths each of {self.steps} steps of ancestral_step "
            "from t1 to t0; the exact score has the defect of these steps alone."
        ]
        broken = 1 - float(np.mean(np.isfinite(products[np.triu_indices(self.times)])))
        if broken > 0:
            notes.append(f"{broken:.2%} of the products of paths are not finite.")
        return Section(
            "consistency",
            {
                "consistency": mean_number(loss, "length²", "consistency loss to t0, mean over the grid"),
                "consistency_rms": root_mean_number(
                    2 * loss / size, "length", "defect to t0 of one entry, root mean square"
                ),
            },
            {
                "from_t1": dataclasses.replace(
                    root_mean_curve(times[:0:-1], start[::-1] / size, "length", f"{label}, $t = t_1$"), axis="t'"
                ),
                "to_t0": root_mean_curve(times[-2::-1], end[::-1] / size, "length", f"{label}, $t' = t_0$"),
            },
            tuple(notes),
            {"consistency": loss, "consistency_rms": 2 * loss / size},
        )


@eqx.filter_jit
def _products(
    measure: ConsistencyCurves,
    score: AbstractScore,
    x: Float[Array | np.ndarray, "n *event"],
    args: Any,
    grid: Float[Array, " steps_and_one"],
    key: Key,
    mesh: Mesh | None,
) -> Float[Array, "index times times"]:
    """The unbiased squared defects of each sample from the start of each cell between the descending times of a curve
    to the end of each.
    """
    sde, cells, each = linear_sde(score), measure.times, measure.steps // measure.times
    noise_key, path_key = jr.split(key)

    def one(row: Int[Array, ""]) -> Float[Array, "times times"]:
        bound, clean = conditioned(score, args, row), x[row]

        def from_start(start: Int[Array, ""]) -> Float[Array, " times"]:
            t, place = grid[start * each], start * len(x) + row
            noise = jr.normal(jr.fold_in(noise_key, place), clean.shape, clean.dtype)
            diffused = sde.diffuse(t, clean, noise)
            told = bound.denoise(t, diffused)
            keys = jr.split(jr.fold_in(path_key, place), measure.paths)

            def through_cell(
                cell: Int[Array, ""], now: tuple[Float[Array, "paths *event"], Float[Array, " times"]]
            ) -> tuple[Float[Array, "paths *event"], Float[Array, " times"]]:
                states, found = now

                def move(index: Int[Array, ""], states: Float[Array, "paths *event"]) -> Float[Array, "paths *event"]:
                    i = cell * each + index

                    def one_path(state: Event, key: Key) -> Event:
                        return ancestral_step(bound, grid[i], grid[i + 1], state, jr.fold_in(key, i))

                    return jax.vmap(one_path)(states, keys)

                states = jax.lax.fori_loop(0, each, move, states)
                ends = jax.vmap(lambda state: bound.denoise(grid[(cell + 1) * each], state))(states)
                return states, found.at[cell].set(mean_product(ends - told))

            states = jnp.broadcast_to(diffused, (measure.paths, *diffused.shape))
            return jax.lax.fori_loop(start, cells, through_cell, (states, jnp.zeros((cells,), clean.dtype)))[1]

        return jax.lax.map(from_start, jnp.arange(cells))

    return in_batches(one, len(x), measure.batch_size, mesh)
