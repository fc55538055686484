"""Probes `v` with `E[v vᵀ] = I`, which turn a trace into an average of directional derivatives."""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from .._checks import kind, optional_key, random_key, require
from .._module import AbstractModule
from .._types import Event, Key


class AbstractLaw(AbstractModule):
    """A law of one probe entry, with mean 0 and variance 1."""

    @abstractmethod
    def draw(self, key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Float[Array, "..."]:
        """Independent entries of the given shape."""


class Rademacher(AbstractLaw):
    """Random signs: the law with the least variance for a trace; exact for a diagonal matrix.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from scorefp.calculus import Rademacher
        >>> bool((abs(Rademacher().draw(jax.random.key(0), (3,), jnp.dtype(jnp.float32))) == 1).all())
        True
    """

    def draw(self, key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Float[Array, "..."]:
        return jr.rademacher(random_key("Rademacher", key), shape, dtype)


class Gaussian(AbstractLaw):
    """Standard normal entries.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from scorefp.calculus import Gaussian
        >>> Gaussian().draw(jax.random.key(0), (3,), jnp.dtype(jnp.float32)).shape
        (3,)
    """

    def draw(self, key: Key, shape: tuple[int, ...], dtype: jnp.dtype) -> Float[Array, "..."]:
        return jr.normal(random_key("Gaussian", key), shape, dtype)


Probes = Float[Array, "probes *event"]
Made = Float[Array, "made *event"]


class AbstractTrace(AbstractModule):
    """A way to take a trace: probes whose mean outer product is the identity.

    `random` says whether they are drawn.
    """

    remedy: ClassVar[str] = "It is Exact(), Hutchinson(samples, law), XTrace(samples) or HutchPlusPlus(samples)."

    random: ClassVar[bool]

    @abstractmethod
    def probes(self, x: Event, key: Key | None) -> Probes:
        """Probes of the shape of `x`, stacked along a leading axis, as they are before the matrix is seen."""

    @abstractmethod
    def products(self, push: Callable[[Event], Event], probes: Probes) -> tuple[Made, Made]:
        """Probes for the matrix `push`, made of those that `probes` gave, and the matrix's products with them."""


class AbstractProbes(AbstractTrace):
    """Probes that do not depend on the matrix. They take second derivatives along curves too."""

    remedy: ClassVar[str] = "It is Exact() or Hutchinson(samples, law)."

    def products(self, push: Callable[[Event], Event], probes: Probes) -> tuple[Made, Made]:
        return probes, jax.vmap(push)(probes)


_MOST_BYTES = 2**34


def check_exact(x: Event) -> None:
    """Refuses a sample so large that a whole Jacobian of it, or an identity, takes more than 16 GiB."""
    size = x.size**2 * x.dtype.itemsize
    require(
        size <= _MOST_BYTES,
        f"x has {x.size} elements: an exact trace or Jacobian takes as many passes at once, on {size / 2**30:.0f} GiB. "
        "Estimate it with Hutchinson(samples), whose cost does not grow with the size.",
    )


class Exact(AbstractProbes):
    r"""The exact value: the probes are the basis scaled by $\sqrt D$, whose mean outer product is the identity.

    As an argument of `divergence` and `laplacian` it costs `D` forward passes, all at once: samples whose identity is
    larger than 16 GiB, of more than 65,536 elements in float32, are refused. As an argument of `time_derivative` it is
    one forward-mode derivative. As a residual method it takes every term exactly.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp.calculus import Exact, divergence
        >>> float(divergence(lambda x: x**2, jnp.array([1.0, 2.0]), trace=Exact()))
        6.0
    """

    random: ClassVar[bool] = False

    def probes(self, x: Event, key: Key | None) -> Probes:
        check_exact(x)
        basis = jnp.sqrt(jnp.asarray(x.size, x.dtype)) * jnp.eye(x.size, dtype=x.dtype)
        return basis.reshape((x.size, *x.shape))


class Hutchinson(AbstractProbes):
    r"""Hutchinson's estimator $\operatorname{tr} A = E_v[v^\top A v]$, the mean of `samples` independent probes [F9].

    Args:
        samples: The number of probes; the variance falls as its inverse.
        law: The law of the probes, `Rademacher()` (the least variance) or `Gaussian()`.

    Raises:
        ValueError: if `samples` is below one.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from scorefp.calculus import Hutchinson, divergence
        >>> key = jax.random.key(0)
        >>> float(divergence(lambda x: x**2, jnp.array([1.0, 2.0]), trace=Hutchinson(), key=key))
        6.0
    """

    samples: int = 1
    law: AbstractLaw = Rademacher()

    random: ClassVar[bool] = True

    def __check_init__(self) -> None:
        require(self.samples >= 1, f"samples = {self.samples}; Hutchinson needs at least one probe.")

    def probes(self, x: Event, key: Key | None) -> Probes:
        return self.law.draw(random_key("Hutchinson", key), (self.samples, *x.shape), x.dtype)


def probes_for(trace: AbstractTrace, push: Callable[[Event], Event], x: Event, key: Key | None) -> Made:
    """The probes for the matrix `push`, where other things are wanted than its products with them."""
    probes = trace.probes(x, key)
    return probes if isinstance(trace, AbstractProbes) else trace.products(push, probes)[0]


EXACT_UP_TO = 16
"""The number of elements of a sample up to which a default takes every trace exactly."""


def default_trace(size: int) -> Exact | Hutchinson:
    """`Exact()` for small samples, one probe for larger ones."""
    return Exact() if size <= EXACT_UP_TO else Hutchinson()


def checked_trace(trace: AbstractTrace, key: Key | None) -> AbstractTrace:
    """The trace of a public function, refused unless it is one, and a random one unless it has its key."""
    kind("trace", trace, AbstractTrace)
    optional_key(type(trace).__name__, key, needed=trace.random)
    return trace
