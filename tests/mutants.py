"""Deliberate breakages of the library, one line each, that a test must notice; ``tests/mutation.py`` tries them.

A mutant is the mistake of a tired author or the doubt of a careful referee: a sign, an axis, an off-by-one, a forgotten
square, the wrong split.  None is equivalent: each changes what the code does for some input that the docstrings allow.
Whoever changes a line that is quoted here changes it here, too (``tests/test_mutation.py`` says so).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class StaleMutantError(ValueError):
    """The line that a mutant breaks is not in the code, or not once only."""


@dataclass(frozen=True)
class Mutant:
    """One breakage.

    Attributes:
        module: of the package, without ``equilib.``
        says: what is wrong then, in words.
        line: a part of one line, found once in the module.
        instead: what replaces it.
        tests: files or single tests in ``tests/``, separated by spaces, the quickest first.
    """

    module: str
    says: str
    line: str
    instead: str
    tests: str

    def broken(self, source: str) -> str:
        """The module's text with the breakage; raises StaleMutantError where the line is missing or not unique."""
        if source.count(self.line) != 1:
            raise StaleMutantError(
                f"equilib/{self.module}.py holds {self.line!r} {source.count(self.line)} times, not once: "
                f"bring the mutant «{self.says}» of tests/mutants.py up to date"
            )
        return source.replace(self.line, self.instead)

    def apply(self, folder: Path) -> None:
        """Break the package in this copy of the checkout."""
        path = folder / "equilib" / f"{self.module}.py"
        path.write_text(self.broken(path.read_text()))


def _of(module: str, tests: str, *rows: tuple[str, ...]) -> list[Mutant]:
    """Mutants of one module: (what is wrong, line, replacement[, other tests, or ``::test`` for one in the same file])."""
    chosen = [row[3] if len(row) > 3 else tests for row in rows]
    return [Mutant(module, *row[:3], tests + own if own.startswith("::") else own) for row, own in zip(rows, chosen)]


FIELDS = _of(
    "fields",
    "test_fields.py",
    ("channels shift the other way", "(i - rotation) % group.order", "(i + rotation) % group.order"),
    ("half turns count as quarter turns", "(angle * self.rotations) % 360 == 0", "(angle * self.rotations) % 180 == 0"),
    ("reflections do not count in |G|", "(2 if self.reflections else 1)", "(1 if self.reflections else 1)"),
    ("exact rotations turn clockwise", "torch.rot90(images, int(quarters)", "torch.rot90(images, -int(quarters)"),
    ("interpolated rotations turn clockwise", "transform.rotate(stack, degrees,", "transform.rotate(stack, -degrees,"),
    ("what comes from outside is black", 'mode="edge"', 'mode="constant"'),
    ("overshoots of the spline are cut off", "clip=False", "clip=True"),
    ("the angle counts reflections as rotations", "rotation * 360 / group.rotations", "rotation * 360 / group.order"),
    (
        "channels move by the inverse",
        "source = list(channel_permutation(group, rotation))",
        "source = list(channel_permutation(group, -rotation))",
    ),
    ("the permutation of dihedral groups is inverted", "np.argmax(matrix, axis=1)", "np.argmax(matrix, axis=0)"),
    ("a reflection turns the picture upside down", "field.flip(-1) if reflected", "field.flip(-2) if reflected"),
    ("channels mix by the transposed matrix", '"ij,bfjhw->bfihw"', '"ji,bfjhw->bfihw"'),
    ("the disc is a pixel too narrow", "(size / 2) ** 2", "((size - 1) / 2) ** 2"),
    ("the highest irrep is refused", "> group.rotations // 2:", ">= group.rotations // 2:"),
    ("the photograph is transposed", "permute(2, 0, 1).float()", "permute(2, 1, 0).float()"),
)

FILTERS = _of(
    "filters",
    "test_filters.py",
    ("tied copies keep the order of their input channels", "turned[:, source] if regular_input else turned", "turned"),
    (
        "rotated copies are not tied",
        "turns = 4 if group.rotations % 4 == 0 else 2 if group.rotations % 2 == 0 else 1",
        "turns = 1",
        "test_layers.py::test_quarter_turns_of_the_bank_are_equal_to_the_bit",
    ),
    ("the filter at one pixel has another norm", "group.order**-0.5", "1.0"),
    ("the pixel basis knows no reflections", "(False, True)[: 1 + group.reflections]", "(False,)"),
    ("the input's representation is not inverted", '"ij,...jkhw,lk->...ilhw"', '"ij,...jkhw,kl->...ilhw"'),
    ("filters are reflected upside down", "filters.flip(-1) if reflected", "filters.flip(-2) if reflected"),
    (
        "the constraint knows no reflections",
        "generators += [(0, True)] if group.reflections else []",
        "generators += []",
    ),
    ("rings are narrower", "(2 * self.width**2)", "(self.width**2)"),
    ("the centre has an angle", "if self.frequency:  #", "if False:  #"),
    ("angles run clockwise from the top", "torch.atan2(y, x)", "torch.atan2(x, y)"),
    ("y points downwards", "torch.meshgrid(-line, line", "torch.meshgrid(line, line"),
    (
        "the outer ring carries frequency 3",
        "return 2 if ring == kernel_size // 2",
        "return 3 if ring == kernel_size // 2",
    ),
    ("all rings are wide", "return 0.4 if ring == kernel_size // 2", "return 0.6 if ring == kernel_size // 2"),
    ("the outer ring is missing", "for ring in range(last + 1)", "for ring in range(last)"),
    ("filters are steered clockwise", "-frequencies * math.radians", "frequencies * math.radians"),
    ("the bank turns clockwise", "kernel_size, r * group.step)", "kernel_size, -r * group.step)"),
    ("waves run backwards", "waves = torch.exp(1j *", "waves = torch.exp(-1j *"),
    ("the steering error is squared", "math.sqrt(wrong / right)", "wrong / right"),
    ("the steering error forgets the phase", "phase * filters, waves(turn)", "filters, waves(turn)"),
    ("the spectrum is mirrored", "power[m % directions]", "power[-m % directions]"),
    ("sines and cosines count once", "1 if atom.frequency == 0 else 2", "1 if atom.frequency == 0 else 1"),
)

