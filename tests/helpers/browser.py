"""Pages in headless Chromium: what is cut, what scrolls sideways, what fails, what asks another host.

One page, with `pages.js`, opens all others in a frame of the wanted width. They come from a server of this process,
which puts a few lines in front of each that note errors, and sends a policy under which a request to another host is
refused and noted too.
"""

import functools
import json
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

WIDTHS = (1400, 390)
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1400,1000"),
)
_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
_DRIVER = b"""<!doctype html><link rel=icon href="data:,">
<iframe height=900 style="border: 0"></iframe><script src="/.pages.js"></script>"""
_NOTES = b"""<!doctype html><script>
window.faults = [];
{
  const note = (kind, what) => window.faults.push({ kind, what: String(what).slice(0, 200) });
  const error = console.error;
  console.error = (...words) => { note("console error", words.join(" ")); error(...words); };
  addEventListener("error", (e) => note("console error", e.message ?? `${e.target.src ?? e.target.href} failed`), true);
  addEventListener("unhandledrejection", (e) => note("console error", e.reason));
  addEventListener("securitypolicyviolation", (e) => note("request to another host", e.blockedURI));
}
document.addEventListener("DOMContentLoaded", () => {
  for (const link of document.querySelectorAll("link[rel~=preconnect], link[rel~=dns-prefetch]"))
    if (new URL(link.href).host !== location.host)
      window.faults.push({ kind: "request to another host", what: link.href });
});
</script>"""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a page at a width in pixels."""

    page: str
    width: int
    kind: str
    what: str


def chromium() -> str:
    """The command of Chromium.

    Raises:
        RuntimeError: if it is not installed.
    """
    for name in _NAMES:
        if found := shutil.which(name):
            return found
    raise RuntimeError("pages are opened in Chromium, which is not there; install it with: apt-get install chromium")


def opened(
    site: Path, profile: Path, *, wishes: Sequence[str] = (), widths: Sequence[int] = WIDTHS, timeout: float = 3600.0
) -> tuple[list[Fault], dict[str, list[str]]]:
    """The faults of every page of a site, and the pages that its search finds for each wish, best first.

    Args:
        site: The folder of a built site.
        profile: An empty folder for Chromium.
        wishes: Words for the search of the first page.
        widths: Of the window, in pixels.
        timeout: In seconds, for all pages.
    """
    pages = sorted(str(page.relative_to(site)) for page in site.rglob("*.html"))
    todo = {"pages": pages, "widths": list(widths), "wishes": list(wishes)}
    handler = functools.partial(_Handler, directory=str(site))
    with _Server(("127.0.0.1", 0), handler) as server:
        server.todo = json.dumps(todo).encode()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [chromium(), *_FLAGS, f"--user-data-dir={profile}", f"http://127.0.0.1:{server.server_port}/.driver"]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            ended = server.done.wait(timeout)
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()
    if not ended or "failed" in server.result:
        raise RuntimeError(f"the pages were not all opened: {server.result.get('failed', f'{timeout:.0f} s passed')}")
    missing = [Fault(page, 0, "console error", f"{path} is not there") for page, path in server.missing]
    answers = {wish: [urlsplit(a).path for a in found] for wish, found in server.result["answers"].items()}
    return [Fault(**fault) for fault in server.result["faults"]] + missing, answers


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.todo = b""
        self.done = threading.Event()
        self.result: dict[str, Any] = {}
        self.missing: list[tuple[str, str]] = []


class _Handler(SimpleHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        page = Path(self.translate_path(path))
        page = page / "index.html" if page.is_dir() else page
        match path:
            case "/.todo":
                self._send("application/json", self.server.todo)
            case "/.driver":
                self._send("text/html", _DRIVER)
            case "/.pages.js":
                self._send("text/javascript", Path(__file__).with_name("pages.js").read_bytes())
            case _ if page.suffix == ".html" and page.exists() and not self.path.endswith("//"):
                self._send("text/html; charset=utf-8", _NOTES + page.read_bytes())
            case _:
                super().do_GET()

    def do_POST(self) -> None:
        self.server.result = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._send("text/plain", b"")
        self.server.done.set()

    def _send(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("Cache-Control", "max-age=600")
        super().end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self.server.missing.append((urlsplit(self.headers.get("Referer", "")).path, self.path))
        super().send_error(code, message, explain)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""
