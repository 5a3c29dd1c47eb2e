import pytest
import torch
from conftest import randomize
from torch import nn

from equilib.equivariance import assert_equivariant, equivariance_error, run_model
from equilib.fields import disc_mask
from equilib.mobilenet import (
    IMAGENET_STRIDES,
    PCAM_STRIDES,
    EquivariantMobileNetV2,
    InexactGridError,
    MobileNetConfig,
    MobileNetV2,
    build,
    count_costs,
    count_parameters,
    estimate_statistics,
    exported,
    round_channels,
)


def test_the_conventional_network_is_mobilenetv2():
    """Channels rounded to 8, ImageNet's strides and classes: MobileNetV2's published parameter count."""
    config = MobileNetConfig(
        divisor=8,
        group="C8",
        strides=IMAGENET_STRIDES,
        classes=1000,
        input_size=224,
        strided_padding=1,
        allow_inexact=True,
    )
    assert count_parameters(MobileNetV2(config)) == 3_504_872


@pytest.mark.parametrize(
    "group, pooling, depthwise",
    [
        ("C4", "mean", "strict"),
        ("C4", "max", "strict"),
        ("C4", "mean", "fieldwise"),
        ("C12", "mean", "strict"),
        ("D4", "max", "strict"),
    ],
)
def test_equivariant_before_and_after_export(group, pooling, depthwise, tissue):
    config = MobileNetConfig(width=0.35, group=group, group_pooling=pooling, depthwise=depthwise)
    # In double precision the law shows without the rounding that 50 layers of random weights amplify.
    network = randomize(build("equivariant", config), tissue).double()
    assert_equivariant(network, tissue.double(), tolerance=1e-10)
    plain = network.export().double()
    assert_equivariant(plain, tissue.double(), tolerance=1e-10)
    expected, actual = run_model(network, tissue), run_model(plain, tissue)
    assert (expected - actual).abs().max() <= 1e-10 * expected.std()
    assert_equivariant(network.float(), tissue, tolerance=1e-4)
    assert not any("e2cnn" in type(m).__module__ for m in plain.modules())
    depthwise_convs = [m for n, m in plain.named_modules() if n.endswith("depthwise.conv")]
    assert len(depthwise_convs) == 17
    if depthwise == "strict":
        assert all(m.groups == m.in_channels == m.out_channels for m in depthwise_convs)


@pytest.mark.parametrize("group", ["C4", "D4"])
def test_all_nine_pixels_are_equivariant_too(group, tissue):
    config = MobileNetConfig(width=0.35, group=group, divisor=8, depthwise="fieldwise", band_limit=False)
    network = randomize(build("equivariant", config), tissue).double()
    assert_equivariant(network, tissue.double(), tolerance=1e-10)
    assert_equivariant(network.export().double(), tissue.double(), tolerance=1e-10)
    smooth = build("equivariant", config.replace(band_limit=True))
    depthwise, theirs = network.features.block2.depthwise.conv, smooth.features.block2.depthwise.conv
    assert 2 * depthwise.weights.shape[-1] == 3 * theirs.weights.shape[-1], (
        "nine pixels, where the band limit leaves six"
    )


def test_nine_pixels_need_rotations_that_move_pixels_to_pixels():
    with pytest.raises(ValueError, match="band_limit=False.*those of C12 do not"):
        MobileNetConfig(group="C12", band_limit=False)


def test_dropout_takes_whole_fields(tissue):
    """…so that the mean over a field, which the classifier takes, is dropped or scaled, never averaged."""
    torch.manual_seed(0)
    pooled = torch.ones(400, 48)
    for whole in (True, False):
        config = MobileNetConfig(width=0.35, group="C4", dropout=0.25, field_dropout=whole)
        means = build("equivariant", config).dropout(pooled).unflatten(1, (-1, 4)).mean(2)
        values = {round(value, 3) for value in means.unique().tolist()}
        assert values == {0, round(4 / 3, 3)} if whole else len(values) == 5
        assert (means == 0).double().mean().item() == pytest.approx(0.25 if whole else 0.25**4, abs=0.03)


def test_grouped_layers_are_those_of_the_exported_fieldwise_network():
    config = MobileNetConfig(width=0.35, group="C4", divisor=24)
    grouped = count_costs(build("conventional", config.replace(depthwise="grouped")), 95)
    assert grouped == count_costs(build("equivariant", config.replace(depthwise="fieldwise")).export(), 95)
    plain = count_costs(build("conventional", config.replace(depthwise="fieldwise")), 95)
    assert plain == count_costs(build("conventional", config.replace(depthwise="strict")), 95)
    with pytest.raises(ValueError, match="'grouped' is the conventional network's"):
        build("equivariant", config.replace(depthwise="grouped"))


