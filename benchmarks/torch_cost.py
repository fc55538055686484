"""A PyTorch score beside native JAX: time of the value, of derivatives and of an ODE's velocity with its divergence.

    python benchmarks/torch_cost.py --out docs/assets

The U-Net of `scorefp.nn` and the one of `_unet_in_torch.py`, of the same layers and widths, with untrained weights, on
64 samples of shape (1, 16, 16) in float32. All programs take turns in a round; times are medians over rounds. *The call
alone* is a function of torch that returns its argument: what it costs to leave JAX and to come back.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from _timing import Row, arguments, in_turns, machine, milliseconds, report, table, timed

import scorefp as sfp
from scorefp.score import TorchCall, TorchNetwork

try:
    import torch
    from _unet_in_torch import UNet
except ModuleNotFoundError:
    print("PyTorch is not installed: no row")
    raise SystemExit from None

SHAPE, COUNT, SDE = (1, 16, 16), 64, sfp.VP()
NETWORK: dict[str, Any] = {"channels": 16, "multipliers": (1, 2), "blocks": 1, "attention": 8}

TABLE = """\
| one batch of 64 | JAX, ms | PyTorch, ms | ratio |
| --- | ---: | ---: | ---: |
| {question} | {jax:.1f} | {torch:.1f} | {ratio:.1f} |
"""


def questions() -> dict[str, Callable[[Any], Any]]:
    """What is asked of a score, for one sample."""
    t, key = jnp.asarray(0.3), jr.key(1)
    trace = sfp.Hutchinson()
    return {
        "value": lambda s: lambda x: s(t, x),
        "gradient of its square": lambda s: jax.grad(lambda x: jnp.sum(s(t, x) ** 2)),
        "velocity and divergence, one probe": lambda s: (
            lambda x: sfp.calculus.value_and_divergence(lambda y: s.probability_flow(t, y), x, trace=trace, key=key)
        ),
        "residual by Ito(1)": lambda s: lambda x: sfp.score_fpe_residual(s, t, x, method=sfp.Ito(), key=key),
    }


def rows(rounds: int) -> list[Row]:
    call = TorchCall(time=sfp.score.physical_time, time_first=True)
    sizes = NETWORK | {"shape": SHAPE}
    module = UNet(**sizes).eval()
    scores = {
        "jax": sfp.NoiseScore(sfp.nn.UNet(**sizes | {"attention": (8,)}, key=jr.key(0)), SDE),
        "torch": sfp.NoiseScore(TorchNetwork(module, SDE, call, SHAPE), SDE),
    }
    x = 0.3 * jr.normal(jr.key(2), (COUNT, *SHAPE))
    empty = TorchNetwork(lambda t, x: x, SDE, call)
    programs: dict[tuple[str, str], Any] = {
        ("the call alone", "torch"): jax.jit(jax.vmap(lambda x: empty(0.3, x))),
        ("the call alone", "jax"): jax.jit(lambda x: x + 0),
    }
    for question, ask in questions().items():
        programs |= {(question, name): jax.jit(jax.vmap(ask(score))) for name, score in scores.items()}
    seconds = in_turns({name: timed(program, x) for name, program in programs.items()}, rounds)
    return [
        {
            "question": question,
            "jax": milliseconds(seconds[question, "jax"]),
            "torch": milliseconds(seconds[question, "torch"]),
            "ratio": milliseconds(seconds[question, "torch"]) / milliseconds(seconds[question, "jax"]),
        }
        for question in dict.fromkeys(question for question, _ in programs)
    ]


if __name__ == "__main__":
    options = arguments(__doc__, 21, "torch_cost").parse_args()
    found = rows(options.rounds)
    note = f"{machine(torch)}, {torch.get_num_threads()} threads of PyTorch; medians over {options.rounds} rounds"
    report("torch_cost", table(TABLE, found), found, note, options.out)
