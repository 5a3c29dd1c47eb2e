import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import randomize

from equilib import device, experiment, results
from equilib.__main__ import main
from equilib.equivariance import relative_difference, run_model
from equilib.mobilenet import MobileNetConfig, build, count_parameters, exported
from equilib.synthetic import ensure_dataset
from equilib.training import TrainConfig

SHIPPED = Path(__file__).parent.parent / "results"


def test_metrics_of_known_logits():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.0, 0.0], [3.0, 0.0]])
    metrics = experiment.classification_metrics(logits, torch.tensor([0, 1, 1, 0]))
    assert metrics["accuracy"] == 0.75 and metrics["auc"] == 1.0
    with pytest.raises(ValueError, match="two logits"):
        experiment.classification_metrics(torch.zeros(4, 3), torch.zeros(4))


@pytest.mark.slow
def test_the_whole_way_from_patches_to_int8(tmp_path, capsys):
    """The command `equilib compare` on synthetic tissue: all stages, one JSON, the laws that hold at every size."""
    data = ensure_dataset({"train": 128, "valid": 32, "test": 32}, root=tmp_path, workers=1, progress=False)
    output = tmp_path / "results" / "tiny.json"
    arguments = ["compare", "--data", str(data), "--folder", str(tmp_path / "runs"), "--output", str(output)]
    arguments += "--width 0.35 --group C4 --epochs 4 --batch-size 8 --measured 16 --accelerator cpu --no-progress".split()
    arguments += ["--learning-rate", "1e-3"]
    assert main(arguments) == 0
    contents = results.read_results(output)
    assert contents["data"]["label"] == "synthetic tissue" and contents["data"]["train"] == 128
    assert str(tmp_path) not in output.read_text(), "results must hold no local path"
    assert "--width 0.35" in contents["command"]
    equivariant, conventional = contents["models"]["equivariant"], contents["models"]["conventional"]
    assert equivariant["macs"] == conventional["macs"]
    assert equivariant["parameters_exported"] == conventional["parameters_exported"]
    # How small the errors are is asserted where networks have learnt something: notebook 04, and test_mobilenet in
    # double precision.  After so few steps the logits hardly differ between patches, and rounding counts for much.
    assert set(equivariant["equivariance"]) == {"untrained", "trained", "exported", "equalized", "int8"}
    assert {row["model"] for row in experiment.table(contents)} == {"conventional", "equivariant"}
    for figures in contents["models"].values():
        assert set(figures["accuracy"]) == {
            "fp32", "fp32, mean of four rotations", "fp32 equalized", "fp32 equalized and absorbed", "int8 naive, simulated", "int8 simulated", "int8"
        }
        assert [e["degrees"] for e in figures["interpolation_control"]] == [30, 60]
    # A second call finds both runs finished and writes the same figures.
    before = json.loads(output.read_text())["models"]
    assert main(arguments) == 0
    after = json.loads(output.read_text())["models"]
    assert before["equivariant"]["accuracy"] == after["equivariant"]["accuracy"]


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
    from equilib.__main__ import _without_paths

    command = _without_paths(["compare", "--data=/home/me/x", "--folder", "/home/me/y", "--label", "my data", "--epochs=3"])
    assert command == "equilib compare --data DATA --folder FOLDER --label 'my data' --epochs 3"


def test_too_few_patches_to_measure_is_said_before_training(tmp_path):
    with pytest.raises(ValueError, match="measured must be at least 2"):
        experiment.compare(TrainConfig("equivariant"), tmp_path, tmp_path / "x.json", label="", measured=1)


def test_inference_over_a_split_is_in_order(tmp_path):
    from equilib.pcam import Patches, network_inputs

    data = ensure_dataset({"train": 2, "valid": 2, "test": 10}, root=tmp_path, workers=1, progress=False)
    test = Patches(data, "test")

    def brightness(x):
        return x.mean((1, 2, 3))[:, None].repeat(1, 2)

    whole = brightness(network_inputs(test, range(10), 95))
    assert torch.allclose(experiment.predict(brightness, test, 95, batch_size=3), whole, atol=1e-6)


def test_configuration_round_trip():
    config = TrainConfig("equivariant", MobileNetConfig(width=0.5, group="D4"))
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_ladder_and_the_bit_widths(tissue):
    network = exported(randomize(build("equivariant", MobileNetConfig(width=0.35, group="C4")), tissue))
    ladder = experiment.quantization_ladder(network)
    assert tuple(ladder) == experiment.LADDER
    outputs = [run_model(model, tissue) for model in ladder.values()]
    assert all(not torch.equal(a, b) for a, b in zip(outputs[:1] + outputs[2:], outputs[1:2] + outputs[3:]))
    labels = run_model(network, tissue).argmax(1)
    table = experiment.bit_width_accuracies({"net": network}, tissue, labels, (8, 16))["net"]
    assert set(table) == {(8, 8), (8, 16), (16, 8), (16, 16)} and all(0 <= value <= 1 for value in table.values())


