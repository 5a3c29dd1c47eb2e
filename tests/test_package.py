"""The wheel and the sdist hold what they need and nothing else, and the wheel works without the checkout."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / ".ci"))
import package  # noqa: E402

pytestmark = pytest.mark.slow


def tracked(*folders):
    """Files that git knows."""
    names = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in names.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist of the files that git knows, made in a folder of its own, as `make package` does."""
    folder = tmp_path_factory.mktemp("package")
    for name in tracked():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    gone = folder / "source" / "build" / "lib" / "equilib" / "gone.py"  # of an earlier build
    gone.parent.mkdir(parents=True)
    gone.touch()
    command = [sys.executable, ".ci/package.py", "../dist"]
    said = subprocess.run(command, cwd=folder / "source", check=True, capture_output=True, text=True).stdout
    (wheel,), (sdist,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    return wheel, sdist, said


@pytest.fixture(scope="module")
def wheel(built):
    return built[0]


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Run `python -m equilib` of the wheel, far from the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    environment = os.environ | {"PYTHONPATH": str(folder / "site"), "OMP_NUM_THREADS": "1"}

    def run(*arguments):
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    return run


def test_the_wheel_lists_the_library_and_the_shipped_results(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {Path(name).parts[0] for name in names if ".dist-info/" not in name} == {"equilib"}
    assert "equilib/py.typed" in names and "equilib/shipped/checkpoints.json" in names
    modules = {f"equilib/{path.relative_to(ROOT / 'equilib')}" for path in (ROOT / "equilib").rglob("*.py")}
    assert modules <= set(names), "a folder of the library that pyproject.toml forgets"
    foreign = (".ipynb", ".part", ".pyc", ".md")
    # Notebook 07 shows the ledger.
    assert [name for name in names if name.endswith(foreign) and ".dist-info/" not in name] == [
        "equilib/shipped/claims.md"
    ]
    assert wheel.stat().st_size < 12e6


def test_the_wheel_holds_all_of_the_library_and_of_its_results_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    library = {name for name in tracked("equilib") if Path(name).name != "README.md"}
    assert {name for name in names if not name.startswith("equilib/shipped/")} == library
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    shipped = {path for pattern in patterns["equilib.shipped"] for path in (ROOT / "results").glob(pattern)}
    shipped &= {ROOT / name for name in tracked("results")}
    assert {name for name in names if name.startswith("equilib/shipped/")} == {
        f"equilib/shipped/{path.relative_to(ROOT / 'results').as_posix()}" for path in shipped
    }


def test_the_sdist_holds_what_the_wheel_is_made_of_and_nothing_else(built):
    wheel, sdist, _ = built
    names = set(package.contents(sdist))
    made = {"PKG-INFO", "setup.cfg"} | {name for name in names if name.startswith("equilib.egg-info/")}
    around = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml"}
    assert around <= names and not [name for name in names if name.endswith((".ipynb", ".part", ".pyc"))]
    source = {
        name.replace("equilib/shipped/", "results/")
        for name in zipfile.ZipFile(wheel).namelist()
        if ".dist-info/" not in name
    }
    assert names - made - around == source
    assert sdist.stat().st_size < 12e6


def test_the_command_says_what_is_in_both_and_how_large(built):
    wheel, sdist, said = built
    for archive in (wheel, sdist):
        assert f"{archive.name}: {archive.stat().st_size / 1e6:.1f} MB" in said
    assert sum(package.contents(wheel).values()) > wheel.stat().st_size, "it is compressed"
    assert "equilib/shipped/grid" in said and "results/grid" in said


def test_the_wheel_says_whose_it_is_and_where_it_lives(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        said = archive.read(name).decode()
    for line in ("Author: The equilib authors", "License-Expression: MIT", "Requires-Python: >=3.11"):
        assert f"\n{line}\n" in said
    for extra in ("lab", "site", "test", "openvino", "executorch"):
        assert f"\nProvides-Extra: {extra}\n" in said
    assert "\nProject-URL: Documentation, https://" in said and "\nProject-URL: Repository, https://" in said


HELP = """
from equilib.__main__ import main
for command in ("train", "compare", "quantize", "predict", "doctor"):
    try:
        main([command, "--help"])
    except SystemExit as stop:
        assert stop.code == 0, command
"""


def test_the_installed_package_works_without_the_checkout(run, tmp_path):
    where = run("-c", "import equilib; print(equilib.__file__)").stdout
    assert "installed" in where and str(ROOT) not in where
    # In one process, since each takes seconds to start.
    asked = run("-c", HELP)
    assert asked.returncode == 0 and asked.stdout.count("usage: equilib ") == 5, asked.stderr
    Image.new("RGB", (96, 96), (180, 120, 170)).save(tmp_path / "patch.png")
    model = run(
        "-c", "from equilib.results import shipped_int8; print(shipped_int8('pcam_C4_w0.35_20000_seed0'))"
    ).stdout.strip()
    answer = run("-m", "equilib", "predict", model, tmp_path / "patch.png")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[0].startswith("image,") and len(answer.stdout.splitlines()) == 2
    checkpoint = Path(model).with_suffix(".pt")
    quantized = run("-m", "equilib", "quantize", checkpoint, "-o", tmp_path / "mine.onnx")
    assert quantized.returncode == 0 and (tmp_path / "mine.onnx").is_file(), quantized.stderr
