"""Training: nothing is lost, and a resumed run ends at the same weights."""

import json
import os
import shutil
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from tiny_training import TINY, command, rows, write_noise

from equilib.__main__ import main
from equilib.mobilenet import estimate_statistics
from equilib.pcam import Patches, network_inputs, split_path
from equilib.training import PatchData, TrainConfig, load_network, seeded, train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("pcam"))


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.slow
def test_kill_and_resume_gives_the_same_weights(data, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(command(data, whole)[3:]) == 0
    for epochs in (1, 2):
        process = subprocess.Popen(command(data, killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while len(rows(killed)) < epochs and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        # The second time somewhere inside an epoch, the first time while the checkpoint may be half-written.
        time.sleep(0.3 * (epochs - 1))
        process.kill()
        process.wait()
        assert len(rows(killed)) < 6, "the run was over before it could be killed"
    assert main(command(data, killed)[3:]) == 0
    assert rows(killed) == rows(whole) and len(rows(whole)) == 6
    for name in ("last.ckpt", "best.ckpt"):
        a, b = weights(whole / name), weights(killed / name)
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a), name


@pytest.mark.slow
def test_two_processes_by_torchrun(data, tmp_path):
    run = tmp_path / "two"
    said = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "equilib"]
        + command(data, run)[3:]
        + ["--devices", "2", "--strategy", "ddp", "--epochs", "3"],
        check=True,
        capture_output=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert b"sync_dist" not in said.stderr, "a hint of Lightning that does not apply"
    assert len(rows(run)) == 3
    network, checkpoint = load_network(run / "best.ckpt")
    assert checkpoint["global_step"] == (checkpoint["epoch"] + 1) * 96 // 2 // 16, (
        "each process sees half of the patches"
    )


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    config = TrainConfig("equivariant", TINY, str(data), epochs=3, batch_size=16)
    run = tmp_path_factory.mktemp("runs") / "run"
    return config, run, train(config, run, accelerator="cpu", devices=1)


def test_it_learns_and_writes_its_log(trained):
    config, run, result = trained
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    logged = rows(run)
    assert [int(row["epoch"]) for row in logged] == [1, 2, 3]
    assert float(logged[2]["valid_loss"]) == result.history[2]["valid_loss"]
    assert result.best_epoch == 1 + int(np.argmin([row["valid_loss"] for row in result.history]))
    assert TrainConfig.from_dict(json.loads((run / "config.json").read_text())) == config
    assert not result.network.training


def test_a_finished_run_is_not_trained_again(trained):
    config, run, result = trained
    before = (run / "best.ckpt").stat().st_mtime_ns
    again = train(config, run, accelerator="cpu", devices=1)
    assert again.history == result.history and (run / "best.ckpt").stat().st_mtime_ns == before
    assert all(torch.equal(a, b) for a, b in zip(again.network.parameters(), result.network.parameters()))


def test_the_seed_decides_everything(trained, tmp_path):
    config, run, result = trained
    again = train(config, tmp_path / "again", accelerator="cpu", devices=1)
    assert again.history == result.history


def test_a_folder_of_another_run_is_refused(trained):
    config, run, _ = trained
    with pytest.raises(ValueError, match="learning_rate: 0.003 then, 0.1 now"):
        train(replace(config, learning_rate=0.1), run)


def test_a_moved_run_keeps_its_best(trained, tmp_path):
    """Continue in another place, after a best epoch that nothing can beat: best.ckpt must stay."""
    config, run, _ = trained
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    longer = replace(config, epochs=config.epochs + 1)
    last = torch.load(moved / "last.ckpt", weights_only=True) | {"equilib": longer.to_dict()}
    (best,) = [c for name, c in last["callbacks"].items() if "valid_loss" in name]
    best["best_model_score"] = torch.tensor(-1.0)
    best["best_k_models"] = {path: torch.tensor(-1.0) for path in best["best_k_models"]}
    torch.save(last, moved / "last.ckpt")
    before = (moved / "best.ckpt").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        # The schedule of the longer run has more steps; only the checkpoint is at stake here.
        patch.setattr("torch.optim.lr_scheduler.OneCycleLR.load_state_dict", lambda self, state: None)
        result = train(longer, moved, accelerator="cpu", devices=1)
    assert len(result.history) == config.epochs + 1 and (moved / "best.ckpt").read_bytes() == before


