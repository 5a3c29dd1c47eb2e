"""Accuracy against the rotation of the test patches, of the networks that come with the project: results/angles.json.

    python benchmarks/angles.py --data DATA [--label LABEL]

Every 5 degrees, on all test patches, half an hour on one thread; notebook 04 draws it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from equilib.equivariance import answers_by_angle
from equilib.experiment import data_label, environment, shipped_network
from equilib.mobilenet import exported
from equilib.pcam import Patches, network_inputs
from equilib.training import write_json

RESULTS = Path(__file__).parent.parent / "results" / "angles.json"
NETWORKS = {network: f"pcam_{network}_w0.35_20000_seed0" for network in ("conventional", "C12", "C4")}
ANGLES = range(0, 360, 5)


def sweep(model, images: torch.Tensor, labels: torch.Tensor, angles=ANGLES) -> dict[str, list[float]]:
    """Accuracy (0 to 1) at each angle: of turned patches, and of the control, patches turned there and back again.

    Args:
        images: (B, 3, n, n), normalised and cropped.
        labels: (B,).
    """
    return {
        name: (answers_by_angle(model, images, angles, and_back=and_back) == labels).double().mean(1).tolist()
        for name, and_back in (("turned", False), ("there and back", True))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the .h5 files")
    parser.add_argument("--label", help="what the data is, such as 'PCam subset, 20k JPEG'; else its sizes or folder say it")
    options = parser.parse_args()
    test = Patches(options.data, "test")
    labels = torch.from_numpy(test.labels)
    accuracy = {}
    for network, name in NETWORKS.items():
        model = exported(shipped_network(name))
        images = network_inputs(test, range(len(test)), model.config.input_size)
        accuracy[network] = sweep(model, images, labels)
        print(f"{network}: {100 * accuracy[network]['turned'][0]:.1f} % upright", flush=True)
    write_json(
        RESULTS,
        {
            "data": {"label": options.label or data_label(options.data), "test": len(test)},
            "command": "python benchmarks/angles.py --data DATA",
            "environment": environment(),
            "networks": NETWORKS,
            "degrees": list(ANGLES),
            "accuracy": accuracy,
        },
    )


if __name__ == "__main__":
    main()
