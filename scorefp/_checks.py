"""Early, clear errors. Each names the argument, its value, what is allowed and the remedy."""

import contextlib
import inspect
import operator
import sys
from collections.abc import Callable, Generator, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool

from ._types import Key

_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., Any])


def is_concrete(value: Any) -> bool:
    """Whether `value` is known now, outside any `jit`, `vmap` or `grad`."""
    return not isinstance(value, Tracer)


def require(condition: bool, message: str) -> None:
    """Raises `ValueError(message)` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


@contextlib.contextmanager
def needs(what: str, package: str, extra: str) -> Generator[None, None, None]:
    """Imports for `what` of a package that may be missing, with the extra that installs it."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{what} needs {package}; install it with: pip install 'scorefp[{extra}]'") from error


def floating(name: str, x: ArrayLike) -> Array:
    """`x` as an array, refused with `TypeError` unless its dtype is floating."""
    array = _array(name, x, "an array of floats")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"{name} has dtype {array.dtype}; a sample is an array of floats. Convert it first, "
            f"for example {name}.astype(jnp.float32), or dequantise integer data with UniformDequantiser."
        )
    return array


def single_or_better(name: str, x: Array) -> Array:
    """`x`, refused with `TypeError` at half precision, in which nothing is measured."""
    if jnp.finfo(x.dtype).bits < 32:
        raise TypeError(
            f"{name} has dtype {x.dtype}; a measurement does not round to half precision: pass "
            f"{name}.astype(jnp.float32). A network may still compute in {x.dtype} inside."
        )
    return x


def real(name: str, value: ArrayLike) -> Array:
    """`value` as an array, refused with `TypeError` unless it holds real numbers."""
    array = _array(name, value, "a real number")
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        told = array.dtype if array.ndim else _told(value)
        raise TypeError(f"{name} is {told}; it is real. Pass floats.")
    return array


def floats(values: Array) -> Array:
    """Integers as floats; floats as they are."""
    return values if jnp.issubdtype(values.dtype, jnp.floating) else values.astype(jnp.result_type(float))


def scalar(name: str, value: ArrayLike) -> Array:
    """`value` as an array, refused unless it is one real number."""
    array = real(name, value)
    require(array.shape == (), f"{name} has shape {array.shape}; it is a scalar.")
    return array


def step_number(name: str, value: ArrayLike) -> Array:
    """`value` as an array, refused unless it is one integer, which is not negative where it is known."""
    array = scalar(name, value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} has dtype {array.dtype}; it is the number of a step: pass an int.")
    require(not is_concrete(array) or int(array) >= 0, f"{name} = {array}; steps are counted from 0.")
    return array


def same_shape(name: str, got: tuple[int, ...], reference: str, want: tuple[int, ...]) -> None:
    """Refuses two different shapes, broadcastable or not; one of them may be a batch of the other."""
    if got != want:
        batched = want == got[1:] or got == want[1:]
        raise ValueError(
            f"{name} has shape {got}, but {reference} has shape {want}; the two must be equal and are never broadcast."
            + " These functions take one sample: batch them with jax.vmap." * batched
        )


def fitting_samples(name: str, got: tuple[int, ...], want: tuple[int, ...] | None) -> None:
    """Refuses samples, an argument called `name`, of another shape than a score takes; `None` takes any."""
    if want is None or got == want:
        return
    single = len(want) > 0 and got == want[1:]
    remedy = "A batch has a leading axis: x[None]." if single else "Reshape the samples, or make the score for theirs."
    raise ValueError(f"{name} holds samples of shape {got}, but one sample of the score has shape {want}. {remedy}")


def checked(value: _T, bad: Bool[ArrayLike, ""], message: str) -> _T:
    """`value`, with `message` raised when `bad` is true.

    A known `bad` raises `ValueError` here and costs nothing inside `jit`; one known only at run time goes
    through `equinox.error_if`.
    """
    if is_concrete(bad):
        if bool(np.any(np.asarray(bad))):
            raise ValueError(message)
        return value
    return eqx.error_if(value, bad, message)


def finite(name: str, x: Array, *, known: bool = False) -> Array:
    """`x`, refused when it holds NaN or infinite entries; with `known` only where they are known now."""
    if known and not is_concrete(x):
        return x
    message = f"{name} holds NaN or infinite entries; clean the data or find the step that made them."
    return checked(x, ~jnp.all(jnp.isfinite(x)), message)


def measured(name: str, x: ArrayLike) -> Array:
    """`x` as an array to measure with: floats of 32 bits or more, all finite."""
    return finite(name, single_or_better(name, floating(name, x)))


def all_finite(x: Array, batch_axes: int = 1) -> Bool[Array, "..."]:
    """Whether all entries of a sample are finite, for each along the leading axes."""
    return jnp.all(jnp.isfinite(x), axis=tuple(range(batch_axes, x.ndim)))


