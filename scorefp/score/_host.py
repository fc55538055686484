"""Functions of torch inside programs of JAX: a primitive whose derivatives of every order are torch's own.

A program of JAX calls a `Program`, a function of tensors with a leading batch axis whose rows do not know each other.
Its tangent and its cotangent are programs again, so that `jvp`, `grad`, `vmap` and their compositions stay inside of
the family. A tangent is two reverse passes (Townsend 2017, *A new trick for calculating Jacobian vector products*):
the first is linear in its cotangent, and the second transposes it. torch's forward mode would be one, but lacks second
derivatives, of `silu` for one. `vmap` makes the batch larger: one call, and no loop.
"""

import contextlib
import importlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from .._checks import needs

Tensor = Any
"""A tensor of torch, which type checkers may not have."""


def torch_library() -> Any:
    """The module `torch`.

    Raises:
        ImportError: if it is not installed.
    """
    with needs("a score from PyTorch", "torch", "torch"):
        return importlib.import_module("torch")


# ------------------------------------------------------------------------------------------------ programs
class Program(ABC):
    """A function of tensors with a leading batch axis. Its last `linear` arguments are those in which it is linear."""

    values: int
    linear: int

    @abstractmethod
    def types(self, given: Sequence[Any]) -> list[Any]:
        """The types of its values from those of its arguments."""

    @abstractmethod
    def transpose(self) -> "Program":
        """Its transpose: a program of the other arguments, and of a cotangent for each value."""

    @abstractmethod
    def run(self, *given: Tensor) -> list[Tensor]:
        """Its values, with a graph where gradients are enabled."""


@dataclass(frozen=True)
class Value(Program):
    """A hashable function of torch, whose value has the type of its second argument."""

    fn: Callable[..., Tensor]
    values = 1
    linear = 0

    def types(self, given: Sequence[Any]) -> list[Any]:
        return [given[1]]

    def transpose(self) -> Program:
        raise NotImplementedError

    def run(self, *given: Tensor) -> list[Tensor]:
        return [self.fn(*given)]


@dataclass(frozen=True)
class Cotangent(Program):
    """The products $w^T J$ of a program with respect to some arguments: of its arguments, and a $w$ for each value."""

    of: Program
    wrt: tuple[int, ...]

    @property
    def values(self) -> int:
        return len(self.wrt)

    @property
    def linear(self) -> int:
        return self.of.values

    def types(self, given: Sequence[Any]) -> list[Any]:
        return [given[i] for i in self.wrt]

    def transpose(self) -> Program:
        return Tangent(self.of, self.wrt)

    def run(self, *given: Tensor) -> list[Tensor]:
        further = torch_library().is_grad_enabled()
        with torch_library().enable_grad():
            point, inputs = _tracked(given[: -self.linear], self.wrt)
            return pulled(self.of.run(*point), inputs, given[-self.linear :], further)


@dataclass(frozen=True)
class Tangent(Program):
    """The products $Jv$ of a program with respect to some arguments: of its arguments, and a $v$ for each of those."""

    of: Program
    wrt: tuple[int, ...]

    @property
    def values(self) -> int:
        return self.of.values

    @property
    def linear(self) -> int:
        return len(self.wrt)

    def types(self, given: Sequence[Any]) -> list[Any]:
        return self.of.types(given[: -self.linear])

    def transpose(self) -> Program:
        return Cotangent(self.of, self.wrt)

    def run(self, *given: Tensor) -> list[Tensor]:
        further = torch_library().is_grad_enabled()
        with torch_library().enable_grad():
            point, inputs = _tracked(given[: -self.linear], self.wrt)
            values = self.of.run(*point)
            weights = [torch_library().zeros_like(value, requires_grad=True) for value in values]
            return pulled(pulled(values, inputs, weights, True), weights, given[-self.linear :], further)


