"""Scores of PyTorch: a module or function of tensors as a network, and how it wants to be called."""

import inspect
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from .._checks import callable_with, floating, is_concrete, kind, real, require, same_shape
from .._describe import described
from .._module import AbstractModule
from .._types import Event, Key, Scalar, Time
from ..calculus._smoothness import jumps
from ..sde import AbstractLinearSDE, AbstractSDE, DiscreteSDE
from ..sde.linear import require_linear
from ._bound import AbstractFixed
from ._host import Tensor, Value, call, plain_kernels, torch_library
from .network import NetworkScore, Target, noise_target

TimeInput: TypeAlias = Callable[[Any, Scalar], Float[Array, ""] | Integer[Array, ""]]
"""What a module is given for the time: a function `(sde, t) -> number`; where it returns an integer, the module gets
`int64`."""


def physical_time(sde: AbstractSDE, t: Scalar) -> Float[Array, ""]:
    """The time itself."""
    return t


def step_time(sde: AbstractSDE, t: Scalar) -> Float[Array, ""]:
    """The step of the table, counted from zero, with its fraction: `step_of_time` of a `DiscreteSDE`.

    Raises:
        TypeError: if the SDE has no table.
    """
    return _table(sde).step_of_time(t)


def whole_step_time(sde: AbstractSDE, t: Scalar) -> Integer[Array, ""]:
    """The nearest step of the table, an integer, for a module that looks it up. The score then jumps from step to step
    and has no time derivative.

    Raises:
        TypeError: if the SDE has no table; where it is differentiated by the time.
    """
    return jnp.round(_jumping(_table(sde).step_of_time(t))).astype(jnp.int32)


def sigma_time(sde: AbstractLinearSDE, t: Scalar) -> Float[Array, ""]:
    r"""The standard deviation $\sigma(t)$ of the noise."""
    return require_linear(sde).sigma(t)


def log_snr_time(sde: AbstractLinearSDE, t: Scalar) -> Float[Array, ""]:
    r"""The log-SNR $\log(\alpha^2/\sigma^2)$."""
    return require_linear(sde).log_snr(t)


def _table(sde: AbstractSDE) -> DiscreteSDE:
    return kind(
        "sde",
        sde,
        DiscreteSDE,
        "It has no table of steps, and TorchCall gives a module the step. Say what it takes: "
        "TorchCall(time=scorefp.score.physical_time), or sigma_time, log_snr_time, a function (sde, t).",
    )


@jax.custom_jvp
def _jumping(t: Scalar) -> Scalar:
    """The number, of which an integer is made."""
    return t


@_jumping.defjvp
def _(primals: Any, tangents: Any) -> Any:
    raise TypeError(jumps("the score"))


class TorchCall(AbstractModule):
    """How a torch module is called, and what it returns. Always a batch, the samples along the first axis.

    Args:
        time: What it is given for the time, a function `(sde, t)`: `step_time`, `whole_step_time`, `physical_time`,
            `sigma_time`, `log_snr_time` or another. It is static: give one function for all, not a new lambda for each.
        time_first: Whether it is called as `module(t, x)`, and not as `module(x, t)`.
        channels_last: Whether the last axis of a sample holds the channels; the module has them first.
        learned_variance: Whether it returns twice the channels; the second half, which stands for a variance, is
            dropped.
        output: The tensor in what it returns, a function, where that is none; static like `time`.

    Example:
        >>> import scorefp as sfp
        >>> sfp.score.TorchCall(time=sfp.score.physical_time, time_first=True)
        TorchCall(time=physical_time, time_first=True)
    """

    time: TimeInput = eqx.field(static=True, default=step_time)
    time_first: bool = eqx.field(static=True, default=False)
    channels_last: bool = eqx.field(static=True, default=False)
    learned_variance: bool = eqx.field(static=True, default=False)
    output: Callable[[Any], Any] | None = eqx.field(static=True, default=None)


