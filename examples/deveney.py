"""Tables 1–3 and Figures 2–5 of Deveney 2023: potentials trained with a penalty on their log-Fokker–Planck residual.

    make reproduce-deveney          # or: python examples/deveney.py --help

A cell is one target, one weight of the penalty and one seed. It trains a potential, draws samples by the ODE and by the
SDE, and leaves one small JSON in docs/assets/deveney/. A cell whose JSON is there is not run again, so that the command
resumes; tables and figures are made from the JSONs. All cells take about an hour and a half on one core.
"""

import argparse
import base64
import zlib
from pathlib import Path
from typing import Any

import _cells
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array
from scipy.stats import spearmanr

import scorefp as sfp
from scorefp import densities, train
from scorefp.fokker_planck import LogResidual, mean_square
from scorefp.integrals import UniformDraws
from scorefp.nn import ScalarMLP, softplus
from scorefp.transport import Histogram

TARGETS = {
    "mixture": densities.deveney_mixture,
    "circles": densities.Circles,
    "checkerboard": lambda: densities.Checkerboard(side=1.5),
}
PENALTIES = (0.0, 0.1, 1.0, 10.0)
NETWORKS: dict[str, dict[str, Any]] = {
    "paper": {"depth": 2, "activation": softplus},
    "code": {"depth": 3, "activation": lambda z: softplus(100 * z) / 100},
}
"""That of the paper's text, and the larger and sharper one of the published code."""
SDE = sfp.OU(t0=1e-4, t1=10.0)
DOMAIN = sfp.Box(jnp.full(2, -3.5), jnp.full(2, 3.5))
"""The box of the residual in the authors' published code (github.com/teojd/ODESDEGap)."""
BINS = 64
GRID = sfp.Box(jnp.full(2, -3.5 - 3.5 / 63), jnp.full(2, 3.5 + 3.5 / 63))
"""The cells around its 64 x 64 nodes."""

TABLES = {
    "Table 1. $W_2^2$ between the samples of the ODE and of the SDE.": "ode_sde",
    "Table 2. $W_2^2$ between the samples of the ODE and the data.": "ode_data",
    "Table 3. $W_2^2$ between the samples of the SDE and the data.": "sde_data",
}
PAPER = {
    "ode_sde": {
        "mixture": [0.011599, 0.003107, 0.002901, 0.002208],
        "circles": [0.013401, 0.005283, 0.003090, 0.001704],
        "checkerboard": [0.027196, 0.007160, 0.003528, 0.002104],
    },
    "ode_data": {
        "mixture": [0.010967, 0.006039, 0.005280, 0.017225],
        "circles": [0.014354, 0.007373, 0.008280, 0.009378],
        "checkerboard": [0.024416, 0.011386, 0.011428, 0.033052],
    },
    "sde_data": {
        "mixture": [0.002180, 0.002940, 0.004271, 0.015989],
        "circles": [0.002268, 0.003323, 0.004541, 0.009097],
        "checkerboard": [0.003681, 0.005387, 0.011552, 0.032158],
    },
}
"""Deveney 2023, Tables 1–3, by the weights of the penalty."""


