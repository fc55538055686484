"""Every Python block of the README and of the documentation runs, and prints what the page says.

The blocks of one page run in order and share one namespace, as a reader would paste them. A block that opens
with ```` ```python notest ```` is shown and not run.

A ```` ```text ```` block right after a Python block is what that block prints. Words and integers agree exactly, white
space aside; other numbers within 2 % and one unit of the last digit on the page. ```` ```text rtol=0.2 ```` sets
another tolerance, for integers as well: for what training or many draws make, which differs from one version of jax to
the next. ```` ```text unchecked ```` is shown only, for times.
"""

import math
import re
import tomllib
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"^(?P<indent>[ ]*)(?P<ticks>`{3,})(?P<info>[^`\n]*)\n(?P<code>.*?)^(?P=indent)(?P=ticks)[ ]*$", re.M | re.S
)
NUMBER = re.compile(r"(?<![\w.])([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)(?![\w.]*[A-Za-z_])")
RTOL = 0.02
NEEDS = {"torch": "torch"}
"""Pages that need what not every environment has."""
SLOW = {"docs/guides/frameworks.md", "docs/tutorials/trust.md", "docs/math/likelihood.md", "docs/math/residuals.md"}
"""Pages that take half a minute; a change of one is tried with `-m ''`."""


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """A Python block, moved to its own line so that a traceback points into the page, and what it prints."""

    code: str
    printed: str | None = None
    rtol: float | None = None


def blocks(page: Path) -> list[Block]:
    """The Python blocks of a page."""
    text = page.read_text(encoding="utf-8")
    fences = list(FENCE.finditer(text))
    found: list[Block] = []
    for fence, after in zip(fences, [*fences, None][1:], strict=True):
        if fence["info"].strip() != "python":
            continue
        code = "\n" * text.count("\n", 0, fence.start("code")) + inside(fence)
        kind, _, mark = after["info"].strip().partition(" ") if after else ("", "", "")
        if after is None or kind != "text" or mark == "unchecked" or text[fence.end() : after.start()].strip():
            found.append(Block(code))
        else:
            found.append(Block(code, inside(after), float(mark.removeprefix("rtol=")) if mark else None))
    return found


def inside(fence: re.Match[str]) -> str:
    return "".join(line.removeprefix(fence["indent"]) for line in fence["code"].splitlines(keepends=True))


def difference(page: str, printed: str, rtol: float | None) -> str:
    """The first place where the two differ, or nothing."""
    expected, got = [NUMBER.split(re.sub(r"─+|\s+", " ", text).strip()) for text in (page, printed)]
    for i, (left, right) in enumerate(zip(expected, got, strict=False)):
        same = close(left, right, rtol) if i % 2 else left.split() == right.split()
        if not same:
            return f"the page has {left!r}, printed is {right!r}"
    return "" if len(expected) == len(got) else f"the page has {len(expected) // 2} numbers, printed {len(got) // 2}"


def close(page: str, printed: str, rtol: float | None) -> bool:
    """Whether a printed number agrees with that of the page."""
    left, right = Decimal(page), Decimal(printed)
    whole = page.lstrip("-+").isdigit()
    last_digit = 0.0 if whole else 10.0 ** int(left.as_tuple().exponent)
    relative = (0.0 if whole else RTOL) if rtol is None else rtol
    # A float is printed to its last digit here and there: what is no more than rounding counts as agreement.
    return math.isclose(left, right, rel_tol=0, abs_tol=relative * abs(float(left)) + 1.001 * last_digit)


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=name(p), marks=pytest.mark.slow if name(p) in SLOW else ()) for p in PAGES if blocks(p)]
)
def test_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if page.stem in NEEDS:
        pytest.importorskip(NEEDS[page.stem], reason=f"{NEEDS[page.stem]} is not installed")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    stale: list[str] = []
    for block in blocks(page):
        capsys.readouterr()
        exec(compile(block.code, page, "exec"), namespace)
        printed = capsys.readouterr().out
        if block.printed is not None and (found := difference(block.printed, printed, block.rtol)):
            line = len(block.code) - len(block.code.lstrip("\n")) + 1
            stale.append(f"{page.name}, the block at line {line}: {found}\n{printed}")
    assert not stale, "\n".join(stale)


@pytest.mark.quick
@pytest.mark.parametrize("page", [pytest.param(p, id=name(p)) for p in PAGES])
def test_python_is_no_wider_than_its_box(page: Path) -> None:
    """88 columns fit beside the menus."""
    fence = r"^(?P<indent> *)(?P<ticks>`{3,})python.*\n(?P<code>(?:.*\n)*?)(?P=indent)(?P=ticks) *$"
    shown = re.finditer(fence, page.read_text(encoding="utf-8"), re.M)
    lines = [line.removeprefix(match["indent"]) for match in shown for line in match["code"].splitlines()]
    assert not [line for line in lines if len(line) > 88]


def test_blocks_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\na = 1\n```\n\n```text\n1\n```\n\n```python notest\nfail()\n```\n\n```text\nno\n```\n\n"
        "!!! note\n    ```python\n    if a:\n        a = 2\n    ```\n\n    ```text rtol=0.5\n    two\n    ```\n\n"
        "```python\na\n```\n\n```text unchecked\n2\n```\n\n```python\na\n```\n\nwords\n\n```text\nno\n```\n"
    )
    namespace: dict[str, object] = {}
    found = blocks(page)
    for block in found:
        exec(block.code, namespace)
    assert namespace["a"] == 2
    assert [(block.printed, block.rtol) for block in found] == [
        ("1\n", None),
        ("two\n", 0.5),
        (None, None),
        (None, None),
    ]


@pytest.mark.parametrize(
    ("page", "printed", "rtol", "same"),
    [
        ("mean 1.25 nats", "mean   1.26\nnats", None, True),
        ("mean 1.25 nats", "mean 1.29 nats", None, False),
        ("mean 1.25 nats", "mean 1.35 nats", 0.1, True),
        ("mean 1.25 nats", "mean 1.25 bits", None, False),
        ("mean 1.25", "mean 1.25 0.5", None, False),
        ("98 of 100", "97 of 100", None, False),
        ("98 of 100", "97 of 100", 0.02, True),
        ("float32", "float64", 0.9, False),
        ("4.06e+04 -0.00", "4.09e+04 0.00", None, True),
        ("ab ── 1.0", "ab ──── 1.0", None, True),
        ("0.15", "nan", 0.5, False),
    ],
)
def test_output_is_compared(page: str, printed: str, rtol: float | None, same: bool) -> None:
    assert (not difference(page, printed, rtol)) is same


def test_every_extra_is_in_getting_started() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    page = (ROOT / "docs/getting-started.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.M)) == set(extras)