def test_reflections_are_exact_for_dihedral_groups(tissue):
    network = randomize(build("equivariant", MobileNetConfig(width=0.35, group="D4")), tissue).double()
    expected, flipped = run_model(network, tissue), run_model(network, tissue.flip(-1))
    assert (expected - flipped).abs().max() <= 1e-6 * expected.std()
    cyclic = randomize(build("equivariant", MobileNetConfig(width=0.35, group="C4")), tissue)
    expected, flipped = run_model(cyclic, tissue), run_model(cyclic, tissue.flip(-1))
    assert (expected - flipped).abs().max() > 1e-3 * expected.std()


def test_the_conventional_network_is_not_equivariant(tissue, small):
    network = randomize(build("conventional", small), tissue)
    assert equivariance_error(network, tissue, 90).rms > 0.05
    with pytest.raises(AssertionError, match="not equivariant under 90 degrees"):
        assert_equivariant(network, tissue)


@pytest.mark.parametrize("depthwise, theirs", [("strict", "strict"), ("fieldwise", "grouped")])
def test_same_shapes_and_macs(small, depthwise, theirs):
    config = small.replace(depthwise=depthwise)
    conventional = count_costs(build("conventional", config.replace(depthwise=theirs)), small.input_size)
    equivariant = count_costs(build("equivariant", config).export(), small.input_size)
    assert conventional == equivariant
    assert len(conventional) == 53


def test_channels_that_make_no_whole_fields_are_refused():
    for kind, depthwise in (("equivariant", "strict"), ("conventional", "grouped")):
        with pytest.raises(ValueError, match=r"divisor=6 is no multiple of \|C4\| = 4"):
            build(kind, MobileNetConfig(width=0.35, group="C4", divisor=6, depthwise=depthwise))


@pytest.mark.parametrize(
    "bad, words",
    [
        (dict(input_size=96), ["stem", "96", "input_size=95"]),
        (dict(strided_padding=1), ["block", "input_size=89"]),
    ],
)
def test_inexact_grids_are_refused_with_where_and_why(bad, words):
    with pytest.raises(InexactGridError) as error:
        MobileNetConfig(width=0.35, **bad)
    assert all(word in str(error.value) for word in words)
    assert MobileNetConfig(width=0.35, allow_inexact=True, **bad).exact_angles == (0,)


def test_an_even_grid_breaks_equivariance(tissue, small):
    """The 96-pixel network of notebook 03: same weights, same group, but the strides see other pixels."""
    config = small.replace(input_size=96, strided_padding=1, allow_inexact=True)
    images = nn.functional.interpolate(tissue, size=(96, 96), mode="bilinear")
    network = randomize(build("equivariant", config), images)
    assert equivariance_error(network, images, 90).rms > 1e-3


def test_other_exact_grids(tissue):
    config = MobileNetConfig(width=0.35, group="C4", input_size=97, strided_padding=1)
    assert [stage.size for stage in config.stages if stage.window.stride > 1] == [97, 49, 25]
    images = nn.functional.interpolate(tissue, size=(97, 97), mode="bilinear")
    assert_equivariant(randomize(build("equivariant", config), images).double(), images.double(), tolerance=1e-10)


def test_the_papers_network_filters_field_by_field():
    """As e2cnn's grouped convolution does; the strict form shares more, and costs what the conventional network costs."""
    paper = MobileNetConfig()
    assert (paper.width, paper.group, paper.depthwise) == (1.0, "C12", "fieldwise")
    strict = build("equivariant", paper.replace(depthwise="strict"))
    assert (count_parameters(strict), count_parameters(build("conventional", paper))) == (179_696, 2_177_930)
    depthwise = exported(build("equivariant", paper.replace(width=0.35))).features.block2.depthwise.conv
    assert depthwise.weight.shape[1] == 12 and depthwise.groups == depthwise.in_channels // 12


def test_antialiased_layers_keep_the_grids():
    for changes in ({}, {"input_size": 97, "strided_padding": 1}, {"strides": (2, 1, 1, 2, 1, 2, 1, 1)}):
        plain = MobileNetConfig(width=0.35, group="C4", **changes)
        smooth = plain.replace(antialias=True)
        grids = [
            [(stage.size, stage.output_size, stage.exact) for stage in config.stages] for config in (plain, smooth)
        ]
        assert grids[0] == grids[1] and smooth.exact_angles == (0, 90, 180, 270)
        kernels = {(stage.window.stride, stage.window.kernel) for stage in smooth.stages}
        assert kernels == {(1, 3), (2, 5)}
        assert {config.learnt_size(stage.window) for config in (plain, smooth) for stage in config.stages} == {3}


