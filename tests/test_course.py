"""The course as its users get it: links, copies for students, the repository's address, and whether nbval would notice."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest

from equilib import notebooks as course
from equilib.widgets import Explorer

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "notebooks").glob("*.md")), *sorted((ROOT / "notebooks").glob("*.ipynb"))]


# --- links ---


def markdown(path):
    if path.suffix == ".ipynb":
        return "\n\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")
    return path.read_text()


def anchors(path):
    """The fragments that a page has: of headings, as GitHub makes them and as JupyterLab does."""
    headings = re.findall(r"^#+ (.+?)\s*$", re.sub(r"```.*?```", "", markdown(path), flags=re.S), re.M)
    jupyter = {heading.replace(" ", "-") for heading in headings}
    github = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return jupyter | github


def broken_links(path, text):
    """Links of a page that lead nowhere; those to other sites are checked for their form alone (offline)."""
    text = re.sub(r"```.*?```|`[^`]*`|\$[^$]*\$", "", text, flags=re.S)
    broken = []
    for target in re.findall(r"\]\(([^)\s]*)\)", text):
        if target.startswith(("http:", "https:")):
            if not re.fullmatch(r"https://[\w.-]+(/[^\s]*)?", target):
                broken.append(target)
            continue
        file, _, fragment = target.partition("#")
        there = path.parent / file if file else path
        if not target or not there.exists() or (fragment and fragment not in anchors(there)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    assert broken_links(path, markdown(path)) == []


@pytest.mark.parametrize(
    "text",
    [
        "[a](no_such_file.md)",
        "[a](#no-such-heading)",
        "[a](README.md#nowhere)",
        "[a]()",
        "[a](http://plain.example)",
        "[![badge](https://x.example/a.svg)](nothing.ipynb)",
    ],
)
def test_the_link_check_finds_broken_links(text):
    assert broken_links(ROOT / "README.md", text)


def test_the_link_check_accepts_good_ones():
    good = "[a](LICENSE) [b](#notebooks) [c](https://arxiv.org/abs/2004.09691) `[d](e)`\n```\n[f](g)\n```"
    assert broken_links(ROOT / "README.md", good) == []


def test_every_glossary_entry_links_the_section_that_explains_it():
    entries = re.findall(
        r"^\*\*(.+?)\*\*(.*?)(?=^\*\*|\Z)", (ROOT / "notebooks" / "glossary.md").read_text(), re.M | re.S
    )
    assert len(entries) >= 20 and all(".ipynb#" in text for _, text in entries)
    names = [name.lower() for name, _ in entries]
    assert names == sorted(names)


# --- Colab and the repository's address ---


NOTEBOOKS = [page for page in PAGES if page.suffix == ".ipynb"]
FORK = "https://github.com/someone/course"


def first_code_cell(path):
    return next(cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code").source


@pytest.fixture
def checkout(tmp_path):
    """A copy of all files that hold the address."""
    for name in ("pyproject.toml", "README.md", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    return tmp_path


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_opens_and_installs_on_colab(path):
    address = course.repository(ROOT)
    cells = nbformat.read(path, as_version=4).cells
    assert course.badge_address(address) + path.name in cells[0].source
    assert first_code_cell(path) == course.first_cell(address)


@pytest.mark.parametrize("path", [ROOT / "README.md", *NOTEBOOKS], ids=lambda path: path.name)
def test_the_badge_is_a_file_of_the_project(path):
    """So the first line of a notebook is no broken picture where there is no network; and it loads nothing itself."""
    (badge,) = re.findall(r"\[!\[Open in Colab\]\(([^)]+)\)\]\(https://colab\.", markdown(path))
    drawing = (path.parent / badge).read_text()
    assert ElementTree.fromstring(drawing).find("{http://www.w3.org/2000/svg}title").text == "Open in Colab"
    assert set(re.findall(r"https?://[^\s\"]+", drawing)) == {"http://www.w3.org/2000/svg"}
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", markdown(path))
    assert not [picture for picture in pictures if picture.startswith("http")]


def test_without_an_address_nothing_of_a_stranger_is_installed():
    """Names under .invalid cannot be registered (RFC 2606), and a dot is in no name of a GitHub user."""
    assert course.NO_ADDRESS.split("/")[2].endswith(".invalid")
    assert "." in course.badge_address(course.NO_ADDRESS).split("/github/")[1].split("/")[0]
    cell = course.first_cell(course.NO_ADDRESS)
    assert "git+" not in cell and "make repository URL=" in cell
    if course.repository(ROOT) == course.NO_ADDRESS:
        for page in [ROOT / "README.md", *NOTEBOOKS]:
            assert "github.com/equilib/" not in page.read_text() and "/github/equilib/" not in page.read_text()


def run_first_cell(address, folder, *, colab, module=None):
    """What the cell does in a fresh process: its last line on stderr (empty if all is well), and what it installed."""
    folder.mkdir(exist_ok=True)
    if module:
        (folder / "equilib.py").write_text(module)
    code = course.first_cell(address).replace("%matplotlib inline", "")
    code = re.sub(r"%pip install -q (.*)", r"open('installed', 'w').write(\1)", code)
    start = "import sys\n" + ("sys.modules['google.colab'] = sys\n" if colab else "")
    environment = {"PYTHONPATH": str(ROOT) if module is None else "", "PATH": ""}
    isolated = ["-S"] if module == "" else []  # nothing of this name at all: not even site-packages
    command = [sys.executable, *isolated, "-c", start + "sys.path.insert(0, '')\n" + code]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    installed = folder / "installed"
    return result.stderr.strip().splitlines()[-1:], installed.read_text() if installed.exists() else None


@pytest.mark.parametrize("address", [course.NO_ADDRESS, FORK])
def test_the_first_cell_does_nothing_where_the_course_is_installed(tmp_path, address):
    assert run_first_cell(address, tmp_path, colab=False) == ([], None)


def test_the_first_cell_on_colab(tmp_path):
    assert run_first_cell(FORK, tmp_path, colab=True) == ([], f"equilib @ git+{FORK}")
    (message,), installed = run_first_cell(course.NO_ADDRESS, tmp_path / "none", colab=True, module="")
    assert "no address is set" in message and "%pip install ." in message and installed is None


@pytest.mark.parametrize("address", [course.NO_ADDRESS, FORK])
def test_the_first_cell_knows_another_package_of_the_name(tmp_path, address):
    (message,), _ = run_first_cell(address, tmp_path, colab=False, module="def equi2cube(): ...")
    assert "another package is named equilib" in message and "uninstall" in message


def test_the_first_cell_leaves_the_versions_of_colab():
    assert "==" not in course.first_cell(FORK).split("import equilib")[0] and "--upgrade" not in course.first_cell(FORK)


def test_a_fork_sets_its_address_everywhere(checkout):
    old = course.repository(ROOT)
    changed = course.set_repository(f"{FORK}.git", checkout)
    assert course.repository(checkout) == FORK
    texts = "\n".join(p.read_text() for p in [checkout / "README.md", *(checkout / "notebooks").glob("*.ipynb")])
    assert old not in texts and course.badge_address(old) not in texts and ".invalid" not in texts
    assert "github/someone/course/blob/main/notebooks/01" in texts and len(changed) >= 7
    for path in sorted((checkout / "notebooks").glob("*.ipynb")):
        assert first_code_cell(path) == course.first_cell(FORK)
    with pytest.raises(ValueError, match="URL must look like"):
        course.set_repository("someone/course", checkout)
    # And on to another one.
    assert len(course.set_repository("https://github.com/other/equilib", checkout)) == len(changed)
    assert first_code_cell(path) == course.first_cell("https://github.com/other/equilib")


def test_a_first_cell_of_somebody_else_is_not_overwritten(checkout):
    path = checkout / "notebooks" / NOTEBOOKS[-1].name
    notebook = nbformat.read(path, as_version=4)
    next(cell for cell in notebook.cells if cell.cell_type == "code").source = "import mine"
    nbformat.write(notebook, path)
    before = {page: page.read_bytes() for page in checkout.rglob("*") if page.is_file()}
    with pytest.raises(ValueError, match=f"{path.name}: its first code cell"):
        course.set_repository(FORK, checkout)
    assert {page: page.read_bytes() for page in checkout.rglob("*") if page.is_file()} == before


# --- copies for students ---


@pytest.mark.parametrize("path", [p for p in PAGES if p.suffix == ".ipynb"], ids=lambda path: path.name)
def test_copies_for_students_have_all_but_the_solutions(path):
    original = nbformat.read(path, as_version=4)
    copied = course.student_copy(original)
    nbformat.validate(copied)
    text = "\n".join(cell.source for cell in copied.cells)
    assert "Solution" not in text and "<details>" not in text
    assert text.count("**Exercise") == "\n".join(c.source for c in original.cells).count("**Exercise") >= 3
    code = [cell.source for cell in original.cells if cell.cell_type == "code"]
    assert [cell.source for cell in copied.cells if cell.cell_type == "code"] == code
    assert all(not cell.outputs for cell in copied.cells if cell.cell_type == "code")


# --- would the checks notice? ---


def nbval(folder, lessons):
    """pytest on a notebook for each of these lists of cells, with the options of `make test`."""
    for name, cells in lessons.items():
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": course.KERNELSPEC})
        nbformat.write(notebook, folder / f"{name}.ipynb")
    shutil.copy(ROOT / "notebooks" / "conftest.py", folder)
    options = re.search(r"^NBVAL := (.*)$", (ROOT / "Makefile").read_text(), re.M)[1]
    options = options.replace("tests/nbval.cfg", str(ROOT / "tests" / "nbval.cfg")).split()
    command = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", *options, str(folder)]
    environment = os.environ | {"EQUILIB_BUDGET": "laptop"}  # as make sets it for all
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def cell(source, text=None, *, compared=False):
    outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)] if text else []
    made = nbformat.v4.new_code_cell(source, outputs=outputs, execution_count=1)
    made.metadata["tags"] = ["nbval-check-output"] if compared else []
    return made


WIDGET = """
import ipywidgets
from equilib import figures, widgets

