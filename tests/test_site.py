"""The static pages: built from two notebooks, then opened in a browser without any kernel."""

import os
import re

import nbformat
import pytest
from conftest import served
from test_browser import ROOT, browser  # noqa: F401 (a fixture)

from equilib import site

NAMES = ("01_feature_fields", "02_steerable_filters")


def test_formulas_become_mathml_and_code_stays():
    text = site.math_to_mathml("a $x^2$ b\n\n$$\\rho(g) = 1$$\n\n`$HOME` and\n```bash\necho $A $B\n```")
    assert text.count("<math") == 2 and 'display="block"' in text and "\\rho" not in text
    assert "`$HOME`" in text and "echo $A $B" in text


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_formula_of_the_course_can_be_drawn(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            drawn = site.math_to_mathml(cell.source)
            assert "$" not in site.CODE.sub("", drawn)
            for formula in re.findall(r"<math.*?</math>", drawn, re.S):
                assert not re.search(r"\\[a-zA-Z]+", re.sub(r"<[^>]+>", "", formula)), (
                    "a command that was not understood"
                )


def test_links_lead_to_pages_or_to_the_repository():
    text = "[a](02_x.ipynb#3-·-What-a-grid-sees) [b](../equilib/fields.py) [c](../equilib/widgets) [d](https://x.example) [e](03_y.ipynb)"
    address = "https://github.com/someone/course"
    out = site.rewrite_links(text, "notebooks", {"02_x"}, address)
    assert "(02_x.md#3-what-a-grid-sees)" in out and f"({address}/blob/main/equilib/fields.py)" in out
    assert f"({address}/tree/main/equilib/widgets)" in out and "(https://x.example)" in out
    assert f"({address}/blob/main/notebooks/03_y.ipynb)" in out


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "site"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EQUILIB_BUDGET", "smoke")
        site.build([ROOT / "notebooks" / f"{name}.ipynb" for name in NAMES], folder)
        assert "EQUILIB_FRAMES" not in os.environ
    with served(folder) as address:
        yield address


@pytest.mark.slow
def test_sliders_move_without_a_kernel(browser, pages):  # noqa: F811
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    asked, failed = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("response", lambda response: failed.append(response.url) if response.status >= 400 else None)
    for name, widgets in zip(NAMES, (1, 3)):
        page.goto(f"{pages}/{name}.html")
        figures = page.locator("figure.frames")
        assert figures.count() == widgets
        for index in range(widgets):
            figure = figures.nth(index)
            picture = figure.locator("img")
            assert len(picture.get_attribute("alt")) > 30
            for slider in figure.locator("input").all():
                before, words = picture.get_attribute("src"), slider.get_attribute("aria-valuetext")
                slider.focus()
                page.keyboard.press("ArrowLeft")  # no default stands at the left end
                after = picture.get_attribute("src")
                assert (
                    after != before
                    and page.request.get(f"{pages}/{after}").body() != page.request.get(f"{pages}/{before}").body()
                )
                assert slider.get_attribute("aria-valuetext") != words
                page.wait_for_function(
                    "image => image.complete && image.naturalWidth > 300", arg=picture.element_handle()
                )
        assert page.locator("math").count() > 10 and page.locator(".cell-picture img").count() >= 3
        assert page.locator("details:not([open]) pre").count() >= 3, "solutions are folded"
    assert not [url for url in asked if not url.startswith(pages)], "nothing is loaded from elsewhere"
    assert not failed
    page.close()


@pytest.mark.slow
def test_pages_are_legible_on_a_phone_in_the_dark_and_lead_on(browser, pages):  # noqa: F811
    page = browser.new_page(viewport={"width": 390, "height": 840}, color_scheme="dark")
    page.goto(f"{pages}/index.html")
    page.wait_for_function("() => document.documentElement.dataset.bsTheme === 'dark'")
    for name in ("index", *NAMES, "glossary"):
        page.goto(f"{pages}/{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, f"{name} is wider than a phone"
    page.set_viewport_size({"width": 1300, "height": 900})
    page.goto(f"{pages}/{NAMES[0]}.html")
    assert page.locator("a[rel=next]").first.get_attribute("href").endswith(f"{NAMES[1]}.html")
    page.goto(f"{pages}/{NAMES[1]}.html")
    assert page.locator("a[rel=prev]").first.get_attribute("href").endswith(f"{NAMES[0]}.html")
    page.locator("text=Search").first.click()
    query, found = page.locator("#mkdocs-search-query"), page.locator("#mkdocs-search-results article a")
    query.press_sequentially("aliasing")
    # MkDocs listens for keys only once its index is loaded, so on a slow machine another key is needed.
    for _ in range(40):
        query.press("End")
        page.wait_for_timeout(500)
        if found.count():
            break
    found.first.wait_for(timeout=1000)
    page.close()
