"""The U-Net of `scorefp.nn` and a step of its training in PyTorch, as a user of PyTorch writes them for speed.

The same layers with the same widths, so the same number of parameters and of products; channels-last, compiled, with
fused Adam, and the low precision by autocast. It is there to be timed: weights are PyTorch's own.
"""

import math
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES = 17


class Block(nn.Module):
    """Norm, activation and convolution twice, the time between them, attention behind."""

    def __init__(self, channels: int, out: int, embedding: int, *, attends: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList([norm(channels), norm(out)])
        self.convs = nn.ModuleList([nn.Conv2d(channels, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)])
        self.shift = nn.Linear(embedding, out)
        self.shortcut = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)
        self.attention = Attention(out) if attends else None

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.convs[0](F.silu(self.norms[0](x))) + self.shift(e)[:, :, None, None]
        h = (self.shortcut(x) + self.convs[1](F.silu(self.norms[1](h)))) / math.sqrt(2)
        return h if self.attention is None else (h + self.attention(h)) / math.sqrt(2)


class Attention(nn.Module):
    """One head over all pixels, by PyTorch's fused kernel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.enter, self.leave = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = self.enter(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return self.leave(mixed.transpose(1, 2).reshape(n, c, h, w))


class UNet(nn.Module):
    def __init__(
        self, shape: tuple[int, int, int], channels: int, multipliers: tuple[int, ...], blocks: int, attention: int
    ) -> None:
        super().__init__()
        embedding, widths = 4 * channels, [channels * multiplier for multiplier in multipliers]
        sizes = [shape[1] // 2**level for level in range(len(multipliers))]

        def row(count: int, first: int, width: int, size: int, skip: int = 0) -> nn.ModuleList:
            ins = [skip + (width if i else first) for i in range(count)]
            return nn.ModuleList([Block(enters, width, embedding, attends=size == attention) for enters in ins])

        self.times = nn.ModuleList([nn.Linear(FEATURES, embedding), nn.Linear(embedding, embedding)])
        self.enter = nn.Conv2d(shape[0], channels, 3, padding=1)
        firsts, climbing = [channels, *widths[:-1]], [widths[-1], *widths[:0:-1]]
        self.down = nn.ModuleList([row(blocks, *entry) for entry in zip(firsts, widths, sizes, strict=True)])
        self.middle = row(2, widths[-1], widths[-1], sizes[-1])
        turned = zip(climbing, widths[::-1], sizes[::-1], strict=True)
        self.up = nn.ModuleList([row(blocks, *entry, skip=entry[1]) for entry in turned])
        self.norm, self.leave = norm(widths[0]), nn.Conv2d(widths[0], shape[0], 3, padding=1)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        omega = torch.logspace(math.log2(0.5), 3, FEATURES // 2, base=2, device=t.device)
        turns = t[:, None] * omega
        e = self.times[0](torch.cat([t[:, None], turns.sin(), turns.cos()], dim=1))
        e, h, seen = F.silu(self.times[1](F.silu(e))), self.enter(x), []
        for level, blocks in enumerate(self.down):
            h = F.avg_pool2d(h, 2) if level else h
            for block in blocks:
                h = block(h, e)
                seen.append(h)
        for block in self.middle:
            h = block(h, e)
        for level, blocks in enumerate(self.up):
            h = F.interpolate(h, scale_factor=2) if level else h
            for block in blocks:
                h = block(torch.cat([h, seen.pop()], dim=1), e)
        return self.leave(F.silu(self.norm(h)))


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(n for n in range(1, min(32, channels // 4) + 1) if channels % n == 0), channels)


class Step:
    """A step of score matching: noise at a random level, gradient, clip, fused Adam, average of the parameters."""

    def __init__(self, network: dict[str, Any], batch: int, *, low: bool) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        # TF32, as JAX takes it by default on such cards.
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
        self.network = UNet(**network).to(self.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=2e-4, fused=True)
        self.average = [p.detach().clone() for p in self.network.parameters()]
        self.images = torch.rand(8 * batch, *network["shape"], device=self.device)
        self.batch, self.low = batch, low
        self.loss = torch.compile(self._loss)

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name() if self.device == "cuda" else "CPU"

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    def _loss(self, x: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        alpha, sigma = (torch.sigmoid(sign * level).sqrt()[:, None, None, None] for sign in (-1, 1))
        with torch.autocast(self.device, torch.bfloat16, enabled=self.low):
            guess = self.network(level / 8, (alpha * x + sigma * noise).contiguous(memory_format=torch.channels_last))
        return ((guess.float() - noise) ** 2).sum(dim=(1, 2, 3)).mean()

    def __call__(self) -> None:
        x = self.images[torch.randint(len(self.images), (self.batch,), device=self.device)]
        level = 20 * torch.rand(self.batch, device=self.device) - 10
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(x, level, torch.randn_like(x)).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.network.parameters()), 1e-3)

    def seconds(self, steps: int) -> float:
        """The seconds of each of so many steps."""
        begin = time.perf_counter()
        for _ in range(steps):
            self()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - begin) / steps

    @property
    def peak(self) -> int | None:
        """The most memory that was taken, in bytes; `None` where PyTorch does not say."""
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else None
