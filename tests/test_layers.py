"""Our layers against e2cnn's own, forward and backward, and their exports."""

import pytest
import torch
from e2cnn import nn as enn
from e2cnn.nn import GeometricTensor
from torch.utils._python_dispatch import TorchDispatchMode

from equilib.fields import Group, channel_permutation, rotate_field
from equilib.filters import steerable_basis
from equilib.layers import (
    EquivariantResidual,
    FieldBatchNorm,
    FieldReLU,
    FieldSequence,
    InvariantLinear,
    SteerableConv,
    image_type,
    regular_type,
)
from equilib.plain import facts


@pytest.mark.parametrize("group", ["C4", "C12", "D4"])
@pytest.mark.parametrize("training", [True, False])
def test_field_batch_norm_is_inner_batch_norm(group, training):
    group = Group.parse(group)
    channels = 3 * group.order
    field_type = regular_type(group, channels)
    ours = FieldBatchNorm(group, channels).double()
    theirs = enn.InnerBatchNorm(field_type).double()
    inner = theirs.get_submodule(f"batch_norm_[{group.order}]")
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            value = torch.rand(3, dtype=torch.float64) + 0.5
            getattr(ours, name).copy_(value)
            getattr(inner, name).copy_(value)
    ours.train(training), theirs.train(training)
    x = (torch.randn(4, channels, 5, 5, dtype=torch.float64) * 2 + 7).requires_grad_()
    x2 = x.detach().clone().requires_grad_()
    direction = torch.randn(4, channels, 5, 5, dtype=torch.float64)
    y, y2 = ours(GeometricTensor(x, field_type)).tensor, theirs(GeometricTensor(x2, field_type)).tensor
    (y * direction).sum().backward(), (y2 * direction).sum().backward()
    tight = dict(atol=1e-12, rtol=1e-10)
    assert torch.allclose(y, y2, **tight)
    assert torch.allclose(x.grad, x2.grad, **tight)
    assert torch.allclose(ours.weight.grad, inner.weight.grad, **tight)
    assert torch.allclose(ours.bias.grad, inner.bias.grad, **tight)
    assert torch.allclose(ours.running_mean, inner.running_mean, **tight)
    assert torch.allclose(ours.running_var, inner.running_var, **tight)
    exported = ours.eval().export()
    assert torch.allclose(exported(x), ours(GeometricTensor(x, field_type)).tensor, **tight)


def test_field_batch_norm_keeps_precision_with_a_large_mean():
    group = Group.parse("C4")
    norm = FieldBatchNorm(group, 8)
    x = torch.randn(8, 8, 9, 9) + 1000
    y = norm(GeometricTensor(x, norm.in_type)).tensor.double()
    exact = FieldBatchNorm(group, 8).double()(GeometricTensor(x.double(), norm.in_type)).tensor
    assert (y - exact).abs().max() < 1e-3


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(4, 24, 5, 5), (32, 24, 9, 9), (3, 12, 1, 1), (2, 1200, 40, 40)])
def test_the_pass_with_relu_is_a_relu_behind_the_norm(shape, relu):
    """In one block or several, with rows folded or not; and as torch.compile sees it."""
    group = Group.parse("C12")
    direction = torch.randn(shape, dtype=torch.float64)
    x = torch.randn(shape, dtype=torch.float64) * 2 + 1
    results = []
    for how in ("separate", "one pass", "compiled"):
        norm = FieldBatchNorm(group, shape[1]).double()
        torch.nn.init.uniform_(norm.weight, -1, 1, generator=torch.Generator().manual_seed(0))
        field = GeometricTensor(x.clone().requires_grad_(), norm.in_type)
        if how == "separate":
            y = norm(field).tensor
            y = torch.relu(y) if relu else y
        else:
            run = torch.compile(norm, backend="eager") if how == "compiled" else norm
            y = run(field, relu=relu).tensor
        (y * direction).sum().backward()
        results.append((y, field.tensor.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var))
    for other in results[1:]:
        assert all(torch.allclose(a, b, atol=1e-9, rtol=1e-9) for a, b in zip(results[0], other))


def test_a_sequence_gives_what_its_modules_give():
    group = Group.parse("C4")
    modules = [SteerableConv(group, 8, 8, 3), FieldBatchNorm(group, 8), FieldReLU(group, 8)]
    x = GeometricTensor(torch.randn(2, 8, 9, 9), modules[0].in_type)
    for training in (True, False):
        fused, separate = FieldSequence(*modules).train(training), enn.SequentialModule(*modules).train(training)
        assert torch.allclose(fused(x).tensor, separate(x).tensor, atol=1e-6)


