"""Lai 2023, Figures 3 and 6 and §6.2, on the two-mode mixture in the plane.

The score Fokker–Planck residual of the exact score vanishes; that of a score trained by denoising score matching does
not. A penalty on it makes the trained score more conservative: the curl falls as its weight `alpha` grows. Trains one
network for each `alpha` from the same initialisation, prints the table and writes the figure.

    python examples/lai_mixture.py --out docs/assets

The paper prints time-averaged mean squared curls of 2.22, 1.89, 0.60 for alpha = 0, 0.001, 0.01.
"""

from typing import Any

import _cells
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from matplotlib.figure import Figure

import scorefp as sfp
from scorefp import train
from scorefp.densities import lai_two_modes
from scorefp.diagnostics import CurlCurve, Ensemble, ResidualCurve, uniform_midpoints

# The VE process of the code that the paper's networks come from: dx = 25^t dw, sigma² = (25^{2t} - 1) / (2 log 25).
SIGMA_MIN = 1 / np.sqrt(2 * np.log(25.0))
SDE = sfp.VE(sigma_min=SIGMA_MIN, sigma_max=25 * SIGMA_MIN, t0=1e-3, from_zero=True)
# Times uniform in t, as the paper's time average has them.
ENSEMBLE = Ensemble(times=40, samples=256, grid=uniform_midpoints)


def main() -> None:
    parser = _cells.parser(__doc__, out="demo", seeds=(0, 1, 2))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.0, 0.001, 0.01, 0.1, 1.0])
    options = parser.parse_args()

    mixture = lai_two_modes()
    x = mixture.sample(jr.key(0), 20_000)
    scores: dict[str, list[sfp.score.AbstractScore]] = {"exact": [mixture.score(SDE)]}
    for alpha in options.alphas:
        scores[f"alpha = {alpha:g}"] = [fitted(x, alpha, options.steps, seed) for seed in options.seeds]

    clean = mixture.sample(jr.key(1), 256)
    results = {name: [measured(score, clean) for score in models] for name, models in scores.items()}
    headings = ["score", "curl, mean square over time", "r_FP, mean over time", "error of the score"]
    body = [
        [name, *(_cells.spread([run[key] for run in runs]) for key in ("mean curl", "mean r_FP", "error"))]
        for name, runs in results.items()
    ]
    title = f"Two-mode mixture, {options.steps} steps, seeds {options.seeds}: mean over seeds (least, largest)"
    _cells.show(headings, body, title=title)
    _cells.write(options.out / "lai_mixture.md", _cells.markdown(headings, body))
    _cells.write_json(options.out / "lai_mixture.json", results, indent=1)
    _cells.save_figure(figure(results), options.out / "lai_mixture.png")


def fitted(x: jax.Array, alpha: float, steps: int, seed: int) -> sfp.score.AbstractScore:
    """A score trained with the paper's penalty: (alpha, beta, lambda_FP, m) = (alpha, 0, 1, 1), gradient form [F12]."""
    network = sfp.nn.MLP((2,), width=64, depth=2, key=jr.key(seed))
    model = sfp.NoiseScore(network, SDE, data_std=float(jnp.sqrt(jnp.mean(x**2))))
    penalty = sfp.ScoreFPE(method=sfp.Exact(), power=1.0, scale=sfp.unit_weighting, size_exponent=1.0)
    # The coefficient is an array, so that all alphas share one compiled step.
    loss = sfp.DSM() + alpha * penalty
    run = train.fit(
        model,
        loss,
        x,
        optimizer=_cells.adam(2e-3, steps),
        steps=steps,
        key=jr.key(100 + seed),
        batch_size=256,
        time=sfp.UniformTime(),
        progress=False,
    )
    return run.model


def measured(score: sfp.score.AbstractScore, x: jax.Array) -> dict[str, Any]:
    """Curl and residual over time, and the distance to the exact score."""
    report = sfp.audit(
        score, x, key=jr.key(2), measures=(ResidualCurve(ensemble=ENSEMBLE), CurlCurve(ensemble=ENSEMBLE))
    )
    residual, curl = report["residual"].curves["r_FP"], report["curl"].curves["curl"]
    exact = lai_two_modes().score(SDE)

    def square(t: jax.Array, x0: jax.Array, key: jax.Array) -> jax.Array:
        y = SDE.perturb(t, x0, jr.normal(key, x0.shape))
        return jnp.sum((SDE.sigma(t) * (score(t, y) - exact(t, y))) ** 2)

    times = uniform_midpoints(SDE, 40)
    keys = jr.split(jr.key(3), len(x))
    errors = jax.jit(jax.vmap(jax.vmap(square, (0, None, None)), (None, 0, 0)))(times, x, keys)
    return {
        "t": np.asarray(curl.t).tolist(),
        "curl": np.asarray(curl.value).tolist(),
        "r_FP": np.asarray(residual.value).tolist(),
        "mean curl": float(np.mean(curl.value)),
        "mean r_FP": float(np.mean(residual.value)),
        "error": float(jnp.sqrt(errors.mean())),
    }


def figure(results: dict[str, list[dict[str, Any]]]) -> Figure:
    """Residual and curl over time; each curve is the mean over seeds."""
    view = Figure(figsize=(9.5, 3.6), layout="constrained")
    panels = view.subplots(1, 2)
    titles = {"r_FP": r"$r_\mathrm{FP}(t)$", "curl": r"$E(\partial_1 s_2 - \partial_2 s_1)^2$"}
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        for label, runs in results.items():
            mean = np.mean([run[name] for run in runs], axis=0)
            axes.plot(runs[0]["t"], mean, label=label, color="black" if label == "exact" else None)
        axes.set(yscale="log", xlabel="t", title=title)
        axes.grid(alpha=0.3)
    # Near t0 the modes do not overlap and the curl of the exact score is zero to the last bit.
    panels[1].set_ylim(bottom=1e-20)
    view.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(results), fontsize=8)
    return view


if __name__ == "__main__":
    main()
