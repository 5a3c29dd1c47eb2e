"""Where people open notebooks: what Binder makes of the files, which widgets an editor has to know, what a container opens."""

import json
import re
from importlib.util import find_spec
from pathlib import Path

import ipywidgets
import numpy as np
import pytest
import torch

from equilib import widgets
from equilib.fields import tissue_photograph
from equilib.filters import atoms
from equilib.variant import KINDS

ROOT = Path(__file__).parent.parent
FIRST = "notebooks/01_feature_fields.ipynb"


# --- Binder ---


@pytest.fixture
def binder(monkeypatch):
    """repo2docker's plan for this checkout; it reads the files of the folder that it is in, and builds nothing."""
    if find_spec("repo2docker") is None:
        pytest.skip("repo2docker is not installed: pip install jupyter-repo2docker")
    from repo2docker.app import Repo2Docker

    monkeypatch.chdir(ROOT)
    asking = Repo2Docker()
    for kind in asking.buildpacks:  # in its own order; the first that knows the files is taken
        plan = kind(asking.base_image)
        plan.platform = "linux/amd64"  # mybinder.org's
        if plan.detect():
            return plan
    pytest.fail("repo2docker finds nothing to build from")


def test_binder_builds_from_the_conda_environment_with_our_python(binder):
    assert type(binder).__name__ == "CondaBuildPack"
    assert binder.binder_dir == "" and binder.environment_yaml_path == "environment.yml"
    assert binder.python_version == re.search(r"python=([\d.]+)", (ROOT / "environment.yml").read_text())[1]
    assert not binder.separate_kernel_env, "notebooks run in the environment that holds the course"


def test_binder_copies_the_project_before_it_installs_it(binder):
    """environment.yml asks for `-e .` and `-c constraints.txt`, which lie in the checkout."""
    made = binder.render()
    copied, installed = re.search(r"^COPY --chown=\S+ src/", made, re.M), re.search(r'--file "environment\.yml"', made)
    assert copied.start() < installed.start(), "pip would find neither pyproject.toml nor constraints.txt"


# --- editors ---


def every_explorer():
    """A small one of each kind that the course has."""
    chosen = atoms(5)
    coefficients = torch.randn(len(chosen), dtype=torch.complex128)
    images = np.zeros((2, 96, 96, 3), np.uint8)
    models = dict.fromkeys(KINDS, lambda x: torch.stack([x.mean((1, 2, 3)), x.square().mean((1, 2, 3))], 1))
    accuracies = {kind: {(w, a): 0.8 for w in (4, 8) for a in (4, 8)} for kind in KINDS}
    yield widgets.turning_field(tissue_photograph(33), widgets.one_layer_networks("C4", 5), "C4")
    yield widgets.steered_filter(chosen, coefficients, 5)
    yield widgets.cutoff_errors("C4", 3)
    yield widgets.aliases(3)
    yield widgets.sampling(largest=9)
    yield widgets.plan(smallest=94, largest=98)
    yield widgets.rotate_patch(images, np.array([0, 1]), models, size=95, angle_step=90)
    yield widgets.hashed_answers(images, models, size=95)
    yield widgets.bit_widths(accuracies, dict.fromkeys(KINDS, 0.9), weight_bits=4, activation_bits=8)


def parts(widget):
    """A widget and all that it holds."""
    yield widget
    for name in widget.keys:
        value = getattr(widget, name, None)
        for held in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(held, ipywidgets.Widget):
                yield from parts(held)


def test_widgets_need_nothing_that_vs_code_and_colab_do_not_bring():
    """Both draw the modules of ipywidgets themselves; of any other they would have to load a script from elsewhere."""
    seen = set()
    for explorer in every_explorer():
        seen |= {(part._model_module, part._view_module) for part in parts(explorer)}
        assert any(isinstance(part, ipywidgets.Image) for part in parts(explorer))
    modules = {name for pair in seen for name in pair if name}
    assert modules == {"@jupyter-widgets/base", "@jupyter-widgets/controls"}


def test_every_widget_of_the_course_is_among_them():
    """…so that a new one is looked at, too; what the networks of 05 need is the same explorer."""
    notebooks = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "notebooks").glob("*.ipynb"))
    used = set(re.findall(r"widgets\.(\w+)\(", notebooks)) - {"one_layer_networks"}
    source = Path(__file__).read_text(encoding="utf-8")
    of_networks = {"equalized_ranges", "blended_scales", "deequalized"}
    assert used - of_networks <= set(re.findall(r"yield widgets\.(\w+)\(", source))
    for name in of_networks & used:
        module = Path(widgets.dfq.__file__).read_text(encoding="utf-8")
        assert re.search(rf"def {name}\(.*?\) -> Explorer:", module, re.S)


def test_the_notebooks_bring_no_script_of_their_own():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            assert not re.search(
                r"%%?(javascript|html|matplotlib (widget|notebook))|Javascript\(", "".join(cell["source"])
            )
            for output in cell.get("outputs", []):
                assert "application/javascript" not in output.get("data", {})


# --- containers ---


def test_the_container_installs_everything_and_opens_the_first_notebook():
    text = (ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8")
    settings = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.M))
    assert settings["postCreateCommand"].endswith("make .venv/.installed")
    editor = settings["customizations"]
    assert FIRST in settings["postAttachCommand"] and editor["codespaces"]["openFiles"] == [FIRST]
    assert {"ms-python.python", "ms-toolsai.jupyter"} <= set(editor["vscode"]["extensions"])
    assert editor["vscode"]["settings"]["python.defaultInterpreterPath"].endswith("/.venv/bin/python")
