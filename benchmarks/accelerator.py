"""The library on the device that JAX finds, whatever it is: training, compiling, memory, samples, measuring.

    python benchmarks/accelerator.py --out docs/assets

A `UNet` of 25.7 million parameters on images 3×32×32 and batches of 128 on an accelerator, a small one on a CPU
(`--size` chooses). The programs of a precision are compiled at the same time and then take turns in each round; a
number is the median over rounds. Rows are printed as they come, the most wanted first, and written after each table:
what is killed leaves what it has. What fails, for want of memory for instance, is named and left out.

* **Steps**: those of `fit` on data on the device, by precision and penalty. `TFLOP/s` are the products of the network
  alone, three times those of its evaluation; beside it their share of the rate of one large product in that precision
  on this device. Memory is what the compiled loop needs: arguments, results and what lies between.
* **PyTorch**, where it is installed: the same network with `torch.compile`, channels-last, fused Adam, and autocast.
* **Samples**: images a second of `DPMSolver`.
* **Measuring**: the error of log-likelihoods of 64 samples in 64 dimensions against float64, and the evaluations of the
  slowest, by a network and by the exact score of a mixture; and the residual of that score, which is rounding alone.
"""

import os

# The CPU counts operations, and PyTorch has a turn on the same card.
if "cpu" not in (platforms := os.environ.get("JAX_PLATFORMS", "cpu")):
    os.environ["JAX_PLATFORMS"] = f"{platforms},cpu"
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import argparse
import functools
import importlib.util
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, TypeVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from _timing import Row, arguments, in_turns, machine, report, table, timed

import scorefp as sfp
from scorefp import train
from scorefp.train.loop import repeated

SDE, ADAM = sfp.VP(), optax.adam(2e-4)
SIZES: dict[str, dict[str, Any]] = {
    "card": {
        "name": "card",
        "network": {"shape": (3, 32, 32), "channels": 128, "multipliers": (1, 2, 2, 2), "blocks": 2, "attention": 16},
        "batch": 128,
        "steps": 24,
        "images": 512,
        "product": 8192,
    },
    "small": {
        "name": "small",
        "network": {"shape": (1, 16, 16), "channels": 16, "multipliers": (1, 2), "blocks": 1, "attention": 8},
        "batch": 16,
        "steps": 8,
        "images": 32,
        "product": 1024,
    },
}
PRECISIONS = {"bfloat16": jnp.bfloat16, "float32": None}
LOSSES: dict[str, Any] = {
    "DSM": sfp.DSM(),
    "with ScoreFPE": sfp.DSM() + 0.3 * sfp.ScoreFPE(),
    "with ScoreFPE, share 1/4": sfp.DSM() + 0.3 * sfp.ScoreFPE(fraction=0.25),
    "with ScoreFPE, share 1/16": sfp.DSM() + 0.3 * sfp.ScoreFPE(fraction=0.0625),
    "the same, every 4th step": sfp.DSM() + 0.3 * sfp.Lazy(sfp.ScoreFPE(fraction=0.0625), every=4),
}

STEPS = """\
| program | precision | ms a step | over DSM | TFLOP/s | of a product's | compiled in s | memory in GB |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |
| {program} | {precision} | {ms:.1f} | {over} | {rate:.2f} | {share:.0%} | {compiled} | {memory} |
"""
SAMPLES = """\
| samples | precision | images a second | evaluations | compiled in s |
| --- | --- | ---: | ---: | ---: |
| {program} | {precision} | {images:.0f} | {evaluations} | {compiled:.0f} |
"""
MEASURES = """\
| measured | score | evaluations | largest error | median |
| --- | --- | ---: | ---: | ---: |
| {measured} | {score} | {evaluations} | {largest:.1e} | {median:.1e} |
"""


def unet(size: dict[str, Any], dtype: Any) -> sfp.score.NetworkScore:
    """A network whose last layer is not zero."""
    network = size["network"] | {"attention": (size["network"]["attention"],)}
    network = sfp.nn.UNet(**network, dtype=dtype, key=jr.key(0))
    weight = 0.05 * jr.normal(jr.key(1), network.leave.weight.shape)
    return sfp.NoiseScore(eqx.tree_at(lambda net: net.leave.weight, network, weight), SDE, data_std=0.5)


