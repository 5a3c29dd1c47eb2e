"""The command line of benchmarks that keep their figures: ``measure``, or renew the tables of those that are saved."""

from __future__ import annotations

import argparse


def measure_or_tables(description: str | None, quick: str) -> argparse.Namespace:
    """The options: ``command``, "tables" or "measure", and with the second ``quick`` and ``beside``.

    Args:
        description: of the program, its docstring.
        quick: what ``--quick`` does, for the help.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("tables", help="measure nothing; renew the tables of the saved figures")
    command = commands.add_parser("measure", help="measure, save the figures, renew the tables")
    command.add_argument("--quick", action="store_true", help=quick)
    command.add_argument("--beside", action="store_true", help="other programs run meanwhile: the table says so")
    return parser.parse_args()
