"""The public names of each package with the first sentences of their docstrings, read from the source.

A name is public if a package's `__init__` imports it as itself. As a hook of mkdocs this file puts a table of them on
top of each API page; tests/test_api.py compares them with what the pages show.
"""

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent / "scorefp"
SHOWN = re.compile(r"^::: scorefp\.(\w+)\.(\w+)$", re.M)
"""A name that an API page shows, with its room."""

_LONG = 120


class Name(NamedTuple):
    """A public name: the room that defines it, and the first sentence of its docstring."""

    room: str
    summary: str


def on_page_markdown(markdown: str, page: "Page", **others: Any) -> str:
    """Opens an API page with the docstring of its package and a table of all its names."""
    room = page.file.src_uri.removeprefix("api/").removesuffix(".md")
    if room not in rooms():
        return markdown
    title, heading, groups = markdown.partition("\n## ")
    names = f'<div class="names" markdown>\n\n{table(room, markdown)}\n\n</div>'
    return f"{title}\n{introduction(room)}\n\n{names}\n{heading}{groups}"


def rooms() -> list[str]:
    """The packages, which are those with an API page."""
    return sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))


def public(room: str) -> dict[str, Name]:
    """The public names of a package, in the order of its `__init__`; of `scorefp` itself for an empty string."""
    found: dict[str, Name] = {}
    for node in _body(ROOT / room / "__init__.py"):
        if not isinstance(node, ast.ImportFrom) or not node.module or not node.level:
            continue
        names = [alias.name for alias in node.names if alias.asname == alias.name]
        package = ROOT / room if node.level == 1 else ROOT
        if (package / node.module / "__init__.py").exists():  # the name of another room
            theirs = public(node.module)
            found |= {name: theirs[name] for name in names}
        else:
            texts = _docstrings(package / f"{node.module}.py")
            found |= {name: Name(room, summary(texts.get(name, ""))) for name in names}
    return found


def introduction(room: str) -> str:
    """The docstring of a package."""
    return (
        ast.get_docstring(
            ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8"))
        )
        or ""
    )


def summary(docstring: str) -> str:
    """The first sentence, without the papers in brackets, for one cell of a table."""
    text = " ".join(docstring.split("\n\n")[0].split())
    text = re.split(r"(?<!Eq)(?<!App)\.\s+(?=[A-Z$`])", text)[0]
    text = re.sub(r" \([^()]*\b(?:19|20)\d\d[^()]*\)", "", text)
    if len(text) > _LONG:
        text = re.split(r":\s", text)[0]
    return text.rstrip(".:,") + "." if text else ""


def table(room: str, page: str) -> str:
    """All public names of a package in the order of its page, each with a link and its first sentence."""
    names = public(room)
    order = [name for _, name in SHOWN.findall(page) if name in names]
    order += [name for name in names if name not in order]
    rows = [
        f"| [`{name}`][scorefp.{names[name].room}.{name}] | {_cell(names[name].summary)} |"
        for name in order
    ]
    return "\n".join(["| Name | What it is |", "|---|---|", *rows])


def _cell(text: str) -> str:
    return text.replace(r"\|", r"\Vert ").replace("|", r"\vert ")


def _body(path: Path) -> list[ast.stmt]:
    return ast.parse(path.read_text(encoding="utf-8")).body


def _docstrings(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    body = _body(path)
    for node, following in zip(body, [*body[1:], ast.Pass()], strict=True):
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                found[node.name] = ast.get_docstring(node) or ""
            case (
                ast.Assign(targets=[ast.Name(id=name)])
                | ast.AnnAssign(target=ast.Name(id=name))
            ):
                match following:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        found[name] = text
                    case _:
                        pass
            case _:
                pass
    return found