@functools.cache
def count(name: str) -> int:
    """How many parameters there are."""
    with jax.default_device(jax.devices("cpu")[0]):
        score = unet(SIZES[name], None)
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(score, score.trained())))


# ------------------------------------------------------------------------------------------------ programs


class Program:
    """A function that is compiled on a thread, and what that took."""

    placed: ClassVar[Callable[[Any], Any]] = staticmethod(lambda leaf: leaf)
    """What an argument is lowered as."""

    def __init__(self, function: Callable[..., Any], *args: Any, donate: tuple[int, ...] = ()) -> None:
        self.args, self.compiled = args, math.nan
        self.lowered = jax.jit(function, donate_argnums=donate).lower(*jax.tree.map(self.placed, args))
        self.run: Any = None

    def compile(self) -> None:
        begin = time.perf_counter()
        self.run = self.lowered.compile()
        self.compiled = time.perf_counter() - begin

    def seconds(self) -> float:
        """The seconds of a call."""
        return timed(self.run, *self.args)()

    def warm(self) -> None:
        self.seconds()

    @property
    def memory(self) -> float:
        """The bytes that it needs, in GB."""
        m = self.run.memory_analysis()
        return (m.temp_size_in_bytes + m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes) / 1e9


class Training(Program):
    """Steps of `fit` in one loop on the device."""

    def __init__(self, score: sfp.score.AbstractScore, loss: Any, size: dict[str, Any]) -> None:
        params, skeleton = eqx.partition(score, score.trained())
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), ADAM)
        step = train.TrainStep(skeleton, loss, optimizer, sfp.UniformLogSNR(), size["batch"], (0.999,), dropout=False)
        samples = (0.5 * jr.normal(jr.key(2), (8 * size["batch"], *size["network"]["shape"])), None)
        arrays, self.static = eqx.partition(step.init(params, key=jr.key(3)), eqx.is_array)
        self.steps = size["steps"]

        def loop(arrays: Any, samples: Any) -> Any:
            state, records = repeated(
                step.step, samples, eqx.combine(arrays, self.static), jnp.asarray(self.steps), self.steps
            )
            return eqx.filter(state, eqx.is_array), records["loss"]

        super().__init__(loop, arrays, samples, donate=(0,))

    def seconds(self) -> float:
        """The seconds of a step."""
        arrays, samples = self.args
        begin = time.perf_counter()
        arrays, losses = self.run(arrays, samples)
        assert np.isfinite(np.asarray(losses)).all()
        self.args = arrays, samples
        return (time.perf_counter() - begin) / self.steps


def drawing(score: sfp.score.AbstractScore, n: int, method: Any) -> Program:
    arrays, static = eqx.partition(score, eqx.is_array)
    return Program(
        lambda arrays, key: sfp.sample(eqx.combine(arrays, static), n, key=key, method=method), arrays, jr.key(5)
    )


@functools.cache
def operations(name: str) -> float:
    """The floating-point operations of the network in a step of DSM: three times those of its evaluation, as XLA counts
    them for a CPU. For accelerators JAX does not.
    """
    size = SIZES[name]
    with jax.default_device(jax.devices("cpu")[0]):
        score, x = unet(size, None), jnp.zeros((size["batch"], *size["network"]["shape"]))
        return 3 * jax.jit(jax.vmap(lambda y: score(0.5, y))).lower(x).cost_analysis()["flops"]


def rate(size: dict[str, Any], dtype: Any) -> float:
    """Operations a second of one large product, as JAX does it by default."""
    n = size["product"]
    a = jr.normal(jr.key(0), (n, n), dtype or jnp.float32)
    product = jax.jit(lambda a: a @ a)
    program = timed(product, a)
    return 2 * n**3 / min(program() for _ in range(6))


P = TypeVar("P", bound=Program)
FAILED = list[str]()


