"""Time of a training step with a Fokker–Planck penalty over that of a plain DSM step.

    python benchmarks/residuals.py --rounds 9 --steps 6 --out docs/assets

For three networks: the time of a step of `DSM() + ScoreFPE(method)` over that of `DSM()`, for each method the median of
ratios of rounds in which all methods take turns, so that a machine that slows down slows all of them. Beside it the
ratio of floating-point operations that XLA counts, which no noise touches. A step is that of `scorefp.train.fit`:
batch, loss, gradient, clipping, Adam and the average of the parameters. Key 0 throughout.

A second table says what bfloat16 does to each method: the root mean square of the scale-free residual [F15] of a small
`UNet` in float32, and of its change when the network multiplies in bfloat16, with the same probes. `Antithetic` takes
its points in float32 there; the row before says what it would be without. The last row is of a GPU, where these points
have the operands of their products rounded to TF32, which is emulated here.

The activation is `scorefp.nn.silu`; with `--plain-silu` it is `jax.nn.silu`, whose higher derivatives JAX forms itself.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from _timing import Row, arguments, in_turns, machine, report, spread, table, timed
from jax.extend.core import Literal

import scorefp as sfp
from scorefp.fokker_planck.residual import resolve
from scorefp.train import TrainStep

METHODS: dict[str, sfp.objective.AbstractObjective] = {
    "DSM": sfp.DSM(),
    "+ Hutchinson, gradient form": sfp.DSM() + sfp.ScoreFPE(method=sfp.Hutchinson()),
    "+ Ito": sfp.DSM() + sfp.ScoreFPE(method=sfp.Ito()),
    "+ Antithetic": sfp.DSM() + sfp.ScoreFPE(method=sfp.Antithetic()),
    "+ Antithetic, fraction 1/4": sfp.DSM() + sfp.ScoreFPE(method=sfp.Antithetic(), fraction=0.25),
    "+ Sliced, one probe": sfp.DSM() + sfp.ScoreFPE(method=sfp.Sliced(trace=sfp.Hutchinson())),
    "+ FiniteDifference, one probe": sfp.DSM() + sfp.ScoreFPE(method=sfp.FiniteDifference(trace=sfp.Hutchinson())),
    "+ Hutchinson, unbiased square": sfp.DSM() + sfp.ScoreFPE(method=sfp.Hutchinson(), unbiased=True),
    "+ Antithetic, unbiased square": sfp.DSM() + sfp.ScoreFPE(method=sfp.Antithetic(), unbiased=True),
}

TABLE = """\
| over a step of DSM | MLP 64→256 | operations | MLP 784→512 | operations | convolutional | operations |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| {step} | {small:.2f} | {small_ops:.2f} | {wide:.2f} | {wide_ops:.2f} | {conv:.2f} | {conv_ops:.2f} |
"""


class ConvNet(eqx.Module):
    """A small network in the manner of a U-Net, on 16×16 images: down, middle, up, with a skip connection."""

    shape: tuple[int, ...] = eqx.field(static=True)
    enter: eqx.nn.Conv2d
    down: eqx.nn.Conv2d
    middle: eqx.nn.Conv2d
    up: eqx.nn.ConvTranspose2d
    leave: eqx.nn.Conv2d
    times: eqx.nn.Linear
    activation: Callable[[jax.Array], jax.Array] = eqx.field(static=True)

    def __init__(self, channels: int, activation: Callable[[jax.Array], jax.Array], *, key: jax.Array) -> None:
        keys = jr.split(key, 6)
        self.shape = (1, 16, 16)
        self.enter = eqx.nn.Conv2d(1, channels, 3, padding=1, key=keys[0])
        self.down = eqx.nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1, key=keys[1])
        self.middle = eqx.nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, key=keys[2])
        self.up = eqx.nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1, key=keys[3])
        self.leave = eqx.nn.Conv2d(2 * channels, 1, 3, padding=1, key=keys[4])
        self.times = eqx.nn.Linear(17, 2 * channels, key=keys[5])
        self.activation = activation

    def __call__(self, t: jax.Array, x: jax.Array) -> jax.Array:
        shift = self.times(sfp.nn.fourier_features(t))[:, None, None]
        wide = self.activation(self.enter(x))
        h = self.activation(self.down(wide) + shift)
        h = h + self.activation(self.middle(h) + shift)
        return self.leave(jnp.concatenate([wide, self.activation(self.up(h))]))


def networks(plain: bool) -> dict[str, tuple[Any, int]]:
    """By the name of its columns: a network and the batch."""
    activation = jax.nn.silu if plain else sfp.nn.silu
    return {
        "small": (sfp.nn.MLP((64,), width=256, activation=activation, key=jr.key(0)), 256),
        "wide": (sfp.nn.MLP((784,), width=512, activation=activation, key=jr.key(0)), 128),
        "conv": (ConvNet(16, activation, key=jr.key(0)), 64),
    }


def compiled(network: Any, batch: int, loss: Any, steps: int) -> tuple[Callable[[], Any], float]:
    """A run of as many compiled training steps, each from the same state, and the operations XLA counts in a step."""
    if isinstance(network, sfp.nn.MLP):
        # The last layer starts at zero; that of a network in training is not.
        weight = 0.02 * jr.normal(jr.key(1), network.leave.weight.shape)
        network = eqx.tree_at(lambda n: n.leave.weight, network, weight)
    data, score = jr.normal(jr.key(2), (4 * batch, *network.shape)), sfp.NoiseScore(network, sfp.VP(), data_std=1.0)
    params, skeleton = eqx.partition(score, score.trained())
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    step = TrainStep(skeleton, loss, optimizer, sfp.UniformLogSNR(), batch, (0.999,), False)
    state = step.init(params, key=jr.key(3))
    arrays, rest = eqx.partition((step, state, data), eqx.is_array)

    def one(arrays: Any) -> Any:
        step, state, data = eqx.combine(arrays, rest)
        return eqx.filter(step.step(state, (data, None), jnp.asarray(0)), eqx.is_array)

    program = jax.jit(one).lower(arrays).compile()

    def run() -> Any:
        for _ in range(steps):
            out = program(arrays)
        return out

    return run, program.cost_analysis()["flops"]


def compared(column: str, network: Any, batch: int, rounds: int, steps: int) -> dict[str, Row]:
    """What the columns of a network say, by method."""
    programs = {name: compiled(network, batch, loss, steps) for name, loss in METHODS.items()}
    seconds = in_turns({name: timed(run, steps=steps) for name, (run, _) in programs.items()}, rounds)
    return {
        name: {
            column: spread(seconds[name] / seconds["DSM"]),
            f"{column}_ops": operations / programs["DSM"][1],
        }
        for name, (_, operations) in programs.items()
    }


ROUNDING = """\
| method, network in bfloat16 | t | residual | noise | noise over residual |
| --- | ---: | ---: | ---: | ---: |
| {method} | {t} | {residual:.4f} | {noise:.4f} | {over:.3f} |
"""


def scores() -> tuple[sfp.score.NetworkScore, sfp.score.NetworkScore]:
    """A network in float32, and the same in bfloat16."""

    def score(dtype: Any) -> sfp.score.NetworkScore:
        network = sfp.nn.UNet((1, 16, 16), channels=32, multipliers=(1, 2), attention=(8,), dtype=dtype, key=jr.key(0))
        weight = 0.05 * jr.normal(jr.key(1), network.leave.weight.shape)
        return sfp.NoiseScore(eqx.tree_at(lambda n: n.leave.weight, network, weight), sfp.VP(), data_std=0.5)

    return score(None), score(jnp.bfloat16)


def at_once(score: Any, t: Any, x: Any, key: Any) -> jax.Array:
    """The difference of `Antithetic` with all three points at the network's own precision."""
    stencil, s = sfp.Antithetic().stencil(score, t, x, key), score(t, x)
    return stencil.combined(s, jax.vmap(score)(*stencil.points(s)))