class TorchNetwork(AbstractFixed):
    r"""A torch module as a network `(t, x)`, for `NetworkScore`, `Score` and others; `from_torch` does both.

    Value and derivatives of every order are torch's, on its device; a batch under `jax.vmap` is one call. The
    parameters stay torch's: what changes in them is seen at the next call, and `fit` does not train them. What
    `bind(args=...)` closes over follows the two arguments: an array, a tuple of them, or a dictionary of keywords.

    Before the first call with a shape, and when it is made where `shape` is given and it takes nothing besides, the
    module is tried on two samples within the horizon.

    Args:
        module: A `torch.nn.Module` in evaluation mode, or a function of tensors.
        sde: The forward process, from which the module's time comes.
        call: How it is called.
        shape: The event shape, where it is known.

    Raises:
        ImportError: if PyTorch is not installed.
        TypeError: if `module` is neither a module nor a function, or its parameters or its value are of half precision;
            if a key is bound; where it is differentiated by the time and takes that as an integer.
        ValueError: if it is in training mode, or on another device than JAX, or fails on two samples with an error of
            its own; if it draws random numbers, its value has another shape than `x`, depends on the other samples of
            a batch, is not finite, or changes with `x` or the time otherwise than its derivative says.

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
        kind("sde", self.sde, AbstractSDE, AbstractSDE.remedy)
        dtype, _ = _checked(self.module)
        # One that takes more is tried when that is bound.
        if self.shape is not None and not _takes_more(self.module):
            single = dtype is not None and dtype.itemsize < 8
            like = jnp.zeros(self.shape, jnp.float32 if single else jax.dtypes.canonicalize_dtype(float))
            jax.eval_shape(self.__call__, jnp.asarray(self.sde.t1, like.dtype), like)

    def __call__(self, t: Time, x: Event, args: Any = None, key: Key | None = None) -> Event:
        if key is not None:
            raise TypeError("key is given; a torch module in evaluation mode draws nothing. Leave it out.")
        dtype, device = _checked(self.module)
        t, x = jnp.asarray(t), floating("x", x)
        # float32 where either is no better; a function follows the sample.
        single = jnp.finfo(x.dtype).bits < 64 or (dtype is not None and dtype.itemsize < 8)
        compute = jnp.float32 if single else jnp.float64
        time = self._time(t)
        if not jnp.issubdtype(time.dtype, jnp.floating):
            time = self._time(_jumping(t))
        moves = self.call.channels_last
        require(
            x.ndim > 0 or not (moves or self.call.learned_variance),
            "x is a number, and TorchCall says channels_last or learned_variance: a number has no axis of channels.",
        )
        rows = [time, jnp.moveaxis(x, -1, 0) if moves else x]
        leaves, structure = jax.tree.flatten(args)
        rows = [_as(compute, jnp.asarray(row))[None] for row in (*rows, *leaves)]
        fn = _Rows(self.module, self.call, structure, dtype)
        name = _tried(fn, device, [(row.shape[1:], row.dtype) for row in rows], self._within)
        value = call(Value(fn), device, name, *rows)[0].astype(x.dtype)
        return jnp.moveaxis(value, 0, -1) if moves else value

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
    kind("call", call, TorchCall, "It is a TorchCall(…).")
    return NetworkScore(TorchNetwork(module, require_linear(sde), call, shape), sde, target, None)


# ------------------------------------------------------------------------------------------------ the module
@dataclass(frozen=True)
class _Rows:
    """The module as a function of a batch of times, of samples, and of the leaves of the conditioning."""

    module: Callable[..., Any]
    call: TorchCall
    structure: Any
    dtype: Any

    def __call__(self, t: Tensor, x: Tensor, *leaves: Tensor) -> Tensor:
        return self.checked(self.raw(t, x, *leaves), x)

    def raw(self, t: Tensor, x: Tensor, *leaves: Tensor) -> Any:
        """What the module returns."""
        _require_evaluation(self.module)
        # Copies: a module may write into what it is given, of which gradients are taken.
        dtype = x.dtype if self.dtype is None else self.dtype
        t, x, *rest = ((a.to(dtype) if a.is_floating_point() else a.long()).clone() for a in (t, x, *leaves))
        args = jax.tree.unflatten(self.structure, rest)
        given = (t, x) if self.call.time_first else (x, t)
        if isinstance(args, dict):
            return self.module(*given, **args)
        more = () if args is None else args if isinstance(args, tuple) else (args,)
        return self.module(*given, *more)

    def checked(self, value: Any, x: Tensor) -> Tensor:
        """The tensor in it, of the shape and dtype of `x`."""
        torch = torch_library()
        value = value if self.call.output is None else self.call.output(value)
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            raise TypeError(
                f"module returned {f'a tensor of {value.dtype}' if isinstance(value, torch.Tensor) else _told(value)}; "
                "it is a tensor of floats. Say where it is: TorchCall(output=lambda returned: returned.sample)."
            )
        if value.dtype.itemsize < 4:
            raise TypeError(
                f"module returned {value.dtype}; a score is measured in float32 or float64, and half precision "
                "cannot be mended afterwards: remove autocast and .half() inside."
            )
        wanted = tuple(x.shape)
        if self.call.learned_variance:
            wanted = (*wanted[:1], *(2 * channels for channels in wanted[1:2]), *wanted[2:])
        if tuple(value.shape) != wanted:
            raise ValueError(
                f"module returned shape {tuple(value.shape)} for x of shape {tuple(x.shape)}, and TorchCall says "
                f"{wanted}. Twice the channels: TorchCall(learned_variance=True); samples with the channels last, and "
                "a module that has them first: TorchCall(channels_last=True)."
            )
        return (value[:, : x.shape[1]] if self.call.learned_variance else value).to(x.dtype)


def _as(dtype: Any, array: Array) -> Array:
    """Floats in a dtype; integers as they are."""
    return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _told(value: Any) -> str:
    return f"a {type(value).__name__}"


def _owner(module: Any) -> Any:
    """The module, also of a method of one."""
    owner = getattr(module, "__self__", None)
    return owner if isinstance(owner, torch_library().nn.Module) else module


def _require_evaluation(module: Any) -> None:
    """Refuses a module of which a part is in training mode."""
    owner = _owner(module)
    if not isinstance(owner, torch_library().nn.Module):
        return
    for part in owner.modules():
        require(
            not part.training,
            f"module = {described(part)} is in training mode, in which dropout and batch norm make a score random: "
            "call module.eval() first.",
        )


def _takes_more(module: Any) -> bool:
    """Whether a module cannot be called with a sample and a time alone."""
    try:
        parameters = inspect.signature(getattr(module, "forward", module)).parameters.values()
    except (TypeError, ValueError):  # some functions of C do not say what they take
        return False
    by_name = inspect.Parameter.KEYWORD_ONLY
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return len(needed) > 2 or any(p.kind is by_name for p in needed)


def _checked(module: Any) -> tuple[Any, Any]:
    """The dtype of a module, `None` for a function, and its device; refused where it cannot be a score."""
    callable_with("module", module, None)
    torch, module = torch_library(), _owner(module)
    try:
        hash(module)
        weakref.ref(module)
    except TypeError:
        raise TypeError(
            f"module = {described(module)} has no hash or no weak reference, by which it is found again: give a "
            "torch.nn.Module, or a function that calls it."
        ) from None
    backend = jax.default_backend()
    wanted = "cuda" if backend == "gpu" else "cpu"
    if not isinstance(module, torch.nn.Module):
        return None, torch.device(wanted)
    _require_evaluation(module)
    parameters, buffers = list(module.parameters()), list(module.buffers())
    devices = {tensor.device for tensor in (*parameters, *buffers)} or {torch.device(wanted)}
    require(
        len(devices) == 1 and {device.type for device in devices} == {wanted},
        f"module = {described(module)} has parameters on {', '.join(sorted(map(str, devices)))}, and JAX computes on "
        f"{backend}: call module.to({wanted!r}), or choose JAX's device by JAX_PLATFORMS.",
    )
    dtypes = {tensor.dtype for tensor in parameters if tensor.is_floating_point()}
    rough = sorted(str(dtype) for dtype in dtypes if dtype not in (torch.float32, torch.float64))
    if rough or len(dtypes) > 1:
        raise TypeError(
            f"module = {described(module)} has parameters of {', '.join(sorted(map(str, dtypes)))}; a score is "
            "measured in float32 or float64: call module.float() or module.double()."
        )
    return (dtypes or {None}).pop(), devices.pop()


# ------------------------------------------------------------------------------------------------ the trial
_seen: weakref.WeakKeyDictionary[Any, dict[Any, str]] = weakref.WeakKeyDictionary()

_PIECEWISE_LINEAR = {
    "Relu": "relu",
    "LeakyRelu": "leaky_relu",
    "Hardtanh": "hard_tanh",
    "Hardsigmoid": "hard_sigmoid",
}
"""The activations that torch's graph names, by their names in `jax.nn`, by which second derivatives are refused."""


