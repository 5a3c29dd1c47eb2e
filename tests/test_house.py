"""The rules of the house: lengths, which module may import which, one room for each; see CONTRIBUTING.md."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = sorted((ROOT / "equilib").rglob("*.py"))
SOURCES = [*PACKAGE, *sorted((ROOT / "experiments").glob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FILE_LINES, FUNCTION_LINES = 450, 60


def name_of(path):
    """A module's dotted name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PACKAGE}


def is_function(node):
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def length(function):
    """Lines of a function without its docstring."""
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        lines -= first.end_lineno - first.lineno + 1
    return lines


def long_functions(source):
    """Names of functions above the limit."""
    return [node.name for node in ast.walk(ast.parse(source)) if is_function(node) and length(node) > FUNCTION_LINES]


def imports(source, package=""):
    """Modules of the library that a file imports at the top, so whenever it is imported itself."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found & set(MODULES)


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert text.count("\n") <= FILE_LINES
    assert long_functions(text) == []


def test_the_limit_is_seen():
    body = "\n".join("    x = 1" for _ in range(FUNCTION_LINES))
    assert long_functions(f"def f():\n{body}\n") == ["f"]
    assert long_functions(f'def f():\n    """Words\n{body}\n"""\n    return 1\n') == []


def test_imports_run_in_one_direction():
    """No module imports, by any way, itself; packages and their parts count as one."""
    above = {name: {imported.split(".")[1] for imported in imports(path.read_text()) if "." in imported}
             for name, path in MODULES.items()}  # fmt: skip
    edges = {}
    for name, targets in above.items():
        if "." in name:
            room = name.split(".")[1]
            edges.setdefault(room, set()).update(targets - {room})

    def reach(room, seen):
        for target in edges.get(room, ()):
            if target not in seen:
                seen.add(target)
                reach(target, seen)
        return seen

    assert [room for room in edges if room in reach(room, set())] == []


STACKS = ("torch", "lightning", "e2cnn", "onnxruntime")


@pytest.mark.parametrize(
    "module, without",
    [
        ("equilib.results", STACKS),
        ("equilib.variant", STACKS),
        ("equilib.study", STACKS),
        ("equilib.study_tables", STACKS),
        ("equilib.contrasts", STACKS),
        ("equilib.tissue", STACKS),
        ("equilib.pcam", ("lightning", "e2cnn", "onnxruntime")),
        ("equilib.dfq", ("lightning", "e2cnn", "onnxruntime")),
        ("equilib.int8", ("lightning", "e2cnn", "onnxruntime")),
        ("equilib.device", ("lightning", "e2cnn")),
        ("equilib.deploy", ("lightning", "e2cnn")),
        ("equilib.mobilenet", ("lightning", "onnxruntime")),
    ],
)
def test_a_module_does_without(module, without):
    """In a fresh process: what is imported with it."""
    code = f"import sys, {module}; print(*(name for name in {without!r} if name in sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


# Started by another program of ours, which reads to the end; `arm.py` runs where there is no equilib.
PARTS_OF_OTHERS = {"arm.py", "fresh.py", "one_runtime.py"}


def test_every_command_ends_quietly_where_its_reader_leaves():
    """`… | head`: whatever can be started goes through :mod:`equilib.cli.process`."""
    started = {path: path.read_text().partition('\nif __name__ == "__main__":\n')[2] for path in SOURCES}
    started = {path: block for path, block in started.items() if block and path.name not in PARTS_OF_OTHERS}
    assert len(started) >= 12
    own = {ROOT / "equilib" / "__main__.py": "sys.exit(main())"}  # also the console script, so within main
    wrong = [path for path, block in started.items() if own.get(path, "until_closed(main") not in block]
    assert wrong == [] and "return until_closed(" in (ROOT / "equilib" / "__main__.py").read_text()


def test_every_room_is_listed():
    listed = (ROOT / "CONTRIBUTING.md").read_text()
    rooms = {name.split(".")[1] for name in MODULES if "." in name and not name.endswith("__main__")}
    assert sorted(room for room in rooms if f"`{room}`" not in listed) == []


def test_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 13_000


def test_what_moved_is_still_found_where_scripts_look_for_it():
    from equilib import device, int8, synthetic, tissue

    assert (int8.session, int8.export_onnx) == (device.session, device.export_onnx)
    assert tissue.ensure_dataset is synthetic.ensure_dataset
    for module in (int8, tissue):
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            module.nothing  # noqa: B018
