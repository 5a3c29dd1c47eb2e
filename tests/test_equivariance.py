import math

import pytest
import torch
from torch import nn

from equilib.equivariance import (
    assert_equivariant,
    equivariance_error,
    equivariance_sweep,
    interpolation_control,
    mean_over_quarter_turns,
    relative_difference,
    rotation_spread,
    run_model,
)
from equilib.fields import disc_mask, rotate_field


class Symmetric(nn.Module):
    """Invariant under quarter turns: the mean inside the disc, of a non-linear function, plus a large constant."""

    def __init__(self, constant=0.0):
        super().__init__()
        self.constant = constant

    def forward(self, x):
        mask = disc_mask(x.shape[-1])
        return torch.stack([(x.square() * mask).mean((1, 2, 3)), (x.abs() * mask).mean((1, 2, 3))], 1) + self.constant


class Lopsided(nn.Module):
    def forward(self, x):
        ramp = torch.linspace(0, 1, x.shape[-1])
        return torch.stack([(x * ramp).mean((1, 2, 3)), x[:, 0, 0, 0]], 1)


def test_an_invariant_model_has_no_error_and_a_lopsided_one_does(tissue):
    assert equivariance_error(Symmetric().double(), tissue.double(), 90).worst < 1e-12
    error = equivariance_error(Lopsided(), tissue, 90)
    assert error.rms > 0.1 and error.worst >= error.rms
    assert 0 <= error.flips <= 1


def test_a_large_constant_cannot_hide_an_error(tissue):
    class Shifted(Lopsided):
        def forward(self, x):
            return super().forward(x) + 1e3

    plain, shifted = (equivariance_error(m.double(), tissue.double(), 90) for m in (Lopsided(), Shifted()))
    assert shifted.rms == pytest.approx(plain.rms, rel=1e-6)


def test_closed_form():
    """Two patches, one output each: spread and error by hand."""
    images = torch.zeros(2, 1, 3, 3)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 1.0, 3.0  # the top left corner; a turn moves it to the bottom left

    def corner(x):
        return x[:, 0, :1, 0]

    error = equivariance_error(corner, images, 90)
    assert error.rms == pytest.approx((0.5 * (1 + 9)) ** 0.5)  # spread is 1
    assert error.worst == pytest.approx(3.0)


