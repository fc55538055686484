"""A PyTorch module as a function of rows, and what of it cannot be a score."""

import inspect
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from .._checks import callable_with, require
from .._describe import described
from ._host import Tensor, torch_library
from .torch_call import TorchCall


@dataclass(frozen=True)
class Rows:
    """The module as a function of a batch of times, of samples, and of the leaves of the conditioning."""

    module: Callable[..., Any]
    call: TorchCall
    structure: Any
    dtype: Any

    def __call__(self, t: Tensor, x: Tensor, *leaves: Tensor) -> Tensor:
        return self.checked(self.raw(t, x, *leaves), x)

    def raw(self, t: Tensor, x: Tensor, *leaves: Tensor) -> Any:
        """What the module returns."""
        require_evaluation(self.module)
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
                f"it is a tensor of floats. Say where it is: TorchCall(output=lambda returned: returned{_part(value)})."
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
            *before, last = x.shape
            remedy = (
                f"Twice the channels, and these last: TorchCall(output=lambda returned: returned[..., :{last}])."
                if before[1:] and tuple(value.shape) == (*before, 2 * last)
                else "Twice the channels: TorchCall(learned_variance=True); samples with the channels last, and a "
                "module that has them first: TorchCall(channels_last=True)."
            )
            raise ValueError(
                f"module returned shape {tuple(value.shape)} for x of shape {tuple(x.shape)}, and TorchCall says "
                f"{wanted}. {remedy}"
            )
        return (value[:, : x.shape[1]] if self.call.learned_variance else value).to(x.dtype)


def _told(value: Any) -> str:
    return f"a {type(value).__name__}"


def _part(value: Any) -> str:
    """How the tensor in a value is most often reached."""
    return "[0]" if isinstance(value, tuple | list) else "['sample']" if isinstance(value, dict) else ".sample"


def owner_of(module: Any) -> Any:
    """The module, also of a method of one."""
    owner = getattr(module, "__self__", None)
    return owner if isinstance(owner, torch_library().nn.Module) else module


def require_evaluation(module: Any) -> None:
    """Refuses a module of which a part is in training mode."""
    owner = owner_of(module)
    if not isinstance(owner, torch_library().nn.Module):
        return
    for part in owner.modules():
        require(
            # A frozen module of torch.jit has no mode.
            not getattr(part, "training", False),
            f"module = {described(part)} is in training mode, in which dropout and batch norm make a score random: "
            "call module.eval() first. A module of torch.export has no eval(): give lambda x, t: module(x, t).",
        )


def _parameters(module: Any) -> list[inspect.Parameter]:
    try:
        return [*inspect.signature(getattr(module, "forward", module)).parameters.values()]
    except (TypeError, ValueError):  # some functions of C do not say what they take
        return []


def takes_more(module: Any) -> bool:
    """Whether a module cannot be called with a sample and a time alone."""
    by_name = inspect.Parameter.KEYWORD_ONLY
    needed = [
        p for p in _parameters(module) if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    return len(needed) > 2 or any(p.kind is by_name for p in needed)


def may_take_more(module: Any) -> bool:
    """Whether a module may need what its signature lets be left out, such as a label that is `None` by default."""
    return any(p.default is None or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in _parameters(module))


def checked_module(module: Any) -> tuple[Any, Any]:
    """The dtype of a module, `None` for a function, and its device; refused where it cannot be a score."""
    callable_with("module", module, None)
    torch, module = torch_library(), owner_of(module)
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
    require(
        wanted == "cpu" or torch.cuda.is_available(),
        f"module = {described(module)} is of a torch that finds no GPU, and JAX computes on {backend}: install torch "
        "with CUDA, or start with JAX_PLATFORMS=cpu.",
    )
    if not isinstance(module, torch.nn.Module):
        return None, torch.device(wanted)
    require_evaluation(module)
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
