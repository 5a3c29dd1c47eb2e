"""MobileNetV2, conventional and equivariant, from one architecture table.

Both networks have the same channels, filter sizes, strides and grids; with strict depthwise layers also the same
multiply-accumulates, where field-wise ones (the default, the paper's most likely) cost more.  The differences from
MobileNetV2 (Sandler et al. 2018) are the paper's (section 4): a circular mask on the input and in the final pooling,
odd grids through all strides, fewer strides for the small patches; and ReLU instead of ReLU6, which data-free
quantization needs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equilib.architecture import (  # noqa: F401 (whoever builds a network finds its configuration here)
    IMAGENET_STRIDES,
    PCAM_STRIDES,
    InexactGridError,
    MobileNetConfig,
    round_channels,
)
from equilib.checks import check_count, check_images, reason_of
from equilib.densenet import DenseNet, DenseNetConfig, EquivariantDenseNet
from equilib.grids import Window
from equilib.plain import BlurredConv2d, DiscMask, DiscMean, FieldDropout, GroupMax, Residual
from equilib.variant import KINDS


class MobileNetV2(nn.Module):
    """Plain MobileNetV2 with masks: (B, 3, n, n) normalised images to (B, classes) logits.

    ``features`` and ``classifier`` may be given: the exported equivariant network is this same class.
    """

    def __init__(
        self,
        config: MobileNetConfig,
        features: nn.Sequential | None = None,
        classifier: nn.Module | None = None,
    ):
        super().__init__()
        self.config = config
        self.input_mask = DiscMask(config.input_size)
        self.features = _conventional_features(config) if features is None else features
        self.pool = DiscMean(config.final_size)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.head_channels, config.classes) if classifier is None else classifier
        if features is None:
            _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.pool(self.features(self.input_mask(x)))))


def _check_divisor(config: MobileNetConfig) -> None:
    order = config.symmetry.order
    if config.divisor % order:
        raise ValueError(f"divisor={config.divisor} is no multiple of |{config.symmetry.name}| = {order}")


def _features(config: MobileNetConfig, convolution: Callable, sequence: Callable, residual: Callable) -> nn.Module:
    """Walk the table once, for a network of either kind.

    Args:
        convolution: makes a convolution with its normalization and ReLU of (inputs, outputs, window), and of the keywords
            ``depthwise``, ``activation`` (whether a ReLU follows) and ``image_input``.
        sequence: makes a module of an OrderedDict of modules.
        residual: makes x + body(x) of a body.
    """

    def block(spec):
        parts = OrderedDict()
        if spec.hidden != spec.inputs:
            parts["expand"] = convolution(spec.inputs, spec.hidden, Window(1))
        parts["depthwise"] = convolution(spec.hidden, spec.hidden, spec.window, depthwise=True)
        parts["project"] = convolution(spec.hidden, spec.outputs, Window(1), activation=False)
        body = sequence(parts)
        return residual(body) if spec.residual else body

    parts = OrderedDict(stem=convolution(3, config.stem_channels, config.stages[0].window, image_input=True))
    parts.update((spec.name, block(spec)) for spec in config.blocks)
    parts["head"] = convolution(config.blocks[-1].outputs, config.head_channels, Window(1))
    return sequence(parts)


def _conventional_features(config: MobileNetConfig) -> nn.Sequential:
    mixed = 1  # channels that a depthwise filter sees
    if config.depthwise == "grouped":
        _check_divisor(config)
        mixed = config.symmetry.order

    def convolution(inputs, outputs, window, *, depthwise=False, activation=True, image_input=False):
        convolve = BlurredConv2d if config.blurs(window) else nn.Conv2d
        sizes = config.learnt_size(window), window.stride, window.padding
        groups = inputs // mixed if depthwise else 1
        layers = OrderedDict(
            conv=convolve(inputs, outputs, *sizes, groups=groups, bias=False),
            norm=nn.BatchNorm2d(outputs),
        )
        if activation:
            layers["relu"] = nn.ReLU(inplace=True)  # nothing else reads the normalized values: a pass and a map saved
        return nn.Sequential(layers)

    return _features(config, convolution, nn.Sequential, Residual)


def _initialize(network: nn.Module) -> None:
    """MobileNetV2's initialisation: He (fan out) for convolutions, small normal for the classifier."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


