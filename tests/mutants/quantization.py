"""Breakages of folding, equalization, rounding, and what runs the file."""

from mutants.mutant import mutants_of

DFQ = mutants_of(
    "dfq",
    "test_dfq_laws.py",
    (
        "ranges by output forget negative weights",
        "layer.weight.detach().abs().flatten(1).amax(1)",
        "layer.weight.detach().flatten(1).amax(1)",
    ),
    ("ranges by input are means", "grouped.amax((1, 3))", "grouped.mean((1, 3))"),
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

FOLDING = mutants_of(
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

SCALES = mutants_of(
    "dfq",
    "test_dfq_laws.py",
    ("the known spread is not scaled", "mean=known.mean * scale, std=known.std * scale", "mean=known.mean * scale"),
    ("the known mean is not scaled", "mean=known.mean * scale, std=", "std="),
    (
        "a field's smallest range counts",
        "r1 = ranges_by_output(first).unflatten(0, (-1, size)).amax(1)",
        "r1 = ranges_by_output(first).unflatten(0, (-1, size)).amin(1)",
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

BIAS_CORRECTION = mutants_of(
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
        "test_bias_correction.py",
    ),
    (
        "expected errors are added",
        "module.bias.data - shift",
        "module.bias.data + shift",
        "test_bias_correction.py::test_bias_correction_against_monte_carlo",
    ),
    ("a clipped Gaussian forgets its mean", "std * density + mean * below", "std * density"),
    (
        "the border counts as the middle does",
        "inside.mean((0, 2, 3))",
        "inside.amax((0, 2, 3))",
        "test_bias_correction.py::test_bias_correction_against_monte_carlo",
    ),
    (
        "padded averages let shifts through",
        "pool.padding in (0, (0, 0), [0, 0]) and pool.divisor",
        "pool.padding is not None and pool.divisor",
        "test_dfq.py::test_pooling_between_layers",
    ),
)

RANGES = mutants_of(
    "ranges",
    "test_int8_laws.py",
    (
        "an empty range passes",
        "if not -math.inf < low < high < math.inf:",
        "if False:",
        "test_int8.py::test_an_input_range_that_is_none_is_refused",
    ),
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

INT8 = mutants_of(
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

DEVICE = mutants_of(
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

DEPLOY = mutants_of(
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

PIECES = mutants_of(
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

SELF_TEST = mutants_of(
    "self_test",
    "test_files_and_simulation.py::test_a_file_without_self_test_can_get_one",
    ("answers of a file are not rounded", "high, rounded, 6**0.5 * rounding)", "high, unrounded, 6**0.5 * rounding)"),
    (
        "a file's answers may be off by ten times as much",
        "rounded, 6**0.5 * rounding)",
        "rounded, 600**0.5 * rounding)",
    ),
    ("levels of the lowest integer alone", "for end in (ends.min, ends.max))", "for end in (ends.min, ends.min))"),
    (
        "weights that changed are not seen",
        "digest(model) != known",
        "digest(model) == ''",
        "test_files_and_simulation.py::test_one_bit_of_a_weight_is_seen",
    ),
    (
        "the digest knows the shapes alone",
        "numpy_helper.to_array(tensor).tobytes()",
        "b''",
        "test_files_and_simulation.py::test_one_bit_of_a_weight_is_seen",
    ),
)

CONV_GRAPH = mutants_of(
    "conv_graph",
    "test_pte.py::test_merged_groups_are_the_same_integers",
    (
        "groups are merged in the wrong order",
        "wide[:, place, :, place] = narrow[:, place]",
        "wide[:, place, :, place] = narrow[:, -1 - place]",
    ),
    ("groups grow beyond what is asked", "k * width <= group_channels", "k <= group_channels"),
    ("depthwise layers are merged", "if groups == 1 or width == 1:", "if groups == 1:"),
)

OWN_INTEGERS = mutants_of(
    "own_integers",
    "test_own_integers.py::test_layers_that_share_integers_run_and_answer_as_layers_that_do_not",
    ("dequantized weights stay shared", "while _own_nodes(graph):", "while False:"),
    ("a copied node reads one constant with the first", "while _own_nodes(graph):", "if _own_nodes(graph):"),
    ("initializers stay shared", "return result if _own_initializers(graph) or changed else model", "return result"),
    (
        "what the caller may replace is copied",
        "return found - {value.name for value in graph.input}",
        "return found",
        "test_own_integers.py::test_what_the_caller_may_replace_stays_shared",
    ),
)

RUNTIMES = mutants_of(
    "runtimes",
    "test_runtimes.py",
    (
        "nobody asks whether a runtime is there",
        "return find_spec(self.name) is not None",
        "return True",
        "::test_a_missing_runtime_says_how_to_get_it",
    ),
    (
        "a missing file goes to the runtime",
        'check_is_file(path, "write it with `equilib quantize`")',
        "pass",
        "::test_bad_files",
    ),
    (
        "colours are read backwards",
        "np.ascontiguousarray(images.numpy(), dtype=np.float32)",
        "np.ascontiguousarray(images.numpy()[:, ::-1], dtype=np.float32)",
        "test_benchmarks.py::test_a_runtime_in_a_process_of_its_own",
    ),
)

PTE = mutants_of(
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

MUTANTS = [
    *DFQ,
    *FOLDING,
    *SCALES,
    *BIAS_CORRECTION,
    *RANGES,
    *INT8,
    *DEVICE,
    *DEPLOY,
    *PIECES,
    *SELF_TEST,
    *CONV_GRAPH,
    *OWN_INTEGERS,
    *RUNTIMES,
    *PTE,
]