@pytest.mark.parametrize(
    "kind, depthwise", [("conventional", "strict"), ("equivariant", "strict"), ("equivariant", "fieldwise")]
)
def test_antialiased_networks_are_equivariant_and_export(kind, depthwise, small, tissue):
    config = small.replace(antialias=True, depthwise=depthwise)
    network = randomize(build(kind, config), tissue[:4]).double()
    assert count_parameters(network) == count_parameters(build(kind, config.replace(antialias=False)))
    plain = exported(network).double()
    images = tissue[:4].double()
    reference = run_model(network, images)
    assert (run_model(plain, images) - reference).abs().max() <= 1e-10 * reference.std()
    strided = [m for m in plain.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    assert len(strided) == 3 and all(type(m) is nn.Conv2d and m.kernel_size == (5, 5) for m in strided)
    assert count_costs(exported(build(kind, config)), 95) == count_costs(plain.float(), 95)
    if kind == "equivariant":
        assert_equivariant(network, images, tolerance=1e-10)


def test_an_antialiased_layer_blurs_and_then_filters(small):
    """Against the definition: the binomial filter on all pixels, then the strided filter that is learnt."""
    stem = build("conventional", small.replace(antialias=True)).features.stem.conv
    images = torch.randn(2, 3, 95, 95)
    row = torch.tensor([1.0, 2.0, 1.0]) / 4
    binomial = (row[:, None] * row).expand(3, 1, 3, 3)
    blurred = nn.functional.conv2d(images, binomial, padding=1, groups=3)
    assert torch.allclose(stem(images), nn.functional.conv2d(blurred, stem.weight, stride=2), atol=1e-5)
    assert torch.allclose(stem.export()(images), stem(images))


def test_every_grid_of_the_default_is_odd():
    assert all(stage.size % 2 == 1 for stage in MobileNetConfig().stages)
    assert MobileNetConfig().exact_angles == (0, 90, 180, 270)
    assert MobileNetConfig(group="C6").exact_angles == (0, 180)


@pytest.mark.parametrize(
    "bad, match",
    [
        (dict(width=0), "width"),
        (dict(group="Z4"), "group"),
        (dict(strides=(2, 1)), "strides"),
        (dict(classes=0), "classes"),
        (dict(depthwise="no"), "depthwise"),
        (dict(group_pooling="sum"), "group_pooling"),
        (dict(dropout=1.0), "dropout"),
        (dict(divisor=0), "divisor"),
    ],
)
def test_bad_configurations_name_the_argument(bad, match):
    with pytest.raises(ValueError, match=match):
        MobileNetConfig(**bad)


def test_divisor_must_hold_whole_fields():
    with pytest.raises(ValueError, match="divisor=8"):
        EquivariantMobileNetV2(MobileNetConfig(group="C12", divisor=8))


def test_a_wrong_input_size_says_what_to_do(small):
    with pytest.raises(ValueError, match="95 x 95 pixels, got 96 x 96; crop"):
        build("conventional", small)(torch.zeros(1, 3, 96, 96))


@pytest.mark.parametrize("kind", ["conventional", "equivariant"])
def test_estimated_statistics_are_those_of_the_batch(kind, small, tissue):
    """In evaluation mode the same batch then gives what it gives in training mode (dropout aside)."""
    network = estimate_statistics(build(kind, small.replace(dropout=0.0)).double(), tissue.double())
    evaluated = run_model(network, tissue.double())
    with torch.no_grad():
        trained = network.train()(tissue.double())
    # Not equal, since the running variance is the unbiased one and 35 layers add that up; without the estimate the two
    # have nothing to do with each other.
    assert (evaluated - trained).abs().max() < 0.25 * trained.std()


def test_another_group_brings_its_own_divisor(small):
    assert small.replace(group="D4") == MobileNetConfig(width=0.35, group="D4")
    assert MobileNetConfig(group="C4", divisor=24).replace(group="C12").divisor == 24


def test_configuration_round_trip(small):
    import json

    assert MobileNetConfig(**json.loads(json.dumps(small.to_dict()))) == small


def test_statistics_of_batches_are_the_mean_of_those_of_each():
    images = torch.randn(12, 3, 95, 95)
    config = MobileNetConfig(width=0.35, group="C4", dropout=0.0)
    network = build("equivariant", config)
    parts = []
    for batch in images.split(4):
        norm = estimate_statistics(network, batch).features.stem.norm
        parts.append((norm.running_mean.clone(), norm.running_var.clone()))
    norm = estimate_statistics(network, images.split(4)).features.stem.norm
    mean, variance = (torch.stack(values).mean(0) for values in zip(*parts))
    assert torch.allclose(norm.running_mean, mean, atol=1e-6) and torch.allclose(norm.running_var, variance, rtol=1e-5)
    assert norm.momentum == 0.1 and not network.training


@pytest.mark.parametrize("divisor", [1, 4, 8, 12, 24])
def test_channels_are_the_nearest_multiple_that_keeps_90_percent(divisor):
    """MobileNetV2's rule, by trying all multiples: the nearest one (the larger of two), or the next if that is too few."""
    for channels in torch.arange(0.5, 100, 0.3).tolist():
        multiples = [divisor * count for count in range(1, 110)]
        nearest = min(multiples, key=lambda m: (abs(m - channels), -m))
        expected = nearest if nearest >= 0.9 * channels else nearest + divisor
        rounded = round_channels(channels, divisor)
        assert rounded == expected, (channels, divisor)
        assert rounded % divisor == 0 and rounded >= max(divisor, 0.9 * channels)
    # By hand: 11.2 (the width 0.35 of 32) to 8 would lose 29 %; 30 to 24 would lose 20 %; 35 to 32 loses 9 %.
    assert [round_channels(*pair) for pair in ((11.2, 8), (30, 24), (35, 8))] == [16, 48, 32]


def test_of_five_strides_the_first_three_are_kept():
    kept = [row for row, stride in enumerate(IMAGENET_STRIDES) if stride == 2][:3]
    assert [row for row, stride in enumerate(PCAM_STRIDES) if stride == 2] == kept
    config = MobileNetConfig(width=0.35, group="C4")
    strided = [stage.name for stage in config.stages if stage.window.stride == 2]
    # Sandler et al. 2018: the first layer of a row strides.  Rows begin at blocks 1, 2, 4, 7, 11, 14 and 17.
    assert strided == ["stem", "block2", "block4"]
    assert config.final_size == 11


def test_multiply_accumulates_are_the_published_ones():
    """300 million for MobileNetV2 on 224 x 224 pixels (Sandler et al. 2018, Table 4)."""
    config = MobileNetConfig(
        divisor=8,
        group="C8",
        strides=IMAGENET_STRIDES,
        classes=1000,
        input_size=224,
        strided_padding=1,
        allow_inexact=True,
    )
    costs = count_costs(MobileNetV2(config), 224)
    assert sum(cost.macs for cost in costs) == pytest.approx(300e6, rel=0.01)
    stem = costs[0]
    assert (stem.output_shape, stem.parameters, stem.macs) == ((32, 112, 112), 27 * 32, 27 * 32 * 112**2)


@pytest.mark.parametrize("kind", ["conventional", "equivariant"])
def test_networks_start_as_mobilenetv2_does(kind):
    """Convolutions by He's rule with fan out, the classifier small, its bias 0."""
    network = build(kind, MobileNetConfig(width=1.0, group="C4"))
    plain = exported(network)
    for name in ("features.stem.conv", "features.block4.expand.conv", "features.block4.project.conv"):
        conv = plain.get_submodule(name)
        fan_out = conv.out_channels * conv.kernel_size[0] ** 2
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.15), name
    linear = network.classifier if kind == "conventional" else network.classifier.linear
    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.15) and not linear.bias.any()


