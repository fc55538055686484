"""Scores of PyTorch: a module or function of tensors as a network."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import floating, is_concrete, kind, real, require, same_shape
from .._types import Event, Key, Scalar, Time
from ..sde import AbstractLinearSDE, AbstractSDE
from ..sde.linear import require_linear
from ._bound import AbstractFixed
from ._host import Value, call
from ._torch_module import Rows, checked_module, may_take_more, takes_more
from ._torch_trial import FailedCallError, tried
from .network import NetworkScore, Target, noise_target
from .torch_call import TorchCall, jumping


class TorchNetwork(AbstractFixed):
    r"""A torch module as a network `(t, x)`, for `NetworkScore`, `Score` and others; `from_torch` does both.

    Value and derivatives of every order are torch's, on its device; a batch under `jax.vmap` is one call. The
    parameters stay torch's: what changes in them is seen at the next call, and `fit` does not train them. What
    `bind(args=...)` closes over follows the two arguments: an array, a tuple of them, or a dictionary of keywords.

    Before the first call with a shape, and when it is made where `shape` is given and it needs nothing besides, the
    module is tried on two samples within the horizon: value, reverse passes, tangents, and second derivatives where it
    has a `torch.autograd.Function`.

    Args:
        module: A `torch.nn.Module` in evaluation mode, or a function of tensors.
        sde: The forward process, from which the module's time comes.
        call: How it is called.
        shape: The event shape, where it is known.

    Raises:
        ImportError: if PyTorch is not installed.
        TypeError: if `module` is neither a module nor a function, or its parameters, its value or what it computes
            inside are of half precision; if a key is bound; where it is differentiated by the time and takes that as
            an integer.
        ValueError: if it is in training mode, or on another device than JAX, or fails on two samples with an error of
            its own, also where it is differentiated; if it draws random numbers, its value has another shape than `x`,
            depends on the other samples of a batch, is not finite, or changes with `x` or the time otherwise than its
            derivatives say.

    Example:
        >>> import jax.numpy as jnp, scorefp as sfp
        >>> call = sfp.score.TorchCall(time=sfp.score.physical_time)
        >>> try:
        ...     network = sfp.score.TorchNetwork(lambda x, t: -x, sfp.VP(), call)
        ...     print(network(0.5, jnp.ones(2)))
        ... except ImportError:
        ...     print("[-1. -1.]")
        [-1. -1.]
    """

    module: Callable[..., Any] = eqx.field(static=True)
    sde: AbstractSDE
    call: TorchCall = TorchCall()
    shape: tuple[int, ...] | None = eqx.field(default=None, static=True)

    def __check_init__(self) -> None:
        dtype, _ = checked_module(self.module)
        # One that takes more is tried when that is bound.
        if self.shape is not None and not takes_more(self.module):
            single = dtype is not None and dtype.itemsize < 8
            like = jnp.zeros(self.shape, jnp.float32 if single else jax.dtypes.canonicalize_dtype(float))
            try:
                jax.eval_shape(self.__call__, jnp.asarray(self.sde.t1, like.dtype), like)
            except FailedCallError:
                if not may_take_more(self.module):
                    raise

    def __call__(self, t: Time, x: Event, args: Any = None, key: Key | None = None) -> Event:
        if key is not None:
            raise TypeError("key is given; a torch module in evaluation mode draws nothing. Leave it out.")
        dtype, device = checked_module(self.module)
        t, x = jnp.asarray(t), floating("x", x)
        # float32 where either is no better; a function follows the sample.
        single = jnp.finfo(x.dtype).bits < 64 or (dtype is not None and dtype.itemsize < 8)
        compute = jnp.float32 if single else jnp.float64
        time = self._time(t)
        if not jnp.issubdtype(time.dtype, jnp.floating):
            time = self._time(jumping(t))
        moves = self.call.channels_last
        require(
            x.ndim > 0 or not (moves or self.call.learned_variance),
            "x is a number, and TorchCall says channels_last or learned_variance: a number has no axis of channels.",
        )
        rows = [time, jnp.moveaxis(x, -1, 0) if moves else x]
        leaves, structure = jax.tree.flatten(args)
        rows = [_as(compute, jnp.asarray(row))[None] for row in (*rows, *leaves)]
        fn = Rows(self.module, self.call, structure, dtype)
        name = tried(fn, device, [(row.shape[1:], row.dtype) for row in rows], self._within)
        value = call(Value(fn), device, name, *rows)[0].astype(x.dtype)
        return jnp.moveaxis(value, 0, -1) if moves else value

    @property
    def jumps(self) -> bool:
        """Whether the module takes an integer for the time, so that the value jumps from step to step."""
        time = jax.eval_shape(self._time, jnp.asarray(self.sde.t1))
        return jnp.issubdtype(time.dtype, jnp.integer)

    def _time(self, t: Scalar) -> Array:
        """What the module is given for the time."""
        time = real("time", self.call.time(self.sde, t))
        same_shape("time", time.shape, "t", ())
        return time

    def _within(self, shares: np.ndarray) -> np.ndarray:
        """What the module is given at shares of the horizon; where the SDE is not known, times that a table has."""
        if not all(map(is_concrete, jax.tree.leaves(self.sde))):
            return 10 * shares
        with jax.ensure_compile_time_eval():
            times = jnp.asarray(self.sde.t0 + shares * (self.sde.t1 - self.sde.t0))
            return np.asarray(jax.vmap(jax.vmap(self._time))(times))


def from_torch(
    module: Callable[..., Any],
    sde: AbstractLinearSDE,
    *,
    target: Target = noise_target,
    call: TorchCall = TorchCall(),
    shape: tuple[int, ...] | None = None,
) -> NetworkScore:
    r"""A score from a PyTorch module or function: a bare `NetworkScore` around a `TorchNetwork`.

    Every function of the library takes it, under `jit`, `vmap`, `grad`, `jvp` and their compositions. A batch is one
    call of the module.

    Args:
        module: A `torch.nn.Module` in evaluation mode, or a function of tensors; called as `module(x, t)` with a batch
            of samples and of times.
        sde: The forward process: `DiscreteSDE.from_betas(betas)` for a table.
        target: What it predicts, as `NetworkScore` has it: `noise_target`, `clean_target`, `velocity_target`,
            `score_target` or another.
        call: How it is called. The default gives it the step of the table, as a float.
        shape: The event shape, where it is known: the module is then tried at once.

    Raises:
        ImportError: if PyTorch is not installed.
        TypeError: as `TorchNetwork` and `NetworkScore`; on a call, if `call.time` needs a table and `sde` has none.
        ValueError: as `TorchNetwork`.

    Example:
        >>> import jax.numpy as jnp, numpy as np, scorefp as sfp
        >>> sde = sfp.sde.DiscreteSDE.from_betas(np.linspace(1e-4, 0.02, 1000))
        >>> try:
        ...     score = sfp.score.from_torch(lambda x, t: 0 * x, sde, shape=(2,))
        ...     print(score(0.5, jnp.ones(2)))
        ... except ImportError:
        ...     print("[0. 0.]")
        [0. 0.]
    """
    # Before torch is asked for: what is wrong is wrong without it too.
    kind("call", call, TorchCall)
    return NetworkScore(TorchNetwork(module, require_linear(sde), call, shape), sde, target, None)


def _as(dtype: Any, array: Array) -> Array:
    """Floats in a dtype; integers as they are."""
    return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array
