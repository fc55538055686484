"""A measurement as a tilt, weighted to the exact posterior: in the plane, and calibrated in 2, 4 and 8 dimensions.

The prior is a Gaussian mixture, y = A x₀ + noise is measured, and the posterior is a mixture again. The reward is what
is used where the posterior is not known (Chung 2023): the log-likelihood of the measurement under the denoiser, with
the uncertainty of the denoiser added to the noise,

    h(t, x) = −‖A denoise(t, x) − y‖² / (2 (τ² + σ_d² σ² / (α² σ_d² + σ²))).

*Plane*: the masses of the modes, without weights and with them, beside the exact ones. *Calibration* (Talts 2018): x₀
is drawn from the prior and y from x₀; under a right posterior the share of samples at which a function is below its
value at x₀ is uniform over repetitions, which a Kolmogorov–Smirnov test asks. Functions are the first coordinate and
the log-density of the prior. Prints two tables and writes them with the figure:

    python examples/posterior.py --out docs/assets/posterior

Each part in one dimension is a cell; what is there is not made again. No seed is tuned.
"""

import dataclasses
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
from scipy import stats

import scorefp as sfp
from scorefp.sampling import WeightedSamples, weighted_samples

# ------------------------------------------------------------------------------------------------ settings
SDE = sfp.VP(t0=1e-3)
NOISE = 0.3
SIZES = (2, 8)
REWARDS = ("with uncertainty", "without")
WAYS = ("unweighted", "weighted", "exact")
FUNCTIONS = ("first coordinate", "log-density")
COLOURS = {"unweighted": "#D55E00", "weighted": "#0072B2", "exact": "#009E73"}


@dataclasses.dataclass(frozen=True)
class Settings:
    steps: int = 200
    particles: int = 128
    repetitions: int = 400
    plane_particles: int = 1024
    plane_runs: int = 8


@dataclasses.dataclass(frozen=True)
class Cell(_cells.Named):
    """A part of the example in so many dimensions, with a reward."""

    part: str
    size: str
    reward: str
    seed: int = 0


def main(arguments: list[str] | None = None) -> None:
    parser = _cells.parser(__doc__, out="docs/assets/posterior")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="steps of the sampler")
    parser.add_argument("--repetitions", type=int, default=Settings.repetitions, help="repetitions of the calibration")
    options = parser.parse_args(arguments)
    settings = Settings(steps=options.steps, repetitions=options.repetitions)
    names = [Cell("plane", "D2", reward) for reward in REWARDS]
    names += [Cell("calibration", f"D{size}", reward) for size in SIZES for reward in REWARDS]
    make = {"plane": in_the_plane, "calibration": calibrated}
    found = _cells.cells(options.out, names, settings, lambda name, s: make[name.part](name, int(name.size[1:]), s))
    report({(n.part, int(n.size[1:]), n.reward): cell for n, cell in found.items()}, settings, options.out)


# ------------------------------------------------------------------------------------------------ laws
def prior(size: int) -> sfp.GaussianMixture:
    """Three modes at random places, of unlike widths."""
    means = 1.2 * jr.normal(jr.key(size), (3, size))
    return sfp.GaussianMixture(means, jnp.array([0.1, 0.2, 0.4]), jnp.array([0.5, 0.3, 0.2]))


