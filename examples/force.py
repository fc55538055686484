"""The score as a force: what a potential says near t0, where it is simulated with, and what LogFPE mends.

After Plainer 2025. On two laws in the plane, a mixture of two modes and the Müller–Brown surface at T = 23, a potential
is trained by denoising score matching, alone and with the residual of the log-Fokker–Planck equation at small times. At
t0 the law exp(potential) is the one that Langevin dynamics draws from. Its free energy and the masses of its basins are
taken by quadrature; samples are drawn by the reverse SDE, the probability-flow ODE and Langevin dynamics [G1], [G3].

    python examples/force.py

Each cell, one model of one law with one seed, writes one JSON file to `docs/assets/force/` and is skipped when the file
is there. The tables and the figure are made from these files alone. A file made with other settings is refused; give
`--out` another folder then.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import _cells
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import log_softmax

import scorefp as sfp
from scorefp import train
from scorefp.densities import MuellerBrown

SDE = sfp.VP(t0=1e-4)
# The modes of Lai's mixture, divided by five.
MIXTURE = sfp.GaussianMixture(jnp.array([[-1.0, -1.0], [1.0, 1.0]]), jnp.full(2, 0.04), jnp.array([0.2, 0.8]))
# The root mean square of an entry, for both laws.
DATA_STD = 1.0
# LogFPE sees the times before this one.
EARLY = 0.1
TIMES = (1e-4, 1e-3, 3e-3, 0.01, 0.02, 0.05, 0.1)
POINTS, BINS = 200, 57


@dataclasses.dataclass(frozen=True)
class Law:
    """A law in the plane that is known up to a constant.

    Attributes:
        data: Samples to train on.
        log_prob: Its log-density, up to a constant.
        corner: The lower left corner of a square that holds it.
        side: The side of that square.
        along: The sign of `x1` in the coordinate `x2 ± x1` of the free energy.
        walls: Where along it one basin ends and the next begins.
        basins: Their names.
    """

    data: Callable[[], jax.Array]
    log_prob: Callable[[jax.Array], jax.Array]
    corner: tuple[float, float]
    side: float
    along: int
    walls: tuple[float, ...]
    basins: tuple[str, ...]

    def coordinate(self, x: np.ndarray) -> np.ndarray:
        return x[..., 1] + self.along * x[..., 0]

    def masses(self, x: np.ndarray, weights: np.ndarray | None = None) -> list[float]:
        """The share of each basin."""
        which = np.searchsorted(self.walls, self.coordinate(x)).ravel()
        weights = np.ones(which.size) if weights is None else weights.ravel()
        return (np.bincount(which, weights, minlength=len(self.basins)) / weights.sum()).tolist()

    def grid(self) -> np.ndarray:
        """The centres of the cells of the square."""
        steps = self.side * (np.arange(POINTS) + 0.5) / POINTS
        return np.stack(np.meshgrid(self.corner[0] + steps, self.corner[1] + steps, indexing="ij"), axis=-1)

    def edges(self) -> np.ndarray:
        """The edges of the bins of the coordinate, each of as many diagonals of the grid."""
        first = self.corner[1] + self.along * self.corner[0] - (self.side if self.along < 0 else 0.0)
        diagonals = 0.5 + np.arange(BINS + 1) * (2 * POINTS - 1) / BINS
        return first + self.side * diagonals / POINTS


@functools.cache
def simulated() -> jax.Array:
    """Samples of the Müller–Brown law: Langevin dynamics of its own force, 2000 chains, ten samples of each."""
    truth = sfp.Potential(lambda t, x: MuellerBrown().potential(x), SDE)
    step, corner = jnp.asarray(2e-4), jnp.array([-1.2, 0.0])
    x = corner + jnp.array([2.2, 1.7]) * jr.uniform(jr.key(0), (2000, 2))
    x = sfp.sample(truth, 2000, key=jr.key(1), method=sfp.Langevin(100_000, step), initial=x)
    rounds: list[jax.Array] = []
    for key in jr.split(jr.key(2), 10):
        x = sfp.sample(truth, 2000, key=key, method=sfp.Langevin(5000, step), initial=x)
        rounds.append(x)
    return jnp.concatenate(rounds)


LAWS = {
    "two modes": Law(
        lambda: MIXTURE.sample(jr.key(0), 20_000),
        MIXTURE.log_prob,
        corner=(-1.8, -1.8),
        side=3.6,
        along=1,
        walls=(-0.7, 0.7),
        basins=("lower left", "between", "upper right"),
    ),
    # The walls go through the saddles.
    "Müller–Brown": Law(
        simulated,
        MuellerBrown().potential,
        corner=(-1.7, -0.6),
        side=3.0,
        along=-1,
        walls=(0.081, 1.446),
        basins=("right", "middle", "upper left"),
    ),
}
# The weight of LogFPE, and how many times the steps.
MODELS = {
    "DSM": (0.0, 1),
    "DSM, four times the steps": (0.0, 4),
    "DSM + 0.1 LogFPE": (0.1, 1),
    "DSM + 1 LogFPE": (1.0, 1),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a cell depends on beside its name."""

    steps: int = 5000
    width: int = 64
    depth: int = 2
    batch_size: int = 256
    rate: float = 2e-3
    fraction: float = 0.5
    samples: int = 2000
    reverse_steps: int = 1000
    langevin_steps: int = 4000
    step_size: float = 5e-4


