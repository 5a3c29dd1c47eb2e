"""Breakages of the networks and their plain layers."""

from mutants.mutant import mutants_of

PLAIN = mutants_of(
    "plain",
    "test_plain.py",
    ("weights turn clockwise", "torch.rot90(weight, self.degrees // 90", "torch.rot90(weight, -self.degrees // 90"),
    ("any weights may be tied", "> 1e-3 * weight", "> 1e3 * weight"),
    (
        "the mean depends on where the orbit starts",
        "((copies[0] + copies[2]) + (copies[1] + copies[3])) / 4",
        "((copies[0] + copies[1]) + (copies[2] + copies[3])) / 4",
    ),
    ("half of the orbit is averaged", "(copies[0] + copies[1]) / 2", "copies[0]"),
    ("no shortcut", "return x + self.body(x)", "return self.body(x)"),
    ("nothing is masked", "return x * self.mask", "return x"),
    (
        "the blur is lopsided",
        "weight.new_tensor((0.25, 0.5, 0.25), ",
        "weight.new_tensor((0.25, 0.25, 0.5), ",
        "test_mobilenet.py::test_antialiased_networks_are_equivariant_and_export",
    ),
    ("what is exported is not blurred", "weight = self.filter().detach()", "weight = self.weight.detach()"),
    ("the mean counts the corners", "mask / mask.sum()", "mask / mask.numel()"),
    ("the mean takes the corners in", "mask = disc_mask(size)", "mask = torch.ones(size, size)"),
    ("the maximum is a mean", "(-1, self.field_size)).amax(2)", "(-1, self.field_size)).mean(2)"),
    ("several fields are dropped together", "x.unflatten(1, (-1, self.size))", "x.unflatten(1, (self.size, -1))"),
    (
        "one entry that fits is enough to be tied",
        "(copy - weight).abs().max().item()",
        "(copy - weight).abs().min().item()",
    ),
)

ARCHITECTURE = mutants_of(
    "architecture",
    "test_mobilenet.py",
    (
        "channels may shrink by more than 10 %",
        "rounded + divisor if rounded < 0.9 * channels else rounded",
        "rounded",
        "::test_channels_are_the_nearest_multiple_that_keeps_90_percent",
    ),
    (
        "channels are rounded down",
        "int(channels + divisor / 2)",
        "int(channels)",
        "::test_channels_are_the_nearest_multiple_that_keeps_90_percent",
    ),
    ("a block too many", "(6, 24, 2)", "(6, 24, 3)", "::test_the_conventional_network_is_mobilenetv2"),
    (
        "blocks with a stride have a shortcut",
        "self.window.stride == 1 and self.inputs == self.outputs",
        "self.inputs == self.outputs",
        "::test_the_corners_do_not_count",
    ),
    (
        "other strides are left out",
        "PCAM_STRIDES = (2, 1, 2, 2, 1, 1, 1, 1)",
        "PCAM_STRIDES = (2, 1, 2, 1, 2, 1, 1, 1)",
        "::test_of_five_strides_the_first_three_are_kept",
    ),
    (
        "strides come at the end of a row",
        "if repeat == 0 else 1",
        "if repeat == repeats - 1 else 1",
        "::test_of_five_strides_the_first_three_are_kept",
    ),
    (
        "hidden layers expand the outputs",
        "channels * expansion",
        "out * expansion",
        "::test_the_conventional_network_is_mobilenetv2",
    ),
    (
        "one exact stage is enough",
        "exact = all(stage.exact for",
        "exact = any(stage.exact for",
        "::test_inexact_grids_are_refused_with_where_and_why",
    ),
    (
        "all layers are padded by 1 or 0",
        "1 if stride == 1 else self.strided_padding",
        "1 if stride == 1 else 0",
        "::test_inexact_grids_are_refused_with_where_and_why",
    ),
    (
        "the anti-aliased layers are padded as the plain ones",
        "self.strided_padding + BLUR // 2",
        "self.strided_padding",
        "::test_antialiased_layers_keep_the_grids",
    ),
    (
        "layers without a stride are blurred, too",
        "return self.antialias and window.stride > 1",
        "return self.antialias",
        "::test_antialiased_layers_keep_the_grids",
    ),
)

MOBILENET = mutants_of(
    "mobilenet",
    "test_mobilenet.py",
    (
        "initialisation by fan in",
        'mode="fan_out"',
        'mode="fan_in"',
        "::test_networks_start_as_mobilenetv2_does",
    ),
    (
        "the conventional classifier starts large",
        "nn.init.normal_(module.weight, std=0.01)",
        "nn.init.normal_(module.weight, std=0.1)",
        "::test_networks_start_as_mobilenetv2_does",
    ),
    (
        "the equivariant classifier starts large",
        "nn.init.normal_(linear.weight, std=0.01)",
        "nn.init.normal_(linear.weight, std=0.1)",
        "::test_networks_start_as_mobilenetv2_does",
    ),
    (
        "fields are dropped behind the maximum over them",
        'if config.field_dropout and config.group_pooling == "mean" else 1',
        "if config.field_dropout else 1",
        "::test_dropout_behind_the_maximum_takes_single_channels",
    ),
    (
        "MACs count all filters for each output",
        "per_output * output[0].numel()",
        "module.weight.numel() * output[0].numel()",
        "::test_multiply_accumulates_are_the_published_ones",
    ),
    (
        "the last batch decides the statistics",
        "norm.momentum = 1 / count",
        "norm.momentum = 1.0",
        "::test_statistics_of_batches_are_the_mean_of_those_of_each",
    ),
    (
        "the estimate leaves its momentum behind",
        "norm.momentum = momentum",
        "pass",
        "::test_statistics_of_batches_are_the_mean_of_those_of_each",
    ),
    (
        "exported ReLUs overwrite what they read",
        "module.inplace = False",
        "module.inplace = True",
        "::test_exported_networks_keep_what_stands_before_a_relu",
    ),
    (
        "the conventional network sees the corners",
        "self.pool(self.features(self.input_mask(x)))",
        "self.pool(self.features(x))",
        "::test_the_corners_do_not_count",
    ),
)

DENSENET = mutants_of(
    "densenet",
    "test_densenet.py",
    (
        "the first block stands behind a mean, too",
        "(sizes[-1] // 2 if block else sizes[-1]) - 2",
        "sizes[-1] // 2 - 2",
        "::test_grids_are_those_of_the_published_network",
    ),
    (
        "filters have a band limit that the published ones lack",
        "image_input=image_input, band_limit=self.band_limit)",
        "image_input=image_input, band_limit=True)",
        "::test_both_networks_have_the_same_layers_and_about_the_same_parameters",
    ),
    (
        "the first mean may stand on an odd grid",
        "for before in self.grids[1:-1]:",
        "for before in self.grids[2:-1]:",
        "::test_configurations_that_make_no_network_are_refused",
    ),
    (
        "pixels of 30 degrees are taken",
        "symmetry.rotations not in (1, 2, 4)",
        "symmetry.rotations not in (1, 2, 4, 12)",
        "::test_configurations_that_make_no_network_are_refused",
    ),
)

MUTANTS = [*PLAIN, *ARCHITECTURE, *MOBILENET, *DENSENET]
