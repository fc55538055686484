"""Batches of samples from a score."""

import warnings
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from .._batches import in_batches
from .._checks import (
    count,
    event_shape,
    finite,
    flag,
    floating,
    is_concrete,
    kind,
    random_key,
    require,
    same_shape,
    scalar_time,
)
from .._describe import name_of
from .._types import Event, Key, Time
from ..reverse._explosion import EXPLODED, distance
from ..score import AbstractScore
from ..score.score import conditioned, require_score
from ..sde import AbstractLinearSDE, AbstractSDE
from .euler import EulerMaruyama
from .sampler import AbstractSampler, at_t1


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
    throw: bool = False,
) -> Float[Array, "n *event"]:
    r"""Draws samples: $x_{t_1}$ from the prior, then the reverse process from `t1` to `t0` [G1].

    Compiled once for a configuration. The same key draws the same points of the prior for every method, so that two
    methods can be compared sample by sample. The model gets no key, so that dropout is off; to keep it, give `bind` a
    key first.

    **Samples that failed** are told of: those that are not finite, and those that are exploded, beyond five times the
    scale of data that a linear SDE takes to its prior, $\sqrt{\tfrac1D\|x\|^2} > 5\,\tfrac{\alpha(t_0)}{\alpha(t_1)}
    \,\sigma(t_1)$. It is the rule of `Likelihood` for trajectories that go the other way. Where `sample` is called
    inside `jit`, `vmap` or `grad`, its values are not known and nothing is said.

    Args:
        score: Any score on any SDE.
        n: How many samples.
        key: A random key; the same key gives the same samples.
        method: `EulerMaruyama()` by default, a thousand steps even in log-SNR, or in time where the SDE is not linear;
            `EulerMaruyama(steps, grid)`, `ProbabilityFlow(integrator)`, `Heun(steps)`, `DPMSolver(steps)` or
            another sampler.
        shape: The event shape, where the score does not know it.
        args: Conditioning, a pytree of arrays with `n` as leading axis, given to the model.
        initial: The starting points of the samples, in place of draws from the prior: states at the first time of the
            grid of the method, which may lie anywhere in the horizon then, and at `t1` for a method without a grid.
        batch_size: At most how many samples at once, for many samples in bounded memory; all of them by default. The
            samples are the same up to rounding.
        dtype: The precision of the state between evaluations and of the samples. The score is evaluated in that of
            its own arrays: a network in float32 stays so under a state in float64, which Karras 2022 has. The points
            of the prior are the same as without. By default the precision of the prior's draws, or of `initial`.
        throw: Whether samples that failed raise. If not, a warning names how many of them there are.

    Returns:
        The samples, stacked along the leading axis.

    Raises:
        TypeError: if `score` is no score, `method` no sampler, `key` no random key, `n` or `batch_size` no whole
            number, `shape` no tuple of them, or `initial` or `dtype` not floating.
        ValueError: if `n` or `batch_size` is below one, the event shape is not known or not that of the score,
            `args` or `initial` has another leading axis or holds NaN, the grid of the method does not go from `t1`
            (with `initial` from where it starts) down to `t0`, or `dtype` is float64 and JAX has it turned off.
        RuntimeError: if samples failed and `throw` is true.

    Warns:
        UserWarning: if samples failed.

    Example:
        >>> import jax, scorefp as sfp
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> x = sfp.sample(standard, 1000, key=jax.random.key(0), shape=(2,), method=sfp.EulerMaruyama(steps=50))
        >>> bool(abs(x.mean()) < 0.1), bool(abs(x.std() - 1) < 0.1)
        (True, True)
    """
    flag("throw", throw)
    x = drawn(
        score,
        n,
        key=key,
        method=method,
        shape=shape,
        args=args,
        initial=initial,
        batch_size=batch_size,
        dtype=dtype,
    )
    if is_concrete(x):
        _tell_of_failures(x, score.sde, initial, throw)
    return x


