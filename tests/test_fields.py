import numpy as np
import pytest
import torch
from e2cnn.nn import FieldType, GeometricTensor
from skimage import transform

from equilib import figures
from equilib.fields import (
    Group,
    channel_permutation,
    disc_mask,
    representation_matrix,
    rotate,
    rotate_field,
    tissue_photograph,
    transform_field,
)


def test_the_sign_convention_is_one_and_the_same():
    """torch.rot90, torch.roll of channels, e2cnn and scikit-image turn the same way."""
    group = Group.parse("C4")
    field = torch.randn(1, 4, 7, 7)
    ours = rotate_field(field, group, 1)
    assert torch.equal(ours, torch.rot90(field, 1, (-2, -1)).roll(1, dims=1))
    theirs = GeometricTensor(field, FieldType(group.gspace, [group.gspace.regular_repr])).transform(1).tensor
    assert torch.allclose(ours, theirs, atol=1e-6)
    picture = field[0, 0].numpy()
    turned = transform.rotate(picture, 90, order=1, preserve_range=True)
    assert np.allclose(turned, np.rot90(picture), atol=1e-5)
    assert np.allclose(rotate(field, 90)[0, 0].numpy(), np.rot90(picture))


def test_counter_clockwise_as_displayed():
    picture = torch.zeros(1, 1, 5, 5)
    picture[0, 0, 2, 4] = 1  # right
    assert rotate(picture, 90)[0, 0, 0, 2] == 1  # top


@pytest.mark.parametrize("name", ["C3", "C4", "C12", "D4", "D3", "D1", "C1"])
def test_regular_action_is_e2cnns_and_a_group_action(name):
    group = Group.parse(name)
    representation = group.gspace.regular_repr
    for r in range(group.rotations):
        source = list(channel_permutation(group, r))
        vector = np.random.default_rng(0).normal(size=group.order)
        assert np.allclose(vector[source], representation(group.element(r)) @ vector)
        assert sorted(source) == list(range(group.order))
    once, twice = np.array(channel_permutation(group, 1)), np.array(channel_permutation(group, 2))
    assert np.array_equal(once[once], twice)


def test_interpolated_rotation_comes_back_inside_the_disc():
    x, y = torch.meshgrid(torch.linspace(-3, 3, 65), torch.linspace(-3, 3, 65), indexing="ij")
    smooth = (torch.sin(1.3 * x) * torch.cos(y + 0.4 * x))[None, None]
    inside = disc_mask(65) * (disc_mask(65).roll(3, 0) > 0) * (disc_mask(65).roll(-3, 0) > 0)
    there_and_back = rotate(rotate(smooth, 30), -30)
    assert ((there_and_back - smooth) * inside).abs().max() < 0.02
    thrice = rotate(rotate(rotate(smooth, 30), 30), 30)
    assert ((thrice - rotate(smooth, 90)) * inside).abs().max() < 0.02


def test_disc_mask_is_symmetric_and_binary():
    for size in (1, 5, 11, 95, 96):
        mask = disc_mask(size)
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
        assert torch.equal(mask, torch.rot90(mask)) and torch.equal(mask, mask.flip(0))
    assert disc_mask(95).sum() / 95**2 == pytest.approx(np.pi / 4, abs=0.01)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="group must be"):
        Group.parse("E2")
    with pytest.raises(ValueError, match="no whole number of regular fields"):
        rotate_field(torch.zeros(1, 6, 3, 3), "C4", 1)
    with pytest.raises(TypeError, match="floating-point"):
        rotate(torch.zeros(1, 3, 5, 5, dtype=torch.uint8), 30)


def test_exact_angles():
    assert Group.parse("C12").exact_angles == (0, 90, 180, 270)
    assert Group.parse("C6").exact_angles == (0, 180)
    assert Group.parse("C3").exact_angles == (0,)
    assert Group.parse("D4").exact_angles == (0, 90, 180, 270)


@pytest.mark.parametrize("name", ["C1", "C4", "C5", "C12", "D1", "D4", "D6"])
@pytest.mark.parametrize("representation", ["trivial", "regular", "irrep1", "irrep2"])
def test_representations_are_homomorphisms(name, representation):
    """rho(g) rho(h) = rho(g h), reflections included: (f, r) means reflect, then turn by r steps."""
    group = Group.parse(name)
    if representation.startswith("irrep") and int(representation[5:]) > group.rotations // 2:
        with pytest.raises(ValueError, match="representation must be"):
            representation_matrix(group, representation)
        return
    n = group.rotations
    elements = [(f, r) for f in range(1 + group.reflections) for r in range(n)]

    def rho(f, r):
        return representation_matrix(group, representation, r, reflected=bool(f))

    for f, r in elements:
        for f2, r2 in elements:
            product = ((f + f2) % 2, (r + (-r2 if f else r2)) % n)
            assert torch.allclose(rho(f, r) @ rho(f2, r2), rho(*product), atol=1e-9)


@pytest.mark.parametrize("name", ["C4", "D4"])
@pytest.mark.parametrize("representation", ["trivial", "regular", "irrep1"])
def test_fields_of_any_type_turn_as_e2cnns_do(name, representation):
    group = Group.parse(name)
    space = group.gspace
    theirs = {"trivial": space.trivial_repr, "regular": space.regular_repr}.get(representation)
    theirs = theirs or (space.irrep(1, 1) if group.reflections else space.irrep(1))
    kind = FieldType(space, [theirs] * 2)
    field = torch.randn(1, kind.size, 7, 7)
    for r in range(4):
        for reflected in (False, True)[: 1 + group.reflections]:
            element = (int(reflected), r) if group.reflections else r
            expected = GeometricTensor(field, kind).transform(element).tensor
            ours = transform_field(field, group, representation, r, reflected=reflected)
            assert torch.allclose(ours, expected, atol=1e-5)
    if representation == "regular":
        assert torch.allclose(transform_field(field, group, "regular", 1), rotate_field(field, group, 1), atol=1e-6)