def test_a_start_that_failed_does_not_claim_the_folder(data, tmp_path):
    config = TrainConfig("equivariant", TINY, data, epochs=1, batch_size=16)
    with pytest.raises(ValueError, match="batch_size"):
        train(replace(config, batch_size=500), tmp_path / "run", accelerator="cpu", devices=1)
    assert len(train(config, tmp_path / "run", accelerator="cpu", devices=1).history) == 1


def test_another_number_of_processes_is_refused(trained, tmp_path):
    config, run, _ = trained
    shutil.copytree(run, tmp_path / "run")
    last = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    last["processes"] = 4
    torch.save(last, tmp_path / "run" / "last.ckpt")
    with pytest.raises(ValueError, match="4 process.es. and cannot continue on 1"):
        train(config, tmp_path / "run", accelerator="cpu", devices=1)


def test_bad_arguments(data):
    with pytest.raises(ValueError, match="epochs must be positive"):
        TrainConfig("equivariant", epochs=0)
    with pytest.raises(ValueError, match="kind must be"):
        TrainConfig("mobilenet")
    with pytest.raises(ValueError, match="seed must not be negative"):
        TrainConfig("equivariant", seed=-1)
    config = TrainConfig("equivariant", TINY, str(data), epochs=1, batch_size=200)
    with pytest.raises(ValueError, match="batch_size=200"):
        train(config, data / "run", accelerator="cpu", devices=1)


def test_seeded_streams_differ_in_every_number():
    draws = {
        tuple(torch.rand(2, generator=seeded(*numbers)).tolist()) for numbers in ((0, 1), (1, 0), (0, 1, 0), (0, 0))
    }
    assert len(draws) == 4


def test_the_command_line_explains_itself(tmp_path, capsys):
    assert (
        main(["train", "equivariant", "--data", str(tmp_path), "--folder", str(tmp_path / "r"), "--epochs", "1"]) == 1
    )
    assert "data_download.sh" in capsys.readouterr().err
    assert main(["train", "equivariant", "--data", str(tmp_path), "--folder", "r", "--group", "Z5"]) == 1
    assert "group must be" in capsys.readouterr().err


def test_compilation_and_precision_are_options(data, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, *a, **k: compiled.append(self))
    config = TrainConfig("equivariant", TINY, data=str(data), epochs=1, batch_size=16)
    result = train(config, tmp_path, compile=True, precision="bf16-mixed", accelerator="cpu", devices=1)
    assert [type(module).__name__ for module in compiled] == ["EquivariantMobileNetV2"]
    assert all(parameter.dtype == torch.float32 for parameter in result.network.parameters())
    assert torch.isfinite(torch.tensor(result.history[-1]["valid_loss"]))


def test_a_run_of_another_version_is_refused(trained, tmp_path):
    config, run, result = trained
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    last = torch.load(copied / "last.ckpt", weights_only=True)
    last["equilib"]["mixup"] = 0.2
    torch.save(last, copied / "last.ckpt")
    with pytest.raises(ValueError, match="mixup: 0.2 then, None now"):
        train(config, copied, accelerator="cpu", devices=1)


@pytest.fixture(scope="module")
def one_epoch(trained, tmp_path_factory):
    config = replace(trained[0], epochs=1)
    return config, train(config, tmp_path_factory.mktemp("runs") / "one", accelerator="cpu", devices=1)


@pytest.mark.parametrize("change", [{"stain": 0.3}, {"any_angle": 1.0}, {"augmentation": False}])
def test_every_augmentation_reaches_the_network(one_epoch, tmp_path, change):
    config, same = one_epoch
    other = train(replace(config, **change), tmp_path / "run", accelerator="cpu", devices=1)
    assert other.history[0]["train_loss"] != same.history[0]["train_loss"]


