"""Draws a batch of samples from a score."""

from typing import Any

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Float

from .._checks import require, same_shape
from .._types import Event, Key
from ..score import AbstractScore
from .base import AbstractSampler
from .euler_maruyama import EulerMaruyama


def sample(
    score: AbstractScore,
    n: int,
    *,
    key: Key,
    method: AbstractSampler = EulerMaruyama(),
    shape: tuple[int, ...] | None = None,
    args: Any = None,
) -> Float[Array, "n *event"]:
    r"""Draws samples: $x_{t_1}$ from the prior, then the reverse process from `t1` to `t0` [G1].

    Compiled once for a configuration. The model gets no key, so that dropout is off; to keep it, give `bind` a key
    first.

    Args:
        score: Any score on any SDE.
        n: How many samples.
        key: A random key; the same key gives the same samples.
        method: `EulerMaruyama(steps, grid)`, `ProbabilityFlow(integrator)` or another sampler.
        shape: The event shape, where the score does not know it.
        args: Conditioning, a pytree of arrays with `n` as leading axis, given to the model.

    Returns:
        The samples, stacked along the leading axis.

    Raises:
        ValueError: if `n` is below one, the event shape is not known or not that of the score, or `args` has another
            leading axis.

    Example:
        >>> import jax, scorefp as sfp
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP())
        >>> x = sfp.sample(standard, 1000, key=jax.random.key(0), shape=(2,), method=sfp.EulerMaruyama(steps=50))
        >>> bool(abs(x.mean()) < 0.1), bool(abs(x.std() - 1) < 0.1)
        (True, True)
    """
    require(n >= 1, f"n = {n}; draw at least one sample.")
    if shape is None:
        shape = score.shape
    elif score.shape is not None:
        same_shape("a sample", shape, "the score's own", score.shape)
    if shape is None:
        raise ValueError(
            f"the event shape is not known: score is a {type(score).__name__} with shape = None. Call "
            "sample(score, n, shape=(...)), or give the score or its network a shape."
        )
    for leaf in jax.tree.leaves(eqx.filter(args, eqx.is_array)):
        require(
            leaf.ndim >= 1 and leaf.shape[0] == n,
            f"args holds an array of shape {leaf.shape}; its leading axis must be n = {n}, one entry a sample.",
        )
    return _sample(score, n, shape, key, method, args)


@eqx.filter_jit
def _sample(
    score: AbstractScore, n: int, shape: tuple[int, ...], key: Key, method: AbstractSampler, args: Any
) -> Float[Array, "n *event"]:
    def one(key: Key, args: Any) -> Event:
        prior_key, method_key = jr.split(key)
        bound = score if args is None else score.bind(args=args)
        return method(bound, score.sde.prior.sample(prior_key, shape), key=method_key)

    return jax.vmap(one)(jr.split(key, n), args)
