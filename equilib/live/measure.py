"""How fast the live page answers, and how much a first visit loads."""

from __future__ import annotations

import gzip
import json
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from equilib.live import LivePageError, first_load
from equilib.progress import bar

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# The page's own modules, with nothing else computing beside them.
TIMES = """
async ([file, count]) => {
  const { Network } = await import(new URL("network.js", location.href).href);
  const network = new Network();
  const started = performance.now();
  await network.open(await (await fetch(file)).arrayBuffer(), file);
  const opening = performance.now() - started;
  const input = new Float32Array(3 * network.size ** 2);
  for (let i = 0; i < count; i++) await network.run(() => input);
  network.milliseconds = [];
  for (let i = 0; i < count; i++) await network.run(() => input);
  network.worker.terminate();
  return [network.median, Math.min(...network.milliseconds), opening];
}
"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@contextmanager
def served(folder: str | Path) -> Iterator[str]:
    """The address at which a folder is served over HTTP, on this machine only."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def compressed(path: Path) -> int:
    """Bytes of a file as web servers send it (gzip)."""
    return len(gzip.compress(path.read_bytes(), 9))


@contextmanager
def chromium() -> Iterator:
    """A headless browser of Playwright's, with the system's Chromium.

    Raises:
        LivePageError: Chromium or Playwright is missing.
    """
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        raise LivePageError("measuring needs Chromium: install the package chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise LivePageError("measuring needs Playwright: pip install playwright") from error
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def report(browser, folder: Path, *, count: int = 60) -> str:
    """Median milliseconds of an answer of each network, and compressed bytes of a first visit.

    Args:
        browser: see :func:`chromium`.
        folder: of the live page.
        count: answers of each network that are timed, after as many that are not.
    """
    networks = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["networks"]
    with served(folder) as address:
        page = browser.new_page()
        lines = opening(page, address) + answers(page, address, networks, count) + size(folder)
        page.close()
    return "\n".join(lines)


def opening(page, address: str) -> list[str]:
    """One line for each time of the page as it opens; ``page`` is one of Playwright's."""
    page.goto(f"{address}/")
    page.locator("html[data-computed]").wait_for(timeout=120_000)
    script = "name => performance.getEntriesByName(name).map(entry => entry.duration || entry.startTime)"
    (first, *_), ring, control = (page.evaluate(script, name) for name in ("answered", "ring", "control"))
    return [
        f"both networks have answered {first / 1000:.2f} s after the page was asked for",
        f"36 angles: {max(ring) / 1000:.2f} s, with the control {max(control) / 1000:.2f} s, both networks at once",
    ]


def answers(page, address: str, networks: Iterable[dict], count: int) -> list[str]:
    """One line for each network of ``manifest.json``: the time of an answer, with nothing else computing."""
    page.goto(f"{address}/manifest.json")  # of the same address, and computes nothing
    lines = []
    for network in bar(networks, words="answers", unit="network"):
        median, least, opened = page.evaluate(TIMES, [network["file"], count])
        times = f"{median:.1f} ms an answer (median of {count}, least {least:.1f}), {opened:.0f} ms to open"
        lines.append(f"{network['title']}: {times}")
    return lines


def size(folder: Path) -> list[str]:
    """What a first visit loads, and what the whole menu would."""
    first = first_load(folder)
    others = [path for path in folder.rglob("*.onnx") if path not in first]
    total = sum(map(compressed, first))
    return [
        f"first visit: {total / 1e6:.2f} MB compressed, {len(first)} files",
        f"with the other networks of the menu: {(total + sum(map(compressed, others))) / 1e6:.2f} MB",
    ]
