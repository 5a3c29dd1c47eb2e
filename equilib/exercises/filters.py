"""Self-checks of notebook 02."""

from __future__ import annotations

import torch

from equilib.exercises.check import Hint, answered, one_letter, self_check
from equilib.fields import Group
from equilib.filters import atoms, filter_bank, steerable_basis


@self_check
def check_basis_size(answer) -> str:
    """A function (highest frequencies on the rings, the centre first) to the real coefficients of one filter."""
    for kernel_size, limits in ((5, (0, 2, 2)), (3, (0, 2)), (7, (0, 2, 3, 2))):
        right = len(steerable_basis(Group.parse("C12"), "trivial", "regular", kernel_size))
        given = int(answered(answer(limits)))
        if given == sum(m + 1 for m in limits):
            raise Hint("Above frequency 0 each atom has two real coefficients: cosine and sine.")
        if given == sum(2 * m for m in limits):
            raise Hint("Frequency 0 counts too, once on each ring.")
        if given != right:
            raise Hint(
                f"For rings with highest frequencies {limits} e2cnn's basis has {right} filters, you say {given}."
            )
    return "One for frequency 0 and two for each higher one, on every ring: 6, 11 and 18 for 3, 5 and 7 pixels."


@self_check
def check_alias(answer) -> str:
    """A function (m, points) to another frequency with the same samples at that many equidistant points of a ring."""
    for m, points in ((1, 8), (3, 8), (0, 4), (3, 4)):
        given = int(answered(answer(m, points)))
        if given == m:
            raise Hint(f"{given} is the frequency itself; find another one.")
        angles = 2 * torch.pi * torch.arange(points, dtype=torch.float64) / points
        asked, alias = (torch.exp(1j * k * angles) for k in (m, given))
        if not torch.allclose(asked, alias, atol=1e-9):
            if torch.allclose(asked.real, alias.real, atol=1e-9):
                raise Hint(f"At {points} points m = {m} and {given} have the same cosines, but their sines differ.")
            raise Hint(
                f"At {points} points m = {given} has other values than m = {m}. What phase is invisible at every point?"
            )
    return "Whole turns between neighbouring points cannot be seen: m and m ± points are the same samples."


@self_check
def check_depthwise(answer) -> str:
    """A function (samples (A, k, k), frequencies (A,), coefficients (F, A), order) to filters (F * order, 1, k, k)."""
    chosen = atoms(5)
    samples = torch.stack([atom.sample(5) for atom in chosen])
    frequencies = torch.tensor([atom.frequency for atom in chosen])
    coefficients = torch.randn(3, len(chosen), dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    for order in (4, 12):
        right = torch.cat([filter_bank(f"C{order}", chosen, row, 5) for row in coefficients])[:, None]
        result = answered(answer(samples, frequencies, coefficients, order))
        if not isinstance(result, torch.Tensor) or result.shape != right.shape:
            raise Hint(f"Three fields of C{order} need filters of shape {tuple(right.shape)}.")
        if result.is_complex():
            raise Hint("The filters are complex. Weights are the real part.")
        result = result.to(right)
        if torch.allclose(result, right, atol=1e-5):  # single precision will do
            continue
        backwards = right.unflatten(0, (3, order)).flip(1).roll(1, 1).flatten(0, 1)
        if torch.allclose(result, backwards):
            raise Hint("Your copies turn clockwise: the phase of a counter-clockwise turn by a is exp(-i m a).")
        if torch.allclose(result, right.unflatten(0, (3, order)).transpose(0, 1).flatten(0, 1)):
            raise Hint("The copies of one field must be neighbours: field by field, not rotation by rotation.")
        if torch.allclose(result, right[::order].repeat_interleave(order, 0)):
            raise Hint("All copies are the same: turn the r-th by r steps.")
        raise Hint(
            f"For C{order} the filters are not the turned copies. The r-th copy has coefficients c_a exp(-i m_a r 2π/{order})."
        )
    return "One filter a field, its copies made by phases alone."


@self_check
def check_why_twelve(answer) -> str:
    """One of the letters a to d."""
    hints = {
        "a": "A 3x3 filter of C12 has 6 coefficients, as one of C4 has.",
        "c": "Rounding errors are 1e-7. The error at 30° is 1e-2, and stays in double precision.",
        "d": "ReLU acts channel by channel and commutes with any permutation, of 4 channels or of 12.",
    }
    one_letter(answer, "b", hints)
    return (
        "Only multiples of 90° map the grid onto itself. In between, the picture and the filter are sampled elsewhere."
    )
