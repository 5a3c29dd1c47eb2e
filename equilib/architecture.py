"""The architecture table of both networks, and its configuration: channels, strides and grids, without a weight.

MobileNetV2's table (Sandler et al. 2018) with the paper's changes (section 4): odd grids through all strides and fewer
strides for the small patches.  :mod:`equilib.mobilenet` makes the two networks of it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property

from equilib.checks import check_count, check_kinds
from equilib.fields import Group
from equilib.grids import Stage, Window, nearest_exact_sizes, trace_stages
from equilib.hdf5 import PATCH_SIZE
from equilib.variant import DEPTHWISE

# Sandler et al. 2018, Table 2: expansion factor, channels, repeats; the stem and the head stand apart.
STEM_CHANNELS = 32
BLOCKS = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
HEAD_CHANNELS = 1280
WIDEST = 100  # times these channels: no memory holds more

IMAGENET_STRIDES = (2, 1, 2, 2, 2, 1, 2, 1)
# Two strides of MobileNetV2 reduced to 1, the last two: of all choices this costs least (the grids shrink early).
PCAM_STRIDES = (2, 1, 2, 2, 1, 1, 1, 1)

GROUP_POOLINGS = ("mean", "max")
BLUR = 3  # pixels of the binomial filter, (1, 2, 1) / 4 along each axis


class InexactGridError(ValueError):
    """The configuration samples the grid asymmetrically, so it cannot commute with rotations by 90°."""


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
        depthwise: of the equivariant network: ``"fieldwise"``, as e2cnn's ``R2Conv(groups=…)`` filters and so most likely
            the paper's network, or ``"strict"``, which costs what the conventional network costs; see
            :class:`equilib.layers.SteerableConv`.  The conventional network filters channel by channel with either, as
            MobileNetV2 does; ``"grouped"``, which only it can have, are convolutions in groups of |G| channels: what
            field-wise layers are once exported.
        band_limit: of the equivariant filters, see :class:`equilib.layers.SteerableConv`.
        group_pooling: how the equivariant network becomes invariant: the ``"mean"`` over each field, in the
            classifier (the exported network then is a conventional MobileNetV2), or the ``"max"`` before the spatial
            mean.
        dropout: before the classifier.
        field_dropout: in the equivariant network, drop whole fields.  The classifier takes the mean over a field, which
            averages away most of what is dropped channel by channel.
        antialias: in both networks, layers with a stride see a blurred input (Zhang 2019, here before the filter): their
            filters are those of 3 x 3 pixels convolved with the binomial one, so of 5 x 5, on the same grids.
        allow_inexact: accept grids on which rotations by 90° are not exact.

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
    depthwise: str = "fieldwise"
    band_limit: bool = True
    group_pooling: str = "mean"
    dropout: float = 0.2
    field_dropout: bool = True
    antialias: bool = False
    allow_inexact: bool = False

    def __post_init__(self):
        check_kinds(self)
        object.__setattr__(self, "strides", tuple(self.strides))
        symmetry = Group.parse(self.group)
        if self.divisor is None:
            object.__setattr__(self, "divisor", symmetry.order)
        if not 0 < self.width <= WIDEST:
            raise ValueError(f"width must be positive, and at most {WIDEST}, got {self.width}")
        if self.strided_padding < 0:
            raise ValueError(f"strided_padding must not be negative, got {self.strided_padding}")
        for name in ("divisor", "classes"):
            check_count(name, getattr(self, name))
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
        try:
            broken = [stage for stage in self.stages if not stage.exact]
        except ValueError as error:
            raise ValueError(f"input_size={self.input_size} is too small for this network: {error}") from error
        if broken and not self.allow_inexact:
            windows = [(stage.name, stage.window) for stage in self.stages]
            # Patches are not made larger: of a size that they have, the way out is one that they have, too.
            sizes = [n for n in nearest_exact_sizes(self.input_size, windows) if n <= max(PATCH_SIZE, self.input_size)]
            remedy = f"input_size={sizes[0]}" if sizes else "another strided_padding"
            raise InexactGridError(
                "the strided layers sample the grid asymmetrically, so rotations by 90° are not exact:\n  "
                + ";\n  ".join(stage.explain() for stage in broken)
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
        if stride > 1 and self.antialias:
            return Window(3 + BLUR - 1, stride, self.strided_padding + BLUR // 2)
        return Window(3, stride, 1 if stride == 1 else self.strided_padding)

    def blurs(self, window: Window) -> bool:
        """Whether a layer with this window blurs what it sees."""
        return self.antialias and window.stride > 1

    def learnt_size(self, window: Window) -> int:
        """Height and width of the filter that is learnt, before it is convolved with the blur."""
        return window.kernel - (BLUR - 1) * self.blurs(window)

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