@dataclasses.dataclass(frozen=True)
class Cell(_cells.Named):
    """One model of one law with one seed."""

    law: str
    model: str
    seed: int


def main(arguments: list[str] | None = None) -> None:
    parser = _cells.parser(__doc__, out="docs/assets/force", seeds=(0, 1, 2))
    parser.add_argument("--laws", nargs="+", choices=list(LAWS), default=list(LAWS))
    parser.add_argument("--steps", type=int, default=Settings.steps, help="training steps")
    options = parser.parse_args(arguments)
    of = [Cell(law, model, seed) for seed in options.seeds for law in options.laws for model in MODELS]
    found = _cells.cells(options.out, of, Settings(steps=options.steps), run)
    text = tables(found)
    _cells.write(options.out / "force.md", text)
    _cells.save_figure(figure(found), options.out / "force.png")
    print(text)


# ------------------------------------------------------------------------------------------------ one cell
def early(sde: Any, t: Any) -> jax.Array:
    r"""The weight of LogFPE: `(sigma / g)²` counts the residual per unit of log-SNR [S7]; zero beyond `EARLY`."""
    return jnp.where(t < EARLY, sde.sigma(t) ** 2 / sde.g2(t), 0.0)


def run(cell: Cell, settings: Settings) -> dict[str, Any]:
    """Trains the potential of a cell and measures it."""
    result = measured(fitted(cell, settings), LAWS[cell.law], settings, jr.key(1000 + cell.seed))
    return _cells.rounded(result, 4)


def fitted(cell: Cell, settings: Settings) -> sfp.score.AbstractPotential:
    """The potential of a cell. The three of a seed start at the same parameters."""
    network_key, offset_key, fit_key = jr.split(jr.key(cell.seed), 3)
    network = sfp.nn.MLP((2,), width=settings.width, depth=settings.depth, key=network_key)
    # A free function of time, for the normaliser.
    offset = eqx.nn.MLP("scalar", "scalar", 32, 2, activation=sfp.nn.softplus, key=offset_key)
    potential = sfp.InnerPotential(network, SDE, DATA_STD, offset)
    weight, times = MODELS[cell.model]
    loss, steps = sfp.DSM(), times * settings.steps
    if weight:
        loss = loss + weight * sfp.LogFPE(weighting=early, fraction=settings.fraction)
    run = train.fit(
        potential,
        loss,
        LAWS[cell.law].data(),
        optimizer=_cells.adam(settings.rate, steps),
        steps=steps,
        key=fit_key,
        batch_size=settings.batch_size,
        progress=False,
    )
    assert isinstance(run.model, sfp.score.AbstractPotential)
    return run.model


