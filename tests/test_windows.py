"""Pictures larger than a patch: the map of a turned picture is the turned map."""

import numpy as np
import pytest
import torch

from equilib.pcam import normalize
from equilib.windows import Windows, probability_map, window_batches


def brightness(images):
    """Two logits of a window that do not change when it is turned: sums of integers, in any order."""
    green = (images[:, 1].double() * 1000).round().sum((1, 2)) / 1e6
    return torch.stack([-green, green], 1).float()


def upper_half(images):
    """…and two that do."""
    return torch.stack([images[:, 0, :40].mean((1, 2)), images[:, 0, 40:].mean((1, 2))], 1)


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (223, 159, 3), dtype=np.uint8)


@pytest.mark.parametrize("height, width, stride", [(223, 159, 32), (223, 159, 64), (225, 161, 32), (95, 95, 7)])
def test_the_map_of_a_turned_picture_is_the_turned_map(height, width, stride):
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    windows = Windows(height, width, 95, stride)
    assert windows.exact
    upright = probability_map(brightness, picture, windows)
    for turns in range(4):
        turned = np.ascontiguousarray(np.rot90(picture, turns))
        theirs = probability_map(brightness, turned, Windows(*turned.shape[:2], 95, stride))
        assert torch.equal(theirs, torch.rot90(upright, turns))
    if len(windows) > 1:
        turned = np.ascontiguousarray(np.rot90(picture))
        other = probability_map(upper_half, turned, Windows(*turned.shape[:2], 95, stride))
        assert not torch.equal(other, torch.rot90(probability_map(upper_half, picture, windows)))


def test_an_odd_rest_breaks_it():
    picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    windows = Windows(128, 128, 95, 32)  # 128 - 95 = 33: one pixel is left over
    assert not windows.exact
    turned = np.ascontiguousarray(np.rot90(picture, 2))
    assert not torch.equal(
        probability_map(brightness, turned, windows), torch.rot90(probability_map(brightness, picture, windows), 2)
    )


@pytest.mark.parametrize("length", range(95, 200, 3))
@pytest.mark.parametrize("stride", [1, 2, 7, 32, 33, 200])
def test_exact_means_that_turned_windows_are_windows(length, stride):
    windows = Windows(length, length, 95, stride)
    mirrored = tuple(sorted(length - 95 - start for start in windows.rows))
    assert windows.exact == (mirrored == windows.rows)


@pytest.mark.parametrize("height, width", [(95, 95), (96, 200), (300, 211)])
@pytest.mark.parametrize("stride", [1, 32, 95, 96, 150, 900])
def test_what_no_window_covers_is_counted(height, width, stride):
    windows, seen = Windows(height, width, 95, stride), np.zeros((height, width), dtype=bool)
    for row in windows.rows:
        for column in windows.columns:
            seen[row : row + 95, column : column + 95] = True
    assert windows.covered == pytest.approx(seen.mean(), rel=1e-12)


def test_windows_are_the_pieces_of_the_picture(picture):
    windows = Windows(*picture.shape[:2], 95, 32)
    assert windows.rows == (0, 32, 64, 96, 128) and windows.columns == (0, 32, 64) and len(windows) == 15
    batches = list(window_batches(picture, windows, batch_size=4))
    assert [len(batch) for batch in batches] == [4, 4, 4, 3], "a batch at a time, however large the picture"
    piece = torch.from_numpy(picture[96 : 96 + 95, 32 : 32 + 95].copy()).permute(2, 0, 1)[None]
    assert torch.equal(torch.cat(batches)[3 * 3 + 1], normalize(piece)[0])


def test_bad_arguments(picture):
    with pytest.raises(ValueError, match="159 x 94 pixels is smaller than the network's window of 95 x 95"):
        Windows(94, 159, 95)
    with pytest.raises(ValueError, match="stride must be a whole number, at least 1"):
        Windows(200, 200, 95, 0)
    with pytest.raises(ValueError, match="must be uint8"):
        next(window_batches(picture.astype(float), Windows(*picture.shape[:2], 95)))
    with pytest.raises(ValueError, match="two logits a window"):
        probability_map(lambda images: images.mean((2, 3)), picture, Windows(*picture.shape[:2], 95))


@pytest.mark.slow
def test_a_shipped_int8_network_maps_a_turned_picture_to_the_turned_map():
    from equilib.device import session
    from equilib.results import shipped_int8

    photograph = _tissue(159)
    windows = Windows(159, 159, 95, 32)
    running = session(shipped_int8("pcam_C4_w0.35_20000_seed0"))
    upright = probability_map(running, photograph, windows)
    assert len(set(upright.flatten().tolist())) > 1
    for turns in (1, 2, 3):
        turned = probability_map(running, np.ascontiguousarray(np.rot90(photograph, turns)), windows)
        assert torch.equal(turned, torch.rot90(upright, turns))


def _tissue(size):
    from equilib.fields import tissue_photograph

    return (tissue_photograph(size) * 255).round().byte().permute(1, 2, 0).numpy()
