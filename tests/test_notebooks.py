"""The notebooks as they are saved, and the checker itself."""

import copy
from pathlib import Path

import nbformat
import pytest

from equilib.notebooks import clean, problems

FOLDER = Path(__file__).parent.parent / "notebooks"


SAVED = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_saved_notebooks_have_no_defects(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert problems(notebook) == []


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_a_notebook_links_to_modules_that_exist(path):
    import re

    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\((?!https?:|#)([^)]+)\)", text)
    assert links and all((FOLDER / link.split("#")[0]).exists() for link in links)


def _spoil(change):
    notebook = nbformat.read(SAVED[0], as_version=4)
    change(notebook, [c for c in notebook.cells if c.cell_type == "code"])
    return notebook


def output(**fields):
    return nbformat.v4.new_output(**fields)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda nb, code: nb.metadata.update(widgets={}), "stale widget state"),
        (lambda nb, code: nb.metadata.pop("kernelspec"), "kernelspec"),
        (lambda nb, code: code[3].update(execution_count=99), "execution counts"),
        (
            lambda nb, code: code[2].outputs.append(output(output_type="stream", name="stderr", text="Warning")),
            "stderr",
        ),
        (
            lambda nb, code: code[2].outputs.append(output(output_type="error", ename="E", evalue="", traceback=[])),
            "ended with E",
        ),
        (
            lambda nb, code: code[2].outputs.append(output(output_type="stream", name="stdout", text="/home/me/x")),
            "local path",
        ),
        (lambda nb, code: nb.cells.pop(0), "no section 'Objective'"),
    ],
)
def test_the_checker_finds_each_defect(change, words):
    assert any(words in problem for problem in problems(_spoil(change)))


def test_cleaning_keeps_the_picture_and_drops_the_view():
    notebook = nbformat.v4.new_notebook(
        metadata={"widgets": {"x": 1}, "kernelspec": {"name": "other", "display_name": "Other"}}
    )
    data = {"image/png": "abc", "application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "a patch"}
    notebook.cells = [nbformat.v4.new_code_cell("w", outputs=[output(output_type="display_data", data=data)])]
    cleaned = clean(copy.deepcopy(notebook))
    assert set(cleaned.cells[0].outputs[0].data) == {"image/png", "text/plain"}
    assert "widgets" not in cleaned.metadata and cleaned.metadata.kernelspec.name == "python3"
