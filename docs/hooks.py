"""What mkdocs does while it builds the site."""

import re
from pathlib import Path
from typing import Any

import mathjax
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

_anchors: dict[str, str] = {}
"""Where each equation is derived: tag to address."""

_TAGS = re.compile(r"\[[A-Z]\d+(?:(?:, |–)[A-Z]\d+)*\]")
_NOT_LINKED = {"a", "code", "pre", "script", "h1", "h2", "h3", "h4"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds MathJax 3.2.2 to the site, and notes which page derives which equation.

    MathJax is the one file with all TeX extensions, so that nothing is fetched later. It is taken from an
    installed package and not committed.
    """
    source = Path(mathjax.__file__).parent / "static/mathjax/es5/tex-svg-full.js"
    files.append(
        File.generated(config, "javascripts/tex-svg-full.js", abs_src_path=str(source))
    )
    for file in files.documentation_pages():
        if file.src_uri.startswith("math/"):
            for tag in re.findall(
                r"\{[^}\n]*#([A-Z]\d+)\b[^}\n]*\}", file.content_string
            ):
                _anchors[tag] = f"{file.url}#{tag}"
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Takes the marks that are for tests/test_docs.py from the opening of a block."""
    return re.sub(
        r"^( *`{3,}(?:python|text)) (?:notest|unchecked|rtol=\S+) *$",
        r"\1",
        markdown,
        flags=re.M,
    )


def on_page_content(html: str, page: Page, **_: Any) -> str:
    """Links every equation's tag, such as [F4], to its derivation."""

    def linked(match: re.Match[str]) -> str:
        return re.sub(r"[A-Z]\d+", link, match[0])

    def link(match: re.Match[str]) -> str:
        tag = match[0]
        if tag not in _anchors:
            return tag
        return f'<a class="equation-tag" href="{get_relative_url(_anchors[tag], page.url)}">{tag}</a>'

    parts = re.split(r"(<[^>]*>)", html)
    closed_by: list[str] = []
    for i, part in enumerate(parts):
        if i % 2 == 0:
            parts[i] = part if closed_by else _TAGS.sub(linked, part)
        elif (name := part.strip("</>").split()[0].lower()) in _NOT_LINKED:
            if part.startswith("</"):
                closed_by.pop()
            elif not part.endswith("/>"):
                closed_by.append(name)
    return "".join(parts)
