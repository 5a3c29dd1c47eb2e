"""Breakages of groups, filters, grids, equivariant layers and what measures them."""

from mutants.mutant import mutants_of

FIELDS = mutants_of(
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

FILTERS = mutants_of(
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

GRIDS = mutants_of(
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
        'check_count("padding_after", self.after, least=0)',
        'check_count("padding_after", max(self.after, self.padding), least=0)',
    ),
)

LAYERS = mutants_of(
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

FIELD_NORM = mutants_of(
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

HALF_PRECISION = mutants_of(
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

EQUIVARIANCE = mutants_of(
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

INNER_FIELDS = mutants_of(
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

MORE_INNER_FIELDS = mutants_of(
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

MUTANTS = [
    *FIELDS,
    *FILTERS,
    *GRIDS,
    *LAYERS,
    *FIELD_NORM,
    *HALF_PRECISION,
    *EQUIVARIANCE,
    *INNER_FIELDS,
    *MORE_INNER_FIELDS,
]
