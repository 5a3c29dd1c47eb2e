"""The wheel holds what it needs and nothing else, and works without the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from the files that git knows, in a folder of its own, without asking an index for anything."""
    folder = tmp_path_factory.mktemp("package")
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in tracked:
        if name.startswith(("equilib/", "results/")) or name in ("pyproject.toml", "README.md", "LICENSE"):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        ".",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-q",
        "-w",
        "..",
    ]
    subprocess.run(build, cwd=folder / "source", check=True)
    (built,) = folder.glob("*.whl")
    return built


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


def test_the_installed_package_works_without_the_checkout(run, tmp_path):
    where = run("-c", "import equilib; print(equilib.__file__)").stdout
    assert "installed" in where and str(ROOT) not in where
    for command in ("train", "compare", "quantize", "predict", "doctor"):
        assert run("-m", "equilib", command, "--help").returncode == 0
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
