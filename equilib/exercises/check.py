"""What makes a self-check: a verdict and a hint, never a traceback."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps


class Hint(Exception):
    """What is wrong with an answer, in words that help."""


class Unanswered(Exception):
    """The learner's function still returns the placeholder."""


def answered(value):
    if value is None or value is ... or (isinstance(value, tuple) and all(part is ... for part in value)):
        raise Unanswered
    return value


def one_letter(answer, right: str, hints: dict[str, str]) -> None:
    """Raise the hint of a wrong letter; those that may be chosen are the right one and those with a hint."""
    letter = str(answer).strip(" .()\"'").lower()
    if letter in hints:
        raise Hint(hints[letter])
    if letter != right:
        raise Hint("Answer with one letter: 'a', 'b', 'c' or 'd'.")


def self_check(check: Callable[..., str]) -> Callable[..., bool]:
    """Turn a function that returns praise or raises Hint into one that prints a verdict and returns it."""

    @wraps(check)
    def verdict(answer=None) -> bool:
        try:
            praise = check(answered(answer))
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
