"""The action of a group of rotations (and reflections) on images and on feature fields.

One sign convention holds everywhere in equilib: **a positive angle turns the picture counter-clockwise as it is
displayed** (row 0 at the top).  It is the convention of :func:`torch.rot90` on the last two axes, of
``skimage.transform.rotate`` and of e2cnn, and the tests hold the four against each other.

A *regular* feature field of a group with ``|G|`` elements has ``|G|`` channels, one for each element.  A rotation moves
the pixels and permutes these channels; for a cyclic group of N rotations the permutation is a cyclic shift
(section 3 and Figure 1 of the paper).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, wraps

import numpy as np
import torch
from torch import Tensor

from equilib.checks import check_count, check_finite_number, check_switch, check_whole


def cached_tensor(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compute once for the same arguments, and give each caller a tensor of its own, which it may change."""
    kept = lru_cache(maxsize=None, typed=True)(function)  # 9.0 is not taken for 9

    @wraps(function)
    def own(*args, **kwargs):
        return kept(*args, **kwargs).clone()

    return own


@dataclass(frozen=True)
class Group:
    """A finite group of planar rotations (``C`` for cyclic) or rotations and reflections (``D`` for dihedral).

    ``Group.parse("C12")`` is the group of the paper: 12 rotations, by multiples of 30 degrees.
    """

    rotations: int
    reflections: bool = False

    def __post_init__(self):
        check_count("rotations", self.rotations)
        check_switch("reflections", self.reflections)

    @classmethod
    def parse(cls, name: str | Group) -> Group:
        """Read ``"C4"``, ``"C12"``, ``"D4"`` …; raises ValueError on anything else."""
        if isinstance(name, Group):
            return name
        match = re.fullmatch(r"([CD])([1-9][0-9]{0,2})", str(name))
        if match is None:
            raise ValueError(
                f"group must be 'C' (rotations) or 'D' (rotations and reflections) and a number up to 999, as in 'C12' or 'D4'; "
                f"got {name!r}"
            )
        return cls(int(match[2]), match[1] == "D")

    @property
    def name(self) -> str:
        return f"{'D' if self.reflections else 'C'}{self.rotations}"

    @property
    def order(self) -> int:
        """|G|, the number of elements, and so of channels in a regular field."""
        return self.rotations * (2 if self.reflections else 1)

    @property
    def step(self) -> float:
        """The smallest rotation of the group, in degrees."""
        return 360 / self.rotations

    @property
    def exact_angles(self) -> tuple[int, ...]:
        """Angles in degrees whose rotation is exact on a pixel grid: the multiples of 90 that the group contains."""
        return tuple(angle for angle in (0, 90, 180, 270) if (angle * self.rotations) % 360 == 0)

    @cached_property
    def gspace(self):
        """The e2cnn ``gspace`` of this group acting on the plane."""
        from e2cnn import gspaces

        if self.reflections:
            return gspaces.FlipRot2dOnR2(self.rotations) if self.rotations > 1 else gspaces.Flip2dOnR2()
        return gspaces.Rot2dOnR2(self.rotations) if self.rotations > 1 else gspaces.TrivialOnR2()

    def element(self, rotation: int):
        """e2cnn's name for the rotation by ``rotation`` steps (without reflection)."""
        rotation %= self.rotations
        if self.reflections:
            return (0, rotation) if self.rotations > 1 else 0
        return rotation


def rotate(images: Tensor, degrees: float, *, order: int = 3) -> Tensor:
    """Rotate images counter-clockwise about their centre.

    Args:
        images: (..., H, W); square for multiples of 90 degrees other than 180.
        degrees: the angle.  Multiples of 90 are exact (``torch.rot90``); other angles are interpolated by
            scikit-image and only make sense inside the disc (:func:`disc_mask`), since the corners leave the picture.
        order: of the interpolating spline, 0 to 3; 3 (bicubic) loses least.

    Returns:
        A tensor of the same shape and dtype; pixels from outside the picture repeat its edge.

    Raises:
        ValueError: an angle that is no finite number, or another order.
        TypeError: integers are to be interpolated.
    """
    degrees = degrees.item() if hasattr(degrees, "item") else degrees  # of torch or numpy
    check_finite_number("degrees", degrees)
    if isinstance(order, bool) or order not in range(4):
        raise ValueError(f"order must be 0, 1, 2 or 3, got {order!r}")
    quarters, rest = divmod(degrees, 90)
    if rest == 0:
        return torch.rot90(images, int(quarters), dims=(-2, -1))
    from skimage import transform

    if not images.is_floating_point():
        raise TypeError(f"interpolation needs floating-point images, got {images.dtype}; convert them first")
    flat = images.detach().cpu().reshape(-1, *images.shape[-2:])
    stack = np.ascontiguousarray(flat.numpy().transpose(1, 2, 0))
    turned = transform.rotate(stack, degrees, order=order, mode="edge", preserve_range=True, clip=False)
    return torch.from_numpy(turned.transpose(2, 0, 1).copy()).to(images).reshape(images.shape)


@lru_cache(maxsize=None, typed=True)
def channel_permutation(group: Group, rotation: int) -> tuple[int, ...]:
    """The permutation of the |G| channels of a regular field by a rotation.

    Returns:
        ``source``, such that channel ``i`` after the action is channel ``source[i]`` before it.  For a cyclic group
        this is a shift by ``rotation``.

    Raises:
        ValueError: a rotation that is no whole number of steps, so not in the group.
    """
    check_whole("rotation", rotation)
    if not group.reflections:
        return tuple((i - rotation) % group.order for i in range(group.order))
    matrix = group.gspace.regular_repr(group.element(rotation))
    return tuple(int(i) for i in np.argmax(matrix, axis=1))


