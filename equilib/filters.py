"""Steerable bases: the spaces that the filters of equivariant convolutions live in.

e2cnn solves the kernel constraint K(g x) = rho_out(g) K(x) rho_in(g)^-1 analytically, by circular harmonics, and drops
the frequencies that a small pixel grid cannot carry (the band limit).  This module hands out that basis as a plain
tensor, for one pair of fields; a layer repeats it over all its pairs of fields.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from equilib.fields import Group, channel_permutation


class _NumPyWithLenientCopy:
    """numpy, where ``array(x, copy=False)`` copies when it must, as it did before numpy 2."""

    array = staticmethod(lambda values, copy=False: np.asarray(values))

    def __getattr__(self, name):
        return getattr(np, name)


@contextmanager
def _e2cnn_on_numpy_2():
    """Let e2cnn 0.2.3 (written for numpy 1) build dihedral bases, and keep it from warning of its uint8 masks."""
    from e2cnn.kernels import utils

    original, utils.np = utils.np, _NumPyWithLenientCopy()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="indexing with dtype torch.uint8", category=UserWarning)
            yield
    finally:
        utils.np = original


@lru_cache(maxsize=None)
def steerable_basis(group: Group, in_repr: str, out_repr: str, kernel_size: int) -> Tensor:
    """A basis of the band-limited equivariant filters between one input field and one output field.

    Args:
        group: the group G.
        in_repr: ``"trivial"`` (an image channel) or ``"regular"`` (|G| channels).
        out_repr: likewise.
        kernel_size: of the square filter, in pixels.

    Returns:
        (K, channels of an output field, channels of an input field, kernel_size, kernel_size), float32.

    The basis *trivial -> regular* holds one filter and its |G| rotated copies: used as a bank of |G| depthwise filters
    it maps a regular field to a regular field, channel by channel.  That is equilib's strict depthwise layer.
    """
    from e2cnn import nn as enn

    representations = {"trivial": group.gspace.trivial_repr, "regular": group.gspace.regular_repr}
    for argument, name in (("in_repr", in_repr), ("out_repr", out_repr)):
        if name not in representations:
            raise ValueError(f"{argument} must be 'trivial' or 'regular', got {name!r}")
    if kernel_size == 1 and "trivial" in (in_repr, out_repr):
        # e2cnn 0.2.3 raises on this pair («masked_fill_ only supports boolean masks»).  The answer is known: at the
        # origin a rotation does nothing, so the filter must take the same value for every channel of the field.
        sizes = {"trivial": 1, "regular": group.order}
        return torch.full((1, sizes[out_repr], sizes[in_repr], 1, 1), group.order**-0.5)
    with _e2cnn_on_numpy_2():
        convolution = enn.R2Conv(
            enn.FieldType(group.gspace, [representations[in_repr]]),
            enn.FieldType(group.gspace, [representations[out_repr]]),
            kernel_size,
            bias=False,
            initialize=False,
            # e2cnn's own cache hashes dihedral bases with ndarray.tostring, which newer numpy lacks; ours is lru_cache
            recompute=True,
        )
    expand = convolution.basisexpansion
    atoms = [expand(unit) for unit in torch.eye(expand.dimension())]
    basis = torch.stack([atom.reshape(*atom.shape[:2], kernel_size, kernel_size) for atom in atoms])
    return _tie_quarter_turns(basis, group, in_repr == "regular")


def _tie_quarter_turns(basis: Tensor, group: Group, regular_input: bool) -> Tensor:
    """Make filters that are quarter turns (or half turns) of each other equal to the last bit.

    e2cnn samples each rotated copy on its own and rounds it to float32, so that copies differ by 1e-8 or so: enough to
    flip a rounding when the weights become INT8.  Turning pixels by 90 degrees needs no interpolation, so one copy of
    each orbit serves for all.
    """
    turns = 4 if group.rotations % 4 == 0 else 2 if group.rotations % 2 == 0 else 1
    tied, visited = basis.clone(), set()
    for channel in range(basis.shape[1]):
        if channel in visited:
            continue
        for turn in range(turns):
            source = list(channel_permutation(group, turn * group.rotations // turns))
            target = source.index(channel)
            turned = torch.rot90(basis[:, channel], turn * 4 // turns, (-2, -1))
            tied[:, target] = turned[:, source] if regular_input else turned
            visited.add(target)
    return tied
