"""INT8: schemes, activation ranges without data, and fake quantization.

One graph serves for simulation and for deployment: :func:`quantize` puts fake quantizers into the folded network, and
:func:`equilib.device.export_onnx` writes that network as integers.  By default weights are signed and symmetric,
activations unsigned and asymmetric, both per tensor (the paper's W8A8); :class:`Scheme` has the alternatives.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from equilib.bias_correction import takes_means
from equilib.checks import check_kinds
from equilib.graph import LAYERS, is_relu, module_of, output_shapes, own_copy, source_of
from equilib.plain import DiscMask, DiscMean, GroupMax, facts
from equilib.ranges import SELECTING, Distribution, activation_ranges, calibrated_ranges, is_final, shared_ranges

# Ranges are part of what this module is known for.
__all__ = ["Distribution", "activation_ranges", "calibrated_ranges"]


@dataclass(frozen=True)
class Scheme:
    """How numbers become integers.

    Attributes:
        weight_bits, activation_bits: 2 to 16; at most 8 can be exported.  Weights of 7 bits suit x86 processors without
            VNNI in other runtimes than :func:`equilib.device.session`: sums of two products then fit into 16 bits.
        per_channel: a scale for each output channel of the weights, not one for the tensor.
        symmetric_weights: integers from -m to m, with 0 for 0; otherwise the range from the least to the largest weight.
        symmetric_activations: likewise for activations; of what a ReLU gives, half of the levels are lost then.

    Raises:
        ValueError: a number of bits out of range.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    per_channel: bool = False
    symmetric_weights: bool = True
    symmetric_activations: bool = False

    def __post_init__(self):
        check_kinds(self)
        for name in ("weight_bits", "activation_bits"):
            if not 2 <= getattr(self, name) <= 16:
                raise ValueError(f"{name} must lie between 2 and 16, got {getattr(self, name)}")

    @property
    def weight_limits(self) -> tuple[int, int]:
        """The least and the largest integer of a weight.  Symmetric ones use -m to m, so the least stays unused."""
        half = 2 ** (self.weight_bits - 1)
        return -half, half - 1


W8A8 = Scheme()  # what the paper calls INT8; it does not say more than the bits
_LARGEST = torch.finfo(torch.float32).max / 4  # of an activation, so that its scale and its sums stay finite


class FakeQuantize(nn.Module):
    """Round an activation to 2^bits levels between ``low`` and ``high`` (which are moved to include 0), per tensor."""

    def __init__(self, low: float, high: float, scheme: Scheme = W8A8):
        super().__init__()
        if not abs(low) <= _LARGEST or not abs(high) <= _LARGEST or low > high:  # with NaN, too
            raise ValueError(
                f"an activation range must be finite (up to {_LARGEST:.0e}), the lowest value first, got {low} … {high}"
            )
        low, high = min(low, 0.0), max(high, 0.0)
        if scheme.symmetric_activations:
            high = max(-low, high)
            low = -high
        self.limit = 2**scheme.activation_bits - 1
        scale = (high - low) / self.limit
        if scale < torch.finfo(torch.float32).tiny:  # a constant zero tensor still needs a scale
            scale = 1.0
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("zero_point", torch.tensor(round(-low / scale), dtype=torch.int32))

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest value that it gives."""
        scale, zero_point = self.scale.item(), self.zero_point.item()
        return -zero_point * scale, (self.limit - zero_point) * scale

    def forward(self, x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, 0, self.limit)


def rounded_weight(layer: nn.Module, scheme: Scheme = W8A8) -> Tensor:
    """The weight that the integers of ``scheme`` stand for."""
    scale, zero_point = _weight_scale(layer.weight.detach(), scheme)
    return _round_weight(layer.weight.detach(), scale, zero_point, scheme)


def _weight_scale(weight: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Scale and zero point: scalars, or one for each output channel."""
    if not torch.isfinite(weight).all():
        raise ValueError("weights that are NaN or infinite cannot be quantized")
    least, largest = scheme.weight_limits
    flat = weight.flatten(1) if scheme.per_channel else weight.flatten()
    low, high = flat.amin(-1).clamp_max(0), flat.amax(-1).clamp_min(0)
    if scheme.symmetric_weights:
        scale = torch.maximum(-low, high) / largest
        zero_point = torch.zeros_like(scale)
    else:
        scale = (high - low) / (largest - least)
        zero_point = least - low / scale.clamp_min(torch.finfo(scale.dtype).tiny)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # a dead channel still needs a scale
    return scale.float(), zero_point.round().clamp(least, largest).to(torch.int32)


