"""Consistency in the plane: property tests of Daras 2023, and the ablation of its Table 2 at a small scale [M3], [M4].

Eight modes on a circle under VP, whose score is known. Networks are trained by denoising score matching at all times or
only for `t > 0.2`, the noisy end, each without and with the consistency term at all times. Measured are the martingale
defect of the denoiser, the error of the score, and the distance of samples to the data. A finished cell is kept.

    python examples/martingale.py
"""

import functools
from typing import Any

import _cells
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from matplotlib.figure import Figure

import scorefp as sfp
from scorefp import train
from scorefp.densities import eight_modes
from scorefp.diagnostics import ConsistencyCurves, Curve, log_snr_midpoints

SDE = sfp.VP()
THRESHOLD = 0.2
WEIGHT = 0.3
LOSSES: dict[str, Any] = {
    "DSM": sfp.DSM(),
    "DSM + consistency": sfp.DSM() + WEIGHT * sfp.Consistency(),
    "DSM + 3 path-wise consistency": sfp.DSM() + 3.0 * sfp.Consistency(steps=3, pathwise=True),
    "DSM for t > 0.2": 1.0 * sfp.Restricted(sfp.DSM(), start=THRESHOLD),
    "DSM for t > 0.2, + consistency": sfp.Restricted(sfp.DSM(), start=THRESHOLD) + WEIGHT * sfp.Consistency(),
    "DSM for t > 0.2, + path-wise consistency": sfp.Restricted(sfp.DSM(), start=THRESHOLD)
    + WEIGHT * sfp.Consistency(steps=3, pathwise=True),
}
HEADINGS = ("score", "defect to t0, rms", "error of the noise prediction, rms", "... for t < 0.2", "W₂² to the data")


def main() -> None:
    parser = _cells.parser(__doc__, out="docs/assets/martingale", seeds=(0, 1, 2))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=500, help="for the measures")
    options = parser.parse_args()
    exact = eight_modes().score(SDE)
    wrong = sfp.Score(lambda t, x: exact(t, x) + 0.1 / SDE.sigma(t) * jnp.sin(2 * x[::-1] + 1), SDE)
    cells: dict[str, list[dict[str, Any]]] = {
        "exact": [measured(exact, options.samples, 0)],
        "perturbed": [measured(wrong, options.samples, 0)],
    }

    def run(label: str, seed: int) -> dict[str, Any]:
        return measured(fitted(LOSSES[label], options.steps, seed), options.samples, seed)

    for label in LOSSES:
        name = label.replace(" ", "_").replace(">", "above").replace(",", "")
        cells[label] = [
            _cells.cell(
                options.out / f"{name}_{seed}.json",
                {"steps": options.steps},
                functools.partial(run, label, seed),
                indent=1,
            )
            for seed in options.seeds
        ]
    text = table(cells)
    print(text)
    _cells.write(options.out / "martingale.md", text)
    _cells.save_figure(figure(cells), options.out / "martingale.png")


def fitted(loss: Any, steps: int, seed: int) -> sfp.score.AbstractScore:
    model = sfp.NoiseScore(sfp.nn.MLP((2,), width=64, depth=2, key=jr.key(seed)), SDE, data_std=0.7)
    run = train.fit(
        model,
        loss,
        eight_modes().sample(jr.key(10), 20_000),
        optimizer=_cells.adam(2e-3, steps),
        steps=steps,
        key=jr.key(100 + seed),
        batch_size=256,
        progress=False,
    )
    return run.model


