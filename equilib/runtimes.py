"""Other runtimes than onnxruntime for the same ONNX files, each an optional extra, behind one interface.

A runtime runs the network in the layout that was measured for it on this kind of machine, or as it is written
(:mod:`equilib.layouts`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equilib import device, self_test
from equilib.checks import check_count, check_images
from equilib.layouts import prepared
from equilib.results import check_is_file

Classifier = Callable[[Tensor], Tensor]
# Of those in results/runtimes.json, for tables.
LABELS = {
    "onnxruntime": "onnxruntime",
    "openvino": "OpenVINO",
    "executorch": "ExecuTorch",
    "node": "WebAssembly, Node",
    "chromium": "WebAssembly, Chromium",
    "onnxruntime on Arm": "onnxruntime, Arm (emulated)",
}


@dataclass(frozen=True)
class Runtime:
    """Something that runs ONNX files.

    Attributes:
        name: as tables and :data:`equilib.layouts.MEASURED` have it; also the package that pip installs and Python imports.
        open: (path, threads, batch) to a function from images to logits.
    """

    name: str
    open: Callable[[Path, int, int], Classifier]

    def available(self) -> bool:
        return find_spec(self.name) is not None

    def require(self) -> None:
        """Raise ModuleNotFoundError, which says how to get it, where the runtime is not installed."""
        if not self.available():
            raise ModuleNotFoundError(f"{self.name} is not installed; get it with: pip install {self.name}")

    def load(self, path: str | Path, *, threads: int = 1, batch: int = 1) -> Classifier:
        """A function from normalised images (B, 3, n, n) to logits (B, classes), on the CPU.

        Any B gives the same bits; ``batch`` is the one that it will mostly get, and is made fast for.

        Raises:
            ModuleNotFoundError: the runtime is not installed; the message says how to get it.
            FileNotFoundError, ValueError: the file is missing, or no network that it can run.
        """
        path = Path(path)
        check_count("threads", threads), check_count("batch", batch)
        self.require()
        check_is_file(path, "write it with `equilib quantize`")
        return self.open(path, threads, batch)


def _onnxruntime(path: Path, threads: int, batch: int) -> Classifier:
    session = device.session(path, threads=threads, batch=batch)
    name = session.get_inputs()[0].name
    shape = session.get_inputs()[0].shape[1:]
    return lambda images: torch.from_numpy(session.run(None, {name: _array(images, shape)})[0])


def _openvino(path: Path, threads: int, batch: int) -> Classifier:
    from io import BytesIO

    import openvino

    network = prepared(path, "openvino", batch=batch)
    # In float32: by default activations that are not quantized become bfloat16 where the processor has it, and so do
    # FP32 files.
    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    try:
        model = core.read_model(BytesIO(network) if isinstance(network, bytes) else network)
        compiled = core.compile_model(model, "CPU", options)
    except RuntimeError as error:
        reason = next(line for line in reversed(str(error).splitlines()) if line.strip())
        raise ValueError(f"{path} is no ONNX file that OpenVINO can run ({reason.strip()})") from error
    shapes = [[n.get_length() if n.is_static else "any" for n in put.partial_shape] for put in compiled.inputs]
    known = self_test.stored(self_test.onnx_model(path, weights=False))
    names = [put.any_name for put in compiled.inputs]
    device.check_network(path, list(zip(names, shapes, strict=True)), [put.any_name for put in compiled.outputs], known)
    if known is not None:
        self_test.check(
            known,
            lambda images: compiled(images)[0],
            path,
            f"in OpenVINO {openvino.__version__}",
            "run it in onnxruntime, or export it again",
        )
    return lambda images: torch.from_numpy(compiled(_array(images, shapes[0][1:]))[0].copy())


def _array(images: Tensor, shape: Sequence[int | str]) -> np.ndarray:
    check_images(images, shape)
    return np.ascontiguousarray(images.numpy(), dtype=np.float32)


DEFAULT = "onnxruntime"
RUNTIMES = {
    runtime.name: runtime
    for runtime in (
        Runtime(DEFAULT, _onnxruntime),
        Runtime("openvino", _openvino),
    )
}


@dataclass(frozen=True)
class Fastest:
    """Where a network answered soonest.

    Attributes:
        runtime: a key of :data:`LABELS`.
        precision: "FP32" or "INT8".
        milliseconds: a call.
    """

    runtime: str
    precision: str
    milliseconds: float


def fastest(saved: Mapping, among: Collection[str], batch: int = 1) -> dict[str, Fastest]:
    """The fastest runtime and precision of each network, by its title; networks that none of them was timed on are left out.

    Args:
        saved: the contents of results/runtimes.json.
        among: keys of :data:`LABELS` to choose from: those that a device has.
        batch: patches a call; 1 and 32 were measured.
    """
    found = {}
    for network in saved["networks"].values():
        timed = [
            Fastest(runtime, precision, row["milliseconds"][str(batch)])
            for runtime, rows in network["runtimes"].items()
            if runtime in among
            for precision, row in rows.items()
            if str(batch) in row.get("milliseconds", {})
        ]
        if timed:
            found[network["title"]] = min(timed, key=lambda one: one.milliseconds)
    return found