def in_training(score: Any, t: Any, x: Any, key: Any) -> jax.Array:
    """As an objective takes it: points around the value that score matching has, values in full precision."""
    full = sfp.nn.full_precision(score)
    stencil = sfp.Antithetic().stencil(full, t, x, key)
    return stencil.combined(full(t, x), jax.vmap(full)(*stencil.points(score(t, x))))


def with_operands_of_tf32(fn: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A function whose products have operands of eight bits for the exponent and ten for the fraction."""

    def run(jaxpr: Any, consts: Any, args: Any) -> list[Any]:
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
        for equation in jaxpr.eqns:
            name, params = equation.primitive.name, equation.params
            values = [v.val if isinstance(v, Literal) else known[v] for v in equation.invars]
            inner = params.get("jaxpr", params.get("call_jaxpr"))
            assert name not in ("scan", "while", "cond"), name
            if inner is not None:
                found = run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), values)
            else:
                if name in ("dot_general", "convolution"):
                    values = [jax.lax.reduce_precision(value, 8, 10) for value in values]
                found = equation.primitive.bind(*values, **params)
                found = found if equation.primitive.multiple_results else [found]
            known |= zip(equation.outvars, found, strict=True)
        return [v.val if isinstance(v, Literal) else known[v] for v in jaxpr.outvars]

    def rounded(*args: Any) -> jax.Array:
        program = jax.make_jaxpr(fn)(*args)
        return run(program.jaxpr, program.consts, jax.tree.leaves(args))[0]

    return rounded


def taken(method: Any) -> Callable[..., jax.Array]:
    """As a training term takes it; `score_fpe_residual` measures, and rounds nothing."""
    return lambda score, t, x, key: resolve(method, None).residual(score, t, x, key)[1]


def rounding() -> list[Row]:
    """One row a method and time."""
    methods = {
        "`Ito`": taken(sfp.Ito()),
        "`Hutchinson`, gradient form": taken(sfp.Hutchinson()),
        "`Antithetic`, all in bfloat16": at_once,
        "`Antithetic` of an objective": in_training,
    }
    sde, x0, keys = sfp.VP(), 0.5 * jr.normal(jr.key(2), (16, 1, 16, 16)), jr.split(jr.key(4), 16)
    (full, static), (half, rest) = (eqx.partition(score, eqx.is_array) for score in scores())

    def batch(method: Any, static: Any) -> Callable[..., jax.Array]:
        one = lambda arrays, t, x, key: method(eqx.combine(arrays, static), t, x, key)
        return lambda arrays, t, x: jax.vmap(one, (None, None, 0, 0))(arrays, t, x, keys)

    pairs = {name: (batch(method, static), batch(method, rest), half) for name, method in methods.items()}
    exact = batch(at_once, static)
    pairs["`Antithetic`, float32, TF32 emulated"] = exact, with_operands_of_tf32(exact), full
    rows: list[Row] = []
    for name, (exact, coarse, arrays) in pairs.items():
        programs = (jax.jit(exact), full), (jax.jit(coarse), arrays)
        for t in map(jnp.asarray, (0.01, 0.1, 0.5)):
            x = sde.alpha(t) * x0 + sde.sigma(t) * jr.normal(jr.key(3), x0.shape)
            right, found = (sde.sigma(t) ** 3 / sde.g2(t) * program(given, t, x) for program, given in programs)
            residual, noise = (float(jnp.sqrt(jnp.mean(a**2))) for a in (right, found - right))
            row = {"method": name, "t": f"{float(t):g}", "residual": residual, "noise": noise, "over": noise / residual}
            rows.append(row)
    return rows


def main() -> None:
    parser = arguments(__doc__, 15, "residuals and rounding")
    parser.add_argument("--steps", type=int, default=10, help="steps of a method in one round")
    parser.add_argument("--plain-silu", action="store_true")
    options = parser.parse_args()
    rows: dict[str, Row] = {name: {"step": name} for name in METHODS if name != "DSM"}
    for column, (network, batch) in networks(options.plain_silu).items():
        found = compared(column, network, batch, options.rounds, options.steps)
        for name, row in rows.items():
            row |= found[name]
        print(f"{column}: done", flush=True)
    sizes = "Batches of 256, 128 and 64, the convolutional network on 1×16×16"
    note = f"{sizes}; {machine()}; {options.rounds} rounds of {options.steps} steps, in brackets deciles 1 and 9."
    report("residuals", table(TABLE, list(rows.values())), list(rows.values()), note, options.out)
    found = rounding()
    report("rounding", table(ROUNDING, found), found, f"{machine()}.", options.out)


if __name__ == "__main__":
    main()
