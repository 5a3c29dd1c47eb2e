"""Steerable bases: the spaces that the filters of equivariant convolutions live in.

e2cnn solves the kernel constraint K(g x) = rho_out(g) K(x) rho_in(g)^-1 analytically, by circular harmonics, and drops
the frequencies that a small pixel grid cannot carry (the band limit).  This module hands out that basis as a plain
tensor, for one pair of fields; a layer repeats it over all its pairs of fields.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from equilib import compat
from equilib.fields import Group, cached_tensor, channel_permutation, representation_matrix


@cached_tensor
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
    if compat.refused(in_repr, out_repr, group.order, kernel_size):
        # The answer is known: at the origin a rotation does nothing, so the filter must take the same value for every
        # channel of the field.
        sizes = {"trivial": 1, "regular": group.order}
        return torch.full((1, sizes[out_repr], sizes[in_repr], 1, 1), group.order**-0.5)
    with compat.e2cnn_on_numpy_2():
        convolution = enn.R2Conv(
            enn.FieldType(group.gspace, [representations[in_repr]]),
            enn.FieldType(group.gspace, [representations[out_repr]]),
            kernel_size,
            bias=False,
            initialize=False,
            **compat.WITHOUT_CACHE,  # ours is functools.cache
        )
    expand = convolution.basisexpansion
    atoms = [expand(unit) for unit in torch.eye(expand.dimension())]
    basis = torch.stack([atom.reshape(*atom.shape[:2], kernel_size, kernel_size) for atom in atoms])
    return _tie_quarter_turns(basis, group, in_repr == "regular") if out_repr == "regular" else basis


@cached_tensor
def pixel_basis(group: Group | str, in_repr: str, kernel_size: int) -> Tensor:
    """All equivariant filters onto a regular field that the pixels of the grid can hold: no band limit.

    A filter onto a regular field is free in one of its |G| output channels; the others are that one, acted on by the
    group.  So there is a basis filter for each input channel and pixel: 9 of them for C4, 3 x 3, trivial -> regular, where
    the band limit leaves 6, and 36 for regular -> regular, where it leaves 24.

    Args:
        group: whose rotations move pixels to pixels (see :func:`solve_constraint`, which finds the same space).
        in_repr: ``"trivial"`` or ``"regular"``.
        kernel_size: of the square filter, in pixels.

    Returns:
        (K, |G|, channels of an input field, kernel_size, kernel_size), float32, entries 0 and 1.

    Raises:
        ValueError: the group's rotations move pixels between pixels.
    """
    group = Group.parse(group)
    _check_on_grid(group)
    channels = len(representation_matrix(group, in_repr, 0))
    count = channels * kernel_size**2
    units = torch.zeros(count, group.order, channels, kernel_size, kernel_size, dtype=torch.float64)
    units[:, 0] = torch.eye(count, dtype=torch.float64).view(count, channels, kernel_size, kernel_size)
    elements = [
        (rotation, flip) for rotation in range(group.rotations) for flip in (False, True)[: 1 + group.reflections]
    ]
    # Each element moves the free channel to another one, so the sum lays |G| filters side by side; sums of 0 and 1 are exact.
    return sum(_act(units, group, in_repr, "regular", *element) for element in elements).round().float()


def _check_on_grid(group: Group) -> None:
    if group.rotations not in (1, 2, 4):
        raise ValueError(
            f"rotations by {group.step:g} degrees move pixels between pixels, so {group.name} has no constraint on a grid; "
            "use C1, C2, C4, D1, D2 or D4"
        )


def _act(filters: Tensor, group: Group, in_repr: str, out_repr: str, rotation: int, reflected: bool) -> Tensor:
    """(g K)(x) = rho_out(g) K(g^-1 x) rho_in(g)^-1 for filters (..., out, in, k, k), without interpolation."""
    out_matrix = representation_matrix(group, out_repr, rotation, reflected=reflected)
    in_matrix = representation_matrix(group, in_repr, rotation, reflected=reflected)
    turned = torch.rot90(filters.flip(-1) if reflected else filters, rotation * 4 // group.rotations, (-2, -1))
    # Representations are orthogonal: the inverse is the transpose.
    return torch.einsum("ij,...jkhw,lk->...ilhw", out_matrix, turned, in_matrix)


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


# --- the same, from first principles ---


def solve_constraint(group: Group | str, in_repr: str, out_repr: str, kernel_size: int) -> Tensor:
    """All filters on the pixel grid that satisfy K(g x) = rho_out(g) K(x) rho_in(g)^-1, by linear algebra.

    The constraint is linear in the entries of K; this solves it for the generators of the group (a rotation by one step,
    and a reflection), as the null space of one matrix.  No band limit is applied, so the space is larger than e2cnn's.

    Args:
        group: whose rotations move pixels to pixels: C1, C2, C4, D1, D2 or D4.
        in_repr, out_repr: see :func:`equilib.fields.representation_matrix`.
        kernel_size: of the square filter, in pixels.

    Returns:
        (K, out, in, kernel_size, kernel_size), float64, orthonormal.

    Raises:
        ValueError: the group's rotations move pixels between pixels.
    """
    group = Group.parse(group)
    _check_on_grid(group)
    generators = [(1, False)] if group.rotations > 1 else []
    generators += [(0, True)] if group.reflections else []
    sizes = [len(representation_matrix(group, name, 0)) for name in (out_repr, in_repr)]
    shape = (*sizes, kernel_size, kernel_size)
    count = math.prod(shape)
    units = torch.eye(count, dtype=torch.float64).view(count, *shape)
    equations = [torch.zeros(1, count, dtype=torch.float64)]
    for rotation, reflected in generators:
        acted = _act(units, group, in_repr, out_repr, rotation, reflected)  # must be the filter itself
        equations.append((acted - units).reshape(count, count).T)
    _, singular, vectors = torch.linalg.svd(torch.cat(equations))
    rank = int((singular > 1e-9).sum())
    return vectors[rank:].view(-1, *shape)


@dataclass(frozen=True)
class Atom:
    """A circular harmonic on a ring: exp(i m phi) exp(-(r - ring)^2 / 2 width^2), a complex function of the plane.

    Rotating it by an angle a (counter-clockwise) multiplies it by exp(-i m a): that is steerability.

    Attributes:
        ring: radius where it is largest, in pixels.
        frequency: m, periods around the ring.
        width: of the ring, standard deviation in pixels.
    """

    ring: float
    frequency: int
    width: float

    def at(self, x: Tensor, y: Tensor) -> Tensor:
        """Values at points of the plane: x to the right, y upwards, from the centre, in pixels; complex128."""
        x, y = x.double(), y.double()
        radius = torch.hypot(x, y)
        profile = torch.exp(-((radius - self.ring) ** 2) / (2 * self.width**2))
        if self.frequency:  # the centre has no angle, so only frequency 0 may have a value there
            profile = profile * (radius > 0)
        return torch.polar(profile, self.frequency * torch.atan2(y, x))

    def sample(self, kernel_size: int) -> Tensor:
        """Values on a grid of pixels, (kernel_size, kernel_size), complex128."""
        return self.at(*pixel_coordinates(kernel_size))


def pixel_coordinates(kernel_size: int) -> tuple[Tensor, Tensor]:
    """x (to the right) and y (upwards) of the pixels of a filter, from its centre: two (k, k) tensors."""
    line = torch.arange(kernel_size, dtype=torch.float64) - (kernel_size - 1) / 2
    y, x = torch.meshgrid(-line, line, indexing="ij")
    return x, y


def default_cutoff(kernel_size: int, ring: float) -> int:
    """e2cnn's band limit: the highest frequency that a ring of this radius (a whole number of pixels) may carry."""
    if ring == 0:
        return 0
    return 2 if ring == kernel_size // 2 else int(2 * ring - (ring + 1) % 2)


