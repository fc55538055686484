"""Each API page shows the public names of its package, and those of `scorefp` itself are listed."""

import re

import pytest

import scorefp
from docs import api_names

pytestmark = pytest.mark.quick

PAGES = api_names.ROOT.parent / "docs/api"


def page(room: str) -> str:
    return (PAGES / f"{room}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("room", api_names.rooms())
def test_page_shows_the_public_names(room: str) -> None:
    own = {f"{room}.{name}" for name, found in api_names.public(room).items() if found.room == room}
    shown = [f"{where}.{name}" for where, name in api_names.SHOWN.findall(page(room))]
    missing, unknown = sorted(own - set(shown)), sorted(set(shown) - own)
    assert not missing, f"docs/api/{room}.md has no line `::: scorefp.…` for {missing}"
    assert not unknown, f"docs/api/{room}.md shows {unknown}, which scorefp/{room}/__init__.py does not name"
    assert len(shown) == len(set(shown)), f"docs/api/{room}.md shows a name twice"


@pytest.mark.parametrize("room", api_names.rooms())
def test_groups_of_a_page_open_with_a_sentence(room: str) -> None:
    groups = re.findall(r"^## (.+)\n\n(.*)$", page(room), re.M)
    assert len(groups) == page(room).count("\n## ") > 0
    for heading, sentence in groups:
        assert sentence.endswith("."), f"docs/api/{room}.md: {heading}"


@pytest.mark.parametrize("room", api_names.rooms())
def test_public_names_have_a_first_line(room: str) -> None:
    bare = [name for name, found in api_names.public(room).items() if not found.summary]
    assert not bare, f"no docstring: {bare}"


def test_summary_of_a_docstring() -> None:
    text = "The residual [F4] (Lai 2023, Eq. 9): of a score\nat one point. A second sentence.\n\nMore."
    assert api_names.summary(text) == "The residual [F4]: of a score at one point."
    assert api_names.summary("One of Eq. 4. $x$ is a sample.") == "One of Eq. 4."
    assert api_names.summary("With $x = 1$, ") == "With $x = 1$."


def test_table_follows_the_page() -> None:
    rows = api_names.table("data", page("data")).splitlines()[2:]
    assert rows[0].startswith("| [`ImageFolder`][scorefp.data.ImageFolder] | The pictures in a folder")
    assert any(row.startswith("| [`Dataset`][scorefp.dataset.Dataset] |") for row in rows)
    assert len(rows) == len(api_names.public("data"))


def test_names_of_the_top_level_are_those_of_a_room() -> None:
    for name, found in api_names.public("").items():
        if found.room:
            assert name in api_names.public(found.room)
            assert getattr(scorefp, name) is getattr(getattr(scorefp, found.room), name)


def test_modules_that_give_their_package_no_name_are_private() -> None:
    for room in api_names.rooms():
        for path in (api_names.ROOT / room).glob("[!_]*.py"):
            init = (path.parent / "__init__.py").read_text(encoding="utf-8")
            assert f"from .{path.stem} import" in init, f"call {room}/{path.name} _{path.name}, or name it in __init__"


def test_index_lists_the_names_of_the_top_level() -> None:
    section = page("index").split("## Names of `scorefp`")[1].split("\n## ")[0]
    listed = dict(re.findall(r"\[`(\w+)`\]\[scorefp\.(\w+\.)?\w+\]", section))
    assert listed == {name: found.room and f"{found.room}." for name, found in api_names.public("").items()}
