"""The host's side of every training loop: parts on the device, and a look at the losses between them."""

import time as clock
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._checks import require
from .._module import AbstractModule
from .loop import Records, TrainState
from .reader import AbstractReader
from .supply import AbstractSupply

Part = Callable[[TrainState, AbstractSupply, Int[Array, ""], int], tuple[TrainState, Records]]
"""Up to `size` steps on the device, called as `part(state, supply, count, size)`."""


class Span(AbstractModule):
    """The steps between two reports.

    Args:
        state: The state after them.
        first: The number of the first one.
        step: How many steps are taken after them.
        history: The loss, its terms and the norm of the gradient at each.
        seconds_per_step: The mean time of one.
    """

    state: TrainState
    first: int
    step: int
    history: dict[str, Float[np.ndarray, " steps"]]
    seconds_per_step: float


class Trained(AbstractModule):
    """What all spans together leave: the last state, the records of every step, and the median time of one."""

    state: TrainState
    history: dict[str, Float[np.ndarray, " steps"]]
    seconds_per_step: float


def check_counts(steps: int, report_every: int) -> None:
    """Refuses a run without steps or without reports."""
    require(steps >= 1 and report_every >= 1, f"steps = {steps}, report_every = {report_every}; both are at least 1.")


def in_parts(
    part: Part,
    state: TrainState,
    reader: AbstractReader,
    *,
    start: int,
    steps: int,
    report_every: int,
    report: Callable[[Span], None],
    saved: Callable[[], str],
) -> Trained:
    """Steps `start … steps - 1`; every `report_every` the losses come to the host, are checked and reported.

    Between two reports nothing is copied to the host, and while the device computes the host reads the next batches.

    Args:
        part: Compiled once for a size.
        state: The state before step `start`.
        reader: Hands out the batches.
        start: How many steps are taken already.
        steps: How many steps in all.
        report_every: How many steps lie between two reports.
        report: Called after the check.
        saved: What to say about saved states when the loss stops being finite.

    Raises:
        FloatingPointError: if the loss or the gradient stops being finite; it names the step and the terms.
    """
    spans: list[dict[str, np.ndarray]] = []
    seconds: list[float] = []
    size = reader.size
    while start < steps:
        # Reports stand at multiples of `report_every`, also after a start between two of them.
        first, stop = start, min(start - start % report_every + report_every, steps)
        begin = clock.perf_counter()
        pending: list[tuple[int, Records]] = []
        for at in range(first, stop, size):
            count = min(size, stop - at)
            state, records = part(state, reader.take(count), jnp.asarray(count), size)
            pending.append((count, records))
            if at + count < stop:
                reader.prepare(min(size, stop - at - count))
        reader.prepare(min(size, report_every, steps - stop))
        history = {
            name: np.concatenate([np.asarray(r[name])[:n] for n, r in pending]) for name in _names(pending[0][1])
        }
        seconds.append((clock.perf_counter() - begin) / (stop - first))
        _check_finite(history, first, saved)
        spans.append(history)
        report(Span(state, first, stop, history, seconds[-1]))
        start = stop
    return Trained(
        state=state,
        history={name: np.concatenate([found[name] for found in spans]) for name in spans[0]} if spans else {},
        # The first span holds the compilation.
        seconds_per_step=float(np.median(seconds[1:])) if len(seconds) > 1 else float("nan"),
    )


def _names(records: Records) -> list[str]:
    """The loss, its terms, the norm of the gradient: a compiled function sorts them by name."""
    return ["loss", *(name for name in records if name not in ("loss", "gradient_norm")), "gradient_norm"]


def _check_finite(history: dict[str, np.ndarray], first: int, saved: Callable[[], str]) -> None:
    bad = ~(np.isfinite(history["loss"]) & np.isfinite(history["gradient_norm"]))
    if not bad.any():
        return
    at = int(bad.argmax())
    named = "loss" if not np.isfinite(history["loss"][at]) else "gradient"
    terms = [name for name in list(history)[1:-1] if not np.isfinite(history[name][at])]
    raise FloatingPointError(
        f"the {named} is not finite at step {first + at}; not finite are the terms {terms or 'none by itself'}. "
        f"Lower the learning rate or the weight of the term, or clip gradients.{saved()}"
    )
