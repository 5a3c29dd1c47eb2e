import gzip
import multiprocessing
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from equilib.pcam import (
    MEAN,
    STD,
    Patches,
    PatchFileError,
    collate,
    crop,
    input_range,
    network_inputs,
    normalize,
    shuffled_order,
    split_path,
    turn_and_reflect,
    turn_any_angle,
    vary_stain,
)


def write(root, split="train", n=20, *, x=None, y=None, chunks=None, compression=None, key="x"):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (n, 96, 96, 3), dtype=np.uint8) if x is None else x
    y = np.arange(n, dtype=np.uint8).reshape(-1, 1, 1, 1) % 2 if y is None else y
    with h5py.File(split_path(root, split, "x"), "w") as file:
        file.create_dataset(key, data=x, chunks=chunks, compression=compression)
    with h5py.File(split_path(root, split, "y"), "w") as file:
        file.create_dataset("y", data=y)
    return x, y.reshape(-1)


LAYOUTS = {
    "contiguous": {},
    "chunked": {"chunks": (4, 96, 96, 3)},
    "compressed": {"chunks": (3, 48, 96, 3), "compression": "gzip"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batches_are_what_the_file_holds(tmp_path, layout):
    x, y = write(tmp_path, **LAYOUTS[layout])
    patches = Patches(tmp_path, "train")
    assert len(patches) == 20
    indices = [7, 3, 19, 3, 0]
    images, labels = patches.__getitems__(indices)
    assert images.dtype == np.uint8 and np.array_equal(images, x[indices]) and np.array_equal(labels, y[indices])
    image, label = patches[5]
    assert np.array_equal(image, x[5]) and label == y[5]
    with pytest.raises(IndexError):
        patches.images([20])


@pytest.mark.parametrize("slab", [1, 4, 7, 50])
def test_every_patch_once_in_an_order_of_its_own(slab):
    orders = [shuffled_order(50, slab, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])
    assert all(sorted(order.tolist()) == list(range(50)) for order in orders)


def test_an_epoch_of_a_chunked_file_reads_each_slab_once(tmp_path, monkeypatch):
    """…with no more slabs in memory than a window holds, and neighbours in the file far apart in the order."""
    monkeypatch.setattr("equilib.pcam._window", lambda slab: 2 * slab)
    x, _ = write(tmp_path, n=62, chunks=(4, 48, 48, 1), compression="gzip")
    patches = Patches(tmp_path, "train")
    read, kept = [], []
    original = Patches._read_slab

    def watched(self, number):
        if number not in self._slabs:
            read.append(number)
        result = original(self, number)
        kept.append(len(self._slabs))
        return result

    monkeypatch.setattr(Patches, "_read_slab", watched)
    order = shuffled_order(62, patches.slab, torch.Generator().manual_seed(0)).numpy()
    images = np.concatenate([patches.images(batch) for batch in np.split(order, range(5, 62, 5))])
    assert np.array_equal(images, x[order])
    assert sorted(read) == list(range(16)) and max(kept) <= 2
    slabs = order // 4
    assert (slabs[1:] != slabs[:-1]).mean() > 0.3


def test_shuffling_a_chunked_file_mixes_it_well():
    """Positions in the order are not correlated with positions in the file, at PCam's size and a thousand-patch chunk."""
    order = shuffled_order(262_144, 1024, torch.Generator().manual_seed(0)).double()
    assert abs(torch.corrcoef(torch.stack([order, torch.arange(len(order)).double()]))[0, 1]) < 0.2
    batches = order.view(-1, 64) // 1024
    distinct = torch.tensor([len(batch.unique()) for batch in batches]).double()
    assert distinct.mean() > 8.5  # of the nine slabs that fit a window


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("start", sorted({"fork", "spawn"} & set(multiprocessing.get_all_start_methods())))
def test_worker_processes_read_the_same(tmp_path, layout, start):
    x, _ = write(tmp_path, **LAYOUTS[layout])
    patches = Patches(tmp_path, "train")
    patches.images([0])  # a handle is open before the workers start
    loader = DataLoader(patches, 4, collate_fn=collate, num_workers=2, multiprocessing_context=start)
    images = torch.cat([batch for batch, _ in loader])
    assert torch.equal(images, torch.from_numpy(x).permute(0, 3, 1, 2))


def test_pickling_copies_no_data(tmp_path):
    write(tmp_path)
    patches = Patches(tmp_path, "train")
    patches.images([0])
    assert len(pickle.dumps(patches)) < 5_000


def test_no_file_is_opened_per_item(tmp_path, monkeypatch):
    write(tmp_path, chunks=(4, 96, 96, 3))
    patches = Patches(tmp_path, "train")
    opened = []
    original = h5py.File
    monkeypatch.setattr("equilib.pcam.h5py.File", lambda *a, **k: opened.append(a) or original(*a, **k))
    for i in range(10):
        patches[i]
    assert len(opened) == 1


def test_limit(tmp_path):
    write(tmp_path)
    assert len(Patches(tmp_path, "train", limit=6)) == 6
    for bad in (0, 21):
        with pytest.raises(ValueError, match="limit"):
            Patches(tmp_path, "train", limit=bad)


def _missing(root):
    split_path(root, "train", "y").unlink()


def _packed(root):
    path = split_path(root, "train", "x")
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), 1))
    path.unlink()


