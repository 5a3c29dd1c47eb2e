"""Notebooks in a real JupyterLab in a real browser: run from top to bottom, then move a slider.

Chromium comes from the system (`chromium`, `chromium-browser` or `google-chrome`).  Without it these tests are skipped,
except in continuous integration, where its absence is a failure.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# The others are opened by `make nightly`; nbval runs all of them each time.
EACH_TIME = ("01_",)
NOTEBOOKS = [
    pytest.param(path.stem, marks=[] if path.stem.startswith(EACH_TIME) else [pytest.mark.nightly])
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
]

pytestmark = pytest.mark.slow


def widget_cells(name):
    """How many cells of a notebook end in a widget."""
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    return sum(cell.cell_type == "code" and re.search(r"^widgets\.", cell.source, re.M) is not None for cell in cells)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("continuous integration needs Chromium: install the package chromium")
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield running
        running.close()


@contextmanager
def jupyter(module, folder, served):
    """The address of a Jupyter server, ``jupyterlab`` or ``notebook``, whose files all lie in ``folder``, at the smoke budget."""
    # By default Jupyter renders only the cells in view, so that a test could not find the others.
    settings = folder / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "EQUILIB_BUDGET": "smoke",
        "EQUILIB_CACHE": str(folder / "cache"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
    }
    command = [sys.executable, "-m", module, "--no-browser", "--allow-root", "--IdentityProvider.token="]
    command += [f"--port={port}", "--ServerApp.port_retries=0", "--expose-app-in-browser", str(served)]
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(240):
            try:
                urlopen(f"http://127.0.0.1:{port}/api/status", timeout=1)
                break
            except OSError:
                assert server.poll() is None, (folder / "log.txt").read_text()
                time.sleep(0.25)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab as `make lab` starts it, on a copy of the notebooks, at the smoke budget."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    with jupyter("jupyterlab", folder, folder / "notebooks") as address:
        yield f"{address}/lab"


def open_and_run(page, lab, name):
    page.goto(f"{lab}/tree/{name}?reset")  # or the notebooks of earlier tests are opened again
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=60_000)
    page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
        timeout=60_000,
    )
    # Outputs that were saved must not be taken for new ones.
    page.evaluate("() => window.jupyterapp.commands.execute('editmenu:clear-all')")
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")


def keep_screenshot(page, name):
    artifacts = ROOT / "artifacts"
    artifacts.mkdir(exist_ok=True)
    page.screenshot(path=artifacts / f"{name}.png")


def widgets_of(page):
    """The explorers on the page: boxes of controls above one picture."""
    boxes = page.locator(".widget-vbox:has(> img.widget-image)")
    return [boxes.nth(index) for index in range(boxes.count())]


def move(page, box):
    """Move every slider and every choice of a widget; each time the picture must become another one."""
    picture = box.locator("img.widget-image")
    picture.scroll_into_view_if_needed()
    handles, choices = box.locator(".widget-slider .noUi-handle"), box.locator("select")
    assert handles.count() + choices.count() > 0, "a widget without controls"
    for index in range(handles.count() + choices.count()):
        before = picture.get_attribute("src")
        if index < handles.count():
            handle = handles.nth(index)
            at_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
            handle.focus()
            page.keyboard.press("ArrowLeft" if at_end else "ArrowRight")
        else:
            choice = choices.nth(index - handles.count())
            options = choice.locator("option").all_text_contents()
            chosen = choice.evaluate("element => element.selectedIndex")
            choice.select_option(index=(chosen + 1) % len(options))
        page.wait_for_function(
            "([image, src]) => image.src !== src", arg=[picture.element_handle(), before], timeout=60_000
        )


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_its_widgets_move(browser, lab, name):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    try:
        open_and_run(page, lab, f"{name}.ipynb")
        # The last code cell prints something: then all are done.
        last = page.locator(".jp-CodeCell").last
        last.locator(".jp-OutputArea-output").first.wait_for(timeout=400_000)
        assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
        assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
        assert page.get_by_text("Jupyter news").count() == 0
        boxes = widgets_of(page)
        assert len(boxes) == widget_cells(name)
        for box in boxes:
            move(page, box)
        page.wait_for_timeout(300)
        keep_screenshot(page, f"{name}-widgets")
    except BaseException:
        keep_screenshot(page, f"{name}-failure")
        raise
    finally:
        page.close()