def drawn(
    score: AbstractScore,
    n: int,
    *,
    key: Key,
    method: AbstractSampler,
    shape: tuple[int, ...] | None = None,
    args: Any = None,
    initial: Float[Array, "n *event"] | None = None,
    batch_size: int | None = None,
    dtype: DTypeLike | None = None,
) -> Float[Array, "n *event"]:
    """`sample`, whose caller looks for samples that failed."""
    require_score(score)
    kind("method", method, AbstractSampler, "It is a sampler, for example scorefp.Heun(steps=20).")
    key, n = random_key("sample", key), count("n", n, 1)
    batch_size = n if batch_size is None else count("batch_size", batch_size, 1)
    if initial is not None:
        initial = finite("initial", floating("initial", initial), known=True)
    if shape is not None:
        shape = event_shape(shape)
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
    _check_args(args, n)
    return _sample(score, n, shape, key, method, args, initial, batch_size, _available(dtype))


def _check_args(args: Any, n: int) -> None:
    """Refuses conditioning without an entry for each sample, or with NaN."""
    for leaf in jax.tree.leaves(args):
        if not eqx.is_array(leaf) and not isinstance(leaf, np.ndarray):
            raise TypeError(
                f"args holds a {type(leaf).__name__}; it is a pytree of arrays with n = {n} as leading axis, one entry "
                "a sample. A constant is closed over: score.bind(args=...)."
            )
        require(
            leaf.ndim >= 1 and leaf.shape[0] == n,
            f"args holds an array of shape {leaf.shape}; its leading axis must be n = {n}, one entry a sample.",
        )
        if is_concrete(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact):
            rows = ~np.isfinite(np.asarray(leaf, np.float64)).reshape(n, -1).all(axis=1)
            require(
                not rows.any(),
                f"args holds NaN or infinite entries for {rows.sum()} of {n} samples, the first of them sample "
                f"{rows.argmax()}. Remove or repair them.",
            )


def _tell_of_failures(
    x: Float[Array, "n *event"], sde: AbstractSDE, initial: Float[Array, "n *event"] | None, throw: bool
) -> None:
    """One warning or error, where samples failed."""
    broken, far, scale = (float(number) for number in _failures(x, sde, initial))
    if broken + far == 0:
        return
    told = (
        f"{broken + far:g} of {len(x)} samples failed: {broken:g} are not finite, {far:g} lie beyond {EXPLODED:g} "
        f"times {scale:.3g}, the scale of data that {type(sde).__name__} takes to its prior. Take more steps or "
        "another grid, look at the score along the way, or take a process with more noise where data are that large."
    )
    if throw:
        raise RuntimeError(told)
    warnings.warn(f"{told} With throw=True this is an error.", stacklevel=3)


@eqx.filter_jit
def _failures(
    x: Float[Array, "n *event"], sde: AbstractSDE, initial: Float[Array, "n *event"] | None
) -> tuple[Int[Array, ""], Int[Array, ""], Float[Array, ""]]:
    """How many samples are not finite, how many exploded, and the scale of those that did not."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    scale = jnp.asarray(jnp.inf, x.dtype)  # the process backwards may take a prior anywhere where it is not linear
    if isinstance(sde, AbstractLinearSDE):
        scale = jnp.asarray(sde.sigma(sde.t1) * jnp.exp(sde.log_alpha(sde.t0) - sde.log_alpha(sde.t1)), x.dtype)
        if initial is not None:
            scale = jnp.hypot(scale, jnp.sqrt(jnp.mean(initial.astype(x.dtype) ** 2)))
    whole = jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim)))
    far = whole & ~(jax.vmap(lambda one: distance(one, scale))(x) <= EXPLODED)
    return jnp.sum(~whole), jnp.sum(far), scale


def _available(dtype: DTypeLike | None) -> np.dtype[Any] | None:
    """The dtype, refused unless it is floating and JAX has it now."""
    if dtype is None:
        return None
    try:
        wanted = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype = {dtype!r}; it is a dtype of floats, for example jnp.float64.") from None
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
        if initial is None:
            start = at_t1(method, score.sde, start)
        return method(bound, start, key=method_key)

    return in_batches(one, n, batch_size)
