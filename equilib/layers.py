"""Equivariant layers that are e2cnn modules to the outside and plain, fast PyTorch inside.

All of them map regular fields to regular fields (or image channels to regular fields), take and return e2cnn's
``GeometricTensor``, and ``export()`` to plain torch modules.  Unlike e2cnn's ``R2Conv`` they keep
no expanded filter between calls: their ``state_dict`` is the same in training and in evaluation, and an edited weight
takes effect at once.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from e2cnn import nn as enn
from e2cnn.nn import EquivariantModule, FieldType, GeometricTensor
from torch import Tensor, nn

from equilib.field_norm import NormalizeFields
from equilib.fields import Group, channel_permutation, mirror_permutation
from equilib.filters import pixel_basis, steerable_basis
from equilib.plain import Crop, DenseBlock, QuarterTurn, Residual, blurred, note
from equilib.variant import STEERABLE_DEPTHWISE


def regular_type(group: Group, channels: int) -> FieldType:
    """The field type of ``channels / |G|`` regular fields; raises ValueError where that is no whole number."""
    if channels % group.order:
        raise ValueError(f"{channels} channels are no multiple of |{group.name}| = {group.order}")
    return FieldType(group.gspace, [group.gspace.regular_repr] * (channels // group.order))


def image_type(group: Group, channels: int = 3) -> FieldType:
    """The field type of an image: ``channels`` trivial fields."""
    return FieldType(group.gspace, [group.gspace.trivial_repr] * channels)


class SteerableConv(EquivariantModule):
    """A convolution whose filters are combinations of a steerable basis (section 3 of the paper).

    Args:
        group: the group G.
        in_channels, out_channels: of the expanded filter.  Outputs are regular fields; so are inputs, unless
            ``image_input``, when each input channel is a trivial field.
        kernel_size, stride, padding: as in ``torch.nn.Conv2d``.
        depthwise: None for a convolution over all fields.  ``"strict"``: a filter per channel, the |G| filters of a
            field being the rotated copies of one filter (groups = channels).  ``"fieldwise"``: each field by itself,
            its |G| channels mixed (groups = number of fields).
        band_limit: whether the filters' angular frequencies are limited, as e2cnn does.  Without it all filters are taken
            that the pixels can hold (:func:`equilib.filters.pixel_basis`): for C1, C2, C4, D1, D2 and D4 only.
        blur: convolve the filters with the binomial one (:func:`equilib.plain.blurred`), so that they are larger by two
            pixels than ``kernel_size``; ``padding`` is that of the larger filter.

    Shapes: (B, in_channels, H, W) to (B, out_channels, H', W').  ``weights`` holds the coefficients:
    (out fields, in fields, K), or (fields, K) when depthwise.
    """

    def __init__(
        self,
        group: Group,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        depthwise: str | None = None,
        image_input: bool = False,
        band_limit: bool = True,
        blur: bool = False,
    ):
        super().__init__()
        if depthwise not in (None, *STEERABLE_DEPTHWISE):
            raise ValueError(f"depthwise must be one of {STEERABLE_DEPTHWISE} or None, got {depthwise!r}")
        if depthwise and (in_channels != out_channels or image_input):
            raise ValueError("a depthwise convolution keeps its number of channels and acts on regular fields")
        self.in_type = image_type(group, in_channels) if image_input else regular_type(group, in_channels)
        self.out_type = regular_type(group, out_channels)
        self.group, self.depthwise = group, depthwise
        self.kernel_size, self.stride, self.padding, self.blur = kernel_size, stride, padding, blur
        in_repr = "trivial" if image_input or depthwise == "strict" else "regular"
        if band_limit:
            basis = steerable_basis(group, in_repr, "regular", kernel_size)
        else:
            basis = pixel_basis(group, in_repr, kernel_size)
        # One unit for coefficients and filter entries: a filter from independent coefficients of variance v has entries
        # of variance v on average.  Optimizers with a step of fixed length (Adam's) then move both networks' filters
        # alike.  The basis is a constant of the architecture, so checkpoints do without it.
        entry_std = basis.square().sum(0).mean().sqrt()
        self.register_buffer("basis", basis.flatten(1) / entry_std, persistent=False)
        self.block = tuple(basis.shape[1:3])  # channels of one output and of one input field
        fields = (len(self.out_type),) if depthwise else (len(self.out_type), len(self.in_type))
        self.weights = nn.Parameter(torch.empty(*fields, basis.shape[0]))
        self.groups = in_channels // basis.shape[2] if depthwise else 1
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation by fan out, so that entries of the filter have variance 2 / (k^2 out_channels).

        MobileNetV2's own rule, depthwise layers included (torch counts their fan out as if they were dense).
        """
        nn.init.normal_(self.weights, std=math.sqrt(2 / (self.kernel_size**2 * self.out_type.size)))

    def filter(self) -> Tensor:
        """The expanded filter, (out_channels, in_channels / groups, k, k); with ``blur`` two pixels larger."""
        out_size, in_size = self.block
        expanded = (self.weights @ self.basis).unflatten(-1, (out_size, in_size, self.kernel_size, self.kernel_size))
        if not self.depthwise:
            expanded = expanded.transpose(1, 2).flatten(2, 3)  # (out fields, |G|, in_channels, k, k)
        expanded = expanded.flatten(0, 1)
        return (blurred(expanded) if self.blur else expanded).contiguous(memory_format=torch.channels_last)

    def forward(self, x: GeometricTensor) -> GeometricTensor:
        if x.type != self.in_type:
            raise TypeError(f"expected fields of type {self.in_type}, got {x.type}")
        y = F.conv2d(x.tensor, self.filter(), None, self.stride, self.padding, groups=self.groups)
        return GeometricTensor(y, self.out_type)

    def evaluate_output_shape(self, input_shape):
        reach = self.kernel_size + 2 * self.blur
        size = [(n + 2 * self.padding - reach) // self.stride + 1 for n in input_shape[2:]]
        return (input_shape[0], self.out_type.size, *size)

    def export(self) -> nn.Conv2d:
        weight = self.filter().detach().clone()
        conv = nn.Conv2d(
            self.in_type.size,
            self.out_type.size,
            weight.shape[-1],
            self.stride,
            self.padding,
            groups=self.groups,
            bias=False,
        )
        conv.weight = nn.Parameter(weight)
        turn = _quarter_turn(self.group, inputs=self.block[1] > 1, outputs=True)
        note(conv, field_size=self.group.order, quarter_turn=turn)
        return conv.eval()


def _quarter_turn(group: Group, *, inputs: bool, outputs: bool) -> QuarterTurn | None:
    """None where the group holds neither 90 nor 180 degrees."""
    for parts in (4, 2):
        if group.rotations % parts == 0:
            source = channel_permutation(group, group.rotations // parts)
            return QuarterTurn(360 // parts, source, inputs, outputs, mirror_permutation(group))
    return None


class FieldBatchNorm(EquivariantModule):
    """Batch normalization that shares statistics and affine parameters among the |G| channels of a field.

    The same function as e2cnn's ``InnerBatchNorm`` on regular fields; the running variance is the unbiased one, as in
    ``torch.nn.BatchNorm2d``.
    """

    def __init__(self, group: Group, channels: int, *, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.in_type = self.out_type = regular_type(group, channels)
        self.size, self.eps, self.momentum = group.order, eps, momentum
        fields = len(self.in_type)
        self.weight = nn.Parameter(torch.ones(fields))
        self.bias = nn.Parameter(torch.zeros(fields))
        self.register_buffer("running_mean", torch.zeros(fields))
        self.register_buffer("running_var", torch.ones(fields))

    def forward(self, x: GeometricTensor, *, relu: bool = False) -> GeometricTensor:
        """Normalize; with ``relu``, the ReLU after it is taken in the same pass over memory."""
        if self.training:
            y = self._normalize_by_batch(x.tensor, relu)
        else:
            y = F.batch_norm(x.tensor, *(p.repeat_interleave(self.size) for p in self._statistics()), eps=self.eps)
            y = F.relu(y) if relu else y
        return GeometricTensor(y, self.out_type)

    def _formula(self, x: Tensor, relu: bool) -> tuple[Tensor, Tensor, Tensor]:
        """What :class:`equilib.field_norm.NormalizeFields` computes: the output, and mean and variance of each field."""
        values = x.unflatten(1, (-1, self.size))
        variance, mean = torch.var_mean(values, (0, 2, 3, 4), correction=0)
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        y = x * scale.repeat_interleave(self.size)[:, None, None] + shift.repeat_interleave(self.size)[:, None, None]
        return F.relu(y) if relu else y, mean, variance

    def _normalize_by_batch(self, x: Tensor, relu: bool) -> Tensor:
        dtype = x.dtype
        if dtype in (torch.float16, torch.bfloat16) and (torch.compiler.is_compiling() or x.device.type != "cpu"):
            x = x.float()  # for sums; the kernel does so by blocks, in half precision tried on CPUs alone
        if torch.compiler.is_compiling():  # the compiler fuses the plain formula itself
            y, mean, variance = self._formula(x, relu)
        else:
            x = x.contiguous(memory_format=torch.channels_last)
            y, mean, variance = NormalizeFields.apply(x, self.weight, self.bias, self.size, self.eps, relu)
        count = x.numel() // len(self.in_type)
        with torch.no_grad():
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(variance.detach() * (count / max(count - 1, 1)), self.momentum)
        return y.to(dtype)

    def _statistics(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.running_mean, self.running_var, self.weight, self.bias

    def evaluate_output_shape(self, input_shape):
        return input_shape

    def export(self) -> nn.BatchNorm2d:
        norm = nn.BatchNorm2d(self.in_type.size, self.eps, self.momentum, dtype=self.weight.dtype)
        mean, variance, weight, bias = (p.detach().repeat_interleave(self.size) for p in self._statistics())
        norm.load_state_dict(
            {"weight": weight, "bias": bias, "running_mean": mean, "running_var": variance}, strict=False
        )
        return norm.eval()


class FieldReLU(EquivariantModule):
    """ReLU on regular fields: pointwise, so it commutes with every permutation of channels."""

    def __init__(self, group: Group, channels: int):
        super().__init__()
        self.in_type = self.out_type = regular_type(group, channels)

    def forward(self, x: GeometricTensor) -> GeometricTensor:
        return GeometricTensor(F.relu(x.tensor), self.out_type)

    def evaluate_output_shape(self, input_shape):
        return input_shape

    def export(self) -> nn.ReLU:
        return nn.ReLU()


class FieldSequence(enn.SequentialModule):
    """e2cnn's SequentialModule, which takes a FieldReLU behind a FieldBatchNorm in the same pass over memory."""

    def forward(self, x: GeometricTensor) -> GeometricTensor:
        modules = list(self.children())
        while modules:
            module = modules.pop(0)
            if isinstance(module, FieldBatchNorm) and modules and isinstance(modules[0], FieldReLU):
                modules.pop(0)
                x = module(x, relu=True)
            else:
                x = module(x)
        return x


class EquivariantResidual(EquivariantModule):
    """x + body(x) for a body that keeps its field type."""

    def __init__(self, body: enn.SequentialModule):
        super().__init__()
        self.body = body
        self.in_type = self.out_type = body.out_type

    def forward(self, x: GeometricTensor) -> GeometricTensor:
        return x + self.body(x)

    def evaluate_output_shape(self, input_shape):
        return input_shape

    def export(self) -> Residual:
        return Residual(export_sequence(self.body))


class EquivariantDense(EquivariantModule):
    """The input, cropped by one pixel at each side, and behind it the fields that ``body`` (no padding) makes of it."""

    def __init__(self, body: enn.SequentialModule):
        super().__init__()
        self.body, self.crop = body, Crop(1)
        self.in_type = body.in_type
        self.out_type = self.in_type + body.out_type

    def forward(self, x: GeometricTensor) -> GeometricTensor:
        return GeometricTensor(torch.cat((self.crop(x.tensor), self.body(x).tensor), 1), self.out_type)

    def evaluate_output_shape(self, input_shape):
        return (input_shape[0], self.out_type.size, *(n - 2 for n in input_shape[2:]))

    def export(self) -> DenseBlock:
        return DenseBlock(export_sequence(self.body))


class FieldAvgPool(EquivariantModule):
    """The mean over 2 x 2 pixels, channel by channel: exact under quarter turns where the grid is even."""

    def __init__(self, group: Group, channels: int):
        super().__init__()
        self.in_type = self.out_type = regular_type(group, channels)

    def forward(self, x: GeometricTensor) -> GeometricTensor:
        return GeometricTensor(F.avg_pool2d(x.tensor, 2), self.out_type)

    def evaluate_output_shape(self, input_shape):
        return (*input_shape[:2], *(n // 2 for n in input_shape[2:]))

    def export(self) -> nn.AvgPool2d:
        return nn.AvgPool2d(2)


def export_sequence(sequence: enn.SequentialModule) -> nn.Sequential:
    """Export the modules of an e2cnn sequence one by one, keeping their names."""
    plain = nn.Sequential()
    for name, module in sequence.named_children():
        nested = isinstance(module, enn.SequentialModule)
        plain.add_module(name, export_sequence(module) if nested else module.export())
    return plain.eval()


class InvariantLinear(nn.Module):
    """A linear layer on pooled regular fields that sees only the mean of each field: (B, fields * |G|) to (B, out).

    Its expanded weight is constant within a field, so it exports to a plain ``nn.Linear``.
    """

    def __init__(self, group: Group, channels: int, out_features: int):
        super().__init__()
        self.group, self.field_size = group, group.order
        self.linear = nn.Linear(channels // group.order, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.unflatten(1, (-1, self.field_size)).mean(2))

    def export(self) -> nn.Linear:
        plain = nn.Linear(self.linear.in_features * self.field_size, self.linear.out_features)
        weight = self.linear.weight.detach().repeat_interleave(self.field_size, 1) / self.field_size
        plain.weight = nn.Parameter(weight)
        plain.bias = nn.Parameter(self.linear.bias.detach().clone())
        turn = _quarter_turn(self.group, inputs=True, outputs=False)
        note(plain, field_size=self.field_size, quarter_turn=turn)
        return plain.eval()