# --- equilib quantize, equilib predict ---


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("device") / "model.onnx"
    assert main(["quantize", str(SHIPPED / "synthetic_equivariant_C4_w0.35.pt"), "-o", str(path)]) == 0
    return path


def test_quantize_writes_what_it_says(model, tmp_path, capsys):
    checkpoint = str(SHIPPED / "synthetic_equivariant_C4_w0.35.pt")
    sizes = {}
    for name, options in (("fp32", ["--fp32"]), ("int8", []), ("narrow", ["--weight-bits", "7", "--bias-correction", "--tied"])):
        path = tmp_path / f"{name}.onnx"
        assert main(["quantize", checkpoint, "-o", str(path), *options]) == 0
        said = capsys.readouterr().out
        sizes[name] = path.stat().st_size
        assert f"{sizes[name] / 1e6:.2f} MB" in said
        assert ("pairs equalized" in said) == (name != "fp32") and ("corrected" in said) == (name == "narrow")
    assert sizes["int8"] < 0.36 * sizes["fp32"]  # small network: the graph itself weighs something
    assert (path.parent / "int8.onnx").read_bytes() == model.read_bytes()


def test_quantize_refuses_what_is_no_checkpoint(tmp_path, capsys):
    (tmp_path / "bad.ckpt").write_bytes(b"nothing")
    for path, words in ((tmp_path / "bad.ckpt", "no checkpoint"), (tmp_path / "none.ckpt", "missing")):
        assert main(["quantize", str(path), "-o", str(tmp_path / "m.onnx")]) == 1
        assert words in capsys.readouterr().err
    checkpoint = str(SHIPPED / "synthetic_equivariant_C4_w0.35.pt")
    assert main(["quantize", checkpoint, "-o", str(tmp_path / "m.onnx"), "--weight-bits", "9"]) == 1
    assert "weight_bits=9" in capsys.readouterr().err
    assert not (tmp_path / "m.onnx").exists()


def test_predict_reads_files_folders_and_h5(model, tmp_path, capsys):
    from skimage import io

    images = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, image in enumerate(images):
        io.imsave(folder / f"{number}.png", image, check_contrast=False)
    (folder / "notes.txt").write_text("not an image")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = images
    assert main(["predict", str(model), str(folder / "0.png"), str(folder), str(tmp_path / "x.h5")]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert len(rows) == 7
    probabilities = [float(row["probability_of_tumour"]) for row in rows]
    assert probabilities[0] == probabilities[1] and probabilities[1:4] == probabilities[4:]
    assert all(int(row["class"]) == (p > 0.5) for row, p in zip(rows, probabilities))
    # the answer of the network on the cropped patch
    from equilib.pcam import crop, normalize

    logits = run_model(device.session(model), normalize(crop(torch.from_numpy(images).permute(0, 3, 1, 2), 95)))
    assert probabilities[4:] == pytest.approx(logits.softmax(1)[:, 1].tolist(), abs=1e-4)


@pytest.mark.parametrize("name, image, words", [
    ("small.png", np.zeros((64, 64, 3), np.uint8), ["small.png", "64 x 64", "96 x"]),
    ("grey.png", np.zeros((96, 96), np.uint8), ["grey.png", "(96, 96)", "RGB"]),
    ("alpha.png", np.zeros((96, 96, 4), np.uint8), ["alpha.png", "transparency"]),
    ("deep.tif", np.zeros((96, 96, 3), np.uint16), ["deep.tif", "uint16"]),
    ("float.h5", np.zeros((1, 96, 96, 3), np.float32), ["float.h5[0]", "float32"]),
    ("broken.png", None, ["broken.png", "no image"]),
    ("none.png", ..., ["none.png", "missing"]),
    ("empty", "folder", ["empty", "no images"]),
])
def test_predict_explains_bad_images(model, tmp_path, capsys, name, image, words):
    from skimage import io

    path = tmp_path / name
    if image is None:
        path.write_bytes(b"nothing")
    elif isinstance(image, str):
        path.mkdir()
    elif image is not ... and name.endswith("h5"):
        with h5py.File(path, "w") as file:
            file["x"] = image
    elif image is not ...:
        io.imsave(path, image, check_contrast=False)
    assert main(["predict", str(model), str(path)]) == 1
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
