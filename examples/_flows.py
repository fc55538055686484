"""Flows of flowjax on the logits of pixels, the baseline of scores of images, and what computing time both took."""

import dataclasses
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _cells
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import scorefp as sfp
from scorefp import data, train


@dataclasses.dataclass(frozen=True)
class Flow:
    """Which flows are fitted to the logits of the pixels."""

    sizes: tuple[tuple[int, int], ...] = ((5, 512), (10, 512), (5, 1024))
    """Layers, and the width of the network in each."""
    decays: tuple[float, ...] = (0.0, 1.0)
    """Of the weights, by AdamW."""
    rate: float = 5e-4
    batch_size: int = 64
    patience: int = 8
    """After how many epochs without a better value on the images held out a flow stops."""


class Clock:
    """The computing time of a training in CPU seconds: steps times the median over its reports."""

    def __init__(self) -> None:
        self.last: float | None = None
        self.each: list[float] = []

    def __call__(self, report: train.Report) -> None:
        now = time.process_time()
        if self.last is not None:
            self.each.append((now - self.last) / (report.step - report.first))
        self.last = now

    def seconds(self, folder: Path, steps: int) -> float:
        """Kept beside the checkpoints, as a run that goes on at its end makes no step."""
        kept = folder / "cpu_seconds_per_step.txt"
        if self.each:
            kept.write_text(f"{np.median(self.each)}\n", encoding="utf-8")
        return float(kept.read_text(encoding="utf-8")) * steps


def shown(report: train.Report) -> None:
    """One line in ten reports."""
    if report.step % (10 * (report.step - report.first)) == 0 or report.step == report.steps:
        metrics = {name: f"{value:.4g}" for name, value in report.metrics.items()}
        print(f"  step {report.step} of {report.steps}: {metrics}", flush=True)


class Logits(eqx.Module):
    r"""Pixels as $\operatorname{logit}(\lambda + (1 - 2\lambda)u)$ of their place $u$ in [0, 1], $\lambda =
    10^{-6}$."""

    low: float
    span: float

    def __init__(self, quantisation: sfp.Quantisation) -> None:
        self.low, self.span = quantisation.low, quantisation.high - quantisation.low

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The logits, and the logarithm of the Jacobian's determinant."""
        share = 1 - 2e-6
        u = 1e-6 + share * (x - self.low) / self.span
        slopes = jnp.log(share / self.span) - jnp.log(u) - jnp.log1p(-u)
        return jax.scipy.special.logit(u), jnp.sum(slopes)


class FlowStep(eqx.Module):
    """One step of maximum likelihood, and the likelihood; each compiled once."""

    static: Any
    optimizer: optax.GradientTransformation = eqx.field(static=True)
    logits: Logits

    @eqx.filter_jit
    def __call__(self, params: Any, state: Any, x: jax.Array) -> tuple[Any, Any]:
        grads = jax.grad(lambda params: -jnp.mean(self.log_prob(params, x)))(params)
        updates, state = self.optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    @eqx.filter_jit
    def log_prob(self, params: Any, x: jax.Array) -> jax.Array:
        """The log-likelihoods of images."""
        z, log_det = jax.vmap(self.logits)(x)
        return eqx.combine(params, self.static).log_prob(z) + log_det


class FlowFit:
    """A flow of flowjax behind the affine map that standardises the logits, and its training with early stopping.

    Every epoch sees the images with fresh noise.
    """

    def __init__(
        self, settings: Flow, layers: int, width: int, decay: float, images: data.Dataset, logits: Logits, seed: int
    ) -> None:
        import paramax
        from flowjax import bijections, distributions, flows

        self.settings, self.images, self.key = settings, images, jr.key(3002 + seed)
        z, _ = jax.vmap(logits)(jnp.asarray(flat(images, jr.key(3000 + seed))))
        base = distributions.Normal(jnp.zeros(z.shape[1]))
        flow = flows.masked_autoregressive_flow(jr.key(seed), base_dist=base, flow_layers=layers, nn_width=width)
        flow = distributions.Transformed(flow, bijections.Affine(z.mean(0), z.std(0)))
        self.params, static = eqx.partition(
            flow, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable)
        )
        optimizer = optax.chain(optax.clip_by_global_norm(100.0), optax.adamw(settings.rate, weight_decay=decay))
        self.step = FlowStep(static, optimizer, logits)
        self.best, self.curve = np.inf, list[float]()

    def run(self, measure: Callable[[Callable[[Any], Any]], float], seconds: float) -> None:
        """Trains until the measure has not fallen for some epochs, or the CPU seconds are over; keeps the best."""
        begin, size = time.process_time(), self.settings.batch_size
        params, state, waited = self.params, self.step.optimizer.init(self.params), 0
        while waited <= self.settings.patience:
            self.key, order_key, noise_key = jr.split(self.key, 3)
            x = jnp.asarray(flat(self.images, noise_key))[jr.permutation(order_key, len(self.images))]
            for i in range(0, len(x) - size + 1, size):
                params, state = self.step(params, state, x[i : i + size])
            self.curve.append(measure(lambda x, params=params: self.step.log_prob(params, jnp.asarray(x))))
            waited += 1
            if self.curve[-1] < self.best:
                self.best, self.params, waited = self.curve[-1], params, 0
            if time.process_time() - begin > seconds:
                break

    def log_prob(self, x: np.ndarray) -> jax.Array:
        """The log-likelihoods of images."""
        return self.step.log_prob(self.params, jnp.asarray(x))


def flat(images: data.Dataset, key: jax.Array) -> np.ndarray:
    """Dequantised images as rows."""
    return np.asarray(images.dequantised(key).values).reshape(len(images), -1)


def fitted_flow(
    settings: Flow, rest: data.Dataset, chosen: data.Dataset, *, seconds: float, seed: int
) -> tuple[dict[str, Any], FlowFit]:
    """The flow that is best on images held out, of those that the CPU seconds allow, and the facts of its choice."""
    begin, held_out, levels = time.process_time(), flat(chosen, jr.key(3001 + seed)), rest.quantisation
    assert levels is not None
    size = held_out.shape[1]
    measure = lambda log_prob: float(np.mean(sfp.bits_per_dim(np.asarray(log_prob(held_out)), size, levels)))
    fits: dict[tuple[int, int, float], FlowFit] = {}
    for (layers, width), decay in itertools.product(settings.sizes, settings.decays):
        left = seconds - (time.process_time() - begin)
        if not fits or left > 0:
            fit = FlowFit(settings, layers, width, decay, rest, Logits(levels), seed)
            fit.run(measure, left)
            fits[layers, width, decay] = fit
            print(f"  flow {layers, width, decay}: {fit.best:.3f} bits/dim, {len(fit.curve)} epochs", flush=True)
    best = min(fits, key=lambda candidate: fits[candidate].best)
    return {
        "cpu_seconds": time.process_time() - begin,
        "chosen": best,
        "epochs": len(fits[best].curve),
        "candidates": _cells.rounded([[*candidate, fit.best] for candidate, fit in fits.items()]),
        "curve": _cells.rounded(fits[best].curve),
    }, fits[best]
