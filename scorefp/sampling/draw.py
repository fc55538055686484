"""Batches of samples from a score."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from .._batches import in_batches
from .._checks import count, floating, kind, random_key, require, same_shape, scalar_time
from .._describe import name_of
from .._types import Event, Key, Time
from ..score import AbstractScore
from ..score.score import conditioned, require_score
from ..sde import AbstractSDE
from .euler import EulerMaruyama
from .sampler import AbstractSampler


def sample(
    score: AbstractScore,
    n: int,
    *,
    key: Key,
    method: AbstractSampler = EulerMaruyama(),
    shape: tuple[int, ...] | None = None,
    args: Any = None,
    initial: Float[Array, "n *event"] | None = None,
    batch_size: int | None = None,
    dtype: DTypeLike | None = None,
) -> Float[Array, "n *event"]:
    r"""Draws samples: $x_{t_1}$ from the prior, then the reverse process from `t1` to `t0` [G1].

    Compiled once for a configuration. The same key draws the same points of the prior for every method, so that two
    methods can be compared sample by sample. The model gets no key, so that dropout is off; to keep it, give `bind` a
    key first.

    Args:
        score: Any score on any SDE.
        n: How many samples.
        key: A random key; the same key gives the same samples.
        method: `EulerMaruyama(steps, grid)`, `ProbabilityFlow(integrator)`, `Heun(steps)`, `DPMSolver(steps)` or
            another sampler.
        shape: The event shape, where the score does not know it.
        args: Conditioning, a pytree of arrays with `n` as leading axis, given to the model.
        initial: The starting points of the samples, in place of draws from the prior.
        batch_size: At most how many samples at once, for many samples in bounded memory; all of them by default. The
            samples are the same up to rounding.
        dtype: The precision of the state between evaluations and of the samples. The score is evaluated in that of
            its own arrays: a network in float32 stays so under a state in float64, which Karras 2022 has. The points
            of the prior are the same as without. By default the precision of the prior's draws, or of `initial`.

    Returns:
        The samples, stacked along the leading axis.

    Raises:
        TypeError: if `score` is no score, `method` no sampler, `key` no random key, `n` or `batch_size` a float, or
            `initial` or `dtype` not floating.
        ValueError: if `n` or `batch_size` is below one, the event shape is not known or not that of the score,
            `args` or `initial` has another leading axis, or `dtype` is float64 and JAX has it turned off.

    Example:
        >>> import jax, scorefp as sfp
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> x = sfp.sample(standard, 1000, key=jax.random.key(0), shape=(2,), method=sfp.EulerMaruyama(steps=50))
        >>> bool(abs(x.mean()) < 0.1), bool(abs(x.std() - 1) < 0.1)
        (True, True)
    """
    require_score(score)
    kind("method", method, AbstractSampler, "It is a sampler, for example scorefp.Heun(steps=20).")
    key, n = random_key("sample", key), count("n", n)
    require(n >= 1, f"n = {n}; draw at least one sample.")
    batch_size = n if batch_size is None else count("batch_size", batch_size)
    require(batch_size >= 1, f"batch_size = {batch_size}; at least one sample at once.")
    if initial is not None:
        initial = floating("initial", initial)
    if shape is None:
        shape = initial.shape[1:] if initial is not None and score.shape is None else score.shape
    elif score.shape is not None:
        same_shape("a sample", shape, "the score's own", score.shape)
    if shape is None:
        raise ValueError(
            f"the event shape is not known: score is a {name_of(score)} with shape = None. Call "
            "sample(score, n, shape=(...)), or give the score or its network a shape."
        )
    if initial is not None:
        require(
            initial.shape == (n, *shape),
            f"initial has shape {initial.shape}; it must be (n, *event) = {(n, *shape)}, one point a sample.",
        )
    for leaf in jax.tree.leaves(eqx.filter(args, eqx.is_array)):
        require(
            leaf.ndim >= 1 and leaf.shape[0] == n,
            f"args holds an array of shape {leaf.shape}; its leading axis must be n = {n}, one entry a sample.",
        )
    return _sample(score, n, shape, key, method, args, initial, batch_size, _available(dtype))


def _available(dtype: DTypeLike | None) -> np.dtype[Any] | None:
    """The dtype, refused unless it is floating and JAX has it now."""
    if dtype is None:
        return None
    wanted = np.dtype(dtype)
    if not jnp.issubdtype(wanted, jnp.floating):
        raise TypeError(f"dtype = {wanted}; a sample is an array of floats, for example jnp.float64.")
    require(
        wanted != np.float64 or jnp.zeros(0).dtype == np.float64,
        "dtype = float64, but JAX has float64 turned off here. Call sample inside `with jax.enable_x64(True):`, "
        'or set jax.config.update("jax_enable_x64", True) at the start.',
    )
    return wanted


class _InItsPrecision(AbstractScore):
    """A score whose own arrays set the precision it is evaluated in, whatever that of the state."""

    score: AbstractScore

    conditions: ClassVar[tuple[str, ...]] = ("score",)

    @property
    def sde(self) -> AbstractSDE:
        return self.score.sde

    @property
    def shape(self) -> tuple[int, ...] | None:
        return self.score.shape

    def __call__(self, t: Time, x: Event) -> Event:
        own = [leaf.dtype for leaf in jax.tree.leaves(eqx.filter(self.score, eqx.is_inexact_array))]
        inner = x.astype(jnp.result_type(*own)) if own else x
        return self.score(scalar_time(t, inner), inner).astype(x.dtype)


@eqx.filter_jit
def _sample(
    score: AbstractScore,
    n: int,
    shape: tuple[int, ...],
    key: Key,
    method: AbstractSampler,
    args: Any,
    initial: Float[Array, "n *event"] | None,
    batch_size: int,
    dtype: np.dtype[Any] | None,
) -> Float[Array, "n *event"]:
    keys = jr.split(key, n)

    def one(index: Int[Array, ""]) -> Event:
        prior_key, method_key = jr.split(keys[index])
        bound = conditioned(score, args, index)
        start = score.sde.prior.sample(prior_key, shape) if initial is None else initial[index]
        if dtype is not None:
            bound, start = _InItsPrecision(bound), start.astype(dtype)
        return method(bound, start, key=method_key)

    return in_batches(one, n, batch_size)
