"""One ONNX file in onnxruntime's Arm build, under emulation: numpy and onnxruntime are all that there is.

    …/python3.11 arm.py FILE PATCHES OUTPUT

`arm.sh` makes the folder with everything in it; `runtimes.py` starts this.  Only bits are of interest: times would be the
emulator's.
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


def main(path: str, patches: str, output: str) -> None:
    import numpy as np
    import onnxruntime
    from turned import four_answers

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    np.save(output, four_answers(lambda images: session.run(None, {name: images})[0], patches))


if __name__ == "__main__":
    main(*sys.argv[1:])
