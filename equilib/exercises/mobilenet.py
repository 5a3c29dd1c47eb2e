"""Self-checks of notebook 04."""

from __future__ import annotations

import torch

from equilib.exercises.check import Hint, answered, self_check
from equilib.grids import Window, trace_stages


@self_check
def check_input_sizes(answer) -> str:
    """Notebook 04: all sizes from 90 to 110 that stay exact through three 3x3 convolutions, stride 2, no padding."""
    windows = [(f"stage {i}", Window(3, 2)) for i in (1, 2, 3)]
    right = {n for n in range(90, 111) if all(stage.exact for stage in trace_stages(n, windows))}
    given = {int(answered(n)) for n in answer}
    for n in sorted(given - right):
        if not 90 <= n <= 110:
            raise Hint(f"{n} is not between 90 and 110.")
        broken = next(stage for stage in trace_stages(n, windows) if not stage.exact)
        raise Hint(f"{n} breaks at {broken.name}, where the grid has {broken.size} pixels: {broken.explain()}.")
    if missing := sorted(right - given):
        raise Hint(f"All of yours are exact, but {len(missing)} more size(s) between 90 and 110 are too. Step by 8?")
    return f"Exactly {sorted(right)}: each stride must meet an odd grid, so n + 1 must be divisible by 8."


@self_check
def check_pointwise_parameters(answer) -> str:
    """Notebook 04: a function (inputs, outputs, order) to the trainable weights of an equivariant 1x1 layer."""
    from equilib.fields import Group
    from equilib.layers import SteerableConv

    for name, inputs, outputs in (("C4", 8, 12), ("C12", 24, 48), ("D4", 16, 8)):
        group = Group.parse(name)
        right = SteerableConv(group, inputs, outputs, 1).weights.numel()
        given = answered(answer(inputs, outputs, group.order))
        if given == inputs * outputs:
            raise Hint("That is the conventional layer: a weight for each pair of channels.")
        if given == inputs * outputs / group.order**2:
            raise Hint(
                "That is one weight for each pair of fields; but a pair has |G| free weights, one for each relative rotation."
            )
        if given != right:
            raise Hint(f"For {name} with {inputs} inputs and {outputs} outputs the layer has {right}, you say {given}.")
    return "One weight for each pair of fields and each relative rotation: |G| times fewer than the conventional layer."


@self_check
def check_invariant(answer) -> str:
    """Notebook 04: a function (field (B, F * order, n, n), order) to invariants (B, F)."""
    from equilib.fields import rotate_field

    field = torch.randn(2, 12, 7, 7, generator=torch.Generator().manual_seed(0))
    expected_shape = (2, 3)
    result = answered(answer(field, 4))
    if not isinstance(result, torch.Tensor):
        raise Hint(f"Return a tensor, not {type(result).__name__}.")
    if tuple(result.shape) != expected_shape:
        raise Hint(
            f"Three fields in, so the result should have shape {expected_shape}; yours has {tuple(result.shape)}."
        )
    for rotation in (1, 2, 3):
        if not torch.allclose(answer(rotate_field(field, "C4", rotation), 4), result, atol=1e-5):
            raise Hint(
                f"It changes under a rotation by {90 * rotation}°. Pool over the pixels **and** over the |G| channels of each field."
            )
    if torch.allclose(result, torch.zeros_like(result)) or torch.allclose(answer(field * 2 + 1, 4), result):
        raise Hint("It is invariant, but it does not depend on the field.")
    if torch.allclose(result, field.unflatten(1, (-1, 4)).mean((2, 3, 4)), atol=1e-5):
        raise Hint("That is the network's own, the mean; find another one.")
    other = field.clone()
    other[0, 4:8] = 3 * other[0, 4:8] + 1  # the second field of the first picture
    moved = ~torch.isclose(answer(other, 4), result, atol=1e-5)
    if not moved[0, 1]:
        raise Hint("The second field of a picture changes, and its number does not.")
    if moved.sum() > 1:
        raise Hint("One field of one picture changes, and other numbers change too. Each field has its own number.")
    twelve = torch.randn(2, 24, 7, 7, generator=torch.Generator().manual_seed(1))
    if tuple(answer(twelve, 12).shape) != (2, 2):
        raise Hint("For order 12 and 24 channels there are two fields, so the result has shape (2, 2). Use `order`.")
    if not torch.allclose(answer(rotate_field(twelve, "C12", 3), 12), answer(twelve, 12), atol=1e-5):
        raise Hint("With fields of order 12 it changes under a rotation by 90°. Pool over all `order` channels.")
    return "Invariant under all four rotations, and it still sees the field."
