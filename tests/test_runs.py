"""Checkpoints from elsewhere, and folders of runs that are damaged, incomplete or another's."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from equilib import training
from equilib.densenet import DenseNet, DenseNetConfig
from equilib.interrupts import EndsBetweenBatches
from equilib.mobilenet import MobileNetConfig, build
from equilib.runs import TrainConfig, claim, load_network, read_checkpoint, save_checkpoint
from equilib.training import PatchClassifier

CONFIG = TrainConfig("conventional", MobileNetConfig(width=0.1, group="C4"), epochs=3)
PATCHES = {"train": "aa", "valid": "bb"}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build(CONFIG.kind, CONFIG.network).eval()


def written(path, network, **changes):
    """A file as a training leaves it, but for the changes."""
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    beside = {"train_loss.mean_value": torch.zeros(())}
    contents = {"state_dict": weights | beside, "equilib": CONFIG.to_dict(), "epoch": 1, "processes": 1}
    contents |= {"callbacks": {"History": {"rows": []}}, "optimizer_states": [{0: 0}]}
    contents |= {"lr_schedulers": [{0: 0}], "loops": {"fit_loop": {0: 0}}}
    contents = {key: value for key, value in (contents | {"patches": PATCHES} | changes).items() if value is not None}
    save_checkpoint(contents, path)
    return path


# --- configurations ---


@pytest.mark.parametrize("network", [MobileNetConfig(width=0.1, group="C4"), DenseNetConfig(growth=8, dropout=0.1)])
def test_a_configuration_of_either_family_comes_back_from_its_dictionary(network):
    config = replace(CONFIG, network=network)
    there = json.loads(json.dumps(config.to_dict()))
    assert TrainConfig.from_dict(there) == config
    assert there["network"].get("family") == (None if isinstance(network, MobileNetConfig) else "densenet")


def test_a_family_that_is_none_is_refused():
    values = CONFIG.to_dict()
    values["network"]["family"] = "resnet"
    with pytest.raises(ValueError, match="family must be one of .*got 'resnet'"):
        TrainConfig.from_dict(values)
    with pytest.raises(ValueError, match="growth"):  # of another family
        TrainConfig.from_dict(values | {"network": DenseNetConfig().to_dict()})


# --- checkpoints ---


@pytest.mark.parametrize("kind, growth", [("conventional", 3), ("equivariant", 8)])
def test_a_checkpoint_of_a_densenet_is_read_as_one(tmp_path, kind, growth):
    config = TrainConfig(kind, DenseNetConfig(growth=growth))
    network = build(kind, config.network).eval()
    loaded, _ = load_network(written(tmp_path / "x.pt", network, equilib=config.to_dict()))
    assert loaded.config == config.network and isinstance(loaded, DenseNet) == (kind == "conventional")
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(loaded(images), network(images))


@pytest.mark.parametrize("prefix", ["", "network.", "module.", "model.", "_orig_mod.", "module._orig_mod.network."])
@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_usual_prefixes_are_taken_off(tmp_path, network, prefix, key):
    weights = {prefix + name: value for name, value in network.state_dict().items()}
    path = written(tmp_path / "x.pt", network, **{"state_dict": None, key: weights})
    loaded, _ = load_network(path)
    assert not loaded.training
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in network.state_dict().items())


def test_files_that_do_not_say_their_depthwise_layer_are_strict():
    """…since they are older than the other form, which became the default."""
    assert MobileNetConfig().depthwise == "fieldwise"
    values = TrainConfig("equivariant", MobileNetConfig(width=0.1, group="C4", depthwise="strict")).to_dict()
    del values["network"]["depthwise"], values["network"]["antialias"]
    network = TrainConfig.from_dict(values).network
    assert (network.depthwise, network.antialias) == ("strict", False)


def first(network):
    return next(iter(network.state_dict()))


def without_first(network):
    return {"state_dict": {f"module.{k}": v for k, v in network.state_dict().items() if k != first(network)}}


def with_first(value):
    return lambda network: {"state_dict": network.state_dict() | {first(network): value(network)}}


@pytest.mark.parametrize(
    "changes, words",
    [
        (lambda n: {"state_dict": None}, ["holds no weights", "'epoch'"]),
        (lambda n: {"state_dict": {}}, ["holds no weights"]),
        (lambda n: {"equilib": None}, ["no configuration of equilib", first]),
        (lambda n: {"equilib": 3}, ["under 'equilib'"]),
        (lambda n: {"equilib": CONFIG.to_dict() | {"mixup": 0.2}}, ["mixup"]),
        (lambda n: {"equilib": CONFIG.to_dict() | {"epochs": "3"}}, ["under 'equilib'"]),
        (without_first, ["lacks weights", first]),
        (
            lambda n: {"state_dict": {"backbone.conv1.weight": torch.zeros(1)}},
            ["lacks weights", "backbone.conv1", first],
        ),
        (lambda n: {"state_dict": n.state_dict() | {"head.bias": torch.zeros(1)}}, ["does not have", "head.bias"]),
        (with_first(lambda n: torch.zeros(5)), ["shape (5,)", first]),
        (with_first(lambda n: n.state_dict()[first(n)] * float("nan")), ["not finite", first]),
        (with_first(lambda n: 3), ["shape ()", first]),
        (lambda n: {"state_dict": n.state_dict() | {f"model.{k}": v for k, v in n.state_dict().items()}}, ["lacks"]),
    ],
)
def test_files_that_hold_something_else(tmp_path, network, changes, words):
    if words == ["lacks"]:  # two sets of weights: those without a prefix are taken for something beside the network
        path = written(tmp_path / "x.pt", network, **changes(network))
        assert all(torch.equal(v, network.state_dict()[k]) for k, v in load_network(path)[0].state_dict().items())
        return
    path = written(tmp_path / "x.pt", network, **changes(network))
    with pytest.raises(ValueError) as error:
        load_network(path)
    for word in ["x.pt", *words]:
        assert (word(network) if callable(word) else word) in str(error.value), str(error.value)


class Mark:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_file_runs_code(tmp_path, network, zipped):
    mark = tmp_path / "mark"
    for name in ("last.ckpt", "best.ckpt"):
        contents = {"state_dict": network.state_dict(), "equilib": CONFIG.to_dict(), "extra": Mark(mark)}
        torch.save(contents, tmp_path / name, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match=f"{name} holds Python objects.*refused"):
            load_network(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} holds Python objects.*refused"):
            claim(tmp_path, CONFIG, PATCHES, writes=True)
        assert not mark.exists()
        torch.load(tmp_path / name, weights_only=False)
        assert mark.exists(), "the file does what it is said to do"
        mark.unlink()
        (tmp_path / name).unlink()
    torch.save(network, tmp_path / "whole.pt")
    with pytest.raises(ValueError, match="whole.pt holds Python objects"):
        load_network(tmp_path / "whole.pt")


def test_a_flipped_bit_is_noticed(tmp_path, network):
    path = written(tmp_path / "x.pt", network)
    content = bytearray(path.read_bytes())
    for place in range(1000, len(content), len(content) // 20):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            weights = load_network(path)[0].state_dict()
        except ValueError as error:
            assert "x.pt" in str(error)
        else:  # between the records, or in the table of contents
            assert all(torch.equal(value, network.state_dict()[name]) for name, value in weights.items())


# --- folders ---


@pytest.fixture
def run(tmp_path, network):
    for name in ("last.ckpt", "best.ckpt"):
        written(tmp_path / name, network)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_data_may_move_and_not_change(run):
    moved = replace(CONFIG, data="elsewhere")
    claim(run, CONFIG, PATCHES, writes=True)
    assert claim(run, moved, PATCHES, writes=True) == run / "last.ckpt"
    assert json.loads((run / "config.json").read_text())["data"] == "elsewhere"
    (run / "config.json").write_text("")
    with pytest.raises(ValueError, match="a run on other valid patches than those of elsewhere"):
        claim(run, moved, PATCHES | {"valid": "other"}, writes=True)


@pytest.mark.parametrize("config", [None, "", "{", "[]", json.dumps(replace(CONFIG, seed=5).to_dict())])
def test_the_configuration_of_the_weights_counts(run, config):
    (run / "config.json").unlink()
    if config is not None:
        (run / "config.json").write_text(config)
    with pytest.raises(ValueError, match="learning_rate: 0.003 then, 0.5 now"):
        claim(run, replace(CONFIG, learning_rate=0.5), PATCHES, writes=True)
    assert json.loads((run / "config.json").read_text()) == CONFIG.to_dict()
    with pytest.raises(ValueError, match="network.width: 0.1 then, 0.2 now"):
        claim(run, replace(CONFIG, network=CONFIG.network.replace(width=0.2)), PATCHES, writes=True)
    assert claim(run, CONFIG, PATCHES, writes=True) == run / "last.ckpt"
    assert TrainConfig.from_dict(json.loads((run / "config.json").read_text())) == CONFIG


@pytest.mark.parametrize("part", ["optimizer_states", "lr_schedulers", "loops"])
@pytest.mark.parametrize("odd", [{}, [], [{}], {"fit_loop": {}}, [{0: 0}] * 2, 3], ids=str)
def test_a_checkpoint_whose_parts_are_odd_is_named(run, network, part, odd):
    """Not only one that lacks them: Lightning would take an empty list for a fresh start."""
    written(run / "last.ckpt", network, **{part: odd})
    with pytest.raises(ValueError, match=f"last.ckpt is damaged, its '{part}'.*delete it and give the same command"):
        claim(run, CONFIG, PATCHES, writes=True)


@pytest.mark.parametrize(
    "error, where, words",
    [
        ("KeyError('state')", "checkpoint_connector.py", "last.ckpt is damaged.*KeyError: 'state'.*delete it"),
        ("RuntimeError('port in use')", "launcher.py", "^port in use"),
        ("torch.OutOfMemoryError('CUDA')", "checkpoint_connector.py", "^CUDA"),
    ],
)
def test_what_cannot_be_taken_over_is_damage_and_nothing_else_is(run, error, where, words):
    """What Lightning's loops and torch's optimizers find out about their own states; a machine's own troubles stay theirs."""
    program = compile(f"def fit(*_, **__):\n    raise {error}", where, "exec")
    exec(program, found := {"torch": torch})
    with pytest.raises((ValueError, RuntimeError), match=words):
        trainer = SimpleNamespace(fit=found["fit"])
        training._fit(trainer, PatchClassifier(CONFIG), None, run / "last.ckpt", EndsBetweenBatches())


