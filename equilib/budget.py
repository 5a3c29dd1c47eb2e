"""How much to compute: read once, from the environment variable ``EQUILIB_BUDGET``.

``smoke`` runs every cell (continuous integration), ``laptop`` trains live on two cores in about five minutes a model
(the default), ``paper`` is the paper's setting, for a GPU.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """What a notebook trains and measures.

    Attributes:
        train, valid, test: patches of each split.
        width, group: of the networks, see :class:`equilib.architecture.MobileNetConfig`.
        epochs, batch_size, learning_rate: of the training.
        measured: patches on which equivariance errors are measured.
        angle_step: of sweeps over the rotation angle, in degrees.
    """

    name: str
    train: int
    valid: int
    test: int
    width: float
    group: str
    epochs: int
    batch_size: int
    learning_rate: float
    measured: int
    angle_step: int

    @property
    def sizes(self) -> dict[str, int]:
        """Patches of each split, as :func:`equilib.synthetic.ensure_dataset` takes them."""
        return {"train": self.train, "valid": self.valid, "test": self.test}


BUDGETS = {
    budget.name: budget
    for budget in (
        Budget("smoke", 256, 64, 64, 0.35, "C4", 3, 8, 3e-3, 32, 90),
        Budget("laptop", 2000, 500, 1000, 0.35, "C4", 10, 32, 3e-3, 200, 15),
        Budget("paper", 262_144, 32_768, 32_768, 1.0, "C12", 300, 64, 1e-3, 1000, 5),
    )
}


def current_budget() -> Budget:
    """The budget named by ``EQUILIB_BUDGET``; ``laptop`` where it is not set."""
    name = os.environ.get("EQUILIB_BUDGET", "laptop")
    if name not in BUDGETS:
        raise ValueError(f"EQUILIB_BUDGET must be one of {tuple(BUDGETS)}, got {name!r}")
    return BUDGETS[name]
