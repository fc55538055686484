"""Time of the samplers over that of as many bare forward passes of the network.

    python benchmarks/samplers.py --out docs/assets

4,096 samples, 500 steps, the library's `MLP` of width 128 as a `NoiseScore` on VP, in 2 and 64 dimensions, float32. The
floor is one `scan` of 500 forward passes of the network alone over the batch. A row is a sampler: the median time of a
step, its ratio to a step of the floor in the same round, and that ratio for each evaluation of the score: Heun makes
two a step. All rows take turns in a round, so that a machine that slows down slows all of them; in brackets deciles 1
and 9.

Samplers with noise also draw as many normal numbers a step as the state has entries, with JAX's default generator. The
row "floor + normals" is the floor with these draws and nothing else. The last column is the time over that of as many
evaluations and draws as the sampler makes.
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

SDE, SAMPLES, WIDTH = sfp.VP(), 4096, 128
FLOOR, NOISY = "floor", "floor + normals"

TABLE = """\
| D | sampler | ms a step | evaluations, draws | over floor | an evaluation | evaluations and draws |
| ---: | --- | ---: | ---: | ---: | ---: | ---: |
| {D} | {sampler} | {ms:.3f} | {evaluations}, {draws} | {over floor:.2f} | {an evaluation:.2f} \
| {over evaluations and draws:.2f} |
"""


def samplers(steps: int) -> dict[str, tuple[sfp.sampling.AbstractSampler, int, int]]:
    """By row: a sampler, and its evaluations and draws of noise a step."""
    return {
        "Euler": (sfp.sampling.Euler(steps), 1, 0),
        "ExponentialIntegrator": (sfp.ExponentialIntegrator(steps), 1, 0),
        "DPMSolver": (sfp.DPMSolver(steps), 1, 0),
        "Heun": (sfp.Heun(steps), 2, 0),
        "EulerMaruyama": (sfp.EulerMaruyama(steps), 1, 1),
        "ExponentialIntegrator(noise=1)": (sfp.ExponentialIntegrator(steps, noise=1.0), 1, 1),
        "Heun(churn)": (sfp.Heun(steps, churn=sfp.sampling.Churn(40.0)), 2, 1),
        "PredictorCorrector": (sfp.PredictorCorrector(sfp.EulerMaruyama(steps)), 2, 2),
        "Langevin": (sfp.Langevin(steps, 1e-6), 1, 1),
    }


def network(size: int) -> sfp.nn.MLP:
    """With a last layer that is not zero."""
    zero = sfp.nn.MLP((size,), width=WIDTH, key=jr.key(0))
    weight = jr.normal(jr.key(1), zero.leave.weight.shape) / WIDTH
    return eqx.tree_at(lambda model: model.leave.weight, zero, weight)


def floor(size: int, steps: int, noisy: bool) -> Callable[[], Array]:
    """Forward passes at the states of the batch, each from the one before; with a draw of noise a pass or without."""
    model, keys = network(size), jr.split(jr.key(2), SAMPLES)
    start, times = jr.normal(jr.key(3), (SAMPLES, size)), jnp.linspace(1.0, -1.0, steps)

    @eqx.filter_jit
    def run(model: Any, x: Array, keys: Array) -> Array:
        def one(x: Array, now: tuple[Array, Array]) -> tuple[Array, None]:
            t, index = now
            value = jax.vmap(model, (None, 0))(t, x)
            if noisy:
                value += jax.vmap(lambda key: jr.normal(jr.fold_in(key, index), (size,)))(keys)
            return value, None

        return jax.lax.scan(one, x, (times, jnp.arange(steps)))[0]

    return lambda: run(model, start, keys)


def sampled(size: int, method: sfp.sampling.AbstractSampler) -> Callable[[], Array]:
    score = sfp.NoiseScore(network(size), SDE, data_std=1.0)
    return lambda: sfp.sample(score, SAMPLES, key=jr.key(2), method=method)


def compared(size: int, rounds: int, steps: int) -> list[Row]:
    """One row a sampler."""
    methods = samplers(steps)
    programs = {FLOOR: floor(size, steps, False), NOISY: floor(size, steps, True)}
    programs |= {name: sampled(size, method) for name, (method, *_) in methods.items()}
    seconds = in_turns({name: timed(program, steps=steps) for name, program in programs.items()}, rounds)
    counts = {FLOOR: (1, 0), NOISY: (1, 1)} | {name: (calls, draws) for name, (_, calls, draws) in methods.items()}
    a_draw = seconds[NOISY] - seconds[FLOOR]
    return [
        {
            "D": size,
            "sampler": name,
            "ms": milliseconds(seconds[name]),
            "evaluations": calls,
            "draws": draws,
            "over floor": spread(seconds[name] / seconds[FLOOR]),
            "an evaluation": spread(seconds[name] / seconds[FLOOR] / calls),
            "over evaluations and draws": spread(seconds[name] / (calls * seconds[FLOOR] + draws * a_draw)),
        }
        for name, (calls, draws) in counts.items()
    ]


def main() -> None:
    parser = arguments(__doc__, 5, "samplers_speed")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 64], help="the numbers of dimensions")
    options = parser.parse_args()
    rows = [row for size in options.sizes for row in compared(size, options.rounds, options.steps)]
    note = (
        f"{options.rounds} rounds, {SAMPLES} samples, {options.steps} steps, MLP of width {WIDTH}; "
        f"{machine()}. In brackets deciles 1 and 9."
    )
    report("samplers_speed", table(TABLE, rows), rows, note, options.out)


if __name__ == "__main__":
    main()