@pytest.mark.parametrize("damage", [b"", b"no", slice(3000)])
def test_a_damaged_checkpoint_is_named_with_the_way_on(run, damage):
    whole = (run / "last.ckpt").read_bytes()
    broken = whole[damage] if isinstance(damage, slice) else damage
    (run / "last.ckpt").write_bytes(broken)
    before = contents(run)
    with pytest.raises(ValueError, match="last.ckpt .* delete it .* continues from best.ckpt, after epoch 2"):
        claim(run, CONFIG, PATCHES, writes=True)
    assert contents(run) == before
    (run / "last.ckpt").unlink()  # as it says
    with pytest.raises(ValueError, match="seed: 0 then, 1 now"):
        claim(run, replace(CONFIG, seed=1), PATCHES, writes=True)
    assert not (run / "last.ckpt").exists()
    assert claim(run, CONFIG, PATCHES, writes=True) == run / "best.ckpt"
    assert (run / "last.ckpt").read_bytes() == (run / "best.ckpt").read_bytes()
    (run / "best.ckpt").write_bytes(broken)
    with pytest.raises(ValueError, match="best.ckpt .* put back a copy"):
        claim(run, CONFIG, PATCHES, writes=True)
    (run / "last.ckpt").write_bytes(broken)
    with pytest.raises(ValueError, match="last.ckpt .* best.ckpt beside it cannot be read either"):
        claim(run, CONFIG, PATCHES, writes=True)
    (run / "best.ckpt").unlink(), (run / "last.ckpt").write_bytes(whole)
    with pytest.raises(ValueError, match="best.ckpt, the network of the lowest validation loss, is missing"):
        claim(run, CONFIG, PATCHES, writes=True)


