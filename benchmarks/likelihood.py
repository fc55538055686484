"""Time and error of exact log-likelihoods, beside solves that a user of diffrax would write.

    python benchmarks/likelihood.py --out docs/assets

For 1,024 points in the plane and 1,024 images of 8×8 digits under VP, rtol = atol = 1e-5, float32: the median time over
rounds in which all programs take turns, so that a machine that slows down slows all of them; its ratio to the fastest
of the solves by hand, the median and the deciles of ratios within rounds; the number of evaluations of velocity and
divergence of the slowest sample; and the error of the first 128 against a solve in float64 with rtol = atol = 1e-9. The
scores are perceptrons D → 128 → 128 → D trained for 1,000 steps. The keys are fixed.

The solves by hand use the same score, the velocity of VP written out and the trace of `jax.jacfwd`: one solve a sample
under `jax.vmap`, or one of the whole batch, whose tolerance is then for the root mean square over it. With `dt0=None`
diffrax chooses the first step; with `dt0` given it is the time in which the log-SNR changes by one at `t0`, which is
the library's choice: `vmap` then differs from the library's by the variable in which steps are taken alone.
"""

import functools
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from _timing import Row, arguments, in_turns, machine, report, spread, table, timed
from jaxtyping import Array

import scorefp as sfp
from scorefp import data, train

COUNT, CHECKED = 1024, 128
SDE = sfp.VP()
FIRST = float(SDE.sigma(SDE.t0) ** 2 / SDE.g2(SDE.t0))
Program = Callable[[sfp.score.AbstractScore, Array], tuple[Array, Array]]

TABLE = """\
| data | solve | seconds | over the fastest by hand | evaluations | median error | mean | largest |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |
| {data} | {program} | {seconds:.2f} | {ratio:.2f} | {evaluations} \
| {median error:.1e} | {mean error:.1e} | {largest error:.1e} |
"""


def plane(steps: int) -> tuple[sfp.score.AbstractScore, Array]:
    """A score trained on three modes in the plane, and points of theirs."""
    means = jnp.array([[-1.0, 0.4], [0.8, -0.5], [0.0, 1.0]])
    mixture = sfp.GaussianMixture(means, jnp.array([0.02, 0.05, 0.03]), jnp.ones(3) / 3)
    return trained(mixture.sample(jr.key(0), 8192), 1.0, steps), mixture.sample(jr.key(1), COUNT)


def digits(steps: int) -> tuple[sfp.score.AbstractScore, Array]:
    """A score trained on 8×8 digits, and dequantised digits."""
    dataset = data.digits("train")
    levels = jnp.asarray(dataset.values)[:COUNT]
    xs = sfp.UniformDequantiser(dataset.quantisation)(levels, key=jr.key(1))
    return trained(dataset, 0.5, steps), xs


def trained(dataset: Any, data_std: float, steps: int) -> sfp.score.AbstractScore:
    shape = dataset.values.shape[1:] if isinstance(dataset, data.Dataset) else dataset.shape[1:]
    score = sfp.NoiseScore(sfp.nn.MLP(shape, width=128, depth=1, key=jr.key(0)), SDE, data_std=data_std)
    optimizer = optax.adam(2e-3)
    return train.fit(score, sfp.DSM(), dataset, optimizer=optimizer, steps=steps, key=jr.key(0), progress=False).model


# ------------------------------------------------------------------------------------------ by hand


def velocity_and_trace(t: Array, state: tuple[Array, Array], score: sfp.score.AbstractScore) -> tuple[Array, Array]:
    beta = SDE.beta_min + t * (SDE.beta_max - SDE.beta_min)
    velocity = lambda y: -0.5 * beta * (y + score(t, y))
    return velocity(state[0]), jnp.trace(jax.jacfwd(velocity)(state[0]))


def of_a_batch(t: Array, state: tuple[Array, Array], score: sfp.score.AbstractScore) -> tuple[Array, Array]:
    return jax.vmap(lambda x, growth: velocity_and_trace(t, (x, growth), score))(*state)


def solve(
    field: Any, score: sfp.score.AbstractScore, x: Array, growth: Array, first: float | None
) -> tuple[Array, Array]:
    term, control = diffrax.ODETerm(field), diffrax.PIDController(rtol=1e-5, atol=1e-5)
    found = diffrax.diffeqsolve(
        term, diffrax.Tsit5(), SDE.t0, SDE.t1, first, (x, growth), score, stepsize_controller=control
    )
    latent, growth = (y[-1] for y in found.ys)
    prior = -0.5 * jnp.sum(latent**2, axis=-1) - 0.5 * x.shape[-1] * jnp.log(2 * jnp.pi)
    return prior + growth, 6 * found.stats["num_steps"] + 1