def ring_width(kernel_size: int, ring: float) -> float:
    """e2cnn's width of a ring, in pixels."""
    if ring == 0:
        return 0.005
    return 0.4 if ring == kernel_size // 2 else 0.6


def atoms(kernel_size: int, cutoff: int | None = None) -> list[Atom]:
    """The atoms of e2cnn's filters of an odd size: rings one pixel apart, non-negative frequencies up to the band limit.

    Args:
        cutoff: the same highest frequency for all rings but the centre (which has frequency 0 only), instead of
            :func:`default_cutoff`.
    """
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, got {kernel_size}")
    last = kernel_size // 2
    found = []
    for ring in range(last + 1):
        limit = 0 if ring == 0 else default_cutoff(kernel_size, ring) if cutoff is None else cutoff
        width = ring_width(kernel_size, ring)
        found += [Atom(float(ring), frequency, width) for frequency in range(limit + 1)]
    return found


def count_coefficients(chosen: Sequence[Atom]) -> int:
    """Real coefficients of a filter made of these atoms: one at frequency 0, two (cosine and sine) elsewhere."""
    return sum(1 if atom.frequency == 0 else 2 for atom in chosen)


def steer(chosen: Sequence[Atom], coefficients: Tensor, kernel_size: int, degrees: float) -> Tensor:
    """A filter from complex coefficients, turned counter-clockwise by any angle without interpolation.

    Only the phases of the coefficients change: the filter is the real part of sum_a c_a exp(-i m_a angle) atom_a.

    Args:
        coefficients: (A,), complex.

    Returns:
        (kernel_size, kernel_size), float64.
    """
    frequencies = torch.tensor([atom.frequency for atom in chosen], dtype=torch.float64)
    phases = torch.polar(torch.ones_like(frequencies), -frequencies * math.radians(degrees))
    samples = torch.stack([atom.sample(kernel_size) for atom in chosen])
    return torch.einsum("a,ahw->hw", coefficients.to(torch.complex128) * phases, samples).real