def _tried(
    fn: _Rows,
    device: Any,
    types: Sequence[tuple[tuple[int, ...], Any]],
    within: Callable[[np.ndarray], np.ndarray],
) -> str:
    """The name of a function in programs, after a trial of it on rows of such types, once for each.

    Args:
        fn: The function.
        device: Its device.
        types: The shape and dtype of a row of its time, its sample, and the leaves of its conditioning.
        within: What it is given for the time, at shares of the horizon.
    """
    known = _seen.setdefault(_owner(fn.module), {})
    # A method by its function: one that is bound would keep its module alive.
    about = (getattr(fn.module, "__func__", None), fn.call, fn.structure, fn.dtype, device, *types)
    if about not in known:
        times = within(np.array([[0.25, 0.5], [0.4, 0.75]]))
        with plain_kernels(device), torch_library().enable_grad():
            known[about] = _trial(fn, device, types, times)
    return known[about]


def _trial(fn: _Rows, device: Any, types: Sequence[tuple[tuple[int, ...], Any]], times: np.ndarray) -> str:
    """Calls the function on two rows, and refuses it by the name of what is wrong with it."""
    torch, draws, name = torch_library(), np.random.default_rng(0), described(fn.module)

    def drawn(shape: tuple[int, ...], dtype: Any) -> Tensor:
        whole = np.broadcast_to(np.arange(2).reshape(2, *(1 for _ in shape)), (2, *shape))
        values = draws.normal(size=(2, *shape)) if jnp.issubdtype(dtype, jnp.floating) else whole
        return torch.tensor(values.astype(dtype), device=device)

    floats = jnp.issubdtype(types[0][1], jnp.floating)
    t, later = (torch.tensor(pair.astype(types[0][1]), device=device) for pair in times)
    x, other = drawn(*types[1]), drawn(*types[1])
    rest = [drawn(*kind) for kind in types[2:]]

    def value(t: Tensor, x: Tensor, rest: list[Tensor]) -> Tensor:
        try:
            returned = fn.raw(t, x, *rest)
        except Exception as error:
            told = f"{time_name} in {str(t.dtype).removeprefix('torch.')}"
            order = "module(t, x" if fn.call.time_first else "module(x, t"
            raise ValueError(
                f"module = {name} failed when it was called as {order}{', …' if rest else ''}) with x of shape "
                f"{tuple(x.shape)} in {str(given).removeprefix('torch.')} and t, the {told}, of shape "
                f"{tuple(t.shape)}: {type(error).__name__}: {error}. TorchCall says what a module takes: "
                "time=whole_step_time for integers, time_first, channels_last."
                + ("" if rest else " What it takes besides is bound: score.bind(args=…).")
                + ("" if fn.dtype else " A function gets the dtype of the sample, and a torch.nn.Module its own.")
            ) from error
        return fn.checked(returned, x)

    time_name, given = described(fn.call.time), fn.dtype or x.dtype
    try:
        value(t, x, rest)  # what is made at a first call, such as a table of sines, may be drawn
    except ValueError:
        # Labels 0 and 1 tell rows apart; a table may have one row only.
        rest = [a if a.is_floating_point() else torch.zeros_like(a) for a in rest]
        value(t, x, rest)
    before = _random_state(device)
    first, second = (value(t, x, rest) for _ in range(2))
    require(
        bool(first.isfinite().all()),
        f"module = {name} returns NaN or infinity for samples from the normal law, t = {t.tolist()} ({time_name}). "
        "TorchCall(time=…) says what it takes for the time.",
    )
    require(
        all(torch.equal(a, b) for a, b in zip(before, _random_state(device), strict=True)) and _near(first, second),
        f"module = {name} draws random numbers: two calls at the same point are not the same. Switch its noise off; "
        "dropout is off after module.eval().",
    )
    alone = [value(t[i : i + 1], x[i : i + 1], [a[i : i + 1] for a in rest]) for i in range(2)]
    require(
        all(_near(one, first[i : i + 1]) for i, one in enumerate(alone)),
        f"module = {name} mixes the samples of a batch: its value at one of them depends on the others.",
    )
    inputs = [x.requires_grad_(), *([t.requires_grad_()] if floats else [])]
    differentiable = value(t, x, rest)
    slopes = [None] * 2
    if differentiable.requires_grad:
        slopes = [*torch.autograd.grad(differentiable.sum(), inputs, allow_unused=True, retain_graph=True), None]
    changes = [not _near(value(t, other, rest), first), floats and not _near(value(later, x, rest), first)]
    flat = [slope is None or not bool(slope.any()) for slope in slopes]
    require(
        not (changes[0] and flat[0]),
        f"module = {name} returns a value that changes with x and has no derivative: it detaches it, or works under "
        "torch.no_grad().",
    )
    require(
        not (changes[1] and flat[1]),
        f"module = {name} returns a value that changes with the time ({time_name}, which is continuous) and has no "
        "derivative: it rounds the time to integers. Say so by TorchCall(time=scorefp.score.whole_step_time).",
    )
    if changes[0]:
        # Along one direction; a square on both sides, so that one reverse pass does. Kinks of ReLU need the tolerance.
        step, along = torch.finfo(x.dtype).eps ** (1 / 3), other - x.detach()
        ahead, behind = (value(t, x.detach() + by * along, rest).detach() for by in (step, -step))
        change, noise = (ahead - behind) / (2 * step), torch.finfo(x.dtype).eps / step * first.detach().norm()
        (pulled,) = torch.autograd.grad(differentiable, x, change, retain_graph=True)
        error, size = float((pulled * along).sum() - (change**2).sum()), float(change.norm())
        require(
            abs(error) <= 0.3 * size**2 + 10 * float(noise) * size,
            f"module = {name} returns a value whose derivative by x is not that of its differences: part of it is "
            "detached, rounded, or has a derivative of its own.",
        )
    nodes = {node.name().partition("Backward")[0] for node in _graph(differentiable.grad_fn)}
    return next((known for theirs, known in _PIECEWISE_LINEAR.items() if theirs in nodes), "torch")


def _random_state(device: Any) -> list[Tensor]:
    """The states of torch's own generators."""
    torch = torch_library()
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _near(a: Tensor, b: Tensor) -> bool:
    """Whether two values differ by no more than kernels do that sum in another order."""
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max()) <= 1e-4 * float(b.abs().max())


def _graph(node: Any) -> Iterator[Any]:
    """The nodes of the graph of a value, each once."""
    seen, waiting = set[Any](), [node]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
            yield node