def measured(score: sfp.score.AbstractScore, count: int, seed: int) -> dict[str, Any]:
    """The curves; the root mean square error of the noise prediction, even in log-SNR; the distance of samples."""
    data, others = (eight_modes().sample(jr.key(k), count) for k in (11, 12))
    section = ConsistencyCurves(steps=128, samples=count)(score, data, key=jr.key(1))
    exact = eight_modes().score(SDE)
    times = log_snr_midpoints(SDE, 40)

    def square(t: jax.Array, x0: jax.Array, key: jax.Array) -> jax.Array:
        y = SDE.perturb(t, x0, jr.normal(key, x0.shape))
        return jnp.mean((score.noise(t, y) - exact.noise(t, y)) ** 2)

    errors = jax.jit(jax.vmap(lambda t: jnp.mean(jax.vmap(square, (None, 0, 0))(t, data, jr.split(jr.key(3), count)))))(
        times
    )
    grid = sfp.sampling.log_snr_grid(SDE, 256)
    before = int(jnp.sum(grid > THRESHOLD))
    stop = float(grid[before])

    def drawn(score: sfp.score.AbstractScore, steps: int) -> jax.Array:
        method = sfp.EulerMaruyama(steps)
        return sfp.sample(score, count, key=jr.key(20 + seed), method=method, shape=(2,))

    # The stopped sampler ends at the first time below the threshold and takes the denoiser for the sample. Its steps
    # are those of the whole one.
    stopped = drawn(sfp.Score(score, sfp.VP(t0=stop)), before)
    samples, denoised = drawn(score, 256), jax.vmap(lambda x: score.denoise(stop, x))(stopped)
    distances = [float(sfp.wasserstein2(s, others).value) for s in (samples, denoised, data)]
    return {
        "defect": section.numbers["consistency_rms"].value,
        "error": float(jnp.sqrt(jnp.mean(errors))),
        "error late": float(jnp.sqrt(jnp.sum(errors * (times < THRESHOLD)) / jnp.sum(times < THRESHOLD))),
        "W2": distances[0],
        "W2 stopped": distances[1],
        "W2 floor": distances[2],
        "curves": {name: [c.tolist() for c in (v.t, v.value, v.half_width)] for name, v in section.curves.items()},
    }


def table(cells: dict[str, list[dict[str, Any]]]) -> str:
    def row(label: str, runs: list[dict[str, Any]], distance: str) -> list[str]:
        return [
            label,
            *(_cells.spread([run[name] for run in runs]) for name in ("defect", "error", "error late", distance)),
        ]

    body: list[list[str]] = []
    for label, runs in cells.items():
        body.append(row(label, runs, "W2"))
        if "0.2" in label:
            body.append(row(f"{label}, stopped there", runs, "W2 stopped"))
    # Its rule has no spaces.
    text = _cells.markdown(HEADINGS, body).replace(" --- ", "---")
    return f"{text}\nTwo sets of the data are at $W_2^2$ = {cells['exact'][0]['W2 floor']:.3g}.\n"


def figure(cells: dict[str, list[dict[str, Any]]]) -> Figure:
    """Both curves, of the first seed, with 95 % intervals."""
    view = Figure(figsize=(9.5, 3.8), layout="constrained")
    panels = view.subplots(1, 2)
    names = {"from_t1": ("from $t = t_1$ to $t'$", "t'"), "to_t0": ("from $t$ to $t' = t_0$", "t")}
    for axes, (name, (title, axis)) in zip(panels, names.items(), strict=True):
        for label, runs in cells.items():
            curve = Curve(*(np.asarray(part) for part in runs[0]["curves"][name]), "length", label)
            style = {"color": "black"} if label == "exact" else {}
            # A square whose estimate is negative counts as zero, which has no place on this axis.
            seen = np.where(curve.value > 0, curve.value, np.nan)
            (line,) = axes.plot(curve.t, seen, label=label, marker=".", **style)
            low, high = (np.maximum(curve.value + sign * curve.half_width, 1e-4) for sign in (-1, 1))
            axes.fill_between(curve.t, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axes.set(xscale="log", yscale="log", xlabel=axis, title=f"rms of $E[h'] - h$, {title}")
        axes.grid(alpha=0.3)
    view.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
    return view


if __name__ == "__main__":
    main()
