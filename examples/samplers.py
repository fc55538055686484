"""How many evaluations of the score each sampler needs: W2 to the data, for an exact score.

The data are a wide mode on a line and two narrow ones in it, under VP and under EDM. Every sampler starts from the same
32,768 quantiles of the prior, and W2 is taken between its samples and as many quantiles of the data. So nothing but
the sampler's error is left for samplers without noise; for those with noise the sampling error stays, and the figure
and the table have the W2 of as many independent draws of the data for comparison. (With nothing between the modes, a
mass d in the wrong one has a W2 of the order of the root of d, and sampling error would hide everything else.)

    python examples/samplers.py --out docs/assets

Writes `samplers.png`, `samplers.md` and `samplers.json`. Key 0, float32.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import _cells
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import ndtr, ndtri
from matplotlib.figure import Figure

import scorefp as sfp
from scorefp.sampling import AbstractSampler

MEANS, STDS, WEIGHTS = (-0.6, 0.5, 0.0), (0.05, 0.1, 0.7), (0.3, 0.3, 0.4)
SDES = {"VP": sfp.VP(), "EDM": sfp.EDM()}
COUNT, TARGETS = 32_768, (0.02, 0.002)
EVALUATIONS = (8, 16, 32, 64, 128, 256, 512)

SAMPLERS: dict[str, Callable[[int], AbstractSampler]] = {
    "Euler, uniform in t": lambda n: sfp.sampling.Euler(n, sfp.sampling.uniform_grid),
    "Euler, log-SNR": lambda n: sfp.sampling.Euler(n, sfp.sampling.log_snr_grid),
    "ExponentialIntegrator (DDIM)": lambda n: sfp.ExponentialIntegrator(n),
    "Heun": lambda n: sfp.Heun(n // 2),
    "DPMSolver": lambda n: sfp.DPMSolver(n),
    "EulerMaruyama, uniform in t": lambda n: sfp.EulerMaruyama(n, sfp.sampling.uniform_grid),
    "EulerMaruyama, log-SNR": lambda n: sfp.EulerMaruyama(n, sfp.sampling.log_snr_grid),
    "ExponentialIntegrator (ancestral)": lambda n: sfp.ExponentialIntegrator(n, noise=1.0),
    "Heun, churn": lambda n: sfp.Heun(n // 2, churn=sfp.sampling.Churn(4.0)),
    "PredictorCorrector": lambda n: sfp.PredictorCorrector(sfp.EulerMaruyama(n // 2, sfp.sampling.log_snr_grid)),
}
"""Each with `n` evaluations in all."""
NOISELESS = ("Euler, uniform in t", "Euler, log-SNR", "ExponentialIntegrator (DDIM)", "Heun", "DPMSolver")


def main() -> None:
    parser = _cells.parser(__doc__, out="demo")
    parser.add_argument("--evaluations", type=int, nargs="+", default=EVALUATIONS)
    parser.add_argument("--count", type=int, default=COUNT, help="samples")
    options = parser.parse_args()

    levels = (jnp.arange(options.count) + 0.5) / options.count
    data = quantiles(levels)
    draws = mixture().sample(jr.key(0), options.count)
    floor = w2(draws, data)
    results = {
        name: {
            label: [one(sde, make(n), levels, data) for n in options.evaluations] for label, make in SAMPLERS.items()
        }
        for name, sde in SDES.items()
    }
    found = {"evaluations": list(options.evaluations), "count": options.count, "floor": floor, "w2": results}
    write(found, options.out)


def write(found: dict[str, Any], out: Path) -> None:
    evaluations, floor = found["evaluations"], found["floor"]
    head = ["process", "sampler", *(str(n) for n in evaluations), *(f"to {target}" for target in TARGETS)]
    body = [
        [name, label, *(f"{value:.4f}" for value in values)]
        + [needed(evaluations, values, target, floor, label) for target in TARGETS]
        for name, curves in found["w2"].items()
        for label, values in curves.items()
    ]
    note = (
        f"{found['count']:,} draws of the data: {floor:.4f}. A dash: below what the draws of a sampler with noise show."
    )
    _cells.show(head, body, left=2, title=f"W2 to the data by evaluations of the score. {note}")
    _cells.write(out / "samplers.md", f"{_cells.markdown(head, body, left=2)}\n{note}\n")
    _cells.write_json(out / "samplers.json", found, indent=1)
    _cells.save_figure(figure(evaluations, found["w2"], floor), out / "samplers.png")


def mixture() -> sfp.GaussianMixture:
    return sfp.GaussianMixture(jnp.array(MEANS)[:, None], jnp.array(STDS) ** 2, jnp.array(WEIGHTS))


def quantiles(levels: jax.Array) -> jax.Array:
    """The quantiles of the data, by bisection of the mixture's distribution function."""
    means, stds, weights = (jnp.array(values) for values in (MEANS, STDS, WEIGHTS))

    def halve(_: Any, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        below = ndtr((middle[:, None] - means) / stds) @ weights < levels
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, 30, halve, (jnp.full_like(levels, -5.0), jnp.full_like(levels, 5.0)))
    return (0.5 * (low + high))[:, None]


def w2(x: jax.Array, y: jax.Array) -> float:
    return float(np.sqrt(sfp.wasserstein2(x, y).value))


def one(sde: sfp.sde.AbstractLinearSDE, method: AbstractSampler, levels: jax.Array, data: jax.Array) -> float:
    start = (sde.sigma(sde.t1) * ndtri(levels))[:, None]
    score = mixture().score(sde)
    return w2(sfp.sample(score, len(levels), key=jr.key(0), method=method, initial=start), data)


def needed(evaluations: list[int], values: list[float], target: float, floor: float, label: str) -> str:
    """The evaluations at which a curve first reaches the target, by a straight line between two points' logarithms."""
    if target < floor and label not in NOISELESS:
        return "–"
    reached = [i for i, value in enumerate(values) if value <= target]
    if not reached:
        return f"> {evaluations[-1]}"
    if reached[0] == 0:
        return f"≤ {evaluations[0]}"
    around = slice(reached[0] - 1, reached[0] + 1)
    counts, errors = np.log(evaluations[around]), np.log(values[around])
    return f"{np.exp(np.interp(-np.log(target), -errors, counts)):.0f}"


def figure(evaluations: list[int], results: dict[str, dict[str, list[float]]], floor: float) -> Figure:
    """A panel a process; full lines are samplers of the ODE, broken ones those with noise."""
    view = Figure(figsize=(8.4, 5.4), layout="constrained")
    panels = view.subplots(1, len(results), sharey=True)
    for axes, (name, curves) in zip(panels, results.items(), strict=True):
        for i, (label, values) in enumerate(curves.items()):
            style = "o-" if label in NOISELESS else "s--"
            axes.loglog(evaluations, values, style, color=f"C{i}", markersize=3.5, linewidth=1.4, label=label)
        axes.axhline(floor, color="0.5", linewidth=1, linestyle=":", label="as many draws of the data")
        axes.set(title=name, xlabel="evaluations of the score")
        axes.set_xticks(evaluations, [str(n) for n in evaluations])
        axes.minorticks_off()
        axes.grid(alpha=0.25)
    panels[0].set_ylabel(r"$W_2$ to the data")
    view.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return view


if __name__ == "__main__":
    main()