def _round_weight(weight: Tensor, scale: Tensor, zero_point: Tensor, scheme: Scheme) -> Tensor:
    if scale.ndim:
        return torch.fake_quantize_per_channel_affine(weight, scale, zero_point, 0, *scheme.weight_limits)
    # Symmetric weights never reach the limits, and ONNX knows those of 8 bits only.
    limits = W8A8.weight_limits if scheme.symmetric_weights and scheme.weight_bits < 8 else scheme.weight_limits
    return torch.fake_quantize_per_tensor_affine(weight, scale, zero_point, *limits)


# Biases share the accumulator's 32 bits with the sum of products, which gets the other half.
BIAS_LIMIT = 2**30


class QuantizedLayer(nn.Module):
    """A convolution or linear layer with rounded weights; the bias is rounded to int32.

    Where the bias would not fit into 32 bits (weights near zero make its unit so small), the weights take a larger step:
    they then matter less than the last bits of the sum.
    """

    def __init__(self, layer: nn.Module, input_scale: Tensor, scheme: Scheme = W8A8):
        super().__init__()
        self.layer, self.scheme = layer, scheme
        scale, zero_point = _weight_scale(layer.weight.detach(), scheme)
        if layer.bias is not None:
            bias = layer.bias.detach().float().abs()
            least = (bias if scale.ndim else bias.max()) / (input_scale.float() * BIAS_LIMIT)
            zero_point = torch.where(least > scale, torch.zeros_like(zero_point), zero_point)
            scale = torch.maximum(scale, least)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)
        if layer.bias is not None:
            # The accumulator of the integer kernel counts in units of both scales; so does its bias.
            unit = (input_scale * self.scale).double()
            layer.bias.data = (layer.bias.data.double() / unit).round().mul(unit).to(layer.bias.dtype)

    def forward(self, input: Tensor) -> Tensor:  # by torch's name, since callers may use it
        weight = _round_weight(self.layer.weight, self.scale, self.zero_point, self.scheme)
        if isinstance(self.layer, nn.Linear):
            return nn.functional.linear(input, weight, self.layer.bias)
        return self.layer._conv_forward(input, weight, self.layer.bias)