def measured(model: sfp.score.AbstractPotential, law: Law, settings: Settings, key: jax.Array) -> dict[str, Any]:
    """What a model says, and its three kinds of samples beside as many of the data."""
    sample_key, langevin_key, data_key = jr.split(key, 3)
    draw = functools.partial(sfp.sample, model, settings.samples, key=sample_key, shape=(2,))
    sde = draw(method=sfp.EulerMaruyama(settings.reverse_steps, sfp.sampling.log_snr_grid))
    ode = draw(method=sfp.sampling.Euler(settings.reverse_steps, sfp.sampling.log_snr_grid))
    langevin = sfp.Langevin(settings.langevin_steps, jnp.asarray(settings.step_size))
    simulation = sfp.sample(model, settings.samples, key=langevin_key, method=langevin, initial=sde)
    truth = jr.permutation(data_key, law.data())[: 2 * settings.samples].reshape(2, settings.samples, 2)
    drawn = {"SDE": sde, "ODE": ode, "Langevin": simulation, "data": truth[1]}
    return said(model, law) | {
        "samples": {name: compared(np.asarray(x), np.asarray(truth[0]), law) for name, x in drawn.items()}
    }


def said(model: sfp.score.AbstractPotential, law: Law) -> dict[str, Any]:
    """The law exp(potential) at small times, by quadrature."""
    grid = law.grid()
    points = jnp.asarray(grid.reshape(-1, 2), jnp.float32)
    log_p = log_weights(jax.jit(jax.vmap(law.log_prob))(points))
    at = eqx.filter_jit(lambda t: jax.vmap(lambda x: model.potential(t, x))(points))
    curve: list[dict[str, Any]] = []
    for t in TIMES:
        log_q = log_weights(at(jnp.asarray(t)))
        kl = float(np.exp(log_p) @ (log_p - log_q))
        curve.append({"t": t, "kl": kl, "masses": law.masses(grid, np.exp(log_q))})
    return {
        "truth": {"masses": law.masses(grid, np.exp(log_p)), "free_energy": free_energy(law, np.exp(log_p))},
        "curve": curve,
        "free_energy": free_energy(law, np.exp(log_weights(at(jnp.asarray(SDE.t0))))),
    }


def compared(x: np.ndarray, truth: np.ndarray, law: Law) -> dict[str, Any]:
    """Samples against as many of the data. Those that left the square are put on its edge."""
    low, high = np.array(law.corner), np.array(law.corner) + law.side
    outside = ~np.all((x >= low) & (x <= high), axis=1)
    x = np.clip(np.nan_to_num(x, nan=np.inf), low, high)
    counts = np.histogram(law.coordinate(x), law.edges())[0]
    w2 = float(sfp.wasserstein2(x, truth).value)
    return {"masses": law.masses(x), "outside": float(outside.mean()), "w2": w2, "counts": counts.tolist()}


def log_weights(potential: Any) -> np.ndarray:
    """The logarithms of the probabilities of the cells of a grid."""
    return log_softmax(np.asarray(potential, np.float64))


def free_energy(law: Law, weights: np.ndarray) -> list[float]:
    """Minus the logarithm of the mass of each bin of the coordinate."""
    masses = np.histogram(law.coordinate(law.grid()).ravel(), law.edges(), weights=weights)[0]
    return (-np.log(np.maximum(masses, 1e-30))).tolist()


