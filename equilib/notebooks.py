"""Running the notebooks and saving them as readers should find them.

``python -m equilib.notebooks notebooks/*.ipynb`` executes each notebook in place, at the budget of ``EQUILIB_BUDGET``,
cleans its outputs, and refuses to save one with a defect.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import nbformat

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
# Every lesson has these, as headings or bold words.
SECTIONS = ("Objective", "Prerequisites", "Minutes", "Predict", "Exercise", "Solution", "misconception", "Take-aways", "References")
LOCAL_PATH = re.compile(r"(/home/|/root/|/Users/|/tmp/|/work/|[A-Z]:\\)")
MAX_OUTPUT_BYTES, MAX_NOTEBOOK_BYTES = 1_000_000, 5_000_000


def execute(path: str | Path, *, timeout: int = 1800) -> nbformat.NotebookNode:
    """Run a notebook from top to bottom in a fresh kernel, in its own folder; raises on the first error in a cell."""
    from nbclient import NotebookClient

    path = Path(path)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=timeout, kernel_name=KERNELSPEC["name"], resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    return notebook


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Leave what a reader without a kernel can see, in place.

    Pictures get their description as alternative text.  A widget's live view is of no use in a file (and GitHub refuses a notebook whose widget state is incomplete), so only
    its static picture stays.
    """
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data.pop(WIDGET_VIEW, None)
                words = "".join(output.data.get("text/plain", ""))
                output.metadata["image/png"] = output.metadata.get("image/png", {}) | {"alt": words}
    return notebook


def problems(notebook: nbformat.NotebookNode) -> list[str]:
    """What a reader would stumble over in a saved notebook, one sentence each; empty if nothing."""
    found = []
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found += [f"no section {section!r}" for section in SECTIONS if section.lower() not in text.lower()]
    if notebook.metadata.get("kernelspec", {}).get("name") != KERNELSPEC["name"]:
        found.append("no valid kernelspec")
    if "widgets" in notebook.metadata:
        found.append("stale widget state in the metadata")
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        found.append(f"execution counts are {counts}: not run from top to bottom in a fresh kernel")
    for index, cell in enumerate(code, start=1):
        for output in cell.outputs:
            body = nbformat.v4.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[output])]))
            if output.output_type == "error":
                found.append(f"cell {index} ended with {output.ename}")
            if output.get("name") == "stderr":
                found.append(f"cell {index} wrote to stderr: {output.text[:120]!r}")
            if "image/png" in output.get("data", {}):
                alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
                if len(alt) < 15 or alt.startswith("<"):
                    found.append(f"cell {index} has a picture without a description")
            if WIDGET_VIEW in output.get("data", {}):
                found.append(f"cell {index} holds a live widget view without a picture")
            if LOCAL_PATH.search(str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))):
                found.append(f"cell {index} shows a local path")
            if len(body) > MAX_OUTPUT_BYTES:
                found.append(f"cell {index} has an output of {len(body):,} bytes")
    if len(nbformat.writes(notebook)) > MAX_NOTEBOOK_BYTES:
        found.append("the notebook is larger than 5 MB")
    return found


def main(paths: list[str]) -> int:
    """Execute, clean, check and save; returns the exit status."""
    status = 0
    for path in paths:
        start = time.monotonic()
        notebook = clean(execute(path))
        defects = problems(notebook)
        if defects:
            status = 1
            print(f"{path}: not saved: " + "; ".join(defects), file=sys.stderr)
        else:
            nbformat.write(notebook, path)
            print(f"{path}: {time.monotonic() - start:.0f} s", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