def _tracked(given: Sequence[Tensor], wrt: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """The arguments, those to differentiate by with a gradient, and these alone."""
    point = list(given)
    for i in wrt:
        point[i] = point[i] if point[i].requires_grad else point[i].detach().requires_grad_()
    return point, [point[i] for i in wrt]


def pulled(
    values: Sequence[Tensor], inputs: Sequence[Tensor], weights: Sequence[Tensor], further: bool
) -> list[Tensor]:
    """The gradient of the weighted sum of values, zero where they do not depend on an input."""
    torch = torch_library()
    reached = [(value, weight) for value, weight in zip(values, weights, strict=True) if value.requires_grad]
    found = [None] * len(inputs)
    if reached:
        outputs, along = zip(*reached, strict=True)
        found = torch.autograd.grad(outputs, inputs, along, create_graph=further, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


# ------------------------------------------------------------------------------------------------ calls
# Entered again by a function of torch that calls a score of torch.
_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def plain_kernels(device: Any) -> Generator[None, None, None]:
    """Kernels that have all derivatives and do not round.

    Fused attention and the fast path of `MultiheadAttention` have no second derivatives, products on GPUs round to
    TF32, and autocast rounds to half precision. The switches are torch's, most for all its threads: one call has them
    at a time, and puts them back.

    Args:
        device: The device of torch that is computed on.
    """
    torch = torch_library()
    attention = torch.nn.attention
    with _one_at_a_time, contextlib.ExitStack() as stack:
        fast = torch.backends.mha.get_fastpath_enabled()
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        _round_nothing(stack)
        stack.enter_context(attention.sdpa_kernel(attention.SDPBackend.MATH))
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(torch.inference_mode(False))
        yield


def _round_nothing(stack: contextlib.ExitStack) -> None:
    """Products of float32 in float32, until the stack closes.

    torch has two sets of switches for it. A kernel may ask whether the two agree, so both are set; the older ones
    cannot be read where the user set the newer ones to something that they cannot say, and are left then.
    """
    torch = torch_library()
    backends = torch.backends
    newer: list[tuple[Any, str]] = [
        (part, part.fp32_precision)
        for group, names in (
            (backends.cuda, "matmul"),
            (backends.cudnn, "conv rnn"),
            (backends.mkldnn, "matmul conv rnn"),
        )
        for part in (cast(Any, getattr(group, name, None)) for name in names.split())
        if hasattr(part, "fp32_precision")
    ]
    for part, precision in newer:
        stack.callback(setattr, part, "fp32_precision", precision)
    with contextlib.suppress(RuntimeError):
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("highest")
    with contextlib.suppress(RuntimeError):
        stack.callback(setattr, backends.cudnn, "allow_tf32", backends.cudnn.allow_tf32)
        backends.cudnn.allow_tf32 = False
    for part, _ in newer:
        part.fp32_precision = "ieee"


def called(program: Program, device: Any, *arrays: Any) -> list[Any]:
    """The values of a program at arrays, as arrays of NumPy."""
    torch = torch_library()
    # Before the lock: it waits for what computes the arrays, which may be a program that waits for the lock.
    rows = [np.asarray(array) for array in arrays]
    if not len(rows[0]):
        return [np.zeros(aval.shape, aval.dtype) for aval in program.types(rows)]
    with plain_kernels(device), torch.no_grad():
        # Copies: a module may write into what it is given.
        values = program.run(*(torch.tensor(row, device=device) for row in rows))
        return [value.cpu().numpy() for value in values]


_torch_p = Primitive("torch")
_torch_p.multiple_results = True


def call(program: Program, device: Any, name: str, *arrays: Array) -> Array:
    """The value of a program with one value, as a function of arrays that JAX transforms.

    Args:
        program: The program.
        device: The device of torch that it runs on.
        name: What its function is called where JAX's programs are read.
        arrays: Its arguments.
    """
    (value,) = cast(Any, _torch_p.bind(*arrays, program=program, device=device, name=name))
    return value


def _impl(*arrays: Any, program: Program, device: Any, name: str) -> list[Array]:
    return [jnp.asarray(value) for value in called(program, device, *arrays)]


def _abstract(*given: Any, program: Program, device: Any, name: str) -> list[Any]:
    return [ShapedArray(aval.shape, aval.dtype) for aval in program.types(given)]


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, program: Program, **how: Any) -> tuple[Any, Any]:
    values = _torch_p.bind(*primals, program=program, **how)
    moved = tuple(i for i, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero))
    cut = len(primals) - program.linear
    if moved[0] >= cut:  # in which it is linear
        pushed = [ad.instantiate_zeros(tangent) for tangent in tangents[cut:]]
        return values, _torch_p.bind(*primals[:cut], *pushed, program=program, **how)
    pushed = [tangents[i] for i in moved]
    return values, _torch_p.bind(*primals, *pushed, program=Tangent(program, moved), **how)