def trained(
    target: str, penalty: float, seed: int, iterations: int, *, network: str, folder: Path, progress: bool
) -> tuple[sfp.Potential, dict[str, float]]:
    """The potential after training, and the seconds a thousand iterations took.

    The loss is Deveney's, up to the factor T: L_DSM + w_R R~ with uniform times, drawn uniformly in the log-SNR.
    """
    data_key, net_key, fit_key = jr.split(jr.fold_in(jr.key(seed), list(TARGETS).index(target)), 3)
    model = sfp.Potential(ScalarMLP((2,), width=80, key=net_key, **NETWORKS[network]), SDE, shape=(2,))
    loss = 2 * sfp.DSM()
    if penalty > 0:
        loss = loss + penalty * sfp.LogFPE(domain=DOMAIN)
    # The published schedule: 25,000 iterations at 1e-3, 65,000 at 1e-4, 10,000 at 1e-5.
    rate = optax.piecewise_constant_schedule(1e-3, {iterations // 4: 0.1, 9 * iterations // 10: 0.1})

    def made() -> tuple[Any, dict[str, float]]:
        run = train.fit(
            model,
            loss,
            TARGETS[target]().sample(data_key, 1_000_000),
            optimizer=optax.adam(rate),
            steps=iterations,
            key=fit_key,
            batch_size=256,
            clip=None,
            progress=progress,
            report_every=1000,
        )
        return run.model, {"seconds_per_thousand_iterations": 1000 * run.seconds_per_step}

    return _cells.kept(folder / f"{network}-{target}-{penalty:g}-{seed}-{iterations}", model, made)


def cubic_grid(sde: sfp.sde.AbstractSDE, steps: int) -> Array:
    """Times whose cube roots are equally spaced: fine where the law changes, at t of about one and below."""
    return jnp.linspace(sde.t1 ** (1 / 3), sde.t0 ** (1 / 3), steps + 1) ** 3


def measured(model: sfp.score.AbstractPotential, target: str, seed: int, samples: int, steps: int) -> dict[str, Any]:
    """What the tables and figures need of one model. The same draws serve all models of a target and a seed."""
    key = jr.fold_in(jr.fold_in(jr.key(1000), seed), list(TARGETS).index(target))
    sample_key, data_key, other_key, residual_key, clean_key, matching_key = jr.split(key, 6)
    draw, methods = TARGETS[target]().sample, {"sde": sfp.EulerMaruyama, "ode": sfp.sampling.Euler}
    found = {
        name: sfp.sample(model, samples, key=sample_key, method=method(steps, cubic_grid), batch_size=10_000)
        for name, method in methods.items()
    }
    found |= {"data": draw(data_key, samples), "again": draw(other_key, samples)}
    laws = {name: Histogram.of(x, GRID, bins=BINS) for name, x in found.items()}
    pairs = {"ode_sde": ("ode", "sde"), "ode_data": ("ode", "data"), "sde_data": ("sde", "data")}
    pairs |= {"floor": ("again", "data")}
    return {
        "residual": both(mean_square(LogResidual(model), DOMAIN, key=residual_key, rule=UniformDraws(65_536))),
        # L_DSM of the paper is the mean over time of what DSM integrates with a half in front.
        "matching": float(2 / (SDE.t1 - SDE.t0) * sfp.DSM()(model, draw(clean_key, 65_536), key=matching_key)),
        "transport": {name: both(sfp.wasserstein2(laws[a], laws[b])) for name, (a, b) in pairs.items()},
        "outside": {name: law.outside for name, law in laws.items()},
        "histograms": {name: packed(laws[name]) for name in methods},
    }


def both(estimate: sfp.Estimate) -> list[float]:
    """Value and standard error."""
    return [float(estimate.value), float(estimate.error)]


def packed(law: Histogram) -> str:
    """The counts of a histogram as text."""
    counts = np.rint(law.weights * (law.count or 1)).astype("<u4")
    return base64.b64encode(zlib.compress(counts.tobytes(), 9)).decode()


def unpacked(text: str) -> np.ndarray:
    """The counts again."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<u4").reshape(BINS, BINS)


def cell(target: str, penalty: float | None, seed: int, options: argparse.Namespace) -> None:
    """One cell, unless its JSON is there; the exact score of a mixture for `None`."""
    network = "exact" if penalty is None else options.network
    facts: dict[str, Any] = {"network": network, "target": target, "penalty": penalty, "seed": seed}
    facts |= {} if penalty is None else {"iterations": options.iterations}
    facts |= {"samples": options.samples, "steps": options.steps}

    def made() -> dict[str, Any]:
        notes: dict[str, Any] = {}
        if penalty is None:
            mixture = TARGETS[target]()
            assert isinstance(mixture, sfp.GaussianMixture)
            model = mixture.score(SDE)
        else:
            how = {"network": network, "folder": options.weights, "progress": not options.quiet}
            model, notes = trained(target, penalty, seed, options.iterations, **how)
        return notes | measured(model, target, seed, options.samples, options.steps)

    _cells.cell(options.out / f"{network}_{target}_{penalty or 0:g}_{seed}.json", facts, made, indent=1)


def published(folder: Path) -> str:
    """Tables 1–3 from the histograms in `precomputed_dists` of the authors' repository, against the printed ones."""
    names = {"mixture": "blob", "circles": "circles2", "checkerboard": "checker"}
    count, text, worst = 3_000_000, [], 0.0
    for target, name in names.items():
        data = Histogram(GRID, np.load(folder / f"weights_truth_64_{count}_{name}.npy").reshape(BINS, BINS), count)
        for row, penalty in enumerate(PENALTIES):
            laws = {"data": data}
            for kind in ("ode", "sde"):
                file = folder / f"weights_{kind}_64_{count}_100000_800_{name}_{penalty}.npy"
                laws[kind] = Histogram(GRID, np.load(file).reshape(BINS, BINS), count)
            for table in PAPER:
                ours, printed = sfp.wasserstein2(*(laws[k] for k in table.split("_"))), PAPER[table][target][row]
                worst = max(worst, abs(float(ours.value) - printed))
                text.append(f"{target:12} {penalty:4g} {table:8}   {printed:.6f}   {ours.value:.6f} ± {ours.error:.6f}")
    return "\n".join([*text, f"largest difference {worst:.1e}"])


# ------------------------------------------------------------------------------------------ tables and figures


def tables(cells: list[dict[str, Any]]) -> str:
    """For each network: Tables 1–3 with the paper's numbers beside, the orders of the weights, the correlations."""
    text: list[str] = []
    for network, heading in HEADINGS.items():
        own = [c for c in cells if c["network"] in (network, "exact")]
        targets = [t for t in TARGETS if t in {c["target"] for c in models(own)}]
        if targets:
            text += [f"{heading}\n", *distances(own, targets), *orders(own, targets)]
            text += [*correlations(own, targets), *escapes(own, targets)]
    return "\n".join(text)


def beside(targets: list[str]) -> list[str]:
    """The headings of two columns for each target."""
    return [heading for t in targets for heading in (f"{t}: paper", "ours")]


def alternating(paper: list[str], ours: list[str]) -> list[str]:
    """The entries under them."""
    return [entry for pair in zip(paper, ours, strict=True) for entry in pair]


def distances(cells: list[dict[str, Any]], targets: list[str]) -> list[str]:
    """Tables 1–3."""
    text: list[str] = []
    for title, name in TABLES.items():
        body: list[list[str]] = []
        for row, penalty in enumerate(PENALTIES):
            printed = [f"{PAPER[name][t][row]:.6f}" for t in targets]
            ours = [spread(values(cells, t, penalty, name)) for t in targets]
            body.append([f"{penalty:g}", *alternating(printed, ours)])
        exact = [spread(values(cells, t, None, name)) for t in targets]
        floors = [spread([c["transport"]["floor"][0] for c in cells if c["target"] == t]) for t in targets]
        none = [""] * len(targets)
        body += [["exact score", *alternating(none, exact)], ["data and data", *alternating(none, floors)]]
        text += [f"{title}\n", _cells.markdown(["$w_R$", *beside(targets)], body, left=1)]
    return text


def orders(cells: list[dict[str, Any]], targets: list[str]) -> list[str]:
    """The weights in the order of each column."""
    body: list[list[str]] = []
    for title, name in TABLES.items():
        ours = [order([mean(values(cells, t, p, name)) for p in PENALTIES]) for t in targets]
        body.append([title.split(".")[0], *alternating([order(PAPER[name][t]) for t in targets], ours)])
    return ["Weights from the least distance to the largest:\n", _cells.markdown(["", *beside(targets)], body)]


def correlations(cells: list[dict[str, Any]], targets: list[str]) -> list[str]:
    """The rank correlations behind Figures 4 and 5."""
    chosen = [[c for c in models(cells) if c["target"] == t] for t in targets] + [models(cells)]
    body: list[list[str]] = []
    for title, first, second in CORRELATIONS:
        columns = [([first(c, cells) for c in some], [second(c, cells) for c in some]) for some in chosen]
        body.append([title, *(f"{spearmanr(*both).statistic:+.2f}" if len(both[0]) > 2 else "" for both in columns)])
    table = _cells.markdown(["", *targets, "all"], body, left=1)
    return ["Rank correlations over the models of a target, and over all:\n", table]


def escapes(cells: list[dict[str, Any]], targets: list[str]) -> list[str]:
    """The samples outside the grid, which count in the cells at its edge."""
    body: list[list[str]] = []
    for penalty in PENALTIES:
        body.append([f"{penalty:g}"])
        for t in targets:
            found = [c["outside"] for c in cells if (c["target"], c["penalty"]) == (t, penalty)]
            shares = [100 * mean([outside[name] for outside in found]) for name in ("sde", "ode")]
            body[-1].append(f"{shares[0]:.2f}, {shares[1]:.2f}" if found else "")
    title = "Share of the samples outside the grid, in percent, of the SDE and of the ODE:\n"
    return [title, _cells.markdown(["$w_R$", *targets], body, left=1)]


def models(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cells of trained models."""
    return [c for c in cells if c["penalty"] is not None]


def values(cells: list[dict[str, Any]], target: str, penalty: float | None, name: str) -> list[float]:
    """A distance in the cells of all seeds."""
    return [c["transport"][name][0] for c in cells if (c["target"], c["penalty"]) == (target, penalty)]


def mean(found: list[float]) -> float:
    return float(np.mean(found)) if found else float("nan")


def spread(found: list[float]) -> str:
    """The mean over seeds to four decimals, with the least and the largest."""
    return _cells.spread(found, ".4f")


def order(column: list[float]) -> str:
    """The weights in ascending order of a column."""
    if np.isnan(column).any():
        return ""
    return " < ".join(f"{PENALTIES[i]:g}" for i in np.argsort(column))


def residual(c: dict[str, Any], cells: list[dict[str, Any]]) -> float:
    return c["residual"][0]


def gap(c: dict[str, Any], cells: list[dict[str, Any]]) -> float:
    return c["transport"]["ode_sde"][0]


def excess_matching(c: dict[str, Any], cells: list[dict[str, Any]]) -> float:
    """L_DSM less the least of its target and seed: what all models of a target share says nothing about them."""
    alike = [o for o in models(cells) if (o["target"], o["seed"]) == (c["target"], c["seed"])]
    return c["matching"] - min(o["matching"] for o in alike)


HEADINGS = {
    "paper": "**The network of the paper's text**: two hidden layers of 80, softplus.",
    "code": "**The network of the published code**: three hidden layers of 80, softplus of sharpness 100.",
}
CORRELATIONS = [
    ("Figure 4: residual and score matching", residual, excess_matching),
    ("Figure 5: residual and gap", residual, gap),
]


def figures(cells: list[dict[str, Any]], out: Path) -> None:
    """Figures 2–5, in two pictures."""
    import matplotlib.pyplot as plt

    first = min(c["seed"] for c in cells)
    shown = {(c["target"], c["penalty"]): c for c in cells if c["seed"] == first}
    figure, axes = plt.subplots(len(PENALTIES), 3 * len(TARGETS), figsize=(13, 6.2), layout="constrained")
    for column, target in enumerate(TARGETS):
        data = Histogram.of(TARGETS[target]().sample(jr.key(0), 1_000_000), GRID, bins=BINS).weights
        for row, penalty in enumerate(PENALTIES):
            found = shown.get((target, penalty))
            pictures = {"data": data} | ({k: unpacked(v) for k, v in found["histograms"].items()} if found else {})
            for place, name in enumerate(("data", "sde", "ode")):
                axis = axes[row, 3 * column + place]
                axis.set(xticks=[], yticks=[])
                if name in pictures:
                    law = pictures[name] / pictures[name].sum()
                    axis.imshow(law.T, origin="lower", vmin=0, vmax=1.2 * np.quantile(data, 0.995), cmap="magma")
                if row == 0:
                    axis.set_title({"data": target, "sde": "SDE", "ode": "ODE"}[name], fontsize=9)
            axes[row, 0].set_ylabel(f"$w_R = {penalty:g}$")
    _cells.save_figure(figure, out / "samples.png")
    plt.close(figure)

    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
    markers = dict(zip(TARGETS, "os^", strict=True))
    for c in models(cells):
        colour = f"C{PENALTIES.index(c['penalty'])}"
        style = {"marker": markers[c["target"]], "color": colour, "linestyle": "none"}
        axes[0].plot(residual(c, cells), excess_matching(c, cells) + 1e-4, **style)
        axes[1].plot(residual(c, cells), gap(c, cells), **style)
    for name, marker in markers.items():
        axes[1].plot([], [], marker=marker, color="grey", linestyle="none", label=name)
    for i, penalty in enumerate(PENALTIES):
        axes[1].plot([], [], "s", color=f"C{i}", label=f"$w_R = {penalty:g}$")
    axes[0].set(
        xscale="log", yscale="log", xlabel=r"residual $\tilde R$", ylabel=r"$L_\mathrm{DSM}$ above the least + 1e-4"
    )
    axes[1].set(xscale="log", yscale="log", xlabel=r"residual $\tilde R$", ylabel=r"$W_2^2$ of ODE and SDE")
    axes[1].legend(fontsize=8)
    _cells.save_figure(figure, out / "relations.png")
    plt.close(figure)


def main() -> None:
    parser = _cells.parser(__doc__, out="docs/assets/deveney", seeds=(0, 1))
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--penalties", type=float, nargs="+", default=list(PENALTIES))
    parser.add_argument("--network", default="paper", choices=list(NETWORKS))
    parser.add_argument("--iterations", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=300_000, help="samples of each law in a cell")
    parser.add_argument("--steps", type=int, default=400, help="steps of the samplers")
    parser.add_argument("--weights", type=Path, default=Path(".cache/deveney"), help="where weights are kept")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("--published", type=Path, help="only check Tables 1–3 against histograms in this folder")
    options = parser.parse_args()
    if options.published:
        print(published(options.published))
        return
    for seed in options.seeds:
        for target in options.targets:
            if target == "mixture":
                cell(target, None, seed, options)
            for penalty in options.penalties:
                cell(target, penalty, seed, options)
    cells = [_cells.read_json(path) for path in sorted(options.out.glob("*_*_*.json"))]
    text = tables(cells)
    _cells.write(options.out / "tables.md", text)
    print(text)
    figures([c for c in cells if c["network"] == "paper"], options.out)


if __name__ == "__main__":
    main()
