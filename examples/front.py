"""The picture of the README: where in the plane a score breaks its Fokker–Planck equation.

Three scores of the eight modes of Lai 2023: the exact one, one trained by denoising score matching and one trained with
the penalty on the residual, from the same initialisation and on the same batches. Trains both for each seed, prints
one table and writes it with the picture, which is of the first seed:

    python examples/front.py --out docs/assets/front

A seed takes under a minute on two CPU cores. No seed is tuned.
"""

import _cells
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

import scorefp as sfp
from scorefp import train
from scorefp.densities import eight_modes
from scorefp.diagnostics import Likelihood, MatchingCurve, ResidualCurve

SDE = sfp.VP(t0=1e-3)
LAW = eight_modes()
LOSSES = {"trained score": sfp.DSM(), "with the penalty": sfp.DSM() + 0.5 * sfp.ScoreFPE(fraction=0.25)}
HALF_SIDE = 1.7
GREY = "#787878"  # readable on white and in the dark scheme


def main() -> None:
    parser = _cells.parser(__doc__, out="demo", seeds=(0, 1, 2))
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--pixels", type=int, default=240)
    options = parser.parse_args()
    t = SDE.time_of_log_snr(jnp.asarray(1.0))

    scores = [{"exact score": LAW.score(SDE)} | fitted(options.steps, seed) for seed in options.seeds]
    results = [{name: measured(score, t) for name, score in models.items()} for models in scores]
    headings = ["score", *results[0]["exact score"]]
    body = [
        [name, *(_cells.spread([run[name][column] for run in results]) for column in headings[1:])]
        for name in results[0]
    ]
    settings = f"Eight modes, {options.steps} steps, seeds {options.seeds}: mean over seeds (least, largest)"
    _cells.show(headings, body, left=1, title=f"{settings}; t = {t:.3f}")
    _cells.write(options.out / "front.md", _cells.markdown(headings, body, left=1))
    _cells.write_json(options.out / "front.json", results, indent=1)
    view = figure(scores[0], {name: run["residual at t"] for name, run in results[0].items()}, t, options.pixels)
    view.savefig(options.out / "front.png", dpi=110, transparent=True)


def fitted(steps: int, seed: int) -> dict[str, sfp.score.AbstractScore]:
    """Both trained scores of a seed, with the same initialisation and the same 2,000 points."""
    x = LAW.sample(jr.key(seed), 2000)
    network = sfp.nn.MLP((2,), width=64, depth=2, key=jr.key(100 + seed))
    model = sfp.NoiseScore(network, SDE, data_std=float(jnp.sqrt(jnp.mean(x**2))))
    return {
        name: train.fit(
            model,
            loss,
            x,
            optimizer=_cells.adam(2e-3, steps),
            steps=steps,
            batch_size=128,
            key=jr.key(200 + seed),
            progress=False,
        ).model
        for name, loss in LOSSES.items()
    }


def diffused(t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Fresh points of the law, 512 of them, and the same points diffused to a time."""
    x = LAW.sample(jr.key(1000), 512)
    return x, SDE.perturb(t, x, jr.normal(jr.key(1001), x.shape))


def measured(score: sfp.score.AbstractScore, t: jax.Array) -> dict[str, float]:
    """The residual on points diffused to one time, and three numbers of an audit of them."""
    x, noised = diffused(t)
    report = sfp.audit(score, x, key=jr.key(1002), measures=(ResidualCurve(), MatchingCurve(), Likelihood()))
    return {
        "residual at t": float(jnp.sqrt(jnp.mean(residual_size(score, t, noised) ** 2))),
        "residual, all times": report["residual"].numbers["r_FP_scale_free"].value,
        "matching error": report["matching"].numbers["r_DSM_scale_free"].value,
        "nats of the ODE, mean": report["likelihood"].numbers["negative_log_likelihood"].value,
    }


@jax.jit
def residual_size(score: sfp.score.AbstractScore, t: jax.Array, x: jax.Array) -> jax.Array:
    """The size of one entry of the residual, free of the time scale [F15], at each point."""
    residuals = jax.vmap(lambda y: sfp.score_fpe_residual(score, t, y))(x)
    return SDE.sigma(t) ** 3 / SDE.g2(t) * jnp.sqrt(jnp.mean(residuals**2, axis=-1))


def figure(scores: dict[str, sfp.score.AbstractScore], numbers: dict[str, float], t: jax.Array, pixels: int) -> Figure:
    """One map a score, with draws of the diffused law."""
    side = np.linspace(-HALF_SIDE, HALF_SIDE, pixels)
    plane = jnp.asarray(np.stack(np.meshgrid(side, side), axis=-1)).reshape(-1, 2)
    draws = diffused(t)[1].T
    view = Figure(figsize=(9.0, 3.7), layout="constrained")
    panels = view.subplots(1, len(scores))
    for axes, (name, score) in zip(panels, scores.items(), strict=True):
        # The exact residual rounds to zero here and there, of which there is no logarithm.
        sizes = np.maximum(residual_size(score, t, plane), 1e-9).reshape(pixels, pixels)
        extent = (-HALF_SIDE, HALF_SIDE, -HALF_SIDE, HALF_SIDE)
        shown = axes.imshow(sizes, origin="lower", extent=extent, norm=LogNorm(3e-3, 1.0), cmap="inferno")
        axes.scatter(*draws, s=3, color="white", alpha=0.5, linewidths=0)
        axes.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_title(name, color=GREY, fontsize=14, fontweight="bold")
        size = f"{numbers[name]:.2f}" if numbers[name] > 1e-3 else f"{numbers[name]:.7f}"
        axes.set_xlabel(f"residual {size}", color=GREY, fontsize=13)
    bar = view.colorbar(shown, ax=panels, shrink=0.86, aspect=16, pad=0.015)
    bar.set_label("Fokker–Planck residual", color=GREY, fontsize=12)
    bar.ax.tick_params(colors=GREY, labelsize=11)
    bar.outline.set_visible(False)
    return view


if __name__ == "__main__":
    main()
