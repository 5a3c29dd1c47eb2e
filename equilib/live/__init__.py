"""The live page: the shipped INT8 networks in the reader's own browser, with no server behind them.

    python -m equilib.live FOLDER            # write the page, and serve it on this machine
    python -m equilib.live FOLDER --measure  # write it, and print its speed and its size

The page's sources are plain files in ``page/``.  :func:`build` adds what is not written by hand: onnxruntime-web as npm
brings it (``package-lock.json`` pins version and integrity), the shipped networks, synthetic tissue, and ``manifest.json``
with everything that the page has to know from the library.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from importlib.metadata import metadata
from pathlib import Path

import numpy as np

from equilib.contrasts import EPOCHS
from equilib.fields import Group
from equilib.notebooks import NO_ADDRESS, repository
from equilib.pcam import MEAN, PATCH_SIZE, STD
from equilib.results import replaceable_folder, shipped_int8, shipped_results
from equilib.study import shipped_run
from equilib.synthetic import cache_root
from equilib.tissue import draw_patch
from equilib.variant import DEFAULT_DIVISOR

PAGE = Path(__file__).parent / "page"
ROOT = PAGE.parents[2]
SIZE = 95
# Of the same channels, multiply-accumulates and file size, and in WebAssembly to the bit as in onnxruntime for x86 on the
# pictures of the tests.  Their recipes differ (results/model_card.md): the page shows turns, not who is right more often.
START = {"equivariant": "pcam_C4_w0.35_20000_seed0", "conventional": "pcam_conventional_w0.35_20000_seed0"}
START_PICTURE = "patches/tumour-5.png"
SYNTHETIC = 4
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
NOT_SERVED = ("package.json", "package-lock.json", ".npmrc")


# Every page has them, and no other page all of them, so a folder with them may be replaced.
MARKS = ("manifest.json", "sw.js", "precache.js", "networks")


class LivePageError(RuntimeError):
    """The page cannot be built here; the message says what is missing and what to do."""


def build(output: str | Path, *, notebooks: Mapping[str, str] | None = None) -> Path:
    """Write the page into a folder of its own, which any web server can serve.

    Args:
        output: the folder; what is in it is replaced.
        notebooks: number (``"01"``) to the address of a notebook's page, as seen from the folder; by default the
            notebooks of the repository, and none where it has no address yet.

    Returns:
        The folder.

    Raises:
        LivePageError: npm is missing, or cannot bring the packages.
        ValueError: the folder holds something else than an earlier page.
    """
    output = replaceable_folder(output, MARKS)
    modules = node_modules()
    course = "../index.html"
    if notebooks is None:
        address = course = _address()
        paths = sorted((ROOT / "notebooks").glob("*.ipynb")) if address else ()
        notebooks = {path.name[:2]: f"{address}/blob/main/notebooks/{path.name}" for path in paths}
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as temporary:
        folder = Path(temporary) / "page"
        shutil.copytree(PAGE, folder, ignore=shutil.ignore_patterns(*NOT_SERVED, "node_modules"))
        (folder / "runtime").mkdir()
        for name in RUNTIME:
            shutil.copyfile(modules / "onnxruntime-web" / "dist" / name, folder / "runtime" / name)
        networks = _networks(folder / "networks")
        manifest = {
            "size": SIZE,
            "patch": PATCH_SIZE,
            "mean": MEAN,
            "std": STD,
            "networks": networks,
            "pictures": _pictures(folder),
            "start": _start(networks),
            "notebooks": dict(notebooks),
            "course": course,
            "onnxruntime": _version("onnxruntime-web"),
        }
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
        _write_precache(folder, manifest)
        if output.exists():
            shutil.rmtree(output)
        os.replace(folder, output)
    return output


def _address() -> str:
    """The repository's address; an installed package knows it, too.  Empty where none has been set."""
    if (ROOT / "pyproject.toml").is_file():
        address = repository(ROOT)
    else:
        address = dict(line.split(", ") for line in metadata("equilib").get_all("Project-URL"))["Repository"]
    return "" if address == NO_ADDRESS else address