def by_hand_each(score: sfp.score.AbstractScore, xs: Array, *, first: float | None = None) -> tuple[Array, Array]:
    return jax.vmap(lambda x: solve(velocity_and_trace, score, x, jnp.zeros(()), first))(xs)


def by_hand_batch(score: sfp.score.AbstractScore, xs: Array, *, first: float | None = None) -> tuple[Array, Array]:
    return solve(of_a_batch, score, xs, jnp.zeros(xs.shape[0]), first)


# ------------------------------------------------------------------------------------------ by the library


def by_library_each(score: sfp.score.AbstractScore, xs: Array) -> tuple[Array, Array]:
    found = jax.vmap(lambda x: sfp.flow_likelihood(score, x))(xs)
    return found.log_prob, found.evaluations


def by_library_batch(score: sfp.score.AbstractScore, xs: Array) -> tuple[Array, Array]:
    found = sfp.flow_likelihood(score, xs, common_steps=True)
    return found.log_prob, found.evaluations


PROGRAMS: dict[str, Program] = {
    "by hand, vmap, dt0=None": by_hand_each,
    "by hand, vmap, dt0 given": functools.partial(by_hand_each, first=FIRST),
    "by hand, one solve, dt0=None": by_hand_batch,
    "by hand, one solve, dt0 given": functools.partial(by_hand_batch, first=FIRST),
    "vmap of log_likelihood": by_library_each,
    "flow_likelihood, common steps": by_library_batch,
}


def reference(score: sfp.score.AbstractScore, xs: Array) -> np.ndarray:
    """Log-likelihoods in float64 with rtol = atol = 1e-9."""
    with jax.enable_x64(True):
        double = lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64) if eqx.is_inexact_array(leaf) else leaf
        exact, tight = jax.tree.map(double, score), sfp.Integrator(diffrax.Dopri8(), rtol=1e-9, atol=1e-9)
        one = lambda x: sfp.log_likelihood(exact, x, integrator=tight)
        return np.asarray(jax.jit(jax.vmap(one))(double(xs)))


def compared(title: str, score: sfp.score.AbstractScore, xs: Array, rounds: int) -> list[Row]:
    """One row a program."""
    arrays, static = eqx.partition(score, eqx.is_array)
    truth = reference(score, xs[:CHECKED])
    whole = lambda arrays, xs, program: program(eqx.combine(arrays, static), xs)
    compiled = {
        name: jax.jit(functools.partial(whole, program=program)).lower(arrays, xs).compile()
        for name, program in PROGRAMS.items()
    }
    seconds = in_turns({name: timed(program, arrays, xs) for name, program in compiled.items()}, rounds)
    best = min((name for name in PROGRAMS if name.startswith("by hand")), key=lambda name: np.median(seconds[name]))
    rows: dict[str, Row] = {}
    for name, program in compiled.items():
        log_prob, evaluations = program(arrays, xs)
        error = np.abs(np.asarray(log_prob[:CHECKED], np.float64) - truth)
        rows[name] = {
            "data": title,
            "program": name,
            "evaluations": int(np.max(evaluations)),
            "median error": float(np.median(error)),
            "mean error": float(error.mean()),
            "largest error": float(error.max()),
            "seconds": float(np.median(seconds[name])),
            "ratio": spread(seconds[name] / seconds[best]),
        }
    return list(rows.values())


def main() -> None:
    options = arguments(__doc__, 15, "likelihood_speed", "in the plane; a third of it for digits").parse_args()
    fewer = max(options.rounds // 3, 3)
    note = (
        f"{options.rounds} rounds in the plane, {fewer} for digits; {machine(diffrax)}. In brackets deciles 1 and 9; "
        "errors in nats."
    )
    rows = compared("plane, D = 2", *plane(1000), options.rounds)
    report("likelihood_speed", table(TABLE, rows), rows, note, options.out)
    rows += compared("digits, D = 64", *digits(1000), fewer)
    report("likelihood_speed", table(TABLE, rows), rows, note, options.out)


if __name__ == "__main__":
    main()
