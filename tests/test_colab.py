"""Notebooks as on Colab: its versions of packages, a google.colab module, no checkout on the path, the project from git."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest
from conftest import served

from equilib import notebooks as course

ROOT = Path(__file__).parent.parent
VERSIONS = Path(__file__).with_name("colab.txt")
NAMES = re.findall(r"^([\w-]+)==", VERSIONS.read_text(), re.M)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """A virtual environment with Colab's versions of what notebooks are made with, everything else as it is installed here.

    Colab comes with torch and most packages; taking them from this environment saves downloading gigabytes, and pip from
    here unpacking another.
    """
    folder = tmp_path_factory.mktemp("colab")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    packages = Path(
        subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], text=True
        ).strip()
    )
    shared = folder / "shared"
    shared.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not re.match(r"(__editable__|equilib|setuptools\b|_distutils)", entry.name):
            (shared / entry.name).symlink_to(entry)
    (packages / "shared.pth").write_text(f"{shared}\n")
    (packages / "google" / "colab").mkdir(parents=True)
    (packages / "google" / "colab" / "__init__.py").touch()
    (packages / "sitecustomize.py").write_text("import google.colab  # as in Colab's kernels\n")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    result = subprocess.run([*install, "--requirement", VERSIONS], capture_output=True, text=True)
    if result.returncode and not os.environ.get("CI"):
        pytest.skip(f"no package index can be reached: {result.stderr[-200:]}")
    assert result.returncode == 0, result.stderr
    serve_repository(folder)
    clone = folder / "served" / "equilib"
    with served(clone.parent) as address:
        yield folder, python, f"{address}/equilib"


def serve_repository(folder):
    """A git repository of the tracked files as they are now, ready for plain HTTP."""
    work = folder / "work"
    for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")[:-1]:
        if (ROOT / name).exists():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, work / name)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "--quiet"], ["add", "--all", "--force"], ["commit", "--quiet", "-m", "as it is"]):
        subprocess.run([*git, *command], cwd=work, check=True)
    subprocess.run(["git", "clone", "--quiet", "--bare", work, folder / "served" / "equilib"], check=True)
    subprocess.run(["git", "update-server-info"], cwd=folder / "served" / "equilib", check=True)


def versions(python, *names):
    code = f"from importlib.metadata import version; print(*(version(n) for n in {names!r}))"
    return subprocess.check_output([python, "-c", code], text=True, cwd="/").split()


# Notebook 01 has what Colab needs to be asked: the first cell, widgets, figures; 05 trains and quantizes.  What changes is
# Colab, not the project: so `make nightly` asks.  The first cell as such is tested each time (test_course.py).
@pytest.mark.nightly
@pytest.mark.parametrize("name", ["01_feature_fields", "05_data_free_quantization"])
def test_notebooks_run_on_colab(colab, tmp_path, name):
    folder, python, address = colab
    before = versions(python, "torch", *NAMES)
    pinned = re.findall(r"^[\w-]+==(\S+)$", VERSIONS.read_text(), re.M)
    assert before[1:] == pinned and len(pinned) > 5
    work = tmp_path / "content"
    work.mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {
        "EQUILIB_BUDGET": "smoke",
        "EQUILIB_CACHE": str(tmp_path / "cache"),
        "PIP_NO_COMPILE": "0",  # pip wants a falsy value for a yes; Python compiles what it imports, and nothing else
        "PATH": f"{python.parent}:{os.environ['PATH']}",
    }
    kernels = tmp_path / "jupyter" / "kernels" / "colab"
    kernels.mkdir(parents=True)
    (kernels / "kernel.json").write_text(
        f'{{"argv": ["{python}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"], "display_name": "Colab", "language": "python"}}'
    )
    environment["JUPYTER_PATH"] = str(tmp_path / "jupyter")
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert first.source == course.first_cell(course.repository(ROOT))
    first.source = course.first_cell(address)
    nbformat.write(notebook, work / "notebook.ipynb")
    code = (
        "import nbformat; from nbclient import NotebookClient; "
        "NotebookClient(nbformat.read('notebook.ipynb', 4), timeout=600, kernel_name='colab').execute()"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=work, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    where = subprocess.check_output(
        [python, "-c", "import equilib; print(equilib.__file__)"], text=True, cwd="/", env=environment
    ).strip()
    assert where.startswith(str(folder / "venv")), "the project came from the clone, not from this checkout"
    assert versions(python, "torch", *NAMES) == before, "what Colab has stays as it is"
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)  # pytest keeps what lies there for three runs
