"""Time of a training step with a log-Fokker–Planck penalty over that of a plain DSM step, for a potential.

    python benchmarks/potential.py --out docs/assets

The network is that of Deveney 2023, two layers of 80 softplus units and a scalar value, on OU with a batch of 256, in
the plane as there and in 16 dimensions. A row is a loss: the median time of a step, its ratio to the library's step of
`DSM()`, the median and the deciles of ratios of rounds in which all rows take turns, so that a machine that slows down
slows all of them; and the ratio of floating-point operations that XLA counts, which no noise touches. A step is that of
`scorefp.train.fit`: batch, loss, gradient, Adam and the average of the parameters, many of them in one compiled loop.

The rows "by hand" are the same steps as a user of equinox and optax would write them: `eqx.nn.MLP` with
`jax.nn.softplus`, `jax.grad` for the score and `jax.hessian` for its divergence. Key 0 throughout, float32.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from _timing import Row, arguments, in_turns, machine, milliseconds, report, spread, table, timed
from jaxtyping import Array

import scorefp as sfp
from scorefp.train import TrainStep
from scorefp.train.loop import repeated

SDE, BATCH, WIDTH, SIDE = sfp.OU(t0=1e-4, t1=10.0), 256, 80, 3.5
OPTIMIZER = optax.adam(1e-3)
BASE, PLAIN = "DSM", "by hand: DSM + jax.hessian"

TABLE = """\
| D | loss | ms a step | over DSM | over by hand with `jax.hessian` | operations over DSM |
| ---: | --- | ---: | ---: | ---: | ---: |
| {D} | {loss} | {ms:.2f} | {over DSM:.2f} | {over by hand:.2f} | {operations over DSM:.2f} |
"""

METHODS: dict[str, dict[str, Any]] = {
    "Exact": {"method": sfp.Exact()},
    "Hutchinson": {"method": sfp.Hutchinson()},
    "Ito(Exact())": {"method": sfp.Ito(sfp.Exact())},
    "Ito": {"method": sfp.Ito()},
    "Antithetic": {"method": sfp.Antithetic()},
    "Smoothed": {"method": sfp.Smoothed()},
    "Ito, unbiased square": {"method": sfp.Ito(), "unbiased": True},
    "Antithetic, unbiased square": {"method": sfp.Antithetic(), "unbiased": True},
}


def losses(size: int) -> dict[str, sfp.objective.AbstractObjective]:
    """By row: Deveney's loss with w_R = 1, on the box as in the paper or on the diffused data."""
    box = sfp.Box(jnp.full(size, -SIDE), jnp.full(size, SIDE))
    on_box = {f"+ {name}": 2 * sfp.DSM() + sfp.LogFPE(domain=box, **options) for name, options in METHODS.items()}
    on_data = {f"+ {name}, on the data": 2 * sfp.DSM() + sfp.LogFPE(**METHODS[name]) for name in ("Exact", "Ito")}
    return {BASE: 2 * sfp.DSM()} | on_box | on_data


def by_library(size: int, loss: sfp.objective.AbstractObjective, steps: int) -> tuple[Callable[[Any], Any], Any]:
    """A loop of training steps, and its state."""
    potential = sfp.Potential(sfp.nn.ScalarMLP((size,), width=WIDTH, key=jr.key(0)), SDE, shape=(size,))
    params, skeleton = eqx.partition(potential, potential.trained())
    step = TrainStep(skeleton, loss, OPTIMIZER, sfp.UniformLogSNR(), BATCH, (0.999,), False)
    state = step.init(params, key=jr.key(2))
    arrays, rest = eqx.partition((step, state, samples(size)), eqx.is_array)

    def loop(arrays: Any) -> Any:
        step, state, data = eqx.combine(arrays, rest)
        return eqx.filter(repeated(step.step, (data, None), state, jnp.asarray(steps), steps), eqx.is_array)

    return loop, arrays


def samples(size: int) -> Array:
    return jr.normal(jr.key(1), (4 * BATCH, size))


# ------------------------------------------------------------------------------------------ by hand


def residual(network: eqx.nn.MLP, t: Array, x: Array) -> Array:
    """Deveney 2023, Eq. 20, for OU with theta = g = 1."""
    phi = lambda t, x: network(jnp.concatenate([t[None], x]))
    slope, s = jax.grad(phi, argnums=(0, 1))(t, x)
    hessian = jax.hessian(phi, argnums=1)(t, x)
    return slope - x.size - x @ s - 0.5 * s @ s - 0.5 * jnp.trace(hessian)


