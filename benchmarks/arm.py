"""One ONNX file in onnxruntime's Arm build, under emulation: numpy and onnxruntime are all that there is.

    …/python3.11 arm.py answers FILE PATCHES OUTPUT    the logits under the four quarter turns, of the patches of turned.py
    …/python3.11 arm.py outputs FILE INPUTS OUTPUT     all outputs, of an .npz of inputs

`arm.sh` makes the folder with everything in it; `runtimes.py` and `arm_layers.py` start this.  Only bits are of interest:
times would be the emulator's.
"""

from __future__ import annotations

import sys
from pathlib import Path


def command(folder: Path, *arguments: object) -> list[str]:
    """What runs this file as an Arm core would, given the folder of `arm.sh`."""
    folder = folder.resolve()
    emulator = [str(folder / "qemu-aarch64-static"), "-cpu", "cortex-a76", "-L", str(folder / "root")]
    environment = ["-E", f"PYTHONPATH={folder / 'site'}"]
    return [*emulator, *environment, str(folder / "root/usr/bin/python3.11"), __file__, *map(str, arguments)]


def answers(path: str, patches: str, output: str) -> None:
    import numpy as np
    from turned import four_answers

    session = _session(path)
    name = session.get_inputs()[0].name
    np.save(output, four_answers(lambda images: session.run(None, {name: images})[0], patches))


def outputs(path: str, inputs: str, output: str) -> None:
    """All outputs of a graph, by their names; the graph as it is written, in no other layout (:mod:`equilib.layouts`)."""
    import numpy as np

    session = _session(path)
    names = [value.name for value in session.get_outputs()]
    np.savez(output, **dict(zip(names, session.run(names, dict(np.load(inputs))))))


def _session(path: str):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


JOBS = {"answers": answers, "outputs": outputs}

if __name__ == "__main__":
    if sys.argv[1:2] == [] or sys.argv[1] not in JOBS or len(sys.argv) != 5:
        sys.exit("arm.py is what runtimes.py and arm_layers.py start under emulation; start those")
    JOBS[sys.argv[1]](*sys.argv[2:])
