"""Abstract or final: the rules, and that every public class keeps them."""

import importlib
import inspect
import math
import pkgutil
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.refusals import refused

import scorefp
from scorefp._module import AbstractModule
from scorefp._types import MaybeNaN

pytestmark = pytest.mark.quick


class AbstractShape(AbstractModule):
    kind: ClassVar[str]

    @abstractmethod
    def area(self) -> float: ...

    @property
    @abstractmethod
    def corners(self) -> int: ...

    def doubled(self) -> float:
        return 2 * self.area()

    @property
    def round(self) -> bool:
        return self.corners == 0


class Disc(AbstractShape):
    radius: float

    kind: ClassVar[str] = "disc"

    def __check_init__(self) -> None:
        if self.radius < 0:
            raise ValueError("radius")

    def area(self) -> float:
        return 3.0 * self.radius**2

    @property
    def corners(self) -> int:
        return 0


class AbstractPolygon(AbstractShape):
    def area(self) -> float:
        return 1.0


class Square(AbstractPolygon):
    @property
    def corners(self) -> int:
        return 4


def test_a_final_class_works() -> None:
    assert Disc(2.0).doubled() == 24.0
    assert Disc(2.0).round
    assert Square().doubled() == 2.0
    assert not Square().round


def test_an_abstract_class_has_no_instance() -> None:
    refused("abstract", AbstractShape, error=TypeError)
    refused("abstract", AbstractPolygon, error=TypeError)


def test_no_class_inherits_from_a_final_one() -> None:
    message = "Ball inherits from Disc, which is final. Inherit from an abstract class, or hold a Disc as a field"
    with pytest.raises(TypeError, match=message):

        class Ball(Disc):
            pass

    with pytest.raises(TypeError, match="which is final"):

        class AbstractBall(Disc):
            pass


def test_no_concrete_method_is_overridden() -> None:
    with pytest.raises(TypeError, match=r"Odd\.doubled overrides the concrete AbstractShape\.doubled"):

        class Odd(AbstractShape):
            def area(self) -> float:
                return 1.0

            @property
            def corners(self) -> int:
                return 1

            def doubled(self) -> float:
                return 3.0

    with pytest.raises(TypeError, match=r"Oval\.round overrides the concrete AbstractShape\.round"):

        class Oval(AbstractShape):
            @property
            def round(self) -> bool:
                return True

    # An abstract class in between may implement, and then nobody may again.
    with pytest.raises(TypeError, match=r"Triangle\.area overrides the concrete AbstractPolygon\.area"):

        class Triangle(AbstractPolygon):
            def area(self) -> float:
                return 0.5


def test_init_may_differ() -> None:
    class Sized(AbstractPolygon):
        size: jnp.ndarray

        def __init__(self, size: float) -> None:
            self.size = jnp.asarray(size)

        @property
        def corners(self) -> int:
            return 3

    assert float(Sized(2.0).size) == 2.0


def classes() -> list[type]:
    """Every class defined in scorefp, in public and in private modules."""
    found: set[type] = set()
    for info in pkgutil.walk_packages(scorefp.__path__, "scorefp."):
        try:
            module = importlib.import_module(info.name)
        except ImportError as missing:  # an extra that is not installed
            if str(missing.name or "").startswith("scorefp"):
                raise
            continue
        found.update(c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == info.name)
    return sorted(found, key=lambda c: (c.__module__, c.__qualname__))


def test_every_module_is_abstract_or_final() -> None:
    modules = [c for c in classes() if issubclass(c, eqx.Module)]
    assert {scorefp.VP, scorefp.score.NetworkScore, scorefp.Ito} <= set(modules)
    for cls in modules:
        assert issubclass(cls, AbstractModule), f"{cls.__qualname__} is a Module but not an AbstractModule"
        name = cls.__name__.lstrip("_")
        if cls.__abstractmethods__:
            assert name.startswith("Abstract"), f"{cls.__qualname__} has abstract methods and another name"
        if not name.startswith("Abstract"):
            assert not cls.__subclasses__(), f"{cls.__qualname__} is final and has subclasses"
            assert cls.__doc__, f"{cls.__qualname__} has no docstring"


class Settings(AbstractModule):
    """A module with a field of each kind that is checked, as a class of the library."""

    __module__ = "scorefp.settings"

    count: int = 1
    size: float | None = 1.0
    quiet: bool = False
    word: Literal["one", "two"] | None = None
    shape: tuple[int, ...] = ()
    trace: scorefp.calculus.AbstractTrace = scorefp.Exact()
    fn: Callable[[float, float], float] | None = None
    result: MaybeNaN = 0.0


FIELDS: dict[str, tuple[list[Any], list[tuple[Any, str]]]] = {
    "count": (
        [2, np.int64(2)],
        [(True, "count = True; it is a count"), (2.0, r"count = 2\.0"), (None, "count = None"), ("2", "count = '2'")],
    ),
    "size": (
        [None, 2, 0.5, np.float32(0.5), jnp.asarray(0.5)],
        [
            (math.nan, "size = nan"),
            (math.inf, "size = inf"),
            ("2", "size is '2'"),
            (1j, "size is"),
            (True, "size is True"),
        ],
    ),
    "quiet": (
        [True, np.bool_(True)],
        [("no", "quiet is 'no'; it is True or False"), (None, "quiet is None"), (1, "quiet is 1")],
    ),
    "word": ([None, "two"], [("three", "word = 'three'; it is 'one' or 'two'"), (1, "word = 1")]),
    "shape": (
        [(2, 3), [2]],
        [((2.0,), r"shape\[0\] = 2\.0"), ((-1,), r"shape\[0\] = -1"), (2, "shape is 2"), ("2", "shape is '2'")],
    ),
    "trace": (
        [scorefp.Hutchinson()],
        [
            (
                "exact",
                r"trace is 'exact'\. It is Exact\(\), Hutchinson\(samples, law\), XTrace",
            ),
            (scorefp.Exact, "trace is the class Exact"),
            (None, "trace is None"),
        ],
    ),
    "fn": (
        [None, lambda x, y: x],
        [("fn", "fn is 'fn'; it is a function"), (dict, "fn is the class dict"), (lambda: 0, "a function of 2 arg")],
    ),
    "result": ([math.nan, math.inf], []),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", FIELDS)
def test_fields_are_what_their_annotations_say(name: str) -> None:
    good, bad = FIELDS[name]
    for value in good:
        kept = getattr(Settings(**{name: value}), name)
        assert kept is value or kept == value or kept == tuple(value) or np.isnan(kept)
    for value, message in bad:
        with pytest.raises((TypeError, ValueError), match=message):
            Settings(**{name: value})


class Theirs(AbstractModule):
    """A module of somebody else, whose annotations say more than the library knows."""

    order: Literal[1, 2] = 2
    threshold: float = math.inf
    axes: tuple[int, ...] = (0, -1)
    make: Callable = list
    count: int = 1


def test_fields_of_other_peoples_classes_are_theirs() -> None:
    theirs = Theirs(count=np.int64(2))
    assert (theirs.order, theirs.threshold, theirs.axes, theirs.make, theirs.count) == (2, math.inf, (0, -1), list, 2)
    with pytest.raises(TypeError, match=r"count = 2\.0; it is a count"):
        Theirs(count=2.0)


def test_traced_numbers_are_fields() -> None:
    """A setting may be differentiated, and is then not looked at."""
    assert float(jax.jit(jax.grad(lambda size: 2 * Settings(size=size).size))(3.0)) == 2.0