def test_statistics_are_those_of_patches_without_augmentation(trained, tmp_path):
    """…as they go in deployment; and that changes nothing but the validation."""
    config, _, result = trained
    config = replace(config, epochs=2)
    usual, ours = (
        train(replace(config, recalibrate=count), tmp_path / str(count), accelerator="cpu", devices=1)
        for count in (0, 40)
    )
    assert [row["train_loss"] for row in ours.history] == [row["train_loss"] for row in usual.history]
    assert [row["valid_loss"] for row in ours.history] != [row["valid_loss"] for row in usual.history]
    network = deepcopy(ours.network)
    patches = Patches(config.data, "train")
    batches = [
        network_inputs(patches, indices, TINY.input_size) for indices in (range(16), range(16, 32), range(32, 40))
    ]
    again = estimate_statistics(network, batches).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in ours.network.state_dict().items())


def test_the_command_line_passes_every_option_on(data, tmp_path, monkeypatch):
    from equilib import training

    seen = {}
    monkeypatch.setattr(
        training,
        "train",
        lambda config, *rest, **options: seen.update(config=config) or (_ for _ in ()).throw(ValueError("enough")),
    )
    given = [
        "--recalibrate",
        "64",
        "--any-angle",
        "--stain",
        "0.2",
        "--dropout",
        "0.4",
        "--input-size",
        "96",
        "--strided-padding",
        "1",
        "--allow-inexact",
    ]
    given += ["--divisor", "24", "--depthwise", "fieldwise", "--group", "C4", "--width", "0.35"]
    assert main(["train", "equivariant", "--folder", str(tmp_path), "--data", str(data), *given]) != 0
    config = seen["config"]
    assert (config.any_angle, config.stain, config.network.dropout) == (1.0, 0.2, 0.4)
    assert config.recalibrate == 64
    assert (config.network.input_size, config.network.strided_padding, config.network.allow_inexact) == (96, 1, True)
    assert (config.network.divisor, config.network.depthwise, config.network.blocks[0].outputs) == (24, "fieldwise", 24)


# --- what is trained and validated on ---


def test_each_loader_reads_its_own_split(data):
    config = TrainConfig("equivariant", TINY, str(data), batch_size=16)
    loaders = PatchData(config)
    loaders.trainer = SimpleNamespace(world_size=1, global_rank=0)
    for split, loader in (("train", loaders.train_dataloader()), ("valid", loaders.val_dataloader())):
        patches = Patches(data, split)
        wanted = patches.images(range(len(patches))).transpose(0, 3, 1, 2)
        found = torch.cat([images for images, _ in loader]).numpy()
        assert len(found) == len(wanted)
        assert {image.tobytes() for image in found} == {image.tobytes() for image in wanted}, split


def test_the_validation_loss_is_that_of_the_validation_patches(trained):
    """Computed anew from the network that was kept, without the trainer."""
    config, _, result = trained
    patches = Patches(config.data, "valid")
    with torch.no_grad():
        logits = result.network(network_inputs(patches, range(len(patches)), TINY.input_size))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(patches.labels)).item()
    assert loss == pytest.approx(result.history[result.best_epoch - 1]["valid_loss"], abs=1e-4)


# --- what goes wrong on the way ---


def poison(monkeypatch, first):
    """From this batch on (validation counts too) the network gets NaN."""
    from equilib import training

    seen, whole = [], training.standardize

    def standardize(images):
        seen.append(1)
        return whole(images) * (float("nan") if len(seen) >= first else 1)

    monkeypatch.setattr(training, "standardize", standardize)


