"""One file in one runtime, in a process of its own: `python benchmarks/one_runtime.py RUNTIME FILE PATCHES OUTPUT`.

Writes the logits of the patches under the four quarter turns (turned.py), and prints by how much the process grew.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from fresh import peak_mib
from turned import four_answers

from equilib import pte
from equilib.runtimes import RUNTIMES


def load(runtime: str, path: str | Path, batch: int = 1) -> Callable[[torch.Tensor], torch.Tensor]:
    """A file as a function from normalised images to logits, on one thread, fast for batches of this size."""
    return pte.load_pte(path) if runtime == "executorch" else RUNTIMES[runtime].load(path, batch=batch)


def main(runtime: str, path: str, patches: str, output: str) -> None:
    for package in (runtime, "onnx"):  # what any network costs is not this network's
        importlib.import_module({"executorch": "executorch.runtime"}.get(package, package))
    before = peak_mib()
    model = load(runtime, path)
    logits = four_answers(lambda images: model(torch.from_numpy(images)).numpy(), patches)
    np.save(output, logits)
    print(json.dumps({"peak_mib": peak_mib() - before}))


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit("one_runtime.py is what runtimes.py starts for each row; start that")
    torch.set_num_threads(1)
    main(*sys.argv[1:])
