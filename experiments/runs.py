"""Which trainings there are: those of the grid and the ablation, and those that results/PLAN.md orders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from equilib import contrasts
from equilib.runs import ARCHITECTURES
from equilib.training import TrainConfig
from equilib.variant import ANY_ANGLE, DEFAULT_DIVISOR, Variant

RESULTS = Path(__file__).parent.parent / "results"
# Its folders with one JSON a run, which `grid.py pack` compresses.
RECORDS = ("grid", "ablation", "naive", "search", "evidence", "evidence/confirmation")
SEALED = RESULTS / "evidence" / "confirmation"
# Training patches, epochs.  At 1,000 and 4,000 the lowest validation loss comes before the last epoch.
SIZES = ((1000, 30), (4000, 12), (20000, 6))
SEEDS = (0, 1, 2)
# Every network has channels in multiples of 12, so that one conventional network compares with both groups.
DIVISOR = DEFAULT_DIVISOR
# A conventional network with about the parameters of the one for C4 at width 0.35 (94,898 and 79,508).
NARROW = 0.15
# Of the ablation: 24 is the least multiple of all orders, so that all networks have the same channels.
ABLATION_DIVISOR = 24
CONVENTIONAL = Variant("conventional", divisor=ABLATION_DIVISOR)
ABLATION_NETWORKS = (
    CONVENTIONAL,
    Variant(
        "equivariant", "C1", divisor=ABLATION_DIVISOR
    ),  # the control: no symmetry, only the band limit (6 filters of 9)
    Variant("equivariant", "C4", divisor=ABLATION_DIVISOR),
    Variant("equivariant", "C12", divisor=ABLATION_DIVISOR),
    Variant("equivariant", "D4", divisor=ABLATION_DIVISOR),
    Variant("equivariant", "D12", divisor=ABLATION_DIVISOR),
    Variant("equivariant", "C4", "fieldwise", divisor=ABLATION_DIVISOR),
    Variant("equivariant", "C12", "fieldwise", divisor=ABLATION_DIVISOR),
    # The control of the field-wise C4: the same layers, nothing shared.
    Variant("conventional", "C4", "grouped", divisor=ABLATION_DIVISOR),
)
# The equivariant one of the ablation with the lowest validation loss at 1,000 patches, and the conventional ones of the same
# channels: also with the most patches.  Does what is gained by more filters stay when there are more patches?
FIELDWISE = Variant("equivariant", "C4", "fieldwise", divisor=ABLATION_DIVISOR)
ABLATION_CHOSEN = (CONVENTIONAL, Variant("conventional", "C4", "grouped", divisor=ABLATION_DIVISOR), FIELDWISE)
NETWORKS = (Variant("conventional"), Variant("equivariant", "C4"), Variant("equivariant", "C12"))
# The first of the validation patches; the others choose nothing.
VALID_PATCHES = 1500
BATCH_SIZE = 32
# What the search on validation patches picked for each network (experiments/search.py).
RECIPES = {
    "conventional": {"stain": 0.1, "learning_rate": 1e-2, "recalibrate": 512},
    "equivariant": {"stain": 0.1, "any_angle": 1.0, "learning_rate": 3e-3, "recalibrate": 512},
}


def train_config(variant: Variant, data: str, patches: int, epochs: int, seed: int, **recipe) -> TrainConfig:
    """What all runs share: the validation patches and the batch size."""
    return TrainConfig(
        variant.kind,
        ARCHITECTURES[variant.family](**variant.architecture),
        data=data,
        train_limit=patches,
        valid_limit=VALID_PATCHES,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        seed=seed,
        **recipe,
    )


@dataclass(frozen=True)
class Run:
    """One training of the grid or the ablation."""

    variant: Variant
    patches: int
    epochs: int
    seed: int

    options = ""  # of experiments/grid.py, beside the name
    confirmation = None

    @property
    def name(self) -> str:
        return f"{self.variant.slug}_{self.patches}_seed{self.seed}"

    @property
    def json(self) -> Path:
        """Where its figures are kept."""
        return RESULTS / ("grid" if self.variant.divisor == DIVISOR else "ablation") / f"{self.name}.json"

    def config(self, data: str) -> TrainConfig:
        recipe = RECIPES["equivariant" if self.variant.recipe == ANY_ANGLE else self.variant.kind]
        return train_config(self.variant, data, self.patches, self.epochs, self.seed, **recipe)


def grid_runs() -> list[Run]:
    """All of them, in an order in which a part of the list is worth most: cheap sizes first, then seed by seed."""
    narrow = [
        Run(replace(NETWORKS[0], width=NARROW), patches, epochs, seed) for patches, epochs in SIZES for seed in SEEDS
    ]
    wide = [
        Run(replace(network, width=width), patches, epochs, seed)
        for width in (0.35, 1.0)
        for patches, epochs in SIZES
        for seed in SEEDS
        for network in NETWORKS
    ]
    ablation = [
        Run(network, patches, epochs, seed)
        for (patches, epochs), networks in ((SIZES[0], ABLATION_NETWORKS), (SIZES[-1], ABLATION_CHOSEN))
        for seed in SEEDS
        for network in networks
    ]
    # The conventional network trained as the equivariant ones are: what remains between them is the network alone.
    control = [Run(replace(CONVENTIONAL, recipe=ANY_ANGLE), *SIZES[0], seed) for seed in SEEDS]
    return narrow + wide + ablation + control


# results/PLAN.md: one recipe for all.
PLAN_RECIPE = {name: contrasts.RECIPE[name] for name in ("stain", "any_angle", "recalibrate")}
PLAN_LEARNING_RATE = contrasts.LEARNING_RATE
PLAN_EPOCHS, END_EPOCHS = contrasts.EPOCHS, 24
# The networks by the names that the plan gives them; files in results/evidence/ begin with these.
PLAN_NETWORKS = contrasts.NETWORKS | contrasts.THIRD_ROW


@dataclass(frozen=True)
class PlannedRun:
    """One training of results/PLAN.md: 20,000 patches, one recipe for all; MobileNetV2 of width 0.35 and multiples of 24.

    Attributes:
        network: its name in :data:`PLAN_NETWORKS`.
    """

    network: str
    seed: int
    epochs: int = PLAN_EPOCHS
    learning_rate: float = PLAN_LEARNING_RATE
    patches: int = contrasts.PATCHES

    options = "--plan "

    @property
    def variant(self) -> Variant:
        return PLAN_NETWORKS[self.network]

    @property
    def name(self) -> str:
        return contrasts.run_name(self.network, self.seed, self.epochs, self.learning_rate, self.patches)

    @property
    def json(self) -> Path:
        return RESULTS / "evidence" / f"{self.name}.json"

    @property
    def confirmation(self) -> Path:
        """Its answers on the confirmation patches; equilib.confirmation alone reads them, when a contrast is complete."""
        return SEALED / f"{self.name}.json"

    def config(self, data: str) -> TrainConfig:
        recipe = PLAN_RECIPE | {"learning_rate": self.learning_rate}
        return train_config(self.variant, data, self.patches, self.epochs, self.seed, **recipe)


def planned_runs() -> list[PlannedRun]:
    """The plan's runs in its order: what is worth most comes first."""
    four = ("C12_fieldwise", "conventional", "grouped4", "C4_fieldwise")
    pair = four[:2]
    floor = [PlannedRun(network, 0) for network in (*pair, "grouped4", "grouped12")]
    floor += [PlannedRun(network, seed) for seed in (1, 2) for network in pair]
    floor += [PlannedRun(network, 0) for network in ("C4_fieldwise", "C4_strict")]
    floor += [PlannedRun(network, seed) for seed in (1, 2) for network in four[2:]]
    floor += [PlannedRun(network, 1) for network in ("grouped12", "C4_strict")]
    third_row = [PlannedRun(network, 0) for network in ("D4_densenet", "densenet")]
    ends = [
        PlannedRun(network, seed, END_EPOCHS)
        for networks in (pair, four[2:])
        for seed in (0, 1)
        for network in networks
    ]
    rates = [
        PlannedRun(network, 0, learning_rate=rate)
        for rate in (1e-3, 1e-2)
        for network in (*four, "grouped12", "C4_strict")
    ]
    rest = [PlannedRun(network, seed) for seed in (0, 1, 2) for network in ("C4_fieldwise_pixels", "C1_fieldwise")]
    rest += [PlannedRun(network, 2) for network in ("grouped12", "C4_strict")]
    return floor + third_row + ends + rates + rest