def test_weights_alone_are_no_run(run, network):
    written(run / "last.ckpt", network, optimizer_states=None)
    with pytest.raises(
        ValueError, match="last.ckpt is no checkpoint of a training that can go on .*'optimizer_states'"
    ):
        claim(run, CONFIG, PATCHES, writes=True)


@pytest.mark.parametrize(
    "name, text",
    [("config.json", '{"name": "mine"}'), ("config.json", ""), ("metrics.csv", "a,b"), ("curves.png", "mine")],
)
def test_a_folder_of_something_else_stays_as_it_is(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name} is not of a run"):
        claim(tmp_path, CONFIG, PATCHES, writes=True)
    assert contents(tmp_path) == {name: text.encode()}


def test_a_start_that_came_to_nothing_is_none(tmp_path):
    assert claim(tmp_path, CONFIG, PATCHES, writes=True) is None
    assert claim(tmp_path, replace(CONFIG, seed=1), PATCHES, writes=True) is None
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1


def test_what_a_killed_process_was_writing_is_cleared_away_when_it_is_old(run):
    old, new, own = (run / name for name in ("last.ckpt.ab12.part", "best.ckpt.cd34.part", "notes.part"))
    for path in (old, new, own):
        path.touch()
    os.utime(old, (0, 0)), os.utime(own, (0, 0))
    claim(run, CONFIG, PATCHES, writes=True)
    assert not old.exists() and new.exists() and own.exists()