def test_field_batch_norm_in_mixed_precision():
    group = Group.parse("C4")
    norm = FieldBatchNorm(group, 8)
    x = (torch.randn(4, 8, 9, 9) + 3).bfloat16().requires_grad_()
    y = norm(GeometricTensor(x, norm.in_type)).tensor
    assert y.dtype == torch.bfloat16 and norm.running_mean.dtype == torch.float32
    exact = FieldBatchNorm(group, 8)(GeometricTensor(x.detach().float(), norm.in_type)).tensor
    assert (y.float() - exact).abs().max() < 0.03
    y.float().square().sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("how", ["blocks", "compiled"])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(4, 24, 5, 5), (32, 24, 33, 33), (2, 1200, 40, 40)])
def test_bfloat16_is_summed_in_single_precision_and_rounded_once(shape, relu, how):
    """Against the formula in double precision, on values whose mean is large beside their spread."""
    group = Group.parse("C12")
    x = (torch.randn(shape) + 20).bfloat16()
    # Nearly what the norm takes out again: what remains of the gradient is small beside its terms.
    direction = (x.float() - 20 + torch.randn(shape) / 10).bfloat16()
    weight = torch.empty(shape[1] // group.order).uniform_(0.5, 2)
    found = []
    for dtype in (torch.bfloat16, torch.float64):
        norm = FieldBatchNorm(group, shape[1]).to(torch.promote_types(dtype, torch.float32))
        norm.weight.data.copy_(weight)
        field = GeometricTensor(x.detach().to(dtype).requires_grad_(), norm.in_type)
        run = torch.compile(norm, backend="eager") if how == "compiled" and dtype == torch.bfloat16 else norm
        y = run(field, relu=relu).tensor
        assert y.dtype == dtype
        y.backward(direction.to(dtype))
        statistics = torch.stack([norm.running_mean, norm.running_var])
        gradients = torch.stack([norm.weight.grad, norm.bias.grad])
        found.append([value.double() for value in (y.detach(), field.tensor.grad, statistics, gradients)])
    (y, dx, statistics, gradients), exact = found[0], found[1]
    assert torch.allclose(statistics, exact[2], rtol=1e-5)
    # Half a unit in the last of 8 bits, and what single precision leaves of 20 where y is next to nothing.
    assert ((y - exact[0]).abs() <= exact[0].abs() / 2**8 + 1e-4).all()
    # A ReLU passes the gradient where the rounded output is positive: so where the exact one is, but for a few.
    ours = torch.isclose(dx, exact[1], rtol=1 / 2**8, atol=1e-3)
    assert ours.all() if not relu else ours.float().mean() > 0.999
    assert (gradients - exact[3]).abs().max() < 1e-3 * exact[3].abs().max()


class _Largest(TorchDispatchMode):
    """Bytes of the largest tensor that an operation inside makes."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.nbytes)
        return result


def test_bfloat16_is_never_copied_whole_into_single_precision():
    norm = FieldBatchNorm(Group.parse("C4"), 1200)
    x = torch.randn(2, 1200, 40, 40).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    kept = []
    with (
        _Largest() as largest,
        torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.append(tensor.nbytes) or tensor, lambda kept: kept
        ),
    ):
        norm(GeometricTensor(x, norm.in_type), relu=True).tensor.backward(torch.ones_like(x))
    assert largest.bytes == x.nbytes
    assert 2 * x.nbytes <= sum(kept) < 2.01 * x.nbytes, "the input and the output, for the gradient"
    with torch.no_grad(), _Largest() as largest:
        norm.eval()(GeometricTensor(x, norm.in_type))
    assert largest.bytes == x.nbytes


@pytest.mark.parametrize("training", [True, False])
def test_field_batch_norm_in_bfloat16_commutes_with_quarter_turns(training):
    """Up to the order of sums, which moves few values, by a unit of the last of 8 bits."""
    group = Group.parse("C12")
    norm = FieldBatchNorm(group, 24).train(training)
    torch.nn.init.uniform_(norm.weight, 0.5, 2)
    x = (torch.randn(8, 24, 9, 9) + 3).bfloat16()

    def run(field):
        return norm(GeometricTensor(field, norm.in_type)).tensor

    expected, actual = rotate_field(run(x), group, 3), run(rotate_field(x, group, 3))
    assert torch.allclose(expected, actual, rtol=1 / 2**7, atol=1e-3)
    assert (expected == actual).float().mean() > 0.99 if training else torch.equal(expected, actual)


@pytest.mark.parametrize("group", ["C4", "C12", "D4"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_dense_convolution_is_r2conv(group, kernel):
    """With the same coefficients, the same filter as e2cnn's R2Conv (cyclic: its own cache breaks on dihedral)."""
    group = Group.parse(group)
    ours = SteerableConv(group, 2 * group.order, 3 * group.order, kernel, padding=kernel // 2)
    if not group.reflections:
        theirs = enn.R2Conv(ours.in_type, ours.out_type, kernel, padding=kernel // 2, bias=False, initialize=False)
        theirs.weights.data.copy_(ours.weights.detach().flatten())
        expanded, _ = theirs.expand_parameters()
        # Ours is in other units, see SteerableConv: a common factor.
        factor = ours.filter().norm() / expanded.norm()
        assert torch.allclose(ours.filter(), factor * expanded, atol=1e-6)
    x = torch.randn(2, ours.in_type.size, 9, 9)
    _assert_quarter_turn(ours, x, group)


def _assert_quarter_turn(layer, x, group):
    steps = group.rotations // 4

    def run(field):
        return layer(GeometricTensor(field, layer.in_type)).tensor

    expected = rotate_field(run(x), group, steps)
    actual = run(rotate_field(x, group, steps))
    assert (expected - actual).abs().max() < 1e-5 * expected.std()


@pytest.mark.parametrize("group", ["C4", "C12", "D4", "D12"])
@pytest.mark.parametrize("depthwise", ["strict", "fieldwise"])
def test_depthwise_is_equivariant_and_exports(group, depthwise):
    group = Group.parse(group)
    if (group.order, depthwise) == (24, "fieldwise"):
        pytest.skip("the basis regular -> regular of D12 takes minutes")
    layer = SteerableConv(group, 2 * group.order, 2 * group.order, 3, stride=2, depthwise=depthwise)
    x = torch.randn(2, 2 * group.order, 9, 9)
    _assert_quarter_turn(layer, x, group)
    plain = layer.export()
    assert plain.groups == (2 * group.order if depthwise == "strict" else 2)
    assert facts(plain).field_size == group.order
    assert torch.allclose(plain(x), layer(GeometricTensor(x, layer.in_type)).tensor, atol=1e-6)


@pytest.mark.parametrize("kernel, depthwise", [(1, None), (3, None), (3, "strict")])
def test_filters_start_as_the_conventional_networks(kernel, depthwise):
    """Entries of the expanded filter have the variance that torch's kaiming_normal_(mode="fan_out") gives."""
    group, channels = Group.parse("C4"), 240
    layer = SteerableConv(group, channels, channels, kernel, depthwise=depthwise)
    plain = torch.nn.Conv2d(channels, channels, kernel, groups=channels if depthwise else 1)
    torch.nn.init.kaiming_normal_(plain.weight, mode="fan_out")
    assert layer.filter().std().item() == pytest.approx(plain.weight.std().item(), rel=0.15)
    assert layer.weights.std().item() == pytest.approx(layer.filter().std().item(), rel=0.15)


def test_strict_depthwise_mixes_no_channels():
    group = Group.parse("C4")
    layer = SteerableConv(group, 8, 8, 3, padding=1, depthwise="strict")
    x = torch.zeros(1, 8, 9, 9)
    x[:, 3] = torch.randn(9, 9)
    y = layer(GeometricTensor(x, layer.in_type)).tensor
    assert y[:, 3].abs().max() > 0 and y[:, [0, 1, 2, 4, 5, 6, 7]].abs().max() == 0


@pytest.mark.parametrize("group", ["C4", "C8", "C12", "D4"])
def test_quarter_turns_of_the_bank_are_equal_to_the_bit(group):
    group = Group.parse(group)
    bank = steerable_basis(group, "trivial", "regular", 3)[:, :, 0]
    source = list(channel_permutation(group, group.rotations // 4))
    assert torch.equal(bank, torch.rot90(bank, 1, (-2, -1))[:, source])
    dense = steerable_basis(group, "regular", "regular", 1)
    assert torch.equal(dense, dense[:, source][:, :, source])
    # …and tying moves nothing by more than the rounding of e2cnn's own samples
    untied = (
        enn.R2Conv(
            image_type(group, 1), regular_type(group, group.order), 3, bias=False, initialize=False, recompute=True
        )
        if not group.reflections
        else None
    )
    if untied is not None:
        samples = torch.stack([untied.basisexpansion(unit) for unit in torch.eye(bank.shape[0])]).view_as(bank)
        assert (samples - bank).abs().max() < 1e-6


def test_basis_dimensions_known_from_theory():
    """Band-limited dimensions at 3x3 (6 of 9), and |G| for pointwise filters."""
    assert steerable_basis(Group.parse("C4"), "trivial", "regular", 3).shape[0] == 6
    assert steerable_basis(Group.parse("C4"), "regular", "regular", 3).shape[0] == 24
    assert steerable_basis(Group.parse("C12"), "regular", "regular", 1).shape[0] == 12
    assert steerable_basis(Group.parse("D4"), "regular", "regular", 1).shape[0] == 8
    with pytest.raises(ValueError, match="in_repr"):
        steerable_basis(Group.parse("C4"), "irrep", "regular", 3)


def test_pointwise_basis_of_an_image_channel():
    group = Group.parse("C4")
    layer = SteerableConv(group, 3, 8, 1, image_input=True)
    _assert_quarter_turn_image(layer, torch.randn(2, 3, 7, 7), group)


def _assert_quarter_turn_image(layer, x, group):
    def run(image):
        return layer(GeometricTensor(image, layer.in_type)).tensor

    expected = rotate_field(run(x), group, group.rotations // 4)
    assert torch.allclose(expected, run(torch.rot90(x, 1, (-2, -1))), atol=1e-5)


def test_state_dict_is_the_same_in_both_modes_and_edits_take_effect():
    group = Group.parse("C4")
    layer = SteerableConv(group, 8, 8, 1)
    training, evaluation = set(layer.train().state_dict()), set(layer.eval().state_dict())
    assert training == evaluation == {"weights"}
    x = GeometricTensor(torch.randn(1, 8, 5, 5), layer.in_type)
    before = layer(x).tensor
    with torch.no_grad():
        layer.weights.mul_(2)
    assert torch.allclose(layer(x).tensor, 2 * before, atol=1e-6)


def test_wrong_field_type_is_refused():
    group = Group.parse("C4")
    layer = SteerableConv(group, 8, 8, 1)
    with pytest.raises(TypeError, match="expected fields of type"):
        layer(GeometricTensor(torch.randn(1, 4, 5, 5), regular_type(group, 4)))
    with pytest.raises(ValueError, match="no multiple"):
        SteerableConv(group, 6, 8, 1)
    with pytest.raises(ValueError, match="depthwise"):
        SteerableConv(group, 8, 8, 1, depthwise="seperable")


def test_filters_start_by_fan_out_where_inputs_and_outputs_differ():
    group = Group.parse("C4")
    for inputs, outputs in ((40, 400), (400, 40)):
        layer = SteerableConv(group, inputs, outputs, 1)
        assert layer.filter().std().item() == pytest.approx((2 / outputs) ** 0.5, rel=0.1)


@pytest.mark.parametrize("stride, padding", [(1, 0), (1, 1), (2, 0), (2, 1)])
def test_the_output_shape_is_known_in_advance(stride, padding):
    layer = SteerableConv(Group.parse("C4"), 4, 8, 3, stride=stride, padding=padding)
    x = GeometricTensor(torch.randn(2, 4, 9, 10), layer.in_type)
    assert layer.evaluate_output_shape(x.tensor.shape) == tuple(layer(x).tensor.shape)


@pytest.mark.parametrize("name, degrees", [("C4", 90), ("C12", 90), ("D4", 90), ("C6", 180), ("C2", 180), ("C3", None)])
@pytest.mark.parametrize(
    "arguments", [dict(image_input=True), dict(), dict(depthwise="strict")], ids=["image", "dense", "strict"]
)
def test_exported_weights_know_the_turn_that_leaves_them_alone(name, degrees, arguments):
    """By 90 degrees wherever the group holds that, since INT8 is invariant only to what is tied."""
    group = Group.parse(name)
    inputs = 3 if "image_input" in arguments else 2 * group.order
    conv = SteerableConv(group, inputs, 2 * group.order, 3 if name != "C12" or arguments else 1, **arguments).export()
    linear = InvariantLinear(group, 2 * group.order, 3).export()
    if degrees is None:
        assert facts(conv).quarter_turn is None and facts(linear).quarter_turn is None
        return
    assert facts(conv).quarter_turn.degrees == facts(linear).quarter_turn.degrees == degrees
    assert torch.allclose(facts(conv).quarter_turn.apply(conv.weight), conv.weight, atol=1e-6)
    assert torch.equal(facts(linear).quarter_turn.apply(linear.weight), linear.weight)
    assert torch.equal(facts(linear).quarter_turn.apply(linear.bias), linear.bias)


def test_the_invariant_classifier_sees_means_and_exports_as_a_plain_one():
    group = Group.parse("C4")
    layer = InvariantLinear(group, 12, 2)
    x = torch.randn(5, 12)
    means = torch.stack([x[:, 4 * field : 4 * field + 4].mean(1) for field in range(3)], 1)
    assert torch.allclose(layer(x), layer.linear(means), atol=1e-6)
    assert torch.allclose(layer.export()(x), layer(x), atol=1e-6)


def test_a_residual_of_fields_adds_what_it_was_given():
    group = Group.parse("C4")
    body = FieldSequence(SteerableConv(group, 8, 8, 1))
    x = GeometricTensor(torch.randn(2, 8, 5, 5), body.in_type)
    residual = EquivariantResidual(body)
    assert torch.allclose(residual(x).tensor, x.tensor + body(x).tensor)
    assert torch.allclose(residual.export()(x.tensor), residual(x).tensor, atol=1e-6)
