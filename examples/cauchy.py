"""The Cauchy problem of the score Fokker–Planck equation: a score at all times from the score at one (Lai 2023, §6.1).

On the mixture of two modes in the plane and the VE process, a network is fitted to the score at t0 and to the score
Fokker–Planck equation after it [F14], and to nothing else. What differs is what is known at t0, and where the points
are at which initial condition and residual are looked at. Samples and density come from the probability-flow ODE.

    python examples/cauchy.py

Each cell, one problem with one seed, writes one JSON file to `docs/assets/cauchy/` and is skipped when the file is
there. The table and the figure are made from these files alone. A file made with other settings is refused; give
`--out` another folder then.
"""

import dataclasses
import functools
import time
from typing import Any

import _cells
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from matplotlib.figure import Figure

import scorefp as sfp
from scorefp import train
from scorefp.densities import lai_two_modes
from scorefp.objective import AbstractObjective

MIXTURE = lai_two_modes()
# Half the sides of two squares: densities are compared on the first, points are drawn in the second.
HALF_SIDE, HALF_PLACES, POINTS = 12.0, 9.0, 41


def process(sigma: float) -> sfp.VE:
    """The VE process from the time at which it has this much noise."""
    return sfp.VE(t0=max(float(np.log(sigma / 0.01) / np.log(5000.0)), 1e-5))


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is known at t0.

    Attributes:
        sigma: The noise at t0.
        noise: The standard deviation of the noise on the score at t0; `None` if no score is known, but data.
        everywhere: Whether half of the points come from the whole square in place of the data.
    """

    sigma: float
    noise: float | None
    everywhere: bool

    @property
    def sde(self) -> sfp.VE:
        return process(self.sigma)

    def places(self) -> jax.Array:
        """The points that are diffused."""
        data = MIXTURE.sample(jr.key(0), 50_000)
        if not self.everywhere:
            return data
        square = jr.uniform(jr.key(1), data.shape, minval=-HALF_PLACES, maxval=HALF_PLACES)
        return jnp.concatenate([data, square])

    def loss(self) -> AbstractObjective:
        """Residual and initial condition, both as errors of `sqrt(1 + sigma²) s`, the score at the scale of a mode."""
        residual = sfp.ScoreFPE(sfp.Ito(sfp.Exact()), weighting=mode_weighting)
        if self.noise is None:
            return residual + (1 + 1 / self.sigma**2) * sfp.CauchyInitial()
        return residual + 1.0 * sfp.CauchyInitial(functools.partial(measured_score, self.sde, self.noise))


PROBLEMS = {
    "the score, everywhere": Problem(0.01, 0.0, everywhere=True),
    "a noisy score, everywhere": Problem(0.01, 1.0, everywhere=True),
    "the score, at the data": Problem(0.01, 0.0, everywhere=False),
    "data with noise 0.3": Problem(0.3, None, everywhere=False),
    "data with noise 3": Problem(3.0, None, everywhere=False),
}
TRUTH = "exact score"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a cell depends on beside its name."""

    steps: int = 6000
    width: int = 64
    depth: int = 3
    batch_size: int = 128
    rate: float = 3e-3
    samples: int = 1000
    times: int = 21


@dataclasses.dataclass(frozen=True)
class Cell(_cells.Named):
    """One problem with one seed."""

    problem: str
    seed: int


def main(arguments: list[str] | None = None) -> None:
    parser = _cells.parser(__doc__, out="docs/assets/cauchy", seeds=(0, 1, 2))
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--steps", type=int, default=Settings.steps, help="training steps")
    options = parser.parse_args(arguments)
    of = [Cell(problem, seed) for seed in options.seeds for problem in options.problems]
    found = _cells.cells(options.out, of, Settings(steps=options.steps), run)
    text = table(found)
    _cells.write(options.out / "cauchy.md", text)
    _cells.save_figure(figure(found), options.out / "cauchy.png")
    print(text)


