"""Sliders of notebook 02: steer a filter, raise the band limit, look for aliases."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets
import torch
from torch import Tensor

from equilib import figures
from equilib.fields import Group, disc_mask, rotate
from equilib.filters import (
    Atom,
    angular_spectrum,
    atoms,
    count_coefficients,
    default_cutoff,
    ring_width,
    steer,
    steering_error,
)
from equilib.widgets.explorer import Explorer


def steered_filter(chosen: Sequence[Atom], coefficients: Tensor, kernel_size: int, *, degrees: int = 40) -> Explorer:
    """Turn a filter by mixing its coefficients; beside it, a picture of the unturned filter rotated by interpolation.

    Args:
        chosen: the filter's atoms.
        coefficients: (A,), complex.
        kernel_size: in pixels.
        degrees: the teaching default.
    """
    frequencies = [atom.frequency for atom in chosen]
    original = steer(chosen, coefficients, kernel_size, 0)
    live = figures.steered_filter(float(original.abs().max()), frequencies)
    inside = disc_mask(kernel_size) > 0

    def draw(degrees: int):
        steered = steer(chosen, coefficients, kernel_size, degrees)
        picture = rotate(original, degrees)
        angles = torch.tensor(frequencies, dtype=torch.float64) * degrees * torch.pi / 180
        turned = coefficients / coefficients.abs().max() * torch.polar(torch.ones_like(angles), -angles)
        difference = ((picture - steered)[inside].square().mean().sqrt() / steered[inside].std()).item()
        return live.update(
            steered=steered.numpy(),
            picture=picture.numpy(),
            coefficients=turned.numpy(),
            degrees=degrees,
            difference=difference,
        )

    slider = ipywidgets.IntSlider(degrees, 0, 360, 5, description="rotation [°]")
    return Explorer(
        draw,
        {"degrees": slider},
        description="A filter steered by {degrees} degrees, the unturned filter rotated as a picture, and the coefficients",
    )


def cutoff_errors(
    group: Group | str, kernel_size: int = 3, *, highest: int = 6, cutoff: int = 3, wavelength: float = 6.0
) -> Explorer:
    """Raise the band limit and watch coefficients and equivariance error grow.

    Args:
        group: whose rotations are tested.
        kernel_size: of the filters, in pixels.
        highest: end of the slider.
        cutoff: the teaching default.
        wavelength: of the plane waves, in pixels.
    """
    group = Group.parse(group)
    cutoffs = list(range(highest + 1))
    families = [atoms(kernel_size, limit) for limit in cutoffs]
    errors = [steering_error(family, kernel_size, group, wavelength=wavelength) for family in families]
    sizes = [count_coefficients(family) for family in families]
    generator = torch.Generator().manual_seed(1)
    coefficients = torch.randn(len(families[-1]), dtype=torch.complex128, generator=generator)
    place = {atom: coefficient for atom, coefficient in zip(families[-1], coefficients)}
    pairs = [
        torch.stack(
            [
                steer(family, torch.stack([place[atom] for atom in family]), kernel_size, turn)
                for turn in (0, group.step)
            ]
        )
        for family in families
    ]
    live = figures.cutoff_errors(cutoffs, errors, sizes, kernel_size, float(max(pair.abs().max() for pair in pairs)))

    def draw(cutoff: int):
        return live.update(filters=pairs[cutoff].numpy(), index=cutoff, degrees=group.step)

    return Explorer(
        draw,
        {"cutoff": ipywidgets.IntSlider(cutoff, 0, highest, description="highest m")},
        description="Equivariance error and number of coefficients against the highest frequency, {cutoff} marked",
    )


def aliases(kernel_size: int = 3, *, ring: int = 1, highest: int = 6, frequency: int = 3) -> Explorer:
    """Pick an atom and see whether its samples answer with its own frequency, or with an alias.

    Args:
        kernel_size: of the filter, in pixels.
        ring: radius of the atoms, in pixels.
        highest: end of the slider.
        frequency: the teaching default.
    """
    half = kernel_size / 2
    fine = torch.linspace(-half, half, 121, dtype=torch.float64)
    y, x = torch.meshgrid(-fine, fine, indexing="ij")
    live = figures.aliases(highest, half)

    def draw(frequency: int):
        atom = Atom(float(ring), frequency, ring_width(kernel_size, ring))
        sampled = atom.sample(kernel_size)
        return live.update(
            continuous=atom.at(x, y).real.numpy(),
            sampled=sampled.real.numpy(),
            spectrum=angular_spectrum(sampled, highest=highest).numpy(),
            frequency=frequency,
            kept=frequency <= default_cutoff(kernel_size, ring),
        )

    return Explorer(
        draw,
        {"frequency": ipywidgets.IntSlider(frequency, 0, highest, description="frequency m")},
        description=f"The atom of frequency {{frequency}}, its samples on {kernel_size} x {kernel_size} pixels, and the "
        "frequencies with which the samples answer",
    )
