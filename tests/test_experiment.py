import csv
import json

import pytest
import torch

from equilib import experiment, results, slides
from equilib.__main__ import main
from equilib.mobilenet import MobileNetConfig
from equilib.pcam import Patches
from equilib.synthetic import ensure_dataset
from equilib.training import TrainConfig


def test_metrics_of_known_logits():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.0, 0.0], [3.0, 0.0]])
    metrics = experiment.classification_metrics(logits, torch.tensor([0, 1, 1, 0]))
    assert metrics["accuracy"] == 0.75 and metrics["auc"] == 1.0
    with pytest.raises(ValueError, match="two logits"):
        experiment.classification_metrics(torch.zeros(4, 3), torch.zeros(4))


@pytest.mark.slow
def test_the_whole_way_from_patches_to_int8(tmp_path, capsys, shallow):
    """The command `equilib compare` on synthetic tissue: all stages, one JSON, the laws that hold at every size.

    Called again, and asked for intervals by slide as well.
    """
    data = ensure_dataset({"train": 64, "valid": 32, "test": 32}, root=tmp_path, workers=1, progress=False)
    output = tmp_path / "results" / "tiny.json"
    arguments = ["compare", "--data", str(data), "--folder", str(tmp_path / "runs"), "--output", str(output)]
    arguments += ["--width", "0.1", "--group", "C4", "--input-size", "31", "--epochs", "2", "--batch-size", "8"]
    arguments += ["--measured", "16", "--accelerator", "cpu", "--no-progress"]
    # Strict layers: those that export to the conventional network's.
    arguments += ["--learning-rate", "1e-3", "--depthwise", "strict"]
    assert main(arguments) == 0
    said = capsys.readouterr().out.splitlines()
    told = [line for line in said if line.startswith(("conventional: ", "equivariant: "))]
    assert [line.split(",")[0].split(": ")[1] for line in told] == ["training"] * 2 + ["to INT8"] * 2
    contents = results.read_results(output)
    assert contents["data"]["label"] == "synthetic tissue" and contents["data"]["train"] == 64
    assert str(tmp_path) not in output.read_text(), "results must hold no local path"
    assert "--width 0.1" in contents["command"]
    equivariant, conventional = contents["models"]["equivariant"], contents["models"]["conventional"]
    assert equivariant["macs"] == conventional["macs"]
    assert equivariant["parameters_exported"] == conventional["parameters_exported"]
    # How small the errors are is asserted where networks have learnt something: notebook 04, and test_mobilenet in
    # double precision.  After so few steps the logits hardly differ between patches, and rounding counts for much.
    assert set(equivariant["equivariance"]) == {"untrained", "trained", "exported", "equalized", "int8"}
    assert {row["model"] for row in experiment.table(contents)} == {"conventional", "equivariant"}
    for figures in contents["models"].values():
        assert set(figures["accuracy"]) == {
            "fp32",
            "fp32, mean of four rotations",
            "fp32 equalized",
            "fp32 equalized and absorbed",
            "int8 naive, simulated",
            "int8 simulated",
            "int8",
        }
        assert [e["degrees"] for e in figures["interpolation_control"]] == [30, 60]
    # A second call finds both runs finished and writes the same figures.
    before = json.loads(output.read_text())["models"]
    with open(slides.meta_path(data, "test"), "w", newline="") as file:
        words = [[str(bool(label)), f"slide {i % 4}"] for i, label in enumerate(Patches(data, "test").labels)]
        csv.writer(file).writerows([["center_tumor_patch", "wsi"], *words])
    capsys.readouterr()
    assert main([*arguments, "--by-slide"]) == 0
    after = json.loads(output.read_text())
    assert before["equivariant"]["accuracy"] == after["models"]["equivariant"]["accuracy"]
    assert after["by_slide"]["slides"] == 4 and "from 4 slides drawn anew" in capsys.readouterr().out
    assert set(after["by_slide"]["intervals"]) == {"conventional", "equivariant", "equivariant − conventional"}


def test_labels_of_data(tmp_path, monkeypatch):
    from equilib.budget import BUDGETS
    from equilib.pcam import PUBLISHED_SIZES

    assert BUDGETS["paper"].sizes == PUBLISHED_SIZES

    class Whole(list):
        def __init__(self, root, split):
            super().__init__([0] * 3)

        def __len__(self):
            return PUBLISHED_SIZES["test"]

    monkeypatch.setattr(experiment, "Patches", Whole)
    monkeypatch.setattr(experiment, "PUBLISHED_SIZES", dict.fromkeys(PUBLISHED_SIZES, PUBLISHED_SIZES["test"]))
    assert experiment.data_label(tmp_path / "anything") == "PCam"
    assert experiment.data_label(tmp_path / "tissue-v1-seed0-1-1-1") == "synthetic tissue"


def test_commands_hold_no_paths():
    from equilib.cli.commands import without_paths

    command = without_paths(
        ["compare", "--data=/home/me/x", "--folder", "/home/me/y", "--label", "my data", "--epochs=3"]
    )
    assert command == "equilib compare --data DATA --folder FOLDER --label 'my data' --epochs 3"


def test_too_few_patches_to_measure_is_said_before_training(tmp_path):
    with pytest.raises(ValueError, match="measured must be at least 2"):
        experiment.compare(TrainConfig("equivariant"), tmp_path, tmp_path / "x.json", label="", measured=1)


def test_inference_over_a_split_is_in_order(tmp_path):
    from equilib.pcam import network_inputs

    data = ensure_dataset({"train": 2, "valid": 2, "test": 10}, root=tmp_path, workers=1, progress=False)
    test = Patches(data, "test")

    def brightness(x):
        return x.mean((1, 2, 3))[:, None].repeat(1, 2)

    whole = brightness(network_inputs(test, range(10), 95))
    assert torch.allclose(experiment.predict(brightness, test, 95, batch_size=3), whole, atol=1e-6)


def test_configuration_round_trip():
    config = TrainConfig("equivariant", MobileNetConfig(width=0.5, group="D4"))
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
