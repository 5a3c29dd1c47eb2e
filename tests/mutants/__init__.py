"""Deliberate breakages of the library, one line each, that a test must notice; ``tests/mutation.py`` tries them.

A mutant is the mistake of a tired author or the doubt of a careful referee: a sign, an axis, an off-by-one, a forgotten
square, the wrong split.  None is equivalent: each changes what the code does for some input that the docstrings allow.
Whoever changes a line that is quoted here changes it here, too (``tests/test_mutation.py`` says so).
"""

from mutants import networks, patches, quantization, runs, symmetry
from mutants.mutant import Mutant, StaleMutantError

__all__ = ["MUTANTS", "Mutant", "StaleMutantError"]

MUTANTS = [*symmetry.MUTANTS, *networks.MUTANTS, *quantization.MUTANTS, *patches.MUTANTS, *runs.MUTANTS]