def test_an_arrow_turns_with_the_picture():
    arrows = torch.zeros(1, 2, 5, 5)
    arrows[0, 0, 2, 4] = 1  # at the right, pointing to the right
    turned = transform_field(arrows, "C4", "irrep1", 1)
    assert torch.allclose(turned[0, :, 0, 2], torch.tensor([0.0, 1.0]), atol=1e-6), "at the top, pointing upwards"


def test_bad_representations_are_named():
    with pytest.raises(ValueError, match="representation must be 'trivial', 'regular', 'irrep1', 'irrep2' for C4"):
        representation_matrix("C4", "irrep3")
    with pytest.raises(ValueError, match="C4 has no reflections"):
        representation_matrix("C4", "regular", reflected=True)
    with pytest.raises(ValueError, match="no whole number of fields"):
        transform_field(torch.zeros(1, 3, 4, 4), "C4", "irrep1", 1)


def test_the_photograph_is_a_picture():
    picture = tissue_photograph(31)
    assert picture.shape == (3, 31, 31) and picture.min() >= 0 and picture.max() <= 1 and picture.std() > 0.1


# --- their figures ---


@pytest.mark.parametrize("rotation, reflected", [(0, True), (1, False), (1, True)])
def test_the_picture_of_a_permutation_draws_it(rotation, reflected):
    """Each arrow starts below the channel that moves and ends at its new place, where the moved filter stands."""
    letter = np.triu(np.ones((5, 5)))
    letter[0, 0] = 0
    filters = np.stack([np.rot90(image, r) for image in (letter, letter[:, ::-1]) for r in range(4)])
    source = representation_matrix("D4", "regular", rotation, reflected=reflected).argmax(1).tolist()
    figure = figures.channel_moves(filters, source, title="an element of D4")
    behind, *tiles = figure.axes
    moves = {round(arrow.xyann[0] - 0.5): round(arrow.xy[0] - 0.5) for arrow in behind.texts}
    assert all(arrow.xyann[1] > arrow.xy[1] for arrow in behind.texts)
    above, below = ([ax.images[0].get_array() for ax in tiles[start::2]] for start in (0, 1))
    assert tiles[0].get_position().y0 > tiles[1].get_position().y0 and sorted(moves) == list(range(8))
    for before, after in moves.items():
        moved = above[before][:, ::-1] if reflected else above[before]
        assert np.array_equal(below[after], np.rot90(moved, rotation))
    assert "an element of D4" in repr(figure)


def test_bars_of_channels_have_their_heights_and_the_shared_number_is_a_line():
    values = {"once": [1.0, 2.0, 3.0, 4.0], "turned": [4.0, 1.0, 2.0, 3.0]}
    figure = figures.channel_values(values, title="means", label="mean [1]", shared={"of the field": 2.5})
    ax = figure.axes[0]
    assert [[bar.get_height() for bar in drawn] for drawn in ax.containers] == list(values.values())
    assert ax.lines[0].get_ydata()[0] == 2.5 and ax.get_ylabel() == "mean [1]" and ax.get_xlabel() == "channel"


def test_arrows_of_both_ways_are_drawn_where_they_are_and_as_they_point():
    field = np.zeros((2, 9, 9))
    field[:, 2, 6] = (3.0, 4.0)  # row 2, column 6
    figure = figures.arrows_both_ways({"one": (field, 0 * field), "two": (field, field)}, title="arrows")
    first, last = figure.axes[0].collections
    assert np.array_equal(first.XY, [[6, 2]]) and (first.U, first.V) == (3, 4) and len(last.XY) == 0
    assert len(figure.axes[1].collections[1].XY) == 1 and figure.axes[0].get_ylim()[0] > figure.axes[0].get_ylim()[1]


def test_interpolation_is_linear_and_repeats_the_edge():
    """Linear in the picture, also where the spline overshoots an edge; a constant picture stays constant to its corners."""
    steps = torch.zeros(1, 1, 15, 15, dtype=torch.float64)
    steps[..., 7:] = 1
    other = torch.randn(1, 1, 15, 15, dtype=torch.float64)
    apart, together = rotate(steps, 30) + rotate(other, 30), rotate(steps + other, 30)
    assert torch.allclose(apart, together, atol=1e-12)
    assert rotate(steps, 30).max() > 1.01, "cubic splines overshoot; cutting that off would not be linear"
    grey = torch.full((1, 1, 15, 15), 0.4)
    assert torch.allclose(rotate(grey, 30), grey, atol=1e-6)


def test_the_photograph_lies_as_in_scikit_image():
    from skimage import data

    original = data.immunohistochemistry()[100:400, 130:430] / 255
    picture = tissue_photograph(30).permute(1, 2, 0).numpy()
    blocks = original.reshape(30, 10, 30, 10, 3).mean((1, 3))
    assert np.corrcoef(picture.ravel(), blocks.ravel())[0, 1] > 0.97
    assert np.corrcoef(picture.transpose(1, 0, 2).ravel(), blocks.ravel())[0, 1] < 0.8
