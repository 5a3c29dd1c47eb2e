"""Band-limited pictures turn exactly; the ladder is the measure of inner fields; what is taken away is taken away."""

import pytest
import torch
from conftest import randomize

from equilib.equivariance import field_errors, run_model
from equilib.fields import disc_mask, rotate
from equilib.inner_fields import altered, field_ladder, smooth_patterns
from equilib.mobilenet import MobileNetConfig, build, estimate_statistics, exported


def test_patterns_turn_as_pictures_do():
    upright = smooth_patterns(2, 33, 0.08)
    assert upright.shape == (2, 3, 33, 33)
    assert upright.mean().abs() < 0.3 and upright.std().item() == pytest.approx(1, abs=0.3)
    assert torch.allclose(smooth_patterns(2, 33, 0.08, degrees=90), torch.rot90(upright, 1, (-2, -1)), atol=1e-4)
    inside = torch.nn.functional.pad(disc_mask(27), (3, 3, 3, 3)).bool()  # at the rim interpolation has no neighbours
    slow, turned = smooth_patterns(2, 33, 0.03), smooth_patterns(2, 33, 0.03, degrees=30)
    assert (rotate(slow, 30) - turned)[..., inside].abs().max() < 0.02
    assert (rotate(slow, -30) - turned)[..., inside].abs().max() > 0.5, "the other way round is another picture"
    assert not torch.equal(upright, smooth_patterns(2, 33, 0.08, seed=1))


def test_patterns_hold_waves_up_to_the_highest_and_no_faster_one():
    """By the spectrum; the window keeps what the picture's edge adds small."""
    window = torch.hann_window(64, periodic=False)
    pictures = smooth_patterns(4, 64, 0.2) * window * window[:, None]
    spectrum = torch.fft.fft2(pictures).abs().square().sum((0, 1))
    along = torch.fft.fftfreq(64)
    frequency = (along[:, None] ** 2 + along**2).sqrt()
    assert spectrum[frequency > 0.2 + 3 / 64].sum() < 1e-3 * spectrum.sum()
    assert spectrum[frequency > 0.1].sum() > 0.5 * spectrum.sum(), "uniform over the disc: three quarters"
    for highest in (0, 0.6):
        with pytest.raises(ValueError, match="highest must lie between 0 and 0.5"):
            smooth_patterns(1, 8, highest)


@pytest.mark.parametrize("group, rotation", [("C4", 1), ("C12", 3)])
def test_each_field_follows_a_quarter_turn(group, rotation, tissue):
    config = MobileNetConfig(width=0.35, group=group, depthwise="strict")
    network = randomize(build("equivariant", config), tissue[:4])
    turned = torch.rot90(tissue[:4], 1, (-2, -1))
    rungs = field_ladder(network, tissue[:4], turned, rotation)
    assert [rung.name for rung in rungs] == ["stem", *(block.name for block in config.blocks), "head"]
    assert [rung.size for rung in rungs[:4]] == [47, 47, 23, 23] and rungs[-1].size == config.final_size
    assert max(rung.error for rung in rungs) < 1e-3 and max(rung.interpolation for rung in rungs) == 0
    assert max(rung.error for rung in field_ladder(network, tissue[:4], tissue[:4], rotation)) > 0.5


def test_between_the_quarter_turns_it_is_the_measure_of_inner_fields(tissue):
    network = build("equivariant", MobileNetConfig(width=0.35, group="C12", depthwise="strict"))
    plain = exported(randomize(network, tissue[:4]))
    expected = field_errors(plain, {"block2": plain.features.block2}, tissue[:4], "C12", 1)
    rungs = {rung.name: rung for rung in field_ladder(network, tissue[:4], rotate(tissue[:4], 30), 1)}
    assert rungs["block2"].error == pytest.approx(expected["block2"], rel=1e-5)
    assert 0 < rungs["block2"].interpolation < rungs["block2"].error
    inner = {rung.name: rung for rung in field_ladder(network, tissue[:4], rotate(tissue[:4], 30), 1, radius=0.5)}
    assert inner["block2"].error != rungs["block2"].error


@pytest.mark.parametrize("kind", ["conventional", "equivariant"])
def test_without_relu_a_network_is_linear(kind, small, tissue):
    network = randomize(build(kind, small), tissue)
    linear = altered(network, tissue, relu=False).double()
    a, b = tissue[:2].double(), tissue[2:4].double()
    origin = run_model(linear, 0 * a)
    sums = run_model(linear, a) + run_model(linear, b) - origin
    assert (run_model(linear, a + b) - sums).abs().max() < 1e-9 * sums.abs().max()
    assert any(module.__class__.__name__.endswith("ReLU") for module in network.modules()), "it stays as it was"


def test_altered_networks_have_the_same_weights(small, tissue):
    network = estimate_statistics(build("equivariant", small), tissue)
    same = altered(network, tissue)
    assert torch.equal(run_model(same, tissue), run_model(network, tissue))
    late = altered(network, tissue, strides=(2, 1, 1, 2, 1, 2, 1, 1), antialias=True)
    assert [stage.size for stage in late.config.stages if stage.window.stride == 2] == [95, 47, 23]
    assert late.config.antialias and not network.config.antialias
    weights = dict(network.named_parameters())
    for name, value in late.named_parameters():  # block 2 has no stride there, so it gains a skip connection
        assert torch.equal(value, weights[name.replace("block2.body", "block2")]), name


def test_blurring_before_the_strides_lowers_the_error_at_30_degrees(tissue):
    """Controlled: the same random weights, pictures that turn exactly."""
    upright, turned = smooth_patterns(4, 95, 0.1), smooth_patterns(4, 95, 0.1, degrees=30)
    network = build("equivariant", MobileNetConfig(width=0.35, group="C12", depthwise="strict"))
    errors = {}
    for antialias in (False, True):
        other = altered(network, upright, antialias=antialias)
        errors[antialias] = {rung.name: rung.error for rung in field_ladder(other, upright, turned, 1)}
    for block in ("stem", "block2", "block4", "block7"):
        assert errors[True][block] < errors[False][block]
    assert errors[True]["block2"] < 0.8 * errors[False]["block2"]