def test_a_loss_that_diverges_stops_the_run_and_keeps_its_best(trained, tmp_path, monkeypatch):
    config, _, result = trained
    with monkeypatch.context() as patch:
        poison(patch, 6 + 2 + 2)  # an epoch has six steps and two batches of validation
        with pytest.raises(FloatingPointError, match="training loss became nan in step 2 of epoch 2, at learning rate"):
            train(config, tmp_path / "run", accelerator="cpu", devices=1)
    network, checkpoint = load_network(tmp_path / "run" / "best.ckpt")
    assert checkpoint["epoch"] == 0 and all(value.isfinite().all() for value in network.state_dict().values())
    # The kept epoch is whole: what stopped the run was not in it.
    assert train(config, tmp_path / "run", accelerator="cpu", devices=1).history == result.history


def test_a_validation_loss_that_diverges_leaves_no_checkpoint(trained, tmp_path, monkeypatch):
    config, _, _ = trained
    poison(monkeypatch, 7)
    with pytest.raises(FloatingPointError, match="validation loss became nan in epoch 1.*no epoch was finished"):
        train(config, tmp_path / "run", accelerator="cpu", devices=1)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def test_a_run_goes_on_from_its_best_epoch_where_the_last_is_lost(trained, tmp_path):
    config, run, result = trained
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    (copied / "last.ckpt").unlink()  # as after a kill between the two, or a clumsy hand
    again = train(config, copied, accelerator="cpu", devices=1)
    assert again.history == result.history and again.best_epoch == result.best_epoch
    for name in ("last.ckpt", "best.ckpt"):
        a, b = weights(run / name), weights(copied / name)
        assert all(torch.equal(a[key], b[key]) for key in a), name


def test_a_lost_curve_is_written_anew(trained, tmp_path):
    config, run, result = trained
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    (copied / "metrics.csv").unlink(), (copied / "config.json").unlink()
    assert train(config, copied, accelerator="cpu", devices=1).history == result.history
    for name in ("metrics.csv", "config.json"):
        assert (copied / name).read_bytes() == (run / name).read_bytes()


def test_the_same_patches_in_another_folder_are_the_same_run(trained, data, tmp_path):
    config, run, result = trained
    shutil.copytree(run, tmp_path / "run"), shutil.copytree(data, tmp_path / "job2" / "pcam")
    moved = replace(config, data=str(tmp_path / "job2" / "pcam"))
    assert train(moved, tmp_path / "run", accelerator="cpu", devices=1).history == result.history
    with h5py.File(split_path(moved.data, "valid", "y"), "r+") as file:
        file["y"][0] = 1 - file["y"][0]
    with pytest.raises(ValueError, match="on other valid patches"):
        train(moved, tmp_path / "run", accelerator="cpu", devices=1)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"precision": "bf16-true"}, "precision must be one of"),
        ({"precision": "16-mixed"}, "precision='16-mixed' is not possible on this device; use 'bf16-mixed'"),
        ({"devices": "abc"}, "devices='abc'"),
        ({"accelerator": "abacus"}, "accelerator='abacus'"),
        ({"strategy": "none"}, "strategy='none'"),
        ({"colour": 1}, "colour"),
        *(({name: 1}, f"{name} is no option: the configuration's epochs") for name in ("max_steps", "max_epochs")),
        ({"workers": -1}, "workers must not be negative"),
        ({"strategy": "ddp_spawn", "devices": 2}, "strategy='ddp_spawn'.*use strategy='ddp'"),
    ],
)
def test_options_that_cannot_be_are_repeated_with_the_reason(trained, tmp_path, options, words):
    config, _, _ = trained
    with pytest.raises(ValueError, match=words):
        train(config, tmp_path / "run", **{"accelerator": "cpu", "devices": 1} | options)
    assert not (tmp_path / "run").exists(), "such a start claims no folder"


@pytest.mark.slow
def test_the_command_draws_its_curves_and_says_where_they_are(data, tmp_path, capfd):
    """…and where its output is no terminal, it prints lines and no bar."""
    asked = [word for word in command(data, tmp_path / "run") if word != "--no-progress"]
    asked[asked.index("--epochs") + 1] = "1"
    assert main(asked[3:]) == 0
    said = capfd.readouterr()
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "curves.png" in said.out and said.out.count("epoch   1") == 1
    assert "\r" not in said.out + said.err and "it/s" not in said.out + said.err