def test_a_full_disk_leaves_the_checkpoint_that_was_there(tmp_path, network, monkeypatch):
    path = written(tmp_path / "last.ckpt", network)
    before = contents(tmp_path)

    def full(self, data):
        with open(self, "wb") as file:
            file.write(bytes(data)[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left on device.*last.ckpt"):
        save_checkpoint(read_checkpoint(path), path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("values", [{"seed": 2**63}, {"learning_rate": float("nan")}, {"stain": float("inf")}])
def test_numbers_that_make_no_run(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        replace(CONFIG, **values)


def test_checkpoints_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.ckpt is missing"):
        load_network(tmp_path / "none.ckpt")
    (tmp_path / "bad.ckpt").write_bytes(b"no")
    with pytest.raises(ValueError, match="bad.ckpt is no checkpoint"):
        load_network(tmp_path / "bad.ckpt")


def test_fingerprints_differ_between_configurations():
    config = TrainConfig("equivariant", CONFIG.network, data="data")
    others = [replace(config, **change) for change in ({"stain": 0.1}, {"any_angle": 1.0}, {"epochs": 11}, {"seed": 1})]
    prints = [one.fingerprint for one in (config, replace(config), *others)]
    assert prints[0] == prints[1] and len(set(prints)) == 5 and {len(one) for one in prints} == {8}


def test_shares_are_shares():
    with pytest.raises(ValueError, match="any_angle must be a share between 0 and 1, got 1.5"):
        TrainConfig("equivariant", any_angle=1.5)
    assert TrainConfig("equivariant", any_angle=True) == TrainConfig("equivariant", any_angle=1.0), (
        "as it was written once"
    )
