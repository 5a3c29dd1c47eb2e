import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from equilib import figures
from equilib.fields import Group, rotate_field, transform_field
from equilib.filters import (
    Atom,
    angular_spectrum,
    atoms,
    count_coefficients,
    filter_bank,
    frequency_response,
    pixel_basis,
    pixel_coordinates,
    solve_constraint,
    spread_within_fields,
    steer,
    steerable_basis,
    steering_error,
)


@pytest.mark.parametrize(
    "name, solved, limited", [("C1", 9, 6), ("C2", 18, 12), ("C4", 36, 24), ("D1", 18, 12), ("D4", 72, 48)]
)
def test_the_constraint_has_the_known_number_of_solutions(name, solved, limited):
    """On pixels one filter of |G| channels is free: 9 |G| numbers.  The band limit leaves 6 of 9."""
    assert len(solve_constraint(name, "regular", "regular", 3)) == solved
    assert len(steerable_basis(Group.parse(name), "regular", "regular", 3)) == limited


@pytest.mark.parametrize("name", ["C2", "C4", "D1", "D2", "D4"])
@pytest.mark.parametrize("pair", [("trivial", "regular"), ("regular", "regular"), ("regular", "trivial")])
def test_solutions_commute_with_the_group_and_contain_e2cnns_basis(name, pair):
    group, (in_repr, out_repr) = Group.parse(name), pair
    basis = solve_constraint(group, in_repr, out_repr, 3)
    kernel = torch.einsum("u,uoihw->oihw", torch.randn(len(basis), dtype=torch.float64), basis)
    field = torch.randn(2, kernel.shape[1], 9, 9, dtype=torch.float64)
    for r in range(group.rotations):
        for reflected in (False, True)[: 1 + group.reflections]:
            turned = transform_field(field, group, in_repr, r, reflected=reflected)
            expected = transform_field(F.conv2d(field, kernel), group, out_repr, r, reflected=reflected)
            assert torch.allclose(F.conv2d(turned, kernel), expected, atol=1e-12)
    flat = basis.flatten(1)  # orthonormal
    theirs = steerable_basis(group, in_repr, out_repr, 3).double().flatten(1)
    assert torch.allclose(theirs @ flat.T @ flat, theirs, atol=1e-6)


@pytest.mark.parametrize("name", ["C1", "C2", "C4", "D1", "D2", "D4"])
@pytest.mark.parametrize("in_repr", ["trivial", "regular"])
def test_the_pixel_basis_spans_all_solutions_of_the_constraint(name, in_repr):
    group = Group.parse(name)
    basis, solutions = pixel_basis(group, in_repr, 3).double(), solve_constraint(group, in_repr, "regular", 3)
    assert len(basis) == len(solutions) == 9 * (group.order if in_repr == "regular" else 1)
    flat, orthonormal = basis.flatten(1), solutions.flatten(1)
    assert torch.allclose(flat @ orthonormal.T @ orthonormal, flat, atol=1e-12)
    assert torch.linalg.matrix_rank(flat) == len(basis)
    assert set(basis.unique().tolist()) == {0, 1}, "so a filter's entries are coefficients, and copies equal to the bit"


def test_without_symmetry_every_pixel_filter_is_allowed():
    """C1 is the control that has e2cnn's band limit and no weight sharing; at 1x1 it is an ordinary convolution."""
    basis = steerable_basis(Group.parse("C1"), "regular", "regular", 1)
    assert basis.shape == (1, 1, 1, 1, 1) and basis.item() == 1


def test_groups_without_an_exact_grid_are_refused():
    with pytest.raises(ValueError, match="C12 has no constraint on a grid"):
        solve_constraint("C12", "trivial", "regular", 3)
    with pytest.raises(ValueError, match="C12 has no constraint on a grid"):
        pixel_basis("C12", "trivial", 3)


