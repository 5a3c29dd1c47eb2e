"""How fast the live page answers, and how much a first visit loads."""

from __future__ import annotations

import gzip
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from equilib.live import LivePageError, first_load

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
ANSWERS = 60
# The page's own modules, with nothing else computing beside them.
TIMES = """
async ([file, answers]) => {
  const { Network } = await import(new URL("network.js", location.href).href);
  const network = new Network();
  const started = performance.now();
  await network.open(await (await fetch(file)).arrayBuffer(), file);
  const opening = performance.now() - started;
  const input = new Float32Array(3 * network.size ** 2);
  for (let i = 0; i < answers; i++) await network.run(() => input);
  network.milliseconds = [];
  for (let i = 0; i < answers; i++) await network.run(() => input);
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


def report(folder: Path) -> str:
    """Median milliseconds of an answer of each network in headless Chromium, and compressed bytes of a first visit.

    Raises:
        LivePageError: Chromium or Playwright is missing.
    """
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise LivePageError("measuring needs Chromium: install the package chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise LivePageError("measuring needs Playwright: pip install playwright") from error
    networks = json.loads((folder / "manifest.json").read_text())["networks"]
    lines = []
    with served(folder) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page()
        page.goto(f"{address}/")
        page.locator("#all .row").first.wait_for(timeout=120_000)
        page.locator("html[data-computed]").wait_for(timeout=120_000)
        for name, words in (
            ("answered", "both networks have answered, after"),
            ("ring", "36 angles"),
            ("control", "36 angles and the control"),
        ):
            times = page.evaluate(
                "name => performance.getEntriesByName(name).map(e => e.duration || e.startTime)", name
            )
            time = times[0] if name == "answered" else max(times)
            lines.append(f"{words}: {time / 1000:.2f} s")
        for network in networks:
            # A page of the same address that computes nothing.
            page.goto(f"{address}/manifest.json")
            median, least, opening = page.evaluate(TIMES, [network["file"], ANSWERS])
            lines.append(
                f"{network['title']}: {median:.1f} ms an answer (median of {ANSWERS}; least {least:.1f}), {opening:.0f} ms to open"
            )
        browser.close()
    files = first_load(folder)
    lines.append(f"first visit: {sum(map(compressed, files)) / 1e6:.2f} MB compressed, {len(files)} files")
    others = [path for path in folder.rglob("*.onnx") if path not in files]
    lines.append(f"with the other networks of the menu: {sum(map(compressed, [*files, *others])) / 1e6:.2f} MB")
    return "\n".join(lines)
