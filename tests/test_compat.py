"""What is done for e2cnn's age is still needed: where it no longer is, a test fails and names what can go."""

import ast
import warnings
from importlib.metadata import files, version
from pathlib import Path

import pytest
from e2cnn import nn as enn

from equilib import compat
from equilib.fields import Group

ROOT = Path(__file__).parent.parent
# Gone from the standard library in 3.12, 3.13 and 3.14 (https://docs.python.org/3/whatsnew/).
REMOVED = set(
    [
        "aifc",
        "asynchat",
        "asyncore",
        "audioop",
        "cgi",
        "cgitb",
        "chunk",
        "crypt",
        "distutils",
        "imghdr",
        "imp",
        "lib2to3",
        "mailcap",
        "msilib",
        "nis",
        "nntplib",
        "ossaudiodev",
        "pipes",
        "smtpd",
        "sndhdr",
        "spwd",
        "sunau",
        "telnetlib",
        "uu",
        "xdrlib",
    ]
)


def convolution(group="D4", in_repr="regular", kernel_size=3, **options):
    """What `equilib.filters` asks of e2cnn, without what `equilib.compat` adds."""
    space = Group.parse(group).gspace
    representations = {"trivial": space.trivial_repr, "regular": space.regular_repr}
    start, end = (enn.FieldType(space, [representations[name]]) for name in (in_repr, "regular"))
    return enn.R2Conv(start, end, kernel_size, bias=False, initialize=False, **options)


def assert_needed(what, words, attempt):
    """The attempt must fail with these words, or what is done about it has had its day."""
    try:
        attempt()
    except Exception as error:
        assert words in str(error), f"e2cnn fails in another way than equilib.compat.{what} is for: {error}"
        return
    packages = ", ".join(f"{name} {version(name)}" for name in ("e2cnn", "numpy", "torch"))
    pytest.fail(f"{packages} work together without equilib.compat.{what}: take it out, and its test")


@pytest.fixture(autouse=True)
def _no_warning_of_masks():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=compat.WARNING)
        yield


def test_numpy_2_still_has_to_be_lenient_with_copies():
    assert_needed("NumPyWithLenientCopy", "copy", lambda: convolution("D4", **compat.WITHOUT_CACHE))


def test_the_cache_still_asks_for_what_numpy_has_dropped():
    def attempt():
        with compat.e2cnn_on_numpy_2():
            convolution("D4", recompute=False)

    assert_needed("WITHOUT_CACHE", "tostring", attempt)


@pytest.mark.parametrize(("group", "in_repr"), [("C4", "trivial"), ("C1", "regular")])
def test_a_single_filter_is_still_refused(group, in_repr):
    assert compat.refused(in_repr, "regular", Group.parse(group).order, 1)
    assert_needed("refused", "masked_fill_", lambda: convolution(group, in_repr, 1, **compat.WITHOUT_CACHE))


def test_what_is_not_refused_is_built():
    assert not compat.refused("regular", "regular", 4, 1) and not compat.refused("trivial", "regular", 4, 3)
    convolution("C4", "regular", 1, **compat.WITHOUT_CACHE)
    convolution("C4", "trivial", 3, **compat.WITHOUT_CACHE)


def test_masks_of_bytes_still_bring_a_warning():
    def attempt():
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=compat.WARNING)
            convolution("C4", **compat.WITHOUT_CACHE)

    assert_needed("WARNING", compat.WARNING, attempt)


def test_all_of_it_together_is_enough():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with compat.e2cnn_on_numpy_2():
            built = convolution("D4", **compat.WITHOUT_CACHE)
    assert built.basisexpansion.dimension() > 0


def test_something_that_works_is_told_by_name():
    with pytest.raises(pytest.fail.Exception, match=r"e2cnn .* without equilib\.compat\.anything: take it out"):
        assert_needed("anything", "", lambda: None)


def imported(source):
    """Modules that a file imports, by their first name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # e2cnn's docstrings hold invalid escapes
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def test_nothing_is_imported_that_newer_pythons_have_dropped():
    """Neither here nor in e2cnn, whose own release knows nothing of them."""
    ours = [path for part in ("equilib", "benchmarks", "experiments", "tests") for path in (ROOT / part).rglob("*.py")]
    theirs = [Path(file.locate()) for file in files("e2cnn") if file.suffix == ".py"]
    assert len(ours) > 100 and len(theirs) > 50
    for path in ours + theirs:
        found = REMOVED & set(imported(path.read_text(encoding="utf-8")))
        assert not found, f"{path} imports {found}"
    assert REMOVED & set(imported("import distutils.core\nfrom imp import reload")) == {"distutils", "imp"}


def test_our_files_compile_without_a_warning():
    """…which later Pythons make an error of, such as an invalid escape in a string."""
    for part in ("equilib", "benchmarks", "experiments", "tests"):
        for path in (ROOT / part).rglob("*.py"):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                compile(path.read_text(encoding="utf-8"), str(path), "exec")


def without_encoding(source):
    """Lines that read or write text in whatever encoding the system likes; on Windows that is not UTF-8."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("read_text", "write_text"):
            yield node.lineno
        if isinstance(node.func, ast.Name) and node.func.id == "open":
            mode = [*node.args[1:2], *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
            if not (mode and isinstance(mode[0], ast.Constant) and "b" in mode[0].value):
                yield node.lineno


def test_text_is_utf_8_on_every_system():
    for path in (ROOT / "equilib").rglob("*.py"):
        assert list(without_encoding(path.read_text(encoding="utf-8"))) == [], path
    bad = "open(x)\nPath(x).read_text()\nopen(x, 'w')\n"
    assert list(without_encoding(bad)) == [1, 2, 3]
    assert not list(without_encoding("open(x, 'rb')\nopen(x, encoding='utf-8')\nos.open(x)\n"))
