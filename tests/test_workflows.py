"""The workflows, as far as they can be read: nothing here runs them."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# The first versions on Node 24: GitHub's runners dropped Node 20 on 2026-09-16
# (github.blog/changelog/2025-09-19-deprecation-of-node-20-on-github-actions-runners).
NODE_24 = {
    "actions/checkout": 5,
    "actions/setup-python": 6,
    "actions/setup-node": 5,
    "actions/upload-artifact": 6,
    "actions/upload-pages-artifact": 5,
    "actions/deploy-pages": 5,
}


def jobs():
    for file in FILES:
        for name, job in yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"].items():
            yield pytest.param(file, job, id=f"{file.stem}-{name}")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_actions_run_on_the_node_that_runners_have(file):
    used = re.findall(r"uses: (\S+)@v(\d+)\n", file.read_text(encoding="utf-8"))
    assert used
    for action, version in used:
        assert int(version) >= NODE_24[action], f"{action}@v{version} asks for Node 20"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_workflow_may_do_no_more_than_it_must(file):
    """…and a pull request of this repository does not run twice, by its push and by itself."""
    read = yaml.safe_load(file.read_text(encoding="utf-8"))
    allowed, started = read["permissions"], read[True]  # YAML 1.1 takes the key «on» for a truth value
    assert allowed["contents"] == "read"
    assert set(allowed) == ({"contents", "pages", "id-token"} if file.stem == "site" else {"contents"})
    assert "push" not in started or started["push"]["branches"] == ["main"]


@pytest.mark.parametrize(("file", "job"), list(jobs()))
def test_a_job_ends_and_its_steps_fail_where_they_should(file, job):
    assert job["timeout-minutes"] <= 120
    shell = job.get("defaults", {}).get("run", {}).get("shell")
    on_windows = "windows" in str(job.get("strategy", ""))
    for step in job["steps"]:
        if on_windows and not step.get("shell", shell):
            # PowerShell goes on after a command that failed, and tells of the last one alone.
            assert "\n" not in step.get("run", "").strip(), step
        if "run" in step:
            assert "apt-get install" not in step["run"], "the images have a browser; Ubuntu's chromium is a snap"


def test_python_is_named_in_one_way():
    """3.10 without quotes would be the number 3.1."""
    for file in FILES:
        for version in re.findall(r"python(?:-version)?: (\S.*)", file.read_text(encoding="utf-8")):
            assert re.match(r'"3\.\d+"|\["3\.\d+"\]|\$\{\{', version), (file.name, version)


def test_the_newest_run_has_what_the_tests_ask_for():
    """It sets .venv up itself, so what the Makefile does beside installing must be here, too."""
    weekly = (ROOT / ".github/workflows/weekly.yml").read_text(encoding="utf-8")
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    (off,) = re.findall(r'labextension disable .*"(@jupyterlab/\S+)"', made)
    assert off in weekly and "touch .venv/.installed" in weekly
    for name in ("notebook", "jupyter-repo2docker"):
        assert re.search(rf"pip install .*\b{name}\b", weekly), f"tests that need {name} are skipped everywhere else"
