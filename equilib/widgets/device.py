"""The slider of notebook 06: INT8 answers to the bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import ipywidgets
import numpy as np
import torch

from equilib import figures
from equilib.equivariance import Model, run_model
from equilib.fields import rotate
from equilib.pcam import crop, normalize
from equilib.widgets.explorer import Explorer


def hashed_answers(
    images: np.ndarray, sessions: Mapping[str, Model], *, size: int, patch: int = 0, degrees: int = 90
) -> Explorer:
    """Turn a patch by 90 degrees and compare the INT8 logits, to the bit, with those of the unturned patch.

    Args:
        images: (N, 96, 96, 3) uint8 patches.
        sessions: ``"conventional"`` and ``"equivariant"`` to an INT8 model.
        size: pixels that the networks take.
        patch, degrees: the teaching default.
    """

    def draw(patch: int, degrees: int):
        square = crop(torch.from_numpy(images[patch : patch + 1]).permute(0, 3, 1, 2), size)
        rows = []
        for kind, model in sessions.items():
            before, after = (run_model(model, normalize(rotate(square.float(), angle))) for angle in (0, degrees))
            digest = hashlib.sha256(after.numpy().tobytes()).hexdigest()[:12]
            logits = ", ".join(f"{value:+.5f}" for value in after[0].tolist())
            rows.append((kind, logits, digest, "identical" if torch.equal(before, after) else "different"))
        turned = rotate(square, degrees)[0].permute(1, 2, 0).numpy() / 255
        return figures.rotated_answers(turned, degrees, rows)

    return Explorer(
        draw,
        {
            "patch": ipywidgets.IntSlider(patch, 0, len(images) - 1, description="patch", continuous_update=False),
            "degrees": ipywidgets.SelectionSlider(options=[0, 90, 180, 270], value=degrees, description="rotation [°]"),
        },
        description="A patch turned by {degrees} degrees, and the INT8 logits of both networks with their hashes",
        shown={"patch": range(min(6, len(images)))},
    )
