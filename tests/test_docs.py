"""Every Python block of the README and of the documentation runs.

The blocks of one page run in order and share one namespace, as a reader would paste them. A block that opens
with ```` ```python notest ```` is shown and not run.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"^(?P<indent>[ ]*)(?P<ticks>`{3,})python[ ]*\n(?P<code>.*?)^(?P=indent)(?P=ticks)[ ]*$", re.M | re.S
)


def blocks(page: Path) -> list[str]:
    """The Python blocks of a page, each moved to its own line so that a traceback points into the page."""
    text = page.read_text(encoding="utf-8")
    found: list[str] = []
    for match in FENCE.finditer(text):
        indent = match["indent"]
        code = "".join(line.removeprefix(indent) for line in match["code"].splitlines(keepends=True))
        found.append("\n" * text.count("\n", 0, match.start("code")) + code)
    return found


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in PAGES if p.exists() and blocks(p)]
)
def test_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for code in blocks(page):
        exec(compile(code, page, "exec"), namespace)


@pytest.mark.quick
@pytest.mark.parametrize("page", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in PAGES])
def test_python_is_no_wider_than_its_box(page: Path) -> None:
    """88 columns fit beside the menus."""
    fence = r"^(?P<indent> *)(?P<ticks>`{3,})python.*\n(?P<code>(?:.*\n)*?)(?P=indent)(?P=ticks) *$"
    shown = re.finditer(fence, page.read_text(encoding="utf-8"), re.M)
    lines = [line.removeprefix(match["indent"]) for match in shown for line in match["code"].splitlines()]
    assert not [line for line in lines if len(line) > 88]


def test_blocks_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\na = 1\n```\n\n```python notest\nfail()\n```\n\n"
        "!!! note\n    ```python\n    if a:\n        a = 2\n    ```\n\n```text\nno\n```\n"
    )
    namespace: dict[str, object] = {}
    for code in blocks(page):
        exec(code, namespace)
    assert namespace["a"] == 2
    assert len(blocks(page)) == 2
