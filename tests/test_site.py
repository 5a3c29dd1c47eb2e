"""The static pages: built from two notebooks, then opened in a browser without any kernel."""

import os
import re
import shutil

import nbformat
import pytest
from conftest import served
from test_browser import ROOT, browser  # noqa: F401 (a fixture)

from equilib import live, site
from equilib.results import replaceable_folder

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


def skip_without_npm():
    if shutil.which("npm") is None and not os.environ.get("CI"):
        pytest.skip("no npm on this machine")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "site"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EQUILIB_BUDGET", "smoke")
        site.build([ROOT / "notebooks" / f"{name}.ipynb" for name in NAMES], folder)
        assert "EQUILIB_FRAMES" not in os.environ
    assert replaceable_folder(folder, site.MARKS) == folder.resolve(), "so that it can be built again"
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
    page.wait_for_function("() => document.body.dataset.mdColorScheme === 'slate'")
    for name in ("index", *NAMES, "glossary", "results", "runs", "instructors", "library", "reference/fields"):
        page.goto(f"{pages}/{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, f"{name} is wider than a phone"
    page.set_viewport_size({"width": 1300, "height": 900})
    page.goto(f"{pages}/{NAMES[0]}.html")
    assert page.locator(".md-footer__link--next").get_attribute("href").endswith(f"{NAMES[1]}.html")
    page.goto(f"{pages}/{NAMES[1]}.html")
    assert page.locator(".md-footer__link--prev").get_attribute("href").endswith(f"{NAMES[0]}.html")
    query, found = page.locator(".md-search__input"), page.locator(".md-search-result__item a")
    query.click()
    query.press_sequentially("aliasing")
    found.first.wait_for(timeout=30_000)
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "names"), [("light", (NAMES[0], "results")), ("dark", ("index", NAMES[1], "reference/fields"))]
)
def test_an_accessibility_checker_finds_nothing_serious(browser, pages, scheme, names):  # noqa: F811
    skip_without_npm()
    axe = (live.node_modules() / "axe-core" / "axe.min.js").read_text()
    page = browser.new_page(color_scheme=scheme)
    for name in names:
        page.goto(f"{pages}/{name}.html")
        page.evaluate(axe)
        # The live page inside has a test of its own.
        found = page.evaluate("axe.run(document, { iframes: false }).then(({ violations }) => violations)")
        serious = [
            (issue["id"], issue["nodes"][0]["html"]) for issue in found if issue["impact"] in ("serious", "critical")
        ]
        assert not serious, name
    page.close()


@pytest.mark.slow
def test_docstrings_become_a_reference_whose_links_lead_on(browser, pages):  # noqa: F811
    page = browser.new_page()
    page.goto(f"{pages}/reference/fields.html")
    assert page.locator("h2#equilib\\.fields\\.rotate").count() == 1
    assert (
        "counter-clockwise" in page.locator("main").text_content()
        and ":func:" not in page.locator("main").text_content()
    )
    page.locator("article a.autorefs:has-text('disc_mask')").first.click()
    page.wait_for_url("**/*#equilib.fields.disc_mask")
    page.close()


@pytest.mark.slow
def test_the_start_page_begins_with_the_live_page(browser, pages):  # noqa: F811
    skip_without_npm()
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="dark")
    page.goto(f"{pages}/index.html")
    frame = page.frame_locator("iframe.live")
    frame.locator('[data-slot="0"][data-degrees="0"]').wait_for(timeout=60_000)
    frame.locator('[data-turn="90"]').click()
    frame.locator("#notice", has_text="same bits").wait_for()  # said when both networks have answered
    assert frame.locator('[data-slot="0"][data-degrees="90"]').count() == 1
    assert not frame.locator(".bits").is_visible()
    inside = page.frames[1]
    assert inside.evaluate("document.documentElement.dataset.theme") == "dark"
    assert inside.evaluate("document.body.scrollHeight <= innerHeight + 1"), "no scroll bar inside"
    page.locator("main a:has-text('page of its own')").click()
    page.locator(f"[data-notebook='01'][href$='{NAMES[0]}.html']").first.wait_for(state="attached")  # by its script
    page.close()


def test_without_npm_the_site_says_in_one_line_how_to_get_the_live_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EQUILIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert site._live_page(tmp_path / "try", {}) is False
    assert capsys.readouterr().out.count("\n") == 1
    parts = site.sections((ROOT / "README.md").read_text())
    text = site.start_page(parts, False)
    assert "iframe" not in text and "npm" in text and "iframe" in site.start_page(parts, True)


def test_every_section_of_the_readme_and_every_module_has_a_place():
    parts = site.sections((ROOT / "README.md").read_text())
    assert {site.RESULTS, *site.START} <= set(parts)
    assert all((ROOT / source).is_file() for source in site.FILES.values())
    modules = {f"reference/{path.stem}.md" for path in (ROOT / "equilib").glob("*.py") if not path.name.startswith("_")}
    packages = {f"reference/{path.parent.name}.md" for path in (ROOT / "equilib").glob("*/__init__.py")}
    assert set(site.reference(ROOT / "equilib")) == modules | packages


def test_links_to_the_live_page_lead_to_it_where_the_site_has_it():
    link = f"[try it](../{site.LIVE})"
    assert site.rewrite_links(link, "notebooks", set(), "A", with_live=True) == "[try it](try/index.html)"
    assert site.rewrite_links(link, "notebooks", set(), "A") == f"[try it](A/blob/main/{site.LIVE})"
    assert (ROOT / site.LIVE).is_file() and live.PAGE.is_dir()