def operator(size: int) -> jax.Array:
    """Sums of neighbours: half as many numbers as there are coordinates."""
    return jnp.repeat(jnp.eye(size // 2), 2, axis=1) / jnp.sqrt(2.0)


def measured(size: int, x: jax.Array, key: jax.Array) -> jax.Array:
    clean = operator(size) @ x
    return clean + NOISE * jr.normal(key, clean.shape)


def posterior(law: sfp.GaussianMixture, a: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Means, covariances and weights of the mixture given a measurement."""
    covariances = jnp.einsum("kij,kj,klj->kil", law.axes, law.variances, law.axes)

    def of(mean: jax.Array, covariance: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        spread = a @ covariance @ a.T + NOISE**2 * jnp.eye(len(a))
        gain = jnp.linalg.solve(spread, a @ covariance).T
        evidence = jax.scipy.stats.multivariate_normal.logpdf(y, a @ mean, spread)
        return mean + gain @ (y - a @ mean), covariance - gain @ a @ covariance, jnp.asarray(evidence)

    means, covariances, evidence = jax.vmap(of)(law.means, covariances)
    return means, covariances, jax.nn.softmax(jnp.log(law.weights) + evidence)


def exact_samples(law: sfp.GaussianMixture, a: jax.Array, y: jax.Array, key: jax.Array, n: int) -> jax.Array:
    means, covariances, weights = posterior(law, a, y)
    which_key, noise_key = jr.split(key)
    which = jr.categorical(which_key, jnp.log(weights), shape=(n,))
    roots = jnp.linalg.cholesky(covariances)
    return means[which] + jnp.einsum("nij,nj->ni", roots[which], jr.normal(noise_key, (n, means.shape[1])))


class Measurement(eqx.Module):
    """The log-likelihood of a measurement, which is the conditioning, under the denoiser."""

    score: sfp.score.AbstractScore
    operator: jax.Array
    data_std: jax.Array  # zero leaves the uncertainty of the denoiser out

    def __call__(self, t: jax.Array, x: jax.Array, *, args: jax.Array) -> jax.Array:
        alpha, sigma = SDE.alpha(t), SDE.sigma(t)
        variance = (self.data_std * sigma) ** 2 / ((alpha * self.data_std) ** 2 + sigma**2)
        return -0.5 * jnp.sum((self.operator @ self.score.denoise(t, x) - args) ** 2) / (NOISE**2 + variance)


def tilted(law: sfp.GaussianMixture, reward: str) -> sfp.Tilted:
    """The score of the prior with the reward; the score takes no conditioning."""
    exact, size = law.score(SDE), law.means.shape[1]
    std = jnp.sqrt(jnp.mean(law.sample(jr.key(0), 4096) ** 2)) * (reward == REWARDS[0])
    unconditional = sfp.Score(lambda t, x, args: exact(t, x), SDE, shape=(size,))
    return sfp.Tilted(unconditional, Measurement(exact, operator(size), std))


def drawn(name: Cell, y: jax.Array, settings: Settings, particles: int, threshold: float) -> WeightedSamples:
    """A run of particles for each measurement."""
    method = sfp.FeynmanKac(settings.steps, threshold=threshold, particles=particles)
    with warnings.catch_warnings():
        # Some measurements are harder than others; what it costs is what the ranks show.
        warnings.filterwarnings("ignore", "the effective sample size collapsed")
        score = tilted(prior(int(name.size[1:])), name.reward)
        return weighted_samples(score, len(y), key=jr.key(3), method=method, args=y, batch_size=40 * particles)


# ------------------------------------------------------------------------------------------------ the plane
def shares(law: sfp.GaussianMixture, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The mass of the points nearest to each mode."""
    which = np.argmin(((x[..., None, :] - np.asarray(law.means)) ** 2).sum(axis=-1), axis=-1)
    return np.stack([(w * (which == k)).sum(axis=-1) for k in range(len(law.means))], axis=-1)


def in_the_plane(name: Cell, size: int, settings: Settings) -> dict[str, Any]:
    """One measurement: samples and the masses of the modes, over runs."""
    law, a = prior(size), operator(size)
    y = jnp.zeros(1)
    ys = jnp.tile(y, (settings.plane_runs, 1))
    found = {
        "unweighted": drawn(name, ys, settings, settings.plane_particles, 0.0),
        "weighted": drawn(name, ys, settings, settings.plane_particles, 0.5),
    }
    exact = np.asarray(exact_samples(law, a, y, jr.key(5), 400_000))
    result: dict[str, Any] = {"y": y.tolist()}
    for way, runs in found.items():
        x, w = np.asarray(runs.samples), np.exp(np.asarray(runs.log_weights, np.float64))
        w = np.ones_like(w) if way == "unweighted" else w
        w /= w.sum(axis=1, keepdims=True)
        masses = shares(law, x, w)
        rng = np.random.default_rng(0)
        picked = [x[i % len(x), rng.choice(w.shape[1], p=w[i % len(x)])].tolist() for i in range(500)]
        result[way] = {
            "masses": masses.mean(axis=0).tolist(),
            "errors": (masses.std(axis=0, ddof=1) / np.sqrt(len(masses))).tolist(),
            "least": float(np.asarray(runs.ess).min() / settings.plane_particles),
            "samples": picked,
        }
    result["exact"] = {"masses": shares(law, exact, np.full(len(exact), 1 / len(exact))).tolist()}
    return _cells.rounded(result, 4)


# ------------------------------------------------------------------------------------------------ calibration
def calibrated(name: Cell, size: int, settings: Settings) -> dict[str, Any]:
    """The rank of the truth among the samples, of each repetition, each way and each function."""
    law, a, n = prior(size), operator(size), settings.repetitions
    x0 = law.sample(jr.key(1), n)
    y = jax.vmap(lambda x, key: measured(size, x, key))(x0, jr.split(jr.key(2), n))
    found = {
        "unweighted": drawn(name, y, settings, settings.particles, 0.0),
        "weighted": drawn(name, y, settings, settings.particles, 0.5),
    }
    of_exact = jax.vmap(lambda y, key: exact_samples(law, a, y, key, settings.particles))
    of = {FUNCTIONS[0]: lambda x: x[..., 0], FUNCTIONS[1]: jax.jit(jnp.vectorize(law.log_prob, signature="(d)->()"))}
    ranks: dict[str, dict[str, np.ndarray]] = {function: {} for function in FUNCTIONS}
    for way in WAYS:
        x = of_exact(y, jr.split(jr.key(4), n)) if way == "exact" else found[way].samples
        w = np.exp(np.asarray(found["weighted"].log_weights, np.float64)) if way == "weighted" else np.ones(x.shape[:2])
        for function, value in of.items():
            below = (np.asarray(value(x)) < np.asarray(value(x0))[:, None]) * w
            ranks[function][way] = below.sum(axis=1) / w.sum(axis=1)
    least = {way: float(np.median(np.asarray(runs.ess).min(axis=1))) for way, runs in found.items()}
    end = float(np.median(np.asarray(found["unweighted"].ess)[:, -1])) / settings.particles
    return _cells.rounded(
        {
            "ranks": {key: {way: rank.tolist() for way, rank in of_way.items()} for key, of_way in ranks.items()},
            "test": {
                key: {way: list(stats.kstest(rank, "uniform"))[:2] for way, rank in of_way.items()}
                for key, of_way in ranks.items()
            },
            "least": {way: value / settings.particles for way, value in least.items()},
            "carried": end,
        },
        4,
    )


# ------------------------------------------------------------------------------------------------ tables and figure
def report(found: dict[tuple[str, int, str], dict[str, Any]], settings: Settings, out: Path) -> None:
    heading = ["reward", "samples", *(f"mode {k + 1}" for k in range(3)), "least effective share"]
    plane = {reward: found["plane", 2, reward] for reward in REWARDS}
    body = [
        [
            *(reward, way),
            *(f"{m:.3f} ± {e:.3f}" for m, e in zip(cell[way]["masses"], cell[way]["errors"], strict=True)),
            f"{100 * cell[way]['least']:.0f} %" if way == "weighted" else "",
        ]
        for reward, cell in plane.items()
        for way in WAYS[:2]
    ]
    body.append(["", "exact", *(f"{m:.3f}" for m in plane[REWARDS[0]]["exact"]["masses"]), ""])
    _cells.show(heading, body, left=2, title="Masses of the modes given the measurement")
    _cells.write(out / "plane.md", _cells.markdown(heading, body, left=2))
    heading = ["D", "reward", "effective share", "function", *(f"p, {way}" for way in WAYS)]
    body = [
        [
            *(f"{size}", reward, f"{100 * cell['carried']:.0f} %", function),
            *(f"{cell['test'][function][way][1]:.2g}" for way in WAYS),
        ]
        for size in SIZES
        for reward in REWARDS
        for cell in (found["calibration", size, reward],)
        for function in FUNCTIONS
    ]
    _cells.show(heading, body, left=4, title=f"Calibration: {settings.repetitions} repetitions")
    _cells.write(out / "posterior.md", _cells.markdown(heading, body, left=4))
    _cells.save_figure(figure(found), out / "posterior.png")


def figure(found: dict[tuple[str, int, str], dict[str, Any]]) -> Figure:
    """The plane with contours of the exact posterior, and the ranks of the calibration."""
    view = Figure(figsize=(10.5, 6.4), layout="constrained")
    above, below = view.subplots(2, 3)
    plane, law = found["plane", 2, REWARDS[0]], prior(2)
    side = np.linspace(-3.2, 3.2, 161)
    grid = np.stack(np.meshgrid(side, side), axis=-1)
    means, covariances, weights = (
        np.asarray(part) for part in posterior(law, operator(2), jnp.asarray(plane["y"], jnp.float32))
    )
    parts = [w * stats.multivariate_normal(m, c).pdf(grid) for m, c, w in zip(means, covariances, weights, strict=True)]
    density = np.sum(parts, axis=0)
    before = np.exp(np.asarray(jax.vmap(law.log_prob)(jnp.asarray(grid.reshape(-1, 2), jnp.float32)))).reshape(161, 161)
    levels = np.array([0.01, 0.1, 0.5])
    above[0].contour(side, side, before, before.max() * levels, colors="black", linewidths=1.0)
    above[0].set_title("prior")
    for axes, way in zip(above[1:], WAYS[:2], strict=True):
        axes.scatter(*np.transpose(plane[way]["samples"]), s=4, color=COLOURS[way], alpha=0.7, lw=0)
        axes.contour(side, side, density, density.max() * levels, colors="black", linewidths=1.0)
        axes.set_title(f"posterior, {way} samples")
    for axes in above:
        axes.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), aspect="equal")
    shown = [(SIZES[0], REWARDS[0]), (SIZES[-1], REWARDS[0]), (SIZES[-1], REWARDS[1])]
    for axes, (size, reward) in zip(below, shown, strict=True):
        ranks = found["calibration", size, reward]["ranks"][FUNCTIONS[1]]
        for way in WAYS:
            ordered = np.sort(ranks[way])
            off = np.arange(1, len(ordered) + 1) / len(ordered) - ordered
            axes.plot(ordered, off, color=COLOURS[way], label=way)
        band = stats.kstwo.ppf(0.95, len(ranks["exact"]))
        axes.axhspan(-band, band, color="black", alpha=0.12, lw=0)
        axes.set(title=f"ranks, D = {size}, {reward}", xlabel="rank", xlim=(0, 1), ylim=(-0.2, 0.2))
    below[0].set_ylabel("distribution − uniform")
    below[0].legend()
    return view


if __name__ == "__main__":
    main()
