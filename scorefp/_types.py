"""Array types shared by every layer."""

from typing import Annotated, TypeAlias

from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray, Real, UInt32

Time: TypeAlias = Real[ArrayLike, ""]
"""One physical time: a Python number or a scalar array."""

Times: TypeAlias = Real[ArrayLike, "*times"]
"""Times of any shape, for the elementwise functions of a linear SDE."""

Event: TypeAlias = Float[Array, "*event"]
"""One sample of any event shape."""

Scalar: TypeAlias = Float[Array, ""]
"""A real scalar array."""

Flag: TypeAlias = Bool[Array, ""]
"""A boolean scalar array."""

Key: TypeAlias = PRNGKeyArray | UInt32[Array, "2"]
"""A random key, new style (`jax.random.key`) or old style (`jax.random.PRNGKey`)."""

MaybeNaN: TypeAlias = Annotated[float, "NaN where there is none"]
"""A number of a result, the field of a module, that may be NaN or infinite; a `float` is finite."""
