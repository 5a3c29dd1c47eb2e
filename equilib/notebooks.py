"""Keeping the notebooks: run and save them, make copies for students, point them at a repository.

``python -m equilib.notebooks run notebooks/*.ipynb`` executes each notebook in place, at the budget of ``EQUILIB_BUDGET``,
cleans its outputs, and refuses to save one with a defect.  ``student FOLDER notebooks/*.ipynb`` writes copies without
solutions and outputs.  ``repository URL`` sets the address in pyproject.toml, notebooks and README.  ``animation FILE``
draws the README's picture.
"""

from __future__ import annotations

import argparse
import copy
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import nbformat
from tqdm import tqdm

from equilib.cli.process import until_closed
from equilib.progress import bar
from equilib.results import written_whole

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
# Every lesson has these, as headings or bold words.
SECTIONS = (
    "Objective",
    "Prerequisites",
    "Minutes",
    "Predict",
    "Exercise",
    "Solution",
    "misconception",
    "Take-aways",
    "References",
)
LOCAL_PATH = re.compile(r"(/home/|/root/|/Users/|/tmp/|/work/|[A-Z]:\\)")
MAX_OUTPUT_BYTES, MAX_NOTEBOOK_BYTES = 1_000_000, 5_000_000


def read(path: str | Path) -> nbformat.NotebookNode:
    """A notebook from its file.

    Raises:
        OSError: it cannot be opened.
        ValueError: names the file; it is no notebook.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
        kinds = [(cell.cell_type, cell.source, cell.get("outputs", []), cell.metadata) for cell in notebook.cells]
        if not isinstance(notebook.metadata, dict) or not all(isinstance(source, str) for _, source, *_ in kinds):
            raise ValueError("cells without text")
    except OSError:
        raise
    except Exception as error:  # nbformat's kinds, and whatever odd contents lead to
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} is no notebook ({reason})") from error
    return notebook


def execute(
    path: str | Path, *, timeout: int = 1800, executed: Callable[[], object] | None = None
) -> nbformat.NotebookNode:
    """Run a notebook from top to bottom in a fresh kernel, in its own folder; raises on the first error in a cell.

    Args:
        timeout: seconds for one cell.
        executed: called after each of the :func:`code_cells`.
    """
    from nbclient import NotebookClient

    path = Path(path)
    notebook = read(path)
    client = NotebookClient(
        notebook, timeout=timeout, kernel_name=KERNELSPEC["name"], resources={"metadata": {"path": str(path.parent)}}
    )
    if executed is not None:
        client.on_cell_executed = lambda **_: executed()
    client.execute()
    return notebook


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The cells that a kernel executes."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def watched_runs(paths: Iterable[Path]) -> Iterator[tuple[Path, Callable[[], nbformat.NotebookNode]]]:
    """Each path with what executes it, under one bar, whose estimate is by the number of cells."""
    paths = list(paths)
    total = sum(len(code_cells(read(path))) for path in paths)
    with bar(total=total, words="running notebooks", unit="cell") as watched:
        for path in paths:
            watched.set_description(path.name, refresh=False)
            yield path, partial(execute, path, executed=watched.update)


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Leave what a reader without a kernel can see, in place.

    Pictures get their description as alternative text.  A widget's live view is of no use in a file (and GitHub refuses a
    notebook whose widget state is incomplete), so only its static picture stays.  A bar has left an empty line: gone.
    """
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("data") != {"text/plain": ""}]
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
    code = code_cells(notebook)
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


SOLUTION = re.compile(r"<details><summary>Solution.*?</details>\n*", re.S)


def student_copy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without its folded solutions and without outputs; the code is untouched."""
    copied = copy.deepcopy(notebook)
    for cell in copied.cells:
        if cell.cell_type == "markdown":
            cell.source = SOLUTION.sub("", cell.source).strip()
        else:
            cell.outputs, cell.execution_count = [], None
            cell.metadata.pop("tags", None)  # nothing is left to compare with
    copied.cells = [cell for cell in copied.cells if cell.source]
    return copied


ADDRESS = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")
BADGE = re.compile(r"https://colab\.research\.google\.com/github/[\w.-]+/[\w.-]+/blob/main/notebooks/")
# Until `make repository` has set the course's own address: under .invalid no name can be registered (RFC 2606), and no
# GitHub user's name has a dot in it, so neither the first cell nor the badge can lead to somebody else's package.
NO_ADDRESS = "https://equilib.invalid/equilib"

_NOWHERE = "no address is set: run make repository URL=…, or upload the folder and %pip install ."
_ANOTHER = "another package is named equilib: %pip uninstall -y equilib pyequilib, restart, begin here"


def first_cell(address: str) -> str:
    """The first code cell of every notebook: on Colab it installs the course from its address, if it has one."""
    if address == NO_ADDRESS:
        install = f"""import importlib.util
import sys

if "google.colab" in sys.modules and not importlib.util.find_spec("equilib"):
    raise ImportError("{_NOWHERE}")
"""
    else:
        install = f"""import sys

if "google.colab" in sys.modules:  # about two minutes; locally this does nothing
    %pip install -q "equilib @ git+{address}"
"""
    return f"""{install}import equilib

if not hasattr(equilib, "COURSE"):
    raise ImportError("{_ANOTHER}")
