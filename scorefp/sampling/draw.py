"""Batches of samples from a score."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from .._batches import in_batches, on_mesh
from .._checks import (
    count,
    event_shape,
    finite,
    flag,
    floating,
    is_concrete,
    random_key,
    require,
    same_shape,
)
from .._describe import name_of
from .._devices import one_row
from .._module import AbstractModule
from .._types import Key
from ..dataset.values import check_args
from ..score import AbstractScore
from ..score.score import conditioned, require_score
from ._failures import failures, tell_of_failures
from ._precision import InItsPrecision
from .euler import EulerMaruyama
from .sampler import AbstractPopulationSampler, AbstractSampler, at_t1, require_sampler


def sample(
    score: AbstractScore,
    n: int,
    *,
    key: Key,
    method: AbstractSampler | AbstractPopulationSampler = EulerMaruyama(),
    shape: tuple[int, ...] | None = None,
    args: Any = None,
    initial: Float[Array, "n *event"] | None = None,
    batch_size: int | None = None,
    dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    throw: bool = False,
) -> Float[Array, "n *event"]:
    r"""Draws samples: $x_{t_1}$ from the prior, then the reverse process from `t1` to `t0` [G1].

    Compiled once for a configuration. The same key draws the same points of the prior for every method, so that two
    methods can be compared sample by sample, but for `FeynmanKac`, whose samples are resampled from a population. The
    model gets no key, so that dropout is off; to keep it, give `bind` a key first.

    **Samples that failed** are reported in a warning: those that are not finite, and those that are exploded, beyond
    five times the scale of data that a linear SDE takes to its prior, $\sqrt{\tfrac1D\|x\|^2} > 5\,c$ with
    $c = \tfrac{\alpha(t_0)}{\alpha(t_1)}\,\sigma(t_1)$; with `initial`, $c$ is the root of the sum of its square and of
    the mean square of `initial`. It is the rule of `Likelihood` for trajectories in the other direction. Inside `jit`,
    `vmap` or `grad` the values are not known and nothing is reported.

    **Many devices** share the samples by `mesh`. They are those of one device for any `n`, up to rounding, and those of
    an adaptive solver up to its tolerance, as rounding may change its steps. Each device goes through its share by
    itself: an adaptive solver on one does not wait for the steps of another. With several processes each makes the
    call, with the same arguments, and has all samples; the first one warns.

    Args:
        score: Any score on any SDE.
        n: How many samples.
        key: A random key; the same key gives the same samples.
        method: `EulerMaruyama()` by default, a thousand steps even in log-SNR, or in time where the SDE is not linear;
            `EulerMaruyama(steps, grid)`, `ProbabilityFlow(integrator)`, `Heun(steps)`, `DPMSolver(steps)` or
            another sampler; `FeynmanKac(steps)` for the law that a composition or a potential names.
        shape: The event shape, where the score does not know it.
        args: Conditioning, a pytree of arrays with `n` as leading axis, given to the model.
        initial: The starting points of the samples, in place of draws from the prior: states at the first time of the
            grid of the method, which may lie anywhere in the horizon then, and at `t1` for a method without a grid.
        batch_size: At most how many samples at once, over all devices, for many samples in bounded memory; all of them
            by default. The samples are the same up to rounding, or the solver's tolerance. `data.sample_to` writes
            those that no memory holds.
        dtype: The precision of the state between evaluations and of the samples. The score is evaluated in that of
            its own arrays: a network in float32 stays so under a state in float64, which Karras 2022 has. The points
            of the prior are the same as without. By default the precision of the prior's draws, or of `initial`.
        mesh: The devices that share the samples, as `data_mesh` returns them; `None` is one device.
        throw: Whether samples that failed raise. If not, a warning names how many of them there are.

    Returns:
        The samples, stacked along the leading axis.

    Raises:
        TypeError: if `score` is no score, `method` no sampler, `key` no random key, `n` or `batch_size` no whole
            number, `shape` no tuple of them, `mesh` no mesh, or `initial` or `dtype` not floating.
        ValueError: if `n` or `batch_size` is below one, the event shape is not known or not that of the score,
            `args` or `initial` has another leading axis or holds NaN, the grid of the method does not go from `t1`
            (with `initial` from where it starts) down to `t0`, `dtype` is float64 and JAX has it turned off, or `mesh`
            has another axis than `"data"` or is given inside `jit`, `vmap` or `grad`.
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
    options: Any = {"key": key, "shape": shape, "batch_size": batch_size, "dtype": dtype, "mesh": mesh}
    if isinstance(method, AbstractPopulationSampler):
        _check_population(method, args, initial)
        x = method.samples(score, n, **options)
    else:
        require_sampler("method", method, "scorefp.Heun(steps=20)")
        x = draws_of(score, n, method=method, args=args, initial=initial, **options).all()
    if is_concrete(x):
        failed = failures(x, len(x), score.sde, initial)
        tell_of_failures(*failed, len(x), score.sde, initial, mesh=mesh, throw=throw)
    return x


