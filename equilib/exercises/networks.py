"""Self-checks of notebooks 04 to 06."""

from __future__ import annotations

import torch

from equilib.exercises.check import Hint, answered, self_check
from equilib.grids import Window, trace_stages


@self_check
def check_input_sizes(answer) -> str:
    """Notebook 04: all sizes from 90 to 110 that stay exact through three 3x3 convolutions, stride 2, no padding."""
    windows = [(f"stride {i}", Window(3, 2)) for i in (1, 2, 3)]
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
            raise Hint("That is one weight for each pair of fields; but a pair has |G| free weights, one for each relative rotation.")
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
        raise Hint(f"Three fields in, so the result should have shape {expected_shape}; yours has {tuple(result.shape)}.")
    for rotation in (1, 2, 3):
        if not torch.allclose(answer(rotate_field(field, "C4", rotation), 4), result, atol=1e-5):
            raise Hint(
                f"It changes under a rotation by {90 * rotation}°. Pool over the pixels **and** over the |G| channels of each field."
            )
    if torch.allclose(result, torch.zeros_like(result)) or torch.allclose(answer(field * 2 + 1, 4), result):
        raise Hint("It is invariant, but it does not depend on the field.")
    return "Invariant under all four rotations, and it still sees the field."


@self_check
def check_equalizing_scale(answer) -> str:
    """Notebook 05: a function (r1, r2) to the scale s for which r1 / s and r2 s are equal."""
    for r1, r2 in ((4.0, 1.0), (0.01, 3.0), (7.0, 7.0)):
        scale = float(answered(answer(r1, r2)))
        if not scale > 0:
            raise Hint(f"For r1 = {r1:g}, r2 = {r2:g} your scale is {scale:g}; it must be positive, or the ReLU notices.")
        first, second = r1 / scale, r2 * scale
        if abs(first - second) > 1e-6 * first:
            raise Hint(f"For r1 = {r1:g}, r2 = {r2:g} the ranges become {first:.3g} and {second:.3g}; they should be equal.")
    return "Both ranges become sqrt(r1 r2): s = sqrt(r1 / r2), which is the paper's sqrt(r1 r2) / r2."


@self_check
def check_absorbed(answer) -> str:
    """Notebook 05: a function (beta, gamma) of floats to the part of the bias that may be absorbed."""
    for beta, gamma, words in ((5.0, 1.0, ""), (1.0, 1.0, "a small bias"), (5.0, -1.0, "a negative gamma"), (-4.0, 0.5, "")):
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
        raise Hint(f"The shift has one number an output, shape {tuple(right.shape)}; yours has shape {tuple(given.shape)}.")
    if torch.allclose(given, -right, atol=1e-5):
        raise Hint("The sign is the other way round: rounded minus original weights.")
    if not torch.allclose(given, right, atol=1e-5):
        raise Hint("The output moves by (rounded - weight) applied to the mean input.")
    return "That is what bias correction takes off the bias."


@self_check
def check_int8_size(answer) -> str:
    """Notebook 06: a function (weights, biases) to the bytes that they take in the INT8 file."""
    for weights, biases in ((1000, 10), (326_000, 17_000)):
        given = int(answered(answer(weights, biases)))
        if given == weights + biases:
            raise Hint("Biases are counted in the accumulator's unit, and stored in 32 bits.")
        if given != weights + 4 * biases:
            raise Hint(f"For {weights} weights and {biases} biases you get {given} bytes.")
    return "One byte a weight, four a bias: 8-bit biases would undo bias correction."


@self_check
def check_requantize(answer) -> str:
    """Notebook 06: (accumulator, input scale, weight scale, output scale, output zero point) to the output's integer."""
    for numbers in ((1000, 0.02, 0.001, 0.05, 0), (1000, 0.02, 0.001, 0.05, 10), (-90000, 0.02, 0.001, 0.05, 10), (10**6, 0.02, 0.01, 0.05, 3)):
        accumulator, x, w, y, zero = numbers
        right = min(max(round(accumulator * x * w / y) + zero, 0), 255)
        given = int(answered(answer(*numbers)))
        if given != right:
            outside = " An unsigned byte ends at 0 and 255." if right in (0, 255) else ""
            raise Hint(f"For {numbers} the integer is {right}, not {given}.{outside}")
    return "The clipping at 0 is the ReLU, for free, when the zero point is 0."


@self_check
def check_orbits(answer) -> str:
    """Notebook 06: a function (order) to the sets of channels of a field that rotations by 90 degrees permute."""
    for order in (4, 12, 8):
        quarter = order // 4
        right = {frozenset((start + k * quarter) % order for k in range(4)) for start in range(quarter)}
        given = {frozenset(orbit) for orbit in answered(answer(order))}
        if given != right:
            raise Hint(f"For C{order} a quarter turn moves channel g to g + {quarter}; yours: {sorted(map(sorted, given))}.")
    return "Within an orbit weights are exact copies, so they round alike. Across orbits they are interpolated."