def mirror_permutation(group: Group) -> tuple[int, ...] | None:
    """The same for the reflection of left and right (``images.flip(-1)``); None for a group without reflections."""
    if not group.reflections:
        return None
    element = (1, 0) if group.rotations > 1 else 1
    return tuple(int(i) for i in np.argmax(group.gspace.regular_repr(element), axis=1))


def rotate_field(field: Tensor, group: Group | str, rotation: int, *, order: int = 3) -> Tensor:
    """The group's action on regular feature fields: move the pixels **and** permute the channels.

    Args:
        field: (B, fields * |G|, H, W), the |G| channels of a field next to each other.
        group: the group G.
        rotation: the number of steps of ``group.step`` degrees, counter-clockwise.
        order: of the interpolation, see :func:`rotate`.

    Raises:
        ValueError: no whole number of fields or of steps.
    """
    group = Group.parse(group)
    check_whole("rotation", rotation)
    channels = field.shape[1]
    if channels % group.order:
        raise ValueError(f"{channels} channels are no whole number of regular fields of {group.name} ({group.order})")
    moved = rotate(field, rotation * 360 / group.rotations, order=order)
    source = list(channel_permutation(group, rotation))
    return moved.unflatten(1, (-1, group.order))[:, :, source].flatten(1, 2)


def representation_matrix(
    group: Group | str, representation: str, rotation: int = 0, *, reflected: bool = False
) -> Tensor:
    """How an element of the group mixes the channels of one field.

    Args:
        group: the group G.
        representation: ``"trivial"`` (one channel, never mixed), ``"regular"`` (|G| channels, permuted) or
            ``"irrep1"``, ``"irrep2"`` … (irreducible, of that frequency: two channels that turn like an arrow, at
            frequency times the angle; one channel that changes its sign at frequency N/2).
        rotation: steps of ``group.step`` degrees, counter-clockwise.
        reflected: mirror left and right first; for dihedral groups.

    Returns:
        (d, d) float64 matrix.

    Raises:
        ValueError: no such representation or reflection, or no whole number of steps.
    """
    group = Group.parse(group)
    check_whole("rotation", rotation)
    space = group.gspace
    if reflected and not group.reflections:
        raise ValueError(f"{group.name} has no reflections; use a dihedral group such as D{group.rotations}")
    if representation in ("trivial", "regular"):
        chosen = space.trivial_repr if representation == "trivial" else space.regular_repr
    else:
        frequency = re.fullmatch(r"irrep([1-9]\d*)", representation)
        if frequency is None or int(frequency[1]) > group.rotations // 2:
            names = ["'trivial'", "'regular'"] + [f"'irrep{k}'" for k in range(1, group.rotations // 2 + 1)]
            raise ValueError(f"representation must be {', '.join(names)} for {group.name}; got {representation!r}")
        frequency = int(frequency[1])
        chosen = space.irrep(1, frequency) if group.reflections else space.irrep(frequency)
    element = group.element(rotation)
    if reflected:
        element = (1, rotation % group.rotations) if group.rotations > 1 else 1
    return torch.from_numpy(np.asarray(chosen(element), dtype=np.float64)).round(decimals=12)


def transform_field(
    field: Tensor,
    group: Group | str,
    representation: str,
    rotation: int,
    *,
    reflected: bool = False,
    order: int = 3,
) -> Tensor:
    """The action of a group element on fields of any type: move the pixels, and mix the channels of each field.

    For regular fields under rotations :func:`rotate_field` is the same; it permutes where this multiplies by a matrix, so
    at multiples of 90 degrees it changes no value.

    Args:
        field: (B, fields * d, H, W), the d channels of a field next to each other.
        group, representation, rotation, reflected: see :func:`representation_matrix`.
        order: of the interpolation, see :func:`rotate`.

    Raises:
        ValueError: as :func:`representation_matrix`, or no whole number of fields.
        TypeError: integers, which cannot hold what an irreducible representation makes of them.
    """
    group = Group.parse(group)
    matrix = representation_matrix(group, representation, rotation, reflected=reflected)
    if not field.is_floating_point() and representation not in ("trivial", "regular"):
        raise TypeError(f"{representation} turns fields into real numbers, got {field.dtype}; convert them first")
    matrix = matrix.to(field)
    if field.shape[1] % len(matrix):
        raise ValueError(f"{field.shape[1]} channels are no whole number of fields with {len(matrix)} channels")
    moved = rotate(field.flip(-1) if reflected else field, rotation * group.step, order=order)
    return torch.einsum("ij,bfjhw->bfihw", matrix, moved.unflatten(1, (-1, len(matrix)))).flatten(1, 2)


def tissue_photograph(size: int = 95) -> Tensor:
    """A real picture of tissue, stained for a protein (scikit-image's ``immunohistochemistry``).

    Returns:
        (3, size, size), float32 between 0 and 1.
    """
    from skimage import data, transform

    picture = data.immunohistochemistry()[100:400, 130:430]
    small = transform.resize(picture, (size, size), anti_aliasing=True)
    return torch.from_numpy(small).permute(2, 0, 1).float()


@cached_tensor
def disc_mask(size: int) -> Tensor:
    """The binary circular mask of the paper (section 4): 1 inside the largest centred disc.

    Args:
        size: the height and width of the grid, in pixels.

    Returns:
        (size, size) float tensor of 0 and 1, unchanged by rotations by 90° and by reflections.
    """
    check_count("size", size)
    centred = torch.arange(size) - (size - 1) / 2
    return ((centred[:, None] ** 2 + centred[None, :] ** 2) <= (size / 2) ** 2).float()
