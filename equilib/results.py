"""Results on disk: JSON files written whole or not at all, those that come with the project, and tables of them.

Reading results needs neither torch nor Lightning; nothing here imports another module of the library.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

from equilib import __version__

# The ending of a file that is being written (:func:`written_whole`).
PART = ".part"
LONGEST_NAME = 255  # bytes, of file systems
# What a packed JSON file has behind its name.
PACKED = ".bz2"


def writable_target(path: str | Path) -> Path:
    """The path, where a file can be written: its folder exists, and nothing but a file stands there.

    Asked before work that takes long, so that hours of it are not lost for want of a name.

    Raises:
        OSError: names the path and says what is wrong with it.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder; name a file in it", str(path))
    if path.exists() and not path.is_file():  # /dev/null would become an ordinary file
        raise OSError(errno.EINVAL, "it is no ordinary file, and would be replaced by one", str(path))
    if file := next((above for above in path.parents if above.is_file()), None):
        raise NotADirectoryError(errno.ENOTDIR, "it is a file, not a folder; name another place", str(file))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder; make it first", str(path.parent))
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "no file can be written in this folder", str(path.parent))
    return path


def check_is_file(path: Path, way: str, *, inside: str = "a file") -> None:
    """Raises FileNotFoundError or IsADirectoryError unless there is such a file.

    Args:
        way: how to get it.
        inside: what is meant, where somebody names the folder that holds it.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name {inside} in it")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {way}")


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder, which becomes ``path`` at the end of the block.

    The file appears whole or not at all: where the block raises, what it wrote is removed.  Several processes may write
    the same file at once; the last one's stays.  Of a link, the file that it points to is replaced.

    Raises:
        OSError: :func:`writable_target` says what is wrong, or the disk is full; the path is named.
    """
    path = writable_target(os.path.realpath(path))
    # Made by the caller's own open(), unlike those of tempfile, so that it has the permissions of any other file.
    temporary = path.with_name(f"{path.name}.{uuid4().hex}{PART}")
    if len(os.fsencode(temporary.name)) > LONGEST_NAME:
        temporary = path.with_name(f"{uuid4().hex}{PART}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        # A full disk is met in write(), which knows no name; and nobody knows the temporary one.
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        _remove(temporary)
        raise
    except BaseException:
        _remove(temporary)
        raise


def _remove(temporary: Path) -> None:
    with suppress(OSError):  # what went wrong before it is what counts
        temporary.unlink()


def folder_name(path: str | Path) -> str:
    """The last part of a path, also of ``.`` and ``..``: what a record may say of where data lay."""
    return Path(os.path.abspath(path)).name or str(path)


def replaceable_folder(folder: str | Path, marks: Collection[str]) -> Path:
    """The folder, resolved, if it may be replaced by what is made: not there yet, empty, or made so before.

    Args:
        marks: names of files that what was made before holds, all of them.

    Raises:
        ValueError: it is a file, holds something else, or is the working folder or one above it.
    """
    path = Path(folder).resolve()
    if path in (Path.cwd(), *Path.cwd().parents):
        raise ValueError(f"{folder} is the folder that this runs in, or one above it; name another, which is replaced")
    if path.exists() and not path.is_dir():
        raise ValueError(f"{folder} is a file; name a folder")
    if path.is_dir() and any(path.iterdir()) and not all((path / mark).exists() for mark in marks):
        raise ValueError(f"{folder} holds other files, which would be lost; name an empty folder or a new one")
    return path


def write_json(path: str | Path, values: dict) -> None:
    """Write a JSON file whole or not at all; lists of numbers take one line."""
    text = json.dumps(values, indent=2, ensure_ascii=False)
    text = re.sub(r"\[\n\s+([^][{}\"]+?)\n\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    with written_whole(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def results_files(folder: str | Path) -> list[Path]:
    """The JSON files in a folder, by name, each as :func:`read_results` takes it: packed or not, it is ``name.json``."""
    found = {path.name.removesuffix(PACKED) for end in ("", PACKED) for path in Path(folder).glob(f"*.json{end}")}
    return [Path(folder) / name for name in sorted(found)]


def is_stored(path: str | Path) -> bool:
    """Whether a JSON file is there, packed or not."""
    return Path(path).is_file() or _packed(path).is_file()


def pack(path: str | Path) -> Path:
    """Put ``name.json.bz2`` in the place of ``name.json``: the same bytes, a quarter as many on the disk."""
    import bz2  # some builds of Python lack it, and need no packed results

    content = Path(path).read_bytes()
    with written_whole(_packed(path)) as temporary:
        temporary.write_bytes(bz2.compress(content))
    Path(path).unlink()
    return _packed(path)


def _packed(path: str | Path) -> Path:
    return Path(path).with_name(Path(path).name + PACKED)


def read_results(path: str | Path) -> dict:
    """The contents of a results file, ``name.json`` or, where that is not there, ``name.json.bz2``.

    Raises:
        FileNotFoundError, ValueError: they name the file.
    """
    path = Path(path)
    if not path.is_file() and _packed(path).is_file():
        path = _packed(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the README says which command makes it")
    content = path.read_bytes()
    if path.suffix == PACKED:
        import bz2

        try:
            content = bz2.decompress(content)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be unpacked ({error}): restore it from the repository") from error
    try:
        contents = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, brackets without end
        raise ValueError(f"{path} is no JSON file ({error})") from error
    if not isinstance(contents, dict):
        raise ValueError(f"{path} is no file of results: it holds a {type(contents).__name__}, not names with values")
    return contents


def shipped_folder(name: str = "") -> Path:
    """The folder of results that come with the project, or one inside it.

    Raises:
        FileNotFoundError: there is none of this name.
    """
    package = Path(__file__).parent
    # An installed package carries them inside; in a checkout they stand beside the package.
    for folder in (package / "shipped", package.parent / "results"):
        if (folder / name).is_dir():
            return folder / name
    raise FileNotFoundError(f"no folder of results named {name!r}: they come with a checkout or an installed package")


def _shipped(name: str, pattern: str) -> Path:
    there = {path.stem: path for path in shipped_folder().glob(pattern)}
    if name not in there:
        raise FileNotFoundError(f"no results named {name!r}; there are {sorted(there)}")
    return there[name]


def shipped_results(name: str) -> dict:
    """The contents of one of the results that come with the project, by its file name without ``.json``."""
    return read_results(_shipped(name, "*.json"))


def shipped_checkpoint(name: str) -> Path:
    """The checkpoint of a trained network that comes with the project, by its file name without ``.pt``.

    ``checkpoints.json`` says of each what it was trained on, by which command, and its sha256.
    :func:`equilib.training.shipped_network` loads it.

    Raises:
        ValueError: the file is not the one that was shipped.
    """
    return _verified(_shipped(name, "*.pt"), "sha256")


def shipped_int8(name: str) -> Path:
    """The INT8 model (ONNX) of a trained network that comes with the project; for :func:`equilib.device.session`.

    Those of the networks trained on real patches are there; :func:`equilib.deploy.deploy` makes one of any other.

    Raises:
        ValueError: the file is not the one that was shipped.
    """
    return _verified(_shipped(name, "*.onnx"), "int8 sha256")


def _verified(path: Path, entry: str) -> Path:
    listed = shipped_results("checkpoints").get(path.stem, {})
    if entry not in listed:
        raise ValueError(f"{path} is not listed in checkpoints.json, so it cannot be checked: it is not a shipped file")
    expected = listed[entry]
    if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        raise ValueError(f"{path} is damaged (its sha256 is not {expected[:12]}…): restore it from the repository")
    return path


def environment() -> dict[str, str]:
    """Versions, processor and git revision, for a JSON of results."""
    import torch

    packages = ("torch", "e2cnn", "lightning", "onnx", "onnxruntime", "numpy")
    return {
        "equilib": __version__,
        "revision": _revision(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": processor(),
        "instructions": instructions(),
        "threads": str(torch.get_num_threads()),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        **{package: version(package) for package in packages},
    }


def _revision() -> str:
    """The git revision of this checkout, "-dirty" where a file differs that is no figure itself; "unknown" where there is
    none.  A measurement that saves as it goes must not make another revision of its own checkout."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return "unknown"
    # All but what measurements write: results, benchmarks' figures and the pages that show them.
    code = [".", ":(exclude)results", ":(exclude,glob)benchmarks/*.json", ":(exclude,glob)**/README.md"]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=root, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *code)
        return git("describe", "--always") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    """This processor's name, on Linux, macOS and Windows; its architecture where it does not say more."""
    name = _capabilities().get("cpu_name")
    if not name:  # an older torch; some boards tell the kernel alone
        try:
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        except (OSError, StopIteration):
            name = platform.processor() or platform.machine()
    return name or "unknown"


def has_vnni() -> bool:
    """Whether this processor adds products of bytes in 32 bits (VNNI on x86); False where there is no such thing (Arm).

    torch asks the processor itself, so the answer is right on Linux, macOS and Windows.
    """
    capabilities = _capabilities()
    if not capabilities:  # before torch 2.11: AVX-512's alone
        import torch

        return torch.cpu._is_vnni_supported()
    return bool(capabilities.get("avx512_vnni") or capabilities.get("avx_vnni"))


def instructions() -> str:
    """The vector instructions that torch uses here, and those for products of bytes: VNNI on x86, dotprod and i8mm on Arm."""
    import torch

    capabilities = _capabilities()
    products = ["VNNI"] if has_vnni() else []
    products += [name for name, key in (("dotprod", "dot"), ("i8mm", "i8mm")) if capabilities.get(key)]
    return torch.backends.cpu.get_cpu_capability() + (f" with {' and '.join(products)}" if products else "")


def bfloat16_instructions() -> str:
    """Those that multiply bfloat16, of tiles (AMX) or vectors; empty where there are none."""
    found = _capabilities()
    return next((name for key, name in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512_BF16")) if found.get(key)), "")


def _capabilities() -> Mapping:
    """What torch found out about the processor; empty before torch 2.11."""
    import torch

    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


def markdown_table(rows: list[dict]) -> str:
    """Rows as a Markdown table: accuracies (0 to 1) in percent, errors in scientific notation, counts as they are."""

    def text(key, value):
        if not isinstance(value, float):
            return f"{value:,}" if isinstance(value, int) else str(value)
        return f"{100 * value:.1f} %" if "accuracy" in key or "flips" in key else f"{value:.1e}"

    header = list(rows[0])
    lines = [header, ["---"] * len(header)] + [[text(key, row[key]) for key in header] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