%matplotlib inline"""


def badge_address(address: str) -> str:
    """Where Colab opens the notebooks of a repository; a notebook's file name is to follow."""
    name = address.removeprefix("https://").removeprefix("github.com/")
    return f"https://colab.research.google.com/github/{name}/blob/main/notebooks/"


def set_repository(url: str, root: Path) -> list[Path]:
    """Write the address of the repository into pyproject.toml, the badges, and the notebooks' first cells.

    Args:
        url: such as https://github.com/someone/equilib, of a fork.
        root: of the checkout.

    Returns:
        The files that changed.

    Raises:
        ValueError: ``url`` is no address on GitHub, or a file is not as this function knows it; nothing is changed then.
    """
    url = url.removesuffix("/").removesuffix(".git")
    if not ADDRESS.fullmatch(url):
        raise ValueError(f"URL must look like https://github.com/someone/equilib, got {url!r}")
    old = repository(root)
    pages = [root / "pyproject.toml", root / "README.md", root / "CITATION.cff"]
    new = {path: BADGE.sub(badge_address(url), path.read_text(encoding="utf-8").replace(old, url)) for path in pages}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = read(path)
        first = next(cell for cell in notebook.cells if cell.cell_type == "code")
        if first.source != first_cell(old):
            raise ValueError(f"{path}: its first code cell is not the one that equilib.notebooks writes")
        first.source = first_cell(url)
        new[path] = BADGE.sub(badge_address(url), nbformat.writes(notebook) + "\n")
    changed = [path for path, text in new.items() if text != path.read_text(encoding="utf-8")]
    for path in changed:
        with written_whole(path) as temporary:
            temporary.write_text(new[path], encoding="utf-8")
    return changed


def repository(root: Path) -> str:
    """The address that pyproject.toml names; :data:`NO_ADDRESS` where none has been set."""
    import tomllib

    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def animation(path: str | Path) -> None:
    """The README's picture: the widget of notebook 01 as an animated GIF, a frame for each rotation of C12."""
    import io

    from PIL import Image

    from equilib.fields import Group, tissue_photograph
    from equilib.widgets import one_layer_networks, turning_field

    group = Group.parse("C12")
    explorer = turning_field(tissue_photograph(95), one_layer_networks(group), group, degrees=0)
    frames = []
    for step in range(group.rotations):
        explorer.controls["degrees"].value = step * group.step
        frames.append(Image.open(io.BytesIO(explorer.picture.value)).quantize(64))
    with written_whole(path) as temporary:
        frames[0].save(temporary, "GIF", save_all=True, append_images=frames[1:], duration=700, loop=0, optimize=True)


def _run(paths: list[Path]) -> int:
    status = 0
    for path, run in watched_runs(paths):
        start = time.monotonic()
        notebook = clean(run())
        defects = problems(notebook)
        if defects:
            status = 1
            tqdm.write(f"{path}: not saved: " + "; ".join(defects), file=sys.stderr)
        else:
            with written_whole(path) as temporary:
                nbformat.write(notebook, temporary)
            tqdm.write(f"{path}: {time.monotonic() - start:.0f} s")
            sys.stdout.flush()
    return status


def write_student_copies(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Copies without solutions, under the same names in another folder; nothing that differs is written over.

    Raises:
        ValueError: a copy there differs (a student's work, or of an older course), is the notebook itself, or is named twice.
    """
    copies = {}
    for path in paths:
        target = folder / path.name
        text = nbformat.writes(student_copy(read(path))) + "\n"
        if target in copies:
            raise ValueError(f"two notebooks are called {path.name}; make their copies in folders of their own")
        if target.exists() and target.resolve() == path.resolve():
            raise ValueError(f"{target} is the notebook itself, whose solutions would be lost; name another folder")
        if target.exists() and target.read_text(encoding="utf-8") != text:
            raise ValueError(
                f"{target} is there and differs, it may hold answers; move it away, or name another folder"
            )
        copies[target] = text
    folder.mkdir(parents=True, exist_ok=True)
    for target, text in copies.items():
        with written_whole(target) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return list(copies)


def main(arguments: list[str]) -> int:
    """The commands; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m equilib.notebooks", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="execute, clean, check and save")
    run.add_argument("notebooks", nargs="+", type=Path)
    student = commands.add_parser("student", help="write copies without solutions")
    student.add_argument("folder", type=Path)
    student.add_argument("notebooks", nargs="+", type=Path)
    picture = commands.add_parser("animation", help="draw the README's animated picture")
    picture.add_argument("path", type=Path)
    address = commands.add_parser("repository", help="set the repository's address after a fork")
    address.add_argument("url")
    options = parser.parse_args(arguments)
    try:
        return _command(options)
    except (OSError, ValueError) as error:  # missing, unreadable, no notebook, no address
        print(f"equilib.notebooks: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _command(options: argparse.Namespace) -> int:
    if options.command == "run":
        return _run(options.notebooks)
    if options.command == "student":
        for target in write_student_copies(options.notebooks, options.folder):
            print(target)
    elif options.command == "animation":
        animation(options.path)
    else:
        changed = set_repository(options.url, Path(__file__).parent.parent)
        print(f"{len(changed)} files changed: {', '.join(path.name for path in changed)}")
    return 0


if __name__ == "__main__":
    sys.exit(until_closed(main, sys.argv[1:]))
