"""Self-checks of notebook 07: from seeds to a verdict, by hand."""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit

from equilib.exercises.check import Hint, answered, self_check
from equilib.study import welch

SIDES = (
    ((0.93, 0.92, 0.94), (0.91, 0.90, 0.92)),
    ((0.93, 0.95), (0.91, 0.905, 0.90, 0.915)),
    ((0.90, 0.91, 0.95), (0.93, 0.929, 0.931)),
)


@self_check
def check_standard_error(answer) -> str:
    """Notebook 07: two lists of numbers, one a seed, to the standard error of the difference of their means."""
    for first, second in SIDES:
        given = float(answered(answer(list(first), list(second))))
        parts = [np.var(side, ddof=1) / len(side) for side in (first, second)]
        if np.isclose(given, sum(np.var(side) / len(side) for side in (first, second)) ** 0.5):
            raise Hint(
                "With few seeds the variance must be divided by n − 1: the mean was taken from the same numbers."
            )
        if np.isclose(given, sum(part**0.5 for part in parts)):
            raise Hint("Errors of independent means add as squares, not as they are.")
        if not np.isclose(given, sum(parts) ** 0.5):
            raise Hint(f"For {first} and {second} it is {sum(parts) ** 0.5:.4f}, not {given:.4f}.")
    return "Variances of independent means add, each divided by its own number of seeds."


@self_check
def check_welch_interval(answer) -> str:
    """Notebook 07: (first, second, quantile) to the interval (low, high); quantile(freedom) is Student's of 97.5 %."""
    for first, second in SIDES:
        low, high = map(
            float, answered(answer(list(first), list(second), lambda freedom: float(stdtrit(freedom, 0.975))))
        )
        right = welch(first, second)
        if low > high:
            raise Hint("The lower end comes first.")
        if np.isclose(low + high, -sum(right)):
            raise Hint("The difference is the first minus the second.")
        if not np.allclose((low, high), right):
            raise Hint(
                f"For {first} and {second} it reaches from {right[0]:+.4f} to {right[1]:+.4f}, not {low:+.4f} to {high:+.4f}. "
                "Are the degrees of freedom Welch's?"
            )
    return "Few seeds that differ much make a wide interval, whichever side they are on."


@self_check
def check_verdict(answer) -> str:
    """Notebook 07: the intervals on test and on confirmation patches to "yes", "no" or "not shown"."""
    cases = (
        ((0.01, 0.03), (0.002, 0.02), "yes"),
        ((0.01, 0.03), (-0.002, 0.02), "not shown"),
        ((-0.01, 0.03), (0.002, 0.02), "not shown"),
        ((-0.01, 0.03), (-0.02, 0.02), "not shown"),
        ((0.01, 0.03), (-0.02, -0.001), "no"),
        ((-0.03, -0.01), (0.001, 0.02), "no"),
        ((-0.03, -0.01), (-0.02, -0.001), "no"),
    )
    for test, confirmation, right in cases:
        given = answered(answer(test, confirmation))
        if given != right:
            raise Hint(f"Test {test}, confirmation {confirmation}: the plan says «{right}», you say «{given}».")
    return "A rule that was written before the runs leaves nothing to argue about after them."