GRIDS = _of(
    "grids",
    "test_grids.py",
    ("the span forgets dilation", "self.after - self.dilation * (self.kernel - 1) - 1", "self.after - self.kernel"),
    ("one window too few", "// self.stride + 1", "// self.stride"),
    ("paddings are taken for each other", "== self.after - self.padding", "== self.padding - self.after"),
    (
        "centres forget dilation",
        "-self.padding + self.dilation * (self.kernel - 1) / 2",
        "-self.padding + (self.kernel - 1) / 2",
    ),
    ("taps are neighbours, whatever the dilation", "start + self.dilation * tap", "start + tap"),
    ("a pixel behind the last is read", "0 <= pixel < size", "0 <= pixel <= size"),
    (
        "no padding behind means as much as before",
        "if self.padding_after is None else",
        "if not self.padding_after else",
    ),
    ("the smallest size is the nearest", "key=lambda c: (abs(c - size), c)", "key=lambda c: c"),
    ("one stage must be exact, not all", "if all(stage.exact for stage", "if any(stage.exact for stage"),
    ("every stage sees the input's grid", "size = stages[-1].output_size", "size = stages[-1].size"),
    (
        "repairs forget dilation",
        "for after in range(window.dilation * (window.kernel - 1) + 1)",
        "for after in range(window.kernel)",
    ),
    ("the largest padding comes first", "key=lambda pair: (sum(pair),", "key=lambda pair: (-sum(pair),"),
    (
        "negative padding on one side passes",
        "self.padding < 0 or self.after < 0",
        "self.padding < 0 and self.after < 0",
    ),
)

LAYERS = _of(
    "layers",
    "test_layers.py",
    (
        "filters are scaled by a variance",
        "basis.square().sum(0).mean().sqrt()",
        "basis.square().sum(0).mean()",
        "::test_filters_start_as_the_conventional_networks",
    ),
    (
        "initialisation by fan in",
        "2 / (self.kernel_size**2 * self.out_type.size)",
        "2 / (self.kernel_size**2 * self.in_type.size)",
        "::test_filters_start_by_fan_out_where_inputs_and_outputs_differ",
    ),
    (
        "the output shape counts padding once",
        "n + 2 * self.padding",
        "n + self.padding",
        "::test_the_output_shape_is_known_in_advance",
    ),
    (
        "quarter turns are never tied, half turns are",
        "for parts in (4, 2):",
        "for parts in (2,):",
        "::test_exported_weights_know_the_turn_that_leaves_them_alone",
    ),
    (
        "weights turn by one step",
        "channel_permutation(group, group.rotations // parts)",
        "channel_permutation(group, 1)",
        "::test_exported_weights_know_the_turn_that_leaves_them_alone",
    ),
    (
        "scale and shift are taken for each other",
        "self.running_mean, self.running_var, self.weight, self.bias",
        "self.running_mean, self.running_var, self.bias, self.weight",
        "::test_field_batch_norm_is_inner_batch_norm",
    ),
    (
        "the running variance is biased",
        "variance.detach() * (count / max(count - 1, 1))",
        "variance.detach()",
        "::test_field_batch_norm_is_inner_batch_norm",
    ),
    (
        "the running mean takes the other share",
        "self.running_mean.lerp_(mean.detach(), self.momentum)",
        "self.running_mean.lerp_(mean.detach(), 1 - self.momentum)",
        "::test_field_batch_norm_is_inner_batch_norm",
    ),
    (
        "momentum of 0.01",
        "momentum: float = 0.1)",
        "momentum: float = 0.01)",
        "::test_field_batch_norm_is_inner_batch_norm",
    ),
    (
        "statistics count channels, not fields",
        "x.numel() // len(self.in_type)",
        "x.numel() // self.in_type.size",
        "::test_field_batch_norm_is_inner_batch_norm",
    ),
    (
        "the compiled formula is unbiased",
        "(0, 2, 3, 4), correction=0",
        "(0, 2, 3, 4), correction=1",
        "::test_the_pass_with_relu_is_a_relu_behind_the_norm",
    ),
    (
        "compiled, bfloat16 is summed in bfloat16",
        "if dtype in (torch.float16, torch.bfloat16)",
        "if dtype in (torch.float16,)",
        "::test_bfloat16_is_summed_in_single_precision_and_rounded_once",
    ),
    (
        "the pass with ReLU has none",
        "x = module(x, relu=True)",
        "x = module(x)",
        "::test_a_sequence_gives_what_its_modules_give",
    ),
    (
        "no shortcut",
        "return x + self.body(x)",
        "return self.body(x)",
        "::test_a_residual_of_fields_adds_what_it_was_given",
    ),
    (
        "the exported classifier sums over a field",
        "repeat_interleave(self.field_size, 1) / self.field_size",
        "repeat_interleave(self.field_size, 1)",
        "::test_the_invariant_classifier_sees_means_and_exports_as_a_plain_one",
    ),
)

FIELD_NORM = _of(
    "field_norm",
    "test_layers.py",
    (
        "the spread between blocks is forgotten",
        "blocks.shares * (variances + (means - mean_columns).square_())",
        "blocks.shares * variances",
        "test_layers.py::test_field_batch_norm_is_inner_batch_norm test_layers.py::test_the_pass_with_relu_is_a_relu_behind_the_norm",
    ),
    (
        "the gradient's slope has the wrong sign",
        "invstd * dweight / -blocks.count",
        "invstd * dweight / blocks.count",
        "test_layers.py::test_field_batch_norm_is_inner_batch_norm test_layers.py::test_the_pass_with_relu_is_a_relu_behind_the_norm",
    ),
    (
        "the gradient's offset forgets the mean",
        "/ -blocks.count - slope * mean",
        "/ -blocks.count",
        "test_layers.py::test_field_batch_norm_is_inner_batch_norm test_layers.py::test_the_pass_with_relu_is_a_relu_behind_the_norm",
    ),
    (
        "pixels are counted, not values",
        "self.count = pixels * size",
        "self.count = pixels",
        "test_layers.py::test_field_batch_norm_is_inner_batch_norm test_layers.py::test_the_pass_with_relu_is_a_relu_behind_the_norm",
    ),
)

