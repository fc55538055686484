"""The precision at which a function multiplies."""

from collections.abc import Callable
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._smoothness import equations

_PRODUCTS = frozenset({"dot_general", "conv_general_dilated", "convolution", "correlation", "torch"})
"""Operations that multiply; a call of torch does so in the dtype of what it is given."""


def coarsest_product(fn: Callable[..., Any], *args: Array) -> np.dtype[Any]:
    """The coarsest dtype of floats that enter a product or a convolution in the program of a function, or its
    arguments' own where that is coarser. The program is traced once, nothing is evaluated.

    A product inside a call of the host, but of torch, is not seen.

    Args:
        fn: The function.
        args: Its arguments; only shapes and dtypes count.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp.calculus._rounding import coarsest_product
        >>> half = lambda x: (x.astype(jnp.bfloat16) @ jnp.eye(2, dtype=jnp.bfloat16)).astype(x.dtype)
        >>> print(coarsest_product(half, jnp.zeros(2)), coarsest_product(jnp.sin, jnp.zeros(2)))
        bfloat16 float32
    """
    found = [jnp.result_type(a) for a in args]
    for equation in equations(fn, *args):
        if equation.primitive.name in _PRODUCTS:
            found += [cast(Any, var.aval).dtype for var in equation.invars]
    return max((d for d in found if jnp.issubdtype(d, jnp.floating)), key=lambda d: float(jnp.finfo(d).eps))
