"""Cross references in docstrings, such as :func:`equilib.fields.rotate`, become links of the API reference."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|data|attr|exc):`~?([^`]+)`")


class Roles(griffe.Extension):
    """For mkdocstrings: rewrites the docstrings of a package once all of it is known."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrite the docstrings of a package and of everything in it."""
        rewrite(pkg)


def rewrite(item: griffe.Object) -> None:
    """Links for what belongs to the package; names from elsewhere become code."""
    if item.docstring:
        item.docstring.value = ROLE.sub(lambda match: _link(match[1], item), item.docstring.value)
    for member in item.members.values():
        if not member.is_alias:
            rewrite(member)


def _link(name: str, item: griffe.Object) -> str:
    root = item.package.path
    path = name
    if not name.startswith(f"{root}."):
        try:
            path = item.resolve(name)
        except griffe.NameResolutionError:
            return f"`{name}`"
    return f"[`{name}`][{path}]" if path.startswith(f"{root}.") else f"`{name}`"
