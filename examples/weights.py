"""When weights fail: the effective sample size against the dimension, and against the residual of trained potentials.

Two families. *Dimension*: laws whose D elements are independent and known, annealed, multiplied, guided, or named by
one of two wrong potentials, for D = 1 … 64. A weight is then a product over the elements, so that without resampling
the effective share of the particles is the D-th power of that of one element; the error of a weighted moment is taken
against quadrature. *Potentials*: on two mixtures in the plane a potential is trained by denoising score matching, alone
and with the residual of the log-Fokker–Planck equation at three weights. The residual is measured on diffused data, and
the effective share by `FeynmanKac` with the residual as the rate; the law exp(potential) at t0 is taken by quadrature.

    python examples/weights.py --out docs/assets/weights

Each law of the first family, and each model with each seed of the second, is one cell; trained potentials are kept in
`--models`. What is there is not made again. No seed is tuned.
"""

import dataclasses
import functools
import warnings
from pathlib import Path
from typing import Any

import _cells
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from matplotlib.figure import Figure
from scipy.special import log_softmax

import scorefp as sfp
from scorefp import train
from scorefp.calculus import Exact, Hutchinson
from scorefp.sampling import WeightedSamples, weighted_samples

# ------------------------------------------------------------------------------------------------ settings
SDE = sfp.VP(t0=1e-3)
ELEMENT = sfp.GaussianMixture(jnp.array([-1.0, 1.0]), jnp.array([0.04, 0.25]), jnp.array([0.3, 0.7]))
"""The law of one element."""
ASKED = sfp.GaussianMixture(jnp.array([1.0]), jnp.array([0.25]), jnp.array([1.0]))
"""Its mode on the right, which guidance asks for."""
OTHER = sfp.GaussianMixture(jnp.array([-0.5, 1.5]), jnp.array([0.25, 0.25]), jnp.array([0.5, 0.5]))
"""The other factor of the product."""
SIZES = (1, 4, 16, 64)
THRESHOLDS = (0.0, 0.5)
SIDE, POINTS = 5.0, 4001
COLOURS = ("#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a cell depends on beside its name."""

    steps: int = 5000  # of training
    width: int = 64
    depth: int = 2
    batch_size: int = 256
    rate: float = 2e-3
    fraction: float = 0.5
    sampler_steps: int = 200
    particles: int = 256
    runs: int = 8
    runs_of_potentials: int = 2


@dataclasses.dataclass(frozen=True)
class Cell(_cells.Named):
    """A law whose elements are independent, or one model of one law of the plane with one seed."""

    family: str
    law: str
    model: str
    seed: int = 0

    @property
    def name(self) -> str:
        """The name of the file."""
        return super().name.replace("β", "beta").replace("=-", "")


def main(arguments: list[str] | None = None) -> None:
    parser = _cells.parser(__doc__, out="docs/assets/weights", seeds=(0, 1))
    parser.add_argument("--models", type=Path, default=Path(".cache/weights"), help="the folder of the potentials")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="training steps")
    parser.add_argument("--particles", type=int, default=Settings.particles, help="particles of a run")
    options = parser.parse_args(arguments)
    of = [Cell("dimension", "independent elements", case) for case in CASES]
    of += [Cell("potential", law, model, seed) for seed in options.seeds for law in LAWS for model in MODELS]
    settings = Settings(steps=options.steps, particles=options.particles)
    make = {"dimension": of_dimension, "potential": of_potential}
    found = _cells.cells(options.out, of, settings, lambda name, s: make[name.family](name, s, options.models))
    for name, table in {"dimension": dimension_table(found), "weights": residual_table(found)}.items():
        _cells.write(options.out / f"{name}.md", table)
        print(table)
    _cells.save_figure(dimension_figure(found, settings), options.out / "dimension.png")
    _cells.save_figure(residual_figure(found), options.out / "residual.png")