def by_hand(size: int, penalty: bool, steps: int) -> tuple[Callable[[Any], Any], Any]:
    """The same loop without the library, but for its times."""
    network = eqx.nn.MLP(size + 1, "scalar", WIDTH, 2, jax.nn.softplus, key=jr.key(0))
    params, static = eqx.partition(network, eqx.is_array)
    data = samples(size)

    def loss(params: Any, x0: Array, key: Array) -> Array:
        network = eqx.combine(params, static)
        time_key, noise_key, box_key = jr.split(key, 3)
        t, weight = sfp.UniformLogSNR().sample(SDE, BATCH, key=time_key)
        noise = jr.normal(noise_key, x0.shape)
        alpha, sigma = jnp.exp(-t)[:, None], jnp.sqrt(-0.5 * jnp.expm1(-2 * t))[:, None]
        score = jax.vmap(jax.grad(lambda x, t: network(jnp.concatenate([t[None], x]))))
        value = jnp.mean(weight * jnp.sum((score(alpha * x0 + sigma * noise, t) + noise / sigma) ** 2, axis=1))
        if penalty:
            points = jr.uniform(box_key, x0.shape, minval=-SIDE, maxval=SIDE)
            value += jnp.mean(weight * jax.vmap(residual, in_axes=(None, 0, 0))(network, t, points) ** 2)
        return value

    def one(carry: Any, i: Array) -> tuple[Any, Array]:
        params, average, state, key = carry
        index_key, loss_key = jr.split(jr.fold_in(key, i))
        x0 = data[jr.randint(index_key, (BATCH,), 0, data.shape[0])]
        value, grads = jax.value_and_grad(loss)(params, x0, loss_key)
        updates, state = OPTIMIZER.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, optax.incremental_update(params, average, 1e-3), state, key), value

    def loop(carry: Any) -> Any:
        return jax.lax.scan(one, carry, jnp.arange(steps))

    return loop, (params, params, OPTIMIZER.init(params), jr.key(2))


def check() -> None:
    """The two residuals are one."""
    network = sfp.nn.ScalarMLP((2,), width=WIDTH, key=jr.key(0))
    plain = eqx.nn.MLP(3, "scalar", WIDTH, 2, jax.nn.softplus, key=jr.key(0))
    plain = eqx.tree_at(lambda n: n.layers, plain, (*network.layers, network.leave))
    t, x = jnp.asarray(0.3), jnp.array([0.4, -1.0])
    ours = sfp.log_fpe_residual(sfp.Potential(network, SDE), t, x)
    np.testing.assert_allclose(residual(plain, t, x), ours, rtol=1e-4)


# ------------------------------------------------------------------------------------------ times


def compared(size: int, rounds: int, steps: int) -> list[Row]:
    """One row a loss."""
    loops = {name: by_library(size, loss, steps) for name, loss in losses(size).items()}
    loops |= {"by hand: DSM": by_hand(size, False, steps), PLAIN: by_hand(size, True, steps)}
    programs = {name: jax.jit(loop).lower(arrays).compile() for name, (loop, arrays) in loops.items()}
    # Of the body of the loop: XLA counts it once.
    operations = {name: program.cost_analysis()["flops"] for name, program in programs.items()}
    seconds = in_turns({name: timed(programs[name], loops[name][1], steps=steps) for name in loops}, rounds)
    return [
        {
            "D": size,
            "loss": name,
            "ms": milliseconds(seconds[name]),
            "over DSM": spread(seconds[name] / seconds[BASE]),
            "over by hand": spread(seconds[name] / seconds[PLAIN]),
            "operations over DSM": operations[name] / operations[BASE],
        }
        for name in loops
    ]


def main() -> None:
    parser = arguments(__doc__, 15, "potential_speed")
    parser.add_argument("--steps", type=int, default=100, help="steps of a loss in one round")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 16], help="the numbers of dimensions")
    options = parser.parse_args()
    check()
    rows = [row for size in options.sizes for row in compared(size, options.rounds, options.steps)]
    note = (
        f"{options.rounds} rounds of {options.steps} steps, batch {BATCH}, 2 layers of {WIDTH} softplus units; "
        f"{machine()}. In brackets deciles 1 and 9."
    )
    report("potential_speed", table(TABLE, rows), rows, note, options.out)


if __name__ == "__main__":
    main()