# ------------------------------------------------------------------------------------------------ what is read
def tables(found: dict[Cell, dict[str, Any]]) -> str:
    """The law of each model at t0, and its samples; a row for each law and model, the seeds side by side."""
    first, second = list[list[str]](), list[list[str]]()
    kinds = ["SDE", "ODE", "Langevin"]
    for law in dict.fromkeys(cell.law for cell in found):
        runs = [result for cell, result in found.items() if cell.law == law and cell.model == next(iter(MODELS))]
        floor = ", ".join(f"{run['samples']['data']['w2']:.2g}" for run in runs)
        first.append([law, "truth", "0", "0", shares(runs[0]["truth"]["masses"])])
        second.append(
            [law, "data", ", ".join(shares(run["samples"]["data"]["masses"]) for run in runs), "", "", floor, "", ""]
        )
        for model in MODELS:
            runs = [result for cell, result in found.items() if (cell.law, cell.model) == (law, model)]
            best = [min(run["curve"], key=lambda at: at["kl"]) for run in runs]
            first.append(
                [
                    law,
                    model,
                    ", ".join(f"{run['curve'][0]['kl']:.2g}" for run in runs),
                    ", ".join(f"{at['kl']:.2g} at {at['t']:g}" for at in best),
                    ", ".join(shares(run["curve"][0]["masses"]) for run in runs),
                ]
            )
            samples = [run["samples"] for run in runs]
            second.append(
                [
                    law,
                    model,
                    *(", ".join(shares(x[kind]["masses"]) for x in samples) for kind in kinds),
                    *(", ".join(f"{x[kind]['w2']:.2g}" for x in samples) for kind in kinds),
                    ", ".join(f"{100 * x['Langevin']['outside']:.1f}" for x in samples),
                ]
            )
    at_t0 = _cells.markdown(["law", "model", "KL at t0", "least KL, at t", "masses at t0, %"], first)
    headings = ["law", "model", *(f"{kind}: masses, %" for kind in kinds), *(f"W₂² {kind}" for kind in kinds)]
    return at_t0 + "\n" + _cells.markdown([*headings, "Langevin: left the square, %"], second)


def shares(masses: list[float]) -> str:
    """Masses in percent."""
    return "/".join(f"{100 * mass:.0f}" for mass in masses)


def figure(found: dict[Cell, dict[str, Any]]) -> Figure:
    """For each law: the free energy at t0, that of the Langevin samples, and the divergence against the time."""
    laws = list(dict.fromkeys(cell.law for cell in found))
    view = Figure(figsize=(12.5, 3.6 * len(laws)), layout="constrained")
    panels = view.subplots(len(laws), 3, squeeze=False)
    for row, name in zip(panels, laws, strict=True):
        law, truth = LAWS[name], next(result for cell, result in found.items() if cell.law == name)["truth"]
        centres = 0.5 * (law.edges()[1:] + law.edges()[:-1])
        for axes in row[:2]:
            axes.plot(centres, truth["free_energy"], color="black", lw=2, label="truth")
            axes.set(xlabel="$x_2 + x_1$" if law.along > 0 else "$x_2 - x_1$", ylim=(0, 16))
        for cell, result in found.items():
            if cell.law == name:
                draw(row, centres, cell, result)
        row[0].set_title(f"{name}: free energy of exp φ(t0, ·), nats", fontsize=10)
        row[1].set_title("free energy of the Langevin samples, nats", fontsize=10)
        row[2].set(xscale="log", yscale="log", xlabel="t")
        row[2].set_title("KL(truth ‖ exp φ(t, ·)), nats", fontsize=10)
        for axes in row:
            axes.grid(alpha=0.3)
    view.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=1 + len(MODELS))
    return view


def draw(row: list[Axes], centres: np.ndarray, cell: Cell, result: dict[str, Any]) -> None:
    """One model's curves; seeds share a colour."""
    style: dict[str, Any] = {
        "color": f"C{list(MODELS).index(cell.model)}",
        "lw": 1.2,
        "label": None if cell.seed else cell.model,
    }
    counts = np.array(result["samples"]["Langevin"]["counts"], float)
    row[0].plot(centres, result["free_energy"], **style)
    row[1].plot(centres, -np.log(np.where(counts > 0, counts, np.nan) / counts.sum()), **style)
    row[2].plot([at["t"] for at in result["curve"]], [at["kl"] for at in result["curve"]], **style)


if __name__ == "__main__":
    main()
