"""Self-checks of notebook 06."""

from __future__ import annotations

from equilib.exercises.check import Hint, answered, self_check


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
    for numbers in (
        (1000, 0.02, 0.001, 0.05, 0),
        (1000, 0.02, 0.001, 0.05, 10),
        (1000, 0.02, 0.002, 0.05, 10),
        (-90000, 0.02, 0.001, 0.05, 10),
        (10**6, 0.02, 0.01, 0.05, 3),
    ):
        accumulator, x, w, y, zero = numbers
        right = min(max(round(accumulator * x * w / y) + zero, 0), 255)
        given = answered(answer(*numbers))
        if given != int(given):
            raise Hint(
                f"For {numbers} you say {given}. An integer comes out: round the quotient, then add the zero point."
            )
        if given != right:
            outside = " An unsigned byte ends at 0 and 255." if right in (0, 255) else ""
            raise Hint(f"For {numbers} the integer is {right}, not {int(given)}.{outside}")
    return "The clipping at 0 is the ReLU, for free, when the zero point is 0."


@self_check
def check_orbits(answer) -> str:
    """Notebook 06: a function (order) to the sets of channels of a field that rotations by 90 degrees permute."""
    for order in (4, 12, 8):
        quarter = order // 4
        right = {frozenset((start + k * quarter) % order for k in range(4)) for start in range(quarter)}
        given = {frozenset(orbit) for orbit in answered(answer(order))}
        if given != right:
            raise Hint(
                f"For C{order} a quarter turn moves channel g to g + {quarter}; yours: {sorted(map(sorted, given))}."
            )
    return "Within an orbit weights are exact copies, so they round alike. Across orbits they are interpolated."
