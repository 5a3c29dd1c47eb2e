"""Whether the values of a configuration are of the kinds that it says: a text or a fraction is refused where it is read.

Python takes ``"no"`` for true and 2.5 for a number of epochs, and a training finds out hours later, or never.
"""

from __future__ import annotations

import math
from dataclasses import is_dataclass
from functools import lru_cache
from numbers import Integral, Real
from typing import get_args, get_origin, get_type_hints

WORDS = {bool: "True or False", int: "a whole number", float: "a finite number", str: "a text"}


@lru_cache
def _hints(of: type) -> dict[str, object]:
    return get_type_hints(of)


def check_kinds(config: object) -> None:
    """Refuse a dataclass whose values are not of their kinds; what is in a dataclass of its own is left to that one.

    Raises:
        ValueError: names the first value that is of another kind.
    """
    for name, hint in _hints(type(config)).items():
        value = getattr(config, name)
        kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
        if value is None and len(kinds) < len(get_args(hint)):
            continue
        if get_origin(hint) is tuple:
            wrong = not isinstance(value, (tuple, list)) or not all(_is(entry, kinds[0]) for entry in value)
            words = f"a row, each {WORDS[kinds[0]]}"
        elif kinds[0] in WORDS:
            wrong, words = not _is(value, kinds[0]), WORDS[kinds[0]]
        elif all(map(is_dataclass, kinds)):
            wrong, words = not isinstance(value, tuple(kinds)), "a " + " or ".join(kind.__name__ for kind in kinds)
        else:
            continue
        if wrong:
            raise ValueError(f"{name} must be {words}, got {value!r}")


def _is(value: object, kind: type) -> bool:
    if kind is bool:
        return isinstance(value, bool)
    if kind is float:  # older files have False and True where a share stands now
        return isinstance(value, Real) and math.isfinite(value)
    if kind is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    return isinstance(value, kind)