def filter_bank(group: Group | str, chosen: Sequence[Atom], coefficients: Tensor, kernel_size: int) -> Tensor:
    """One filter and its N rotated copies, (N, k, k): a lifting layer, or a strict depthwise layer, of one field."""
    group = Group.parse(group)
    return torch.stack([steer(chosen, coefficients, kernel_size, r * group.step) for r in range(group.rotations)])


def frequency_response(filters: Tensor, wavevectors: Tensor) -> Tensor:
    """What filters make of plane waves: sum_x K(x) exp(i k.x), (..., M) complex.

    Args:
        filters: (..., n, n), real or complex.
        wavevectors: (M, 2), x to the right and y upwards, radians per pixel.
    """
    x, y = pixel_coordinates(filters.shape[-1])
    waves = torch.exp(1j * (wavevectors[:, :1, None].double() * x + wavevectors[:, 1:, None].double() * y))
    return torch.einsum("...hw,mhw->...m", filters.to(torch.complex128), waves)


def steering_error(
    chosen: Sequence[Atom], kernel_size: int, group: Group | str, *, wavelength: float = 6.0, directions: int = 48
) -> float:
    """How far filters made of these atoms are from turning with the picture, for the rotations of a group.

    A plane wave that is turned must meet, in the turned filter, the response that it had before.  Waves can be turned
    exactly, so no picture is interpolated here.  All atoms have norm 1 and random coefficients of equal variance.

    Args:
        wavelength: of the waves, in pixels; 2 is the finest that a grid can hold.
        directions: over which the waves are averaged.

    Returns:
        Root mean square over directions and over all rotations of the group, relative to the response.
    """
    group = Group.parse(group)
    angles = 2 * torch.pi * torch.arange(directions, dtype=torch.float64) / directions

    def waves(turn):
        return 2 * torch.pi / wavelength * torch.stack([(angles + turn).cos(), (angles + turn).sin()], 1)

    wrong = right = 0.0
    for atom in chosen:
        filters = atom.sample(kernel_size)
        filters = filters / filters.abs().square().sum().sqrt()
        before = frequency_response(filters, waves(0.0))
        for r in range(group.rotations):
            turn = math.radians(r * group.step)
            phase = complex(math.cos(atom.frequency * turn), -math.sin(atom.frequency * turn))
            after = frequency_response(phase * filters, waves(turn))
            wrong += (after - before).abs().square().sum().item()
            right += before.abs().square().sum().item()
    return math.sqrt(wrong / right)


def angular_spectrum(filters: Tensor, *, wavelength: float = 6.0, highest: int = 6, directions: int = 48) -> Tensor:
    """With which angular frequencies a filter answers to plane waves from all directions.

    A circular harmonic of frequency m answers with m alone; its samples on a few pixels also answer with others: aliases.

    Args:
        filters: (k, k), real or complex.
        wavelength: of the waves, in pixels.

    Returns:
        (2 highest + 1,): the share of the response's power at frequencies -highest to highest.
    """
    angles = 2 * torch.pi * torch.arange(directions, dtype=torch.float64) / directions
    waves = 2 * torch.pi / wavelength * torch.stack([angles.cos(), angles.sin()], 1)
    power = torch.fft.fft(frequency_response(filters, waves)).abs().square()
    return torch.stack([power[m % directions] for m in range(-highest, highest + 1)]) / power.sum()


def spread_within_fields(filters: Tensor, field_size: int) -> Tensor:
    """How far the rotated copies of one filter differ in range: the largest range over the smallest, field by field.

    A rotation by 90 degrees moves samples and changes none; between them the copies are sampled anew, and their largest
    values differ.  Where they do not, equalization scales all channels of a field alike (the paper, section 4.1).

    Args:
        filters: (channels, ...), the weights of a layer by output channel.
        field_size: |G|, how many neighbouring channels are copies of one filter.

    Returns:
        (channels / field_size,), 1 or more; 1 for a field of zeros, infinite where only some of its copies are zero.

    Raises:
        ValueError: the channels make no whole fields.
    """
    if field_size < 1 or len(filters) % field_size:
        raise ValueError(f"{len(filters)} channels make no whole fields of field_size {field_size}")
    ranges = filters.detach().abs().flatten(1).amax(1).unflatten(0, (-1, field_size))
    largest, smallest = ranges.amax(1), ranges.amin(1)
    return torch.where(largest > 0, largest / smallest, torch.ones_like(largest))
