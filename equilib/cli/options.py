"""Options made from the library: names, types, defaults from a signature, help from the docstring that lists its values.

So what a reader finds in the documentation of :class:`equilib.runs.TrainConfig` is what ``equilib train --help`` prints.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import get_args, get_type_hints

MOST_THREADS = 4096


def add_options(group: argparse._ActionsContainer, of: Callable, names: Iterable[str]) -> None:
    """An option for each of these values of a dataclass or function.

    An option that is not given leaves no trace, so that the default stays where it is written (:func:`given`).
    """
    hints, words, metadata = get_type_hints(of), described(of), {}
    if dataclasses.is_dataclass(of):
        metadata = {value.name: value.metadata for value in dataclasses.fields(of)}
    for name in names:
        default = inspect.signature(of).parameters[name].default
        shown = "" if default is None else f" (default {_shown(default)})"
        options = {"default": argparse.SUPPRESS, "help": (words.get(name, "") + shown).replace("%", "%%")}
        kind = next((part for part in get_args(hints[name]) or (hints[name],) if part is not type(None)), str)
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["type"] = {int: whole, float: number}.get(kind, kind)
        if getattr(hints[name], "__origin__", None) is tuple:
            options["nargs"] = "+"
        if "alone" in metadata.get(name, {}):
            alone = metadata[name]["alone"]
            options |= {"nargs": "?", "const": alone, "help": f"{options['help']}; without a number {alone:g}"}
        group.add_argument(f"--{name.replace('_', '-')}", **options)


def given(options: argparse.Namespace, names: Iterable[str]) -> dict:
    """Those of the options that were given."""
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def described(of: Callable) -> dict[str, str]:
    """Name to description, from the section ``Attributes:`` or ``Args:`` of a docstring."""
    text = inspect.getdoc(of) or ""
    section = re.search(r"^(?:Attributes|Args):\n((?:    .*(?:\n|\Z)|\n)*)", text, re.M)
    found = {}
    for entry in re.findall(r"^    (\w[\w, ]*): (.*(?:\n        .*)*)", section[1] if section else "", re.M):
        plain = re.sub(r":\w+:`~?([^`]*)`", r"\1", " ".join(entry[1].split())).replace("``", "")
        found |= {name: plain.rstrip(".") for name in entry[0].split(", ")}
    return found


def named(text: str) -> str:
    """The name of a file or folder; a variable of the shell that is not set gives an empty one."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return text


def place(text: str) -> Path:
    """A file or folder; an empty name is none, and not the folder that one is in."""
    return Path(named(text))


def whole(text: str) -> int:
    """A whole number, from the command line."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None


def count(text: str) -> int:
    """A whole number of at least 1."""
    if (value := whole(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def threads(text: str) -> int:
    """A number of threads that a machine could have."""
    if (value := count(text)) > MOST_THREADS:
        raise argparse.ArgumentTypeError(f"must be at most {MOST_THREADS}, got {text}")
    return value


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number")
    return value


def _shown(default) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return (
        " ".join(map(str, default))
        if isinstance(default, tuple)
        else f"{default:g}"
        if isinstance(default, float)
        else str(default)
    )
