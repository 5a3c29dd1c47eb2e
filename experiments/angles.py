"""Accuracy against the rotation of the test patches, of the networks that come with the project: results/angles.json.

    python experiments/angles.py --data DATA [--label LABEL]

Every 5 degrees, on all test patches, some minutes on one thread; notebook 04 draws it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from runs import RESULTS
from torch import Tensor

from equilib import device
from equilib.cli.process import until_closed
from equilib.equivariance import Model, run_model
from equilib.experiment import data_label
from equilib.fields import rotate
from equilib.mobilenet import exported
from equilib.pcam import Patches, network_inputs
from equilib.progress import bar
from equilib.results import environment, write_json
from equilib.training import shipped_network
from equilib.variant import Variant

OUTPUT = RESULTS / "angles.json"
VARIANTS = (Variant("conventional"), Variant("equivariant", "C12"), Variant("equivariant", "C4"))
NETWORKS = {variant.label: f"pcam_{variant.slug}_20000_seed0" for variant in VARIANTS}
ANGLES = range(0, 360, 5)


def sweep(models: Mapping[str, Model], images: Tensor, labels: Tensor, angles: Iterable[float] = ANGLES) -> dict:
    """Accuracy (0 to 1) of each model at each angle: of turned patches, and of the control, turned there and back again.

    Args:
        images: (B, 3, n, n), normalised and cropped.
        labels: (B,).
    """

    def accuracy(pictures):
        return {
            name: (run_model(model, pictures).argmax(1) == labels).double().mean().item()
            for name, model in models.items()
        }

    turned = {angle: accuracy(rotate(images, angle)) for angle in bar(angles, words="turning", unit="angle")}
    # Quarter turns are exact: there and back, nothing is left of them.
    back = {rest: accuracy(rotate(rotate(images, rest), -rest)) for rest in {angle % 90 for angle in turned}}
    return {
        name: {"turned": [turned[a][name] for a in turned], "there and back": [back[a % 90][name] for a in turned]}
        for name in models
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the .h5 files")
    parser.add_argument(
        "--label", help="what the data is, such as 'PCam subset, 20k JPEG'; else its sizes or folder say it"
    )
    options = parser.parse_args()
    test = Patches(options.data, "test")
    labels = torch.from_numpy(test.labels)
    networks = {network: exported(shipped_network(name)) for network, name in NETWORKS.items()}
    (size,) = {network.config.input_size for network in networks.values()}
    with TemporaryDirectory() as folder:  # onnxruntime is faster than torch
        files = {
            name: device.export_onnx(network, Path(folder) / f"{name}.onnx", size) for name, network in networks.items()
        }
        models = {name: device.session(file) for name, file in files.items()}
        accuracy = sweep(models, network_inputs(test, range(len(test)), size), labels)
    write_json(
        OUTPUT,
        {
            "data": {"label": options.label or data_label(options.data), "test": len(test)},
            "command": "python experiments/angles.py --data DATA",
            "environment": environment(),
            "networks": NETWORKS,
            "degrees": list(ANGLES),
            "accuracy": accuracy,
        },
    )


if __name__ == "__main__":
    sys.exit(until_closed(main))
