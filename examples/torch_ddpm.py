"""A DDPM of PyTorch on 8×8 digits, measured and sampled: a table of 1,000 betas from the training loop to bits/dim.

The network and its training know nothing of JAX: a small U-Net that predicts the noise, called with the step as an
integer, in the loop of Ho 2020. Then the table becomes a smooth SDE and the module a score of it.

    python examples/torch_ddpm.py

The weights stay in `.cache/torch_ddpm/`; each question, a sampler or the likelihood, writes one JSON file to
`docs/assets/torch_ddpm/` and is skipped when the file is there. The table is made from these files alone. A file made
with other settings is refused; give `--out` another folder then.
"""

import copy
import dataclasses
import functools
import math
import time
from pathlib import Path
from typing import Any

import _cells
import jax.random as jr
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import scorefp as sfp
from scorefp import data, diagnostics
from scorefp.sampling import Denoised, NodeGrid
from scorefp.sde import DiscreteSDE

SHAPE, STEPS = (1, 8, 8), 1000
BETAS = np.linspace(1e-4, 0.02, STEPS)  # of Ho 2020


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a cell depends on beside its name."""

    steps: int = 2000
    channels: int = 16
    batch: int = 64
    rate: float = 2e-3
    samples: int = 120
    likelihoods: int = 40


@dataclasses.dataclass(frozen=True)
class Cell(_cells.Named):
    """One question to the model of one seed."""

    question: str
    seed: int


def main(arguments: list[str] | None = None) -> None:
    parser = _cells.parser(__doc__, out="docs/assets/torch_ddpm")
    parser.add_argument("--weights", type=Path, default=Path(".cache/torch_ddpm"), help="the folder of the weights")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="training steps")
    options = parser.parse_args(arguments)
    ask = functools.partial(answer, options.weights)
    of = [Cell(question, 0) for question in (*SAMPLERS, REAL, LIKELIHOOD)]
    text = table(_cells.cells(options.out, of, Settings(steps=options.steps), ask))
    _cells.write(options.out / "torch_ddpm.md", text)
    print(text)


# ------------------------------------------------------------------------------------------------ PyTorch alone
class Block(nn.Module):
    """Group norm and convolution twice, the time between them, attention behind."""

    def __init__(self, enters: int, channels: int, *, attends: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(8, n) for n in (enters, channels)])
        self.convs = nn.ModuleList([nn.Conv2d(n, channels, 3, padding=1) for n in (enters, channels)])
        self.shift = nn.Linear(4 * 32, channels)
        self.shortcut = nn.Conv2d(enters, channels, 1)
        self.attention = nn.MultiheadAttention(channels, 4, batch_first=True) if attends else None

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.convs[0](F.silu(self.norms[0](x))) + self.shift(e)[:, :, None, None]
        h = self.shortcut(x) + self.convs[1](F.silu(self.norms[1](h)))
        if self.attention is None:
            return h
        pixels = h.flatten(2).transpose(1, 2)
        return h + self.attention(pixels, pixels, pixels)[0].transpose(1, 2).reshape(h.shape)


class UNet(nn.Module):
    """Two resolutions, called as `module(x, step)`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(64, 4 * 32), nn.SiLU(), nn.Linear(4 * 32, 4 * 32), nn.SiLU())
        self.enter = nn.Conv2d(1, channels, 3, padding=1)
        self.down = Block(channels, channels, attends=False)
        self.middle = nn.ModuleList(
            [Block(channels, 2 * channels, attends=True), Block(2 * channels, 2 * channels, attends=False)]
        )
        self.up = Block(3 * channels, channels, attends=False)
        self.norm, self.leave = nn.GroupNorm(8, channels), nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        rates = torch.exp(-math.log(10_000) * torch.arange(32, dtype=x.dtype, device=x.device) / 32)
        turns = step.to(x.dtype)[:, None] * rates
        e = self.time(torch.cat([turns.sin(), turns.cos()], dim=1))
        wide = self.down(self.enter(x), e)
        small = F.avg_pool2d(wide, 2)
        for block in self.middle:
            small = block(small, e)
        both = torch.cat([wide, F.interpolate(small, scale_factor=2)], dim=1)
        return self.leave(F.silu(self.norm(self.up(both, e))))


