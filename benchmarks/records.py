"""Do the shipped INT8 files answer on this processor as their records say, and alike however a patch lies?

    python benchmarks/records.py measure --data FOLDER [--save]     PCam's test split, or the subset of the records
    python benchmarks/records.py tables                             measure nothing, write the saved figures' table

A record keeps an answer (the difference of the two logits) to four decimals; so an equal answer is off by .00005 at most.
Nothing is timed.  Figures go to benchmarks/records.json, by processor, the table to benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from equilib import device, marks, study
from equilib.cli.process import until_closed
from equilib.equivariance import run_model
from equilib.fields import rotate
from equilib.live import SIZE
from equilib.pcam import Patches, network_inputs
from equilib.progress import bar
from equilib.results import environment, markdown_table, read_results, shipped_int8, write_json

SAVED, README = Path(__file__).with_suffix(".json"), Path(__file__).with_name("README.md")
BATCH = 32
ROUNDING = 0.5e-4
TURNS = (90, 180, 270)


def answers(name: str, data: str | Path) -> dict[str, float]:
    """A shipped file on the test patches of a folder.

    Returns:
        ``patches``; ``difference``, the largest one to the record; ``identical``, the share of patches with the same bits
        under four quarter turns.

    Raises:
        ValueError: the patches are not those of the record.
    """
    record, test = study.shipped_run(name).figures["per_patch"], Patches(data, "test")
    if list(test.labels) != record["label"][: len(test)]:
        raise ValueError(f"{data} holds other test patches than the record of {name} is of: their labels differ")
    session = device.session(shipped_int8(name), batch=BATCH)
    found, identical = [], 0
    for start in bar(range(0, len(test), BATCH), words=name, unit="batch"):
        images = network_inputs(test, range(start, min(start + BATCH, len(test))), SIZE)
        logits = run_model(session, images)
        turned = [run_model(session, rotate(images, degrees)) for degrees in TURNS]
        identical += int(torch.stack([(other == logits).all(1) for other in turned]).all(0).sum())
        found += (logits[:, 1] - logits[:, 0]).tolist()
    difference = np.abs(np.asarray(found) - record["int8"][: len(found)]).max().item()
    return {"patches": len(found), "difference": difference, "identical": identical / len(found)}


def rows(saved: Sequence[Mapping]) -> list[dict[str, str]]:
    """A row for each network and processor."""
    return [
        {
            "processor": f"{one['environment']['processor']}, {one['environment']['instructions']}",
            "INT8 file": f"`{name}`",
            "patches": f"{figures['patches']:,}",
            "answers": "those of the record"
            if figures["difference"] <= 1.01 * ROUNDING
            else f"off by {figures['difference']:.1g}",
            "same bits under four turns": f"{100 * figures['identical']:.1f} %",
        }
        for one in saved
        for name, figures in one["networks"].items()
    ]


def tables() -> None:
    marks.write("records", markdown_table(rows(read_results(SAVED)["machines"])), README)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("tables", help="write the saved figures' table")
    command = commands.add_parser("measure", help="run all shipped files on this machine")
    command.add_argument("--data", required=True, help="folder with PCam's files")
    command.add_argument("--save", action="store_true", help="keep the figures, and renew the table")
    options = parser.parse_args()
    if options.command == "tables":
        tables()
        return
    figures = {name: answers(name, options.data) for name in study.shipped_models()}
    one = {"environment": environment(), "networks": figures}
    print(markdown_table(rows([one])))
    if options.save:
        others = read_results(SAVED)["machines"] if SAVED.is_file() else []
        keys = ("processor", "instructions")
        here = [one["environment"][key] for key in keys]
        others = [other for other in others if [other["environment"][key] for key in keys] != here]
        write_json(SAVED, {"machines": [*others, one]})
        tables()


if __name__ == "__main__":
    sys.exit(until_closed(main))