def _truncated(root):
    path = split_path(root, "train", "x")
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    "damage, words",
    [
        (_missing, ["train_y.h5", "missing", "data_download.sh"]),
        (_packed, ["train_x.h5", "unpack", "train_x.h5.gz"]),
        (_truncated, ["train_x.h5", "truncated", "run data_download.sh again"]),
        (lambda root: write(root, key="images"), ["train_x.h5", "no dataset 'x'", "images"]),
        (lambda root: write(root, x=np.zeros((20, 64, 64, 3), np.uint8)), ["train_x.h5", "(20, 64, 64, 3)"]),
        (lambda root: write(root, x=np.zeros((20, 96, 96, 3), np.float32)), ["train_x.h5", "float32"]),
        (lambda root: write(root, x=np.zeros((19, 96, 96, 3), np.uint8)), ["train_x.h5", "19", "20"]),
        (lambda root: write(root, y=np.zeros((20, 2), np.uint8)), ["train_y.h5", "(20, 2)"]),
        (lambda root: write(root, y=np.zeros((20, 1, 1, 1), np.float32)), ["train_y.h5", "float32"]),
        (lambda root: write(root, y=np.full((20, 1, 1, 1), 3, np.uint8)), ["train_y.h5", "0 and 1"]),
    ],
)
def test_bad_files_are_named_with_a_remedy(tmp_path, damage, words):
    write(tmp_path)
    damage(tmp_path)
    with pytest.raises(PatchFileError) as error:
        Patches(tmp_path, "train")
    assert all(word in str(error.value) for word in words), str(error.value)


def test_unknown_split(tmp_path):
    with pytest.raises(ValueError, match="split"):
        Patches(tmp_path, "validation")


def test_augmentation_is_a_symmetry_of_the_square_and_repeatable():
    images = torch.randint(0, 256, (64, 3, 9, 9), dtype=torch.uint8)
    turned = turn_and_reflect(images, torch.Generator().manual_seed(3))
    assert torch.equal(turned, turn_and_reflect(images, torch.Generator().manual_seed(3)))
    elements = [lambda i, k=k: torch.rot90(i, k, (-2, -1)) for k in range(4)]
    elements += [lambda i, k=k: torch.rot90(i, k, (-2, -1)).flip(-1) for k in range(4)]
    seen = set()
    for before, after in zip(images, turned):
        matches = [e for e, act in enumerate(elements) if torch.equal(act(before), after)]
        assert len(matches) == 1
        seen.update(matches)
    assert seen == set(range(8))


def test_any_angle_turns_about_the_centre():
    from equilib.fields import disc_mask

    centred = torch.arange(31.0) - 15
    radius = (centred[:, None] ** 2 + centred**2).sqrt()
    rings = (100 + 50 * (radius / 5).cos()).expand(8, 3, 31, 31)
    turned = turn_any_angle(rings, 1.0, torch.Generator().manual_seed(0))
    inside = disc_mask(31) > 0
    assert torch.allclose(turned[..., inside], rings[..., inside], atol=2.5), "rings look the same from every side"
    ramp = centred.expand(64, 1, 31, 31)  # grows to the right, at one unit a pixel
    turned = turn_any_angle(ramp, 1.0, torch.Generator().manual_seed(0))
    slope_x = (turned[:, 0, 15, 20] - turned[:, 0, 15, 10]) / 10
    slope_y = (turned[:, 0, 20, 15] - turned[:, 0, 10, 15]) / 10
    assert torch.allclose(slope_x**2 + slope_y**2, torch.ones(64), atol=1e-3), "a rotation keeps lengths"
    quadrants = {(x > 0, y > 0) for x, y in zip(slope_x.tolist(), slope_y.tolist())}
    assert len(quadrants) == 4
    assert torch.equal(turned, turn_any_angle(ramp, 1.0, torch.Generator().manual_seed(0)))


