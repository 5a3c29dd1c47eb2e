"""The self-test of an exported model: images that every machine can make, and what the simulation answers.

A processor or runtime may compute integers otherwise than the simulation that was looked at (kernels that saturate, a
pooling with other rules).  So :func:`equilib.device.export_onnx` writes the simulation's answers into the file, and
:func:`equilib.device.session` asks the model the same on the machine where it runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from equilib.int8 import FakeQuantize, QuantizedLayer

KEY = "equilib.self_test"
# Another entry: a digest of the weights.  Answers may be off by what rounding explains; a bit of a weight may not.
DIGEST = "equilib.weights"
IMAGES = 4
_ANSWERS = 64  # of an output with more numbers, so many are kept for each image


@dataclass(frozen=True)
class SelfTest:
    """What a model must answer.

    Attributes:
        shape: (channels, height, width) of an image.
        low, high: of the images' values.
        answers: for each image, its outputs (evenly spaced ones, where there are many).
        tolerance: how far answers may be off, root mean square.
    """

    shape: tuple[int, ...]
    low: float
    high: float
    answers: tuple[tuple[float, ...], ...]
    tolerance: float

    def images(self) -> np.ndarray:
        """(4, *shape) float32: noise at three scales in 256 levels, by integer arithmetic alone."""
        levels = _levels(self.shape)
        return (self.low + levels * ((self.high - self.low) / 255)).astype(np.float32)

    def error(self, outputs: np.ndarray) -> float:
        """The root-mean-square difference of a model's outputs from the answers; NaN where it gives no numbers."""
        expected = np.asarray(self.answers)
        actual = _kept(np.asarray(outputs, np.float64))
        if actual.shape != expected.shape:
            return float("nan")
        return _root_mean_square(actual - expected)

    def to_json(self) -> str:
        """For the file's metadata; :func:`read` gives the object back."""
        return json.dumps(asdict(self))


def read(text: str) -> SelfTest:
    """The self-test in a file's metadata; raises ValueError where it is none."""
    try:
        values = json.loads(text)
        answers = tuple(tuple(float(value) for value in row) for row in values.pop("answers"))
        test = SelfTest(shape=tuple(int(n) for n in values.pop("shape")), answers=answers, **values)
        numbers = (test.low, test.high, test.tolerance, *(value for row in answers for value in row))
        if len(answers) != IMAGES or not all(np.isfinite(number) for number in numbers):
            raise ValueError("answers are missing")
        return test
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"its self-test cannot be read ({error})") from error


def check(text: str, answers: Callable[[np.ndarray], np.ndarray], path: Path, where: str, cure: str) -> None:
    """Ask a model the self-test in its file.

    Args:
        text: the file's metadata.
        answers: the model, from (B, 3, n, n) float32 to (B, classes).
        where, cure: for the message, the runtime and what else to try there.

    Raises:
        ValueError: names the file; it is damaged, or answers otherwise.
    """
    try:
        expected = read(text)
        error = expected.error(answers(expected.images()))
    except Exception as broken:  # a runtime's own kinds
        raise ValueError(f"{path} is damaged: {' '.join(str(broken).split())}; export it again") from broken
    if not error <= expected.tolerance:
        raise ValueError(
            f"{path} gives wrong answers {where}: its self-test is off by {error:.2g} where {expected.tolerance:.2g} is "
            f"allowed; {cure}"
        )


