"""Functions without a second derivative are refused where one is needed."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jaxtyping import Array

from .._checks import callable_with

_PIECEWISE_LINEAR = frozenset({"relu", "relu6", "leaky_relu", "hard_tanh", "hard_sigmoid"})
"""The piecewise-linear activations of `jax.nn`, by the name they have in a traced program."""


def require_smooth(name: str, fn: Callable[..., Any], *args: Array) -> None:
    """Refuses a function in whose program a piecewise-linear activation of `jax.nn` occurs.

    Its second derivatives are zero almost everywhere, and a Fokker–Planck residual of it is silently wrong. The program
    is traced once, nothing is evaluated.

    Args:
        name: The name of the function in the message.
        fn: The function.
        args: Its arguments; only shapes and dtypes count.

    Raises:
        ValueError: if it is piecewise linear.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from scorefp.calculus._smoothness import require_smooth
        >>> require_smooth("network", jax.nn.relu, jnp.zeros(2))
        Traceback (most recent call last):
            ...
        ValueError: network uses relu, which is piecewise linear: ...
    """
    names = (equation.params.get("name") for equation in equations(fn, *args))
    if (found := next((name for name in names if name in _PIECEWISE_LINEAR), None)) is not None:
        raise ValueError(_message(f"{name} uses {found}"))


def require_smooth_activation(activation: Callable[[Array], Array]) -> None:
    """Refuses what is no elementwise function, or one whose second derivative is zero at a spread of points."""
    callable_with("activation", activation, 1)
    _require_bent(activation)


@functools.lru_cache(maxsize=64)
def _require_bent(activation: Callable[[Array], Array]) -> None:
    """Refuses an elementwise function whose second derivative is zero at a spread of points.

    Args:
        activation: The function, of any origin.

    Raises:
        ValueError: if it is piecewise linear.
    """
    # A network may be made inside a trace, where nothing has a value otherwise.
    with jax.ensure_compile_time_eval():
        bends = jax.vmap(jax.grad(jax.grad(activation)))(jnp.linspace(-3.1, 2.9, 25))
        bent = bool(jnp.any(bends != 0))
    if not bent:
        raise ValueError(_message(f"activation = {getattr(activation, '__name__', activation)}"))


def require_time_derivative(name: str, fn: Callable[..., Any], t: Array, x: Array) -> None:
    """Refuses a function of `(t, x)` that calls a torch module with an integer for the time.

    It jumps, and a difference of its values at two times is no derivative. The program is traced once, nothing is
    evaluated.

    Args:
        name: The name of the function in the message.
        fn: The function.
        t: The time.
        x: The sample.

    Raises:
        TypeError: if it does.
    """
    for equation in equations(fn, t, x):
        if equation.primitive.name == "torch" and jnp.issubdtype(cast(Any, equation.invars[0].aval).dtype, jnp.integer):
            raise TypeError(jumps(name))


def jumps(subject: str) -> str:
    """The message that something has no time derivative."""
    return (
        f"{subject} calls a torch module with an integer for the time, such as whole_step_time: it jumps from step to "
        "step and has no time derivative. Use step_time for a module that takes fractions of steps."
    )


def _message(subject: str) -> str:
    return (
        f"{subject}, which is piecewise linear: its second derivatives, which are taken here, are zero almost "
        "everywhere. Use a smooth one: nn.silu, nn.softplus, jax.nn.gelu, jnp.tanh."
    )


def equations(fn: Callable[..., Any], *args: Array) -> Iterator[JaxprEqn]:
    """All operations in the program of a function, also in programs inside it; nothing is evaluated.

    Args:
        fn: The function.
        args: Its arguments; only shapes and dtypes count.
    """
    return _equations(program(fn, *args))


def program(fn: Callable[..., Any], *args: Array) -> Jaxpr:
    """The program of a function, from the shapes and dtypes of its arguments."""
    shapes = [jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)) for a in args]
    # A function of its own: jax looks up equal ones, and methods of modules that hold traced arrays do not compare.
    return jax.make_jaxpr(lambda *values: fn(*values))(*shapes).jaxpr


def inner_programs(equation: JaxprEqn) -> Iterator[Jaxpr]:
    """The programs inside an operation, such as those of a compiled function, a loop or its branches."""
    for inner in jax.tree.leaves(equation.params, is_leaf=lambda value: isinstance(value, Jaxpr | ClosedJaxpr)):
        if isinstance(inner, Jaxpr | ClosedJaxpr):
            yield inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner


def _equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in inner_programs(equation):
            yield from _equations(inner)
