"""Notebooks in a real JupyterLab in a real browser: run from top to bottom, then move a slider.

Chromium comes from the system (`chromium`, `chromium-browser` or `google-chrome`).  Without it these tests are skipped,
except in continuous integration, where its absence is a failure.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]

pytestmark = pytest.mark.slow


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


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab as `make lab` starts it, on a copy of the notebooks, at the smoke budget."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    # By default JupyterLab renders only the cells in view, so that a test could not find the others.
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
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--IdentityProvider.token="]
    command += [f"--port={port}", "--ServerApp.port_retries=0", "--expose-app-in-browser", str(folder / "notebooks")]
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
        yield f"http://127.0.0.1:{port}/lab"
    finally:
        server.terminate()
        server.wait(20)


def open_and_run(page, lab, name):
    page.goto(f"{lab}/tree/{name}?reset")  # or the notebooks of earlier tests are opened again
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=60_000)
    page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'", timeout=60_000
    )
    # Outputs that were saved must not be taken for new ones.
    page.evaluate("() => window.jupyterapp.commands.execute('editmenu:clear-all')")
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")


def keep_screenshot(page, name):
    artifacts = ROOT / "artifacts"
    artifacts.mkdir(exist_ok=True)
    page.screenshot(path=artifacts / f"{name}.png")


def test_notebook_04_runs_and_its_slider_moves_the_picture(browser, lab):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    try:
        open_and_run(page, lab, "04_equivariant_mobilenetv2.ipynb")
        page.wait_for_selector(".widget-image", timeout=300_000)
        last = page.locator(".jp-CodeCell").last
        last.locator(".jp-OutputArea-output").first.wait_for(timeout=60_000)
        assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
        assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
        assert page.get_by_text("Jupyter news").count() == 0
        picture = page.locator("img.widget-image").first
        picture.scroll_into_view_if_needed()
        before = picture.get_attribute("src")
        handles = page.locator(".widget-slider .noUi-handle")
        assert handles.count() >= 2
        for handle in (handles.nth(1), handles.nth(0)):  # the angle, then the patch
            handle.focus()
            page.keyboard.press("ArrowRight")
            page.wait_for_function(
                "src => document.querySelector('img.widget-image').src !== src", arg=before, timeout=30_000
            )
            before = picture.get_attribute("src")
        page.wait_for_timeout(300)
        keep_screenshot(page, "notebook04-widget")
    except BaseException:
        keep_screenshot(page, "notebook04-failure")
        raise
    finally:
        page.close()


@pytest.mark.parametrize("name, sliders", [("05_data_free_quantization", (0, 1)), ("06_int8_on_device", (0, 1))])
def test_notebooks_05_and_06_run_and_their_sliders_move(browser, lab, name, sliders):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    try:
        open_and_run(page, lab, f"{name}.ipynb")
        # The last code cell prints something: then all are done.
        last = page.locator(".jp-CodeCell").last
        last.locator(".jp-OutputArea-output").first.wait_for(timeout=400_000)
        assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
        assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
        for number in sliders:
            handle = page.locator(".widget-slider .noUi-handle").nth(number)
            handle.scroll_into_view_if_needed()
            pictures = "Array.from(document.querySelectorAll('img.widget-image')).map(image => image.src).join()"
            before = page.evaluate(f"() => {pictures}")
            handle.focus()
            page.keyboard.press("ArrowRight")
            page.wait_for_function(f"before => {pictures} !== before", arg=before, timeout=60_000)
        page.wait_for_timeout(300)
        keep_screenshot(page, f"{name}-widgets")
    except BaseException:
        keep_screenshot(page, f"{name}-failure")
        raise
    finally:
        page.close()