def test_feature_fields_need_the_action_on_channels(tissue):
    weight = torch.randn(3, 3)
    bank = torch.stack([torch.rot90(weight, r) for r in range(4)])[:, None].repeat(1, 3, 1, 1).double()

    def lifting(x):
        return nn.functional.conv2d(x, bank)

    x = tissue.double()
    good = equivariance_error(lifting, x, 90, output_action=lambda y: rotate_field(y, "C4", 1))
    forgot = equivariance_error(lifting, x, 90, output_action=lambda y: torch.rot90(y, 1, (-2, -1)))
    assert good.worst < 1e-12 and forgot.rms > 0.1
    assert_equivariant(lifting, x, output_action=lambda y, degrees: rotate_field(y, "C4", int(degrees // 90)))


def test_assertion_says_by_how_much(tissue):
    assert_equivariant(Symmetric(), tissue)
    with pytest.raises(AssertionError, match="under 90 degrees: relative error"):
        assert_equivariant(Lopsided(), tissue)


def test_interpolation_control_is_zero_for_exact_angles_and_small_between(tissue):
    assert interpolation_control(Lopsided(), tissue, 90).worst == 0
    rough = interpolation_control(Symmetric(), tissue, 30).rms
    smooth = interpolation_control(Symmetric(), nn.functional.avg_pool2d(tissue, 9, 1, 4), 30).rms
    assert 0 < smooth < rough / 3  # interpolation costs little where there is little detail


def test_sweep_runs_every_angle(tissue):
    assert [e.degrees for e in equivariance_sweep(Symmetric(), tissue, (0, 30, 90))] == [0, 30, 90]


def test_running_restores_the_mode_and_batches_agree(tissue):
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
    assert torch.allclose(run_model(model, tissue, batch_size=3), run_model(model, tissue), atol=1e-6)
    assert model.training


def test_bad_inputs(tissue):
    with pytest.raises(ValueError, match="empty"):
        run_model(Symmetric(), tissue[:0])
    constant = equivariance_error(lambda x: torch.zeros(len(x), 2), tissue, 90)
    assert math.isnan(constant.rms) and constant.flips == 0
    with pytest.raises(AssertionError, match="not equivariant"):
        assert_equivariant(lambda x: torch.zeros(len(x), 2), tissue)
    with pytest.raises(ValueError, match="NaN"):
        equivariance_error(lambda x: torch.full((len(x), 2), float("nan")), tissue, 90)
    with pytest.raises(ValueError, match="different shapes"):
        relative_difference(torch.zeros(2, 2), torch.zeros(2, 3))


def test_rotation_spread_of_known_models(tissue):
    """Nothing for an invariant; for the mean of the upper half minus that of the lower, what rotation does to it."""
    invariant = lambda x: torch.stack([torch.zeros(len(x)), x.mean((1, 2, 3))], 1)
    spread = rotation_spread(invariant, tissue, (90, 180, 270))
    assert spread.flips == 0 and spread.std < 1e-5

    def upper_minus_lower(x):
        middle = x.shape[-1] // 2
        return torch.stack([x[..., middle + 1 :, :].mean((1, 2, 3)), x[..., :middle, :].mean((1, 2, 3))], 1)

    spread = rotation_spread(upper_minus_lower, tissue, (180,))
    assert spread.flips == 1  # the sign turns
    values = upper_minus_lower(tissue).diff(dim=1)
    assert spread.std == pytest.approx((values.square().mean().sqrt() / values.std()).item(), rel=1e-4)
    assert rotation_spread(upper_minus_lower, tissue, (180,), and_back=True).std < 1e-5
    with pytest.raises(ValueError, match="two logits"):
        rotation_spread(lambda x: x.mean((2, 3)), tissue, (90,))


def test_inner_fields_are_measured_one_by_one(small, tissue):
    """Exact on an odd grid, broken from the first stride on where the grid is even, and found there."""
    from equilib.equivariance import field_errors
    from equilib.mobilenet import build, estimate_statistics, exported

    for config, exact in ((small, True), (small.replace(input_size=94, allow_inexact=True), False)):
        images = tissue[..., : config.input_size, : config.input_size]
        plain = exported(estimate_statistics(build("equivariant", config), images))
        layers = dict(plain.features.named_children())
        errors = field_errors(plain, layers, images[:3], "C4", 1)
        assert list(errors) == list(layers)
        assert (errors["stem"] < 1e-5) == exact and (max(errors.values()) < 1e-3) == exact
        assert not any(module._forward_hooks for module in plain.modules()), "the network is left as it was"


def test_inner_fields_at_30_degrees_are_compared_inside_the_disc():
    """…where nothing left the picture: the error is that of the interpolation."""
    from equilib.equivariance import field_errors
    from equilib.fields import Group, disc_mask, rotate, rotate_field
    from equilib.layers import SteerableConv

    lift = SteerableConv(Group.parse("C12"), 3, 12, 5, padding=2, image_input=True).export()
    images = torch.nn.functional.interpolate(torch.randn(4, 3, 5, 5), size=(61, 61), mode="bicubic")
    (error,) = field_errors(torch.nn.Sequential(lift), {"lift": lift}, images, "C12", 1).values()
    with torch.no_grad():
        expected, actual = rotate_field(lift(images), "C12", 1), lift(rotate(images, 30))
    inside = disc_mask(61).bool()
    spread = (expected - expected.mean(0)).square()
    wrong = (expected - actual).square()
    assert error == pytest.approx((wrong[..., inside].mean() / spread[..., inside].mean()).sqrt().item(), rel=1e-4)
    assert error < 0.7 * (wrong.mean() / spread.mean()).sqrt().item()


def test_the_mean_over_quarter_turns_is_invariant(tissue):
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 7), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(5 * 89 * 89, 2)
    )
    averaged = mean_over_quarter_turns(network.double())
    images = tissue.double()
    assert equivariance_error(network, images, 90).rms > 0.1
    assert_equivariant(averaged, images, (90, 180, 270), tolerance=1e-12)
    invariant = mean_over_quarter_turns(lambda x: x.mean((2, 3)))
    assert torch.allclose(invariant(images), images.mean((2, 3)))


def test_the_unit_is_the_spread_of_each_output_about_its_own_mean(tissue):
    """Outputs of different size (a bias of the classifier) are no spread over patches."""

    class Shifted(Lopsided):
        def forward(self, x):
            return super().forward(x) + torch.tensor([1e3, -1e3])

    plain, shifted = (equivariance_error(m.double(), tissue.double(), 90) for m in (Lopsided(), Shifted()))
    assert shifted.rms == pytest.approx(plain.rms, rel=1e-6) and shifted.worst == pytest.approx(plain.worst, rel=1e-6)


def test_flips_are_shares_of_patches_at_each_angle_against_the_unrotated_one():
    """The class is whether the corner is white: at two of three angles for one patch, at one for the other."""
    images = torch.zeros(2, 1, 5, 5)
    images[0, 0, 0, [0, -1]], images[0, 0, -1, 0] = 1, 1  # three white corners, the one at the top left among them
    images[1, 0, 0, -1] = 1  # the one at the top right: a quarter turn takes it to the top left

    def corner(x):
        return torch.stack([torch.full((len(x),), 0.5), x[:, 0, 0, 0]], 1)

    spread = rotation_spread(corner, images, (90, 180, 270))
    assert spread.flips_by_angle == (0.5, 0.5, 0.0) and spread.flips == pytest.approx(1 / 3)
    assert equivariance_error(corner, images, 90).flips == 0.5


@pytest.mark.parametrize("training", [True, False])
def test_running_leaves_the_mode_as_it_was(tissue, training):
    model = nn.Sequential(nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train(training)
    assert torch.equal(run_model(model, tissue), run_model(model, tissue)), "evaluated, so nothing is dropped"
    assert model.training == training


def test_one_value_that_is_not_finite_is_an_error_of_the_model():
    good = torch.randn(3, 2)
    for bad in (float("nan"), float("inf")):
        broken = good.clone()
        broken[1, 0] = bad
        for pair in ((good, broken), (broken, good)):
            with pytest.raises(ValueError, match="NaN or infinite"):
                relative_difference(*pair)


def test_equal_logits_are_class_0_as_argmax_has_it():
    """Patches whose logits become equal when they are turned change from class 1 to class 0, but not from class 0."""
    images = torch.zeros(4, 1, 3, 3)
    images[:, 0, 0, 0] = torch.tensor([1.0, 1.0, 1.0, -1.0])  # grey in that corner after any turn

    def corner(x):
        return torch.stack([torch.zeros(len(x)), x[:, 0, 0, 0]], 1)

    assert rotation_spread(corner, images, (90, 180)).flips_by_angle == (0.75, 0.75)
    assert equivariance_error(corner, images, 90).flips == 0.75


def test_flips_need_at_least_two_classes():
    images = torch.randn(4, 1, 5, 5)
    assert math.isnan(equivariance_error(lambda x: x[:, :, 0, 0], images, 90).flips)
    assert math.isnan(equivariance_error(lambda x: x, images, 90).flips), "a field is no list of classes"
    assert equivariance_error(lambda x: x.flatten(1)[:, :2], images, 90).flips >= 0