def draw(x):
    if x == {bad}:
        raise RuntimeError("broken")
    return figures.convergence([1, 0.1])

explorer = widgets.Explorer(draw, {{"x": ipywidgets.IntSlider(0, 0, 3)}}, description="a test")
"""


@pytest.mark.slow
def test_nbval_turns_red(tmp_path):
    red = {
        "changed_number": [cell("print(6 * 7)", "43\n", compared=True)],
        "cell_that_raises": [cell("assert 6 * 7 == 43")],
        "widget_that_cannot_draw": [cell(WIDGET.format(bad=0))],
    }
    well = [
        cell("print(6 * 7)", "42\n", compared=True),
        cell("print(3)", "4\n"),
        cell("print('error 1.2e-07')", "error 3.4e-08\n", compared=True),
        cell("import os\nprint(os.environ['EQUILIB_BUDGET'])", "smoke\n", compared=True),
    ]
    result = nbval(tmp_path, {"all_well": well, **red})
    said = result.stdout + result.stderr
    assert result.returncode == 1, said
    assert sorted(re.findall(r"^FAILED .*?(\w+)\.ipynb::", said, re.M)) == sorted(red), said
    assert "4 passed" in said, said
    assert re.search(r"all_well\.ipynb: \d+ s", said), "the seconds of each notebook are printed"


def test_a_broken_callback_is_not_swallowed():
    """What tests/test_notebooks.py relies on when it moves every control over its range."""
    namespace = {}
    exec(WIDGET.format(bad=2), namespace)
    explorer = namespace["explorer"]
    assert isinstance(explorer, Explorer)
    explorer.controls["x"].value = 1
    with pytest.raises(RuntimeError, match="broken"):
        explorer.controls["x"].value = 2
