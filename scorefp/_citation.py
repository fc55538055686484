"""The papers behind the objects of this package, as BibTeX."""

import dataclasses
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files

_NAMED = re.compile(r"([A-Z][\w-]+)(?:(?:, [A-Z][\w-]+)* & [A-Z][\w-]+)?,?\s+((?:19|20)\d\d[a-z]?)\b")
"""A paper in a docstring: "Lai 2023", "Salimans & Ho 2022"."""

_SOFTWARE = """@software{{scorefp,
  author = {{{{The scorefp developers}}}},
  title = {{scorefp: score-based diffusion models seen through the {{Fokker--Planck}} equation}},
  version = {{{}}}, year = {{2026}}
}}"""


def installed_version() -> str:
    """The version of the installed package; `"0+source"` in a source tree that is not installed."""
    try:
        return version("scorefp")
    except PackageNotFoundError:
        return "0+source"


def entries() -> dict[str, str]:
    """The entries of `papers.bib` by their keys."""
    text = files("scorefp").joinpath("papers.bib").read_text(encoding="utf-8")
    return {key: entry.strip() for entry, key in re.findall(r"^(@\w+\{(\w+),\n.*?^\}$)", text, re.M | re.S)}


def named(text: str) -> list[str]:
    """The keys of the papers that a docstring names, in their order."""
    return [_plain(name) + year for name, year in _NAMED.findall(text)]


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()


def docstrings(obj: object) -> Iterator[str]:
    """The docstrings of a function, or of a class of this package, its members and its ancestors."""
    if not isinstance(obj, type):
        yield getattr(obj, "__doc__", None) or ""
        return
    for cls in obj.__mro__:
        if cls.__module__.partition(".")[0] == "scorefp":
            yield cls.__doc__ or ""
            yield from (getattr(member, "__doc__", None) or "" for member in vars(cls).values())


def _parts(obj: object, seen: set[int]) -> Iterator[object]:
    """The functions and the classes of an object and of all that it holds."""
    if id(obj) in seen:
        return
    seen.add(id(obj))
    if isinstance(obj, Mapping):
        obj = tuple(obj.values())
    if isinstance(obj, (list, tuple)):
        for item in obj:
            yield from _parts(item, seen)
    elif isinstance(obj, type) or hasattr(obj, "__wrapped__") or hasattr(obj, "__qualname__"):
        yield obj
    elif dataclasses.is_dataclass(obj):
        yield type(obj)
        for field in dataclasses.fields(obj):
            yield from _parts(getattr(obj, field.name, None), seen)


def citation(*objects: object) -> None:
    """Prints the papers behind some objects as BibTeX, and the entry of this package.

    An object is looked at with all that it holds: an objective with its terms and their weightings, a score with its
    SDE, an audit with its measures. Its papers are those that the docstrings of its class name.

    Args:
        *objects: Objects, classes and functions of this package: a score, a loss, a sampler, `log_likelihood`. Without
            any, the entry of this package alone is printed.

    Example:
        >>> import scorefp as sfp
        >>> sfp.citation(sfp.Heun())  # doctest: +ELLIPSIS
        % scorefp: it, and the papers behind what it was given
        @software{scorefp,
        ...
        @inproceedings{karras2022,
          author = {Karras, Tero and Aittala, Miika and Aila, Timo and Laine, Samuli},
        ...
    """
    seen: set[int] = set()
    keys = [k for obj in objects for part in _parts(obj, seen) for text in docstrings(part) for k in named(text)]
    known = entries()
    papers = [known[key] for key in dict.fromkeys(keys) if key in known]
    heading = "it, and the papers behind what it was given" if objects else "`citation(score, loss, …)` adds papers"
    sys.stdout.write("\n".join([f"% scorefp: {heading}", _SOFTWARE.format(installed_version()), *papers]) + "\n")