def _levels(shape: tuple[int, ...]) -> np.ndarray:
    """(4, *shape) integers from 0 to 255: the mean of three grids of noise, coarse, middle and fine."""
    axes = np.ogrid[tuple(slice(n) for n in (IMAGES, *shape))]
    total = np.zeros((IMAGES, *shape), np.uint32)
    for number, cell in enumerate((max(2, shape[-1] // 4), max(2, shape[-1] // 12), 1), start=1):
        mixed = np.full((1,) * (1 + len(shape)), number * 0x1E3779B1 % 2**32, np.uint32)
        for place, axis in enumerate(axes):
            step = axis // cell if place >= 2 else axis
            mixed = (mixed ^ step.astype(np.uint32)) * np.uint32(0x85EBCA6B)
            mixed = mixed ^ (mixed >> np.uint32(13))
        total = total + (((mixed * np.uint32(0xC2B2AE35)) >> np.uint32(16)) & np.uint32(255))
    return total // 3


def _kept(outputs: np.ndarray) -> np.ndarray:
    flat = outputs.reshape(len(outputs), -1)
    return flat[:, :: max(1, -(-flat.shape[1] // _ANSWERS))]


def make(network: nn.Module, shape: tuple[int, ...]) -> SelfTest:
    """The self-test of a network that is about to be exported, in single precision.

    Tolerance: kernels and simulation round the same real numbers, and differ only where one lies halfway between two
    levels.  Such ties are rare, but a sum of two tensors on one grid can have half of its values there: then kernel and
    simulation are a level apart in up to half of the places, root mean square 1 / sqrt(2) of a level, where rounding
    itself costs 1 / sqrt(12).  So the tolerance is sqrt(6) times the distance between the simulation and the network
    without rounding (seen: 0 to 0.12 of that distance for networks of 50 layers, up to 1.1 for small ones); of a network
    that is not quantized, 1e-4 of its largest output.

    Raises:
        ValueError: the network answers with NaN or infinity, or with several tensors.
    """
    quantizer = next((module for module in network.modules() if isinstance(module, FakeQuantize)), None)
    low, high = (-2.0, 2.0) if quantizer is None else quantizer.range
    empty = SelfTest(tuple(shape), low, high, (), 0.0)
    images = torch.from_numpy(empty.images())
    with torch.no_grad():
        outputs = network(images)
        if not isinstance(outputs, Tensor):
            raise ValueError(f"{type(network).__name__} gives several tensors; export a network with one output")
        if not torch.isfinite(outputs).all():
            raise ValueError(
                f"{type(network).__name__} answers random images with NaN or infinity, so it is not written"
            )
        if quantizer is None:
            tolerance = 1e-4 * outputs.abs().max().item()
        else:
            tolerance = 6**0.5 * _root_mean_square((outputs - _unrounded(network)(images)).numpy())
    return _kept_test(tuple(shape), low, high, outputs.numpy(), tolerance)


def _kept_test(shape: tuple[int, ...], low: float, high: float, outputs: np.ndarray, tolerance: float) -> SelfTest:
    """The self-test that keeps these outputs, in few digits."""
    kept = _kept(outputs.astype(np.float64))
    scale = np.abs(kept).max()
    answers = tuple(tuple(float(f"{value:.7g}") for value in row) for row in kept)
    return SelfTest(shape, low, high, answers, float(f"{max(tolerance, 1e-5 * scale, 1e-30):.3g}"))


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values.astype(np.float64)).mean()))


def onnx_model(path: str | Path, *, weights: bool = True):
    """The contents of an ONNX file, an ``onnx.ModelProto``; ValueError, which names the file, where it is none.

    Args:
        weights: those in files of their own, too.
    """
    import onnx

    try:
        return onnx.load(str(path), load_external_data=weights)
    except OSError:
        raise
    except Exception as error:  # protobuf's kinds
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is no ONNX file that can be read ({reason})") from error


class ChangedWeightsError(ValueError):
    """A file whose weights are not those that were written."""


def digest(model) -> str:
    """The sha256 of an ``onnx.ModelProto``'s initializers: their types, shapes and values, whatever they are called."""
    from onnx import numpy_helper

    def content(tensor) -> bytes:
        if tensor.string_data:
            return b"\0".join(tensor.string_data)
        return numpy_helper.to_array(tensor).tobytes()

    kept = [f"{tensor.data_type} {list(tensor.dims)} ".encode() + content(tensor) for tensor in model.graph.initializer]
    return hashlib.sha256(b"".join(sorted(hashlib.sha256(one).digest() for one in kept))).hexdigest()


def stamp(model, test: SelfTest) -> None:
    """Put a self-test and the digest of the weights into an ``onnx.ModelProto``, in the place of its other metadata."""
    import onnx

    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {KEY: test.to_json(), DIGEST: digest(model)})


def check_weights(model, path: str | Path) -> None:
    """Refuse an ``onnx.ModelProto`` whose weights changed after :func:`stamp`; older files have no digest, nor have those
    that keep their weights in files of their own.

    Raises:
        ChangedWeightsError: names the file.
    """
    known = stored(model, DIGEST)
    if known is None:
        return
    try:
        changed = digest(model) != known
    except Exception:  # a tensor that is cut off
        changed = True
    if changed:
        raise ChangedWeightsError(
            f"{path} is damaged: its weights are not those that were written; copy it anew or export it again"
        )


def stored(model, key: str = KEY) -> str | None:
    """The self-test in an ``onnx.ModelProto``, for :func:`check`, or what else of it; None where it has none."""
    return next((entry.value for entry in model.metadata_props if entry.key == key), None)


def of_file(path: str | Path) -> SelfTest:
    """The self-test of an INT8 file that was written without one: what :func:`make` would have kept, from the graph alone.

    Its answers are those of the file's own graph without integer kernels: onnxruntime with no optimization rounds each
    tensor where the file says so, and computes real numbers in between.  A file has no other weights than rounded ones,
    so the tolerance is that of rounded activations alone, about half of what :func:`make` allows.

    Raises:
        ValueError: the file is not of :func:`equilib.device.export_onnx`, or not in INT8.
    """
    model = onnx_model(path)
    inputs = model.graph.input
    shape = [size.dim_value for size in inputs[0].type.tensor_type.shape.dim][1:] if len(inputs) == 1 else []
    levels = _levels_of_activations(model.graph)
    if len(shape) != 3 or not levels:
        raise ValueError(f"{path} is no INT8 network of `equilib quantize`, so it cannot get a self-test")
    low, high = next(iter(levels.values()))
    images = SelfTest(tuple(shape), low, high, (), 0.0).images()
    rounded, unrounded = (without_kernels(one, images)[0] for one in (model, _clipped(model, levels)))
    rounding = _root_mean_square(rounded - unrounded)
    return _kept_test(tuple(shape), low, high, rounded, 6**0.5 * rounding)


def _levels_of_activations(graph) -> dict[str, tuple[float, float]]:
    """The lowest and highest value that each QuantizeLinear of a tensor (not of a constant) can give, by its output."""
    from onnx import numpy_helper

    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in known:
            scale, zero_point = float(known[node.input[1]]), known[node.input[2]]
            ends = np.iinfo(zero_point.dtype)
            found[node.output[0]] = tuple(scale * (end - float(zero_point)) for end in (ends.min, ends.max))
    return found


def _clipped(model, levels: dict[str, tuple[float, float]]):
    """A copy of a model that clips where it quantized."""
    import onnx

    model = deepcopy(model)
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in levels:
            name = node.input[0]
            ends = [
                onnx.numpy_helper.from_array(np.float32(end), f"{name}_end{n}") for n, end in enumerate(levels[name])
            ]
            model.graph.initializer.extend(ends)
            clip = onnx.helper.make_node("Clip", [sources[name], *(end.name for end in ends)], list(node.output))
            node.CopyFrom(clip)
    return model


def without_kernels(model, images: np.ndarray, names: Sequence[str] | None = None) -> list[np.ndarray]:
    """A model's outputs, or those of these names, when onnxruntime fuses nothing: no integer kernels."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    running = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return running.run(names, {running.get_inputs()[0].name: images})


class _Clip(nn.Module):
    """What a fake quantizer does, without rounding."""

    def __init__(self, quantizer: FakeQuantize):
        super().__init__()
        self.low, self.high = quantizer.range

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)


def _unrounded(network: nn.Module) -> nn.Module:
    """A copy of a simulated network that clips where it did, and rounds nothing but biases."""
    network = deepcopy(network)
    for parent in list(network.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, FakeQuantize):
                setattr(parent, name, _Clip(module))
            elif isinstance(module, QuantizedLayer):
                setattr(parent, name, module.layer)
    return network
