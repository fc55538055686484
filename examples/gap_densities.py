"""The four densities of a score-based model on a line, and the formulas of the page on the ODE–SDE gap.

Deveney 2023, §2: the data's density, that of the reverse SDE's samples, that of the ODE's samples, and the model's own,
`exp(phi) / Z`, from which Langevin dynamics sample. Those of the samples are solved for on a grid. Prints both sides of
each formula for errors of six sizes, and writes the figure, `gap.md` and `gap.json`.

    python examples/gap_densities.py --out docs/assets/gap
"""

from dataclasses import dataclass
from typing import Any

import _cells
import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import scorefp as sfp
from scorefp.integrals import time_quadrature

SDE = sfp.OU(t0=0.01, t1=8.0)
NODES, CELLS = 48, 600
SIZES = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
SHOWN = 0.4


def potential(t: Any, x: jax.Array, size: float) -> jax.Array:
    """The diffused data, of two modes, plus an error that is largest near the data."""
    alpha, sigma2 = SDE.alpha(t), SDE.sigma(t) ** 2
    log_normal = lambda mean, var: -0.5 * ((x - alpha * mean) ** 2 / var + jnp.log(2 * jnp.pi * var))
    modes = [jnp.log(w) + log_normal(m, v * alpha**2 + sigma2) for w, m, v in ((0.4, -1.0, 0.08), (0.6, 0.9, 0.15))]
    error = jnp.exp(-t) * jnp.sin(2 * x + 1) + 2.5 * jnp.exp(-10 * t - 6 * x**2)
    return jnp.logaddexp(*modes) + size * error


def model(size: float) -> sfp.Potential:
    return sfp.Potential(lambda t, x: potential(t, x, size), SDE)


@dataclass(frozen=True)
class Laws:
    """All four densities at the nodes of a quadrature and both ends, in descending order of time, and the residual."""

    score: sfp.Potential
    sde: sfp.fokker_planck.GridDensity
    ode: sfp.fokker_planck.GridDensity
    data: np.ndarray
    own: np.ndarray
    slope: np.ndarray
    source: np.ndarray
    """The residual without its mean, `r - E_own[r]`."""
    weights: np.ndarray

    def mean(self, p: np.ndarray, values: Any) -> np.ndarray:
        return self.sde.cell_volume * np.sum(p * values, axis=1)

    def integral(self, values: np.ndarray) -> float:
        return float(self.weights @ values[1:-1])


def solved(size: float) -> Laws:
    score, box = model(size), sfp.Box(jnp.array(-5.0), jnp.array(5.0))
    nodes, weights = time_quadrature(SDE, jnp.array(SDE.t1), jnp.array(SDE.t0), NODES)
    times = np.array([SDE.t0, *nodes, SDE.t1])
    by_sde, by_ode = (
        sfp.fokker_planck.solve_density(score, box, process=process, cells=CELLS, times=times)
        for process in ("sde", "ode")
    )

    def at(t: jax.Array, x: jax.Array) -> tuple[jax.Array, ...]:
        return potential(t, x, 0.0), score.potential(t, x), score(t, x), sfp.log_fpe_residual(score, t, x)

    every = jax.jit(jax.vmap(jax.vmap(at, (None, 0)), (0, None)))
    log_data, phi, slope, residual = (np.asarray(a) for a in every(jnp.asarray(by_sde.times), by_sde.centres))
    own = np.exp(phi) / (by_sde.cell_volume * np.exp(phi).sum(axis=1, keepdims=True))
    source = residual - by_sde.cell_volume * np.sum(own * residual, axis=1, keepdims=True)
    return Laws(score, by_sde, by_ode, np.exp(log_data), own, slope, source, -np.asarray(weights))


# ------------------------------------------------------------------------------------------ along paths
def along_the_ode(score: sfp.Potential, x: jax.Array) -> jax.Array:
    """The density of the ODE's samples from the residual along the path that starts at `x`."""

    def rates(t: Any, state: Any, _: Any) -> Any:
        y, _ = state
        return score.probability_flow(t, y), sfp.log_fpe_residual(score, t, y)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(rates),
        diffrax.Dopri8(),
        SDE.t0,
        SDE.t1,
        1e-3,
        (x, jnp.zeros_like(x)),
        stepsize_controller=diffrax.PIDController(rtol=1e-8, atol=1e-8),
    )
    assert solution.ys is not None
    end, total = (y[0] for y in solution.ys)
    return jnp.exp(score.potential(SDE.t0, x) + total + SDE.prior.log_prob(end) - score.potential(SDE.t1, end))