@pytest.mark.parametrize("kind", ["conventional", "equivariant"])
def test_the_corners_do_not_count(kind, small, tissue):
    """…so that what leaves the picture by a rotation was never seen."""
    network = randomize(build(kind, small), tissue)
    outside = disc_mask(95) == 0
    changed = torch.where(outside, 5.0, tissue)
    assert not torch.equal(changed, tissue)
    for model in (network, exported(network)):
        assert torch.equal(run_model(model, changed), run_model(model, tissue))


def test_dropout_behind_the_maximum_takes_single_channels():
    """There each field is one channel: nothing is left to drop together."""
    config = MobileNetConfig(width=0.35, group="C4", dropout=0.5, group_pooling="max")
    dropped = build("equivariant", config).dropout(torch.ones(500, 12)).unflatten(1, (-1, 4)) == 0
    assert 0.3 < (dropped[..., 0] != dropped[..., 1]).double().mean() < 0.7


def test_exported_networks_keep_what_stands_before_a_relu(small, tissue):
    """Quantization looks at the values there; the network that trains may overwrite them, its copy may not."""
    network = randomize(build("conventional", small), tissue)
    seen = []
    plain = exported(network)
    plain.features.stem.norm.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    run_model(plain, tissue)
    assert seen[0].min() < 0
    assert all(module.inplace for module in network.modules() if isinstance(module, nn.ReLU)), (
        "the network stays as it was"
    )
