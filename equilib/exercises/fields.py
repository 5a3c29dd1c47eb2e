"""Self-checks of notebook 01."""

from __future__ import annotations

import torch

from equilib.exercises.check import Hint, answered, self_check
from equilib.fields import representation_matrix, rotate_field


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@self_check
def check_action(answer) -> str:
    """A function (field (B, F * 4, n, n), r) to the field turned by r quarter turns, regular fields of C4."""
    field = _random(2, 12, 6, 6)
    for r in (1, 3, 2):
        result = answered(answer(field.clone(), r))
        right = rotate_field(field, "C4", r)
        if not isinstance(result, torch.Tensor) or result.shape != right.shape:
            raise Hint(f"Return a tensor of the field's shape, {tuple(right.shape)}.")
        result = result.to(right)
        if torch.allclose(result, right):
            continue
        if torch.allclose(result, torch.rot90(field, r, (-2, -1))):
            raise Hint("The pixels move, the channels stay. Which channel answers to an edge that was turned?")
        if torch.allclose(result, torch.rot90(right, -r, (-2, -1))):
            raise Hint("The channels are shifted, the pixels stay where they were.")
        if torch.allclose(result, torch.rot90(field, r, (-2, -1)).roll(r, 1)):
            raise Hint(
                "There are three fields of four channels. Shift within each field, not over all twelve channels."
            )
        if torch.allclose(result, rotate_field(field, "C4", -r)):
            raise Hint("That is the inverse: positive r turns counter-clockwise and shifts channels upwards.")
        if torch.allclose(rotate_field(field, "C4", -r), torch.rot90(result, -2 * r, (-2, -1))):
            raise Hint("The pixels turn the right way, the channels shift the wrong way: torch.roll by +r.")
        raise Hint(
            f"For r = {r} the result is not the turned field. Turn the last two axes, shift the channels within a field."
        )
    return "Pixels turn, channels shift, each field by itself."


@self_check
def check_commutes(answer) -> str:
    """A function (network, action, picture) to True or False: does turning, then the network, equal the other way round?"""
    filters = _random(1, 1, 3, 3)
    bank = torch.stack([torch.rot90(filters[0], r, (-2, -1)) for r in range(4)])

    def network(x):
        return torch.nn.functional.conv2d(x, bank).relu()

    def only_half(field, r):
        return rotate_field(field, "C4", r) if r != 3 else field

    picture = _random(1, 1, 9, 9)
    suspects = {
        "the right action": (lambda f, r: rotate_field(f, "C4", r), True),
        "an action that turns pixels but not channels": (lambda f, r: torch.rot90(f, r, (-2, -1)), False),
        "an action that shifts channels but turns no pixels": (lambda f, r: f.roll(r, 1), False),
        "an action that is right for 90° and 180° and wrong for 270°": (only_half, False),
    }
    for words, (action, right) in suspects.items():
        given = answered(answer(network, action, picture))
        if bool(given) is not right:
            raise Hint(
                f"For {words} you say {bool(given)}. Compare network(turned picture) with action(network(picture), r) for all r."
            )
    return "Your test finds an error that the group's own laws cannot: turning pixels alone composes perfectly well."


@self_check
def check_relu(answer) -> str:
    """A function (vectors (M, d), matrices (R, d, d)) to the largest |ReLU(ρ v) - ρ ReLU(v)|."""
    vectors = _random(50, 4)
    for name in ("regular", "irrep1", "irrep2", "trivial"):
        rho = torch.stack(
            [representation_matrix("C4" if name != "irrep1" else "C12", name, r) for r in range(4)]
        ).float()
        v = vectors[:, : rho.shape[1]]
        turned = torch.einsum("rij,mj->rmi", rho, v)
        right = (turned.relu() - torch.einsum("rij,mj->rmi", rho, v.relu())).abs().max().item()
        given = float(answered(answer(v, rho)))
        if not abs(given - right) <= 1e-4:
            raise Hint(f"For the {name} representation the largest difference is {right:.2f}, yours is {given:.2f}.")
    return "0 for regular and trivial fields, which ReLU may act on; not for arrows, whose components a rotation mixes."


@self_check
def check_length(answer) -> str:
    """A function (field (B, F * 2, n, n) of arrows, irrep1) to invariants (B, F)."""
    from equilib.fields import transform_field

    field = _random(2, 6, 7, 7)
    result = answered(answer(field))
    if not isinstance(result, torch.Tensor) or tuple(result.shape) != (2, 3):
        raise Hint("Three arrow fields in, so the result should have shape (2, 3).")
    for r in (1, 2, 3):
        if not torch.allclose(answer(transform_field(field, "C4", "irrep1", r)), result, atol=1e-4):
            raise Hint(f"It changes under a rotation by {90 * r}°. What of an arrow stays when it is turned?")
    if torch.allclose(result, torch.zeros_like(result), atol=1e-6) or torch.allclose(answer(2 * field + 1), result):
        raise Hint("It is invariant, but it does not depend on the field.")
    thirty = representation_matrix("C12", "irrep1", 1).float()
    turned = torch.einsum("ij,bfjhw->bfihw", thirty, field.unflatten(1, (3, 2)))
    if not torch.allclose(answer(turned.flatten(1, 2)), result, atol=1e-4):
        raise Hint("It holds for quarter turns only: turn all arrows by 30° and it changes.")
    return "The length of an arrow does not care where it points, nor the mean over pixels where it stands."
