"""MobileNetV2, conventional and equivariant, from one architecture table.

Both networks have the same channels, filter sizes, strides, grids and multiply-accumulates.  The differences from
MobileNetV2 (Sandler et al. 2018) are the paper's (section 4): a circular mask on the input and in the final pooling,
odd grids through all strides, fewer strides for the small patches; and ReLU instead of ReLU6, which data-free
quantization needs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from equilib.densenet import DenseNet, DenseNetConfig, EquivariantDenseNet
from equilib.fields import Group
from equilib.grids import Stage, Window, nearest_exact_sizes, trace_stages
from equilib.plain import DiscMask, DiscMean, FieldDropout, GroupMax, Residual
from equilib.variant import DEPTHWISE, KINDS

# Sandler et al. 2018, Table 2: expansion factor, channels, repeats; the stem and the head stand apart.
STEM_CHANNELS = 32
BLOCKS = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
HEAD_CHANNELS = 1280

IMAGENET_STRIDES = (2, 1, 2, 2, 2, 1, 2, 1)
# Two strides of MobileNetV2 reduced to 1, the last two: of all choices this costs least (the grids shrink early).
PCAM_STRIDES = (2, 1, 2, 2, 1, 1, 1, 1)

GROUP_POOLINGS = ("mean", "max")


class InexactGridError(ValueError):
    """The configuration samples the grid asymmetrically, so it cannot commute with 90-degree rotations."""


def round_channels(channels: float, divisor: int) -> int:
    """The nearest multiple of ``divisor``, but never below 90 % of ``channels`` (MobileNetV2's own rule)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


@dataclass(frozen=True)
class MobileNetConfig:
    """The architecture of both networks.

    Attributes:
        width: multiplier of all channel numbers.
        group: the group of the equivariant network, such as ``"C12"`` or ``"D4"``.
        divisor: channels are rounded to a multiple of it; by default |G|, for both networks.
        strides: of the stem and of the first layer in each of the seven rows of the table.
        strided_padding: zero padding of the layers with a stride (layers of stride 1 keep their size).
        input_size: height and width of the (cropped) input, in pixels.
        classes: number of logits.
        depthwise: of the equivariant network: ``"strict"`` or ``"fieldwise"``, see :class:`equilib.layers.SteerableConv`.
            The conventional network filters channel by channel with either, as MobileNetV2 does; ``"grouped"``, which only
            it can have, are convolutions in groups of |G| channels: what field-wise layers are once exported.
        band_limit: of the equivariant filters, see :class:`equilib.layers.SteerableConv`.
        group_pooling: how the equivariant network becomes invariant: the ``"mean"`` over each field, in the
            classifier (the exported network then is a conventional MobileNetV2), or the ``"max"`` before the spatial
            mean.
        dropout: before the classifier.
        field_dropout: in the equivariant network, drop whole fields.  The classifier takes the mean over a field, which
            averages away most of what is dropped channel by channel.
        allow_inexact: accept grids on which 90-degree rotations are not exact.

    Raises:
        InexactGridError: a stage breaks the exactness rule of :mod:`equilib.grids` (unless ``allow_inexact``).
        ValueError: any other argument that makes no network.
    """

    width: float = 1.0
    group: str = "C12"
    divisor: int | None = None
    strides: tuple[int, ...] = PCAM_STRIDES
    strided_padding: int = 0
    input_size: int = 95
    classes: int = 2
    depthwise: str = "strict"
    band_limit: bool = True
    group_pooling: str = "mean"
    dropout: float = 0.2
    field_dropout: bool = True
    allow_inexact: bool = False

    def __post_init__(self):
        object.__setattr__(self, "strides", tuple(self.strides))
        symmetry = Group.parse(self.group)
        if self.divisor is None:
            object.__setattr__(self, "divisor", symmetry.order)
        if self.width <= 0:
            raise ValueError(f"width must be positive, got {self.width}")
        for name in ("divisor", "classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if len(self.strides) != len(BLOCKS) + 1 or any(stride < 1 for stride in self.strides):
            raise ValueError(
                f"strides must be {len(BLOCKS) + 1} positive numbers (the stem and {len(BLOCKS)} rows), got {self.strides}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if self.depthwise not in DEPTHWISE:
            raise ValueError(f"depthwise must be one of {DEPTHWISE}, got {self.depthwise!r}")
        if not self.band_limit and symmetry.rotations not in (1, 2, 4):
            raise ValueError(
                f"band_limit=False needs rotations that move pixels to pixels, which those of {symmetry.name} do not; "
                "use C1, C2, C4, D1, D2 or D4"
            )
        if self.group_pooling not in GROUP_POOLINGS:
            raise ValueError(f"group_pooling must be one of {GROUP_POOLINGS}, got {self.group_pooling!r}")
        broken = [stage for stage in self.stages if not stage.exact]
        if broken and not self.allow_inexact:
            windows = [(stage.name, stage.window) for stage in self.stages]
            sizes = nearest_exact_sizes(self.input_size, windows)
            remedy = f"input_size={sizes[0]}" if sizes else "another strided_padding"
            raise InexactGridError(
                "the strided layers sample the grid asymmetrically, so 90-degree rotations are not exact:\n  "
                + "\n  ".join(stage.explain() for stage in broken)
                + f"\nUse {remedy}, or pass allow_inexact=True to see what happens."
            )

    @property
    def symmetry(self) -> Group:
        """The group as an object."""
        return Group.parse(self.group)

    @property
    def exact_angles(self) -> tuple[int, ...]:
        """Angles (degrees) for which the equivariant network is equivariant exactly."""
        exact = all(stage.exact for stage in self.stages)
        return self.symmetry.exact_angles if exact else (0,)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The inverted residual blocks, in order."""
        blocks, channels = [], self.stem_channels
        for row, (expansion, width, repeats) in enumerate(BLOCKS, start=1):
            out = round_channels(width * self.width, self.divisor)
            for repeat in range(repeats):
                window = self._window(self.strides[row] if repeat == 0 else 1)
                blocks.append(Block(f"block{len(blocks) + 1}", channels, channels * expansion, out, window))
                channels = out
        return tuple(blocks)

    @property
    def stem_channels(self) -> int:
        return round_channels(STEM_CHANNELS * self.width, self.divisor)

    @property
    def head_channels(self) -> int:
        return round_channels(HEAD_CHANNELS * self.width, self.divisor)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """Every 3 x 3 convolution with the grid that it works on."""
        windows = [("stem", self._window(self.strides[0]))] + [(block.name, block.window) for block in self.blocks]
        return tuple(trace_stages(self.input_size, windows))

    @property
    def final_size(self) -> int:
        """Height and width of the last feature map, in pixels."""
        return self.stages[-1].output_size

    def _window(self, stride: int) -> Window:
        return Window(3, stride, 1 if stride == 1 else self.strided_padding)

    def to_dict(self) -> dict:
        """A JSON-compatible dictionary; ``MobileNetConfig(**d)`` gives the configuration back."""
        return asdict(self) | {"strides": list(self.strides)}

    def replace(self, **changes) -> MobileNetConfig:
        """A copy with other values; with another group the default divisor follows."""
        if "group" in changes and self.divisor == self.symmetry.order:
            changes = {"divisor": None} | changes
        return replace(self, **changes)


@dataclass(frozen=True)
class Block:
    """An inverted residual: 1x1 expansion (absent where hidden == inputs), depthwise 3x3, linear 1x1 projection."""

    name: str
    inputs: int
    hidden: int
    outputs: int
    window: Window

    @property
    def residual(self) -> bool:
        return self.window.stride == 1 and self.inputs == self.outputs


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
        groups = inputs // mixed if depthwise else 1
        layers = OrderedDict(
            conv=nn.Conv2d(inputs, outputs, window.kernel, window.stride, window.padding, groups=groups, bias=False),
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
                window.kernel,
                stride=window.stride,
                padding=window.padding,
                depthwise=config.depthwise if depthwise else None,
                image_input=image_input,
                band_limit=config.band_limit,
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
    """Count the layers of a plain network by running one image through it (hooks, no estimate)."""
    costs: list[LayerCost] = []

    def record(name):
        def hook(module, inputs, output):
            per_output = module.weight[0].numel()
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
            network.eval()(torch.zeros(1, 3, input_size, input_size))
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
    """
    norms = [module for module in network.modules() if hasattr(module, "running_mean")]
    momenta = [norm.momentum for norm in norms]
    try:
        with torch.no_grad():
            for count, batch in enumerate([images] if isinstance(images, Tensor) else images, start=1):
                for norm in norms:
                    norm.momentum = 1 / count
                network.train()(batch)
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
    return network.eval()


def exported(network: nn.Module) -> nn.Module:
    """A plain network in evaluation mode: the export of an equivariant one, a copy of a conventional one."""
    if isinstance(network, (EquivariantMobileNetV2, EquivariantDenseNet)):
        return network.export()
    plain = deepcopy(network).eval()
    for module in plain.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # whoever looks at the values before the ReLU must find them
    return plain
