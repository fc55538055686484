"""Every page of the built site in headless Chromium, and what the site's search answers: `make test-pages`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import browser
from helpers.refusals import refused

pytestmark = pytest.mark.slow

WISHES = {
    "bits/dim of my own flax model": "guides/fine-tune",
    "the penalty in my training loop": "guides/training-loop",
    "my folder of 64×64 pictures on eight GPUs": "guides/many-devices",
    "50,000 samples fast": "guides/sampling",
    "the derivation of the score-FPE": "math/fokker-planck",
}
"""What a reader wants, in the words that go into the search, and the page that is among the first three it finds."""

PLANTED = {
    "page scrolls sideways": '<div style="width: 3000px">wide</div>',
    "formula is cut": r'<div class="arithmatex" style="overflow: hidden">\[' + "a + " * 400 + r"b\]</div>",
    "formula scrolls": r'<div class="arithmatex" style="overflow-x: auto">\[' + "a + " * 100 + r"b\]</div>",
    "inline formula is cut": r'<p style="overflow: hidden">so <span class="arithmatex">\('
    + "a + " * 400
    + r"b\)</span></p>",
    "table is cut": "<div style='overflow: hidden'><table><tr><td>" + "wide" * 1000 + "</td></tr></table></div>",
    "table scrolls": "<div style='overflow: auto'><table><tr><td>" + "wide" * 1000 + "</td></tr></table></div>",
    "code is cut": "<pre><code style='display: block; overflow: hidden'>" + "wide" * 1000 + "</code></pre>",
    "picture is cut": "<img width=3000 height=9 src='data:image/svg+xml,<svg xmlns=\"http://www.w3.org/2000/svg\"/>'>",
    "console error": "<script>console.error('planted')</script>",
    "request to another host": "<img src='https://example.org/picture.png'>",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """The site as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    subprocess.run(command, cwd=root, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=True)
    return folder


def test_pages_and_search(site: Path, tmp_path: Path) -> None:
    faults, found = browser.opened(site, tmp_path, wishes=list(WISHES))
    assert not faults, "\n".join(map(str, faults))
    for wish, page in WISHES.items():
        assert f"/{page}/" in found[wish][:3], f"{wish!r} finds {found[wish][:3]}"


def test_planted_faults_are_seen(site: Path, tmp_path: Path) -> None:
    script = "<script src='javascripts/mathjax.js'></script><script src='javascripts/tex-svg-full.js'></script>"
    planted, profile = tmp_path / "site", tmp_path / "profile"
    (planted / "javascripts").mkdir(parents=True)
    for name in ("mathjax.js", "tex-svg-full.js"):
        (planted / "javascripts" / name).symlink_to(site / "javascripts" / name)
    for kind, body in ({"sound": "<p>sound</p>"} | PLANTED).items():
        page = f"<html><body>{script}<article style='width: 300px'>{body}</article></body></html>"
        (planted / f"{kind}.html").write_text(page, encoding="utf-8")
    faults, _ = browser.opened(planted, profile)
    seen = {kind: {fault.kind for fault in faults if fault.page == f"{kind}.html"} for kind in PLANTED}
    assert all(kind in kinds for kind, kinds in seen.items()), seen
    assert not [fault for fault in faults if fault.page == "sound.html"]


def test_missing_chromium_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    refused("apt-get install chromium", browser.chromium, error=RuntimeError)
