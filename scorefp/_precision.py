"""Measuring: products in full precision, where training may round.

On GPUs JAX rounds the products of float32 to TF32 by default and on TPUs to bfloat16: that moves a log-likelihood by
thousandths of a nat and doubles the steps of its solver. The precision of a product is written down when it is traced,
so a measurement is traced inside of `jax.default_matmul_precision("highest")`; what it holds then lasts through the
`jit`, `vmap` and `grad` of others around it. A network that rounds on its own asks `measuring` whether it may.

What is traced later is traced outside: the rules of `jax.custom_vjp`, and the fields that an adjoint of diffrax goes
through again on the way back. Fields of ODEs carry the decorator themselves.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import jax

_P = ParamSpec("_P")
_R = TypeVar("_R")

_DEFAULT = ("default", "bfloat16")
"""Settings of JAX that leave it to the device: full float32 on CPUs, TF32 on GPUs, bfloat16 on TPUs."""

_COARSE = ("BF16_BF16_F32", "BF16_BF16_BF16", "F16_F16_F32", "F16_F16_F16")
"""Settings of one product in half precision, where the device has it."""

_measured = jax.make_user_context(default_value=False)


def measures(fn: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function with all that is traced inside it in full precision, networks of bfloat16 too."""
    return _traced(fn, lambda: "highest")


def differs(fn: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function with its products as fine as the differences of a training step need, or finer where that is the
    setting: float32 on CPUs, TF32 on GPUs, whose units for full float32 are some fifteen times slower, and three
    products of bfloat16 on TPUs. Networks of bfloat16 too.
    """
    return _traced(fn, lambda: "high" if (setting := default_precision()) in (*_DEFAULT, *_COARSE) else setting)


def _traced(fn: Callable[_P, _R], precision: Callable[[], str]) -> Callable[_P, _R]:
    @functools.wraps(fn)
    def exact(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with jax.default_matmul_precision(precision()), _measured(True):
            return fn(*args, **kwargs)

    return exact


def measuring() -> bool:
    """Whether what is being traced is part of a measurement."""
    return bool(_measured.value)


def default_precision() -> str:
    """The precision that products have where they name none, to be written into what is traced now."""
    return cast(Any, jax.config).jax_default_matmul_precision or "default"


def products_round() -> bool:
    """Whether products of float32 that name no precision lose what a difference needs: those of bfloat16 do, which TPUs
    take by themselves; those of TF32, which GPUs take, do not.
    """
    device, setting = jax.default_backend(), default_precision()
    return device != "cpu" and (setting in _COARSE or (device != "gpu" and setting in _DEFAULT))