def _transpose(cotangents: Sequence[Any], *given: Any, program: Program, **how: Any) -> list[Any]:
    cut = len(given) - program.linear
    pulled = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
    found = _torch_p.bind(*given[:cut], *pulled, program=program.transpose(), **how)
    kept = [g if ad.is_undefined_primal(x) else None for x, g in zip(given[cut:], cast(Any, found), strict=True)]
    return [None] * cut + kept


def _batch(given: Sequence[Any], axes: Sequence[Any], **params: Any) -> tuple[list[Array], list[int]]:
    size = next(x.shape[axis] for x, axis in zip(given, axes, strict=True) if axis is not None)

    def rows(x: Any, axis: int | None) -> Array:
        x = jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        return x.reshape(size * x.shape[1], *x.shape[2:])

    # The rows of each, which their sum does not tell where it is zero.
    each = given[0].shape[1 if axes[0] == 0 else 0]
    values = cast(Any, _torch_p.bind(*map(rows, given, axes), **params))
    return [value.reshape(size, each, *value.shape[1:]) for value in values], [0] * len(values)


# What the callback of a compiled program returns, as words of 32 bits: JAX casts it to what the thread of the callback
# takes for a dtype, and that thread does not know of float64 by `jax.enable_x64`.
_words_p = Primitive("torch_words")
_words_p.multiple_results = True


def _words(*given: Any, program: Program, device: Any) -> list[Any]:
    return [ShapedArray((*aval.shape, aval.dtype.itemsize // 4), np.dtype(np.uint32)) for aval in program.types(given)]


def _call_host(ctx: Any, *given: Any, program: Program, device: Any) -> Any:
    def on_host(*arrays: Any) -> tuple[Any, ...]:
        values = called(program, device, *arrays)
        return tuple(np.ascontiguousarray(v).reshape(*v.shape, 1).view(np.uint32) for v in values)

    # `jax.pure_callback` hands over arrays of JAX, and to read one on a thread of JAX may wait for that very thread.
    words, _, _ = mlir.emit_python_callback(
        ctx, on_host, None, list(given), ctx.avals_in, ctx.avals_out, has_side_effect=False, returns_token=False
    )
    return words


def _compiled(*given: Any, program: Program, device: Any, name: str) -> list[Array]:
    words = cast(Any, _words_p.bind(*given, program=program, device=device))
    types = program.types(given)
    # A last axis of one word is no part of what is made of it.
    words = [w[..., 0] if aval.dtype.itemsize == 4 else w for w, aval in zip(words, types, strict=True)]
    return [jax.lax.bitcast_convert_type(w, aval.dtype) for w, aval in zip(words, types, strict=True)]


_words_p.def_abstract_eval(_words)
mlir.register_lowering(_words_p, _call_host, cacheable=False)
_torch_p.def_impl(_impl)
_torch_p.def_abstract_eval(_abstract)
ad.primitive_jvps[_torch_p] = _jvp
ad.primitive_transposes[_torch_p] = _transpose
batching.primitive_batchers[_torch_p] = _batch
mlir.register_lowering(_torch_p, mlir.lower_fun(_compiled, multiple_results=True))