# ------------------------------------------------------------------------------------------------ one cell
def mode_weighting(sde: Any, t: Any) -> jax.Array:
    r"""The weight of the squared residual, $v^2/(2 g^2)$ with $v = 1 + \sigma^2$ the variance of a mode.

    With $d\tau = (g^2/v)\,dt$, the logarithm of $v$, the penalty is $\tfrac12\int\|\sqrt v\,(v/g^2)\,
    \varepsilon\|^2\,d\tau$. It is the default weight with $\sigma^2$ replaced by $v$: a mode changes over a time of
    $\tau$, and near $t_0$ not over one of the log-SNR.
    """
    return (1 + sde.sigma(t) ** 2) ** 2 / (2 * sde.g2(t))


def measured_score(sde: sfp.VE, noise: float, x: jax.Array) -> jax.Array:
    """The score at t0 as it is known: exact, plus normal noise that is one at each point."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    key = jr.fold_in(jr.fold_in(jr.key(7), bits[0]), bits[1])
    return MIXTURE.score(sde)(sde.t0, x) + noise * jr.normal(key, x.shape)


class Field(eqx.Module):
    r"""A score at the scale of a mode, $(-y + F(\tfrac14\log v, y))/\sqrt v$ with $y = x/\sqrt v$.

    A network for noise has $1/\sigma$ in front, which at t0 is a hundred times the score.
    """

    network: sfp.nn.MLP
    sde: sfp.VE

    def __call__(self, t: jax.Array, x: jax.Array) -> jax.Array:
        v = 1 + self.sde.sigma(t) ** 2
        y = x / jnp.sqrt(v)
        return (self.network(0.25 * jnp.log(v), y) - y) / jnp.sqrt(v)


def run(cell: Cell, settings: Settings) -> dict[str, Any]:
    """Solves a problem, and measures the solution beside the exact score."""
    problem = PROBLEMS[cell.problem]
    network_key, fit_key, measure_key = jr.split(jr.key(cell.seed), 3)
    network = sfp.nn.MLP((2,), width=settings.width, depth=settings.depth, key=network_key)
    begin = time.process_time()
    fitted = train.fit(
        sfp.Score(Field(network, problem.sde), problem.sde, shape=(2,)),
        problem.loss(),
        problem.places(),
        optimizer=_cells.adam(settings.rate, settings.steps),
        steps=settings.steps,
        key=fit_key,
        batch_size=settings.batch_size,
        time=sfp.UniformTime(),
        progress=False,
    )
    seconds = time.process_time() - begin
    last = {name: float(values[-500:].mean()) for name, values in fitted.history.items()}
    result: dict[str, Any] = {
        "loss": last,
        "seconds": seconds,
        "model": measured(fitted.model, problem, settings, measure_key),
    }
    if cell.seed == 0:
        result[TRUTH] = measured(MIXTURE.score(problem.sde), problem, settings, measure_key)
    else:
        del result["model"]["samples"], result["model"]["density"]
    return _cells.rounded(result, 4)


def measured(model: sfp.score.AbstractScore, problem: Problem, settings: Settings, key: jax.Array) -> dict[str, Any]:
    """Error of the score over time; samples, density and divergence at t0."""
    sde, exact = problem.sde, MIXTURE.score(problem.sde)
    data_key, noise_key, sample_key = jr.split(key, 3)
    x0 = MIXTURE.sample(data_key, 2 * settings.samples)
    noise = jr.normal(noise_key, x0.shape)
    times = jnp.linspace(sde.t0, sde.t1, settings.times)

    @jax.jit
    def error(t: jax.Array) -> jax.Array:
        x = x0 + sde.sigma(t) * noise
        square = jax.vmap(lambda x: jnp.sum((model(t, x) - exact(t, x)) ** 2))(x)
        return jnp.sqrt((1 + sde.sigma(t) ** 2) * jnp.mean(square))

    law = np.asarray(x0 + sde.sigma(times[0]) * noise).reshape(2, settings.samples, 2)
    x = np.asarray(sfp.sample(model, settings.samples, key=sample_key, method=sfp.ProbabilityFlow(), shape=(2,)))
    points = grid()
    log_p = np.asarray(jax.vmap(lambda x: exact.potential(times[0], x))(points))
    log_q = np.asarray(sfp.flow_likelihood(model, points, common_steps=True).log_prob)
    # Both are normalised on the square.
    p, q = (np.exp(log - np.max(log)) for log in (log_p, log_q))
    p, q = p / p.sum(), q / q.sum()
    return {
        "times": np.asarray(times).tolist(),
        "error": [float(error(t)) for t in times],
        "mass": right(x),
        "mass of the density": right(np.asarray(points), q),
        "w2": float(sfp.wasserstein2(x, law[0]).value),
        "w2 of the law": float(sfp.wasserstein2(law[1], law[0]).value),
        "mass of the law": right(law[0]),
        "kl": float(p @ (log_p - log_q)),
        "samples": x[:500].tolist(),
        "density": np.exp(log_q).tolist(),
    }


def right(x: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The share of the upper right half, where the mode of mass 0.8 is; a point on the border is half in it."""
    return float(np.average(np.heaviside(np.sum(x, axis=1), 0.5), weights=weights))


