"""Values of another kind are refused where they are read, by name."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from equilib import dfq, equivariance, experiment, int8, pcam, results
from equilib.densenet import DenseNetConfig
from equilib.fields import Group
from equilib.mobilenet import MobileNetConfig
from equilib.runs import TrainConfig, load_network, save_checkpoint, shipped_checkpoint


@pytest.mark.parametrize(
    "of, name, value",
    [
        *((MobileNetConfig, name, "no") for name in ("band_limit", "antialias", "field_dropout", "allow_inexact")),
        *((MobileNetConfig, "width", value) for value in (float("nan"), float("inf"), 1e300, 0, -1, "1")),
        *((MobileNetConfig, name, 1.5) for name in ("divisor", "classes", "input_size", "strided_padding")),
        (MobileNetConfig, "strided_padding", -1),
        (MobileNetConfig, "strides", (2, 1, 2, 2, 1, 1, 1, 1.0)),
        *((MobileNetConfig, "strides", value) for value in (None, 2, "22")),
        *((TrainConfig, "network", value) for value in (None, {"width": 1.0}, "C4", MobileNetConfig)),
        (DenseNetConfig, "growth", 24.0),
        (DenseNetConfig, "band_limit", 1),
        *((TrainConfig, name, 2.5) for name in ("epochs", "batch_size", "seed", "recalibrate", "train_limit")),
        *((TrainConfig, "augmentation", value) for value in ("no", 1)),
        (TrainConfig, "learning_rate", "fast"),
        *((TrainConfig, "data", value) for value in (None, 1)),
        *((int8.Scheme, "weight_bits", value) for value in (7.5, True, "8")),
        (int8.Scheme, "per_channel", "yes"),
    ],
)
def test_values_of_another_kind(of, name, value):
    kind = {"kind": "conventional"} if of is TrainConfig else {}
    with pytest.raises(ValueError, match=f"^{name} must"):
        of(**kind, **{name: value})


def test_values_of_the_kind_pass():
    config = TrainConfig("conventional", MobileNetConfig(width=1, divisor=np.int64(12)), stain=0, valid_limit=None)
    assert replace(config, epochs=np.int32(3)).epochs == 3


@pytest.mark.parametrize("name", ["C1٢", "C0", "C1000", "C99999999999999999999999", "c4", "D"])
def test_groups_that_are_none(name):
    with pytest.raises(ValueError, match="group must be"):
        Group.parse(name)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_of_another_kind_are_no_weights(tmp_path, dtype):
    contents = torch.load(shipped_checkpoint("synthetic_equivariant_C4_w0.35"), weights_only=True)
    name = next(name for name, value in contents["state_dict"].items() if value.is_floating_point())
    contents["state_dict"][name] = contents["state_dict"][name].to(dtype)
    save_checkpoint(contents, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=f"odd.pt.*holds {dtype}"):
        load_network(tmp_path / "odd.pt")


def test_no_figure_of_answers_that_are_none():
    logits, labels = torch.randn(4, 2), torch.tensor([0, 1, 0, 1])
    with pytest.raises(ValueError, match="NaN"):
        experiment.classification_metrics(logits * float("nan"), labels)
    assert np.isnan(experiment.classification_metrics(logits, labels * 0)["auc"]), "one class has no area"
    images = torch.randn(3, 3, 8, 8)
    with pytest.raises(ValueError, match="NaN"):
        equivariance.rotation_spread(lambda x: torch.full((len(x), 2), float("nan")), images, [90])
    with pytest.raises(ValueError, match="two images"):
        equivariance.rotation_spread(lambda x: x.mean((2, 3))[:, :2], images[:1], [90])
    with pytest.raises(ValueError, match="images holds NaN"):
        equivariance.run_model(lambda x: x, images / 0 * 0)
    with pytest.raises(ValueError, match="square"):
        pcam.crop(torch.zeros(1, 3, 80, 96), 79)
    with pytest.raises(ValueError, match="deviations"):
        dfq.absorb_high_bias(None, deviations=-1)
    with pytest.raises(ValueError, match="not traced yet"):
        int8.quantize(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).eval(), (0.0, 1.0))


@pytest.mark.parametrize("indices", [np.ones(8, bool), [0.9, 1.9], [[0, 1]], 3])
def test_patches_are_asked_for_by_whole_numbers(tissue_folder, indices):
    patches = pcam.Patches(tissue_folder, "test")
    for ask in (patches.images, patches.__getitems__):
        with pytest.raises(TypeError, match="row of whole numbers"):
            ask(indices)
    assert len(patches.images([])) == 0 and len(patches.images(range(2))) == 2


@pytest.fixture(scope="module")
def tissue_folder():
    from equilib.synthetic import ensure_dataset

    return ensure_dataset({"train": 8, "valid": 8, "test": 8}, progress=False)


def test_a_folder_has_a_name_wherever_one_stands(tmp_path, monkeypatch, tissue_folder):
    monkeypatch.chdir(tissue_folder)
    assert experiment.data_label(".") == "synthetic tissue"
    (tmp_path / "data" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "data" / "sub")
    assert [results.folder_name(path) for path in (".", "..", "../sub/.", "/")] == ["sub", "data", "sub", "/"]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_raw_patches_are_no_input(dtype):
    with pytest.raises(ValueError, match="images holds torch.*normalize"):
        equivariance.run_model(torch.nn.Identity(), torch.zeros(2, 3, 5, 5).to(dtype))
