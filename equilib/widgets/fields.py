"""Slider of notebook 01: turn the input, watch the field."""

from __future__ import annotations

from collections.abc import Mapping

import ipywidgets
import torch
from torch import Tensor

from equilib import figures
from equilib.equivariance import Model, run_model
from equilib.fields import Group, disc_mask, rotate, rotate_field
from equilib.layers import SteerableConv
from equilib.widgets.explorer import Explorer


def one_layer_networks(group: Group | str, size: int = 7, *, seed: int = 0) -> dict[str, Model]:
    """The smallest pair for :func:`turning_field`: one layer with one field, equivariant or not, with random filters.

    Args:
        group: of the equivariant layer; the plain one has as many channels.
        size: of the filters, in pixels.
        seed: of the filters.
    """
    group = Group.parse(group)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lift = SteerableConv(group, 3, group.order, size, image_input=True)
        plain = torch.nn.Sequential(torch.nn.Conv2d(3, group.order, size), torch.nn.ReLU())
    return {"equivariant": lambda x: torch.nn.functional.conv2d(x, lift.filter()).relu(), "plain": plain}


def turning_field(
    picture: Tensor, networks: Mapping[str, Model], group: Group | str, *, degrees: int | None = None
) -> Explorer:
    """Turn a picture by a slider: the channels of the equivariant network's field move around a ring.

    Beside it, the outputs of both networks after they were turned back: what commutes stands still.

    Args:
        picture: (3, n, n), values in 0…1.
        networks: ``"equivariant"`` and ``"plain"`` to a model from (B, 3, n, n) to (B, |G|, m, m), not negative;
            it sees the picture less its mean.
        group: the group of the equivariant network.
        degrees: the teaching default, a multiple of the group's step; without it, the one nearest to 60 degrees.
    """
    group = Group.parse(group)
    step = group.step
    default = max(1, round(60 / step)) * step if degrees is None else degrees
    if default % step or not 0 <= default <= 360:
        raise ValueError(
            f"degrees must be a multiple of {group.name}'s step, {step:g}, between 0 and 360; got {degrees}"
        )
    mask = disc_mask(picture.shape[-1])
    turned = torch.stack([rotate(picture, k * step).clamp(0, 1) for k in range(group.rotations)]) * mask
    shown = (255 * (turned + (1 - mask))).round().byte().permute(0, 2, 3, 1).numpy()
    # Centred, so that brightness does not hide what the filters see.
    inputs = (turned - turned[0].sum((1, 2), keepdim=True) / mask.sum()) * mask
    outputs = [run_model(networks[name], inputs) for name in ("equivariant", "plain")]
    inner = disc_mask(outputs[0].shape[-1])
    # The plain network's channels have no order to shift by; turning its pixels back is the best that one can do.
    undo = (lambda field, k: rotate_field(field, group, -k), lambda field, k: rotate(field, -k * step))
    backs, errors = [], []
    for values, action in zip(outputs, undo):
        back = torch.cat([action(values[k : k + 1], k) for k in range(group.rotations)]) * inner
        errors.append(((back - back[0]).square().mean((1, 2, 3)).sqrt() / back[0].std()).tolist())
        liveliest = back[0].std((1, 2)).argmax()
        backs.append(back[:, liveliest].numpy())
    fields = (outputs[0] * inner).numpy()
    live = figures.turning_field(group.order, float(fields.max()), tuple(float(back[0].max()) for back in backs))

    def draw(degrees: float):
        k = round(degrees / step) % group.rotations
        return live.update(
            picture=shown[k],
            field=fields[k],
            back=[back[k] for back in backs],
            errors=[error[k] for error in errors],
            steps=k,
            degrees=degrees,
        )

    slider = ipywidgets.FloatSlider(
        default, min=0, max=360, step=step, description="rotation [°]", readout_format="g", continuous_update=True
    )
    return Explorer(
        draw,
        {"degrees": slider},
        description=f"A picture turned by {{degrees:g}} degrees, the {group.order} channels of its field on a ring, and the "
        "outputs of an equivariant and a plain network turned back",
    )
