"""Run the notebooks and write the course as static pages."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from equilib.cli.process import until_closed
from equilib.site import build


def main(arguments: list[str] | None = None) -> int:
    """Build the site; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m equilib.site", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "output", type=Path, help="folder of the site: new, empty, or with an earlier site, which is replaced"
    )
    parser.add_argument("notebooks", nargs="+", type=Path)
    options = parser.parse_args(arguments)
    build(options.notebooks, options.output)
    print(f"the site is in {options.output}; serve it: python -m http.server --directory {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(until_closed(main))
