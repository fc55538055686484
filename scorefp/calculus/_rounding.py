"""The precision at which a function computes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal
from jaxtyping import Array

from ._smoothness import inner_programs, program

_PRODUCTS = frozenset({"dot_general", "conv_general_dilated"})


def coarsest_dtype(fn: Callable[..., Any], *args: Array) -> np.dtype[Any]:
    """The coarsest dtype of floats that the arguments pass on their way to the value of a function: their own, that of
    a product or a convolution, or one that they are converted to. The program is traced once, nothing is evaluated.

    What does not depend on the arguments, such as parameters that are rounded, makes another function and no noise, and
    is not counted. A product of operands of two dtypes whose result has the finer one is a product in the finer one.
    What happens in a call of the host is not seen, but that a module of torch computes in the dtype it is given.

    Args:
        fn: The function.
        args: Its arguments; only shapes and dtypes count.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp.calculus._rounding import coarsest_dtype
        >>> half = lambda x: (x.astype(jnp.bfloat16) @ jnp.eye(2, dtype=jnp.bfloat16)).astype(x.dtype)
        >>> mixed = lambda x: jnp.dot(x, jnp.eye(2, dtype=jnp.bfloat16))
        >>> print(coarsest_dtype(half, jnp.zeros(2)), coarsest_dtype(mixed, jnp.zeros(2)))
        bfloat16 float32
    """
    found = [jnp.result_type(a) for a in args]
    traced = program(fn, *args)
    for equation in _moving(traced, [True] * len(traced.invars)):
        found += _passed(equation)
    return max((d for d in found if jnp.issubdtype(d, jnp.floating)), key=_unit)


def _passed(equation: JaxprEqn) -> list[np.dtype[Any]]:
    """The dtypes that what depends on the arguments passes in one operation."""
    name, params = equation.primitive.name, equation.params
    operands, result = ([_dtype(var) for var in some] for some in (equation.invars, equation.outvars))
    if name in _PRODUCTS:
        finest = min(operands, key=_unit)
        return [finest] if result == [finest] else operands
    if name == "torch":
        return operands
    if name == "convert_element_type" and jnp.issubdtype(operands[0], jnp.floating):
        return result
    if name == "reduce_precision" and params["mantissa_bits"] < jnp.finfo(operands[0]).nmant:
        return [jnp.dtype(jnp.float16 if params["mantissa_bits"] >= jnp.finfo(jnp.float16).nmant else jnp.bfloat16)]
    return []


def _moving(jaxpr: Jaxpr, moves: Sequence[bool]) -> Iterator[JaxprEqn]:
    """The operations with an operand that depends on those inputs of a program that move, also in programs inside."""
    moved = {var for var, does in zip(jaxpr.invars, moves, strict=True) if does}
    for equation in jaxpr.eqns:
        inputs = [not isinstance(var, Literal) and var in moved for var in equation.invars]
        if not any(inputs):
            continue
        yield equation
        moved.update(equation.outvars)
        for inner in inner_programs(equation):
            # Of loops and branches, whose inputs are others, all move.
            same = equation.primitive.name != "scan" and len(inner.invars) == len(inputs)
            yield from _moving(inner, inputs if same else [True] * len(inner.invars))


def _dtype(var: Any) -> np.dtype[Any]:
    return var.aval.dtype


def _unit(dtype: np.dtype[Any]) -> float:
    """The distance from one to the next number; integers have the finest."""
    return float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, jnp.floating) else 0.0