def along_forward_paths(score: sfp.Potential, x: jax.Array, key: jax.Array, draws: int, steps: int) -> jax.Array:
    """Unbiased estimates of the density of the SDE's samples at `x`, but for the steps of the integral."""
    times = sfp.sampling.log_snr_grid(SDE, steps)[::-1].astype(x.dtype)

    def step(state: Any, now: Any) -> tuple[Any, None]:
        y, rate, total = state
        s, t, noise = now
        scale, std = SDE.transition(s, t)
        y = scale * y + std * noise
        new = sfp.log_fpe_residual(score, t, y)
        return (y, new, total + 0.5 * (t - s) * (rate + new)), None

    def one(key: jax.Array) -> jax.Array:
        start = (x, sfp.log_fpe_residual(score, times[0], x), jnp.zeros_like(x))
        noises = jr.normal(key, (steps,), x.dtype)
        (end, _, total), _ = jax.lax.scan(step, start, (times[:-1], times[1:], noises))
        return jnp.exp(score.potential(SDE.t0, x) + total + SDE.prior.log_prob(end) - score.potential(SDE.t1, end))

    return jax.vmap(one)(jr.split(key, draws))


# ------------------------------------------------------------------------------------------ distances
def wasserstein2(laws: Laws) -> np.ndarray:
    """W₂ between the samples of the two, at each time, from the quantiles of the grid."""
    box, levels = laws.sde.box, (np.arange(20_000) + 0.5) / 20_000
    edges = np.linspace(float(box.lower), float(box.upper), CELLS + 1)

    def quantiles(p: np.ndarray) -> np.ndarray:
        below = np.concatenate([[0.0], np.cumsum(np.maximum(p, 0.0))])
        return np.interp(levels, below / below[-1], edges)

    pairs = zip(laws.sde.values, laws.ode.values, strict=True)
    return np.array([np.sqrt(np.mean((quantiles(p) - quantiles(q)) ** 2)) for p, q in pairs])


def kl(laws: Laws, p: np.ndarray) -> np.ndarray:
    p = np.maximum(p, 0.0)
    return laws.mean(p, np.log(np.maximum(p, 1e-300)) - np.log(laws.own))


def measured(laws: Laws) -> dict[str, float]:
    """Both sides of every formula, at `t0`."""
    times, h = laws.sde.times, laws.sde.cell_volume
    g2 = np.asarray(SDE.g2(times))
    error = laws.slope - np.gradient(np.log(np.maximum(laws.sde.values, 1e-300)), h, axis=1)
    fisher = laws.mean(laws.sde.values, error**2)
    # How fast the ODE, going back, can pull two paths apart: the largest -du/dx in the box.
    bend = np.gradient(laws.slope, h, axis=1).max(axis=1)
    spread = 0.5 * g2 * bend - np.asarray(SDE.rate(times))
    growth = np.exp(integral_from_the_end(times, spread))
    by_sde, by_ode = laws.sde.values, laws.ode.values
    kl_sde, kl_ode = kl(laws, by_sde), kl(laws, by_ode)
    lost = 0.5 * laws.integral(g2 * fisher)
    made = kl_sde[0] + laws.integral(laws.mean(by_sde, laws.source))
    variation = lambda p, q: 0.5 * laws.mean(np.abs(p - q), 1.0)
    absolute = laws.integral(laws.mean(laws.own, np.abs(laws.source)))
    return {
        "SDE: KL from own, plus what is lost": kl_sde[-1] + lost,
        "SDE: KL of the ends, plus residual": made,
        "ODE: KL from own": kl_ode[-1],
        "ODE: KL of the ends, plus residual": kl_ode[0] + laws.integral(laws.mean(by_ode, laws.source)),
        "total variation, ODE and SDE": variation(by_ode, by_sde)[-1],
        "bound (5)": 2 * variation(laws.own, by_sde)[0] + absolute,
        "W2, ODE and SDE": wasserstein2(laws)[-1],
        "bound (6)": 0.5 * laws.integral(g2 * growth * np.sqrt(fisher)),
        "root of bound (7)": np.sqrt(0.5 * laws.integral(g2 * growth**2) * (made - kl_sde[-1])),
        "the same with growth one": np.sqrt(0.5 * laws.integral(g2) * (made - kl_sde[-1])),
        "largest growth": growth.max(),
        "mean squared residual": laws.integral(np.mean(laws.source**2, axis=1)) / (SDE.t1 - SDE.t0),
        "integral of the largest residual": laws.integral(np.abs(laws.source).max(axis=1)),
    }