class EquivariantMobileNetV2(nn.Module):
    """MobileNetV2 whose feature maps are regular fields of ``config.group``: same shapes as :class:`MobileNetV2`.

    ``export()`` gives the same function as a :class:`MobileNetV2` of plain torch modules.
    """

    def __init__(self, config: MobileNetConfig):
        super().__init__()
        from equilib.layers import InvariantLinear

        if config.depthwise == "grouped":
            raise ValueError(
                "depthwise='grouped' is the conventional network's; the equivariant one has 'fieldwise' for it"
            )
        self.config = config
        group = config.symmetry
        _check_divisor(config)
        self.input_mask = DiscMask(config.input_size)
        self.features = _equivariant_features(config)
        self.pool = DiscMean(config.final_size)
        dropped = group.order if config.field_dropout and config.group_pooling == "mean" else 1
        self.dropout = FieldDropout(config.dropout, dropped)
        if config.group_pooling == "max":
            self.group_pool = GroupMax(group.order)
            linear = self.classifier = nn.Linear(config.head_channels // group.order, config.classes)
        else:
            self.group_pool = nn.Identity()
            self.classifier = InvariantLinear(group, config.head_channels, config.classes)
            linear = self.classifier.linear
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        from e2cnn.nn import GeometricTensor

        fields = self.features(GeometricTensor(self.input_mask(x), self.features.in_type)).tensor
        return self.classifier(self.dropout(self.pool(self.group_pool(fields))))

    def export(self) -> MobileNetV2:
        """The same function in plain torch modules (evaluation mode), with no e2cnn inside.

        Depthwise layers become true depthwise convolutions (groups = channels) when ``config.depthwise`` is
        ``"strict"``.  Each exported convolution carries the partition of its output channels into fields and the
        rotation under which its weights are copies (:class:`equilib.plain.LayerFacts`).
        """
        from equilib.layers import export_sequence

        features = export_sequence(self.features)
        if self.config.group_pooling == "max":
            features.add_module("group_pool", self.group_pool)
            classifier = deepcopy(self.classifier)
        else:
            classifier = self.classifier.export()
        return MobileNetV2(self.config, features, classifier).eval()


def _equivariant_features(config: MobileNetConfig):
    from equilib.layers import EquivariantResidual, FieldBatchNorm, FieldReLU, FieldSequence, SteerableConv

    group = config.symmetry

    def convolution(inputs, outputs, window, *, depthwise=False, activation=True, image_input=False):
        layers = OrderedDict(
            conv=SteerableConv(
                group,
                inputs,
                outputs,
                config.learnt_size(window),
                stride=window.stride,
                padding=window.padding,
                depthwise=config.depthwise if depthwise else None,
                image_input=image_input,
                band_limit=config.band_limit,
                blur=config.blurs(window),
            ),
            norm=FieldBatchNorm(group, outputs),
        )
        if activation:
            layers["relu"] = FieldReLU(group, outputs)
        return FieldSequence(layers)

    return _features(config, convolution, FieldSequence, EquivariantResidual)


@dataclass(frozen=True)
class LayerCost:
    """Parameters and multiply-accumulates of one convolution or linear layer, for one image."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    macs: int


def count_costs(network: nn.Module, input_size: int) -> list[LayerCost]:
    """Count the layers of a plain network by running one image through it (hooks, no estimate).

    Raises:
        ValueError: the network takes no images of this size.
    """
    check_count("input_size", input_size)
    costs: list[LayerCost] = []

    def record(name):
        def hook(module, inputs, output):
            weight = module.filter() if isinstance(module, BlurredConv2d) else module.weight
            per_output = weight[0].numel()
            kind = type(module).__name__
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                kind = "Conv2d, depthwise" if module.groups == module.in_channels else "Conv2d, grouped"
            parameters = sum(p.numel() for p in module.parameters())
            costs.append(LayerCost(name, kind, tuple(output.shape[1:]), parameters, per_output * output[0].numel()))

        return hook

    layers = [(n, m) for n, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    handles = [module.register_forward_hook(record(name)) for name, module in layers]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, input_size, input_size).to(next(network.parameters(), torch.zeros(()))))
    except RuntimeError as error:
        raise ValueError(
            f"the network takes no image of {input_size} x {input_size} pixels: {reason_of(error)}"
        ) from error
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return costs


def count_parameters(network: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def build(kind: str, config: MobileNetConfig | DenseNetConfig) -> nn.Module:
    """``"conventional"`` or ``"equivariant"``, from the same configuration; of which family, its class says."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    if isinstance(config, DenseNetConfig):
        network = EquivariantDenseNet if kind == "equivariant" else DenseNet
    else:
        network = EquivariantMobileNetV2 if kind == "equivariant" else MobileNetV2
    return network(config).to(memory_format=torch.channels_last)


def estimate_statistics(network: nn.Module, images: Tensor | Iterable[Tensor]) -> nn.Module:
    """Set the running statistics of every batch normalization to those of these images; returns the network, for evaluation.

    A fresh network's running statistics (mean 0, variance 1) are far from its activations', which then fade from layer to
    layer in evaluation mode: anything measured on an untrained network needs this first.  And those of a trained network
    are of augmented patches, and lag behind its weights (Wu and Johnson 2021, section 3).

    Args:
        images: (B, 3, n, n), normalised, a few dozen; or batches of them, whose means and variances are averaged.

    Raises:
        ValueError: no image, or one that holds NaN or infinite values.
    """
    norms = [module for module in network.modules() if hasattr(module, "running_mean")]
    momenta = [norm.momentum for norm in norms]
    try:
        with torch.no_grad():
            count = 0
            for count, batch in enumerate([images] if isinstance(images, Tensor) else images, start=1):
                check_images(batch)
                for norm in norms:
                    norm.momentum = 1 / count
                network.train()(batch)
            if not count:
                raise ValueError("images is empty: the statistics of at least one image are needed")
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
        network.eval()
    return network


def exported(network: nn.Module) -> nn.Module:
    """A plain network in evaluation mode: the export of an equivariant one, a copy of a conventional one."""
    if isinstance(network, (EquivariantMobileNetV2, EquivariantDenseNet)):
        return network.export()
    plain = deepcopy(network).eval()
    for module in list(plain.modules()):
        if isinstance(module, nn.ReLU):
            module.inplace = False  # whoever looks at the values before the ReLU must find them
        for name, child in module.named_children():
            if isinstance(child, BlurredConv2d):
                setattr(module, name, child.export())
    return plain