PLAIN = _of(
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

ARCHITECTURE = _of(
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

MOBILENET = _of(
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

DFQ = _of(
    "dfq",
    "test_dfq_laws.py",
    (
        "outgoing ranges forget negative weights",
        "layer.weight.detach().abs().flatten(1).amax(1)",
        "layer.weight.detach().flatten(1).amax(1)",
    ),
    ("incoming ranges are means", "grouped.amax((1, 3))", "grouped.mean((1, 3))"),
    ("biases are not scaled", "layer.bias.data = layer.bias.data * scale", "layer.bias.data = layer.bias.data"),
    ("scales of a sweep replace the earlier ones", "scales.get(pair, 1.0) * scale", "scale"),
    (
        "one dead side is alive",
        "(r1 > 0) & (r2 > 0)",
        "(r1 > 0) | (r2 > 0)",
        "test_dfq.py::test_dead_channels_are_left_alone",
    ),
    ("scales may be negative", "(scale > 0).all()", "(scale != 0).all()"),
    (
        "a fixed point that is no geometric mean",
        "torch.stack(ranges).log().mean(0).exp()",
        "torch.stack(ranges).mean(0)",
        "test_dfq.py::test_the_closed_form_of_a_chain",
    ),
)

INT8 = _of(
    "int8",
    "test_int8_laws.py",
    (
        "an input is rounded before and behind its mask",
        " or isinstance(module_of(network, users[0]), DiscMask))",
        ")",
    ),
    (
        "a tensor with two readers is not rounded before the ReLU",
        "return len(users) == 1 and (is_relu",
        "return len(users) >= 1 and (is_relu",
        "test_int8.py::test_ranges_without_data_hold_gaussian_activations",
    ),
    (
        "the mean over pixels adds real numbers",
        "_replace(network, node.target, QuantizedMean(module, shapes[node.name][1]))",
        "pass",
        "test_densenet_int8.py::test_means_are_integer_sums",
    ),
    ("integers up to 128", "return -half, half - 1", "return -half, half"),
    ("negative weights do not count", "torch.maximum(-low, high) / largest", "high / largest"),
    (
        "zero lies outside the range",
        "low, high = min(low, 0.0), max(high, 0.0)",
        "low, high = low, high",
        "test_int8.py::test_activation_range_includes_zero_exactly",
    ),
    ("a level too many", "2**scheme.activation_bits - 1", "2**scheme.activation_bits"),
    ("symmetric activations follow the upper end", "high = max(-low, high)", "high = high"),
    ("biases are not rounded", "(layer.bias.data.double() / unit).round()", "(layer.bias.data.double() / unit)"),
    (
        "biases count in units of the weights alone",
        "unit = (input_scale * self.scale).double()",
        "unit = self.scale.double()",
    ),
    (
        "the asymmetric zero point is mirrored",
        "zero_point = least - low / scale",
        "zero_point = least + low / scale",
        "test_int8.py::test_rounded_weights_lie_on_their_grid",
    ),
    (
        "copies are not tied before rounding",
        "    tie_rotated_copies(network)\n",
        "    pass\n",
        "test_int8.py::test_a_noise_of_1e_7_is_tied_away_and_a_large_one_refused",
    ),
    (
        "biases are not tied",
        "if layer.bias is not None:\n                layer.bias.data = turn.tie",
        "if layer.bias is None:\n                layer.bias.data = turn.tie",
    ),
    (
        "a scale per input channel",
        "weight.flatten(1) if scheme.per_channel",
        "weight.transpose(0, 1).flatten(1) if scheme.per_channel",
    ),
)

DEVICE = _of(
    "device",
    "test_int8.py::test_schemes_out_of_range_and_for_simulation_only",
    ("activations of 4 bits are exported as 8", "scheme.activation_bits != 8", "scheme.activation_bits > 8"),
    (
        "scales per channel are exported as one",
        '("per_channel=True", scheme.per_channel)',
        '("per_channel=True", False)',
    ),
    (
        "biases count in units of the inputs alone",
        "unit = np.float32(value(x.input[1])) * np.float32(value(w.input[1]))",
        "unit = np.float32(value(x.input[1]))",
        "test_device.py::test_simulation_and_deployment_agree[mean]",
    ),
)

PCAM = _of(
    "pcam",
    "test_pcam.py",
    (
        "the crop takes the first row off",
        "start = (n - size) // 2",
        "start = (n - size + 1) // 2",
        "::test_crop_and_normalize",
    ),
    (
        "seven of eight symmetries",
        "torch.randint(0, 8,",
        "torch.randint(0, 7,",
        "::test_augmentation_is_a_symmetry_of_the_square_and_repeatable",
    ),
    (
        "a reflection less",
        "turned.flip(-1) if element >= 4",
        "turned.flip(-1) if element > 4",
        "::test_augmentation_is_a_symmetry_of_the_square_and_repeatable",
    ),
    (
        "half turns at most",
        "2 * torch.pi * torch.rand",
        "torch.pi * torch.rand",
        "::test_any_angle_turns_about_the_centre",
    ),
    (
        "a shear instead of a rotation",
        "-angle.sin()",
        "angle.sin()",
        "::test_any_angle_turns_about_the_centre",
    ),
    (
        "the other patches are turned",
        "generator=generator) >= share",
        "generator=generator) < share",
        "::test_a_share_of_the_patches_is_turned_and_the_others_are_untouched",
    ),
    (
        "corners turn black",
        'padding_mode="border"',
        'padding_mode="zeros"',
        "::test_turning_a_grey_patch_leaves_it_grey",
    ),
    (
        "black is infinitely dense",
        "clamp_min(1) / 255",
        "clamp_min(0) / 255",
        "::test_stains_get_weaker_and_stronger_and_black_stays_finite",
    ),
    (
        "stains get stronger only",
        "(2 * torch.rand(2, len(images), 3, generator=generator) - 1)",
        "torch.rand(2, len(images), 3, generator=generator)",
        "::test_stains_get_weaker_and_stronger_and_black_stays_finite",
    ),
    (
        "light beyond white",
        "(-changed).exp().clamp_max(1)",
        "(-changed).exp()",
        "::test_stains_get_weaker_and_stronger_and_black_stays_finite",
    ),
    (
        "floats are normalized in place",
        "memory_format=torch.channels_last, copy=True",
        "memory_format=torch.channels_last, copy=False",
        "::test_crop_and_normalize",
    ),
    (
        "the darkest channel bounds the range",
        "low = min((0 - mean) / std",
        "low = max((0 - mean) / std",
        "::test_crop_and_normalize",
    ),
    (
        "the window turns with the tissue",
        "[cosine * x - sine * y, sine * x + cosine * y]",
        "[cosine * x + sine * y, -sine * x + cosine * y]",
        "::test_the_window_turns_against_the_tissue",
    ),
    (
        "the window is a cross",
        "np.abs(turned).max(0)",
        "np.abs(turned).min(0)",
        "::test_the_label_window_is_a_square_that_d4_keeps",
    ),
    (
        "all of the window must be tumour",
        "tumour[:, label_window(angle)].any(1)",
        "tumour[:, label_window(angle)].all(1)",
        "::test_label_changes",
    ),
    (
        "slabs keep their order",
        "patches[torch.randperm(len(patches), generator=generator)]",
        "patches",
        "::test_shuffling_a_chunked_file_mixes_it_well",
    ),
    (
        "the newest slab goes first",
        "popitem(last=False)",
        "popitem(last=True)",
        "::test_an_epoch_of_a_chunked_file_reads_each_slab_once",
    ),
    (
        "a limit takes the last labels",
        "self.labels = self.labels[:limit]",
        "self.labels = self.labels[-limit:]",
        "::test_a_limit_takes_the_first_patches_and_hides_the_others",
    ),
    (
        "one patch beyond the limit",
        "indices.max() >= len(self)",
        "indices.max() > len(self)",
        "::test_a_limit_takes_the_first_patches_and_hides_the_others",
    ),
    (
        "negative indices count from the end of the file",
        "indices.min() < 0 or",
        "",
        "::test_a_limit_takes_the_first_patches_and_hides_the_others",
    ),
    (
        "one good label is enough",
        "np.isin(labels, (0, 1)).all()",
        "np.isin(labels, (0, 1)).any()",
        "::test_a_single_bad_label_is_refused",
    ),
    (
        "batches are transposed",
        "permute(0, 3, 1, 2), torch",
        "permute(0, 3, 2, 1), torch",
        "::test_crop_and_normalize",
    ),
)

EQUIVARIANCE = _of(
    "equivariance",
    "test_equivariance.py",
    (
        "outputs of different size count as spread",
        "expected - expected.mean(0, keepdim=True)",
        "expected - expected.mean()",
    ),
    (
        "the error is a mean, not a root mean square",
        "difference.square().mean().sqrt().item(), difference",
        "difference.abs().mean().item(), difference",
    ),
    ("only upward errors are the worst", "difference.abs().max().item()", "difference.max().item()"),
    (
        "classes that stay count as flips",
        "(expected.argmax(1) != actual.argmax(1))",
        "(expected.argmax(1) == actual.argmax(1))",
    ),
    ("outputs without spread are perfect", '(spread or float("nan"))', "(spread or 1.0)"),
    ("NaN passes for equivariant", "if not error.rms <= tolerance", "if error.rms > tolerance"),
    ("there and further", "rotate(rotate(images, degrees), -degrees)", "rotate(rotate(images, degrees), degrees)"),
    (
        "the model is turned the other way",
        "run_model(model, rotate(images, degrees), batch",
        "run_model(model, rotate(images, -degrees), batch",
    ),
    ("one rotation is a degree of freedom", "difference.var(0, correction=0)", "difference.var(0, correction=1)"),
    ("the mean over two turns", "for turns in range(4))", "for turns in range(2))"),
    ("corners count at every angle", "1.0 if degrees % 90 else None", "1.0 if degrees % 90 == 90 else None"),
    ("the model is left in training mode", "model.train(training)", "model.train()"),
    ("the model runs in training mode", "    model.eval()", "    model.train()"),
    ("flips are counted against the first angle", "!= (difference[0] > 0)", "!= (difference[1] > 0)"),
    ("a single finite output is enough", "and torch.isfinite(actual).all()", "and torch.isfinite(actual).any()"),
    ("ties count as class 1", "((difference[1:] > 0) !=", "((difference[1:] >= 0) !="),
    ("one output has classes", "expected.shape[1] > 1", "expected.shape[1] >= 1"),
)

EXPERIMENT = _of(
    "experiment",
    "test_experiment_laws.py",
    (
        "identical under one turn is enough",
        "for other in logits[1:]]).all(0)",
        "for other in logits[1:]]).any(0)",
        "test_experiment_laws.py test_experiment.py::test_metrics_of_known_logits",
    ),
    (
        "one identical logit is enough",
        "(logits[0] == other).all(1)",
        "(logits[0] == other).any(1)",
        "test_experiment_laws.py test_experiment.py::test_metrics_of_known_logits",
    ),
    (
        "the probability of the other class",
        "logits.softmax(1)[:, 1]",
        "logits.softmax(1)[:, 0]",
        "test_experiment_laws.py test_experiment.py::test_metrics_of_known_logits",
    ),
    (
        "differences are first minus second",
        "(values[:, 1] - values[:, 0]).tolist()",
        "(values[:, 0] - values[:, 1]).tolist()",
        "test_experiment_laws.py test_experiment.py::test_metrics_of_known_logits",
    ),
    (
        "the spread of ranges is inverted",
        "ranges.max() / ranges.min()",
        "ranges.min() / ranges.max()",
        "test_experiment_laws.py test_experiment.py::test_metrics_of_known_logits",
    ),
    (
        "the smallest error is in the table",
        'max(e["rms"] for e in errors',
        'min(e["rms"] for e in errors',
        "test_experiment_laws.py test_experiment.py::test_metrics_of_known_logits",
    ),
    (
        "interpolated rotations are in the table",
        'if e["degrees"] % 90 == 0)',
        'if e["degrees"] % 30 == 0)',
        "test_experiment_laws.py test_experiment.py::test_metrics_of_known_logits",
    ),
    (
        "the last batch repeats patches",
        "indices = range(start, min(start + batch_size, len(patches)))",
        "indices = range(min(start, len(patches) - batch_size), min(start + batch_size, len(patches)))",
        "test_experiment_laws.py test_experiment.py::test_metrics_of_known_logits",
    ),
)

TRAINING = _of(
    "training",
    "test_training_laws.py",
    (
        "validation on training patches",
        "self._loader(self.valid_patches, shuffle=False)",
        "self._loader(self.train_patches, shuffle=False)",
    ),
    (
        "training patches come in order",
        "self._loader(self.train_patches, shuffle=True)",
        "self._loader(self.train_patches, shuffle=False)",
    ),
    ("validation leaves the last patches out", "drop_last=shuffle", "drop_last=True"),
    ("all processes take the same patches", "order[self.rank * len(self) :]", "order[0:]"),
    ("every epoch has the same order", "seeded(self.seed, self.epoch))", "seeded(self.seed, 0))"),
    ("norms decay", '"norm" in name or name.endswith("bias")', 'name.endswith("bias")'),
    ("nothing is exempt from decay", '"weight_decay": 0.0}', '"weight_decay": self.config.weight_decay}'),
    ("the schedule counts epochs", '"interval": "step"', '"interval": "epoch"'),
    (
        "every batch is turned alike",
        "self.current_epoch, self.global_rank, index)",
        "self.current_epoch, self.global_rank, 0)",
    ),
    ("every epoch is turned alike", "seeded(self.config.seed, self.current_epoch,", "seeded(self.config.seed, 0,"),
    ("dropout is left to chance", "torch.manual_seed(generator.initial_seed())", "pass"),
    (
        "batches count alike, whatever their size",
        "self.valid_loss.update(F.cross_entropy(logits, labels), len(labels))",
        "self.valid_loss.update(F.cross_entropy(logits, labels))",
    ),
    ("the worst epoch is the best", 'mode="min"', 'mode="max"', "test_training.py::test_it_learns_and_writes_its_log"),
    (
        "seeds (0, 1) and (0, 1, 0) are one",
        "(len(numbers), *numbers)",
        "numbers",
        "test_training.py::test_seeded_streams_differ_in_every_number",
    ),
)

PIECES = _of(
    "pieces",
    "test_layouts.py::test_cutting_one_layer",
    ("all pieces have the first bias", "conv.bias.array[place * rows : (place + 1) * rows]", "conv.bias.array[:rows]"),
    (
        "all pieces read the first channels",
        "dense.weight.array[i * columns : (i + 1) * columns]",
        "dense.weight.array[:columns]",
    ),
    ("pieces are joined in the wrong order", 'make_node("Concat", outputs,', 'make_node("Concat", outputs[::-1],'),
)

STUDY = _of(
    "study",
    "test_study.py",
    ("ties count as class 1", "np.asarray(patches[stage]) > 0)", "np.asarray(patches[stage]) >= 0)"),
    ("the worst epoch's loss", 'min(epoch["valid_loss"]', 'max(epoch["valid_loss"]'),
    ("a standard error without its root", "self.std / self.runs**0.5", "self.std / self.runs"),
    ("both sides draw the same seeds", "_bootstrap(second, draw=1)", "_bootstrap(second, draw=0)"),
    ("the variance of a difference is biased", "side.mean(1).var(ddof=1)", "side.mean(1).var(ddof=0)"),
    ("the spread over runs is biased", "means.std(ddof=1)", "means.std(ddof=0)"),
    ("two kinds of labels pass", "if len(labels) > 1:", "if len(labels) > 2:"),
    ("INT8 is subtracted", 'run.correct("int8") - run.correct("fp32")', 'run.correct("fp32") - run.correct("int8")'),
    ("one attribute is enough", "if all(getattr(run, name) == value", "if any(getattr(run, name) == value"),
)

BOOTSTRAP = _of(
    "bootstrap",
    "test_bootstrap.py",
    (
        "the area misses the ties with itself",
        "ones * (ones + 1) / 2",
        "ones * (ones - 1) / 2",
        "test_contrasts.py::test_the_area_is_the_share_of_pairs_in_order",
    ),
    ("an interval of 90 %", "(0.025, 0.975)", "(0.05, 0.95)"),
    (
        "patches are not drawn",
        "multinomial(patches, np.full(patches, 1 / patches), REPEATS)",
        "multinomial(patches, np.full(patches, 1 / patches), 1).repeat(REPEATS, 0)",
    ),
    ("slides weigh alike, however many patches they have", "np.bincount(slide, minlength=size))", "np.ones(size))"),
    ("pairs within a slide count once, however often it is drawn", '"bs,st,bt->b"', '"bs,st,ct->b"'),
    (
        "equal scores count whole",
        'scores[ones], side) for side in ("left", "right"))\n    twice',
        'scores[ones], side) for side in ("right", "right"))\n    twice',
    ),
    ("a patch drawn twice counts once", "positive = counts[:, ones]", "positive = counts[:, ones] > 0"),
    ("runs are not drawn", 'np.einsum("br,rb->b", counts, values) / runs', "values.mean(0)"),
)

DEPLOY = _of(
    "deploy",
    "test_deploy_laws.py",
    (
        "the last rung is equalized",
        "(folded, equalized, absorbed, corrected, folded)",
        "(folded, equalized, absorbed, corrected, equalized)",
    ),
    ("weight and activation bits are swapped", "int8.Scheme(*pair)", "int8.Scheme(*pair[::-1])"),
    ("accuracy against the worst class", ".argmax(1) == labels)", ".argmin(1) == labels)"),
)

FOLDING = _of(
    "folding",
    "test_dfq_laws.py",
    ("folding forgets epsilon", "(self.variance + self.eps).sqrt()", "self.variance.sqrt()"),
    ("folding adds the mean", "norm.beta - norm.mean * scale", "norm.beta + norm.mean * scale"),
    ("gamma counts with its sign", "std=norm.gamma.abs())", "std=norm.gamma)"),
    (
        "channels read by two normalizations are normalized twice",
        "if one.name not in taken_off:",
        "if True:",
        "test_densenet_int8.py::test_a_normalization_of_shared_channels_is_split_and_the_function_stays",
    ),
    (
        "what reads normalized channels beside normalizations is not seen",
        "return moves and _only_normalized(network, user, affine)",
        "return True",
        "test_densenet_int8.py::test_channels_that_something_else_reads_are_refused",
    ),
)

SCALES = _of(
    "dfq",
    "test_dfq_laws.py",
    ("the known spread is not scaled", "mean=known.mean * scale, std=known.std * scale", "mean=known.mean * scale"),
    ("the known mean is not scaled", "mean=known.mean * scale, std=", "std="),
    (
        "a field's smallest range counts",
        "r1 = outgoing_ranges(first).unflatten(0, (-1, size)).amax(1)",
        "r1 = outgoing_ranges(first).unflatten(0, (-1, size)).amin(1)",
    ),
    (
        "low biases are absorbed",
        "(known.mean - deviations * known.std).clamp_min(0)",
        "(known.mean - deviations * known.std)",
    ),
    (
        "absorbed three deviations too high",
        "(known.mean - deviations * known.std)",
        "(known.mean + deviations * known.std)",
    ),
    ("what is absorbed stays in the statistics", "note(first, mean=known.mean - amount)", "pass"),
    ("the next bias shrinks", "second.bias.data + response_to_constant", "second.bias.data - response_to_constant"),
    ("scales go through a maximum one by one", "size = module.field_size", "size = 1"),
)

BIAS_CORRECTION = _of(
    "bias_correction",
    "test_dfq_laws.py",
    (
        "padding along one axis does not count",
        "any(p != 0 for p in layer.padding)",
        "all(p != 0 for p in layer.padding)",
    ),
    (
        "standard deviations of a sum add",
        "(first.std.square() + second.std.square()).sqrt()",
        "(first.std + second.std)",
        "test_dfq.py",
    ),
    (
        "expected errors are added",
        "module.bias.data - shift",
        "module.bias.data + shift",
        "test_dfq.py::test_bias_correction_against_monte_carlo",
    ),
    ("a clipped Gaussian forgets its mean", "std * density + mean * below", "std * density"),
    (
        "the border counts as the middle does",
        "inside.mean((0, 2, 3))",
        "inside.amax((0, 2, 3))",
        "test_dfq.py::test_bias_correction_against_monte_carlo",
    ),
    (
        "padded averages let shifts through",
        "pool.padding in (0, (0, 0)) and pool.divisor",
        "pool.padding is not None and pool.divisor",
        "test_dfq.py::test_pooling_between_layers",
    ),
)

RANGES = _of(
    "ranges",
    "test_int8_laws.py",
    (
        "the paper's six deviations are five",
        "deviations: float = 6.0",
        "deviations: float = 5.0",
        "test_int8.py::test_ranges_without_data_hold_gaussian_activations",
    ),
    (
        "standard deviations of a sum add",
        "(a.std.square() + b.std.square()).sqrt()",
        "a.std + b.std",
        "test_int8.py::test_ranges_without_data_hold_gaussian_activations",
    ),
    ("the last batch decides the lower end", "Distribution(min(low, before.low)", "Distribution(low"),
    ("one outlier too many stays out", "flat.kthvalue(flat.numel() - rank)", "flat.kthvalue(flat.numel() - rank - 1)"),
    (
        "what is concatenated keeps its own scale",
        "together |= dict.fromkeys(joined if parts else (), joined)",
        "together |= {}",
        "test_densenet_int8.py::test_what_is_concatenated_shares_one_scale",
    ),
    (
        "a concatenation has the range of its last part",
        "return None if None in found else _hull(found)",
        "return None if None in found else found[-1]",
        "test_densenet_int8.py::test_a_concatenation_has_the_range_of_all_its_parts",
    ),
    (
        "a ReLU lets negative values through",
        "Distribution(0.0, max(high, 0.0))",
        "Distribution(low, max(high, 0.0))",
        "test_int8.py::test_ranges_without_data_hold_gaussian_activations",
    ),
    (
        "masking does not include 0",
        "if isinstance(module, DiscMask):\n        return Distribution(min(low, 0.0), max(high, 0.0))",
        "if isinstance(module, DiscMask):\n        return Distribution(low, high)",
    ),
)

IMAGES = _of(
    "images",
    "test_pcam.py::test_an_image_file_gives_what_the_data_set_gives",
    ("images are transposed", "values.copy()).permute(2, 0, 1)", "values.copy()).permute(2, 1, 0)"),
)

INNER_FIELDS = _of(
    "inner_fields",
    "test_inner_fields.py",
    (
        "patterns turn clockwise",
        "direction = direction + math.radians(degrees)",
        "direction = direction - math.radians(degrees)",
        "::test_patterns_turn_as_pictures_do",
    ),
    (
        "waves may be faster than said",
        "highest * radius.sqrt()",
        "2 * highest * radius.sqrt()",
        "::test_patterns_hold_waves_up_to_the_highest_and_no_faster_one",
    ),
    (
        "the field is not turned back",
        "rotate_field(expected, group, -rotation)",
        "rotate_field(expected, group, rotation)",
        "::test_between_the_quarter_turns_it_is_the_measure_of_inner_fields",
    ),
    (
        "ReLUs stay",
        'module._modules.pop("relu", None)',
        'module._modules.get("relu", None)',
        "::test_without_relu_a_network_is_linear",
    ),
)

RUNS = _of(
    "runs",
    "test_training.py",
    ("networks are loaded in training mode", "return network.eval(), contents", "return network.train(), contents"),
    ("shares beyond 1", "if self.any_angle > 1:", "if self.any_angle > 2:"),
    (
        "old files are taken for field-wise",
        'values = {"depthwise": "strict"} | values',
        "pass",
        "test_runs.py::test_files_that_do_not_say_their_depthwise_layer_are_strict",
    ),
)

EPOCHS = _of(
    "training",
    "test_training.py",
    ("the best epoch counts from 0", 'checkpoint["epoch"] + 1, tuple(curve', 'checkpoint["epoch"], tuple(curve'),
)

TABLES = _of(
    "study_tables",
    "test_study.py",
    ("much smaller networks are comparable", "1 / 1.3 < ratio < 1.3", "ratio < 1.3"),
    ("quarter turns are the others", "if (angle % 90 == 0) == quarter", "if (angle % 90 == 0) != quarter"),
    ("Table 1 takes the fewest patches", "most = max(run.patches", "most = min(run.patches"),
    ("the mildest loss is called the worst", "{min(changes):+.2f}", "{max(changes):+.2f}"),
    ("naive rounding is the equalized one", '("naive", "int8 naive, simulated")', '("naive", "int8 simulated")'),
    ("steadiness is inverted", "ours / theirs:.2f", "theirs / ours:.2f"),
    (
        "the luckiest run is reported",
        'np.mean([run.figures["int8_identical_under_quarter_turns"]',
        'np.max([run.figures["int8_identical_under_quarter_turns"]',
    ),
)

CONTRASTS = _of(
    "contrasts",
    "test_contrasts.py",
    ("patches that chose the epoch count as unseen", '"unseen": slice(CHOSE, None)', '"unseen": slice(None)'),
    ("confirmation patches cannot say no", "confirmation.interval[1] < 0", "confirmation.interval[0] > 0"),
    ("a yes needs no confirmation", "if not known:", "if False:"),
    ("trainings of any length are compared", "== (patches, epochs)", "!= (None, None)"),
    ("recipes mix", "config.get(name, value) == value for name", "True for name"),
    ("dropout by channel counts as dropout of fields", 'get("field_dropout", True)', 'get("width", True)'),
    (
        "other patches are compared",
        "for side in sides for run in side}) > 1:",
        "for side in sides for run in side}) > 2:",
    ),
    ("both sides draw the same seeds for the bootstrap", "draw=draw) for draw, side", "draw=0) for draw, side"),
    ("equal scores are parted", "scores[1:] > scores[:-1], [True]", "scores[1:] >= scores[:-1], [True]"),
)

CONFIRMATION = _of(
    "confirmation",
    "test_confirmation.py",
    (
        "one run of the floor may be missing",
        "if lacking := floor_missing(runs):",
        "if len(lacking := floor_missing(runs)) > 1:",
    ),
    ("runs of any recipe make up the floor", "name_of(run) for run in of_plan(runs)}", "name_of(run) for run in runs}"),
    ("test patches confirm", 'if lists[1] == run.figures["per_patch"]["fp32"]:', "if False:"),
)

PLAN_TABLES = _of(
    "plan_tables",
    "test_plan_tables.py",
    ("a rate that is hardly better is taken", "losses[best] > CLEARLY", "losses[best] > 0"),
    ("any seed is a trial", "if run.seed == TRIAL_SEED:", "if run.seed >= TRIAL_SEED:"),
    ("the last two epochs are one", '["best_epoch"] >= END - 1', '["best_epoch"] >= END'),
    ("lengths share a row", "group = of_plan(runs, epochs)", "group = of_plan(runs, EPOCHS)"),
)

SLIDES = _of(
    "slides",
    "test_slides.py",
    ("rows in another order pass", "!= [label == 1 for label in labels]:", "== []:"),
    (
        "the tumour may lie anywhere",
        'SLIDE, LABEL = "wsi", "center_tumor_patch"',
        'SLIDE, LABEL = "wsi", "tumor_patch"',
    ),
    ("the difference is turned round", "tuple(b - a for a, b", "tuple(a - b for a, b"),
)

ORDER = _of(
    "study",
    "test_study.py",
    (
        "conventional runs come last",
        "(not run.variant.conventional, run.network",
        "(run.variant.conventional, run.network",
    ),
)

# --- pictures, other runtimes, other networks, slides, bars; and half precision ---

HALF_PRECISION = _of(
    "field_norm",
    "test_layers.py",
    (
        "statistics of bfloat16 are in bfloat16",
        "batch_norm_update_stats(_as_image(part), *identity, 0.0)",
        "batch_norm_update_stats(_as_image(part), None, None, 0.0)",
        "::test_bfloat16_is_summed_in_single_precision_and_rounded_once",
    ),
    (
        "the gradient is rounded between its terms",
        "dtype=offset.dtype, device",
        "dtype=x.dtype, device",
        "::test_bfloat16_is_summed_in_single_precision_and_rounded_once",
    ),
    (
        "all of a tensor in half precision is one copy in single",
        "xs = blocks.split(x)\n        # Running",
        "x = x.to(wide)\n        xs = blocks.split(x)\n        # Running",
        "::test_bfloat16_is_never_copied_whole_into_single_precision",
    ),
)

WINDOWS = _of(
    "windows",
    "test_windows.py",
    (
        "what is left over stands on one side",
        "range((length - size) % stride // 2, length - size + 1, stride)",
        "range(0, length - size + 1, stride)",
        "::test_the_map_of_a_turned_picture_is_the_turned_map",
    ),
    (
        "the last window is left out",
        "length - size + 1, stride)",
        "length - size, stride)",
        "::test_windows_are_the_pieces_of_the_picture",
    ),
    (
        "rows and columns of pixels change places",
        "picture[row : row + windows.size, column : column + windows.size]",
        "picture[column : column + windows.size, row : row + windows.size]",
        "::test_windows_are_the_pieces_of_the_picture",
    ),
    (
        "even rests break it",
        "% self.stride % 2 == 0 for",
        "% self.stride % 2 == 1 for",
        "::test_exact_means_that_turned_windows_are_windows",
    ),
    (
        "a stride further off is named",
        "range(min(self.stride - 1, way), 0, -1)",
        "range(1, min(self.stride - 1, way) + 1)",
        "test_pictures.py::test_the_strides_that_are_named_fit_and_none_is_nearer",
    ),
)

PICTURES = _of(
    "cli/pictures",
    "test_pictures.py",
    (
        "row and column change places in the table",
        "writer.writerow([name, row, column,",
        "writer.writerow([name, column, row,",
        "::test_a_row_is_what_the_cut_patch_gets",
    ),
    (
        "the class is the other one",
        "int(probability > 0.5)",
        "int(probability < 0.5)",
        "::test_a_row_is_what_the_cut_patch_gets",
    ),
    (
        "the map of one picture replaces another's",
        "taken.add(path.resolve())",
        "taken.discard(path.resolve())",
        "::test_maps_are_pictures_in_a_folder_of_their_own",
    ),
    (
        "a map may replace a picture",
        "taken = {path.resolve() for path in images}",
        "taken = set()",
        "::test_an_input_is_never_overwritten_by_a_map",
    ),
    (
        "the first window is named, not the unanswered one",
        "column {windows.columns[columns[0]]}",
        "column {windows.columns[rows[0]]}",
        "::test_windows_without_an_answer_are_counted_and_the_others_answered",
    ),
)

RUNTIMES = _of(
    "runtimes",
    "test_runtimes.py",
    (
        "nobody asks whether a runtime is there",
        "return find_spec(self.name) is not None",
        "return True",
        "::test_a_missing_runtime_says_how_to_get_it",
    ),
    ("a missing file goes to the runtime", "if not path.is_file():", "if path.is_dir():", "::test_bad_files"),
    (
        "colours are read backwards",
        "np.ascontiguousarray(images.numpy(), dtype=np.float32)",
        "np.ascontiguousarray(images.numpy()[:, ::-1], dtype=np.float32)",
        "test_benchmarks.py::test_a_runtime_in_a_process_of_its_own",
    ),
)

PTE = _of(
    "pte",
    "test_pte.py",
    (
        "zero points stay where they were",
        "int(quantizer.zero_point) - SHIFT",
        "int(quantizer.zero_point)",
        "::test_signed_integers_are_the_same_function",
    ),
    (
        "weights are rounded down",
        "(layer.weight.detach() / self.scale).round()",
        "(layer.weight.detach() / self.scale).floor()",
        "::test_signed_integers_are_the_same_function",
    ),
    (
        "the classifier forgets the zero point",
        ".to(torch.float32) - self.zero_point",
        ".to(torch.float32)",
        "::test_signed_integers_are_the_same_function",
    ),
    (
        "the classifier's sum is of fractions",
        "F.linear(x.flatten(1).to(torch.float32) - self.zero_point, self.weight) * self.unit",
        "F.linear((x.flatten(1).to(torch.float32) - self.zero_point) * self.unit, self.weight)",
        "::test_the_classifier_does_not_depend_on_the_order_of_addition",
    ),
    (
        "sums may pass 2^24",
        "if largest >= 2**24:",
        "if largest >= 2**26:",
        "::test_a_classifier_beyond_exact_sums_is_refused",
    ),
)

DENSENET = _of(
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

STAINS = _of(
    "stains",
    "test_tissue.py",
    ("light grows with stain", "* np.exp(-density)", "* np.exp(density)", "::test_colours"),
    (
        "colours and stains change places",
        "slide.stains[:, channel], amounts",
        "slide.stains[channel], amounts",
        "::test_a_version_draws_the_same_patches",
    ),
    (
        "vectors are of unit length by colour",
        "np.linalg.norm(vectors, axis=1, keepdims=True)",
        "np.linalg.norm(vectors, axis=0, keepdims=True)",
        "::test_a_version_draws_the_same_patches",
    ),
    (
        "the scanner blurs",
        "light += np.float32(slide.sharpening)",
        "light -= np.float32(slide.sharpening)",
        "::test_power_spectrum",
    ),
)

PROGRESS = _of(
    "progress",
    "test_progress.py",
    ("bars go into files", "disable=None if shown", "disable=False if shown", "::test_a_bar_is_for_terminals"),
    ("a bar that was not wanted is shown", "if shown else True", "if shown else None", "::test_a_bar_is_for_terminals"),
    ("what is over at once shows a bar", "delay=PATIENCE", "delay=0", "::test_what_is_over_at_once_shows_none"),
)

MORE_CONTRASTS = _of(
    "contrasts",
    "test_contrasts.py",
    (
        "the threshold is the worst",
        "np.where(labels, -1, 1)",
        "np.where(labels, 1, -1)",
        "::test_no_threshold_is_better_than_the_best",
    ),
    (
        "the baseline is the first network",
        "float(np.mean(first) - np.mean(second))",
        "float(np.mean(second) - np.mean(first))",
        "::test_a_difference_has_welchs_interval_in_closed_form",
    ),
)

MORE_INNER_FIELDS = _of(
    "inner_fields",
    "test_inner_fields.py",
    ("rows of patterns run upwards", "* -along[:, None]", "* along[:, None]", "::test_patterns_turn_as_pictures_do"),
    (
        "patterns turn about another point",
        "torch.arange(size) - (size - 1) / 2",
        "torch.arange(size) - size / 2",
        "::test_patterns_turn_as_pictures_do",
    ),
)

RECENT = [
    *HALF_PRECISION,
    *WINDOWS,
    *PICTURES,
    *RUNTIMES,
    *PTE,
    *DENSENET,
    *STAINS,
    *PROGRESS,
    *MORE_CONTRASTS,
    *MORE_INNER_FIELDS,
]

MUTANTS = [
    *FIELDS,
    *FILTERS,
    *GRIDS,
    *LAYERS,
    *FIELD_NORM,
    *PLAIN,
    *ARCHITECTURE,
    *MOBILENET,
    *DFQ,
    *FOLDING,
    *SCALES,
    *BIAS_CORRECTION,
    *RANGES,
    *PIECES,
    *IMAGES,
    *INNER_FIELDS,
    *RUNS,
    *EPOCHS,
    *TABLES,
    *CONTRASTS,
    *CONFIRMATION,
    *PLAN_TABLES,
    *SLIDES,
    *ORDER,
    *INT8,
    *DEVICE,
    *PCAM,
    *EQUIVARIANCE,
    *EXPERIMENT,
    *TRAINING,
    *STUDY,
    *BOOTSTRAP,
    *DEPLOY,
    *RECENT,
]
