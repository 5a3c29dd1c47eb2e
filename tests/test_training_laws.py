"""What a training reads, in which order, and what depends on the seed: without training anything."""

from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from equilib import training
from equilib.mobilenet import MobileNetConfig
from equilib.pcam import split_path
from equilib.training import EpochOrder, PatchClassifier, PatchData, TrainConfig

SIZES = {"train": 40, "valid": 21}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Every patch says in its first pixel which split it is from, and which one it is."""
    root = tmp_path_factory.mktemp("numbered")
    for number, (split, count) in enumerate(SIZES.items()):
        images = np.zeros((count, 96, 96, 3), np.uint8)
        images[:, 0, 0, 0], images[:, 0, 0, 1] = number, np.arange(count)
        with h5py.File(split_path(root, split, "x"), "w") as file:
            file["x"] = images
        with h5py.File(split_path(root, split, "y"), "w") as file:
            file["y"] = (np.arange(count, dtype=np.uint8) % 2).reshape(-1, 1, 1, 1)
    return root


def loaders(data, processes=1, rank=0, **changes):
    config = TrainConfig("equivariant", MobileNetConfig(width=0.35, group="C4"), str(data), batch_size=8, **changes)
    module = PatchData(config)
    module.trainer = SimpleNamespace(world_size=processes, global_rank=rank)
    return module.train_dataloader(), module.val_dataloader()


def read(loader):
    """(split number, patch number, label) of everything that a loader gives, in order."""
    found = []
    for images, labels in loader:
        found += zip(images[:, 0, 0, 0].tolist(), images[:, 1, 0, 0].tolist(), labels.tolist())
    return found


def test_training_and_validation_each_read_their_own_split_whole(data):
    training_loader, validation_loader = loaders(data)
    assert sorted(read(training_loader)) == [(0, i, i % 2) for i in range(40)]
    assert read(validation_loader) == [(1, i, i % 2) for i in range(21)], "in order, the last short batch included"
    assert read(training_loader) != sorted(read(training_loader)), "shuffled"


def test_limits_are_those_of_their_split(data):
    training_loader, validation_loader = loaders(data, train_limit=16, valid_limit=5)
    assert sorted(read(training_loader)) == [(0, i, i % 2) for i in range(16)]
    assert read(validation_loader) == [(1, i, i % 2) for i in range(5)]


def test_processes_share_an_epoch_without_overlap(data):
    parts = [loaders(data, processes=2, rank=rank) for rank in (0, 1)]
    first, second = (read(training_loader) for training_loader, _ in parts)
    assert len(first) == len(second) == 16, "whole batches of the 20 patches of each process"
    assert not set(first) & set(second)
    assert sorted(read(parts[0][1]) + read(parts[1][1])) == [(1, i, i % 2) for i in range(21)]
    patches = range(41)
    orders = [list(EpochOrder(_Numbered(patches), 3, rank, shuffle=True, seed=0)) for rank in range(3)]
    assert [len(order) for order in orders] == [13, 13, 13] and len(set(sum(orders, []))) == 39


class _Numbered(list):
    slab = 1


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        sampler = EpochOrder(_Numbered(range(50)), 1, 0, shuffle=True, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}) == 6


class Probe(nn.Module):
    """Remembers what it is shown and what chance gives it; its logits are a mean of the input."""

    def __init__(self):
        super().__init__()
        self.seen, self.drawn = [], []
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        self.seen.append(x)
        self.drawn.append(torch.rand(1).item())
        mean = self.weight * x[:, 0].mean((1, 2))
        return torch.stack([-mean, mean], 1)


def classifier(epoch=0, rank=0, **changes):
    config = TrainConfig("equivariant", MobileNetConfig(width=0.35, group="C4"), epochs=4, **changes)
    module = PatchClassifier(config)
    module.network = Probe()
    module._trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank, estimated_stepping_batches=100)
    return module


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (16, 3, 96, 96), dtype=torch.uint8, generator=generator)
    return images, torch.arange(16) % 2


def test_augmentation_and_dropout_depend_on_seed_epoch_process_and_batch(batch):
    """…and on nothing else, so that a resumed run repeats them."""

    def shown(index, **changes):
        torch.seed()  # whatever chance did before
        module = classifier(**changes)
        module.training_step(batch, index)
        return module.network.seen[0], module.network.drawn[0]

    cases = [(0, {}), (1, {}), (0, {"epoch": 1}), (0, {"rank": 1}), (0, {"seed": 1})]
    results = [shown(index, **changes) for index, changes in cases]
    again = shown(0)
    assert torch.equal(results[0][0], again[0]) and results[0][1] == again[1]
    for number, (images, drawn) in enumerate(results):
        for other_images, other_drawn in results[:number]:
            assert not torch.equal(images, other_images) and drawn != other_drawn
    plain = classifier(augmentation=False)
    plain.training_step(batch, 0)
    expected = training.standardize(batch[0][..., :95, :95])
    assert torch.equal(plain.network.seen[0], expected)


def test_validation_sees_every_patch_as_it_is_and_weighs_all_alike(batch):
    """The loss of an epoch is the mean over patches, however they fall into batches."""
    images, labels = batch
    bright = images.clone()
    bright[12:] //= 4  # so that batches differ
    module = classifier(any_angle=1.0, stain=0.3)
    for part in (slice(0, 12), slice(12, 15), slice(15, 16)):
        module.validation_step((bright[part], labels[part]), 0)
    seen = torch.cat(module.network.seen)
    assert torch.equal(seen, training.standardize(bright[..., :95, :95]))
    logits = Probe()(seen)
    expected = nn.functional.cross_entropy(logits, labels)
    assert module.valid_loss.compute().item() == pytest.approx(expected.item(), rel=1e-5)
    assert module.valid_accuracy.compute().item() == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    parts = [nn.functional.cross_entropy(logits[part], labels[part]) for part in (slice(0, 12), slice(12, 15))]
    assert abs(sum(parts) / 2 - expected) > 0.01, "the batches must differ for this test to mean anything"


@pytest.mark.parametrize("kind", ["conventional", "equivariant"])
def test_biases_and_norms_do_not_decay_and_the_rate_moves_every_step(kind):
    config = TrainConfig(kind, MobileNetConfig(width=0.35, group="C4"), weight_decay=0.05, learning_rate=0.01)
    module = PatchClassifier(config)
    module._trainer = SimpleNamespace(estimated_stepping_batches=100)
    found = module.configure_optimizers()
    decay = {id(p): group["weight_decay"] for group in found["optimizer"].param_groups for p in group["params"]}
    assert len(decay) == len(list(module.network.parameters()))
    for name, module_ in module.network.named_modules():
        for own, parameter in module_.named_parameters(recurse=False):
            weight = own in ("weight", "weights") and "Norm" not in type(module_).__name__
            assert decay[id(parameter)] == (0.05 if weight else 0.0), f"{name}.{own}"
    schedule = found["lr_scheduler"]
    assert schedule["interval"] == "step"
    rates = []
    for _ in range(100):
        rates.append(found["optimizer"].param_groups[0]["lr"])
        found["optimizer"].step(), schedule["scheduler"].step()
    assert max(rates) == pytest.approx(0.01) and rates.index(max(rates)) in range(15, 25), "up for a fifth, then down"
    assert rates[0] < 0.1 * max(rates) and rates[-1] < 0.01 * max(rates)


def test_a_run_goes_on_in_the_precision_that_it_was_started_in():
    module = PatchClassifier(TrainConfig("conventional", MobileNetConfig(width=0.1)))
    module._trainer = SimpleNamespace(world_size=1, precision="bf16-mixed", datamodule=SimpleNamespace(digests={}))
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)
    module.on_load_checkpoint(checkpoint)
    module.on_load_checkpoint({"processes": 1})  # of an older version
    module._trainer.precision = "32-true"
    with pytest.raises(
        ValueError, match="started with precision='bf16-mixed' and cannot continue with precision='32-true'"
    ):
        module.on_load_checkpoint(checkpoint)