class QuantizedDiscMean(nn.Module):
    """The mean over the disc as an integer sum: the mask's entries are one unit each, so no order of addition matters."""

    def __init__(self, mean: DiscMean):
        super().__init__()
        self.register_buffer("weight", mean.weight.flatten()[:, None].clone())
        self.register_buffer("scale", mean.weight.max().clone())
        self.register_buffer("zero_point", torch.tensor(0, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.fake_quantize_per_tensor_affine(self.weight, self.scale, self.zero_point, *W8A8.weight_limits)
        return torch.matmul(x.flatten(2), weight).flatten(1)


class QuantizedMean(nn.Module):
    """The mean over k x k pixels as an integer sum: a depthwise convolution whose weights are 64 units each.

    Integer kernels of poolings add real numbers, whose last bit depends on the order of the pixels.  64 makes the unit a
    power of two for a power of two of pixels, so that means halfway between two levels are found to be that.
    """

    def __init__(self, pool: nn.AvgPool2d, channels: int):
        super().__init__()
        kernel, self.stride = (
            value if isinstance(value, tuple) else (value, value) for value in (pool.kernel_size, pool.stride)
        )
        self.register_buffer("weight", torch.full((channels, 1, *kernel), 1 / (kernel[0] * kernel[1])))
        self.register_buffer("scale", self.weight.max() / 64)
        self.register_buffer("zero_point", torch.tensor(0, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.fake_quantize_per_tensor_affine(self.weight, self.scale, self.zero_point, *W8A8.weight_limits)
        return nn.functional.conv2d(x, weight, stride=self.stride, groups=len(weight))


def tie_rotated_copies(network: nn.Module) -> None:
    """Make weights and biases that are rotated copies of each other equal to the bit, in place.

    Copies that differ by 1e-7 can be rounded to different integers; then the INT8 network is invariant no more.  Only
    quarter turns, and the reflections of a group that has them, are tied (:class:`equilib.plain.QuarterTurn`), never
    rotations that interpolate.

    Raises:
        ValueError: a layer whose weights are no rotated copies, by name.
    """
    for name, layer in network.named_modules():
        turn = facts(layer).quarter_turn
        if turn is None:
            continue
        try:
            layer.weight.data = turn.tie(layer.weight.data)
            if layer.bias is not None:
                layer.bias.data = turn.tie(layer.bias.data)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def quantize(
    network: fx.GraphModule,
    input_range: tuple[float, float],
    *,
    scheme: Scheme = W8A8,
    ranges: dict[str, Distribution] | None = None,
) -> fx.GraphModule:
    """Insert fake quantizers.

    A tensor is rounded once, where an integer kernel would write it: behind a convolution together with its ReLU,
    behind a residual sum, behind the pooling, behind the mask of the input, and behind a concatenation, whose parts are
    rounded on the grid of the whole (:func:`equilib.ranges.shared_ranges`).

    Args:
        network: folded (:func:`equilib.dfq.fold_batch_norm`), and equalized or not.
        input_range: of the normalised images.
        scheme: bits and scales; by default the paper's W8A8, per tensor.
        ranges: of the activations, such as :func:`calibrated_ranges`; by default data-free ones.

    Returns:
        A new network that simulates INT8 in floating point.
    """
    network = own_copy(network)  # first: what is no traced network is named there
    ranges = shared_ranges(network, activation_ranges(network, input_range) if ranges is None else ranges)
    pools = any(isinstance(module, nn.AvgPool2d) for module in network.modules())
    shapes = output_shapes(network) if pools else {}
    tie_rotated_copies(network)
    quantizers: dict[str, FakeQuantize] = {}
    for node in list(network.graph.nodes):
        # A constant of the graph is no activation: what it is added to or multiplied with is rounded afterwards.
        if node.op in ("output", "get_attr"):
            continue
        module = module_of(network, node)
        source = source_of(node)
        if isinstance(module, LAYERS):
            _replace(network, node.target, QuantizedLayer(module, _read_by(node, source, quantizers).scale, scheme))
        if isinstance(module, DiscMean):
            _replace(network, node.target, QuantizedDiscMean(module))
        if isinstance(module, nn.AvgPool2d) and takes_means(module) and not module.ceil_mode:
            _replace(network, node.target, QuantizedMean(module, shapes[node.name][1]))
        if isinstance(module, SELECTING) and source.name in quantizers:
            # Selecting among rounded values gives rounded values; kernels for what follows a maximum over the group, or
            # a flattening, want to read integers again.
            quantizer = quantizers[node.name] = quantizers[source.name]
            if not isinstance(module, (GroupMax, nn.Flatten)):
                continue
        elif node.name not in ranges or is_final(node) or _joins_what_follows(network, node):
            continue
        else:
            quantizer = _quantizer(node, ranges[node.name], scheme)
        name = f"quantize_{node.name}"
        network.add_submodule(name, deepcopy(quantizer))
        with network.graph.inserting_after(node):
            inserted = network.graph.call_module(name, (node,))
        node.replace_all_uses_with(inserted, delete_user_cb=lambda user, inserted=inserted: user is not inserted)
        quantizers[node.name] = quantizers[inserted.name] = quantizer
    network.graph.lint()
    network.recompile()
    return network


def _read_by(node: fx.Node, source: fx.Node | None, quantizers: dict[str, FakeQuantize]) -> FakeQuantize:
    if source is None or source.name not in quantizers:
        raise ValueError(
            f"the input of {node.target} has no range, so it cannot be rounded; measure ranges on a few images "
            "(calibrated_ranges of this very network) and pass them to quantize(…, ranges=…)"
        )
    return quantizers[source.name]


def _quantizer(node: fx.Node, found: Distribution, scheme: Scheme) -> FakeQuantize:
    try:
        return FakeQuantize(found.low, found.high, scheme)
    except ValueError as error:
        raise ValueError(f"{node.target}: {error}") from error


def _joins_what_follows(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the tensor's only use is one that an integer kernel does in the same go (ReLU, the input's mask)."""
    users = list(node.users)
    return len(users) == 1 and (is_relu(network, users[0]) or isinstance(module_of(network, users[0]), DiscMask))


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent) if parent else network, leaf, module)


def __getattr__(name: str):
    """``export_onnx`` and ``session`` stand in :mod:`equilib.device`; scripts from before that ask for them here."""
    if name in ("export_onnx", "session"):
        from equilib import device

        return getattr(device, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