def test_turning_an_atom_is_a_phase():
    x, y = 3 * torch.randn(2, 500, dtype=torch.float64)
    for m in range(5):
        atom = Atom(1.5, m, 0.6)
        for angle in (0.3, math.pi / 6, 2.5):
            back = (math.cos(angle) * x + math.sin(angle) * y, -math.sin(angle) * x + math.cos(angle) * y)
            phase = complex(math.cos(m * angle), -math.sin(m * angle))
            assert torch.allclose(atom.at(*back), phase * atom.at(x, y), atol=1e-12)


def test_steering_by_90_degrees_turns_the_pixels():
    chosen = atoms(5)
    coefficients = torch.randn(len(chosen), dtype=torch.complex128)
    quarter = steer(chosen, coefficients, 5, 90)
    assert torch.allclose(quarter, torch.rot90(steer(chosen, coefficients, 5, 0)), atol=1e-12)


@pytest.mark.parametrize("kernel_size", [3, 5, 7, 9])
@pytest.mark.parametrize("name", ["C4", "C8", "C12"])
def test_atoms_span_e2cnns_basis(kernel_size, name):
    chosen = atoms(kernel_size)
    units = torch.eye(len(chosen), dtype=torch.complex128)
    ours = torch.stack(
        [filter_bank(name, chosen, c, kernel_size).flatten() for unit in units for c in (unit, 1j * unit)]
    )
    theirs = steerable_basis(Group.parse(name), "trivial", "regular", kernel_size).double().flatten(1)
    count = count_coefficients(chosen)
    for matrix in (ours, theirs, torch.cat([ours, theirs])):
        assert torch.linalg.matrix_rank(matrix, rtol=1e-5) == count


def test_a_bank_is_an_equivariant_depthwise_layer():
    group, chosen = Group.parse("C12"), atoms(3)
    bank = filter_bank(group, chosen, torch.randn(len(chosen), dtype=torch.complex128), 3)[:, None]
    field = torch.randn(1, 12, 11, 11, dtype=torch.float64)
    for r in (3, 6, 9):
        turned = F.conv2d(rotate_field(field, group, r), bank, groups=12)
        assert torch.allclose(turned, rotate_field(F.conv2d(field, bank, groups=12), group, r), atol=1e-12)


def test_frequency_response_is_the_convolution_with_a_plane_wave():
    kernel = torch.randn(5, 5, dtype=torch.float64)
    wave_vector = torch.tensor([[0.7, -0.3]], dtype=torch.float64)
    x, y = pixel_coordinates(5)
    real = F.conv2d(torch.cos(0.7 * x - 0.3 * y)[None, None], kernel[None, None]).item()
    imaginary = F.conv2d(torch.sin(0.7 * x - 0.3 * y)[None, None], kernel[None, None]).item()
    response = frequency_response(kernel, wave_vector)[0]
    assert response.real.item() == pytest.approx(real) and response.imag.item() == pytest.approx(imaginary)


def test_quarter_turns_are_exact_for_any_band_limit_and_others_are_not():
    for kernel_size in (3, 5):
        for cutoff in range(7):
            assert steering_error(atoms(kernel_size, cutoff), kernel_size, "C4") < 1e-12
    errors = [steering_error(atoms(3, cutoff), 3, "C12") for cutoff in range(5)]
    assert errors == sorted(errors) and errors[4] > 20 * errors[2] > 0


def test_high_frequencies_pose_as_low_ones():
    answers = [int(angular_spectrum(Atom(1.0, m, 0.4).sample(3)).argmax()) - 6 for m in range(5)]
    assert answers == [0, 1, 2, -1, 0]
    spectrum = angular_spectrum(Atom(3.0, 2, 0.4).sample(9), wavelength=12)
    assert spectrum.sum().item() == pytest.approx(1, abs=1e-6) and spectrum[2 + 6] > 0.99


def test_even_kernels_have_no_centre():
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        atoms(4)


# --- their figures ---


