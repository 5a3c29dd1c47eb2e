"""ExecuTorch: a network as a program for phones (``.pte``), on XNNPACK's kernels; an INT8 one on its integer kernels.

The integers are those of the ONNX file: the same weights, scales and data-free ranges.  XNNPACK takes signed activations, so
each unsigned level is written 128 lower, and its zero point with it.  Two layers are written so that no order of addition
matters, as quarter turns ask: the mean over the disc as a convolution as large as the map, with weights 0 and 1; and the
classifier as a sum of whole numbers below 2^24, which float32 holds exactly.

Like the ONNX file, a program carries its self-test (:mod:`equilib.self_test`), which is asked wherever it is loaded.

Needs the package executorch (``pip install executorch torchao``).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from equilib import self_test
from equilib.checks import check_count, check_images, reason_of
from equilib.conv_graph import mergeable, merged_groups
from equilib.folding import fold_batch_norm
from equilib.graph import find_input_shape
from equilib.int8 import FakeQuantize, QuantizedDiscMean, QuantizedLayer
from equilib.layouts import measured_layout
from equilib.plain import DiscMean
from equilib.results import check_is_file, written_whole

# The wheel brings no torch and asks for no version of it: these three go together, as constraints.txt has them.
INSTALL = (
    "ExecuTorch is not installed: pip install executorch torchao (tested: executorch 1.5.1 and torchao 0.18.0 with "
    "torch 2.13.0; there are wheels for Linux and for macOS on Arm, none for Windows)"
)
SELF_TEST = "equilib_self_test"  # the program's method that returns it, as text
# The levels of an unsigned activation, 0 to 255, become -128 to 127.
SHIFT, LOW, HIGH = 128, -128, 127
IDLE = (nn.Dropout, nn.Dropout1d, nn.Identity)


def export_pte(network: nn.Module, path: str | Path, input_size: int, *, largest_batch: int = 32) -> Path:
    """Write a plain network, quantized (:func:`equilib.int8.quantize`) or not, as an ExecuTorch program on XNNPACK.

    The input is float32 (batch, 3, input_size, input_size), normalised and contiguous, of at most ``largest_batch`` images; the
    output are logits.  The file appears once the program has passed its self-test, or not at all.

    Raises:
        ModuleNotFoundError: ExecuTorch is missing; the message says how to get it.
        ValueError: a scheme or an operator that ExecuTorch's kernels do not have, a batch of none, or a program that
            answers otherwise.
    """
    check_count("largest_batch", largest_batch)
    require()
    network = deepcopy(network).eval().float().to(memory_format=torch.contiguous_format)
    shape = find_input_shape(network, input_size)
    expected = self_test.make(network, shape)
    quantized = any(isinstance(module, FakeQuantize) for module in network.modules())
    ready = with_signed_integers(network) if quantized else _with_real_numbers(network, shape)
    with written_whole(path) as temporary:
        temporary.write_bytes(_lowered(ready, torch.zeros(largest_batch, *shape), expected, type(network).__name__))
        load_pte(temporary)
    return Path(path)


def require() -> None:
    """Raise ModuleNotFoundError, which says how to get it, unless ExecuTorch can be imported."""
    try:
        with _quiet():
            import executorch.runtime  # noqa: F401
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "executorch":
            raise ModuleNotFoundError(f"ExecuTorch cannot be imported ({error}): pip install {error.name}") from error
        raise ModuleNotFoundError(INSTALL) from error


def load_pte(path: str | Path, *, threads: int = 1) -> Callable[[Tensor], Tensor]:
    """A program as a function of images (B, 3, n, n), any number of them, after its self-test.

    Args:
        threads: of the processor, for all programs of this process.

    Raises:
        ModuleNotFoundError, FileNotFoundError, ValueError: name what is missing, or the file that is no program, needs
            an operator that this runtime lacks, or answers otherwise on this machine.
    """
    check_count("threads", threads)
    require()
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    path = Path(path)
    check_is_file(path, f"write it with `equilib quantize … -o {path.name}`")
    if portable_lib._threadpool_get_thread_count() != threads:
        portable_lib._unsafe_reset_threadpool(threads)
    try:
        program = Runtime.get().load_program(str(path))
        method = program.load_method("forward")
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no ExecuTorch program that can be run here ({reason})") from error

    largest, *shape = method.metadata.input_tensor_meta(0).sizes()

    def run(images: Tensor) -> Tensor:
        check_images(images, shape)
        # The program's output lies in memory that its next call uses again.
        return torch.cat([method.execute((part.contiguous(),))[0].clone() for part in images.float().split(largest)])

    if SELF_TEST in program.method_names:
        self_test.check(
            program.load_method(SELF_TEST).execute([])[0],
            lambda images: run(torch.from_numpy(images)).numpy(),
            path,
            "in this ExecuTorch",
            "export it again, or use another version of ExecuTorch",
        )
    return run


def with_signed_integers(network: fx.GraphModule) -> fx.GraphModule:
    """The same function with the integers in the open: quantize and dequantize nodes, int8 weights.

    Args:
        network: of :func:`equilib.int8.quantize`, with the default scheme or fewer bits in the weights.

    Returns:
        A network in which each rounded activation is an int8 tensor with one dequantize node for each reader (XNNPACK's
        partitioner does not take one that is shared).
    """
    operators = _decomposed()
    signed = deepcopy(network)
    graph = signed.graph
    _drop_idle(signed)
    modules = {node: signed.get_submodule(node.target) for node in graph.nodes if node.op == "call_module"}
    rounded = {node: module for node, module in modules.items() if isinstance(module, FakeQuantize)}
    for node, quantizer in rounded.items():
        scale, zero_point = quantizer.scale.item(), int(quantizer.zero_point) - SHIFT
        levels = (scale, zero_point, LOW, HIGH, torch.int8)
        with graph.inserting_after(node):
            integers = graph.call_function(operators.quantize_per_tensor.default, (node.args[0], *levels))
        for reader in list(node.users):
            module = signed.get_submodule(reader.target) if reader.op == "call_module" else None
            if isinstance(module, QuantizedLayer) and isinstance(module.layer, nn.Linear):
                signed.set_submodule(reader.target, WholeNumberLinear(module, scale, zero_point))
                reader.replace_input_with(node, integers)
                continue
            with graph.inserting_before(reader):
                real = graph.call_function(operators.dequantize_per_tensor.default, (integers, *levels))
            reader.replace_input_with(node, real)
        graph.erase_node(node)
    _replace_layers(signed)
    graph.lint()
    signed.recompile()
    return signed


def _with_real_numbers(network: nn.Module, shape: tuple[int, ...]) -> fx.GraphModule:
    """The same function of a network that is not quantized: folded, and pooled by a convolution."""
    real = fold_batch_norm(network, input_shape=shape)
    _drop_idle(real)
    _replace_layers(real)
    real.recompile()
    return real


def _drop_idle(network: fx.GraphModule) -> None:
    """Take layers out of the graph that do nothing in evaluation mode."""
    for node in list(network.graph.nodes):
        if node.op == "call_module" and isinstance(network.get_submodule(node.target), IDLE):
            node.replace_all_uses_with(node.args[0])
            network.graph.erase_node(node)


def _replace_layers(network: fx.GraphModule) -> None:
    """Convolutions with int8 weights, and the mean over the disc; the channels pooled are those of the last layer."""
    channels = 0
    for node in network.graph.nodes:
        module = network.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(module, nn.Conv2d):
            channels = module.out_channels
        elif isinstance(module, QuantizedLayer):
            channels = module.layer.weight.shape[0]
            network.set_submodule(node.target, SignedConv(module))
        elif isinstance(module, QuantizedDiscMean):
            network.set_submodule(node.target, SignedDiscMean(module, channels))
        elif isinstance(module, DiscMean):
            network.set_submodule(node.target, RealDiscMean(module, channels))


# A program is written here and runs elsewhere, so it has one layout for all processors: the fastest where it was measured.
LAYOUT = measured_layout("INT8", "executorch", "x86_64")


class SignedConv(nn.Module):
    """A convolution with int8 weights behind a dequantize node; the bias stays real (it was rounded before).

    Groups are merged (:mod:`equilib.layouts`), with weights of zero in between: the same integers.
    """

    def __init__(self, quantized: QuantizedLayer):
        super().__init__()
        layer = quantized.layer
        if quantized.scale.ndim or int(quantized.zero_point) or layer.padding_mode != "zeros":
            raise ValueError(
                "XNNPACK takes symmetric weights per tensor and zero padding here; quantize with the default scheme"
            )
        self.scale = quantized.scale.item()
        integers = (layer.weight.detach() / self.scale).round().to(torch.int8).cpu().numpy()
        merged = mergeable(layer.groups, integers.shape[1], LAYOUT.group_channels)
        self.register_buffer("weight", torch.from_numpy(merged_groups(integers, layer.groups, merged)))
        self.bias = layer.bias
        self.geometry = (layer.stride, layer.padding, layer.dilation, layer.groups // merged)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, _real(self.weight, self.scale), self.bias, *self.geometry)


class SignedDiscMean(nn.Module):
    """The mean over the disc as a depthwise convolution as large as the map: (B, C, n, n) to (B, C, 1, 1)."""

    def __init__(self, mean: QuantizedDiscMean, channels: int):
        super().__init__()
        self.scale, self.channels = mean.scale.item(), channels
        mask = (mean.weight / self.scale).round().to(torch.int8)
        size = round(mask.numel() ** 0.5)
        self.register_buffer("weight", mask.view(1, 1, size, size).repeat(channels, 1, 1, 1).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, _real(self.weight, self.scale), groups=self.channels)


class RealDiscMean(nn.Module):
    """:class:`equilib.plain.DiscMean` as a depthwise convolution as large as the map: (B, C, n, n) to (B, C)."""

    def __init__(self, mean: DiscMean, channels: int):
        super().__init__()
        self.channels = channels
        self.register_buffer("weight", mean.weight.repeat(channels, 1, 1, 1).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, groups=self.channels).flatten(1)


class WholeNumberLinear(nn.Module):
    """The classifier on integers: products of whole numbers, exact in float32, and one multiplication at the end."""

    def __init__(self, quantized: QuantizedLayer, input_scale: float, input_zero_point: int):
        super().__init__()
        weight = (quantized.layer.weight.detach() / quantized.scale).round()
        largest = weight.abs().sum(1).max().item() * (HIGH - LOW)
        if largest >= 2**24:
            raise ValueError(f"the classifier's sums reach {largest:.0f}, beyond the whole numbers that float32 holds")
        self.register_buffer("weight", weight)
        self.register_buffer("bias", quantized.layer.bias.detach().clone())
        self.unit, self.zero_point = quantized.scale.item() * input_scale, input_zero_point

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1).to(torch.float32) - self.zero_point, self.weight) * self.unit + self.bias


def _real(weight: Tensor, scale: float) -> Tensor:
    return _decomposed().dequantize_per_tensor.default(weight, scale, 0, -HIGH, HIGH, torch.int8)


def _decomposed():
    """The operators in which XNNPACK's partitioner recognises integers; torch registers them when asked."""
    import torch.ao.quantization.fx._decomposed  # noqa: F401

    return torch.ops.quantized_decomposed


def _lowered(network: nn.Module, example: Tensor, expected: self_test.SelfTest, name: str) -> bytes:
    """The program's bytes, with its self-test as a second method."""
    with _quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        many = len(example) > 1  # a program for single images has a fixed shape
        shapes = ({0: torch.export.Dim("batch", min=1, max=len(example))},) if many else None
        try:
            program = torch.export.export(network.eval(), (example,), dynamic_shapes=shapes)
            lowered = to_edge_transform_and_lower(
                program, partitioner=[XnnpackPartitioner()], constant_methods={SELF_TEST: expected.to_json()}
            )
            return bytes(lowered.to_executorch().buffer)
        except Exception as error:  # of many kinds: the exporter's, the partitioner's, the emitter's
            raise ValueError(
                f"{name} cannot be written as an ExecuTorch program ({reason_of(error)}); replace that operator, or write ONNX"
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what ExecuTorch and torchao say of other backends out of the output."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