class Draws(AbstractModule):
    """The arguments of `sample`, checked."""

    score: AbstractScore
    n: int
    key: Key
    method: Any
    shape: tuple[int, ...]
    args: Any
    initial: Float[Array, "n *event"] | None
    batch_size: int
    dtype: np.dtype[Any] | None
    mesh: Mesh | None

    def all(self) -> Any:
        """What the method returns, called with each sample's starting point, stacked."""
        return self.rows(0, self.n)

    def rows(self, first: int | Int[Array, ""], n: int) -> Any:
        """`all` of the `n` samples from the number `first` on, where `args` and `initial` are theirs alone; beyond the
        last sample they repeat it.
        """
        return on_mesh(_rows, self.mesh, n, self, first, n)


def draws_of(
    score: AbstractScore,
    n: int,
    *,
    key: Key,
    method: AbstractSampler | AbstractPopulationSampler,
    shape: tuple[int, ...] | None = None,
    args: Any = None,
    initial: Float[Array, "n *event"] | None = None,
    batch_size: int | None = None,
    dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
) -> Draws:
    """The arguments of `sample`, checked, but for `method`: which ones there may be, the caller knows."""
    require_score(score)
    one_row(mesh)
    key, n = random_key("sample", key), count("n", n, 1)
    if initial is not None:
        initial = finite("initial", floating("initial", initial), known=True)
    shape = _shape(score, shape, None if initial is None else initial.shape[1:])
    if initial is not None:
        require(
            initial.shape == (n, *shape),
            f"initial has shape {initial.shape}; it must be (n, *event) = {(n, *shape)}, one point a sample.",
        )
    check_args(args, n, "sample {}".format, "n = {}")
    batch_size = n if batch_size is None else count("batch_size", batch_size, 1)
    return Draws(score, n, key, method, shape, args, initial, batch_size, _available(dtype), mesh)


def _shape(score: AbstractScore, shape: tuple[int, ...] | None, like: tuple[int, ...] | None) -> tuple[int, ...]:
    """The event shape: the given one, the score's own, or that of `like`."""
    if shape is not None:
        shape = event_shape(shape)
    if shape is None:
        shape = like if score.shape is None else score.shape
    elif score.shape is not None:
        same_shape("a sample", shape, "the score's own", score.shape)
    if shape is None:
        raise ValueError(
            f"the event shape is not known: score is a {name_of(score)} with shape = None. Call "
            "sample(score, n, shape=(...)), or give the score or its network a shape."
        )
    return shape


def _check_population(method: AbstractPopulationSampler, args: Any, initial: Any) -> None:
    """Refuses what differs from sample to sample, where samples are drawn together."""
    for name, given, remedy in (
        ("args", args, "Close one conditioning over, score.bind(args=...), or give weighted_samples one for each run"),
        ("initial", initial, "Its points come from the prior, with their weights"),
    ):
        require(
            given is None,
            f"{name} is given, one entry a sample, but the samples of {name_of(method)} are one population and do not "
            f"keep their places. {remedy}.",
        )


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


@eqx.filter_jit
def _rows(draws: Draws, first: int | Int[Array, ""], n: int, mesh: Mesh | None) -> Any:
    keys = jr.split(draws.key, draws.n)
    sde, method, initial = draws.score.sde, draws.method, draws.initial

    def one(index: Int[Array, ""]) -> Any:
        prior_key, method_key = jr.split(keys[jnp.minimum(first + index, draws.n - 1)])
        bound = conditioned(draws.score, draws.args, index)
        start = sde.prior.sample(prior_key, draws.shape) if initial is None else initial[index]
        if draws.dtype is not None:
            bound, start = InItsPrecision(bound), start.astype(draws.dtype)
        if initial is None:
            start = at_t1(method, sde, start)
        return method(bound, start, key=method_key)

    return in_batches(one, n, draws.batch_size, mesh)
