"""One deliberate breakage, and the lists of a module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class StaleMutantError(ValueError):
    """The line that a mutant breaks is not in the code, or not once only."""


@dataclass(frozen=True)
class Mutant:
    """One breakage.

    Attributes:
        module: of the package, without ``equilib.``
        says: what is wrong then, in words.
        line: a part of one line, found once in the module.
        instead: what replaces it.
        tests: files or single tests in ``tests/``, separated by spaces, the quickest first.
    """

    module: str
    says: str
    line: str
    instead: str
    tests: str

    def broken(self, source: str) -> str:
        """The module's text with the breakage; raises StaleMutantError where the line is missing or not unique."""
        if source.count(self.line) != 1:
            raise StaleMutantError(
                f"equilib/{self.module}.py holds {self.line!r} {source.count(self.line)} times, not once: "
                f"bring the mutant «{self.says}» of tests/mutants/ up to date"
            )
        return source.replace(self.line, self.instead)

    def apply(self, folder: Path) -> None:
        """Break the package in this copy of the checkout."""
        path = folder / "equilib" / f"{self.module}.py"
        path.write_text(self.broken(path.read_text()))


def mutants_of(module: str, tests: str, *rows: tuple[str, ...]) -> list[Mutant]:
    """Mutants of one module: (what is wrong, line, replacement[, other tests, or ``::test`` for one in the same file])."""
    chosen = [row[3] if len(row) > 3 else tests for row in rows]
    return [Mutant(module, *row[:3], tests + own if own.startswith("::") else own) for row, own in zip(rows, chosen)]