def test_the_ring_shows_an_alias_where_the_nearest_pixels_are():
    figure = figures.waves_on_ring(3, -1)
    asked, alias, near, *corners = figure.axes[0].lines
    for angle, value in zip(near.get_xdata(), near.get_ydata()):
        assert asked.get_ydata()[angle] == pytest.approx(value) and alias.get_ydata()[angle] == pytest.approx(value)
    assert np.allclose(corners[0].get_ydata(), -corners[1].get_ydata()) and abs(corners[0].get_ydata()[0]) > 0.5
    assert figure.axes[0].get_xlabel() == "angle around the ring [degrees]"


def test_equal_weights_carry_equal_numbers():
    numbers = np.array([[0, 1], [2, 3]])
    ax = figures.equal_weights({"a block": numbers}, title="1 × 1").axes[0]
    places = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in ax.texts}
    assert places == {place: str(number) for place, number in np.ndenumerate(numbers)}
    assert np.array_equal(ax.images[0].get_array(), numbers)


def test_bars_of_basis_sizes_are_labelled_as_asked():
    figure = figures.basis_sizes(["C4"], [36], [9], [6], title="one filter", xlabel="from, to")
    ax = figure.axes[0]
    assert [bars[0].get_height() for bars in ax.containers] == [36, 9, 6]
    assert (ax.get_title(), ax.get_xlabel()) == ("one filter", "from, to")


def test_the_steering_error_is_what_the_aliases_cost():
    """A response with power p_k at angular frequency k, turned by t as frequency m is: sum_k p_k |exp(i (k - m) t) - 1|^2."""
    for atom in (Atom(1.0, 2, 0.4), Atom(1.0, 3, 0.4), Atom(2.0, 1, 0.6)):
        size = 2 * int(atom.ring) + 1
        shares = angular_spectrum(atom.sample(size), highest=23)  # of 48 directions: all frequencies but one
        assert shares.sum().item() == pytest.approx(1, abs=1e-9)
        turns = 2 * torch.pi * torch.arange(8, dtype=torch.float64) / 8
        off = torch.arange(-23, 24)[:, None] - atom.frequency
        expected = (shares[:, None] * (torch.exp(1j * off * turns) - 1).abs().square()).sum(0).mean().sqrt().item()
        assert steering_error([atom], size, "C8") == pytest.approx(expected, rel=1e-6)
        assert expected > 0.01


@pytest.mark.parametrize("name", ["C1", "C4", "D4"])
def test_the_filter_at_one_pixel_has_the_norm_of_the_others(name):
    """e2cnn's basis filters have norm 1 a field; the one that is written down here (one pixel, an image) has it, too."""
    group = Group.parse(name)
    single = steerable_basis(group, "trivial", "regular", 1)
    assert single.square().sum().item() == pytest.approx(1)
    assert torch.allclose(single, single[:, :1].expand_as(single)), "at the origin a rotation does nothing"


def test_copies_by_quarter_turns_have_one_range_and_others_repeat_every_quarter_turn():
    generator = torch.Generator().manual_seed(0)
    for name in ("C4", "D4", "C12"):
        group = Group.parse(name)
        basis = steerable_basis(group, "trivial", "regular", 3)[:, :, 0]  # (coefficients, |G|, 3, 3)
        drawn = torch.randn(5, len(basis), generator=generator)
        bank = torch.einsum("fk,kgxy->fgxy", drawn, basis)
        spread = spread_within_fields(bank.flatten(0, 1), group.order)
        if name == "C12":
            assert (spread > 1.05).all(), "between the quarter turns the samples are others"
            quarter = bank.unflatten(1, (4, 3)).transpose(1, 2).flatten(0, 2)  # the four copies of one 90 degree orbit
            spread = spread_within_fields(quarter, 4)
        assert torch.allclose(spread, torch.ones_like(spread), atol=1e-5), name


def test_the_spread_of_a_field_is_its_largest_range_over_its_smallest():
    filters = torch.tensor([1.0, -4.0, 2.0, 2.0, 0.0, 0.0, 0.0, 3.0]).view(8, 1, 1, 1)
    assert spread_within_fields(filters, 2).tolist() == [4.0, 1.0, 1.0, float("inf")]
    with pytest.raises(ValueError, match="8 channels make no whole fields of field_size 3"):
        spread_within_fields(filters, 3)