def running(programs: Mapping[Any, Callable[[], P]], pool: ThreadPoolExecutor) -> dict[Any, P]:
    """The programs that can be traced, that compile, all at the same time, and that then run, one after another."""

    made = dict[Any, Any]()

    def stands(name: Any, what: str, action: Callable[[], Any]) -> bool:
        begin = time.perf_counter()
        try:
            made[name] = action() or made[name]
        except Exception as failure:
            failed(f"{name} is not {what}", failure)
            return False
        print(f"{name}: {what} in {time.perf_counter() - begin:.1f} s", flush=True)
        return True

    traced = [name for name, make in programs.items() if stands(name, "traced", make)]
    compiled = list(pool.map(lambda name: stands(name, "compiled", made[name].compile), traced))
    names = [name for name, there in zip(traced, compiled, strict=True) if there]
    return {name: made[name] for name in names if stands(name, "run", lambda name=name: made[name].warm())}


# ------------------------------------------------------------------------------------------------ tables


def steps(size: dict[str, Any], rounds: int, precision: str, pool: ThreadPoolExecutor) -> Iterator[Row]:
    """One row a program, in one precision."""
    score = unet(size, PRECISIONS[precision])
    trainings = running(
        {program: functools.partial(Training, score, loss, size) for program, loss in LOSSES.items()}, pool
    )
    seconds = in_turns({program: training.seconds for program, training in trainings.items()}, rounds)
    needed, most = operations(size["name"]), rate(size, PRECISIONS[precision])
    for program, training in trainings.items():
        done = needed / float(np.median(seconds[program]))
        yield {
            "program": program,
            "precision": precision,
            "ms": 1e3 * float(np.median(seconds[program])),
            "over": f"{np.median(seconds[program] / seconds['DSM']):.2f}" if "DSM" in seconds else "",
            "rate": done / 1e12,
            "share": done / most,
            "compiled": f"{training.compiled:.0f}",
            "memory": f"{training.memory:.2f}",
        }


def in_torch(size: dict[str, Any], rounds: int) -> Iterator[Row]:
    """The same in PyTorch, where it is installed."""
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed: no rows of it", flush=True)
        return
    import torch
    from _unet_in_torch import Step

    if torch.cuda.is_available() != (jax.default_backend() == "gpu"):
        print(f"PyTorch {torch.__version__} is for another device: no rows of it", flush=True)
        return
    needed = operations(size["name"])
    for precision, dtype in PRECISIONS.items():
        step = Step(size["network"], size["batch"], low=precision == "bfloat16")
        assert step.parameters == count(size["name"]), "the two networks differ"
        begin = time.perf_counter()
        step.seconds(3)
        compiled = time.perf_counter() - begin
        seconds = float(np.median([step.seconds(size["steps"]) for _ in range(rounds)]))
        yield {
            "program": f"PyTorch {torch.__version__} ({step.name}), DSM",
            "precision": precision,
            "ms": 1e3 * seconds,
            "over": "",
            "rate": needed / seconds / 1e12,
            "share": needed / seconds / rate(size, dtype),
            "compiled": f"{compiled:.0f}",
            "memory": f"{step.peak / 1e9:.2f}" if step.peak else "",
        }


def samples(size: dict[str, Any], rounds: int, pool: ThreadPoolExecutor) -> Iterator[Row]:
    """One row a precision."""
    solver = sfp.DPMSolver(20, sfp.sampling.log_snr_grid)
    drawings = running(
        {p: lambda dtype=dtype: drawing(unet(size, dtype), size["images"], solver) for p, dtype in PRECISIONS.items()},
        pool,
    )
    seconds = in_turns({name: program.seconds for name, program in drawings.items()}, rounds)
    for precision, program in drawings.items():
        yield {
            "program": "`DPMSolver`",
            "precision": precision,
            "images": size["images"] / float(np.median(seconds[precision])),
            "evaluations": solver.steps,
            "compiled": program.compiled,
        }


def mixture() -> sfp.GaussianMixture:
    return sfp.GaussianMixture(jr.normal(jr.key(6), (3, 64)), jnp.array([0.2, 0.4, 0.3]), jnp.ones(3) / 3)


