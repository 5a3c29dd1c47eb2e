"""What to paste into a bug report: versions, processor, runtimes, data, and whether the shipped models answer as they should."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path

from equilib.progress import bar

PACKAGES = ("torch", "e2cnn", "lightning", "numpy", "scipy", "h5py", "scikit-image", "matplotlib", "ipywidgets", "onnx")
NOTEBOOK = ("jupyterlab", "notebook", "nbval", "playwright", "mkdocs")
# Name for people, distribution, and what pip is to install where it is missing (not `equilib[…]`: on the index of packages
# that name is somebody else's).
RUNTIMES = (
    ("onnxruntime", "onnxruntime", ""),
    ("OpenVINO", "openvino", "openvino"),
    ("ExecuTorch", "executorch", "executorch torchao"),
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DATA = "data/pcam"  # where data_download.sh puts PCam if it is told nothing else


class Fault(str):
    """How it is, where it is not as it should be; whoever asks by a program learns it from the exit status."""


def report(data: str | Path | None = DATA) -> list[tuple[str, str]]:
    """Lines of a report, (what, how it is), fit for one screen.  Names no folder but those that equilib itself would use.

    What is wrong is a :class:`Fault`; what is only not installed, or not downloaded yet, is none.

    Args:
        data: folder of PCam's files to look into; None for none.
    """
    return list(_lines(data))


def as_text(lines: list[tuple[str, str]]) -> str:
    """The report as two columns."""
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:{width}}  {value}" for name, value in lines)


def _lines(data: str | Path | None) -> Iterator[tuple[str, str]]:
    from equilib.results import bfloat16_instructions, environment

    found = environment()
    yield "equilib", f"{found['equilib']}, revision {found['revision']}"
    yield "python", f"{found['python']} ({platform.python_implementation()}), {platform.platform()}"
    yield "processor", f"{found['processor']}, {found['machine']}, {found['instructions']}, {os.cpu_count()} cores"
    yield "bfloat16", _bfloat16(bfloat16_instructions())
    yield "accelerator", found["accelerator"]
    yield "packages", ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    yield "notebooks", ", ".join(f"{name} {_version(name)}" for name in NOTEBOOK)
    for name, distribution, packages in RUNTIMES:
        yield (
            name,
            _version(distribution) + (f" (pip install {packages})" if packages and not _there(distribution) else ""),
        )
    browser = next((name for name in BROWSERS if shutil.which(name)), None)
    yield "browser", browser or "no chromium on the path: the browser tests are skipped"
    yield "budget", _asked(_budget)
    yield "synthetic tissue", _asked(_synthetic)
    if data is not None:
        yield "PCam", _asked(partial(_pcam, Path(data)))
    yield "shipped models", _asked(_shipped)


def _asked(question: Callable[[], str]) -> str:
    """The answer, or why there is none: one thing that is wrong must not hide the others."""
    try:
        return question()
    except (OSError, ValueError) as error:
        return Fault(error)


def _bfloat16(instructions: str) -> str:
    """What ``--precision bf16-mixed`` gains on this processor, as far as it was measured (benchmarks/README.md)."""
    if instructions == "AVX512_BF16":
        return "AVX512_BF16: --precision bf16-mixed saves memory, and a quarter to a half of a step"
    if instructions == "AMX":
        return "AMX: --precision bf16-mixed saves memory, and up to a third of a step; of small strict networks nothing"
    return f"{instructions or 'no instructions'}: --precision bf16-mixed saves memory; whether time, was not measured"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "missing"


def _there(distribution: str) -> bool:
    return _version(distribution) != "missing"


def _budget() -> str:
    from equilib.budget import current_budget

    return current_budget().name


def _synthetic() -> str:
    from equilib.synthetic import cache_root

    folders = sorted(folder for folder in cache_root().glob("tissue-*") if folder.is_dir())
    size = sum(file.stat().st_size for folder in folders for file in folder.glob("*.h5")) / 1e6
    return f"{len(folders)} data sets in the cache, {size:.0f} MB" if folders else "none drawn yet"


def _pcam(folder: Path) -> str:
    from equilib.pcam import SPLITS, Patches, PatchFileError, split_path

    found, damaged = [], False
    # A folder that was asked for must hold something; the usual one may wait, or hold a part.
    named = folder != Path(DATA)
    for split in SPLITS:
        files = [split_path(folder, split, key) for key in "xy"]
        try:
            found.append(f"{split} {len(Patches(folder, split)):,}")
        except (PatchFileError, OSError) as error:
            absent = not any(file.exists() for file in files)
            damaged |= not absent
            found.append(f"{split} not there" if absent else f"{split}: {error}")
    if not any(folder.glob("*.h5")):
        words = f"{folder} holds no PCam files; ./data_download.sh {folder} brings them"
        return Fault(words) if named else words
    return Fault("; ".join(found)) if damaged else "; ".join(found)


def _shipped() -> str:
    """Each shipped INT8 model is whole, runs, and gives the same bits under quarter turns if it should."""
    import torch

    from equilib.device import session
    from equilib.results import shipped_int8, shipped_results
    from equilib.study import shipped_run

    images = torch.rand(2, 3, 95, 95, generator=torch.Generator().manual_seed(0)) * 4 - 2
    answers = []
    names = [name for name, entry in shipped_results("checkpoints").items() if "int8 sha256" in entry]
    for name in bar(names, words="asking the shipped models", unit="model"):
        try:
            same = _same_bits(session(shipped_int8(name)), images)
            may_differ = same or shipped_run(name).variant.conventional
        except (OSError, ValueError, RuntimeError) as error:
            answers.append(f"{name}: {error}")
            continue
        # A conventional network may answer otherwise; an equivariant one that does is a fault of runtime or processor.
        if not may_differ:
            answers.append(f"{name}: its logits change under quarter turns on this processor, which they must not")
        else:
            answers.append("")
    wrong = [answer for answer in answers if answer]
    if wrong:
        return Fault("; ".join(wrong))
    return f"{len(answers)} INT8 models, whole; the equivariant ones give the same bits under quarter turns"


def _same_bits(running, images) -> bool:
    import torch

    from equilib.equivariance import run_model

    upright = run_model(running, images)
    return all(torch.equal(run_model(running, torch.rot90(images, turns, (-2, -1))), upright) for turns in (1, 2, 3))
