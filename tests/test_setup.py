"""The files that say what to install agree with each other."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


def constraints():
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return {canonicalize_name(r.name): r for r in map(Requirement, filter(None, lines))}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def required():
    extras = project()["optional-dependencies"]
    return [
        Requirement(line)
        for line in [*project()["dependencies"], *(line for extra in extras.values() for line in extra)]
    ]


def optional():
    """What only some users install: runtimes beside onnxruntime."""
    extras = project()["optional-dependencies"]
    return {canonicalize_name(Requirement(line).name) for name in ("openvino", "executorch") for line in extras[name]}


def test_every_requirement_has_a_tested_version_within_its_bounds():
    tested = constraints()
    for requirement in required():
        name = canonicalize_name(requirement.name)
        assert name in tested, f"constraints.txt does not pin {name}"
        (pin,) = tested[name].specifier
        assert pin.operator == "==" and requirement.specifier.contains(pin.version), name
        assert any(s.operator == ">=" for s in requirement.specifier), f"{name} has no lower bound in pyproject.toml"


def test_nothing_is_pinned_that_nobody_requires():
    assert set(constraints()) == {canonicalize_name(r.name) for r in required()}


def test_the_packages_of_the_brief_are_there():
    names = {canonicalize_name(r.name) for r in required()}
    assert {"torch", "e2cnn", "jupyterlab", "matplotlib", "ipywidgets", "h5py", "nbval"} <= names


@pytest.mark.skipif("EQUILIB_NEWEST" in os.environ, reason="the weekly run takes the newest versions")
def test_what_is_installed_is_what_is_pinned():
    from importlib.metadata import PackageNotFoundError, version

    for name, pin in constraints().items():
        if name in optional():
            try:
                version(name)
            except PackageNotFoundError:
                continue
        assert pin.specifier.contains(version(name).split("+")[0]), (
            f"{name} {version(name)} is installed, tested is {pin}"
        )


def test_conda_users_get_the_same_versions():
    text = (ROOT / "environment.yml").read_text()
    pip_lines = re.findall(r"^\s{6}- (.+)$", text, re.M)
    assert pip_lines == ["-c constraints.txt", "-e .[lab,site,test]"], (
        "environment.yml takes its versions from the same files"
    )
    python = re.search(r"python=([\d.]+)", text)[1]
    workflow = (ROOT / ".github/workflows/test.yml").read_text()
    assert f'python-version: "{python}"' in workflow
    assert tuple(map(int, python.split("."))) >= tuple(map(int, project()["requires-python"].strip(">=").split(".")))


def test_continuous_integration_runs_make_test():
    assert "make test" in (ROOT / ".ci/run").read_text()
    assert "- run: make test" in (ROOT / ".github/workflows/test.yml").read_text()


def test_importing_the_package_is_cheap():
    code = "import sys, equilib; print([m for m in ('torch', 'numpy', 'e2cnn', 'lightning') if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_from_export_on_nothing_knows_of_e2cnn():
    code = "import sys, equilib.dfq, equilib.int8, equilib.mobilenet; print('e2cnn' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )


@pytest.mark.parametrize("name", ["notebooks", "equilib", "tests", "environment.yml", "data_download.sh", "README.md"])
def test_top_level(name):
    assert (ROOT / name).exists()


def test_the_lab_and_the_containers_open_a_notebook_that_is_there():
    opened = re.search(r"default_url=/lab/tree/(\S+)", (ROOT / "Makefile").read_text())[1]
    assert (ROOT / "notebooks" / opened).is_file()
    container = (ROOT / ".devcontainer/devcontainer.json").read_text()
    assert f'"notebooks/{opened}"' in container
    assert (
        re.search(r'"image": "python:([\d.]+)-', container)[1]
        == re.search(r"python=([\d.]+)", (ROOT / "environment.yml").read_text())[1]
    )


def test_the_commands_without_make_are_those_that_the_workflow_tries():
    words = (ROOT / "notebooks/instructors.md").read_text()
    workflow = (ROOT / ".github/workflows/platforms.yml").read_text()
    commands = re.findall(r"^python -m pip install .+$", words, re.M)
    assert len(commands) == 2 and all(command in workflow for command in commands)
    readme = (ROOT / "README.md").read_text()
    lab, tests = (
        "python -m jupyterlab notebooks/01_feature_fields.ipynb",
        'python -X utf8 -m pytest -m "not nightly" tests',
    )
    assert "\n".join([*commands, lab, tests]) in readme
    assert tests in workflow and tests in words
    files = re.findall(r"tests/test_\w+\.py", workflow)
    assert len(files) > 5 and all((ROOT / file).is_file() for file in files)
    for system in ("ubuntu-latest", "ubuntu-24.04-arm", "macos-latest", "windows-latest"):
        assert system in workflow


def test_the_weekly_run_builds_the_site_too():
    assert "- run: make site" in (ROOT / ".github/workflows/weekly.yml").read_text()