def measures() -> Iterator[Row]:
    """Errors against float64, of log-likelihoods in nats."""
    mlp = sfp.nn.MLP((64,), width=128, depth=2, key=jr.key(7))
    mlp = eqx.tree_at(lambda net: net.leave.weight, mlp, 0.05 * jr.normal(jr.key(8), mlp.leave.weight.shape))
    xs = np.asarray(mixture().sample(jr.key(9), 64))
    scores = {"network": sfp.NoiseScore(mlp, SDE, data_std=1.0), "exact mixture": mixture().score(SDE)}
    for name, score in scores.items():
        flow = lambda score, xs, **how: jax.vmap(lambda x: sfp.flow_likelihood(score, x, **how))(xs)
        found = eqx.filter_jit(flow)(score, jnp.asarray(xs))
        with jax.enable_x64(True):
            tight = sfp.Integrator(diffrax.Dopri8(), rtol=1e-9, atol=1e-9)
            exact = eqx.filter_jit(flow)(double(score), jnp.asarray(xs, jnp.float64), integrator=tight)
            truth = np.asarray(exact.log_prob)
        error = np.abs(np.asarray(found.log_prob, np.float64) - truth)
        yield {
            "measured": "log-likelihood, nats",
            "score": name,
            "evaluations": int(np.max(found.evaluations)),
            "largest": float(error.max()),
            "median": float(np.median(error)),
        }
    t = SDE.t0 + (SDE.t1 - SDE.t0) * jr.uniform(jr.key(10), (64,), minval=0.05)
    size = lambda t, x: (
        SDE.sigma(t) ** 2
        / jnp.sqrt(2 * SDE.g2(t))
        * jnp.linalg.norm(sfp.score_fpe_residual(scores["exact mixture"], t, x))
    )
    found = np.asarray(jax.jit(jax.vmap(size))(t, jnp.asarray(xs)))
    yield {
        "measured": "residual, scale-free, of 0",
        "score": "exact mixture",
        "evaluations": "",
        "largest": float(found.max()),
        "median": float(np.median(found)),
    }


def double(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64) if eqx.is_inexact_array(leaf) else leaf, tree)


def told(template: str, rows: Iterator[Row]) -> list[Row]:
    """The rows of a table, printed as they come; where one fails they end."""
    seen = list[Row]()
    try:
        for row in rows:
            seen.append(row)
            print(table(template, [row]).splitlines()[-1], flush=True)
    except Exception as failure:
        failed(f"A table ends after {len(seen)} rows", failure)
    return seen


def failed(what: str, failure: Exception) -> None:
    """What fails is named, and the rest goes on: a card is at hand for a few minutes."""
    FAILED.append(f"{what}: {(str(failure) or repr(failure)).splitlines()[0][:200]}")
    print(FAILED[-1], flush=True)


def main() -> None:
    parser: argparse.ArgumentParser = arguments(__doc__, 5, "accelerator")
    parser.add_argument("--size", choices=SIZES, help="the network: card on an accelerator, small on a CPU")
    options = parser.parse_args()
    name = options.size or ("small" if jax.default_backend() == "cpu" else "card")
    size, rounds, large = SIZES[name], options.rounds, SIZES["card"]
    about = (
        f"{jax.devices()[0].device_kind}; {machine(diffrax)}. `UNet` of {count(size['name']) / 1e6:.1f} million "
        f"parameters, batches of {size['batch']}; {rounds} rounds. The programs of one precision are compiled at the "
        f"same time. Keys are fixed. A step of DSM of the network for a card, with "
        f"{count('card') / 1e6:.1f} million parameters and batches of {large['batch']}, is "
        f"{operations('card') / 1e12:.2f} TFLOP."
    )
    print(about, flush=True)
    tables: dict[str, list[Row]] = {template: [] for template in (STEPS, SAMPLES, MEASURES)}
    with ThreadPoolExecutor() as pool:
        stages = [
            *((STEPS, lambda precision=precision: steps(size, rounds, precision, pool)) for precision in PRECISIONS),
            (STEPS, lambda: in_torch(size, rounds)),
            (SAMPLES, lambda: samples(size, rounds, pool)),
            (MEASURES, measures),
        ]
        for template, stage in stages:
            begin = time.perf_counter()
            tables[template] += told(template, stage())
            print(f"after {time.perf_counter() - begin:.0f} s more\n", flush=True)
            # A card is at hand for a few minutes: what there is goes to the files after each stage.
            text = "\n".join(table(template, rows) for template, rows in tables.items() if rows)
            rows = [row for found in tables.values() for row in found]
            report("accelerator", text, rows, about + "".join(f" {failure}." for failure in FAILED), options.out)


if __name__ == "__main__":
    main()
