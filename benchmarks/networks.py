"""MobileNetV2 from e2cnn's own layers, as somebody without equilib would write it: the yardstick for our layers."""

from __future__ import annotations

import torch
from e2cnn import nn as enn
from torch import nn

from equilib.layers import FieldBatchNorm, FieldReLU, FieldSequence, SteerableConv
from equilib.mobilenet import MobileNetConfig, build

# Name: kind, depthwise layer.  "Grouped" are convolutions in groups of |G| channels: what field-wise layers are once
# exported, with nothing shared.
OURS = {
    "conventional": ("conventional", "strict"),
    "conventional, grouped": ("conventional", "grouped"),
    "strict": ("equivariant", "strict"),
    "field-wise": ("equivariant", "fieldwise"),
}
THEIRS = {"e2cnn, strict": ("equivariant", "strict"), "e2cnn, field-wise": ("equivariant", "fieldwise")}
VARIANTS = (*OURS, *THEIRS)
DIVISOR = 24  # of channels: all networks have the same, with C4 and with C12


def network(variant: str, width: float, group: str) -> nn.Module:
    """One of VARIANTS; channels_last, except e2cnn's, whose layers are no slower, often faster, in the default layout.

    e2cnn has no strict depthwise convolution, so "e2cnn, strict" borrows ours; all else in it is e2cnn's.
    """
    kind, depthwise = (OURS | THEIRS)[variant]
    torch.manual_seed(0)
    result = build(kind, MobileNetConfig(width=width, group=group, divisor=DIVISOR, depthwise=depthwise))
    if variant in THEIRS:
        result.features = _with_e2cnn(result.features)
        result.to(memory_format=torch.contiguous_format)
    return result


def _with_e2cnn(module: enn.EquivariantModule) -> enn.EquivariantModule:
    if isinstance(module, FieldSequence):
        return enn.SequentialModule(*(_with_e2cnn(child) for child in module.children()))
    if isinstance(module, FieldBatchNorm):
        return enn.InnerBatchNorm(module.in_type)
    if isinstance(module, FieldReLU):
        return enn.ReLU(module.in_type)
    if isinstance(module, SteerableConv) and module.depthwise != "strict":
        options = dict(padding=module.padding, stride=module.stride, groups=module.groups, bias=False)
        conv = enn.R2Conv(module.in_type, module.out_type, module.kernel_size, initialize=False, **options)
        nn.init.normal_(conv.weights, std=0.1)
        return conv
    if hasattr(module, "body"):
        module.body = _with_e2cnn(module.body)
    return module