def grid() -> jax.Array:
    """The points at which densities are compared."""
    side = jnp.linspace(-HALF_SIDE, HALF_SIDE, POINTS)
    return jnp.stack(jnp.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)


# ------------------------------------------------------------------------------------------------ what is read
COLUMNS = {
    "right mode, % of the samples": lambda model: f"{100 * model['mass']:.0f}",
    "of the density": lambda model: f"{100 * model['mass of the density']:.0f}",
    "W₂² to the law": lambda model: f"{model['w2']:.2g}",
    "KL, nats": lambda model: f"{model['kl']:.2g}",
    "least error of the score": lambda model: f"{min(model['error']):.1g}",
    "largest": lambda model: f"{max(model['error']):.1g}",
}


def table(found: dict[Cell, dict[str, Any]]) -> str:
    """A row for each problem, the seeds side by side, and for the exact score from the same t0."""
    body: list[list[str]] = []
    for problem in dict.fromkeys(cell.problem for cell in found):
        runs = [result for cell, result in found.items() if cell.problem == problem]
        losses = ", ".join(f"{result['loss']['ScoreFPE']:.1g}" for result in runs)
        for name, label, loss in (("model", "the problem", losses), (TRUTH, TRUTH, "")):
            measures = [result[name] for result in runs if name in result]
            body.append([problem, label, loss, *(", ".join(map(column, measures)) for column in COLUMNS.values())])
    return _cells.markdown(["known at t0", "score from", "loss at the end", *COLUMNS], body)


def figure(found: dict[Cell, dict[str, Any]]) -> Figure:
    """Samples and density of seed 0 for each problem, and the error of the score over time for all seeds."""
    shown = {cell.problem: result["model"] for cell, result in found.items() if "density" in result["model"]}
    view = Figure(figsize=(2.9 * len(shown), 8.6), layout="constrained")
    halves: Any = view.subfigures(2, 1, height_ratios=(2.1, 1))
    top, bottom = halves
    panels = top.subplots(2, len(shown), squeeze=False)
    extent = (-HALF_SIDE, HALF_SIDE, -HALF_SIDE, HALF_SIDE)
    for column, (name, model) in zip(panels.T, shown.items(), strict=True):
        x = np.array(model["samples"])
        column[0].plot(x[:, 0], x[:, 1], ".", ms=2, color="C0")
        column[0].set(xlim=extent[:2], ylim=extent[2:], aspect="equal")
        column[0].set_title(name, fontsize=10)
        column[1].imshow(np.array(model["density"]).reshape(POINTS, POINTS).T, origin="lower", extent=extent)
    panels[0, 0].set_ylabel("samples")
    panels[1, 0].set_ylabel("density")
    axes = bottom.subplots()
    for cell, result in found.items():
        sigma = np.asarray(process(0.01).sigma(jnp.asarray(result["model"]["times"])))
        color = f"C{list(PROBLEMS).index(cell.problem)}"
        axes.plot(sigma, result["model"]["error"], color=color, lw=1.2, label=None if cell.seed else cell.problem)
    axes.set(xscale="log", yscale="log", xlabel="σ(t)", title="error of √(1 + σ²) s, root mean square")
    axes.grid(alpha=0.3)
    bottom.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return view


if __name__ == "__main__":
    main()