def train(levels: Tensor, settings: Settings, seed: int) -> UNet:
    """The loop of Ho 2020 (Algorithm 1), and an average of the weights.

    Noise fills the width of the 17 levels, so that the images have a density.
    """
    torch.manual_seed(seed)
    alpha_bar = torch.tensor(np.cumprod(1 - BETAS), dtype=torch.float32)
    network = UNet(settings.channels)
    average = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    for i in range(settings.steps):
        x0 = levels[torch.randint(len(levels), (settings.batch,))]
        x0 = 2 * (x0 + torch.rand_like(x0)) / 17 - 1
        step, noise = torch.randint(STEPS, (settings.batch,)), torch.randn_like(x0)
        kept = alpha_bar[step][:, None, None, None]
        loss = F.mse_loss(network(kept.sqrt() * x0 + (1 - kept).sqrt() * noise, step), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for mean, new in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(new, max(5e-3, 1 / (i + 1)))
    return average.eval()


def network(folder: Path, settings: Settings, seed: int) -> UNet:
    """The trained network, from its file where that is there."""
    made = {name: getattr(settings, name) for name in ("steps", "channels", "batch", "rate")}
    path, found = folder / f"unet-{_cells.fingerprint([made, seed])}.pt", UNet(settings.channels)
    if not path.exists():
        begin = time.perf_counter()
        levels = data.digits("train").reshaped(SHAPE).values
        trained = train(torch.tensor(np.asarray(levels), dtype=torch.float32), settings, seed)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(trained.state_dict(), path)
        print(f"trained in {time.perf_counter() - begin:.0f} s", flush=True)
    found.load_state_dict(torch.load(path))
    return found.eval()


# ------------------------------------------------------------------------------------------------ scorefp
def wrapped(module: nn.Module, time: sfp.score.TimeInput) -> sfp.score.NetworkScore:
    """The module as a score of the smooth process through its table."""
    call = sfp.score.TorchCall(time=time)
    return sfp.score.from_torch(module, DiscreteSDE.from_betas(BETAS), call=call, shape=SHAPE)


SAMPLERS: dict[str, tuple[Any, sfp.score.TimeInput]] = {
    "ancestral, 999 steps": (
        Denoised(sfp.ExponentialIntegrator(STEPS - 1, NodeGrid(), noise=1.0)),
        sfp.score.whole_step_time,
    ),
    "ancestral, 100 steps": (
        Denoised(sfp.ExponentialIntegrator(100, NodeGrid(), noise=1.0)),
        sfp.score.whole_step_time,
    ),
    "DDIM, 20 steps": (sfp.ExponentialIntegrator(20, NodeGrid()), sfp.score.whole_step_time),
    "DPM-Solver++, 20 steps": (sfp.DPMSolver(20), sfp.score.step_time),
    "DPM-Solver++, 10 steps": (sfp.DPMSolver(10), sfp.score.step_time),
}
REAL, LIKELIHOOD = "images of the training set", "bits per dimension"


def answer(weights: Path, cell: Cell, settings: Settings) -> dict[str, Any]:
    """Samples of a method and their distance from the test set; or bits/dim of the probability flow there."""
    module, test = network(weights, settings, cell.seed), data.digits("test").reshaped(SHAPE)
    if cell.question == LIKELIHOOD:
        measure = diagnostics.Likelihood(samples=settings.likelihoods)
        audit = sfp.audit(wrapped(module, sfp.score.step_time), test, key=jr.key(1), measures=[measure])
        numbers = audit["likelihood"].numbers
        bits = {name: [number.value, number.half_width] for name, number in numbers.items()}
        return _cells.rounded({"numbers": bits}, 4)
    begin = time.perf_counter()
    if cell.question == REAL:
        x = np.asarray(data.digits("train").reshaped(SHAPE).dequantised(jr.key(4)).values)[: settings.samples]
    else:
        method, given = SAMPLERS[cell.question]
        x = np.asarray(sfp.sample(wrapped(module, given), settings.samples, key=jr.key(2), method=method))
    seconds = time.perf_counter() - begin
    real = np.asarray(test.dequantised(jr.key(3)).values)[: settings.samples]
    distance = sfp.wasserstein2(x.reshape(len(x), -1), real.reshape(len(real), -1))
    return _cells.rounded({"seconds": seconds, "w2": float(distance.value), "samples": x[:8].tolist()}, 4)


# ------------------------------------------------------------------------------------------------ the table
def table(found: dict[Cell, dict[str, Any]]) -> str:
    """Samplers with their distances, and bits per dimension below."""
    body = [[cell.question, f"{result['w2']:.2f}"] for cell, result in found.items() if cell.question != LIKELIHOOD]
    numbers = next(result["numbers"] for cell, result in found.items() if cell.question == LIKELIHOOD)
    (mean, half), (exploded, _) = numbers["bits_per_dim"], numbers["exploded"]
    headings = ["sampler", "squared Wasserstein distance from the test set"]
    return (
        _cells.markdown(headings, body, left=1)
        + f"\nBits per dimension of the test set: {mean:.3f} ± {half:.3f}; {exploded:.0%} of trajectories exploded.\n"
    )


if __name__ == "__main__":
    main()
