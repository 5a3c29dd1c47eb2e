"""Self-checks of notebook 05."""

from __future__ import annotations

import torch

from equilib.exercises.check import Hint, answered, self_check


@self_check
def check_equalizing_scale(answer) -> str:
    """Notebook 05: a function (r1, r2) to the scale s for which r1 / s and r2 s are equal."""
    for r1, r2 in ((4.0, 1.0), (0.01, 3.0), (7.0, 7.0)):
        scale = float(answered(answer(r1, r2)))
        if not scale > 0:
            raise Hint(
                f"For r1 = {r1:g}, r2 = {r2:g} your scale is {scale:g}; it must be positive, or the ReLU notices."
            )
        first, second = r1 / scale, r2 * scale
        if abs(first - second) > 1e-6 * first:
            raise Hint(
                f"For r1 = {r1:g}, r2 = {r2:g} the ranges become {first:.3g} and {second:.3g}; they should be equal."
            )
    return "Both ranges become sqrt(r1 r2): s = sqrt(r1 / r2), which is the paper's sqrt(r1 r2) / r2."


@self_check
def check_absorbed(answer) -> str:
    """Notebook 05: a function (beta, gamma) of floats to the part of the bias that may be absorbed."""
    for beta, gamma, words in (
        (5.0, 1.0, ""),
        (1.0, 1.0, "a small bias"),
        (5.0, -1.0, "a negative gamma"),
        (-4.0, 0.5, ""),
    ):
        right = max(0.0, beta - 3 * abs(gamma))
        given = float(answered(answer(beta, gamma)))
        if not abs(given - right) <= 1e-9:
            about = f" Think of {words}." if words else ""
            raise Hint(f"For beta = {beta:g}, gamma = {gamma:g} you absorb {given:g}, not {right:g}.{about}")
    return "Three deviations |gamma| below beta the ReLU is still in its linear part; more must not be taken."


@self_check
def check_bias_shift(answer) -> str:
    """Notebook 05: a function (rounded, weight, mean) of a linear layer to the shift of its mean output."""
    generator = torch.Generator().manual_seed(0)
    weight, mean = torch.randn(3, 5, generator=generator), torch.rand(5, generator=generator)
    rounded = (weight * 2).round() / 2
    right = (rounded - weight) @ mean
    given = torch.as_tensor(answered(answer(rounded, weight, mean)))
    if given.shape != right.shape:
        raise Hint(
            f"The shift has one number an output, shape {tuple(right.shape)}; yours has shape {tuple(given.shape)}."
        )
    if torch.allclose(given, -right, atol=1e-5):
        raise Hint("The sign is the other way round: rounded minus original weights.")
    if not torch.allclose(given, right, atol=1e-5):
        raise Hint("The output moves by (rounded - weight) applied to the mean input.")
    return "That is what bias correction takes off the bias."
