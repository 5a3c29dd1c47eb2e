"""Self-checks of the exercises: they say ✅, ❌ with a hint, or ✏️ where nothing is answered yet, and never raise."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch

from equilib.grids import Window, trace_stages


class Hint(Exception):
    """What is wrong with an answer, in words that help."""


class Unanswered(Exception):
    """The learner's function still returns the placeholder."""


def _given(value):
    if value is None or value is ...:
        raise Unanswered
    return value


def _check(check: Callable[..., str]) -> Callable[..., bool]:
    """Turn a function that returns praise or raises Hint into one that prints a verdict and returns it."""

    @wraps(check)
    def verdict(answer=None) -> bool:
        try:
            praise = check(_given(answer))
        except Unanswered:
            print("✏️ Not answered yet: replace the ... above and run the cell again.")
            return False
        except Hint as hint:
            print(f"❌ {hint}")
            return False
        except Exception as error:  # the answer's own error, shown without its traceback
            print(f"❌ Your answer raised {type(error).__name__}: {error}")
            return False
        print(f"✅ {praise}")
        return True

    return verdict


@_check
def check_input_sizes(answer) -> str:
    """Notebook 04: all sizes from 90 to 110 that stay exact through three 3x3 convolutions, stride 2, no padding."""
    windows = [(f"stride {i}", Window(3, 2)) for i in (1, 2, 3)]
    right = {n for n in range(90, 111) if all(stage.exact for stage in trace_stages(n, windows))}
    given = {int(n) for n in answer}
    for n in sorted(given - right):
        if not 90 <= n <= 110:
            raise Hint(f"{n} is not between 90 and 110.")
        broken = next(stage for stage in trace_stages(n, windows) if not stage.exact)
        raise Hint(f"{n} breaks at {broken.name}, where the grid has {broken.size} pixels: {broken.explain()}.")
    if missing := sorted(right - given):
        raise Hint(f"All of yours are exact, but {len(missing)} more size(s) between 90 and 110 are too. Step by 8?")
    return f"Exactly {sorted(right)}: each stride must meet an odd grid, so n + 1 must be divisible by 8."


@_check
def check_pointwise_parameters(answer) -> str:
    """Notebook 04: a function (inputs, outputs, order) to the trainable weights of an equivariant 1x1 layer."""
    from equilib.fields import Group
    from equilib.layers import SteerableConv

    for name, inputs, outputs in (("C4", 8, 12), ("C12", 24, 48), ("D4", 16, 8)):
        group = Group.parse(name)
        right = SteerableConv(group, inputs, outputs, 1).weights.numel()
        given = _given(answer(inputs, outputs, group.order))
        if given == inputs * outputs:
            raise Hint("That is the conventional layer: a weight for each pair of channels.")
        if given == inputs * outputs / group.order**2:
            raise Hint("That is one weight for each pair of fields; but a pair has |G| free weights, one for each relative rotation.")
        if given != right:
            raise Hint(f"For {name} with {inputs} inputs and {outputs} outputs the layer has {right}, you say {given}.")
    return "One weight for each pair of fields and each relative rotation: |G| times fewer than the conventional layer."


@_check
def check_invariant(answer) -> str:
    """Notebook 04: a function (field (B, F * order, n, n), order) to invariants (B, F)."""
    from equilib.fields import rotate_field

    field = torch.randn(2, 12, 7, 7, generator=torch.Generator().manual_seed(0))
    expected_shape = (2, 3)
    result = _given(answer(field, 4))
    if not isinstance(result, torch.Tensor):
        raise Hint(f"Return a tensor, not {type(result).__name__}.")
    if tuple(result.shape) != expected_shape:
        raise Hint(f"Three fields in, so the result should have shape {expected_shape}; yours has {tuple(result.shape)}.")
    for rotation in (1, 2, 3):
        if not torch.allclose(answer(rotate_field(field, "C4", rotation), 4), result, atol=1e-5):
            raise Hint(
                f"It changes under a rotation by {90 * rotation}°. Pool over the pixels **and** over the |G| channels of each field."
            )
    if torch.allclose(result, torch.zeros_like(result)) or torch.allclose(answer(field * 2 + 1, 4), result):
        raise Hint("It is invariant, but it does not depend on the field.")
    return "Invariant under all four rotations, and it still sees the field."
