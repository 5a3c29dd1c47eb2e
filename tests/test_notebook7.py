"""Notebook 01 in Notebook 7, which many know better than JupyterLab: run to the end, and its slider moves.

Skipped where the package notebook is not installed (``pip install notebook``: the course does not need it).
"""

import shutil
from importlib.util import find_spec

import pytest
from test_browser import ROOT, browser, jupyter, keep_screenshot, widget_cells, widgets_of  # noqa: F401 (a fixture)

NAME = "01_feature_fields"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("notebook") is None, reason="Notebook 7 is not installed: pip install notebook"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of Notebook 7 on a copy of the notebook, at the smoke budget."""
    folder = tmp_path_factory.mktemp("notebook7")
    shutil.copy(ROOT / "notebooks" / f"{NAME}.ipynb", folder)
    with jupyter("notebook", folder, folder) as server:
        yield f"{server}/notebooks/{NAME}.ipynb"


def click_on_sliders(page, box):
    """Click at the far end of every slider; each time the picture must become another one.

    With the mouse: Notebook 7 takes the keyboard's focus for the cell, where JupyterLab leaves it to the slider.
    """
    picture, tracks = box.locator("img.widget-image"), box.locator(".widget-slider .noUi-base")
    picture.scroll_into_view_if_needed()
    assert tracks.count() > 0, "a widget without controls"
    for track in tracks.all():
        before, place = picture.get_attribute("src"), track.bounding_box()
        handle = track.locator(".noUi-handle")
        low, now, high = (float(handle.get_attribute(f"aria-value{name}")) for name in ("min", "now", "max"))
        far = 0.25 if now > (low + high) / 2 else 0.75
        page.mouse.click(place["x"] + far * place["width"], place["y"] + place["height"] / 2)
        page.wait_for_function(
            "([image, src]) => image.src !== src", arg=[picture.element_handle(), before], timeout=60_000
        )


def test_notebook_01_runs_and_its_widget_moves(browser, address):  # noqa: F811
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    try:
        page.goto(address)
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=180_000)
        page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
            timeout=180_000,
        )
        # Outputs that were saved must not be taken for new ones.
        page.evaluate("() => window.jupyterapp.commands.execute('editmenu:clear-all')")
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        error = page.locator("[data-mime-type='application/vnd.jupyter.error']")
        last = page.locator(".jp-CodeCell").last.locator(".jp-OutputArea-output")
        last.or_(error).first.wait_for(timeout=400_000)
        assert error.all_text_contents() == []
        assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
        boxes = widgets_of(page)
        assert len(boxes) == widget_cells(NAME) > 0
        for box in boxes:
            click_on_sliders(page, box)
        keep_screenshot(page, "notebook7-widgets")
    except BaseException:
        keep_screenshot(page, "notebook7-failure")
        raise
    finally:
        page.close()
