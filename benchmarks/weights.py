"""Time of weighted samples over that of unweighted ones with the same steps.

    python benchmarks/weights.py --rounds 5 --out docs/assets

One run of `FeynmanKac` beside `EulerMaruyama`, both with the same score, grid and number of samples, on VP in float32:
the library's `MLP` of width 128 in 2 and 64 dimensions with 4,096 particles and 40 steps, and a small `UNet` on images
of 16 x 16 pixels with 64 particles and 8 steps. Compositions have the rate [W2] or [W3], a potential around the network
(`InnerPotential`) has its residual [F3] by each method; `Exact()` where a sample has few elements. What the network
costs is in the time of a particle, which beside the smallest ones goes into draws of noise. The median ratio of the
times in a round, in brackets deciles 1 and 9. Both take turns in a round, so that a machine that slows down slows both
of them. Five minutes on one core, and with three rounds, the default, less than that; half of it is compiling.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from _timing import Row, arguments, in_turns, machine, milliseconds, report, spread, table, timed
from jaxtyping import Array

import scorefp as sfp
from scorefp.sampling import weighted_samples

SDE = sfp.VP(t0=1e-3)
SETTINGS: dict[str, tuple[tuple[int, ...], int, int]] = {
    "MLP, D = 2": ((2,), 4096, 40),
    "MLP, D = 64": ((64,), 4096, 40),
    "U-Net, D = 256": ((1, 16, 16), 64, 8),
}
"""By network: the shape of a sample, the particles and the steps."""

TABLE = """\
| network | score | rate | unweighted, µs a particle and step | weighted over unweighted |
| --- | --- | --- | ---: | ---: |
| {network} | {score} | {rate} | {us:.3g} | {ratio:.2f} |
"""


def network(shape: tuple[int, ...], seed: int) -> Any:
    """With a last layer that is not zero."""
    key = jr.key(seed)
    make = sfp.nn.MLP(shape, width=128, key=key) if len(shape) == 1 else sfp.nn.UNet(shape, channels=16, key=key)
    weights = lambda leaf: 0.05 * jr.normal(key, leaf.shape) if eqx.is_inexact_array(leaf) and not leaf.any() else leaf
    return jax.tree.map(weights, make)


def reward(t: Array, x: Array) -> Array:
    """Of an event of any shape, cheap."""
    return -0.1 * (1 - t) * jnp.sum((x - 1) ** 2)


def cases(shape: tuple[int, ...]) -> dict[tuple[str, str], tuple[Any, Any]]:
    """By row: a score, and how the residuals of its parts are taken."""
    one, other = (sfp.NoiseScore(network(shape, seed), SDE) for seed in (0, 1))
    potential = sfp.InnerPotential(network(shape, 0), SDE)
    methods = {"Hutchinson()": sfp.Hutchinson(), "Ito()": sfp.Ito(), "Antithetic()": sfp.Antithetic()}
    if shape == (2,):
        methods = {"Exact()": sfp.Exact()} | methods
    # Close to the score of one law: weights that say little, so that no time goes into warnings.
    return {
        ("Annealed", "[W2]"): (sfp.Annealed(one, 1.01), None),
        ("Product", "[W2]"): (sfp.Product((one, other), [0.6, 0.4]), None),
        ("Guided", "[W2]"): (sfp.Guided(one, other, 0.1), None),
        ("Tilted", "[W3]"): (sfp.Tilted(one, reward), None),
        **{("potential", f"[F3], {name}"): (potential, method) for name, method in methods.items()},
    }


def unweighted(score: Any, particles: int, steps: int) -> Callable[[], Array]:
    method = sfp.EulerMaruyama(steps)
    return lambda: sfp.sample(score, particles, key=jr.key(2), method=method)


def weighted(score: Any, residual: Any, particles: int, steps: int) -> Callable[[], Array]:
    method = sfp.FeynmanKac(steps, particles=particles, residual=residual)
    return lambda: weighted_samples(score, 1, key=jr.key(2), method=method).samples


def compared(name: str, rounds: int) -> list[Row]:
    """One row a score and a way to take its rate."""
    shape, particles, steps = SETTINGS[name]
    rows = list[Row]()
    for (score_name, rate), (score, residual) in cases(shape).items():
        programs = {
            "unweighted": timed(unweighted(score, particles, steps), steps=steps),
            "weighted": timed(weighted(score, residual, particles, steps), steps=steps),
        }
        seconds = in_turns(programs, rounds)
        rows.append(
            {
                "network": name,
                "score": score_name,
                "rate": rate,
                "us": 1e3 * milliseconds(seconds["unweighted"]) / particles,
                "ratio": spread(seconds["weighted"] / seconds["unweighted"]),
            }
        )
    return rows


def main() -> None:
    parser = arguments(__doc__, 3, "weights_speed")
    parser.add_argument("--networks", nargs="+", default=list(SETTINGS), help="which rows")
    options = parser.parse_args()
    rows = [row for name in options.networks for row in compared(name, options.rounds)]
    note = f"{options.rounds} rounds; {machine()}. In brackets deciles 1 and 9."
    report("weights_speed", table(TABLE, rows), rows, note, options.out)


if __name__ == "__main__":
    main()