def sample(name: str, x: ArrayLike) -> Array:
    """`x` as one sample: floating, and finite where it is known."""
    return finite(name, floating(name, x), known=True)


def is_abstract(cls: type) -> bool:
    """Whether a module is abstract, by its name."""
    return cls.__name__.lstrip("_").startswith("Abstract")


def kind(name: str, value: Any, allowed: type[_T] | tuple[type[_T], ...], remedy: str | None = None) -> _T:
    """`value`, an argument called `name`, refused unless it is an instance of what is allowed.

    The remedy, where none is given, is the class variable `remedy` of the class; else its public classes are named.
    """
    # A class has the methods of a protocol as well as its instances do.
    if not isinstance(value, allowed) or isinstance(value, type):
        raise TypeError(f"{name} is {_told(value)}. {remedy or _choice(allowed)}")
    return value


def function(name: str, fn: _F, arguments: str, remedy: str, keywords: tuple[str, ...] = ()) -> _F:
    """`fn`, an argument called `name`, refused unless it can be called with the positional arguments.

    Args:
        name: What the argument is called.
        fn: The function, or an object with `__call__`.
        arguments: The names of what it is called with, as in `"t, x"`.
        remedy: What to pass, as a sentence.
        keywords: What it may ask for besides.
    """
    called = f"it is called as {name}({arguments}). {remedy}"
    if not callable(fn) or isinstance(fn, type):
        raise TypeError(f"{name} is {_told(fn)}; {called}")
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # some functions of C do not say what they take
        return fn
    wanted = arguments.split(", ")
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    # A parameter `*args` takes positional arguments, and none of the name `args`.
    asked = {w: None for w in keywords if w in signature.parameters and signature.parameters[w].kind in by_name}
    try:
        names = list(signature.bind(*wanted, **asked).arguments)[: len(wanted)]
    except TypeError:
        raise TypeError(f"{name} takes {_taken(signature)}; {called}") from None
    # A function of (x, t) takes two arguments as well.
    if len(wanted) > 1 and names == wanted[::-1]:
        raise TypeError(f"{name} takes {_taken(signature)}, in another order; {called}")
    return fn


def count(name: str, n: Any, least: int | None = None) -> int:
    """An integer as an `int`, NumPy integers too; floats and booleans are refused.

    Args:
        name: What the argument is called.
        n: The number.
        least: The smallest one allowed.
    """
    try:
        if isinstance(n, bool | np.bool_):
            raise TypeError
        whole = operator.index(n)
    except TypeError:
        told = repr(n) if isinstance(n, bool | np.bool_ | float) else _told(n)
        raise TypeError(f"{name} = {told}; it is a count: pass an int.") from None
    require(least is None or whole >= least, f"{name} = {whole}; it is a count of at least {least}.")
    return whole


def path_of(name: str, value: Any) -> Path:
    """A path, an argument called `name`, as a `Path`."""
    return Path(kind(name, value, (str, PathLike), "It is a path: a string or a pathlib.Path."))


def callable_with(name: str, fn: Any, arguments: int | None) -> None:
    """Refuses what cannot be called with so many positional arguments; `None` is any number of them."""
    if not callable(fn) or isinstance(fn, type):
        raise TypeError(f"{name} is {_told(fn)}; it is a function.")
    try:
        inspect.signature(fn).bind(*range(arguments or 0))
    except ValueError:  # some functions of C do not say what they take
        return
    except TypeError:
        if arguments is not None:
            taken = _taken(inspect.signature(fn))
            raise TypeError(f"{name} takes {taken}; it is a function of {arguments} arguments.") from None


def event_shape(shape: Any, name: str = "shape") -> tuple[int, ...]:
    """An event shape, an argument called `name`, as a tuple of positive sizes."""
    if not isinstance(shape, tuple | list):
        raise TypeError(f"{name} is {_told(shape)}; it is a tuple of sizes, such as (2,) or (3, 32, 32).")
    return tuple(count(f"{name}[{i}]", size, least=1) for i, size in enumerate(shape))