def integral_from_the_end(times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The integral from the last time, which is the least, to each."""
    steps = 0.5 * (values[1:] + values[:-1]) * (times[:-1] - times[1:])
    return np.concatenate([np.cumsum(steps[::-1])[::-1], [0.0]])


# ------------------------------------------------------------------------------------------ the figure
def draw(laws: Laws, results: dict[float, dict[str, float]]) -> tuple[Figure, list[str]]:
    view = Figure(figsize=(14.5, 4.0), layout="constrained")
    panels = view.subplots(1, 3)
    densities(panels[0], laws)
    lines = ratios(panels[1], laws)
    rates(panels[2], results)
    for axes in panels:
        axes.grid(alpha=0.3)
    return view, lines


def densities(axes: Axes, laws: Laws) -> None:
    x = np.asarray(laws.sde.centres)
    axes.fill_between(x, laws.data[-1], color="0.85", label="$p$, data")
    axes.plot(x, laws.sde.values[-1], "C0", label=r"$p_\mathrm{SDE}$")
    axes.plot(x, laws.ode.values[-1], "C1", label=r"$p_\mathrm{ODE}$")
    axes.plot(x, laws.own[-1], "C2--", label=r"$p_\theta = e^\varphi/Z$")
    axes.set(xlim=(-2.6, 2.6), xlabel="x", title="four densities of one model")
    axes.legend(fontsize=9)


def ratios(axes: Axes, laws: Laws) -> list[str]:
    x = np.asarray(laws.sde.centres)
    shift = np.log(laws.own[-1])
    inside = laws.own[-1] > 2e-3
    points = jnp.linspace(-1.7, 1.7, 12)
    draws = jax.jit(jax.vmap(lambda x, key: along_forward_paths(laws.score, x, key, 4000, 500)))(
        points, jr.split(jr.key(0), points.size)
    )
    by_paths = {
        "SDE": (np.asarray(draws.mean(axis=1)), np.asarray(draws.std(axis=1, ddof=1)) / np.sqrt(draws.shape[1])),
        "ODE": (np.asarray(jax.jit(jax.vmap(lambda x: along_the_ode(laws.score, x)))(points)), np.zeros(points.size)),
    }
    lines: list[str] = []
    for color, (name, law) in zip(("C0", "C1"), {"SDE": laws.sde, "ODE": laws.ode}.items(), strict=True):
        values, errors = by_paths[name]
        level = np.interp(points, x, shift)
        axes.plot(x[inside], (np.log(np.maximum(law.values[-1], 1e-300)) - shift)[inside], color, label=f"{name}, grid")
        axes.errorbar(points, np.log(values) - level, 2 * errors / values, fmt="o", ms=4, capsize=2, color=color,
                      label=f"{name}, residual along paths")  # fmt: skip
        off = values - np.interp(points, x, law.values[-1])
        worst = np.abs(off).max()
        in_errors = f", at most {np.abs(off / errors).max():.1f} standard errors" if errors.any() else ""
        lines.append(f"density of the {name} along paths and on the grid: off by {worst:.2g} at most{in_errors}")
    axes.axhline(0, color="black", lw=0.8)
    axes.set(xlim=(-2.6, 2.6), xlabel="x", title=r"$\log p_\mathrm{SDE}/p_\theta$ and $\log p_\mathrm{ODE}/p_\theta$")
    axes.legend(fontsize=8)
    return lines


def rates(axes: Axes, results: dict[float, dict[str, float]]) -> None:
    of = lambda key: np.array([row[key] for row in results.values()])
    residual = of("mean squared residual")
    axes.loglog(
        residual, of("W2, ODE and SDE") ** 2, "o-", color="C3", label=r"$W_2^2(p_\mathrm{ODE}, p_\mathrm{SDE})$"
    )
    axes.loglog(residual, of("bound (6)") ** 2, "s--", ms=4, color="C4", label="bound (6), squared")
    axes.loglog(residual, of("root of bound (7)") ** 2, "^--", ms=4, color="C5", label="bound (7)")
    start = of("W2, ODE and SDE")[0] ** 2 / residual[0]
    axes.loglog(residual, start * residual, ":", color="black", label="slope one")
    axes.set(xlabel=r"mean squared residual on $\Omega$", title="six sizes of the error")
    axes.legend(fontsize=8)


def main() -> None:
    options = _cells.parser(__doc__, out="docs/assets/gap").parse_args()
    with jax.enable_x64(True):
        every = {size: solved(size) for size in SIZES}
        results = {size: measured(laws) for size, laws in every.items()}
        view, lines = draw(every[SHOWN], results)
    headings = ["size of the error", *(f"{size:g}" for size in SIZES)]
    body = [[name, *(f"{results[size][name]:.4g}" for size in SIZES)] for name in results[1.0]]
    _cells.show(headings, body)
    print("\n".join(lines))
    _cells.write(options.out / "gap.md", _cells.markdown(headings, body))
    saved = {"sizes": {f"{size:g}": row for size, row in results.items()}, "paths": lines}
    _cells.write_json(options.out / "gap.json", saved, indent=1)
    _cells.save_figure(view, options.out / "densities.png")


if __name__ == "__main__":
    main()
