"""Training commands start with a tuned allocator, once, and leave alone what the user set."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from equilib.cli import allocator

ROOT = Path(__file__).parent.parent
TRAIN = ["train", "conventional", "--folder", "run"]


@pytest.mark.parametrize(
    "arguments, environment, libc, restarts",
    [
        (TRAIN, {}, "glibc", True),
        (["--debug", *TRAIN], {}, "glibc", True),
        (["compare", "--folder", "train"], {}, "glibc", True),
        (["quantize", "train"], {}, "glibc", False),
        (["predict", "compare"], {}, "glibc", False),
        ([], {}, "glibc", False),
        (TRAIN, {allocator.VARIABLE: ""}, "glibc", False),
        (TRAIN, {allocator.VARIABLE: "glibc.malloc.check=1"}, "glibc", False),
        (TRAIN, {}, "", False),  # musl, macOS, Windows
    ],
)
def test_who_starts_anew(monkeypatch, arguments, environment, libc, restarts):
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: (libc, ""))
    found = allocator.tuned(arguments, {"HOME": "/"} | environment)
    assert found == ({"HOME": "/", allocator.VARIABLE: allocator.TUNABLES} if restarts else None)
    if restarts:
        assert allocator.tuned(arguments, found) is None, "once, and no more"


def test_a_call_from_a_program_is_not_replaced(monkeypatch, capsys):
    from equilib import __main__

    monkeypatch.setattr(os, "execve", lambda *arguments: pytest.fail("this process would be gone"))
    assert __main__.main(["train", "conventional", "--folder", "run", "--data", "none"]) == 1


@pytest.mark.skipif(allocator.platform.libc_ver()[0] != "glibc", reason="glibc alone has tunables")
@pytest.mark.parametrize("given", [None, "glibc.malloc.arena_max=1"])
def test_the_command_that_trains_is_the_tuned_one(tmp_path, given):
    """Each start of Python writes down what it found in its environment."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import os\nopen({str(tmp_path / 'starts')!r}, 'a').write(os.environ.get('{allocator.VARIABLE}', 'none') + '\\n')\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != allocator.VARIABLE}
    environment |= {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    environment |= {} if given is None else {allocator.VARIABLE: given}
    command = [
        sys.executable,
        "-m",
        "equilib",
        "train",
        "conventional",
        "--folder",
        str(tmp_path / "a b"),
        "--data",
        "none",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("equilib: "), done.stderr
    starts = (tmp_path / "starts").read_text().splitlines()
    assert starts == (["none", allocator.TUNABLES] if given is None else [given])


def test_the_lab_has_the_same_settings():
    (line,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if allocator.VARIABLE in line]
    assert line == f"lab: export {allocator.VARIABLE} ?= {allocator.TUNABLES}"
