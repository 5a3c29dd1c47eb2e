"""The slider of notebook 04: a patch and its rotation."""

from __future__ import annotations

from collections.abc import Mapping

import ipywidgets
import numpy as np
import torch

from equilib import figures
from equilib.equivariance import Model, run_model
from equilib.fields import disc_mask, rotate
from equilib.pcam import crop, normalize
from equilib.widgets.explorer import Explorer


def rotate_patch(
    images: np.ndarray,
    labels: np.ndarray,
    models: Mapping[str, Model],
    *,
    size: int,
    angle_step: int = 15,
    patch: int = 0,
    degrees: int | None = None,
) -> Explorer:
    """Rotate a patch by a slider and watch each network's probability of tumour.

    Args:
        images: (N, 96, 96, 3) uint8 patches.
        labels: (N,).
        models: ``"conventional"`` and ``"equivariant"`` to a model, see :func:`equilib.equivariance.run_model`.
        size: pixels that the networks take; all rotations act after this crop.
        angle_step: degrees between the angles at which the networks are run.
        patch, degrees: the teaching default; without ``degrees``, three steps.
    """
    degrees = 3 * angle_step if degrees is None else degrees
    angles = list(range(0, 361, angle_step))
    curves: dict[int, dict[str, list[float]]] = {}

    def cropped(index):
        return crop(torch.from_numpy(images[index : index + 1]).permute(0, 3, 1, 2), size)

    def draw(patch: int, degrees: int):
        if patch not in curves:  # the angle moves often, the networks need to run once a patch
            turned = torch.cat([rotate(normalize(cropped(patch)), angle) for angle in angles])
            curves[patch] = {kind: run_model(model, turned).softmax(1)[:, 1].tolist() for kind, model in models.items()}
        shown = rotate(cropped(patch).float() / 255, degrees).clamp(0, 1)[0]
        shown = shown * disc_mask(size) + (1 - disc_mask(size))
        return figures.probability_against_angle(
            shown.permute(1, 2, 0).numpy(), angles, curves[patch], degrees, int(labels[patch])
        )

    return Explorer(
        draw,
        {
            "patch": ipywidgets.IntSlider(patch, 0, len(images) - 1, description="patch", continuous_update=False),
            "degrees": ipywidgets.IntSlider(degrees, 0, 360, angle_step, description="rotation [°]"),
        },
        description="A patch rotated by {degrees} degrees, and both networks' probability of tumour against the angle",
        shown={"patch": range(min(4, len(images)))},
    )
