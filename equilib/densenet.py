"""The paper's third row: a DenseNet equivariant to quarter turns and reflections, after Veeling et al. (2018).

The architecture is the one in the public code of Romero et al. (2020), which follows Veeling et al.: a 3 x 3 convolution
from the image; five dense blocks of one layer each (normalization, ReLU, 3 x 3 convolution without padding, whose output is
laid beside the input, which is cropped by one pixel at each side); between the blocks a transition (normalization, ReLU,
1 x 1 convolution that keeps the number of channels, 2 x 2 mean); at the end normalization, ReLU, the mean over space and group,
and a linear layer to the classes.  From 96 pixels every grid is exact: 96, 94, 92 / 2 = 46, 44 / 2 = 22, 20 / 2 = 10, 8 / 2 = 4, 2.

Here the 2 x 2 mean stands before the 1 x 1 convolution.  Both are linear and one acts on space, the other on channels, so
the function is the same, for a quarter of the multiply-accumulates.

A normalization here stands before its convolution and reads channels that another one reads too.  How it is folded all
the same, :mod:`equilib.folding` says; how a concatenation becomes integers, :mod:`equilib.ranges`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, dataclass

from torch import Tensor, fx, nn

from equilib.checks import check_count, check_kinds
from equilib.fields import Group
from equilib.plain import DenseBlock, DiscMean, FieldDropout, check_pixels

BLOCKS = 5


@dataclass(frozen=True)
class DenseNetConfig:
    """The architecture of both networks.

    Attributes:
        growth: channels of the first layer, and those that each block adds.  24 is the conventional network's; with 64, eight
            fields of D4, the equivariant one has about as many parameters.
        group: of the equivariant network, whose rotations move pixels to pixels; D4 is the published p4m.
        band_limit: of the filters, see :class:`equilib.layers.SteerableConv`; the published ones have none.
        input_size: height and width of the input, in pixels.
        classes: number of logits.
        dropout: before the classifier, of whole fields in the equivariant network.

    Raises:
        ValueError: the argument that makes no network, by name.
    """

    growth: int = 24
    group: str = "D4"
    band_limit: bool = False
    input_size: int = 96
    classes: int = 2
    dropout: float = 0.0

    def __post_init__(self):
        check_kinds(self)
        symmetry = Group.parse(self.group)
        check_count("growth", self.growth), check_count("classes", self.classes)
        if not self.band_limit and symmetry.rotations not in (1, 2, 4):
            raise ValueError(
                f"band_limit=False needs rotations that move pixels to pixels, which those of {symmetry.name} do not; "
                "use C1, C2, C4, D1, D2 or D4"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        for before in self.grids[1:-1]:  # what each transition halves
            if before % 2:
                raise ValueError(
                    f"input_size={self.input_size} leaves a grid of {before} pixels, which a 2 x 2 mean does not divide, "
                    "so quarter turns are not exact; use input_size=96"
                )
        if self.final_size < 1:
            raise ValueError(f"input_size={self.input_size} leaves no pixel behind {BLOCKS} blocks; use input_size=96")

    @property
    def symmetry(self) -> Group:
        """The group as an object."""
        return Group.parse(self.group)

    @property
    def exact_angles(self) -> tuple[int, ...]:
        """Angles (degrees) for which the equivariant network is equivariant exactly."""
        return self.symmetry.exact_angles

    @property
    def grids(self) -> tuple[int, ...]:
        """Height and width behind the first convolution and behind each block, in pixels."""
        sizes = [self.input_size - 2]
        for block in range(BLOCKS):
            sizes.append((sizes[-1] // 2 if block else sizes[-1]) - 2)
        return tuple(sizes)

    @property
    def final_size(self) -> int:
        """Height and width of the last feature map, in pixels."""
        return self.grids[-1]

    @property
    def channels(self) -> int:
        """Of the last feature map."""
        return (BLOCKS + 1) * self.growth

    def to_dict(self) -> dict:
        """A JSON-compatible dictionary; ``DenseNetConfig(**d)`` gives the configuration back."""
        return asdict(self)


class DenseNet(nn.Module):
    """The plain network: (B, 3, n, n) normalised images to (B, classes) logits.

    ``features`` and ``classifier`` may be given: the exported equivariant network is this same class.
    """

    def __init__(
        self, config: DenseNetConfig, features: nn.Sequential | None = None, classifier: nn.Linear | None = None
    ):
        super().__init__()
        self.config = config
        self.features = _features(config, _PlainParts()) if features is None else features
        self.pool = DiscMean(config.final_size)  # of 2 x 2 pixels all lie in the disc
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.channels, config.classes) if classifier is None else classifier

    def forward(self, x: Tensor) -> Tensor:
        _check_size(x, self.config)
        return self.classifier(self.dropout(self.pool(self.features(x))))


class EquivariantDenseNet(nn.Module):
    """The same network of regular fields; ``export()`` gives it as a :class:`DenseNet` of plain torch modules."""

    def __init__(self, config: DenseNetConfig):
        super().__init__()
        from equilib.layers import InvariantLinear

        group = config.symmetry
        if config.growth % group.order:
            raise ValueError(f"growth={config.growth} is no multiple of |{group.name}| = {group.order}")
        self.config = config
        self.features = _features(config, _FieldParts(group, config.band_limit))
        self.pool = DiscMean(config.final_size)
        self.dropout = FieldDropout(config.dropout, group.order)
        self.classifier = InvariantLinear(group, config.channels, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        from e2cnn.nn import GeometricTensor

        _check_size(x, self.config)
        fields = self.features(GeometricTensor(x, self.features.in_type)).tensor
        return self.classifier(self.dropout(self.pool(fields)))

    def export(self) -> DenseNet:
        """The same function in plain torch modules, in evaluation mode."""
        from equilib.layers import export_sequence

        return DenseNet(self.config, export_sequence(self.features), self.classifier.export()).eval()


def _check_size(images: Tensor, config: DenseNetConfig) -> None:
    """Without padding or mask every size has an answer, and only the configured one was trained."""
    if not isinstance(images, fx.Proxy):  # which has no size yet
        check_pixels(images, config.input_size)


def _features(config: DenseNetConfig, parts: _PlainParts | _FieldParts):
    """The walk that both networks share; ``parts`` makes the layers of either kind."""
    growth = channels = config.growth
    layers = OrderedDict(stem=parts.convolution(3, growth, 3, image_input=True))
    for block in range(1, BLOCKS + 1):
        layers[f"block{block}"] = parts.dense(
            parts.sequence(**parts.activation(channels), conv=parts.convolution(channels, growth, 3))
        )
        channels += growth
        if block < BLOCKS:
            layers[f"transition{block}"] = parts.sequence(
                **parts.activation(channels), pool=parts.pool(channels), conv=parts.convolution(channels, channels, 1)
            )
    return parts.sequence(**layers, **parts.activation(channels))


class _PlainParts:
    def convolution(self, inputs: int, outputs: int, kernel: int, image_input: bool = False) -> nn.Conv2d:
        conv = nn.Conv2d(inputs, outputs, kernel, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out")
        return conv

    def activation(self, channels: int) -> dict[str, nn.Module]:
        return {"norm": nn.BatchNorm2d(channels), "relu": nn.ReLU(inplace=True)}

    def pool(self, channels: int) -> nn.AvgPool2d:
        return nn.AvgPool2d(2)

    def dense(self, body: nn.Module) -> DenseBlock:
        return DenseBlock(body)

    def sequence(self, **layers: nn.Module) -> nn.Sequential:
        return nn.Sequential(OrderedDict(layers))


class _FieldParts:
    def __init__(self, group: Group, band_limit: bool):
        self.group, self.band_limit = group, band_limit

    def convolution(self, inputs: int, outputs: int, kernel: int, image_input: bool = False):
        from equilib.layers import SteerableConv

        return SteerableConv(self.group, inputs, outputs, kernel, image_input=image_input, band_limit=self.band_limit)

    def activation(self, channels: int) -> dict:
        from equilib.layers import FieldBatchNorm, FieldReLU

        return {"norm": FieldBatchNorm(self.group, channels), "relu": FieldReLU(self.group, channels)}

    def pool(self, channels: int):
        from equilib.layers import FieldAvgPool

        return FieldAvgPool(self.group, channels)

    def dense(self, body):
        from equilib.layers import EquivariantDense

        return EquivariantDense(body)

    def sequence(self, **layers):
        from equilib.layers import FieldSequence

        return FieldSequence(OrderedDict(layers))