def number(name: str, value: Any) -> Any:
    """`value`, refused unless it is one real number, and finite where it is known."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        scalar(name, value)
    try:
        fine = not is_concrete(value) or bool(np.isfinite(float(value)))
    except OverflowError:  # an integer of hundreds of digits
        fine = False
    require(fine, f"{name} = {_told(value)}; it is a finite number.")
    return value


def positive(name: str, value: Any) -> Any:
    """`value`, refused unless it is one positive and finite number, where it is known."""
    known = is_concrete(number(name, value))
    require(not known or bool(0 < value < np.inf), f"{name} = {value}; it is positive and finite.")
    return value


def flag(name: str, value: Any) -> Any:
    """`value`, refused unless it is `True` or `False`."""
    if not (isinstance(value, bool | np.bool_) or not is_concrete(value)):
        raise TypeError(f"{name} is {_told(value)}; it is True or False.")
    return value


def optional_key(what: str, key: Key | None, *, needed: bool) -> Key | None:
    """The random key of `what`, which may be left out where it is not needed."""
    return None if key is None and not needed else random_key(what, key)


def random_key(what: str, key: Key | None) -> Key:
    """The random key of `what`, refused where there is none or it is none."""
    if key is None:
        raise ValueError(f"key is None, but {what} draws random numbers; pass key=jax.random.key(seed).")
    if not _is_key(key):
        seed = key if isinstance(key, int | np.integer) else "seed"
        raise TypeError(f"key is {_told(key)}; {what} takes a random key: pass key=jax.random.key({seed}).")
    return key


def host_array(name: str, x: Any) -> np.ndarray:
    """An array on the host, refused with `TypeError` where it is traced or no array of numbers."""
    if not is_concrete(x):
        raise TypeError(f"{name} is traced, and this runs on the host; call it outside jit, vmap and grad.")
    try:
        found = np.asarray(x)
    except (TypeError, ValueError):
        found = np.asarray(None)
    if found.dtype == object:
        raise TypeError(f"{name} is a {type(x).__name__}; it is an array of numbers.")
    return found


def host_samples(name: str, x: ArrayLike, first: int = 0) -> np.ndarray:
    """Samples on the host in float64, which the device may not have.

    Args:
        name: What the argument is called.
        x: The samples, along the leading axis.
        first: The number of the first of them, where they are a batch of many.

    Raises:
        TypeError: if they are no floats, of half precision, or traced.
        ValueError: if they are not finite, or there are none.
    """
    found = host_array(name, x)
    if not jnp.issubdtype(found.dtype, jnp.floating) or jnp.finfo(found.dtype).bits < 32:
        raise TypeError(
            f"{name} has dtype {found.dtype}; samples are floats of 32 bits or more. Convert it first, for example "
            f"{name}.astype(np.float32)."
        )
    require(found.ndim >= 1 and found.size >= 1, f"{name} has shape {found.shape}; it needs samples along an axis.")
    bad = np.any(~np.isfinite(found).reshape(len(found), -1), axis=1)
    require(
        not bad.any(),
        f"{name} holds NaN or infinite entries, in {bad.sum()} of {len(bad)} samples, the first sample "
        f"{first + bad.argmax()}; find what made them, or count and leave them out.",
    )
    return found.astype(np.float64)


def one_of(name: str, value: _T, allowed: tuple[_T, ...]) -> _T:
    """`value`, an argument called `name`, refused unless it is one of the words that are allowed."""
    known = isinstance(value, str) and value in allowed
    require(known, f"{name} = {_told(value)}; it is {' or '.join(map(repr, allowed))}.")
    return value


def _array(name: str, value: ArrayLike, what: str) -> Array:
    """`value` as an array, refused with the name of the argument where it is none."""
    try:
        if isinstance(value, str | bytes):  # NumPy may look for a dtype of that name
            raise TypeError
        return jnp.asarray(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name} is {_told(value)}; it is {what}.") from None


def _choice(allowed: type | tuple[type, ...]) -> str:
    """What an argument may be, in words."""
    allowed = allowed if isinstance(allowed, tuple) else (allowed,)
    for cls in allowed:
        # The remedy of an abstract class names others than the final class in question.
        if remedy := getattr(cls, "remedy", None) if is_abstract(cls) else vars(cls).get("remedy"):
            return remedy + " Or give None." * (type(None) in allowed)

    def final(cls: type) -> Iterator[str]:
        package = sys.modules.get(cls.__module__.rpartition(".")[0])
        if not is_abstract(cls) and hasattr(package, cls.__name__):  # public
            yield f"{cls.__name__}(…)"
        for below in cls.__subclasses__():
            yield from final(below)

    names = [name for cls in allowed for name in (["None"] if cls is type(None) else sorted(set(final(cls))))]
    return f"It is {' or '.join(names)}." if len(names) < 9 else f"It is {', '.join(names[:8])} or another of its kind."


def _is_key(key: Any) -> bool:
    """Whether this is one random key, of the new or of the old style."""
    if not isinstance(key, Array | np.ndarray):
        return False
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key.shape == ()
    return key.dtype == jnp.uint32 and key.ndim == 1


def _told(value: Any) -> str:
    """A wrong value in an error: a word, a number or a class as it is written, else its type."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, Array | np.ndarray):
        return f"an array {value.dtype}{list(value.shape)}"
    return repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def _taken(signature: inspect.Signature) -> str:
    """The arguments of a function, without their types."""
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(plain))
