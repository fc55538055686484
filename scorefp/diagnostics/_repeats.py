"""Values of each sample by several draws of its levels and of its estimate, and the units of likelihoods."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Shaped

from .._batches import apart, in_batches, on_mesh
from .._checks import require
from .._describe import described
from .._module import AbstractModule
from .._types import Event, Key, Scalar
from ..dataset import AbstractDequantiser, Dataset, Quantisation, UniformDequantiser, bits_per_dim
from ..score import AbstractScore
from ..score.score import conditioned

_T = TypeVar("_T")


def check_samples(samples: int | None, batch_size: int, repeats: int = 1) -> None:
    """Refuses counts that are too small."""
    require(samples is None or samples >= 2, f"samples = {samples}; a confidence interval needs at least two samples.")
    require(repeats >= 1, f"repeats = {repeats}; each sample is taken at least once.")
    require(batch_size >= 1, f"batch_size = {batch_size}; at least one sample is taken at once.")


def own_dequantiser(data: Dataset, given: AbstractDequantiser | None) -> AbstractDequantiser | None:
    """The dequantiser of the data: the given one, else uniform noise; `None` for floats.

    Raises:
        ValueError: if one is given for floats, or it has another quantisation than the data.
    """
    if data.levels is None:
        require(
            given is None,
            f"dequantiser is a {type(given).__name__}, but the data have no levels to dequantise. Give levels "
            "with their quantisation, as a Dataset, or leave the dequantiser out.",
        )
        return None
    found = UniformDequantiser(data.levels) if given is None else given
    require(
        found.quantisation == data.quantisation,
        f"the dequantiser has the quantisation {described(found.quantisation)}, the data have "
        f"{described(data.quantisation)}. Build the dequantiser from that of the data.",
    )
    return found


def in_repeats(
    fn: Callable[[AbstractScore, Event, Key], _T],
    score: AbstractScore,
    data: Dataset,
    dequantiser: AbstractDequantiser | None,
    repeats: int,
    *,
    key: Key,
    batch_size: int,
    mesh: Mesh | None,
) -> tuple[_T, Float[Array, "repeats n"]]:
    """`fn` of every repeat of every sample, and the log-density of the noise inside its levels.

    Args:
        fn: Called as `fn(score, x, key)` with the score that knows the conditioning of the sample. A module, or the
            method of one: it is then compiled once.
        score: Any score.
        data: Floats, or levels, which each repeat dequantises anew.
        dequantiser: How; `None` for floats.
        repeats: How often each sample is taken.
        key: A random key.
        batch_size: How many are taken at once.
        mesh: The devices that share them; `None` is one.
    """
    count = len(data)
    arguments = (fn, score, data.values, data.args, dequantiser, repeats, key, batch_size)
    found = on_mesh(_in_repeats, mesh, repeats * count, *arguments)
    return jax.tree.map(lambda leaf: leaf.reshape(repeats, count, *leaf.shape[1:]), found)


@eqx.filter_jit
def _in_repeats(
    fn: Callable[[AbstractScore, Event, Key], _T],
    score: AbstractScore,
    values: Shaped[Array | np.ndarray, "n *event"],
    args: Any,
    dequantiser: AbstractDequantiser | None,
    repeats: int,
    key: Key,
    batch_size: int,
    mesh: Mesh | None,
) -> tuple[_T, Float[Array, " index"]]:
    count = len(values)

    def one(index: Int[Array, ""]) -> tuple[_T, Scalar]:
        row, own = index % count, jr.fold_in(key, index)
        x, log_noise = values[row], jnp.zeros(())
        if dequantiser is not None:
            # What `fn` draws is the same for every dequantiser, so that two of them differ by their noise alone.
            inside = dequantiser.inside(x, key=apart(own))
            x, log_noise = inside.x, inside.log_prob
        return fn(conditioned(score, args, row), x, own), log_noise

    return in_batches(one, repeats * count, batch_size, mesh)


def told(count: int, repeats: int, dequantiser: AbstractDequantiser | None) -> str:
    """The samples behind the values, for a note."""
    parts = [f"{count} samples"]
    if repeats > 1:
        parts.append(f"{repeats} times each")
    if dequantiser is not None:
        levels = dequantiser.quantisation
        parts.append(f"{levels.levels} levels on [{levels.low:g}, {levels.high:g}]")
        parts.append(f"dequantised by a {type(dequantiser).__name__}")
    return ", ".join(parts) + ("" if len(parts) == 1 else ",")


class Unit(AbstractModule):
    """The unit of likelihoods: bits per dimension where there is a quantisation [K7], nats a sample elsewhere.

    Args:
        size: The number of elements of one sample.
        quantisation: The levels of the samples.
    """

    size: int
    quantisation: Quantisation | None

    @property
    def name(self) -> str:
        """Its name beside a number."""
        return "nats" if self.quantisation is None else "bits/dim"

    def negative(self, log_prob: Float[Array, "*batch"]) -> Float[np.ndarray, "*batch"]:
        """Negative log-likelihoods from log-likelihoods in nats."""
        if self.quantisation is None:
            return -np.asarray(log_prob, np.float64)
        return np.asarray(bits_per_dim(log_prob, self.size, self.quantisation), np.float64)

    def part(self, nats: Float[Array | np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
        """Terms of a log-likelihood, or differences of two, from nats: they do not depend on the width of a level."""
        return np.asarray(nats, np.float64) / (1 if self.quantisation is None else self.size * math.log(2))
