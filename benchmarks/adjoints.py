"""Time, memory and accuracy of the gradient of a likelihood by every adjoint.

    python benchmarks/adjoints.py --out docs/assets

The gradient of the mean log-likelihood of 32 points in the plane with respect to the parameters of a perceptron
2 → 64 → 64 → 2 that has been trained for 500 steps, under VP with `max_steps=256`. For `vmap(log_likelihood)` and for
`flow_likelihood` with common steps: the median time of a compiled gradient over rounds in which all take turns, the
temporary memory that XLA allots it, and the relative error of the gradient, |g - g*| / |g*| over all parameters, where
g* comes from float64, rtol = atol = 1e-10 and `RecursiveCheckpointAdjoint`. Once at the defaults (float32, 1e-5), once
in float64 at 1e-8; time and memory are those of the defaults. `ForwardMode` has no gradient but the derivative along
one direction, here that of the gradient. The keys are fixed.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from _timing import Row, arguments, in_turns, machine, milliseconds, report, spread, table, timed
from jaxtyping import Array

import scorefp as sfp
from scorefp import train

ADJOINTS: dict[str, diffrax.AbstractAdjoint] = {
    "RecursiveCheckpointAdjoint()": diffrax.RecursiveCheckpointAdjoint(),
    "BacksolveAdjoint()": diffrax.BacksolveAdjoint(),
    "DirectAdjoint()": diffrax.DirectAdjoint(),
    "ForwardMode(), one direction": diffrax.ForwardMode(),
}
SOLVES = ("vmap", "batch")
MAX_STEPS = 256

TABLE = """\
| adjoint | solve | ms | over the default, batch | temporary memory, MB | error, float32, 1e-5 | error, float64, 1e-8 |
| --- | --- | ---: | ---: | ---: | ---: | ---: |
| `{adjoint}` | {solve} | {ms:.1f} | {ratio:.2f} | {megabytes:.2f} | {error at 1e-5:.1e} | {error at 1e-8:.1e} |
"""


def setting() -> tuple[Any, Any, Array]:
    """The arrays of a trained score, the rest of it, and points."""
    means = jnp.array([[-1.0, 0.4], [0.8, -0.5], [0.0, 1.0]])
    mixture = sfp.GaussianMixture(means, jnp.array([0.02, 0.05, 0.03]), jnp.ones(3) / 3)
    score = sfp.NoiseScore(sfp.nn.MLP((2,), width=64, depth=1, key=jr.key(0)), sfp.VP(), data_std=1.0)
    samples, optimizer = mixture.sample(jr.key(1), 4096), optax.adam(2e-3)
    run = train.fit(score, sfp.DSM(), samples, optimizer=optimizer, steps=500, key=jr.key(2), progress=False)
    params, rest = eqx.partition(run.model, eqx.is_inexact_array)
    return params, rest, mixture.sample(jr.key(3), 32)


def mean_log_likelihood(params: Any, rest: Any, xs: Array, solve: str, integrator: sfp.Integrator) -> Array:
    score = eqx.combine(params, rest)
    if solve == "batch":
        return jnp.mean(sfp.flow_likelihood(score, xs, integrator=integrator, common_steps=True).log_prob)
    return jnp.mean(jax.vmap(lambda x: sfp.log_likelihood(score, x, integrator=integrator))(xs))


def gradient(params: Any, rest: Any, xs: Array, solve: str, integrator: sfp.Integrator, direction: Any) -> Any:
    """A compiled function of parameters and points: the gradient, or the derivative along `direction`."""

    def value(params: Any, xs: Array) -> Array:
        return mean_log_likelihood(params, rest, xs, solve, integrator)

    def along(params: Any, xs: Array) -> Array:
        like = jax.tree.map(lambda p, d: d.astype(p.dtype), params, direction)
        return jax.jvp(lambda p: value(p, xs), (params,), (like,))[1]

    forward = isinstance(integrator.adjoint, diffrax.ForwardMode)
    return jax.jit(along if forward else jax.grad(value)).lower(params, xs).compile()


def double(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), tree)


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])


def markdown(rows: list[Row]) -> str:
    return table(TABLE, rows).replace("`ForwardMode(), one direction`", "`ForwardMode()`, one direction")


def main() -> None:
    options = arguments(__doc__, 7, "adjoints").parse_args()
    params, rest, xs = setting()
    with jax.enable_x64(True):
        tight = sfp.Integrator(diffrax.Dopri8(), rtol=1e-10, atol=1e-10, max_steps=MAX_STEPS)
        exact = gradient(double(params), rest, double(xs), "vmap", tight, None)(double(params), double(xs))
    want = flat(exact)
    unit = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf) / np.linalg.norm(want), jnp.float32), exact)

    def error(found: Any) -> float:
        found = flat(found)
        target = want if found.size > 1 else np.linalg.norm(want)
        return float(np.linalg.norm(found - target) / np.linalg.norm(want))

    programs: dict[tuple[str, str], Any] = {}
    rows: dict[tuple[str, str], Row] = {}
    for name, adjoint in ADJOINTS.items():
        for solve in SOLVES:
            default = sfp.Integrator(max_steps=MAX_STEPS, adjoint=adjoint)
            program = programs[name, solve] = gradient(params, rest, xs, solve, default, unit)
            memory = program.memory_analysis().temp_size_in_bytes
            row = rows[name, solve] = {"adjoint": name, "solve": solve, "megabytes": memory / 2**20}
            row["error at 1e-5"] = error(jax.block_until_ready(program(params, xs)))
            with jax.enable_x64(True):
                fine = sfp.Integrator(rtol=1e-8, atol=1e-8, max_steps=MAX_STEPS, adjoint=adjoint)
                finer = gradient(double(params), rest, double(xs), solve, fine, unit)
                row["error at 1e-8"] = error(finer(double(params), double(xs)))
            print(row, flush=True)
    seconds = in_turns({key: timed(program, params, xs) for key, program in programs.items()}, options.rounds)
    base = seconds["RecursiveCheckpointAdjoint()", "batch"]
    for key, row in rows.items():
        row |= {"ms": milliseconds(seconds[key]), "ratio": spread(seconds[key] / base)}
    note = f"{options.rounds} rounds, {machine(diffrax)}; in brackets deciles 1 and 9."
    report("adjoints", markdown(list(rows.values())), list(rows.values()), note, options.out)


if __name__ == "__main__":
    main()
