"""ExecuTorch: an INT8 network as a program for phones (``.pte``), on XNNPACK's integer kernels.

The integers are those of the ONNX file: the same weights, scales and data-free ranges.  XNNPACK takes signed activations, so
each unsigned level is written 128 lower, and its zero point with it.  Two layers are written so that no order of addition
matters, as quarter turns ask: the mean over the disc as a convolution as large as the map, with weights 0 and 1; and the
classifier as a sum of whole numbers below 2^24, which float32 holds exactly.

Needs the package executorch (``pip install "equilib[executorch]"``).
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from equilib.int8 import FakeQuantize, QuantizedDiscMean, QuantizedLayer
from equilib.results import written_whole

INSTALL = 'ExecuTorch is not installed: pip install "equilib[executorch]"'
# The levels of an unsigned activation, 0 to 255, become -128 to 127.
SHIFT, LOW, HIGH = 128, -128, 127


def export_pte(network: fx.GraphModule, path: str | Path, input_size: int, *, largest_batch: int = 32) -> Path:
    """Write a network of :func:`equilib.int8.quantize` as an ExecuTorch program, lowered to XNNPACK.

    The input is float32 (batch, 3, input_size, input_size), normalised and contiguous, of at most ``largest_batch`` images; the
    output are logits.  The file appears once the program has answered as the simulation does, or not at all.

    Raises:
        ModuleNotFoundError: ExecuTorch is missing; the message says how to get it.
        ValueError: a scheme that XNNPACK's kernels do not have, or a program that answers otherwise.
    """
    _decomposed()
    signed = with_signed_integers(network)
    example = torch.zeros(largest_batch, 3, input_size, input_size)
    batch = torch.export.Dim("batch", min=1, max=largest_batch)
    with written_whole(path) as temporary:
        temporary.write_bytes(_lowered(signed, example, batch))
        _compare(load_pte(temporary), network, input_size)
    return Path(path)


def load_pte(path: str | Path) -> Callable[[Tensor], Tensor]:
    """A program as a function of images (B, 3, n, n), for :func:`equilib.equivariance.run_model`.

    Raises:
        ModuleNotFoundError, FileNotFoundError, ValueError: name what is missing, or the file that is no program.
    """
    try:
        from executorch.runtime import Runtime
    except ImportError as error:
        raise ModuleNotFoundError(INSTALL) from error
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; write it with equilib quantize … -o {path.name}")
    try:
        method = Runtime.get().load_program(str(path)).load_method("forward")
    except RuntimeError as error:
        raise ValueError(f"{path} is no ExecuTorch program ({error})") from error

    def run(images: Tensor) -> Tensor:
        # The program's output lies in memory that its next call uses again.
        return method.execute((images.float().contiguous(),))[0].clone()

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
    rounded: dict[fx.Node, FakeQuantize] = {}
    for node in list(graph.nodes):
        module = signed.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(module, (nn.Dropout, nn.Identity)):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif isinstance(module, FakeQuantize):
            rounded[node] = module
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


def _replace_layers(signed: fx.GraphModule) -> None:
    """Convolutions and the mean over the disc with int8 weights; the channels that are pooled are those of the last layer."""
    channels = 0
    for node in signed.graph.nodes:
        module = signed.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(module, QuantizedLayer):
            channels = module.layer.weight.shape[0]
            signed.set_submodule(node.target, SignedConv(module))
        elif isinstance(module, QuantizedDiscMean):
            signed.set_submodule(node.target, SignedDiscMean(module, channels))


class SignedConv(nn.Module):
    """A convolution with int8 weights behind a dequantize node; the bias stays real (it was rounded before)."""

    def __init__(self, quantized: QuantizedLayer):
        super().__init__()
        layer = quantized.layer
        if quantized.scale.ndim or int(quantized.zero_point) or layer.padding_mode != "zeros":
            raise ValueError(
                "XNNPACK takes symmetric weights per tensor and zero padding here; quantize with the default scheme"
            )
        self.scale = quantized.scale.item()
        self.register_buffer("weight", (layer.weight.detach() / self.scale).round().to(torch.int8).contiguous())
        self.bias = layer.bias
        self.geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)

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
    return torch.ops.quantized_decomposed.dequantize_per_tensor.default(weight, scale, 0, -HIGH, HIGH, torch.int8)


def _decomposed():
    """The operators in which XNNPACK's partitioner recognises integers; torch registers them when asked."""
    import torch.ao.quantization.fx._decomposed  # noqa: F401

    return torch.ops.quantized_decomposed


def _lowered(network: nn.Module, example: Tensor, batch) -> bytes:
    try:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
    except ImportError as error:
        raise ModuleNotFoundError(INSTALL) from error
    program = torch.export.export(network.eval(), (example,), dynamic_shapes=({0: batch},))
    return bytes(to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch().buffer)


def _compare(run: Callable[[Tensor], Tensor], network: fx.GraphModule, input_size: int) -> None:
    """Refuse a program whose logits are further from the simulation's than roundings of single levels can bring them."""
    images = torch.randn(4, 3, input_size, input_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network.eval()(images)
    change, spread = (run(images) - expected).abs().max().item(), expected.abs().max().item()
    if not change <= 0.1 * spread:
        raise ValueError(
            f"the ExecuTorch program answers otherwise than the simulation (by {change:.2g}, of logits up to {spread:.2g}); "
            "nothing was written"
        )