def node_modules() -> Path:
    """What ``package-lock.json`` names, brought by npm once and kept in the cache.

    Raises:
        LivePageError: npm is missing, or cannot bring the packages.
    """
    lock = (PAGE / "package-lock.json").read_bytes()
    kept = cache_root() / "npm" / hashlib.sha256(lock).hexdigest()[:16]
    if kept.is_dir():
        return kept / "node_modules"
    npm = shutil.which("npm")  # on Windows npm.cmd, which is not found without its ending
    if npm is None:
        raise LivePageError("the live page needs npm, which brings onnxruntime-web: install Node.js and run this again")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as temporary:
        folder = Path(temporary) / "page"
        folder.mkdir()
        for name in NOT_SERVED:
            shutil.copyfile(PAGE / name, folder / name)
        print("npm brings onnxruntime-web, this once", flush=True)
        done = subprocess.run([npm, "ci"], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            words = next((line for line in done.stderr.splitlines() if line.strip()), f"exit status {done.returncode}")
            raise LivePageError(
                f"npm could not bring onnxruntime-web ({words.strip()}): check the network, then run this again"
            )
        try:
            os.replace(folder, kept)
        except OSError:  # another process was first
            if not kept.is_dir():
                raise
    return kept / "node_modules"


def describe(name: str) -> dict[str, str]:
    """What a shipped network is, from the record of its run: ``kind``, and for people ``title`` and ``words``."""
    run = shipped_run(name)
    variant, epochs = run.variant, run.figures["config"]["epochs"]
    words = ["Conventional" if variant.conventional else f"Equivariant, {variant.group}"]
    words += [] if variant.depthwise == "strict" else ["field-wise" if variant.depthwise == "fieldwise" else "grouped"]
    words += [] if variant.divisor == DEFAULT_DIVISOR else [f"channels in multiples of {variant.divisor}"]
    words += [] if epochs == EPOCHS else [f"{epochs} epochs"]
    step = Group.parse(variant.group).step
    exact = ", exact at each quarter turn" if step < 90 else ""
    return {
        "kind": variant.kind,
        "title": ", ".join(words),
        "words": "no turn is built in" if variant.conventional else f"turns by {step:g}° are built in{exact}",
    }


def _seen(name: str) -> str | None:
    """Which turns a network was shown in training."""
    config = shipped_run(name).figures["config"]
    return "any angle" if config["any_angle"] else "quarter turns" if config["augmentation"] else None


def _networks(folder: Path) -> list[dict]:
    folder.mkdir()
    networks = []
    for name, entry in shipped_results("checkpoints").items():
        if "int8 sha256" not in entry:
            continue
        source = shipped_int8(name)
        shutil.copyfile(source, folder / source.name)
        networks.append(
            {
                "name": name,
                **describe(name),
                "file": f"networks/{source.name}",
                "bytes": source.stat().st_size,
                "data": entry["data"],
                "seen": _seen(name),
            }
        )
    return networks


def _start(networks: list[dict]) -> dict[str, str]:
    """The two networks and the picture that the page begins with."""
    start = {"picture": START_PICTURE}
    for kind, wanted in START.items():
        names = [network["name"] for network in networks if network["kind"] == kind]
        start[kind] = wanted if wanted in names else names[0]
    return start


def _pictures(folder: Path) -> list[dict]:
    from PIL import Image

    pictures = []
    for path in sorted((folder / "patches").glob("*.png"), key=lambda path: (path.name.startswith("no-"), path.name)):
        tumour = path.name.startswith("tumour")
        pictures.append({"file": f"patches/{path.name}", "tumour": tumour, "source": "PCam, test split, CC0"})
    (folder / "synthetic").mkdir()
    for index in range(SYNTHETIC):
        patch = draw_patch(0, "test", index)
        path = folder / "synthetic" / f"{index}.png"
        Image.fromarray(np.ascontiguousarray(patch.image)).save(path, optimize=True)
        pictures.append(
            {"file": f"synthetic/{index}.png", "tumour": bool(patch.label), "source": "synthetic, drawn by equilib"}
        )
    return pictures


def _version(package: str) -> str:
    return json.loads((PAGE / "package-lock.json").read_text(encoding="utf-8"))["packages"][f"node_modules/{package}"][
        "version"
    ]


def first_load(folder: str | Path) -> list[Path]:
    """The files that a first visit loads and keeps: all but the networks that only the menu asks for."""
    folder = Path(folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    started = [
        folder / network["file"] for network in manifest["networks"] if network["name"] in manifest["start"].values()
    ]
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if path.suffix != ".onnx" or path in started]


def _write_precache(folder: Path, manifest: dict) -> None:
    """The list from which the service worker fills its cache, under a name that changes with any byte of the page."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    files = ["./"] + [path.relative_to(folder).as_posix() for path in first_load(folder)]
    # The browser looks at the worker itself for changes; it cannot keep itself.
    files = [name for name in files if name not in ("sw.js", "precache.js")]
    contents = {"cache": f"equilib-{digest.hexdigest()[:16]}", "files": files}
    (folder / "precache.js").write_text(f"self.PRECACHE = {json.dumps(contents, indent=1)};\n", encoding="utf-8")
