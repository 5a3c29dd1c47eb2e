import csv
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import randomize

from equilib import device
from equilib.__main__ import main
from equilib.deploy import LADDER, bit_width_accuracies, quantization_ladder
from equilib.equivariance import run_model
from equilib.mobilenet import MobileNetConfig, build, exported

SHIPPED = Path(__file__).parent.parent / "results"


def test_the_ladder_and_the_bit_widths(tissue, shallow):
    network = exported(randomize(build("equivariant", MobileNetConfig(width=0.35, group="C4")), tissue))
    ladder = quantization_ladder(network)
    assert tuple(ladder) == LADDER
    outputs = [run_model(model, tissue) for model in ladder.values()]
    assert all(not torch.equal(a, b) for a, b in zip(outputs[:1] + outputs[2:], outputs[1:2] + outputs[3:]))
    labels = run_model(network, tissue).argmax(1)
    table = bit_width_accuracies({"net": network}, tissue, labels, (8, 16))["net"]
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
    for name, options in (
        ("fp32", ["--fp32"]),
        ("int8", []),
        ("narrow", ["--weight-bits", "7", "--correct", "--per-field"]),
    ):
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
    assert "--weight-bits 9" in capsys.readouterr().err
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


@pytest.mark.parametrize(
    "name, image, words",
    [
        ("small.png", np.zeros((64, 64, 3), np.uint8), ["small.png", "64 x 64", "96 x"]),
        ("grey.png", np.zeros((96, 96), np.uint8), ["grey.png", "(96, 96)", "RGB"]),
        ("alpha.png", np.zeros((96, 96, 4), np.uint8), ["alpha.png", "transparency"]),
        ("deep.tif", np.zeros((96, 96, 3), np.uint16), ["deep.tif", "uint16"]),
        ("float.h5", np.zeros((1, 96, 96, 3), np.float32), ["float.h5[0]", "float32"]),
        ("broken.png", None, ["broken.png", "no image"]),
        ("none.png", ..., ["none.png", "missing"]),
        ("empty", "folder", ["empty", "no images"]),
    ],
)
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
