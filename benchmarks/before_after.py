"""Time of this tree over that of another one, an earlier commit for example.

    git worktree add ../before 31fac99
    python benchmarks/before_after.py ../before

One process for each tree; in each round both run every program once, one after the other, so that a machine that slows
down slows both. A number is the median over rounds of the time of this tree over that of the other one in the same
round; in brackets deciles 1 and 9. The programs are those of a user: steps of `fit`, residuals, samples, likelihoods,
by an `MLP` in 2 and 64 dimensions and a small `UNet` on 8×8 images, in float32. Which of the two goes first changes
from round to round.
"""

import argparse
import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import optax
from _timing import machine, spread, table

import scorefp as sfp
from scorefp import train

SDE, ADAM = sfp.VP(), optax.adam(1e-3)
NETWORKS = ["MLP 2", "MLP 64", "UNet"]
TABLE = """\
| network | program | ms before | ms after | after over before |
| --- | --- | ---: | ---: | ---: |
| {network} | {program} | {before:.2f} | {after:.2f} | {ratio:.2f} |
"""


def scores() -> dict[str, sfp.score.NetworkScore]:
    """The networks, with weights that are not zero in the last layer."""

    def awake(network: Any) -> sfp.score.NetworkScore:
        weight = 0.02 * jr.normal(jr.key(1), network.leave.weight.shape)
        return sfp.NoiseScore(eqx.tree_at(lambda n: n.leave.weight, network, weight), SDE)

    mlps = {f"MLP {d}": awake(sfp.nn.MLP((d,), width=128, key=jr.key(0))) for d in (2, 64)}
    unet = sfp.nn.UNet((1, 8, 8), channels=16, multipliers=(1, 2), attention=(4,), key=jr.key(0))
    return mlps | {"UNet": awake(unet)}


def programs(networks: list[str]) -> dict[tuple[str, str], Callable[[], Any]]:
    """What is timed, by network and name."""
    found: dict[tuple[str, str], Callable[[], Any]] = {}
    for name, score in scores().items():
        if name not in networks:
            continue
        small = name == "UNet"
        assert score.shape is not None
        x = jr.normal(jr.key(2), (64 if small else 256, *score.shape))
        few = x[: 8 if small else 64]
        losses = {"DSM": sfp.DSM(), "DSM + ScoreFPE(1/4)": sfp.DSM() + 0.5 * sfp.ScoreFPE(fraction=0.25)}
        for text, loss in losses.items():
            options: dict[str, Any] = {"optimizer": ADAM, "steps": 32 if small else 256, "batch_size": 64}
            found[name, f"fit, {text}"] = functools.partial(
                train.fit, score, loss, x, key=jr.key(3), progress=False, report_every=options["steps"], **options
            )
        for method in (sfp.EulerMaruyama(100), sfp.Heun(25), sfp.DPMSolver(50), sfp.ProbabilityFlow()):
            text = f"sample, {type(method).__name__}"
            found[name, text] = functools.partial(sfp.sample, score, len(x), key=jr.key(4), method=method)
        residual = eqx.filter_jit(jax.vmap(functools.partial(sfp.score_fpe_residual, score, 0.3)))
        keyed = lambda key, x, score=score: sfp.score_fpe_residual(score, 0.3, x, method=sfp.Antithetic(), key=key)
        found[name, "residual, Antithetic"] = functools.partial(
            eqx.filter_jit(jax.vmap(keyed)), jr.split(jr.key(5), len(x)), x
        )
        if not small:
            found[name, "residual, exact"] = functools.partial(residual, few)
        likelihood: dict[str, Any] = {"trace": sfp.Hutchinson(), "key": jr.key(6), "common_steps": True}
        found[name, "log-likelihood"] = functools.partial(sfp.flow_likelihood, score, few, **likelihood)
    return found


def serve(networks: list[str]) -> None:
    """Runs a program for each line read, and writes its seconds."""
    known = programs(networks)
    print(len(known), flush=True)
    for line in sys.stdin:
        run = list(known.values())[int(line)]
        begin = time.perf_counter()
        jax.block_until_ready(eqx.filter(run(), eqx.is_array))
        print(time.perf_counter() - begin, flush=True)


def server(tree: Path, networks: list[str]) -> subprocess.Popen[str]:
    """A process that has the library of a tree."""
    environment = os.environ | {"PYTHONPATH": str(tree.resolve())}
    command = [sys.executable, __file__, str(tree), "--serve", "--networks", *networks]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="the folder of the other tree")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.networks)
    trees = [server(tree, options.networks) for tree in (options.before, Path(__file__).parent.parent)]

    def asked(process: subprocess.Popen[str], index: int) -> float:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{index}\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    for process in trees:
        assert process.stdout is not None
        process.stdout.readline()
    names, rows = list(programs(options.networks)), []
    for index, (network, program) in enumerate(names):
        seconds = np.zeros((options.rounds, 2))
        for round_ in range(-1, options.rounds):  # the first one compiles
            for which in (0, 1) if round_ % 2 else (1, 0):
                value = asked(trees[which], index)
                if round_ >= 0:
                    seconds[round_, which] = value
        before, after = 1e3 * np.median(seconds, axis=0)
        ratio = spread(seconds[:, 1] / seconds[:, 0])
        rows.append({"network": network, "program": program, "before": before, "after": after, "ratio": ratio})
        print(table(TABLE, rows[-1:]).splitlines()[-1], flush=True)
    for process in trees:
        process.kill()
    print(f"\n{table(TABLE, rows)}\n{options.rounds} rounds; {machine(optax)}. In brackets deciles 1 and 9.")


if __name__ == "__main__":
    main()
