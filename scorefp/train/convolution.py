"""How many steps one loop on the device takes, where convolutions decide it."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

from ..score import AbstractScore


def loop_size(model: AbstractScore, sample: jax.ShapeDtypeStruct, args: Any, size: int) -> int:
    """One where the model convolves on a CPU, else `size`.

    XLA for CPUs arranges the operands of convolutions for its fast kernels in the outermost computation only. In the
    body of a loop the gradients of convolutions run about ten times as long (github.com/jax-ml/jax/issues/12868): there
    the host starts every step by itself. Starting one takes less than a millisecond, a step that convolves takes many.

    Args:
        model: A score.
        sample: Shape and dtype of one sample.
        args: Shapes and dtypes of the conditioning of one sample.
        size: How many steps a loop may take.
    """
    if size == 1 or jax.default_backend() != "cpu":
        return size
    leaves, structure = jax.tree.flatten((model, sample, args))
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if eqx.is_array(leaf) else leaf for leaf in leaves)
    return 1 if _convolves(structure, shapes) else size


@functools.lru_cache(maxsize=64)
def _convolves(structure: Any, leaves: tuple[Any, ...]) -> bool:
    """Whether a convolution occurs in the program of a model, of which only shapes are known."""

    def value(model: AbstractScore, sample: Any, args: Any) -> Any:
        # By args alone: a network without them takes no such keyword.
        return (model if args is None else model.bind(args=args))(jnp.ones((), sample.dtype), sample)

    program = eqx.filter_make_jaxpr(value)(*jax.tree.unflatten(structure, leaves))[0]
    return _has_convolution(program.jaxpr)


def _has_convolution(jaxpr: Jaxpr) -> bool:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            return True
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda value: isinstance(value, Jaxpr | ClosedJaxpr)):
            if isinstance(inner, Jaxpr | ClosedJaxpr) and _has_convolution(
                inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
            ):
                return True
    return False
