"""Which network a run trained, as one object: its label and the names of its files follow from it, and are never read back.

Nothing here needs torch: results are read without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

KINDS = ("conventional", "equivariant")
# Of architectures; the name of the second stands in configurations and names of files, that of the first is left out.
FAMILIES = ("mobilenetv2", "densenet")
DEFAULT_FAMILY = "mobilenetv2"
# Forms of the depthwise layer: those of an equivariant network, and what a field-wise one is once exported.
STEERABLE_DEPTHWISE = ("strict", "fieldwise")
DEPTHWISE = (*STEERABLE_DEPTHWISE, "grouped")
# The group that a conventional network borrows its channels' rounding and its groups of channels from, unless it says so.
DEFAULT_GROUP = "C4"
# Multiples of 12 suit C4 and C12; names of files leave it out.
DEFAULT_DIVISOR = 12
# Of a DenseNet, conventional or not, unless it says so: the published one's.
DENSENET_GROUP = "D4"
ANY_ANGLE = "any angle"


@dataclass(frozen=True, order=True)
class Variant:
    """A network of either family and how it was trained, apart from patches, epochs and seed.

    Attributes:
        kind: one of :data:`KINDS`.
        group, depthwise, width, divisor, band_limit, antialias: as in :class:`equilib.architecture.MobileNetConfig`; but
            ``"strict"`` is the plain form of a conventional network, which filters channel by channel.
        recipe: ``""`` for the one usual of the kind (conventional networks train on quarter turns, equivariant ones on
            turns by any angle), ``"any angle"`` for a conventional network that is trained as the equivariant ones are.
        family: one of :data:`FAMILIES`.
        growth: of a DenseNet (:class:`equilib.densenet.DenseNetConfig`), which of the values above has ``group`` and
            ``band_limit`` alone: make one by :meth:`densenet`.

    Raises:
        ValueError: there is no such kind, family or depthwise layer.
    """

    kind: str
    group: str = DEFAULT_GROUP
    depthwise: str = "strict"
    recipe: str = ""
    width: float = 0.35
    divisor: int = DEFAULT_DIVISOR
    band_limit: bool = True
    antialias: bool = False
    family: str = DEFAULT_FAMILY
    growth: int | None = None

    def __post_init__(self):
        known_values = {"kind": KINDS, "depthwise": DEPTHWISE, "recipe": ("", ANY_ANGLE), "family": FAMILIES}
        for name, known in known_values.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")

    @classmethod
    def densenet(
        cls, kind: str, growth: int, group: str = DENSENET_GROUP, *, recipe: str = "", band_limit: bool = False
    ) -> Variant:
        """A DenseNet: its width has no multiplier."""
        return cls(kind, group, recipe=recipe, width=1.0, band_limit=band_limit, family="densenet", growth=growth)

    @classmethod
    def of(cls, config: Mapping) -> Variant:
        """From the configuration that a results file or checkpoint holds (``TrainConfig.to_dict()``).

        Raises:
            KeyError: an entry is missing.
        """
        network = config["network"]
        conventional = config["kind"] == "conventional"
        recipe = ANY_ANGLE if conventional and config.get("any_angle", 0) > 0 else ""
        if network.get("family", DEFAULT_FAMILY) == "densenet":
            return cls.densenet(
                config["kind"],
                network["growth"],
                network["group"],
                recipe=recipe,
                band_limit=network["band_limit"],
            )
        depthwise = network["depthwise"]
        return cls(
            config["kind"],
            network["group"],
            "strict" if conventional and depthwise == "fieldwise" else depthwise,  # two names for one network
            recipe,
            network["width"],
            network["divisor"],
            network.get("band_limit", True),  # files from before it could be switched off
            network.get("antialias", False),
        )

    @property
    def conventional(self) -> bool:
        return self.kind == "conventional"

    @property
    def symmetric(self) -> bool:
        """Whether its filters are shared over rotations.  Those of C1 have the band limit of steerable ones, and share nothing."""
        return not self.conventional and self.group != "C1"

    @property
    def architecture(self) -> dict:
        """Arguments of :class:`equilib.architecture.MobileNetConfig`, or of :class:`equilib.densenet.DenseNetConfig`."""
        names = ("width", "group", "divisor", "depthwise", "band_limit", "antialias")
        if self.family == "densenet":
            names = ("growth", "group", "band_limit")
        return {name: getattr(self, name) for name in names}

    @property
    def details(self) -> tuple[str, ...]:
        """What sets it apart from the plain network of its kind and group, in words, its width and channels left out."""
        words = {"strict": "", "fieldwise": "" if self.conventional else "field-wise", "grouped": "grouped"}
        depthwise = words[self.depthwise]
        if self.depthwise == "grouped" and self.group != DEFAULT_GROUP:
            depthwise += f" as {self.group}"
        if self.family == "densenet":
            borrowed = f"group {self.group}" if self.conventional and self.group != DENSENET_GROUP else ""
            smooth = "band-limited" if self.band_limit else ""
            return tuple(filter(None, (f"growth {self.growth}", borrowed, smooth, self.recipe)))
        smooth = "anti-aliased" if self.antialias else ""
        return tuple(filter(None, (depthwise, "" if self.band_limit else "all pixels", smooth, self.recipe)))

    @property
    def label(self) -> str:
        """For tables and figures, such as ``"C4, field-wise"``; width and divisor stand beside it."""
        name = self.kind if self.conventional else self.group
        return ", ".join([f"{name} DenseNet" if self.family == "densenet" else name, *self.details])

    @property
    def timed_as(self) -> str:
        """The name of its row where networks are timed: recipes do not change a network's speed."""
        label = replace(self, recipe="").label
        return label if self.family == "densenet" else f"{label} MobileNetV2, width {self.width:g}"

    @property
    def slug(self) -> str:
        """For names of files, such as ``"C4_fieldwise_w0.35_m24"``; different variants have different ones."""
        parts = [self.kind if self.conventional else self.group]
        if self.recipe:
            parts.append(self.recipe.replace(" ", "_"))
        if self.family == "densenet":
            parts += ["densenet", f"g{self.growth}"]
            if self.conventional and self.group != DENSENET_GROUP:
                parts.append(self.group)
            return "_".join([*parts, *(["bandlimit"] if self.band_limit else [])])
        if self.depthwise != "strict":
            parts.append(self.depthwise)
        if self.conventional and self.group != DEFAULT_GROUP:
            parts.append(self.group)
        if not self.band_limit:
            parts.append("pixels")
        if self.antialias:
            parts.append("antialias")
        parts.append(f"w{self.width:g}")
        if self.divisor != DEFAULT_DIVISOR:
            parts.append(f"m{self.divisor}")
        return "_".join(parts)