def weighted(
    score: sfp.score.AbstractScore, settings: Settings, runs: int, threshold: float, **options: Any
) -> WeightedSamples:
    """Runs of particles; that their weights collapse is what is measured here, and no news."""
    method = sfp.FeynmanKac(settings.sampler_steps, threshold=threshold, particles=settings.particles, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the effective sample size collapsed")
        return weighted_samples(score, runs, key=jr.key(7), method=method)


# ------------------------------------------------------------------------------------------------ dimension
def elements(law: sfp.GaussianMixture, size: int) -> sfp.Potential:
    """The exact potential of so many independent elements."""
    one = law.score(SDE)
    return sfp.Potential(lambda t, x: jnp.sum(jax.vmap(lambda y: one.potential(t, y))(x)), SDE, (size,))


def bump(t: jax.Array, x: jax.Array) -> jax.Array:
    """What the wrong potential adds, of one element; nearly nothing at t1."""
    return 0.5 * SDE.alpha(t) * jnp.cos(2 * x)


def push(t: jax.Array, x: jax.Array) -> jax.Array:
    """What the potential with a wrong mean adds, of one element; nearly nothing at t1."""
    return 0.5 * SDE.alpha(t) * x


def wrong(size: int) -> sfp.Potential:
    right = elements(ELEMENT, size)
    return sfp.Potential(lambda t, x: right.potential(t, x) + jnp.sum(bump(t, x)), SDE, (size,))


def shifted(size: int) -> sfp.Potential:
    """Another wrong potential, whose error is linear in the sample and moves every mode."""
    right = elements(ELEMENT, size)
    return sfp.Potential(lambda t, x: right.potential(t, x) + jnp.sum(push(t, x)), SDE, (size,))


CASES = {
    "annealed, β = 1.5": lambda size: sfp.Annealed(elements(ELEMENT, size), 1.5),
    "product of two": lambda size: sfp.Product((elements(ELEMENT, size), elements(OTHER, size))),
    "guided, w = 1": lambda size: sfp.Guided(elements(ASKED, size), elements(ELEMENT, size), 1.0),
    "wrong potential": wrong,
    "wrong mean": shifted,
}
"""The scores, of so many elements."""


WRONG = {"wrong potential": bump, "wrong mean": push}
"""What wrong potentials add to the right one, of one element."""


def named(case: str) -> tuple[float, float]:
    """The mean and the deviation of one element, in the law that a score names at t0, by quadrature."""
    x = np.linspace(-SIDE, SIDE, POINTS)
    t0 = jnp.asarray(SDE.t0)
    of = lambda law: np.asarray(jax.vmap(lambda y: law.score(SDE).potential(t0, y))(jnp.asarray(x)), np.float64)
    all_of_it = of(ELEMENT)
    log_p = {
        "annealed, β = 1.5": 1.5 * all_of_it,
        "product of two": all_of_it + of(OTHER),
        "guided, w = 1": 2 * of(ASKED) - all_of_it,
        **{
            case: all_of_it + np.asarray(jax.vmap(functools.partial(added, t0))(jnp.asarray(x)), np.float64)
            for case, added in WRONG.items()
        },
    }[case]
    mass = np.exp(log_softmax(log_p))
    return float(mass @ x), float(np.sqrt(mass @ (x - mass @ x) ** 2))


def of_dimension(name: Cell, settings: Settings, models: Path) -> dict[str, Any]:
    """The effective share, and the root mean square of the mean's error over runs and elements, in deviations."""
    truth, deviation = named(name.model)
    # The Hessian is diagonal, so that Rademacher probes give its trace without error.
    options = {"residual": Hutchinson()} if name.model in WRONG else {}
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        for threshold in THRESHOLDS:
            found = weighted(CASES[name.model](size), settings, settings.runs, threshold, **options)
            log_w = np.asarray(found.log_weights, np.float64)
            w = np.exp(log_w - log_w.max(axis=1, keepdims=True))
            x = np.asarray(found.samples)
            means = np.einsum("rp,rpd->rd", w / w.sum(axis=1, keepdims=True), x)
            ess = np.asarray(found.ess) / settings.particles
            rows.append(
                {
                    "size": size,
                    "threshold": threshold,
                    "end": float(ess[:, -1].mean()),
                    "least": float(ess.min(axis=1).mean()),
                    "resampled": float((ess < threshold).sum(axis=1).mean()),
                    "error": float(np.sqrt(np.mean((means - truth) ** 2))) / deviation,
                    # Before any resampling the particles by themselves are those of the reverse SDE.
                    "bias": float(abs(x.mean() - truth)) / deviation if threshold == 0 else None,
                }
            )
    return _cells.rounded({"truth": truth, "rows": rows}, 4)


# ------------------------------------------------------------------------------------------------ potentials
LAWS = {
    "two modes": sfp.GaussianMixture(jnp.array([[-1.0, -1.0], [1.0, 1.0]]), jnp.full(2, 0.04), jnp.array([0.2, 0.8])),
    "three modes": sfp.GaussianMixture(
        jnp.array([[-1.0, 0.8], [1.0, 0.8], [0.0, -1.0]]), jnp.array([0.04, 0.1, 0.2]), jnp.array([0.2, 0.5, 0.3])
    ),
}
MODELS = {"DSM": 0.0, "DSM + 0.01 LogFPE": 0.01, "DSM + 0.1 LogFPE": 0.1, "DSM + 1 LogFPE": 1.0}
"""The weight of LogFPE."""


def per_log_snr(sde: Any, t: Any) -> jax.Array:
    r"""The weight of LogFPE: `(σ / g)²` counts the residual per unit of log-SNR [S7]."""
    return sde.sigma(t) ** 2 / sde.g2(t)


def fitted(name: Cell, settings: Settings, models: Path) -> sfp.score.AbstractPotential:
    """The potential of a cell, kept. Those of a seed start at the same parameters."""
    network_key, offset_key, data_key, fit_key = jr.split(jr.key(name.seed), 4)
    law = LAWS[name.law]
    x = law.sample(data_key, 20_000)
    network = sfp.nn.MLP((2,), width=settings.width, depth=settings.depth, key=network_key)
    # A free function of time, for the normaliser.
    offset = eqx.nn.MLP("scalar", "scalar", 32, 2, activation=sfp.nn.softplus, key=offset_key)
    start = sfp.InnerPotential(network, SDE, float(jnp.sqrt(jnp.mean(x**2))), offset)

    def trained() -> tuple[Any, dict[str, Any]]:
        loss, weight = sfp.DSM(), MODELS[name.model]
        if weight:
            loss = loss + weight * sfp.LogFPE(weighting=per_log_snr, fraction=settings.fraction)
        run = train.fit(
            start,
            loss,
            x,
            optimizer=_cells.adam(settings.rate, settings.steps),
            steps=settings.steps,
            key=fit_key,
            batch_size=settings.batch_size,
            progress=False,
        )
        return run.model, {"loss": float(run.history["loss"][-500:].mean())}

    of_training = ("steps", "width", "depth", "batch_size", "rate", "fraction")
    facts = [dataclasses.asdict(name), MODELS[name.model], *(getattr(settings, key) for key in of_training)]
    return _cells.kept(models / f"{name.name}-{_cells.fingerprint(facts)}", start, trained)[0]


def spread(potential: sfp.score.AbstractPotential, x: jax.Array, times: int = 64) -> float:
    r"""The deviation of the residual over diffused data, `∫ std r dt`, in nats.

    It bounds the deviation of log w over paths with the law of the data, since the deviation of a sum is at most the
    sum of the deviations. A function of time in the potential does not enter.
    """
    t = sfp.sampling.log_snr_grid(SDE, times)

    @eqx.filter_jit
    def at(model: sfp.score.AbstractPotential, t: jax.Array, key: jax.Array) -> jax.Array:
        noised = SDE.perturb(t, x, jr.normal(key, x.shape))
        return jnp.std(jax.vmap(lambda y: sfp.log_fpe_residual(model, t, y))(noised))

    sizes = np.array([float(at(potential, s, key)) for s, key in zip(t, jr.split(jr.key(5), len(t)), strict=True)])
    return float(np.trapezoid(sizes[::-1], np.asarray(t)[::-1]))


def modes(x: np.ndarray, law: sfp.GaussianMixture) -> np.ndarray:
    """The mode that each point is nearest to."""
    return np.argmin(((x[..., None, :] - np.asarray(law.means)) ** 2).sum(axis=-1), axis=-1)


def masses(x: np.ndarray, weights: np.ndarray, law: sfp.GaussianMixture) -> np.ndarray:
    counts = np.bincount(modes(x, law).ravel(), weights.ravel(), minlength=len(law.means))
    return counts / counts.sum()


def of_potential(name: Cell, settings: Settings, models: Path) -> dict[str, Any]:
    """The residual, the effective share, and the masses of the modes of weighted and other samples and of exp(φ)."""
    potential, law = fitted(name, settings, models), LAWS[name.law]
    side = np.linspace(-2.5, 2.5, 301)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    t0, points = jnp.asarray(SDE.t0), jnp.asarray(grid, jnp.float32)
    log_q = log_softmax(np.asarray(eqx.filter_jit(jax.vmap(lambda x: potential.potential(t0, x)))(points), np.float64))
    log_p = log_softmax(np.asarray(jax.vmap(lambda x: law.score(SDE).potential(t0, x))(points), np.float64))
    said = masses(grid, np.exp(log_q), law)
    off = lambda found: 0.5 * float(np.abs(found - said).sum())
    row: dict[str, Any] = {
        "residual": spread(potential, law.sample(jr.key(6), 512)),
        "kl": float(np.exp(log_p) @ (log_p - log_q)),
        "said": said.tolist(),
        "truth": masses(grid, np.exp(log_p), law).tolist(),
    }
    for threshold, way in zip(THRESHOLDS, ("carried", "resampled"), strict=True):
        found = weighted(potential, settings, settings.runs_of_potentials, threshold, residual=Exact())
        x, w = np.asarray(found.samples), np.exp(np.asarray(found.log_weights, np.float64))
        by_run = w / w.sum(axis=1, keepdims=True)
        ess = np.asarray(found.ess) / settings.particles
        row[way] = {
            "end": float(ess[:, -1].mean()),
            "least": float(ess.min()),
            "masses": masses(x, by_run, law).tolist(),
            "off": off(masses(x, by_run, law)),
            "unweighted_off": off(masses(x, np.ones_like(w), law)),
        }
    return _cells.rounded(row, 4)


# ------------------------------------------------------------------------------------------------ tables and figures
def dimension_table(found: dict[Cell, dict[str, Any]]) -> str:
    heading = ["", "weights", *(f"D = {size}" for size in SIZES)]
    body: list[list[str]] = []
    for name, cell in found.items():
        if name.family == "dimension":
            of = {threshold: [row for row in cell["rows"] if row["threshold"] == threshold] for threshold in THRESHOLDS}
            carried, resampled = of.values()
            body.append([name.model, "effective share, %", *(f"{100 * row['end']:.2g}" for row in carried)])
            body.append([name.model, "times resampled", *(f"{row['resampled']:.2g}" for row in resampled)])
            body.append([name.model, "bias without weights", *(f"{row['bias']:.2f}" for row in carried)])
            body.append([name.model, "error, weights carried", *(f"{row['error']:.2f}" for row in carried)])
            body.append([name.model, "error, resampled", *(f"{row['error']:.2f}" for row in resampled)])
    return _cells.markdown(heading, body, left=2)


def residual_table(found: dict[Cell, dict[str, Any]]) -> str:
    heading = [
        "law",
        "model",
        "residual, nats",
        "effective share, %",
        "KL to the data",
        "masses off: unweighted",
        "weighted",
    ]
    body: list[list[str]] = []
    for law in LAWS:
        for model in MODELS:
            runs = [cell for name, cell in found.items() if (name.law, name.model) == (law, model)]
            share = lambda runs, form, *keys: ", ".join(form.format(read(run, *keys)) for run in runs)
            body.append(
                [
                    *(law, model, share(runs, "{:.2f}", "residual")),
                    ", ".join(f"{100 * run['carried']['end']:.2g}" for run in runs),
                    share(runs, "{:.2g}", "kl"),
                    share(runs, "{:.3f}", "carried", "unweighted_off"),
                    share(runs, "{:.3f}", "resampled", "off"),
                ]
            )
    return _cells.markdown(heading, body, left=2)


def read(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value[key]
    return value


def dimension_figure(found: dict[Cell, dict[str, Any]], settings: Settings) -> Figure:
    """The effective share against the dimension, and the error of a weighted mean."""
    view = Figure(figsize=(10.5, 4.6), layout="constrained")
    left, right = view.subplots(1, 2)
    of = {name.model: cell["rows"] for name, cell in found.items() if name.family == "dimension"}
    for (case, rows), colour in zip(of.items(), COLOURS, strict=False):
        carried, resampled = ([row for row in rows if row["threshold"] == threshold] for threshold in THRESHOLDS)
        sizes = [row["size"] for row in carried]
        left.plot(sizes, [row["end"] for row in carried], "o-", color=colour, label=case)
        left.plot(sizes, [carried[0]["end"] ** size for size in sizes], ":", color=colour)
        right.plot(sizes, [row["error"] for row in resampled], "o-", color=colour)
        right.plot(sizes, [row["error"] for row in carried], "--", color=colour)
        right.plot(sizes, [row["bias"] for row in carried], ":", color=colour)
    least = 1 / settings.particles
    left.axhline(least, color="black", lw=0.8)
    left.annotate("one particle", (1, least), xytext=(0, 4), textcoords="offset points")
    right.axhline(settings.particles**-0.5, color="black", lw=0.8)
    right.annotate(
        "independent samples", (64, settings.particles**-0.5), (0, 4), textcoords="offset points", ha="right"
    )
    left.set(yscale="log", ylim=(0.6 * least, 1.5), title="effective share, no resampling\n(dotted: to the power D)")
    right.set(
        yscale="log",
        title="error of a mean, deviations (solid: resampled,\ndashed: weights carried, dotted: no weights)",
    )
    for axes in (left, right):
        axes.set(xscale="log", xlabel="D", xticks=SIZES, xticklabels=[str(size) for size in SIZES])
        axes.minorticks_off()
        axes.grid(visible=True)
    view.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=len(CASES))
    return view


def residual_figure(found: dict[Cell, dict[str, Any]]) -> Figure:
    """The effective share against the residual, of all models."""
    view = Figure(figsize=(10.5, 4.2), layout="constrained")
    left, right = view.subplots(1, 2)
    for (model, colour), marker in zip(zip(MODELS, COLOURS, strict=False), "osD^", strict=True):
        for law, filling in zip(LAWS, ("full", "none"), strict=True):
            cells = [cell for name, cell in found.items() if (name.model, name.law) == (model, law)]
            residuals = [cell["residual"] for cell in cells]
            label = model if law == next(iter(LAWS)) else None
            shares = [cell["carried"]["end"] for cell in cells]
            left.plot(residuals, shares, marker, color=colour, ms=9, fillstyle=filling, label=label)
            right.plot(residuals, [cell["kl"] for cell in cells], marker, color=colour, ms=9, fillstyle=filling)
    left.set(title="effective share, no resampling", ylim=(0.35, 1.03))
    right.set(title="KL(truth ‖ exp φ(t0, ·)), nats", yscale="log")
    for axes in (left, right):
        ticks = (0.3, 0.5, 1, 2, 5)
        axes.set(xscale="log", xlabel="deviation of the residual, nats", xticks=ticks, xticklabels=map(str, ticks))
        axes.minorticks_off()
        axes.grid(visible=True)
    view.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=len(MODELS))
    return view


if __name__ == "__main__":
    main()
