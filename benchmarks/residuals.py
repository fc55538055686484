"""Time of a training step with a Fokker–Planck penalty over that of a plain DSM step.

    python benchmarks/residuals.py

For three networks, one table: the median time of a step of `DSM() + ScoreFPE(method)` for each method, and its ratio to
the step of `DSM()`, the median of ratios of rounds in which all methods take turns, so that a machine that slows down
slows all of them. Beside it the ratio of floating-point operations that XLA counts, which no noise touches. A step is
that of `scorefp.train.fit`: batch, loss, gradient, clipping, Adam and the average of the parameters. Key 0 throughout.

The activation is `scorefp.nn.silu`; with `--plain-silu` it is `jax.nn.silu`, whose higher derivatives JAX forms itself.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import scorefp as sfp
from scorefp.data import Dataset
from scorefp.train import Resident, TrainStep, split

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


def networks(plain: bool) -> dict[str, tuple[Callable[..., jax.Array], tuple[int, ...], int]]:
    """By name: a network, its event shape and the batch."""
    activation = jax.nn.silu if plain else sfp.nn.silu
    flat = {
        f"MLP (D, batch, width) = ({size}, {batch}, {width})": (
            sfp.nn.MLP((size,), width=width, activation=activation, key=jr.key(0)),
            (size,),
            batch,
        )
        for size, batch, width in [(64, 256, 256), (784, 128, 512)]
    }
    conv = ConvNet(16, activation, key=jr.key(0))
    return flat | {"convolutional, 1×16×16, batch 64": (conv, conv.shape, 64)}


def compiled(network: Any, shape: tuple[int, ...], batch: int, loss: Any) -> tuple[Any, Any, float]:
    """A compiled training step, its state, and the operations XLA counts in it."""
    if isinstance(network, sfp.nn.MLP):
        # The last layer starts at zero; that of a network in training is not.
        weight = 0.02 * jr.normal(jr.key(1), network.leave.weight.shape)
        network = eqx.tree_at(lambda n: n.leave.weight, network, weight)
    data = Dataset(jr.normal(jr.key(2), (4 * batch, *shape)))
    params, skeleton = split(sfp.NoiseScore(network, sfp.VP(), data_std=1.0))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    step = TrainStep(skeleton, loss, optimizer, sfp.UniformLogSNR(), batch, (0.999,), False)
    state = step.init(params, key=jr.key(3))
    arrays, rest = eqx.partition((step, state, data), eqx.is_array)

    def one(arrays: Any) -> Any:
        step, state, data = eqx.combine(arrays, rest)
        return eqx.filter(step.step(state, Resident(data), jnp.asarray(0)), eqx.is_array)

    program = jax.jit(one).lower(arrays).compile()
    return program, arrays, program.cost_analysis()["flops"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10, help="steps of a method in one round")
    parser.add_argument("--plain-silu", action="store_true")
    options = parser.parse_args()
    console = Console(width=100)
    for title, (network, shape, batch) in networks(options.plain_silu).items():
        programs = {name: compiled(network, shape, batch, loss) for name, loss in METHODS.items()}
        seconds = {name: np.zeros(options.rounds) for name in METHODS}
        for program, arrays, _ in programs.values():
            jax.block_until_ready(program(arrays))
        for i in range(options.rounds):
            for name, (program, arrays, _) in programs.items():
                begin = time.perf_counter()
                for _ in range(options.steps):
                    out = program(arrays)
                jax.block_until_ready(out)
                seconds[name][i] = (time.perf_counter() - begin) / options.steps
        view = Table(title=title, title_justify="left")
        for heading in ("step", "ms, median", "time over DSM", "operations over DSM"):
            view.add_column(heading, justify="left" if heading == "step" else "right")
        for name, (_, _, operations) in programs.items():
            ratios = seconds[name] / seconds["DSM"]
            low, middle, high = np.quantile(ratios, [0.1, 0.5, 0.9])
            view.add_row(
                name,
                f"{1e3 * np.median(seconds[name]):.2f}",
                f"{middle:.2f} ({low:.2f}, {high:.2f})",
                f"{operations / programs['DSM'][2]:.2f}",
            )
        console.print(view)
    console.print(
        f"jax {jax.__version__}, {options.rounds} rounds of {options.steps} steps; in brackets deciles 1 and 9"
    )


if __name__ == "__main__":
    main()
