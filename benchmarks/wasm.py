"""Networks in WebAssembly, by the onnxruntime-web of the live page: in Node and in headless Chromium."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from equilib.live import PAGE, RUNTIME, SIZE, node_modules
from equilib.live.measure import chromium, served

HERE = Path(__file__).parent
IN_A_PAGE = """
async (job) => {
  const module = (name) => import(new URL(name, location.href).href);
  const get = async (name) => (await fetch(new URL(name, location.href))).arrayBuffer();
  const [ort, { open, fourAnswers, latency }] = await Promise.all([module(job.runtime), module("wasm.mjs")]);
  const session = await open(ort, new Uint8Array(await get(job.file)));
  const found = {};
  if (job.patches) {
    const [patches, levels] = [new Uint8Array(await get(job.patches)), new Float32Array(await get(job.levels))];
    found.logits = await fourAnswers(ort, session, patches, levels, job.size);
  }
  found.milliseconds = {};
  for (const [batch, calls] of Object.entries(job.calls)) {
    found.milliseconds[batch] = await latency(ort, session, job.size, Number(batch), calls);
  }
  return found;
}
"""


def version() -> str:
    """Of onnxruntime-web, as the live page has it."""
    lock = json.loads((PAGE / "package-lock.json").read_text())
    return lock["packages"]["node_modules/onnxruntime-web"]["version"]


def run(place: str, file: Path, *, patches: Path | None = None, calls: dict[int, int] | None = None) -> dict:
    """What wasm.mjs finds for one file.

    Args:
        place: "node" or "chromium".
        patches: folder of :mod:`turned`, for ``logits`` (4, N, 2) and, in Node, ``peak_mib``.
        calls: batch size to timed calls, for ``milliseconds``: medians by batch size, as text.
    """
    with TemporaryDirectory() as folder:
        folder = Path(folder)
        job = {"runtime": RUNTIME[0], "file": "model.onnx", "size": SIZE, "calls": calls or {}}
        for name in (*RUNTIME, "ort-wasm-simd-threaded.mjs"):  # Node asks for the last one
            shutil.copy(node_modules() / "onnxruntime-web" / "dist" / name, folder)
        shutil.copy(HERE / "wasm.mjs", folder)
        shutil.copy(HERE / "wasm_node.mjs", folder)
        shutil.copy(file, folder / "model.onnx")
        if patches is not None:
            job |= {"patches": "patches.bin", "levels": "levels.bin"}
            for name in ("patches", "levels"):
                np.load(patches / f"{name}.npy").tofile(folder / f"{name}.bin")
        found = PLACES[place](folder, job)
    if patches is not None:
        found["logits"] = np.asarray(found["logits"], np.float32).reshape(4, -1, 2)
    found["milliseconds"] = {batch: statistics.median(times) for batch, times in found.get("milliseconds", {}).items()}
    return found


def _in_node(folder: Path, job: dict) -> dict:
    command = ["node", "wasm_node.mjs", json.dumps(job)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if "Error" in line[:40]), f"status {done.returncode}")
        raise RuntimeError(f"Node could not run {job['file']}: {reason}")
    return json.loads(done.stdout)


def _in_chromium(folder: Path, job: dict) -> dict:
    (folder / "index.html").write_text("<!doctype html><title>a page to measure in</title>")
    with served(folder) as address, chromium() as browser:
        page = browser.new_page()
        page.goto(f"{address}/index.html")
        return page.evaluate(IN_A_PAGE, job)


PLACES: dict[str, Callable[[Path, dict], dict]] = {"node": _in_node, "chromium": _in_chromium}