def test_stains_vary_in_density_and_nothing_else():
    from skimage.color import hed_from_rgb

    images = torch.randint(30, 250, (5, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    same = vary_stain(images, 0.0, torch.Generator())
    assert torch.allclose(same, images.float(), atol=1e-2)
    changed = vary_stain(images, 0.05, torch.Generator().manual_seed(2))
    assert torch.equal(changed, vary_stain(images, 0.05, torch.Generator().manual_seed(2)))
    assert changed.min() >= 0 and changed.max() <= 255
    # Within a patch, each dye's amount changes by one scale and one shift; where nothing was clipped.
    density = lambda x: -(x.double() / 255).log().permute(1, 2, 0).reshape(-1, 3) @ torch.from_numpy(hed_from_rgb)
    for before, after in zip(images, changed):
        old, new = density(before), density(after)
        keep = (after < 254.9).all(0).flatten()
        for dye in range(3):
            design = torch.stack([old[keep, dye], torch.ones(keep.sum(), dtype=torch.float64)], 1)
            scale, shift = torch.linalg.lstsq(design, new[keep, dye, None]).solution.flatten()
            assert torch.allclose(design @ torch.stack([scale, shift]), new[keep, dye], atol=1e-4)
            assert abs(scale - 1) <= 0.0501 and abs(shift) <= 0.0501


def test_crop_and_normalize(tmp_path):
    x, _ = write(tmp_path)
    inputs = network_inputs(Patches(tmp_path, "train"), [1, 2], 95)
    assert inputs.shape == (2, 3, 95, 95) and inputs.is_contiguous(memory_format=torch.channels_last)
    expected = (x[1, 10, 20, 2] / 255 - MEAN[2]) / STD[2]
    assert inputs[0, 2, 10, 20].item() == pytest.approx(expected, abs=1e-5)
    low, high = input_range()
    extremes = normalize(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1))
    assert extremes.min().item() == pytest.approx(low) and extremes.max().item() == pytest.approx(high)
    floats = torch.full((1, 3, 4, 4), 100.0).contiguous(memory_format=torch.channels_last)
    assert torch.equal(normalize(floats), normalize(floats.to(torch.uint8))) and (floats == 100).all(), (
        "the argument stays"
    )
    with pytest.raises(ValueError, match="input_size=97 cannot be cropped from images of 96 x 96 pixels"):
        crop(torch.zeros(1, 3, 96, 96), 97)
    assert crop(torch.zeros(1, 3, 96, 96), 95).shape[-2:] == (95, 95)


def test_the_label_window_is_a_square_that_d4_keeps():
    from equilib.pcam import label_window

    window = label_window()
    assert window.sum() == 32 * 32 and window[32:64, 32:64].all()
    for degrees in (90, 180, 270):
        assert np.array_equal(label_window(degrees), window)
    turned = label_window(30)
    assert abs(turned.sum() - 32 * 32) < 30 and not np.array_equal(turned, window)
    # The overlap of a square with side a and its copy turned by 45 degrees is 2 (sqrt 2 - 1) a^2.
    overlap = (label_window(45) & window).sum() / 32**2
    assert overlap == pytest.approx(2 * (2**0.5 - 1), abs=0.02)


def test_the_window_turns_against_the_tissue():
    """A tumour pixel that the turned picture shows in the window lies in the turned window, and no other."""
    from equilib.fields import rotate
    from equilib.pcam import label_window

    tumour = torch.zeros(1, 1, 96, 96)
    tumour[0, 0, 36:46, 63:72] = 1  # at the right, above the middle: not symmetric to its mirror image
    seen = rotate(tumour, 30)[0, 0, 32:64, 32:64].sum().item()
    expected, other_way = (tumour[0, 0].numpy()[label_window(angle)].sum() for angle in (30, -30))
    assert abs(seen - expected) < 4 < 10 < abs(seen - other_way)


def test_label_changes():
    from equilib.pcam import label_changes

    corner = np.zeros((1, 96, 96), bool)
    corner[0, 33, 33] = True  # inside the upright square, outside the one turned by 45 degrees
    assert label_changes(corner, 45) == 1 and label_changes(corner, 90) == 0
    assert label_changes(np.ones((2, 96, 96), bool), 45, places=3) == 0
    half = np.zeros((1, 96, 96), bool)
    half[0, :, :48] = True
    assert 0 < label_changes(half, 45, places=300) < 0.25
    assert label_changes(half, 90, places=100) == 0
    with pytest.raises(ValueError, match=r"shape \(N, 96, 96\)"):
        label_changes(half[0], 45)


def test_a_share_of_the_patches_is_turned_and_the_others_are_untouched():
    images = torch.rand(400, 1, 15, 15)
    turned = turn_any_angle(images, 0.25, torch.Generator().manual_seed(0))
    same = (turned - images).abs().amax((1, 2, 3)) < 1e-5
    assert 0.65 < same.double().mean() < 0.85


def test_a_limit_takes_the_first_patches_and_hides_the_others(tmp_path):
    x, _ = write(tmp_path, y=np.array([1] * 6 + [0] * 14, np.uint8))
    patches = Patches(tmp_path, "train", limit=6)
    images, labels = patches.__getitems__(range(6))
    assert np.array_equal(images, x[:6]) and labels.tolist() == [1] * 6
    for outside in ([6], [0, 19], [-1]):
        with pytest.raises(IndexError, match="of 6"):
            patches.images(outside)


def test_a_single_bad_label_is_refused(tmp_path):
    write(tmp_path, y=np.array([0, 1] * 9 + [1, 2], np.uint8))
    with pytest.raises(PatchFileError, match="0 and 1"):
        Patches(tmp_path, "train")


def test_an_image_file_gives_what_the_data_set_gives(tmp_path):
    from skimage import io

    from equilib.images import read_images

    x, _ = write(tmp_path, n=2)
    for index in range(2):
        io.imsave(tmp_path / f"{index}.png", x[index], check_contrast=False)
    expected = network_inputs(Patches(tmp_path, "train"), [0, 1], 95)
    for files in ([tmp_path / "0.png", tmp_path / "1.png"], [split_path(tmp_path, "train", "x")]):
        images = [image for file in files for _, image in read_images(file, 95)]
        assert torch.equal(torch.cat(images), expected)


def test_turning_a_grey_patch_leaves_it_grey():
    """Up to its corners: what comes from outside repeats the edge."""
    grey = torch.full((8, 3, 15, 15), 100.0)
    assert torch.allclose(turn_any_angle(grey, 1.0, torch.Generator().manual_seed(0)), grey, atol=1e-3)


def test_stains_get_weaker_and_stronger_and_black_stays_finite():
    images = torch.randint(60, 200, (200, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    brighter = vary_stain(images, 0.1, torch.Generator().manual_seed(2)).mean((1, 2, 3)) > images.double().mean(
        (1, 2, 3)
    )
    assert 0.3 < brighter.double().mean() < 0.7
    extremes = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    for seed in range(20):
        changed = vary_stain(extremes, 0.2, torch.Generator().manual_seed(seed))
        assert torch.isfinite(changed).all() and changed.min() >= 0 and changed.max() <= 255


def test_the_pages_state_the_normalization_that_is_done():
    """Whoever feeds an exported network directly finds it there."""
    root = Path(__file__).parent.parent
    numbers = [", ".join(f"{value:.4f}" for value in values) for values in (MEAN, STD)]
    pages = [
        root / "README.md",
        root / "notebooks" / "04_equivariant_mobilenetv2.ipynb",
        root / "results" / "model_card.md",
    ]
    texts = [page.read_text().replace("−", "-") for page in pages]
    assert all(text.count(f"({triple})") == 1 for text in texts for triple in numbers)
    low, high = input_range()
    assert f"from about {low:.1f} to {high:.1f}." in texts[1]
